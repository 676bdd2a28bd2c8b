"""How well a model trained on synthetic rows predicts the study's target on real rows it never saw.

Never tests on rows that anything was trained on.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from synthfed.plugins.api import Array, Source
from synthfed.protocols.errors import ConfigError, DataError
from synthfed.protocols.schema import Categorical, Integer, Real, Records
from synthfed.protocols.study import Study

from ..domains.encoding import scalars
from .estimate import LEVEL, Estimate, independent_columns, interval, subsample, unfit_for_tables
from .features import one_thread, scalar_features, unit_scale

LEARNERS = ("linear", "boosted", "forest")
"""The models of a trial, of which the audit uses all but the last."""

_REPLICATES = 200
_MAX_ROWS = 20_000  # of each table
_SHUFFLES = 4  # a model of shuffled columns is a random direction: one alone can look good by luck
_LEAST_GAIN = 0.05  # of the real rows over guessing: below it, what share of it is kept means nothing
_ONE_VALUE = "the synthetic target has one value only, so nothing can be learned from it"


class Utility:
    """Train on synthetic, test on real: ``auc`` of a categorical target, ``r2`` of a numeric one.

    The score is the mean of a linear model's and of gradient-boosted trees'. The control is
    trained on the train rows, the baseline on the train rows with their columns shuffled apart.
    ``utility-kept`` is the part of the control's gain over guessing that the synthetic rows keep.
    """

    name = "utility"
    question = "How well does a model trained on synthetic rows predict the target of real rows it never saw?"
    needs: tuple[Source, ...] = ("synthetic", "train", "holdout")

    def unfit(self, study: Study) -> str:
        """Return why nobody would train tabular learners on a study's records, empty if one would."""
        return unfit_for_tables(study)

    def run(self, study: Study, rows: Mapping[Source, Records], seed: int) -> tuple[Estimate, ...]:
        """Return the score and, where the real rows predict the target at all, the kept part.

        Raises:
            ConfigError: scikit-learn is not installed.
            DataError: a table has no row with a known target.
        """
        rng = np.random.default_rng(seed)
        target = [column.name for column in study.columns].index(study.target)
        known = {source: rows[source][~np.isnan(rows[source][:, target])] for source in self.needs}
        if any(len(table) == 0 for table in known.values()):
            raise DataError("the utility audit needs at least one row with a known target in each table")
        size = min(_MAX_ROWS, len(known["synthetic"]), len(known["train"]))
        synthetic, train = (subsample(known[source], size, rng) for source in ("synthetic", "train"))
        columns = scalars(study.columns, "the utility audit")
        trial = Trial(columns, target, subsample(known["holdout"], _MAX_ROWS, rng), seed)
        predictions = trial.predict(synthetic), trial.predict(train)
        floor = np.mean([trial.score(trial.predict(independent_columns(train, rng))) for _ in range(_SHUFFLES)])
        draws = rng.integers(len(trial.truth), size=(_REPLICATES, len(trial.truth)))
        warning = "" if trial.varies(synthetic) else _ONE_VALUE
        return _estimates(trial, predictions, float(floor), draws, warning)


def _estimates(
    trial: Trial, predictions: tuple[Array, Array], floor: float, draws: npt.NDArray[np.int64], warning: str
) -> tuple[Estimate, ...]:
    """Return the estimates from what was predicted after training on synthetic and on train rows."""
    mine, ceiling = (trial.score(each) for each in predictions)
    resampled = np.array([[trial.score(each, drawn) for drawn in draws] for each in predictions])
    low, high = interval(mine, resampled[0], least=trial.least)
    score = Estimate(trial.name, mine, low, high, LEVEL, floor, ceiling, warning=warning)
    gain = ceiling - trial.guess
    if gain < _LEAST_GAIN:
        return (score,)
    kept = (mine - trial.guess) / gain
    # The same resample tests both, so that an easy or hard draw of test rows cancels out.
    gains = np.maximum(resampled[1] - trial.guess, _LEAST_GAIN)
    low, high = interval(kept, (resampled[0] - trial.guess) / gains, least=-np.inf, most=np.inf)
    return score, Estimate("utility-kept", kept, low, high, LEVEL, (floor - trial.guess) / gain, 1.0, warning=warning)


