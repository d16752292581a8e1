"""The compact backbone: small, local, and right about its windows."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from faitheir.backbones.nano import NanoBackbone, WindowCrossAttention, position_noise
from faitheir.errors import ConfigError
from faitheir.models import KNOWN_CONFIGS, build_model, parameter_table
from faitheir.nn.embedder import Condition
from tiny import nano, nano_config, picture, tiny, wake


@pytest.mark.parametrize("name", ["nano-x16", "nano-x32"])
def test_at_most_12_million_parameters(name: str) -> None:
    table = parameter_table(KNOWN_CONFIGS[name])
    with torch.device("meta"):
        model = build_model(KNOWN_CONFIGS[name])
    assert sum(table.values()) == sum(p.numel() for p in model.parameters())
    assert sum(table.values()) <= 12_000_000
    assert min(table.values()) > 0


#: A decoder that makes pixels of features at H/4.
SHORT: dict[str, Any] = {"decoder_widths": (8, 8, 0), "decoder_blocks": (1, 1, 0), "decoder_up_kernel": 1}


@pytest.mark.parametrize("changes", [{}, SHORT], ids=["long", "short"])
@pytest.mark.parametrize("size", [(16, 16), (16, 48), (64, 32)])
def test_shapes(size: tuple[int, int], changes: dict[str, Any]) -> None:
    backbone = nano(**changes)
    z = backbone.encode(picture(2, *size))
    assert z.shape == (2, 4, size[0] // 8, size[1] // 8)
    assert backbone.predict(z, None).shape == z.shape
    assert backbone.decode(z).shape == (2, 3, *size)


@pytest.mark.parametrize("changes", [{}, SHORT], ids=["long", "short"])
def test_a_new_backbone_is_colours_averaged_and_enlarged(changes: dict[str, Any]) -> None:
    """It starts at a blurred picture, not at noise: training has only the detail to add."""
    model = tiny(changes)
    x = picture(1, 32, 48)
    z = model.backbone.encode(x)
    average = torch.nn.functional.avg_pool2d(x, 8)
    torch.testing.assert_close((z[:, :3] + 1) / 2, average, atol=1e-5, rtol=0)
    assert not z[:, 3:].any()
    blurred = torch.nn.functional.interpolate(average, scale_factor=8, mode="bilinear")
    torch.testing.assert_close(model.backbone.decode(z), blurred, atol=1e-5, rtol=0)
    assert torch.equal(model.backbone.predict(z, None), -z)


# ----- local: tiles agree with the whole only if nothing is computed over all of the picture


def reach(before: Tensor, after: Tensor) -> int:
    """The last column that differs."""
    columns = (before - after).abs().amax((0, 1, 2)) > 1e-6
    return int(columns.nonzero().max())


def test_what_each_part_sees_is_bounded() -> None:
    backbone = nano().requires_grad_(False)
    x = picture(1, 16, 512)
    other = x.clone()
    other[..., 0] = 1 - other[..., 0]
    pixels = reach(backbone.encode(x), backbone.encode(other)) * 8
    assert 0 < pixels <= 48

    z = torch.randn(1, 4, 2, 64)
    other = z.clone()
    other[..., 0] += 1
    assert 8 < reach(backbone.decode(z), backbone.decode(other)) <= 9 * 8
    tokens = Condition(torch.randn(1, 32, 16), (1, 32))
    assert 0 < reach(backbone.predict(z, tokens), backbone.predict(other, tokens)) <= 24

    changed = tokens.tokens.clone()
    changed[:, 0] += 1
    # a token: its window of two, one block of two convolutions at H/16, three convolutions at H/8
    assert 0 < reach(backbone.predict(z, tokens), backbone.predict(z, Condition(changed, (1, 32)))) <= 14


@pytest.mark.parametrize("changes", [{}, SHORT], ids=["long", "short"])
@pytest.mark.parametrize("scale", [16, 32])
def test_a_far_pixel_changes_nothing_here(scale: int, changes: dict[str, Any]) -> None:
    """Both ways, through the whole model: 15 thumbnail pixels down and 27 up suffice for this depth."""
    model = wake(tiny(changes, scale=scale, inv_blocks=1), std=0.2).eval().requires_grad_(False)
    x = picture(1, scale, 24 * scale)
    other = x.clone()
    other[..., 0] = 1 - other[..., 0]
    assert 0 <= reach(model.project(x), model.project(other)) <= 15

    y = picture(1, 1, 48)
    other = y.clone()
    other[..., 0] = 1 - other[..., 0]
    assert scale < reach(model.upscale(y), model.upscale(other)) <= 27 * scale


@pytest.mark.parametrize("scale", [16, 32])
def test_moving_by_whole_windows_moves_the_result(scale: int) -> None:
    """What tiling relies on: a tile that starts at a window's edge is what the whole picture shows there."""
    window = 4
    model = wake(tiny({"window": window}, scale=scale, inv_blocks=1), std=0.2).eval().requires_grad_(False)
    y = picture(1, 4, 44)
    whole = model.upscale(y)[..., 36 * scale :]
    for shift in (window, 2 * window):
        moved = model.upscale(y[..., shift:])[..., (36 - shift) * scale :]
        assert (moved - whole).abs().max() < 2e-6 * whole.abs().max()
    off = model.upscale(y[..., 1:])[..., 35 * scale :]
    assert (off - whole).abs().max() > 1e-4 * whole.abs().max()


