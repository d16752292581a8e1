"""Models in OpenVINO: what PyTorch gives, of converted halves that are kept."""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from command import ok, refused
from faitheir import FaithEIRPipeline
from faitheir.errors import ConfigError, DeviceError, MissingDependencyError, ModelError
from faitheir.images import read_picture
from faitheir.models import ModelConfig, build_model, save_model
from tiny import model_config, tiny, wake

pytest.importorskip("openvino")
pytest.importorskip("onnxscript")

Photo = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with grain and a fidelity setting."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    choices = {"inv_blocks": 1, "fidelity_rank": 2}
    save_model(path, wake(tiny({"grain": 2}, **choices)), model_config({"grain": 2}, **choices))
    return path


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _cache(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(kept))


def differ(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


def test_it_gives_what_torch_gives(folder: Path, kept: Path, photo: Photo) -> None:
    """Of tiles, with alpha, at two fidelities and from four threads at once."""
    torch = FaithEIRPipeline.from_pretrained(folder, tile=256)
    openvino = FaithEIRPipeline.from_pretrained(folder, tile=256, device="auto", runtime="openvino")
    rgb = read_picture(photo("a.png", 300, 270)).rgb
    picture = np.dstack([rgb, np.tile(np.linspace(0, 255, rgb.shape[1]).astype(np.uint8), (rgb.shape[0], 1))])
    small, other = (pipeline.downscale(picture) for pipeline in (torch, openvino))
    assert differ(small.picture.rgb, other.picture.rgb) <= 1
    assert other.info == small.info
    large = {f: torch.upscale(small, fidelity=f, output_type="np") for f in (0.0, 0.5)}
    assert differ(large[0.0], large[0.5]) > 1
    calls = [0.0, 0.5] * 4
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda f: openvino.upscale(small, fidelity=f, output_type="np"), calls))
    assert all(differ(picture, large[f]) <= 1 for f, picture in zip(calls, found, strict=True))
    assert len(list((kept / "faitheir").glob("*.onnx"))) == 3


def test_what_is_converted_is_kept(folder: Path, photo: Photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command says that it converts, and the second does not."""
    path = photo("a.png", 64, 48)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = ["--model", folder, "--runtime", "openvino", "--dtype", "float32", "-o", tmp_path, "--overwrite"]
    for _ in range(2):
        ok("downscale", path, *options, "--format", "png")
        monkeypatch.setattr("faitheir.runtimes.trace", None)
    plain = FaithEIRPipeline.from_pretrained(folder).downscale(path)
    assert differ(read_picture(tmp_path / "a.thumb.png").rgb, plain.picture.rgb) <= 1


def test_a_graph_that_computes_something_else_is_not_kept(
    folder: Path, photo: Photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("faitheir.runtimes.compare.__defaults__", (-1.0,))
    pipeline = FaithEIRPipeline.from_pretrained(folder, runtime="openvino")
    with pytest.raises(ModelError, match=r"differs from the model by .* nothing was written"):
        pipeline.downscale(photo("a.png", 32, 32))
    assert not (tmp_path / "cache").exists()


def test_what_it_refuses(folder: Path, photo: Photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"runtime is 'onnx'; choose one of torch, openvino"):
        FaithEIRPipeline.from_pretrained(folder, runtime="onnx")  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match="float32 and bfloat16"):
        FaithEIRPipeline.from_pretrained(folder, runtime="openvino", dtype="float16")
    with pytest.raises(DeviceError, match="OpenVINO"):
        FaithEIRPipeline.from_pretrained(folder, runtime="openvino").to("cpu", "bfloat16")
    config = ModelConfig("irn", model_config(prior="normal").codec, model_config().backbone)
    save_model(tmp_path / "irn", build_model(config), config)
    with pytest.raises(ConfigError, match="prior draws random numbers"):
        FaithEIRPipeline.from_pretrained(tmp_path / "irn", runtime="openvino")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingDependencyError):
        FaithEIRPipeline.from_pretrained(folder, runtime="openvino")
    found = refused("downscale", photo("a.png"), "--model", folder, "--runtime", "openvino", "-o", tmp_path)
    assert found == "Running models in OpenVINO needs more packages: pip install 'faitheir[openvino]'."
