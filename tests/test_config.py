"""Strict dataclasses: what is misspelt or of the wrong type is said, with the file's name."""

import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faitheir.backbones.nano import NanoConfig
from faitheir.backbones.turbo import TurboConfig
from faitheir.config import from_dict, to_dict
from faitheir.errors import ConfigError
from faitheir.models import KNOWN_CONFIGS, ModelConfig
from faitheir.nn.codec import CodecConfig
from tiny import nano_config


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0
    name: str | None = None


@dataclass(frozen=True)
class Red:
    kind: Literal["red"] = "red"
    warmth: int = 1


@dataclass(frozen=True)
class Blue:
    kind: Literal["blue"] = "blue"
    depth: int = 1


@dataclass(frozen=True)
class Outer:
    steps: int
    flag: bool = False
    mode: Literal["fast", "slow"] = "fast"
    inner: Inner = field(default_factory=Inner)
    many: tuple[Inner, ...] = ()
    pair: tuple[int, str] = (1, "a")
    colour: Red | Blue = field(default_factory=Red)
    free: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ConfigError(f"steps is {self.steps}; it must be 0 or more.")


def refused(values: Any, cls: type = Outer) -> str:
    with pytest.raises(ConfigError) as caught:
        from_dict(cls, values, where="run.toml")
    text = str(caught.value)
    assert text.startswith("run.toml")
    assert "\n" not in text
    assert text.endswith(".") or text.endswith("?")
    return text


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"steps": 1, "stepz": 2}, "unknown key 'stepz'; did you mean 'steps'?"),
        ({"steps": 1, "inner": {"rat": 2}}, "'inner': unknown key 'rat'; did you mean 'rate'?"),
        ({"steps": 1, "many": [{}, {"nam": "x"}]}, "'many': unknown key 'nam'; did you mean 'name'?"),
        ({"steps": 1, "zzz": 2}, "unknown key 'zzz'; known keys: steps, flag"),
        ({"steps": 1, "colour": {"kind": "blue", "dept": 2}}, "did you mean 'depth'?"),
        ({"steps": 1, "colour": {"kind": "green"}}, "unknown kind 'green'"),
        ({}, "the key 'steps' is missing"),
        ({"steps": "1"}, "'steps' is '1'; it must be of type int"),
        ({"steps": 1.0}, "it must be of type int"),
        ({"steps": True}, "'steps' is True; it must be of type int"),
        ({"steps": None}, "it must be of type int"),
        ({"steps": 1, "flag": 1}, "it must be of type bool"),
        ({"steps": 1, "flag": "false"}, "it must be of type bool"),
        ({"steps": 1, "mode": "fats"}, "'mode' is 'fats'; choose one of 'fast', 'slow'"),
        ({"steps": 1, "mode": ["fast"]}, "choose one of"),
        ({"steps": 1, "inner": 3}, "expected a table of settings, found 3"),
        ({"steps": 1, "inner": {"rate": True}}, "'rate' is True; it must be of type float"),
        ({"steps": 1, "inner": {"name": 3}}, "it must be of type str"),
        ({"steps": 1, "many": {}}, "it must be a list"),
        ({"steps": 1, "pair": [1]}, "has 1 items; it must have 2"),
        ({"steps": 1, "pair": ["a", 1]}, "it must be of type int"),
        ({"steps": 1, "free": []}, "it must be a table"),
        ({"steps": -1}, "run.toml: steps is -1; it must be 0 or more."),
        ([], "expected a table of settings, found []"),
        ("steps = 1", "expected a table of settings"),
        (None, "expected a table of settings"),
    ],
)
def test_refused(values: Any, says: str) -> None:
    assert says in refused(values)


@pytest.mark.parametrize(
    ("key", "near"),
    [("scael", "scale"), ("lte_token", "lte_tokens"), ("embeder", "embedder"), ("inv_block", "inv_blocks")],
)
def test_a_misspelt_choice_of_the_method(key: str, near: str) -> None:
    assert f"did you mean '{near}'?" in refused({"codec": {key: 1}}, ModelConfig)


def test_accepted() -> None:
    values = {
        "steps": 3,
        "inner": {"rate": 2},
        "many": [{"rate": 0.5, "name": "x"}],
        "pair": [2, "b"],
        "colour": {"kind": "blue", "depth": 4},
        "free": {"anything": [1, {"goes": None}]},
    }
    config = from_dict(Outer, values)
    assert config == Outer(
        3,
        inner=Inner(2.0),
        many=(Inner(0.5, "x"),),
        pair=(2, "b"),
        colour=Blue(depth=4),
        free={"anything": [1, {"goes": None}]},
    )
    assert isinstance(config.inner.rate, float)  # an int where a float is wanted is one
    assert to_dict(config)["inner"] == {"rate": 2.0}  # None is left out: TOML has no null
    assert from_dict(Inner, {"name": None}) == Inner()
    assert from_dict(Outer, {"steps": 1, "colour": {"depth": 2}}).colour == Blue(depth=2)


