"""The recipes in configs/: every one is read, and every ablation is trained, on tiny random components."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from faitheir import FaithEIRPipeline
from faitheir.backbones.nano import NanoConfig
from faitheir.models import KNOWN_CONFIGS, load_model, parameter_table
from faitheir.nn.codec import FaithEIR
from faitheir.nn.embedder import LearnableTextEmbedding, NoCondition, PixelSemanticEmbedder
from faitheir.nn.priors import AdaptiveDetailPrior, GaussianMixturePrior, NormalPrior
from faitheir.training.config import TrainConfig, load_train_config
from faitheir.training.loop import train
from recipes import log_of, quiet

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = sorted(CONFIGS.rglob("*.toml"))
ABLATIONS = sorted((CONFIGS / "ablation").glob("*.toml"))
NANO_ABLATIONS = sorted((CONFIGS / "ablation-nano").glob("*.toml"))

#: Paper, Table 2 (and 3): transform, prior, embedder, layer of the teacher.
ROWS = {
    "e1": ("haar", "normal", "lte", None),
    "e2": ("haar", "gmm", "lte", None),
    "e3": ("haar", "adp", "lte", None),
    "e4": ("lrt", "gmm", "lte", None),
    "e5": ("lrt", "adp", "lte", None),
    "e6": ("lrt", "adp", "none", None),
    "e7": ("lrt", "adp", "pse", 4),
    "e8": ("lrt", "adp", "pse", 16),
    "e9": ("lrt", "adp", "pse", 23),
    "adp-zeros": ("lrt", "zeros", "lte", None),
    "adp-random": ("lrt", "random", "lte", None),
    "adp-learned": ("lrt", "adp", "lte", None),
}
#: What an ablation on nano changes of the whole method: a setting of the codec.
NANO_CHANGES: dict[str, tuple[str, str] | None] = {
    "full": None,
    "haar": ("transform", "haar"),
    "prior-zeros": ("prior", "zeros"),
    "prior-random": ("prior", "random"),
    "prior-normal": ("prior", "normal"),
    "prior-gmm": ("prior", "gmm"),
    "lte": ("embedder", "lte"),
    "no-tokens": ("embedder", "none"),
    "seed-2": None,
}


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_every_recipe_is_read(path: Path) -> None:
    config = load_train_config(path)
    known = KNOWN_CONFIGS.get(config.model.name)
    if known is not None and "stages" not in path.parts:
        model = config.model
        if isinstance(model.backbone, NanoConfig) and isinstance(known.backbone, NanoConfig):
            # Stages that came before grain, the fidelity setting and the shorter way up did.
            codec = replace(model.codec, fidelity_rank=known.codec.fidelity_rank)
            later = ("grain", "unet_blocks", "decoder_widths", "decoder_blocks", "decoder_up_kernel")
            changes: dict[str, Any] = {name: getattr(known.backbone, name) for name in later}
            model = replace(model, codec=codec, backbone=replace(model.backbone, **changes))
        assert model == known


@pytest.mark.parametrize("name", ["nano-x16", "nano-x32"])
def test_the_last_stage_of_an_embedded_model_makes_that_model(name: str) -> None:
    last = load_train_config(CONFIGS / f"{name}-fidelity.toml")
    assert last.model == KNOWN_CONFIGS[name]
    assert last.stage == "fidelity"


@pytest.mark.parametrize("scale", [16, 32])
def test_the_papers_recipe(scale: int) -> None:
    config = load_train_config(CONFIGS / f"turbo-x{scale}.toml")
    assert (config.data.crop, config.batch, config.steps) == (512, 8, 300_000)
    assert (config.optimizer.kind, config.optimizer.betas) == ("adamw", (0.9, 0.999))
    assert (config.optimizer.schedule, config.optimizer.halve_every) == ("halve", 100_000)
    losses = config.losses
    assert (losses.guidance, losses.semantic, losses.pixel, losses.feature) == (2.0, 5.0, 3.0, 3.0)
    assert (losses.teacher, losses.teacher_layer, losses.features[0].network) == ("dinov2", 23, "vgg16")
    assert config.model == KNOWN_CONFIGS[f"turbo-x{scale}"]
    assert config.adversarial.weight == 0


def test_the_ablations_are_those_of_the_paper() -> None:
    assert {path.stem for path in ABLATIONS} == set(ROWS)
    for path in ABLATIONS:
        config = load_train_config(path)
        transform, prior, embedder, layer = ROWS[path.stem]
        assert (config.model.codec.transform, config.model.codec.prior, config.model.codec.embedder) == (
            transform,
            prior,
            embedder,
        )
        if layer is not None:
            assert (config.losses.semantic, config.losses.teacher_layer) == (5.0, layer)
        assert len(path.read_text().splitlines()) < 20


@pytest.fixture(scope="module")
def components(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Overrides that put tiny random networks of the real kinds in the place of SD-Turbo and DINOv2-L."""
    transformers = pytest.importorskip("transformers")
    diffusers = pytest.importorskip("diffusers")
    from test_turbo import UNET, VAE

    folder = tmp_path_factory.mktemp("components")
    torch.manual_seed(0)
    diffusers.AutoencoderKL(**VAE).save_pretrained(folder / "base" / "vae")
    diffusers.UNet2DConditionModel(**UNET).save_pretrained(folder / "base" / "unet")
    # As many hidden layers as the paper's teacher has, since the ablation names the 23rd.
    teacher = transformers.Dinov2Config(
        hidden_size=16, num_hidden_layers=24, num_attention_heads=2, patch_size=14, image_size=56, mlp_ratio=1
    )
    transformers.Dinov2Model(teacher).save_pretrained(folder / "dinov2")
    return {
        "base": str(folder / "base"),
        "model.backbone": {"kind": "turbo", "vae": VAE, "unet": UNET, "vae_lora_rank": 2, "unet_lora_rank": 3},
        "model.codec.growth": 4,
        "model.codec.pse_hidden": [8],
        "model.codec.lte_tokens": 3,
        "losses.teacher_weights": str(folder / "dinov2"),
        "data.crop": 32,
        "data.workers": 0,
        "batch": 2,
        "steps": 2,
        "log_every": 1,
        "save_every": 2,
        "val_every": 2,
        "val_count": 1,
        "precision": "no",
        "tensorboard": False,
        "optimizer.lr": 1e-2,
    }


