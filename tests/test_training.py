"""Training: a real, tiny run on real files, resumed, and what it refuses."""

import json
import math
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from faitheir import FaithEIRPipeline
from faitheir.errors import ConfigError, FaithEIRError, MissingDependencyError, ModelError
from faitheir.models import load_model, read_config
from faitheir.training.adversarial import PatchDiscriminator
from faitheir.training.checkpoints import checkpoints
from faitheir.training.config import OptimizerConfig, load_train_config
from faitheir.training.loop import train, train_stages
from faitheir.training.losses import regularity, regularity_excess
from faitheir.training.optimizers import learning_rate_factor, make_optimizer, parameter_groups
from recipes import Recipe, log_of, quiet
from tiny import tiny as tiny_model
from tiny import wake

pytest.importorskip("accelerate")


def test_a_run_trains_and_leaves_a_model_that_works(recipe: Recipe, tmp_path: Path, photos: Path) -> None:
    config = recipe("run", steps=40, log_every=5, save_every=20, val_every=40, data__shrink=0.0)
    folder = train(config, log=quiet)
    log = [line for line in log_of(tmp_path / "run") if "loss" in line]
    assert [line["step"] for line in log] == list(range(5, 41, 5))
    for key in ("guidance", "pixel", "feature", "semantic"):
        assert all(math.isfinite(line[key]) and line[key] > 0 for line in log)
    assert log[-1]["loss"] < log[0]["loss"]
    assert log[-1]["semantic"] < log[0]["semantic"]

    pipeline = FaithEIRPipeline.from_pretrained(folder)
    assert pipeline.name == "tiny"
    assert pipeline.upscale(pipeline.downscale(photos / "0.png")).size == (120, 80)
    matrix = pipeline.model.rescaler.transform.matrix()
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(matrix)), atol=1e-5, rtol=0)

    pictures = tmp_path / "run" / "validation" / "step-00000040"
    with Image.open(next(pictures.glob("*.roundtrip.png"))) as sheet:
        assert sheet.width == 3 * 120 + 16
    figures = next(line for line in log_of(tmp_path / "run") if "val_psnr" in line)
    assert 0 < figures["val_psnr"] < 60
    assert figures["val_bits_per_pixel"] > 0
    assert read_config(tmp_path / "run" / "checkpoint-00000040" / "model") == config.model


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer__kind": "muon"},
        {
            "lossy__formats": [{"format": "webp"}, {"format": "lossless"}],
            "lossy__foreign": 0.3,
            "losses__texture": 1.0,
            "losses__rate": 0.1,
        },
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one(recipe: Recipe, tmp_path: Path, options: dict[str, Any]) -> None:
    whole = train(recipe("whole", **options), log=quiet)
    train(recipe("broken", steps=4, **options), log=quiet)
    # A killed run has logged further than its last checkpoint; those lines must not stay.
    with (tmp_path / "broken" / "log.jsonl").open("a") as log:
        log.write(json.dumps({"step": 5, "loss": 1e9}) + "\n")
    resumed = train(recipe("broken", **options), resume="auto", log=quiet)
    assert log_of(tmp_path / "broken") == log_of(tmp_path / "whole")
    a, b = (load_model(folder)[0].state_dict() for folder in (whole, resumed))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=0)


def test_only_the_last_checkpoints_are_kept_and_none_is_half_written(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe("run", keep=1, val_every=0), log=quiet)
    assert [p.name for p in checkpoints(tmp_path / "run")] == ["checkpoint-00000006"]
    assert not list((tmp_path / "run").glob(".saving*"))


def test_a_run_is_not_overwritten_unasked(recipe: Recipe) -> None:
    train(recipe("run", steps=2, val_every=0), log=quiet)
    with pytest.raises(ConfigError, match="resume"):
        train(recipe("run", steps=2, val_every=0), log=quiet)


def test_training_starts_from_a_saved_model(recipe: Recipe) -> None:
    first = train(recipe("first", val_every=0), log=quiet)
    second = train(recipe("second", val_every=0, steps=2, optimizer__lr=1e-9, ema=0.0, init=str(first)), log=quiet)
    a, b = (load_model(folder)[0].state_dict() for folder in (first, second))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-6)


