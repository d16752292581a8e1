"""The paper's backbone: SD-Turbo's VAE and UNet through diffusers, adapted by LoRA through peft.

The base weights stay frozen and are never written; what is trained, and stored, is the LoRA. Importing this
module needs neither diffusers nor peft; building a ``TurboBackbone`` does.
"""

import hashlib
import importlib.util
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Self, Unpack

import torch
from safetensors import safe_open
from torch import Tensor, nn

from faitheir.errors import ConfigError, MissingDependencyError, ModelError
from faitheir.hub import HubOptions, fetch
from faitheir.nn.codec import Backbone
from faitheir.nn.denoiser import BETA_END, BETA_START, TRAIN_TIMESTEPS, PredictionType
from faitheir.nn.embedder import Condition

_log = logging.getLogger("faitheir")

#: LoRA 32 on the UNet: every convolution and linear layer of its blocks, conv_in and conv_out: 32.446 M.
#: Left out is each residual block's projection of the timestep: T is fixed, so all it gives is a constant per
#: channel, and the paper's total of 985.03 M has no room for it (33.992 M with it).
_UNET_LORA = re.compile(r"(down_blocks|mid_block|up_blocks)\.(?!.*\btime_emb_proj$).*|conv_in|conv_out")
#: LoRA 16 on the VAE's encoder: every convolution and attention projection of it: 1.477 M. The 1x1 quant_conv
#: after it and all of the decoder stay as they are.
_VAE_LORA = re.compile(r"encoder\..*")

#: peft's name for the one adapter; it is left out of the names in ``trained_state_dict``.
_ADAPTER = "default"

#: The base, and the commit of it that is meant: what another one gives is another model.
SD_TURBO, SD_TURBO_REVISION = "stabilityai/sd-turbo", "b261bac6fd2cf515557d5d0707481eafa0485ec2"

#: What the base was trained with, as diffusers' schedulers name it, and the denoiser's formula takes for granted.
_SCHEDULE = {
    "num_train_timesteps": TRAIN_TIMESTEPS,
    "beta_start": BETA_START,
    "beta_end": BETA_END,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
}
#: Which of these a scheduler's file may leave out.
_UNSAID = ("num_train_timesteps", "prediction_type", "trained_betas", "rescale_betas_zero_snr")

#: A name on the Hub: owner/name, or one name alone.
_HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def _sd_turbo_vae() -> dict[str, Any]:
    return {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "norm_num_groups": 32,
        "scaling_factor": 0.18215,
    }


def _sd_turbo_unet() -> dict[str, Any]:
    return {
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
        "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
        "norm_num_groups": 32,
    }


