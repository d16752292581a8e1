"""The recipes in configs/: every one is read, and fine-tuning and the ablations run, on tiny random components."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from command import ok
from faitheir import FaithEIRPipeline
from faitheir.errors import ConfigError, ModelError
from faitheir.models import KNOWN_CONFIGS, embedded_models, find_model, load_model, parameter_table, read_config
from faitheir.nn.codec import FaithEIR
from faitheir.nn.embedder import LearnableTextEmbedding, NoCondition, PixelSemanticEmbedder
from faitheir.nn.priors import AdaptiveDetailPrior, GaussianMixturePrior, NormalPrior
from faitheir.training.checkpoints import checkpoints, load_checkpoint
from faitheir.training.config import TrainConfig, load_recipe, load_train_config
from faitheir.training.loop import train, train_stages
from faitheir.training.setup import initial_model
from recipes import Recipe, log_of, quiet
from weights import ALEXNET, save_torchvision

CONFIGS = Path(__file__).parents[1] / "configs"

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
#: Every recipe, and the stages or variants in it.
RECIPES: dict[str, list[str]] = {
    "nano-x16": ["joint", "texture", "restoration", "fidelity"],
    "nano-x32": ["joint", "texture", "restoration", "fidelity"],
    "nano-x16-codec": ["codec", "avif", "fidelity"],
    "nano-x32-codec": ["codec", "fidelity"],
    "finetune": [],
    "turbo-x16": [],
    "turbo-x32": [],
    "ablation": list(ROWS),
    "irn": ["irn-x16", "t-irn-x16"],
    "rivals": ["nano-x16-scratch", "sr-x16", "t-irn-x16", "irn-x16-zeros"],
}


def test_every_recipe_is_read() -> None:
    assert {path.stem for path in CONFIGS.glob("*.toml")} == set(RECIPES)
    for name, tables in RECIPES.items():
        for table in tables or [None]:
            config = load_train_config(CONFIGS / f"{name}.toml", only=table)
            known = KNOWN_CONFIGS.get(config.model.name)
            assert known is None or config.model == known
            assert config.model.name not in embedded_models()
            assert config.run.endswith(f"/{table or Path(config.run).name}")


@pytest.mark.parametrize("name", ["nano-x16", "nano-x32"])
def test_the_stages_of_a_nano_recipe_train_the_embedded_architecture(name: str) -> None:
    stages = load_recipe(CONFIGS / f"{name}.toml")
    for stage in stages:
        assert stage.model == replace(read_config(find_model(name)), name=f"my-{name}")
    assert [stage.stage for stage in stages] == ["joint", "joint", "joint", "fidelity"]
    assert [stage.init for stage in stages] == [None] * 4
    # One alone starts from what the stage before it left.
    alone = load_train_config(CONFIGS / f"{name}.toml", {"run": "runs/x"}, only="restoration")
    assert (alone.run, alone.init, alone.model.name) == ("runs/x/restoration", "runs/x/texture/model", "x")


def test_stages_of_one_file_follow_each_other(recipe: Recipe, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    more = """
[stages.vae]
stage = "vae"
val_every = 0
[stages.joint]
steps = 2
freeze = ["backbone.decoder"]
"""
    stages = load_recipe(recipe.write("run", more))
    assert [(stage.steps, Path(stage.run).name, stage.model.name) for stage in stages] == [
        (6, "vae", "tiny"),
        (2, "joint", "tiny"),
    ]
    assert train_stages(stages, log=quiet) == tmp_path / "run" / "joint" / "model"
    first, second = (load_model(tmp_path / "run" / name / "model")[0].state_dict() for name in ("vae", "joint"))
    changed = {name for name in first if not torch.equal(first[name], second[name])}
    assert changed
    assert not [name for name in changed if name.startswith("backbone.decoder")]


@pytest.mark.parametrize(
    ("more", "only", "message"),
    [
        ("[variants.a]\n[variants.b]\n", None, "choose one with --only: a, b"),
        ("[variants.a]\n", "c", "no stage or variant 'c' in this recipe; it has a"),
        ("", "c", "it is a single run"),
        ("[variants.a]\n[stages.b]\n", "a", "either stages or variants"),
        ("[stages]\na = 3\n", None, r"tables such as \[stages.first\]"),
        ("[stages.a]\nstepps = 3\n", None, r"run\.toml, a: unknown key 'stepps'; did you mean 'steps'"),
        ("[stages.a]\n[stages.b]\n", None, "this recipe has stages; choose one: a, b"),
    ],
)
def test_a_recipe_of_several_runs_that_is_wrong(recipe: Recipe, more: str, only: str | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_train_config(recipe.write("run", more), only=only)


@pytest.mark.parametrize("name", ["nano-x16", "nano-x32"])
def test_names_of_embedded_models_are_refused(recipe: Recipe, name: str) -> None:
    with pytest.raises(ConfigError, match=f"the name '{name}' belongs to a model in this package"):
        recipe("run", model__name=name)


def alexnet(path: Path) -> Path:
    """Random AlexNet convolutions in torchvision's format."""
    return save_torchvision(path, ALEXNET)


