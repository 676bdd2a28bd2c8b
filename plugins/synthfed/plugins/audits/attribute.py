"""Whether synthetic rows help to guess what an attacker does not know of somebody who was trained on.

Never counts what is true of everybody: only what is guessed better of people who took part than of others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from synthfed.plugins.api import Array, Source
from synthfed.protocols.schema import Categorical, Records, Scalar
from synthfed.protocols.study import Study

from ..domains.encoding import scalars
from .attacks import divide
from .distances import BLOCK, squared_distances
from .estimate import LEVEL, Estimate, interval, resample_counts, unfit_for_tables
from .features import table_features, unit_scale

_MAX_SECRETS: Final = 12  # columns that are guessed, drawn by the seed where there are more
_NEAR: Final = 0.05  # of a column's scale: a number guessed so closely counts as guessed
_REPLICATES: Final = 200
_FOUND: Final = "what an attacker does not know is guessed better of people who were trained on than of others"


class Attribute:
    """Attribute inference: how much more often a secret value is guessed of train records than of held-out ones.

    The attacker knows all of a record but one column and takes that column from the synthetic row that is nearest in
    the others (Yeom et al. 2018, Privacy Risk in Machine Learning, doi:10.1109/CSF.2018.00027, experiment 2). A
    category must be met, a number to 5 % of its scale. ``attribute-advantage`` is the mean over columns, each of them
    the secret once: the share guessed of train records less that of held-out ones. What is guessed equally well of
    both is knowledge about the population, which synthetic rows are there to give.

    The baseline publishes the train rows themselves, the control other real rows. 0 is no advantage.
    """

    name = "attribute"
    question = "Can an unknown value of somebody who was trained on be guessed better than of somebody who was not?"
    needs: tuple[Source, ...] = ("synthetic", "train", "holdout")

    def unfit(self, study: Study) -> str:
        """Return why single values of a study's records are no secrets to guess, empty where they are."""
        return unfit_for_tables(study)

    def run(self, study: Study, rows: Mapping[Source, Records], seed: int) -> tuple[Estimate, ...]:
        """Return the advantage.

        Raises:
            DataError: there are too few rows to attack.
        """
        rng = np.random.default_rng(seed)
        parties, columns = divide(rows, rng), scalars(study.columns, "the attribute audit")
        count = min(_MAX_SECRETS, len(columns))
        secrets = np.sort(rng.choice(len(columns), count, replace=False)).tolist()
        tested = np.concatenate([parties.members, parties.others])
        hits = {name: _guessed(columns, secrets, tested, each) for name, each in parties.releases.items()}
        size = len(parties.members)
        value, baseline, control = (_advantage(hits[each], size) for each in ("synthetic", "train", "real"))
        weights = [resample_counts(size, _REPLICATES, rng) for _ in range(2)]
        members, others = hits["synthetic"][:size], hits["synthetic"][size:]
        low, high = interval(value, (weights[0] @ members - weights[1] @ others) / size, least=-1.0)
        warning = _FOUND if low > max(0.0, control) else ""
        return (Estimate("attribute-advantage", value, low, high, LEVEL, baseline, control, warning=warning),)


def _advantage(hits: Array, members: int) -> float:
    return float(hits[:members].mean() - hits[members:].mean())


def _guessed(columns: Sequence[Scalar], secrets: Sequence[int], tested: Records, release: Records) -> Array:
    """Return for each tested record the share of secrets that the nearest published row gives away, ``(rows,)``."""
    parts = [
        (table_features([columns[i]], tested[:, [i]]), table_features([columns[i]], release[:, [i]])) for i in secrets
    ]
    everything = table_features(columns, tested), table_features(columns, release)
    hits = np.zeros(len(tested))
    for start in range(0, len(tested), BLOCK):
        block = slice(start, start + BLOCK)
        whole = squared_distances(everything[0][block], everything[1])
        for i, (known, public) in zip(secrets, parts, strict=True):
            guess = release[np.argmin(whole - squared_distances(known[block], public), axis=1), i]
            hits[block] += _is_met(columns[i], tested[block, i], guess)
    return hits / len(secrets)


def _is_met(column: Scalar, truth: Array, guess: Array) -> npt.NDArray[np.bool_]:
    if isinstance(column, Categorical):
        met = truth == guess
    else:
        met = np.abs(unit_scale(column, truth) - unit_scale(column, guess)) <= _NEAR
    return np.asarray(met | (np.isnan(truth) & np.isnan(guess)))
