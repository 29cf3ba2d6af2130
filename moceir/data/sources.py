"""Datasets as they are distributed: which files are in them, and which belong together."""

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
from moceir.data.pictures import ImageFile, MatBlock, mat_blocks, tiles
from moceir.data.samples import sample_photographs
from moceir.pictures.files import find_images
from moceir.pictures.picture import ImageError


class Listing(NamedTuple):
    """What is there of a dataset."""

    folder: Path
    pairs: list[Pair]
    unpaired: list[str]
    """Files whose partner is missing."""


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """A dataset.

    Attributes:
        folders: names that its folder may have, directly in the data folder or one level below.
        task: what there is to restore; of clean pictures, the degradation says.
        repeat: how often each picture appears in an epoch.
        expected: how many pictures the whole dataset has, counted after tiling; None when nobody knows.
        validation: how many scenes, sequences or, where there are none, pictures are held out to choose checkpoints.
        test: how many more are kept for measuring alone.
        tile: cut pictures into squares of this side; None for whole pictures.
        stride: from one square to the next.
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
        """Its folder, in its native layout or, under the first of the names, packed; None when it is missing.

        Raises:
            ValueError: when several folders could be meant.
        """
        for places in ([root], sorted(path for path in root.glob("*") if path.is_dir())):
            for name in self.folders:
                found = [place / name for place in places if self._is_native(place / name)]
                if name == self.folders[0]:
                    found += [place / name for place in places if is_pack(place / name)]
                if len(found) > 1:
                    raise ValueError(f"{' and '.join(map(str, found))}: both could be meant; keep one, or rename one")
                if found:
                    return found[0]
        return None

    def find(self, folder: Path) -> Listing:
        """What is in its folder, sorted by name; squares of it where it is to be tiled and is not packed.

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
        """Pairs and unpaired files in the native layout."""

    def split(self, pairs: list[Pair]) -> dict[str, list[Pair]]:
        """Training, validation and test, by groups that lie evenly in the order of their names."""
        groups = sorted({pair.group for pair in pairs})
        part = dict.fromkeys(groups, "train")
        for name, count in (("test", self.test), ("validation", self.validation)):
            left = [group for group in groups if part[group] == "train"]
            if count >= len(left):
                raise ValueError(f"{name}={count} of {len(left)} scenes or pictures: leave at least one to train on")
            part |= dict.fromkeys(left[:: len(left) // count][:count] if count else [], name)
        return {name: [p for p in pairs if part[p.group] == name] for name in ("train", "validation", "test")}

    def tile_names(self, name: str, number: int) -> tuple[str, str | None]:
        """What the clean and the degraded file of a square are to be called, in the native layout, without suffix.

        Raises:
            ValueError: when the layout has no room for a number.
        """
        raise ValueError(f"{type(self).__name__} files cannot be tiled; pack them (`moceir prepare pack --tile`)")

    def _is_native(self, folder: Path) -> bool:
        return folder.is_dir() and not is_pack(folder)

    def _tiles(self, pair: Pair) -> Iterator[Pair]:
        try:
            windows = list(tiles(*pair.size(), size=self.tile, stride=self.stride or self.tile)) if self.tile else []
        except ImageError:
            windows = []  # whoever reads it will say so; what looks for faults wants them all
        if len(windows) < 2:
            yield pair
        for number, window in enumerate(windows[1:] and windows):
            yield pair._replace(name=f"{pair.name}-{number:03d}", window=window)


@dataclass(frozen=True, kw_only=True)
class CleanImages(Source):
    """A folder of clean pictures, searched recursively: BSD400, WED, Kodak24, anything."""

    def list_files(self, folder: Path) -> tuple[list[Pair], list[str]]:
        names = ((path, _stem(path, folder)) for path in find_images(folder))
        return [Pair(ImageFile(str(path)), None, name, name) for path, name in names], []

    def tile_names(self, name: str, number: int) -> tuple[str, str | None]:
        return f"{name}-{number:03d}", None


@dataclass(frozen=True, kw_only=True)
class SamplePhotographs(CleanImages):
    """The few that scikit-image ships."""

    def list_files(self, folder: Path) -> tuple[list[Pair], list[str]]:
        return [Pair(ImageFile(str(path)), None, path.stem, path.stem) for path in sample_photographs()], []


@dataclass(frozen=True, kw_only=True)
class Drawings(Source):
    """Pictures that are drawn as they are read; their folder need not be there.

    Attributes:
        count: how many.
        side: of each, in pixels.
        untouched: the share that is its own degraded picture, because what is perfect is to be left alone.
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
    """Degraded and clean files whose names tell which belong together: SIDD, PolyU, GoPro, REDS, any two folders.

    Attributes:
        degraded: where degraded files are, as a template without suffix: ``{field}`` stands for any text without a
            slash, ``{path}`` for any text. A field named ``group`` gives the scene or sequence.
        clean: the clean file's template, of the same fields.
    """

    degraded: str
    clean: str

    def list_files(self, folder: Path) -> tuple[list[Pair], list[str]]:
        files = {_stem(path, folder): path for path in reversed(find_images(folder))}
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
                pairs.append(Pair(ImageFile(str(files[partner])), ImageFile(str(path)), name, group))
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
        """Several datasets may share a folder: REDS_blur and REDS_blur_jpeg, GoPro's training and test part."""
        fixed = self.degraded.partition("{")[0].rpartition("/")[0]
        return (folder / fixed).is_dir()


@dataclass(frozen=True, kw_only=True)
class IsoSeries(Source):
    """NIND: the same scene at several ISO values; the lowest is the clean picture of all others.

    Files are ``<scene>/NIND_<scene>_ISO<value>``, where values beyond a camera's range are written H1, H2, …, and
    repetitions end in ``_2`` or ``-2``.
    """

    def list_files(self, folder: Path) -> tuple[list[Pair], list[str]]:
        scenes = defaultdict(list)
        for path in find_images(folder):
            name = _stem(path, folder)
            match = re.fullmatch(r"(?P<scene>.+)/NIND_[^/]+_ISO(?P<high>H?)(?P<value>\d+)([_-]\d+)?", name)
            if match:
                scenes[match["scene"]].append((match["high"], int(match["value"]), name, path))
        pairs, unpaired = [], []
        for scene, shots in scenes.items():
            *_, clean = min(shots)
            noisy = [(name, path) for *_, name, path in sorted(shots) if path != clean]
            pairs += [Pair(ImageFile(str(clean)), ImageFile(str(path)), name, scene) for name, path in noisy]
            if not noisy:
                unpaired.append(str(clean))
        return pairs, unpaired


@dataclass(frozen=True, kw_only=True)
class PairsTable(Source):
    """Pairs that a CSV file lists in columns ``degraded``, ``clean`` and, if wanted, ``group``.

    Attributes:
        table: its name in the folder; paths in it are relative to the folder.
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
                pair = Pair(ImageFile(str(clean)), ImageFile(str(degraded)), name, row.get("group") or name)
                if degraded.is_file() and clean.is_file():
                    pairs.append(pair)
                else:
                    unpaired.append(f"{path}, line {rows.line_num}: {clean if degraded.is_file() else degraded}")
        return pairs, unpaired

    def _is_native(self, folder: Path) -> bool:
        return (folder / self.table).is_file()


@dataclass(frozen=True, kw_only=True)
class MatBlocks(Source):
    """Pictures in two MATLAB arrays, as SIDD's validation and benchmark parts come.

    Attributes:
        degraded: the file with the degraded array (…, H, W, 3) of bytes.
        clean: the file with the clean one.
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
    """Relative to the folder, with forward slashes, without suffix."""
    relative = path.relative_to(folder) if path.is_relative_to(folder) else path
    return relative.with_suffix("").as_posix()


def _template(template: str) -> re.Pattern[str]:
    """What matches a template's names; a field that comes again must be the same again."""
    seen: set[str] = set()

    def field(name: str) -> str:
        if name in seen:
            return f"(?P={name})"
        seen.add(name)
        return f"(?P<{name}>{'.+' if name == 'path' else '[^/]+'})"

    parts = re.split(r"\{(\w+)\}", template)
    return re.compile("".join(field(part) if i % 2 else re.escape(part) for i, part in enumerate(parts)))
