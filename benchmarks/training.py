"""Seconds per step and peak memory of a recipe at its full size, with random weights: nothing is downloaded.

    python benchmarks/training.py configs/turbo-x16.toml [--batch 8] [--steps 4] [--set key=value ...]

SD-Turbo's networks, DINOv2-L and VGG16 are built to their real sizes with random values, and trained on noise by the
real loop. The first step, with its set-up, is not counted. On a GPU the peak is of its memory; on a processor it is the
process's largest resident set, Python included. Needs the extras turbo and train, and torchvision.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors.torch import save_file

from faitheir.cli.train import toml_value
from faitheir.devices import peak_mib, resolve_device
from faitheir.training.config import load_train_config
from faitheir.training.loop import train
from faitheir.training.record import read_log


def random_networks(folder: Path) -> dict[str, Any]:
    """Overrides that name random networks of the real sizes, written into ``folder``."""
    import torchvision
    from transformers import Dinov2Config, Dinov2Model

    large = Dinov2Config(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, patch_size=14, image_size=518)
    Dinov2Model(large).save_pretrained(folder / "dinov2")
    vgg = torchvision.models.vgg16(weights=None).features.state_dict()
    save_file({f"features.{name}": value for name, value in vgg.items()}, folder / "vgg16.safetensors")
    return {
        "losses.teacher_weights": str(folder / "dinov2"),
        "losses.features": [{"network": "vgg16", "weights": str(folder / "vgg16.safetensors")}],
        "model.backbone.base": "random",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--steps", type=int, default=4, help="steps, the first not counted")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        overrides = random_networks(folder)
        (folder / "photos").mkdir()
        for i in range(4):
            noise = np.random.default_rng(i).integers(0, 256, (768, 1024, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / "photos" / f"{i}.png")
        overrides |= {"data.train": str(folder / "photos"), "run": str(folder / "run"), "tensorboard": False}
        overrides |= {"steps": args.steps, "log_every": 1, "val_every": 0, "save_every": args.steps}
        overrides |= {"batch": args.batch} if args.batch else {}
        overrides |= {key: toml_value(value) for key, _, value in (setting.partition("=") for setting in args.set)}
        config = load_train_config(args.config, overrides)
        peaks: list[float] = []
        device = resolve_device("auto")

        def log(line: str) -> None:
            print(line, flush=True)
            # Saving at the end takes memory of its own, which is not training's.
            peaks.append(peak_mib(device))

        train(config, log=log)
        times = [config.batch / line["crops_per_second"] for line in read_log(folder / "run")[1:]]
        print(
            f"{args.config.name}, {config.batch} crops of {config.data.crop}: {np.median(times):.2f} s per step "
            f"(median of {len(times)}), peak {max(peaks):,.0f} MiB"
        )


if __name__ == "__main__":
    main()
