"""What the settings of a run refuse when they are made in Python, where no YAML reader has looked at them before."""

from __future__ import annotations

import ast
import dataclasses
import math
import re
import typing
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import lpcnet_edge
from lpcnet_edge.decision import ClassRule, Rules
from lpcnet_edge.errors import UsageError
from lpcnet_edge.runtime import session
from lpcnet_edge.runtime.settings import (
    LONGEST_S,
    MAX_BULK_TILES,
    MAX_SLOT_TILES,
    BulkSettings,
    LiveSettings,
    RunSettings,
)
from lpcnet_edge.runtime.sinks.settings import DeliverySettings
from lpcnet_edge.runtime.sources.settings import (
    CameraSettings,
    CorrectionSettings,
    ReconnectSettings,
    SourceSettings,
)

CLASSES = (
    *(LiveSettings, BulkSettings, RunSettings, ClassRule, Rules, DeliverySettings, ReconnectSettings),
    *(CameraSettings, CorrectionSettings, SourceSettings),
)


def numbers() -> Iterator[tuple[type[Any], str]]:
    """Every field of every class that takes a number."""
    for cls in CLASSES:
        for name, hint in typing.get_type_hints(cls).items():
            if {int, float} & {hint, *typing.get_args(hint)}:
                yield cls, name


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("cls", "name"), list(numbers()), ids=lambda at: at if isinstance(at, str) else at.__name__)
def test_no_number_is_nan_or_infinite(cls: type[Any], name: str, value: float) -> None:
    given: Any = (0.1, value) if name == "uncertain" else value
    with pytest.raises(ValueError, match=rf"^{name} is .*(nan|inf).*; it takes finite numbers"):
        cls(**{name: given})


def test_the_error_says_where_null_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"^deadline_ms is nan; it takes finite numbers, or null$"):
        LiveSettings(deadline_ms=math.nan)
    with pytest.raises(ValueError, match=r"^hang_s is inf; it takes finite numbers$"):
        LiveSettings(hang_s=math.inf)
    with pytest.raises(ValueError, match=r"^features is \{'Gamma': nan\}; it takes finite numbers$"):
        CameraSettings(features={"Gamma": math.nan})


@pytest.mark.parametrize("cls", [LiveSettings, BulkSettings, RunSettings], ids=lambda cls: cls.__name__)
def test_no_time_is_longer_than_the_clocks_take(cls: type[Any]) -> None:
    """They used to end in an OverflowError, deep in the run: what is meant to be for ever is written in many ways."""
    found = 0
    for name in typing.get_type_hints(cls):
        most = {"ms": 1e3 * LONGEST_S, "s": LONGEST_S}.get(name.rpartition("_")[2])
        if most is None:
            continue
        cls(**{name: most, **({"reopen_largest_s": most} if name == "reopen_first_s" else {})})
        for long in (1.01 * most, 1e14, 1e303):
            with pytest.raises(ValueError, match=rf"^{name} is .*; it is {most:g} at most$".replace("+", r"\+")):
                cls(**{name: long})
        found += 1
    assert found


def test_a_gate_in_words_is_off_or_auto() -> None:
    """Any other text was taken for off."""
    with pytest.raises(ValueError, match="gate is 'Auto'; it is off, auto or a number"):
        RunSettings(gate="Auto")  # type: ignore[arg-type]
    for wrong in ({"gate": "0.7"}, {"gate": 7}, {"budget_tiles": 0}):
        with pytest.raises(UsageError, match=r"inspect: (gate|the gate's threshold|budget_tiles) is"):
            next(lpcnet_edge.inspect("bundle", "images", **wrong))


def test_settings_in_settings_are_of_their_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """They used to end in an AttributeError, deep in the run."""
    for wrong, told in (
        ({"rules": ["crack"]}, r"rules is \['crack'\]; it takes Rules\(...\)"),
        ({"bulk": None}, r"bulk is None; it takes BulkSettings\(...\)"),
        ({"rules": {"defalt": {}}}, "rules.*unknown key 'defalt'.*did you mean 'default'"),
        ({"rules": {"default": {"min_area_px": "20"}}}, "rules.default.min_area_px"),
    ):
        with pytest.raises(UsageError, match=f"inspect: .*{told}"):
            next(lpcnet_edge.inspect("bundle", "images", **wrong))

    given: list[RunSettings] = []

    def opened(bundle: object, sources: object, settings: RunSettings, **_: object) -> Any:
        given.append(settings)
        return nullcontext([])

    monkeypatch.setattr(session, "open_bundle", lambda *_, **__: None)
    monkeypatch.setattr(session, "Session", opened)
    before = RunSettings(gate="off", budget_tiles=3)
    rules = {"default": {"min_area_px": 20}, "mm_per_px": 0.5}
    assert list(lpcnet_edge.inspect("bundle", "images", settings=before, rules=rules, budget_tiles=4)) == []
    assert given == [RunSettings(gate="off", budget_tiles=4, rules=Rules(ClassRule(min_area_px=20), mm_per_px=0.5))]


def test_slots_are_bounded_where_more_would_serve_nothing() -> None:
    assert BulkSettings(slots=MAX_BULK_TILES // MAX_SLOT_TILES, tiles=MAX_SLOT_TILES).tiles == MAX_SLOT_TILES
    for tiles in (0, MAX_SLOT_TILES + 1, 10**12):
        with pytest.raises(ValueError, match=f"^tiles is {tiles}; a slot holds 1 to {MAX_SLOT_TILES}$"):
            BulkSettings(tiles=tiles)
    with pytest.raises(ValueError, match=f"^5 slots of 1024 tiles are more than {MAX_BULK_TILES}"):
        BulkSettings(slots=5, tiles=1024)
    with pytest.raises(ValueError, match=r"^1000000000 slots of 32 tiles"):
        BulkSettings(slots=10**9)


def keys(cls: type[Any], above: str = "") -> Iterator[str]:
    """The dotted YAML keys of a settings class."""
    for name, hint in typing.get_type_hints(cls).items():
        yield f"{above}{name}"
        for inner in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(inner):
                yield from keys(typing.cast(type[Any], inner), f"{above}{name}.")


def test_mends_name_settings_as_the_yaml_has_them() -> None:
    """``source.recursive``, and neither ``settings.recursive`` nor ``recursive`` of who knows what."""
    known = set(keys(RunSettings))
    sections = {key.rpartition(".")[2] for key in known if any(other.startswith(f"{key}.") for other in known)}
    found = 0
    for file in Path(lpcnet_edge.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or " " not in node.value:
                continue
            for key in re.findall(r"(?<![\w./`-])[a-z]\w*(?:\.[a-z]\w*)+(?![\w(./])", node.value):
                if key.partition(".")[0] in sections | {"settings"} and not key.startswith("cuda.bindings"):
                    assert key in known, f"{file.name}:{node.lineno} says {key}"
                    found += 1
    assert found >= 8
