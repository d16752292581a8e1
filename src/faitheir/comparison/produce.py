"""A system makes files of originals, picture after picture, resumable: what is to be measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from faitheir.errors import DeviceError, MissingDependencyError, reason
from faitheir.evaluation.measures import Weights
from faitheir.evaluation.results import Output, SystemKind
from faitheir.evaluation.store import Store
from faitheir.storage import clear_temporaries, temporary_folder


@dataclass(frozen=True)
class Setting:
    """How systems make their files, and what is measured of these (see ``evaluate``).

    ``scale``: of thumbnails that are not a model's; None is the target's, or 16. ``suffix``: of thumbnail files.
    """

    scale: int | None = None
    suffix: str = ".webp"
    device: str = "cpu"
    dtype: str = "float32"
    tile: int | None = None
    base: Path | None = None
    protocol: str = "paper"
    metrics: tuple[str, ...] | None = None
    weights: Weights = field(default_factory=dict)
    batch: int = 16
    progress: bool = True


class System:
    """A system ready to make files. ``about``: what they depend on besides the original; for the result, too.

    ``kept``: the folder for stored files, with ``suffix``; those elsewhere than in "thumbnails" are no pictures to look
    at. ``made``: what ``outputs`` returned.
    """

    kind: SystemKind
    kept = "thumbnails"
    suffix = ".webp"

    def __init__(self, system: str, scale: int | None, about: dict[str, str]) -> None:
        self.system = system
        self.scale = scale
        self.about = about
        self.made: dict[str, Output] = {}

    def outputs(
        self, originals: Mapping[str, Path], folder: Path, store: Store, *, progress: bool = True
    ) -> dict[str, Output]:
        """Have every picture made into ``folder``; one that fails stops no other.

        What was made with the same settings from the same original and lies there unchanged is not made again. Files
        are written whole or not at all. Raises DeviceError and MissingDependencyError, which no picture is free of.
        """
        self.load()
        pending: dict[str, str] = {}
        self.made = {}
        for picture, original in originals.items():
            try:
                key = Store.key("made", self.settings(picture), picture, Store.hash(original))
            except Exception as error:
                self.made[picture] = Output(folder, error=reason(error))
                continue
            files, entry = self._files(folder, picture), store.entry(key)
            hashes = [entry.pop(name, None) for name in ("stored", "restored")]
            if all(path.is_file() for path in files) and [Store.hash(path) for path in files] == hashes:
                self.made[picture] = self._output(*files, entry)
            else:
                pending[picture] = key
        for place in {folder, *(self._files(folder, picture)[1].parent for picture in pending)}:
            clear_temporaries(place)
        if pending:
            self.prepare({picture: originals[picture] for picture in pending}, folder)
        bar = tqdm(pending.items(), desc=f"making {self.system}", unit="picture", disable=None if progress else True)
        for picture, key in bar:
            stored, restored = self._files(folder, picture)
            try:
                said = self._make(picture, originals[picture], stored, restored)
                store.write_entry(key, {"stored": Store.hash(stored), "restored": Store.hash(restored)} | said)
                self.made[picture] = self._output(stored, restored, said)
            except (DeviceError, MissingDependencyError):
                raise
            except Exception as error:  # of any kind: it is this picture's failure, and the rest goes on
                self.made[picture] = Output(restored, error=reason(error, "; a smaller tile needs less"))
        self.made = {picture: self.made[picture] for picture in originals}
        return self.made

    def load(self) -> None:
        """Called before anything else: ``settings`` may rest on it."""

    def settings(self, picture: str) -> str:  # noqa: ARG002
        """All that the files of a picture depend on besides the original."""
        return repr(sorted(self.about.items()))

    def prepare(self, pending: Mapping[str, Path], folder: Path) -> None:
        """Called once before the first of the pictures that are still to be made."""

    def work(self, picture: str, original: Path, stored: Path, restored: Path) -> dict[str, Any]:
        """Write the file that is stored and the full-size picture; return seconds and details, as in `Output`."""
        raise NotImplementedError

    def note(self) -> str:
        """What people must know to read the row."""
        return ""

    def _files(self, folder: Path, picture: str) -> tuple[Path, Path]:
        return folder / self.kept / f"{picture}{self.suffix}", folder / "restored" / f"{picture}.png"

    def _output(self, stored: Path, restored: Path, said: Mapping[str, Any]) -> Output:
        thumbnail = stored if self.kept == "thumbnails" else None
        return Output(restored, thumbnail, stored.stat().st_size, **said)

    def _make(self, picture: str, original: Path, stored: Path, restored: Path) -> dict[str, Any]:
        for path in (stored, restored):
            path.parent.mkdir(parents=True, exist_ok=True)
        # They are made in a hidden folder and moved into place once both are whole.
        with temporary_folder(restored.parent) as temporary:
            files = temporary / f"stored-{stored.name}", temporary / restored.name
            said = self.work(picture, original, *files)
            files[0].replace(stored)
            files[1].replace(restored)
        return said
