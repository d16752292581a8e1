"""What a user's type checker sees: the pages' Python under mypy --strict, with the package as it is installed."""

import importlib.resources
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest

from test_documentation import BLOCKS, ROOT

pytest.importorskip("mypy")

#: What the overloads promise.
TYPES = """
from pathlib import Path
from typing import assert_type

import numpy as np
import numpy.typing as npt
from PIL.Image import Image
from torch import Tensor

import faitheir
from faitheir import FaithEIR, FaithEIRPipeline, ModelConfig, Thumbnail, TrainConfig

pipeline = FaithEIRPipeline.from_pretrained("owner/name", revision="v1", cache_dir="there", token=False)
assert_type(pipeline, FaithEIRPipeline)
assert_type(pipeline.downscale("a.jpg"), Thumbnail)
assert_type(pipeline.downscale(["a.jpg", b"", open("b.jpg", "rb")]), list[Thumbnail])
assert_type(pipeline.upscale("a.png"), Image)
assert_type(pipeline.upscale(b"", output_type="pil"), Image)
assert_type(pipeline.upscale(Tensor(), output_type="np"), npt.NDArray[np.uint8])
assert_type(pipeline.upscale("a.png", output_type="pt", fidelity=1, max_pixels=10), Tensor)
assert_type(pipeline.upscale(["a.png"], callback=print), list[Image])
assert_type(pipeline.upscale(("a.png",), output_type="np"), list[npt.NDArray[np.uint8]])
assert_type(pipeline.upscale([Thumbnail.open("a.png")], output_type="pt"), list[Tensor])
assert_type(faitheir.pipeline_for("a.png", device="auto"), FaithEIRPipeline)
assert_type(pipeline.model, FaithEIR)
assert_type(pipeline.config, ModelConfig)
assert_type(faitheir.load_train_config("a.toml"), TrainConfig)
assert_type(faitheir.train(faitheir.load_train_config("a.toml")), Path | None)
pipeline.upscale("a.png", output_type="banana")  # type: ignore[call-overload]
"""


def test_python_in_the_pages_and_public_types_under_strict_mypy(tmp_path: Path) -> None:
    assert importlib.resources.files("faitheir").joinpath("py.typed").is_file()
    (tmp_path / "types_of_results.py").write_text(TYPES, encoding="utf-8")
    for page, blocks in groupby((b for b in BLOCKS if b.language == "python"), lambda block: block.page):
        name = "_".join(page.relative_to(ROOT).with_suffix("").parts).replace("-", "_")
        (tmp_path / f"page_{name}.py").write_text("\n".join(b.text for b in blocks), encoding="utf-8")
    assert len(list(tmp_path.glob("page_*.py"))) > 3
    # Without this repository's own settings, and from a folder of its own: as for anyone who has the package.
    # What mypy knows of torch is kept: it takes a minute and more to find out.
    cache = ROOT / ".mypy_cache" / "pages"
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={cache}"]
    command += ["--disable-error-code=import-untyped", "."]  # onnxruntime has no types
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
