"""Which names our source takes from TensorRT, read from its syntax tree.

TensorRT's objects have no types, so every name that holds one is annotated with an alias of ``tensorrt_versions``
(``builder: Builder = trt.Builder(...)``). An attribute of such an object is a use of its class; an attribute of
something that came from TensorRT and has no annotation is a fault, as is anything that this reading could not follow.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, get_args, get_origin

from lpcnet_edge.backends import tensorrt_versions

ALIASES = {
    name: str(get_args(value)[1])
    for name, value in vars(tensorrt_versions).items()
    if get_origin(value) is Annotated and value is not Annotated
}
MODULES = ("tensorrt", "tensorrt_rtx")

Kind = tuple[str, str]  # ("module" | "class" | "object" | "sequence" | "loose", class name); None is our own
LOOSE: Kind = ("loose", "")

NAMES = Path(__file__).parents[1] / "data" / "tensorrt-api"
Version = tuple[str, str, dict[str, list[str]]]


def versions() -> list[Version]:
    """(module, version, members by class) of the real bindings."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(NAMES.glob("*.json"))]
    return [(one["module"], one["version"], one["classes"]) for one in found]


@dataclass
class Reading:
    """Uses as (class, member or "", where), and faults as text."""

    uses: set[tuple[str, str, str]] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)


def read_sources(sources: dict[str, str]) -> Reading:
    """Read files, name -> text, together: fields and functions annotated in one are known in all."""
    trees = {name: ast.parse(text) for name, text in sources.items()}
    known: dict[str, Kind] = {}
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
                known |= {f".{ast.unparse(f.target)}": k for f in fields if (k := annotated(f.annotation))}
            elif isinstance(node, ast.FunctionDef) and (kind := annotated(node.returns)):
                known[f"{node.name}()"] = kind
    reading = Reading()
    for name, tree in trees.items():
        _Reader(name, known, reading).block(tree.body, {})
    return reading


def annotated(node: ast.expr | None) -> Kind | None:
    """The kind that an annotation states, if it is one of the aliases or a sequence of one."""
    if isinstance(node, ast.Name) and node.id in ALIASES:
        return ("module", "") if node.id == "Module" else ("object", ALIASES[node.id])
    if isinstance(node, ast.Subscript):
        inner = annotated(node.slice)
        return ("sequence", inner[1]) if inner and inner[0] == "object" else None
    if isinstance(node, ast.BinOp):  # Builder | None
        return annotated(node.left) or annotated(node.right)
    return None


