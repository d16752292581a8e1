"""FaithEIR, the one definition that training and inference share.

downscale:  x --VAE encoder--> z --LRT, E-InvBlocks--> raw | lost; raw --8 bits--> y
upscale:    y, prior --inverse--> z_T --denoiser(., PSE(y))--> z_0 --VAE decoder--> x^
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from faitheir.errors import ConfigError
from faitheir.nn.convolution import use_strided_convolutions
from faitheir.nn.denoiser import TRAIN_TIMESTEPS, PredictionType, alpha_bar, one_step
from faitheir.nn.embedder import Condition, make_embedder
from faitheir.nn.fidelity import FidelityOffsets, MergedModules, with_weights
from faitheir.nn.priors import make_prior
from faitheir.nn.quantize import quantize_8bit, raw_to_unit, unit_to_raw
from faitheir.nn.reversible import (
    LR_CHANNELS,
    BlockKind,
    LatentRescaler,
    OrthogonalTransform,
    PyramidRescaler,
    invertible_blocks,
)


class Backbone(nn.Module):
    """The VAE and the denoising network, as the codec uses them.

    ``latent_channels`` C; ``latent_stride``, pixels per latent position; ``context_dim``, the width of condition
    tokens, 0 where it takes none; ``size_multiple``, what picture sides must be divisible by;
    ``prediction_type``, what ``predict`` returns (see ``one_step``); ``least_scale``, at least the stride, is what its
    attention to tokens allows; ``window``, the side of attention windows in thumbnail pixels, 1 where there are none;
    ``vae_parts``, the submodules that encode and decode, by name; ``fidelity_parts``, those whose weights the fidelity
    setting moves, none where there can be no such setting; ``base_hash``: names the frozen weights that are not in
    ``trained_state_dict``, None where there are none.
    """

    latent_channels: int
    latent_stride: int
    context_dim: int
    size_multiple: int
    prediction_type: PredictionType
    least_scale: int
    window: int
    vae_parts: tuple[str, ...]
    fidelity_parts: tuple[str, ...] = ()
    base_hash: str | None = None

    def encode(self, x: Tensor) -> Tensor:
        """Picture (B, 3, H, W) in [0, 1] -> latent (B, C, H / stride, W / stride)."""
        raise NotImplementedError

    def decode(self, z: Tensor, origin: tuple[int, int] = (0, 0)) -> Tensor:
        """Latent -> picture (B, 3, H, W), nominally in [0, 1], not clamped.

        ``origin``: the row and column at which ``z`` was cut out of a larger latent, for what depends on the place.
        """
        raise NotImplementedError

    def predict(self, z_t: Tensor, condition: Condition | None) -> Tensor:
        """The network's prediction for the noisy latent, of the latent's shape."""
        raise NotImplementedError

    def trained_state_dict(self) -> dict[str, Tensor]:
        """The tensors that a saved model holds; a frozen base is not among them."""
        raise NotImplementedError

    def load_trained_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load what ``trained_state_dict`` gave."""
        raise NotImplementedError

    def enable_gradient_checkpointing(self) -> None:
        """In training, recompute activations in the backward pass instead of keeping them."""
        raise NotImplementedError

    def merge_lora(self) -> None:
        """Fold LoRA into the weights for inference; saving still gives the same model. Nothing where there is none."""

    def parts(self) -> dict[str, int]:
        """Parameters by part, for the parameter table."""
        raise NotImplementedError


