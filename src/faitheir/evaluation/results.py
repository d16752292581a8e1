"""Results of a measurement, per picture and as means, with all that is needed to know what was measured.

Written by ``evaluate`` and ``compare``, read by the tables, the plots and the report. One JSON file per system.
"""

import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from faitheir.config import from_dict, to_dict
from faitheir.errors import ConfigError, EvaluationError
from faitheir.storage import write_atomic

#: Version of the JSON files; newer ones are refused.
RESULT_VERSION = 1

SystemKind = Literal["model", "restored", "resampling", "codec", "super-resolution", "command", "published"]


@dataclass(frozen=True)
class Output:
    """One picture's files as a system made them, to be measured.

    ``restored``: the full-size picture's file. ``thumbnail``: the stored file, where it is a picture to look at.
    ``bytes``: size of what is stored, by default the thumbnail's. ``seconds_down``, ``seconds_up``: to encode and to
    decode, where they were measured. ``error``: why the system made nothing, one sentence; then ``restored`` need not
    exist. ``details``: other facts, such as the quality that a codec used.
    """

    restored: Path
    thumbnail: Path | None = None
    bytes: int | None = None
    seconds_down: float | None = None
    seconds_up: float | None = None
    error: str | None = None
    details: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PictureResult:
    """One picture of one system.

    ``picture``: its path below the folder of originals, without suffix, with "/" between parts: what pairs files.
    ``values``: metric -> value, for metrics of one picture; ``bytes``, ``bits_per_pixel`` (of the original's pixels),
    ``seconds_down`` and ``seconds_up`` among them where they were measured. ``error``: why it has none, one sentence.
    ``original``, ``thumbnail``, ``restored``: files, by absolute paths (in a JSON file: relative to it where they lie
    in its folder).
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
    ``note``: for people, shown below tables: which bytes a codec was matched to, where published numbers are from.
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

    def to_json(self) -> str:
        """As standard JSON: infinity and nan are the strings "inf" and "nan"."""
        return json.dumps({"version": RESULT_VERSION} | strict(to_dict(self)), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "the result") -> "SystemResult":
        """The inverse of ``to_json``; ``where`` names the file in messages. Raises EvaluationError."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise EvaluationError(f"{where}: not a result of an evaluation ({error}); compute it again.") from None
        if not isinstance(values, dict) or type(values.get("version")) is not int:
            raise EvaluationError(f"{where}: not a result of an evaluation; compute it again.")
        if values["version"] > RESULT_VERSION:
            raise EvaluationError(f"{where}: written by a newer FaithEIR; upgrade this one to read it.")
        try:
            for table in (values, *values.get("pictures", ())):
                for name in {"values", "summary"} & table.keys():
                    table[name] = {key: _number(value) for key, value in table[name].items()}
            return from_dict(cls, {k: v for k, v in values.items() if k != "version"}, where=where)
        except (ConfigError, AttributeError, TypeError, ValueError, OverflowError) as error:
            raise EvaluationError(f"{where}: not a result of an evaluation ({error}); compute it again.") from None


def write_result(path: str | Path, result: SystemResult) -> None:
    """Write one system's JSON file, whole or not at all. Raises ImageError where it cannot be written."""
    folder = Path(path).absolute().parent

    def relative(file: str) -> str:
        return Path(file).relative_to(folder).as_posix() if Path(file).is_relative_to(folder) else file

    write_atomic(path, _with_files(result, relative).to_json().encode())


def read_result(path: str | Path) -> SystemResult:
    """What ``write_result`` wrote. Raises EvaluationError, naming the file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path}: the result cannot be read ({error}).") from None
    folder = Path(path).absolute().parent
    return _with_files(SystemResult.from_json(text, str(path)), lambda file: str(folder / file))


def read_results(folder: str | Path) -> list[SystemResult]:
    """The results in a folder (``*.json``), by name. Raises EvaluationError for a file that is not a result."""
    return [read_result(path) for path in sorted(Path(folder).glob("*.json"))]


def _with_files(result: SystemResult, change: Callable[[str], str]) -> SystemResult:
    def moved(picture: PictureResult) -> PictureResult:
        original, thumbnail, restored = (
            file and change(file) for file in (picture.original, picture.thumbnail, picture.restored)
        )
        return replace(picture, original=original, thumbnail=thumbnail, restored=restored)

    return replace(result, pictures=tuple(map(moved, result.pictures)))


def file_stem(system: str) -> str:
    """A name for a system's files and folders: its own where that is safe, else made safe and unique by a hash."""
    safe = re.sub(r"[^A-Za-z0-9._+-]+", "-", system).strip("-.")[:60]
    if safe == system:
        return safe
    return f"{safe or 'system'}-{hashlib.sha256(system.encode()).hexdigest()[:8]}"


def means(rows: Iterable[dict[str, float]]) -> dict[str, float]:
    """Mean of each metric over the pictures that have it; nan does not count."""
    columns = defaultdict[str, list[float]](list)
    for name, value in chain.from_iterable(row.items() for row in rows):
        if not math.isnan(value):
            columns[name].append(value)
    return {name: math.fsum(values) / len(values) for name, values in columns.items()}


def strict(value: Any) -> Any:
    """For JSON, which has no infinity and no nan: these as texts."""
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, list):
        return [strict(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not (isinstance(value, (int, float)) or value in ("inf", "-inf", "nan")):
        raise ValueError(f"{value!r} is not a number")
    return float(value)