@dataclass(frozen=True)
class TurboConfig:
    """Which VAE and UNet, and how they are adapted.

    ``base``, ``revision``: the model on the Hugging Face Hub that the frozen weights come from, and the commit of it;
    without one, for another base than SD-Turbo, the newest. ``base``: "random" for none.
    ``base_hash``: names those weights, 16 hexadecimal digits; None until they were loaded. No others are taken.
    ``vae``, ``unet``: arguments of diffusers' AutoencoderKL and UNet2DConditionModel; by default SD-Turbo's.
    A base must agree with them.
    ``vae_lora_rank``, ``unet_lora_rank``: ranks of the LoRA on the VAE's encoder and on the UNet; 0 for none.
    """

    kind: Literal["turbo"] = "turbo"
    base: str = SD_TURBO
    revision: str | None = SD_TURBO_REVISION
    # Known only when the base is loaded, and no choice: a recipe without it is that of the model with it.
    base_hash: str | None = field(default=None, compare=False)
    vae: dict[str, Any] = field(default_factory=_sd_turbo_vae)
    unet: dict[str, Any] = field(default_factory=_sd_turbo_unet)
    vae_lora_rank: int = 16
    unet_lora_rank: int = 32

    def __post_init__(self) -> None:
        """Check ranges, and that the two networks share one latent. Raises ConfigError."""
        if self.base != SD_TURBO and self.revision == SD_TURBO_REVISION:
            object.__setattr__(self, "revision", None)  # another repository has no such commit
        for name in ("vae_lora_rank", "unet_lora_rank"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; give 0 (no LoRA) or more.")
        required = {
            "vae": ("block_out_channels", "latent_channels"),
            "unet": ("block_out_channels", "in_channels", "out_channels", "cross_attention_dim"),
        }
        for table, keys in required.items():
            for key in keys:
                if key not in getattr(self, table):
                    raise ConfigError(f"{table} lacks the key '{key}'.")
        if not self.unet["in_channels"] == self.unet["out_channels"] == self.latent_channels:
            raise ConfigError(
                f"the unet takes {self.unet['in_channels']} channels and gives {self.unet['out_channels']}; "
                f"the vae's latent has {self.latent_channels}, and all three must agree."
            )

    @property
    def latent_channels(self) -> int:
        """C, the latent's channels (SD-Turbo: 4)."""
        return int(self.vae["latent_channels"])

    @property
    def latent_stride(self) -> int:
        """Pixels per latent position, each side (SD-Turbo: 8)."""
        return int(2 ** (len(self.vae["block_out_channels"]) - 1))

    @property
    def context_dim(self) -> int:
        """Width of a condition token (SD-Turbo: 1024)."""
        return int(self.unet["cross_attention_dim"])

    @property
    def size_multiple(self) -> int:
        """What picture sides must be divisible by, for the UNet to halve the latent (SD-Turbo: 64)."""
        return int(self.latent_stride * 2 ** (len(self.unet["block_out_channels"]) - 1))


class TurboBackbone(Backbone):
    """SD-Turbo behind the codec's ``Backbone`` protocol, randomly initialised; ``from_base`` loads weights.

    ``timestep``: the fixed T at which the UNet is evaluated. Tensors are cast to the weights' precision on
    the way in, so the module works as it is after ``.to(torch.bfloat16)``. Built under
    ``torch.device("meta")`` it takes next to no memory.

    Raises ConfigError where the configuration does not describe a VAE and UNet that diffusers can build, and
    MissingDependencyError without diffusers and peft.
    """

    prediction_type: PredictionType = "epsilon"
    vae_parts = ("vae",)

    def __init__(
        self,
        config: TurboConfig,
        *,
        timestep: int = TRAIN_TIMESTEPS - 1,
        components: tuple[nn.Module, nn.Module] | None = None,
    ) -> None:
        """``components``: the VAE and UNet to adapt, already built to ``config``; by default new ones."""
        super().__init__()
        self.config = config
        self.timestep = timestep
        self.latent_channels = config.latent_channels
        self.latent_stride = config.latent_stride
        self.context_dim = config.context_dim
        self.size_multiple = config.size_multiple
        self.least_scale = config.latent_stride
        self.window = 1  # attention is over all of a tile
        self.merged = False
        if components is None:
            vae_class, unet_class = _model_classes()
            components = _build(vae_class, config.vae, "vae"), _build(unet_class, config.unet, "unet")
        # Any: diffusers' own methods and `config` are used, and it is an optional dependency without types.
        self.vae: Any = components[0].requires_grad_(False)
        self.unet: Any = components[1].requires_grad_(False)
        _add_lora(self.vae, config.vae_lora_rank, _VAE_LORA)
        _add_lora(self.unet, config.unet_lora_rank, _UNET_LORA)

    @classmethod
    def from_base(
        cls,
        config: TurboConfig,
        source: str | Path | None = None,
        *,
        timestep: int = TRAIN_TIMESTEPS - 1,
        dtype: torch.dtype | None = None,
        **hub: Unpack[HubOptions],
    ) -> Self:
        """Build with the base's weights, loaded in ``dtype`` (default float32), and LoRA that changes nothing yet.

        ``source``: a folder in diffusers' layout (vae/ and unet/, safetensors) or an id on the Hub; by
        default ``config.base`` at ``config.revision``. ``hub``: see ``HubOptions``. The LoRA is in float32 in any case.

        Raises ModelError where the weights are not available, are pickles, do not fit ``config``, are others than its
        ``base_hash`` names, or were trained with another noise schedule than the denoiser's.
        """
        vae_class, unet_class = _model_classes()
        folder = _base_folder(config, source, hub)
        _check_schedule(folder)
        vae = _load(vae_class, folder, "vae", config.vae, dtype)
        unet = _load(unet_class, folder, "unet", config.unet, dtype)
        found = _folder_hash(folder)
        if config.base_hash not in (None, found):
            raise ModelError(
                f"The base model in '{folder}' has the weights {found}, and the model was made on the weights "
                f"{config.base_hash}: give the folder of '{config.base}' at the revision {config.revision}."
            )
        backbone = cls(config, timestep=timestep, components=(vae, unet))
        backbone.base_hash = found
        for _, parameter in backbone._lora():
            parameter.data = parameter.data.float()
        return backbone

    def encode(self, x: Tensor) -> Tensor:
        """Picture (B, 3, H, W) in [0, 1] -> latent (B, C, H/8, W/8).

        The posterior's mode, so that a picture has one thumbnail, times the scaling factor that gives the
        latent the variance the UNet knows.
        """
        posterior = self.vae.encode(x.to(self._dtype) * 2 - 1).latent_dist
        z: Tensor = posterior.mode() * self.vae.config.scaling_factor
        return z

    def decode(self, z: Tensor, origin: tuple[int, int] = (0, 0)) -> Tensor:  # noqa: ARG002
        """Latent (B, C, h, w) -> picture (B, 3, 8h, 8w), nominally in [0, 1], not clamped."""
        picture: Tensor = self.vae.decode(z.to(self._dtype) / self.vae.config.scaling_factor).sample
        return (picture + 1) / 2

    def predict(self, z_t: Tensor, condition: Condition | None) -> Tensor:
        """Noise epsilon (B, C, h, w) in the noisy latent (B, C, h, w), given tokens (B, N, context_dim).

        Without a condition the UNet gets one token of zeros: keys and values have no bias, so every
        cross-attention then adds its output's bias and nothing else.
        """
        tokens = z_t.new_zeros(z_t.shape[0], 1, self.context_dim) if condition is None else condition.tokens
        prediction: Tensor = self.unet(
            z_t.to(self._dtype), self.timestep, encoder_hidden_states=tokens.to(self._dtype)
        ).sample
        return prediction

    @property
    def _dtype(self) -> torch.dtype:
        # A frozen layer without LoRA; both networks are always cast together.
        dtype: torch.dtype = self.vae.decoder.conv_in.weight.dtype
        return dtype

    def _lora(self) -> Iterator[tuple[str, nn.Parameter]]:
        """(name, tensor) of all LoRA, such as ``unet.mid_block.resnets.0.conv1.lora_A.weight``."""
        for name, parameter in self.named_parameters():
            if ".lora_" in name:
                yield name.replace(f".{_ADAPTER}.", "."), parameter

    def trained_state_dict(self) -> dict[str, Tensor]:
        """What is trained, and all that a checkpoint needs beside the base: the LoRA, merged or not."""
        return {name: parameter.detach() for name, parameter in self._lora()}

    def load_trained_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load what ``trained_state_dict`` gave; ModelError unless names and shapes fit exactly."""
        if self.merged:
            raise ModelError("The LoRA is merged into the base weights already; load it into a new backbone.")
        own = dict(self._lora())
        if missing := own.keys() - state.keys():
            raise ModelError(f"The weights lack {len(missing)} LoRA tensors, such as '{min(missing)}'.")
        if unexpected := state.keys() - own.keys():
            raise ModelError(
                f"The weights hold {len(unexpected)} tensors unknown to this model, such as '{min(unexpected)}'."
            )
        for name, parameter in own.items():
            if state[name].shape != parameter.shape:
                raise ModelError(
                    f"The weights do not fit: '{name}' is {tuple(state[name].shape)}, "
                    f"and the configuration asks for {tuple(parameter.shape)}."
                )
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(state[name])

    def merge_lora(self) -> None:
        """Fold the LoRA into the base weights, in place, for faster inference; the outputs stay the same.

        For good: the backbone can be saved as before, since peft keeps the LoRA's own tensors (4 % of the
        memory) while it computes with the base alone, but not be trained on, nor be given another LoRA.
        """
        from peft.tuners.lora import LoraLayer

        for module in self.modules():
            if isinstance(module, LoraLayer) and not module.merged:
                module.merge()
        for _, parameter in self._lora():
            parameter.requires_grad_(False)
        self.merged = True

    def enable_gradient_checkpointing(self) -> None:
        """In training, recompute activations in the backward pass instead of keeping them."""
        self.vae.enable_gradient_checkpointing()
        self.unet.enable_gradient_checkpointing()

    def parts(self) -> dict[str, int]:
        """Numbers of parameters by part, for the table of ``faitheir info``."""
        counts = dict.fromkeys(("UNet", "VAE", "LoRA (UNet)", "LoRA (VAE encoder)"), 0)
        for name, parameter in self.named_parameters():
            network = "UNet" if name.startswith("unet.") else "VAE"
            lora = {"UNet": "LoRA (UNet)", "VAE": "LoRA (VAE encoder)"}[network]
            counts[lora if ".lora_" in name else network] += parameter.numel()
        return counts


def _model_classes() -> tuple[Callable[..., nn.Module], Callable[..., nn.Module]]:
    try:
        import peft  # noqa: F401
        from diffusers import AutoencoderKL, UNet2DConditionModel
    except ImportError as error:
        raise MissingDependencyError(
            f"The turbo backbone needs diffusers and peft ({error}): pip install 'faitheir[turbo]'"
        ) from error
    return AutoencoderKL, UNet2DConditionModel


def _build(model_class: Callable[..., nn.Module], arguments: dict[str, Any], part: str) -> nn.Module:
    try:
        return model_class(**arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"diffusers cannot build the {part} of this configuration: {_reason(error)}.") from error


def _add_lora(model: nn.Module, rank: int, where: re.Pattern[str]) -> None:
    """Put LoRA on the convolutions and linear layers whose whole name ``where`` matches; it alone is trained.

    The scale alpha / rank is 1 (the paper gives ranks only). B starts at zero, so LoRA changes nothing yet.
    """
    if rank == 0:
        return
    from peft import LoraConfig, inject_adapter_in_model

    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and where.fullmatch(name)
    ]
    lora = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=targets)
    inject_adapter_in_model(lora, model, _ADAPTER)


def _base_folder(config: TurboConfig, source: str | Path | None, hub: HubOptions) -> Path:
    """The folder on this machine with the base's vae/ and unet/, fetched from the Hub where it must be."""
    source = config.base if source is None else source
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(source, Path) or not _HUB_ID.fullmatch(source):
        raise ModelError(f"There is no folder '{source}' to load the base model from.")
    # Never pickles, and of the variants only the float32 one.
    files = ("config.json", "diffusion_pytorch_model*.safetensors", "*.safetensors.index.json")
    return fetch(
        source,
        [*(f"{part}/{name}" for part in ("vae", "unet") for name in files), "scheduler/scheduler_config.json"],
        # The revision belongs to `config.base`; another repository does not have it.
        revision=config.revision if source == config.base else None,
        ignore=["*.fp16*", "*.non_ema*"],
        advice=f"run `hf download {source} --local-dir DIR` where there is a network, then give DIR as the base: "
        "--base DIR, or --set base=DIR in training",
        **hub,
    )


