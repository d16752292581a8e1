"""ONNX files, run by plain onnxruntime: they compute what PyTorch does, for any size, at any place, tile by tile."""

import ast
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from command import names, ok, refused
from faitheir import FaithEIRPipeline
from faitheir.backbones.pixels import PixelsConfig
from faitheir.errors import ConfigError, MissingDependencyError, ModelError
from faitheir.export import files
from faitheir.graph import prepared
from faitheir.models import ModelConfig, build_model, irn_codec, save_model, t_irn_codec
from faitheir.nn.codec import FaithEIR
from faitheir.thumbnail import Thumbnail
from faitheir.tiling import process_tiles
from tiny import model_config, picture, tiny, wake

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

Photo = Callable[..., Path]

FIDELITY = 0.5
CHOICES: dict[str, Any] = {"inv_blocks": 1, "fidelity_rank": 2, "prior_pattern": 2}
CARD = "---\nlibrary_name: faitheir\nlicense: apache-2.0\n---\n# tiny\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with everything that a graph must hold: grain, a prior's pattern, windows, a fidelity setting."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    config = model_config({"grain": 2}, **CHOICES)
    save_model(folder, wake(tiny({"grain": 2}, **CHOICES)), config, card=CARD)
    return folder


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> FaithEIRPipeline:
    return FaithEIRPipeline.from_pretrained(folder)


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both halves in every precision."""
    output = tmp_path_factory.mktemp("exported") / "onnx"
    precisions = [word for name in ("fp32", "fp16", "int8") for word in ("--precision", name)]
    lines = ok("export", folder, "-o", output, "--fidelity", FIDELITY, *precisions).splitlines()
    assert len(lines) == 6
    assert all(re.search(r"\.onnx: 0\.\d MB; differs from PyTorch by .+ at most$", line) for line in lines)
    return output


Run = Callable[..., np.ndarray]


def session(path: Path) -> Run:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    opened = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda **inputs: opened.run(None, inputs)[0]


@pytest.fixture(scope="module")
def up(exported: Path) -> Run:
    run = session(exported / "tiny-up-f0.5-fp32.onnx")
    return lambda y, origin: run(thumbnail=y, origin=np.array(origin, np.int32))


@pytest.fixture(scope="module")
def down(exported: Path) -> Run:
    run = session(exported / "tiny-down-fp32.onnx")
    return lambda x: run(picture=x)


def levels(a: np.ndarray, b: torch.Tensor) -> float:
    assert a.shape == tuple(b.shape)
    return float(np.abs(a - b.numpy()).max()) * 255


SIDES = st.integers(1, 9)
PLACES = st.integers(0, 5000)


@settings(max_examples=25)
@given(st.integers(1, 3), SIDES, SIDES, PLACES, PLACES)
def test_the_decoder_half(
    pipeline: FaithEIRPipeline, up: Run, batch: int, height: int, width: int, row: int, column: int
) -> None:
    y = picture(batch, height, width)
    with torch.inference_mode():
        expected = pipeline.model.upscale(y, (row, column), FIDELITY)
    assert levels(up(y.numpy(), (row, column)), expected) < 0.02


@settings(max_examples=15)
@given(st.integers(1, 3), SIDES, SIDES)
def test_the_encoder_half(pipeline: FaithEIRPipeline, down: Run, batch: int, height: int, width: int) -> None:
    x = picture(batch, 16 * height, 16 * width)
    with torch.inference_mode():
        expected = pipeline.model.project(x)
    assert levels(down(x.numpy()), expected) < 0.02


def test_the_origin_moves_the_grain(up: Run) -> None:
    y = picture(4, 4).numpy()
    assert np.abs(up(y, (0, 0)) - up(y, (0, 2))).max() > 1e-3


def test_tiles(pipeline: FaithEIRPipeline, up: Run, down: Run) -> None:
    """The tiles of the description, over plain onnxruntime, give the pipeline's picture and thumbnail."""
    pipeline = FaithEIRPipeline(pipeline.model, pipeline.config, tile=256, fidelity=FIDELITY)
    layout = {name: n for name, n in pipeline.layout.items() if name in ("tile", "overlap", "align")}
    assert layout == {"tile": 16, "overlap": 8, "align": 2}
    photo = (picture(416, 592)[0].permute(1, 2, 0) * 255).byte().numpy()
    thumbnail = pipeline.downscale(photo)
    small = thumbnail.picture.rgb
    rows = [
        rows
        for _, rows in process_tiles(
            photo, small.shape[:2], cell_in=16, cell_out=1, **layout, run=lambda cut, _: as_pixels(down(as_input(cut)))
        )
    ]
    assert np.abs(as_levels(np.concatenate(rows)).astype(int) - small).max() <= 1
    rows = [
        rows
        for _, rows in process_tiles(
            small,
            small.shape[:2],
            cell_in=1,
            cell_out=16,
            **layout,
            run=lambda cut, origin: as_pixels(up(as_input(cut), origin)),
        )
    ]
    restored = pipeline.upscale(thumbnail, output_type="np")
    assert np.abs(as_levels(np.concatenate(rows)).astype(int) - restored).max() <= 1


