"""Bits of HTML that the report is made of."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any


def flip_table(flips: Sequence[Mapping[str, Any]], first: str, second: str) -> str:
    """The parts on which two decide differently, and what each of the two says."""
    rows = [
        [text(flip["part"]), f"<td>{'defective' if flip['defective'] else 'good'}</td>",
         f"<td>{'reject' if flip['reference_rejects'] else 'pass'}</td>",
         f"<td>{'pass' if flip['reference_rejects'] else 'reject'}</td>", f"<td>{text(flip['image'])}</td>"]
        for flip in flips
    ]  # fmt: skip
    return table(("part", "is", first, second, "image"), rows)


def change(before: float | None, after: float | None, better: int = 1) -> Iterator[str]:
    """Three cells: both values, and the change, coloured where it shows."""
    yield from (f"<td>{'-' if value is None else f'{value:.2f}'}</td>" for value in (before, after))
    change = None if before is None or after is None else round(after - before, 2)
    kind = "" if not change else ' class="up"' if change * better > 0 else ' class="down"'
    yield f"<td{kind}>{'-' if change is None else f'{change:+.2f}'}</td>"


def table(heads: Iterable[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table; of ``rows`` the first cell as text that is escaped already, the others as cells."""
    head = "".join(f"<th>{text(name)}</th>" for name in heads)
    body = "".join(f"<tr><td>{first}</td>{''.join(others)}</tr>" for first, *others in rows)
    return f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def section(title: str, body: str) -> str:
    """A titled section, or nothing where there is nothing to show."""
    return f"<section><h2>{title}</h2>{body}</section>" if body else ""


def items(lines: Sequence[str]) -> str:
    """A list of ``<li>``, or nothing."""
    return f"<ul>{''.join(lines)}</ul>" if lines else ""


def text(value: object) -> str:
    """Anything as text that is safe in HTML."""
    return html.escape(str(value))
