"""Whether synthetic rows tell who was in the training data: attacks by distance and by density ratio.

Never names a person or a row: it gives how well an attack does on many.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from synthfed.plugins.api import Array, Source
from synthfed.protocols.schema import Records
from synthfed.protocols.study import Study

from .attacks import Parties, auc, auc_replicates, divide
from .distances import features_of, nearest
from .estimate import LEVEL, Estimate, interval

_LEAST_DISTANCE: Final = 1e-12  # squared: below it two rows are one
_FOUND: Final = "the attack tells records that were trained on from others better than chance"


class Membership:
    """Membership inference: the area under the ROC curve of an attack, 0.5 for guessing, 1 for certainty.

    The attacker knows a whole record, holds the synthetic rows, and has other real rows of the same
    population. They look how near the nearest synthetic row is (``membership-distance``; Chen et al. 2020,
    GAN-Leaks, doi:10.1145/3372297.3417238), or how dense synthetic rows lie around the record in comparison with
    real ones (``membership-ratio``; van Breugel et al. 2023, DOMIAS, arXiv:2302.12580, here with densities by the
    nearest neighbour, which sees a single copy).

    The baseline is what they reach if the train rows themselves are published, the control what they reach against
    real rows that are neither tested nor trained on. An attack that fails proves nothing of a better one: the
    promise of differential privacy bounds them all.
    """

    name = "membership"
    question = "Can somebody who knows a whole record tell from the synthetic rows whether it was trained on?"
    needs: tuple[Source, ...] = ("synthetic", "train", "holdout")

    def unfit(self, study: Study) -> str:  # noqa: ARG002
        """Return that any records can be attacked: an empty text."""
        return ""

    def run(self, study: Study, rows: Mapping[Source, Records], seed: int) -> tuple[Estimate, ...]:
        """Return the areas under both attacks' curves.

        Raises:
            DataError: there are too few rows to attack.
        """
        rng = np.random.default_rng(seed)
        parties = divide(rows, rng)
        tried = {name: _attack(study, parties, release) for name, release in parties.releases.items()}
        return tuple(_estimate(name, {each: tried[each][name] for each in tried}, rng) for name in tried["synthetic"])


@dataclass(frozen=True, slots=True)
class _Scores:
    """How much an attack takes each record for a member: of members and of others."""

    members: Array
    others: Array


def _attack(study: Study, parties: Parties, release: Records) -> dict[str, _Scores]:
    public, reference = features_of(study, release), features_of(study, parties.reference)
    scores: dict[str, list[Array]] = {"membership-ratio": [], "membership-distance": []}
    for tested in (parties.members, parties.others):
        points = features_of(study, tested)
        near, usual = (_log(nearest(points, table)) for table in (public, reference))
        scores["membership-ratio"].append(usual - near)
        scores["membership-distance"].append(-near)
    return {name: _Scores(*pair) for name, pair in scores.items()}


def _log(squared: Array) -> Array:
    logs: Array = np.log(np.maximum(squared, _LEAST_DISTANCE))
    return logs


def _estimate(name: str, tried: Mapping[str, _Scores], rng: np.random.Generator) -> Estimate:
    value, baseline, control = (auc(tried[each].members, tried[each].others) for each in ("synthetic", "train", "real"))
    low, high = interval(value, auc_replicates(tried["synthetic"].members, tried["synthetic"].others, rng))
    return Estimate(name, value, low, high, LEVEL, baseline, control, warning=_FOUND if low > 0.5 else "")
