"""Pictures in, pictures out: device, precision, tiles, files. The public face of a model."""

import os
import tempfile
import warnings
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from faitheir.devices import resolve_device, resolve_dtype
from faitheir.errors import ConfigError, ImageError, ModelError, ThumbnailError
from faitheir.images import (
    DEFAULT_MAX_PIXELS,
    Picture,
    pad_to_multiple,
    picture_from_array,
    picture_from_pil,
    read_picture,
    resize_alpha,
)
from faitheir.models import (
    CARD_FILE,
    DEFAULT_MODEL,
    ModelConfig,
    find_model,
    load_model,
    save_model,
    stored_state,
    weights_hash,
)
from faitheir.nn.codec import FaithEIR
from faitheir.storage import PathLike
from faitheir.thumbnail import Thumbnail, ThumbnailInfo
from faitheir.tiling import Float32Array, process_tiles

#: One picture, in any of the forms a caller may have it. Arrays are (H, W), (H, W, 1 to 4); tensors (3, H, W).
PictureLike = PathLike | Image.Image | np.ndarray | Tensor | Picture
ThumbnailLike = PictureLike | Thumbnail

OutputType = Literal["pil", "np", "pt"]

#: Pixels of the full-size picture by which tiles overlap, at least.
OVERLAP = 128


class WeightsMismatchWarning(UserWarning):
    """A thumbnail was made by other weights than those restoring it."""


