"""What tables are judged by beside the audits: three learners one by one, point masses, and associations.

Never trains a learner on rows that it is asked about, and never takes a bin from synthetic rows.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt

from synthfed.plugins.api import Array, Source
from synthfed.plugins.audits.estimate import subsample, unfit_for_tables
from synthfed.plugins.audits.fidelity import Cells, count_bins, place_all
from synthfed.plugins.audits.utility import LEARNERS, Trial, macro_auc
from synthfed.plugins.domains.encoding import scalars
from synthfed.protocols.schema import Categorical, Real, Records, Scalar
from synthfed.protocols.study import Study

from .results import Measure

_MOST_ROWS: Final = 10_000  # of each table in a distance
_MOST_TAUGHT: Final = 20_000  # rows for a learner, and asked of it
_POINT_MASS: Final = 0.02  # the least share of held-out rows with one and the same number

Sides = tuple[Source, Source]
_SIDES: Final[Sides] = ("synthetic", "train")  # what is judged, and the real rows in its place


def judged(study: Study, rows: Mapping[Source, Records], seed: int) -> dict[str, Measure]:
    """Return the judges' numbers of a table's rows, each with that of train rows; none for records with arrays.

    ``auc-linear``, ``auc-boosted``, ``auc-forest`` and their mean ``auc-mean``, and ``macro-f1`` of the three
    together, where the target is a category; ``tvd2-strict`` and ``association``.

    Args:
        study: the terms.
        rows: synthetic, train and held-out records, at least one of each with a known target.
        seed: of the learners and of drawing fewer rows.
    """
    if unfit_for_tables(study):
        return {}
    target = [column.name for column in study.columns].index(study.target)
    is_category = isinstance(study.columns[target], Categorical)
    return (_of_learners(study, target, rows, seed) if is_category else {}) | _of_pairs(study, rows, seed)


def _of_learners(study: Study, target: int, rows: Mapping[Source, Records], seed: int) -> dict[str, Measure]:
    rng = np.random.default_rng(seed)
    known = {source: table[~np.isnan(table[:, target])] for source, table in rows.items()}
    trial = Trial(scalars(study.columns, "the learners"), target, subsample(known["holdout"], _MOST_TAUGHT, rng), seed)
    size = min(_MOST_TAUGHT, *(len(known[side]) for side in _SIDES))
    found = [_scores(trial, trial.predict(subsample(known[side], size, rng), forest=True)) for side in _SIDES]
    return {name: Measure(value=found[0][name], real=found[1][name]) for name in found[0]}


def _scores(trial: Trial, predictions: Array) -> dict[str, float]:
    areas = [macro_auc(trial.truth, each) for each in predictions]
    areas = areas * len(LEARNERS) if len(areas) == 1 else areas  # one answer where the target has one value
    each = {f"auc-{name}": area for name, area in zip(LEARNERS, areas, strict=True)}
    f1 = np.mean([macro_f1(trial.truth, scores.argmax(axis=1)) for scores in predictions])
    return {**each, "auc-mean": float(np.mean(areas)), "macro-f1": float(f1)}


def macro_f1(truth: Array, named: npt.NDArray[np.int64]) -> float:
    """Return the mean over the true classes of the harmonic mean of precision and recall, in [0, 1].

    >>> round(macro_f1(np.array([0.0, 0.0, 0.0, 1.0]), np.array([0, 0, 1, 1])), 3)
    0.733
    """
    both = [
        2 * np.sum((truth == c) & (named == c)) / (np.sum(truth == c) + np.sum(named == c)) for c in np.unique(truth)
    ]
    return float(np.mean(both))


def _of_pairs(study: Study, rows: Mapping[Source, Records], seed: int) -> dict[str, Measure]:
    columns = scalars(study.columns, "the distances")
    rng = np.random.default_rng(seed)
    size = min(_MOST_ROWS, *(len(rows[side]) for side in _SIDES))
    real = subsample(rows["holdout"], _MOST_ROWS, rng)
    cut = [subsample(rows[side], size, rng) for side in _SIDES]
    masses = [point_masses(column, real[:, i]) for i, column in enumerate(columns)]
    plain = [count_bins(column) for column in columns]
    strict = [bins + len(mass) for bins, mass in zip(plain, masses, strict=True)]
    cells = [place_all(columns, table) for table in (real, *cut)]
    apart = [with_point_masses(columns, table, masses) for table in (real, *cut)]
    distances = [_over_pairs(apart[0], each, strict, _distance) for each in apart[1:]]
    changes = [_over_pairs(cells[0], each, plain, _change) for each in cells[1:]]
    return {
        "tvd2-strict": Measure(value=distances[0], real=distances[1]),
        "association": Measure(value=changes[0], real=changes[1]),
    }


def point_masses(column: Scalar, values: Array) -> Array:
    """Return the numbers that at least a fiftieth of real rows share, shape ``(masses,)``; none of a category."""
    if isinstance(column, Categorical):
        return np.empty(0)
    found, counts = np.unique(values[~np.isnan(values)], return_counts=True)
    masses: Array = found[counts >= max(2.0, _POINT_MASS * len(values))]
    return masses


def with_point_masses(columns: Sequence[Scalar], records: Records, masses: Sequence[Array]) -> Cells:
    """Return the bins of the audits, but for the point masses, each of which has a bin of its own.

    Args:
        columns: the schema.
        records: shape ``(rows, columns)``.
        masses: each column's, in whose order their bins follow those of the audits.

    Returns:
        shape ``(rows, columns)``.
    """
    cells = place_all(columns, records)
    for i, (column, mass) in enumerate(zip(columns, masses, strict=True)):
        near = 0.5 * 10.0 ** -(column.decimals if isinstance(column, Real) else 0)
        for j, value in enumerate(mass):
            cells[np.abs(records[:, i] - value) < near, i] = count_bins(column) + j
    return cells


def _over_pairs(first: Cells, second: Cells, sizes: Sequence[int], compare: Callable[[Array, Array], float]) -> float:
    """Return the mean over pairs of columns of a comparison of two tables' two-way shares; 0 without a pair."""
    return float(
        np.mean(
            [
                compare(_shares(first, i, j, sizes), _shares(second, i, j, sizes))
                for i, j in combinations(range(len(sizes)), 2)
            ]
            or [0.0]
        )
    )