class _Reader:
    def __init__(self, name: str, known: dict[str, Kind], reading: Reading) -> None:
        self.name, self.known, self.reading = name, known, reading

    def fault(self, node: ast.AST, text: str) -> None:
        self.reading.faults.append(f"{self.name}:{getattr(node, 'lineno', 0)}: {text}")

    def use(self, node: ast.AST, owner: str, member: str) -> None:
        self.reading.uses.add((owner, member, f"{self.name}:{getattr(node, 'lineno', 0)}"))

    def block(self, body: Iterable[ast.stmt], names: dict[str, Kind]) -> None:
        for node in body:
            self.statement(node, names)

    def statement(self, node: ast.stmt, names: dict[str, Kind]) -> None:
        if isinstance(node, ast.Import):
            names |= {(a.asname or a.name): ("module", "") for a in node.names if a.name in MODULES}
        elif isinstance(node, ast.ImportFrom):
            if (node.module or "").split(".")[0] in MODULES:
                self.fault(node, "import the module whole, so that its names can be followed")
        elif isinstance(node, ast.FunctionDef):
            inner = dict(names)
            for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]:
                inner.pop(argument.arg, None)
                if kind := annotated(argument.annotation):
                    inner[argument.arg] = kind
            self.block(node.body, inner)
        elif isinstance(node, ast.ClassDef):
            for base in node.bases:
                kind = self.kind(base, names)
                for item in node.body:
                    if kind and isinstance(item, ast.FunctionDef) and not item.name.startswith("_"):
                        self.use(item, kind[1], item.name)
            self.block(node.body, names)
        elif isinstance(node, ast.AnnAssign):
            if node.value:
                self.kind(node.value, names)
            self.assign(node.target, annotated(node.annotation), names)
        elif isinstance(node, ast.Assign):
            whole = self.kind(node.value, names)
            for target in node.targets:
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    for part, value in zip(target.elts, node.value.elts, strict=True):
                        self.assign(part, self.kind(value, names), names)
                else:
                    for part in target.elts if isinstance(target, ast.Tuple) else [target]:
                        self.assign(part, whole, names)
        elif isinstance(node, ast.For):
            self.loop(node.target, node.iter, names)
            self.block([*node.body, *node.orelse], names)
        else:
            for child in ast.iter_child_nodes(node):
                self.any(child, names)

    def any(self, node: ast.AST, names: dict[str, Kind]) -> None:
        if isinstance(node, ast.stmt):
            self.statement(node, names)
        elif isinstance(node, ast.expr):
            self.kind(node, names)
        else:
            for child in ast.iter_child_nodes(node):
                self.any(child, names)

    def assign(self, target: ast.expr, kind: Kind | None, names: dict[str, Kind]) -> None:
        if isinstance(target, ast.Name):
            names.pop(target.id, None)
            if kind:
                names[target.id] = kind
            return
        ours = self.kind(target.value, names) is None if isinstance(target, ast.Attribute) else True
        if kind and ours and not (isinstance(target, ast.Attribute) and f".{target.attr}" in self.known):
            self.fault(target, "an object of TensorRT is kept where no annotation says so")
        self.kind(target, names)

    def loop(self, target: ast.expr, over: ast.expr, names: dict[str, Kind]) -> None:
        kind = self.kind(over, names)
        for item in ast.walk(target):
            if isinstance(item, ast.Name):
                self.assign(item, ("object", kind[1]) if kind and kind[0] == "sequence" else kind and LOOSE, names)

    def kind(self, node: ast.expr, names: dict[str, Kind]) -> Kind | None:
        """What an expression is, taking note of every use inside it."""
        if isinstance(node, ast.Name):
            return names.get(node.id)
        if isinstance(node, ast.Attribute):
            return self.attribute(node, names)
        if isinstance(node, ast.Call):
            return self.call(node, names)
        if isinstance(node, (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)):
            inner = dict(names)
            for part in node.generators:
                self.loop(part.target, part.iter, inner)
                for test in part.ifs:
                    self.kind(test, inner)
            values = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
            return LOOSE if any([self.kind(value, inner) for value in values]) else None
        if isinstance(node, ast.Lambda):
            return self.kind(node.body, dict(names))
        kinds = [self.kind(child, names) for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)]
        followed = (ast.Subscript, ast.IfExp, ast.BoolOp, ast.Tuple, ast.List, ast.Dict, ast.Starred, ast.NamedExpr)
        return LOOSE if isinstance(node, followed) and any(kinds) else None

    def attribute(self, node: ast.Attribute, names: dict[str, Kind]) -> Kind | None:
        base = self.kind(node.value, names)
        if base is None:
            return self.known.get(f".{node.attr}")
        if base[0] in ("loose", "sequence"):
            self.fault(node, f"'{ast.unparse(node)}' is taken from an object of TensorRT that has no annotation")
            return LOOSE
        if node.attr.startswith("__"):  # Python's own, such as an enumeration's __members__
            return LOOSE if base[0] != "module" else None
        if base[0] == "module":
            self.use(node, node.attr, "")
            return ("class", node.attr)
        self.use(node, base[1], node.attr)
        return LOOSE

    def call(self, node: ast.Call, names: dict[str, Kind]) -> Kind | None:
        function = self.kind(node.func, names)
        given = [self.kind(argument, names) for argument in [*node.args, *(k.value for k in node.keywords)]]
        if isinstance(node.func, ast.Name):
            if node.func.id in ("getattr", "hasattr", "setattr", "vars", "dir") and any(given):
                self.fault(node, f"{node.func.id} on an object of TensorRT hides the name that it takes")
            return self.known.get(f"{node.func.id}()")
        return ("object", function[1]) if function and function[0] == "class" else function and LOOSE
