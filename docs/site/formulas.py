"""Converts LaTeX between dollar signs to MathML, which browsers show without a script."""

from __future__ import annotations

import re
from typing import Any

from latex2mathml.converter import convert
from pages import outside_code

TAG = re.compile(r"\\tag\{(\w+)\}")
DISPLAYED = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
INLINE = re.compile(r"(?<![$\\])\$([^$\n]+(?:\n[^$\n]+)?)\$(?!\$)")


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Replace the formulas, and give equation *n* the anchor ``eq-n``."""
    if "$$" not in markdown:
        return markdown
    return outside_code(markdown, lambda text: INLINE.sub(_inline, DISPLAYED.sub(_displayed, text)))


def _displayed(match: re.Match[str]) -> str:
    tag = TAG.search(match[1])
    number = f'<span class="number">({tag[1]})</span>' if tag else ""
    anchor = f' id="eq-{tag[1]}"' if tag else ""
    formula = convert(TAG.sub("", match[1]).strip(), display="block")
    return f'<div class="equation"{anchor}>{formula}{number}</div>'


def _inline(match: re.Match[str]) -> str:
    return convert(" ".join(match[1].split()))
