"""How much of the machine this process may use: a container's share is often less than what the machine has."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Threads beyond this many do little for one picture; more cores restore several at once.
THREADS = 4


@dataclass(frozen=True)
class Share:
    """How a model's work is spread: ``workers`` pictures at once, each with ``threads`` threads of torch."""

    workers: int
    threads: int


def share(cores: int) -> Share:
    """The share for ``cores`` cores: one picture at a time on up to ``THREADS`` of them, then one more for each."""
    workers = max(1, cores // THREADS)
    return Share(workers, max(1, cores // workers))


def available_cores(proc: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> int:
    """Cores that this process may keep busy, at least 1: by its affinity, and by its cgroups' quota (v1 or v2).

    ``proc``, ``mount``: the process's cgroups, and where they are mounted.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        cores = os.cpu_count() or 1
    return max(1, int(min([cores, *_quotas(proc, mount)])))


def _quotas(proc: Path, mount: Path) -> Iterator[float]:
    """The quota, in cores, of the process's cgroup and of each that it is in."""
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        roots = [mount / name for name in ("cpu", controllers)] if controllers else [mount, mount / "unified"]
        # Within a container the path may be the host's, which is not mounted: the root is the container's own then.
        parts = Path(path.lstrip("/")).parts
        for root in dict.fromkeys(roots):
            for depth in range(len(parts), -1, -1):
                quota = _quota(root.joinpath(*parts[:depth]))
                if quota is not None:
                    yield quota


def _quota(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()  # v2
    except (OSError, ValueError):
        try:
            names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")  # v1
            quota, period = ((folder / name).read_text().strip() for name in names)
        except (OSError, ValueError):
            return None
    try:
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max", or nothing
        return None
    return cores if cores > 0 else None  # -1: no quota
