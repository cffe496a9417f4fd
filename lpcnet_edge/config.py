"""Settings: plain data in, frozen dataclasses out. What is not known is refused, with the nearest known name."""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import types
import typing
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from lpcnet_edge.errors import BadConfig
from lpcnet_edge.yamlfile import dump_yaml, load_yaml

__all__ = ["dump_yaml", "from_mapping", "load_config", "load_yaml", "refuse_non_finite", "suggest", "to_mapping"]

T = TypeVar("T")


def load_config(path: str | Path, cls: type[T]) -> T:
    """Read a YAML file into the dataclass ``cls``; raises ``BadConfig`` naming file, key and mend."""
    return from_mapping(cls, load_yaml(path), str(path))


def from_mapping(cls: type[T], mapping: Mapping[str, Any], where: str) -> T:
    """Build the dataclass ``cls`` from plain data, checking every key and every type.

    Fields may be ``bool``, ``int``, ``float`` (finite; a whole number serves), ``str``, ``Path``, an ``Enum`` (by
    value), ``Literal``, a dataclass, ``tuple``, ``Mapping`` and unions of these. Nothing is converted from text.

    Parameters
    ----------
    cls
        A dataclass; fields without a default are required.
    mapping
        Keys are field names.
    where
        Named in errors, as a rule the file.

    Raises
    ------
    BadConfig
        An unknown or missing key, a value of another type, or what ``__post_init__`` refuses with ``BadConfig`` or
        ``ValueError``.
    """
    built: T = _build(cls, mapping, where, "")
    return built


def to_mapping(obj: object, *, defaults: bool = True) -> dict[str, Any]:
    """Turn a settings dataclass into plain data that :func:`from_mapping` accepts and YAML and JSON can hold.

    ``defaults=False`` leaves out what is as it would be anyway.
    """
    if not dataclasses.is_dataclass(obj) or isinstance(obj, type):
        raise TypeError(f"expected a dataclass instance, found {type(obj).__name__}")
    shown = [f for f in dataclasses.fields(obj) if f.init and (defaults or getattr(obj, f.name) != _default(f))]
    return {f.name: _plain(getattr(obj, f.name), defaults) for f in shown}


def refuse_non_finite(settings: object) -> None:
    """Raise ``ValueError`` naming the first field of a dataclass that is, or holds, nan or an infinity.

    For ``__post_init__``: what is made in Python has not gone through :func:`from_mapping`, and nan, of which every
    comparison is false, passes each bound that is written as ``if x < least``.
    """
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]  # called by dataclasses on themselves
        value = getattr(settings, field.name)
        held = value if isinstance(value, tuple) else value.values() if isinstance(value, Mapping) else (value,)
        for number in held:
            if isinstance(number, float) and not math.isfinite(number):
                null = ", or null" if field.default is None else ""
                raise ValueError(f"{field.name} is {value}; it takes finite numbers{null}")


def suggest(name: str, known: Sequence[str]) -> str:
    """Say which known name is nearest to ``name``, and list them all: the mend of an unknown name."""
    listed = ", ".join(known)
    near = difflib.get_close_matches(name.lower(), [k.lower() for k in known], n=1, cutoff=0.55)
    best = next((k for k in known if near and k.lower() == near[0]), None)
    return f"did you mean '{best}'? (known: {listed})" if best else f"use one of: {listed}"


def _default(field: dataclasses.Field[Any]) -> Any:
    """Of a field; ``MISSING``, which equals nothing, where it has none."""
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def _plain(value: object, defaults: bool) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_mapping(value, defaults=defaults)
    if isinstance(value, Enum):
        return _plain(value.value, defaults)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {_plain(k, defaults): _plain(v, defaults) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, defaults) for v in value]
    return value


def _build(cls: type[Any], mapping: object, where: str, path: str) -> Any:
    if not isinstance(mapping, Mapping):
        raise _mismatch("a mapping of settings", mapping, where, path)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key in mapping:
        if key not in fields:
            raise BadConfig(f"{_place(where, path)}unknown key '{key}'", mend=suggest(str(key), list(fields)))
    hints = typing.get_type_hints(cls)
    values = {key: _convert(hints[key], value, where, _join(path, key)) for key, value in mapping.items()}
    for name, field in fields.items():
        if name not in values and _default(field) is dataclasses.MISSING:
            raise BadConfig(f"{_place(where, path)}missing key '{name}'", mend=f"add `{name}: ...`")
    try:
        return cls(**values)
    except BadConfig as exc:
        raise BadConfig(f"{_place(where, path)}{exc.message}", mend=exc.mend) from exc
    except ValueError as exc:
        raise BadConfig(f"{_place(where, path)}{exc}", mend="correct that value") from exc


