"""How the weights of a graph are stored; whatever it is, the graph computes in float32 on every runtime.

What is stored smaller is turned back by a Cast (and a Mul) that runtimes compute once, when they load the file. So half
precision and 8 bits make the file smaller and ask nothing of the runtime: WebAssembly has no kernels for half
precision, and WebGPU has them on some machines only.
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import onnx

Precision = Literal["fp32", "fp16", "int8"]

#: Values below which a tensor stays in float32: turning it back would take more bytes than it saves.
LEAST_VALUES = 64


def stored(model: "onnx.ModelProto", precision: Precision) -> "onnx.ModelProto":
    """A copy of a float32 graph whose weights are stored in ``precision``.

    ``fp16``: each weight rounded to half precision. ``int8``: kernels and matrices in 8 bits, with a scale for each
    output channel; the other weights in half precision.
    """
    import onnx
    from onnx import numpy_helper

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    if precision == "fp32":
        return copied
    graph, axes = copied.graph, _output_axes(model.graph)
    initializers, nodes = [], []
    for number, tensor in enumerate(model.graph.initializer):
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < LEAST_VALUES:
            initializers.append(tensor)
        elif precision == "int8" and tensor.name in axes:
            levels, scale = _eight_bits(values, axes[tensor.name])
            names = [f"{number}.{part}" for part in ("int8", "levels", "scale")]
            initializers += [numpy_helper.from_array(levels, names[0]), numpy_helper.from_array(scale, names[2])]
            nodes += [_cast(names[0], names[1]), onnx.helper.make_node("Mul", names[1:], [tensor.name])]
        else:
            half = f"{number}.fp16"
            initializers.append(numpy_helper.from_array(values.astype(np.float16), half))
            nodes.append(_cast(half, tensor.name))
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(initializers)
    graph.node.extend([*nodes, *model.graph.node])
    return copied


def _cast(name: str, to: str) -> Any:
    from onnx import TensorProto, helper

    return helper.make_node("Cast", [name], [to], to=TensorProto.FLOAT)


def _output_axes(graph: "onnx.GraphProto") -> dict[str, int]:
    """The axis of output channels of each kernel and matrix, by the name of its tensor."""
    axes = {"Conv": 0, "MatMul": -1}
    return {node.input[1]: axes[node.op_type] for node in graph.node if node.op_type in axes}


def _eight_bits(values: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Levels from -127 to 127, and what they are multiplied by: one value for each index along ``axis``."""
    others = tuple(i for i in range(values.ndim) if i != axis % values.ndim)
    largest = np.abs(values).max(axis=others, keepdims=True)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32)
    return np.rint(values / scale).astype(np.int8), scale
