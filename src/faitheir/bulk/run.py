"""A run: the plan through Ray Data, the account of it, and what is tried again."""

import contextlib
import gc
import importlib
import logging
import os
import re
import signal
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import numpy as np

from faitheir.bulk import stages
from faitheir.bulk.manifest import Manifest
from faitheir.bulk.planning import File, Planner, Shard, units
from faitheir.bulk.stages import Item, Work
from faitheir.errors import FaithEIRError, MissingDependencyError, PlanError, one_line

T = TypeVar("T")

#: How often a file is tried: together with others; then alone, decoded in a process of its own; then once more.
PASSES = 3
#: How often Ray tries a task again whose process or machine was lost, in the first pass.
_RETRIES = 1
#: Tasks that go to Ray as one block.
_BLOCK = 1024
#: CPUs that a task asks for which reads and decodes, or encodes and writes: it waits for the store, too.
_TASK_CPUS = 0.25
#: Processes of Ray Data's own beside those.
_RAYS_OWN = 8
#: What a model on the CPU leaves for such tasks.
_SPARE_CPUS = 0.5
#: Seconds between two looks of Ray Data at its tasks, which last seconds. Each look takes its driver milliseconds.
_LOOK = 0.5
_INTERVAL = "WAIT_FOR_TASK_COMPLETION_TIMEOUT_S"
#: Seconds in which a cluster must answer.
_ANSWER = 10
#: Failures whose texts a summary holds; the manifest has all.
SHOWN_FAILURES = 100


@dataclass
class Summary:
    """What became of a run, or how far it is."""

    planned: int = 0
    """Files, or shards of them, that were found to be done."""
    size: int = 0
    """Their bytes, as far as the listing tells."""
    over: int = 0
    """How many of those are finished."""
    done: int = 0
    """Number of pictures made."""
    skipped: int = 0
    failed: int = 0
    pixels: int = 0
    """Full-size pixels of the pictures made."""
    bytes_before: int = 0
    bytes_after: int = 0
    seconds: float = 0.0
    """Since the first was begun."""
    failures: list[tuple[str | None, str]] = field(default_factory=list)
    """The first hundred failures: the file (None if it is no file's failure) and the reason."""
    disk_full: bool = False
    """Whether it ended early because TARGET takes nothing more."""
    manifest: str = ""
    """What TARGET's manifest files are called: a pattern."""


class Crew(NamedTuple):
    """The processes that hold a model."""

    models: int
    resources: dict[str, float]
    """What each asks Ray for."""
    apart: bool
    """Whether others decode and encode for them."""