class Trial:
    """One prediction task: the same features, target, models and test rows for every training table."""

    def __init__(self, columns: Sequence[Categorical | Integer | Real], target: int, test: Records, seed: int) -> None:
        """Encode the test rows; ``target`` is the index of the column to predict, never missing in ``test``."""
        self.columns, self.target, self.seed = columns, target, seed
        column = columns[target]
        self.classes = len(column.values) if isinstance(column, Categorical) else 0
        self.name, self.guess, self.least = ("auc", 0.5, 0.0) if self.classes else ("r2", 0.0, -np.inf)
        self.features, self.truth = self._split(test)

    def varies(self, records: Records) -> bool:
        """Whether the target takes more than one value."""
        return len(np.unique(records[:, self.target])) > 1

    def predict(self, records: Records, *, forest: bool = False) -> Array:
        """Return the test predictions of each model trained on records, ``(models, rows, classes or 1)``.

        The models are `LEARNERS`, the forest only if it is asked for; one alone where the target does not vary.
        """
        features, truth = self._split(records)
        if not self.varies(records):
            return np.full((1, len(self.truth), max(1, self.classes)), truth[0])
        models = _models(self.seed, classify=self.classes > 0)[: len(LEARNERS) if forest else -1]
        with warnings.catch_warnings(), one_thread():
            # A linear model short of convergence is still the same competitor for every table.
            warnings.filterwarnings("ignore", message=".*failed to converge.*")
            return np.stack([self._outcome(model.fit(features, truth)) for model in models])

    def score(self, predictions: Array, rows: Any = slice(None)) -> float:
        """Return the mean score of the models on the test rows, or on some of them."""
        score = macro_auc if self.classes else r_squared
        return float(np.mean([score(self.truth[rows], each[rows]) for each in predictions]))

    def _split(self, records: Records) -> tuple[Array, Array]:
        column, values = self.columns[self.target], records[:, self.target]
        truth = values if isinstance(column, Categorical) else unit_scale(column, values)
        others = (scalar_features(each, records[:, i]) for i, each in enumerate(self.columns) if i != self.target)
        # The constant keeps a table of one column valid: then nothing but guessing is left.
        return np.concatenate([np.ones((len(records), 1)), *others], axis=1), truth

    def _outcome(self, model: Any) -> Array:
        if not self.classes:
            return np.asarray(model.predict(self.features), dtype=np.float64)[:, None]
        outcome = np.zeros((len(self.truth), self.classes))
        outcome[:, model.classes_.astype(np.int64)] = model.predict_proba(self.features)
        return outcome


def macro_auc(truth: Array, scores: Array) -> float:
    """Return the mean one-vs-rest area under the ROC curve over the classes that can be told apart.

    Args:
        truth: class indices, shape ``(rows,)``.
        scores: one column per class, shape ``(rows, classes)``; ties count half.

    Returns:
        an area in [0, 1]; 0.5 if only one class is present.

    >>> macro_auc(np.array([0.0, 0.0, 1.0]), np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]]))
    1.0
    """
    present = [int(label) for label in np.unique(truth)]
    if len(present) < 2:
        return 0.5
    # With two classes both one-vs-rest areas are one and the same.
    chosen = present[1:] if len(present) == 2 and scores.shape[1] == 2 else present
    return float(np.mean([_auc(truth == label, scores[:, label]) for label in chosen]))


def _auc(positive: npt.NDArray[np.bool_], scores: Array) -> float:
    """Return the chance that a positive row scores above a negative one (Mann-Whitney), ties half."""
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = np.cumsum(counts) - (counts - 1) / 2
    hits = int(positive.sum())
    wins = float(rank[place][positive].sum()) - hits * (hits + 1) / 2
    return wins / (hits * (len(scores) - hits))


def r_squared(truth: Array, scores: Array) -> float:
    """Return the explained part of the target's variance, at most 1; 0 if the target does not vary."""
    spread = float(((truth - truth.mean()) ** 2).sum())
    return 1 - float(((truth - scores[:, 0]) ** 2).sum()) / spread if spread > 0 else 0.0


def _models(seed: int, *, classify: bool) -> tuple[Any, Any, Any]:
    """Return the models in the order of `LEARNERS`."""
    try:
        from sklearn import ensemble, linear_model
    except ImportError:
        raise ConfigError('the utility audit needs scikit-learn; run: pip install "synthfed[demo]"') from None
    # Early stopping would hold rows back and fail where a class has one row only.
    trees = {"random_state": seed % 2**32, "early_stopping": False, "max_iter": 50}
    if classify:
        return (
            linear_model.LogisticRegression(max_iter=300),
            ensemble.HistGradientBoostingClassifier(**trees),
            ensemble.RandomForestClassifier(random_state=trees["random_state"]),
        )
    return (
        linear_model.Ridge(),
        ensemble.HistGradientBoostingRegressor(**trees),
        ensemble.RandomForestRegressor(random_state=trees["random_state"]),
    )
