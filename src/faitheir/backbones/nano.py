"""`nano`: a compact VAE and UNet in plain PyTorch, made for two CPU cores.

    encode   x --unshuffle 4--> H/4 --> H/8 --> z
    predict  z_T (H/8) --> H/16, windowed cross-attention to the tokens --> H/8 --> v
    decode   z_0 (H/8) --> H/4 --> H/2 --shuffle 2--> x, or z_0 (H/8) --> H/4 --shuffle 4--> x

Nothing is computed at full resolution but pixel (un)shuffles and one bilinear skip. There is no normalisation
over space and attention stays in windows, so a pixel depends on its neighbourhood only and tiles agree with the
whole picture. The timestep is fixed, so its embedding would be a constant that biases already
hold: there is none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from faitheir.errors import ConfigError
from faitheir.nn.codec import Backbone
from faitheir.nn.convolution import Conv3x3
from faitheir.nn.denoiser import PredictionType
from faitheir.nn.embedder import Condition

#: Pixels per latent position, each side.
STRIDE = 8


@dataclass(frozen=True)
class NanoConfig:
    """Widths and depths; ``blocks`` are residual blocks of two 3x3 convolutions.

    ``encoder_*``: at H/4 and H/8. ``unet_*``: at H/8 (before and after the middle) and H/16. ``decoder_*``:
    at H/8, H/4 and H/2; with a width of 0 and no blocks at H/2 the pixels are made from the features at H/4.
    ``decoder_up_kernel``: side of the kernels, 1 or 3, that lead to H/4. ``context_dim``: width of the condition
    tokens. ``heads`` of 64 channels attend within windows of ``window`` x ``window`` tokens. ``grain``: channels of
    noise that the decoder mixes into its features at H/8 and H/4, 0 for none.
    """

    kind: Literal["nano"] = "nano"
    latent_channels: int = 16
    encoder_widths: tuple[int, int] = (64, 96)
    encoder_blocks: tuple[int, int] = (1, 2)
    unet_widths: tuple[int, int] = (96, 256)
    unet_blocks: tuple[int, int] = (2, 5)
    decoder_widths: tuple[int, int, int] = (96, 64, 32)
    decoder_blocks: tuple[int, int, int] = (2, 2, 1)
    decoder_up_kernel: int = 3
    context_dim: int = 512
    heads: int = 4
    window: int = 8
    grain: int = 0

    def __post_init__(self) -> None:
        """Check ranges. Raises ConfigError."""
        widths = (*self.encoder_widths, *self.unet_widths, *self.decoder_widths[:2], self.context_dim)
        if min(*widths, self.heads, self.window) < 1:
            raise ConfigError("every width (but the decoder's last), heads and window must be at least 1.")
        if self.decoder_widths[2] < 0 or (not self.decoder_widths[2] and self.decoder_blocks[2]):
            raise ConfigError("the decoder's last width must not be negative, and with 0 there are no blocks.")
        if self.decoder_up_kernel not in (1, 3):
            raise ConfigError(f"decoder_up_kernel is {self.decoder_up_kernel}; give 1 or 3.")
        if self.latent_channels < 3:
            raise ConfigError("latent_channels must be at least 3: the first three carry the skip's colours.")
        if min(*self.encoder_blocks, *self.unet_blocks, *self.decoder_blocks, self.grain) < 0:
            raise ConfigError("numbers of blocks and grain must not be negative.")

    @property
    def size_multiple(self) -> int:
        """What picture sides must be divisible by, for the UNet to halve the latent."""
        return 2 * STRIDE


def _conv(in_channels: int, out_channels: int, size: int = 3, stride: int = 1, *, zero: bool = False) -> nn.Conv2d:
    conv = (
        Conv3x3(in_channels, out_channels)
        if size == 3 and stride == 1
        else nn.Conv2d(in_channels, out_channels, size, stride, size // 2)
    )
    if zero:
        nn.init.zeros_(conv.weight)
    else:
        nn.init.kaiming_normal_(conv.weight)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


def _silu(x: Tensor) -> Tensor:
    """In-place SiLU where no gradient is needed; the input must not be reused. Large tensors are bound by memory."""
    return F.silu(x, inplace=not torch.is_grad_enabled())


class ResBlock(nn.Module):
    """x + conv(silu(conv(silu(x)))), the last convolution starting at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = _conv(width, width)
        self.conv2 = _conv(width, width, zero=True)
        self.checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """Shape kept."""
        if self.checkpointing and self.training:
            return checkpoint(self._residual, x, use_reentrant=False)
        return self._residual(x)

    def _residual(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv2(_silu(self.conv1(x, silu=True)), plus=x)
        return out


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResBlock(width) for _ in range(count)))


