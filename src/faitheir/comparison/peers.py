"""Other people's systems over a bicubic thumbnail: super-resolution networks, and programs of any kind."""

import math
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from faitheir.comparison.produce import Setting
from faitheir.comparison.systems import Resampling
from faitheir.devices import resolve_device
from faitheir.errors import EvaluationError, ModelError, needs, one_line
from faitheir.evaluation.results import Output
from faitheir.evaluation.store import file_hash
from faitheir.files import picture_files
from faitheir.images import Picture, UInt8Array, read_picture, resize_bicubic, write_picture
from faitheir.storage import temporary_folder
from faitheir.tiling import Float32Array, process_tiles

#: Super-resolution networks see tiles of this many pixels of what they enlarge, overlapping by the second number.
_TILE, _OVERLAP = 256, 64


class SuperResolution(Resampling):
    """A super-resolution network that spandrel knows, applied repeatedly until the scale is reached."""

    kind = "super-resolution"

    def __init__(self, checkpoint: str, setting: Setting, label: str | None = None) -> None:
        """Raises ModelError for a missing file or another suffix, MissingDependencyError without spandrel."""
        path = Path(checkpoint)
        if not path.is_file():
            raise ModelError(f"{path}: there is no such checkpoint.")
        if path.suffix.lower() not in (".safetensors", ".pth", ".ckpt"):
            raise ModelError(f"{path}: a checkpoint must be a .safetensors, .pth or .ckpt file; convert this one.")
        _import_spandrel()
        super().__init__("bicubic", setting, label or f"sr {path.stem}")
        self.about |= {"checkpoint": path.name, "checkpoint_hash": file_hash(path)[:16]}
        del self.about["enlarged"]
        self._path, self._device = path, setting.device
        self._network: Any = None
        self._times = 0

    def prepare(self, pending: Mapping[str, Path], folder: Path) -> None:  # noqa: ARG002
        """Load the network."""
        self._network = _load_sr(self._path).to(resolve_device(self._device)).eval()
        self._times = max(1, math.ceil(math.log(self.factor) / math.log(self._network.scale) - 1e-9))

    def large(self, picture: str, small: UInt8Array, size: tuple[int, int]) -> UInt8Array:  # noqa: ARG002
        """A picture's thumbnail enlarged by the scale."""
        values: Float32Array = small.astype(np.float32) / np.float32(255)
        for _ in range(self._times):
            values = self._enlarge(values)
        large = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
        full = (small.shape[0] * self.factor, small.shape[1] * self.factor)
        return large if large.shape[:2] == full else resize_bicubic(large, (full[1], full[0]))

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

    def note(self) -> str:
        """What was enlarged, and how."""
        return f"{self._path.name} over a bicubic thumbnail, applied until {self.factor}x is reached."


def _import_spandrel() -> Any:
    with needs("Super-resolution checkpoints need spandrel: pip install 'faitheir[eval]'."):
        import spandrel
    return spandrel


def _load_sr(path: Path) -> Any:
    spandrel = _import_spandrel()
    try:
        # From pickles spandrel reads tensors and dictionaries only, and refuses everything else.
        network = spandrel.ModelLoader(device="cpu").load_from_file(path)
    except Exception as error:  # of any kind: its registry tries many architectures
        raise ModelError(f"{path}: spandrel cannot load this checkpoint ({one_line(error)[:200]}).") from None
    if not isinstance(network, spandrel.ImageModelDescriptor) or network.scale < 2:
        raise ModelError(f"{path}: this network does not enlarge pictures.")
    if (network.input_channels, network.output_channels) != (3, 3):
        raise ModelError(f"{path}: this network is not for RGB pictures.")
    return network


class Command(Resampling):
    """Another program, run once over a folder with the thumbnails of all the pictures that are to be made."""

    kind = "command"

    def __init__(self, command: str, setting: Setting, label: str | None = None) -> None:
        """Raises EvaluationError for a command that cannot be run."""
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise EvaluationError(f"cmd:{command} is not a command ({error}).") from None
        for place in ("{input}", "{output}"):
            if not any(place in word for word in self._words):
                raise EvaluationError(
                    f"cmd:{command} has no {place}; write {{input}} where the program takes the folder of "
                    "thumbnails, and {output} where it takes the folder to fill."
                )
        program = self._words[0]
        if shutil.which(program) is None:
            raise EvaluationError(f"cmd:{command}: the program '{program}' is not found.")
        super().__init__("bicubic", setting, label or f"cmd {Path(program).name}")
        self.about["command"] = command
        del self.about["enlarged"]
        self._failure = ""
        self._left: dict[str, list[Path]] = {}
        self._seconds = 0.0
        self._temporary = Path()

    def outputs(self, originals: Mapping[str, Path], folder: Path, *args: Any, **options: Any) -> dict[str, Output]:
        """The program's input and output lie in a hidden folder until all of it is read."""
        folder.mkdir(parents=True, exist_ok=True)
        with temporary_folder(folder) as temporary:
            self._temporary = temporary.absolute()
            return super().outputs(originals, folder, *args, **options)

    def prepare(self, pending: Mapping[str, Path], folder: Path) -> None:
        """Run the program. Its failure is reported for the pictures that it did not make."""
        input_folder, output_folder = self._temporary / "input", self._temporary / "output"
        input_folder.mkdir()
        output_folder.mkdir()
        names = {picture: f"{index:06d}" for index, picture in enumerate(pending)}
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
        self._left = {picture: owners[name] for picture, name in names.items()}

    def work(self, picture: str, original: Path, stored: Path, restored: Path) -> dict[str, Any]:
        """Through the thumbnail's file. Seconds are the program's, not those of reading what it left."""
        return super().work(picture, original, stored, restored) | {"seconds_up": self._seconds}

    def large(self, picture: str, small: UInt8Array, size: tuple[int, int]) -> UInt8Array:
        """What the program made of a picture's thumbnail."""
        made = self._left.get(picture, [])
        if len(made) != 1:
            said = f"the program left {len(made) or 'no'} picture{'s' if made else ''} for this thumbnail"
            raise EvaluationError(f"{self._failure or said}.")
        rgb = read_picture(made[0]).rgb
        full = (small.shape[0] * self.factor, small.shape[1] * self.factor)
        if rgb.shape[:2] not in (full, size):
            raise EvaluationError(
                f"the program gave {rgb.shape[1]} x {rgb.shape[0]} pixels for a thumbnail of {small.shape[1]} x "
                f"{small.shape[0]}; it should give {full[1]} x {full[0]}."
            )
        return rgb

    def note(self) -> str:
        """The command, and what its seconds include."""
        return (
            f"{shlex.join(self._words)} over bicubic thumbnails as PNG. Seconds: the program's whole time, its start "
            "included, over the number of pictures."
        )


def match_outputs(names: Sequence[str], paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Which of ``paths`` a program made of which name: NAME.png, else NAME_out.png, NAME-4x.png and the like."""
    exact = {name: [path for path in paths if path.stem == name] for name in names}
    return {
        name: found or [path for path in paths if re.match(f"{re.escape(name)}[_.-]", path.name)]
        for name, found in exact.items()
    }
