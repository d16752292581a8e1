"""A model is a folder: saved, found, loaded, and refused with one sentence where it is not whole."""

import errno
import hashlib
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from safetensors.torch import load_file, save_file

from faitheir import FaithEIRPipeline
from faitheir.config import to_dict
from faitheir.errors import ConfigError, FaithEIRError, ModelError
from faitheir.models import (
    CARD_FILE,
    CONFIG_FILE,
    DEFAULT_MODEL,
    KNOWN_CONFIGS,
    WEIGHTS_FILE,
    ModelConfig,
    build_model,
    convert_state,
    embedded_models,
    find_model,
    load_model,
    load_state,
    parameter_table,
    read_weights,
    save_model,
    stored_state,
    weights_hash,
)
from faitheir.nn.codec import CodecConfig, FaithEIR
from tiny import model_config, picture, wake

CONFIG = model_config(prior="random", lrt_init="random")


def make(seed: int = 0, config: ModelConfig = CONFIG) -> FaithEIR:
    """A model in which every tensor is random, W a step of learning away from its start."""
    torch.manual_seed(seed)
    model = wake(build_model(config), seed=seed)
    for name, parameter in model.named_parameters():
        if name.endswith("skew"):
            parameter.data.normal_(0, 0.1)
    return model.eval().requires_grad_(False)


def hash_of(model: FaithEIR) -> str:
    return weights_hash(stored_state(model))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    save_model(path, make(), CONFIG)
    return path


def refused(source: str | Path, kind: type[FaithEIRError] = ModelError) -> str:
    """The one sentence that loading ``source`` is refused with."""
    with pytest.raises(kind) as caught:
        load_model(source)
    text = str(caught.value)
    assert "\n" not in text
    assert text[-1] in ".?"
    return text


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    state = load_file(folder / WEIGHTS_FILE)
    change(state)
    save_file(state, folder / WEIGHTS_FILE)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


# ----- saving and loading


@pytest.mark.parametrize("prior", ["adp", "random", "gmm", "normal"])
@pytest.mark.parametrize("transform", ["lrt", "haar"])
@pytest.mark.parametrize("embedder", ["pse", "lte", "none"])
def test_a_loaded_model_gives_the_same(tmp_path: Path, transform: str, prior: str, embedder: str) -> None:
    config = model_config(transform=transform, prior=prior, embedder=embedder)
    model = make(config=config)
    save_model(tmp_path / "a", model, config, card="# A card\n")
    assert set(contents(tmp_path / "a")) == {CONFIG_FILE, WEIGHTS_FILE, "README.md"}
    torch.manual_seed(123)  # what a new model draws must not matter
    loaded, loaded_config = load_model(tmp_path / "a")
    assert loaded_config == config
    assert not loaded.training
    assert hash_of(loaded) == hash_of(model)
    x = picture(1, 32, 48)
    y = model.downscale(x)
    assert torch.equal(loaded.downscale(x), y)
    outputs = []
    for each in (model, loaded):
        torch.manual_seed(5)  # normal and gmm draw a sample
        with torch.inference_mode():
            outputs.append(each.upscale(y))
    torch.testing.assert_close(*outputs, atol=2e-6, rtol=2e-6)
    # the file alone, with no model built, says whose it is
    assert weights_hash(read_weights(tmp_path / "a")) == hash_of(model)
    # and saved again it is the same file
    save_model(tmp_path / "b", loaded, loaded_config, card="# A card\n")
    assert contents(tmp_path / "b") == contents(tmp_path / "a")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files(tmp_path: Path, dtype: torch.dtype) -> None:
    model = make()
    save_model(tmp_path / "half", model, CONFIG, dtype=dtype)
    stored = load_file(tmp_path / "half" / WEIGHTS_FILE)
    kept = {name for name, tensor in stored.items() if tensor.dtype == torch.float32}
    assert kept == {"rescaler.transform.base", "rescaler.transform.skew"}
    assert {t.dtype for t in stored.values()} == {torch.float32, dtype}

    loaded, _ = load_model(tmp_path / "half")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    w = loaded.rescaler.transform.matrix()
    assert torch.equal(w, model.rescaler.transform.matrix())
    assert (w @ w.T - torch.eye(len(w))).abs().max() < 1e-5
    assert hash_of(loaded) != hash_of(model)  # they were rounded
    y = picture(1, 4, 4)
    assert (loaded.upscale(y) - model.upscale(y)).abs().max() < 0.1

    for name, again in (("float32", None), ("same", dtype)):
        save_model(tmp_path / name, loaded, CONFIG, dtype=again)
        assert hash_of(load_model(tmp_path / name)[0]) == hash_of(loaded)
    assert contents(tmp_path / "same") == contents(tmp_path / "half")


