"""The error tree, and the promise of the README that every error names its mend."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from lpcnet_edge import errors

PACKAGE = Path(errors.__file__).parent
TREE = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}

# What is raised here ends as the reason of a frame's reject, which has one line.
REASONS = ("runtime/live.py", "runtime/pipeline.py")


def without_a_mend(source: str, path: str) -> list[str]:
    """Where an error of ours is raised that has no ``mend=``."""
    return [
        f"{path}:{node.lineno}: {ast.unparse(node.exc)}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)
        if ast.unparse(node.exc.func).rpartition(".")[2] in TREE
        if not any(keyword.arg in ("mend", None) for keyword in node.exc.keywords)
    ]


def test_every_error_names_its_mend() -> None:
    files = [(file.read_text("utf-8"), file.relative_to(PACKAGE).as_posix()) for file in PACKAGE.rglob("*.py")]
    assert len(files) > 100
    found = [line for source, path in files if path not in REASONS for line in without_a_mend(source, path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("raise BadInput(f'{x} is wrong')", 1),
        ("raise errors.BadInput('wrong') from exc", 1),
        ("raise BadInput('wrong', mend='do this')", 0),
        ("raise BadInput('wrong', **options)", 0),
        ("raise ValueError('wrong')", 0),
        ("raise exc", 0),
    ],
)
def test_the_check_on_mends(source: str, count: int) -> None:
    assert len(without_a_mend(source, "x.py")) == count


def test_exit_codes_follow_the_tree() -> None:
    codes = {errors.UsageError: 2, errors.BadInput: 3, errors.MissingLibrary: 4, errors.MissingDevice: 4}
    for name in TREE:
        kind = getattr(errors, name)
        above = next((code for base, code in codes.items() if issubclass(kind, base)), 1)
        assert kind.exit_code == above, name
