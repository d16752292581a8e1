"""Whether a server, or a batch, takes no more after many pictures than after the first ones: a table and a curve.

    python benchmarks/soak.py serve --minutes 120 --every 5
    python benchmarks/soak.py batch --minutes 120 --files 5000 --rest 10

`serve` sends a request every few seconds: photographs, thumbnails, batches, broken files, clients that go away. `batch`
makes thumbnails of a folder of links to the photographs for half of the time, and pictures of these for the rest; with
`--rest`, it is stopped (SIGSTOP) for so long after each sample, so that others can use the machine. Memory (resident),
open descriptors, threads, and files in the temporary folder are read from /proc (Linux) all the while; what a batch has
left beside its outputs is listed at the end.
"""

import argparse
import csv
import http.client
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-m", "faitheir"]
Record = Callable[[int, str, int], None]
FIELDS = ("minutes", "stage", "done", "MiB", "descriptors", "threads", "files")


def sample(pid: int, temporary: Path) -> tuple[float, int, int, int]:
    """MiB resident, descriptors and threads of a process, and files in the temporary folder."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    values = dict(re.findall(r"^(VmRSS|Threads):\s+(\d+)", status, re.MULTILINE))
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    files = sum(len(names) for _, _, names in os.walk(temporary))
    return int(values["VmRSS"]) / 1024, descriptors, int(values["Threads"]), files


def requests(port: int, photographs: list[bytes], answers: Counter[str]) -> Iterator[Callable[[], object]]:
    """What clients do, over and over."""

    def post(path: str, body: bytes, kind: str = "application/octet-stream", status: int = 200) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=3600)
        try:
            connection.request("POST", path, body, {"Content-Type": kind})
            response = connection.getresponse()
            answer = response.read()
        finally:
            connection.close()
        answers["as expected" if response.status == status else f"{response.status}: {answer[:300]!r}"] += 1
        return answer if response.status == 200 else b""

    def leave(body: bytes) -> None:
        head = f"POST /v1/thumbnails HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=3600) as connection:
            connection.sendall(head.encode() + body)
            time.sleep(0.5)

    def batch(*bodies: bytes) -> None:
        part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n%s\r\n'
        form = b"".join(part % body for body in bodies) + b"--b--\r\n"
        post("/v1/batches/thumbnails", form, "multipart/form-data; boundary=b")

    for turn in itertools.count():
        data = photographs[turn % len(photographs)]
        thumbnails: list[bytes] = []
        yield lambda: thumbnails.append(post("/v1/thumbnails", data))  # noqa: B023 (called before the next turn)
        if thumbnails[0]:
            yield lambda: post(f"/v1/pictures?format=jpg&fidelity={turn % 5 / 4}", thumbnails[0])  # noqa: B023
        yield lambda: post("/v1/thumbnails", data[: len(data) // 2], status=422)  # noqa: B023
        yield lambda: leave(data)  # noqa: B023
        if turn % 5 == 0:
            yield lambda: batch(data, b"no picture")  # noqa: B023


def soak_server(options: argparse.Namespace, environment: dict[str, str], record: Record) -> None:
    photographs = [path.read_bytes() for path in options.paths]
    command = [*COMMAND, "serve", "--port", "0", "--model", options.model, "--timeout", "3600"]
    answers: Counter[str] = Counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().split(":")[2].split("/")[0])
        end = time.monotonic() + 60 * options.minutes
        for done, request in enumerate(requests(port, photographs, answers)):
            started = time.monotonic()
            request()
            record(process.pid, "serve", done + 1)
            if time.monotonic() > end:
                break
            time.sleep(max(0.0, started + options.every - time.monotonic()))
        process.terminate()
        process.wait(120)
        print(f"exit status after SIGTERM: {process.returncode}")
        for answer, count in answers.most_common():
            print(f"{count} answers {answer}")


def soak_batch(options: argparse.Namespace, environment: dict[str, str], record: Record) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for index in range(options.files):
            source = options.paths[index % len(options.paths)]
            (folder / f"{index:05}{source.suffix}").symlink_to(source.resolve())
        out = folder / "out"
        started = time.monotonic()
        stages = (("downscale", folder, "*.thumb.*", 0.5), ("upscale", out, "*.restored.jpg", 1.0))
        for verb, source, pattern, share in stages:
            end = started + 60 * options.minutes * share
            more = ["--format", "jpg"] if verb == "upscale" else []
            command = [*COMMAND, verb, str(source), "-o", str(out), "--model", options.model, *more]
            with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as process:
                while process.poll() is None and time.monotonic() < end:
                    record(process.pid, verb, len(list(out.glob(pattern))))
                    time.sleep(options.every)
                    if options.rest:
                        process.send_signal(signal.SIGSTOP)
                        time.sleep(options.rest)
                        process.send_signal(signal.SIGCONT)
                process.terminate()
            print(f"{verb}: {len(list(out.glob(pattern)))} files, exit status {process.returncode}")
        known = {path for *_, pattern, _ in stages for path in out.glob(pattern)}
        print(f"other files left: {[path.name for path in out.iterdir() if path not in known]}")


def plot(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    """The curves, one above the other."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 1, sharex=True, figsize=(6, 4.2), layout="constrained")
    stages = {row["stage"]: [other for other in rows if other["stage"] == row["stage"]] for row in rows}
    labels = {"MiB": "memory, MiB", "descriptors": "descriptors", "files": "temporary files"}
    for axis, (field, label) in zip(axes, labels.items(), strict=True):
        for stage, part in stages.items():
            axis.plot([row["minutes"] for row in part], [row[field] for row in part], linewidth=1, label=stage)
        axis.set_ylabel(label)
        top = 1.25 * max(row[field] for row in rows) or 1
        axis.set_ylim(-0.05 * top, top)
    if len(stages) > 1:
        axes[0].legend(loc="lower center")
    axes[0].set_title(title, fontsize=10)
    axes[-1].set_xlabel("minutes")
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["serve", "batch"])
    parser.add_argument("photographs", nargs="*", type=Path, help="by default the example of the server's page")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--every", type=float, default=5, help="seconds from one request, or sample, to the next")
    parser.add_argument("--files", type=int, default=1000, help="of a batch")
    parser.add_argument("--rest", type=float, default=0, help="seconds for which a batch is stopped after each sample")
    parser.add_argument("--model", default="nano-x16")
    parser.add_argument("--output", type=Path, default=Path("soak"), help="writes OUTPUT.csv and OUTPUT.png")
    options = parser.parse_args()
    example = Path(str(resources.files("faitheir.server") / "page" / "example.jpg"))
    options.paths = options.photographs or [example]
    rows: list[dict[str, Any]] = []
    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as temporary,
        options.output.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()

        def record(pid: int, stage: str, done: int) -> None:
            try:
                found = sample(pid, Path(temporary))
            except (OSError, KeyError):
                return  # it has just ended
            minutes = round((time.monotonic() - started) / 60, 3)
            rows.append(dict(zip(FIELDS, (minutes, stage, done, round(found[0], 1), *found[1:]), strict=True)))
            writer.writerow(rows[-1])
            file.flush()

        soak = soak_server if options.what == "serve" else soak_batch
        soak(options, os.environ | {"TMPDIR": temporary}, record)
    for stage in dict.fromkeys(row["stage"] for row in rows):
        part = [row for row in rows if row["stage"] == stage]
        minutes = part[-1]["minutes"] - part[0]["minutes"]
        print(f"{stage}: {part[-1]['done']} done in {minutes:.1f} minutes; means of the second tenth and of the last:")
        tenth = max(1, len(part) // 10)
        for field in FIELDS[3:]:
            early, late = ([row[field] for row in some] for some in (part[tenth : 2 * tenth], part[-tenth:]))
            if early:
                print(f"  {field}: {sum(early) / len(early):.1f}, {sum(late) / len(late):.1f}")
    plot(rows, options.output.with_suffix(".png"), f"faitheir {options.what}, {rows[-1]['minutes']:.0f} minutes")


if __name__ == "__main__":
    main()
