"""What is measured of a model's synthetic rows and of the model itself, always against real rows held out.

Never trains a judge on rows that it is asked about.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np

from synthfed.plugins.api import Array, Model, Source, Span, Trainer
from synthfed.plugins.audits.distances import features_of
from synthfed.plugins.audits.diversity import Diversity
from synthfed.plugins.audits.estimate import subsample
from synthfed.plugins.audits.fidelity import Fidelity
from synthfed.plugins.audits.recognition import Recognition, hits
from synthfed.plugins.audits.utility import Trial, Utility
from synthfed.plugins.domains.encoding import scalars
from synthfed.protocols.schema import Categorical, Records, places
from synthfed.protocols.study import Study

from .floors import gaussian_rows, has_arrays, has_labels, histogram_rows, naive_bayes_score
from .judges import judged
from .results import Measure

AUDITS: Final = (Fidelity(), Utility(), Recognition(), Diversity())
KEPT: Final = ("tvd1", "tvd2", "auc", "r2", "accuracy", "coverage")
"""The audits' numbers that the comparison keeps; ``auc``, ``r2`` or ``accuracy`` is a data set's score."""

_MOST_ROWS: Final = 4000  # that a judge is trained or asked on
_ASKED: Final = 1000  # conditional records, all categories together
_WALKS: Final = 16
_STEPS: Final = 16
_GUESS: Final = 0.5  # area under the curve of one answer for all: the majority's


def audited(study: Study, rows: Mapping[Source, Records], seed: int) -> dict[str, Measure]:
    """Return the fitting audits' numbers of whole records, with intervals and the real rows' own, and the judges'."""
    found = [estimate for audit in AUDITS if not audit.unfit(study) for estimate in audit.run(study, rows, seed)]
    kept = {
        each.name: Measure(value=each.value, low=each.low, high=each.high, real=each.control)
        for each in found
        if each.name in KEPT and not each.column
    }
    return kept | judged(study, rows, seed)


def of_model(
    study: Study, model: Model, trainer: Trainer, rows: Mapping[Source, Records], few: int, seed: int
) -> dict[str, Measure]:
    """Return every measured dimension of a trained model; one that it does not have is left out.

    Args:
        study: the terms it was trained under.
        model: the model.
        trainer: its trained public part.
        rows: synthetic, train and held-out records.
        few: real rows of the small table of ``gain``.
        seed: of all draws.
    """
    measures = audited(study, rows, seed)
    optional = {
        "control": control(study, model, trainer, rows["train"], rows["holdout"], seed),
        "walk": smoothness(study, trainer, seed),
        "gain": gain(study, rows, few, seed),
    }
    return measures | {name: measure for name, measure in optional.items() if measure is not None}


def of_floor(study: Study, train: Records, test: Records, few: int, seed: int) -> dict[str, Measure]:
    """Return what the trivial model reaches under a study's promise.

    For tables, distances and coverage are those of independent noisy histograms, and the score is that
    of real rows under the plainest of classifiers: the majority, or Gaussian naive Bayes if that is
    better. For arrays, everything is measured on noisy Gaussians around each label's means.
    """
    if has_arrays(study) and has_labels(study):
        rows: dict[Source, Records] = {"train": train, "holdout": test}
        rows["synthetic"] = gaussian_rows(study, train, len(train), seed)
        return audited(study, rows, seed) | _found(gain=gain(study, rows, few, seed))
    rows = {"train": train, "holdout": test}
    rows["synthetic"] = histogram_rows(study, train, len(train), seed, by_target=False)
    measures = audited(study, rows, seed) | _found(gain=gain(study, rows, few, seed))
    if not has_labels(study):
        return measures | {"r2": Measure(value=0.0, real=measures["r2"].real)}
    known, asked = _known(study, train), _known(study, test)
    plain = max(_GUESS, naive_bayes_score(study, known, asked, seed))
    return measures | {"auc": Measure(value=plain, real=measures["auc"].real)}


def of_naive_bayes(study: Study, train: Records, test: Records, few: int, seed: int) -> dict[str, Measure]:
    """Return what rows from noisy histograms within each category of the target reach, judged as a model's rows."""
    rows: dict[Source, Records] = {"train": train, "holdout": test}
    rows["synthetic"] = histogram_rows(study, train, len(train), seed, by_target=True)
    return of_rows(study, rows, few, seed)


def of_rows(study: Study, rows: Mapping[Source, Records], few: int, seed: int) -> dict[str, Measure]:
    """Return what can be measured of rows alone, whatever drew them."""
    return audited(study, rows, seed) | _found(gain=gain(study, rows, few, seed))


