"""Checks of a private part's gradients: modules that mix no records, losses of one record each, coins of its own.

Never computes a gradient but by the very core that a site runs.
"""

from typing import Final

import numpy as np
import torch

from synthfed.protocols.errors import UnsupportedMechanism
from synthfed.protocols.sums import Kind

from ..api import Array
from .check import check, promise
from .core import check_uncoupled, module_faults
from .encoding import strange_records
from .surroundings import noting_randomness
from .trial import Trial

_GROUND: Final = ("encoding-has-one-vector-a-record", "modules-match-their-sums")
_ACCEPTED: Final = ("core-accepts-every-gradient",)
FEW: Final = 6
"""Records of a batch: each of them is left out once."""


def module_is_valid(trial: Trial) -> None:
    """No layer mixes the records of a batch or lacks per-record gradients, by Opacus' own validator."""
    private = trial.model().private()
    for kind in trial.kinds("gradient"):
        faults = module_faults()(private.module(kind.sum.name).train())
        promise(not faults, f"the module of {kind.sum.name!r} is refused: {(faults or [''])[0]}")


def modules_are_alike(trial: Trial) -> None:
    """Two modules of a sum have the same parts and buffers: nothing but the payload tells them apart."""
    private = trial.model().private()
    for kind in trial.kinds("gradient"):
        one, other = private.module(kind.sum.name), private.module(kind.sum.name)
        promise(one is not other, f"`module` returns the same module twice for {kind.sum.name!r}; make a fresh one")
        same = all(
            torch.equal(mine, theirs) for mine, theirs in zip(one.buffers(), other.buffers(), strict=False)
        ) and [name for name, _ in one.named_buffers()] == [name for name, _ in other.named_buffers()]
        promise(same, f"two modules of {kind.sum.name!r} have different buffers; derive them from the study")


def loss_has_one_number_a_record(trial: Trial) -> None:
    """A loss is one finite number for each record."""
    private = trial.model().private()
    for kind in trial.kinds("gradient"):
        losses = trial.loss(kind.sum, trial.batch, private, trial.module(kind.sum, private))
        promise(
            losses.shape == (len(trial.batch),),
            f"the loss of {kind.sum.name!r} has shape {tuple(losses.shape)}; return one number a record",
        )
        promise(torch.isfinite(losses).all(), f"the loss of {kind.sum.name!r} of ordinary records is not finite")


def loss_draws_nothing(trial: Trial) -> None:
    """A loss draws from no global generator: chance comes from the core's coins."""
    private, batch = trial.model().private(), trial.batch
    for kind in trial.kinds("gradient"):
        module = trial.module(kind.sum, private)
        with noting_randomness() as moved:
            trial.loss(kind.sum, batch, private, module)
        promise(not moved, f"the loss of {kind.sum.name!r} draws from {', '.join(moved)}; declare `coins` and use them")


def core_accepts_every_gradient(trial: Trial) -> None:
    """The core computes every gradient sum of ordinary records."""
    for kind in trial.kinds("gradient"):
        total = trial.summed(kind, trial.batch[:FEW])
        promise(np.isfinite(total).all(), f"the gradient sum {kind.sum.name!r} of ordinary records is not finite")


def gradient_repeats(trial: Trial) -> None:
    """The same records and coins give the same gradient sum every time."""
    for kind in trial.kinds("gradient"):
        private = trial.model().private()
        first = trial.summed(kind, trial.batch[:FEW], private=private)
        promise(
            np.array_equal(first, trial.summed(kind, trial.batch[:FEW], private=private)),
            f"the gradient sum {kind.sum.name!r} differs the second time; the loss must keep nothing",
        )


def gradient_of_a_unit_is_its_own(trial: Trial) -> None:
    """What a record adds to a gradient sum does not change with the records beside it, nor with its place."""
    for kind in trial.kinds("gradient"):
        few, coins = trial.batch[:FEW], _same_coins(trial, kind)
        whole = trial.summed(kind, few, coins)
        alone = [trial.summed(kind, few[i : i + 1], coins) for i in range(FEW)]
        promise(
            np.allclose(whole, np.sum(alone, axis=0), rtol=1e-6, atol=1e-9 * kind.sum.clip_norm),
            f"the gradient of {kind.sum.name!r} for a record depends on the others; no layer or loss may mix records",
        )
        reached = _others_reached(trial, kind)
        promise(
            not reached,
            f"the loss of {kind.sum.name!r} for a record changes with the others; no layer or loss may mix records",
        )


