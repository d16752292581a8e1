"""The halves of a model as ONNX files, each with its description beside it, written once they are checked."""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from faitheir.errors import ConfigError, ModelError, why
from faitheir.export.weights import Precision, stored
from faitheir.graph import FAULT, OPSET, TOLERANCE, Half, Trial, compare, prepared, trace, trials
from faitheir.pipeline import FaithEIRPipeline
from faitheir.storage import write_atomic
from faitheir.version import __version__

HALVES: tuple[Half, ...] = ("down", "up")


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    ``about``: its description, as in the JSON file beside it. ``mean_difference``, ``max_difference``: from the model
    in PyTorch, in levels of 255 before they are rounded, on pictures of random sizes whose pixels are noise.
    """

    path: Path
    about: dict[str, Any]
    mean_difference: float
    max_difference: float


def file_name(model: str, half: Half, precision: Precision, fidelity: float = 0.0) -> str:
    """What the file of that half is called, such as ``nano-x16-up-fp16.onnx``."""
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in model)
    setting = f"-f{fidelity:g}" if half == "up" and fidelity else ""
    return f"{name}-{half}{setting}-{precision}.onnx"


def export(
    pipeline: FaithEIRPipeline,
    folder: str | Path,
    *,
    halves: Iterable[Half] = HALVES,
    precisions: Iterable[Precision] = ("fp32",),
    fidelity: float | None = None,
) -> list[Exported]:
    """Write halves of a model into ``folder``, each in every one of ``precisions``, and describe what was written.

    A graph takes any batch, height and width; see ``graph.trace`` for its inputs and outputs. All of a file's numbers
    are in that one file. Beside it lies its description (``description``) in JSON, for programs that cannot read the
    metadata in an ONNX file. Each is compared with the model in PyTorch before it is written.

    ``fidelity``: of what the decoder half restores, for good; by default the pipeline's.
    Raises ConfigError for what cannot be exported (``graph.prepared``), is not in float32 or too large for a file,
    MissingDependencyError without the extra ``onnx``, ModelError where a graph does not compute what the model does,
    StorageError where a file cannot be written.
    """
    if pipeline.dtype != torch.float32:
        raise ConfigError("the pipeline was cast to half precision; open it in float32 to export it.")
    folder = Path(folder)
    fidelity = pipeline.fidelity if fidelity is None else fidelity
    ready = prepared(pipeline.model, fidelity)
    precisions = tuple(precisions)
    written = []
    for half in halves:
        graph = trace(ready, half)
        made = trials(pipeline.model, half, fidelity)
        _check(graph.SerializeToString(), made, TOLERANCE)
        for precision in precisions:
            about = description(pipeline, half, precision, fidelity)
            model = stored(graph, precision)
            for key, value in about.items():
                model.metadata_props.add(key=key, value=value if isinstance(value, str) else json.dumps(value))
            data = model.SerializeToString()
            difference = _check(data, made, math.inf)
            path = folder / file_name(pipeline.name, half, precision, fidelity)
            about |= {"file": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data)
            write_atomic(path.with_suffix(".json"), json.dumps(about, indent=2).encode() + b"\n")
            written.append(Exported(path, about, *difference))
    return written


def description(pipeline: FaithEIRPipeline, half: Half, precision: Precision, fidelity: float) -> dict[str, Any]:
    """What a file holds, and how pictures are cut for it.

    ``format``: 1, of this description. ``made_by``: the program and its version. ``model``, ``weights``: name and hash;
    thumbnails carry the hash. ``licence``: as the model card has it, or None. ``half``, ``precision``, ``fidelity``,
    ``opset``: of the graph. ``scale``, ``multiple``, ``align``, ``overlap``, ``tile``: see ``FaithEIRPipeline.layout``.
    """
    return {
        "format": 1,
        "made_by": f"FaithEIR {__version__}",
        "model": pipeline.name,
        "weights": pipeline.weights,
        "licence": pipeline.licence,
        "half": half,
        "precision": precision,
        "fidelity": fidelity if half == "up" else 0.0,
        "opset": OPSET,
        **pipeline.layout,
    }


def _check(data: bytes, made: Sequence[Trial], tolerance: float) -> tuple[float, float]:
    """As ``graph.compare``, for an ONNX file in onnxruntime. Raises ModelError, too, where the file is not valid."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        onnx.checker.check_model(data, full_check=True)
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        results = [session.run(None, inputs)[0] for inputs, _ in made]
    except Exception as error:  # of classes that onnxruntime does not publish
        raise ModelError(f"the exported graph cannot be run ({why(error)}), so nothing was written; {FAULT}") from error
    return compare(results, made, tolerance)
