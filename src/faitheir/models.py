"""A model is a folder: config.json, which describes it, and model.safetensors, its weights. Pickles are never read."""

import hashlib
import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Unpack

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from faitheir.backbones.nano import NanoBackbone, NanoConfig
from faitheir.backbones.pixels import PixelsBackbone, PixelsConfig
from faitheir.backbones.turbo import TurboBackbone, TurboConfig
from faitheir.config import from_dict, to_dict
from faitheir.errors import ConfigError, ModelError
from faitheir.hub import HubOptions, fetch
from faitheir.nn.codec import Backbone, CodecConfig, FaithEIR
from faitheir.thumbnail import ThumbnailInfo

CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "model.safetensors", "README.md"

BackboneConfig = NanoConfig | TurboConfig | PixelsConfig

#: The embedded model that is used where none is named, for each scale.
DEFAULT_MODELS = {16: "nano-x16", 32: "nano-x32"}
DEFAULT_MODEL = DEFAULT_MODELS[16]


@dataclass(frozen=True)
class ModelConfig:
    """Everything needed to rebuild a model.

    ``name``: what messages and tables call it; those of the embedded models are theirs alone (``check_name``).
    """

    name: str = "unnamed"
    codec: CodecConfig = field(default_factory=CodecConfig)
    backbone: BackboneConfig = field(default_factory=NanoConfig)

    def __post_init__(self) -> None:
        """Check the name. Raises ConfigError."""
        if not self.name or len(self.name) > 100 or not self.name.isprintable():
            raise ConfigError(f"name is {self.name!r}; give 1 to 100 printable characters.")

    @property
    def size_multiple(self) -> int:
        """What the sides of pictures, and of training's crops, must be divisible by, in pixels."""
        return max(self.codec.scale, self.backbone.size_multiple)


def irn_codec(scale: int) -> CodecConfig:
    """IRN (Xiao et al. 2020): Haar and eight blocks per halving, a normal sample for the lost channels."""
    return CodecConfig(
        scale, transform="haar", pyramid=True, block="inv", inv_blocks=8, prior="normal", embedder="none"
    )


def t_irn_codec(scale: int) -> CodecConfig:
    """After T-IRN (Bao et al. 2025): tri-branch blocks, two per halving, and zeros for the lost channels."""
    return replace(irn_codec(scale), block="t-inv", inv_blocks=2, prior="zeros")


#: The restoring half of the embedded models, sized for two CPU cores.
_SHORT: dict[str, Any] = {
    "unet_blocks": (2, 3),
    "decoder_widths": (96, 64, 0),
    "decoder_blocks": (2, 2, 0),
    "decoder_up_kernel": 1,
}

#: Configurations known by name, with or without weights in this package.
KNOWN_CONFIGS: dict[str, ModelConfig] = {
    "nano-x16": ModelConfig(
        "nano-x16", CodecConfig(scale=16, lrt_init="haar", fidelity_rank=16), NanoConfig(grain=4, **_SHORT)
    ),
    "nano-x32": ModelConfig(
        "nano-x32",
        CodecConfig(scale=32, lrt_init="haar", fidelity_rank=8),
        NanoConfig(latent_channels=8, window=4, grain=4, **_SHORT),
    ),
    "turbo-x16": ModelConfig("turbo-x16", CodecConfig(scale=16), TurboConfig()),
    "turbo-x32": ModelConfig("turbo-x32", CodecConfig(scale=32), TurboConfig()),
    "irn-x16": ModelConfig("irn-x16", irn_codec(16), PixelsConfig()),
    "t-irn-x16": ModelConfig("t-irn-x16", t_irn_codec(16), PixelsConfig()),
}


def build_model(
    config: ModelConfig,
    *,
    pretrained: bool = False,
    base: str | Path | None = None,
    dtype: torch.dtype | None = None,
    **hub: Unpack[HubOptions],
) -> FaithEIR:
    """A randomly initialised model, on torch's default device ("meta" costs no memory).

    ``pretrained`` loads the frozen base weights of ``turbo``, in ``dtype`` (default float32), from the Hub (``hub``:
    see ``HubOptions``) or from the folder ``base``, unless the config's own ``base`` is "random". Raises ModelError
    where they are not available or not those that ``config`` names.
    """
    backbone: Backbone
    if isinstance(config.backbone, NanoConfig):
        backbone = NanoBackbone(config.backbone)
    elif isinstance(config.backbone, PixelsConfig):
        backbone = PixelsBackbone()
    elif pretrained and config.backbone.base != "random":
        backbone = TurboBackbone.from_base(config.backbone, base, timestep=config.codec.timestep, dtype=dtype, **hub)
    else:
        backbone = TurboBackbone(config.backbone, timestep=config.codec.timestep)
    return FaithEIR(config.codec, backbone)


