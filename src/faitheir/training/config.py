"""The configuration of a training run, read from TOML."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from faitheir.config import from_dict
from faitheir.errors import ConfigError
from faitheir.features import FeatureName, TeacherName
from faitheir.models import ModelConfig


@dataclass(frozen=True)
class DataConfig:
    """Where photographs come from and how crops are taken.

    ``train``, ``val``: folders, searched recursively; relative to the working directory. ``crop``: side in pixels.
    ``shrink``: probability of reducing a photograph by a random factor, down to ``shrink_min``, before the crop.
    ``workers``: loader processes. ``cache``: keep decoded photographs in memory, in each worker.
    """

    train: str
    val: str | None = None
    crop: int = 256
    shrink: float = 0.5
    shrink_min: float = 0.4
    workers: int = 1
    cache: bool = False

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        if self.crop < 1 or self.workers < 0:
            raise ConfigError("crop must be at least 1 and workers at least 0.")
        if not (0 <= self.shrink <= 1 and 0 < self.shrink_min <= 1):
            raise ConfigError("shrink must be in 0..1 and shrink_min in (0, 1].")


@dataclass(frozen=True)
class FeatureLossConfig:
    """One feature network of the feature loss: its local weights and its share."""

    network: FeatureName = "vgg16"
    weights: str | None = None
    share: float = 1.0


@dataclass(frozen=True)
class LossConfig:
    """Weights of the paper's four terms (eq. 7 to 10) and of ours, their norms, and the networks behind them.

    ``guidance``, ``semantic``, ``pixel``, ``feature``: the paper's lambda 1 to 4; a term of weight 0 is not computed.
    ``storage``, ``lattice``: ours, see ``storage_cost`` and ``lattice_excess`` in ``faitheir.training.losses``.
    ``guidance_norm``, ``pixel_norm``: "l1" or "l2" (mean). ``semantic_distance``: "cosine" (1 - cos), "l1" or "l2".
    ``feature_shift``: features are taken at a new random offset of up to this many pixels each step: at a fixed one,
    networks with strides do not see patterns that repeat in step with them.
    ``teacher``, ``teacher_weights``, ``teacher_layer``: see ``faitheir.features.load_teacher``.
    """

    guidance: float = 2.0
    semantic: float = 5.0
    pixel: float = 3.0
    feature: float = 3.0
    storage: float = 0.0
    lattice: float = 0.0
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
        terms = (self.guidance, self.semantic, self.pixel, self.feature, self.storage, self.lattice)
        if min(*terms, self.feature_shift) < 0:
            raise ConfigError("the weights of the losses and feature_shift must not be negative.")


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and its schedule.

    ``schedule``: "halve" (every ``halve_every`` steps, the paper's), "cosine" (to 1 % of ``lr`` at the last step) or
    "constant"; after ``warmup`` linear steps. ``clip``: largest gradient norm. ``accumulate``: batches per step.
    """

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
class TrainConfig:
    """A whole run.

    ``run``: the folder it writes. ``init``: a saved model to start from (a folder or a name), else random.
    ``steps``, ``batch`` (crops per process and step), ``seed``. ``precision``: "no", "bf16", "fp16" or "auto" (bf16
    where the processor or GPU multiplies in it, else fp16 on a GPU and none on a processor). ``ema``: decay of the
    averaged weights that are saved and validated, 0 for none. ``log_every``, ``val_every`` (0: never),
    ``save_every``: in steps.
    ``keep``: checkpoints kept. ``val_count``: photographs of ``data.val`` used, spread over the folder.
    """

    model: ModelConfig
    data: DataConfig
    losses: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    run: str = "runs/train"
    init: str | None = None
    steps: int = 300_000
    batch: int = 8
    seed: int = 0
    precision: Literal["no", "bf16", "fp16", "auto"] = "auto"
    ema: float = 0.999
    log_every: int = 50
    val_every: int = 1000
    val_count: int = 8
    save_every: int = 500
    keep: int = 2

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        if min(self.steps, self.batch, self.log_every, self.save_every, self.keep, self.val_count) < 1:
            raise ConfigError("steps, batch, log_every, save_every, keep and val_count must be at least 1.")
        if not 0 <= self.ema < 1 or self.val_every < 0:
            raise ConfigError("ema must be in [0, 1) and val_every not negative.")
        if self.save_every % self.log_every:
            raise ConfigError("save_every must be a multiple of log_every, or a resumed run would log other averages.")
        if self.data.crop % self.model.codec.scale:
            raise ConfigError(f"crop {self.data.crop} is not a multiple of the scale, {self.model.codec.scale}.")


def load_train_config(path: str | Path, overrides: dict[str, Any] | None = None) -> TrainConfig:
    """Read a TOML file; ``overrides`` maps dotted keys to values, such as ``{"data.crop": 128}``.

    Raises ConfigError for a missing or malformed file, an unknown key or a value out of range.
    """
    try:
        with Path(path).open("rb") as file:
            values = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: the configuration cannot be read ({error.strerror}).") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML ({error}).") from None
    for key, value in (overrides or {}).items():
        table = values
        *parents, last = key.split(".")
        for parent in parents:
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                raise ConfigError(f"{path}: '{key}' cannot be set, '{parent}' is no table.")
        table[last] = value
    return from_dict(TrainConfig, values, where=str(path))
