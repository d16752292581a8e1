"""The turbo backbone on tiny but real diffusers components, and its full size on the meta device."""

import json
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from faitheir.config import from_dict, to_dict
from faitheir.errors import ConfigError, MissingDependencyError, ModelError
from faitheir.nn.codec import CodecConfig, FaithEIR
from faitheir.nn.embedder import Condition

pytest.importorskip("diffusers")
pytest.importorskip("peft")

from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel

from faitheir import FaithEIRPipeline
from faitheir.backbones.turbo import TurboBackbone, TurboConfig
from faitheir.hub import HubOptions
from faitheir.models import ModelConfig, build_model, read_config, save_model, stored_hash
from faitheir.training.config import DataConfig, LossConfig, OptimizerConfig, TrainConfig
from faitheir.training.loop import train

VAE: dict[str, Any] = {
    "latent_channels": 4,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 4,
    "scaling_factor": 0.5,
}
UNET: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "attention_head_dim": [2, 2],
    "cross_attention_dim": 16,
    "use_linear_projection": True,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "norm_num_groups": 4,
}


def tiny(**changes: Any) -> TurboConfig:
    return TurboConfig(**({"vae": VAE, "unet": UNET, "vae_lora_rank": 2, "unet_lora_rank": 3} | changes))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On tensors this small, threads that wait for each other on busy cores cost more than all the work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model's folder, as diffusers itself writes it."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    AutoencoderKL(**VAE).save_pretrained(folder / "vae")
    UNet2DConditionModel(**UNET).save_pretrained(folder / "unet")
    EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").save_pretrained(
        folder / "scheduler"
    )
    return folder


