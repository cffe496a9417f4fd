"""A page in headless Chromium: what a script sees in it, and what the console was told."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Seen:
    """What the script returned, and every line on the browser's console."""

    value: Any
    console: list[str]


def open_page(page: Path, script: str, *, width: int = 1024, dark: bool = False) -> Seen:
    """Open a page and run the body of a function in it, after its own scripts; skips where there is no Chromium."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("chromium is not installed")
    probe = (
        "<script>addEventListener('load', () => { const out = document.createElement('pre'); out.id = 'seen';"
        f"out.textContent = JSON.stringify((() => {{ {script} }})()); document.body.append(out); }});</script>"
    )
    text = page.read_text("utf-8")
    assert text.count("</body>") == 1
    probed = page.with_name(f"probed-{page.name}")
    probed.write_text(text.replace("</body>", f"{probe}</body>"), "utf-8")
    done = subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
            f"--user-data-dir={page.parent / 'profile'}",
            f"--window-size={width},900",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--virtual-time-budget=3000",
            "--dump-dom",
            probed.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, f"the script gave nothing: {done.stdout[-500:]} {done.stderr[-2000:]}"
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return Seen(json.loads(html.unescape(found[1])), console)
