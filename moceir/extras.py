"""Messages about missing packages that one of moceir's extras installs."""

from __future__ import annotations

from importlib.util import find_spec


def remedy(what: str, package: str, extra: str) -> str:
    """Return a message of one line that says what needs a package, and how to install it."""
    return f"{what} needs {package}: pip install 'moceir[{extra}]'"


def require(what: str, extra: str, *packages: str) -> None:
    """Raise ValueError with a :func:`remedy` when a package cannot be imported.

    Args:
        what: the feature that needs the packages.
        extra: moceir's extra that installs them.
        packages: the packages' import names.
    """
    for package in packages:
        if find_spec(package) is None:
            raise ValueError(remedy(what, package, extra))