def _convert(hint: Any, value: Any, where: str, path: str) -> Any:
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(hint, value, where, path)
    if origin is Literal:
        for option in typing.get_args(hint):
            if type(option) is type(value) and option == value:
                return option
        raise _not_among([str(option) for option in typing.get_args(hint)], value, where, path)
    if origin is tuple:
        return _convert_tuple(typing.get_args(hint), value, where, path)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        key_hint, value_hint = typing.get_args(hint)
        if not isinstance(value, Mapping):
            raise _mismatch("a mapping", value, where, path)
        return {
            _convert(key_hint, k, where, _join(path, k)): _convert(value_hint, v, where, _join(path, k))
            for k, v in value.items()
        }
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, where, path)
    if isinstance(hint, type) and issubclass(hint, Enum):
        for member in hint:
            if type(member.value) is type(value) and member.value == value:
                return member
        raise _not_among([str(member.value) for member in hint], value, where, path)
    return _convert_scalar(hint, value, where, path)


def _convert_scalar(hint: Any, value: Any, where: str, path: str) -> Any:
    if hint is float and type(value) in (int, float):
        try:
            number = float(value)
        except OverflowError:  # a whole number beyond the largest float
            number = math.inf
        if not math.isfinite(number):
            raise _mismatch("a finite number", value, where, path)
        return number
    if hint is Path and isinstance(value, str):
        return Path(os.fsdecode(value.encode("utf-8", "surrogatepass")))  # UTF-8 on the disk, as in the file
    if hint not in _NAMES:
        raise TypeError(f"{_place(where, path)}fields of type {hint!r} are not supported in settings")
    if hint is Path or type(value) is not hint:
        raise _mismatch(_NAMES[hint], value, where, path)
    return value


def _convert_tuple(hints: tuple[Any, ...], value: Any, where: str, path: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _mismatch("a list", value, where, path)
    if len(hints) == 2 and hints[1] is Ellipsis:
        hints = (hints[0],) * len(value)
    if len(hints) != len(value):
        raise _mismatch(f"a list of {len(hints)}", value, where, path)
    return tuple(_convert(h, v, where, f"{path}[{i}]") for i, (h, v) in enumerate(zip(hints, value, strict=True)))


def _convert_union(hint: Any, value: Any, where: str, path: str) -> Any:
    members = typing.get_args(hint)
    if type(value) in members:  # 3 stays an int in `float | int`
        return _convert(type(value), value, where, path)
    errors: list[BadConfig] = []
    for member in members:
        try:
            return _convert(member, value, where, path)
        except BadConfig as exc:
            errors.append(exc)
    # A union of one structured member and scalars: the structure's own complaint says more than "none of these".
    structured = [e for m, e in zip(members, errors, strict=True) if _is_structured(m) == isinstance(value, Mapping)]
    if len(members) == 2 and type(None) in members:
        structured = [e for m, e in zip(members, errors, strict=True) if m is not type(None)]
    if len(structured) == 1:
        raise structured[0]
    raise _mismatch(" or ".join(_describe(m) for m in members), value, where, path)


def _is_structured(hint: Any) -> bool:
    origin = typing.get_origin(hint)
    return dataclasses.is_dataclass(hint) or (isinstance(origin, type) and issubclass(origin, Mapping))


_NAMES: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    type(None): "null",
}


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return " or ".join(f"'{option}'" for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return "a list"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " or ".join(f"'{member.value}'" for member in hint)
    return "a mapping" if _is_structured(hint) else _NAMES.get(hint, str(hint))


def _mismatch(expected: str, value: object, where: str, path: str) -> BadConfig:
    mend = f"give {expected} there"
    if isinstance(value, str) and expected == _NAMES[bool]:
        mend = "write true or false (yes, no, on and off are words)"
    return BadConfig(f"{_place(where, path)}expected {expected}, found {_kind(value)}", mend=mend)


def _not_among(options: list[str], value: object, where: str, path: str) -> BadConfig:
    shown = f"'{value}'" if isinstance(value, str) else _kind(value)
    return BadConfig(f"{_place(where, path)}{shown} is not a choice", mend=suggest(str(value), options))


def _kind(value: object) -> str:
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    shown = text if len(text) <= 60 else text[:57] + "..."
    return f"{'the text ' if isinstance(value, str) else ''}{shown}"


def _join(path: str, key: object) -> str:
    return f"{path}.{key}" if path else str(key)


def _place(where: str, path: str) -> str:
    return f"{where}: {path}: " if path else f"{where}: "
