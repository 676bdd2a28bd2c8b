"""What attacks on a release have in common: who is attacked, what is published instead, and how success is counted.

Never lets a row be attacked that the attacker's own rows or the control's release hold, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from synthfed.plugins.api import Array, Source
from synthfed.protocols.errors import DataError
from synthfed.protocols.schema import Records

from .estimate import subsample

_MAX_TESTED: Final = 1500  # members, and as many others: the work grows with rows times rows
_MAX_PUBLISHED: Final = 5000
_REPLICATES: Final = 200


@dataclass(frozen=True, slots=True)
class Parties:
    """The rows of an attack; all but the synthetic ones are real.

    Attributes:
        members: train rows that are attacked.
        others: as many held-out rows that are attacked.
        reference: held-out rows that the attacker has.
        releases: what is published: ``synthetic``, the ``train`` rows themselves, members among them, or as many
            ``real`` rows that nothing was trained on and nobody attacks.
    """

    members: Records
    others: Records
    reference: Records
    releases: Mapping[str, Records]


def divide(rows: Mapping[Source, Records], rng: np.random.Generator) -> Parties:
    """Return the parties of an attack, drawn from all rows: a third of the held-out ones each.

    Raises:
        DataError: there is no train or synthetic row, or there are fewer than three held-out ones.
    """
    third = min(len(rows["train"]), len(rows["holdout"]) // 3)
    if third == 0 or len(rows["synthetic"]) == 0:
        raise DataError("an attack needs a synthetic and a train row, and at least three held-out rows")
    size = min(_MAX_TESTED, third)
    mixed = rng.permutation(rows["holdout"])
    others, reference, real = mixed[:size], mixed[third : 2 * third], mixed[2 * third : 3 * third]
    train = rng.permutation(rows["train"])
    releases = {
        "synthetic": subsample(rows["synthetic"], _MAX_PUBLISHED, rng),
        "train": train[:_MAX_PUBLISHED],
        "real": real[:_MAX_PUBLISHED],
    }
    return Parties(train[:size], others, reference[:_MAX_PUBLISHED], releases)


def auc(members: Array, others: Array) -> float:
    """Return the chance that a member scores above another record, a tie counted half: the area under the curve.

    >>> auc(np.array([2.0, 3.0]), np.array([1.0, 2.0]))
    0.875
    """
    return float(_wins(members, others).mean())


def auc_replicates(members: Array, others: Array, rng: np.random.Generator) -> Array:
    """Return the area under the curve of each bootstrap resample of both groups, shape ``(replicates,)``."""
    drawn = [
        auc(*(scores[rng.integers(len(scores), size=len(scores))] for scores in (members, others)))
        for _ in range(_REPLICATES)
    ]
    return np.array(drawn)


def _wins(members: Array, others: Array) -> Array:
    """Return for each member the share of others that score below it, ties counted half."""
    ranked = np.sort(others)
    below, up_to = (np.searchsorted(ranked, members, side=side) for side in ("left", "right"))
    shares: Array = (below + up_to) / (2 * len(ranked))
    return shares
