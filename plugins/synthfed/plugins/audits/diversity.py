"""Whether synthetic rows reach every kind of real row, and whether they stay where real rows are.

Never compares row by row who is near whom in the output: it gives shares only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from synthfed.plugins.api import Array, Source
from synthfed.protocols.errors import DataError
from synthfed.protocols.schema import ArrayColumn, Categorical, Records, places
from synthfed.protocols.study import Study

from .distances import BLOCK, features_of, squared_distances
from .estimate import LEVEL, Estimate, independent_columns, interval, resample_counts, subsample
from .features import gaussian_arrays

NEIGHBOURS: Final = 5
_MAX_ROWS: Final = 3000  # of each table: the work grows with its square
_REPLICATES: Final = 200
_SLACK: Final = 1e-9  # of squared distances: rounding must not part equal rows


class Diversity:
    """Coverage and density (Naeem et al. 2020, Reliable Fidelity and Diversity Metrics, arXiv:2002.09797), k = 5.

    Around each held-out real row lies a ball that reaches to its fifth nearest other real row.
    ``coverage`` is the share of balls with a synthetic row in them; rows of the same distribution
    reach 1 - 2**-5 = 0.969. ``density`` is how many balls a synthetic row lies in, over 5: about 1
    for rows of the same distribution, less where synthetic rows lie between real ones, more where
    they crowd. A row on a ball's edge lies in it, for tables hold equal rows.

    All tables are cut to one size. The control is the train rows. The baseline is for tables the
    train rows with columns shuffled apart, for arrays numbers drawn around the means of each label.
    The intervals are those of the means that the two numbers are, over held-out and over synthetic
    rows; the balls are taken as they are.
    """

    name = "diversity"
    question = "Do synthetic rows reach every kind of real row, and do they stay where real rows are?"
    needs: tuple[Source, ...] = ("synthetic", "train", "holdout")

    def unfit(self, study: Study) -> str:  # noqa: ARG002
        """Return that any records can be compared: an empty text."""
        return ""

    def run(self, study: Study, rows: Mapping[Source, Records], seed: int) -> tuple[Estimate, ...]:
        """Return coverage and density, against the holdout rows.

        Raises:
            DataError: a table has too few rows for five neighbours.
        """
        rng = np.random.default_rng(seed)
        size = min(_MAX_ROWS, *(len(rows[source]) for source in self.needs))
        if size <= NEIGHBOURS:
            raise DataError(f"the diversity audit needs more than {NEIGHBOURS} rows of each table")
        cut = {source: subsample(rows[source], size, rng) for source in self.needs}
        features = {str(source): features_of(study, table) for source, table in cut.items()}
        features["baseline"] = features_of(study, _trivial(study, cut["train"], rng))
        real = features["holdout"]
        reach = squared_reach(real, NEIGHBOURS)
        measured = {name: balls(real, reach, features[name]) for name in ("synthetic", "train", "baseline")}
        return tuple(
            _estimate(name, [measured[source][i] for source in ("synthetic", "baseline", "train")], rng)
            for i, name in enumerate(("coverage", "density"))
        )


def _trivial(study: Study, train: Records, rng: np.random.Generator) -> Records:
    if not any(isinstance(column, ArrayColumn) for column in study.columns):
        return independent_columns(train, rng)
    target = [column.name for column in study.columns].index(study.target)
    label = places(study.columns)[target] if isinstance(study.columns[target], Categorical) else None
    return gaussian_arrays(study.columns, train, label, rng)


def squared_reach(real: Array, neighbours: int) -> Array:
    """Return each row's squared distance to its k-th nearest other row, shape ``(rows,)``.

    >>> squared_reach(np.array([[0.0], [1.0], [3.0], [7.0]]), 2).tolist()
    [9.0, 4.0, 9.0, 36.0]
    """
    reach = [
        np.partition(squared_distances(real[start : start + BLOCK], real), neighbours, axis=1)[:, neighbours]
        for start in range(0, len(real), BLOCK)
    ]
    return np.concatenate(reach)


def balls(real: Array, reach: Array, rows: Array) -> tuple[Array, Array]:
    """Return which balls around real rows hold a row, and how many fifths of balls each row lies in.

    Args:
        real: shape ``(balls, features)``.
        reach: squared radius of each ball, shape ``(balls,)``.
        rows: shape ``(rows, features)``.

    Returns:
        shapes ``(balls,)`` and ``(rows,)``, whose means are coverage and density.

    >>> covered, inside = balls(np.array([[0.0], [4.0]]), np.array([1.0, 1.0]), np.array([[0.5], [0.0], [9.0]]))
    >>> covered.tolist(), inside.tolist()
    ([1.0, 0.0], [0.2, 0.2, 0.0])
    """
    covered, inside = np.zeros(len(real), dtype=bool), []
    for start in range(0, len(rows), BLOCK):
        is_in = squared_distances(rows[start : start + BLOCK], real) <= reach + _SLACK
        covered |= is_in.any(axis=0)
        inside.append(is_in.sum(axis=1) / NEIGHBOURS)
    return covered.astype(np.float64), np.concatenate(inside)


def _estimate(name: str, parts: list[Array], rng: np.random.Generator) -> Estimate:
    """Return a mean with its interval, from the parts of synthetic rows, of the baseline and of the control."""
    value, baseline, control = (float(part.mean()) for part in parts)
    replicates = resample_counts(len(parts[0]), _REPLICATES, rng) @ parts[0] / len(parts[0])
    low, high = interval(value, replicates, most=1.0 if name == "coverage" else np.inf)
    return Estimate(name, value, low, high, LEVEL, baseline, control)
