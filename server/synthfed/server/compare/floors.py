"""Trivial models, each with the noise of the same promise: what a model of data must beat to be worth its trouble.

Never releases anything: the noise of a floor is seeded, so that a comparison can be repeated.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from synthfed.plugins.api import Array
from synthfed.plugins.audits.features import one_thread
from synthfed.plugins.audits.utility import Trial, macro_auc
from synthfed.plugins.domains.encoding import OneHotEncoder, scalars
from synthfed.plugins.models.marginals import Released, probabilities, shares
from synthfed.protocols.privacy.plan import make_plan
from synthfed.protocols.schema import ArrayColumn, Categorical, Records, Scalar, places, width_of
from synthfed.protocols.study import Study
from synthfed.protocols.sums import Sum, noise_shares

_BINS: Final = 20
_LEAST_COUNT: Final = 1.0  # of a label that noise has emptied
_LEAST_VARIANCE, _MOST_VARIANCE = 1e-4, 0.25  # of numbers between 0 and 1
_COUNT, _MEAN, _SQUARE = math.sqrt(0.1), math.sqrt(0.7), math.sqrt(0.2)  # a record's norm is 1 at most


def histogram_rows(study: Study, train: Records, rows: int, seed: int, *, by_target: bool) -> Records:
    """Return rows of a table drawn from noisy histograms: of each column alone, or of each within each target.

    The whole budget goes into one sum of norm 1 a record: one cell in every column, over the root of
    their number. Within the target's categories this is naive Bayes as a model of data.

    Args:
        study: the terms; every column has one value, the target is categorical if ``by_target``.
        train: real rows, shape ``(rows, columns)``.
        rows: how many to draw.
        seed: of noise and draws.
        by_target: whether the histograms know the target.
    """
    rng = np.random.default_rng(seed)
    columns = scalars(study.columns, "the floor of tables")
    encoder = OneHotEncoder(columns, _BINS)
    target = [column.name for column in columns].index(study.target)
    own = encoder.blocks[target].width if by_target else 1
    labels = encoder.codes(train)[:, target] if by_target else np.zeros(len(train), dtype=np.int64)
    sums = _sums(labels, encoder.encode(train) / math.sqrt(len(columns)), own)
    sums += rng.normal(0.0, noise_std(study, sums.size), sums.shape)
    counts = _draw_counts(np.maximum(sums.sum(axis=1), 0.0), rows, rng)
    drawn = np.concatenate([_independent(encoder, *each, rng) for each in zip(sums, counts, strict=True)])
    if by_target:
        drawn[:, target] = np.repeat(np.arange(own), counts)
    return rng.permutation(encoder.decode(drawn, rng))


def gaussian_rows(study: Study, train: Records, rows: int, seed: int) -> Records:
    """Return records of arrays whose numbers are normal around the noisy means of their label, one by one.

    One sum of norm 1 a record at most: its categories, its numbers at its label's place, and the
    squares of its numbers, from which all labels share one variance at each place.

    Args:
        study: the terms; the target is categorical.
        train: real records, shape ``(rows, width)``.
        rows: how many to draw.
        seed: of noise and draws.
    """
    rng, starts = np.random.default_rng(seed), places(study.columns)
    kept = [i for i, column in enumerate(study.columns) if not isinstance(column, ArrayColumn)]
    encoder = OneHotEncoder(_scalar_columns(study), _BINS)
    target = [study.columns[i].name for i in kept].index(study.target)
    cells = train[:, [starts[i] for i in kept]]
    labels, own = encoder.codes(cells)[:, target], encoder.blocks[target].width
    shares, lower, width = _numbers(study, train)
    root = math.sqrt(shares.shape[1])
    counts = _COUNT * encoder.encode(cells).sum(axis=0) / math.sqrt(len(kept))
    sums, squares = _sums(labels, _MEAN * shares / root, own), _SQUARE * (shares**2).sum(axis=0) / root
    std = noise_std(study, counts.size + sums.size + squares.size)
    counts, sums, squares = (each + rng.normal(0.0, std, each.shape) for each in (counts, sums, squares))

    first = encoder.offsets[target]
    seen = counts[first : first + own] * math.sqrt(len(kept)) / _COUNT
    seen = np.maximum(seen, _LEAST_COUNT)
    means = np.clip(sums * root / _MEAN / seen[:, None], 0.0, 1.0)
    between = (seen[:, None] * means**2).sum(axis=0) / seen.sum()
    variance = np.clip(squares * root / _SQUARE / seen.sum() - between, _LEAST_VARIANCE, _MOST_VARIANCE)

    drawn = _independent(encoder, counts, rows, rng)
    drawn[:, target] = np.repeat(np.arange(own), _draw_counts(seen, rows, rng))
    records = np.empty((rows, starts[-1]))
    records[:, [starts[i] for i in kept]] = encoder.decode(drawn, rng)
    numbers = rng.normal(means[drawn[:, target]], np.sqrt(variance))
    records[:, _array_places(study)] = lower + width * np.clip(numbers, 0.0, 1.0)
    return rng.permutation(records)


def noise_std(study: Study, dim: int) -> float:
    """Return the noise in each number of one sum of norm 1 that spends a study's whole promise, all sites present.

    Planned as for a model of this one sum, so that nothing but the sum differs.
    """
    only = Sum(name="floor", family="statistic", dim=dim, clip_norm=1.0, sample_rate=1.0, rounds=1, share=1.0)
    sites = len(study.cohort.sites)
    return make_plan(study, (only,)).kinds[0].noise_multiplier * math.sqrt(sites / noise_shares(study, sites))


def naive_bayes_score(study: Study, train: Records, test: Records, seed: int) -> float:
    """Return the area under the curve of Gaussian naive Bayes trained on real rows, without noise.

    Args:
        study: the terms of a table with a categorical target.
        train: real rows with a known target.
        test: held-out rows with a known target.
        seed: of the trial; this classifier has no chance in it.
    """
    from sklearn.naive_bayes import GaussianNB

    columns = scalars(study.columns, "naive Bayes")
    target = [column.name for column in columns].index(study.target)
    known, asked = (Trial(columns, target, rows, seed) for rows in (train, test))
    with one_thread():
        model: Any = GaussianNB().fit(known.features, known.truth)
        found = model.predict_proba(asked.features)
    outcome = np.zeros((len(test), asked.classes))
    outcome[:, model.classes_.astype(np.int64)] = found
    return macro_auc(asked.truth, outcome)


def _sums(labels: npt.NDArray[np.int64], vectors: Array, count: int) -> Array:
    """Return the sum of the vectors of each label, shape ``(count, dim)``."""
    totals: Array = np.stack([vectors[labels == label].sum(axis=0) for label in range(count)])
    return totals


def _draw_counts(weights: Array, rows: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return how many of the rows are of each kind; evenly where noise has left no weight at all."""
    weights = weights if weights.sum() > 0 else np.ones(len(weights))
    return rng.multinomial(rows, weights / weights.sum())