@dataclass(frozen=True)
class Cluster:
    """Where a run goes: see `faitheir.bulk.downscale` for what the values mean."""

    ray: str = "local"
    cpus: float | None = None
    object_store: int | None = None
    models: int | None = None
    threads: int | None = None
    gpus: float = 1.0
    apart: bool | None = None

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """Ray, started here or joined; one that runs already in this process is used, and left as it is."""
        ray = import_ray()
        if ray.is_initialized():
            yield
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anyone unless the user wants it
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what Ray's own processes say on stderr
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if self.ray == "local":
            # Ray would try a task for ever whose worker was killed for want of memory.
            os.environ.setdefault("RAY_task_oom_retries", str(_RETRIES))
            # It ends idle processes beyond one for each CPU; of our tasks a CPU has several, each would start anew.
            held = int((self.cpus or os.cpu_count() or 1) / _TASK_CPUS) + _RAYS_OWN
            os.environ.setdefault("RAY_num_workers_soft_limit", str(held))
            # Without its dashboard nobody sees these.
            os.environ.setdefault("RAY_enable_metrics_collection", "0")
            os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
            size: dict[str, Any] = {"num_cpus": self.cpus, "object_store_memory": self.object_store}
            try:
                _init("local", include_dashboard=False, **size, **quiet)
            except Exception as error:  # Ray has no class for it
                ray.shutdown()
                text = f"Ray did not start on this machine ({one_line(error)[:200].rstrip('.')})"
                raise FaithEIRError(f"{text}; it needs its processes to start within 20 s, so try again.") from error
        else:
            try:
                if named := re.fullmatch(r"(?:ray://)?(.+):(\d+)", self.ray):
                    socket.create_connection((named[1], int(named[2])), _ANSWER).close()  # Ray itself would wait long
                _init(self.ray, **quiet)
            except (OSError, ValueError, RuntimeError) as error:
                raise PlanError(f"no Ray answers at '{self.ray}' ({str(error).splitlines()[0]}).") from None
        try:
            yield
        finally:
            ray.shutdown()

    def threads_for(self, device: str) -> int:
        """Threads of each model: as many as the smallest machine has CPUs, up to 4; one where a GPU computes."""
        if self.threads:
            return self.threads
        return 1 if self._gpus(device) else min(4, *self._cpus())

    def crew(self, device: str, threads: int) -> Crew:
        """How many models there are, and what each needs. PlanError where there is no room for one."""
        gpus = self._gpus(device)
        apart = bool(gpus) if self.apart is None else self.apart
        if gpus:
            return Crew(self.models or gpus, {"num_cpus": _SPARE_CPUS, "num_gpus": self.gpus}, apart)
        models = self.models or max(1, sum(count // threads for count in self._cpus()))
        return Crew(models, {"num_cpus": max(threads - _SPARE_CPUS, _SPARE_CPUS)}, apart)

    def _gpus(self, device: str) -> int:
        """Models that the GPUs hold, 0 where the CPUs are to compute."""
        count = sum(int(node.get("GPU", 0) / self.gpus) for node in self._nodes())
        if device == "cuda" and not count:
            raise PlanError("the device 'cuda' was asked for, and Ray knows of no GPU; use cpu or auto.")
        return count if device in ("auto", "cuda") else 0

    def _cpus(self) -> list[int]:
        cpus = [int(node.get("CPU", 0)) for node in self._nodes()]
        if not any(cpus):
            raise PlanError("Ray has no machine with a CPU to spare; give it one.")
        return [count for count in cpus if count]

    @staticmethod
    def _nodes() -> list[dict[str, float]]:
        return [node["Resources"] for node in import_ray().nodes() if node["Alive"]]


def _init(address: str, **options: Any) -> None:
    """Start or join Ray, and leave a handler of SIGTERM in place that it would replace: its own ends with status 15."""
    before = signal.getsignal(signal.SIGTERM)
    import_ray().init(address, **options)
    if callable(before) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def import_ray() -> Any:
    """Ray, with Ray Data; MissingDependencyError where it is not installed."""
    try:
        import pyarrow  # noqa: F401
        import ray
        import ray.data
    except ImportError:
        raise MissingDependencyError("bulk runs need Ray Data; pip install 'faitheir[bulk]'.") from None
    return ray


class Run:
    """One run: what is planned leaves part by part, and what each file came to is kept account of by its number."""

    def __init__(
        self,
        work: Work,
        planner: Planner,
        cluster: Cluster,
        manifest: Manifest,
        show: Callable[[Summary], object],
    ) -> None:
        self.work, self.planner, self.cluster, self.manifest, self.show = work, planner, cluster, manifest, show
        self.summary = Summary(manifest=manifest.pattern)
        self._ray = import_ray()
        self._shards: list[Shard] = []
        self._blocks: list[Any] = []
        self._over = np.zeros(0, bool)
        #: Of each shard in the source that is begun: the members that are over with, and how many there are.
        self._members: dict[int, set[str]] = {}
        self._expected: dict[int, int] = {}
        #: Shards in which a member failed for a reason that may pass: they stay open for the next run.
        self._open: set[str] = set()
        self._unsettled: dict[str, str] = {}
        self._begun = 0.0

    def plan(self) -> None:
        """Find what there is to do. It goes to Ray's object store, which keeps on disk what memory does not hold."""

        def files() -> Iterator[File]:
            for number, part in enumerate(self.planner.parts()):
                if part.problem is not None:
                    if number == 0:
                        raise PlanError(part.problem)
                    self._fail(None, part.problem)
                self.manifest.skipped(part.skipped, self.work.source)
                self.summary.skipped += len(part.skipped)
                self._shards += part.shards
                for file in part.files:
                    self.summary.size += file.size or 0
                    yield file

        tasks = units(files(), int(self._ray.cluster_resources().get("CPU", 1)))
        while block := list(islice(tasks, _BLOCK)):
            self._blocks.append(self._ray.put(stages.rows(block)))
        self._over = np.zeros(self.planner.number, bool)
        self.summary.planned = self.planner.number

    def do(self, device: str) -> None:
        """All passes over what was planned, then the shards. Failures are the summary's."""
        crew = self.cluster.crew(device, self.work.threads)
        self._begun = time.monotonic()
        for number in range(PASSES):
            if self._over.all():
                break
            blocks = self._blocks if number == 0 else self._left()
            for item in _stream(blocks, self.work, crew, again=number > 0):
                self._take(item, last=number == PASSES - 1)
                if item.full:
                    self.summary.disk_full = True
                    return
        for file in self._files() if not self._over.all() else ():
            if not self._over[file.number]:
                path = self.work.source.shown(file.path)
                lost = f"its worker was lost each of {PASSES + _RETRIES} times; use another copy of the file."
                self._fail(path, self._unsettled.get(path, lost))
                self._open.add(file.shard)
        self._close_shards()

    def _files(self) -> Iterator[File]:
        for block in self._blocks:
            for unit in stages.unpack(self._ray.get(block)):
                yield from unit

    def _left(self) -> list[Any]:
        """What is not over with, each file for itself."""
        files = (file for file in self._files() if not self._over[file.number])
        return [self._ray.put(stages.rows([[file] for file in block])) for block in batched(files, _BLOCK)]

    def _take(self, item: Item, *, last: bool) -> None:
        """Account for what came back."""
        number, path, row = item.number, item.row["path"], item.row
        if item.transient:
            self._unsettled[path] = row["error"]
            if not last:
                return
            self._open.add(item.shard)
        if item.members is not None:
            self._expected[number] = item.members
        elif item.member is not None:
            over = self._members.setdefault(number, set())
            if item.member in over:
                return  # done with in an earlier pass
            over.add(item.member)
            self._record(item)
        elif not self._over[number]:
            self._record(item)
            self._over[number] = True
        if number in self._expected and self._expected[number] == len(self._members.get(number, ())):
            self._over[number] = True
            self._members.pop(number, None)
        self.summary.seconds = time.monotonic() - self._begun
        self.summary.over = int(np.count_nonzero(self._over)) if self.work.shards else self._settled()
        self.show(self.summary)

    def _settled(self) -> int:
        return self.summary.done + self.summary.failed

    def _record(self, item: Item) -> None:
        row = item.row
        self._unsettled.pop(row["path"], None)
        if row["status"] == "failed":
            self._fail(row["path"], row["error"], row)
            return
        self.manifest.add(row)
        if row["status"] == "skipped":
            self.summary.skipped += 1
            return
        for ending, data in item.outputs:  # to a store that workers do not see
            self.work.target.write(item.base + ending, data)
        self.summary.done += 1
        self.summary.pixels += row["width"] * row["height"]
        self.summary.bytes_before += row["bytes_before"]
        self.summary.bytes_after += row["bytes_after"]

    def _fail(self, path: str | None, text: str, row: dict[str, Any] | None = None) -> None:
        self.summary.failed += 1
        if len(self.summary.failures) < SHOWN_FAILURES:
            self.summary.failures.append((path, text))
        self.manifest.add((row or {}) | {"path": path, "status": "failed", "error": text})

    def _close_shards(self) -> None:
        """Pack and mark the shards whose files are over with."""
        ready = [[shard] for shard in self._shards if shard.path not in self._open]
        if not ready:
            return
        data = self._ray.data
        with _context(data):
            closed = data.from_arrow_refs([self._ray.put(stages.rows(block)) for block in batched(ready, _BLOCK)])
            closed = closed.map_batches(
                stages.one_by_one, batch_format="pyarrow", batch_size=None, num_cpus=_TASK_CPUS / 2
            )
            closed = closed.map_batches(
                stages.close_shard,
                batch_format="pyarrow",
                batch_size=None,
                fn_kwargs={"target": self.work.target},
                num_cpus=_TASK_CPUS,
            )
            count = 0
            with _told():
                for table in closed.iter_batches(batch_format="pyarrow", batch_size=None):
                    for path, error in stages.unpack(table):
                        count += 1
                        if error is not None:
                            self._fail(self.work.target.shown(path), error)
        if count < len(ready):
            self._fail(None, f"{len(ready) - count} shards were not closed, their workers were lost; run this again.")


def sample(files: list[File], work: Work, cluster: Cluster, device: str) -> list[dict[str, Any]]:
    """The manifest's rows of some files, of those that can be done; a ``work`` that is dry writes nothing."""
    block = import_ray().put(stages.rows([[file] for file in files]))
    items = _stream([block], work, cluster.crew(device, work.threads), again=False)
    return [item.row for item in items if item.row.get("status") == "done"]


def _stream(blocks: list[Any], work: Work, crew: Crew, *, again: bool) -> Iterator[Item]:
    """Blocks of tasks through the stages, and what comes back, as it does."""
    data = import_ray().data
    # Where a worker was lost, a cycle of references holds the pass before and its models' CPUs: this one would wait.
    gc.collect()
    retries = 0 if again else _RETRIES
    # Requests for CPUs that differ keep Ray from running two stages as one.
    options: dict[str, Any] = {"batch_format": "pyarrow", "batch_size": None}
    task: dict[str, Any] = options | {"num_cpus": _TASK_CPUS, "max_retries": retries}
    model: dict[str, Any] = {
        **(options | {"batch_size": 1}),
        **crew.resources,
        "compute": data.ActorPoolStrategy(
            min_size=1,
            max_size=crew.models,
            initial_size=crew.models,
            max_tasks_in_flight_per_actor=1 if again else None,  # what waits for a process is lost with it
        ),
        "max_task_retries": retries,
    }
    with _context(data):
        done = data.from_arrow_refs(blocks).map_batches(stages.one_by_one, **options, num_cpus=_TASK_CPUS / 2)
        if crew.apart:
            done = done.map_batches(stages.decode, **task, fn_kwargs={"work": work, "guarded": again})
            done = done.map_batches(stages.Model, **model, fn_constructor_kwargs={"work": work})
            done = done.map_batches(stages.finish, **task, fn_kwargs={"work": work})
        else:
            done = done.map_batches(stages.Whole, **model, fn_constructor_kwargs={"work": work, "guarded": again})
        with _told():
            for table in done.iter_batches(batch_format="pyarrow", batch_size=None, prefetch_batches=0):
                for items in stages.unpack(table):
                    yield from items


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What ends a run, as a sentence: our own error if it is one, from whichever process."""
    try:
        yield
    except import_ray().exceptions.RayError as error:
        cause: Any = error
        while cause is not None and not isinstance(cause, FaithEIRError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if cause is not None:
            raise cause from error
        raise FaithEIRError(f"Ray ended the run ({one_line(error)[:300]}); start it again to continue it.") from error


@contextlib.contextmanager
def _context(data: Any) -> Iterator[None]:
    """Ray Data for this work: what a stage yields is a block, a lost task costs no others, and no bars but ours."""
    context = data.DataContext.get_current()
    wanted = {
        "target_max_block_size": 1,
        "target_min_block_size": 0,
        "max_errored_blocks": -1,
        "enable_progress_bars": False,
        "print_on_execution_start": False,
        "memory_usage_poll_interval_s": None,  # a thread for each task, whose figures nobody sees
    }
    before = {name: getattr(context, name) for name in wanted}
    # Ray has no setting for it; in versions that do not call it so, it stays at 0.1.
    loop: Any = importlib.import_module("ray.data._internal.execution.streaming_executor_state")
    interval = getattr(loop, _INTERVAL, None)
    log = logging.getLogger("ray.data")
    level = log.level
    for name, value in wanted.items():
        setattr(context, name, value)
    if interval is not None:
        setattr(loop, _INTERVAL, _LOOK)
    if not logging.getLogger("faitheir").isEnabledFor(logging.DEBUG):
        log.setLevel(logging.CRITICAL)  # of each lost task it shows a stack
    try:
        with warnings.catch_warnings():
            # There is no other way yet to bound how often a task is tried.
            warnings.filterwarnings("ignore", message=".*ray_remote_args")
            yield
    finally:
        log.setLevel(level)
        if interval is not None:
            setattr(loop, _INTERVAL, interval)
        for name, value in before.items():
            setattr(context, name, value)


def batched(items: Iterable[T], count: int) -> Iterator[list[T]]:
    """Lists of ``count`` items, the last of fewer."""
    found = iter(items)
    while block := list(islice(found, count)):
        yield block
