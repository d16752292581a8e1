"""What a measurement leaves: per picture and in sum, with all that is needed to know what was measured.

Written by ``evaluate`` and ``compare``, read by the tables, the plots and the report. One JSON file per system.
"""

from dataclasses import dataclass, field
from typing import Literal

SystemKind = Literal["model", "restored", "resampling", "codec", "super-resolution", "command", "published"]


@dataclass(frozen=True)
class PictureResult:
    """One picture of one system.

    ``picture``: its path below the folder of originals, without suffix, with "/" between parts: what pairs files.
    ``values``: metric -> value, for metrics of one picture; ``bytes``, ``bits_per_pixel`` (of the original's pixels),
    ``seconds_down`` and ``seconds_up`` among them where they were measured. ``error``: why it has none, one sentence.
    ``original``, ``thumbnail``, ``restored``: files, relative to the result file's folder or absolute.
    """

    picture: str
    width: int
    height: int
    values: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    original: str | None = None
    thumbnail: str | None = None
    restored: str | None = None


@dataclass(frozen=True)
class SystemResult:
    """One system under one protocol.

    ``summary``: metric -> mean over pictures, or the value of a metric of whole sets (fid, kid).
    ``missing``: metric -> why it could not be computed and what to do, one sentence.
    ``warnings``: metric -> why its value must be read with caution (too few patches, say).
    ``about``: versions of libraries, hashes of metric weights, of the model and of the list of files, device, settings.
    ``note``: for people, shown below tables: which bytes a codec was held to, where published numbers are from.
    """

    system: str
    kind: SystemKind
    protocol: str
    scale: int | None = None
    pictures: tuple[PictureResult, ...] = ()
    summary: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    warnings: dict[str, str] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    note: str = ""
