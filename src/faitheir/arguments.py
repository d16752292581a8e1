"""The forms in which callers may have pictures and thumbnails, for the pipeline and the client alike."""

import io
import os
from collections.abc import Iterable
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from faitheir.errors import ImageError
from faitheir.images import (
    DEFAULT_MAX_PIXELS,
    Picture,
    UInt8Array,
    decode_picture,
    picture_from_array,
    picture_from_pil,
    read_picture,
)
from faitheir.storage import PathLike
from faitheir.thumbnail import Thumbnail

#: One picture in any form: a path, a file's bytes, an open file, a PIL image, an array (H, W[, 1 to 4]), a tensor
#: (3, H, W), a ``Picture``.
PictureLike: TypeAlias = PathLike | bytes | BinaryIO | Image.Image | np.ndarray | Tensor | Picture
ThumbnailLike: TypeAlias = PictureLike | Thumbnail
Many: TypeAlias = list[Any] | tuple[Any, ...]

OutputType = Literal["pil", "np", "pt"]


def as_many(image: Any) -> Iterable[Any] | None:
    """The pictures in a list or a batch; None for a single one."""
    if isinstance(image, (list, tuple)) or (isinstance(image, (Tensor, np.ndarray)) and image.ndim == 4):
        return image
    return None


def as_bytes(source: Any) -> tuple[bytes, str] | None:
    """What is in bytes or in a file opened for reading, and what errors call it; None for anything else."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source), "the data"
    if not hasattr(source, "read"):
        return None
    name = getattr(source, "name", None)
    name = name if isinstance(name, str) else "the data"
    data = source.read()
    if not isinstance(data, bytes):
        raise ImageError(f"{name} was opened as text; open it in binary mode, 'rb'.")
    return data, name


def as_picture(image: Any, max_pixels: int = DEFAULT_MAX_PIXELS) -> Picture:
    """The picture in any form of ``PictureLike``. Raises ImageError for what is none, or too large."""
    if isinstance(image, Picture):
        return image
    if isinstance(image, (str, os.PathLike)):
        return read_picture(image, max_pixels=max_pixels)
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
    if (found := as_bytes(image)) is not None:
        return decode_picture(io.BytesIO(found[0]), found[1], max_pixels=max_pixels)
    raise ImageError(
        f"a picture must be a path, bytes, an open file, a PIL image, an array or a tensor, not {type(image).__name__}"
    )


def as_output(picture: Picture, output_type: OutputType) -> Image.Image | UInt8Array | Tensor:
    """The picture as ``output_type`` has it: a PIL image, (H, W, 3 or 4) uint8, or (3 or 4, H, W) float32 in [0, 1]."""
    if output_type == "pil":
        return picture.to_pil()
    parts = [picture.rgb] if picture.alpha is None else [picture.rgb, picture.alpha[:, :, None]]
    array = np.concatenate(parts, 2)
    return array if output_type == "np" else torch.from_numpy(array).permute(2, 0, 1).float() / 255


def as_thumbnail(thumbnail: Any) -> Thumbnail:
    """The thumbnail in any form of ``ThumbnailLike``. Raises ImageError or ThumbnailError for what is none."""
    if isinstance(thumbnail, Thumbnail):
        return thumbnail
    if isinstance(thumbnail, (str, os.PathLike)):
        return Thumbnail.open(thumbnail)
    if isinstance(thumbnail, Image.Image):
        return Thumbnail.from_pil(thumbnail)
    if (found := as_bytes(thumbnail)) is not None:
        return Thumbnail.decode(found[0])
    return Thumbnail(as_picture(thumbnail), None)
