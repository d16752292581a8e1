"""Bulk runs: what is planned, from listings alone, and what is refused before anything is begun. No Ray is started."""

import io
import itertools
import json
import os
import tarfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'faitheir[bulk]'")
fsspec = pytest.importorskip("fsspec")
pytest.importorskip("ray", reason="Ray is not installed: pip install 'faitheir[bulk]'")

from fsspec.implementations.memory import MemoryFileSystem  # noqa: E402

from command import call, names, ok, refused  # noqa: E402
from faitheir import bulk  # noqa: E402
from faitheir.batches import (  # noqa: E402
    Naming,
    ThumbnailFiles,
    restored_naming,
    round_trip_naming,
    thumbnail_naming,
)
from faitheir.bulk import stages  # noqa: E402
from faitheir.bulk.manifest import Manifest  # noqa: E402
from faitheir.bulk.planning import (  # noqa: E402
    RECORDS,
    UNIT_BYTES,
    UNIT_FILES,
    File,
    Part,
    Planner,
    open_source,
    read_record,
    units,
    write_record,
)
from faitheir.bulk.stores import Store, TransientError  # noqa: E402
from faitheir.errors import MissingDependencyError, PlanError, StorageError  # noqa: E402
from faitheir.models import DEFAULT_MODELS, find_model, stored_hash  # noqa: E402
from faitheir.storage import TEMPORARY_PREFIX, TEMPORARY_SUFFIX  # noqa: E402
from faitheir.thumbnail import DEFAULT_FORMAT, DEFAULT_QUALITY  # noqa: E402

Photo = Callable[..., Path]
THUMBNAILS = thumbnail_naming(ThumbnailFiles())


class Elsewhere(MemoryFileSystem):
    """A store in which objects do not appear whole: what is written is logged, and nothing can be opened if asked."""

    protocol = "elsewhere"
    store: dict[str, Any] = {}  # noqa: RUF012 (fsspec's own has one)
    pseudo_dirs = [""]  # noqa: RUF012
    log: list[tuple[str, str]] = []  # noqa: RUF012
    sealed = False

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        self.log.append(("write", path.rpartition("/")[2]))
        super().pipe_file(path, value, mode, **options)

    def cat_file(self, path: str, start: Any = None, end: Any = None, **options: Any) -> Any:
        if type(self).sealed:
            raise ConnectionError("closed")
        return super().cat_file(path, start, end, **options)


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """The address of an empty store."""
    fsspec.register_implementation("elsewhere", Elsewhere, clobber=True)
    Elsewhere.store.clear()
    Elsewhere.log.clear()
    Elsewhere.sealed = False
    yield "elsewhere://"
    Elsewhere.store.clear()


def fill(root: Path | str, *names: str) -> None:
    """Files of a few bytes; what they hold does not matter to a plan."""
    store = Store(str(root))
    for name in names:
        store.write(name, b"bytes of a file")


def planned(source: object, target: object, naming: Naming = THUMBNAILS, **options: Any) -> Part:
    """All that a plan finds, together."""
    found = Part()
    for part in Planner(open_source(str(source)), Store(str(target)), naming, **options).parts():
        found.files += part.files
        found.skipped += part.skipped
        found.shards += part.shards
        found.problem = found.problem or part.problem
    return found


def paths(part: Part) -> list[str]:
    return [file.path for file in part.files]


def test_a_tree_is_mirrored_and_what_is_no_photograph_is_left_out(tmp_path: Path) -> None:
    taken = ["a.jpg", "b/c.PNG", "b/d/e.webp"]
    others = [".hidden.jpg", ".folder/a.jpg", "a.thumb.avif", "b/c.restored.png", "notes.txt", f"{RECORDS}/x.jpg"]
    fill(tmp_path / "in", *taken, *others)
    part = planned(tmp_path / "in", tmp_path / "out")
    assert paths(part) == taken
    assert [file.base for file in part.files] == ["a", "b/c", "b/d/e"]
    assert [file.number for file in part.files] == [0, 1, 2]
    assert {file.size for file in part.files} == {15}