def _independent(encoder: OneHotEncoder, sums: Array, rows: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return cells of rows, each column drawn by itself from its part of noisy sums, shape ``(rows, columns)``."""
    sizes = [block.width for block in encoder.blocks]
    chances = np.split(probabilities(shares(Released(sums, 1.0, 1.0), sizes), sizes), np.cumsum(sizes)[:-1])
    return np.stack([rng.choice(len(each), size=rows, p=each) for each in chances], axis=1)


def _scalar_columns(study: Study) -> Sequence[Scalar]:
    return [column for column in study.columns if not isinstance(column, ArrayColumn)]


def _array_places(study: Study) -> npt.NDArray[np.int64]:
    """Return the places of all numbers of arrays in a record."""
    spans = zip(study.columns, places(study.columns), strict=False)
    arrays = [np.arange(first, first + width_of(each)) for each, first in spans if isinstance(each, ArrayColumn)]
    return np.concatenate(arrays)


def _numbers(study: Study, records: Records) -> tuple[Array, Array, Array]:
    """Return the arrays' numbers between 0 and 1, ``(rows, numbers)``, and the lower bound and width of each."""
    arrays = [column for column in study.columns if isinstance(column, ArrayColumn)]
    lower = np.concatenate([np.full(width_of(each), each.lower) for each in arrays])
    width = np.concatenate([np.full(width_of(each), each.upper - each.lower) for each in arrays])
    return np.clip((records[:, _array_places(study)] - lower) / width, 0.0, 1.0), lower, width


def has_arrays(study: Study) -> bool:
    """Return whether a study's records hold arrays."""
    return any(isinstance(column, ArrayColumn) for column in study.columns)


def has_labels(study: Study) -> bool:
    """Return whether the target is categorical, so that it can be recognised and asked for."""
    return isinstance(next(column for column in study.columns if column.name == study.target), Categorical)
