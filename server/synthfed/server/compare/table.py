"""The results of a comparison as markdown, for a page whose prose stays.

Never rounds a verdict: it is made from the numbers, not from what is shown.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from synthfed.plugins.files import read_text, write_whole
from synthfed.protocols.errors import ConfigError

from . import ladder
from .entries import FLOOR, TRIVIAL, DataSet
from .plan import Plan
from .results import Cost, Run

BEGIN: Final = "<!-- comparison: begin -->"
END: Final = "<!-- comparison: end -->"
SCORES: Final = {"auc": "AUC", "accuracy": "accuracy", "r2": "R2"}
"""What a data set is scored by: it has one of these."""

_PAGE: Final = f"# Models compared\n\n{BEGIN}\n{END}\n"
_MISSING: Final = "-"
_NONE: Final = "none"  # a model has no such side
_OF_TABLES: Final = ("tvd2", "beats naive Bayes")
_HEAD: Final = (
    *("model", "tvd2", "score", "spread", "coverage", "control", "latent", "gain"),
    *("s", "CPU s", "numbers", "MiB", "epsilon", "beats the floor", "beats naive Bayes"),
)


def write_page(path: Path, plan: Plan, runs: Iterable[Run]) -> None:
    """Put the tables between the markers of a page, or into a new page.

    Raises:
        ConfigError: the page cannot be read or written, or has no such markers.
    """
    old = read_text(path) if path.exists() else _PAGE
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ConfigError(f"lacks the lines {BEGIN} and {END} in this order; add them", where=str(path))
    write_whole(path, [f"{before}{BEGIN}\n{render(plan, tuple(runs))}\n{END}{after}".encode()])


def render(plan: Plan, runs: Sequence[Run]) -> str:
    """Return one table for each data set of the plan that has a run, and what failed."""
    render_one = ladder.section if plan.is_ladder else _section
    parts = [
        render_one(data, [run for run in runs if run.data == data.name])
        for data in plan.data
        if any(run.data == data.name for run in runs)
    ]
    places = sorted({f"{run.place.machine}; {_versions(run)}" for run in runs})
    measured = "\n".join(f"Measured on {place}." for place in places)
    return "\n\n".join([*parts, measured]) if parts else "Nothing has been measured yet."


def _versions(run: Run) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(run.place.versions.items()))


def _section(data: DataSet, runs: Sequence[Run]) -> str:
    good = [run for run in runs if not run.error]
    score = next((name for name in SCORES for run in good if name in run.measures), "")
    trivial = {name: {run.seed: run for run in good if run.model == name} for name in TRIVIAL}
    names = list(dict.fromkeys(run.model for run in good if run.model not in TRIVIAL))
    head = [SCORES.get(score, "score") if name == "score" else name for name in _HEAD]
    rows = [head, ["---"] * len(head), _ceiling(good, score)]
    for name in (*(name for name in TRIVIAL if trivial[name]), *names):
        mine = [run for run in good if run.model == name]
        rivals = [each for each in TRIVIAL if name not in (each, FLOOR)]
        verdicts = [verdict(mine, score, trivial[each]) if each in rivals else _MISSING for each in TRIVIAL]
        rows.append([*_numbers(name, mine, score), *verdicts])
    shown = [i for i, name in enumerate(_HEAD) if name not in _OF_TABLES or any(row[i] != _MISSING for row in rows[2:])]
    table = "\n".join(f"| {' | '.join(row[i] for i in shown)} |" for row in rows)
    failed = "\n".join(f"- `{run.model}`, seed {run.seed}, failed: {run.error}" for run in runs if run.error)
    return f"### {data.name}\n\n{_caption(data, good)}\n\n{table}" + (f"\n\n{failed}" if failed else "")


def _caption(data: DataSet, runs: Sequence[Run]) -> str:
    privacy = data.privacy
    promise = f"epsilon {privacy.epsilon:g}, delta {privacy.delta:g}, `{privacy.mode}`, a row is the privacy unit"
    if not runs:
        return f"{promise}."
    first, seeds = runs[0], len({run.seed for run in runs})
    size = f"{first.train:,} training rows at {first.sites} sites, {first.test:,} held out"
    return f"{size}; {promise}; {seeds} seed(s)."


def _ceiling(runs: Sequence[Run], score: str) -> list[str]:
    """Return the row of what bounds all models: real rows in the place of synthetic ones."""
    real = {
        name: [value for run in runs if name in run.measures and (value := run.measures[name].real) is not None]
        for name in ("tvd2", score, "coverage", "control", "gain")
    }
    cells = [_mean(real[name]) for name in ("tvd2", score)]
    row = ["*real rows*", *cells, _MISSING, _mean(real["coverage"]), _mean(real["control"]), _MISSING]
    row.append(_mean(real["gain"], "+.3f"))
    return [*row, *[_MISSING] * (len(_HEAD) - len(row))]


def _numbers(name: str, runs: Sequence[Run], score: str) -> list[str]:
    """Return the row of a model but for the verdicts."""

    def mean(measure: str, form: str = ".3f", empty: str = _MISSING) -> str:
        return _mean([run.measures[measure].value for run in runs if measure in run.measures], form, empty)

    def cost(part: Callable[[Cost], float | None], form: str) -> str:
        found = [part(run.cost) for run in runs if run.cost is not None]
        return _mean([each for each in found if each is not None], form)

    absent = _MISSING if name in TRIVIAL else _NONE
    most = max((run.spent for run in runs if run.spent is not None), default=None)
    return [
        f"*{name}*" if name in TRIVIAL else f"`{name}`",
        mean("tvd2"),
        mean(score),
        _spread([run.measures[score].value for run in runs if score in run.measures]),
        mean("coverage"),
        mean("control", empty=absent),
        mean("walk", ".1f", absent),
        mean("gain", "+.3f"),
        cost(lambda each: each.seconds, ".0f"),
        cost(lambda each: each.cpu_seconds, ".0f"),
        cost(lambda each: each.state_numbers, ",.0f"),
        cost(lambda each: each.peak_mib, ",.0f"),
        _MISSING if most is None else f"{most:.2f}",
    ]


def _mean(values: Sequence[float], form: str = ".3f", empty: str = _MISSING) -> str:
    return format(statistics.mean(values), form) if values else empty


def _spread(values: Sequence[float]) -> str:
    """Return the distance from the worst to the best seed; nothing can be said of one seed."""
    return f"{max(values) - min(values):.3f}" if len(values) > 1 else _MISSING


def verdict(runs: Sequence[Run], score: str, floors: Mapping[int, Run]) -> str:
    """Return whether a model beats a trivial one: in every seed, in the mean only, or not, measure by measure.

    Args:
        runs: the model's.
        score: the data set's score, more being better; of tvd2 less is.
        floors: the trivial model's runs by seed.
    """
    words = {}
    for name, sign in (("tvd2", -1), (score, 1)):
        gaps = [
            sign * (run.measures[name].value - floors[run.seed].measures[name].value)
            for run in runs
            if run.seed in floors and name in run.measures and name in floors[run.seed].measures
        ]
        if gaps:
            words[name] = "yes" if min(gaps) > 0 else "in the mean" if statistics.mean(gaps) > 0 else "no"
    if len(set(words.values())) <= 1:
        return next(iter(words.values()), _MISSING)
    return ", ".join(f"{SCORES.get(name, name)}: {word}" for name, word in words.items())
