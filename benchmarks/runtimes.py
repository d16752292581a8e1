"""Runtimes side by side: PyTorch as it is and compiled, ONNX Runtime and OpenVINO; what they take, and what they give.

    faitheir export nano-x16 -o onnx --precision fp32 --precision fp16 --precision int8
    python benchmarks/runtimes.py --onnx onnx --hr DIR [--alexnet FILE] [--runtimes torch-bfloat16,onnxruntime]

Every runtime takes the place of the model inside one pipeline, so tiles and rounding are the same. Times are end to
end, as `faitheir downscale` and `faitheir upscale` spend them: a JPEG is read and its thumbnail written, then that is
read and a PNG written. They are of the processor, at one thread, the least of ``--repeat`` runs: other programs on the
machine do not lengthen them. "Opening" is opening the model, "first" the first small picture there and back, and where
it is compiled the first of each size; neither is in the times. A ratio is the first runtime's time there and back over
that of the row, so above 1 is faster. PSNR (dB) and LPIPS (alex) are means over ``--count`` photographs from ``--hr``,
restored from thumbnails that torch made in float32.

The names in ``--runtimes``: torch-bfloat16 (the default on processors that have it), torch (float32), and both with
-compile; onnxruntime, onnxruntime-fp16 and onnxruntime-int8 (smaller weights, computing in float32), onnxruntime-qdq
(weights and activations in 8 bits, calibrated on four photographs); openvino, openvino-bfloat16.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from faitheir.evaluation.measures import picture_metric
from faitheir.evaluation.metrics import psnr
from faitheir.export.files import file_name
from faitheir.files import find_photographs
from faitheir.images import Picture, read_picture, resize_bicubic, write_picture
from faitheir.pipeline import FaithEIRPipeline
from faitheir.thumbnail import Thumbnail

RUNTIMES = (
    "torch-bfloat16",
    "torch",
    "onnxruntime",
    "onnxruntime-int8",
    "onnxruntime-qdq",
    "openvino",
    "openvino-bfloat16",
    "torch-compile",
    "torch-bfloat16-compile",
)

#: Width and height of about 0.4, 2.8 and 12 megapixels.
SIZES = ((768, 512), (2048, 1365), (4000, 3000))

T = TypeVar("T")

#: A half of a model: inputs by name -> the picture or thumbnail.
Half = Callable[[dict[str, np.ndarray]], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnx", type=Path, required=True, help="folder that `faitheir export` wrote")
    parser.add_argument("--hr", type=Path, required=True, help="folder of photographs")
    parser.add_argument("--alexnet", help="AlexNet's features for LPIPS; else torchvision fetches them")
    parser.add_argument("--model", default="nano-x16")
    parser.add_argument("--runtimes", default=",".join(RUNTIMES))
    parser.add_argument("--sizes", type=int, default=len(SIZES), help="only the first so many of the three sizes")
    parser.add_argument("--count", type=int, default=10, help="photographs for PSNR and LPIPS")
    parser.add_argument("--repeat", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(1)
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    sizes = SIZES[: args.sizes]
    paths = find_photographs(args.hr)
    photographs = [read_picture(paths[i]) for i in np.linspace(0, len(paths) - 1, args.count).astype(int)]
    reference = FaithEIRPipeline.from_pretrained(args.model)
    thumbnails = [reference.downscale_picture(photograph) for photograph in photographs]
    lpips = picture_metric("lpips_alex", weights={"alexnet": args.alexnet} if args.alexnet else None)

    largest = max(photographs, key=lambda photograph: photograph.width * photograph.height)
    columns = [f"{width * height / 1e6:.1f} MP: down; up, s | x" for width, height in sizes]
    print(f"| runtime | opening, s | first, s | {' | '.join(columns)} | PSNR | LPIPS |")
    print("| --- " * (5 + 2 * len(columns)) + "|", flush=True)
    baseline: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sources = [folder / f"{width}.jpg" for width, _ in sizes]
        for source, size in zip(sources, sizes, strict=True):
            write_picture(source, Picture(resize_bicubic(largest.rgb, size)))
        for runtime in args.runtimes.split(","):
            opening, pipeline = timed(
                lambda: opened(runtime, args, folder, list(zip(photographs, thumbnails, strict=True))[:4])  # noqa: B023
            )
            # What is compiled is compiled for each size.
            first = [there_and_back(pipeline, source) for source in sources[: None if "compile" in runtime else 1]]
            runs = [[there_and_back(pipeline, source) for _ in range(args.repeat)] for source in sources]
            times = [min(run, key=sum) for run in runs]
            baseline = baseline or [sum(pair) for pair in times]
            restored = [pipeline.upscale_thumbnail(thumbnail).rgb for thumbnail in thumbnails]
            pairs = [(photograph.rgb, rgb) for photograph, rgb in zip(photographs, restored, strict=True)]
            cells = [f"{opening:.1f}", f"{sum(map(sum, first)):.1f}"]
            cells += [f"{t[0]:.2f}; {t[1]:.2f} | {b / sum(t):.2f}" for t, b in zip(times, baseline, strict=True)]
            cells += [f"{np.mean([measure(*pair) for pair in pairs]):.4g}" for measure in (psnr, lpips)]
            print(f"| {runtime} | {' | '.join(cells)} |", flush=True)


def timed(function: Callable[[], T]) -> tuple[float, T]:
    """Processor seconds, those of this process and of compilers that it called, and the result."""

    def seconds() -> float:
        times = os.times()
        return times.user + times.system + times.children_user + times.children_system

    started = seconds()
    result = function()
    return seconds() - started, result


def there_and_back(pipeline: FaithEIRPipeline, source: Path) -> tuple[float, float]:
    """Seconds from a photograph's file to its thumbnail's, and from that to the restored picture's."""
    thumbnail = source.with_suffix(".thumb.avif")
    down, _ = timed(lambda: pipeline.downscale(source).save(thumbnail))
    up, _ = timed(lambda: pipeline.upscale(thumbnail).save(source.with_suffix(".png")))
    return down, up


