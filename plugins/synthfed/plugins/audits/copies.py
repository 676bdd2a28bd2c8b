"""Whether synthetic rows are copies of real ones, or lie nearer to those that were trained on than to others.

Never takes few copies for a proof of privacy: they are a sign of over-fitting, where they are many.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np

from synthfed.plugins.api import Array, Source
from synthfed.protocols.errors import DataError
from synthfed.protocols.schema import Records
from synthfed.protocols.study import Study

from .distances import features_of, nearest
from .estimate import LEVEL, Estimate, interval, resample_counts, subsample

_MAX_ROWS: Final = 3000  # of each table: the work grows with its square
_REPLICATES: Final = 200
_TIE: Final = 1e-9  # of squared distances
_COPIED: Final = "more synthetic rows are copies of rows trained on than other real rows are"
_NEARER: Final = "synthetic rows lie nearer to rows trained on than to others: the model may have learnt some by heart"


class Copies:
    """Signs of over-fitting, not of privacy: exact copies, and distances to the closest record (DCR).

    ``copies`` is the share of synthetic rows that equal a train row in every column. ``nearer-to-train`` is the share
    that lie nearer to a train row than to any of as many held-out rows, ties counted half: 0.5 where nothing was
    learnt by heart. A low share proves nothing about attacks (Yao et al. 2025, The DCR Delusion, arXiv:2505.01524).

    The baseline is the train rows themselves as a release, the control half of the held-out rows, compared with as many
    of the other half and of the train rows.
    """

    name = "copies"
    question = "Are synthetic rows copies of rows that were trained on, or suspiciously near to them?"
    needs: tuple[Source, ...] = ("synthetic", "train", "holdout")

    def unfit(self, study: Study) -> str:  # noqa: ARG002
        """Return that any records can be copied: an empty text."""
        return ""

    def run(self, study: Study, rows: Mapping[Source, Records], seed: int) -> tuple[Estimate, ...]:
        """Return both shares.

        Raises:
            DataError: there is no synthetic row, or there are fewer than two train or held-out ones.
        """
        rng = np.random.default_rng(seed)
        if len(rows["synthetic"]) == 0 or min(len(rows["train"]), len(rows["holdout"])) < 2:
            raise DataError("the copies audit needs a synthetic row, and at least two train and two held-out rows")
        size = min(_MAX_ROWS, len(rows["train"]), len(rows["holdout"]))
        train, holdout = (rng.permutation(rows[source])[:size] for source in ("train", "holdout"))
        synthetic, half = subsample(rows["synthetic"], _MAX_ROWS, rng), size // 2
        nearer = [_nearer(study, release, train, holdout) for release in (synthetic, train)]
        nearer.append(_nearer(study, holdout[half:], train[:half], holdout[:half]))
        everybody = _keys(rows["train"])
        copied = [_copied(release, everybody) for release in (synthetic, train, holdout)]
        return (
            _estimate("nearer-to-train", nearer, _NEARER, rng, chance=0.5),
            _estimate("copies", copied, _COPIED, rng),
        )


def _nearer(study: Study, release: Records, train: Records, holdout: Records) -> Array:
    """Return 1 for each row that lies nearer to a train row than to a held-out one, one half where equally near."""
    points = features_of(study, release)
    gap = nearest(points, features_of(study, holdout)) - nearest(points, features_of(study, train))
    shares: Array = np.where(np.abs(gap) <= _TIE, 0.5, gap > 0).astype(np.float64)
    return shares


def _keys(records: Records) -> frozenset[bytes]:
    # One spelling of zero and of a missing value, so that equal rows have equal bytes.
    plain = np.where(np.isnan(records), np.nan, records + 0.0)
    return frozenset(row.tobytes() for row in plain)


def _copied(release: Records, train: frozenset[bytes]) -> Array:
    plain = np.where(np.isnan(release), np.nan, release + 0.0)
    return np.array([float(row.tobytes() in train) for row in plain])


def _estimate(
    name: str, parts: list[Array], warning: str, rng: np.random.Generator, chance: float | None = None
) -> Estimate:
    """Return a share with its interval, from the parts of synthetic rows, of the baseline and of the control."""
    value, baseline, control = (float(part.mean()) for part in parts)
    replicates = resample_counts(len(parts[0]), _REPLICATES, rng) @ parts[0] / len(parts[0])
    low, high = interval(value, replicates)
    is_much = low > (control if chance is None else max(chance, control))
    return Estimate(name, value, low, high, LEVEL, baseline, control, warning=warning if is_much else "")
