"""The fidelity setting: one thumbnail, restored naturally, with the lowest error, or between."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from command import ok, refused
from faitheir import FaithEIRPipeline
from faitheir.backbones.pixels import PixelsConfig
from faitheir.errors import ConfigError
from faitheir.evaluation.results import file_stem, read_result
from faitheir.models import (
    ModelConfig,
    build_model,
    load_model,
    meta_model,
    parameter_table,
    save_model,
    stored_state,
    weights_hash,
)
from faitheir.nn.codec import FaithEIR
from faitheir.training.loop import train, train_stages
from recipes import Recipe, log_of, quiet
from tiny import model_config, picture, tiny, wake


def awake(**codec: object) -> FaithEIR:
    """A tiny model whose fidelity setting does something, and more of it than of its other parts."""
    model = wake(tiny(fidelity_rank=2, **codec))
    assert model.fidelity is not None
    wake(model.fidelity, std=0.3)
    return model.eval()


@torch.inference_mode()
def test_untrained_it_changes_nothing() -> None:
    model = wake(tiny())
    with_setting = tiny(fidelity_rank=2)
    with_setting.load_state_dict(model.state_dict(), strict=False)
    y = model.downscale(picture(2, 32, 48))
    for fidelity in (0.0, 0.3, 1.0):
        torch.testing.assert_close(with_setting.upscale(y, fidelity=fidelity), model.upscale(y), atol=1e-6, rtol=0)


@torch.inference_mode()
def test_the_thumbnail_is_the_same_and_the_picture_goes_from_one_to_the_other() -> None:
    model = awake()
    x = picture(2, 32, 48)
    y = model.downscale(x)
    assert torch.equal(model(x, fidelity=1.0).thumbnail, y)
    pictures = {f: model.upscale(y, fidelity=f) for f in (0.0, 0.25, 0.5, 0.999, 1.0)}
    assert (pictures[0.0] - pictures[1.0]).abs().max() > 0.01
    away = [float((pictures[f] - pictures[0.0]).abs().mean()) for f in (0.25, 0.5, 1.0)]
    assert 0 < away[0] < away[1] < away[2]
    torch.testing.assert_close(pictures[0.999], pictures[1.0], atol=1e-2, rtol=0)
    assert torch.equal(model.upscale(y), pictures[0.0]), "the weights themselves are left alone"


@torch.inference_mode()
def test_it_interpolates_the_weights() -> None:
    """At a half it is the model whose weights lie half way, written out."""
    model = awake()
    y = picture(2, 3)
    wanted = model.upscale(y, fidelity=0.5)
    assert model.fidelity is not None
    weights = dict(model.backbone.named_parameters())
    plain = awake()
    for name, weight in plain.backbone.named_parameters():
        key = name.replace(".", "-")
        if key in model.fidelity.up:
            offset = model.fidelity.up[key]
            if weight.ndim > 1:
                down = model.fidelity.down[key]
                assert down.shape[0] <= 2
                offset = (offset @ down).reshape(weight.shape)
            weight.copy_(weights[name] + 0.5 * offset)
        else:
            assert name.startswith("encoder"), "everything that restores is moved"
    torch.testing.assert_close(plain.upscale(y), wanted, atol=1e-6, rtol=0)


def test_one_pipeline_for_many_threads() -> None:
    """Mixed strengths and sizes at once give the same bits as one after another, and the weights stay as they were."""
    pipeline = FaithEIRPipeline(awake(), model_config(fidelity_rank=2))
    before = weights_hash(stored_state(pipeline.model))
    random = np.random.default_rng(0)
    small = [random.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((1, 1), (2, 3), (3, 2), (4, 4))]
    strengths = (0.0, 1.0, 0.25, 0.5, 0.75)  # more than are kept merged
    calls = [(int(random.integers(4)), float(random.choice(strengths))) for _ in range(200)]

    def restore(call: tuple[int, float]) -> np.ndarray:
        out: np.ndarray = pipeline.upscale(small[call[0]], fidelity=call[1], output_type="np")
        return out

    one_by_one = {call: restore(call) for call in sorted(set(calls))}
    with ThreadPoolExecutor(8) as pool:
        for call, picture in zip(calls, pool.map(restore, calls), strict=True):
            assert np.array_equal(picture, one_by_one[call]), call
    assert weights_hash(stored_state(pipeline.model)) == before
    assert all(np.array_equal(restore(call), picture) for call, picture in one_by_one.items())


@torch.no_grad()
def test_what_was_merged_follows_the_weights() -> None:
    """Trained further, loaded, cast, copied or pickled: the picture is that of the weights as they are."""
    model, y = awake(), picture(2, 3)

    def agrees(changed: FaithEIR) -> bool:
        fresh = awake()
        fresh.backbone.to(next(changed.backbone.parameters()).dtype)
        fresh.load_state_dict(changed.state_dict())
        return torch.equal(changed.upscale(y, fidelity=0.5), fresh.upscale(y, fidelity=0.5))

    first = model.upscale(y, fidelity=0.5)
    assert model.fidelity is not None
    model.fidelity.up["unet-conv_out-bias"].add_(0.1)
    assert not torch.equal(model.upscale(y, fidelity=0.5), first)
    assert agrees(model)
    model.load_state_dict(awake().state_dict())
    assert torch.equal(model.upscale(y, fidelity=0.5), first)
    model.backbone.decoder.conv_in.weight.data = model.backbone.decoder.conv_in.weight * 2
    assert agrees(model)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        twin.backbone.unet.conv_in.weight.zero_()
        assert agrees(twin)
        assert agrees(model)
    before = model.upscale(y, fidelity=0.5)
    model.backbone.to(torch.bfloat16)
    assert agrees(model)
    model.backbone.to(torch.float32)
    assert agrees(model)
    assert not torch.equal(model.upscale(y, fidelity=0.5), before), "rounded weights"


def test_gradients_reach_the_offsets_and_nothing_else() -> None:
    model = awake().requires_grad_(False)
    assert model.fidelity is not None
    model.fidelity.requires_grad_(True)
    with torch.inference_mode():
        model.upscale(picture(2, 3), fidelity=1.0)
    for _ in range(2):
        model(picture(1, 32, 32), fidelity=1.0).picture.mean().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == name.startswith("fidelity."), name
    assert any(p.grad is not None and p.grad.any() for p in model.fidelity.parameters())


def test_saved_and_loaded_in_half_precision_and_counted(tmp_path: Path) -> None:
    config = model_config(fidelity_rank=2)
    model = awake()
    save_model(tmp_path, model, config, dtype=torch.float16)
    loaded = FaithEIRPipeline.from_pretrained(tmp_path, fidelity=1.0)
    thumbnail = loaded.downscale(np.full((40, 33, 3), 90, np.uint8))
    pictures = [
        loaded.upscale(thumbnail, output_type="np"),
        loaded.upscale(thumbnail, fidelity=0, output_type="np"),
    ]
    assert (pictures[0] != pictures[1]).any()
    loaded.to(dtype="bfloat16")
    half = loaded.upscale(thumbnail, output_type="np").astype(int)
    assert 0 < np.abs(half - pictures[0]).max() < 16
    table = parameter_table(config)
    assert table["Fidelity setting"] == sum(p.numel() for p in meta_model(config).fidelity.parameters())  # type: ignore[union-attr]
    assert "Fidelity setting" not in parameter_table(model_config())


def test_what_cannot_be() -> None:
    model = tiny()
    y = picture(2, 2)
    with pytest.raises(ConfigError, match="no fidelity setting"):
        model.upscale(y, fidelity=0.5)
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match=r"from 0 \(most natural\) to 1 \(lowest error\)"):
            awake().upscale(y, fidelity=wrong)
    with pytest.raises(ConfigError, match="no fidelity setting"):
        FaithEIRPipeline(model, model_config(), fidelity=1.0)
    codec = model_config(fidelity_rank=2, embedder="none").codec
    with pytest.raises(ConfigError, match="this backbone has no fidelity setting"):
        build_model(ModelConfig("irn", codec, PixelsConfig()))


def test_trained_alone(recipe: Recipe, tmp_path: Path) -> None:
    """A stage of its own moves the offsets and nothing else; the other stages leave them alone."""
    pytest.importorskip("accelerate")
    rank = {"model__codec__fidelity_rank": 2}
    only_pixels = {"losses__feature": 0.0, "losses__semantic": 0.0, "losses__guidance": 0.0}
    joint = recipe("joint", steps=2, val_every=0, **rank)
    fidelity = recipe("fidelity", stage="fidelity", steps=4, val_every=2, **rank, **only_pixels)
    train_stages([joint, fidelity], log=quiet)
    a, b = (load_model(tmp_path / run / "model")[0] for run in ("joint", "fidelity"))
    before, after = a.state_dict(), b.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith("fidelity.") for name in moved)
    assert not any(before[name].any() for name in before if name.startswith("fidelity.up"))
    # What is validated is what is trained: restored at fidelity 1.
    figures = [line for line in log_of(tmp_path / "fidelity") if "val_psnr" in line]
    assert len(figures) == 2
    losses = [line for line in log_of(tmp_path / "fidelity") if "loss" in line]
    assert losses[-1].keys() == losses[0].keys() >= {"pixel"}
    source = recipe.photos / "0.png"
    pipelines = [FaithEIRPipeline(m, fidelity.model) for m in (a, b)]
    thumbnails = [p.downscale(source).picture.rgb for p in pipelines]
    assert np.array_equal(*thumbnails)
    with pytest.raises(ConfigError, match=r"set model\.codec\.fidelity_rank"):
        train(recipe("none", stage="fidelity"), log=quiet)


def test_on_the_command_line(tmp_path: Path) -> None:
    save_model(tmp_path / "model", awake(), model_config(fidelity_rank=2))
    save_model(tmp_path / "plain", tiny(), model_config())
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    ok("downscale", tmp_path / "a.png", "--model", tmp_path / "model")
    thumbnail = tmp_path / "a.thumb.avif"
    restored = {}
    for fidelity in ("0", "0.5", "1"):
        folder = tmp_path / f"out{fidelity}"
        ok("upscale", thumbnail, "--model", tmp_path / "model", "--fidelity", fidelity, "-o", folder)
        restored[fidelity] = np.asarray(Image.open(folder / "a.restored.png")).astype(int)
    assert 0 < np.abs(restored["0.5"] - restored["0"]).mean() < np.abs(restored["1"] - restored["0"]).mean()
    folder = tmp_path / "trip"
    ok("roundtrip", tmp_path / "a.png", "--model", tmp_path / "model", "--fidelity", "1", "-o", folder)
    assert np.array_equal(np.asarray(Image.open(folder / "a.restored.png")), restored["1"])
    message = refused("upscale", thumbnail, "--model", tmp_path / "plain", "--fidelity", "1", "-o", tmp_path / "no")
    assert "no fidelity setting" in message
    assert not (tmp_path / "no" / "a.restored.png").exists()
    refused("upscale", thumbnail, "--model", tmp_path / "model", "--fidelity", "2", status=2)


def test_compared_with_itself(tmp_path: Path) -> None:
    """Two fidelities of one model are two rows, with pictures and results of their own."""
    save_model(tmp_path / "model", awake(), model_config(fidelity_rank=2))
    photos = tmp_path / "hr"
    photos.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(photos / "a.png")
    model = tmp_path / "model"
    ok(
        "compare",
        "--hr",
        photos,
        f"model:{model},model:{model}@1",
        "--metrics",
        "psnr,thumbnail_psnr",
        "-o",
        tmp_path / "out",
    )
    natural, truest = (read_result(tmp_path / "out" / f"{file_stem(name)}.json") for name in ("tiny", "tiny@1"))
    assert natural.summary["psnr"] != truest.summary["psnr"]
    assert natural.summary["thumbnail_psnr"] == truest.summary["thumbnail_psnr"]
    ok("evaluate", "--hr", photos, "--model", model, "--fidelity", "1", "--metrics", "psnr", "-o", tmp_path / "again")
    assert read_result(tmp_path / "again" / f"{file_stem('tiny@1')}.json").summary["psnr"] == truest.summary["psnr"]
    refused("evaluate", "--hr", photos, "--restored", photos, "--fidelity", "1", "-o", tmp_path / "no", status=2)
