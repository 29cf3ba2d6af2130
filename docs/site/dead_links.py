"""After the build: every link of the site leads to a file of it, and to a place in that file."""

from __future__ import annotations

import logging
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

log = logging.getLogger("mkdocs.hooks.dead_links")  # whose warnings --strict counts
HOST = "site.invalid"


class Page(HTMLParser):
    """Links and anchors of a page of HTML."""

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
    """Warn of each dead link, and say how many were followed."""
    folder = Path(config.site_dir)
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in folder.rglob("*.html") if path.name != "404.html"}
    followed = 0
    for path, page in pages.items():
        base = f"https://{HOST}/{path.relative_to(folder).as_posix()}"
        for link in page.links:
            parts = urlsplit(urljoin(base, link))
            if parts.netloc != HOST or parts.scheme != "https":
                continue
            followed += 1
            target = folder / unquote(parts.path).lstrip("/")
            if target.is_dir():
                target /= "index.html"
            anchor = unquote(parts.fragment)
            if not target.is_file():
                log.warning("%s: %s leads nowhere", path.relative_to(folder), link)
            elif anchor and target in pages and anchor not in pages[target].anchors:
                log.warning("%s: %s: %s has no such place", path.relative_to(folder), link, target.relative_to(folder))
    log.info("%d pages, %d links inside the site followed", len(pages), followed)