def tiny(path: Path, run: Path, components: dict[str, Any], photos: Path, network: Path, **more: Any) -> TrainConfig:
    features = [{"network": "squeezenet", "weights": str(network)}]
    here = {"run": str(run), "data.train": str(photos), "data.val": str(photos), "losses.features": features}
    return load_train_config(path, components | here | {k.replace("__", "."): v for k, v in more.items()})


@pytest.mark.parametrize("path", ABLATIONS, ids=lambda p: p.stem)
def test_an_ablation_trains_what_it_should(
    path: Path, components: dict[str, Any], photos: Path, network: Path, tmp_path: Path
) -> None:
    config = tiny(path, tmp_path / "run", components, photos, network)
    start = tiny(path, tmp_path / "start", components, photos, network, steps=1, optimizer__lr=1e-12, val_every=0)
    before, after = (load_model(train(c, log=quiet), base=config.base)[0] for c in (start, config))

    lines = [line for line in log_of(tmp_path / "run") if "loss" in line]
    assert len(lines) == 2
    assert all(torch.isfinite(torch.tensor(list(line.values()))).all() for line in lines)
    transform, prior, embedder, _ = ROWS[path.stem]
    assert ("semantic" in lines[0]) is (embedder == "pse")

    check_switches(after, transform, prior, embedder)

    # What is trained changes from the start, what is frozen does not.
    changed, same = changes(before, after)
    assert any(".lora_" in name for name in changed)
    assert not [name for name in changed if name.startswith("backbone.") and ".lora_" not in name]
    assert not [name for name in changed if name.startswith("backbone.vae.decoder")]
    assert any(name.startswith("rescaler.blocks") for name in changed)
    assert ("rescaler.transform.skew" in changed) is (transform == "lrt")
    assert any(name.startswith("prior.") for name in changed) is (prior in ("adp", "gmm"))
    assert any(name.startswith("embedder.") for name in changed) is (embedder != "none")
    assert [name for name in same if name.startswith("backbone.vae.decoder")]

    # And it does what it is for, from the file.
    pipeline = FaithEIRPipeline.from_pretrained(tmp_path / "run" / "model", base=config.base)
    thumbnail = pipeline.downscale(photos / "0.png")
    assert pipeline.upscale(thumbnail).size == (120, 80)


def check_switches(model: FaithEIR, transform: str, prior: str, embedder: str) -> None:
    """The switch is seen in the model that came out."""
    assert ("rescaler.transform.skew" in model.state_dict()) is (transform == "lrt")
    kinds = {"adp": AdaptiveDetailPrior, "zeros": AdaptiveDetailPrior, "random": AdaptiveDetailPrior}
    assert type(model.prior) is (kinds | {"normal": NormalPrior, "gmm": GaussianMixturePrior})[prior]
    embedders = {"pse": PixelSemanticEmbedder, "lte": LearnableTextEmbedding, "none": NoCondition}
    assert type(model.embedder) is embedders[embedder]
    if prior in ("zeros", "random"):
        values = dict(model.prior.named_parameters())["values"]
        assert bool(values.any()) is (prior == "random")


