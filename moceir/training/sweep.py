"""Reports the results of a Hydra multirun: the settings of each run and their scores."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, cast

from omegaconf import OmegaConf

from moceir.pictures.files import write_atomically

log = logging.getLogger(__name__)

SUMMARY = "summary.json"
"""File that a training run writes to its folder: best validation PSNR, scores of the last validation, and overrides."""


class Trial(NamedTuple):
    """One run of a multirun."""

    name: str
    """Name of the run's folder."""
    settings: dict[str, str]
    """Key -> value, for each configuration key that varies in the multirun."""
    psnr: float
    """Best mean validation PSNR in dB; NaN when the run did not finish."""
    gmacs: float
    """Mean cost of the routes in the last validation at 1280×720, post-filter included; NaN when it is unknown."""


def read_sweep(folder: Path) -> list[Trial]:
    """Read the runs in a multirun folder, best first; runs without a result come last.

    Raises:
        ValueError: when the folder holds no runs.
    """
    runs = sorted(
        (path.parents[1] for path in folder.glob("*/.hydra/overrides.yaml")), key=lambda run: run.name.zfill(9)
    )
    if not runs:
        raise ValueError(
            f"{folder}: holds no runs of a multirun; give the folder that `-m` wrote, such as …_sweep/<time>"
        )
    chosen = [_overrides(run) for run in runs]
    keys = dict.fromkeys(key for settings in chosen for key in settings)
    swept = [key for key in keys if len({settings.get(key) for settings in chosen}) > 1]
    trials = []
    for run, settings in zip(runs, chosen, strict=True):
        path = run / SUMMARY
        summary = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        psnr, gmacs = summary.get("best_psnr"), summary.get("last", {}).get("val/gmacs")
        trials.append(
            Trial(
                run.name,
                {key: settings.get(key, "") for key in swept},
                math.nan if psnr is None else psnr,
                math.nan if gmacs is None else gmacs,
            )
        )
    return sorted(trials, key=lambda trial: -math.inf if math.isnan(trial.psnr) else trial.psnr, reverse=True)


def finished(run: Path, overrides: Sequence[str]) -> float | None:
    """Return the best validation PSNR of a finished run, or None when the run has not finished.

    Args:
        run: the run's folder.
        overrides: the overrides that the run should have.

    Raises:
        ValueError: when the run had other overrides.
    """
    path = run / SUMMARY
    if not path.is_file():
        return None
    summary = json.loads(path.read_text(encoding="utf-8"))
    if set(summary["overrides"]) != set(overrides):
        raise ValueError(
            f"{run}: holds a run with {' '.join(summary['overrides'])}, not with {' '.join(overrides)}; repeat the "
            "command that started the multirun, or give another hydra.sweep.dir"
        )
    log.info("%s: this run has already finished", run)
    return math.nan if summary["best_psnr"] is None else summary["best_psnr"]


def _overrides(run: Path) -> dict[str, str]:
    lines = OmegaConf.to_object(OmegaConf.load(run / ".hydra" / "overrides.yaml"))
    return {
        key: value for key, _, value in (line.lstrip("+~").partition("=") for line in map(str, cast(list[str], lines)))
    }


def write_table(trials: Sequence[Trial], path: Path) -> None:
    """Write the ranking as CSV."""
    text = io.StringIO()
    rows = csv.writer(text)
    rows.writerow(["run", *trials[0].settings, "psnr", "gmacs"])
    rows.writerows([trial.name, *trial.settings.values(), trial.psnr, trial.gmacs] for trial in trials)
    write_atomically(path, text.getvalue().encode())


def plot(trials: Sequence[Trial], path: Path) -> None:
    """Plot PSNR against each swept value, with a dot for each run and a line through the means."""
    import matplotlib.pyplot as plt

    keys = list(trials[0].settings)
    figure, all_axes = plt.subplots(
        1, max(1, len(keys)), figsize=(4 * max(1, len(keys)), 3.2), sharey=True, squeeze=False
    )
    for key, axes in zip(keys, all_axes[0], strict=False):
        scores: dict[str, list[float]] = {}
        for trial in trials:
            if not math.isnan(trial.psnr):
                scores.setdefault(trial.settings[key], []).append(trial.psnr)
        tried = sorted(scores, key=_sort_key)
        for number, value in enumerate(tried):
            axes.plot([number] * len(scores[value]), scores[value], "o", color="tab:blue", alpha=0.6)
        axes.plot([fmean(scores[value]) for value in tried], "-", color="tab:orange", linewidth=1)
        axes.set_xticks(range(len(tried)), tried)
        axes.set_xlabel(key)
        axes.grid(axis="y", linewidth=0.3)
    all_axes[0][0].set_ylabel("best validation PSNR, dB")
    figure.tight_layout()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    plt.close(figure)
    write_atomically(path, picture.getvalue())


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ max-width: 70rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 system-ui, sans-serif; }}
table {{ display: block; overflow-x: auto; border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 0.3rem 0.8rem; border-bottom: 1px solid #8886; text-align: left; white-space: nowrap; }}
td.number, th.number {{ text-align: right; }}
tr.best {{ font-weight: 600; }}
img {{ max-width: 100%; height: auto; margin-top: 1.5rem; background: #fff; }}
</style>
<h1>{title}</h1>
<p>{summary}</p>
<table>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
<img src="data:image/png;base64,{picture}" alt="Best validation PSNR of each run against each value that was swept">
</html>
"""


def write_page(trials: Sequence[Trial], picture: Path, path: Path) -> None:
    """Write the ranking and the plot as one self-contained HTML page.

    Args:
        trials: the runs, best first.
        picture: the file that :func:`plot` wrote.
        path: path of the page.
    """
    keys = list(trials[0].settings)
    ended = [trial for trial in trials if not math.isnan(trial.psnr)]
    head = [("run", ""), *((key, "") for key in keys), ("PSNR, dB", "number"), ("GMACs at 720p", "number")]
    lines = []
    for trial in trials:
        results = (f"{trial.psnr:.3f}", f"{trial.gmacs:.2f}") if trial in ended else ("no result", "")
        texts = [trial.name, *trial.settings.values(), *results]
        cells = "".join(_cell("td", text, kind) for text, (_, kind) in zip(texts, head, strict=True))
        best = " class=best" if ended and trial is ended[0] else ""
        lines.append(f"<tr{best}>{cells}</tr>")
    span = f" The best reached {ended[0].psnr:.3f} dB, the worst {ended[-1].psnr:.3f} dB." if ended else ""
    text = _PAGE.format(
        title=html.escape(f"Sweep {path.parent.resolve().name}"),
        summary=f"{len(trials)} runs, {len(ended)} with a result.{span}",
        head="".join(_cell("th", text, kind) for text, kind in head),
        rows="\n".join(lines),
        picture=base64.b64encode(picture.read_bytes()).decode(),
    )
    write_atomically(path, text.encode())


def _cell(tag: str, text: str, kind: str) -> str:
    return f"<{tag}{f' class={kind}' if kind else ''}>{html.escape(text)}</{tag}>"


def _sort_key(value: str) -> tuple[bool, float, str]:
    """Sort numbers by value, before words."""
    try:
        return False, float(value), ""
    except ValueError:
        return True, 0.0, value
