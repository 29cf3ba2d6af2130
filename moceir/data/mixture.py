"""Merges datasets: finds them, checks them, and splits them into training and validation data."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from rich.console import Console
from rich.table import Table

from moceir.data.datasets import PairSet
from moceir.data.faults import find_faults
from moceir.data.sources import Listing, Source


def find_sets(root: str | Path, sources: Mapping[str, Source], *, allow_missing: bool) -> dict[str, Listing]:
    """Find the datasets in a folder, by name.

    Raises:
        ValueError: when the folder is missing, a dataset is missing or empty without ``allow_missing``, all datasets
            are missing, the folder of a dataset is ambiguous, or a pack is incomplete.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise ValueError(f"{root}: no such folder; give the folder that holds the datasets (data.root)")
    located = {name: source.locate(folder) for name, source in sources.items()}
    listings = {name: sources[name].find(place) for name, place in located.items() if place}
    missing = [f"{name} (no folder {' or '.join(sources[name].folders)})" for name in located if not located[name]]
    missing += [f"{name} (no files of it in {one.folder})" for name, one in listings.items() if not one.pairs]
    listings = {name: one for name, one in listings.items() if one.pairs or one.unpaired}
    if missing and not (allow_missing and listings):
        raise ValueError(
            f"{root}: {len(missing)} of {len(sources)} datasets are missing: {', '.join(missing)}. Put them there; or "
            "choose the datasets you want (data=NAME, from conf/data); or skip the missing ones "
            "(data.allow_missing=true, in other commands --allow-missing); or give a plain folder of photographs "
            "(data=photographs)"
        )
    return listings


def sets_to_measure(root: str | Path, sources: Mapping[str, Source], *, allow_missing: bool) -> list[PairSet]:
    """Find the datasets in a folder. If a dataset reserves scenes for testing, take only those.

    Raises:
        ValueError: as :func:`find_sets`.
    """
    sets = []
    for name, listing in find_sets(root, sources, allow_missing=allow_missing).items():
        source = sources[name]
        sets.append(PairSet(name, source.split(listing.pairs)["test"] if source.test else listing.pairs, source.task))
    return sets


def check_sets(listings: Mapping[str, Listing], *, crop: int, workers: int) -> None:
    """Check the header and the end of every file.

    Raises:
        ValueError: when files are unpaired, unreadable, smaller than the crop, or different in size from their partner.
    """
    problems = []
    for name, listing in listings.items():
        faults = find_faults(listing.pairs, crop=crop, decode=False, workers=workers, description=f"checking {name}")
        problems += [f"{file}: its partner is missing" for file in listing.unpaired]
        problems += [*faults.unreadable, *faults.wrong_size]
    if problems:
        shown = "".join(f"\n  {problem}" for problem in problems[:5])
        more = f"\n  … and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ValueError(
            f"{len(problems)} files cannot be trained on:{shown}{more}\n"
            "Repair or remove them; `moceir prepare check` lists all of them"
        )


Item = TypeVar("Item")


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """Return at most ``count`` items, evenly spaced, including the first."""
    return list(items[:: max(1, len(items) // count)][:count]) if count else []


class Mixture(NamedTuple):
    """The datasets for training and the held-out datasets for validation."""

    training: list[PairSet]
    validation: list[PairSet]


def mix(listings: Mapping[str, Listing], sources: Mapping[str, Source], *, validation_pictures: int) -> Mixture:
    """Split each dataset and collect its training and validation pictures.

    Args:
        listings: name -> files of the dataset.
        sources: name -> dataset.
        validation_pictures: maximum number of held-out pictures that are used from each dataset.

    Raises:
        ValueError: when a dataset is too small for its held-out pictures.
    """
    training, validation = [], []
    for name, listing in listings.items():
        source = sources[name]
        try:
            parts = source.split(listing.pairs)
        except ValueError as error:
            raise ValueError(f"data.sets.{name}: {error}") from error
        training.append(PairSet(name, parts["train"], source.task, source.repeat))
        validation.append(PairSet(name, spread(parts["validation"], validation_pictures), source.task))
    return Mixture(training, validation)


class TrainingSet(Protocol):
    """The training pictures of a dataset."""

    @property
    def name(self) -> str: ...

    @property
    def repeat(self) -> int: ...

    def samples(self) -> int:
        """Return the number of samples in an epoch."""


def tabulate(
    training: Sequence[TrainingSet],
    validation: Sequence[PairSet],
    found: Mapping[str, int],
    sources: Mapping[str, Source],
) -> str:
    """Format a table of each dataset's pictures: found, trained on, held out, and as a share of an epoch."""
    table = Table()
    for column in ("dataset", "task"):
        table.add_column(column)
    for column in ("found", "expected", "trained on", "repeat", "samples per epoch", "share", "validation"):
        table.add_column(column, justify="right")
    total = sum(one.samples() for one in training)
    for one, held_out in zip(training, validation, strict=True):
        source = sources[one.name]
        table.add_row(
            one.name, source.task, f"{found[one.name]:,}", f"{source.expected:,}" if source.expected else "–",
            f"{one.samples() // one.repeat:,}", str(one.repeat), f"{one.samples():,}",
            f"{one.samples() / total:.1%}", str(len(held_out.pairs)),
        )  # fmt: skip
    table.add_section()
    everything = f"{sum(found[one.name] for one in training):,}", f"{sum(o.samples() // o.repeat for o in training):,}"
    held_out_count = str(sum(len(one.pairs) for one in validation))
    table.add_row("all", "", everything[0], "", everything[1], "", f"{total:,}", "", held_out_count)
    text = io.StringIO()
    Console(file=text, width=120).print(table)
    return text.getvalue().rstrip()
