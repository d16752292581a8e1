"""Other people's systems over a bicubic thumbnail: super-resolution networks, and programs of any kind."""

import math
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from faitheir.comparison.produce import Task
from faitheir.comparison.systems import Setting, Thumbnails
from faitheir.devices import resolve_device
from faitheir.errors import EvaluationError, MissingDependencyError, ModelError, one_line
from faitheir.evaluation.results import Output, SystemKind
from faitheir.evaluation.store import Store, file_hash
from faitheir.files import picture_files
from faitheir.images import Picture, UInt8Array, read_picture, resize_bicubic, write_picture
from faitheir.tiling import Float32Array, process_tiles

#: Super-resolution networks see tiles of this many pixels of what they enlarge, overlapping by the second number.
_TILE, _OVERLAP = 256, 64


class SuperResolution(Thumbnails):
    """A network that spandrel knows, applied until the scale is reached."""

    kind: SystemKind = "super-resolution"

    def __init__(self, path: Path, setting: Setting, label: str | None = None) -> None:
        """Raises ModelError for what is no checkpoint by its name, MissingDependencyError."""
        if not path.is_file():
            raise ModelError(f"{path}: there is no such checkpoint.")
        if path.suffix.lower() not in (".safetensors", ".pth", ".ckpt"):
            raise ModelError(
                f"{path}: a checkpoint is a .safetensors file, or a .pth or .ckpt, of which only tensors are read; "
                "convert this one."
            )
        _import_spandrel()
        about = {"checkpoint": path.name, "checkpoint_hash": file_hash(path)[:16]}
        super().__init__(label or f"sr {path.stem}", setting, "bicubic", about)
        self._path, self._device = path, setting.device
        self._network: Any = None
        self._times = 0

    def prepare(self, pending: Mapping[str, Path], folder: Path) -> None:  # noqa: ARG002
        """Load the network."""
        self._network = _load_sr(self._path).to(resolve_device(self._device)).eval()
        self._times = max(1, math.ceil(math.log(self.factor) / math.log(self._network.scale) - 1e-9))

    def large(self, task: Task, small: UInt8Array, size: tuple[int, int]) -> UInt8Array:  # noqa: ARG002
        """The thumbnail of a task, enlarged to (height, width)."""
        values: Float32Array = small.astype(np.float32) / np.float32(255)
        for _ in range(self._times):
            values = self._enlarge(values)
        large = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
        full = (small.shape[0] * self.factor, small.shape[1] * self.factor)
        if large.shape[:2] != full:
            large = resize_bicubic(large, (full[1], full[0]))
        return np.ascontiguousarray(large[: size[0], : size[1]])

    def _enlarge(self, values: Float32Array) -> Float32Array:
        factor, (rows, columns) = self._network.scale, values.shape[:2]
        tiled = self._network.tiling.name == "SUPPORTED"
        large = np.empty((rows * factor, columns * factor, 3), np.float32)
        for top, strip in process_tiles(
            values,
            (rows, columns),
            cell_in=1,
            cell_out=factor,
            tile=_TILE if tiled else max(rows, columns),
            overlap=_OVERLAP if tiled else 0,
            run=lambda cut, _: self._run(cut),
        ):
            large[top : top + len(strip)] = strip
        return large

    def _run(self, cut: np.ndarray) -> Float32Array:
        x = torch.from_numpy(np.ascontiguousarray(cut)).to(self._network.device).permute(2, 0, 1)[None]
        out: Float32Array = self._network(x)[0].float().permute(1, 2, 0).cpu().numpy().copy()
        return out

    def note(self, outputs: Mapping[str, Output]) -> str:  # noqa: ARG002
        """What was enlarged, and how."""
        return f"{self._path.name} over a bicubic thumbnail, applied until {self.factor}x is reached."


def _import_spandrel() -> Any:
    try:
        import spandrel
    except ImportError:
        raise MissingDependencyError(
            "Super-resolution checkpoints need spandrel: pip install 'faitheir[eval]'."
        ) from None
    return spandrel


def _load_sr(path: Path) -> Any:
    spandrel = _import_spandrel()
    try:
        # Of pickles spandrel reads tensors and dictionaries, and refuses everything else that could be in them.
        network = spandrel.ModelLoader(device="cpu").load_from_file(path)
    except Exception as error:  # of any kind: its registry tries many architectures
        raise ModelError(f"{path}: spandrel cannot load this checkpoint ({one_line(error)[:200]}).") from None
    if not isinstance(network, spandrel.ImageModelDescriptor) or network.scale < 2:
        raise ModelError(f"{path}: this is no network that enlarges pictures.")
    if (network.input_channels, network.output_channels) != (3, 3):
        raise ModelError(f"{path}: this network is not for RGB pictures.")
    return network