def test_the_ablations_on_nano_change_one_thing_each() -> None:
    assert {path.stem for path in NANO_ABLATIONS} == set(NANO_CHANGES)
    full = load_train_config(CONFIGS / "ablation-nano" / "full.toml")
    for path in NANO_ABLATIONS:
        config = load_train_config(path)
        model = replace(full.model, name=path.stem)
        if change := NANO_CHANGES[path.stem]:
            model = replace(model, codec=replace(model.codec, **dict([change])))
        # Only tokens that come from the thumbnail can be aligned with anything.
        semantic = full.losses.semantic if model.codec.embedder == "pse" else 0.0
        wanted = replace(full, run=config.run, model=model, losses=replace(full.losses, semantic=semantic))
        assert config == replace(wanted, seed=2 if path.stem == "seed-2" else full.seed)


@pytest.mark.parametrize("path", NANO_ABLATIONS, ids=lambda p: p.stem)
def test_an_ablation_on_nano_trains(path: Path, photos: Path, network: Path, tmp_path: Path) -> None:
    small: dict[str, Any] = {
        "model.backbone.encoder_widths": [8, 8],
        "model.backbone.unet_widths": [8, 16],
        "model.backbone.unet_blocks": [0, 1],
        "model.backbone.decoder_widths": [8, 8, 8],
        "model.backbone.heads": 1,
        "model.codec.growth": 4,
        "losses.teacher_weights": str(network),
        "data.crop": 64,
        "data.workers": 0,
        "batch": 2,
        "steps": 2,
        "log_every": 1,
        "precision": "no",
        "tensorboard": False,
    }
    config = tiny(path, tmp_path / "run", small, photos, network)
    model = load_model(train(config, log=quiet))[0]
    lines = log_of(tmp_path / "run")
    assert len(lines) == 2
    assert all(torch.isfinite(torch.tensor(list(line.values()))).all() for line in lines)
    codec = config.model.codec
    check_switches(model, codec.transform, codec.prior, codec.embedder)
    assert ("semantic" in lines[0]) is (codec.embedder == "pse")


def changes(before: FaithEIR, after: FaithEIR) -> tuple[list[str], list[str]]:
    a, b = before.state_dict(), after.state_dict()
    assert a.keys() == b.keys()
    changed = [name for name in a if not torch.allclose(a[name], b[name], rtol=0, atol=1e-7)]
    return changed, [name for name in a if name not in changed]


def test_turbo_is_trained_saved_trained_on_merged_and_used(
    components: dict[str, Any], photos: Path, network: Path, tmp_path: Path
) -> None:
    path = CONFIGS / "turbo-x16.toml"
    first = train(tiny(path, tmp_path / "first", components, photos, network), log=quiet)
    base = components["base"]
    (saved,) = (tmp_path / "first").glob("checkpoint-*/state/model.safetensors")
    names = load_file(saved).keys()
    assert any(".lora_" in name for name in names)
    assert not any("backbone" in name and ".lora_" not in name for name in names), "the frozen base is stored"
    x = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    model, config = load_model(first, base=base)
    with torch.no_grad():
        y = model.downscale(x)
        picture = model.upscale(y)
        again = load_model(first, base=base)[0]
        torch.testing.assert_close(again.downscale(x), y, rtol=0, atol=0)
        torch.testing.assert_close(again.upscale(y), picture, rtol=0, atol=0)
    pipeline = FaithEIRPipeline.from_pretrained(first, base=base)  # its LoRA is merged
    pipeline.save_pretrained(tmp_path / "again")
    with torch.no_grad():
        merged = pipeline.model.upscale(y)
        torch.testing.assert_close(merged, picture, rtol=1e-3, atol=1e-3)
        saved = load_model(tmp_path / "again", base=base)[0]
        torch.testing.assert_close(saved.upscale(y), picture, rtol=0, atol=0)
    second = train(
        tiny(path, tmp_path / "second", components, photos, network, init=str(tmp_path / "again")), log=quiet
    )
    changed, _ = changes(model, load_model(second, base=base)[0])
    assert any(".lora_" in name for name in changed)
    assert config.name == "turbo-x16"


def test_nano_stays_within_its_budget() -> None:
    for name in ("nano-x16", "nano-x32"):
        config = load_train_config(CONFIGS / f"{name}.toml")
        assert sum(parameter_table(config.model).values()) <= 12_000_000
