"""Checks of a private part's statistics: one bounded contribution a record, its own, whatever the record.

Never takes the core's clipping for an excuse: a contribution that depends on other records is not bounded by it.
"""

from typing import Final

import numpy as np

from .check import check
from .encoding import strange_records
from .trial import Trial, promise

_GROUND: Final = ("encoding-has-one-vector-a-record", "a-plan-exists")


def statistic_has_one_row_a_record(trial: Trial) -> None:
    """A statistic is one finite vector of the declared length for each record."""
    for kind in trial.kinds("statistic"):
        rows = trial.statistic(kind.sum.name, trial.batch)
        promise(
            rows.shape == (len(trial.batch), kind.sum.dim),
            f"statistic {kind.sum.name!r} has shape {rows.shape}, declared {(len(trial.batch), kind.sum.dim)}",
        )
        promise(np.isfinite(rows).all(), f"statistic {kind.sum.name!r} of ordinary records is not finite")


def statistic_of_a_unit_is_its_own(trial: Trial) -> None:
    """A record's contribution does not change with the records beside it, nor with its place."""
    for kind in trial.kinds("statistic"):
        whole = trial.statistic(kind.sum.name, trial.batch)
        mirrored = trial.statistic(kind.sum.name, trial.batch[::-1])[::-1]
        others = trial.batch.copy()
        others[1:] = others[:0:-1] * 0.5
        first = trial.statistic(kind.sum.name, others)[0]
        close = np.allclose(whole, mirrored, rtol=1e-9, atol=1e-12) and np.allclose(whole[0], first, 1e-9, 1e-12)
        promise(
            close,
            f"statistic {kind.sum.name!r} of a record depends on the others or on its place; compute it row by row",
        )


def statistic_repeats(trial: Trial) -> None:
    """The same record gives the same contribution every time."""
    for kind in trial.kinds("statistic"):
        private = trial.model().private()
        first = trial.statistic(kind.sum.name, trial.batch, private)
        promise(
            np.array_equal(first, trial.statistic(kind.sum.name, trial.batch, private)),
            f"statistic {kind.sum.name!r} differs the second time; it must toss no coin and keep nothing",
        )


def statistic_is_total(trial: Trial) -> None:
    """A record that a damaged file may bring gives a contribution, and changes no other."""
    strange = trial.model().private().encode(strange_records(trial.case.width))
    for kind in trial.kinds("statistic"):
        beside = trial.statistic(kind.sum.name, np.concatenate([trial.batch, strange]))[: len(trial.batch)]
        alone = trial.statistic(kind.sum.name, trial.batch)
        promise(
            np.allclose(beside, alone, rtol=1e-9, atol=1e-12),
            f"statistic {kind.sum.name!r} of ordinary records changes beside a strange one",
        )


def statistic_leaves_its_input_alone(trial: Trial) -> None:
    """A statistic writes into neither records nor payload."""
    for kind in trial.kinds("statistic"):
        batch = trial.batch.copy()
        trial.statistic(kind.sum.name, batch)
        promise(np.array_equal(batch, trial.batch), f"statistic {kind.sum.name!r} changes its batch; work on a copy")


def statistic_fits_its_bound(trial: Trial) -> None:
    """Most contributions lie within the declared bound, and they use a good part of it."""
    for kind in trial.kinds("statistic"):
        payload = trial.asked(kind.sum.name)
        if payload is None:
            continue
        norms = np.linalg.norm(trial.statistic(kind.sum.name, trial.batch, payload=payload), axis=1)
        inside = float(np.mean(norms <= kind.sum.clip_norm * (1 + 1e-6)))
        promise(
            inside >= 0.5,
            f"statistic {kind.sum.name!r}: {1 - inside:.0%} of ordinary records are clipped; scale contributions down",
        )
        promise(
            norms.max() >= 0.02 * kind.sum.clip_norm,
            f"statistic {kind.sum.name!r} uses {norms.max() / kind.sum.clip_norm:.2g} of its bound, so noise drowns "
            "it; lower clip_norm or scale contributions up",
        )


def empty_sample_gives_zero(trial: Trial) -> None:
    """Where no unit was sampled the core's sum is zero, of the declared length."""
    for kind in trial.plan.kinds:
        total = trial.summed(kind, trial.batch[:0])
        promise(total.shape == (kind.sum.dim,), f"an empty sample of {kind.sum.name!r} has shape {total.shape}")
        promise(not total.any(), f"an empty sample of {kind.sum.name!r} does not give zero")


def one_unit_moves_a_sum_by_its_bound_at_most(trial: Trial) -> None:
    """Adding any one record, strange ones among them, moves the core's sum by at most the declared bound."""
    strange = trial.model().private().encode(strange_records(trial.case.width))
    for kind in trial.plan.kinds:
        without = trial.summed(kind, trial.batch[1:9])
        for one in (*trial.batch[:1], *strange):
            # In the first slot, the others move by one: their coins must not count, so they keep their own.
            coins = trial.coins(kind.sum, kind.slots)
            shifted = np.concatenate([coins[-1:], coins[:-1]])
            beside = trial.summed(kind, np.concatenate([one[None], trial.batch[1:9]]), shifted)
            moved = float(np.linalg.norm(beside - without))
            promise(
                moved <= kind.sum.clip_norm * (1 + 1e-6),
                f"one record moves {kind.sum.name!r} by {moved / kind.sum.clip_norm:.3g} times its bound: "
                "its presence changes what others contribute",
            )


CHECKS: Final = (
    check(statistic_has_one_row_a_record, *_GROUND),
    check(statistic_of_a_unit_is_its_own, "statistic-has-one-row-a-record", is_privacy=True),
    check(statistic_repeats, "statistic-has-one-row-a-record", is_privacy=True),
    check(statistic_is_total, "statistic-of-a-unit-is-its-own", "encoding-is-total", is_privacy=True),
    check(statistic_leaves_its_input_alone, "statistic-has-one-row-a-record"),
    check(statistic_fits_its_bound, "trains-to-the-end"),
    check(empty_sample_gives_zero, "statistic-has-one-row-a-record", "core-accepts-every-gradient", is_privacy=True),
    check(
        one_unit_moves_a_sum_by_its_bound_at_most,
        "statistic-is-total",
        "gradient-of-a-unit-is-its-own",
        is_privacy=True,
    ),
)