def test_what_is_in_the_target_is_skipped_without_being_opened(elsewhere: str) -> None:
    fill(elsewhere + "in", "a.jpg", "b/c.jpg", "b/d.jpg")
    fill(elsewhere + "out", "b/c.thumb.avif")
    Elsewhere.sealed = True
    part = planned(elsewhere + "in", elsewhere + "out")
    assert paths(part) == ["a.jpg", "b/d.jpg"]
    (skipped,) = part.skipped
    assert (skipped.path, skipped.outputs, skipped.bytes_after) == ("b/c.jpg", [f"{elsewhere}out/b/c.thumb.avif"], 15)


@given(st.sets(st.sampled_from([f"{f}{n}" for f in ("", "a/", "a/b/", "c/") for n in "123456"]), min_size=1), st.data())
def test_every_photograph_is_to_be_done_or_skipped_and_never_both(bases: set[str], data: st.DataObject) -> None:
    there = data.draw(st.sets(st.sampled_from(sorted(bases))))
    root = "memory://every"
    filesystem, _ = fsspec.core.url_to_fs(root)
    if filesystem.exists("/every"):
        filesystem.rm("/every", recursive=True)
    fill(f"{root}/in", *(f"{name}.jpg" for name in bases))
    fill(f"{root}/out", *(f"{name}.thumb.avif" for name in there), "unrelated.txt")
    part = planned(f"{root}/in", f"{root}/out")
    assert {file.base for file in part.files} == bases - there
    assert {skipped.path for skipped in part.skipped} == {f"{name}.jpg" for name in there}
    assert [file.number for file in part.files] == list(range(len(part.files)))
    for per_shard in (1, 2, 100):
        sharded = planned(f"{root}/in", f"{root}/new", per_shard=per_shard)
        assert sorted(paths(sharded)) == sorted(f"{name}.jpg" for name in bases)
        assert {file.shard for file in sharded.files} == {shard.path for shard in sharded.shards}


def test_an_output_counts_only_whole(tmp_path: Path) -> None:
    naming = round_trip_naming(ThumbnailFiles(limit=160), "png")
    fill(tmp_path / "in", "a.jpg", "b.jpg", "c.jpg")
    fill(tmp_path / "out", "a.thumb.webp", "a.restored.png", "a.roundtrip.png", "b.thumb.png", "b.restored.png")
    fill(tmp_path / "out", "c.thumb.avif", "c.restored.png")
    (tmp_path / "out" / "c.roundtrip.png").touch()
    assert paths(planned(tmp_path / "in", tmp_path / "out", naming)) == ["b.jpg", "c.jpg"]


def test_thumbnails_are_taken_before_other_pictures(tmp_path: Path) -> None:
    naming = restored_naming("png")
    fill(tmp_path / "in", "a.png", "b/c.restored.png")
    assert paths(planned(tmp_path / "in", tmp_path / "out", naming)) == ["a.png"]
    fill(tmp_path / "in", "b/d.thumb.avif")
    part = planned(tmp_path / "in", tmp_path / "out", naming)
    assert [(file.path, file.base) for file in part.files] == [("b/d.thumb.avif", "b/d")]


def test_conflicts_are_those_of_the_batch_commands(tmp_path: Path) -> None:
    fill(tmp_path / "in", "a.jpg", "a.png", "b/c.jpg")
    part = planned(tmp_path / "in", tmp_path / "out")
    assert part.problem is not None
    assert "would both be written to" in part.problem
    assert paths(part) == ["b/c.jpg"]
    fill(tmp_path / "same", "a.restored.png", "a.png")
    naming = Naming((".restored.png",), wanted=lambda _: True)
    (problem,) = {planned(tmp_path / "same", tmp_path / "same", naming).problem}
    assert problem is not None
    assert "a.restored.png is an input, and the output of" in problem or "would both be written" in problem


