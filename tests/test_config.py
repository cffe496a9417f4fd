"""Settings and YAML: what is read, what is refused, and that every refusal says where and what to do."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lpcnet_edge import yamlfile
from lpcnet_edge.config import dump_yaml, from_mapping, load_config, load_yaml, suggest, to_mapping
from lpcnet_edge.errors import BadConfig


class Colour(Enum):
    GREY = "grey"
    BGR = "bgr"


@dataclass(frozen=True)
class Optimiser:
    name: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)


@dataclass(frozen=True)
class Settings:
    steps: int
    optimiser: Optimiser = field(default_factory=Optimiser)
    colour: Colour = Colour.GREY
    resume: bool = False
    seed: int | None = None
    out: Path = Path("runs")
    classes: tuple[str, ...] = ()
    gate: Literal["off"] | float = "off"
    weights: Mapping[str, float] = field(default_factory=dict)
    schedule: Optimiser | str | None = None
    extra: Any = None
    derived: int = field(init=False, default=3)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise BadConfig(f"steps is {self.steps}", mend="use 1 or more")
        if self.seed is not None and self.seed < 0:
            raise ValueError("seed is negative")


def build(**mapping: Any) -> Settings:
    return from_mapping(Settings, {"steps": 1, **mapping}, "test.yaml")


def complaint(**mapping: Any) -> BadConfig:
    with pytest.raises(BadConfig) as caught:
        build(**mapping)
    assert caught.value.mend, "every complaint has a mend"
    return caught.value


def write(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_builds_nested_values() -> None:
    settings = build(
        optimiser={"name": "sgd", "learning_rate": 1, "betas": [0.5, 0.9]},
        colour="bgr",
        seed=7,
        out="runs/a",
        classes=["background", "crack"],
        gate=0.25,
        weights={"crack": 2},
        schedule={"name": "sgd"},
        extra=[1, {"two": 2}],
    )
    assert settings.optimiser == Optimiser("sgd", 1.0, (0.5, 0.9))
    assert isinstance(settings.optimiser.learning_rate, float)
    assert settings.colour is Colour.BGR
    assert settings.out == Path("runs/a")
    assert settings.classes == ("background", "crack")
    assert settings.weights == {"crack": 2.0}
    assert settings.schedule == Optimiser("sgd")
    assert settings.extra == [1, {"two": 2}]


def test_defaults_stay() -> None:
    assert build() == Settings(steps=1)
    assert build(schedule="cosine").schedule == "cosine"
    assert build(seed=None).seed is None


def test_unknown_key_suggests_the_nearest() -> None:
    error = complaint(optimizer={})
    assert error.message == "test.yaml: unknown key 'optimizer'"
    assert error.mend is not None
    assert error.mend.startswith("did you mean 'optimiser'?")
    nested = complaint(optimiser={"learning_rat": 1.0})
    assert nested.message == "test.yaml: optimiser: unknown key 'learning_rat'"
    assert "'learning_rate'" in str(nested.mend)


def test_far_off_key_lists_the_known_ones() -> None:
    assert str(complaint(zzz=1).mend).startswith("use one of: steps, optimiser")
    assert "derived" not in str(complaint(zzz=1).mend)


def test_missing_key() -> None:
    with pytest.raises(BadConfig, match="missing key 'steps'"):
        from_mapping(Settings, {}, "test.yaml")


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"steps": True}, "steps: expected a whole number, found true"),
        ({"steps": "1"}, "steps: expected a whole number, found the text '1'"),
        ({"steps": 1.0}, "steps: expected a whole number, found 1.0"),
        ({"resume": "yes"}, "resume: expected true or false, found the text 'yes'"),
        ({"resume": 1}, "resume: expected true or false, found 1"),
        ({"out": 3}, "out: expected a path, found 3"),
        ({"seed": "x"}, "seed: expected a whole number, found the text 'x'"),
        ({"colour": "gray"}, "colour: 'gray' is not a choice"),
        ({"optimiser": None}, "optimiser: expected a mapping of settings, found null"),
        ({"optimiser": {"name": "adam"}}, "optimiser.name: 'adam' is not a choice"),
        ({"optimiser": {"betas": [0.9]}}, "optimiser.betas: expected a list of 2, found a list of 1"),
        ({"optimiser": {"betas": [0.9, "x"]}}, "optimiser.betas[1]: expected a number, found the text 'x'"),
        ({"optimiser": {"learning_rate": math.nan}}, "optimiser.learning_rate: expected a finite number, found nan"),
        ({"classes": "crack"}, "classes: expected a list, found the text 'crack'"),
        ({"gate": "on"}, "gate: expected 'off' or a number, found the text 'on'"),
        ({"weights": {"crack": "x"}}, "weights.crack: expected a number, found the text 'x'"),
        ({"weights": [1]}, "weights: expected a mapping, found a list of 1"),
        ({"schedule": {"nam": "sgd"}}, "schedule: unknown key 'nam'"),
        ({"schedule": 3}, "schedule: expected a mapping or text or null, found 3"),
        ({"seed": -1}, "seed is negative"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_refuses(mapping: dict[str, Any], message: str) -> None:
    assert complaint(**mapping).message == f"test.yaml: {message}"


def test_whole_number_stays_one_in_a_union() -> None:
    @dataclass(frozen=True)
    class Either:
        value: float | int = 0

    result = from_mapping(Either, {"value": 3}, "test").value
    assert (result, type(result)) == (3, int)


def test_unsupported_field_type_is_a_fault_of_the_code() -> None:
    @dataclass(frozen=True)
    class Odd:
        value: set[int] = field(default_factory=set)

    with pytest.raises(TypeError, match="not supported"):
        from_mapping(Odd, {"value": [1]}, "test")


def test_to_mapping_reverses() -> None:
    settings = build(schedule={"name": "sgd"}, gate=0.5, out="a/b", classes=["x"], weights={"x": 1.5}, colour="bgr")
    plain = to_mapping(settings)
    assert "derived" not in plain
    assert plain["colour"] == "bgr"
    assert plain["out"] == "a/b"
    assert from_mapping(Settings, plain, "again") == settings
    with pytest.raises(TypeError):
        to_mapping({"not": "a dataclass"})


def test_load_config_names_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "steps: 3\noptimiser: {learning_rate: 1e-3}\ngate: off\n")
    assert load_config(path, Settings) == Settings(steps=3)
    with pytest.raises(BadConfig, match=r"settings\.yaml: unknown key 'stepz'"):
        load_config(write(tmp_path, "stepz: 3"), Settings)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("off", "off"),
        ("no", "no"),
        ("true", True),
        ("1e-3", 1e-3),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("17", 17),
        ("010", "010"),
        ("12:30:00", "12:30:00"),
        ("2026-01-31", "2026-01-31"),
        ("~", None),
        ("", None),
        (".inf", math.inf),
        ("'17'", "17"),
    ],
)
def test_scalars_follow_yaml_1_2(tmp_path: Path, text: str, value: object) -> None:
    read = load_yaml(write(tmp_path, f"a: {text}"))["a"]
    assert (read, type(read)) == (value, type(value))


BILLION_LAUGHS = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: duplicate key 'a'"),
        ("a:\n  - {b: 1, b: 2}\n", "line 2: duplicate key 'b'"),
        (BILLION_LAUGHS, "line 1: anchors and aliases are refused"),
        ("a: *b", "line 1: anchors and aliases are refused"),
        ("a: !!python/object/apply:os.system [ls]", "line 1: the tag"),
        ("a: " + "[" * 40 + "]" * 40, "nested deeper than 32"),
        ("a: " + "{b: " * 5000, "nested deeper than 32"),
        ("a: [1", "line 1: expected ',' or ']'"),
        ("- 1\n- 2\n", "expected a mapping of settings, found a list"),
        ("just text", "expected a mapping of settings, found a str"),
        ("", "expected a mapping of settings, found nothing"),
        ("a: 1\n---\nb: 2\n", "line 2: but found another document"),
        ("? [a]\n: 1\n", "line 1: found unhashable key"),
        ("a: " + "9" * 5000, "integer string conversion"),
        ("a: \x00", "special characters are not allowed"),
        ('a: "\\UFFFFFFFF"', "too large"),
        (b"a: \xff\xfe", "byte 3 is not UTF-8"),
    ],
)
def test_load_yaml_refuses(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(BadConfig) as caught:
        load_yaml(write(tmp_path, text))
    assert message in caught.value.message
    assert caught.value.message.startswith(str(tmp_path))
    assert caught.value.mend


def test_load_yaml_refuses_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="No such file"):
        load_yaml(tmp_path / "absent.yaml")
    with pytest.raises(BadConfig, match="Is a directory"):
        load_yaml(tmp_path)
    with pytest.raises(BadConfig, match="more than 10 bytes"):
        load_yaml(write(tmp_path, "a: 12345678"), max_bytes=10)


def test_byte_order_mark_is_no_part_of_a_key(tmp_path: Path) -> None:
    assert load_yaml(write(tmp_path, b"\xef\xbb\xbfa: 1")) == {"a": 1}


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=10), PLAIN, min_size=1, max_size=5))
def test_what_is_dumped_reads_back(data: dict[str, Any]) -> None:
    assert yamlfile.parse(dump_yaml(data).encode()) == data


@given(st.text(alphabet="0123456789+-.eE_:xobn~yoYNtfrualse ", max_size=12))
def test_other_readers_agree_on_what_is_text(word: str) -> None:
    assert yaml.safe_load(dump_yaml({"a": word})) == {"a": word}


@given(st.binary(max_size=300))
def test_hostile_bytes_give_one_kind_of_error(data: bytes) -> None:
    with contextlib.suppress(BadConfig):
        assert isinstance(yamlfile.parse(data), dict)


def test_suggest() -> None:
    assert suggest("Edge", ["edge", "large"]).startswith("did you mean 'edge'?")
    assert suggest("q", ["edge", "large"]) == "use one of: edge, large"


def test_fields_of_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        build().steps = 3  # type: ignore[misc]