def as_input(cut: np.ndarray) -> np.ndarray:
    return cut.transpose(2, 0, 1)[None].astype(np.float32) / 255


def as_pixels(out: np.ndarray) -> np.ndarray:
    return out[0].transpose(1, 2, 0).copy()


def as_levels(values: np.ndarray) -> np.ndarray:
    return np.rint(values.clip(0, 1) * 255).astype(np.uint8)


def test_files_and_their_descriptions(exported: Path, pipeline: FaithEIRPipeline) -> None:
    stems = [f"tiny-{half}-{p}" for half in ("down", "up-f0.5") for p in ("fp32", "fp16", "int8")]
    assert names(exported) == {f"{stem}.{suffix}" for stem in stems for suffix in ("onnx", "json")}
    for stem in stems:
        path = exported / f"{stem}.onnx"
        about = json.loads(path.with_suffix(".json").read_text("utf-8"))
        half, precision = stem.split("-")[1], stem.split("-")[-1]
        assert about.pop("file") == path.name
        assert about.pop("bytes") == path.stat().st_size
        assert len(about.pop("sha256")) == 64
        assert about.pop("made_by").startswith("FaithEIR ")
        assert about == {
            "format": 1,
            "model": "tiny",
            "weights": pipeline.weights,
            "licence": "apache-2.0",
            "half": half,
            "precision": precision,
            "fidelity": FIDELITY if half == "up" else 0,
            "opset": 18,
            "scale": 16,
            "multiple": 1,
            "align": 2,
            "overlap": 8,
            "tile": 128,
        }
        model = onnx.load(path)
        inside = {entry.key: entry.value for entry in model.metadata_props}
        assert {key: inside[key] for key in about} == {
            key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()
        }
        assert model.ir_version == 8
        assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 18)]
        assert not any(onnx.external_data_helper.uses_external_data(tensor) for tensor in model.graph.initializer)
        taken = [(value.name, value.type.tensor_type.elem_type) for value in model.graph.input]
        origin = [("origin", onnx.TensorProto.INT32)] if half == "up" else []
        name = "thumbnail" if half == "up" else "picture"
        assert taken == [(name, onnx.TensorProto.FLOAT), *origin]
        assert [d.dim_param for d in model.graph.input[0].type.tensor_type.shape.dim][0::2] == (
            ["batch", "rows" if half == "up" else "height"]
        )
        assert not any(node.domain for node in model.graph.node)
        types = {
            v.name: v.type.tensor_type.elem_type for v in onnx.shape_inference.infer_shapes(model).graph.value_info
        }
        hashes = [types[node.output[0]] for node in model.graph.node if node.op_type == "BitwiseXor"]
        assert set(hashes) == ({onnx.TensorProto.INT32} if half == "up" else set())  # some runtimes have no int64


@pytest.mark.parametrize(("precision", "bound"), [("fp16", 1.0), ("int8", 16.0)])
@pytest.mark.parametrize("half", ["down", "up-f0.5"])
def test_smaller_files(exported: Path, half: str, precision: str, bound: float) -> None:
    """They differ by what rounding the weights does, and hold all large tensors in the type they are named for."""
    origin = np.array([0, 0], np.int32)
    down, up = {"picture": picture(2, 64, 96).numpy()}, {"thumbnail": picture(2, 4, 6).numpy(), "origin": origin}
    inputs = down if half == "down" else up
    paths = [exported / f"tiny-{half}-{p}.onnx" for p in ("fp32", precision)]
    exact, found = (session(path)(**inputs) for path in paths)
    assert 0 < np.abs(exact - found).max() * 255 < bound
    tensors = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(paths[1]).graph.initializer]
    types = {tensor.dtype.name for tensor in tensors if tensor.size >= 256}
    assert types - {"float16"} == ({"int8"} if precision == "int8" else set())
    sizes = [sum(tensor.nbytes for tensor in tensors)]
    sizes.append(sum(onnx.numpy_helper.to_array(t).nbytes for t in onnx.load(paths[0]).graph.initializer))
    assert sizes[0] < (0.55 if precision == "fp16" else 0.4) * sizes[1]


