"""Photographs for training: numbered crops from folders and shards, and packing shards."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from faitheir.errors import ConfigError, ImageError
from faitheir.training.config import DataConfig
from faitheir.training.data import CropDataset, find_training_photographs
from faitheir.training.pack import pack


def test_crops_do_not_depend_on_who_asks_or_in_what_order(photos: Path) -> None:
    config = DataConfig(train=str(photos), crop=32)
    a, b = CropDataset(config, seed=1), CropDataset(config, seed=1)
    forward = [a[n] for n in range(10)]
    for n in reversed(range(10)):
        torch.testing.assert_close(b[n], forward[n], rtol=0, atol=0)
    assert forward[0].shape == (3, 32, 32)
    assert 0 <= float(forward[0].min()) < float(forward[0].max()) <= 1
    assert not torch.equal(CropDataset(config, seed=2)[0], forward[0])


def test_each_pass_sees_every_photograph_and_small_ones_are_enlarged(tmp_path: Path) -> None:
    for i in range(5):
        Image.new("RGB", (20, 10), (i * 50, 0, 0)).save(tmp_path / f"{i}.png")
    dataset = CropDataset(DataConfig(train=str(tmp_path), crop=32), seed=0)
    for lap in range(3):
        reds = sorted(round(float(dataset[lap * 5 + n][0].mean()) * 255) for n in range(5))
        assert reds == [0, 50, 100, 150, 200]


def test_photographs_whose_names_fit_a_pattern_are_seen_more_often(tmp_path: Path) -> None:
    for name, red in (("large_a", 0), ("large_b", 50), ("c", 100)):
        Image.new("RGB", (20, 10), (red, 0, 0)).save(tmp_path / f"{name}.png")
    dataset = CropDataset(DataConfig(train=str(tmp_path), crop=32, repeat={"large_*": 3}), seed=0)
    assert len(dataset) == 7
    for lap in range(2):
        reds = sorted(round(float(dataset[lap * 7 + n][0].mean()) * 255) for n in range(7))
        assert reds == [0, 0, 0, 50, 50, 50, 100]


def test_unreadable_photographs_are_skipped_and_listed(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), (9, 9, 9)).save(tmp_path / "good.png")
    (tmp_path / "bad.jpg").write_bytes(b"not a picture")
    dataset = CropDataset(DataConfig(train=str(tmp_path), crop=32), seed=0)
    for n in range(6):
        assert float(dataset[n].mean()) == pytest.approx(9 / 255)
    assert dataset.unreadable == {str(tmp_path / "bad.jpg")}
    (tmp_path / "good.png").unlink()
    dataset = CropDataset(DataConfig(train=str(tmp_path), crop=32), seed=0)
    with pytest.raises(ImageError, match="none of the photographs"):
        dataset[0]
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match="no photographs"):
        CropDataset(DataConfig(train=str(tmp_path / "empty"), crop=32), seed=0)


def pixels(dataset: CropDataset, count: int) -> list[torch.Tensor]:
    return [dataset[n] for n in range(count)]


def test_shards_give_the_crops_that_the_folder_gives(photos: Path, tmp_path: Path) -> None:
    """Same photographs in the same order: the names in shards sort as they were packed."""
    report = pack(photos, tmp_path / "shards", shard_bytes=6000)
    assert len(report.shards) > 1
    assert (report.members, report.unreadable) == (4, [])
    packed = find_training_photographs(tmp_path / "shards")
    originals = {p.read_bytes() for p in photos.iterdir()}
    assert {p.read() for p in packed} == originals
    # The same files laid out as the shards have them.
    for i, photograph in enumerate(packed):
        (tmp_path / "laid").mkdir(exist_ok=True)
        (tmp_path / "laid" / f"{i}.png").write_bytes(photograph.read())
    a = CropDataset(DataConfig(train=str(tmp_path / "shards" / "train-*.tar"), crop=32), seed=5)
    b = CropDataset(DataConfig(train=str(tmp_path / "laid"), crop=32), seed=5)
    for one, other in zip(pixels(a, 9), pixels(b, 9), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert str(tmp_path / "shards") in a.name_of(0)
    assert ".tar:0" in a.name_of(0)


def test_shards_are_what_webdataset_reads(photos: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    report = pack(photos, tmp_path)
    (shard,) = report.shards
    samples = list(webdataset.WebDataset(str(shard), shardshuffle=False))
    assert {sample["png"] for sample in samples} == {p.read_bytes() for p in photos.iterdir()}
    # And what webdataset writes, we read.
    with webdataset.TarWriter(str(tmp_path / "theirs.tar")) as sink:
        for i, path in enumerate(sorted(photos.iterdir())):
            sink.write({"__key__": f"a/{i:04d}", "png": path.read_bytes(), "json": {"name": path.name}})
    ours = find_training_photographs(tmp_path / "theirs.tar")
    assert [p.read() for p in ours] == [path.read_bytes() for path in sorted(photos.iterdir())]


@given(crop=st.integers(8, 40), crops=st.integers(1, 5), seed=st.integers(0, 5))
def test_packed_crops_are_cut_from_the_photographs(
    crop: int, crops: int, seed: int, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("crops")
    report = pack(photos, folder, crop=crop, crops=crops, seed=seed, format="png")
    originals = [np.asarray(Image.open(p).convert("RGB")) for p in sorted(photos.iterdir())]
    assert report.members == sum(min(crops, (o.shape[0] // crop) * (o.shape[1] // crop)) for o in originals)
    for photograph in find_training_photographs(folder)[:3]:
        stem = int((photograph.member or "").split("-")[1])
        dataset = CropDataset(DataConfig(train=str(folder), crop=crop), seed=0)
        assert len(dataset) == report.members
        (folder / "one.png").write_bytes(photograph.read())
        cut = np.asarray(Image.open(folder / "one.png"))
        windows = np.lib.stride_tricks.sliding_window_view(originals[stem], cut.shape)
        assert cut.shape == (crop, crop, 3)
        assert (windows.reshape(-1, crop * crop * 3) == cut.reshape(-1)).all(1).any()
        (folder / "one.png").unlink()


def test_what_cannot_be_packed_is_listed(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in photos.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut short")
    report = pack(folder, tmp_path / "out", crop=60, crops=2)
    listed = (tmp_path / "out" / "unreadable.txt").read_text().splitlines()
    assert sorted(listed) == sorted(report.unreadable)
    assert len(listed) == 2
    assert any("bad.jpg" in line for line in listed)
    assert any("smaller than the crop" in line for line in listed)
    with pytest.raises(ConfigError, match="there are shards in this folder"):
        pack(folder, tmp_path / "out")
    again = pack(folder, tmp_path / "out", overwrite=True)
    assert again.members == 4
    assert not [p for p in (tmp_path / "out").iterdir() if p.name.startswith(".")]
    with pytest.raises(ConfigError, match="these shards are the source"):
        pack(tmp_path / "out", tmp_path / "out", overwrite=True)
    assert len(find_training_photographs(tmp_path / "out")) == 4


def test_a_damaged_shard_is_named(photos: Path, tmp_path: Path) -> None:
    (shard,) = pack(photos, tmp_path / "out").shards
    content = shard.read_bytes()
    found = find_training_photographs(shard)
    shard.write_bytes(content[: found[-1].offset + 10])
    with pytest.raises(ImageError, match="cut short"):
        found[-1].read()
    shard.write_bytes(b"no tar file at all")
    with pytest.raises(ImageError, match="not a readable shard"):
        find_training_photographs(shard)
    with pytest.raises(ImageError, match="neither a folder of photographs nor shards"):
        find_training_photographs(tmp_path / "none-*.tar")


def test_reduced_decoding_sees_the_same_picture(tmp_path: Path) -> None:
    x, y = np.meshgrid(np.linspace(0, 6, 640), np.linspace(0, 4, 480))
    waves = np.stack([np.sin(x), np.cos(y), np.sin(x + y)], 2)
    Image.fromarray((128 + 100 * waves).astype(np.uint8)).save(tmp_path / "a.jpg", quality=95)
    Image.new("RGB", (70, 70), (5, 5, 5)).save(tmp_path / "small.jpg")
    options: dict[str, Any] = {"train": str(tmp_path), "crop": 64, "shrink": 1.0, "shrink_min": 0.2}
    full, reduced = (CropDataset(DataConfig(**options, draft=draft), seed=0) for draft in (False, True))
    differences = [float((full[n] - reduced[n]).abs().mean()) for n in range(30)]
    assert max(differences) < 0.02
    assert max(differences) > 0  # some were decoded at less than full size


def test_pack_from_the_command_line(photos: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from faitheir.cli import main

    run = CliRunner().invoke(
        main, ["data", "pack", str(photos), "-o", str(tmp_path / "out"), "--crop", "30", "--crops", "2"]
    )
    assert run.exit_code == 0, run.output
    assert "7 pictures" in run.output or "8 pictures" in run.output
    run = CliRunner().invoke(main, ["data", "pack", str(tmp_path / "none"), "-o", str(tmp_path / "other")])
    assert run.exit_code == 1
    assert "neither a folder of photographs nor shards" in run.output
    assert not (tmp_path / "other").exists()