def control(study: Study, model: Model, trainer: Trainer, train: Records, test: Records, seed: int) -> Measure | None:
    """Return how many conditional records a judge trained on real rows takes for the category that was asked for.

    The target if it is a category that the model can fix, else the first such column; equally many records of each
    category. The control is the judge's mean share over the categories of held-out real rows.
    """
    columns = [column for column in study.columns if isinstance(column, Categorical)]
    names = [column.name for column in columns if column.name in model.conditions]
    if not names:
        return None
    name = study.target if study.target in names else names[0]
    place = places(study.columns)[[column.name for column in study.columns].index(name)]
    taught = subsample(train[~np.isnan(train[:, place])], _MOST_ROWS, np.random.default_rng(seed))
    categories = np.unique(taught[:, place])
    if len(categories) < 2:
        return None
    each = max(1, _ASKED // len(categories))
    drawn = [trainer.sample(each, seed + i, {name: Span.at(category)}) for i, category in enumerate(categories)]
    asked = np.concatenate(drawn)
    asked[:, place] = np.repeat(categories, each)  # what counts is what was asked for, not what the record claims
    real = test[np.isin(test[:, place], categories)]
    found = _named(study, name, taught, np.concatenate([asked, real]), seed)
    by_category = [found[len(asked) :][real[:, place] == category] for category in np.unique(real[:, place])]
    ceiling = float(np.mean([shares.mean() for shares in by_category])) if by_category else None
    return Measure(value=float(found[: len(asked)].mean()), real=ceiling)


def smoothness(study: Study, trainer: Trainer, seed: int) -> Measure | None:
    """Return how uneven straight walks through the latent space are: largest step over mean step, mean of walks.

    1 is perfectly even, 15 a walk that jumps once and stands still else. None for a model without a
    latent space, or where no walk moves at all.
    """
    walked = trainer.walk(_WALKS, _STEPS, seed)
    if len(walked) == 0:
        return None
    path = features_of(study, walked).reshape(-1, _STEPS, features_of(study, walked[:1]).shape[1])
    steps = np.linalg.norm(np.diff(path, axis=1), axis=2)
    moving = steps[steps.max(axis=1) > 0]
    return Measure(value=float((moving.max(axis=1) / moving.mean(axis=1)).mean())) if len(moving) else None


def gain(study: Study, rows: Mapping[Source, Records], few: int, seed: int) -> Measure | None:
    """Return how much the score of a few real rows grows when synthetic rows are put beside them.

    None where nothing can be scored. ``real`` is the gain if real rows are put beside them instead.
    """
    if has_arrays(study) and not has_labels(study):
        return None
    rng = np.random.default_rng(seed)
    train, test = _known(study, rows["train"]), _known(study, rows["holdout"])
    order = rng.permutation(len(train))
    own, others = train[order[:few]], train[order[few:]][:_MOST_ROWS]
    alone = score(study, own, test, seed)
    synthetic = subsample(_known(study, rows["synthetic"]), _MOST_ROWS, rng)
    with_synthetic, with_real = (
        score(study, np.concatenate([own, more]), test, seed) - alone for more in (synthetic, others)
    )
    return Measure(value=with_synthetic, real=with_real)


def score(study: Study, taught: Records, test: Records, seed: int) -> float:
    """Return the audits' score of judges trained on some rows, on others whose target is known."""
    taught, target = _known(study, taught), [column.name for column in study.columns].index(study.target)
    if has_arrays(study):
        return float(hits(study, places(study.columns)[target], taught, test, seed).mean())
    trial = Trial(scalars(study.columns, "the score"), target, test, seed)
    return trial.score(trial.predict(taught))


def _named(study: Study, name: str, taught: Records, asked: Records, seed: int) -> Array:
    """Return the share of judges that name each record's category of a column, shape ``(rows,)``."""
    column = [each.name for each in study.columns].index(name)
    if has_arrays(study):
        return hits(study, places(study.columns)[column], taught, asked, seed)
    trial = Trial(scalars(study.columns, "the judge"), column, asked, seed)
    named: Array = np.equal(trial.predict(taught).argmax(axis=2), asked[:, column]).mean(axis=0)
    return named


def _known(study: Study, records: Records) -> Records:
    """Return the records whose target is not missing."""
    place = places(study.columns)[[column.name for column in study.columns].index(study.target)]
    return records[~np.isnan(records[:, place])]


def _found(**measures: Measure | None) -> dict[str, Measure]:
    return {name: measure for name, measure in measures.items() if measure is not None}
