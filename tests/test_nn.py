"""Quantisation, priors, embedders, the one-step formula, and the codec that is made of them."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from faitheir.errors import ConfigError
from faitheir.models import build_model
from faitheir.nn.codec import CodecConfig, FaithEIR
from faitheir.nn.denoiser import alpha_bar, one_step
from faitheir.nn.embedder import LearnableTextEmbedding, NoCondition, PixelSemanticEmbedder, make_embedder
from faitheir.nn.priors import AdaptiveDetailPrior, GaussianMixturePrior, NormalPrior, make_prior
from faitheir.nn.quantize import quantize_8bit, raw_to_unit, unit_to_raw
from faitheir.nn.reversible import haar_matrix
from tiny import model_config, nano_config, picture, tiny, wake

PRIORS = ["adp", "zeros", "random", "normal", "gmm"]
EMBEDDERS = ["pse", "lte", "none"]


# ----- quantisation


@given(st.lists(st.floats(-3, 4, width=32), min_size=1, max_size=50))
def test_quantised_values_are_the_nearest_multiples_of_1_255(values: list[float]) -> None:
    y = torch.tensor(values, dtype=torch.float32)
    q = quantize_8bit(y)
    steps = q.double() * 255
    assert (steps - steps.round()).abs().max() < 1e-4
    assert q.min() >= 0
    assert q.max() <= 1
    assert (q - y.clamp(0, 1)).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(quantize_8bit(q), q)
    as_bytes = (q * 255).round().to(torch.uint8)
    assert torch.equal(as_bytes.float() / 255, q)  # what a file keeps is what training saw


def test_every_8_bit_value_is_kept() -> None:
    y = torch.arange(256, dtype=torch.float32) / 255
    assert torch.equal(quantize_8bit(y), y)


def test_gradient_of_quantisation_passes_but_for_what_pushes_further_out() -> None:
    """What is outside of [0, 1] can be trained back in, and is not driven away, where nothing could call it back."""
    y = torch.linspace(-2, 3, 101, requires_grad=True)
    gradient = torch.randn(101)
    quantize_8bit(y).backward(gradient)
    assert y.grad is not None
    # A step goes against the gradient.
    outward = ((y < 0) & (gradient > 0)) | ((y > 1) & (gradient < 0))
    assert outward.any()
    assert torch.equal(y.grad, torch.where(outward, 0, gradient))


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_raw_channels_and_thumbnail_range(factor: int) -> None:
    raw = torch.randn(1, 3, 4, 4)
    torch.testing.assert_close(unit_to_raw(raw_to_unit(raw, factor), factor), raw, atol=1e-5, rtol=1e-5)
    ends = raw_to_unit(torch.tensor([-1.0, 0.0, 1.0]) * factor, factor)
    torch.testing.assert_close(ends, torch.tensor([0.0, 0.5, 1.0]))


# ----- priors


@pytest.mark.parametrize("kind", PRIORS)
@pytest.mark.parametrize("size", [(1, 1, 1), (2, 3, 5), (3, 8, 1)])
def test_prior_shape(kind: str, size: tuple[int, int, int]) -> None:
    values = make_prior(kind, 13)(*size)
    assert values.shape == (size[0], 13, *size[1:])
    assert values.isfinite().all()


@pytest.mark.parametrize("kind", PRIORS)
def test_which_priors_are_deterministic(kind: str) -> None:
    prior = make_prior(kind, 13)
    one, other = prior(2, 4, 4), prior(2, 4, 4)
    assert torch.equal(one, other) == (kind in {"adp", "zeros", "random"})
    if kind in {"normal", "gmm"}:
        assert not torch.equal(one[0], one[1])  # every image of a batch has a sample of its own
        assert not torch.equal(one[:, :, 0, 0], one[:, :, 1, 1])


@pytest.mark.parametrize(
    ("kind", "learned"),
    [
        ("adp", {"values"}),
        ("zeros", set()),
        ("random", set()),
        ("normal", set()),
        ("gmm", {"logits", "means", "log_scales"}),
    ],
)
def test_what_each_prior_learns(kind: str, learned: set[str]) -> None:
    torch.manual_seed(0)
    prior = make_prior(kind, 5)
    assert {name for name, p in prior.named_parameters() if p.requires_grad} == learned
    if learned:
        weights = torch.randn(4, 5, 8, 8)
        (prior(4, 8, 8).square() * weights + prior(4, 8, 8)).sum().backward()
        for name, parameter in prior.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all()
            assert (parameter.grad != 0).any(), name


def test_states_of_the_detail_prior() -> None:
    torch.manual_seed(0)
    assert not make_prior("adp", 500)(1, 2, 2).any()
    assert not make_prior("zeros", 500)(1, 2, 2).any()
    values = make_prior("random", 500)(1, 2, 2)
    assert values.abs().max() <= 1
    assert values.min() < -0.9
    assert values.max() > 0.9
    # a frozen prior is stored: else a saved "random" model would change when loaded
    assert set(make_prior("random", 5).state_dict()) == {"values"}


def test_detail_prior_is_one_value_per_channel_or_a_tiled_pattern() -> None:
    torch.manual_seed(0)
    flat = make_prior("random", 7)(2, 5, 6)
    assert torch.equal(flat, flat[:1, :, :1, :1].expand(2, 7, 5, 6))
    prior = make_prior("random", 7, pattern=3)
    tiled = prior(2, 8, 4)
    values = next(iter(prior.parameters()))
    assert values.shape == (1, 7, 3, 3)
    for i, j in itertools.product(range(8), range(4)):
        assert torch.equal(tiled[1, :, i, j], values[0, :, i % 3, j % 3])
    assert torch.equal(prior(1, 2, 1), tiled[:1, :, :2, :1])  # smaller than the pattern


def test_moments_of_the_sampled_priors() -> None:
    torch.manual_seed(0)
    sample = make_prior("normal", 4)(4, 64, 64)
    assert abs(float(sample.mean())) < 0.02
    assert float(sample.std()) == pytest.approx(1, abs=0.02)

    mixture = GaussianMixturePrior(1, 2)
    with torch.no_grad():
        mixture.logits.copy_(torch.tensor([math.log(3), 0.0]))
        mixture.means.copy_(torch.tensor([[2.0], [-2.0]]))
        mixture.log_scales.copy_(torch.tensor([[0.1], [0.5]]).log())
    sample = mixture(4, 64, 64).detach()
    assert float((sample > 0).float().mean()) == pytest.approx(0.75, abs=0.02)
    assert float(sample[sample > 0].std()) == pytest.approx(0.1, abs=0.01)
    assert float(sample[sample < 0].std()) == pytest.approx(0.5, abs=0.03)


# ----- embedders


def test_pse_is_one_token_per_pixel_row_by_row() -> None:
    torch.manual_seed(0)
    pse = make_embedder("pse", 11, hidden=(6, 7))
    assert [tuple(p.shape) for p in pse.parameters()] == [(6, 3), (6,), (7, 6), (7,), (11, 7), (11,)]
    y = picture(2, 3, 5)
    tokens, grid = pse(y)
    assert tokens.shape == (2, 15, 11)
    assert grid == (3, 5)
    for i, j in [(0, 0), (0, 4), (2, 1), (2, 4)]:
        alone, _ = pse(y[:, :, i : i + 1, j : j + 1])
        torch.testing.assert_close(tokens[:, i * 5 + j], alone[:, 0])
        changed = y.clone()
        changed[:, :, i, j] = 1 - changed[:, :, i, j]
        differs = (pse(changed).tokens - tokens).abs().amax((0, 2)) > 1e-6
        assert differs.nonzero().flatten().tolist() == [i * 5 + j]


def test_pse_is_linear_layers_with_relu_between() -> None:
    torch.manual_seed(0)
    pse = PixelSemanticEmbedder((4,), 5)
    first, second = pse.layers
    y = picture(1, 1)
    pixel = y.flatten() * 2 - 1
    wanted = second.weight @ (first.weight @ pixel + first.bias).relu() + second.bias
    torch.testing.assert_close(pse(y).tokens[0, 0], wanted)


def test_pse_of_the_paper_counts_658_thousand() -> None:
    assert sum(p.numel() for p in make_embedder("pse", 1024).parameters()) == 657_920


def test_lte_does_not_see_the_image() -> None:
    torch.manual_seed(0)
    lte = make_embedder("lte", 11, count=4)
    one, other = lte(picture(2, 3, 5)), lte(picture(2, 6, 2, seed=1))
    assert one.tokens.shape == (2, 4, 11)
    assert one.grid is None
    assert torch.equal(one.tokens, other.tokens)
    assert torch.equal(one.tokens[0], one.tokens[1])
    one.tokens.sum().backward()
    assert lte.tokens.grad.abs().min() > 0


def test_no_condition() -> None:
    none = make_embedder("none", 11)
    assert none(picture(3, 5)) is None
    assert not list(none.parameters())


# ----- the one-step formula


def test_alpha_bar_is_the_ddpm_schedule() -> None:
    betas = np.linspace(math.sqrt(0.00085), math.sqrt(0.012), 1000) ** 2
    bars = np.cumprod(1 - betas)
    for timestep in (0, 1, 250, 500, 999):
        assert alpha_bar(timestep) == pytest.approx(float(bars[timestep]), rel=1e-12)
    assert alpha_bar(999) == pytest.approx(0.00466, abs=5e-6)
    assert alpha_bar(0) == pytest.approx(1 - 0.00085)


@given(timestep=st.integers(0, 999), seed=st.integers(0, 1000))
def test_one_step_undoes_the_noising(timestep: int, seed: int) -> None:
    """z_T = sqrt(abar) z_0 + sqrt(1 - abar) eps, in NumPy; and v, as it is documented, says the same."""
    random = np.random.default_rng(seed)
    z_0, eps = random.standard_normal((2, 1, 4, 3, 3))
    abar = float(np.cumprod(1 - np.linspace(math.sqrt(0.00085), math.sqrt(0.012), 1000) ** 2)[timestep])
    z_t = np.sqrt(abar) * z_0 + np.sqrt(1 - abar) * eps
    v = (eps - np.sqrt(1 - abar) * z_t) / np.sqrt(abar)
    wanted = torch.tensor(z_0)
    as_eps = one_step(torch.tensor(z_t), torch.tensor(eps), abar, "epsilon")
    as_v = one_step(torch.tensor(z_t), torch.tensor(v), abar, "v_prediction")
    assert as_eps.dtype == as_v.dtype == torch.float32
    torch.testing.assert_close(as_eps.double(), wanted, atol=2e-4, rtol=1e-4)  # divides by 0.068 at T = 999
    torch.testing.assert_close(as_v.double(), wanted, atol=2e-5, rtol=1e-5)


def test_one_step_is_float32_in_and_under_half_precision() -> None:
    z_t, prediction = torch.randn(2, 1, 4, 2, 2).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        half = one_step(z_t, prediction, 0.3)
    assert half.dtype == torch.float32
    assert torch.equal(half, one_step(z_t.float(), prediction.float(), 0.3))


# ----- the codec: every row of the paper's tables 2 and 3 is one config away


def gradients(model: FaithEIR, part: str) -> dict[str, float]:
    found = {}
    for name, parameter in model.named_parameters():
        if name.startswith(part) and parameter.requires_grad:
            found[name] = 0.0 if parameter.grad is None else float(parameter.grad.abs().max())
    return found


@pytest.mark.parametrize("embedder", EMBEDDERS)
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("transform", ["lrt", "haar"])
def test_every_row_of_the_tables_trains(transform: str, prior: str, embedder: str) -> None:
    model = wake(tiny(transform=transform, prior=prior, embedder=embedder))
    x = picture(2, 48, 32)
    reconstruction = model(x)
    assert reconstruction.thumbnail.shape == (2, 3, 3, 2)
    assert reconstruction.picture.shape == x.shape
    loss = (reconstruction.picture - x).abs().mean() + (reconstruction.thumbnail - 0.5).square().mean()
    assert loss.isfinite()
    loss.backward()

    # the switch is there, and everything that should learn gets a gradient
    assert model.rescaler.transform.kind == transform
    skew = gradients(model, "rescaler.transform")
    assert skew.keys() == ({"rescaler.transform.skew"} if transform == "lrt" else set())
    kinds: dict[str, type] = {"normal": NormalPrior, "gmm": GaussianMixturePrior}
    assert type(model.prior) is kinds.get(prior, AdaptiveDetailPrior)
    learned = gradients(model, "prior")
    assert len(learned) == {"adp": 1, "gmm": 3}.get(prior, 0)
    embedders = {"pse": PixelSemanticEmbedder, "lte": LearnableTextEmbedding, "none": NoCondition}
    assert type(model.embedder) is embedders[embedder]
    assert (reconstruction.condition is None) == (embedder == "none")
    tokens = gradients(model, "embedder")
    assert bool(tokens) == (embedder != "none")
    every = gradients(model, "")
    unused = {name for name, value in every.items() if value == 0}
    if embedder == "none":
        assert all("attention" in name for name in unused)
    elif embedder == "lte":  # its tokens have no place, so that offsets do not count
        assert unused == {"backbone.unet.attention.bias"}
    else:
        assert not unused
    assert all(math.isfinite(value) for value in every.values())


@pytest.mark.parametrize(
    "codec",
    [
        {"orthogonality": "init"},
        {"lrt_init": "haar"},
        {"prior_pattern": 4},
        {"inv_blocks": 0},
        {"timestep": 0},
        {"gmm_components": 1, "prior": "gmm"},
        {"pse_hidden": ()},
        {"scale": 32},
    ],
)
def test_other_choices_train(codec: dict[str, Any]) -> None:
    model = wake(tiny(**codec))
    x = picture(1, 64, 32)
    loss = (model(x).picture - x).square().mean()
    loss.backward()
    assert loss.isfinite()
    assert all(math.isfinite(v) for v in gradients(model, "").values())


def test_other_choices_are_seen_in_the_model() -> None:
    assert not tiny().rescaler.transform.state_dict().keys() & {"free"}
    assert set(tiny(orthogonality="init").rescaler.transform.state_dict()) == {"free"}
    random, haar = tiny().rescaler.transform.matrix(), tiny(lrt_init="haar").rescaler.transform.matrix()
    assert not torch.equal(random, haar)
    assert torch.equal(haar, haar_matrix(4, 2))
    assert tiny(prior_pattern=4).prior.values.shape == (1, 13, 4, 4)
    assert tiny(prior="gmm", gmm_components=7).prior.means.shape == (7, 13)
    assert tiny(embedder="lte", lte_tokens=6).embedder.tokens.shape == (1, 6, 16)
    assert len(tiny(pse_hidden=(5, 6, 7)).embedder.layers) == 4
    assert len(tiny(inv_blocks=5).rescaler.blocks) == 5
    assert tiny(growth=9).rescaler.blocks[0].E.convs[0].out_channels == 9
    assert tiny(scale=32).factor == 4


def test_the_timestep_is_that_of_the_formula() -> None:
    """At step 0 there is next to no noise to take away: what is decoded is z_T itself."""
    model = wake(tiny(timestep=0)).eval()
    y = picture(2, 3)
    z_t = model.rescaler.inverse(unit_to_raw(y, 2), model.prior(1, 2, 3))
    prediction = model.backbone.predict(z_t, model.embedder(y))
    z_0 = (1 - 0.00085) ** 0.5 * z_t - 0.00085**0.5 * prediction
    torch.testing.assert_close(model.upscale(y), model.backbone.decode(z_0))


@settings(deadline=None, max_examples=25)
@given(
    scale=st.sampled_from([16, 32]),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    batch=st.integers(1, 2),
)
def test_shapes_of_16_and_32_times(scale: int, height: int, width: int, batch: int) -> None:
    model = wake(tiny(scale=scale)).eval().requires_grad_(False)
    assert model.size_multiple == scale
    assert model.rescaler.lost_channels == 4 * (scale // 8) ** 2 - 3
    x = picture(batch, height * scale, width * scale)
    y = model.downscale(x)
    assert y.shape == (batch, 3, height, width)
    assert torch.equal(y, quantize_8bit(y))
    back = model.upscale(y)
    assert back.shape == x.shape
    assert back.isfinite().all()


@pytest.mark.parametrize(("height", "width"), [(24, 32), (32, 17), (8, 8)])
def test_sides_that_do_not_divide_are_refused(height: int, width: int) -> None:
    """Padding is the pipeline's business: the codec never returns a thumbnail of another size in silence."""
    with pytest.raises(ConfigError, match=f"multiples of 16; one is {width} x {height} pixels"):
        tiny().downscale(picture(height, width))