def test_ways_to_name_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "in", "a/1.jpg", "a/2.png", "b/3.jpg", "b/c/4.jpg")
    root = tmp_path / "in"
    out = tmp_path / "out"

    def bases(source: object) -> list[str]:
        return [file.base for file in planned(source, out).files]

    assert bases(root) == bases(f"file://{root}") == ["a/1", "a/2", "b/3", "b/c/4"]
    assert bases(f"{root}/**/*.jpg") == ["a/1", "b/3", "b/c/4"]
    assert bases(f"{root}/a/*") == ["1", "2"]
    assert bases(root / "a" / "1.jpg") == ["1"]
    listed = [str(root / name) for name in ("b/c/4.jpg", "a/2.png", "b/3.jpg")]
    (tmp_path / "list.txt").write_text("\n".join([*listed, "", listed[0]]))
    assert bases(tmp_path / "list.txt") == ["a/2", "b/3", "b/c/4"]
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"path": listed, "size": [1, 2, 3]}), tmp_path / "list.parquet")
    assert bases(tmp_path / "list.parquet") == ["a/2", "b/3", "b/c/4"]
    assert sorted(file.size or 0 for file in planned(tmp_path / "list.parquet", out).files) == [1, 2, 3]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "relative.txt").write_text("in/a/1.jpg\nin/b/3.jpg\n")
    assert bases("relative.txt") == ["a/1", "b/3"]
    assert bases("in") == ["a/1", "a/2", "b/3", "b/c/4"]
    fill(root, *(f"shard-{number:03d}.tar" for number in range(4)))
    for shards in (f"{root}/shard-*.tar", f"{root}/shard-{{000..003}}.tar"):
        source = open_source(shards)
        assert source.shards
        assert [file.base for file in planned(shards, out).files] == [f"shard-{number:03d}" for number in range(4)]


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda root: root / "missing", "does not exist"),
        (lambda root: root / "empty", "does not exist|no pictures"),
        (lambda root: f"{root}/in/*.gif", "no pictures"),
        (lambda _: "s3://key:secret@bucket/in", "user name or a password"),
        (lambda _: "https://host/a.jpg?Signature=secret", "a query"),
        (lambda root: root / "empty.txt", "names no files"),
        (lambda root: root / "mixed.txt", "pictures and shards"),
        (lambda root: root / "stores.txt", "one store"),
        (lambda root: root / "bytes.parquet", "Parquet"),
    ],
)
def test_sources_that_are_refused(make: Callable[[Path], object], text: str, tmp_path: Path) -> None:
    fill(tmp_path, "in/a.jpg", "bytes.parquet")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "mixed.txt").write_text("in/a.jpg\nin/b.tar\n")
    (tmp_path / "stores.txt").write_text("s3://one/a.jpg\ngs://two/b.jpg\n")
    with pytest.raises((PlanError, StorageError), match=text) as error:
        planned(make(tmp_path), tmp_path / "out")
    assert "secret" not in str(error.value)


def test_a_store_without_its_driver_says_what_is_missing() -> None:
    with pytest.raises(MissingDependencyError, match=r"^sftp://host/in needs another package"):
        Store("sftp://host/in").list()


def test_outputs_appear_whole_where_a_store_does_not_see_to_it(elsewhere: str) -> None:
    store = Store(elsewhere + "out")
    store.write("a/b.png", b"1234")
    assert store.read("a/b.png") == b"1234"
    ((kind, name),) = Elsewhere.log
    assert kind == "write"
    assert name.startswith(TEMPORARY_PREFIX)
    assert name.endswith(TEMPORARY_SUFFIX)
    assert set(store.list("a").files) == {"b.png"}


def test_failures_that_may_pass_are_told_from_those_that_do_not(elsewhere: str) -> None:
    store = Store(elsewhere + "in")
    fill(store.url, "a.jpg")
    with pytest.raises(StorageError, match="cannot be read") as lasting:
        store.read("b.jpg")
    assert not isinstance(lasting.value, TransientError)
    Elsewhere.sealed = True
    with pytest.raises(TransientError, match="closed"):
        store.read("a.jpg")


