"""Bulk runs beside the plain commands: pictures per minute, memory over time, overhead per file, and planning.

    python benchmarks/bulk.py pictures PHOTOGRAPHS [--count 2000] [--cpus 2] [--seconds 600]
    python benchmarks/bulk.py tiny [--count 20000] [--cpus 2] [--seconds 300]
    python benchmarks/bulk.py plan [--paths 1000000 ...]

pictures: PHOTOGRAPHS is a folder; from it COUNT pictures of 0.2 to 3 megapixels are cut. `faitheir downscale` and
`faitheir bulk downscale` work on the same files, one after the other, each ended after half of SECONDS; the rate is
taken from the last nine tenths of the outputs, so that it is that of a long run. CPU time is what all processes of the
command take meanwhile. On a machine that has other work it tells more than the rate, and yet too much of bulk: Ray's
processes take some by the second, whatever is done in it. Memory is sampled every five seconds: to add up the pages of
all processes takes a core some tens of milliseconds.
tiny: the same with pictures of 16 x 16 pixels, which cost next to nothing but what each file costs.
plan: a store that exists only in this process lists so many paths, in folders of 1,000, and half of their outputs.

Prints tables in Markdown. Linux only.
"""

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PER_FOLDER = 1000


def cut(source: Path, folder: Path, count: int) -> None:
    """``count`` JPEGs of 0.2 to 3 megapixels, evenly spread, cut from the photographs in ``source``."""
    from faitheir.files import find_photographs
    from faitheir.images import read_picture

    rng = np.random.default_rng(0)
    photographs = find_photographs(source)
    pictures = [read_picture(photographs[i]).rgb for i in rng.permutation(len(photographs))[:40]]
    for number in range(count):
        rgb = pictures[number % len(pictures)]
        height = round((rng.uniform(0.2e6, 3e6) / 1.5) ** 0.5)
        tall, wide = (-(-side // have) for side, have in zip((height, height * 3 // 2), rgb.shape, strict=False))
        tiled = np.tile(rgb, (tall, wide, 1))[:height, : height * 3 // 2]
        Image.fromarray(np.roll(tiled, tuple(rng.integers(0, height, 2)), (0, 1))).save(
            folder / f"{number:05d}.jpg", quality=90
        )


def tiny(folder: Path, count: int) -> None:
    """``count`` pictures of 16 x 16 pixels, in folders of 1,000."""
    for number in range(count):
        place = folder / f"{number // PER_FOLDER:03d}"
        place.mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(place / f"{number:05d}.png")


def descendants(root: int, *, sizes: bool) -> dict[int, tuple[str, int, float]]:
    """The processes that one started, itself included: name, proportional set size if asked for, seconds of CPU."""
    parents: dict[int, int] = {}
    cpu: dict[int, float] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(folder.name)] = int(fields[1])
            cpu[int(folder.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    processes = {}
    for pid in found:
        try:
            name = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text() if sizes else "Pss: 0 kB"
            size = next(int(line.split()[1]) * 1024 for line in rollup.splitlines() if "Pss:" in line)
            processes[pid] = (name, size, cpu[pid])
        except (OSError, StopIteration):
            continue
    return processes


PARTS = ("driver", "model", "workers", "Ray itself")


def kind(name: str, pid: int, root: int) -> str:
    """What a process is for."""
    if pid == root:
        return "driver"
    if "Whole" in name or "Model" in name:
        return "model"
    return "workers" if name.startswith("ray::") else "Ray itself"


def watch(arguments: Sequence[str], target: Path, seconds: float, cpus: int) -> dict[str, Any]:
    """Run a command for so long at most; its rate between the first output and the last, and the memory it took."""
    # Ray's workers are otherwise of the lowest priority but four, which shows on a machine that has other work.
    threads = {"OMP_NUM_THREADS": str(cpus), "RAY_worker_niceness": "0"}
    started = time.time()
    process = subprocess.Popen(
        [sys.executable, "-m", "faitheir", *arguments], env=os.environ | threads, stdout=subprocess.DEVNULL
    )
    memory: list[tuple[float, dict[str, int]]] = []
    spent: dict[int, tuple[str, float]] = {}
    at: list[tuple[float, list[float]]] = []
    while process.poll() is None and time.time() - started < seconds:
        total: dict[str, int] = {}
        sizes = len(at) % 5 == 0
        for pid, (name, size, cpu) in descendants(process.pid, sizes=sizes).items():
            part = kind(name, pid, process.pid)
            spent[pid] = part, cpu
            total[part] = total.get(part, 0) + size
        if sizes:
            memory.append((time.time(), total))
        at.append((time.time(), [sum(cpu for of, cpu in spent.values() if of == part) for part in PARTS]))
        time.sleep(1)
    ended = process.poll() is None
    if ended:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
    times = sorted(path.stat().st_mtime for path in target.rglob("*.thumb.*"))
    clock, taken = zip(*at, strict=True)
    steady = times[len(times) // 10 :]  # the first tenth pays for what starts
    by_part = [float(np.diff(np.interp([steady[0], steady[-1]], clock, of))[0]) for of in zip(*taken, strict=True)]
    return {
        "files": len(times),
        "ended": ended,
        "first": times[0] - started,
        "wall": times[-1] - started,
        "start": float(np.interp(times[0], clock, np.sum(taken, axis=1))),
        "rate": (len(steady) - 1) / (steady[-1] - steady[0]) * 60,
        "cpu": sum(by_part) / (len(steady) - 1),
        "parts": [seconds / (len(steady) - 1) for seconds in by_part],
        "busy": sum(by_part) / (steady[-1] - steady[0]),
        "memory": [sizes for when, sizes in memory if when < times[-1]],
    }


def compare(folder: Path, cpus: int, seconds: float) -> None:
    """Both commands on one folder, and their table."""
    source, results = folder / "in", {}
    commands = {
        "faitheir downscale": ["downscale", str(source), "-r", "-o", str(folder / "plain")],
        "faitheir bulk downscale": [
            *("bulk", "downscale", str(source), str(folder / "bulk")),
            *("--cpus", str(cpus), "--object-store", "200"),
        ],
    }
    for (name, arguments), target in zip(commands.items(), ("plain", "bulk"), strict=True):
        results[name] = watch(arguments, folder / target, seconds / 2, cpus)
    print(
        "| command | files | seconds | first output after | of CPU | then files per minute | ms of CPU a file "
        "| CPUs busy |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for name, found in results.items():
        columns = f"{found['files']} | {found['wall']:.1f} | {found['first']:.1f} s | {found['start']:.1f} s"
        print(f"| {name} | {columns} | {found['rate']:.1f} | {1e3 * found['cpu']:.1f} | {found['busy']:.2f} |")
    plain, bulk = results.values()
    whole = (bulk["files"] / bulk["wall"]) / (plain["files"] / plain["wall"])
    print(f"\nbulk is at {bulk['rate'] / plain['rate']:.2f} of the plain command's rate ({whole:.2f} with its start),")
    print(f"by CPU time at {plain['cpu'] / bulk['cpu']:.2f}: {1e3 * (bulk['cpu'] - plain['cpu']):+.1f} ms a file\n")
    print(f"| of bulk | {' | '.join(PARTS)} |\n| --- |{' --- |' * len(PARTS)}")
    print(f"| ms of CPU a file | {' | '.join(f'{1e3 * part:.1f}' for part in bulk['parts'])} |")
    series = bulk["memory"]
    for part in (0.25, 0.5, 0.75, 1.0):
        sample = series[max(0, round(part * len(series)) - 1)]
        columns = " | ".join(f"{sample.get(name, 0) / 1e6:.0f}" for name in PARTS)
        print(f"| MB of memory (proportional) after {part:.0%} of the run | {columns} |")
    peak = max(sum(sample.values()) for sample in series)
    print(f"\npeak of all together: {peak / 1e6:.0f} MB; of the plain command: ", end="")
    print(f"{max(sum(sample.values()) for sample in plain['memory']) / 1e6:.0f} MB")


def synthetic(count: int) -> None:
    """A store of fsspec's with ``count`` photographs under in/ and half of their thumbnails under out/."""
    import fsspec

    from faitheir.batches import ThumbnailFiles

    class Synthetic(fsspec.AbstractFileSystem):  # type: ignore[misc]
        protocol = "synthetic"

        def ls(self, path: str, detail: bool = True, **options: Any) -> Any:  # noqa: ARG002
            path = path.removeprefix("synthetic://").strip("/")
            top, _, folder = path.partition("/")
            if top not in ("in", "out"):
                raise FileNotFoundError(path)
            if not folder:
                folders = range(-(-count // PER_FOLDER))
                return [{"name": f"{top}/{number:06d}", "type": "directory"} for number in folders]
            first = int(folder) * PER_FOLDER
            numbers = range(first, min(count, first + PER_FOLDER), 1 if top == "in" else 2)
            ending = ".jpg" if top == "in" else ThumbnailFiles().endings[0]
            return [
                {"name": f"{path}/IMG_{number:09d}{ending}", "type": "file", "size": 4_000_000, "mtime": 1.0}
                for number in numbers
            ]

        def info(self, path: str, **_: Any) -> dict[str, Any]:
            return {"name": path, "type": "directory"}

    fsspec.register_implementation("synthetic", Synthetic)


def plan(count: int) -> dict[str, float]:
    """Listing, skipping and cutting into tasks of ``count`` paths, as a run does, but for Ray's object store."""
    from faitheir.batches import ThumbnailFiles, thumbnail_naming
    from faitheir.bulk import stages
    from faitheir.bulk.manifest import Manifest
    from faitheir.bulk.planning import File, Planner, open_source, units
    from faitheir.bulk.stores import Store

    synthetic(count)
    size = skipped = 0
    with tempfile.TemporaryDirectory() as folder:
        manifest = Manifest(Store(folder), "run", "settings")
        started = time.process_time()
        source, target = open_source("synthetic://in"), Store("synthetic://out")
        planner = Planner(source, target, thumbnail_naming(ThumbnailFiles()))

        def files() -> Iterator[File]:
            nonlocal skipped
            for part in planner.parts():
                skipped += len(part.skipped)
                manifest.skipped(part.skipped, source.store)
                yield from part.files

        for unit in units(files(), 100):
            size += stages.rows([unit]).nbytes
        manifest.flush()
        seconds = time.process_time() - started
        written = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
    assert planner.number + skipped == count
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"paths": count, "seconds": seconds, "peak": peak, "tasks": size, "manifest": written}


def plans(counts: Sequence[int]) -> None:
    """Each in a process of its own, for its peak of memory."""
    print("| paths | seconds of one CPU | microseconds a path | peak of memory | tasks' bytes | manifest |")
    print("| --- | --- | --- | --- | --- | --- |")
    for count in counts:
        command = [sys.executable, __file__, "one-plan", str(count)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(
            f"| {count:,} | {found['seconds']:.1f} | {found['seconds'] / count * 1e6:.1f} "
            f"| {found['peak'] / 1e6:.0f} MB | {found['tasks'] / 1e6:.0f} MB | {found['manifest'] / 1e6:.1f} MB |",
            flush=True,
        )


def main() -> None:
    """The command line: see the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, count, seconds in (("pictures", 2000, 600.0), ("tiny", 20_000, 300.0)):
        command = commands.add_parser(name)
        if name == "pictures":
            command.add_argument("photographs", type=Path)
        command.add_argument("--count", type=int, default=count)
        command.add_argument("--cpus", type=int, default=2)
        command.add_argument("--seconds", type=float, default=seconds)
    commands.add_parser("plan").add_argument("--paths", type=int, nargs="+", default=[10**6, 3 * 10**6, 10**7])
    commands.add_parser("one-plan").add_argument("paths", type=int)
    arguments = parser.parse_args()
    if arguments.command == "one-plan":
        print(json.dumps(plan(arguments.paths)))
    elif arguments.command == "plan":
        plans(arguments.paths)
    else:
        with tempfile.TemporaryDirectory() as folder:
            (source := Path(folder) / "in").mkdir()
            if arguments.command == "pictures":
                cut(arguments.photographs, source, arguments.count)
            else:
                tiny(source, arguments.count)
            compare(Path(folder), arguments.cpus, arguments.seconds)


if __name__ == "__main__":
    main()
