"""Another runtime than PyTorch for the halves of a model: OpenVINO, on the CPU."""

import hashlib
import logging
import os
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from faitheir.errors import DeviceError, needs
from faitheir.graph import Half, check, compare, prepared, trace, trials
from faitheir.nn.codec import FaithEIR
from faitheir.storage import write_atomic
from faitheir.version import __version__

Runtime = Literal["torch", "openvino"]

_LOG = logging.getLogger("faitheir")
_PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}


def cache_folder() -> Path:
    """Where converted models are kept: ``faitheir`` in $XDG_CACHE_HOME, by default ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "faitheir"


class OpenVINO:
    """``project`` and ``upscale`` of a model. Threads may share it: they take turns.

    Each half, and each fidelity of the decoder half, is a graph, which is made when it is first used, compared with the
    model, and kept in ``cache_folder``.
    """

    def __init__(self, model: FaithEIR, identity: str, dtype: torch.dtype) -> None:
        """``model``: in float32, on the CPU. ``identity``: what tells it from any other. ``dtype``: to compute in.

        Raises ConfigError for a model that cannot be a graph, DeviceError for float16, MissingDependencyError without
        OpenVINO.
        """
        if dtype not in _PRECISIONS:
            raise DeviceError("OpenVINO computes in float32 and bfloat16 here; choose one, or the runtime torch.")
        check(model)
        with needs("Running models in OpenVINO needs more packages: pip install 'faitheir[openvino]'."):
            import openvino
        self.dtype = dtype
        self._model, self._identity = model, identity
        self._core = openvino.Core()
        self._settings = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[dtype],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            # Else two processes may both sit on one core.
            "ENABLE_CPU_PINNING": False,
        }
        self._compiled: dict[tuple[Half, float], Any] = {}
        self._lock = Lock()

    def project(self, x: Tensor) -> Tensor:
        """As ``FaithEIR.project``. Raises what ``graph.trace`` and ``graph.compare`` raise, and StorageError."""
        return self._run("down", 0.0, {"picture": x})

    def upscale(self, y: Tensor, origin: tuple[int, int] = (0, 0), fidelity: float = 0.0) -> Tensor:
        """As ``FaithEIR.upscale``. Raises what ``project`` raises."""
        return self._run("up", fidelity, {"thumbnail": y, "origin": torch.tensor(origin, dtype=torch.int32)})

    def _run(self, half: Half, fidelity: float, inputs: dict[str, Tensor]) -> Tensor:
        arrays = {name: np.ascontiguousarray(value.numpy()) for name, value in inputs.items()}
        with self._lock:
            if (half, fidelity) not in self._compiled:
                path = self._file(half, fidelity)
                settings = self._settings | {"CACHE_DIR": str(path.parent)}
                self._compiled[half, fidelity] = self._core.compile_model(path, "CPU", settings)
            return torch.from_numpy(np.array(self._compiled[half, fidelity](arrays)[0]))

    def _file(self, half: Half, fidelity: float) -> Path:
        key = hashlib.sha256(f"{__version__} {self._identity} {fidelity}".encode()).hexdigest()[:16]
        path = cache_folder() / f"{half}-{key}.onnx"
        if not path.is_file():
            _LOG.warning("A half of the model is converted for OpenVINO, once; this takes some 20 seconds.")
            # The pipeline computes without gradients; tracing needs to be outside of that.
            with torch.inference_mode(False):
                data = trace(prepared(self._model, fidelity), half).SerializeToString()
            plain = self._core.compile_model(self._core.read_model(data), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
            made = trials(self._model, half, fidelity)
            compare((np.array(plain(inputs)[0]) for inputs, _ in made), made)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data)
        return path