def live_state(model: FaithEIR) -> dict[str, Tensor]:
    """The model's own tensors that its file holds: all of nano, and of turbo what was trained."""
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("backbone.")}
    state |= {f"backbone.{k}": v for k, v in model.backbone.trained_state_dict().items()}
    return {k: v.detach() for k, v in sorted(state.items())}


def stored_state(model: FaithEIR) -> dict[str, Tensor]:
    """``live_state`` as it is written: contiguous, so that a tensor may be a copy."""
    return {k: v.contiguous() for k, v in live_state(model).items()}


def check_state(model: FaithEIR, state: Mapping[str, Tensor], where: str) -> None:
    """Raise ModelError, naming ``where``, unless every tensor of ``state`` fits; the model may be on "meta"."""
    expected = stored_state(model)
    missing, unknown = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or unknown:
        what = f"lacks '{missing[0]}'" if missing else f"holds '{unknown[0]}', which the model does not have"
        raise ModelError(f"{where}: the weights do not fit config.json: the file {what}.")
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise ModelError(
                f"{where}: the weights do not fit config.json: '{name}' is {tuple(tensor.shape)} in the file "
                f"and {tuple(expected[name].shape)} in the model."
            )


def load_state(model: FaithEIR, state: Mapping[str, Tensor], where: str) -> None:
    """Load what ``stored_state`` gave. Raises ModelError, naming ``where``, unless every tensor fits."""
    check_state(model, state, where)
    own = {k: v for k, v in state.items() if not k.startswith("backbone.")}
    model.load_state_dict(own, strict=False)
    prefix = "backbone."
    trained = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    model.backbone.load_trained_state_dict(trained)


