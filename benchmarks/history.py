"""`make bench-history` plots the ratios in benchmarks/history.jsonl over time."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HISTORY = Path(__file__).with_name("history.jsonl")
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "speed_history.png"


def main() -> None:
    """Plot a panel for each ratio, with a line for each machine."""
    runs = [json.loads(line) for line in HISTORY.read_text(encoding="utf-8").splitlines()]
    names = list(dict.fromkeys(name for run in runs for name in run["ratios"]))
    machines = list(dict.fromkeys((run["processor"], run["cores"]) for run in runs))
    columns = 4
    rows = -(-len(names) // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(14, 2.6 * rows), layout="constrained", squeeze=False)
    for panel, name in zip(panels.flat, names, strict=False):
        for machine in machines:
            points = [
                (index, run["ratios"][name])
                for index, run in enumerate(runs)
                if (run["processor"], run["cores"]) == machine and name in run["ratios"]
            ]
            panel.plot(*zip(*points, strict=True), marker="o", label=f"{machine[0]}, {machine[1]} cores")
        panel.set_title(name, fontsize=9)
        panel.set_xticks(range(len(runs)), [run["commit"] for run in runs], rotation=60, fontsize=7)
        panel.set_ylim(bottom=0)
    for panel in panels.flat[len(names) :]:
        panel.set_visible(False)
    panels[0, 0].legend(fontsize=7)
    figure.savefig(PICTURE, dpi=90)
    print(PICTURE)


if __name__ == "__main__":
    main()