def test_int8_files(tmp_path: Path) -> None:
    model = make()
    model.get_parameter("backbone.unet.conv_in.weight").data[0] = 0  # a channel of nothing has no scale
    save_model(tmp_path / "int8", model, CONFIG, dtype=torch.int8)
    whole, small = (
        sum(t.nbytes for t in s.values()) for s in (stored_state(model), load_file(tmp_path / "int8" / WEIGHTS_FILE))
    )
    assert small < 0.4 * whole

    loaded, _ = load_model(tmp_path / "int8")
    exact = dict(model.named_parameters())
    for name, weight in loaded.named_parameters():
        if name.startswith("rescaler.transform."):
            assert torch.equal(weight, exact[name])
        elif name.endswith(".weight") and weight.ndim > 1:
            largest = exact[name].flatten(1).abs().amax(1)
            assert ((weight - exact[name]).flatten(1).abs().amax(1) <= 0.51 / 127 * largest + 1e-9).all()
        else:
            assert torch.equal(weight, exact[name].half().float())
    save_model(tmp_path / "again", loaded, CONFIG, dtype=torch.int8)
    assert contents(tmp_path / "again") == contents(tmp_path / "int8")


def test_hash_is_over_names_shapes_and_values() -> None:
    model = make()
    digest = hash_of(model)
    assert re.fullmatch("[0-9a-f]{16}", digest)
    assert digest == hash_of(make())
    assert digest != hash_of(make(seed=1))
    for parameter in model.parameters():
        was = parameter.data.flatten()[0].item()
        parameter.data.view(-1)[0] = was + 1
        assert hash_of(model) != digest
        parameter.data.view(-1)[0] = was
        break
    assert hash_of(model) == digest
    whole = hashlib.sha256()
    for name, tensor in sorted(stored_state(model).items()):
        whole.update(f"{name}{tuple(tensor.shape)}".encode() + tensor.float().numpy().tobytes())
    assert digest == whole.hexdigest()[:16]


