"""Validation pictures and figures, measured through the thumbnail file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from faitheir.evaluation.measures import to_tensor
from faitheir.evaluation.metrics import psnr, ssim
from faitheir.evaluation.roundtrip import round_trip, side_by_side
from faitheir.files import find_photographs
from faitheir.images import Picture, UInt8Array, pad_to_multiple, read_picture, write_picture
from faitheir.nn.codec import FaithEIR
from faitheir.pipeline import FaithEIRPipeline
from faitheir.training.config import TrainConfig

#: A perceptual distance of pictures (B, 3, H, W) in [0, 1]: (B,).
Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def validate(model: FaithEIR, config: TrainConfig, folder: Path, distance: Distance | None = None) -> dict[str, float]:
    """Reduce and restore ``val_count`` photographs of ``data.val``; the pictures are written into ``folder``.

    In the stage "vae" they go through encoder and decoder alone, without a thumbnail. Returns the means of the figures,
    with "val_distance" where a perceptual ``distance`` of pictures in [0, 1] is given. The model is left in evaluation
    mode.
    """
    assert config.data.val is not None
    paths = find_photographs(config.data.val)
    paths = [paths[i] for i in np.linspace(0, len(paths) - 1, min(config.val_count, len(paths))).astype(int)]
    folder.mkdir(parents=True, exist_ok=True)
    if config.stage == "vae":
        measure = _through_the_vae(model)
    else:
        measure = _round_trip(FaithEIRPipeline(model, config.model, fidelity=float(config.stage == "fidelity")))
    rows = []
    for path in paths:
        original = read_picture(path)
        figures, restored = measure(original, folder, path.stem)
        if distance is not None:
            figures["distance"] = _distance(distance, restored.rgb, original.rgb, next(model.parameters()).device)
        rows.append(figures)
    return {f"val_{key}": float(np.nanmean([row[key] for row in rows])) for key in rows[0]}


_Measure = Callable[[Picture, Path, str], tuple[dict[str, float], Picture]]


def _round_trip(pipeline: FaithEIRPipeline) -> _Measure:
    def measure(original: Picture, folder: Path, stem: str) -> tuple[dict[str, float], Picture]:
        outputs = [folder / f"{stem}.{kind}.png" for kind in ("thumb", "restored", "roundtrip")]
        done = round_trip(pipeline, original, (outputs[0], outputs[1], outputs[2]))
        return {k: v for k, v in done.figures.items() if "seconds" not in k}, done.restored

    return measure


def _through_the_vae(model: FaithEIR) -> _Measure:
    model.eval()

    @torch.inference_mode()
    def measure(original: Picture, folder: Path, stem: str) -> tuple[dict[str, float], Picture]:
        device = next(model.parameters()).device
        padded = pad_to_multiple(original.rgb, model.size_multiple)
        x = model.autoencode(to_tensor(padded, device)).float().clamp(0, 1)[0]
        pixels = (x * 255).round().byte().permute(1, 2, 0).cpu().numpy()[: original.height, : original.width]
        restored = Picture(np.ascontiguousarray(pixels))
        write_picture(folder / f"{stem}.restored.png", restored)
        # There is no thumbnail: the restored picture takes its place between the two.
        write_picture(folder / f"{stem}.roundtrip.png", side_by_side(original, restored, restored, 1))
        return {"psnr": psnr(original.rgb, restored.rgb), "ssim": ssim(original.rgb, restored.rgb)}, restored

    return measure


@torch.inference_mode()
def _distance(distance: Distance, a: UInt8Array, b: UInt8Array, device: torch.device) -> float:
    return float(distance(to_tensor(a, device), to_tensor(b, device)))
