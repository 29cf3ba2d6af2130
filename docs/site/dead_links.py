"""Checks after the build that every link within the site leads to an existing file and anchor."""

from __future__ import annotations

import logging
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

log = logging.getLogger("mkdocs.hooks.dead_links")  # --strict counts its warnings
HOST = "site.invalid"


class Page(HTMLParser):
    """The links and anchors of an HTML page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.add(value)
            elif name in ("id", "name") and value:
                self.anchors.add(value)


def on_post_build(config: Any) -> None:
    """Log a warning for each dead link, and the number of links that were checked."""
    folder = Path(config.site_dir)
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in folder.rglob("*.html") if path.name != "404.html"}
    checked = 0
    for path, page in pages.items():
        base = f"https://{HOST}/{path.relative_to(folder).as_posix()}"
        for link in page.links:
            parts = urlsplit(urljoin(base, link))
            if parts.netloc != HOST or parts.scheme != "https":
                continue
            checked += 1
            target = folder / unquote(parts.path).lstrip("/")
            if target.is_dir():
                target /= "index.html"
            anchor = unquote(parts.fragment)
            if not target.is_file():
                log.warning("%s: the target of link %s does not exist", path.relative_to(folder), link)
            elif anchor and target in pages and anchor not in pages[target].anchors:
                log.warning(
                    "%s: link %s: %s has no such anchor", path.relative_to(folder), link, target.relative_to(folder)
                )
    log.info("%d pages, %d links within the site checked", len(pages), checked)
