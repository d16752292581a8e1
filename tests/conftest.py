"""Fixtures of several test files: tiny but real models and pictures, never mocks."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from command import ok
from faitheir import models
from faitheir.models import DEFAULT_MODELS, ModelConfig, build_model, save_model
from recipes import Recipe, write_photos, write_squeezenet
from tiny import model_config

# The same examples in every run, so that a change is judged by what it changed; new ones with
# `pytest --hypothesis-profile=explore`. No deadline: on a busy machine an example may take any time.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", derandomize=False, deadline=None)
settings.load_profile("repeatable")


def pytest_configure() -> None:
    """What tests start shares the cores, and obeys signals though this process ignores them (`&`, nohup)."""
    for name in ("SIGINT", "SIGHUP", "SIGTERM"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)
    if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
        threads = max(1, (os.cpu_count() or 1) // workers)
        torch.set_num_threads(threads)
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def save_tiny_model(folder: Path, config: ModelConfig, seed: int = 0) -> Path:
    """Write a randomly initialised model; returns its folder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(config)
    save_model(folder, model, config)
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny 16x model, not to be changed."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny-x16", model_config(name="tiny-x16"))


@pytest.fixture
def photo(tmp_path: Path) -> Callable[..., Path]:
    """Write a picture file into tmp_path: ``photo("in/a.jpg", 70, 45, mode="L", quality=90)``."""

    def write(
        name: str, width: int = 70, height: int = 45, *, mode: str = "RGB", seed: int = 0, **options: Any
    ) -> Path:
        x, y = np.linspace(0, 3, width)[None, :], np.linspace(0, 2, height)[:, None]
        waves = np.stack([np.sin(x + y), np.cos(x - y), np.sin(2 * x * y)], axis=2)
        noise = np.random.default_rng(seed).normal(0, 6, (height, width, 3))
        image = Image.fromarray(np.clip(128 + 100 * waves + noise, 0, 255).astype(np.uint8))
        if mode == "RGBA":
            image.putalpha(Image.linear_gradient("L").resize((width, height)))
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.convert(mode).save(path, **options)
        return path

    return write


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four small photographs, not to be changed."""
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of SqueezeNet weights, random."""
    return write_squeezenet(tmp_path_factory.mktemp("network") / "squeezenet.safetensors")


@pytest.fixture
def recipe(tmp_path: Path, photos: Path, network: Path) -> Recipe:
    """The tiny training recipe; runs go into tmp_path."""
    return Recipe(tmp_path, photos, network)


@pytest.fixture
def nothing_embedded(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package without embedded models; the folder where they would be."""
    root = tmp_path_factory.mktemp("package")
    (root / "weights").mkdir()
    monkeypatch.setattr(models, "resources", SimpleNamespace(files=lambda _: root))
    return root / "weights"


@pytest.fixture
def embedded(nothing_embedded: Path) -> Path:
    """A package whose embedded models are tiny ones, nano-x16, nano-x32 and the default; the folder where they are."""
    scales = {"nano-x16": 16, "nano-x32": 32} | {name: scale for scale, name in DEFAULT_MODELS.items()}
    for seed, (name, scale) in enumerate(scales.items(), start=16):
        save_tiny_model(nothing_embedded / name, model_config(name=name, scale=scale), seed=seed)
    return nothing_embedded


@pytest.fixture
def run(tiny_model: Path) -> Callable[..., str]:
    """A command with the tiny model that has to succeed; its stdout."""
    return lambda command, *arguments: ok(command, *arguments, "--model", tiny_model)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real browser, headless; what a test leaves open in it, the next one finds."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install selenium")
    from selenium.webdriver.chrome.service import Service

    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("Chromium and its driver are not installed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    flags = (
        "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking "
        "disable-component-update disable-sync disable-dev-shm-usage window-size=1400,1000"
    )
    for flag in flags.split():
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # Given both programs, selenium looks for neither in the network.
    session = webdriver.Chrome(options=options, service=Service(driver, env={**os.environ, "SE_OFFLINE": "true"}))
    yield session
    session.quit()