def test_forward_is_downscale_then_upscale() -> None:
    model = wake(tiny()).eval()
    x = picture(2, 32, 48)
    y = model.downscale(x)
    reconstruction = model(x)
    assert torch.equal(reconstruction.thumbnail, y)
    assert torch.equal(reconstruction.picture, model.upscale(y))
    # upscaling sees the thumbnail, and nothing else of the picture
    assert torch.equal(model.upscale(y), model.upscale((y * 255).round().to(torch.uint8).float() / 255))


def test_upscaling_follows_the_paper_step_by_step() -> None:
    model = wake(tiny()).eval()
    y = model.downscale(picture(32, 48))
    raw = (2 * y - 1) * 2
    z_t = model.rescaler.inverse(raw, model.prior(1, 2, 3))
    prediction = model.backbone.predict(z_t, model.embedder(y))
    bar = alpha_bar(999)
    z_0 = bar**0.5 * z_t - (1 - bar) ** 0.5 * prediction
    torch.testing.assert_close(model.upscale(y), model.backbone.decode(z_0))


def test_a_model_with_everything_kept_is_reversible_in_the_latent() -> None:
    """The property of ``test_reversible``, through the codec's own parts: quantisation off, the lost kept."""
    model = wake(tiny(), std=0.02).eval()
    z = model.backbone.encode(picture(1, 64, 48))
    raw, lost = model.rescaler(z)
    back = model.rescaler.inverse(unit_to_raw(raw_to_unit(raw, model.factor), model.factor), lost)
    assert (back - z).abs().max() / z.abs().max() < 1e-4