def _smooth_shuffle(x: Tensor) -> Tensor:
    """Pixel shuffle by 2 and a 3 x 3 binomial blur: (B, 4 C, h, w) -> (B, C, 2 h, 2 w).

    The four channels behind a cell of 2 x 2 are free to differ everywhere alike, which shows as a lattice; the blur
    is zero at just the frequencies that the shuffle alone can make.
    """
    x = F.pixel_shuffle(x, 2)
    line = x.new_tensor((0.25, 0.5, 0.25))
    kernel = (line[:, None] * line).expand(x.shape[1], 1, 3, 3)
    return F.conv2d(x, kernel, padding=1, groups=x.shape[1])


class WindowCrossAttention(nn.Module):
    """Features attend to condition tokens: those of their own window where tokens lie on a grid, else to all.

    With a grid, each window of ``window`` x ``window`` tokens serves the features above it, with a learned
    bias for the offset between feature and token.
    """

    def __init__(self, width: int, context_dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        inner = heads * 64
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(context_dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width)
        self.bias = nn.Parameter(torch.zeros(heads, 2 * window - 1, 2 * window - 1))
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.to_out.bias)

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        """Features (B, width, h, w) -> the same shape, to be added to them."""
        batch, _, height, width = x.shape
        q = self.to_q(x.movedim(1, -1))
        kv = self.to_kv(condition.tokens)
        if condition.grid is None:
            out = self._attend(q.flatten(1, 2), kv).unflatten(1, (height, width))  # type: ignore[no-untyped-call]
            return self.to_out(out).movedim(-1, 1)  # type: ignore[no-any-return]

        rows, columns = condition.grid
        ratio = height // rows  # features per token, each side
        if ratio * rows != height or ratio * columns != width:
            raise ValueError(f"{rows} x {columns} tokens do not lie evenly under {height} x {width} features.")
        side = self.window
        pad_rows, pad_columns = -rows % side, -columns % side
        kv = F.pad(kv.unflatten(1, (rows, columns)), (0, 0, 0, pad_columns, 0, pad_rows))
        q = F.pad(q, (0, 0, 0, pad_columns * ratio, 0, pad_rows * ratio))
        grid = ((rows + pad_rows) // side, (columns + pad_columns) // side)
        mask = self._offset_bias(ratio).to(q.dtype)[None]
        if pad_rows or pad_columns:
            real = torch.zeros(1, rows, columns, 1, device=q.device, dtype=q.dtype)
            real = F.pad(real, (0, 0, 0, pad_columns, 0, pad_rows), value=float("-inf"))
            hidden = _to_windows(real, side)[:, None, None, :, 0]  # (windows, 1, 1, tokens)
            mask = (mask + hidden).repeat(batch, 1, 1, 1)
        out = self._attend(_to_windows(q, side * ratio), _to_windows(kv, side), mask)
        out = _from_windows(out, side * ratio, grid)[:, :height, :width]
        return self.to_out(out).movedim(-1, 1)  # type: ignore[no-any-return]

    def _attend(self, q: Tensor, kv: Tensor, mask: Tensor | None = None) -> Tensor:
        q = q.unflatten(-1, (self.heads, 64)).transpose(1, 2)  # type: ignore[no-untyped-call]
        k, v = kv.unflatten(-1, (2, self.heads, 64)).permute(2, 0, 3, 1, 4)  # type: ignore[no-untyped-call]
        return F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)

    def _offset_bias(self, ratio: int) -> Tensor:
        """(heads, queries of a window, tokens of a window)."""
        side = self.window
        token = torch.arange(side, device=self.bias.device)
        query = torch.arange(side * ratio, device=self.bias.device) // ratio
        offset = query[:, None] - token[None] + side - 1  # (queries, tokens) along one axis
        table = self.bias[:, offset[:, None, :, None], offset[None, :, None, :]]
        return table.flatten(3, 4).flatten(1, 2)


def _to_windows(x: Tensor, side: int) -> Tensor:
    """(B, h, w, c) -> (B windows, side side, c)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // side, side, width // side, side, channels)
    return x.transpose(2, 3).reshape(-1, side * side, channels)


def _from_windows(x: Tensor, side: int, grid: tuple[int, int]) -> Tensor:
    """The inverse of ``_to_windows`` for ``grid`` windows."""
    rows, columns = grid
    x = x.reshape(-1, rows, columns, side, side, x.shape[-1])
    return x.transpose(2, 3).reshape(-1, rows * side, columns * side, x.shape[-1])


class Encoder(nn.Module):
    """Picture -> latent. Its first three channels start as the colours, averaged over 8 x 8, in [-1, 1]."""

    def __init__(self, config: NanoConfig) -> None:
        super().__init__()
        fine, coarse = config.encoder_widths
        self.conv_in = _conv(3 * 16, fine)
        self.fine = _blocks(fine, config.encoder_blocks[0])
        self.down = _conv(fine, coarse, stride=2)
        self.coarse = _blocks(coarse, config.encoder_blocks[1])
        self.conv_out = _conv(coarse, config.latent_channels, zero=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, C, H/8, W/8)."""
        x = 2 * x - 1
        h = self.coarse(self.down(self.fine(self.conv_in(F.pixel_unshuffle(x, 4)))))
        z: Tensor = self.conv_out(_silu(h))
        colours = F.avg_pool2d(x, STRIDE)
        return z + F.pad(colours, (0, 0, 0, 0, 0, z.shape[1] - 3)).to(z.dtype)


