"""How `faitheir serve` stands up to several clients at once, beside the plain command line on the same photographs.

    python benchmarks/serve.py [PHOTOGRAPHS] --clients 8 --seconds 120

Each client sends a photograph, gets its thumbnail, sends that and gets the picture, and so on, over the loopback
address only, until the time is over. The command line does all of them once. The two take turns of a few seconds, one
stopped (SIGSTOP) while the other works, so that what else the machine does meets both alike; only their own turns
count. Without a folder of photographs the example is enlarged to each size.
"""

import argparse
import http.client
import itertools
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from importlib import resources
from pathlib import Path

import numpy as np
from PIL import Image

COMMAND = [sys.executable, "-m", "faitheir"]


def write_photographs(source: Path | None, folder: Path, megapixels: list[float]) -> list[Path]:
    """One JPEG of each size."""
    example = Path(str(resources.files("faitheir.server") / "page" / "example.jpg"))
    found = sorted(p for p in source.iterdir() if p.suffix.lower() in (".jpg", ".png")) if source else [example]
    paths = []
    for index, (size, path) in enumerate(zip(megapixels, itertools.cycle(found), strict=False)):
        image = Image.open(path).convert("RGB")
        factor = (size * 1e6 / (image.width * image.height)) ** 0.5
        image = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)
        noise = np.random.default_rng(index).normal(0, 3, (image.height, image.width, 3))  # grain, as a camera's
        pixels = np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8)
        paths.append(folder / f"{index}-{size:g}mp.jpg")
        Image.fromarray(pixels).save(paths[-1], quality=90)
    return paths


def resident(pid: int) -> float:
    """MiB that a process holds."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024  # type: ignore[index]


class Clock:
    """Seconds of the server's own turns."""

    def __init__(self) -> None:
        self._own, self._since, self._runs = 0.0, time.monotonic(), True

    def turn(self, runs: bool) -> None:
        """From now on it is, or is not, the server's turn."""
        self._own, self._since, self._runs = self.now(), time.monotonic(), runs

    def now(self) -> float:
        return self._own + (time.monotonic() - self._since if self._runs else 0.0)


