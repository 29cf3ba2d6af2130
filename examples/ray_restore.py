"""Restores the pictures that a list names, with Ray Data; needs moceir and ``ray[data]``.

python examples/ray_restore.py list.txt FOLDER [ACTORS]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import ray

from moceir import Restorer, load_pretrained
from moceir.inference.folder import plan
from moceir.pictures.picture import PictureError


class Restore:
    """Restores the picture of a row; each actor has its own network."""

    def __init__(self) -> None:
        self.restorer = Restorer(load_pretrained(), threads=1)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        source, target = Path(row["source"]), Path(row["target"])
        if target.exists():  # moceir writes files completely or not at all
            return {**row, "report": "already existed"}
        try:
            return {**row, "report": json.dumps(self.restorer.restore_file(source, target)._asdict())}
        except PictureError as error:
            return {**row, "report": str(error)}


def main() -> None:
    """Restore, and write a report on each picture to Parquet files beside the results."""
    names, output, actors = sys.argv[1], Path(sys.argv[2]).absolute(), int((sys.argv[3:] or ["2"])[0])
    jobs = plan([f"@{names}"], output).jobs
    rows = [{"source": str(job.source.absolute()), "target": str(job.target)} for job in jobs]
    ray.data.from_items(rows).map(Restore, concurrency=actors, num_cpus=1).write_parquet(str(output / "results"))


if __name__ == "__main__":
    main()