# ----- windowed attention against a plain one


def attention(window: int, heads: int = 2) -> WindowCrossAttention:
    torch.manual_seed(0)
    layer = WindowCrossAttention(6, 5, heads, window).requires_grad_(False)
    return wake(layer, std=0.3)


def plainly(layer: WindowCrossAttention, x: Tensor, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Feature by feature: softmax over the tokens that exist in its window, plus the bias of their offset."""
    ratio, side = x.shape[2] // grid[0], layer.window
    out = torch.zeros_like(x)
    for b, i, j in itertools.product(range(x.shape[0]), range(x.shape[2]), range(x.shape[3])):
        row, column = i // ratio, j // ratio  # the token under this feature
        rows = [r for r in range(grid[0]) if r // side == row // side]
        columns = [c for c in range(grid[1]) if c // side == column // side]
        inside = list(itertools.product(rows, columns))
        kv = layer.to_kv(torch.stack([tokens[b, r * grid[1] + c] for r, c in inside]))
        q = layer.to_q(x[b, :, i, j])
        heads = []
        for head in range(layer.heads):
            part = slice(64 * head, 64 * head + 64)
            k, v = kv[:, : kv.shape[1] // 2][:, part], kv[:, kv.shape[1] // 2 :][:, part]
            bias = torch.stack([layer.bias[head, row - r + side - 1, column - c + side - 1] for r, c in inside])
            heads.append(torch.softmax(k @ q[part] / 8 + bias, 0) @ v)
        out[b, :, i, j] = layer.to_out(torch.cat(heads))
    return out


@pytest.mark.parametrize("ratio", [1, 2])
@pytest.mark.parametrize("grid", [(2, 4), (3, 5), (1, 1), (5, 2)])
@pytest.mark.parametrize("window", [2, 4])
def test_windowed_attention_is_plain_attention_in_windows(ratio: int, grid: tuple[int, int], window: int) -> None:
    layer = attention(window)
    x = torch.randn(2, 6, grid[0] * ratio, grid[1] * ratio)
    tokens = torch.randn(2, grid[0] * grid[1], 5)
    out = layer(x, Condition(tokens, grid))
    torch.testing.assert_close(out, plainly(layer, x, tokens, grid), atol=1e-5, rtol=1e-5)


def test_tokens_without_a_place_serve_every_feature() -> None:
    layer = attention(2, heads=1)
    x, tokens = torch.randn(2, 6, 3, 4), torch.randn(2, 7, 5)
    out = layer(x, Condition(tokens, None))
    q = layer.to_q(x.movedim(1, -1).flatten(1, 2))
    k, v = layer.to_kv(tokens).chunk(2, -1)
    plain = layer.to_out(torch.softmax(q @ k.transpose(1, 2) / 8, -1) @ v)
    torch.testing.assert_close(out, plain.transpose(1, 2).reshape(2, 6, 3, 4), atol=1e-5, rtol=1e-5)


def test_windows_do_not_see_one_another() -> None:
    layer = attention(2)
    x, tokens = torch.randn(1, 6, 4, 6), torch.randn(1, 24, 5)
    before = layer(x, Condition(tokens, (4, 6)))
    tokens[:, 2 * 6 + 5] += 3  # row 2, column 5: the last window
    changed = (layer(x, Condition(tokens, (4, 6))) - before).abs().amax((0, 1)) > 1e-6
    assert changed.nonzero().tolist() == [[2, 4], [2, 5], [3, 4], [3, 5]]


def test_shifting_features_and_tokens_by_windows_shifts_attention() -> None:
    layer = attention(2)
    x, tokens = torch.randn(1, 6, 4, 8), torch.randn(1, 4, 8, 5)
    out = layer(x, Condition(tokens.flatten(1, 2), (4, 8)))
    for shift in [(2, 0), (0, 4), (2, 6)]:
        moved = layer(x.roll(shift, (2, 3)), Condition(tokens.roll(shift, (1, 2)).flatten(1, 2), (4, 8)))
        torch.testing.assert_close(moved, out.roll(shift, (2, 3)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("grid", [(3, 3), (1, 5)])
def test_padding_does_not_leak(grid: tuple[int, int]) -> None:
    """A huge value of the bias at offsets that only padding has, and weights that would show it."""
    layer = attention(4)
    x, tokens = torch.randn(1, 6, *grid), torch.randn(1, grid[0] * grid[1], 5)
    before = layer(x, Condition(tokens, grid))
    assert before.isfinite().all()
    if grid[0] == 1:  # a single row: every offset between rows is padding's
        with torch.no_grad():
            layer.bias[:, :3] = 50
            layer.bias[:, 4:] = 50
        torch.testing.assert_close(layer(x, Condition(tokens, grid)), before, atol=1e-6, rtol=0)
    torch.testing.assert_close(before, plainly(layer, x, tokens, grid), atol=1e-5, rtol=1e-5)


def test_each_picture_of_a_batch_alone() -> None:
    """Batches and windows share a dimension: neither pictures nor padding masks may be mixed up."""
    model = wake(tiny({"window": 4})).eval().requires_grad_(False)
    y = picture(3, 3, 5)
    together = model.upscale(y)
    for i in range(3):
        torch.testing.assert_close(model.upscale(y[i : i + 1]), together[i : i + 1], atol=1e-5, rtol=0)


def test_tokens_that_do_not_lie_evenly_are_refused() -> None:
    with pytest.raises(ValueError, match="do not lie evenly"):
        attention(2)(torch.randn(1, 6, 4, 6), Condition(torch.randn(1, 9, 5), (3, 3)))


def test_half_precision_is_close() -> None:
    backbone = nano().requires_grad_(False)
    x = picture(1, 32, 32)
    z = backbone.encode(x)
    condition = Condition(torch.randn(1, 4, 16), (2, 2))
    wanted = z, backbone.predict(z, condition), backbone.decode(z)
    backbone.to(torch.bfloat16)
    half = z.bfloat16()
    got = (
        backbone.encode(x.bfloat16()),
        backbone.predict(half, Condition(condition.tokens.bfloat16(), (2, 2))),
        backbone.decode(half),
    )
    # The picture itself is not half: there bfloat16 has steps of a whole level.
    for g, w, dtype in zip(got, wanted, (torch.bfloat16, torch.bfloat16, torch.float32), strict=True):
        assert g.dtype == dtype
        assert float((g.float() - w).abs().max()) < 0.05 * float(w.abs().max())


@pytest.mark.parametrize(
    "changes",
    [
        {"latent_channels": 2},
        {"heads": 0},
        {"window": 0},
        {"context_dim": 0},
        {"unet_widths": (8, 0)},
        {"decoder_blocks": (1, -1, 1)},
        {"decoder_widths": (8, 8, 0)},  # with a block of no width
        {"decoder_widths": (8, 8, -4)},
        {"decoder_up_kernel": 2},
    ],
)
def test_values_out_of_range(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        nano_config(**changes)


def test_state_dict_is_all_of_the_weights() -> None:
    backbone, other = nano(), nano()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    other.load_trained_state_dict(backbone.trained_state_dict())
    x = picture(1, 16, 16)
    assert torch.equal(other.decode(other.encode(x)), backbone.decode(backbone.encode(x)))
    assert sum(backbone.parts().values()) == sum(p.numel() for p in backbone.parameters())


# ----- grain


@given(
    channels=st.integers(1, 4),
    top=st.integers(0, 2**20),
    left=st.integers(0, 2**20),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
)
def test_noise_depends_on_the_position_alone(channels: int, top: int, left: int, height: int, width: int) -> None:
    rows, columns = torch.arange(top, top + 10), torch.arange(left, left + 10)
    whole = position_noise(channels, rows, columns)
    assert whole.shape == (1, channels, 10, 10)
    assert whole.abs().max() <= 3**0.5
    assert torch.equal(position_noise(channels, rows[-height:], columns[-width:]), whole[..., -height:, -width:])


def test_noise_is_noise() -> None:
    """Uniform, of variance 1, without lines in its spectrum or likeness between channels; and it never changes."""
    noise = position_noise(3, torch.arange(5000, 5256), torch.arange(256))
    torch.testing.assert_close(noise.mean((0, 2, 3)), torch.zeros(3), atol=0.02, rtol=0)
    torch.testing.assert_close(noise.var((0, 2, 3)), torch.ones(3), atol=0.02, rtol=0)
    power = torch.fft.fft2(noise[0]).abs().square() / 256**2
    assert power[:, 1:].max() < 20, "of 65,536 exponentials of mean 1 the largest is about 12"
    likeness = torch.corrcoef(noise[0].flatten(1)) - torch.eye(3)
    assert likeness.abs().max() < 0.02
    known = position_noise(2, torch.tensor([0, 7]), torch.tensor([3]))
    torch.testing.assert_close(
        known.flatten(), torch.tensor([-0.119874, 1.648106, 1.286745, -1.056068]), atol=1e-5, rtol=0
    )


def test_grain_starts_silent_then_follows_the_place_and_is_drawn_anew_in_training() -> None:
    torch.manual_seed(0)
    plain, grained = (NanoBackbone(nano_config(grain=grain)).requires_grad_(False) for grain in (0, 3))
    grained.load_state_dict(plain.state_dict(), strict=False)
    z = torch.randn(1, 4, 4, 6)
    assert torch.equal(plain.decode(z), grained.decode(z))
    wake(grained.eval())
    assert not torch.equal(grained.decode(z), grained.decode(z, (0, 2)))
    assert torch.equal(grained.decode(z, (3, 2)), grained.decode(z, (3, 2)))
    flat = grained.decode(torch.zeros(1, 4, 8, 8))
    assert not torch.allclose(flat[..., 16:24, 16:24], flat[..., 32:40, 32:40], atol=1e-3), "no two places are alike"
    grained.train()
    assert not torch.equal(grained.decode(z), grained.decode(z))
