"""How well a classifier tells synthetic rows from real ones: the two-sample test by a learner.

Never tests on rows that the classifier was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from synthfed.plugins.api import Array, Source
from synthfed.protocols.errors import ConfigError, DataError
from synthfed.protocols.schema import Records
from synthfed.protocols.study import Study

from ..domains.encoding import scalars
from .attacks import auc, auc_replicates
from .estimate import LEVEL, Estimate, independent_columns, interval, subsample, unfit_for_tables
from .features import one_thread, table_features

_MAX_ROWS: Final = 5000  # of each table
_LEAST_ROWS: Final = 4


class Detection:
    """Classifier two-sample test (Lopez-Paz & Oquab 2017, arXiv:1610.06545): the area under the ROC curve.

    Boosted trees learn on half of the synthetic and half of the held-out rows to tell them apart and are tested on
    the other halves. 0.5 is what rows of one distribution reach, 1 what any learner could see; good private tables
    are far above 0.5, for a tree finds single edges of a bin. The control is the train rows, the baseline train rows
    with their columns shuffled apart.
    """

    name = "detection"
    question = "How well does a classifier tell synthetic rows from real ones that nothing was trained on?"
    needs: tuple[Source, ...] = ("synthetic", "train", "holdout")

    def unfit(self, study: Study) -> str:
        """Return why a learner of tables cannot tell a study's records apart, empty where it can."""
        return unfit_for_tables(study)

    def run(self, study: Study, rows: Mapping[Source, Records], seed: int) -> tuple[Estimate, ...]:
        """Return the area under the curve.

        Raises:
            ConfigError: scikit-learn is not installed.
            DataError: a table has fewer than four rows.
        """
        rng = np.random.default_rng(seed)
        size = min(_MAX_ROWS, *(len(rows[source]) for source in self.needs))
        if size < _LEAST_ROWS:
            raise DataError(f"the detection audit needs at least {_LEAST_ROWS} rows of each table")
        cut = {source: subsample(rows[source], size, rng) for source in self.needs}
        columns = scalars(study.columns, "the detection audit")
        releases = (cut["synthetic"], independent_columns(cut["train"], rng), cut["train"])
        real = table_features(columns, rng.permutation(cut["holdout"]))
        scores = [_scores(table_features(columns, rng.permutation(each)), real, seed) for each in releases]
        value, baseline, control = (auc(*each) for each in scores)
        low, high = interval(value, auc_replicates(*scores[0], rng))
        return (Estimate("detection", value, low, high, LEVEL, baseline, control),)


def _scores(synthetic: Array, real: Array, seed: int) -> tuple[Array, Array]:
    """Return how synthetic the classifier takes the tested half of both tables to be."""
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier
    except ImportError:
        raise ConfigError('the detection audit needs scikit-learn; run `pip install "synthfed[demo]"`') from None
    half = len(real) // 2
    features, truth = np.concatenate([synthetic[:half], real[:half]]), np.repeat([1, 0], half)
    with one_thread():
        model = HistGradientBoostingClassifier(max_iter=60, random_state=seed).fit(features, truth)
        tested = [model.predict_proba(each[half:])[:, 1] for each in (synthetic, real)]
    return tested[0], tested[1]