def used(pid: int) -> float:
    """Seconds that a process and its children that ended have had of a core."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


class Client(threading.Thread):
    """Sends photographs until ``end``, beginning with its own."""

    def __init__(self, port: int, photographs: list[bytes], first: int, clock: Clock, end: float) -> None:
        super().__init__(daemon=True)
        self.port, self.photographs, self.first, self.clock, self.end = port, photographs, first, clock, end
        self.statuses: Counter[int | str] = Counter()
        self.seconds: dict[str, list[float]] = {"/v1/thumbnails": [], "/v1/pictures?format=jpg": []}
        self.pictures: list[int] = []

    def run(self) -> None:
        for index in itertools.count(self.first):
            number = index % len(self.photographs)
            data: bytes | None = self.photographs[number]
            for path in self.seconds:
                data = self.ask(path, data) if data else None
            if data:
                self.pictures.append(number)
            if self.clock.now() > self.end:
                return

    def ask(self, path: str, body: bytes) -> bytes | None:
        while self.clock.now() < self.end or path != "/v1/thumbnails":
            started = self.clock.now()
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3600)
            try:
                connection.request("POST", path, body)
                response = connection.getresponse()
                answer = response.read()
            except OSError as error:
                self.statuses[type(error).__name__] += 1
                return None
            finally:
                connection.close()
            self.statuses[response.status] += 1
            if response.status == 200:
                self.seconds[path].append(self.clock.now() - started)
                return answer
            if response.status != 429:
                return None
            time.sleep(int(response.headers["Retry-After"]))
        return None


class Command:
    """The command line on each photograph once, down and up again; stopped and continued by `turn`."""

    def __init__(self, folder: Path, options: list[str]) -> None:
        output = folder / "out"
        self._steps = [
            [*COMMAND, "downscale", str(folder), "-o", str(output), *options],
            [*COMMAND, "upscale", str(output), "--format", "jpg", *options],
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self.seconds = self.core = 0.0

    def turn(self, seconds: float) -> bool:
        """Work for so long; whether there is more to do."""
        started = time.monotonic()
        while time.monotonic() < started + seconds:
            if self._process is None:
                if not self._steps:
                    break
                self._process = subprocess.Popen(
                    self._steps.pop(0), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            self._process.send_signal(signal.SIGCONT)
            before = os.times()
            try:
                self._process.wait(started + seconds - time.monotonic())
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGSTOP)
                break
            after = os.times()
            self.core += after.children_user + after.children_system - before.children_user - before.children_system
            if self._process.returncode:
                raise SystemExit(f"the command line ended with {self._process.returncode}")
            self._process = None
        self.seconds += time.monotonic() - started
        return bool(self._steps) or self._process is not None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", nargs="?", type=Path)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=120, help="of the server's turns, in which clients begin")
    parser.add_argument("--turn", type=float, default=5, help="seconds of each turn")
    parser.add_argument("--most", type=float, default=1800, help="seconds after which all of it ends")
    parser.add_argument("--megapixels", default="0.4,0.8,1.5,3,6,12", help="sizes of the photographs")
    parser.add_argument("--model", default="nano-x16")
    arguments = parser.parse_args()
    options = ["--model", arguments.model]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = [float(text) for text in arguments.megapixels.split(",")]
        photographs = write_photographs(arguments.photographs, folder, sizes)
        print(f"load of the machine: {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} core(s) of ours")
        serve = [*COMMAND, "serve", "--port", "0", "--timeout", "3600", *options]
        process = subprocess.Popen(serve, stdout=subprocess.PIPE, text=True, start_new_session=True)
        assert process.stdout is not None
        port = int(process.stdout.readline().split(":")[2].split("/")[0])
        data = [path.read_bytes() for path in photographs]
        clock = Clock()
        Client(port, data[:1], 0, clock, 0.5).run()
        before, core = resident(process.pid), used(process.pid)
        started = clock.now()
        clients = [Client(port, data, first, clock, started + arguments.seconds) for first in range(arguments.clients)]
        for client in clients:
            client.start()
        command, most, more = Command(folder, options), before, True
        end = time.monotonic() + arguments.most
        took = 0.0
        try:
            while (serving := any(client.is_alive() for client in clients)) or more:
                if time.monotonic() > end:
                    print(f"not finished within {arguments.most:g} s: what follows is of what was done by then")
                    break
                if serving:
                    turn = time.monotonic() + arguments.turn
                    while time.monotonic() < turn and any(client.is_alive() for client in clients):
                        most = max(most, resident(process.pid))
                        time.sleep(0.1)
                    took = clock.now() - started
                os.killpg(process.pid, signal.SIGSTOP)
                clock.turn(runs=False)
                more = command.turn(arguments.turn)
                os.killpg(process.pid, signal.SIGCONT)
                clock.turn(runs=True)
        finally:
            os.killpg(process.pid, signal.SIGCONT)
            after, core = resident(process.pid), used(process.pid) - core
            process.terminate()
            status = process.wait(600)
    statuses = sum((client.statuses for client in clients), Counter())
    failures = sum(count for status, count in statuses.items() if status not in (200, 429))
    print(f"answers: {dict(statuses)}; failures other than 429: {failures}; exit status after SIGTERM: {status}")
    print(f"memory of the server: {before:.0f} MiB before, {most:.0f} at most, {after:.0f} after")
    for path in clients[0].seconds:
        values = sorted(value for client in clients for value in client.seconds[path])
        if len(values) > 1:
            p95 = values[min(len(values) - 1, int(0.95 * len(values)))]
            print(f"{path}: {len(values)} answers, p50 {statistics.median(values):.1f} s, p95 {p95:.1f} s")
    area = sum(sizes[number] for client in clients for number in client.pictures)
    rates = {}
    for who, count, area_, seconds, cores in (
        ("server", sum(len(client.pictures) for client in clients), area, took, core),
        ("command line", len(sizes), sum(sizes), command.seconds, command.core),
    ):
        rates[who] = (area_ / seconds, area_ / cores if cores else float("nan"))
        pictures, pixels, per_core = 60 * count / seconds, 60 * area_ / seconds, 60 * rates[who][1]
        print(f"{who}: {pictures:.2f} pictures, {pixels:.2f} megapixels a minute, both ways; of a core {per_core:.1f}")
    shares = [a / b for a, b in zip(*rates.values(), strict=True)]
    print(f"server / command line: {shares[0]:.2f} by the clock, {shares[1]:.2f} by what they had of the cores")
    print(f"load of the machine: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
