"""Imports run one way, from errors and config at the bottom to the command line at the top."""

import ast
from pathlib import Path

import pytest

import faitheir

ROOT = Path(faitheir.__file__).parent

#: A part of the package may import of itself and of the layers before its own, and of nothing else.
LAYERS = [
    {"errors", "version"},
    {"config", "storage", "devices", "hub", "containers", "legacy", "native"},
    {"images", "nn", "features", "tiling"},
    {"backbones", "thumbnail", "files"},
    {"models", "untrusted", "arguments", "graph"},
    {"runtimes"},
    {"pipeline", "client"},
    {"batches"},
    {"evaluation", "export"},
    {"comparison", "training", "bulk"},
    {"server"},
    {"cli"},
    {"__main__"},
]
LEVEL = {part: level for level, layer in enumerate(LAYERS) for part in layer}

#: Optional extras: imported where they are needed, or else the core could not be without them.
EXTRAS = {
    *("diffusers", "peft", "transformers", "accelerate", "torchvision", "skimage", "scipy"),
    *(
        "lpips",
        "torchmetrics",
        "torch_fidelity",
        "ssimulacra2",
        "pyiqa",
        "matplotlib",
        "imagecodecs",
        "spandrel",
        "tifffile",
    ),
    *("ray", "fsspec", "pyarrow", "s3fs"),
    *("onnx", "onnxruntime", "onnxscript", "openvino"),
    *("fastapi", "starlette", "uvicorn", "python_multipart", "prometheus_client"),
}

FILES = sorted(p.relative_to(ROOT) for p in ROOT.rglob("*.py"))


def part_of(path: Path) -> str:
    # `python -m` on a part starts the command line, which is above all parts.
    return "__main__" if path.stem == "__main__" else path.with_suffix("").parts[0]


def imports(path: Path, *, at_the_top: bool = False) -> set[str]:
    """The dotted names that a file imports; ``at_the_top``: outside of functions and `if TYPE_CHECKING`."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    found = set()
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        lazy = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        )
        if not (at_the_top and lazy):
            nodes += ast.iter_child_nodes(node)
    return found


def parts(names: set[str]) -> set[str]:
    """Which parts of faitheir are among imported names."""
    return {name.split(".")[1] for name in names if name.startswith("faitheir.")}


def test_the_layers_are_those_of_the_package() -> None:
    there = {part_of(p) for p in FILES} - {"__init__"}
    assert there <= LEVEL.keys(), "a new part needs its place in LAYERS"


@pytest.mark.parametrize("path", [p for p in FILES if part_of(p) in LEVEL], ids=str)
def test_imports_run_one_way(path: Path) -> None:
    part = part_of(path)
    allowed = {part} | {p for p, level in LEVEL.items() if level < LEVEL[part]}
    assert parts(imports(path)) <= allowed


@pytest.mark.parametrize("path", [p for p in FILES if p.parts[0] == "nn"], ids=str)
def test_the_method_is_tensors_in_and_tensors_out(path: Path) -> None:
    """No files, no pictures: torch, and of the standard library what reads and writes nothing."""
    outside = {name.split(".")[0] for name in imports(path)} - {"faitheir"}
    assert outside <= {"torch", "math", "typing", "collections", "dataclasses", "itertools", "copy", "threading"}
    assert parts(imports(path)) <= {"nn", "errors"}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_only_images_touches_colour_and_orientation(path: Path) -> None:
    """Others may hold a PIL image; what its profile, orientation and modes mean is known in one place."""
    used = {name for name in imports(path) if name.split(".")[0] == "PIL"}
    if path == Path("native.py"):
        assert used <= {"PIL._imaging", "PIL._webp", "PIL._avif"}
    elif path != Path("images.py"):
        assert used <= {"PIL.Image", "PIL.ImageDraw", "PIL.ImageFont", "PIL.PngImagePlugin"}
    if part_of(path) in {"nn", "backbones", "models", "features", "config", "tiling"}:
        assert not used


@pytest.mark.parametrize("path", FILES, ids=str)
def test_extras_are_imported_where_they_are_needed(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports(path, at_the_top=True)} & EXTRAS


def test_errors_and_configuration_need_nothing() -> None:
    for name in ("errors.py", "config.py"):
        outside = {n.split(".")[0] for n in imports(Path(name))}
        assert not outside & {"torch", "numpy", "PIL"}


def test_the_parser_sees_imports(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text(
        "import a.b\nfrom c import d\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import e\ndef f():\n    from faitheir.cli import g\n"
    )
    assert imports(file) == {"a.b", "c.d", "typing.TYPE_CHECKING", "e", "faitheir.cli.g"}
    assert imports(file, at_the_top=True) == {"a.b", "c.d", "typing.TYPE_CHECKING"}
    assert parts(imports(file)) == {"cli"}
