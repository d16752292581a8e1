"""The configuration of a training run, read from TOML."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from faitheir.config import from_dict, to_dict
from faitheir.errors import ConfigError
from faitheir.features import FeatureName
from faitheir.models import ModelConfig, check_name, find_model, read_config
from faitheir.training.teachers import TeacherName

#: The side of the windows in which the loss ``regularity`` looks at texture, in pixels.
REGULARITY_WINDOW = 64


@dataclass(frozen=True)
class DataConfig:
    """Where photographs come from and how crops are taken.

    ``train``: a folder, searched recursively for pictures and for WebDataset shards (.tar), or a pattern of shards such
    as "shards/lsdir-*.tar"; ``val``: a folder of pictures. Relative to the working directory. ``crop``: side in pixels.
    ``shrink``: probability of reducing a photograph by a random factor, down to ``shrink_min``, before the crop.
    ``draft``: decode JPEGs at half size or less where the factor allows. ``workers``: loader processes.
    ``cache``: keep decoded photographs in memory, in each worker. ``repeat``: how often photographs whose file name
    fits a pattern are seen in each pass, such as {"large_*" = 6}; others once.
    """

    train: str
    val: str | None = None
    crop: int = 256
    shrink: float = 0.5
    shrink_min: float = 0.4
    draft: bool = True
    workers: int = 1
    cache: bool = False
    repeat: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        if any(type(times) is not int or times < 1 for times in self.repeat.values()):
            raise ConfigError("repeat wants whole numbers from 1 up, for patterns of file names.")
        if self.crop < 1 or self.workers < 0:
            raise ConfigError("crop must be at least 1 and workers at least 0.")
        if not (0 <= self.shrink <= 1 and 0 < self.shrink_min <= 1):
            raise ConfigError("shrink must be in 0..1 and shrink_min in (0, 1].")


@dataclass(frozen=True)
class FeatureLossConfig:
    """One feature network of the feature loss: its local weights and its share.

    ``network``: features of "alexnet", "efficientnet_lite0", "squeezenet", "taesana" or "vgg16" (see
    ``feature_distance``), or LPIPS with its learned weights, "lpips_alex" or "lpips_vgg" (``weights`` are then the
    trunk's).
    """

    network: FeatureName | Literal["lpips_alex", "lpips_vgg"] = "vgg16"
    weights: str | None = None
    share: float = 1.0


@dataclass(frozen=True)
class LossConfig:
    """Weights of the paper's four terms (eq. 7 to 10) and of ours, their norms, and the networks behind them.

    ``guidance``, ``semantic``, ``pixel``, ``feature``: the paper's lambda 1 to 4; a term of weight 0 is not computed.
    ``texture``: ours, distance of the features' local statistics (``wasserstein_distance``), of the same networks as
    ``feature``. ``rate``: ours, bits per thumbnail pixel of lossy files (``faitheir.training.lossy``).
    ``compression``: SAIN's, squared error of the stored thumbnail as ``CodecConfig.compression_blocks`` predict it.
    ``storage``, ``lattice``, ``regularity``: ours, see ``storage_cost``, ``lattice_excess`` and ``regularity_excess``
    in ``faitheir.training.losses``.
    ``distribution``: IRN's third (Xiao et al. 2020), mean square of what is lost, which makes it like a normal sample.
    ``guidance_norm``, ``pixel_norm``: "l1" or "l2" (mean). ``semantic_distance``: "cosine" (1 - cos), "l1" or "l2".
    ``feature_shift``: features are taken at a new random offset of up to this many pixels each step: at a fixed one,
    networks with strides do not see patterns that repeat in step with them.
    ``teacher``, ``teacher_weights``, ``teacher_layer``: see ``faitheir.features.load_teacher``.
    """

    guidance: float = 2.0
    semantic: float = 5.0
    pixel: float = 3.0
    feature: float = 3.0
    texture: float = 0.0
    rate: float = 0.0
    compression: float = 0.0
    storage: float = 0.0
    lattice: float = 0.0
    regularity: float = 0.0
    distribution: float = 0.0
    guidance_norm: Literal["l1", "l2"] = "l1"
    pixel_norm: Literal["l1", "l2"] = "l1"
    semantic_distance: Literal["cosine", "l1", "l2"] = "cosine"
    feature_shift: int = 15
    teacher: TeacherName = "dinov2"
    teacher_weights: str | None = None
    teacher_layer: int = 23
    features: tuple[FeatureLossConfig, ...] = (FeatureLossConfig(),)

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        terms = (self.guidance, self.semantic, self.pixel, self.feature)
        ours = (
            self.texture,
            self.rate,
            self.compression,
            self.storage,
            self.lattice,
            self.regularity,
            self.distribution,
        )
        if min(*terms, *ours, self.feature_shift) < 0:
            raise ConfigError("the weights of the losses and feature_shift must not be negative.")


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its schedule.

    ``kind``: "adamw", "adamw8bit" (bitsandbytes, where that is installed) or "muon" (see ``MuonAdamW`` in
    ``faitheir.training.optimizers``). ``fused``: torch's fused AdamW; by default on a GPU only.
    ``schedule``: "halve" (every ``halve_every`` steps, the paper's), "cosine" (to 1 % of ``lr`` at the last step) or
    "constant"; after ``warmup`` linear steps. ``clip``: largest gradient norm. ``accumulate``: passes that a
    step's batch is cut into, for memory.
    """

    kind: Literal["adamw", "adamw8bit", "muon"] = "adamw"
    fused: bool | None = None
    lr: float = 5e-5
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    schedule: Literal["halve", "cosine", "constant"] = "halve"
    halve_every: int = 100_000
    warmup: int = 0
    clip: float = 1.0
    accumulate: int = 1

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        if self.lr <= 0 or self.clip <= 0 or self.halve_every < 1 or self.accumulate < 1 or self.warmup < 0:
            raise ConfigError("lr and clip must be positive, halve_every and accumulate at least 1, warmup at least 0.")


@dataclass(frozen=True)
class LossyFormat:
    """One way in which training stores thumbnails: ``share`` of them, relative to the other formats' shares.

    ``quality``: lowest and highest, 1 to 100 as Pillow counts it, of which one is drawn for each thumbnail; of no
    account where the format is "lossless".
    """

    format: Literal["lossless", "webp", "jpeg", "avif"]
    share: float = 1.0
    quality: tuple[int, int] = (75, 95)

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        if self.share < 0:
            raise ConfigError("share must not be negative.")
        if not 1 <= self.quality[0] <= self.quality[1] <= 100:
            raise ConfigError("quality must be two whole numbers from 1 to 100, the lower first.")


@dataclass(frozen=True)
class LossyConfig:
    """The codec in the loop (ours): how thumbnails are stored in training before they are restored.

    ``formats``: drawn for each thumbnail, by their shares; none: thumbnails stay as they are. ``foreign``: probability
    that a thumbnail is replaced by one that another program's filter made.
    """

    formats: tuple[LossyFormat, ...] = ()
    foreign: float = 0.0

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        if not 0 <= self.foreign <= 1:
            raise ConfigError("foreign must be in 0..1.")
        if self.formats and not sum(f.share for f in self.formats):
            raise ConfigError("one of the formats must have a share.")
        if self.foreign and not self.formats:
            raise ConfigError('foreign thumbnails need formats to be stored in, at least "lossless".')


@dataclass(frozen=True)
class DiscriminatorConfig:
    """One discriminator: "patch" looks at pixels, "features" at a frozen feature network's features.

    ``share``: of the adversarial term. ``width``: channels of its first layer (patch) or of each head (features).
    ``layers``: strided convolutions (patch). ``network``, ``weights``: the feature network and its local file.
    """

    kind: Literal["patch", "features"] = "patch"
    share: float = 1.0
    width: int = 64
    layers: int = 3
    network: FeatureName = "vgg16"
    weights: str | None = None

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        if self.share <= 0 or min(self.width, self.layers) < 1:
            raise ConfigError("share must be positive, width and layers at least 1.")


def _discriminator_optimizer() -> OptimizerConfig:
    return OptimizerConfig(lr=1e-4, betas=(0.5, 0.9), weight_decay=0.0, schedule="constant")


@dataclass(frozen=True)
class AdversarialConfig:
    """The adversarial stage (ours, not the paper's): hinge loss with discriminators that are trained beside the model.

    ``weight``: of the model's term, 0 for none. ``start``: the step from which the model's term counts; the
    discriminators learn from the first. ``optimizer``: the discriminators' own, with its schedule.
    """

    weight: float = 0.0
    start: int = 0
    discriminators: tuple[DiscriminatorConfig, ...] = (DiscriminatorConfig(),)
    optimizer: OptimizerConfig = field(default_factory=_discriminator_optimizer)

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        if self.weight < 0 or self.start < 0:
            raise ConfigError("weight and start must not be negative.")
        if not self.discriminators:
            raise ConfigError("the adversarial stage needs a discriminator; weight 0 turns it off.")
        if self.optimizer.accumulate != 1:
            raise ConfigError("accumulate belongs to the model's optimizer; the discriminators follow it.")


@dataclass(frozen=True)
class TrainConfig:
    """A whole run.

    ``model``: what is trained; its name must not be that of a model inside this package. ``run``: the folder it
    writes. ``init``: a saved model to start from (a folder or a name), converted where its configuration is another;
    else random. ``base``: a local folder of SD-Turbo's weights, for turbo.
    ``stage``: "joint", everything; "vae", the encoder and decoder alone; or "fidelity", the fidelity setting's offsets
    alone, restoring at fidelity 1. ``freeze``: parts that are not trained, by the beginning of their names, such as
    "backbone.decoder".
    ``steps``, ``seed``. ``batch``: crops per step, shared by all processes and accumulated passes.
    ``precision``: "no", "bf16", "fp16" or "auto" (bf16 where the processor or GPU multiplies in it, else fp16 on a GPU
    and none on a processor).
    ``activation_checkpointing``: recompute activations in the backward pass, for memory.
    ``ema``: decay of the averaged weights that are saved and validated, 0 for none.
    ``log_every``, ``val_every`` (0: never), ``save_every``: in steps. ``keep``: checkpoints kept.
    ``val_count``: photographs of ``data.val`` used, spread over the folder. ``best``: the validation figure by which
    the best model is kept: "psnr", "ssim" or "distance" (perceptual, by the first feature network of the losses).
    ``tensorboard``: write scalars and validation pictures for TensorBoard, where it is installed.
    """

    model: ModelConfig
    data: DataConfig
    losses: LossConfig = field(default_factory=LossConfig)
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    lossy: LossyConfig = field(default_factory=LossyConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: str = "runs/train"
    init: str | None = None
    base: str | None = None
    stage: Literal["joint", "vae", "fidelity"] = "joint"
    freeze: tuple[str, ...] = ()
    steps: int = 300_000
    batch: int = 8
    seed: int = 0
    precision: Literal["no", "bf16", "fp16", "auto"] = "auto"
    activation_checkpointing: bool = False
    ema: float = 0.999
    log_every: int = 50
    val_every: int = 1000
    val_count: int = 8
    save_every: int = 500
    keep: int = 2
    best: Literal["psnr", "ssim", "distance"] = "psnr"
    tensorboard: bool = True

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        if min(self.steps, self.batch, self.log_every, self.save_every, self.keep, self.val_count) < 1:
            raise ConfigError("steps, batch, log_every, save_every, keep and val_count must be at least 1.")
        if not 0 <= self.ema < 1 or self.val_every < 0:
            raise ConfigError("ema must be in [0, 1) and val_every not negative.")
        check_name(self.model.name)
        if self.stage == "fidelity" and not self.model.codec.fidelity_rank:
            raise ConfigError("stage 'fidelity' trains what this model has not; set model.codec.fidelity_rank.")
        if self.data.crop % (multiple := self.model.size_multiple):
            raise ConfigError(f"crop {self.data.crop} is not a multiple of {multiple}, which this model needs.")
        if self.losses.lattice and self.data.crop < 8 * self.model.codec.scale and self.stage != "vae":
            raise ConfigError(
                f"losses.lattice needs crops of at least 8 cells, {8 * self.model.codec.scale} pixels; "
                f"crop is {self.data.crop}."
            )
        if self.losses.regularity and self.data.crop < REGULARITY_WINDOW:
            raise ConfigError(
                f"losses.regularity needs crops of at least {REGULARITY_WINDOW} pixels; crop is {self.data.crop}."
            )
        if self.best == "distance" and not self.losses.features:
            raise ConfigError("best 'distance' needs a feature network in losses.features.")


def load_train_config(
    path: str | Path, overrides: Mapping[str, Any] | None = None, *, only: str | None = None
) -> TrainConfig:
    """The one run that a recipe describes, or of several the one named ``only``; see ``load_recipe``."""
    runs = load_recipe(path, overrides, only=only)
    if len(runs) > 1:
        raise ConfigError(f"{path}: this recipe has stages; choose one: {', '.join(Path(r.run).name for r in runs)}.")
    return runs[0]


def load_recipe(
    path: str | Path, overrides: Mapping[str, Any] | None = None, *, only: str | None = None
) -> list[TrainConfig]:
    """The runs that a TOML file describes, in order; also that of a run's config.json.

    A file may begin with ``extends = "other.toml"``, relative to itself: its settings are laid over that file's, table
    by table. ``overrides`` maps dotted keys to values, such as ``{"data.crop": 128}``.

    A file without a table ``[stages]`` or ``[variants]`` is one run. The tables ``[stages.NAME]`` are runs that follow
    each other, the first from the file's ``init`` and each other from the model that the one before left. The tables
    ``[variants.NAME]`` are runs to choose from: ``only`` says which; of stages it chooses one, too. The settings in
    these tables are laid over the file's; overrides are laid over both, except that ``run`` and ``init`` are the
    file's. The run of each is RUN/NAME.

    Where ``[model]`` gives no name, the model is called like the variant, or else like the run's folder. A file that
    names an ``init`` and has no ``[model]`` trains that model's architecture.

    Raises ConfigError for a missing or malformed file, an unknown key or a value out of range, ModelError where
    ``init`` has no configuration to be read.
    """
    overrides = dict(overrides or {})
    values = _read_values(Path(path), ())
    if not isinstance(values, dict):
        return [from_dict(TrainConfig, values, where=str(path))]  # says what is wrong
    ours: dict[str, Any] = {key: overrides.pop(key) for key in ("run", "init") if key in overrides}
    stages, variants = (_tables(values.pop(key, {}), key, path) for key in ("stages", "variants"))
    if stages and variants:
        raise ConfigError(f"{path}: a recipe has either stages or variants.")
    values = _with(values, ours, path)
    tables = stages or variants
    if variants and only is None:
        raise ConfigError(f"{path}: this recipe has variants; choose one with --only: {', '.join(variants)}.")
    if only is not None and only not in tables:
        known = f"it has {', '.join(tables)}" if tables else "it is a single run"
        raise ConfigError(f"{path}: there is no stage or variant '{only}' in this recipe; {known}.")
    if "model" not in values and isinstance(values.get("init"), str):
        values["model"] = to_dict(read_config(find_model(values["init"])))
        values["model"].pop("name")
    run = str(values.get("run", TrainConfig.run))
    runs: list[TrainConfig] = []
    for number, name in enumerate(tables or [""]):
        here = _laid_over(values, tables[name]) if name else dict(values)
        here = _with(here, overrides, path)
        if name:
            here["run"] = f"{run}/{name}"
        if isinstance(here.setdefault("model", {}), dict):
            here["model"] = {"name": Path(here["run"] if variants else run).name, **here["model"]}
        if stages and number:
            here.pop("init", None)
            if only is not None:
                here["init"] = f"{runs[-1].run}/model"
        runs.append(from_dict(TrainConfig, here, where=f"{path}, {name}" if name else str(path)))
    return runs if only is None else [runs[list(tables).index(only)]]


def _tables(value: Any, key: str, path: str | Path) -> dict[str, dict[str, Any]]:
    if not isinstance(value, dict) or not all(isinstance(table, dict) for table in value.values()):
        raise ConfigError(f"{path}: '{key}' must be tables such as [{key}.first].")
    return value


def _with(values: dict[str, Any], overrides: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """``values`` with what dotted keys set; it is left as it was."""
    result = dict(values)
    for key, value in overrides.items():
        table = result
        *parents, last = key.split(".")
        for parent in parents:
            inner = table.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{path}: '{key}' cannot be set, '{parent}' is no table.")
            table[parent] = table = dict(inner)
        table[last] = value
    return result


def _read_values(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """A file's settings laid over those of the file it extends; ``above``: the files that led here."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"{path}: the configuration cannot be read ({reason}).") from None
    try:
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # both libraries' errors derive from ValueError
        raise ConfigError(f"{path}: not valid {'JSON' if path.suffix == '.json' else 'TOML'} ({error}).") from None
    if not isinstance(values, dict) or "extends" not in values:
        return values  # from_dict says what is wrong with what is no table
    other = values.pop("extends")
    if not isinstance(other, str):
        raise ConfigError(f"{path}: 'extends' is {other!r}; give the name of a file.")
    below = path.parent / other
    if below.resolve() in {p.resolve() for p in (*above, path)}:
        raise ConfigError(f"{path}: 'extends' leads back to {below}.")
    return _laid_over(_read_values(below, (*above, path)), values)


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        both = isinstance(under, dict) and isinstance(value, dict)
        merged[key] = _laid_over(under, value) if both else value  # type: ignore[arg-type]
    return merged
