"""How `faitheir serve` stands up to several clients at once, beside the plain command line on the same photographs.

    python benchmarks/serve.py [PHOTOGRAPHS] --clients 8 --seconds 120

Each client sends a photograph, gets its thumbnail, sends that and gets the picture, and so on, over the loopback
address only, until the time is over. Without a folder of photographs the example is enlarged to each size.
"""

import argparse
import http.client
import itertools
import os
import re
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


class Client(threading.Thread):
    """Sends photographs until ``end``, beginning with its own."""

    def __init__(self, port: int, photographs: list[bytes], first: int, end: float) -> None:
        super().__init__()
        self.port, self.photographs, self.first, self.end = port, photographs, first, end
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
            if time.monotonic() > self.end:
                return

    def ask(self, path: str, body: bytes) -> bytes | None:
        while time.monotonic() < self.end or path != "/v1/thumbnails":
            started = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
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
                self.seconds[path].append(time.monotonic() - started)
                return answer
            if response.status != 429:
                return None
            time.sleep(int(response.headers["Retry-After"]))
        return None


def served(photographs: list[Path], clients: int, seconds: float, options: list[str]) -> tuple[list[Client], float]:
    """What each client got, and the seconds until the last answer; prints what the server's memory was."""
    command = [*COMMAND, "serve", "--port", "0", "--timeout", "600", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().split(":")[2].split("/")[0])
        data = [path.read_bytes() for path in photographs]
        Client(port, data[:1], 0, time.monotonic() + 0.5).run()
        before = resident(process.pid)
        started = time.monotonic()
        threads = [Client(port, data, first, started + seconds) for first in range(clients)]
        for thread in threads:
            thread.start()
        most = before
        while any(thread.is_alive() for thread in threads):
            most = max(most, resident(process.pid))
            time.sleep(0.5)
        took = time.monotonic() - started
        after = resident(process.pid)
        process.terminate()
        process.wait(60)
        print(f"memory of the server: {before:.0f} MiB before, {most:.0f} at most, {after:.0f} after")
        print(f"exit status after SIGTERM: {process.returncode}")
    return threads, took


def commanded(folder: Path, options: list[str]) -> float:
    """Seconds of the command line for each photograph once, down and up again; it is started twice for that."""
    started = time.monotonic()
    output = folder / "out"
    subprocess.run([*COMMAND, "downscale", folder, "-o", output, *options], check=True, capture_output=True)
    subprocess.run([*COMMAND, "upscale", output, "--format", "jpg", *options], check=True, capture_output=True)
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", nargs="?", type=Path)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--megapixels", default="0.4,0.8,1.5,3,6,12", help="sizes of the photographs")
    parser.add_argument("--model", default="nano-x16")
    arguments = parser.parse_args()
    options = ["--model", arguments.model]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = [float(text) for text in arguments.megapixels.split(",")]
        photographs = write_photographs(arguments.photographs, folder, sizes)
        print(f"load of the machine: {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} core(s) of ours")
        clients, took = served(photographs, arguments.clients, arguments.seconds, options)
        statuses = sum((client.statuses for client in clients), Counter())
        failures = sum(count for status, count in statuses.items() if status not in (200, 429))
        print(f"answers: {dict(statuses)}; failures other than 429: {failures}")
        for path in clients[0].seconds:
            values = sorted(value for client in clients for value in client.seconds[path])
            if len(values) > 1:
                p95 = values[min(len(values) - 1, int(0.95 * len(values)))]
                print(f"{path}: {len(values)} answers, p50 {statistics.median(values):.1f} s, p95 {p95:.1f} s")
        done = [number for client in clients for number in client.pictures]
        area = sum(sizes[number] for number in done)
        print(f"served: {60 * len(done) / took:.1f} pictures, {60 * area / took:.2f} megapixels a minute, both ways")
        seconds = commanded(folder, options)
        rate = 60 * sum(sizes) / seconds
        print(f"command line: {60 * len(sizes) / seconds:.1f} pictures, {rate:.2f} megapixels a minute, both ways")
        print(f"the server does {60 * area / took / rate:.0%} of the command line's megapixels a minute")
        print(f"load of the machine: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
