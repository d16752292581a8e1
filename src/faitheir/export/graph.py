"""The two halves of a model as ONNX graphs in float32, traced from the model's own code."""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from faitheir.errors import ConfigError, MissingDependencyError
from faitheir.nn.codec import FaithEIR
from faitheir.nn.embedder import PixelSemanticEmbedder
from faitheir.nn.priors import AdaptiveDetailPrior

if TYPE_CHECKING:
    import onnx

Half = Literal["down", "up"]

#: The oldest operators that hold what the models compute, and the oldest file format that may hold those.
OPSET, IR_VERSION = 18, 8


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


def prepared(model: FaithEIR, fidelity: float = 0.0) -> FaithEIR:
    """A copy in float32 that restores at ``fidelity``, with what depends on the weights alone computed beforehand.

    The orthogonal matrix becomes a plain one, and linear layers in succession become one. Raises ConfigError for a
    fidelity that the model cannot give, or a prior that draws random numbers.
    """
    if not isinstance(model.prior, AdaptiveDetailPrior):
        raise ConfigError("this model's prior draws random numbers, which no file can repeat; choose another model.")
    model = copy.deepcopy(model).float().eval().settled(fidelity)
    attention = getattr(getattr(model.backbone, "unet", None), "attention", None)
    embedder = model.embedder
    if isinstance(embedder, PixelSemanticEmbedder) and attention is not None and attention.to_kv.bias is None:
        # Nothing stands between the embedder's last layer and the keys and values.
        *_, last = embedder.layers
        attention.to_kv = _product(attention.to_kv, last)
        embedder.layers[-1] = nn.Identity()
    return model.requires_grad_(False)


def _product(second: nn.Linear, first: nn.Module) -> nn.Linear:
    """One layer in place of two."""
    assert isinstance(first, nn.Linear)
    product = nn.Linear(first.in_features, second.out_features)
    weight = second.weight.double()
    with torch.no_grad():
        product.weight.copy_(weight @ first.weight.double())
        product.bias.copy_(weight @ first.bias.double())
    return product


def trace(model: FaithEIR, half: Half) -> "onnx.ModelProto":
    """The graph of one half of a model that ``prepared`` gave, for any batch, height and width.

    down: ``picture`` (B, 3, H, W) in [0, 1] -> ``thumbnail`` (B, 3, H/s, W/s), not rounded, nominally in [0, 1].
    up: ``thumbnail`` (B, 3, h, w) in [0, 1] and ``origin`` (2,) int32, the row and column at which it was cut out of a
    larger one -> ``picture`` (B, 3, h s, w s), nominally in [0, 1], not clamped.
    Raises MissingDependencyError where the extra ``onnx`` is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise MissingDependencyError("`faitheir export` needs more packages: pip install 'faitheir[onnx]'.") from None
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
    """Without the exporter's notes, which take more bytes than the graph, and with names for the dimensions."""
    model.ir_version = IR_VERSION
    graph = model.graph
    del graph.value_info[:], model.metadata_props[:], graph.metadata_props[:]
    for item in (graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        item.ClearField("doc_string")
        del item.metadata_props[:]
    sides = ("height", "width"), ("rows", "columns")
    for value, names in ((graph.input[0], sides[half == "up"]), (graph.output[0], sides[half == "down"])):
        dims = value.type.tensor_type.shape.dim
        for i, name in ((0, "batch"), (2, names[0]), (3, names[1])):
            dims[i].dim_param = name
    return model
