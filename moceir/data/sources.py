"""Describes datasets as they are distributed: lists their files and matches degraded files with clean ones."""

from __future__ import annotations

import csv
import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from moceir.data.drawings import Drawing
from moceir.data.pack import find_packed, is_pack
from moceir.data.pairs import Pair
from moceir.data.pictures import MatBlock, PictureFile, mat_blocks, tiles
from moceir.data.samples import sample_photographs
from moceir.pictures.files import find_pictures
from moceir.pictures.picture import PictureError


class Listing(NamedTuple):
    """The files of a dataset that were found."""

    folder: Path
    pairs: list[Pair]
    unpaired: list[str]
    """Files whose partner is missing."""


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """A dataset.

    Attributes:
        folders: possible names of the dataset's folder, directly in the data folder or one level below.
        task: the task of degraded pairs; for clean pictures, the degradation gives the task.
        repeat: number of times that each picture appears in an epoch.
        expected: number of pictures in the complete dataset, counted after tiling; None if unknown.
        validation: number of scenes or sequences (pictures, if there are none) that are held out to choose checkpoints.
        test: number of further scenes, sequences or pictures that are reserved for evaluation.
        tile: side of the squares that pictures are cut into, in pixels; None for whole pictures.
        stride: distance between squares in pixels; None for ``tile``.
    """

    folders: Sequence[str]
    task: str = "synthetic"
    repeat: int = 1
    expected: int | None = None
    validation: int = 0
    test: int = 0
    tile: int | None = None
    stride: int | None = None

    def locate(self, root: Path) -> Path | None:
        """Find the dataset's folder, in its native layout or packed; None when it is missing.

        A packed folder must have the first of the names.

        Raises:
            ValueError: when several folders match.
        """
        for places in ([root], sorted(path for path in root.glob("*") if path.is_dir())):
            for name in self.folders:
                found = [place / name for place in places if self._is_native(place / name)]
                if name == self.folders[0]:
                    found += [place / name for place in places if is_pack(place / name)]
                if len(found) > 1:
                    raise ValueError(f"{' and '.join(map(str, found))}: each could be this dataset; keep or rename one")
                if found:
                    return found[0]
        return None

    def find(self, folder: Path) -> Listing:
        """List the pairs in the dataset's folder, sorted by name; in the native layout, as squares if ``tile`` is set.

        Raises:
            ValueError: when a pack is incomplete, or a table of pairs lacks a column.
        """
        if not self._is_native(folder):
            return Listing(folder, [Pair(*entry) for entry in find_packed(folder)], [])
        pairs, unpaired = self.list_files(folder)
        pairs.sort(key=lambda pair: pair.name)
        return Listing(folder, [tile for pair in pairs for tile in self._tiles(pair)], sorted(unpaired))

    @abstractmethod
    def list_files(self, folder: Path) -> tuple[list[Pair], list[str]]:
        """List the pairs and the unpaired files in the native layout."""

    def split(self, pairs: list[Pair]) -> dict[str, list[Pair]]:
        """Split pairs into ``train``, ``validation`` and ``test``, by groups.

        The held-out groups are evenly spaced in the order of their names.

        Raises:
            ValueError: when no group remains to train on.
        """
        groups = sorted({pair.group for pair in pairs})
        part = dict.fromkeys(groups, "train")
        for name, count in (("test", self.test), ("validation", self.validation)):
            left = [group for group in groups if part[group] == "train"]
            if count >= len(left):
                raise ValueError(f"{name}={count} of {len(left)} scenes or pictures: leave at least one for training")
            part |= dict.fromkeys(left[:: len(left) // count][:count] if count else [], name)
        return {name: [p for p in pairs if part[p.group] == name] for name in ("train", "validation", "test")}

    def tile_names(self, name: str, number: int) -> tuple[str, str | None]:
        """Return the names of a square's clean and degraded files in the native layout, without suffix.

        Raises:
            ValueError: when the layout does not permit numbered squares.
        """
        raise ValueError(f"{type(self).__name__} files cannot be tiled; pack them (`moceir prepare pack --tile`)")

    def _is_native(self, folder: Path) -> bool:
        return folder.is_dir() and not is_pack(folder)

    def _tiles(self, pair: Pair) -> Iterator[Pair]:
        try:
            windows = list(tiles(*pair.size(), size=self.tile, stride=self.stride or self.tile)) if self.tile else []
        except PictureError:
            windows = []  # the error recurs when the picture is read; find_faults collects all errors
        if len(windows) < 2:
            yield pair
        for number, window in enumerate(windows[1:] and windows):
            yield pair._replace(name=f"{pair.name}-{number:03d}", window=window)


@dataclass(frozen=True, kw_only=True)
class CleanPictures(Source):
    """A folder of clean pictures, searched recursively, such as BSD400, WED or Kodak24."""

    def list_files(self, folder: Path) -> tuple[list[Pair], list[str]]:
        names = ((path, _stem(path, folder)) for path in find_pictures(folder))
        return [Pair(PictureFile(str(path)), None, name, name) for path, name in names], []

    def tile_names(self, name: str, number: int) -> tuple[str, str | None]:
        return f"{name}-{number:03d}", None


@dataclass(frozen=True, kw_only=True)
class SamplePhotographs(CleanPictures):
    """The few photographs that scikit-image ships."""

    def list_files(self, folder: Path) -> tuple[list[Pair], list[str]]:
        return [Pair(PictureFile(str(path)), None, path.stem, path.stem) for path in sample_photographs()], []


@dataclass(frozen=True, kw_only=True)
class Drawings(Source):
    """Synthetic drawings that are generated when they are read; their folder need not exist.

    Attributes:
        count: number of drawings.
        side: side of each drawing in pixels.
        untouched: fraction of drawings that get no degradation, so that networks learn to leave clean pictures as is.
    """

    count: int
    side: int
    untouched: float

    def list_files(self, folder: Path) -> tuple[list[Pair], list[str]]:
        drawings = [Drawing(number, self.side) for number in range(self.count)]
        names = [f"{drawing.number:0{len(str(self.count))}d}" for drawing in drawings]
        degraded = [one if one.number < self.untouched * self.count else None for one in drawings]
        return [Pair(*entry) for entry in zip(drawings, degraded, names, names, strict=True)], []

    def _is_native(self, folder: Path) -> bool:
        return not is_pack(folder)


@dataclass(frozen=True, kw_only=True)
class MatchedFiles(Source):
    """Degraded and clean files that are matched by name, as in SIDD, PolyU, GoPro, REDS, or any two folders.

    Attributes:
        degraded: template of the degraded files' paths, without suffix. ``{field}`` matches any text without a slash;
            ``{path}`` matches any text. A field named ``group`` gives the scene or sequence.
        clean: template of the clean files' paths, with the same fields.
    """

    degraded: str
    clean: str

    def list_files(self, folder: Path) -> tuple[list[Pair], list[str]]:
        files = {_stem(path, folder): path for path in reversed(find_pictures(folder))}
        degraded, clean = _template(self.degraded), _template(self.clean)
        pairs, unpaired, used = [], [], set()
        for name, path in files.items():
            match = degraded.fullmatch(name)
            if not match:
                continue
            partner = self.clean.format_map(match.groupdict())
            if partner in files:
                used.add(partner)
                group = match.groupdict().get("group", name).rstrip("_")
                pairs.append(Pair(PictureFile(str(files[partner])), PictureFile(str(path)), name, group))
            else:
                unpaired.append(str(path))
        return pairs, unpaired + [str(files[name]) for name in files if clean.fullmatch(name) and name not in used]

    def tile_names(self, name: str, number: int) -> tuple[str, str | None]:
        match = _template(self.degraded).fullmatch(name)
        fields = match.groupdict() if match else {}
        last = list(fields)[-1]
        fields[last] += f"-{number:03d}"
        return self.clean.format_map(fields), self.degraded.format_map(fields)

    def _is_native(self, folder: Path) -> bool:
        """Several datasets may share a folder, such as REDS_blur and REDS_blur_jpeg, or GoPro's train and test sets."""
        fixed = self.degraded.partition("{")[0].rpartition("/")[0]
        return (folder / fixed).is_dir()


@dataclass(frozen=True, kw_only=True)
class IsoSeries(Source):
    """NIND, which shows each scene at several ISO values; the lowest value gives the clean picture of all others.

    Files are named ``<scene>/NIND_<scene>_ISO<value>``. ISO values beyond a camera's native range are written H1, H2
    and so on. Repeated shots have a number at the end, such as ``_2`` or ``-2``.
    """

    def list_files(self, folder: Path) -> tuple[list[Pair], list[str]]:
        scenes = defaultdict(list)
        for path in find_pictures(folder):
            name = _stem(path, folder)
            match = re.fullmatch(r"(?P<scene>.+)/NIND_[^/]+_ISO(?P<high>H?)(?P<value>\d+)([_-]\d+)?", name)
            if match:
                scenes[match["scene"]].append((match["high"], int(match["value"]), name, path))
        pairs, unpaired = [], []
        for scene, shots in scenes.items():
            *_, clean = min(shots)
            noisy = [(name, path) for *_, name, path in sorted(shots) if path != clean]
            pairs += [Pair(PictureFile(str(clean)), PictureFile(str(path)), name, scene) for name, path in noisy]
            if not noisy:
                unpaired.append(str(clean))
        return pairs, unpaired


@dataclass(frozen=True, kw_only=True)
class PairsTable(Source):
    """Pairs that a CSV file lists in the columns ``degraded``, ``clean`` and, optionally, ``group``.

    Attributes:
        table: name of the CSV file in the folder; its paths are relative to the folder.
    """

    table: str

    def list_files(self, folder: Path) -> tuple[list[Pair], list[str]]:
        path = folder / self.table
        pairs, unpaired = [], []
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not {"degraded", "clean"} <= set(rows.fieldnames or []):
                raise ValueError(f"{path}: needs the columns degraded and clean; it has {rows.fieldnames}")
            for row in rows:
                degraded, clean = folder / row["degraded"], folder / row["clean"]
                name = _stem(degraded, folder)
                pair = Pair(PictureFile(str(clean)), PictureFile(str(degraded)), name, row.get("group") or name)
                if degraded.is_file() and clean.is_file():
                    pairs.append(pair)
                else:
                    unpaired.append(f"{path}, line {rows.line_num}: {clean if degraded.is_file() else degraded}")
        return pairs, unpaired

    def _is_native(self, folder: Path) -> bool:
        return (folder / self.table).is_file()


@dataclass(frozen=True, kw_only=True)
class MatBlocks(Source):
    """Pictures in two MATLAB arrays, the format of SIDD's validation and benchmark data.

    Attributes:
        degraded: file with the array of degraded pictures, uint8 (…, H, W, 3).
        clean: file with the array of clean pictures, of the same form.
    """

    degraded: str
    clean: str

    def list_files(self, folder: Path) -> tuple[list[Pair], list[str]]:
        degraded, clean = str(folder / self.degraded), str(folder / self.clean)
        count = min(len(mat_blocks(degraded)), len(mat_blocks(clean)))
        names = (f"{Path(self.degraded).stem}-{number:04d}" for number in range(count))
        pairs = [Pair(MatBlock(clean, i), MatBlock(degraded, i), name, name) for i, name in enumerate(names)]
        longer = max(len(mat_blocks(degraded)), len(mat_blocks(clean)))
        return pairs, [f"{folder}: block {number}" for number in range(count, longer)]

    def _is_native(self, folder: Path) -> bool:
        return (folder / self.degraded).is_file() and (folder / self.clean).is_file()


def _stem(path: Path, folder: Path) -> str:
    """Return a path relative to the folder, with forward slashes and without suffix."""
    relative = path.relative_to(folder) if path.is_relative_to(folder) else path
    return relative.with_suffix("").as_posix()


def _template(template: str) -> re.Pattern[str]:
    """Compile a template to a regular expression; a repeated field must match the same text each time."""
    seen: set[str] = set()

    def field(name: str) -> str:
        if name in seen:
            return f"(?P={name})"
        seen.add(name)
        return f"(?P<{name}>{'.+' if name == 'path' else '[^/]+'})"

    parts = re.split(r"\{(\w+)\}", template)
    return re.compile("".join(field(part) if i % 2 else re.escape(part) for i, part in enumerate(parts)))
