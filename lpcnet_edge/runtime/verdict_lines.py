"""Verdicts as JSON objects, one a line; ``lpcnet_edge/schemas/verdict.schema.json`` is their published schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from typing import Any, TypeVar

from lpcnet_edge.config import from_mapping
from lpcnet_edge.errors import BadArtifact, BadConfig
from lpcnet_edge.types import PartVerdict, Verdict

_FRAME_KEYS = ("part_id", "verdict", "reasons", "defects", "latency_ms", "backend", "bundle")
_PART_KEYS = ("part_id", "verdict", "reasons", "views")
_MEND = "give a line that lpcnet-edge wrote; docs/verdicts.md lists its keys"

T = TypeVar("T")


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a verdict line."""
    text = files("lpcnet_edge").joinpath("schemas", "verdict.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def to_json(verdict: Verdict | PartVerdict) -> dict[str, Any]:
    """The line of a frame's verdict, or of a part's, whose ``views`` hold the lines of its frames."""
    if isinstance(verdict, PartVerdict):
        return {
            "part_id": verdict.part_id,
            "verdict": verdict.outcome,
            "reasons": list(verdict.reasons),
            "views": {name: to_json(view) for name, view in verdict.views.items()},
        }
    return {
        **verdict.to_json(),
        "latency_ms": dict(verdict.latency_ms),
        "backend": verdict.backend,
        "bundle": verdict.bundle,
    }


def from_json(line: Mapping[str, Any], where: str = "verdict line") -> Verdict | PartVerdict:
    """What :func:`to_json` was given. Keys that a verdict does not have are passed over.

    Parameters
    ----------
    line
        The decoded JSON object; one with ``views`` is a part's.
    where
        Named in errors, as a rule the file and the line number.

    Raises
    ------
    BadArtifact
        A key is missing or its value is not what the schema says.
    """
    if not isinstance(line, Mapping) or "views" not in line:
        return _frame(line, where)
    values = _taken(line, _PART_KEYS, where)
    views = values.pop("views")
    if not isinstance(views, Mapping):
        raise BadArtifact(f"{where}: 'views' is no object of verdict lines", mend=_MEND)
    frames = {name: _frame(view, f"{where}: views.{name}") for name, view in views.items()}
    return replace(_built(PartVerdict, values, where), views=frames)


def _frame(line: object, where: str) -> Verdict:
    values = _taken(line, _FRAME_KEYS, where)
    if isinstance(values["defects"], list):
        values["defects"] = [_renamed(defect, "class", "name") for defect in values["defects"]]
    return _built(Verdict, values, where)


def _taken(line: object, keys: tuple[str, ...], where: str) -> dict[str, Any]:
    """The keys of a line that make a verdict, under the names of its fields."""
    if not isinstance(line, Mapping):
        raise BadArtifact(f"{where}: not a JSON object", mend=_MEND)
    for key in keys:
        if key not in line:
            raise BadArtifact(f"{where}: no key '{key}'", mend=_MEND)
    values: dict[str, Any] = _renamed({key: line[key] for key in keys}, "verdict", "outcome")
    return values


def _renamed(value: Any, old: str, new: str) -> Any:
    return {new if key == old else key: item for key, item in value.items()} if isinstance(value, Mapping) else value


def _built(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    try:
        return from_mapping(cls, values, where)
    except BadConfig as exc:  # a line is no settings file
        raise BadArtifact(exc.message, mend=_MEND) from exc