def test_the_thumbnail_of_a_new_model_is_the_average_where_haar_starts_it() -> None:
    """``lrt_init="haar"`` starts with a thumbnail that looks like one: its colours averaged."""
    model = tiny(lrt_init="haar")
    x = picture(1, 64, 64)
    average = torch.nn.functional.avg_pool2d(x, 16)
    torch.testing.assert_close(model.project(x), average, atol=1e-5, rtol=0)


def test_half_precision_backbone_is_close() -> None:
    """Only the backbone is cast: what stands between VAE and thumbnail stays in float32."""
    model = wake(tiny()).eval().requires_grad_(False)
    x = picture(1, 64, 64)
    y = model.downscale(x)
    whole, thumbnail = model.upscale(y), model.project(x)
    model.backbone.to(torch.bfloat16)
    assert {p.dtype for p in model.rescaler.parameters()} == {torch.float32}
    assert model.project(x).dtype == torch.float32
    assert not torch.equal(model.upscale(y).float(), whole)  # it is computed in half precision indeed
    spread = float(whole.std())
    assert float((model.upscale(y).float() - whole).abs().mean()) < 0.02 * spread
    assert float((model.project(x) - thumbnail).abs().max()) < 0.02


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scale": 12}, "scale is 12"),
        ({"scale": 0}, "scale is 0"),
        ({"scale": -16}, "scale is -16"),
        ({"timestep": 1000}, "timestep is 1000"),
        ({"timestep": -1}, "timestep is -1"),
        ({"growth": 0}, "growth is 0"),
        ({"prior_pattern": 0}, "prior_pattern is 0"),
        ({"gmm_components": 0}, "gmm_components is 0"),
        ({"lte_tokens": 0}, "lte_tokens is 0"),
        ({"inv_blocks": -1}, "inv_blocks"),
        ({"pse_hidden": (0,)}, "pse_hidden"),
    ],
)
def test_values_out_of_range(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        CodecConfig(**changes)


def test_a_scale_that_the_backbone_cannot_do() -> None:
    for scale in (4, 8):
        with pytest.raises(ConfigError, match=f"scale is {scale}; this backbone needs at least 16"):
            build_model(model_config(scale=scale))


def test_gradients_reach_the_encoder_through_the_rounding() -> None:
    model = wake(tiny())
    x: Tensor = picture(32, 32).requires_grad_()
    model.downscale(x).sum().backward()
    assert x.grad is not None
    assert (x.grad != 0).float().mean() > 0.5
    assert nano_config().latent_channels == model.backbone.latent_channels
