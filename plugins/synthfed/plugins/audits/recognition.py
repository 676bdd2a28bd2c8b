"""How well a classifier trained on synthetic arrays recognises real ones it never saw.

Never tests on rows that anything was trained on.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from synthfed.plugins.api import Array, Source
from synthfed.protocols.errors import ConfigError, DataError
from synthfed.protocols.schema import ArrayColumn, Categorical, Records, places
from synthfed.protocols.study import Study

from .estimate import LEVEL, Estimate, interval, resample_counts, subsample
from .features import array_features, gaussian_arrays, one_thread

_REPLICATES: Final = 200
_MAX_ROWS: Final = 4000  # of each table
_ONE_LABEL: Final = "the synthetic target has one value only, so nothing can be learned from it"


class Recognition:
    """Train on synthetic, test on real, for images, series and other arrays: ``accuracy`` of the target.

    The mean over a linear classifier and a small neural network. The control is trained on the
    train rows. The baseline is trained on as many rows whose numbers are drawn one by one around the
    means of each label in the train rows: what pixel means alone can teach.
    """

    name = "recognition"
    question = "How well does a classifier trained on synthetic arrays recognise real ones it never saw?"
    needs: tuple[Source, ...] = ("synthetic", "train", "holdout")

    def unfit(self, study: Study) -> str:
        """Return why there is nothing to recognise in a study's records, empty if there is."""
        if not any(isinstance(column, ArrayColumn) for column in study.columns):
            return "no column is an array, and this audit recognises arrays"
        target = next(column for column in study.columns if column.name == study.target)
        is_label = isinstance(target, Categorical)
        return "" if is_label else f"the target {study.target!r} is a number, and this audit recognises labels"

    def run(self, study: Study, rows: Mapping[Source, Records], seed: int) -> tuple[Estimate, ...]:
        """Return the accuracy on the holdout rows.

        Raises:
            ConfigError: scikit-learn is not installed.
            DataError: a table has no row with a known target.
        """
        rng = np.random.default_rng(seed)
        label = places(study.columns)[[column.name for column in study.columns].index(study.target)]
        known = {source: rows[source][~np.isnan(rows[source][:, label])] for source in self.needs}
        if any(len(table) == 0 for table in known.values()):
            raise DataError("the recognition audit needs at least one row with a known target in each table")
        size = min(_MAX_ROWS, len(known["synthetic"]), len(known["train"]))
        synthetic, train = (subsample(known[source], size, rng) for source in ("synthetic", "train"))
        test = subsample(known["holdout"], _MAX_ROWS, rng)
        trivial = gaussian_arrays(study.columns, train, label, rng)
        mine, floor, ceiling = (_hits(study, label, each, test, seed) for each in (synthetic, trivial, train))
        replicates = resample_counts(len(test), _REPLICATES, rng) @ mine / len(test)
        low, high = interval(float(mine.mean()), replicates)
        warning = "" if len(np.unique(synthetic[:, label])) > 1 else _ONE_LABEL
        means = (float(each.mean()) for each in (mine, floor, ceiling))
        value, baseline, control = means
        return (Estimate("accuracy", value, low, high, LEVEL, baseline, control, warning=warning),)


def _hits(study: Study, label: int, train: Records, test: Records, seed: int) -> Array:
    """Return the share of classifiers that name each test row's label, shape ``(rows,)``."""
    features, labels = array_features(study.columns, train), train[:, label]
    if len(np.unique(labels)) == 1:
        guesses: Array = np.equal(test[:, label], labels[0]).astype(np.float64)
        return guesses
    tested = array_features(study.columns, test)
    with warnings.catch_warnings(), one_thread():
        # A classifier short of convergence is still the same competitor for every table.
        warnings.filterwarnings("ignore", message=".*(failed to converge|hasn't converged).*")
        named = [model.fit(features, labels).predict(tested) for model in _classifiers(seed)]
    hits: Array = np.stack([each == test[:, label] for each in named]).mean(axis=0)
    return hits


def _classifiers(seed: int) -> tuple[Any, Any]:
    try:
        from sklearn import linear_model, neural_network
    except ImportError:
        raise ConfigError('the recognition audit needs scikit-learn; run: pip install "synthfed[demo]"') from None
    network = neural_network.MLPClassifier((64,), max_iter=40, random_state=seed % 2**32)
    return linear_model.LogisticRegression(max_iter=200), network