def test_temporary_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    fill(tmp_path / "in", "a/1.jpg")
    left = f"{TEMPORARY_PREFIX}0123{TEMPORARY_SUFFIX}"
    fill(tmp_path / "out", f"a/{left}", "a/other")
    planned(tmp_path / "in", tmp_path / "out")
    assert names(tmp_path / "out" / "a") == {"other"}


def test_a_shard_is_done_with_once_it_is_marked_and_made_anew_when_its_files_change(tmp_path: Path) -> None:
    fill(tmp_path / "in", "1.jpg", "2.jpg", "3.jpg", "a/4.jpg")
    part = planned(tmp_path / "in", tmp_path / "out", per_shard=2)
    assert [shard.path for shard in part.shards] == ["000000.tar", "000001.tar", "a/000000.tar"]
    for shard in part.shards[:2]:
        fill(tmp_path / "out", shard.path, f"{RECORDS}/shards/{shard.mark}")
    again = planned(tmp_path / "in", tmp_path / "out", per_shard=2)
    assert paths(again) == ["a/4.jpg"]
    assert len(again.skipped) == 3
    fill(tmp_path / "in", "0.jpg")
    assert paths(planned(tmp_path / "in", tmp_path / "out", per_shard=2)) == [
        "0.jpg",
        "1.jpg",
        "2.jpg",
        "3.jpg",
        "a/4.jpg",
    ]
    (tmp_path / "in" / "0.jpg").unlink()
    (tmp_path / "out" / "000000.tar").unlink()
    assert paths(planned(tmp_path / "in", tmp_path / "out", per_shard=2)) == ["1.jpg", "2.jpg", "a/4.jpg"]


@given(st.lists(st.integers(0, UNIT_BYTES * 2), max_size=400), st.integers(1, 64))
def test_units_hold_every_file_once_within_their_bounds(sizes: list[int], workers: int) -> None:
    files = [File(number, str(number), size, str(number)) for number, size in enumerate(sizes)]
    made = list(units(iter(files), workers))
    assert list(itertools.chain(*made)) == files
    assert all(len(unit) <= UNIT_FILES for unit in made)
    assert all(len(unit) == 1 or sum(file.size or 0 for file in unit) <= UNIT_BYTES for unit in made)
    assert len(made) >= min(len(files), 4 * workers)


def test_the_record_of_settings(tmp_path: Path) -> None:
    target = Store(str(tmp_path))
    assert read_record(target, "downscale") is None
    write_record(target, "downscale", {"a": 1}, adopted=False)
    record = read_record(target, "downscale")
    assert record is not None
    assert record.settings == {"a": 1}
    assert record.since == (tmp_path / RECORDS / "settings-downscale.json").stat().st_mtime
    assert read_record(target, "upscale") is None
    write_record(target, "downscale", {"a": 1}, adopted=True)
    assert read_record(target, "downscale").since == 0.0  # type: ignore[union-attr]
    (tmp_path / RECORDS / "settings-downscale.json").write_text("{}")
    with pytest.raises(PlanError, match="damaged"):
        read_record(target, "downscale")


def test_outputs_older_than_their_settings_are_made_anew(tmp_path: Path) -> None:
    fill(tmp_path / "in", "a.jpg", "b.jpg")
    fill(tmp_path / "out", "a.thumb.avif", "b.thumb.avif")
    os.utime(tmp_path / "out" / "a.thumb.avif", (100, 100))
    assert paths(planned(tmp_path / "in", tmp_path / "out", since=200)) == ["a.jpg"]


def test_other_settings_are_refused(tiny_model: Path, photo: Photo, tmp_path: Path) -> None:
    photo("in/a.png")
    arguments = ("bulk", "downscale", tmp_path / "in", tmp_path / "out", "--model", tiny_model)
    write_record(Store(str(tmp_path / "out")), "downscale", {"exif": "none"}, adopted=False)
    said = refused(*arguments, status=2)
    assert "holds outputs of other settings" in said
    assert "--overwrite" in said
    recorded = json.loads((tmp_path / "out" / RECORDS / "settings-downscale.json").read_text())
    assert recorded["settings"] == {"exif": "none"}


