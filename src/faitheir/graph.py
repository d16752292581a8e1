"""The two halves of a model as ONNX graphs in float32, traced from the model's own code."""

import copy
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from faitheir.errors import ConfigError, ModelError, needs
from faitheir.nn.codec import FaithEIR
from faitheir.nn.embedder import PixelSemanticEmbedder
from faitheir.nn.priors import AdaptiveDetailPrior

if TYPE_CHECKING:
    import onnx

Half = Literal["down", "up"]

#: The oldest operators that hold what the models compute, and the oldest file format that may hold those.
OPSET, IR_VERSION = 18, 8


#: Of the keys and values of colours, this share is left out (of their standard deviation): as little as weights lose
#: in half precision.
LEFT_OUT = 1.5e-3

#: Of weights, less than an ONNX file holds (2 GiB, with the graph).
MOST_BYTES = 2**31 - 2**24

#: Levels of 255 by which a graph in float32 may differ from the model, of noise: its sums are in another order, and
#: ``prepared`` leaves out what is smaller.
TOLERANCE = 0.25

FAULT = "this is a fault of the export: report it, with the versions of torch and onnxscript."

#: What goes into a graph, by name, and what PyTorch gives for it.
Trial = tuple[dict[str, np.ndarray], np.ndarray]


class _Down(nn.Module):
    def __init__(self, model: FaithEIR) -> None:
        super().__init__()
        self.model = model

    def forward(self, picture: Tensor) -> Tensor:
        return self.model.project(picture)


class _Up(nn.Module):
    def __init__(self, model: FaithEIR) -> None:
        super().__init__()
        self.model = model

    def forward(self, thumbnail: Tensor, origin: Tensor) -> Tensor:
        row, column = origin.unbind()
        return self.model.upscale(thumbnail, (row, column))  # type: ignore[arg-type]  # traced: numbers of the input


def check(model: FaithEIR) -> None:
    """Raise ConfigError unless the model can be a graph."""
    if not isinstance(model.prior, AdaptiveDetailPrior):
        raise ConfigError("this model's prior draws random numbers, which no file can repeat; choose another model.")
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    if size > MOST_BYTES:
        raise ConfigError(f"this model takes {size / 1e9:.1f} GB in float32; one ONNX file holds at most 2 GB.")


def prepared(model: FaithEIR, fidelity: float = 0.0) -> FaithEIR:
    """A copy in float32 that restores at ``fidelity``, with what depends on the weights alone computed beforehand.

    The orthogonal matrix becomes a plain one, and the layers from colours to keys and values become smaller
    (``_condense``). Raises ConfigError for a fidelity that the model cannot give, and as ``check`` does.
    """
    check(model)
    model = copy.deepcopy(model).float().eval().settled(fidelity)
    attention = getattr(getattr(model.backbone, "unet", None), "attention", None)
    embedder = model.embedder
    if isinstance(embedder, PixelSemanticEmbedder) and attention is not None and attention.to_kv.bias is None:
        _condense(embedder, attention)
    return model.requires_grad_(False)


@torch.no_grad()
def _condense(embedder: PixelSemanticEmbedder, attention: nn.Module) -> None:
    """Leave out of the layers from colours to keys and values what makes no difference.

    Units that no colour activates go. Nothing stands between the last layer and the keys and values: the product of the
    two is kept as factors of the rank that gives the keys and values of all colours but for `LEFT_OUT`.
    """
    line = torch.linspace(-1, 1, 33, dtype=torch.double)
    x = torch.cartesian_prod(line, line, line)
    layers: list[nn.Linear] = list(embedder.double().layers)  # type: ignore[arg-type]
    alive = torch.ones(3, dtype=torch.bool)
    for i, layer in enumerate(layers[:-1]):
        x = torch.relu(F.linear(x, layer.weight[:, alive], layer.bias))
        fired = x.amax(0) > 0
        layers[i] = _linear(layer.weight[fired][:, alive], layer.bias[fired])
        x, alive = x[:, fired], fired
    to_kv: Tensor = attention.to_kv.weight.double()  # type: ignore[union-attr, assignment]
    weight, bias = to_kv @ layers[-1].weight[:, alive], to_kv @ layers[-1].bias
    mean = x.mean(0)
    covariance = (x - mean).mT @ (x - mean)
    powers, directions = torch.linalg.eigh(weight @ covariance @ weight.mT)  # ascending
    rank = int((powers.clamp_min(0).cumsum(0) > LEFT_OUT**2 * powers.sum()).sum())
    kept = directions[:, len(powers) - rank :]
    constant = bias + (weight @ mean) - kept @ (kept.mT @ (weight @ mean))
    layers[-1], attention.to_kv = _linear(kept.mT @ weight, torch.zeros(rank)), _linear(kept, constant)
    embedder.layers = nn.ModuleList(layers)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


