"""A shorter way up from a longer: the same thumbnails, and pictures as near as least squares come."""

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from faitheir import FaithEIRPipeline
from faitheir.errors import ConfigError
from faitheir.models import ModelConfig, build_model, save_model
from faitheir.nn.codec import FaithEIR
from faitheir.training.shorten import main, shorten
from tiny import model_config, picture, wake

LONG = {"unet_blocks": (1, 3), "grain": 2}


def long_model() -> tuple[FaithEIR, ModelConfig]:
    config = model_config(LONG)
    torch.manual_seed(0)
    return wake(build_model(config), std=0.2).eval(), config


def test_as_few_positions_as_weights_come_back_as_they_were() -> None:
    """A picture of 32 x 32 has 64 positions at H/4, and the last convolution 73 weights for each channel."""
    model, config = long_model()
    x = picture(1, 32, 32)
    short, changed = shorten(model, config, [x])
    with torch.no_grad():
        before, after = model(x), short(x)
    assert torch.equal(before.thumbnail, after.thumbnail)
    detail = (before.picture - before.picture.mean()).abs().mean()
    assert (before.picture - after.picture).abs().mean() < 0.05 * detail
    assert sum(p.numel() for p in short.parameters()) < sum(p.numel() for p in model.parameters())
    assert build_model(changed).load_state_dict(short.state_dict())


def test_on_other_pictures_it_is_nearer_than_nothing() -> None:
    model, config = long_model()
    short, _ = shorten(model, config, [picture(1, 64, 64, seed=seed) for seed in range(4)])
    x = picture(1, 64, 64, seed=9)
    with torch.no_grad():
        wanted, found = model(x).picture, short(x).picture
        without, _ = shorten(model, config, [torch.full((1, 3, 32, 32), 0.5)])
        blind = without(x).picture
    assert (found - wanted).square().mean() < 0.5 * (blind - wanted).square().mean()


@pytest.mark.parametrize("left_out", [0, 1, 2])
def test_the_block_that_is_left_out_is_the_one_asked_for(left_out: int) -> None:
    """A block that does nothing is left out, and its neighbours stay where they were: the latent is the same."""
    model, config = long_model()
    unet = model.backbone.unet
    block = [*unet.middle1, *unet.middle2][left_out]  # type: ignore[union-attr,misc]
    with torch.no_grad():
        block.conv2.weight.zero_()
        block.conv2.bias.zero_()
        # Attention stands between the halves, which the cut moves.
        unet.attention.to_out.weight.zero_()  # type: ignore[union-attr]
        unet.attention.to_out.bias.zero_()  # type: ignore[union-attr]
    short, _ = shorten(model, config, [picture(1, 32, 32)], [left_out])
    z = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(short.backbone.predict(z, None), model.backbone.predict(z, None))


def test_what_cannot_be_shortened() -> None:
    model, config = long_model()
    with pytest.raises(ConfigError, match="0 to 2"):
        shorten(model, config, [], [3])
    short, changed = shorten(model, config, [picture(1, 32, 32)])
    with pytest.raises(ConfigError, match="features at H/2"):
        shorten(short, changed, [])


def test_from_the_command_line(tmp_path: Path) -> None:
    model, config = long_model()
    save_model(tmp_path / "long", model, config)
    photos = tmp_path / "photos"
    photos.mkdir()
    pixels = np.random.default_rng(0)
    for name, size in (("a", (40, 70, 3)), ("b", (33, 32, 3)), ("too small", (10, 50, 3))):
        Image.fromarray(pixels.integers(0, 256, size, np.uint8)).save(photos / f"{name}.png")
    arguments = [str(tmp_path / "long"), str(photos), "-o", str(tmp_path / "short"), "--without", "1"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    pipeline = FaithEIRPipeline.from_pretrained(tmp_path / "short")
    photo = photos / "a.png"
    assert pipeline.upscale(pipeline.downscale(photo)).size == (70, 40)
    refused = CliRunner().invoke(main, [str(tmp_path / "short"), str(photos), "-o", str(tmp_path / "again")])
    assert refused.exit_code == 1
    assert "only nano with features at H/2" in refused.output
    assert not (tmp_path / "again").exists()
