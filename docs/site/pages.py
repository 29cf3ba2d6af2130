"""Adds pages for files outside ``docs/``, and adapts links to them.

The README, the model cards, the notebooks, and others become pages of the site. A link to a module of the package leads
to its reference, and a link to any other file leads to a page that shows it. Links that work in a checkout therefore
also work on the site.
"""

from __future__ import annotations

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from api import PARTS
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "moceir/weights/moce_ir_30g.md": "model_card.md",
    "moceir/weights/naf_mixture_30g.md": "model_card_naf_mixture.md",
    "moceir/weights/naf_free_30g.md": "model_card_naf_free.md",
    "conf/README.md": "configuration.md",
}
PAGES |= {
    path.relative_to(ROOT).as_posix(): f"notebooks/{path.stem}.md" for path in (ROOT / "notebooks").glob("*.ipynb")
}
ORIGINS = {uri: origin for origin, uri in PAGES.items()}
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)\s#]+)(#[^)\s]*)?(\))")
CODE = re.compile(r"^(?P<fence>```+).*?^(?P=fence)$|(?P<tick>`+)[^`].*?(?P=tick)", re.DOTALL | re.MULTILINE)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages, and a page for every other file of the repository that a page links to."""
    for origin, uri in PAGES.items():
        files.append(File.generated(config, uri, content=_content(ROOT / origin)))
    sources = {
        target: _target(target)
        for file in files.documentation_pages()
        for target in _linked(file.content_string, _origin(file.src_uri))
        if _target(target).startswith("source/")
    }
    for path, uri in sources.items():
        text = (ROOT / path).read_text(encoding="utf-8")
        language = {".py": "python", ".yaml": "yaml", ".cpp": "cpp"}.get(Path(path).suffix, "text")
        page = f"# {path}\n\n````{language}\n{text.rstrip()}\n````\n"
        files.append(File.generated(config, uri, content=page))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Rewrite links to files of the repository as links to pages of the site."""
    origin = _origin(page.file.src_uri)
    if origin is None:
        return markdown

    def rewrite(match: re.Match[str]) -> str:
        before, link, anchor, after = match.groups(default="")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))
        uri, _, below = _target(path).partition("#")
        if uri.startswith("api/"):  # the anchor names an object of the module: routing.py#Router
            below, anchor = ".".join([below, *anchor.lstrip("#").split(".")]).rstrip("."), ""
        relative = posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or ".")
        return f"{before}{relative}{anchor or (below and '#' + below)}{after}"

    return outside_code(markdown, lambda text: LINK.sub(rewrite, text))


def outside_code(markdown: str, change: Any) -> str:
    """Apply a function to Markdown text outside fenced code and inline code."""
    parts, position = [], 0
    for match in CODE.finditer(markdown):
        parts += [change(markdown[position : match.start()]), match[0]]
        position = match.end()
    return "".join([*parts, change(markdown[position:])])


def _origin(uri: str) -> str | None:
    """Return the path of a page's source in the repository; None for a generated page."""
    if uri in ORIGINS:
        return ORIGINS[uri]
    return f"docs/{uri}" if (ROOT / "docs" / uri).is_file() else None


def _target(path: str) -> str:
    """Return the page or file of the site that shows a path of the repository, with an anchor."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.startswith("conf/"):
        return "configuration.md#" + path.removeprefix("conf/").removesuffix(".yaml").replace("/", "-")
    if (
        path.startswith("moceir/")
        and path.endswith(".py")
        and (names := path.removesuffix(".py").split("/"))[1] in PARTS
    ):
        return f"api/{names[1]}.md#{'.'.join(names)}"
    return f"source/{path}.md" if (ROOT / path).is_file() else path


def _linked(markdown: str, origin: str | None) -> set[str]:
    found: set[str] = set()
    if origin is not None:
        folder = posixpath.dirname(origin)
        outside_code(markdown, lambda text: found.update(match[2] for match in LINK.finditer(text)) or text)
        found = {posixpath.normpath(posixpath.join(folder, link)) for link in found}
    return found


def _content(path: Path) -> str:
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells]
    for index, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            texts[index] = f"```python\n{texts[index]}\n```"
    texts.insert(1, f"*This page shows `notebooks/{path.name}` without its output. Open it in Jupyter to run it.*")
    return "\n\n".join(texts) + "\n"