class FaithEIRPipeline:
    """A model with everything around it.

    >>> pipeline = FaithEIRPipeline.from_pretrained("nano-x16")
    >>> pipeline.downscale("photo.jpg").save("photo.thumb.png")
    >>> pipeline.upscale("photo.thumb.png").save("restored.png")
    """

    def __init__(
        self,
        model: FaithEIR,
        config: ModelConfig,
        *,
        tile: int | None = None,
        fidelity: float = 0.0,
        card: str | None = None,
    ) -> None:
        """``tile``: side of a tile in pixels of the full-size picture (default 512 for turbo, else 2048).

        ``fidelity``: how thumbnails are restored where a call does not say: from 0, the most natural picture, to 1, the
        truest. ``card``: the model card that ``save_pretrained`` writes beside the weights. Raises ConfigError for a
        tile that is too small, or a fidelity that the model cannot give.
        """
        self.model = model.eval()
        model.check_fidelity(fidelity)
        self.fidelity = fidelity
        self.config = config
        self.card = card
        #: 16 hexadecimal digits that name these weights in thumbnails.
        self.weights = weights_hash(stored_state(model))
        # In thumbnail pixels: what sides must be a multiple of, and what tiles are laid out in.
        self._multiple = model.size_multiple // self.scale
        self._align = model.tile_multiple
        self._overlap = -(-OVERLAP // self.scale // self._align) * self._align
        self._tile = self._tile_cells(tile or (512 if config.backbone.kind == "turbo" else 2048))
        self._memory_format = torch.contiguous_format if config.backbone.kind == "turbo" else torch.channels_last

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = DEFAULT_MODEL,
        *,
        base: str | Path | None = None,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = "float32",
        tile: int | None = None,
        fidelity: float = 0.0,
    ) -> Self:
        """Load an embedded model by name, a model folder, or a model on the Hub ("owner/name"); LoRA is merged.

        ``base``: a local folder of SD-Turbo's weights, for turbo models. ``device``, ``dtype``: see ``to``. ``tile``,
        ``fidelity``: see ``__init__``.
        Raises ModelError, ConfigError or DeviceError.
        """
        device = resolve_device(device)
        dtype = resolve_dtype(dtype, device)
        folder = find_model(source)
        model, config = load_model(folder, base=base)
        model.backbone.merge_lora()
        card = folder / CARD_FILE
        text = card.read_text(encoding="utf-8") if card.is_file() else None
        return cls(model, config, tile=tile, fidelity=fidelity, card=text).to(device, dtype)

    @property
    def name(self) -> str:
        """The model's id, as thumbnails carry it."""
        return self.config.name

    @property
    def scale(self) -> int:
        """Pixels of the photograph per pixel of the thumbnail, each side."""
        return self.config.codec.scale

    @property
    def tile(self) -> int:
        """Side of a tile, in pixels of the full-size picture."""
        return self._tile * self.scale

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The backbone's precision."""
        return next((p.dtype for p in self.model.backbone.parameters()), torch.float32)

    def to(self, device: str | torch.device | None = None, dtype: str | torch.dtype | None = None) -> Self:
        """Move the model, and cast its backbone (VAE and UNet) and embedder; the rest stays in float32. Returns itself.

        ``device``: "auto", "cpu", "cuda", "mps"; ``dtype``: "float32", "bfloat16", "float16", "auto".
        """
        target = self.device if device is None else resolve_device(device)
        self.model.to(target)
        if dtype is not None:
            # The tokens are for the backbone alone; what leads to and from the thumbnail stays in float32.
            for part in (self.model.backbone, self.model.embedder):
                part.to(resolve_dtype(dtype, target))
        self.model.to(memory_format=self._memory_format)
        return self

    # Pictures and thumbnails as this package holds them.

    def downscale_picture(self, picture: Picture) -> Thumbnail:
        """The thumbnail of a picture of any size, with its alpha, EXIF and profile, and how it was made."""
        height, width = picture.height, picture.width
        grid = (-(-height // self.scale), -(-width // self.scale))
        padded = self._padded(grid)
        thumbnail = np.empty((*padded, 3), np.float32)
        for top, rows in process_tiles(
            picture.rgb,
            padded,
            cell_in=self.scale,
            cell_out=1,
            tile=self._tile,
            overlap=self._overlap,
            align=self._align,
            run=lambda cut, _: self._run(self.model.project, cut),
        ):
            thumbnail[top : top + len(rows)] = rows
        alpha = picture.alpha
        if alpha is not None:
            alpha = resize_alpha(pad_to_multiple(alpha, self.scale), (grid[1], grid[0]))
        small = Picture(_to_uint8(thumbnail[: grid[0], : grid[1]]), alpha, picture.exif, picture.icc_profile)
        return Thumbnail(small, ThumbnailInfo(self.scale, width, height, self.name, self.weights))

    def upscale_thumbnail(self, thumbnail: Thumbnail, *, fidelity: float | None = None) -> Picture:
        """The full-size picture: of exactly the original's size, or LR size x scale where the thumbnail does not say.

        ``fidelity``: see ``upscale``. Raises ConfigError for one that the model cannot give, ThumbnailError where the
        thumbnail was made at another scale, or is no thumbnail by its size; warns (WeightsMismatchWarning) where it was
        made by other weights.
        """
        fidelity = self.fidelity if fidelity is None else fidelity
        self.model.check_fidelity(fidelity)
        small, info = thumbnail.picture, thumbnail.info
        height, width = small.height * self.scale, small.width * self.scale
        if info is not None:
            if info.scale != self.scale:
                raise ThumbnailError(
                    f"the thumbnail was made at {info.scale}x by '{info.model}', and '{self.name}' restores "
                    f"{self.scale}x; use the model that made it."
                )
            if info.weights != self.weights:
                warnings.warn(
                    f"the thumbnail was made by the weights {info.weights} of '{info.model}', and is restored by "
                    f"{self.weights} of '{self.name}': details and colours may be off.",
                    WeightsMismatchWarning,
                    stacklevel=2,
                )
            height, width = info.height, info.width
        if height * width > DEFAULT_MAX_PIXELS:
            raise ThumbnailError(
                f"restored it would be {width} x {height} pixels, above the limit of {DEFAULT_MAX_PIXELS:,}; "
                "is this a thumbnail?"
            )
        picture = np.empty((height, width, 3), np.uint8)
        for top, rows in process_tiles(
            small.rgb,
            self._padded((small.height, small.width)),
            cell_in=1,
            cell_out=self.scale,
            tile=self._tile,
            overlap=self._overlap,
            align=self._align,
            run=lambda cut, origin: self._run(partial(self.model.upscale, origin=origin, fidelity=fidelity), cut),
        ):
            picture[top : top + len(rows)] = _to_uint8(rows[: max(0, height - top), :width])
        alpha = small.alpha
        if alpha is not None:
            size = (small.width * self.scale, small.height * self.scale)
            alpha = np.ascontiguousarray(resize_alpha(alpha, size)[:height, :width])
        return Picture(picture, alpha, small.exif, small.icc_profile)

    # What callers have.

    @overload
    def downscale(self, image: PictureLike) -> Thumbnail: ...
    @overload
    def downscale(self, image: list[Any] | tuple[Any, ...]) -> list[Thumbnail]: ...
    def downscale(self, image: PictureLike | list[Any] | tuple[Any, ...]) -> Thumbnail | list[Thumbnail]:
        """The thumbnail of a photograph, or a list of them for a list (or a batch of tensors (B, 3, H, W)).

        ``image``: a path, a PIL image, an array (H, W[, C]) of uint8, uint16 or floats in [0, 1], or a tensor
        (3, H, W) of uint8 or floats in [0, 1]. The result has ``.image`` (PIL) and ``.save(path)``.
        """
        if (many := _as_many(image)) is not None:
            return [self.downscale(item) for item in many]
        return self.downscale_picture(_as_picture(image))

    def upscale(
        self,
        thumbnail: ThumbnailLike | list[Any] | tuple[Any, ...],
        *,
        fidelity: float | None = None,
        output_type: OutputType = "pil",
    ) -> Any:
        """The full-size picture of a thumbnail, or a list of them for a list (or a batch of tensors).

        ``thumbnail``: a ``Thumbnail``, a path, a PIL image, an array or a tensor as for ``downscale``. Only the first
        two (and PIL images opened from a thumbnail file) know the original's size.
        ``fidelity``: from 0, the most natural picture, to 1, the truest; by default the pipeline's.
        ``output_type``: "pil", "np" ((H, W, 3 or 4) uint8) or "pt" ((3 or 4, H, W) float32 in [0, 1], on the CPU).
        """
        if (many := _as_many(thumbnail)) is not None:
            return [self.upscale(item, fidelity=fidelity, output_type=output_type) for item in many]
        picture = self.upscale_thumbnail(_as_thumbnail(thumbnail), fidelity=fidelity)
        if output_type == "pil":
            return picture.to_pil()
        parts = [picture.rgb] if picture.alpha is None else [picture.rgb, picture.alpha[:, :, None]]
        array = np.concatenate(parts, 2)
        return array if output_type == "np" else torch.from_numpy(array).permute(2, 0, 1).float() / 255

    def save_pretrained(self, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
        """Write the model as a folder that ``from_pretrained`` loads; ``dtype`` stores it in half precision."""
        save_model(folder, self.model, self.config, dtype=dtype, card=self.card)

    def push_to_hub(self, repository: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload the model to the Hugging Face Hub and return its address. Raises ModelError where that fails."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        api = HfApi(token=token)
        try:
            with tempfile.TemporaryDirectory() as folder:
                self.save_pretrained(folder)
                api.create_repo(repository, private=private, exist_ok=True)
                return str(api.upload_folder(repo_id=repository, folder_path=folder))
        except HFValidationError:
            raise ModelError(f"'{repository}' is no valid name on the Hub; give one such as 'owner/name'.") from None
        except HfHubHTTPError as error:
            raise ModelError(f"The Hub refused the upload to '{repository}' ({str(error).splitlines()[0]}).") from None
        except OSError as error:
            raise ModelError(f"'{repository}' could not be uploaded, the Hub cannot be reached ({error}).") from None

    def _tile_cells(self, pixels: int) -> int:
        cells = pixels // self.scale // self._align * self._align
        least = 2 * self._overlap
        if cells < least:
            raise ConfigError(f"tile is {pixels} pixels; at least {least * self.scale} are wanted for '{self.name}'.")
        return cells

    def _padded(self, grid: tuple[int, int]) -> tuple[int, int]:
        rows, columns = (-(-n // self._multiple) * self._multiple for n in grid)
        return rows, columns

    def _run(self, function: Any, cut: np.ndarray) -> Float32Array:
        """(h, w, 3) uint8 -> (h', w', 3) float32 through ``function`` of tensors in [0, 1]."""
        x = torch.from_numpy(np.ascontiguousarray(cut)).to(self.device)
        x = (x.permute(2, 0, 1)[None].float() / 255).contiguous(memory_format=self._memory_format)
        with torch.inference_mode():
            out: Tensor = function(x)
        return out[0].float().permute(1, 2, 0).cpu().numpy().copy()


def _to_uint8(values: Float32Array) -> np.ndarray:
    """[0, 1], rounded exactly as ``quantize_8bit`` does."""
    levels: np.ndarray = np.rint(np.clip(values, 0, 1) * np.float32(255)).astype(np.uint8)
    return levels


def _as_many(image: Any) -> Iterable[Any] | None:
    """The pictures in a list or a batch of tensors; None for a single one."""
    if isinstance(image, (list, tuple)) or (isinstance(image, Tensor) and image.ndim == 4):
        return image
    return None


def _as_picture(image: Any) -> Picture:
    if isinstance(image, Picture):
        return image
    if isinstance(image, (str, os.PathLike)):
        return read_picture(image)
    if isinstance(image, Image.Image):
        return picture_from_pil(image)
    if isinstance(image, np.ndarray):
        return picture_from_array(image)
    if isinstance(image, Tensor):
        if image.ndim != 3:
            raise ImageError(f"a picture as a tensor must be (C, H, W), not {tuple(image.shape)}")
        values = image.detach().cpu()
        values = values.float() if values.is_floating_point() else values
        return picture_from_array(values.permute(1, 2, 0).numpy())
    raise ImageError(f"a picture must be a path, a PIL image, an array or a tensor, not {type(image).__name__}")


def _as_thumbnail(thumbnail: Any) -> Thumbnail:
    if isinstance(thumbnail, Thumbnail):
        return thumbnail
    if isinstance(thumbnail, (str, os.PathLike)):
        return Thumbnail.open(thumbnail)
    if isinstance(thumbnail, Image.Image):
        return Thumbnail.from_pil(thumbnail)
    return Thumbnail(_as_picture(thumbnail), None)