def trace(model: FaithEIR, half: Half) -> "onnx.ModelProto":
    """The graph of one half of a model that ``prepared`` gave, for any batch, height and width.

    down: ``picture`` (B, 3, H, W) in [0, 1] -> ``thumbnail`` (B, 3, H/s, W/s), not rounded, nominally in [0, 1].
    up: ``thumbnail`` (B, 3, h, w) in [0, 1] and ``origin`` (2,) int32, the row and column at which it was cut out of a
    larger one -> ``picture`` (B, 3, h s, w s), nominally in [0, 1], not clamped.
    Raises MissingDependencyError where the extra ``onnx`` is not installed.
    """
    with needs("`faitheir export` needs more packages: pip install 'faitheir[onnx]'."):
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    sides = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    shapes: dict[str, Any] = {"picture": sides} if half == "down" else {"thumbnail": sides, "origin": None}
    multiple = model.size_multiple // (1 if half == "down" else model.config.scale)
    # Windows are not filled: the trace then holds the branch that pads them, which is right for all sizes.
    rows, columns = (multiple * (2 * model.backbone.window + extra) for extra in (3, 5))
    inputs = (torch.rand(2, 3, rows, columns), torch.zeros(2, dtype=torch.int32))[: len(shapes)]
    # With gradients: without them, the model takes shortcuts that are for torch on a CPU alone.
    with torch.enable_grad(), _quiet():
        exported = torch.export.export(
            (_Down if half == "down" else _Up)(model).eval(), inputs, dynamic_shapes=shapes, strict=False
        )
        program = torch.onnx.export(
            exported,
            input_names=list(shapes),
            output_names=["thumbnail" if half == "down" else "picture"],
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return _lean(program.model_proto, half)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on its own workings."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _lean(model: "onnx.ModelProto", half: Half) -> "onnx.ModelProto":
    """Without the exporter's notes and names, which take more bytes than the graph; with names for the dimensions."""
    model.ir_version = IR_VERSION
    graph = model.graph
    del graph.value_info[:], model.metadata_props[:], graph.metadata_props[:]
    for item in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        item.ClearField("doc_string")
        del item.metadata_props[:]
    for node in graph.node:
        node.ClearField("name")
    sides = ("height", "width"), ("rows", "columns")
    for value, names in ((graph.input[0], sides[half == "up"]), (graph.output[0], sides[half == "down"])):
        dims = value.type.tensor_type.shape.dim
        for i, name in ((0, "batch"), (2, names[0]), (3, names[1])):
            dims[i].dim_param = name
    return model


def trials(model: FaithEIR, half: Half, fidelity: float = 0.0) -> list[Trial]:
    """Noise for a graph of ``model`` (in float32), and what the model gives for it.

    They are the smallest picture, one that fills windows of attention exactly, and two of random sizes, at random
    places.
    """
    generator = np.random.default_rng(0)
    cell = model.config.scale if half == "down" else 1
    multiple, align = model.size_multiple // model.config.scale, model.tile_multiple
    sizes = [(multiple, multiple), (align, 2 * align), *(multiple * generator.integers(2, 20, (2, 2))).tolist()]
    device = next(model.parameters()).device
    made: list[Trial] = []
    for i, (rows, columns) in enumerate(sizes):
        x = generator.random((1 + i % 2, 3, rows * cell, columns * cell), np.float32)
        tensor = torch.from_numpy(x).to(device)
        with torch.inference_mode():
            if half == "down":
                made.append(({"picture": x}, model.project(tensor).cpu().numpy()))
                continue
            row, column = (align * generator.integers(0, 99, 2)).tolist()
            origin = np.array([row, column], np.int32)
            restored = model.upscale(tensor, (row, column), fidelity).cpu().numpy()
            made.append(({"thumbnail": x, "origin": origin}, restored))
    return made


def compare(results: Iterable[np.ndarray], made: Sequence[Trial], tolerance: float = TOLERANCE) -> tuple[float, float]:
    """Mean and largest difference of a graph's results from those of the trials, in levels of 255.

    Raises ModelError where the largest is above ``tolerance``.
    """
    pairs = zip(results, (expected for _, expected in made), strict=True)
    differences = np.concatenate([255 * np.abs(found - expected).ravel() for found, expected in pairs])
    mean, most = float(differences.mean()), float(differences.max())
    if not most <= tolerance:
        raise ModelError(
            f"the exported graph differs from the model by {most:.2g} levels, so nothing was written; {FAULT}"
        )
    return mean, most
