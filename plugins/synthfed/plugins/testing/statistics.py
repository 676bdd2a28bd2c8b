"""Checks of a private part's statistics: one bounded contribution a record, its own, whatever the record.

Never takes the core's clipping for an excuse: a contribution that depends on other records is not bounded by it.
"""

from typing import Final

import numpy as np

from .check import check, promise
from .encoding import strange_records
from .surroundings import noting_randomness
from .trial import Trial

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
        mirrored = trial.statistic(kind.sum.name, trial.batch[::-1].copy())[::-1]
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


def statistic_draws_nothing(trial: Trial) -> None:
    """Neither encoding nor a statistic moves a global generator."""
    private = trial.model().private()
    with noting_randomness() as moved:
        batch = private.encode(trial.records)
        for kind in trial.kinds("statistic"):
            trial.statistic(kind.sum.name, batch, private)
    promise(not moved, f"encoding or a statistic draws from {', '.join(moved)}; it must toss no coin")


def statistic_is_total(trial: Trial) -> None:
    """A record that a damaged file may bring gives a contribution, and changes no other."""
    private = trial.model().private()
    strange = private.encode(strange_records(trial.records))
    for kind in trial.kinds("statistic"):
        few = len(trial.batch) - len(strange)
        beside = trial.statistic(kind.sum.name, np.concatenate([trial.batch[:few], strange]), private)
        alone = trial.statistic(kind.sum.name, trial.batch, private)
        promise(
            np.allclose(beside[:few], alone[:few], rtol=1e-9, atol=1e-12),
            f"statistic {kind.sum.name!r} of ordinary records changes beside a strange one",
        )


def statistic_leaves_its_input_alone(trial: Trial) -> None:
    """A statistic writes into neither records nor payload."""
    for kind in trial.kinds("statistic"):
        name, batch = kind.sum.name, trial.batch
        payload = {key: array.copy() for key, array in trial.payloads[name].items()}
        trial.statistic(name, batch, payload=payload)
        promise(np.array_equal(batch, trial.batch), f"statistic {name!r} changes its batch; work on a copy")
        same = all(np.array_equal(array, trial.payloads[name][key]) for key, array in payload.items())
        promise(same, f"statistic {name!r} changes its payload; work on a copy")


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


def empty_sample_is_survived(trial: Trial) -> None:
    """Where no unit was sampled the core's sum is still made: the private part meets padding alone."""
    for kind in trial.plan.kinds:
        total = trial.summed(kind, trial.batch[:0])
        promise(not total.any(), f"an empty sample of {kind.sum.name!r} does not give zero")


def one_unit_adds_its_own_and_no_more(trial: Trial) -> None:
    """In the core's sum one record more adds exactly what it gives alone, among padding and in any place."""
    others, one = trial.batch[1:9], trial.batch[:1]
    for kind in trial.plan.kinds:
        coins = np.repeat(trial.coins(kind.sum, 1), kind.slots, axis=0)
        alone, without = trial.summed(kind, one, coins), trial.summed(kind, others, coins)
        for both in (np.concatenate([one, others]), np.concatenate([others, one])):
            promise(
                np.allclose(trial.summed(kind, both, coins), without + alone, rtol=1e-6, atol=1e-9),
                f"one record more changes what others contribute to {kind.sum.name!r}; never count, average or "
                "normalise over a batch",
            )


CHECKS: Final = (
    check(statistic_has_one_row_a_record, *_GROUND),
    check(statistic_repeats, "statistic-has-one-row-a-record", is_privacy=True),
    check(statistic_draws_nothing, "statistic-has-one-row-a-record", is_privacy=True),
    check(statistic_of_a_unit_is_its_own, "statistic-repeats", is_privacy=True),
    check(statistic_is_total, "statistic-of-a-unit-is-its-own", "encoding-is-total", is_privacy=True),
    check(statistic_leaves_its_input_alone, "statistic-has-one-row-a-record"),
    check(statistic_fits_its_bound, "trains-to-the-end"),
    check(empty_sample_is_survived, "statistic-has-one-row-a-record", "core-accepts-every-gradient", is_privacy=True),
    check(
        one_unit_adds_its_own_and_no_more,
        "statistic-is-total",
        "gradient-of-a-unit-is-its-own",
        "empty-sample-is-survived",
        is_privacy=True,
    ),
)