@dataclass(frozen=True)
class CodecConfig:
    """The choices of the method; every row of the paper's Tables 2 and 3 is a setting of these.

    ``scale``: pixels of the photograph per pixel of the thumbnail, each side.
    ``transform``, ``orthogonality``, ``lrt_init``: see ``OrthogonalTransform``.
    ``inv_blocks``, ``growth``: invertible blocks, and the growth of their dense blocks. ``block``: "e-inv" (SAIN; the
    paper's), "inv" (IRN) or "t-inv" (after T-IRN). ``pyramid``: steps of factor 2 with ``inv_blocks`` after each, the
    form of IRN (``PyramidRescaler``), in place of one step of the whole factor.
    ``compression_blocks``: blocks more that model what a lossy file loses, for SAIN's asymmetry: going down, the
    thumbnail is taken before them; restoring begins with their inverse. 0, the paper's, for none.
    ``prior``: "adp", "zeros", "random", "normal" or "gmm"; ``prior_pattern``: side of ADP's spatial pattern;
    ``gmm_components``: Gaussians in the mixture.
    ``embedder``: "pse", "lte" or "none"; ``pse_hidden``: widths between 3 and the context's;
    ``lte_tokens``: how many.
    ``timestep``: the fixed step T of the one-step denoiser, 0..999.
    ``fidelity_rank``: rank of the fidelity setting's offsets (``FidelityOffsets``), 0 for a model without one.
    """

    scale: int = 16
    transform: Literal["lrt", "haar"] = "lrt"
    orthogonality: Literal["always", "init"] = "always"
    lrt_init: Literal["random", "haar"] = "random"
    pyramid: bool = False
    block: BlockKind = "e-inv"
    inv_blocks: int = 3
    growth: int = 32
    compression_blocks: int = 0
    prior: Literal["adp", "zeros", "random", "normal", "gmm"] = "adp"
    prior_pattern: int = 1
    gmm_components: int = 5
    embedder: Literal["pse", "lte", "none"] = "pse"
    pse_hidden: tuple[int, ...] = (256, 512)
    lte_tokens: int = 77
    timestep: int = TRAIN_TIMESTEPS - 1
    fidelity_rank: int = 0

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        if self.scale < 2 or self.scale & (self.scale - 1):
            raise ConfigError(f"scale is {self.scale}; give a power of two, such as 16 or 32.")
        if not 0 <= self.timestep < TRAIN_TIMESTEPS:
            raise ConfigError(f"timestep is {self.timestep}; give 0 to {TRAIN_TIMESTEPS - 1}.")
        for name in ("growth", "prior_pattern", "gmm_components", "lte_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; give at least 1.")
        if min(self.inv_blocks, self.compression_blocks, self.fidelity_rank) < 0:
            raise ConfigError("inv_blocks, compression_blocks and fidelity_rank must not be negative.")
        if min(self.pse_hidden, default=1) < 1:
            raise ConfigError("every width in pse_hidden must be at least 1.")


class Reconstruction(NamedTuple):
    """What one pass of training needs: thumbnail (B, 3, H/s, W/s) if one was made, picture (B, 3, H, W), condition.

    ``lost``: the channels that downscaling dropped, (B, lost channels, H/s, W/s), if it ran. ``bits``: what storing
    each thumbnail costs, in bits per thumbnail pixel (B,), where training prices that. ``compression``: mean squared
    error of the stored thumbnails as the compression blocks predict them, where the model has some.
    """

    thumbnail: Tensor | None
    picture: Tensor
    condition: Condition | None
    lost: Tensor | None
    bits: Tensor | None = None
    compression: Tensor | None = None


class Stored(NamedTuple):
    """Thumbnails as files give them back.

    ``thumbnails`` (B, 3, h, w) in [0, 1]; ``bits`` (B,), what storing each costs, in bits per pixel; ``own`` (B,) is
    False where another program's thumbnail took the model's place.
    """

    thumbnails: Tensor
    bits: Tensor
    own: Tensor


