"""Protocols: what is measured, on which pixels. docs/reference/metrics.md describes them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from faitheir.errors import EvaluationError

_ALL = ("lpips_alex", "lpips_vgg", "dists", "fid", "kid", "psnr", "ssim", "musiq", "thumbnail_psnr", "thumbnail_ssim")


@dataclass(frozen=True)
class Protocol:
    """``description``: one sentence for tables. ``metrics``: measured where none are asked for.

    ``luma``: PSNR and SSIM are of Y alone, without ``border`` pixels on each side (None: as many as the scale).
    ``patch``, ``shifts``: FID and KID are of patches of this side, laid from (shift, shift) without overlap.
    """

    name: str
    description: str
    metrics: tuple[str, ...] = _ALL
    luma: bool = False
    border: int | None = 0
    patch: int = 256
    shifts: tuple[int, ...] = (0,)

    def patches(self, height: int, width: int) -> Iterator[tuple[int, int]]:
        """Top and left of every patch that lies within a picture: none where it is smaller than a patch."""
        for shift in self.shifts:
            for top in range(shift, height - self.patch + 1, self.patch):
                for left in range(shift, width - self.patch + 1, self.patch):
                    yield top, left


PROTOCOLS = {
    p.name: p
    for p in (
        Protocol("paper", "RGB; FID and KID on 256 x 256 patches without overlap"),
        Protocol(
            "hific-256",
            "RGB; FID and KID on 256 x 256 patches, laid twice: from the corner, and from (128, 128)",
            shifts=(0, 128),
        ),
        Protocol(
            "luma",
            "PSNR and SSIM on Y (BT.601) without a border as wide as the scale; everything else as in 'paper'",
            luma=True,
            border=None,
        ),
    )
}


def find_protocol(protocol: str | Protocol) -> Protocol:
    """The protocol of that name; "luma-4" is "luma" with a border of 4. Raises EvaluationError for an unknown one."""
    if isinstance(protocol, Protocol):
        return protocol
    if protocol in PROTOCOLS:
        return PROTOCOLS[protocol]
    if border := re.fullmatch(r"luma-(\d{1,4})", protocol):
        description = f"PSNR and SSIM on Y (BT.601) without a border of {border[1]}; everything else as in 'paper'"
        return replace(PROTOCOLS["luma"], name=protocol, description=description, border=int(border[1]))
    raise EvaluationError(f"Unknown protocol '{protocol}'; choose one of {', '.join(PROTOCOLS)}.")