def _shares(cells: Cells, i: int, j: int, sizes: Sequence[int]) -> Array:
    joint = np.bincount(cells[:, i] * sizes[j] + cells[:, j], minlength=sizes[i] * sizes[j])
    # Counts stay known: the association's correction needs them.
    return joint.reshape(sizes[i], sizes[j]).astype(np.float64)


def _distance(first: Array, second: Array) -> float:
    return 0.5 * float(np.abs(first / first.sum() - second / second.sum()).sum())


def _change(first: Array, second: Array) -> float:
    return abs(association(first) - association(second))


def association(counts: Array) -> float:
    """Return the bias-corrected Cramer's V of a two-way table, in [0, 1]; 0 where one side takes one value only.

    Bergsma 2013, A bias-correction for Cramer's V and Tschuprow's T, doi:10.1016/j.jkss.2012.10.002.

    Args:
        counts: shape ``(first, second)``.

    >>> association(np.array([[50.0, 0.0], [0.0, 50.0]])), association(np.array([[25.0, 25.0], [25.0, 25.0]]))
    (1.0, 0.0)
    """
    counts = counts[counts.sum(axis=1) > 0][:, counts.sum(axis=0) > 0]
    total = counts.sum()
    if min(counts.shape) < 2:
        return 0.0
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / total
    rows, columns = counts.shape
    square = ((counts - expected) ** 2 / expected).sum() / total - (rows - 1) * (columns - 1) / (total - 1)
    corrected = [side - (side - 1) ** 2 / (total - 1) for side in (rows, columns)]
    least = min(corrected) - 1
    return float(np.sqrt(max(0.0, square) / least)) if least > 0 else 0.0