@pytest.mark.parametrize("init", ["nano-x16", "nano-x32"])
def test_fine_tuning_starts_exactly_at_the_embedded_model(photos: Path, tmp_path: Path, init: str) -> None:
    overrides = {"data.train": str(photos), "run": str(tmp_path / "mine"), "init": init, "data.crop": 256}
    config = load_train_config(CONFIGS / "finetune.toml", overrides)
    assert config.model == replace(read_config(find_model(init)), name="mine")
    started, shipped = initial_model(config, quiet).eval(), load_model(init)[0]
    x = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = shipped.downscale(x)
        assert torch.equal(started.downscale(x), y)
        for fidelity in (0.0, 1.0):
            assert torch.equal(started.upscale(y, fidelity=fidelity), shipped.upscale(y, fidelity=fidelity))


def test_the_fine_tuning_command(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is documented, with what torchvision fetches in the place where it keeps it."""
    torchvision = pytest.importorskip("torchvision")
    fetched = torch.load(alexnet(tmp_path / "alexnet.pth"), weights_only=True)
    weights = type(torchvision.models.AlexNet_Weights.IMAGENET1K_V1)
    monkeypatch.setattr(weights, "get_state_dict", lambda *_, **__: fetched)
    monkeypatch.chdir(tmp_path)
    small = ["steps=1", "batch=2", "data.crop=64", "data.workers=0", "precision=no", "tensorboard=false"]
    small += ["losses.lattice=0"]  # it needs larger crops
    settings = [part for setting in small for part in ("--set", setting)]
    recipe = CONFIGS / "finetune.toml"
    text = ok("train", recipe, "--set", f"data.train={photos}", "--set", "run=runs/mine", *settings)
    assert text.splitlines()[-1] == "runs/mine/model"
    pipeline = FaithEIRPipeline.from_pretrained(tmp_path / "runs" / "mine" / "model")
    assert pipeline.name == "mine"
    # What makes thumbnails is the embedded model's, and the rest has moved.
    a, b = pipeline.model.state_dict(), load_model("nano-x16")[0].state_dict()
    moved = {name for name in a if not torch.equal(a[name], b[name])}
    assert any(name.startswith("backbone.decoder") for name in moved)
    assert not [name for name in moved if name.startswith(("backbone.encoder", "rescaler"))]


def test_fine_tuning_without_a_network(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torchvision = pytest.importorskip("torchvision")

    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    weights = type(torchvision.models.AlexNet_Weights.IMAGENET1K_V1)
    monkeypatch.setattr(weights, "get_state_dict", unreachable)
    small = {"data.train": str(photos), "data.crop": 64, "data.workers": 0, "batch": 2, "precision": "no"}
    small |= {"run": str(tmp_path / "mine"), "steps": 1, "losses.lattice": 0.0}
    with pytest.raises(ModelError, match=r"'alexnet' could not be fetched by torchvision .*give the file") as caught:
        train(load_train_config(CONFIGS / "finetune.toml", small), dry_run=True, log=quiet)
    assert len(str(caught.value).splitlines()) == 1
    local = [{"network": "alexnet", "weights": str(alexnet(tmp_path / "alexnet.pth"))}]
    train(load_train_config(CONFIGS / "finetune.toml", small | {"losses.features": local}), dry_run=True, log=quiet)


def test_crops_that_the_backbone_cannot_take_are_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match="crop 480 is not a multiple of 64"):
        load_train_config(CONFIGS / "turbo-x16.toml", {"data.crop": 480})


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
    for name, (transform, prior, embedder, layer) in ROWS.items():
        config = load_train_config(CONFIGS / "ablation.toml", only=name)
        codec = config.model.codec
        assert (codec.transform, codec.prior, codec.embedder) == (transform, prior, embedder)
        if layer is not None:
            assert (config.losses.semantic, config.losses.teacher_layer) == (5.0, layer)
        else:
            assert config.losses.semantic == 0


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


def tiny(
    path: Path,
    run: Path,
    components: dict[str, Any],
    photos: Path,
    network: Path,
    *,
    only: str | None = None,
    **more: Any,
) -> TrainConfig:
    features = [{"network": "squeezenet", "weights": str(network)}]
    here = {"run": str(run), "data.train": str(photos), "data.val": str(photos), "losses.features": features}
    changes = components | here | {k.replace("__", "."): v for k, v in more.items()}
    return load_train_config(path, changes, only=only)


@pytest.mark.parametrize("row", ROWS)
def test_an_ablation_trains_what_it_should(
    row: str, components: dict[str, Any], photos: Path, network: Path, tmp_path: Path
) -> None:
    path, more = CONFIGS / "ablation.toml", {"steps": 1, "optimizer__lr": 1e-12, "val_every": 0}
    config = tiny(path, tmp_path / "run", components, photos, network, only=row)
    start = tiny(path, tmp_path / "start", components, photos, network, only=row, **more)
    before, after = (load_model(train(c, log=quiet), base=config.base)[0] for c in (start, config))

    lines = [line for line in log_of(Path(config.run)) if "loss" in line]
    assert len(lines) == 2
    assert all(torch.isfinite(torch.tensor(list(line.values()))).all() for line in lines)
    transform, prior, embedder, _ = ROWS[row]
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
    pipeline = FaithEIRPipeline.from_pretrained(Path(config.run) / "model", base=config.base)
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
    (checkpoint,) = checkpoints(tmp_path / "first")
    names = load_checkpoint(checkpoint)["model"].keys()
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
    assert config.name == "first"


def test_nano_stays_within_its_budget() -> None:
    for name in ("nano-x16", "nano-x32"):
        config = load_train_config(CONFIGS / f"{name}.toml", only="fidelity")
        assert sum(parameter_table(config.model).values()) <= 12_000_000
