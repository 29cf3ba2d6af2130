"""Picture files on disk: finds them, reads them once, and writes them whole or not at all."""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, NamedTuple

from moceir.pictures.formats import PICTURE_SUFFIXES
from moceir.pictures.picture import PictureError

try:
    import fcntl
except ImportError:  # Windows, which does not let anybody remove a file that is open
    fcntl = None  # type: ignore[assignment]

#: Files that are being written. Their names do not contain the target's, which may be as long as names can be.
_PREFIX, _SUFFIX = ".moceir-", ".part"


class Found(NamedTuple):
    """A folder's files, sorted by path."""

    pictures: list[Path]
    others: list[Path]
    """Files of kinds that cannot be read, and links to folders."""
    unreadable: list[str]
    """One line for each folder that could not be read."""


def search(folder: Path) -> Found:
    """List all files below a folder; skip hidden files and folders, and do not follow links to folders."""
    files: list[Path] = []
    unreadable = []

    def note(error: OSError) -> None:
        unreadable.append(f"{error.filename}: could not be read ({error.strerror})")

    for parent, folders, names in os.walk(folder, onerror=note):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(parent, name) for name in names if not name.startswith(".")]
        files += [Path(parent, name) for name in folders if Path(parent, name).is_symlink()]
    files.sort()
    return Found(
        [path for path in files if path.suffix.lower() in PICTURE_SUFFIXES and not path.is_dir()],
        [path for path in files if path.suffix.lower() not in PICTURE_SUFFIXES or path.is_dir()],
        sorted(unreadable),
    )


def find_pictures(folder: Path) -> list[Path]:
    """List all picture files below a folder, sorted by path; skip hidden files and folders."""
    return search(folder).pictures


def _without_waiting(path: str, flags: int) -> int:
    """Open without blocking, because opening a pipe would otherwise wait for a writer."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_bytes(path: Path) -> bytes:
    """Read a file's content once.

    Raises:
        PictureError: when it cannot be read, or is not a file but a pipe or a device, which might never end.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise PictureError(f"{path}: not a file but a folder, a pipe or a device")
            return file.read()
    except OSError as error:
        raise PictureError(f"{path}: could not be read ({error.strerror})") from error
    except MemoryError as error:
        raise PictureError(f"{path}: not enough memory to read it") from error


@contextmanager
def replacing(path: Path, *, reserve: int = 0, durable: bool = False) -> Iterator[BinaryIO]:
    """Open a file that replaces ``path`` when the block ends, and is removed if the block fails.

    At any moment the target is absent, unchanged, or complete. Its folder is created first, so a target that cannot be
    written is found before anything is computed.

    Args:
        path: the target; if it is a link, the file that it points to is replaced.
        reserve: bytes to allocate at once, so that a full disk is found early, too.
        durable: whether the file must survive a power cut.
    """
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target, because a rename is atomic only within one file system.
    temporary = path.parent / f"{_PREFIX}{secrets.token_hex(8)}{_SUFFIX}"
    try:
        with temporary.open("xb") as file:
            lock(file)
            if reserve and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, reserve)
            yield file
            file.truncate()
            file.flush()
            if durable:
                os.fsync(file.fileno())
            if path.exists():
                temporary.chmod(path.stat().st_mode & 0o7777)
            if fcntl is not None:
                temporary.replace(path)  # while it is locked
        if fcntl is None:
            temporary.replace(path)
        if durable and hasattr(os, "O_DIRECTORY"):  # Windows cannot flush a folder
            folder = os.open(path.parent, os.O_DIRECTORY)
            os.fsync(folder)
            os.close(folder)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Write a file so that at any moment it is absent, unchanged, or complete; durable: even after a power cut."""
    with replacing(path, durable=durable) as file:
        file.write(data)


def lock(file: IO[Any], *, without: bool = True) -> bool:
    """Try to lock a file until it is closed; return False if somebody else has locked it.

    Args:
        file: an open one.
        without: the answer where the file system has no locks.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # not every network file system has locks
        return without
    return True


def remove_leftovers(folder: Path) -> None:
    """Remove the partial files that killed runs have left in a folder, but not those that others are writing."""
    for path in folder.glob(f"{_PREFIX}*{_SUFFIX}"):
        with suppress(OSError), path.open("rb") as file:
            if lock(file, without=False):
                path.unlink()
