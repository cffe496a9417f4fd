"""Bits of HTML that a report is made of, and the page around them."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence

from lpcnet_edge.page.style import STYLE

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def document(title: str, body: str, *, style: str = "", script: str = "") -> str:
    """A whole page that asks for nothing outside itself; ``title`` is text, the others are what they say."""
    script = f"<script>{script}</script>\n" if script else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<link rel="icon" href="data:,"><style>{STYLE}{style}</style></head><body>
{body}
{script}</body></html>
"""


def change(before: float | None, after: float | None, better: int = 1) -> Iterator[str]:
    """Three cells: both values, and the change, coloured where it shows."""
    yield from (f"<td>{'-' if value is None else f'{value:.2f}'}</td>" for value in (before, after))
    change = None if before is None or after is None else round(after - before, 2)
    kind = "" if not change else ' class="up"' if change * better > 0 else ' class="down"'
    yield f"<td{kind}>{'-' if change is None else signed(change)}</td>"


def signed(points: float) -> str:
    """A change in points with its sign; one that rounds to nothing has none."""
    shown = round(points, 2)
    return f"{shown:+.2f}" if shown else "0.00"


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