def test_saving_replaces_a_model_and_leaves_nothing_else(folder: Path) -> None:
    other = make(seed=1)
    save_model(folder, other, CONFIG)
    assert set(contents(folder)) == {CONFIG_FILE, WEIGHTS_FILE}
    assert hash_of(load_model(folder)[0]) == hash_of(other)


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """A full disk, as near as a test can have one: the kernel refuses to let a file grow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_interrupted_save_leaves_the_old_model_whole(folder: Path) -> None:
    before, digest = contents(folder), hash_of(load_model(folder)[0])
    assert len(before[WEIGHTS_FILE]) > 20_000
    with (
        no_file_larger_than(20_000),  # room for the configuration, not for the weights
        pytest.raises(ModelError, match="cannot be saved here") as caught,
    ):
        save_model(folder, make(seed=1), CONFIG)
    assert str(folder) in str(caught.value)
    assert os.strerror(errno.EFBIG) in str(caught.value)
    assert contents(folder) == before
    assert hash_of(load_model(folder)[0]) == digest


def test_an_interrupted_first_save_leaves_no_half_model(tmp_path: Path) -> None:
    with no_file_larger_than(20_000), pytest.raises(ModelError):
        save_model(tmp_path / "new", make(), CONFIG)
    assert not contents(tmp_path / "new")


def test_saving_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ModelError, match="taken: the model cannot be saved here"):
        save_model(tmp_path / "taken", make(), CONFIG)
    assert (tmp_path / "taken").read_text() == "a file"


# ----- refusals: each is one sentence that names the file


def test_unknown_keys(folder: Path) -> None:
    path = folder / CONFIG_FILE
    values = json.loads(path.read_text())
    values["codec"]["emmbeder"] = "pse"
    path.write_text(json.dumps(values))
    text = refused(folder, ConfigError)
    assert str(path) in text
    assert "did you mean 'embedder'?" in text


@pytest.mark.parametrize(
    ("part", "key", "value", "says"),
    [
        ("codec", "scale", 17, "power of two"),
        ("codec", "scale", "16", "type int"),
        ("codec", "scale", 4, "at least 16"),  # right by itself, wrong for this backbone
        ("codec", "prior", "adpt", "choose one of"),
        ("backbone", "heads", 0, "at least 1"),
        ("backbone", "kind", "mega", "unknown kind 'mega'"),
    ],
)
def test_wrong_values(folder: Path, part: str, key: str, value: object, says: str) -> None:
    path = folder / CONFIG_FILE
    values = json.loads(path.read_text())
    values[part][key] = value
    path.write_text(json.dumps(values))
    text = refused(folder, ConfigError)
    assert str(path) in text
    assert says in text


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"not json"])
def test_a_damaged_configuration(folder: Path, content: bytes) -> None:
    (folder / CONFIG_FILE).write_bytes(content)
    assert str(folder / CONFIG_FILE) in refused(folder)


@pytest.mark.parametrize("content", [b"[]", b"3", b"null", b'"nano"'])
def test_a_configuration_that_is_no_table(folder: Path, content: bytes) -> None:
    (folder / CONFIG_FILE).write_bytes(content)
    text = refused(folder, ConfigError)
    assert str(folder / CONFIG_FILE) in text
    assert "expected a table" in text


def test_converted_kernels_lie_on_each_others_middles() -> None:
    """A 1x1 kernel in the place of a 3x3 one does what it did, wherever in the picture: bit for bit the same output."""
    small, large = (model_config({"decoder_up_kernel": side}, fidelity_rank=0) for side in (1, 3))
    model = make(config=small)
    wider = build_model(large).eval()
    with torch.no_grad():
        wider.rescaler.load_state_dict(model.rescaler.state_dict())
    taken, total = convert_state(wider, stored_state(model), "the small model")
    sizes = [sum(t.numel() for t in stored_state(m).values()) for m in (model, wider)]
    assert (taken, total) == tuple(sizes)
    y = picture(1, 3, 4)
    with torch.inference_mode():
        torch.testing.assert_close(wider.upscale(y), model.upscale(y), atol=1e-6, rtol=0)
        back = build_model(small).eval()
        assert convert_state(back, stored_state(wider), "the large model")[0] == sizes[0]
        assert torch.equal(back.upscale(y), model.upscale(y))


def test_attention_tables_lie_on_each_others_middles_and_nothing_is_left_from_before() -> None:
    narrow, wide = (make(seed=s, config=model_config({"window": w})) for s, w in ((0, 2), (1, 3)))
    table = narrow.backbone.get_parameter("unet.attention.bias").clone()
    assert table.any()
    convert_state(wide, stored_state(narrow), "x")
    found = wide.backbone.get_parameter("unet.attention.bias")
    assert torch.equal(found[:, 1:4, 1:4], table)
    assert found.abs().sum() == table.abs().sum()


def test_what_cannot_be_converted() -> None:
    model = make()
    state = stored_state(model)
    name = "backbone.decoder.conv_in.weight"
    before = hash_of(model)
    with pytest.raises(ModelError, match=rf"x: '{name}' is .*without a common middle"):
        convert_state(model, state | {name: torch.zeros(8, 4, 2, 2)}, "x")
    with pytest.raises(ModelError, match="nothing of this model's backbone fits"):
        convert_state(model, {k: v for k, v in state.items() if not k.startswith("backbone.")}, "x")
    assert hash_of(model) == before


def test_missing_files(folder: Path, tmp_path: Path) -> None:
    (folder / WEIGHTS_FILE).unlink()
    assert refused(folder) == f"{folder}: not a whole model, it has no {WEIGHTS_FILE}."
    (folder / CONFIG_FILE).unlink()
    assert refused(folder) == f"{folder}: not a model folder, it has no {CONFIG_FILE}."
    assert "not a model folder" in refused(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "last.ckpt", "model.pkl"])
def test_pickles_are_named_and_not_read(folder: Path, name: str) -> None:
    (folder / WEIGHTS_FILE).rename(folder / "away")
    (folder / name).write_bytes(b"cos\nsystem\n(S'touch /tmp/faitheir-pickle-ran'\ntR.")
    text = refused(folder)
    assert str(folder / name) in text
    assert "not loaded" in text


def test_a_pickle_under_the_right_name(folder: Path) -> None:
    """torch.save under the name of the safetensors file is not read either."""
    torch.save({"a": torch.zeros(3)}, folder / WEIGHTS_FILE)
    text = refused(folder)
    assert str(folder / WEIGHTS_FILE) in text
    assert "safetensors" in text


@pytest.mark.parametrize("damage", ["empty", "truncated", "garbage", "header"])
def test_corrupt_weights(folder: Path, damage: str) -> None:
    path = folder / WEIGHTS_FILE
    whole = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "truncated": whole[: len(whole) // 2],
            "garbage": b"\x00" * 100,
            "header": b"\xff" * 8 + whole[8:],
        }[damage]
    )
    text = refused(folder)
    assert str(path) in text
    assert "not a readable safetensors file" in text


def test_missing_and_unknown_tensors_and_wrong_shapes(folder: Path) -> None:
    path, name = folder / WEIGHTS_FILE, "backbone.unet.conv_in.weight"
    edit(folder, lambda state: state.update(extra=torch.zeros(1)))
    assert f"{path}: the weights do not fit config.json: the file holds 'extra'" in refused(folder)
    edit(folder, lambda state: (state.pop("extra"), state.pop(name)))  # type: ignore[arg-type]
    assert f"{path}: the weights do not fit config.json: the file lacks '{name}'" in refused(folder)
    edit(folder, lambda state: state.update({name: torch.zeros(2, 3)}))
    text = refused(folder)
    assert f"{path}: the weights do not fit config.json: '{name}' is (2, 3) in the file" in text
    assert "(8, 4, 3, 3) in the model" in text


def test_weights_of_another_configuration(folder: Path) -> None:
    other = model_config(embedder="lte")
    (folder / CONFIG_FILE).write_text(json.dumps(to_dict(other)))
    assert "do not fit config.json" in refused(folder)


def test_weights_that_do_not_fit_change_nothing(folder: Path) -> None:
    model = make(seed=1)
    digest = hash_of(model)
    state = stored_state(make())
    state["backbone.unet.conv_out.bias"] = torch.zeros(1)
    with pytest.raises(ModelError, match="somewhere"):
        load_state(model, state, "somewhere")
    assert hash_of(model) == digest
    assert folder.is_dir()


# ----- finding


def test_unknown_names(folder: Path) -> None:
    for name in ("nano-x17", "./nowhere/at/all", "/nowhere", "a/b/c", "~/model", "owner/", "x" * 5000):
        text = refused(name)
        assert "Unknown model" in text
        assert name[:50] in text
    assert "Unknown model" in refused("bad name!/with spaces?")  # no valid Hub id: the Hub is not asked
    assert find_model(folder) == find_model(str(folder)) == folder


def test_a_file_instead_of_a_folder(folder: Path) -> None:
    path = folder / WEIGHTS_FILE
    assert refused(path) == f"{path}: a model is a folder with {CONFIG_FILE} and {WEIGHTS_FILE}; this is a file."


def test_known_names_without_weights() -> None:
    without = KNOWN_CONFIGS.keys() - set(embedded_models())
    assert "turbo-x16" in without
    for name in without:
        text = refused(name)
        assert name in text
        assert "faitheir train" in text


def test_the_default_model_is_embedded() -> None:
    assert DEFAULT_MODEL in embedded_models()


@pytest.mark.parametrize("name", embedded_models())
def test_embedded_models_are_whole(name: str) -> None:
    model, config = load_model(name)
    assert config.name == name
    assert model.upscale(picture(1, 2, 2)).isfinite().all()
    assert (find_model(name) / WEIGHTS_FILE).stat().st_size <= 25e6


@pytest.mark.parametrize("name", embedded_models())
def test_embedded_models_have_their_card(name: str) -> None:
    """With the hash and the parameters of these weights, so that nobody reads another model's figures."""
    model, _ = load_model(name)
    card = (find_model(name) / CARD_FILE).read_text(encoding="utf-8")
    assert weights_hash(stored_state(model)) in card
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in card
    assert model.fidelity is not None


