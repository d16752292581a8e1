"""Millions of files, on many machines: `downscale`, `upscale` and `roundtrip` through Ray Data and fsspec.

>>> from faitheir import bulk
>>> bulk.downscale("s3://photos/2024", "s3://thumbnails/2024", ray="auto")

Scheduling, queues and retries are Ray's, storage is fsspec's. What exists in TARGET with the same settings is skipped
by listing it, so a run that ended early is continued by starting it again.
"""

import hashlib
import json
import math
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

from faitheir.batches import (
    Naming,
    RestoredFormat,
    ThumbnailFiles,
    check_quality,
    check_scale,
    restored_naming,
    round_trip_naming,
    thumbnail_naming,
)
from faitheir.bulk.manifest import STEPS, Manifest
from faitheir.bulk.planning import (
    File,
    Planner,
    Verb,
    open_source,
    read_record,
    write_record,
)
from faitheir.bulk.run import Cluster, Run, Summary, sample
from faitheir.bulk.stages import Work
from faitheir.bulk.stores import Store
from faitheir.errors import PlanError
from faitheir.images import UNTRUSTED_MAX_PIXELS, ExifMode, written_quality

__all__ = ["Estimate", "Options", "Summary", "downscale", "estimate", "roundtrip", "upscale"]

#: Files that an estimate is made from.
_SAMPLE = 16


class Options(TypedDict, total=False):
    """What `downscale`, `upscale` and `roundtrip` take beside SOURCE and TARGET; all of it may be left out.

    Where: ``ray`` ("local", the default, starts Ray on this machine; "auto" or an address joins a cluster; a Ray that
    this process has joined is used as it is), ``cpus`` and ``object_store`` (CPUs, and bytes for pictures on their way,
    of a local one), ``models`` (how many at most; default: as many as the CPUs or GPUs hold), ``threads`` (of each, on
    the CPU; default 4, or what the smallest machine has), ``gpus`` (of each, such as 0.25; default 1), ``apart`` (if
    processes of their own decode and encode; default: where GPUs compute).

    What: ``scale`` (16, 32), ``model``, ``base``, ``device``, ``dtype``, ``tile`` and ``fidelity`` as for
    ``FaithEIRPipeline.from_pretrained``; ``max_pixels`` (default 64,000,000: files of others); ``thumbnails``, how they
    are stored; ``exif``; ``format`` and ``quality`` of restored pictures ("png" by default).

    How: ``overwrite`` (redo what exists), ``adopt`` (what exists and was not made by a bulk run counts as done),
    ``shard_files`` (outputs go into WebDataset shards of so many files each), ``progress`` (called with the `Summary`
    so far).
    """

    ray: str
    cpus: float | None
    object_store: int | None
    models: int | None
    threads: int | None
    gpus: float
    apart: bool | None
    scale: int | None
    model: str | None
    base: str | Path | None
    device: str
    dtype: str
    tile: int | None
    fidelity: float
    max_pixels: int
    thumbnails: ThumbnailFiles
    exif: ExifMode
    format: RestoredFormat
    quality: int | None
    overwrite: bool
    adopt: bool
    shard_files: int
    progress: Callable[[Summary], object]


@dataclass(frozen=True)
class Estimate:
    """What a run would do."""

    files: int
    """Number of files, or of shards."""
    bytes: int
    """Size of these files, as far as listings tell."""
    skipped: int
    sampled: int
    """How many files the following is estimated from; 0 where none could be done."""
    bytes_after: float
    seconds: float
    """With the models that would run."""
    models: int


def downscale(source: str, target: str, **options: Unpack[Options]) -> Summary:
    """Thumbnails of photographs, as `faitheir downscale` makes them.

    ``source``: a folder, its address, a pattern, a list of paths (.txt, .parquet), one file, or shards (.tar); see
    docs/tasks/bulk.md. ``target``: a folder or its address. Raises PlanError where nothing can be begun, and
    FaithEIRError for what is no file's fault; a file's failure is the summary's.
    """
    return _Setup("downscale", source, target, options).run()