class UNet(nn.Module):
    """The denoising network: latent and tokens -> v. It starts at v = -z_T, that is z_0 close to z_T."""

    def __init__(self, config: NanoConfig) -> None:
        super().__init__()
        fine, coarse = config.unet_widths
        before, middle = config.unet_blocks
        self.conv_in = _conv(config.latent_channels, fine)
        self.before = _blocks(fine, before)
        self.down = _conv(fine, coarse, stride=2)
        self.middle1 = _blocks(coarse, middle // 2)
        self.attention = WindowCrossAttention(coarse, config.context_dim, config.heads, config.window)
        self.middle2 = _blocks(coarse, middle - middle // 2)
        self.up = _conv(coarse, 4 * fine, 1)
        self.after = _blocks(fine, before)
        self.conv_out = _conv(fine, config.latent_channels, zero=True)

    def forward(self, z: Tensor, condition: Condition | None) -> Tensor:
        """(B, C, h, w) with even h and w -> the same shape."""
        skip = self.before(self.conv_in(z))
        h = self.middle1(self.down(F.silu(skip)))
        if condition is not None:
            h = h + self.attention(h, condition)
        h = self.middle2(h)
        h = self.after(skip + _smooth_shuffle(self.up(_silu(h))))
        out: Tensor = self.conv_out(_silu(h))
        return out - z


def position_noise(channels: int, rows: Tensor, columns: Tensor) -> Tensor:
    """Noise (1, channels, h, w) of mean 0 and variance 1, uniform, that depends on nothing but the position.

    The same on every machine, in every tile and in every run; ``rows`` (h,) and ``columns`` (w,) are positions from
    0 up. A hash of 32 bits with multiplications and shifts (after Ellis's lowbias32), worked in int32, which wraps:
    OpenVINO and WebGPU have no int64.
    """
    channel, rows, columns = (n.int() for n in (torch.arange(channels, device=rows.device), rows, columns))
    channel_factor, row_factor, column_factor = (_signed(bits) for bits in (0xC2B2AE3D, 0x9E3779B1, 0x85EBCA77))
    x = channel[:, None, None] * channel_factor + rows[:, None] * row_factor + columns * column_factor
    for factor in (0x7FEB352D, 0x846CA68B):
        x = (x ^ _upper(x)) * _signed(factor)
    upper = _upper(x)
    # Exact but for the sum, which rounds as float32 of the whole number would.
    number = upper.float() * 2**16 + ((x ^ upper) & 0xFFFF).float()
    return ((number / 2**32 - 0.5) * 12**0.5)[None]


def _signed(bits: int) -> int:
    """The int32 of these 32 bits."""
    return bits - ((bits & 0x80000000) << 1)


def _upper(x: Tensor) -> Tensor:
    """The upper half of int32's bits, from 0 to 65535."""
    # OpenVINO divides in float32 where it should shift: only positive numbers of few bits come out right.
    return ((x & 0x7FFF0000) >> 16) + (x < 0).int() * 0x8000


class Grain(nn.Module):
    """Adds position noise to features, mixed by a learned matrix that starts at zero.

    Where the thumbnail is flat, a convolutional network can only repeat itself from cell to cell, which shows as
    repeated texture; an irregular texture needs an irregular input.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.mix = nn.Conv2d(channels, width, 1, bias=False)
        nn.init.zeros_(self.mix.weight)

    def forward(self, x: Tensor, origin: tuple[int, int]) -> Tensor:
        """Features (B, width, h, w) whose first position is ``origin`` -> the same shape."""
        rows, columns = (
            torch.arange(start, start + n, device=x.device) for start, n in zip(origin, x.shape[2:], strict=True)
        )
        noise = position_noise(self.channels, rows, columns).to(x.dtype)
        # Four channels are too few for torch's convolutions; as a product over them it takes a tenth of the time.
        return x + F.linear(noise.movedim(1, -1), self.mix.weight.flatten(1)).movedim(-1, 1)


class Decoder(nn.Module):
    """Latent -> picture: a bilinear enlargement of the first three channels plus learned detail."""

    def __init__(self, config: NanoConfig) -> None:
        super().__init__()
        w8, w4, w2 = config.decoder_widths
        self.conv_in = _conv(config.latent_channels, w8)
        self.grain8 = Grain(w8, config.grain) if config.grain else None
        self.blocks8 = _blocks(w8, config.decoder_blocks[0])
        self.up4 = _conv(w8, 4 * w4, config.decoder_up_kernel)
        self.grain4 = Grain(w4, config.grain) if config.grain else None
        self.blocks4 = _blocks(w4, config.decoder_blocks[1])
        self.up2 = _conv(w4, 4 * w2) if w2 else None
        self.blocks2 = _blocks(w2, config.decoder_blocks[2])
        self.shuffle = 2 if w2 else 4
        self.conv_out = _conv(w2 or w4, 3 * self.shuffle**2, zero=True)

    def forward(self, z: Tensor, origin: tuple[int, int] = (0, 0)) -> Tensor:
        """(B, C, h, w), cut out of a latent at ``origin`` -> (B, 3, 8 h, 8 w). In training the origin is drawn."""
        if self.training and self.grain8 is not None:
            top, left = torch.randint(2**16, (2,)).tolist()
            origin = (top, left)
        h = self.conv_in(z)
        if self.grain8 is not None:
            h = self.grain8(h, origin)
        h = _smooth_shuffle(self.up4(_silu(self.blocks8(h))))
        if self.grain4 is not None:
            h = self.grain4(h, (2 * origin[0], 2 * origin[1]))
        h = self.blocks4(h)
        if self.up2 is not None:
            h = self.blocks2(_smooth_shuffle(self.up2(_silu(h))))
        detail = F.pixel_shuffle(self.conv_out(_silu(h)), self.shuffle)
        # Not in half precision: bfloat16 has steps of a whole level where it is bright.
        picture = _enlarge(z[:, :3].to(torch.promote_types(z.dtype, torch.float32)))
        return picture.add_(detail).add_(1).div_(2)


def _enlarge(colours: Tensor) -> Tensor:
    """Bilinear, by ``STRIDE``: (B, C, h, w) -> (B, C, 8 h, 8 w)."""
    # Enlarging, the filter against aliasing is the bilinear one, and on CPUs torch's way with it is three times faster.
    # Traced, it is for others to run, some of which know no such filter.
    antialias = colours.device.type == "cpu" and not torch.compiler.is_compiling()
    return F.interpolate(
        colours.contiguous(), scale_factor=STRIDE, mode="bilinear", align_corners=False, antialias=antialias
    )


class NanoBackbone(Backbone):
    """The three networks together; see ``Backbone`` for the interface."""

    latent_stride = STRIDE
    least_scale = 2 * STRIDE  # tokens meet the features at H/16
    prediction_type: PredictionType = "v_prediction"
    vae_parts = ("encoder", "decoder")
    fidelity_parts = ("unet", "decoder")

    def __init__(self, config: NanoConfig) -> None:
        super().__init__()
        self.config = config
        self.latent_channels = config.latent_channels
        self.context_dim = config.context_dim
        self.size_multiple = config.size_multiple
        self.window = config.window
        self.encoder = Encoder(config)
        self.unet = UNet(config)
        self.decoder = Decoder(config)

    def encode(self, x: Tensor) -> Tensor:
        """Picture (B, 3, H, W) in [0, 1], sides divisible by 16 -> latent (B, C, H/8, W/8)."""
        return self.encoder(x)  # type: ignore[no-any-return]

    def decode(self, z: Tensor, origin: tuple[int, int] = (0, 0)) -> Tensor:
        """Latent, cut out of a larger one at ``origin`` -> picture (B, 3, H, W), nominally in [0, 1], not clamped."""
        return self.decoder(z, origin)  # type: ignore[no-any-return]

    def predict(self, z_t: Tensor, condition: Condition | None) -> Tensor:
        """The prediction v for the noisy latent, of its shape."""
        return self.unet(z_t, condition)  # type: ignore[no-any-return]

    def trained_state_dict(self) -> dict[str, Tensor]:
        """All of the weights: there is no frozen base."""
        return self.state_dict()

    def load_trained_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load what ``trained_state_dict`` gave."""
        self.load_state_dict(state)

    def enable_gradient_checkpointing(self) -> None:
        """In training, recompute the inside of residual blocks in the backward pass instead of keeping it."""
        for module in self.modules():
            if isinstance(module, ResBlock):
                module.checkpointing = True

    def parts(self) -> dict[str, int]:
        """Parameters by part."""
        return {
            name: sum(p.numel() for p in part.parameters())
            for name, part in (
                ("VAE encoder", self.encoder),
                ("UNet", self.unet),
                ("VAE decoder", self.decoder),
            )
        }
