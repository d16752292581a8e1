"""From pictures to thumbnails and back: files, tiles, device and precision around a model."""

import re
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from threading import Lock
from typing import Any, Literal, Self, TypeVar, Unpack, get_args, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from faitheir.arguments import (
    Many,
    OutputType,
    PictureLike,
    ThumbnailLike,
    as_many,
    as_output,
    as_picture,
    as_thumbnail,
)
from faitheir.devices import resolve_device, resolve_dtype
from faitheir.errors import ConfigError, DeviceError, ModelError, ThumbnailError
from faitheir.hub import HubOptions
from faitheir.images import (
    DEFAULT_MAX_PIXELS,
    ExifMode,
    Picture,
    UInt8Array,
    fill_transparent,
    filter_exif,
    pad_to_multiple,
    resize_alpha,
)
from faitheir.models import (
    CARD_FILE,
    DEFAULT_MODEL,
    ModelConfig,
    find_model,
    live_state,
    load_model,
    maker,
    model_for,
    model_hash,
    save_model,
    settled_config,
    stored_state,
)
from faitheir.nn.codec import FaithEIR
from faitheir.runtimes import OpenVINO, Runtime
from faitheir.thumbnail import Thumbnail, ThumbnailInfo
from faitheir.tiling import Float32Array, Progress, process_tiles

T = TypeVar("T")

#: Pixels of the full-size picture by which tiles overlap, at least.
OVERLAP = 128


class WeightsMismatchWarning(UserWarning):
    """A thumbnail was made by other weights than those restoring it."""


