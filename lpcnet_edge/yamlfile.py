"""YAML in and out, read by the rules of its version 1.2 and with less allowed.

``off`` and ``no`` are words, ``1e-3`` is a number, ``010`` and dates are text. Anchors, aliases and tags are refused:
no file here needs them, and a few lines of aliases can fill a memory.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from lpcnet_edge.errors import BadConfig

MAX_BYTES = 1 << 18
MAX_DEPTH = 32

_SCALARS: tuple[tuple[str, str, str], ...] = (
    ("tag:yaml.org,2002:null", r"(?:~|null|Null|NULL|)\Z", "~nN"),
    ("tag:yaml.org,2002:bool", r"(?:true|True|TRUE|false|False|FALSE)\Z", "tTfF"),
    ("tag:yaml.org,2002:int", r"[-+]?(?:0|[1-9][0-9]*)\Z", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z|[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z",
        "-+.0123456789",
    ),
)


def load_yaml(path: str | Path, *, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Raises :class:`~lpcnet_edge.errors.BadConfig` for a file that is absent, empty, over ``max_bytes``, not UTF-8, not
    YAML, nested deeper than ``MAX_DEPTH``, or that has duplicate keys, anchors, aliases or tags.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            raw = stream.read(max_bytes + 1)
    except OSError as exc:
        raise BadConfig(f"{path}: {exc.strerror or exc}", mend="check the path and its permissions") from exc
    if len(raw) > max_bytes:
        raise BadConfig(f"{path}: more than {max_bytes} bytes", mend="settings are small; is this the right file?")
    try:
        return parse(raw)
    except BadConfig as exc:
        raise BadConfig(f"{path}: {exc.message}", mend=exc.mend) from exc


def parse(raw: bytes) -> dict[str, Any]:
    """The mapping that the bytes of a YAML document hold; raises ``BadConfig`` as :func:`load_yaml` does."""
    try:
        value = yaml.load(raw.decode("utf-8-sig"), Loader=_Loader)
    except UnicodeDecodeError as exc:
        raise BadConfig(f"byte {exc.start} is not UTF-8", mend="save the file as UTF-8 text") from exc
    except (yaml.YAMLError, ValueError, OverflowError) as exc:  # the last of "\\UFFFFFFFF", beyond all characters
        raise BadConfig(_one_line(exc), mend="correct the YAML at that place") from exc
    if not isinstance(value, dict):
        found = "nothing" if value is None else f"a {type(value).__name__}"
        raise BadConfig(f"expected a mapping of settings, found {found}", mend="write `key: value` lines")
    return value


def dump_yaml(mapping: Mapping[str, Any]) -> str:
    """Write plain data as YAML in the mapping's own order; :func:`load_yaml` reads back equal data."""
    return yaml.dump(dict(mapping), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _one_line(exc: Exception) -> str:
    mark = getattr(exc, "problem_mark", None)
    problem = getattr(exc, "problem", None) or str(exc).splitlines()[0]
    return f"line {mark.line + 1}: {problem}" if mark else str(problem)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core words; no aliases, no tags, no duplicate keys, bounded depth."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012, the base's shape
    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise BadConfig(f"line {line}: anchors and aliases are refused", mend="write the value out")
        if getattr(event, "tag", None):
            raise BadConfig(f"line {line}: the tag {event.tag} is refused", mend="write the plain value")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise BadConfig(f"line {line}: nested deeper than {MAX_DEPTH}", mend="flatten the settings")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[tuple[str, object]] = set()
        for key_node, _ in node.value:
            key = (key_node.tag, key_node.value if isinstance(key_node, yaml.ScalarNode) else id(key_node))
            if key in seen:
                line = key_node.start_mark.line + 1
                raise BadConfig(f"line {line}: duplicate key '{key_node.value}'", mend="keep one of the two")
            seen.add(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would take for a number or a word of its own, and writes no anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        # Unicode's own line breaks would be folded into spaces; only double quotes escape them.
        quote = '"' if any(c in data for c in "\x85\u2028\u2029") else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=quote)


_Dumper.add_representer(str, _Dumper.represent_str)


for _tag, _pattern, _first in _SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(_pattern), ["", *_first])
