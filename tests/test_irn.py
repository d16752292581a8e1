"""IRN and what is like T-IRN: invertible networks over pixels, made of the method's own parts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import save_tiny_model
from faitheir import FaithEIRPipeline
from faitheir.backbones.pixels import PixelsConfig
from faitheir.errors import ConfigError
from faitheir.models import KNOWN_CONFIGS, ModelConfig, build_model, meta_model, parameter_table
from faitheir.nn.codec import CodecConfig
from faitheir.nn.reversible import BlockKind, InvBlock, PyramidRescaler, TInvBlock
from faitheir.training.config import load_train_config
from tiny import picture, wake

Photo = Callable[..., Path]
CONFIGS = Path(__file__).parents[1] / "configs"


def tiny_config(**codec: Any) -> ModelConfig:
    """A 4x IRN of two levels with one small block each."""
    choices: dict[str, Any] = {"transform": "haar", "pyramid": True, "block": "inv", "prior": "zeros"}
    choices |= {"inv_blocks": 1, "growth": 4, "embedder": "none"}
    return ModelConfig("tiny-irn", CodecConfig(4, **(choices | codec)), PixelsConfig())


def test_the_papers_parameter_count() -> None:
    """34.20 M in Table 4: the blocks, and IRN's Haar filters, which its code keeps as frozen parameters."""
    learned = sum(parameter_table(KNOWN_CONFIGS["irn-x16"]).values())
    assert learned == sum(p.numel() for p in meta_model(KNOWN_CONFIGS["irn-x16"]).parameters()) == 34_191_072
    haar_filters = sum(4 * channels * 2 * 2 for channels in (3, 12, 48, 192))
    assert f"{(learned + haar_filters) / 1e6:.2f}" == "34.20"


def test_haar_four_times_with_eight_blocks_after_each() -> None:
    rescaler = meta_model(KNOWN_CONFIGS["irn-x16"]).rescaler
    assert isinstance(rescaler, PyramidRescaler)
    assert [t.kind for t in rescaler.transforms] == ["haar"] * 4  # type: ignore[union-attr]
    assert [len(level) for level in rescaler.levels] == [8] * 4  # type: ignore[arg-type]
    assert rescaler.lost_channels == 765


def test_block_follows_irn() -> None:
    torch.manual_seed(0)
    block = wake(InvBlock(9, 4), std=0.2)
    u = torch.randn(2, 9, 5, 4)
    a, b = u[:, :3], u[:, 3:]
    a2 = a + block.F(b)
    b2 = b * (2 * torch.sigmoid(block.H(a2)) - 1).exp() + block.G(a2)
    torch.testing.assert_close(block(u), torch.cat([a2, b2], 1))
    torch.testing.assert_close(block.inverse(block(u)), u, atol=1e-5, rtol=1e-5)