def opened(
    name: str, args: argparse.Namespace, folder: Path, calibration: list[tuple[Picture, Thumbnail]]
) -> FaithEIRPipeline:
    """A pipeline whose model runs in that runtime."""
    runtime, *kinds = name.split("-")
    if runtime == "torch":
        dtype = "bfloat16" if "bfloat16" in kinds else "float32"
        pipeline = FaithEIRPipeline.from_pretrained(args.model, dtype=dtype)
        if "compile" in kinds:
            replace_halves(pipeline, torch.compile(pipeline.model.project), torch.compile(pipeline.model.upscale))
        return pipeline
    kind = kinds[0] if kinds else ""
    pipeline = FaithEIRPipeline.from_pretrained(args.model)
    stored: Any = kind if runtime == "onnxruntime" and kind in ("fp16", "int8") else "fp32"
    down, up = (args.onnx / file_name(pipeline.name, half, stored) for half in ("down", "up"))
    if kind == "qdq":
        down = quantized(down, folder, [{"picture": as_input(photo.rgb, pipeline.scale)} for photo, _ in calibration])
        origin = np.zeros(2, np.int32)
        up = quantized(up, folder, [{"thumbnail": as_input(t.picture.rgb), "origin": origin} for _, t in calibration])
    run_down, run_up = (
        (onnxruntime_half(path) for path in (down, up))
        if runtime == "onnxruntime"
        else (openvino_half(path, "bf16" if kind == "bfloat16" else "f32") for path in (down, up))
    )

    def project(x: Tensor) -> Tensor:
        return torch.from_numpy(run_down({"picture": x.contiguous().numpy()}))

    def upscale(y: Tensor, origin: tuple[int, int], fidelity: float) -> Tensor:
        assert fidelity == 0
        return torch.from_numpy(run_up({"thumbnail": y.contiguous().numpy(), "origin": np.array(origin, np.int32)}))

    replace_halves(pipeline, project, upscale)
    return pipeline


def replace_halves(pipeline: FaithEIRPipeline, project: Any, upscale: Any) -> None:
    pipeline.model.project, pipeline.model.upscale = project, upscale  # type: ignore[method-assign]


def onnxruntime_half(path: Path) -> Half:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, inputs)[0]


def openvino_half(path: Path, precision: str) -> Half:
    import openvino

    compiled = openvino.Core().compile_model(
        path,
        "CPU",
        {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": 1},
    )
    return lambda inputs: np.array(compiled(inputs)[0])


def quantized(path: Path, folder: Path, inputs: list[dict[str, np.ndarray]]) -> Path:
    """The file with weights and activations of convolutions and matrix products in 8 bits."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[dict[str, np.ndarray]] = iter(inputs)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    output = folder / f"qdq-{path.name}"
    if not output.exists():
        quantize_static(
            path,
            output,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            op_types_to_quantize=["Conv", "MatMul"],
        )
    return output


def as_input(rgb: np.ndarray, multiple: int = 1) -> np.ndarray:
    """(H, W, 3) uint8 -> (1, 3, H, W) in [0, 1], cut to multiples."""
    height, width = (side // multiple * multiple for side in rgb.shape[:2])
    return rgb[None, :height, :width].transpose(0, 3, 1, 2).astype(np.float32) / 255


if __name__ == "__main__":
    main()
