"""One data set of a ladder as markdown: every system under every epsilon, measure by measure.

Never puts a mean of some seeds beside a mean of others without telling how many there are.
"""

import statistics
from collections.abc import Iterable, Sequence
from typing import Final

from .entries import TRIVIAL, WITHOUT_RUNG, DataSet
from .results import Run

MEASURES: Final = {
    "auc-mean": "AUC",
    "auc-linear": "linear",
    "auc-boosted": "boosted",
    "auc-forest": "forest",
    "macro-f1": "macro-F1",
    "tvd1": "tvd1",
    "tvd2": "tvd2",
    "tvd2-strict": "tvd2 strict",
    "coverage": "coverage",
    "association": "association",
}
"""What is shown of rows, and under which head."""

SYSTEMS: Final = {"floor": "histograms", "naive-bayes": "naive Bayes"}
"""What trivial models are here: the floor's rows are drawn from independent histograms."""

_MISSING: Final = "-"
_HEAD: Final = ("epsilon", "system", "sites", *MEASURES.values(), "s", "CPU s", "MiB", "seeds")


def section(data: DataSet, runs: Sequence[Run]) -> str:
    """Return the heading, the caption and the table of a data set, and what failed.

    Args:
        data: the data set.
        runs: its own, of a ladder.
    """
    good = [run for run in runs if not run.error]
    rows = [list(_HEAD), ["---"] * len(_HEAD), *([_real(good)] if good else [])]
    rows += [_row(series, [run for run in good if series_of(run) == series]) for series in series_in(good)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    failed = "\n".join(f"- {_failure(run)}" for run in runs if run.error)
    return f"### {data.name}\n\n{_caption(data, good)}\n\n{table}" + (f"\n\n{failed}" if failed else "")


def series_of(run: Run) -> tuple[str, str, str]:
    """Return the epsilon, the system and the split of a run: what its seeds have in common."""
    return run.rung, run.model, run.split


def series_in(runs: Iterable[Run]) -> list[tuple[str, str, str]]:
    """Return all series, from the strictest promise to none, and within one as they come."""
    return sorted(dict.fromkeys(series_of(run) for run in runs), key=lambda series: float(series[0] or 0))


def _caption(data: DataSet, runs: Sequence[Run]) -> str:
    promise = f"delta {data.privacy.delta:g}, `{data.privacy.mode}`, a row is the privacy unit"
    if not runs:
        return f"{promise}."
    sites = max(run.sites for run in runs)
    return f"{runs[0].train:,} training rows at {sites} sites, {runs[0].test:,} held out; {promise}."


def _real(runs: Sequence[Run]) -> list[str]:
    """Return the row of training rows in the place of synthetic ones, which are the same in every run of a seed."""
    by_seed = {run.seed: run for run in runs}.values()
    cells = [
        _mean([value for run in by_seed if name in run.measures and (value := run.measures[name].real) is not None])
        for name in MEASURES
    ]
    return [_MISSING, "*real rows*", _MISSING, *cells, _MISSING, _MISSING, _MISSING, str(len(by_seed))]


def _row(series: tuple[str, str, str], runs: Sequence[Run]) -> list[str]:
    rung, name, split = series
    cells = [_mean([run.measures[each].value for run in runs if each in run.measures]) for each in MEASURES]
    costs = [run.cost for run in runs if run.cost is not None]
    promise = "none" if rung == WITHOUT_RUNG else rung
    sites = f"{runs[0].sites}, {split}" if split else str(runs[0].sites)
    return [
        promise,
        f"*{SYSTEMS[name]}*" if name in TRIVIAL else f"`{name}`",
        "all rows in one place" if runs[0].sites == 1 or name in TRIVIAL else sites,
        *cells,
        _mean([cost.seconds for cost in costs], ".0f"),
        _mean([cost.cpu_seconds for cost in costs], ".0f"),
        _mean([cost.peak_mib for cost in costs if cost.peak_mib is not None], ",.0f"),
        str(len({run.seed for run in runs})),
    ]


def _failure(run: Run) -> str:
    parts = [f"`{run.model}`", *([run.split] if run.split else []), f"epsilon {run.rung}", f"seed {run.seed}"]
    return f"{', '.join(parts)}, failed: {run.error}"


def _mean(values: Sequence[float], form: str = ".3f") -> str:
    return format(statistics.mean(values), form) if values else _MISSING