def test_bfloat16_trains(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe("run", precision="bf16", steps=2, val_every=0), log=quiet)
    assert all(math.isfinite(line["loss"]) for line in log_of(tmp_path / "run"))


def test_learning_rate_schedules() -> None:
    halve = learning_rate_factor(OptimizerConfig(schedule="halve", halve_every=100), 1000)
    assert [halve(s) for s in (0, 99, 100, 250)] == [1, 1, 0.5, 0.25]
    cosine = learning_rate_factor(OptimizerConfig(schedule="cosine", warmup=10), 1000)
    assert cosine(0) == pytest.approx(1 / 11)
    assert cosine(10) == pytest.approx(1)
    assert cosine(1000) == pytest.approx(0.01)
    values = [cosine(s) for s in range(10, 1000)]
    assert all(a >= b for a, b in pairwise(values))


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_muon_takes_kernels_for_matrices_and_leaves_the_rest_to_adamw(layout: torch.memory_format) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)).to(memory_format=layout)
    model.append(nn.Linear(4, 4))
    config = OptimizerConfig(kind="muon", lr=1e-2, weight_decay=0.1)
    optimizer = make_optimizer(model, config, torch.device("cpu"))
    kernels = [p for p in model.parameters() if p.ndim == 4]
    biases = [p for p in model.parameters() if p.ndim == 1]
    plain = {
        p: nn.Parameter((p.movedim(1, -1).flatten(1) if p.ndim == 4 else p).detach().clone())
        for p in model.parameters()
    }
    references = [
        torch.optim.Muon([plain[p] for p in kernels], lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([plain[model[2].weight]], lr=1e-2, weight_decay=0.1),
        torch.optim.AdamW([plain[p] for p in biases], lr=1e-2, weight_decay=0.0),
    ]
    for lr in (1e-2, 1e-2, 3e-3):
        for group in (*optimizer.param_groups, *(r.param_groups[0] for r in references)):
            group["lr"] = lr
        for p, q in plain.items():
            p.grad = torch.randn_like(p)
            q.grad = (p.grad.movedim(1, -1).flatten(1) if p.ndim == 4 else p.grad).clone()
        for one in (optimizer, *references):
            one.step()
    for p, q in plain.items():
        torch.testing.assert_close(p.movedim(1, -1).flatten(1) if p.ndim == 4 else p, q, rtol=1e-5, atol=1e-6)


def test_parameters_are_grouped_by_their_role_and_not_by_their_rank() -> None:
    model = tiny_model(fidelity_rank=2, prior_pattern=2, embedder="lte")
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = {role: {names[p] for p in found} for role, found in parameter_groups(model).items()}
    assert set().union(*groups.values()) == set(names.values())
    modules = dict(model.named_modules())
    for role, kind in (("kernels", nn.Conv2d), ("matrices", nn.Linear)):
        layers = {name for name, module in modules.items() if isinstance(module, kind)}
        assert groups[role] == {f"{name}.weight" for name in layers}
    assert {"prior.values", "rescaler.transform.skew", "embedder.tokens"} <= groups["others"]
    assert names_ending(groups["others"], ".bias") == names_ending(set(names.values()), ".bias")
    model.prior.requires_grad_(False)
    assert "prior.values" not in {names[p] for found in parameter_groups(model).values() for p in found}
    # Spectral normalisation hides a convolution's weight behind another name.
    judge = PatchDiscriminator(8, 2)
    kernels = parameter_groups(judge)["kernels"]
    assert len(kernels) == 3
    assert all(kernel.ndim == 4 for kernel in kernels)


def names_ending(names: set[str], end: str) -> set[str]:
    return {name for name in names if name.endswith(end)}


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_weight_decay_leaves_priors_biases_and_the_skew_matrix_alone(kind: Any) -> None:
    """Without a gradient, a step is weight decay and nothing else."""
    model = wake(tiny_model(prior_pattern=2))
    with torch.no_grad():
        model.get_parameter("rescaler.transform.skew").normal_()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(model, OptimizerConfig(kind=kind, lr=0.1, weight_decay=0.5), torch.device("cpu"))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    linear_or_convolution = {
        f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
    }
    assert moved == linear_or_convolution
    for name in moved:
        torch.testing.assert_close(model.get_parameter(name), 0.95 * before[name])


def test_muon_does_not_orthogonalise_the_prior() -> None:
    """A prior's gradient moves each value by itself, as AdamW moves it."""
    model = tiny_model(prior_pattern=2)
    values = model.get_parameter("prior.values")
    before, gradient = values.detach().clone(), torch.randn_like(values)
    optimizer = make_optimizer(model, OptimizerConfig(kind="muon", lr=1e-2), torch.device("cpu"))
    values.grad = gradient.clone()
    optimizer.step()
    torch.testing.assert_close(values.detach(), before - 1e-2 * gradient.sign(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"data__cropp": 64}, "unknown key 'cropp'; did you mean 'crop'"),
        ({"losses__pixle": 1.0}, "did you mean 'pixel'"),
        ({"data__crop": 60}, "crop 60 is not a multiple of 16"),
        ({"data__crop": 96, "model__backbone": {"kind": "turbo"}}, "crop 96 is not a multiple of 64"),
        ({"steps": 0}, "at least 1"),
        ({"steps": "many"}, "must be of type int"),
        ({"optimizer__lr": -1.0}, "must be positive"),
        ({"losses__teacher": "cat"}, "choose one of"),
        ({"lossy__formats": [{"format": "webp", "share": -1.0}]}, "share must not be negative"),
        ({"lossy__formats": [{"format": "webp", "quality": [90, 80]}]}, "the lower first"),
        ({"lossy__formats": [{"format": "gif"}]}, "choose one of"),
        ({"lossy__foreign": 0.5}, "need formats"),
        ({"data__repeat": {"large_*": 0}}, "whole numbers"),
    ],
)
def test_a_bad_recipe_is_one_sentence_that_names_the_file(
    recipe: Recipe, override: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        recipe("bad", **override)
    assert "bad.toml" in str(caught.value)


def test_missing_networks_and_files_are_named(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.safetensors"):
        train(recipe("run", losses__teacher_weights=str(tmp_path / "nowhere.safetensors")), log=quiet)
    with pytest.raises(ConfigError, match="512 features per pixel"):
        train(recipe("run", model__backbone__context_dim=16), log=quiet)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_train_config(tmp_path / "nowhere.toml")
    (tmp_path / "broken.toml").write_text("steps = = 3")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_train_config(tmp_path / "broken.toml")


def command(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """``faitheir train`` in a process of its own, on one thread."""
    return subprocess.Popen(
        [sys.executable, "-m", "faitheir", "train", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group of its own, so that all of its processes can be signalled
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **environment},
    )


def wait_for(condition: Any, process: subprocess.Popen[str], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline, "the run did not come so far"
        time.sleep(0.02)


def only_losses(run: Path) -> list[dict[str, float]]:
    return [line for line in log_of(run) if "loss" in line]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(recipe: Recipe, tmp_path: Path, workers: int) -> None:
    options = {"steps": 12, "save_every": 3, "log_every": 2, "val_every": 0, "data__workers": workers}
    path = recipe.write("killed")
    settings = [part for k, v in options.items() for part in ("--set", f"{k.replace('__', '.')}={v}")]
    process = command(path, *settings)
    wait_for(lambda: checkpoints(tmp_path / "killed"), process)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    shutil.rmtree(tmp_path / "killed" / "model", ignore_errors=True)  # if it was that quick
    (tmp_path / "killed" / ".saving-00000099").mkdir()  # as a process killed while saving leaves it
    with (tmp_path / "killed" / "log.jsonl").open("a") as log:
        log.write('{"step": 12, "loss": 3.')  # as one killed while writing leaves it
    resumed = command(path, *settings, "--resume", "auto")
    out, err = resumed.communicate(timeout=60)
    assert resumed.returncode == 0, err
    assert "resumed from" in out
    whole = train(recipe("whole", **options), log=quiet)
    lines = only_losses(tmp_path / "whole")
    assert len(lines) == 6
    for line, other in zip(lines, only_losses(tmp_path / "killed"), strict=True):
        assert other == pytest.approx(line)
    a, b = (load_model(folder)[0].state_dict() for folder in (whole, tmp_path / "killed" / "model"))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("all_of_them", [False, True])
def test_a_run_that_is_told_to_stop_saves_first(
    recipe: Recipe, tmp_path: Path, number: signal.Signals, all_of_them: bool
) -> None:
    """A scheduler signals every process of a job, a terminal too; `kill` only the one."""
    path = recipe.write("run")
    settings = ["--set", "steps=100000", "--set", "save_every=100000", "--set", "val_every=0"]
    process = command(path, *settings, "--set", "data.workers=1")
    wait_for(lambda: (tmp_path / "run" / "log.jsonl").exists() and only_losses(tmp_path / "run"), process)
    if all_of_them:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number, (out, err)
    assert "a checkpoint is saved; --resume auto goes on" in err
    assert "Traceback" not in err
    (saved,) = checkpoints(tmp_path / "run")
    step = int(saved.name.removeprefix("checkpoint-"))
    # It goes on where it was.
    options: dict[str, Any] = {"val_every": 0, "save_every": 1000, "steps": step + 2}
    train(recipe("run", **options), resume="auto", log=quiet)
    assert [line["step"] for line in log_of(tmp_path / "run")] == list(range(1, step + 3))


def test_sums_between_two_lines_of_the_log_survive_a_restart(recipe: Recipe, tmp_path: Path) -> None:
    options: dict[str, Any] = {"log_every": 5, "val_every": 0, "save_every": 3}
    train(recipe("whole", steps=5, **options), log=quiet)
    train(recipe("broken", steps=5, **options), log=quiet)
    shutil.rmtree(tmp_path / "broken" / "checkpoint-00000005")
    train(recipe("broken", steps=5, **options), resume="auto", log=quiet)
    assert log_of(tmp_path / "broken") == log_of(tmp_path / "whole")


def test_a_checkpoint_can_be_named(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe("run", val_every=0), log=quiet)
    before = log_of(tmp_path / "run")
    first = checkpoints(tmp_path / "run")[0]
    train(recipe("run", val_every=0), resume=str(first), log=quiet)
    assert log_of(tmp_path / "run") == before
    with pytest.raises(ConfigError, match="not a checkpoint of the run"):
        train(recipe("run"), resume=str(tmp_path), log=quiet)


@pytest.mark.parametrize("adversarial", [False, True])
def test_two_processes_are_one_with_the_same_batch(recipe: Recipe, tmp_path: Path, adversarial: bool) -> None:
    more = '\n[adversarial]\nweight = 0.1\ndiscriminators = [{ kind = "patch", width = 8, layers = 2 }]\n'
    path = recipe.write("two", more if adversarial else "")
    settings = ["--set", "batch=4", "--set", "val_every=0"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(port)]
    done = subprocess.run(
        [sys.executable, *launch, "-m", "faitheir", "train", str(path), *settings],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(str(tmp_path / "two" / "model")) == 1
    assert json.loads((tmp_path / "two" / "environment.json").read_text())[0]["processes"] == 2
    one = recipe.write("one", more if adversarial else "")
    train(load_train_config(one, {"batch": 4, "val_every": 0}), log=quiet)
    train(
        load_train_config(one, {"batch": 4, "val_every": 0, "run": f"{tmp_path}/parts", "optimizer.accumulate": 2}),
        log=quiet,
    )
    lines = log_of(tmp_path / "one")
    assert len(lines) == 6
    for other in ("two", "parts"):
        for a, b in zip(log_of(tmp_path / "one"), log_of(tmp_path / other), strict=True):
            # A pixel at half a step of 8 bits is rounded up in one run and down in another, which moves the gradient
            # by a percent; one that is summed instead of averaged is off by a factor.
            assert a.pop("grad_norm") == pytest.approx(b.pop("grad_norm"), rel=3e-2), other
            assert a == pytest.approx(b, rel=2e-3), other
    a, b = (load_model(tmp_path / run / "model")[0].state_dict() for run in ("one", "two"))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-2, atol=2e-3)


def test_half_precision_without_a_gpu_is_refused(recipe: Recipe) -> None:
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match="'fp16' needs a GPU"):
        train(recipe("run", precision="fp16"), log=quiet)


def test_a_batch_that_cannot_be_shared_is_refused(recipe: Recipe) -> None:
    with pytest.raises(ConfigError, match="batch 3 cannot be shared evenly by 1 process"):
        train(recipe("run", batch=3, optimizer__accumulate=2), log=quiet)


def test_what_a_run_leaves(recipe: Recipe, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    train(recipe("run"), log=quiet)
    (start,) = json.loads((run / "environment.json").read_text())
    assert start["versions"]["torch"] == metadata.version("torch")
    assert start["versions"]["python"] == platform.python_version()
    assert start["from_step"] == 0
    assert start["device"].startswith("cpu")
    # The resolved configuration is a recipe itself.
    assert load_train_config(run / "config.json") == recipe("run")
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    logged = {line["step"]: line["loss"] for line in log_of(run) if "loss" in line}
    assert {e.step: e.value for e in events.Scalars("train/loss")} == pytest.approx(logged)
    assert [e.step for e in events.Scalars("validation/psnr")] == [3, 6]
    assert any(tag.startswith("validation/") for tag in events.Tags()["images"])
    best = json.loads((run / "best.json").read_text())
    validated = {line["step"]: line["val_psnr"] for line in log_of(run) if "val_psnr" in line}
    assert best == {
        "step": max(validated, key=lambda s: validated[s]),
        "figure": "psnr",
        "value": max(validated.values()),
    }
    assert FaithEIRPipeline.from_pretrained(run / "best").name == "tiny"
    assert not [p for p in run.iterdir() if p.name.startswith(".")]
    card = (run / "model" / "README.md").read_text()
    assert "| PSNR of the restored picture, RGB |" in card
    assert "6 of 6 steps" in card
    assert str(tmp_path) not in card.split("## Configuration")[0]
    assert FaithEIRPipeline.from_pretrained(run / "model").card == card


def test_the_best_model_is_kept_by_distance(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe("run", best="distance", val_every=2), log=quiet)
    distances = {line["step"]: line["val_distance"] for line in log_of(tmp_path / "run") if "val_distance" in line}
    assert len(distances) == 3
    said = json.loads((tmp_path / "run" / "best.json").read_text())
    assert (said["step"], said["value"]) == min(distances.items(), key=lambda item: item[1])


def test_a_dry_run_describes_takes_a_step_and_writes_nothing(recipe: Recipe, tmp_path: Path) -> None:
    lines: list[str] = []
    assert train(recipe("run", freeze=["backbone.decoder"]), dry_run=True, log=lines.append) is None
    text = "\n".join(lines)
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.startswith(("backbone", "total", "rescaler"))}
    assert rows["backbone.decoder"][0] == "0"
    assert int(rows["backbone.decoder"][1].replace(",", "")) > 0
    assert rows["backbone.encoder"][1] == "0"
    assert "6 steps of 2 crops of 64 x 64: 12 crops, 3.0 passes over 4 photographs" in text
    assert "MiB before activations" in text
    assert "one step:" in text
    assert "loss" in lines[-1]
    assert not (tmp_path / "run").exists()


def test_what_is_frozen_stays_as_it_was(recipe: Recipe) -> None:
    first = train(recipe("first", steps=1, val_every=0), log=quiet)
    config = recipe("second", init=str(first), freeze=["backbone.decoder", "prior"], val_every=0, ema=0.0)
    second = train(config, log=quiet)
    a, b = (load_model(folder)[0].state_dict() for folder in (first, second))
    same = {name for name in a if torch.equal(a[name], b[name])}
    frozen = {name for name in a if name.startswith(("backbone.decoder", "prior"))}
    assert frozen <= same
    assert {n for n in a if n.startswith("backbone.unet")} - same
    with pytest.raises(ConfigError, match="no part of the model is called 'decoder'; its parts: backbone"):
        train(recipe("third", freeze=["decoder"]), log=quiet)


def test_stages_follow_each_other(recipe: Recipe, tmp_path: Path) -> None:
    vae = recipe("vae", stage="vae", steps=3)
    stages = [
        vae,
        recipe("joint", steps=2, val_every=0),
        recipe("frozen", steps=2, val_every=0, freeze=["backbone.decoder"]),
    ]
    last = train_stages(stages, log=quiet)
    assert last == tmp_path / "frozen" / "model"
    models = {run: load_model(tmp_path / run / "model")[0].state_dict() for run in ("vae", "joint", "frozen")}
    decoder = [name for name in models["vae"] if name.startswith("backbone.decoder")]
    assert any(not torch.equal(models["vae"][n], models["joint"][n]) for n in decoder)
    assert all(torch.equal(models["joint"][n], models["frozen"][n]) for n in decoder)
    # The first stage leaves everything but the VAE alone, and has no thumbnail to speak of.
    assert not {"guidance", "semantic"} & log_of(tmp_path / "vae")[0].keys()
    figures = next(line for line in log_of(tmp_path / "vae") if "val_psnr" in line)
    assert "val_bits_per_pixel" not in figures
    # Stopped in the second, the chain goes on there.
    shutil.rmtree(tmp_path / "joint" / "model")
    shutil.rmtree(tmp_path / "frozen")
    lines: list[str] = []
    train_stages(stages, resume="auto", log=lines.append)
    assert lines[0] == f"{tmp_path / 'vae'} is finished already"
    again = load_model(tmp_path / "frozen" / "model")[0].state_dict()
    for name, value in models["frozen"].items():
        torch.testing.assert_close(again[name], value)
    with pytest.raises(ConfigError, match="same run folder"):
        train_stages([vae, vae], log=quiet)


def test_a_vae_learns_what_only_the_vae_is_for(recipe: Recipe) -> None:
    start = train(recipe("start", steps=1, val_every=0, optimizer__lr=1e-9, ema=0.0), log=quiet)
    end = train(recipe("vae", stage="vae", steps=2, val_every=0, init=str(start), ema=0.0), log=quiet)
    a, b = (load_model(folder)[0].state_dict() for folder in (start, end))
    changed = {name for name in a if not torch.equal(a[name], b[name])}
    assert changed
    assert all(name.startswith(("backbone.encoder", "backbone.decoder")) for name in changed)


def test_a_16x_model_is_the_start_of_a_32x_one(recipe: Recipe) -> None:
    first = train(recipe("first", val_every=0, ema=0.0), log=quiet)
    lines: list[str] = []
    changes: dict[str, Any] = {
        "model__codec__scale": 32,
        "model__backbone__latent_channels": 3,
        "model__backbone__window": 2,
        "val_every": 0,
        "steps": 1,
        "optimizer__lr": 1e-9,
        "ema": 0.0,
    }
    second = train(recipe("second", init=str(first), **changes), log=lines.append)
    assert "has another configuration" in lines[0]
    a, b = (load_model(folder)[0].state_dict() for folder in (first, second))
    torch.testing.assert_close(a["backbone.encoder.conv_in.weight"], b["backbone.encoder.conv_in.weight"])
    torch.testing.assert_close(a["backbone.decoder.conv_in.weight"][:, :3], b["backbone.decoder.conv_in.weight"])
    torch.testing.assert_close(a["backbone.unet.attention.bias"][:, 2:5, 2:5], b["backbone.unet.attention.bias"])
    torch.testing.assert_close(a["embedder.layers.0.weight"], b["embedder.layers.0.weight"])
    with pytest.raises(ModelError, match="nothing of this model's backbone fits"):
        train(recipe("third", init=str(first), model__backbone={"kind": "turbo", "base": "random"}), log=quiet)


@pytest.mark.parametrize("kind", ["patch", "features"])
def test_the_adversarial_stage(recipe: Recipe, network: Path, tmp_path: Path, kind: str) -> None:
    judge = {"kind": kind, "width": 8, "layers": 2, "network": "squeezenet", "weights": str(network)}
    options: dict[str, Any] = {"adversarial__weight": 0.5, "adversarial__discriminators": [judge], "val_every": 0}
    whole = train(recipe("whole", adversarial__start=3, **options), log=quiet)
    lines = log_of(tmp_path / "whole")
    assert all("discriminators" in line for line in lines)
    assert ["adversarial" in line for line in lines] == [False] * 3 + [True] * 3
    for line in lines[3:]:
        parts = 2 * line["guidance"] + 5 * line["semantic"] + 3 * line["pixel"] + 3 * line["feature"]
        assert line["loss"] == pytest.approx(parts + 0.5 * line["adversarial"], rel=1e-4)
    # Discriminators and their optimizer are resumed, too.
    train(recipe("broken", adversarial__start=3, **options), log=quiet)
    for run in checkpoints(tmp_path / "broken")[1:]:
        shutil.rmtree(run)
    resumed = train(recipe("broken", adversarial__start=3, **options), resume="auto", log=quiet)
    assert log_of(tmp_path / "broken") == lines
    a, b = (load_model(folder)[0].state_dict() for folder in (whole, resumed))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=0)


def test_storage_and_lattice_terms_are_learned(recipe: Recipe, tmp_path: Path) -> None:
    options: dict[str, Any] = {"losses__guidance": 0.0, "losses__pixel": 0.0, "losses__feature": 0.0, "val_every": 0}
    options |= {"losses__semantic": 0.0, "losses__storage": 1.0, "losses__lattice": 1.0, "data__crop": 128}
    train(recipe("run", steps=30, log_every=10, save_every=30, **options), log=quiet)
    lines = log_of(tmp_path / "run")
    assert {"storage", "lattice"} <= lines[0].keys()
    assert lines[-1]["loss"] < lines[0]["loss"]
    with pytest.raises(ConfigError, match="at least 8 cells, 128 pixels; crop is 64"):
        recipe("small", losses__lattice=1.0)


@settings(deadline=None, max_examples=20)
@given(
    period=st.floats(3, 9),
    angle=st.floats(0, math.pi),
    contrast=st.floats(0.02, 0.2),
    brightness=st.floats(0.3, 0.7),
    seed=st.integers(0, 100),
)
def test_a_weave_is_more_regular_than_noise(
    period: float, angle: float, contrast: float, brightness: float, seed: int
) -> None:
    rows, columns = torch.meshgrid(torch.arange(128.0), torch.arange(128.0), indexing="ij")
    weave = torch.sin(2 * math.pi / period * (rows * math.sin(angle) + columns * math.cos(angle)))
    noise = torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(seed)).expand(1, 3, -1, -1)
    natural = brightness + contrast * noise
    woven = brightness + contrast * (noise + weave)
    assert regularity(natural).shape == (1, 4)
    assert regularity_excess(natural, natural) == 0
    assert regularity_excess(natural, woven) < 0.1
    assert regularity_excess(woven, natural) > 1
    # Brightness does not matter, and what nobody sees does not either.
    torch.testing.assert_close(regularity(natural + 0.1), regularity(natural), atol=1e-3, rtol=0)
    assert regularity_excess(brightness + (weave / 1000).expand(1, 3, -1, -1), natural) == 0


def test_texture_grows_less_regular_along_the_gradient() -> None:
    torch.manual_seed(0)
    natural = 0.5 + 0.05 * torch.randn(2, 3, 128, 128)
    woven = natural + 0.1 * torch.sin(torch.arange(128.0))
    woven.requires_grad_()
    before = regularity_excess(woven, natural)
    (gradient,) = torch.autograd.grad(before, woven)
    after = regularity_excess(woven - 0.01 * gradient / gradient.abs().max(), natural)
    assert after < before - 0.05


def test_the_regularity_term_is_learned(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe("run", steps=2, val_every=0, losses__regularity=1.0), log=quiet)
    assert all(math.isfinite(line["regularity"]) for line in log_of(tmp_path / "run"))
    with pytest.raises(ConfigError, match="at least 64 pixels; crop is 48"):
        recipe("small", losses__regularity=1.0, data__crop=48)


def test_activation_checkpointing_changes_memory_not_losses(recipe: Recipe, tmp_path: Path) -> None:
    options: dict[str, Any] = {"val_every": 0, "steps": 3, "model__backbone__unet_blocks": [1, 1]}
    train(recipe("kept", **options), log=quiet)
    train(recipe("again", activation_checkpointing=True, **options), log=quiet)
    for a, b in zip(log_of(tmp_path / "kept"), log_of(tmp_path / "again"), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_a_missing_optimizer_is_named(recipe: Recipe) -> None:
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        with pytest.raises(MissingDependencyError, match="pip install bitsandbytes"):
            train(recipe("run", optimizer__kind="adamw8bit"), log=quiet)
    else:
        pytest.skip("bitsandbytes is installed")


def test_a_loss_that_is_not_finite_leaves_what_explains_it(recipe: Recipe, tmp_path: Path, photos: Path) -> None:
    config = recipe("run", optimizer__lr=1e30, steps=6, val_every=0)
    with pytest.raises(FaithEIRError, match=r"not finite at step \d+, batch of crops \d+ to \d+") as caught:
        train(config, log=quiet)
    (folder,) = (tmp_path / "run").glob("nonfinite-*")
    assert str(folder) in str(caught.value)
    report = json.loads((folder / "report-0.json").read_text())
    assert f"step {report['step']}," in str(caught.value)
    assert load_file(folder / "batch-0.safetensors")["crops"].shape == (2, 3, 64, 64)
    assert len(report["crops"]) == 2
    assert all(Path(crop["photograph"]).parent == photos for crop in report["crops"])
    assert any(value in ("nan", "inf", "-inf") for value in report["terms"].values())
    assert (folder / "model" / "model.safetensors").is_file()


def test_unreadable_photographs_do_not_stop_a_run(recipe: Recipe, tmp_path: Path, photos: Path) -> None:
    folder = tmp_path / "some"
    shutil.copytree(photos, folder)
    (folder / "bad.jpg").write_bytes(b"not a picture")
    lines: list[str] = []
    train(recipe("run", data__train=str(folder), data__workers=1, val_every=0), log=lines.append)
    listed = (tmp_path / "run" / "unreadable.txt").read_text().splitlines()
    assert set(listed) == {f"{folder / 'bad.jpg'} is not a picture of a kind read here; convert it to PNG or JPEG."}
    assert any("unreadable.txt" in line for line in lines)


def test_a_recipe_may_stand_on_another(recipe: Recipe, tmp_path: Path) -> None:
    recipe.write("base")
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "over.toml"
    path.write_text('extends = "../base.toml"\nsteps = 5\n[losses]\npixel = 9.0\n')
    config = load_train_config(path, {"losses.feature": 1.0})
    assert (config.steps, config.losses.pixel, config.losses.feature, config.batch) == (5, 9.0, 1.0, 2)
    path.write_text('extends = "over.toml"\n')
    with pytest.raises(ConfigError, match="leads back"):
        load_train_config(path)
    path.write_text("extends = 3\n")
    with pytest.raises(ConfigError, match="give the name of a file"):
        load_train_config(path)
    path.write_text('extends = "none.toml"\n')
    with pytest.raises(ConfigError, match=r"none\.toml: the configuration cannot be read"):
        load_train_config(path)


def test_lpips_is_a_feature_loss(recipe: Recipe, tmp_path: Path) -> None:
    pytest.importorskip("lpips")
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    state = torchvision.models.alexnet(weights=None).features.state_dict()
    save_file({f"features.{name}": value for name, value in state.items()}, tmp_path / "alexnet.safetensors")
    features = [{"network": "lpips_alex", "weights": str(tmp_path / "alexnet.safetensors"), "share": 2.0}]
    train(recipe("run", losses__features=features, best="distance"), log=quiet)
    lines = log_of(tmp_path / "run")
    assert all(math.isfinite(line["feature"]) and line["feature"] > 0 for line in lines if "loss" in line)
    assert all(line["val_distance"] > 0 for line in lines if "val_psnr" in line)


def test_an_invertible_baseline_is_trained_by_the_same_loop(recipe: Recipe, tmp_path: Path) -> None:
    path = Path(__file__).parents[1] / "configs" / "irn.toml"
    changes: dict[str, Any] = {"model.codec.inv_blocks": 1, "model.codec.growth": 4, "run": str(tmp_path)}
    changes |= {"data.train": str(recipe.photos), "data.val": str(recipe.photos), "data.crop": 64, "data.workers": 0}
    changes |= {"steps": 3, "batch": 2, "log_every": 1, "save_every": 3, "val_every": 3, "val_count": 1}
    folder = train(load_train_config(path, changes, only="irn-x16"), log=quiet)
    lines = [line for line in log_of(tmp_path / "irn-x16") if "loss" in line]
    for line in lines:
        assert line["loss"] == pytest.approx(line["guidance"] + line["pixel"] + line["distribution"], rel=1e-5)
    pipeline = FaithEIRPipeline.from_pretrained(folder)
    assert pipeline.upscale(pipeline.downscale(recipe.photos / "0.png")).size == (120, 80)