class FaithEIR(nn.Module):
    """The model over a backbone. Pictures are (B, 3, H, W) in [0, 1], sides divisible by ``size_multiple``.

    Others are refused with a ConfigError.

    ``forward`` is the training pass; ``downscale`` and ``upscale`` are deployment's two halves of it. The
    backbone and the embedder may be cast to half precision; everything between VAE and thumbnail stays in float32.
    """

    def __init__(self, config: CodecConfig, backbone: Backbone) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        use_strided_convolutions(backbone)
        stride, channels = backbone.latent_stride, backbone.latent_channels
        if config.scale < backbone.least_scale:
            raise ConfigError(f"scale is {config.scale}; this backbone needs at least {backbone.least_scale}.")
        self.factor = config.scale // stride
        if channels * self.factor**2 <= LR_CHANNELS:
            raise ConfigError("the latent has too few channels for three to be kept and some to be lost.")
        if backbone.context_dim == 0 and config.embedder != "none":
            raise ConfigError('this backbone takes no condition tokens; set embedder to "none".')
        self.rescaler = (PyramidRescaler if config.pyramid else LatentRescaler)(
            channels,
            self.factor,
            transform=config.transform,
            orthogonality=config.orthogonality,
            lrt_init=config.lrt_init,
            block=config.block,
            blocks=config.inv_blocks,
            growth=config.growth,
        )
        channels = LR_CHANNELS + self.rescaler.lost_channels
        self.compression = invertible_blocks(config.block, channels, config.compression_blocks, config.growth)
        self.prior = make_prior(
            config.prior,
            self.rescaler.lost_channels,
            pattern=config.prior_pattern,
            components=config.gmm_components,
        )
        self.embedder = make_embedder(
            config.embedder, self.backbone.context_dim, hidden=config.pse_hidden, count=config.lte_tokens
        )
        self.abar = alpha_bar(config.timestep)
        self.fidelity: FidelityOffsets | None = None
        self._merged: MergedModules[Backbone] = MergedModules()
        if config.fidelity_rank:
            if not backbone.fidelity_parts:
                raise ConfigError("this backbone has no fidelity setting; set fidelity_rank to 0.")
            self.fidelity = FidelityOffsets(self._restoring_weights(), config.fidelity_rank)

    def _restoring_weights(self) -> dict[str, Tensor]:
        parts = tuple(f"{part}." for part in self.backbone.fidelity_parts)
        return {name: weight for name, weight in self.backbone.named_parameters() if name.startswith(parts)}

    @property
    def size_multiple(self) -> int:
        """What the sides of a picture must be divisible by: both of these are powers of two."""
        return max(self.config.scale, self.backbone.size_multiple)

    @property
    def tile_multiple(self) -> int:
        """In thumbnail pixels: tiles that start on multiples of it share the whole picture's windows and patterns."""
        return math.lcm(self.size_multiple // self.config.scale, self.backbone.window, self.config.prior_pattern)

    @property
    def context_dim(self) -> int:
        """The width of condition tokens."""
        return self.backbone.context_dim

    def _backbone_dtype(self) -> torch.dtype:
        return next((p.dtype for p in self.backbone.parameters()), torch.float32)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Picture -> thumbnail before it is rounded, and the lost channels."""
        _check_sides("pictures", x, self.size_multiple)
        z = self.backbone.encode(x.to(self._backbone_dtype())).float()
        raw, lost = self.rescaler(z)
        return raw_to_unit(raw, self.rescaler.gain), lost

    def autoencode(self, x: Tensor) -> Tensor:
        """The VAE alone: picture -> latent -> picture, nominally in [0, 1], not clamped."""
        return self.backbone.decode(self.backbone.encode(x.to(self._backbone_dtype())))

    def project(self, x: Tensor) -> Tensor:
        """Picture -> thumbnail (B, 3, H/s, W/s) before it is rounded, nominally in [0, 1]."""
        return self._split(x)[0]

    def downscale(self, x: Tensor) -> Tensor:
        """Picture (B, 3, H, W) in [0, 1] -> thumbnail (B, 3, H/s, W/s), multiples of 1/255 in [0, 1]."""
        return quantize_8bit(self.project(x))

    def upscale(self, y: Tensor, origin: tuple[int, int] = (0, 0), fidelity: float = 0.0) -> Tensor:
        """Thumbnail (B, 3, h, w) in [0, 1] -> picture (B, 3, h s, w s), nominally in [0, 1], not clamped.

        ``origin``: the row and column at which ``y`` was cut out of a larger thumbnail. ``fidelity``: from 0
        (most natural) to 1 (lowest error). Raises ConfigError for another, or where the model has no such setting.
        """
        return self._restore(y, origin, fidelity)[0]

    def check_fidelity(self, fidelity: float) -> None:
        """Raise ConfigError unless the model can restore at this fidelity."""
        if not 0 <= fidelity <= 1:
            raise ConfigError(f"fidelity is {fidelity:g}; give a number from 0 (most natural) to 1 (lowest error).")
        if fidelity and self.fidelity is None:
            raise ConfigError("this model has no fidelity setting; leave fidelity out.")

    def train(self, mode: bool = True) -> Self:
        """As of any module; what was merged for a fidelity is merged anew."""
        self._merged.clear()
        return super().train(mode)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        # Moved or cast as a whole: what was merged is not kept in the old place.
        self._merged.clear()
        return super()._apply(*args, **kwargs)  # type: ignore[no-any-return,no-untyped-call]

    def _backbone_at(self, fidelity: float) -> Backbone:
        """The backbone with ``fidelity`` of the offsets merged into its weights."""
        if self.fidelity is None or not fidelity:
            return self.backbone
        offsets, weights = self.fidelity, self._restoring_weights()

        def merge() -> Backbone:
            return with_weights(self.backbone, offsets(weights, fidelity))

        # With gradients, as in training, each pass needs a graph of its own.
        if torch.is_grad_enabled():
            return merge()
        return self._merged.get(fidelity, (*weights.values(), *offsets.parameters()), merge)

    def settled(self, fidelity: float = 0.0) -> Self:
        """A copy, for inference alone, in which ``fidelity`` is merged and orthogonal matrices are plain ones.

        It restores as the model does at that fidelity, has no setting of it, and shares the tensors that are the same.
        Raises ConfigError as ``check_fidelity`` does.
        """
        self.check_fidelity(fidelity)
        with torch.no_grad():
            offsets = self.fidelity if fidelity else None
            moved = {} if offsets is None else offsets(self._restoring_weights(), fidelity)
            model = with_weights(self, {f"backbone.{name}": nn.Parameter(w, False) for name, w in moved.items()})
            model.fidelity = None
            for module in model.modules():
                if isinstance(module, OrthogonalTransform):
                    module.settle()
        return model

    def _restore(
        self, y: Tensor, origin: tuple[int, int] = (0, 0), fidelity: float = 0.0
    ) -> tuple[Tensor, Condition | None]:
        self.check_fidelity(fidelity)
        _check_sides("thumbnails", y, self.size_multiple // self.config.scale)
        backbone, dtype = self._backbone_at(fidelity), self._backbone_dtype()
        raw = unit_to_raw(y, self.rescaler.gain)
        lost = self.prior(raw.shape[0], *raw.shape[2:])
        for block in reversed(self.compression):
            raw, lost = _halves(block.inverse(torch.cat([raw, lost], 1)))  # type: ignore[operator]
        z_t = self.rescaler.inverse(raw, lost)
        condition: Condition | None = self.embedder(y)
        prediction = backbone.predict(z_t.to(dtype), condition and condition.to(dtype))
        z_0 = one_step(z_t, prediction, self.abar, backbone.prediction_type)
        rows, columns = (position * self.factor for position in origin)
        return backbone.decode(z_0.to(dtype), (rows, columns)), condition

    def forward(
        self,
        x: Tensor,
        fidelity: float = 0.0,
        store: Callable[[Tensor, Tensor], Stored] | None = None,
    ) -> Reconstruction:
        """Downscale and restore, differentiable throughout (the rounding's gradient is straight-through).

        ``store``: thumbnails and their pictures -> the thumbnails as files give them back; the thumbnail returned is
        without it.
        """
        unrounded, lost = self._split(x)
        y = quantize_8bit(unrounded)
        stored = None if store is None else store(y, x)
        picture, condition = self._restore(y if stored is None else stored.thumbnails, fidelity=fidelity)
        compression = None
        if self.compression and stored is not None and stored.own.any():
            raw = unit_to_raw(unrounded, self.rescaler.gain)
            for block in self.compression:
                raw, lost = _halves(block(torch.cat([raw, lost], 1)))
            off = raw_to_unit(raw, self.rescaler.gain) - stored.thumbnails
            compression = off[stored.own].square().mean()
        return Reconstruction(y, picture, condition, lost, stored and stored.bits, compression)


def _halves(h: Tensor) -> tuple[Tensor, Tensor]:
    return h[:, :LR_CHANNELS], h[:, LR_CHANNELS:]


def _check_sides(what: str, x: Tensor, multiple: int) -> None:
    height, width = x.shape[-2:]
    if height % multiple or width % multiple:
        raise ConfigError(f"{what} must have sides that are multiples of {multiple}; one is {width} x {height} pixels.")