class Command(Thumbnails):
    """Another program, run once over a folder with the thumbnails of all the pictures that are to be made."""

    kind: SystemKind = "command"

    def __init__(self, command: str, setting: Setting, label: str | None = None) -> None:
        """Raises EvaluationError for what cannot be run."""
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise EvaluationError(f"cmd:{command} is no command ({error}).") from None
        for place in ("{input}", "{output}"):
            if not any(place in word for word in self._words):
                raise EvaluationError(
                    f"cmd:{command} has no {place}; write {{input}} where the program takes the folder of "
                    "thumbnails, and {output} where it takes the folder to fill."
                )
        program = self._words[0]
        if shutil.which(program) is None:
            raise EvaluationError(f"cmd:{command}: the program '{program}' is not found.")
        super().__init__(label or f"cmd {Path(program).name}", setting, "bicubic", {"command": command})
        self._failure = ""
        self._made: dict[str, list[Path]] = {}
        self._seconds = 0.0
        self._temporary = Path()

    def outputs(
        self, originals: Mapping[str, Path], folder: Path, store: Store, *, progress: bool = True
    ) -> dict[str, Output]:
        """What the program gets and gives lies in a hidden folder until all of it is read."""
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".faitheir-") as temporary:
            self._temporary = Path(temporary).absolute()
            return super().outputs(originals, folder, store, progress=progress)

    def prepare(self, pending: Mapping[str, Path], folder: Path) -> None:
        """Run the program. That it failed is said of the pictures that it did not make."""
        input_folder, output_folder = self._temporary / "input", self._temporary / "output"
        input_folder.mkdir()
        output_folder.mkdir()
        names = flat_names(list(pending))
        for picture, path in pending.items():
            try:
                write_picture(input_folder / f"{names[picture]}.png", Picture(self.small(read_picture(path).rgb)))
            except Exception:  # it is this picture's failure, and comes up again in its own turn
                del names[picture]
        places = {"{input}": str(input_folder), "{output}": str(output_folder)}
        words = [re.sub(r"\{input\}|\{output\}", lambda match: places[match[0]], word) for word in self._words]
        log = folder / "command.log"
        started = time.perf_counter()
        try:
            with log.open("wb") as file:
                status = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
            if status:
                self._failure = f"the program ended with status {status}; what it said is in {log}"
        except OSError as error:
            self._failure = f"the program cannot be run ({error.strerror})"
        self._seconds = (time.perf_counter() - started) / max(1, len(names))
        owners = match_outputs(list(names.values()), picture_files(output_folder))
        self._made = {picture: owners[name] for picture, name in names.items()}

    def large(self, task: Task, small: UInt8Array, size: tuple[int, int]) -> UInt8Array:
        """What the program made of a task's thumbnail."""
        made = self._made.get(task.picture, [])
        if len(made) != 1:
            said = f"the program left {len(made) or 'no'} picture{'s' if made else ''} for this thumbnail"
            raise EvaluationError(f"{self._failure or said}.")
        rgb = read_picture(made[0]).rgb
        full = (small.shape[0] * self.factor, small.shape[1] * self.factor)
        if rgb.shape[:2] not in (full, size):
            raise EvaluationError(
                f"the program gave {rgb.shape[1]} x {rgb.shape[0]} pixels for a thumbnail of {small.shape[1]} x "
                f"{small.shape[0]}; {full[1]} x {full[0]} were wanted."
            )
        return np.ascontiguousarray(rgb[: size[0], : size[1]])

    def seconds_up(self, measured: float) -> float:  # noqa: ARG002
        """Of the program, not of reading what it left."""
        return self._seconds

    def note(self, outputs: Mapping[str, Output]) -> str:  # noqa: ARG002
        """The command, and what its seconds are."""
        return (
            f"{shlex.join(self._words)} over bicubic thumbnails as PNG. Seconds: the program's whole time, its start "
            "included, over the number of pictures."
        )


def flat_names(pictures: Sequence[str]) -> dict[str, str]:
    """A file name without suffix for each picture, none of which begins like another with a separator after it."""
    names = {picture: re.sub(r"[^A-Za-z0-9_-]+", "_", picture) for picture in pictures}
    flat = list(names.values())
    clear = len(set(flat)) == len(flat) and not any(
        re.match(f"{re.escape(a)}[_.-]", b) for a in flat for b in flat if a != b
    )
    if clear:
        return names
    digits = len(str(len(flat)))
    return {picture: f"{index:0{digits}d}" for index, picture in enumerate(pictures)}


def match_outputs(names: Sequence[str], paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Which of ``paths`` a program made of which name: NAME.png, else NAME_out.png, NAME-4x.png and the like."""
    exact = {name: [path for path in paths if path.stem == name] for name in names}
    return {
        name: found or [path for path in paths if re.match(f"{re.escape(name)}[_.-]", path.name)]
        for name, found in exact.items()
    }
