"""What the paper calls reversible is: with the lost channels kept, upscaling undoes downscaling."""

import functools
from typing import Literal

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from faitheir.nn.reversible import (
    LR_CHANNELS,
    DenseBlock,
    EInvBlock,
    LatentRescaler,
    OrthogonalTransform,
    haar_matrix,
    project_orthogonal,
)
from tiny import wake

Kind = Literal["lrt", "haar"]


def train(rescaler: LatentRescaler, steps: int, rate: float = 1e-3) -> None:
    """Real optimizer steps: a thumbnail like the latent's average, and little lost."""
    channels = rescaler.channels // rescaler.transform.factor**2
    optimizer = torch.optim.AdamW(rescaler.parameters(), rate)
    for _ in range(steps):
        z = torch.randn(2, channels, 4 * rescaler.transform.factor, 4 * rescaler.transform.factor)
        raw, lost = rescaler(z)
        average = torch.nn.functional.avg_pool2d(z[:, :LR_CHANNELS], rescaler.transform.factor)
        restored = rescaler.inverse(raw, torch.zeros_like(lost))
        loss = (raw - average * rescaler.transform.factor).abs().mean() + (restored - z).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@functools.cache
def trained(kind: Kind, factor: int, channels: int, growth: int, steps: int) -> LatentRescaler:
    """A rescaler none of whose blocks is the identity, after ``steps`` optimizer steps."""
    torch.manual_seed(channels + factor)
    rescaler = wake(LatentRescaler(channels, factor, transform=kind, growth=growth), std=0.01)
    before = [p.detach().clone() for p in rescaler.parameters()]
    train(rescaler, steps)
    moved = any(not torch.equal(a, b) for a, b in zip(before, rescaler.parameters(), strict=True))
    assert moved == (steps > 0)
    return rescaler.requires_grad_(False)


def error(got: Tensor, wanted: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float(((got - wanted).abs().max() / wanted.abs().max()).detach())


sizes = st.integers(1, 7)


@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(["lrt", "haar"]),
    factor=st.sampled_from([2, 4]),
    channels=st.sampled_from([4, 16]),
    growth=st.sampled_from([4, 32]),
    steps=st.sampled_from([0, 8]),
    batch=st.integers(1, 2),
    height=sizes,
    width=sizes,
    spread=st.floats(0.1, 20),
    seed=st.integers(0, 2**32 - 1),
)
@example("lrt", 2, 4, 32, 8, 1, 1, 1, 1.0, 0)
@example("lrt", 4, 4, 32, 8, 1, 5, 3, 1.0, 0)
@example("lrt", 2, 16, 32, 8, 1, 3, 5, 1.0, 0)
@example("lrt", 4, 16, 32, 8, 1, 2, 2, 1.0, 0)
@example("haar", 2, 4, 32, 8, 1, 5, 2, 1.0, 0)
@example("haar", 4, 16, 32, 8, 1, 2, 2, 1.0, 0)
def test_upscaling_undoes_downscaling(
    kind: Kind,
    factor: int,
    channels: int,
    growth: int,
    steps: int,
    batch: int,
    height: int,
    width: int,
    spread: float,
    seed: int,
) -> None:
    rescaler = trained(kind, factor, channels, growth, steps)
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(batch, channels, height * factor, width * factor, generator=generator) * spread
    raw, lost = rescaler(z)
    assert raw.shape == (batch, LR_CHANNELS, height, width)
    assert lost.shape == (batch, rescaler.lost_channels, height, width)
    assert rescaler.lost_channels == channels * factor**2 - LR_CHANNELS
    assert error(rescaler.inverse(raw, lost), z) < 1e-4
    # and the other way round: what is restored gives the thumbnail that it came from
    again, lost_again = rescaler(rescaler.inverse(raw, lost))
    assert error(again, raw) < 1e-3
    assert error(lost_again, lost) < 1e-3


@pytest.mark.parametrize("kind", ["lrt", "haar"])
def test_what_is_lost_matters(kind: Kind) -> None:
    """The round trip is no accident of blocks that do nothing."""
    rescaler = trained(kind, 2, 4, 32, 8)
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    raw, lost = rescaler(z)
    plain = rescaler.transform(z)
    assert error(raw, plain[:, :LR_CHANNELS]) > 0.05
    assert error(lost, plain[:, LR_CHANNELS:]) > 0.05
    assert error(rescaler.inverse(raw, torch.zeros_like(lost)), z) > 0.1