def _check_schedule(folder: Path) -> None:
    """ModelError where the base was trained with another noise schedule than ``one_step`` has."""
    path = folder / "scheduler" / "scheduler_config.json"
    if not path.is_file():
        _log.warning("%s is missing: the base model's noise schedule is not checked.", path)
        return
    try:
        found = {key: _SCHEDULE[key] for key in _UNSAID} | json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{path} cannot be read: {_reason(error)}.") from error
    for key, wanted in _SCHEDULE.items():
        if found.get(key) != wanted:
            raise ModelError(
                f"The base model in '{folder}' has another noise schedule than SD-Turbo: its {key} is "
                f"{found.get(key)}, not {wanted}; give another base."
            )


def _folder_hash(folder: Path) -> str:
    """16 hexadecimal digits over names, shapes and float32 values of the tensors in a base's files."""
    # As diffusers looks for them: one file or shards, and no variants such as .fp16.
    names = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model-*.safetensors")
    paths = [path for part in ("unet", "vae") for name in names for path in (folder / part).glob(name)]
    stamps = [(path, path.stat()) for path in sorted(paths)]
    return _files_hash(tuple((path, status.st_mtime_ns, status.st_size) for path, status in stamps))


@lru_cache(maxsize=8)
def _files_hash(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = hashlib.sha256()
    with ExitStack() as stack:
        opened = [(path.parent.name, stack.enter_context(safe_open(path, "pt"))) for path, _, _ in files]
        tensors = {f"{part}.{name}": (file, name) for part, file in opened for name in file.keys()}  # noqa: SIM118
        for full, (file, name) in sorted(tensors.items()):
            tensor = file.get_tensor(name)
            digest.update(f"{full}{tuple(tensor.shape)}".encode())
            digest.update(tensor.float().contiguous().reshape(-1).numpy())
    return digest.hexdigest()[:16]


def _load(model_class: Any, folder: Path, part: str, arguments: dict[str, Any], dtype: torch.dtype | None) -> nn.Module:
    """The network in ``folder / part``, in diffusers' layout, checked against the config's ``arguments``."""
    place = folder / part
    if not (place / "config.json").is_file():
        raise ModelError(
            f"'{folder}' is not a base model in diffusers' layout: {part}/config.json is missing; "
            "it must hold vae/ and unet/."
        )
    if not any(place.glob("*.safetensors")):
        pickled = any(place.glob("*.bin"))
        found = "only pickled weights, which can run code and are never loaded" if pickled else "none"
        raise ModelError(f"'{place}' must hold its weights as safetensors; there are {found}.")
    try:
        model, report = model_class.from_pretrained(
            str(folder),
            subfolder=part,
            use_safetensors=True,
            local_files_only=True,
            torch_dtype=dtype or torch.float32,
            # False spares a warning where accelerate, which diffusers needs for it, is not installed.
            low_cpu_mem_usage=importlib.util.find_spec("accelerate") is not None,
            output_loading_info=True,
        )
    # safetensors' own error derives from Exception alone.
    except Exception as error:
        raise ModelError(f"The weights in '{place}' cannot be loaded: {_reason(error)}.") from error
    # diffusers only warns of these, and leaves what is missing random.
    for problem in ("missing_keys", "unexpected_keys"):
        if names := report[problem]:
            raise ModelError(
                f"The weights in '{place}' do not fit their config.json: {problem.replace('_', ' ')}, "
                f"such as '{min(names)}'."
            )
    for key, wanted in arguments.items():
        found = model.config.get(key)
        if _plain(found) != _plain(wanted):
            raise ModelError(
                f"The base model in '{place}' does not fit the configuration: its {key} is {found}, not {wanted}."
            )
    loaded: nn.Module = model
    return loaded


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _reason(error: Exception) -> str:
    # The first sentence of other libraries' messages says what is wrong; advice on their options follows.
    message = " ".join(str(error).split()) or type(error).__name__
    return message.split(". ")[0].rstrip(".")
