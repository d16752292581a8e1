"""What a run records: the log, TensorBoard's events, and the versions and machine of each start."""

import contextlib
import datetime
import json
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

import faitheir
from faitheir.images import read_picture
from faitheir.storage import write_atomic

LOG_FILE, ENVIRONMENT_FILE = "log.jsonl", "environment.json"

#: Packages whose versions a run depends on.
_PACKAGES = ("torch", "numpy", "pillow", "safetensors", "accelerate", "diffusers", "peft", "transformers")


def read_log(run: Path) -> list[dict[str, float]]:
    """The records of a run's log, oldest first, without a last line that a killed process left unfinished."""
    path = run / LOG_FILE
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


class Recorder:
    """Appends records to ``RUN/log.jsonl`` and, where ``tensorboard`` is asked for and installed, to its events.

    Records after ``step``, of a run that went further before it was killed, are removed: those steps are taken again.
    """

    def __init__(self, run: Path, step: int, *, tensorboard: bool) -> None:
        self.run = run
        kept = [record for record in read_log(run) if record["step"] <= step]
        write_atomic(run / LOG_FILE, "".join(json.dumps(record) + "\n" for record in kept).encode())
        self.writer: Any = None
        self.note: str | None = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                self.note = "tensorboard is not installed: scalars and pictures are in the run's folder only"
            else:
                self.writer = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1)

    def scalars(self, record: Mapping[str, float]) -> None:
        """Write a record with its "step"."""
        with (self.run / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(record)) + "\n")
        if self.writer is not None:
            step = int(record["step"])
            for name, value in record.items():
                if name != "step":
                    group = "validation" if name.startswith("val_") else "train"
                    self.writer.add_scalar(f"{group}/{name.removeprefix('val_')}", value, step)
            self.writer.flush()

    def pictures(self, step: int, files: Sequence[Path]) -> None:
        """Add picture files to TensorBoard's events, under their names."""
        for file in files if self.writer is not None else ():
            name = file.stem.removesuffix(".roundtrip")
            self.writer.add_image(f"validation/{name}", read_picture(file).rgb, step, dataformats="HWC")

    def close(self) -> None:
        """Finish TensorBoard's file, as far as it can be written."""
        if self.writer is not None:
            with contextlib.suppress(OSError):  # a full disk: what stopped the run says so
                self.writer.close()


def environment(device: torch.device, processes: int) -> dict[str, Any]:
    """Versions, git revision and device of this process."""
    versions = {"python": platform.python_version(), "faitheir": faitheir.__version__}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if device.type == "cuda":
        kind = torch.cuda.get_device_name(device)
    else:
        kind = f"{platform.machine()}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    return {
        "versions": versions,
        "git": _git_revision(),
        "system": f"{platform.system()} {platform.release()}",
        "device": f"{device.type}: {kind}",
        "processes": processes,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def record_environment(run: Path, step: int, about: Mapping[str, Any]) -> None:
    """Add this start of the run, from ``step``, to ``RUN/environment.json``: a list, one entry per start."""
    path = run / ENVIRONMENT_FILE
    try:
        starts = json.loads(path.read_text(encoding="utf-8")) if step else []
    except (OSError, ValueError):
        starts = []
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    starts.append({"started": now, "from_step": step, **about})
    write_atomic(path, (json.dumps(starts, indent=2) + "\n").encode())


def _git_revision() -> str | None:
    """The revision of the working copy that this package runs from, "-dirty" if changed; None where it is installed."""
    folder = Path(faitheir.__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        tracked = subprocess.run(
            ["git", "-C", str(folder), "ls-files", "--error-unmatch", "__init__.py"], capture_output=True, timeout=10
        )
        if tracked.returncode:
            return None
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def seed_of(*numbers: int) -> int:
    """One seed from several numbers, such as the run's seed and the step."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