def convert_state(model: FaithEIR, state: Mapping[str, Tensor], where: str) -> tuple[int, int]:
    """Start ``model`` from another configuration's ``stored_state``, as far as it goes.

    For the same backbone with other widths, or another scale (a 16x nano as the start of a 32x one): a tensor of the
    same shape is copied; of one whose channels differ in number, those both have. Kernels, and attention's table of
    offsets, are laid one on the other by their middles; where the model's kernel is the larger one, its border is zero,
    so that it does what the smaller one did. The rescaler, the prior and the fidelity setting are kept as they were
    built unless every one of their shapes agrees: a part of an orthogonal matrix is none.

    Returns how many of the model's values were taken over, and how many it has. Raises ModelError, naming ``where``,
    where no tensor of the backbone fits, or two kernels have no common middle (sides 2 and 3).
    """
    own = stored_state(model)
    whole = {
        part: all(k in state and state[k].shape == v.shape for k, v in own.items() if k.startswith(part))
        for part in ("rescaler.", "compression.", "prior.", "fidelity.")
    }
    taken = 0
    converted = dict(own)
    for name, target in own.items():
        source = state.get(name)
        if source is None or source.ndim != target.ndim or not all(v for k, v in whole.items() if name.startswith(k)):
            continue
        # The dimensions from this one on are positions, with a middle; those before it are channels.
        first = 1 if name.endswith("attention.bias") else 2
        if any((t - s) % 2 for t, s in zip(target.shape[first:], source.shape[first:], strict=True)):
            raise ModelError(
                f"{where}: '{name}' is {tuple(source.shape)} there and {tuple(target.shape)} in the model to be "
                "trained: kernels without a common middle cannot be converted."
            )
        shared = [min(sides) for sides in zip(target.shape, source.shape, strict=True)]
        to, of = (
            tuple(
                slice(start := (n - s) // 2 if i >= first else 0, start + s)
                for i, (n, s) in enumerate(zip(tensor.shape, shared, strict=True))
            )
            for tensor in (target, source)
        )
        filled = target.clone()
        filled[to[:first]] = 0
        filled[to] = source[of].to(target)
        converted[name] = filled
        taken += math.prod(shared)
    if not any(name.startswith("backbone.") and converted[name] is not own[name] for name in own):
        raise ModelError(f"{where}: nothing of this model's backbone fits the configuration to be trained.")
    load_state(model, converted, where)
    return taken, sum(tensor.numel() for tensor in own.values())


def weights_hash(state: Mapping[str, Tensor], base: str | None = None) -> str:
    """16 hexadecimal digits over names, shapes and float32 values: equal however they are stored.

    ``base``: the hash of the frozen weights below them, if there are any (turbo).
    """
    digest = hashlib.sha256((base or "").encode())
    for name, tensor in sorted(state.items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def model_hash(model: FaithEIR) -> str:
    """``weights_hash`` of a model, with the base that it was built on: what thumbnails carry."""
    return weights_hash(stored_state(model), model.backbone.base_hash)


def settled_config(model: FaithEIR, config: ModelConfig) -> ModelConfig:
    """``config`` with the hash of turbo's base, which is known only when that is loaded."""
    if not isinstance(config.backbone, TurboConfig):
        return config
    return replace(config, backbone=replace(config.backbone, base_hash=model.backbone.base_hash))


def stored_hash(folder: Path) -> str:
    """``model_hash`` of the model in a folder, whose file is read once as long as it stays as it is.

    Raises ModelError or ConfigError where there is no whole model.
    """
    path, backbone = (folder / WEIGHTS_FILE).resolve(), read_config(folder).backbone
    base = backbone.base_hash if isinstance(backbone, TurboConfig) else None
    try:
        status = path.stat()
    except OSError:
        return weights_hash(read_weights(folder), base)  # says what is wrong
    return _file_hash(path, base, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _file_hash(path: Path, base: str | None, modified: int, size: int) -> str:  # noqa: ARG001
    return weights_hash(read_weights(path.parent), base)


def check_name(name: str, weights: str | None = None) -> None:
    """Raise ConfigError where an embedded model has the name, and other weights; ``weights``: their hash.

    None is for weights that are yet to be trained, to which no such name can belong.
    """
    taken = {find_model(n) for n in embedded_models() if name in (n, read_config(find_model(n)).name)}
    if taken and weights not in {stored_hash(folder) for folder in taken}:
        raise ConfigError(f"the name '{name}' belongs to a model in this package; give this one a name of its own.")


#: What a tensor's name ends with that holds the scales of the int8 weights of the name before it.
_SCALES = ".int8_scales"


def _packed(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """``state`` to be stored in less: float16, bfloat16, or int8, in which weights take a byte each.

    In int8 a layer's weight is a whole number of -127 to 127 times a scale, one for each output channel, in bfloat16:
    so few digits that what is loaded is stored as the same again. All else is in float16, but for the orthogonal
    matrix, which stays in float32, where it is orthogonal.
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if name.startswith("rescaler.transform."):
            packed[name] = tensor
        elif dtype != torch.int8:
            packed[name] = tensor.to(dtype)
        elif name.endswith(".weight") and tensor.ndim > 1:
            scales = (tensor.float().abs().amax(tuple(range(1, tensor.ndim)), keepdim=True) / 127).bfloat16()
            packed[name] = (tensor.float() / scales.float().clamp_min(1e-30)).round().to(torch.int8)
            packed[name + _SCALES] = scales
        else:
            packed[name] = tensor.half()
    return packed


def _unpacked(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What ``_packed`` stored, in float32."""
    return {
        name: tensor.float() * packed[name + _SCALES].float() if tensor.dtype == torch.int8 else tensor.float()
        for name, tensor in packed.items()
        if not name.endswith(_SCALES)
    }


def save_model(
    folder: str | Path,
    model: FaithEIR,
    config: ModelConfig,
    *,
    state: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
    card: str | None = None,
) -> None:
    """Write a model folder, whole or not at all; an existing model in ``folder`` is replaced.

    ``state``: what to write in place of ``stored_state(model)``. ``dtype``: see ``_packed``. Raises ConfigError where
    the name is another model's (``check_name``), ModelError where the folder cannot be written.
    """
    folder = Path(folder)
    state = stored_state(model) if state is None else state
    if dtype is not None:
        state = _packed(state, dtype)
    config = settled_config(model, config)
    check_name(config.name, weights_hash(_unpacked(state), model.backbone.base_hash))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as temporary:
            files = {CONFIG_FILE: json.dumps(to_dict(config), indent=2).encode() + b"\n"}
            files[WEIGHTS_FILE] = save({k: v.cpu().contiguous() for k, v in state.items()}, metadata={"format": "pt"})
            if card is not None:
                files[CARD_FILE] = card.encode()
            for name, content in files.items():
                (Path(temporary) / name).write_bytes(content)
            for name in files:
                (Path(temporary) / name).replace(folder / name)
    except OSError as error:
        raise ModelError(f"{folder}: the model cannot be saved here ({error.strerror}).") from None


def read_config(folder: Path) -> ModelConfig:
    """The configuration in a model folder. Raises ModelError or ConfigError."""
    path = folder / CONFIG_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{folder}: not a model folder, it has no {CONFIG_FILE}.") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ModelError(f"{path}: the model's configuration cannot be read ({error}).") from None
    return from_dict(ModelConfig, values, where=str(path))


def embedded_models() -> list[str]:
    """The names of the models inside this package."""
    return sorted(p.parent.name for p in embedded_folder().glob(f"*/{CONFIG_FILE}"))


def embedded_folder() -> Path:
    """The folder in which they are, one folder each."""
    return Path(str(resources.files("faitheir") / "weights"))


def find_model(source: str | Path, *, revision: str | None = None, **hub: Unpack[HubOptions]) -> Path:
    """The folder of ``source``: an embedded model's name, a folder, or a Hub id "owner/name" (downloaded once).

    ``revision``, ``hub``: of the Hub, see ``hub.fetch``. Raises ModelError for anything else.
    """
    name = str(source)
    if name in embedded_models():
        return embedded_folder() / name
    path = Path(source)
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError:  # the name is longer than a path may be
        is_folder = exists = False
    if is_folder:
        return path
    if exists:
        raise ModelError(f"{path}: a model is a folder with {CONFIG_FILE} and {WEIGHTS_FILE}; this is a file.")
    if name in KNOWN_CONFIGS:
        raise ModelError(
            f"'{name}' has no weights in this package; train it with `faitheir train`, "
            "then give its folder as the model."
        )
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and not name.endswith("/"):
        return fetch(name, (CONFIG_FILE, WEIGHTS_FILE, CARD_FILE), revision=revision, **hub)
    known = ", ".join(embedded_models()) or "there are none"
    raise ModelError(
        f"Unknown model '{name}': neither an embedded model ({known}), nor a folder, nor a Hub id such as 'owner/name'."
    )


def model_for(info: ThumbnailInfo | None, default: str = DEFAULT_MODEL) -> str:
    """The name of the embedded model that restores a thumbnail: that whose weights made it, by their hash.

    Where none has them, the one of the name in the thumbnail, if there is a name (restoring then warns); without
    metadata ``default``. Only embedded models: a file's metadata must not choose what is read from the disk or the
    network. Raises ModelError where there is none.
    """
    if info is None:
        return default
    # Its own name first: the other weights of its scale need not be read then.
    for name in sorted(embedded_models(), key=lambda name: name != info.model):
        folder = find_model(name)
        if read_config(folder).codec.scale == info.scale and stored_hash(folder) == info.weights:
            return name
    if info.model in embedded_models():
        return info.model
    raise ModelError(
        f"the thumbnail was made by {maker(info)}, which this package does not hold; give the folder or the Hub id of "
        "the model that made it (docs/history/weights.md says where the weights of earlier versions are)."
    )


def maker(info: ThumbnailInfo) -> str:
    """The model that made a thumbnail, as messages name it: by its weights, and by its name where that is known."""
    weights = f"the weights {info.weights}"
    return f"{weights} of '{info.model}'" if info.model else weights


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors in a model folder, in float32. Raises ModelError where there are none that can be read safely."""
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        pickles = [p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl"}]
        if pickles:
            raise ModelError(
                f"{folder / pickles[0]}: pickled weights can run code and are not loaded; "
                f"convert them to {WEIGHTS_FILE}."
            )
        raise ModelError(f"{folder}: not a whole model, it has no {WEIGHTS_FILE}.")
    try:
        with safe_open(path, "pt") as file:
            state = _unpacked({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: not a readable safetensors file ({error}).") from None
    return state


def load_model(
    source: str | Path,
    *,
    base: str | Path | None = None,
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    **hub: Unpack[HubOptions],
) -> tuple[FaithEIR, ModelConfig]:
    """A saved model in evaluation mode, and its configuration; in float32, but for turbo's base, which is in ``dtype``.

    ``source``, ``revision``, ``hub``: as for ``find_model``; ``base``: a local folder of SD-Turbo's weights for turbo
    models. Raises ModelError or ConfigError.
    """
    folder = find_model(source, revision=revision, **hub)
    config = read_config(folder)
    state = read_weights(folder)
    try:
        model = build_model(config, pretrained=True, base=base, dtype=dtype, **hub)
    except ConfigError as error:
        raise ConfigError(f"{folder / CONFIG_FILE}: {error}") from None
    load_state(model, state, str(folder / WEIGHTS_FILE))
    return model.eval(), settled_config(model, config)


def meta_model(config: ModelConfig) -> FaithEIR:
    """The model on the meta device: shapes without values, for next to no memory."""
    with torch.device("meta"):
        return build_model(config)


def parameter_table(config: ModelConfig) -> dict[str, int]:
    """Parameters part by part, counted on the meta device: no weights, no download, next to no memory."""
    model = meta_model(config)
    parts = model.backbone.parts()
    for name, module in (
        ("Rescaler", model.rescaler),
        ("Compression blocks", model.compression if model.compression else None),
        ("Detail prior", model.prior),
        ("Embedder", model.embedder),
        ("Fidelity setting", model.fidelity),
    ):
        if module is not None:
            parts[name] = sum(p.numel() for p in module.parameters())
    return parts
