"""Checks of what a trained model samples: records of the schema, by the seed, under conditions, along walks.

Never compares samples with real records: what they are worth is for audits to say.
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from synthfed.protocols.schema import ArrayColumn, Categorical, Column, Integer, Records, places

from ..api import Span
from ..domains.encoding import written
from .check import check, promise
from .surroundings import noting_randomness
from .trial import SEED, Trial, same_states

ROWS: Final = 200
_EXACT: Final = 1e-9  # as far as rounding to decimals goes
_SHAPED: Final = ("samples-have-the-shape",)


def samples_have_the_shape(trial: Trial) -> None:
    """Sampling returns as many records as were asked for, of the schema's width, in float64."""
    for rows in (ROWS, 1):
        drawn = trial.sample(rows)
        promise(
            isinstance(drawn, np.ndarray) and drawn.shape == (rows, trial.case.width) and drawn.dtype == np.float64,
            f"`sample({rows}, ...)` does not return float64 records of shape {(rows, trial.case.width)}",
        )


def samples_fit_the_schema(trial: Trial) -> None:
    """Every sampled value is one that the schema allows."""
    _check_fit(trial, trial.sample(ROWS))


def a_seed_fixes_the_samples(trial: Trial) -> None:
    """The same state and seed give the same records, after loading the state, too."""
    drawn = trial.sample(ROWS)
    promise(np.array_equal(drawn, trial.sample(ROWS), equal_nan=True), "two draws with one seed differ")
    loaded = trial.model().trainer(SEED + 2)
    loaded.load(trial.training.trainer.state())
    again = trial.sample(ROWS, trainer=loaded)
    promise(np.array_equal(drawn, again, equal_nan=True), "a trainer restored from its state draws other records")


def another_seed_gives_other_samples(trial: Trial) -> None:
    """Another seed gives other records, and one seed gives records that differ."""
    drawn = trial.sample(ROWS)
    promise(
        not np.array_equal(drawn, trial.sample(ROWS, SEED + 1), equal_nan=True), "the seed does not change the draw"
    )
    promise(len(np.unique(drawn, axis=0)) > 1, "all sampled records are one and the same")


def sampling_changes_nothing(trial: Trial) -> None:
    """Sampling leaves the model's state and the global random state alone."""
    before = trial.training.trainer.state()
    with noting_randomness() as moved:
        trial.sample(ROWS)
    promise(not moved, f"sampling moves the global state of {', '.join(moved)}; use generators of your own")
    promise(same_states(before, trial.training.trainer.state()), "sampling changes the state; it must only read it")


def conditions_hold(trial: Trial) -> None:
    """Every record sampled under a condition meets it: each category, spans of numbers, and missing."""
    model, first = trial.model(), places(trial.case.columns)
    for name in model.conditions:
        index = [column.name for column in trial.case.columns].index(name)
        for span in _spans(trial.case.columns[index]):
            drawn = trial.training.trainer.sample(30, SEED, {name: span})
            promise(drawn.shape == (30, trial.case.width), f"sampling under {name!r} returns not all records asked for")
            values = drawn[:, first[index]]
            within = (values >= span.low - _EXACT) & (values <= span.high + _EXACT)  # false for a missing value
            met = np.isnan(values) if span.is_missing else within
            promise(
                bool(met.all()),
                f"records sampled under {name!r} do not all have such a value; fix it exactly or leave it out",
            )
            _check_fit(trial, drawn)


def walks_have_the_shape(trial: Trial) -> None:
    """A walk through the latent space gives records of the schema, the same for the same seed, or none."""
    walked = trial.training.trainer.walk(2, 5, SEED)
    width = trial.case.width
    promise(
        walked.shape in ((10, width), (0, width)), f"`walk(2, 5, ...)` has shape {walked.shape}; return {(10, width)}"
    )
    again = trial.training.trainer.walk(2, 5, SEED)
    promise(np.array_equal(walked, again, equal_nan=True), "two walks with one seed differ")
    _check_fit(trial, walked)


def training_learns(trial: Trial) -> None:
    """After a training without noise, sampled columns are nearer to the records than even draws are."""
    trainer = trial.train(noise=1e-6).trainer
    drawn, rng = trial.sample(400, trainer=trainer), np.random.default_rng(SEED)
    even = np.column_stack([_even(column, 400, rng) for column in trial.case.columns])
    near, far = _distance(drawn, trial.records), _distance(even, trial.records)
    promise(
        near < far,
        f"sampled columns lie {near:.2g} from the records, even draws {far:.2g}: nothing was learnt; "
        "does the trainer use its answers?",
    )


def _check_fit(trial: Trial, drawn: Records) -> None:
    first = places(trial.case.columns)
    for column, start, end in zip(trial.case.columns, first, first[1:], strict=False):
        problem = _misfit(column, drawn[:, start:end])
        promise(not problem, f"samples of column {column.name!r} {problem}; decode by the schema")


def _misfit(column: Column, values: npt.NDArray[np.float64]) -> str:
    """Return what the schema does not allow of a column's values, empty where all is well."""
    known = values[~np.isnan(values)]
    if known.size < values.size and not column.missing:
        return "are missing, which it does not allow"
    if isinstance(column, Categorical):
        return "" if np.isin(known, np.arange(len(column.values))).all() else "are no index of a category"
    if ((known < column.lower) | (known > column.upper)).any():
        return "lie outside its bounds"
    decimals = 0 if isinstance(column, Integer) else column.decimals
    return "" if np.allclose(known, np.round(known, decimals), atol=_EXACT) else f"have more than {decimals} decimals"


def _spans(column: Column) -> list[Span]:
    """Return what a column's values can be asked to be: single ones, those up to the middle, all, and missing."""
    missing = [Span.at(math.nan)] if column.missing else []
    if isinstance(column, Categorical):
        return [*map(Span.at, range(len(column.values))), *missing]
    if isinstance(column, ArrayColumn):
        return []
    middle = float(written(column, np.array([(column.lower + column.upper) / 2]))[0])
    return [Span.at(middle), Span(column.lower, middle), Span(column.lower, column.upper), *missing]


def _even(column: Column, rows: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return values drawn evenly over what the schema allows, shape ``(rows, width)``."""
    if isinstance(column, Categorical):
        return rng.integers(len(column.values), size=(rows, 1)).astype(np.float64)
    width = int(np.prod(column.shape)) if isinstance(column, ArrayColumn) else 1
    return rng.uniform(column.lower, column.upper, (rows, width))


def _distance(one: Records, other: Records) -> float:
    """Return the mean distance of the columns' distribution functions, each scaled by its range."""
    spans = np.nanmax(other, axis=0) - np.nanmin(other, axis=0)
    levels = np.linspace(0.05, 0.95, 19)
    mine, theirs = np.nanquantile(one, levels, axis=0), np.nanquantile(other, levels, axis=0)
    return float(np.mean(np.abs(mine - theirs) / np.where(spans > 0, spans, 1.0)))


CHECKS: Final = (
    check(samples_have_the_shape, "trains-to-the-end"),
    check(samples_fit_the_schema, *_SHAPED),
    check(a_seed_fixes_the_samples, *_SHAPED, "checkpoint-is-plain-arrays"),
    check(another_seed_gives_other_samples, *_SHAPED),
    check(sampling_changes_nothing, *_SHAPED),
    check(conditions_hold, "samples-fit-the-schema", "conditions-are-columns"),
    check(walks_have_the_shape, "samples-fit-the-schema", "a-seed-fixes-the-samples"),
    check(training_learns, *_SHAPED),
)