def gradient_is_total(trial: Trial) -> None:
    """A record that a damaged file may bring leaves the other records' gradients as they are."""
    strange = trial.model().private().encode(strange_records(trial.records))
    for kind in trial.kinds("gradient"):
        few, coins = trial.batch[:FEW], _same_coins(trial, kind)
        ordinary, odd = trial.summed(kind, few, coins), trial.summed(kind, strange, coins)
        promise(
            np.allclose(trial.summed(kind, np.concatenate([strange, few]), coins), ordinary + odd, 1e-6, 1e-9),
            f"strange records change the other records' gradients of {kind.sum.name!r}; compute it row by row",
        )


def coins_are_per_unit(trial: Trial) -> None:
    """A record's gradient does not change with the coins of others."""
    for kind in trial.kinds("gradient"):
        coins, others = trial.coins(kind.sum, kind.slots), trial.coins(kind.sum, kind.slots, seed=99)
        others[0] = coins[0]
        first = trial.batch[:1]
        promise(
            np.allclose(trial.summed(kind, first, coins), trial.summed(kind, first, others), rtol=1e-9),
            f"the loss of {kind.sum.name!r} uses other records' coins; use row i of `coins` for record i alone",
        )


def gradient_is_that_of_its_loss(trial: Trial) -> None:
    """What the core takes for a record's gradient is that of the record's loss: an agent tries it before it starts."""
    private = trial.model().private()
    for kind in trial.kinds("gradient"):
        try:
            check_uncoupled()(private, kind.sum, trial.batch.shape[1])
        except UnsupportedMechanism as error:
            promise(False, str(error))


def gradients_are_not_all_zero(trial: Trial) -> None:
    """A gradient sum carries something of the records."""
    for kind in trial.kinds("gradient"):
        total = trial.summed(kind, trial.batch)
        promise(total.any(), f"the gradient sum {kind.sum.name!r} is zero; the loss does not reach the parameters")


def _others_reached(trial: Trial, kind: Kind) -> bool:
    """Return whether some record's loss has a derivative by another record: clipping could hide it in a sum."""
    private = trial.model().private()
    records = torch.tensor(trial.batch, requires_grad=True)
    coins = torch.tensor(trial.coins(kind.sum, len(records)))
    losses = private.loss(kind.sum.name, trial.module(kind.sum, private), records, coins)
    for index in range(FEW):
        (part,) = torch.autograd.grad(losses[index], records, retain_graph=True, allow_unused=True)
        if part is not None and part[torch.arange(len(records)) != index].any():
            return True
    return False


def _same_coins(trial: Trial, kind: Kind) -> Array:
    """Return one draw of coins for every slot, so that a record's do not change with its place."""
    return np.repeat(trial.coins(kind.sum, 1), kind.slots, axis=0)


CHECKS: Final = (
    check(module_is_valid, "modules-match-their-sums", is_privacy=True),
    check(modules_are_alike, "modules-match-their-sums", is_privacy=True),
    check(loss_has_one_number_a_record, *_GROUND, "module-is-valid", is_privacy=True),
    check(loss_draws_nothing, "loss-has-one-number-a-record", is_privacy=True),
    check(core_accepts_every_gradient, "loss-draws-nothing", "modules-are-alike", is_privacy=True),
    check(gradient_repeats, *_ACCEPTED, is_privacy=True),
    check(gradient_of_a_unit_is_its_own, "gradient-repeats", is_privacy=True),
    check(gradient_is_total, "encoding-is-total", "gradient-of-a-unit-is-its-own", is_privacy=True),
    check(coins_are_per_unit, "gradient-repeats", is_privacy=True),
    check(gradient_is_that_of_its_loss, "gradient-is-total", "coins-are-per-unit", is_privacy=True),
    check(gradients_are_not_all_zero, *_ACCEPTED),
)
