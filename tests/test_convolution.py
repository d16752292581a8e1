"""Winograd's algorithm is the convolution; the layer takes it where it may."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from faitheir import FaithEIRPipeline
from faitheir.nn import convolution
from faitheir.nn.convolution import Conv3x3, winograd_conv3x3
from tiny import picture

SIDES = st.integers(1, 9) | st.integers(60, 72) | st.just(131)


@settings(deadline=None, max_examples=60)
@given(
    batch=st.integers(1, 2),
    channels=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(SIDES, SIDES),
    silu=st.booleans(),
    bias=st.booleans(),
    plus=st.booleans(),
    channels_last=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_winograd_is_the_convolution(
    batch: int,
    channels: tuple[int, int],
    size: tuple[int, int],
    silu: bool,
    bias: bool,
    plus: bool,
    channels_last: bool,
    seed: int,
) -> None:
    """In float64 to the last digits, whatever the sides' remainders and however many strips."""
    generator = torch.Generator().manual_seed(seed)
    layout = torch.channels_last if channels_last else torch.contiguous_format

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs, outputs = channels
    x = normal(batch, inputs, *size).contiguous(memory_format=layout)
    weight = normal(outputs, inputs, 3, 3).contiguous(memory_format=layout)
    b = normal(outputs) if bias else None
    more = normal(batch, outputs, *size).contiguous(memory_format=layout) if plus else None
    given = [t.clone() for t in (x, weight)]
    expected = F.conv2d(F.silu(x) if silu else x, weight, b, padding=1) + (0 if more is None else more)
    found = winograd_conv3x3(x, weight, b, silu=silu, plus=more)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-10
    assert all(torch.equal(a, b) for a, b in zip(given, (x, weight), strict=True))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """The shapes that the algorithm was given."""
    shapes = []

    def recorded(x: Tensor, *args: Tensor, **kwargs: Tensor | None) -> Tensor:
        shapes.append(x.shape)
        return winograd_conv3x3(x, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(convolution, "winograd_conv3x3", recorded)
    return shapes


def test_the_layer_is_a_convolution_with_and_without_gradient(calls: list[torch.Size]) -> None:
    torch.manual_seed(0)
    layer, x = Conv3x3(64, 72), torch.randn(2, 64, 40, 33)
    plus = torch.randn(2, 72, 40, 33)
    kept = plus.clone()
    assert set(layer.state_dict()) == {"weight", "bias"}
    for silu in (False, True):
        for more in (None, plus):
            expected = F.conv2d(F.silu(x) if silu else x, layer.weight, layer.bias, padding=1)
            expected = expected if more is None else expected + more
            trained = layer(x, silu=silu, plus=more)
            assert torch.equal(trained, expected)
            assert trained.requires_grad
            assert not calls
            with torch.no_grad():
                fast = layer(x, silu=silu, plus=more)
            assert calls.pop() == x.shape
            assert (fast - expected).abs().max() < 1e-4
    assert torch.equal(plus, kept)


@pytest.mark.parametrize("what", ["few channels", "few positions", "half precision", "autocast", "shapes only"])
def test_where_it_does_not_help_torch_convolves(what: str, calls: list[torch.Size]) -> None:
    dtype = torch.bfloat16 if what == "half precision" else torch.float32
    device = "meta" if what == "shapes only" else "cpu"
    layer = Conv3x3(64, 8 if what == "few channels" else 64).to(device, dtype)
    x = torch.zeros(1, 64, *((8, 8) if what == "few positions" else (40, 40)), dtype=dtype, device=device)
    with torch.no_grad(), torch.autocast("cpu", enabled=what == "autocast"):
        y = layer(x)
    assert y.shape == (1, layer.out_channels, *x.shape[2:])
    assert not calls


def test_the_embedded_model_restores_alike_either_way(calls: list[torch.Size], monkeypatch: pytest.MonkeyPatch) -> None:
    model = FaithEIRPipeline.from_pretrained("nano-x16").model
    with torch.inference_mode():
        x = picture(1, 256, 320).contiguous(memory_format=torch.channels_last)
        y = model.downscale(x)
        fast = model.upscale(y)
        assert calls
        monkeypatch.setattr(convolution, "LEAST_POSITIONS", 10**9)
        calls.clear()
        plain = model.upscale(y)
        assert not calls
    assert (fast - plain).abs().max() < 0.1 / 255