def variants() -> dict[str, tuple[FaithEIR, ModelConfig]]:
    """Models whose parts differ from those of the tiny model above."""
    configs = {
        "without tokens": model_config({"window": 3}, embedder="none", inv_blocks=1),
        "tokens without a place": model_config(embedder="lte", transform="haar", inv_blocks=1),
        "32x, a free matrix, no stage at H/2": model_config(
            {"decoder_widths": (8, 8, 0), "decoder_blocks": (1, 1, 0)}, scale=32, orthogonality="init", inv_blocks=1
        ),
        "T-IRN": ModelConfig("t-irn", t_irn_codec(4), PixelsConfig()),
    }
    torch.manual_seed(0)
    return {name: (wake(build_model(config)).eval(), config) for name, config in configs.items()}


@pytest.mark.parametrize("name", variants())
def test_what_is_computed_beforehand_changes_nothing(name: str) -> None:
    model, _ = variants()[name]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ready = prepared(model)
    y = picture(2, 5, 7)
    x = picture(2, 2 * model.size_multiple, 3 * model.size_multiple)
    with torch.inference_mode():
        assert levels(ready.upscale(y, (3, 4)).numpy(), model.upscale(y, (3, 4))) < 0.01
        assert levels(ready.project(x).numpy(), model.project(x)) < 0.01
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_units_that_no_colour_activates_are_left_out() -> None:
    model = wake(tiny(pse_hidden=(8, 6), **CHOICES))
    first, second, last = model.embedder.layers
    with torch.no_grad():
        first.bias.copy_(torch.tensor([-100.0, 0.1] * 4))
        second.bias.copy_(torch.tensor([0.1, -100.0] * 3))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    layers = prepared(model).embedder.layers
    y = picture(2, 5, 7)
    with torch.inference_mode():
        assert levels(prepared(model).upscale(y, (3, 4)).numpy(), model.upscale(y, (3, 4))) < 0.02
    assert [layer.out_features for layer in layers[:2]] == [first.out_features // 2, second.out_features // 2]
    assert layers[2].out_features < last.out_features  # keys and values are of fewer dimensions than tokens
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nano-x16"])
def test_embedded_models_are_small_downloads(name: str, tmp_path: Path) -> None:
    pipeline = FaithEIRPipeline.from_pretrained(name)
    fp16, int8 = files.export(pipeline, tmp_path, halves=["up"], precisions=["fp16", "int8"])
    assert fp16.about["bytes"] <= 14_000_000
    assert int8.about["bytes"] <= 8_000_000
    assert fp16.mean_difference < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("name", variants())
def test_other_models(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """``export`` compares them with PyTorch."""
    if name == "T-IRN":
        request.applymarker(
            pytest.mark.xfail(raises=ModelError, strict=True, reason="its graph differs, so export refuses")
        )
    model, config = variants()[name]
    written = files.export(FaithEIRPipeline(model, config), tmp_path)
    assert [file.about["half"] for file in written] == ["down", "up"]
    assert max(file.max_difference for file in written) < 0.02


def test_a_script_of_ten_lines(
    exported: Path, folder: Path, photo: Photo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That of the page, which imports nothing of ours."""
    page = (Path(__file__).parents[1] / "docs/tasks/export.md").read_text("utf-8")
    (script,) = re.findall(r"```python\n(import numpy.*?)```", page, re.S)
    assert len([line for line in script.splitlines() if line.strip()]) <= 10
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(script))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported == {"numpy", "onnxruntime", "PIL"}
    thumbnail = FaithEIRPipeline.from_pretrained(folder).downscale(photo("photo.png", 64, 48))
    thumbnail.save(tmp_path / "photo.thumb.avif")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "nano-x16-up-fp16.onnx").write_bytes((exported / "tiny-up-f0.5-fp16.onnx").read_bytes())
    exec(compile(script, "the page", "exec"), {})
    restored = FaithEIRPipeline.from_pretrained(folder, fidelity=FIDELITY).upscale(
        Thumbnail.open("photo.thumb.avif"), output_type="np"
    )
    assert np.abs(np.asarray(Image.open("restored.png")).astype(int) - restored).max() <= 1


def test_a_folder_without_torch(exported: Path, folder: Path, photo: Photo, tmp_path: Path) -> None:
    """The example restores what the pipeline does, in a process that has no torch."""
    pipeline = FaithEIRPipeline.from_pretrained(folder, fidelity=FIDELITY)
    thumbnails = tmp_path / "thumbnails"
    thumbnails.mkdir()
    for name, (width, height), mode in (("a", (70, 45), "RGB"), ("b", (33, 80), "RGBA")):
        pipeline.downscale(photo(f"{name}.png", width, height, mode=mode)).save(thumbnails / f"{name}.thumb.png")
    Image.new("RGB", (4, 4)).save(thumbnails / "c.thumb.png")
    models = tmp_path / "models"
    models.mkdir()
    for suffix in ("onnx", "json"):
        shutil.copy(exported / f"tiny-up-f0.5-fp32.{suffix}", models)
    example = Path(__file__).parents[1] / "examples" / "restore_without_torch.py"
    code = "import runpy, sys; sys.modules['torch'] = None; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    command = [sys.executable, "-c", code, *map(str, (example, models, thumbnails, tmp_path / "out"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == (
        f"{thumbnails / 'c.thumb.png'}: none of the files in {models} has the weights that made it (None).\n"
    )
    assert names(tmp_path / "out") == {"a.restored.png", "b.restored.png"}
    for name in ("a", "b"):
        restored = pipeline.upscale(thumbnails / f"{name}.thumb.png", output_type="np")
        found = np.asarray(Image.open(tmp_path / "out" / f"{name}.restored.png"))
        assert found.shape == restored.shape
        assert np.abs(found.astype(int) - restored).max() <= 1


def test_nothing_is_replaced_unasked(exported: Path, folder: Path) -> None:
    path = exported / "tiny-down-fp32.onnx"
    before = path.read_bytes()
    assert refused("export", folder, "-o", exported, "--half", "down", status=2) == (
        f"{path} exists; choose another folder, or give --overwrite."
    )
    assert path.read_bytes() == before


def test_what_cannot_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig("irn", irn_codec(4), PixelsConfig())
    with pytest.raises(ConfigError, match=r"prior draws random numbers"):
        files.export(FaithEIRPipeline(build_model(config), config), tmp_path)
    cast = FaithEIRPipeline(tiny(), model_config()).to("cpu", "bfloat16")
    with pytest.raises(ConfigError, match=r"float32"):
        files.export(cast, tmp_path)
    with pytest.raises(ConfigError, match=r"no fidelity setting"):
        files.export(FaithEIRPipeline(tiny(), model_config()), tmp_path, fidelity=1)
    monkeypatch.setattr("faitheir.graph.MOST_BYTES", 1000)
    with pytest.raises(ConfigError, match=r"this model takes 0\.0 GB in float32; one ONNX file holds at most 2 GB"):
        files.export(FaithEIRPipeline(tiny(), model_config()), tmp_path)
    assert not names(tmp_path)


def test_a_graph_that_computes_something_else_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModelConfig("t-irn", t_irn_codec(2), PixelsConfig())
    monkeypatch.setattr(files, "TOLERANCE", 0.0)
    with pytest.raises(ModelError, match=r"the exported graph differs from the model by .* nothing was written"):
        files.export(FaithEIRPipeline(wake(build_model(config)), config), tmp_path, halves=["up"])
    assert not names(tmp_path)


def test_the_extra_is_named_where_it_is_missing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert refused("export", folder, "-o", tmp_path / "new") == (
        "`faitheir export` needs more packages: pip install 'faitheir[onnx]'."
    )
    with pytest.raises(MissingDependencyError):
        files.export(FaithEIRPipeline.from_pretrained(folder), tmp_path / "new")
    assert not (tmp_path / "new").exists()