class FaithEIRPipeline:
    """A model that takes and gives pictures in any form, of any size.

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
        max_pixels: int = DEFAULT_MAX_PIXELS,
        card: str | None = None,
    ) -> None:
        """``tile``: side of a tile in pixels of the full-size picture (default 512 for turbo, else 2048).

        ``fidelity``: how thumbnails are restored where a call does not say, from 0 (most natural) to 1 (lowest
        error). ``max_pixels``: the largest picture that is read from a file or restored, where a call does not say.
        ``card``: the model card that ``save_pretrained`` writes beside the weights. Raises ConfigError for a tile that
        is too small, or a fidelity that the model cannot give.
        """
        self.model = model.eval()
        self._openvino: OpenVINO | None = None
        model.check_fidelity(fidelity)
        self.fidelity = fidelity
        self.max_pixels = max_pixels
        self.config = settled_config(model, config)
        self.card = card
        #: 16 hexadecimal digits that name these weights in thumbnails.
        self.weights = model_hash(model)
        # What casting to half precision lost, on the CPU, and in half precision itself where that holds it, as it does
        # for the embedded weights (17 MB).
        self._rounded: dict[str, Tensor] = {}
        # In thumbnail pixels: what sides must be a multiple of, and what tiles are laid out in.
        self._multiple = model.size_multiple // self.scale
        self._align = model.tile_multiple
        self._overlap = -(-OVERLAP // self.scale // self._align) * self._align
        self._tile = self._tile_cells(tile or default_tile(config))
        self._memory_format = torch.contiguous_format if config.backbone.kind == "turbo" else torch.channels_last

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path = DEFAULT_MODEL,
        *,
        base: str | Path | None = None,
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = "float32",
        runtime: Runtime = "torch",
        tile: int | None = None,
        fidelity: float = 0.0,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        revision: str | None = None,
        **hub: Unpack[HubOptions],
    ) -> Self:
        """Load an embedded model by name, a model folder, or a model on the Hub ("owner/name"); LoRA is merged.

        ``base``: a local folder of SD-Turbo's weights, for turbo models. ``device``, ``dtype``: see ``to``.
        ``runtime``: "openvino" computes in OpenVINO, on the CPU, in float32 or bfloat16; each half is converted when it
        is first used, for some 20 seconds, and kept. ``tile``, ``fidelity``, ``max_pixels``: see ``__init__``.
        ``revision``: a commit, branch or tag of a model on the Hub. ``hub``: ``cache_dir``, ``local_files_only`` and
        ``token``, as huggingface_hub has them.
        Raises ModelError, ConfigError, DeviceError or MissingDependencyError.
        """
        if runtime not in get_args(Runtime):
            raise ConfigError(f"runtime is {runtime!r}; choose one of {', '.join(get_args(Runtime))}.")
        device = resolve_device("cpu" if (runtime, device) == ("openvino", "auto") else device)
        if runtime == "openvino" and device.type != "cpu":
            raise DeviceError(f"OpenVINO computes on the CPU here, not on {device}; choose cpu, or the runtime torch.")
        computed = resolve_dtype(dtype, device)
        dtype = computed if runtime == "torch" else torch.float32
        folder = find_model(source, revision=revision, **hub)
        model, config = load_model(folder, base=base, dtype=dtype, **hub)
        model.backbone.merge_lora()
        card = folder / CARD_FILE
        text = card.read_text(encoding="utf-8") if card.is_file() else None
        pipeline = cls(model, config, tile=tile, fidelity=fidelity, max_pixels=max_pixels, card=text)
        pipeline.to(device, dtype)
        if runtime == "openvino":
            pipeline._openvino = OpenVINO(model, f"{pipeline.weights} {pipeline.config}", computed)
        return pipeline

    @property
    def name(self) -> str:
        """The model's name."""
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
    def layout(self) -> dict[str, int]:
        """How thumbnails are padded and tiled, in thumbnail pixels but for ``scale``; for programs that do the same.

        ``multiple``: sides are padded to multiples of it by repeating the edge. ``align``: tiles start on multiples of
        it. ``overlap``, ``tile``: as ``tiling.spans`` has them.
        """
        return {
            "scale": self.scale,
            "multiple": self._multiple,
            "align": self._align,
            "overlap": self._overlap,
            "tile": self._tile,
        }

    @property
    def licence(self) -> str | None:
        """The licence that the model card names, None where it names none."""
        front_matter = (self.card or "").partition("\n---\n")[0]
        found = re.search(r"^license: *(\S+)", front_matter, re.M)
        return found and found[1]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    @property
    def _halves(self) -> FaithEIR | OpenVINO:
        return self._openvino or self.model

    @property
    def dtype(self) -> torch.dtype:
        """The backbone's precision; in OpenVINO, the model's."""
        if self._openvino is not None:
            return self._openvino.dtype
        return next((p.dtype for p in self.model.backbone.parameters()), torch.float32)

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"{type(self).__name__}('{self.name}', scale={self.scale}, device='{self.device}', dtype='{dtype}', "
            f"weights='{self.weights}')"
        )

    def to(
        self,
        device: str | torch.device | torch.dtype | None = None,
        dtype: str | torch.dtype | None = None,
    ) -> Self:
        """Move the model, and cast its backbone (VAE and UNet) and embedder; the rest stays in float32. Returns itself.

        ``device``: "auto", "cpu", "cuda", "mps"; ``dtype``: "float32", "bfloat16", "float16", "auto". As torch's,
        ``to(torch.float16)`` casts. What ``save_pretrained`` writes, and the hash that thumbnails carry, stay those of
        the weights as they were loaded; only turbo's base keeps the precision in which it was loaded. Raises
        DeviceError, also for a pipeline that computes in OpenVINO.
        """
        if self._openvino is not None:
            raise DeviceError("This pipeline computes in OpenVINO; open another with that device and precision.")
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        target = self.device if device is None else resolve_device(device)
        wanted = None if dtype is None else resolve_dtype(dtype, target)
        self.model.to(target)
        if wanted is not None:
            self._cast(wanted)
        self.model.to(memory_format=self._memory_format)
        return self

    def _cast(self, dtype: torch.dtype) -> None:
        # The tokens are for the backbone alone; what leads to and from the thumbnail stays in float32.
        parts = (self.model.backbone, self.model.embedder)
        if all(weight.dtype == dtype for part in parts for weight in part.parameters()):
            return
        exact = self._exact_state()
        for part in parts:
            part.to(dtype)
        self._rounded.clear()
        with torch.no_grad():
            for name, tensor in live_state(self.model).items():
                # From what was loaded, never from what an earlier cast left of it.
                tensor.copy_(exact[name])
                if tensor.dtype != torch.float32:
                    self._rounded[name] = _smallest(exact[name])

    def _exact_state(self) -> dict[str, Tensor]:
        """The stored weights before casting rounded them; those that were changed since, by training, as they are."""
        state = stored_state(self.model)
        for name, exact in self._rounded.items():
            if torch.equal(exact.to(state[name]), state[name]):
                state[name] = exact.to(state[name].device, torch.float32)
        return state

    # Pictures and thumbnails in the package's own classes.

    def downscale_picture(
        self, picture: Picture, *, callback: Progress | None = None, exif: ExifMode = "safe"
    ) -> Thumbnail:
        """The thumbnail of a picture of any size, with its alpha, EXIF and profile, and how it was made.

        ``callback``, ``exif``: see ``downscale``.
        """
        return self._downscale_batch([picture], callback, exif)[0]

    def downscale_pictures(
        self, pictures: Iterable[Picture], *, callback: Progress | None = None, exif: ExifMode = "safe"
    ) -> Iterator[Thumbnail]:
        """The thumbnail of each, as ``downscale_picture``; neighbours of one size run as one batch."""
        for batch in self._batches(pictures, lambda p: (p.height, p.width), self.scale):
            yield from self._downscale_batch(batch, callback, exif)

    def _downscale_batch(
        self, pictures: Sequence[Picture], callback: Progress | None, exif: ExifMode
    ) -> list[Thumbnail]:
        """The thumbnails of pictures of one size, in one batch."""
        kept = [filter_exif(picture.exif, exif) for picture in pictures]
        pictures = [fill_transparent(picture, self.scale) for picture in pictures]
        height, width = pictures[0].height, pictures[0].width
        grid = (-(-height // self.scale), -(-width // self.scale))
        padded = self._padded(grid)
        levels = np.empty((len(pictures), *padded, 3), np.uint8)
        for top, rows in process_tiles(
            _stack(pictures),
            padded,
            cell_in=self.scale,
            cell_out=1,
            tile=self._tile,
            overlap=self._overlap,
            align=self._align,
            run=lambda cut, _: self._run(self._halves.project, cut),
            progress=callback,
        ):
            levels[:, top : top + rows.shape[1]] = _to_uint8(rows)
        thumbnails = []
        for picture, rgb, exif_ in zip(pictures, levels, kept, strict=True):
            alpha = picture.alpha
            if alpha is not None:
                alpha = resize_alpha(pad_to_multiple(alpha, self.scale), (grid[1], grid[0]))
            small = Picture(np.array(rgb[: grid[0], : grid[1]]), alpha, exif_, picture.icc_profile)
            thumbnails.append(Thumbnail(small, ThumbnailInfo(self.scale, width, height, self.weights)))
        return thumbnails

    def upscale_thumbnail(
        self,
        thumbnail: Thumbnail,
        *,
        fidelity: float | None = None,
        callback: Progress | None = None,
        max_pixels: int | None = None,
    ) -> Picture:
        """The full-size picture: of exactly the original's size, or thumbnail size x scale where there is no metadata.

        ``fidelity``, ``callback``, ``max_pixels``: see ``upscale``. Raises ConfigError for a fidelity that the model
        cannot give, ThumbnailError where the thumbnail was made at another scale, or the picture would be larger than
        ``max_pixels``; warns (WeightsMismatchWarning) where it was made by other weights.
        """
        return self._upscale_batch([thumbnail], fidelity, callback, max_pixels)[0]

    def upscale_thumbnails(
        self,
        thumbnails: Iterable[Thumbnail],
        *,
        fidelity: float | None = None,
        callback: Progress | None = None,
        max_pixels: int | None = None,
    ) -> Iterator[Picture]:
        """The picture of each, as ``upscale_thumbnail``; neighbours of one size run as one batch."""
        for batch in self._batches(thumbnails, lambda t: (t.picture.height, t.picture.width), 1):
            yield from self._upscale_batch(batch, fidelity, callback, max_pixels)

    def _upscale_batch(
        self,
        thumbnails: Sequence[Thumbnail],
        fidelity: float | None,
        callback: Progress | None,
        max_pixels: int | None,
    ) -> list[Picture]:
        """The pictures of thumbnails of one size, in one batch; the originals' sizes may differ."""
        fidelity = self.fidelity if fidelity is None else fidelity
        self.model.check_fidelity(fidelity)
        sizes = [self._restored_size(thumbnail, max_pixels) for thumbnail in thumbnails]
        small = [thumbnail.picture for thumbnail in thumbnails]
        pictures = [np.empty((*size, 3), np.uint8) for size in sizes]
        for top, rows in process_tiles(
            _stack(small),
            self._padded((small[0].height, small[0].width)),
            cell_in=1,
            cell_out=self.scale,
            tile=self._tile,
            overlap=self._overlap,
            align=self._align,
            run=lambda cut, origin: self._run(partial(self._halves.upscale, origin=origin, fidelity=fidelity), cut),
            progress=callback,
        ):
            for picture, strip in zip(pictures, rows, strict=True):
                height, width = picture.shape[:2]
                picture[top : top + len(strip)] = _to_uint8(strip[: max(0, height - top), :width])
        return [
            Picture(
                picture,
                None if source.alpha is None else self._enlarge_alpha(source.alpha, size),
                source.exif,
                source.icc_profile,
            )
            for picture, source, size in zip(pictures, small, sizes, strict=True)
        ]

    def _enlarge_alpha(self, alpha: UInt8Array, size: tuple[int, int]) -> UInt8Array:
        enlarged = resize_alpha(alpha, (alpha.shape[1] * self.scale, alpha.shape[0] * self.scale))
        return np.ascontiguousarray(enlarged[: size[0], : size[1]])

    def _restored_size(self, thumbnail: Thumbnail, max_pixels: int | None) -> tuple[int, int]:
        """(height, width) of what the thumbnail gives; see ``upscale_thumbnail`` for what it raises and warns of."""
        small, info = thumbnail.picture, thumbnail.info
        height, width = small.height * self.scale, small.width * self.scale
        if info is not None:
            if info.scale != self.scale:
                raise ThumbnailError(
                    f"the thumbnail was made at {info.scale}x by {maker(info)}, and '{self.name}' restores "
                    f"{self.scale}x; use the model that made it."
                )
            if info.weights != self.weights:
                warnings.warn(
                    f"the thumbnail was made by {maker(info)}, and is restored by the weights {self.weights} of "
                    f"'{self.name}': details and colours may be off.",
                    WeightsMismatchWarning,
                    stacklevel=2,
                )
            height, width = info.height, info.width
        limit = self.max_pixels if max_pixels is None else max_pixels
        if height * width > limit:
            raise ThumbnailError(
                f"restored, it would be {width} x {height} pixels, above the limit of {limit:,}; if this is a "
                "thumbnail and not a photograph, raise max_pixels."
            )
        return height, width

    # Pictures and thumbnails in any form.

    @overload
    def downscale(
        self,
        image: PictureLike,
        *,
        callback: Progress | None = None,
        max_pixels: int | None = None,
        exif: ExifMode = "safe",
    ) -> Thumbnail: ...
    @overload
    def downscale(
        self,
        image: Many,
        *,
        callback: Progress | None = None,
        max_pixels: int | None = None,
        exif: ExifMode = "safe",
    ) -> list[Thumbnail]: ...
    def downscale(
        self,
        image: PictureLike | Many,
        *,
        callback: Progress | None = None,
        max_pixels: int | None = None,
        exif: ExifMode = "safe",
    ) -> Thumbnail | list[Thumbnail]:
        """The thumbnail of a photograph, or a list of them for a list (or a batch (B, 3, H, W)).

        ``image``: a path, a file's bytes or an open file, a PIL image, an array (H, W[, C]) of uint8, uint16 or floats
        in [0, 1], or a tensor (3, H, W) of uint8 or floats in [0, 1]. In a list, neighbours of one size run as one
        batch, as many as fill a tile. The result has ``.image`` (PIL) and ``.save(path)``.
        ``callback(done, tiles)`` is called after each tile, beginning anew for each picture or batch; what it raises
        ends the call. ``max_pixels``: no larger picture is read from a file; by default the pipeline's. ``exif``:
        "safe" keeps date, camera, lens, exposure, author and copyright, and drops position, serial numbers and all
        else; "all" keeps what is worth keeping; "none" keeps nothing. The restored picture has what the thumbnail has.
        Raises ImageError for what is no picture, or too large a one.
        """
        limit = self.max_pixels if max_pixels is None else max_pixels
        if (many := as_many(image)) is not None:
            pictures = (as_picture(item, limit) for item in many)
            return list(self.downscale_pictures(pictures, callback=callback, exif=exif))
        return self.downscale_picture(as_picture(image, limit), callback=callback, exif=exif)

    @overload
    def upscale(
        self,
        thumbnail: ThumbnailLike,
        *,
        fidelity: float | None = None,
        output_type: Literal["pil"] = "pil",
        callback: Progress | None = None,
        max_pixels: int | None = None,
    ) -> Image.Image: ...
    @overload
    def upscale(
        self,
        thumbnail: ThumbnailLike,
        *,
        fidelity: float | None = None,
        output_type: Literal["np"],
        callback: Progress | None = None,
        max_pixels: int | None = None,
    ) -> UInt8Array: ...
    @overload
    def upscale(
        self,
        thumbnail: ThumbnailLike,
        *,
        fidelity: float | None = None,
        output_type: Literal["pt"],
        callback: Progress | None = None,
        max_pixels: int | None = None,
    ) -> Tensor: ...
    @overload
    def upscale(
        self,
        thumbnail: Many,
        *,
        fidelity: float | None = None,
        output_type: Literal["pil"] = "pil",
        callback: Progress | None = None,
        max_pixels: int | None = None,
    ) -> list[Image.Image]: ...
    @overload
    def upscale(
        self,
        thumbnail: Many,
        *,
        fidelity: float | None = None,
        output_type: Literal["np"],
        callback: Progress | None = None,
        max_pixels: int | None = None,
    ) -> list[UInt8Array]: ...
    @overload
    def upscale(
        self,
        thumbnail: Many,
        *,
        fidelity: float | None = None,
        output_type: Literal["pt"],
        callback: Progress | None = None,
        max_pixels: int | None = None,
    ) -> list[Tensor]: ...
    def upscale(
        self,
        thumbnail: ThumbnailLike | Many,
        *,
        fidelity: float | None = None,
        output_type: OutputType = "pil",
        callback: Progress | None = None,
        max_pixels: int | None = None,
    ) -> Any:
        """The full-size picture of a thumbnail, or a list of them for a list (or a batch (B, 3, H, W)).

        ``thumbnail``: a ``Thumbnail``, or a path, bytes, an open file, a PIL image, an array or a tensor as for
        ``downscale``. A ``Thumbnail``, a file and a PIL image opened from one know the original's size. In a list,
        neighbours of one size run as one batch, as many as fill a tile.
        ``fidelity``: from 0 (most natural) to 1 (lowest error); by default the pipeline's.
        ``output_type``: "pil", "np" ((H, W, 3 or 4) uint8) or "pt" ((3 or 4, H, W) float32 in [0, 1], on the CPU).
        ``callback``: as for ``downscale``. ``max_pixels``: of the restored picture; by default the pipeline's.
        Raises ConfigError for another output_type, and what ``upscale_thumbnail`` raises.
        """
        if output_type not in get_args(OutputType):
            raise ConfigError(f"output_type is {output_type!r}; choose one of {', '.join(get_args(OutputType))}.")
        if (many := as_many(thumbnail)) is not None:
            thumbnails = (as_thumbnail(item) for item in many)
            pictures = self.upscale_thumbnails(thumbnails, fidelity=fidelity, callback=callback, max_pixels=max_pixels)
            return [as_output(picture, output_type) for picture in pictures]
        picture = self.upscale_thumbnail(
            as_thumbnail(thumbnail), fidelity=fidelity, callback=callback, max_pixels=max_pixels
        )
        return as_output(picture, output_type)

    def _batches(self, items: Iterable[T], size: Callable[[T], tuple[int, int]], cell: int) -> Iterator[Sequence[T]]:
        """Neighbours of one ``size``, as many as fill a tile: a batch takes no more memory than a tile does.

        ``cell``: their pixels, each side, per pixel of a thumbnail.
        """
        for (height, width), same in groupby(items, size):
            rows, columns = self._padded((-(-height // cell), -(-width // cell)))
            count = max(1, self._tile**2 // (rows * columns))
            while batch := list(islice(same, count)):
                yield batch

    def save_pretrained(
        self, folder: str | Path, *, name: str | None = None, dtype: str | torch.dtype | None = None
    ) -> None:
        """Write the model as a folder that ``from_pretrained`` loads: the weights as loaded, whatever ``to`` cast.

        ``name``: in place of its own; a model that was changed needs another than the embedded ones have. ``dtype``:
        "float16" or "bfloat16" stores it in half, "int8" in a quarter of the bytes, as another model if that rounds.
        Raises ConfigError for a name that is another model's, DeviceError for an unknown dtype, ModelError where it
        cannot be written.
        """
        config = self.config if name is None else replace(self.config, name=name)
        if dtype in ("int8", torch.int8):
            stored: torch.dtype | None = torch.int8
        else:
            stored = None if dtype is None else resolve_dtype(dtype, self.device)
        save_model(folder, self.model, config, state=self._exact_state(), dtype=stored, card=self.card)

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
            raise ConfigError(f"tile is {pixels} pixels; '{self.name}' needs at least {least * self.scale}.")
        return cells

    def _padded(self, grid: tuple[int, int]) -> tuple[int, int]:
        rows, columns = (-(-n // self._multiple) * self._multiple for n in grid)
        return rows, columns

    def _run(self, function: Callable[[Tensor], Tensor], cut: np.ndarray) -> Float32Array:
        """(B, h, w, 3) uint8 -> (B, h', w', 3) float32 through ``function`` of tensors in [0, 1]."""
        x = torch.from_numpy(np.ascontiguousarray(cut)).to(self.device)
        x = (x.permute(0, 3, 1, 2).float() / 255).contiguous(memory_format=self._memory_format)
        with torch.inference_mode():
            out = function(x)
        if not out.sum(dtype=torch.float32).isfinite():
            raise DeviceError(f"the model's result is not finite in {self.dtype} on this device; use float32.")
        return out.float().permute(0, 2, 3, 1).cpu().numpy().copy()


class PipelineOptions(HubOptions, total=False):
    """What ``FaithEIRPipeline.from_pretrained`` takes beside the model."""

    base: str | Path | None
    device: str | torch.device
    dtype: str | torch.dtype
    runtime: Runtime
    tile: int | None
    fidelity: float
    max_pixels: int
    revision: str | None


def default_tile(config: ModelConfig) -> int:
    """Side of a tile, in pixels of the full-size picture, where none is asked for."""
    return 512 if config.backbone.kind == "turbo" else 2048


class Pipelines:
    """The pipelines that restore thumbnails, each opened once. Threads may share it.

    >>> pipelines = Pipelines(device="auto")
    >>> for path in paths:
    ...     thumbnail = Thumbnail.open(path)
    ...     picture = pipelines.for_thumbnail(thumbnail).upscale(thumbnail)
    """

    def __init__(
        self, model: str | Path | None = None, *, default: str = DEFAULT_MODEL, **options: Unpack[PipelineOptions]
    ) -> None:
        """``model``: the one for all thumbnails, in place of the one that each names. ``default``: the one for those
        without metadata. ``options``: for ``FaithEIRPipeline.from_pretrained``.
        """
        self.model = model
        self.default = default
        self.options = options
        self._opened: dict[str, FaithEIRPipeline] = {}
        self._lock = Lock()

    def open(self, source: str | Path) -> FaithEIRPipeline:
        """The pipeline of a model, as ``from_pretrained`` loads it the first time, and raises."""
        with self._lock:
            if str(source) not in self._opened:
                self._opened[str(source)] = FaithEIRPipeline.from_pretrained(source, **self.options)
            return self._opened[str(source)]

    def for_thumbnail(self, thumbnail: Thumbnail | None = None) -> FaithEIRPipeline:
        """The one that restores it: ``model``, or else the embedded one that made it (see ``models.model_for``).

        Raises ModelError where that is not in this package.
        """
        if self.model is not None:
            return self.open(self.model)
        return self.open(model_for(None if thumbnail is None else thumbnail.info, self.default))


def pipeline_for(
    thumbnail: ThumbnailLike, *, default: str = DEFAULT_MODEL, **options: Unpack[PipelineOptions]
) -> FaithEIRPipeline:
    """The pipeline of the embedded model that restores this thumbnail; for many, ``Pipelines`` loads each model once.

    ``thumbnail``: as for ``FaithEIRPipeline.upscale``. ``default``, ``options``: see ``Pipelines``. Raises ModelError
    where the model that made it is not in this package.
    """
    return Pipelines(default=default, **options).for_thumbnail(as_thumbnail(thumbnail))


def _to_uint8(values: Float32Array) -> UInt8Array:
    """[0, 1], rounded exactly as ``quantize_8bit`` does."""
    levels: UInt8Array = np.rint(np.clip(values, 0, 1) * np.float32(255)).astype(np.uint8)
    return levels


def _smallest(weight: Tensor) -> Tensor:
    """A copy on the CPU, in float16 where that holds it exactly."""
    half = weight.half()
    return (half if torch.equal(half.float(), weight) else weight.clone()).cpu()


def _stack(pictures: Sequence[Picture]) -> UInt8Array:
    """(B, H, W, 3), of one picture without a copy."""
    return pictures[0].rgb[None] if len(pictures) == 1 else np.stack([picture.rgb for picture in pictures])
