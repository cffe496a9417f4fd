"""What the documentation promises, held against the code: links, options, settings and their defaults."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from lpcnet_edge.cli.command import make_parser
from lpcnet_edge.config import from_mapping, to_mapping
from lpcnet_edge.network.recipe import Recipe
from lpcnet_edge.runtime.sinks.settings import DeliverySettings, SinkSettings
from lpcnet_edge.runtime.sources.settings import CameraSettings, SourceSettings
from lpcnet_edge.yamlfile import parse

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchor(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = CODE.sub("", page.read_text("utf-8"))
    return {anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


def broken_links(page: Path, text: str) -> list[str]:
    """Links of a page that lead nowhere: no such file, or no such heading in it."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", text)):
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        outside = re.match(r"https?:", link)
        if not outside and not (target.exists() and (not heading or heading in anchors(target))):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text("utf-8")) == []


def test_the_check_on_links() -> None:
    text = "[a](json.md#run) [b](json.md#walk) [c](no.md) [d](#settings) [e](#nothing) [f](https://example.org)"
    assert broken_links(DOCS / "running.md", text) == ["json.md#walk", "no.md", "#nothing"]


def options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from (option for option in action.option_strings if option.startswith("--"))
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from options(verb)


def test_documented_options_exist() -> None:
    known = set(options(make_parser()))
    for page in PAGES:
        for line in re.findall(r"lpcnet-edge [a-z].*", page.read_text("utf-8")):
            command = re.split(r"[`#|]", line)[0]
            assert set(re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", command)) <= known, f"{page.name}: {line}"


@pytest.mark.parametrize("verb", ["run", "build", "train", "data", "generate", "tune"])
def test_options_are_documented(verb: str) -> None:
    parser = next(a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction)).choices[verb]
    text = "\n".join(page.read_text("utf-8") for page in PAGES)
    documented = set(re.findall(r"--[a-z][a-z0-9-]*", text))
    assert set(options(parser)) - documented - {"--help"} == set()


def test_the_recipe_shown_is_the_default_one() -> None:
    text = (DOCS / "method.md").read_text("utf-8").partition("may say, with the defaults:\n\n")[2]
    shown = re.match(r"(?:    .*\n)+", text)
    assert shown is not None
    recipe = parse(shown[0].encode())
    assert recipe == to_mapping(Recipe())
    assert from_mapping(Recipe, recipe, "docs/method.md") == Recipe()


@pytest.mark.parametrize("kind", [SourceSettings, CameraSettings, SinkSettings, DeliverySettings])
def test_sources_name_every_key(kind: Any) -> None:
    text = (DOCS / "sources.md").read_text("utf-8")
    assert [field.name for field in fields(kind) if not re.search(rf"`{field.name}\b", text)] == []


def test_defaults_of_delivery_are_those_stated() -> None:
    text = (DOCS / "sources.md").read_text("utf-8").partition("| `delivery:` |")[2]
    stated: dict[str, str] = {}
    for keys, values in re.findall(r"^\| (`[^|]*`) \|([^|]*)\|", text, re.MULTILINE):
        stated |= dict(zip(re.findall(r"`(\w+)`", keys), values.replace("`", "").split(","), strict=False))
    given = {name: parse(f"value: {value}".encode())["value"] for name, value in stated.items()}
    assert given == to_mapping(DeliverySettings())