def test_settings_are_recorded_with_their_defaults(
    photo: Photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outputs of a version with other defaults do not count as done; a default that is named makes no difference."""
    photo("in/a.png")
    photos, target = tmp_path / "in", tmp_path / "out"

    def settings(verb: Any, **options: Any) -> dict[str, Any]:
        return bulk._Setup(verb, str(photos), str(target), options).settings  # type: ignore[arg-type]

    made = settings("roundtrip")
    model, quality = DEFAULT_MODELS[16], DEFAULT_QUALITY[DEFAULT_FORMAT]
    assert made["models"] == {model: {"weights": stored_hash(find_model(model)), "tile": 2048}}
    assert made["thumbnails"] == {"format": DEFAULT_FORMAT, "quality": quality}
    named = ThumbnailFiles(format=DEFAULT_FORMAT, quality=quality)
    assert settings("roundtrip", scale=16, model=model, tile=2048, thumbnails=named, format="png") == made
    assert settings("roundtrip", format="jpg", quality=95) == settings("roundtrip", format="jpg")
    assert settings("upscale", scale=32) != settings("upscale") == settings("upscale", scale=16)
    for options in ({"scale": 32}, {"tile": 1024}, {"thumbnails": ThumbnailFiles(limit=700)}, {"format": "webp"}):
        assert settings("roundtrip", **options) != made

    write_record(Store(str(target)), "downscale", settings("downscale"), adopted=False)
    monkeypatch.setitem(DEFAULT_QUALITY, DEFAULT_FORMAT, quality - 1)
    said = refused("bulk", "downscale", photos, target, status=2)
    assert f"other settings (thumbnails.quality: {quality}, not {quality - 1})" in said


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--quality", "80", "--bytes", "160"), "--bytes and --bpp choose the quality"),
        (("--ray", "127.0.0.1:1"), "no Ray answers"),
        (("--scale", "32"), "for scale 16, not --scale 32"),
    ],
)
def test_what_cannot_be_begun_is_refused(
    options: tuple[str, ...], text: str, tiny_model: Path, photo: Photo, tmp_path: Path
) -> None:
    photo("in/a.png")
    said = refused("bulk", "downscale", tmp_path / "in", tmp_path / "out", "--model", tiny_model, *options, status=2)
    assert text in said
    assert not (tmp_path / "out").exists()


def through_stages(
    verb: Any, source: Path, target: Path, *, guarded: bool = False, apart: bool = False, **options: Any
) -> list[Any]:
    """A run's files through its stages, in this process; what the driver would be told of each."""
    setup = bulk._Setup(verb, str(source), str(target), {"threads": 1, "device": "cpu", **options})  # type: ignore[typeddict-item]
    work = setup._work()
    parts = list(setup._planner(0.0).parts())
    table = stages.rows([list(part.files) for part in parts])
    if apart:
        model = stages.Model(work)
        decoded = stages.decode(table, work=work, guarded=guarded)
        made = itertools.chain.from_iterable(map(model, decoded))
        finished = itertools.chain.from_iterable(stages.finish(batch, work=work) for batch in made)
    else:
        finished = stages.Whole(work, guarded=guarded)(table)
    told = [item for batch in finished for items in stages.unpack(batch) for item in items]
    shards = [[shard] for part in parts for shard in part.shards]
    if shards:
        closed = stages.close_shard(stages.rows(shards), target=work.target)
        assert [error for table in closed for _, error in stages.unpack(table)] == [None] * len(shards)
    return told


def outputs(folder: Path) -> dict[str, bytes]:
    found = {name: (folder / name).read_bytes() for name in names(folder)}
    return {name: data for name, data in found.items() if not name.startswith(f"{RECORDS}/")}


@pytest.mark.parametrize("apart", [False, True])
def test_the_stages_make_the_files_of_the_plain_commands(
    apart: bool, tiny_model: Path, photo: Photo, tmp_path: Path
) -> None:
    for name in ("in/a.png", "in/b/c.jpg", "in/b/d.png"):
        photo(name, seed=len(name))
    (tmp_path / "in" / "broken.jpg").write_bytes(b"no picture")
    photos, thumbnails = tmp_path / "in", tmp_path / "thumbnails"
    webp, budget = ThumbnailFiles(format="webp"), ThumbnailFiles(limit=700)
    for verb, source, target, words, options in (
        ("downscale", photos, thumbnails, ("--format", "webp"), {"thumbnails": webp}),
        (
            "upscale",
            thumbnails,
            tmp_path / "up",
            ("--format", "jpg", "--quality", "80"),
            {"format": "jpg", "quality": 80},
        ),
        ("roundtrip", photos, tmp_path / "both", ("--bytes", "700"), {"thumbnails": budget}),
    ):
        plain = tmp_path / "plain" / verb
        call(verb, source, "-r", "-o", plain, *words, "--model", tiny_model)
        guarded = verb == "upscale"
        told = through_stages(verb, source, target, guarded=guarded, apart=apart, model=str(tiny_model), **options)
        assert outputs(target) == outputs(plain)
        assert len(outputs(target)) == (9 if verb == "roundtrip" else 3)
        states = {Path(item.row["path"]).name: item.row["status"] for item in told}
        assert states.pop("broken.jpg", None) == (None if verb == "upscale" else "failed")
        assert set(states.values()) == {"done"}
        done = [item.row for item in told if item.row["status"] == "done"]
        assert sum(row["bytes_after"] for row in done) == sum(map(len, outputs(target).values()))
        assert all(row["seconds_model"] > 0 and row["weights"] and row["width"] == 70 for row in done)
    assert all(row["psnr"] > 0 for row in done)


def test_what_the_library_warns_of_is_noted_of_the_file_it_is_about(
    tiny_model: Path, photo: Photo, tmp_path: Path
) -> None:
    """Threads decode and encode beside the model; their warnings are not mixed up."""
    for name in ("in/a.png", "in/b.png", "in/d.png"):
        photo(name)
    frames = [Image.new("RGB", (70, 45), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "in" / "c.gif", save_all=True, append_images=frames[1:])
    with warnings.catch_warnings():  # which the stages change for the process they are in
        told = through_stages("downscale", tmp_path / "in", tmp_path / "out", model=str(tiny_model), threads=2)
    notes = {Path(item.row["path"]).name: item.row.get("notes") for item in told}
    assert "several frames" in notes.pop("c.gif")
    assert notes == dict.fromkeys(("a.png", "b.png", "d.png"))


@pytest.mark.usefixtures("embedded")
def test_a_thumbnail_that_does_not_fit_is_made_at_32x(photo: Photo, tmp_path: Path) -> None:
    large, small, out = photo("in/a.png", 1400, 1000), photo("in/b.png", 96, 64), tmp_path / "out"
    # Well below the smallest file found: a file's size is not quite monotonic in its quality.
    sentence = refused("downscale", large, "--scale", 16, "--bytes", 30)
    limit = int(0.8 * int(sentence.split("found takes ")[1].split(",")[0]))
    options = ("--bytes", limit, "--dtype", "float32")
    ok("downscale", large, small, "-o", tmp_path / "plain", *options)
    budget = ThumbnailFiles(limit=limit)
    told = through_stages("downscale", tmp_path / "in", out, thumbnails=budget, dtype="float32")
    assert outputs(out) == outputs(tmp_path / "plain")
    assert [item.row["model"] for item in told] == [DEFAULT_MODELS[32], DEFAULT_MODELS[16]]


def test_shards_hold_the_files_of_the_plain_command(tiny_model: Path, photo: Photo, tmp_path: Path) -> None:
    for name in ("in/a.png", "in/b.jpg", "in/c.png", "in/d/e.png"):
        photo(name, seed=len(name))
    photos = tmp_path / "in"
    ok("downscale", photos, "-r", "-o", tmp_path / "plain", "--model", tiny_model)
    plain = outputs(tmp_path / "plain")

    def members(path: Path) -> dict[str, bytes]:
        with tarfile.open(path) as tar:
            return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]

    shards = tmp_path / "shards"
    through_stages("downscale", photos, shards, model=str(tiny_model), shard_files=2)
    assert names(shards) - {name for name in names(shards) if name.startswith(f"{RECORDS}/shards/")} == {
        *("000000.tar", "000001.tar", "d/000000.tar")
    }
    found = {
        (p.parent / n).relative_to(shards).as_posix(): d for p in shards.rglob("*.tar") for n, d in members(p).items()
    }
    assert found == plain
    samples = pytest.importorskip("webdataset").WebDataset([str(p) for p in shards.rglob("*.tar")], shardshuffle=False)
    assert {sample["thumb.avif"] for sample in samples} == set(plain.values())
    assert paths(planned(photos, shards, per_shard=2)) == []

    packed = tmp_path / "packed" / "p-000.tar"
    packed.parent.mkdir()
    with tarfile.open(packed, "w") as tar:
        for name in sorted(names(photos)):
            tar.add(photos / name, name)
        tar.addfile(tarfile.TarInfo("../outside.jpg"), io.BytesIO())
    for number, target in enumerate((tmp_path / "tree", tmp_path / "tar")):
        told = through_stages("downscale", packed, target, model=str(tiny_model), shard_files=number)
        assert [item.members for item in told if item.members is not None] == [4]
        made = members(target / "p-000.tar") if number else outputs(target)
        assert made == {("" if number else "p-000/") + name: data for name, data in plain.items()}
        assert paths(planned(packed, target, per_shard=number)) == []


def test_manifests_are_read_by_other_programs(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    pandas = pytest.importorskip("pandas")
    target = Store(str(tmp_path))
    manifest = Manifest(target, "run", "0123456789abcdef")
    fill(tmp_path / "in", "a.jpg")
    fill(tmp_path / "out", "a.thumb.avif")
    manifest.skipped(planned(tmp_path / "in", tmp_path / "out").skipped, Store("photos"))
    manifest.add({"path": "b.jpg", "status": "failed", "error": "damaged"})
    manifest.flush()
    row = {
        "status": "done",
        "outputs": ["c.thumb.avif"],
        "width": 70,
        "height": 45,
        "bytes_before": 9,
        "bytes_after": 5,
    }
    manifest.add({"path": "c\udcff.jpg", "model": "nano", "weights": "0" * 16, "seconds_model": 0.5} | row)
    manifest.flush()
    manifest.flush()
    assert len(list((tmp_path / RECORDS / "manifest").iterdir())) == 2
    rows = duckdb.sql(
        f"select status, count(*), sum(bytes_after) from read_parquet('{manifest.pattern}') group by 1 order by 1"
    ).fetchall()
    assert rows == [("done", 1, 5), ("failed", 1, None), ("skipped", 1, 15)]
    table = pandas.read_parquet(tmp_path / RECORDS / "manifest")
    assert set(table["status"]) == {"done", "failed", "skipped"}
    assert list(table.loc[table["status"] == "failed", "error"]) == ["damaged"]


def test_the_files_for_clusters_are_what_ray_and_kuberay_read() -> None:
    """Their commands are ones of ours, and neither holds a credential."""
    yaml = pytest.importorskip("yaml")
    from faitheir.cli import main

    folder = Path(__file__).parents[1] / "examples" / "bulk"
    cluster = yaml.safe_load((folder / "cluster.yaml").read_text())
    assert cluster["head_node_type"] in cluster["available_node_types"]
    assert cluster["available_node_types"]["worker"]["max_workers"] == cluster["max_workers"] == 10
    job = yaml.safe_load((folder / "rayjob.yaml").read_text())
    assert (job["kind"], job["apiVersion"]) == ("RayJob", "ray.io/v1")
    spec = job["spec"]["rayClusterSpec"]
    assert spec["workerGroupSpecs"][0]["replicas"] == 10
    program, group, verb, *arguments = job["spec"]["entrypoint"].split()
    assert (program, group) == ("faitheir", "bulk")
    command = main.commands[group].commands[verb]  # type: ignore[attr-defined]
    assert command.make_context(verb, arguments).params["ray"] == "auto"