def test_a_new_rescaler_is_its_transform_alone() -> None:
    rescaler = LatentRescaler(4, 2)
    z = torch.randn(1, 4, 6, 4)
    raw, lost = rescaler(z)
    assert torch.equal(torch.cat([raw, lost], 1), rescaler.transform(z))


def test_block_follows_the_papers_equations() -> None:
    torch.manual_seed(0)
    block = wake(EInvBlock(9, 4), std=0.2)
    u = torch.randn(2, 9, 5, 4)
    a, b = u[:, :3], u[:, 3:]
    a2 = a + block.E(b) - block.F(b)
    s = 2 * torch.sigmoid(block.H(a2)) - 1
    b2 = b * s.exp() + block.G(a2)
    out = block(u)
    torch.testing.assert_close(out, torch.cat([a2, b2], 1))
    torch.testing.assert_close(block.inverse(out), u, atol=1e-5, rtol=1e-5)


def test_dense_block_has_five_convolutions_each_fed_by_all_before() -> None:
    block = DenseBlock(3, 13)
    assert [tuple(c.weight.shape) for c in block.convs] == [
        (32, 3, 3, 3),
        (32, 35, 3, 3),
        (32, 67, 3, 3),
        (32, 99, 3, 3),
        (13, 131, 3, 3),
    ]
    assert not block(torch.randn(1, 3, 4, 4)).any()


@pytest.mark.parametrize(("factor", "millions"), [(2, 0.891), (4, 1.570)])
def test_the_papers_block_sizes(factor: int, millions: float) -> None:
    blocks = LatentRescaler(4, factor).blocks
    assert sum(p.numel() for p in blocks.parameters()) / 1e6 == pytest.approx(millions, abs=6e-4)


# ----- the orthogonal matrix


def off(w: Tensor) -> float:
    """How far ``w`` is from orthogonal."""
    w = w.detach().double()
    return float((w @ w.T - torch.eye(len(w), dtype=torch.float64)).abs().max())


def steps_of_training(transform: OrthogonalTransform, channels: int, steps: int, rate: float) -> list[float]:
    optimizer = torch.optim.AdamW(transform.parameters(), rate)
    target = project_orthogonal(torch.randn(transform.matrix().shape))
    wrong = [off(transform.matrix())]
    for _ in range(steps):
        z = torch.randn(2, channels, 8, 8)
        wanted = torch.nn.functional.conv2d(
            torch.nn.functional.pixel_unshuffle(z, transform.factor), target[:, :, None, None]
        )
        loss = (transform(z) - wanted).square().mean() + transform.inverse(wanted).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        wrong.append(off(transform.matrix()))
    return wrong


@pytest.mark.parametrize("init", ["random", "haar"])
@pytest.mark.parametrize(("channels", "factor"), [(4, 2), (4, 4), (8, 4), (16, 2), (16, 4)])
def test_always_orthogonal_at_every_step(channels: int, factor: int, init: Literal["random", "haar"]) -> None:
    torch.manual_seed(0)
    transform = OrthogonalTransform(channels, factor, "lrt", "always", init)
    start = transform.matrix().detach().clone()
    wrong = steps_of_training(transform, channels, 12, 0.005)  # ten to a hundred times a real rate
    assert max(wrong) < 1e-5
    assert (transform.matrix() - start).abs().max() > 0.05  # it did learn


def test_orthogonal_at_init_only_drifts() -> None:
    """The paper's own form, for the ablation: its inverse is exact at step 0 and no longer after."""
    torch.manual_seed(0)
    transform = OrthogonalTransform(4, 2, "lrt", "init")
    z = torch.randn(1, 4, 8, 8)
    assert error(transform.inverse(transform(z)), z) < 1e-5
    wrong = steps_of_training(transform, 4, 12, 0.02)
    assert wrong[0] < 1e-5
    assert wrong[-1] > 1e-2
    assert error(transform.inverse(transform(z)), z) > 1e-2


