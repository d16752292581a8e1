"""Files made of originals by a system, picture after picture, resumable: what is to be measured."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from faitheir.errors import DeviceError, MissingDependencyError, reason
from faitheir.evaluation.results import Output
from faitheir.evaluation.roundtrip import through_file
from faitheir.evaluation.store import Store
from faitheir.images import Picture, read_picture
from faitheir.pipeline import FaithEIRPipeline


@dataclass(frozen=True)
class Task:
    """A picture to be made: write the file that is stored to ``stored``, the full-size picture to ``restored``."""

    picture: str
    original: Path
    stored: Path
    restored: Path


@dataclass(frozen=True)
class Made:
    """What is said of a task once both files are written; see `Output`."""

    seconds_down: float | None = None
    seconds_up: float | None = None
    details: dict[str, float] = field(default_factory=dict)


def produce(
    originals: Mapping[str, Path],
    work: Callable[[Task], Made],
    folder: Path,
    *,
    settings: str | Callable[[str], str],
    store: Store,
    kept: str = "thumbnails",
    suffix: str = ".png",
    restored_suffix: str = ".png",
    prepare: Callable[[Sequence[str]], None] | None = None,
    label: str = "",
    progress: bool = True,
) -> dict[str, Output]:
    """Have every picture made into ``folder/thumbnails`` and ``folder/restored``; one that fails stops no other.

    ``settings`` says all that the files depend on besides the original, of a picture where it is a function: what was
    made with the same settings from the same original and lies there unchanged is not made again. ``kept``: the folder
    for stored files, with ``suffix``; those elsewhere than in "thumbnails" are no pictures to look at. ``prepare`` is
    called with the pictures still to be made, before the first. Files are written whole or not at all.
    Raises DeviceError and MissingDependencyError, which no picture is free of.
    """
    outputs: dict[str, Output] = {}
    pending: dict[str, str] = {}
    for picture, original in originals.items():
        try:
            source = Store.hash(original)
            key = Store.key("made", settings if isinstance(settings, str) else settings(picture), picture, source)
        except Exception as error:
            outputs[picture] = Output(folder, error=reason(error))
            continue
        there = _recall(store, key, *_targets(folder, picture, kept, suffix, restored_suffix), kept)
        if there is None:
            pending[picture] = key
        else:
            outputs[picture] = there
    if pending and prepare is not None:
        prepare(list(pending))
    with tqdm(pending.items(), desc=label or None, unit="picture", disable=None if progress else True) as bar:
        for picture, key in bar:
            stored, restored = _targets(folder, picture, kept, suffix, restored_suffix)
            try:
                made = _make(work, picture, originals[picture], stored, restored)
                entry = {"stored": Store.hash(stored), "restored": Store.hash(restored)}
                times = {"seconds_down": made.seconds_down, "seconds_up": made.seconds_up}
                store.write_entry(key, entry | times | {"details": made.details})
                outputs[picture] = _output(stored, restored, kept, made)
            except (DeviceError, MissingDependencyError):
                raise
            except Exception as error:  # of any kind: it is this picture's failure, and the rest goes on
                outputs[picture] = Output(restored, error=reason(error, "; a smaller tile needs less"))
    return {picture: outputs[picture] for picture in originals}


def model_work(pipeline: FaithEIRPipeline) -> Callable[[Task], Made]:
    """The work of a model: down to the thumbnail's file, and back from what that file holds.

    The model is given pixels only: EXIF and profile would count as bytes of its thumbnails, and of no codec's files.
    """
    warm = False

    def work(task: Task) -> Made:
        nonlocal warm
        photograph = Picture(read_picture(task.original).rgb)
        if not warm:  # the first picture of a process pays for what the later ones do not
            pipeline.upscale_thumbnail(pipeline.downscale_picture(Picture(photograph.rgb[:64, :64].copy())))
            warm = True
        down, up = through_file(pipeline, photograph, task.stored, task.restored)[2:]
        return Made(down, up)

    return work


def model_settings(pipeline: FaithEIRPipeline) -> dict[str, str]:
    """What a model's pictures depend on, for ``produce`` (as ``str``) and ``SystemResult.about``."""
    return {
        "model": pipeline.name,
        "model_weights": pipeline.weights,
        "model_device": pipeline.device.type,
        "model_dtype": str(pipeline.dtype).removeprefix("torch."),
        "model_tile": str(pipeline.tile),
        "model_fidelity": f"{pipeline.fidelity:g}",
    }


def _targets(folder: Path, picture: str, kept: str, suffix: str, restored_suffix: str) -> tuple[Path, Path]:
    return folder / kept / f"{picture}{suffix}", folder / "restored" / f"{picture}{restored_suffix}"


def _output(stored: Path, restored: Path, kept: str, made: Made) -> Output:
    thumbnail = stored if kept == "thumbnails" else None
    return Output(restored, thumbnail, stored.stat().st_size, made.seconds_down, made.seconds_up, details=made.details)


def _recall(store: Store, key: str, stored: Path, restored: Path, kept: str) -> Output | None:
    entry = store.entry(key)
    if not (entry and stored.is_file() and restored.is_file()):
        return None
    if (Store.hash(stored), Store.hash(restored)) != (entry.get("stored"), entry.get("restored")):
        return None
    made = Made(entry.get("seconds_down"), entry.get("seconds_up"), entry.get("details") or {})
    return _output(stored, restored, kept, made)


def _make(work: Callable[[Task], Made], picture: str, original: Path, stored: Path, restored: Path) -> Made:
    for path in (stored, restored):
        path.parent.mkdir(parents=True, exist_ok=True)
    # They are made in a hidden folder and moved into place once both are whole.
    with tempfile.TemporaryDirectory(dir=restored.parent, prefix=".faitheir-") as temporary:
        task = Task(picture, original, Path(temporary) / f"stored-{stored.name}", Path(temporary) / restored.name)
        made = work(task)
        task.stored.replace(stored)
        task.restored.replace(restored)
    return made