def upscale(source: str, target: str, **options: Unpack[Options]) -> Summary:
    """Full-size pictures from thumbnails, as `faitheir upscale` restores them; see `downscale`."""
    return _Setup("upscale", source, target, options).run()


def roundtrip(source: str, target: str, **options: Unpack[Options]) -> Summary:
    """Thumbnails, restored pictures and both side by side, as `faitheir roundtrip` makes them; see `downscale`.

    The manifest has what it measured of each.
    """
    return _Setup("roundtrip", source, target, options).run()


def estimate(verb: Verb, source: str, target: str, **options: Unpack[Options]) -> Estimate:
    """What a run would do, from listings and a sample of the files; nothing is written."""
    return _Setup(verb, source, target, options).estimate()


class _Setup:
    """A run before it is begun."""

    def __init__(self, verb: Verb, source: str, target: str, options: Options) -> None:
        unknown = options.keys() - Options.__annotations__.keys()
        if unknown:
            raise TypeError(f"unknown options: {', '.join(sorted(unknown))}")
        self.verb, self.options = verb, options
        self.files = options.get("thumbnails", ThumbnailFiles())
        self.format: RestoredFormat = options.get("format", "png")
        check_quality(self.format, options.get("quality"))
        self.naming = self._naming()
        self.source = open_source(source)
        self.target = Store(target)
        names: tuple[str, ...] = ("cpus", "object_store", "models", "threads", "apart")
        given: Any = {name: options.get(name) for name in names}
        self.cluster = Cluster(options.get("ray", "local"), gpus=options.get("gpus", 1.0), **given)
        self.device = options.get("device", "auto")
        scale = options.get("scale")
        self.scale = None if scale is None else str(scale)
        self.settings = self._settings()

    def _naming(self) -> Naming:
        if self.verb == "downscale":
            return thumbnail_naming(self.files)
        if self.verb == "upscale":
            return restored_naming(self.format)
        return round_trip_naming(self.files, self.format)

    def _settings(self) -> dict[str, Any]:
        """All that outputs depend on, the defaults of this version filled in: what TARGET's record holds."""
        from faitheir.models import DEFAULT_MODELS, embedded_models, find_model, read_config, stored_hash
        from faitheir.pipeline import default_tile

        model = self.options.get("model")
        check_scale(self.scale, model)
        default = DEFAULT_MODELS[int(self.scale or 16)] if model is None else str(model)
        names = {default}
        if model is None and self.verb == "upscale":
            names |= set(embedded_models())
        elif model is None and self.files.budget and self.scale is None:
            names.add(DEFAULT_MODELS[32])
        models = {}
        for name in sorted(names):
            folder = find_model(name)
            tile = self.options.get("tile") or default_tile(read_config(folder))
            models[Path(name).name] = {"weights": stored_hash(folder), "tile": tile}
        settings: dict[str, Any] = {
            "model": Path(default).name,
            "models": models,
            "dtype": self.options.get("dtype", "auto"),
            "shard_files": self.options.get("shard_files", 0),
        }
        if self.verb != "upscale":
            settings |= {"thumbnails": self.files.settings, "exif": self.options.get("exif", "safe")}
        if self.verb != "downscale":
            quality = written_quality(self.format, self.options.get("quality"))
            settings |= {"format": self.format, "quality": quality}
            settings |= {"fidelity": self.options.get("fidelity", 0.0)}
        return settings

    def _work(self, *, dry: bool = False) -> Work:
        given: dict[str, Any] = dict(self.options)
        model: dict[str, Any] = {"model": None, "device": self.device, "dtype": given.get("dtype", "auto")}
        model |= {name: given[name] for name in ("base", "tile", "fidelity", "model") if name in given}
        return Work(
            verb=self.verb,
            source=self.source.store,
            target=self.target,
            naming=self.naming,
            files=self.files,
            restored_format=self.format,
            restored_quality=self.options.get("quality"),
            exif=self.options.get("exif", "safe"),
            scale=self.scale,
            options=model,
            max_pixels=self.options.get("max_pixels", UNTRUSTED_MAX_PIXELS),
            threads=self.cluster.threads_for(self.device),
            shards=self.source.shards,
            dry=dry,
        )

    def _planner(self, since: float) -> Planner:
        return Planner(self.source, self.target, self.naming, since=since, per_shard=self.options.get("shard_files", 0))

    def _since(self) -> tuple[float, bool]:
        """From when on outputs have these settings, and whether TARGET says so. PlanError where it has others."""
        if self.options.get("overwrite"):
            return math.inf, False
        record = read_record(self.target, self.verb)
        if record is None:
            return 0.0, False
        theirs, ours = _flat(record.settings), _flat(self.settings)
        if theirs != ours:
            name = min(name for name in theirs | ours if theirs.get(name) != ours.get(name))
            raise PlanError(
                f"{self.target} holds outputs of other settings ({name}: {json.dumps(theirs.get(name))}, not "
                f"{json.dumps(ours.get(name))}); choose another TARGET, or replace them with --overwrite."
            )
        return record.since, True

    def run(self) -> Summary:
        if self.source.store.here_only and self.source.shards:
            raise PlanError("shards cannot be read from memory://; put them into a folder.")
        since, known = self._since()
        adopt = bool(self.options.get("adopt"))
        if math.isinf(since):
            if not self.target.local:
                time.sleep(1.1)  # stores tell times in seconds: what is there must be older than the record
            write_record(self.target, self.verb, self.settings, adopted=False)
        with self.cluster.connected():
            work = replace(self._work(), since=since)
            stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
            name = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16]
            manifest = Manifest(self.target, f"{stamp}-{secrets.token_hex(3)}", name)
            run = Run(work, self._planner(since), self.cluster, manifest, self.options.get("progress", lambda _: None))
            run.plan()
            if not known and not math.isinf(since):
                if run.summary.skipped and not adopt:
                    raise PlanError(
                        f"{self.target} holds {run.summary.skipped} outputs of unknown settings; count them as done "
                        "with --adopt, or replace them with --overwrite."
                    )
                write_record(self.target, self.verb, self.settings, adopted=adopt)
            try:
                run.do(self.device)
            except KeyboardInterrupt as error:
                hint = " without --overwrite" if self.options.get("overwrite") else ""
                error.add_note(f"{run.summary.done} done; the same command{hint} goes on with the rest")
                raise
            finally:
                manifest.flush()
        return run.summary

    def estimate(self) -> Estimate:
        since, _ = self._since()
        chosen: list[File] = []
        picked = random.Random(0)
        planner = self._planner(since)
        size = skipped = 0
        for part in planner.parts():
            if part.problem is not None:
                raise PlanError(part.problem)
            skipped += len(part.skipped)
            for file in part.files:
                size += file.size or 0
                if len(chosen) < _SAMPLE:
                    chosen.append(file)
                elif (place := picked.randrange(file.number + 1)) < _SAMPLE:
                    chosen[place] = file
        if not chosen or self.source.shards:
            return Estimate(planner.number, size, skipped, 0, 0.0, 0.0, 0)
        with self.cluster.connected():
            work = self._work(dry=True)
            crew = self.cluster.crew(self.device, work.threads)
            rows = sample(chosen, work, self.cluster, self.device)
        count = len(rows)
        # Of several threads one decodes or encodes while the model computes; one alone does it in turn.
        steps = ("model",) if crew.apart or work.threads > 1 else STEPS
        spent = sum(row.get(f"seconds_{step}", 0.0) for row in rows for step in steps)
        return Estimate(
            files=planner.number,
            bytes=size or round(planner.number * sum(row["bytes_before"] for row in rows) / max(1, count)),
            skipped=skipped,
            sampled=count,
            bytes_after=planner.number * sum(row["bytes_after"] for row in rows) / max(1, count),
            seconds=planner.number * spent / max(1, count) / crew.models,
            models=crew.models,
        )


def _flat(settings: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Settings with those inside others beside them, as "thumbnails.quality"."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{above}{name}.") if isinstance(value, dict) else {above + name: value}
    return found
