"""The codec in the loop: thumbnails stored as people store them, in training."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from faitheir.training.config import LossyConfig, LossyFormat
from faitheir.training.lossy import LossyStorage, dct_bits, quantisation_step
from recipes import Recipe, log_of, quiet
from tiny import picture, tiny, wake

pytest.importorskip("accelerate")
from faitheir.training.loop import train


def smooth(height: int, width: int, seed: int = 0) -> Tensor:
    """A picture-like thumbnail (1, 3, h, w): multiples of 1/255."""
    small = picture(-(-height // 4), -(-width // 4), seed=seed)
    large = torch.nn.functional.interpolate(small, scale_factor=4.0, mode="bicubic")[..., :height, :width]
    return (large.clamp(0, 1) * 255).round() / 255


def storage(*formats: dict[str, Any], foreign: float = 0.0) -> LossyStorage:
    return LossyStorage(LossyConfig(tuple(LossyFormat(**f) for f in formats), foreign))


def through(y: Tensor, format: str, **options: Any) -> Tensor:  # noqa: A002
    """What Pillow gives back of the thumbnail."""
    data = io.BytesIO()
    Image.fromarray((y[0].permute(1, 2, 0) * 255).round().byte().numpy()).save(data, format, **options)
    return torch.from_numpy(np.array(Image.open(data).convert("RGB"))).permute(2, 0, 1)[None] / 255


def test_what_is_restored_is_what_the_file_gives_back() -> None:
    y = smooth(17, 22)
    stored, bits, _ = storage({"format": "webp", "quality": (80, 80)})(y, picture(17 * 16, 22 * 16))
    torch.testing.assert_close(stored, through(y, "webp", quality=80, method=4), atol=1e-6, rtol=0)
    assert not torch.equal(stored, y)
    assert bits[0] > 0


def test_lossless_thumbnails_are_left_alone_and_cost_nothing() -> None:
    y = smooth(16, 16)
    stored, bits, _ = storage({"format": "lossless"})(y, picture(256, 256))
    assert torch.equal(stored, y)
    assert bits.tolist() == [0]


def test_shares_decide_how_often_a_format_is_drawn() -> None:
    y = smooth(16, 16).expand(300, -1, -1, -1)
    torch.manual_seed(0)
    stored, bits, _ = storage({"format": "lossless", "share": 3.0}, {"format": "jpeg", "share": 1.0})(y, y)
    unchanged = (stored == y).flatten(1).all(1)
    assert torch.equal(unchanged, bits == 0)
    assert 0.65 < unchanged.float().mean() < 0.85


def test_foreign_thumbnails_are_of_the_picture_and_cost_nothing() -> None:
    x = picture(128, 128).expand(20, -1, -1, -1)
    y = torch.zeros(20, 3, 8, 8)
    stored, bits, _ = storage({"format": "lossless"}, foreign=1.0)(y, x)
    assert bits.abs().max() == 0
    reference = torch.nn.functional.interpolate(x[:1], (8, 8), mode="area")
    assert (stored - reference).abs().max() < 0.25
    assert len({tuple(one.flatten().tolist()) for one in stored}) == 3  # three filters


@pytest.mark.parametrize("format", ["webp", "jpeg", "avif"])
def test_gradients_pass_through_to_luma_whole_and_to_chroma_as_it_is_kept(format: str) -> None:  # noqa: A002
    torch.manual_seed(0)
    y = smooth(16, 16).requires_grad_()
    stored, bits, _ = storage({"format": format, "quality": (70, 70)})(y, picture(256, 256))
    (of_picture,) = torch.autograd.grad(stored.sum(), y, retain_graph=True)
    torch.testing.assert_close(of_picture, torch.ones_like(y), atol=1e-4, rtol=0)
    (of_bits,) = torch.autograd.grad(bits.sum(), y)
    assert of_bits.isfinite().all()
    assert of_bits.abs().max() > 0


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["webp", "jpeg", "avif"]), st.integers(1, 100))
def test_any_size_and_quality_can_be_stored(height: int, width: int, format: str, quality: int) -> None:  # noqa: A002
    y = smooth(height, width)
    stored, bits, _ = storage({"format": format, "quality": (quality, quality)})(y, picture(height * 16, width * 16))
    assert stored.shape == y.shape
    assert stored.min() >= 0
    assert stored.max() <= 1
    assert bits[0] >= 0


def test_bits_fall_with_the_step_and_follow_real_files() -> None:
    """The stand-in orders thumbnails as WebP's real bytes do: busier ones and finer qualities cost more."""
    quiet_one, busy = smooth(48, 48), picture(48, 48)
    for y in (quiet_one, busy):
        bits = [float(dct_bits(y, quantisation_step("webp", q), halved=True)) for q in (60, 80, 90, 98)]
        assert bits == sorted(bits)
    step = quantisation_step("webp", 90)
    assert dct_bits(busy, step, halved=True) > dct_bits(quiet_one, step, halved=True)
    flat = torch.full((1, 3, 16, 16), 128 / 255)
    assert float(dct_bits(flat, step, halved=False)) < 0.05


def test_a_codec_in_the_loop_touches_the_restored_picture_and_not_the_thumbnail(recipe: Recipe, tmp_path: Path) -> None:
    options: dict[str, Any] = {"steps": 1, "val_every": 0, "losses__storage": 1.0, "losses__rate": 0.1}
    train(recipe("plain", **options), log=quiet)
    webp = [{"format": "webp", "quality": [5, 5]}]
    train(recipe("stored", lossy__formats=webp, **options), log=quiet)
    (plain,), (stored,) = log_of(tmp_path / "plain"), log_of(tmp_path / "stored")
    assert plain["guidance"] == stored["guidance"]
    assert plain["storage"] == stored["storage"]
    assert plain["pixel"] < stored["pixel"]
    assert "rate" not in plain
    assert stored["rate"] > 0


def test_sains_asymmetry_learns_what_the_file_loses(recipe: Recipe, tmp_path: Path) -> None:
    jpeg = [{"format": "jpeg", "quality": [40, 40]}]
    options: dict[str, Any] = {"steps": 30, "val_every": 0, "lossy__formats": jpeg, "optimizer__lr": 2e-3}
    asymmetric = {"model__codec__compression_blocks": 2, "losses__compression": 100.0}
    alone = {"freeze": ["backbone", "rescaler", "prior", "embedder"]}
    train(recipe("asymmetric", **options, **asymmetric, **alone), log=quiet)
    losses = [row["compression"] for row in log_of(tmp_path / "asymmetric")]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


@given(seed=st.integers(0, 50))
@settings(deadline=None, max_examples=10)
def test_compression_blocks_are_undone_on_the_way_up(seed: int) -> None:
    """With everything kept, what leaves the blocks comes back; the thumbnail is taken before them."""
    model = wake(tiny(compression_blocks=2, seed=seed), seed=seed)
    plain = tiny(seed=seed)
    x = picture(32, 48, seed=seed)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("compression.")})
    torch.testing.assert_close(model.downscale(x), plain.downscale(x))
    h = torch.randn(1, model.rescaler.channels, 2, 3)
    moved = h
    for block in model.compression:
        moved = block(moved)
    assert not torch.allclose(moved, h, atol=1e-3)
    for block in reversed(model.compression):
        moved = block.inverse(moved)
    torch.testing.assert_close(moved, h, atol=1e-4, rtol=1e-4)