def test_no_network_where_the_hub_is_asked(tmp_path: Path) -> None:
    """In a process of its own: huggingface_hub reads its settings when it is imported."""
    code = (
        "from faitheir.errors import ModelError\n"
        "from faitheir.models import load_model\n"
        "try:\n    load_model('faitheir-tests/not-there')\n"
        "except ModelError as error:\n    print(error)\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.count("\n") == 1
    assert "'faitheir-tests/not-there' is no folder here" in result.stdout
    assert "check the network" in result.stdout


def test_the_hub_is_asked_as_the_caller_says(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def download(repository: str, **options: Any) -> str:
        asked.append({"repository": repository} | options)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    options: dict[str, Any] = {"revision": "v1", "cache_dir": "there", "local_files_only": True, "token": False}
    pipeline = FaithEIRPipeline.from_pretrained("owner/name", **options)
    assert pipeline.name == CONFIG.name
    files = [CONFIG_FILE, WEIGHTS_FILE, CARD_FILE]
    assert asked == [{"repository": "owner/name", "allow_patterns": files, "ignore_patterns": []} | options]
    FaithEIRPipeline.from_pretrained("owner/name")
    assert [asked[-1][name] for name in options] == [None, None, False, None]
    FaithEIRPipeline.from_pretrained(folder, **options)
    assert len(asked) == 2, "nothing is asked for what is here"


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ("RevisionNotFoundError", "'owner/name' on the Hugging Face Hub has no revision 'v9'"),
        ("RepositoryNotFoundError", "neither a folder here nor a model on the Hugging Face Hub that you may read"),
        ("GatedRepoError", "that you may read"),
        ("LocalEntryNotFoundError", "the Hugging Face Hub cannot be reached: check the network"),
    ],
)
def test_what_the_hub_says_is_one_sentence(error: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import errors

    def refuse(*_: Any, **__: Any) -> str:
        kind = getattr(errors, error)
        # huggingface_hub before 1.0 counts what is not in the cache as an HTTP error, made without an answer.
        if issubclass(kind, errors.HfHubHTTPError) and kind is not errors.LocalEntryNotFoundError:
            raise kind("no\nsuch thing", response=MagicMock())
        raise kind("no\nsuch thing")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(ModelError, match=says) as caught:
        find_model("owner/name", revision="v9")
    assert "\n" not in str(caught.value)


def test_a_download_that_breaks_off(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_off(*_: Any, **__: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.snapshot_download", break_off)
    with pytest.raises(ModelError, match=r"could not be fetched .* \(No space left on device\): check the network"):
        find_model("owner/name")


# ----- counting


def test_parameter_table_counts_everything_without_memory() -> None:
    table = parameter_table(CONFIG)
    model = make()
    assert sum(table.values()) == sum(p.numel() for p in model.parameters())
    assert table["Detail prior"] == 13
    assert table["Rescaler"] == sum(p.numel() for p in model.rescaler.parameters())


def test_parameter_table_of_the_paper() -> None:
    """985.03 M in the paper's table 4, part by part as the specification counts them."""
    pytest.importorskip("diffusers")
    pytest.importorskip("peft")
    table = parameter_table(KNOWN_CONFIGS["turbo-x16"])
    assert sum(table.values()) / 1e6 == pytest.approx(985.03, abs=0.01)
    wanted = {
        "UNet": 865.911,
        "VAE": 83.654,
        "LoRA (UNet)": 32.446,
        "LoRA (VAE encoder)": 1.477,
        "Rescaler": 0.891,
        "Detail prior": 0.000,
        "Embedder": 0.658,
    }
    assert {k: v / 1e6 for k, v in table.items()} == pytest.approx(wanted, abs=6e-4)
    larger = parameter_table(KNOWN_CONFIGS["turbo-x32"])
    assert larger["Rescaler"] / 1e6 == pytest.approx(1.570 + 64**2 / 1e6, abs=6e-4)


def test_turbo_denoises_at_the_configurations_timestep() -> None:
    pytest.importorskip("diffusers")
    pytest.importorskip("peft")
    turbo = KNOWN_CONFIGS["turbo-x16"].backbone
    with torch.device("meta"):
        model = build_model(ModelConfig("turbo", CodecConfig(timestep=500), turbo))
    assert model.backbone.timestep == 500