def test_kinds_of_backbone_are_told_apart() -> None:
    text = refused({"backbone": {"kind": "turbo", "unet_lora_rnk": 4}}, ModelConfig)
    assert "did you mean 'unet_lora_rank'?" in text
    text = refused({"backbone": {"kind": "nano", "windows": 4}}, ModelConfig)
    assert "did you mean 'window'?" in text
    assert "unknown kind 'giant'" in refused({"backbone": {"kind": "giant"}}, ModelConfig)
    assert isinstance(from_dict(ModelConfig, {"backbone": {"kind": "turbo"}}).backbone, TurboConfig)


positive = st.integers(1, 10**6)
pairs = st.tuples(positive, positive)
counts = st.tuples(st.integers(0, 9), st.integers(0, 9))
codecs = st.builds(
    CodecConfig,
    scale=st.integers(1, 8).map(lambda n: 2**n),
    transform=st.sampled_from(["lrt", "haar"]),
    orthogonality=st.sampled_from(["always", "init"]),
    lrt_init=st.sampled_from(["random", "haar"]),
    inv_blocks=st.integers(0, 9),
    growth=positive,
    prior=st.sampled_from(["adp", "zeros", "random", "normal", "gmm"]),
    prior_pattern=positive,
    gmm_components=positive,
    embedder=st.sampled_from(["pse", "lte", "none"]),
    pse_hidden=st.lists(positive, max_size=4).map(tuple),
    lte_tokens=positive,
    timestep=st.integers(0, 999),
)
nanos = st.builds(
    NanoConfig,
    latent_channels=st.integers(3, 99),
    encoder_widths=pairs,
    encoder_blocks=counts,
    unet_widths=pairs,
    unet_blocks=counts,
    decoder_widths=st.tuples(positive, positive, positive),
    decoder_blocks=st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
    context_dim=positive,
    heads=positive,
    window=positive,
)
turbos = st.builds(
    TurboConfig,
    base=st.text(min_size=1, max_size=20),
    revision=st.none() | st.text(max_size=9),
    vae_lora_rank=st.integers(0, 64),
    unet_lora_rank=st.integers(0, 64),
)
names = st.text(min_size=1, max_size=100).filter(str.isprintable)


@given(st.builds(ModelConfig, name=names, codec=codecs, backbone=nanos | turbos))
def test_every_configuration_survives_its_file(config: ModelConfig) -> None:
    values = to_dict(config)
    assert from_dict(ModelConfig, values) == config
    assert from_dict(ModelConfig, json.loads(json.dumps(values))) == config


@given(
    st.builds(
        Outer,
        steps=st.integers(0, 2**40),
        flag=st.booleans(),
        inner=st.builds(Inner, rate=st.floats(allow_nan=False), name=st.none() | st.text()),
        many=st.lists(st.builds(Inner, rate=st.floats(-1e300, 1e300)), max_size=3).map(tuple),
        pair=st.tuples(st.integers(), st.text()),
        colour=st.builds(Red, warmth=st.integers()) | st.builds(Blue, depth=st.integers()),
    )
)
def test_every_kind_of_field_survives_its_file(config: Outer) -> None:
    assert from_dict(Outer, json.loads(json.dumps(to_dict(config)))) == config


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["steps", "inner", "many", "colour", "kind", "rate"]), inner)
        ),
        max_leaves=8,
    )
)
def test_whatever_is_given_the_answer_is_a_config_or_a_config_error(values: Any) -> None:
    try:
        config = from_dict(Outer, values)
    except ConfigError:
        return
    assert isinstance(config, Outer)
    assert type(config.steps) is int
    assert isinstance(config.inner.rate, float)
    assert isinstance(config.colour, Red | Blue)
    assert math.isfinite(config.steps)


@pytest.mark.parametrize("name", KNOWN_CONFIGS)
def test_known_configurations_are_named_and_survive(name: str) -> None:
    config = KNOWN_CONFIGS[name]
    assert config.name == name
    assert config.codec.scale == int(name.split("-x")[1])
    assert config.backbone.kind == {"nano": "nano", "turbo": "turbo"}.get(name.split("-")[0], "pixels")
    assert from_dict(ModelConfig, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 101])
def test_names_that_a_thumbnail_cannot_carry(name: str) -> None:
    with pytest.raises(ConfigError, match="name is"):
        ModelConfig(name, CodecConfig(), nano_config())