def test_three_branches() -> None:
    """Chrominance is updated from luminance and the rest, then luminance, then the rest; colours stay RGB outside."""
    torch.manual_seed(0)
    block = TInvBlock(9, 4)
    u = torch.randn(2, 9, 5, 4)
    torch.testing.assert_close(block(u)[:, :3], u[:, :3], atol=1e-5, rtol=1e-5)  # asleep
    wake(block, std=0.2)
    assert not torch.allclose(block(u)[:, :3], u[:, :3], atol=1e-2)
    r, g, b = u[:, 0:1], u[:, 1:2], u[:, 2:3]
    luma = 0.299 * r + 0.587 * g + 0.114 * b
    chroma = torch.cat([(b - luma) / 1.772, (r - luma) / 1.402], 1)
    rest = u[:, 3:]
    chroma = chroma + block.C(torch.cat([luma, rest], 1))
    luma = luma + block.Y(torch.cat([chroma, rest], 1))
    low = torch.cat([luma, chroma], 1)
    rest = rest * (2 * torch.sigmoid(block.H(low)) - 1).exp() + block.G(low)
    blue, red = luma + 1.772 * chroma[:, :1], luma + 1.402 * chroma[:, 1:]
    green = (luma - 0.299 * red - 0.114 * blue) / 0.587
    torch.testing.assert_close(block(u), torch.cat([red, green, blue, rest], 1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(block.inverse(block(u)), u, atol=1e-4, rtol=1e-4)


@settings(deadline=None, max_examples=30)
@given(
    block=st.sampled_from(["inv", "t-inv", "e-inv"]),
    factor=st.sampled_from([2, 4, 8]),
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_upscaling_undoes_downscaling(block: BlockKind, factor: int, height: int, width: int, seed: int) -> None:
    torch.manual_seed(seed)
    # Quiet weights: the blocks' factors are exponentials, and through three levels they multiply float32's rounding.
    rescaler = wake(PyramidRescaler(3, factor, block=block, blocks=2, growth=4), std=0.02).requires_grad_(False)
    z = torch.rand(1, 3, height * factor, width * factor) * 2 - 1
    raw, lost = rescaler(z)
    assert raw.shape == (1, 3, height, width)
    assert lost.shape == (1, 3 * factor**2 - 3, height, width)
    torch.testing.assert_close(rescaler.inverse(raw, lost), z, atol=2e-5, rtol=0)
    assert (rescaler.inverse(raw, torch.zeros_like(lost)) - z).abs().max() > 1e-2


def test_before_training_the_thumbnail_is_the_average() -> None:
    model = build_model(tiny_config())
    x = picture(2, 16, 24)
    torch.testing.assert_close(model.project(x), torch.nn.functional.avg_pool2d(x, 4), atol=1e-6, rtol=0)
    kept = model.upscale(model.project(x))
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(kept, 4), torch.nn.functional.avg_pool2d(x, 4))
    out = model(x)
    assert out.lost.shape == (2, 45, 4, 6)
    assert out.condition is None


@pytest.mark.parametrize("block", ["inv", "t-inv"])
def test_through_the_pipeline(block: BlockKind, tmp_path: Path, photo: Photo) -> None:
    folder = save_tiny_model(tmp_path / "model", tiny_config(block=block))
    pipeline = FaithEIRPipeline.from_pretrained(folder)
    source = photo("a.png", 70, 45)
    pipeline.downscale(source).save(tmp_path / "a.thumb.png")
    restored = pipeline.upscale(tmp_path / "a.thumb.png", output_type="np")
    assert restored.shape == (45, 70, 3)
    assert (restored == pipeline.upscale(tmp_path / "a.thumb.png", output_type="np")).all()
    # half precision is for backbones, of which there is none here
    assert (restored == pipeline.to(dtype="bfloat16").upscale(tmp_path / "a.thumb.png", output_type="np")).all()


def test_a_normal_prior_is_drawn_anew(tmp_path: Path, photo: Photo) -> None:
    pipeline = FaithEIRPipeline.from_pretrained(save_tiny_model(tmp_path / "model", tiny_config(prior="normal")))
    thumbnail = pipeline.downscale(photo("a.png"))
    once, again = (np.asarray(pipeline.upscale(thumbnail), np.int16) for _ in range(2))
    assert (once != again).any()


def test_tokens_have_no_use() -> None:
    with pytest.raises(ConfigError, match="embedder"):
        build_model(tiny_config(embedder="pse"))


@pytest.mark.parametrize("name", ["irn-x16", "t-irn-x16"])
def test_the_shipped_recipes(name: str) -> None:
    config = load_train_config(CONFIGS / "irn.toml", only=name)
    assert config.model == KNOWN_CONFIGS[name]


@pytest.mark.parametrize("name", ["irn-x16", "t-irn-x16"])
def test_training(name: str, tmp_path: Path, photo: Photo) -> None:
    """The recipe as it is, made small: the common loop trains it, and the pipeline takes what it leaves."""
    pytest.importorskip("accelerate")
    from faitheir.training.loop import train

    photo("photos/a.png", 40, 36)
    changes: dict[str, Any] = {"data.train": str(tmp_path / "photos"), "data.crop": 16, "data.workers": 0}
    changes |= {"run": str(tmp_path / "run"), "steps": 3, "batch": 2, "log_every": 1, "save_every": 3, "val_every": 0}
    changes |= {"model.codec.scale": 4, "model.codec.growth": 4, "model.codec.inv_blocks": 1, "precision": "no"}
    config = load_train_config(CONFIGS / "irn.toml", changes, only=name)
    pipeline = FaithEIRPipeline.from_pretrained(train(config, log=lambda _: None))
    assert pipeline.name == name
    last = [p for n, p in pipeline.model.named_parameters() if n.endswith("convs.4.weight")]
    assert last
    assert all(p.any() for p in last)  # they start at zero
    assert pipeline.upscale(pipeline.downscale(photo("b.png", 30, 22))).size == (30, 22)
