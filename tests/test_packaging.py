"""What the wheel says of itself."""

import importlib.util
import re
from pathlib import Path

import pytest

pytest.importorskip("hatchling")

ROOT = Path(__file__).parents[1]


def test_the_description_shows_its_pictures_apart_from_the_repository() -> None:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    metadata = {"urls": {"Source": "https://example.org/us/faitheir"}}
    build.Description(str(ROOT), {}).update(metadata)
    text = metadata["readme"]["text"]
    targets = re.findall(r"\]\(([^)#][^)]*)\)", text)
    assert "https://example.org/us/faitheir/raw/HEAD/docs/images/coffee.jpg" in targets
    assert "https://example.org/us/faitheir/blob/HEAD/docs/start.md" in targets
    assert all(target.startswith("https://") for target in targets)
    # Without an address there is nothing that cannot be shown.
    text = build.description("![Coffee](docs/coffee.jpg) [start](docs/start.md) [paper](https://arxiv.org)", None)
    assert text == " start [paper](https://arxiv.org)"