def test_starting_points() -> None:
    """Random starts differ, Haar starts are Haar, and training starts from the fixed matrix exactly."""
    one, other = OrthogonalTransform(4, 2), OrthogonalTransform(4, 2)
    assert not torch.allclose(one.matrix(), other.matrix(), atol=0.1)
    for orthogonality in ("always", "init"):
        transform = OrthogonalTransform(4, 2, "lrt", orthogonality, "haar")  # type: ignore[arg-type]
        torch.testing.assert_close(transform.matrix(), haar_matrix(4, 2), atol=1e-7, rtol=0)
        assert sum(p.numel() for p in transform.parameters() if p.requires_grad) == 16 * 16
    fixed = OrthogonalTransform(4, 2, "haar")
    assert not list(fixed.parameters())
    assert not fixed.state_dict()
    # W is stored whole: a saved model must not depend on the random numbers of the one that loads it
    assert set(one.state_dict()) == {"base", "skew"}


def test_projection_is_the_nearest_orthogonal_matrix() -> None:
    torch.manual_seed(0)
    a = torch.randn(8, 8)
    w = project_orthogonal(a)
    assert off(w) < 1e-6
    # the nearest: W^T A is symmetric with no negative eigenvalue (polar decomposition)
    s = w.T @ a
    torch.testing.assert_close(s, s.T, atol=1e-5, rtol=0)
    assert torch.linalg.eigvalsh(s).min() > -1e-5
    torch.testing.assert_close(project_orthogonal(w), w, atol=1e-6, rtol=0)


def test_float32_under_autocast() -> None:
    """Half precision around it must not round W: the inverse would be lost."""
    torch.manual_seed(0)
    transform = OrthogonalTransform(4, 2)
    z = torch.randn(1, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        h = transform(z)
        back = transform.inverse(h)
    assert h.dtype == back.dtype == torch.float32
    assert error(back, z) < 1e-5


# ----- Haar, written a second time


def haar_1d(x: Tensor, dim: int, levels: int) -> list[Tensor]:
    """Low-pass first, then differences, coarse to fine, of the cells of 2^levels along ``dim``."""
    even, odd = x.unfold(dim, 2, 2).unbind(-1)
    low, high = (even + odd) / 2**0.5, (even - odd) / 2**0.5
    if levels == 1:
        return [low, high]
    pair = high.unfold(dim, 2, 2).unbind(-1)
    return [*haar_1d(low, dim, levels - 1), *pair]


def test_haar_is_averages_and_differences_of_four() -> None:
    z = torch.randn(2, 5, 6, 8)
    h = OrthogonalTransform(5, 2, "haar")(z)
    a, b = z[:, :, ::2, ::2], z[:, :, ::2, 1::2]
    c, d = z[:, :, 1::2, ::2], z[:, :, 1::2, 1::2]
    bands = [a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d]
    torch.testing.assert_close(h, torch.cat(bands, 1) / 2, atol=1e-6, rtol=1e-5)


def test_haar_of_four_is_two_levels() -> None:
    """Two levels along rows, then along columns; the coarser level first."""
    z = torch.randn(2, 3, 8, 12)
    h = OrthogonalTransform(3, 4, "haar")(z).unflatten(1, (16, 3))
    bands = {(i, j): band for i, rows in enumerate(haar_1d(z, 2, 2)) for j, band in enumerate(haar_1d(rows, 3, 2))}
    order = sorted(bands, key=lambda ij: (max(ij), ij))
    for k, ij in enumerate(order):
        torch.testing.assert_close(h[:, k], bands[ij], atol=1e-5, rtol=1e-5)
    # and the first four bands are one level of Haar on the low-pass of one level
    low = OrthogonalTransform(3, 2, "haar")(z)[:, :3]
    twice = OrthogonalTransform(3, 2, "haar")(low)
    torch.testing.assert_close(h[:, :4].flatten(1, 2), twice, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
def test_first_channels_of_haar_are_the_low_pass(factor: int) -> None:
    z = torch.randn(1, 4, 16, 8)
    transform = OrthogonalTransform(4, factor, "haar")
    average = torch.nn.functional.avg_pool2d(z, factor)
    torch.testing.assert_close(transform(z)[:, :4], average * factor, atol=1e-5, rtol=1e-5)
    assert off(transform.matrix()) < 1e-6
    flat = transform(torch.full_like(z, 0.7))
    assert flat[:, 4:].abs().max() < 1e-6 if factor > 1 else flat.shape[1] == 4


def test_haar_needs_a_power_of_two() -> None:
    with pytest.raises(ValueError, match="power of two"):
        haar_matrix(4, 3)
