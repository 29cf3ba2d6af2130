"""Replaces Mermaid blocks with pictures drawn beforehand, so that the site needs no script from another host.

The name of a picture is a hash of its block. If a block has no picture, the build fails. To draw it in Chromium, run::

    npm pack mermaid && tar xf mermaid-*.tgz package/dist/mermaid.min.js
    python docs/site/diagrams.py package/dist/mermaid.min.js
"""

from __future__ import annotations

import hashlib
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```mermaid\n(.*?)^```$", re.DOTALL | re.MULTILINE)
CHROMIUM = "/usr/bin/chromium"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Replace the blocks with pictures."""

    def show(match: re.Match[str]) -> str:
        picture = _picture(match[1])
        if not (DOCS / picture).is_file():
            raise ValueError(f"{page.file.src_uri}: a diagram has changed; to draw it again, see {__file__}")
        path = posixpath.relpath(picture, posixpath.dirname(page.file.src_uri) or ".")
        return f"![diagram]({path}){{.diagram}}"

    return BLOCK.sub(show, markdown)


def _picture(block: str) -> str:
    return f"images/diagrams/{hashlib.sha256(block.encode()).hexdigest()[:12]}.svg"


def draw(mermaid: Path) -> None:
    """Draw every block in ``docs/``, and remove all earlier pictures."""
    from playwright.sync_api import sync_playwright

    blocks = [block for page in sorted(DOCS.rglob("*.md")) for block in BLOCK.findall(page.read_text(encoding="utf-8"))]
    for old in (DOCS / "images" / "diagrams").glob("*.svg"):
        old.unlink()
    with sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"]).new_page()
        page.add_script_tag(path=mermaid)
        # Disable HTML labels, because a picture must not contain HTML.
        page.evaluate("mermaid.initialize({startOnLoad: false, htmlLabels: false, flowchart: {htmlLabels: false}})")
        for number, block in enumerate(blocks):
            svg = page.evaluate("([id, text]) => mermaid.render(id, text).then(r => r.svg)", [f"d{number}", block])
            (DOCS / _picture(block)).write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    draw(Path(sys.argv[1]))
