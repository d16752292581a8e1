"""What bicubic, WebP and AVIF give for as many bytes as a thumbnail took, to be seen beside what it gives."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from faitheir.comparison.codecs import CODECS, Codec, encode_within
from faitheir.errors import EvaluationError, MissingDependencyError
from faitheir.evaluation.metrics import psnr, ssim
from faitheir.images import Picture, UInt8Array, bicubic_thumbnail, encode_picture, resize_bicubic


@dataclass(frozen=True, eq=False)
class Rival:
    """One system's answer: the bytes it took, what comes back and how near that is, or why there is nothing.

    ``factor``: by what the sides were divided before coding; ``quality``: None for bicubic, which has none.
    """

    system: str
    restored: UInt8Array | None = None
    bytes: int = 0
    factor: int = 1
    quality: int | None = None
    psnr: float = 0
    ssim: float = 0
    error: str = ""


SYSTEMS = ("bicubic", "webp", "avif")


def rivals(rgb: UInt8Array, budget: int, scale: int, check: Callable[[], None]) -> Iterator[Rival]:
    """Each of ``SYSTEMS`` on the photograph, in at most ``budget`` bytes; bicubic at ``scale``, in what it takes.

    ``check`` is called between trials, and may raise.
    """
    small = bicubic_thumbnail(rgb, scale)
    data = encode_picture(Picture(small), "png", optimize=True)
    large = resize_bicubic(small, (small.shape[1] * scale, small.shape[0] * scale))[: rgb.shape[0], : rgb.shape[1]]
    check()
    yield _measured("bicubic", rgb, large, len(data), scale, None)
    for name in SYSTEMS[1:]:
        check()
        try:
            codec = CODECS[name]()
            coded = encode_within(_checked(codec, check), rgb, budget)
            yield _measured(codec.name, rgb, coded.restored, len(coded.data), coded.factor, coded.quality)
        except (EvaluationError, MissingDependencyError) as error:
            yield Rival(name, error=str(error))


def _checked(codec: Codec, check: Callable[[], None]) -> Codec:
    def encode(rgb: UInt8Array, quality: int) -> bytes:
        check()
        return codec.encode(rgb, quality)

    return replace(codec, encode=encode)


def _measured(
    system: str, original: UInt8Array, restored: UInt8Array, size: int, factor: int, quality: int | None
) -> Rival:
    return Rival(system, restored, size, factor, quality, psnr(original, restored), ssim(original, restored))
