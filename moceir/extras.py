"""Messages for missing packages that one of our extras installs."""

from __future__ import annotations

from importlib.util import find_spec


def remedy(what: str, package: str, extra: str) -> str:
    """Say in one line what needs which package, and how to install it."""
    return f"{what} needs {package}: pip install 'moceir[{extra}]'"


def require(what: str, extra: str, *packages: str) -> None:
    """Raise ValueError with a :func:`remedy` when a package cannot be imported.

    Args:
        what: needs them.
        extra: the extra of ours that installs them.
        packages: by the names they are imported as.
    """
    for package in packages:
        if find_spec(package) is None:
            raise ValueError(remedy(what, package, extra))
