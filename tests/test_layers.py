"""Imports go down only, and each third-party library is imported in the files that own it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = "lpcnet_edge"
ROOT = Path(__file__).parents[1] / PACKAGE

# From the top down. A unit may import units of lower layers; units of one layer do not import each other,
# but for the plain modules, which stand on one another and on the two at the bottom.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("__main__",),
    ("cli",),
    ("station",),
    ("check", "bench"),
    ("build", "runtime"),
    ("network", "datasets", "backends"),
    ("bundle", "config", "decision", "files", "imaging", "machine", "metrics", "page", "yamlfile"),
    ("errors", "types"),
)
MODULES = LAYERS[-2]
LEVEL = {unit: len(LAYERS) - depth for depth, layer in enumerate(LAYERS) for unit in layer}

# A library -> the files that may import it, as prefixes of paths below the package.
OWNERS: dict[str, tuple[str, ...]] = {
    "torch": ("network/", "build/export.py", "backends/torch_"),
    "openvino": ("backends/openvino",),
    "onnxruntime": ("backends/onnxruntime",),
    "tensorrt": ("backends/tensorrt.py",),
    "tensorrt_rtx": ("backends/tensorrt.py",),
    "cuda": ("backends/cuda/bindings.py",),
    "pycuda": ("backends/cuda/pycuda_device.py",),
}


def imports_of(source: str, path: str) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every import in a file below the package, also those inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = [PACKAGE, *Path(path).parent.parts]
                base = ".".join([*above[: len(above) - node.level + 1], *filter(None, [node.module])])
            # `from lpcnet_edge import check` names a unit only in its last part.
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("__import__", "importlib.import_module"):
            yield from ((node.lineno, str(name.value)) for name in node.args[:1] if isinstance(name, ast.Constant))


def runs_at_import(source: str) -> str:
    """A file without what is run or looked at only later: bodies of functions, and what is there for type checkers."""
    tree = ast.parse(source)
    tree.body = [
        node
        for node in tree.body
        if not isinstance(node, ast.FunctionDef)
        and not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    return ast.unparse(tree)


def violations(source: str, path: str) -> list[str]:
    """What is wrong with the imports of one file; ``path`` is relative to the package."""
    own = Path(path).parts[0].removesuffix(".py")
    if own == "__init__":
        own, source = "", runs_at_import(source)
    elif own not in LEVEL:
        return [f"{path}: '{own}' has no layer; give it one in {Path(__file__).name}"]
    found = []
    for line, module in imports_of(source, path):
        top, _, rest = module.partition(".")
        if top == PACKAGE:
            unit = rest.partition(".")[0]
            if unit not in LEVEL:  # the package itself, or a name that it defines
                continue
            down = not own or LEVEL[unit] < LEVEL[own]
            among_modules = own in MODULES and unit in MODULES
            if not own:
                found.append(f"{path}:{line}: the package itself imports {unit}, so every import pays for it")
            elif not (unit == own or down or among_modules):
                found.append(f"{path}:{line}: {own} imports {unit}, which is not below it")
        elif top in OWNERS and not path.startswith(OWNERS[top]):
            found.append(f"{path}:{line}: {top} belongs in {' or '.join(OWNERS[top])}")
    return found


def test_imports_go_down_only() -> None:
    files = sorted(ROOT.rglob("*.py"))
    assert files
    found = [v for file in files for v in violations(file.read_text("utf-8"), file.relative_to(ROOT).as_posix())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("metrics/pixels.py", "from lpcnet_edge.check.evaluate import evaluate"),
        ("types.py", "import lpcnet_edge.config"),
        ("build/quantise.py", "from lpcnet_edge.runtime import engine"),
        ("datasets/folder.py", "from lpcnet_edge.network.config import NetworkConfig"),
        ("datasets/folder.py", "from lpcnet_edge import network"),
        ("datasets/folder.py", "from ..network import config"),
        ("datasets/deep/er.py", "from ...network import config"),
        ("check/walk.py", "def f():\n    from lpcnet_edge.station import page"),
        ("check/walk.py", "import importlib\nimportlib.import_module('lpcnet_edge.cli')"),
        ("bench/run.py", "from lpcnet_edge.check import evaluate"),
        ("check/walk.py", "if TYPE_CHECKING:\n    import torch"),
        ("backends/openvino.py", "import torch"),
        ("backends/tensorrt.py", "import openvino as ov"),
        ("runtime/loop.py", "from cuda.bindings import runtime"),
        ("novelty.py", "import os"),
        ("__init__.py", "from lpcnet_edge.types import Frame"),
        ("__init__.py", "if sys.platform:\n    from lpcnet_edge import runtime"),
    ],
)
def test_the_checker_finds(path: str, source: str) -> None:
    assert violations(source, path)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("cli/verbs.py", "from lpcnet_edge.check.evaluate import evaluate"),
        ("check/evaluate.py", "from lpcnet_edge.metrics import iou\nfrom lpcnet_edge.check.walk import walk"),
        ("config.py", "from lpcnet_edge.yamlfile import load_yaml"),
        ("network/model.py", "import torch\nfrom torch import nn\nfrom . import blocks"),
        ("build/export.py", "import torch"),
        ("backends/openvino.py", "import openvino as ov"),
        ("check/gallery.py", "import lpcnet_edge"),
        ("__init__.py", "import os"),
        ("__init__.py", "def inspect():\n    from lpcnet_edge.runtime.session import inspect"),
    ],
)
def test_the_checker_allows(path: str, source: str) -> None:
    assert violations(source, path) == []