@pytest.fixture(scope="module")
def other_base(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of the same shapes with one value of one weight changed."""
    folder = tmp_path_factory.mktemp("other") / "base"
    shutil.copytree(base, folder)
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    state["decoder.conv_in.bias"][3] += 0.01
    save_file(state, path, metadata={"format": "pt"})
    return folder


def inputs() -> tuple[Tensor, Condition]:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(2, 3, 16, 24, generator=generator)
    return x, Condition(torch.randn(2, 6, 16, generator=generator), (2, 3))


CONDITION = inputs()[1]


def outputs(backbone: TurboBackbone, condition: Condition | None = CONDITION) -> list[Tensor]:
    """Latent, noise and picture."""
    with torch.no_grad():
        z = backbone.encode(inputs()[0])
        return [z, backbone.predict(z, condition), backbone.decode(z)]


def differences(a: list[Tensor], b: list[Tensor]) -> list[float]:
    return [float((x.float() - y.float()).abs().max()) for x, y in zip(a, b, strict=True)]


def disturb(backbone: TurboBackbone) -> None:
    """A LoRA that matters, as after training: all of it random."""
    generator = torch.Generator().manual_seed(2)
    state = backbone.trained_state_dict()
    backbone.load_trained_state_dict({k: 0.3 * torch.randn(v.shape, generator=generator) for k, v in state.items()})


def test_full_size_counts_are_the_papers() -> None:
    with torch.device("meta"):
        backbone = TurboBackbone(TurboConfig())
    parts = backbone.parts()
    assert {name: round(count / 1e6, 3) for name, count in parts.items()} == {
        "UNet": 865.911,
        "VAE": 83.654,
        "LoRA (UNet)": 32.446,
        "LoRA (VAE encoder)": 1.477,
    }
    # The three E-InvBlocks and the embedder add 0.891 and 0.658 M.
    assert sum(parts.values()) / 1e6 + 0.891 + 0.658 == pytest.approx(985.03, abs=0.01)
    assert all(p.is_meta for p in backbone.parameters())
    assert (backbone.latent_channels, backbone.latent_stride, backbone.context_dim) == (4, 8, 1024)
    assert backbone.size_multiple == 64
    assert not any("time_emb_proj" in name for name in backbone.trained_state_dict())


def test_base_is_loaded_and_lora_starts_neutral(base: Path) -> None:
    backbone = TurboBackbone.from_base(tiny(), base)
    vae = AutoencoderKL.from_pretrained(base / "vae")
    unet = UNet2DConditionModel.from_pretrained(base / "unet")
    x, condition = inputs()
    with torch.no_grad():
        z = vae.encode(2 * x - 1).latent_dist.mean * 0.5
        expected = [z, unet(z, 999, condition.tokens).sample, (vae.decode(z / 0.5).sample + 1) / 2]
    assert max(differences(outputs(backbone), expected)) < 1e-5
    assert [tuple(t.shape) for t in expected] == [(2, 4, 8, 12), (2, 4, 8, 12), (2, 3, 16, 24)]


def test_timestep_is_the_constructors(base: Path) -> None:
    late, early = (TurboBackbone.from_base(tiny(), base, timestep=t) for t in (999, 1))
    assert differences(outputs(late), outputs(early))[1] > 1e-4


def test_no_condition_is_a_token_of_zeros(base: Path) -> None:
    backbone = TurboBackbone.from_base(tiny(), base)
    none = outputs(backbone, None)
    assert differences(none, outputs(backbone, Condition(torch.zeros(2, 9, 16), None)))[1] < 1e-6
    assert differences(none, outputs(backbone))[1] > 1e-4


def test_only_lora_is_trained(base: Path) -> None:
    backbone = TurboBackbone.from_base(tiny(), base)
    trained = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert trained
    assert all(".lora_" in name for name in trained)
    assert not any(name.startswith("vae.decoder") for name in trained)
    assert len(trained) == len(backbone.trained_state_dict())
    assert not any("default" in name for name in backbone.trained_state_dict())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_step_changes_lora_alone(base: Path, checkpointing: bool) -> None:
    backbone = TurboBackbone.from_base(tiny(), base)
    if checkpointing:
        backbone.enable_gradient_checkpointing()
    before = outputs(backbone)
    frozen = {name: p.clone() for name, p in backbone.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW([p for p in backbone.parameters() if p.requires_grad], lr=1e-2)
    x, condition = inputs()
    for _ in range(2):  # in the first step, A's gradient is zero because B is
        z = backbone.encode(x)
        loss = (backbone.decode(z - backbone.predict(z, condition)) - x).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.any() for p in backbone.parameters() if p.requires_grad)
    assert min(differences(outputs(backbone), before)) > 1e-5
    assert all(torch.equal(p, frozen[n]) for n, p in backbone.named_parameters() if n in frozen)


def test_trained_state_round_trip(base: Path) -> None:
    backbone = TurboBackbone.from_base(tiny(), base)
    disturb(backbone)
    again = TurboBackbone.from_base(tiny(), base)
    assert min(differences(outputs(backbone), outputs(again))) > 1e-4
    again.load_trained_state_dict(backbone.trained_state_dict())
    assert differences(outputs(backbone), outputs(again)) == [0, 0, 0]


def test_merging_keeps_outputs_and_saving(base: Path) -> None:
    backbone = TurboBackbone.from_base(tiny(), base)
    disturb(backbone)
    before = outputs(backbone)
    state = {name: tensor.clone() for name, tensor in backbone.trained_state_dict().items()}
    conv = backbone.unet.conv_in.base_layer.weight.clone()
    backbone.merge_lora()
    backbone.merge_lora()  # a second time changes nothing
    assert not torch.equal(backbone.unet.conv_in.base_layer.weight, conv)
    assert max(differences(outputs(backbone), before)) < 1e-4
    assert not any(p.requires_grad for p in backbone.parameters())

    saved = backbone.trained_state_dict()
    assert saved.keys() == state.keys()
    assert all(torch.equal(saved[name], state[name]) for name in state)
    again = TurboBackbone.from_base(tiny(), base)
    again.load_trained_state_dict(saved)
    assert max(differences(outputs(again), before)) < 1e-6
    with pytest.raises(ModelError, match="merged"):
        backbone.load_trained_state_dict(saved)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(base: Path, dtype: torch.dtype) -> None:
    whole = outputs(TurboBackbone.from_base(tiny(), base))
    loaded, cast = TurboBackbone.from_base(tiny(), base, dtype=dtype), TurboBackbone.from_base(tiny(), base)
    for backbone in (loaded, cast.to(dtype)):
        results = outputs(backbone)
        assert {t.dtype for t in results} == {dtype}
        assert max(differences(results, whole)) < 0.1


def test_ranks_of_zero_leave_the_base_alone() -> None:
    backbone = TurboBackbone(tiny(vae_lora_rank=0, unet_lora_rank=0))
    assert backbone.trained_state_dict() == {}
    assert backbone.parts()["LoRA (UNet)"] == 0
    backbone.merge_lora()


def test_weights_that_do_not_fit(base: Path) -> None:
    backbone = TurboBackbone.from_base(tiny(), base)
    state = backbone.trained_state_dict()
    name = "unet.conv_in.lora_A.weight"
    with pytest.raises(ModelError, match=f"lack 1 LoRA tensors, such as '{name}'"):
        backbone.load_trained_state_dict({k: v for k, v in state.items() if k != name})
    with pytest.raises(ModelError, match="such as 'surplus'"):
        backbone.load_trained_state_dict(state | {"surplus": torch.zeros(1)})
    before = outputs(backbone)
    wider = TurboBackbone(tiny(unet_lora_rank=4)).trained_state_dict()
    with pytest.raises(ModelError, match=r"'unet\..*' is \("):
        backbone.load_trained_state_dict(wider)
    assert differences(outputs(backbone), before) == [0, 0, 0]


def test_base_of_another_configuration(base: Path) -> None:
    with pytest.raises(ModelError, match="cross_attention_dim is 16, not 24"):
        TurboBackbone.from_base(tiny(unet=UNET | {"cross_attention_dim": 24}), base)
    with pytest.raises(ModelError, match=r"scaling_factor is 0\.5, not 1"):
        TurboBackbone.from_base(tiny(vae=VAE | {"scaling_factor": 1}), base)


@pytest.mark.parametrize("with_accelerate", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv_in.bias": None}, r"missing keys, such as 'conv_in\.bias'\.$"),
        ({"surplus": torch.zeros(1)}, r"unexpected keys, such as 'surplus'\.$"),
        ({"conv_in.bias": torch.zeros(3)}, r"conv_in\.bias.*\(\[8\]\)[^\n]*\.$"),
    ],
)
def test_base_unlike_its_own_configuration(
    change: dict[str, Tensor | None],
    message: str,
    with_accelerate: bool,
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of most of these diffusers only warns; without accelerate it loads in another way."""
    if not with_accelerate:
        monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    shutil.copytree(base, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(path) | change
    save_file({k: v for k, v in state.items() if v is not None}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=message):
        TurboBackbone.from_base(tiny(), tmp_path)


@pytest.mark.parametrize("part", ["vae", "unet"])
def test_folder_lacks_a_part(part: str, tmp_path: Path) -> None:
    if part == "unet":
        AutoencoderKL(**VAE).save_pretrained(tmp_path / "vae")
    with pytest.raises(ModelError, match=f"{part}/config.json is missing"):
        TurboBackbone.from_base(tiny(), tmp_path)


def test_pickles_are_refused(tmp_path: Path) -> None:
    AutoencoderKL(**VAE).save_pretrained(tmp_path / "vae", safe_serialization=False)
    with pytest.raises(ModelError, match="only pickled weights"):
        TurboBackbone.from_base(tiny(), tmp_path)


def test_truncated_weights(tmp_path: Path) -> None:
    AutoencoderKL(**VAE).save_pretrained(tmp_path / "vae")
    weights = tmp_path / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        TurboBackbone.from_base(tiny(), tmp_path)


def test_no_such_folder(tmp_path: Path) -> None:
    for source in (tmp_path / "absent", str(tmp_path / "absent"), "./absent"):
        with pytest.raises(ModelError, match="no folder"):
            TurboBackbone.from_base(tiny(), source)


def test_hub_unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for local_files_only, where in (
        (False, "the Hugging Face Hub cannot be reached"),
        (True, "not in the Hub's cache"),
    ):
        with pytest.raises(ModelError, match=f"{where}: run `hf download") as caught:
            TurboBackbone.from_base(TurboConfig(), local_files_only=local_files_only)
        assert "--base" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_base_is_pinned_and_asked_for_as_the_caller_says(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def download(repository: str, **options: Any) -> str:
        asked.append({"repository": repository} | options)
        return str(base)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    hub: HubOptions = {"cache_dir": "there", "local_files_only": True, "token": "secret"}
    build_model(model_config(), pretrained=True, **hub)
    TurboBackbone.from_base(tiny(base="somebody/sd"))
    TurboBackbone.from_base(tiny(base="somebody/sd", revision="abc"))
    TurboBackbone.from_base(tiny(), "somebody/sd")
    assert [(a["repository"], a["revision"]) for a in asked] == [
        ("stabilityai/sd-turbo", "b261bac6fd2cf515557d5d0707481eafa0485ec2"),
        ("somebody/sd", None),
        ("somebody/sd", "abc"),
        ("somebody/sd", None),
    ]
    assert {name: asked[0][name] for name in hub} == hub
    assert "scheduler/scheduler_config.json" in asked[0]["allow_patterns"]
    assert not any(".bin" in pattern for pattern in asked[0]["allow_patterns"])


def test_weights_are_named_with_the_base_they_are_over(base: Path, other_base: Path, tmp_path: Path) -> None:
    config = model_config()
    model, over_other = (build_model(config, pretrained=True, base=folder) for folder in (base, other_base))
    over_other.load_state_dict({k: v for k, v in model.state_dict().items() if "vae.decoder" not in k}, strict=False)
    a, b = FaithEIRPipeline(model, config), FaithEIRPipeline(over_other, config)
    assert a.weights != b.weights
    photo = np.zeros((16, 16, 3), np.uint8)
    assert [p.downscale(photo).info.weights for p in (a, b)] == [a.weights, b.weights]  # type: ignore[union-attr]

    a.save_pretrained(tmp_path / "a")
    saved = read_config(tmp_path / "a")
    assert isinstance(saved.backbone, TurboConfig)
    assert re.fullmatch("[0-9a-f]{16}", saved.backbone.base_hash or "")
    assert saved == config, "a recipe without the hash is that of the model with it"
    assert stored_hash(tmp_path / "a") == a.weights
    assert FaithEIRPipeline.from_pretrained(tmp_path / "a", base=base).weights == a.weights
    with pytest.raises(
        ModelError, match=rf"has the weights .*, and the model was made on the weights {saved.backbone.base_hash}"
    ):
        FaithEIRPipeline.from_pretrained(tmp_path / "a", base=other_base)


def test_the_bases_hash_is_over_what_diffusers_loads_however_it_is_stored(base: Path, tmp_path: Path) -> None:
    expected = TurboBackbone.from_base(tiny(), base).base_hash
    vae, unet = AutoencoderKL.from_pretrained(base / "vae"), UNet2DConditionModel.from_pretrained(base / "unet")
    vae.save_pretrained(tmp_path / "vae")
    unet.save_pretrained(tmp_path / "unet", max_shard_size="20KB")
    assert len(list((tmp_path / "unet").glob("*.safetensors"))) > 1
    vae.half().save_pretrained(tmp_path / "vae", variant="fp16")
    assert TurboBackbone.from_base(tiny(), tmp_path).base_hash == expected


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prediction_type": "v_prediction"}, "prediction_type is v_prediction, not epsilon"),
        ({"beta_start": 0.0001}, "beta_start is 0.0001, not 0.00085"),
        ({"beta_schedule": None}, "beta_schedule is None, not scaled_linear"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr is True"),
    ],
)
def test_a_base_with_another_noise_schedule_is_refused(
    base: Path, tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    shutil.copytree(base, tmp_path / "base")
    path = tmp_path / "base" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=f"another noise schedule than SD-Turbo: its {says}"):
        TurboBackbone.from_base(tiny(), tmp_path / "base")


def test_a_schedule_that_cannot_be_checked(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(base, tmp_path / "base")
    path = tmp_path / "base" / "scheduler" / "scheduler_config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({key: values[key] for key in ("beta_start", "beta_end", "beta_schedule")}))
    TurboBackbone.from_base(tiny(), tmp_path / "base")
    assert not caplog.records, "older files leave out what is everywhere the same"
    path.write_text("[")
    with pytest.raises(ModelError, match=r"scheduler_config\.json cannot be read"):
        TurboBackbone.from_base(tiny(), tmp_path / "base")
    path.unlink()
    TurboBackbone.from_base(tiny(), tmp_path / "base")
    assert [r.name for r in caplog.records] == ["faitheir"]
    assert "noise schedule is not checked" in caplog.text


def test_half_precision_is_loaded_as_such_and_the_lora_saved_as_it_was(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = model_config()
    model = build_model(config, pretrained=True, base=base)
    disturb(model.backbone)
    save_model(tmp_path / "model", model, config)
    loaded: list[torch.dtype] = []
    init = TurboBackbone.__init__

    def watched(self: TurboBackbone, *arguments: Any, components: Any = None, **more: Any) -> None:
        loaded.extend({p.dtype for part in components for p in part.parameters()})
        init(self, *arguments, components=components, **more)

    monkeypatch.setattr(TurboBackbone, "__init__", watched)
    half = FaithEIRPipeline.from_pretrained(tmp_path / "model", base=base, dtype="bfloat16")
    assert loaded == [torch.bfloat16]
    assert {p.dtype for p in half.model.backbone.parameters()} == {torch.bfloat16}
    assert half.weights == stored_hash(tmp_path / "model")
    half.save_pretrained(tmp_path / "again")
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("model", "again")]
    assert files[0] == files[1]
    whole = FaithEIRPipeline.from_pretrained(tmp_path / "model", base=base)
    photo = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    a, b = (p.upscale(whole.downscale(photo), output_type="np").astype(int) for p in (half, whole))
    assert np.abs(a - b).mean() < 4


def test_sizes_that_the_unet_cannot_halve_are_refused_at_once(base: Path) -> None:
    config = ModelConfig("turbo-x16", CodecConfig(scale=16), TurboConfig())
    assert config.size_multiple == 64
    model = build_model(
        replace(model_config(), codec=CodecConfig(scale=2, pse_hidden=(8,))), pretrained=True, base=base
    )
    assert model.size_multiple == 4
    with pytest.raises(ConfigError, match="pictures must have sides that are multiples of 4; one is 8 x 6 pixels"):
        model(torch.zeros(1, 3, 6, 8))
    with pytest.raises(ConfigError, match="thumbnails must have sides that are multiples of 2; one is 4 x 3 pixels"):
        model.upscale(torch.zeros(1, 3, 3, 4))


@pytest.mark.parametrize("package", ["diffusers", "peft"])
def test_missing_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'faitheir\[turbo\]'"):
        TurboBackbone(tiny())


def test_whole_codec(base: Path) -> None:
    """The codec over this backbone: shapes, and gradients in all that is trained."""
    torch.manual_seed(0)
    model = FaithEIR(CodecConfig(scale=4, pse_hidden=(8,)), TurboBackbone.from_base(tiny(), base))
    disturb(model.backbone)
    result = model(inputs()[0])
    assert result.thumbnail.shape == (2, 3, 4, 6)
    assert result.picture.shape == (2, 3, 16, 24)
    result.picture.mean().backward()
    assert all(p.grad is not None for p in model.backbone.parameters() if p.requires_grad)


def test_configuration_survives_a_file() -> None:
    for config in (TurboConfig(), tiny(revision="abc")):
        assert from_dict(TurboConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_configuration_errors() -> None:
    with pytest.raises(ConfigError, match="unet_lora_rank"):
        TurboConfig(unet_lora_rank=-1)
    with pytest.raises(ConfigError, match="latent_channels"):
        TurboConfig(vae={"block_out_channels": [8, 16]})
    with pytest.raises(ConfigError, match="must agree"):
        tiny(unet=UNET | {"in_channels": 8})
    with pytest.raises(ConfigError, match="unknown_key"):
        TurboBackbone(tiny(unet=UNET | {"unknown_key": 8}))


def model_config() -> ModelConfig:
    return ModelConfig("tiny-turbo", CodecConfig(scale=4, growth=4, pse_hidden=(8,)), tiny())


def test_as_a_model_folder_it_restores_the_same_merged_saved_and_loaded_again(base: Path, tmp_path: Path) -> None:
    config = model_config()
    model = build_model(config, pretrained=True, base=base)
    with torch.no_grad():
        for name, parameter in model.backbone.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    save_model(tmp_path / "model", model, config)
    assert not any("vae.encoder" in k and "lora" not in k for k in load_file(tmp_path / "model" / "model.safetensors"))

    photo = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    apart = FaithEIRPipeline(model, config)
    merged = FaithEIRPipeline.from_pretrained(tmp_path / "model", base=base)
    assert not any(p.requires_grad for p in merged.model.backbone.parameters())
    merged.save_pretrained(tmp_path / "again")
    again = FaithEIRPipeline.from_pretrained(tmp_path / "again", base=base)
    assert apart.weights == merged.weights == again.weights
    thumbnail = apart.downscale(photo)
    expected = apart.upscale(thumbnail, output_type="np").astype(int)
    assert expected.shape == photo.shape
    for pipeline in (merged, again):
        assert np.abs(pipeline.downscale(photo).picture.rgb.astype(int) - thumbnail.picture.rgb).max() <= 1
        assert np.abs(pipeline.upscale(thumbnail, output_type="np") - expected).max() <= 1
    with pytest.raises(ModelError, match="vae"):
        FaithEIRPipeline.from_pretrained(tmp_path / "model", base=tmp_path)


def test_it_trains_in_the_common_loop_from_random_components(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    (tmp_path / "photos").mkdir()
    Image.effect_noise((64, 64), 60).convert("RGB").save(tmp_path / "photos" / "a.png")
    config = TrainConfig(
        model=replace(model_config(), backbone=tiny(base="random")),
        data=DataConfig(train=str(tmp_path / "photos"), crop=32, workers=0),
        losses=LossConfig(semantic=0.0, feature=0.0),
        optimizer=OptimizerConfig(lr=1e-2),
        run=str(tmp_path / "run"),
        steps=3,
        batch=2,
        precision="no",
        log_every=1,
        save_every=3,
    )
    folder = train(config, log=lambda _: None)
    state = load_file(folder / "model.safetensors")
    trained = [k for k in state if k.startswith("backbone.")]
    assert trained
    assert all("lora" in k for k in trained)
    assert any(state[k].any() for k in trained if "lora_B" in k), "LoRA's second factor starts at zero"
