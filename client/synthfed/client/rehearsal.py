"""A plugin's private part tried on made-up rows, before a record is near: does it keep the records of a batch apart?

Never sees a record, and proves nothing of code that mixes them under other weights or rows than these.
"""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Final

import numpy as np
import torch

from synthfed.plugins.api import Array, LocalPart, Payload, PrivatePart
from synthfed.protocols.errors import UnsupportedMechanism
from synthfed.protocols.schema import Column
from synthfed.protocols.sums import Sum

from .coupling import LOOKED_AT, check_apart, check_rows_apart, made_up, made_up_records
from .train import contributions, load, record_gradients, refuse_batch_layers

_ALIKE: Final = 1e-6  # relative: autograd sums a gradient up in another order


def check_uncoupled(private: PrivatePart, each: Sum, width: int) -> None:
    """Try on made-up rows and weights whether a gradient sum's loss keeps the records of a batch apart.

    Args:
        private: the plugin's private part.
        each: a gradient sum.
        width: of an encoded row.

    Raises:
        UnsupportedMechanism: one record acts on another's loss, in the module or beside it, or what the core would
            clip as a record's gradient is not that of the record's loss.
    """
    payload, rows, coins = made_up(each, width, np.random.default_rng(0))
    module = load(private.module(each.name), payload)
    refuse_batch_layers(each, module)
    check_apart(private, each, module, rows, coins)
    _check_own_gradients(private, each, payload, rows, coins)


def check_rows(private: PrivatePart, statistics: Sequence[Sum], columns: Sequence[Column]) -> None:
    """Try on made-up records whether encoding and statistics keep the records of a batch apart.

    Args:
        private: the plugin's private part.
        statistics: its sums of that family.
        columns: the study's.

    Raises:
        UnsupportedMechanism: one record acts on another's vector or contribution, or chance does.
    """
    rng = np.random.default_rng(0)
    records, others = made_up_records(columns, rng), made_up_records(columns, rng)
    check_rows_apart("the encoding", private.encode, records, others)
    rows, beside = private.encode(records), private.encode(others)
    for each in statistics:
        payload, _, _ = made_up(each, rows.shape[1], rng)
        check_rows_apart(f"statistic {each.name!r}", partial(contributions, private, each, payload), rows, beside)


def check_moves_apart(private: PrivatePart, local: LocalPart, each: Sum, width: int) -> None:
    """Try on made-up rows whether what moves between two steps depends on rows that a loss has met.

    Both parts may share an object of the plugin's. A row kept there would reach the next step's weights past the
    noise, and no accounting covers that.

    Args:
        private: the plugin's private part.
        local: its local part, of the same model.
        each: a gradient sum of several steps.
        width: of an encoded row.

    Raises:
        UnsupportedMechanism: it does, or chance has a part in it.
    """
    rng = np.random.default_rng(0)
    payload, rows, coins = made_up(each, width, rng)
    noised, moves = rng.normal(size=each.dim), []
    for met in (rows, 1 - rows):
        record_gradients(private, each, payload, met, coins)
        moves.append({name: np.array(array) for name, array in local.advance(each.name, payload, noised, 0).items()})
    first, second = moves
    is_same = [(name, array.shape) for name, array in first.items()] == [
        (name, array.shape) for name, array in second.items()
    ]
    if not is_same or not all(
        np.allclose(array, second[name], rtol=_ALIKE, atol=_ALIKE, equal_nan=True) for name, array in first.items()
    ):
        raise UnsupportedMechanism(
            f"between two steps of {each.name!r} the payload moves by more than the arguments of `advance`, by records "
            "met before or by chance; keep nothing of a batch, and take chance from the step"
        )


def _check_own_gradients(private: PrivatePart, each: Sum, payload: Payload, rows: Array, coins: Array) -> None:
    """Refuse a module in which a slot's gradient, as the hooks take it, is not the gradient of that slot's loss.

    A layer that meets the records in another order, or a rule for its gradient that mixes them, would put parts of
    several units into what is clipped as one.
    """
    module = load(private.module(each.name), payload)
    records, tossed = torch.tensor(rows, requires_grad=True), torch.tensor(coins)
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    losses = private.loss(each.name, module, records, tossed)
    with warnings.catch_warnings():
        # A loss may cut its records off the graph; torch warns that hooks fire all the same.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        taken = record_gradients(private, each, payload, rows, coins)
    for index in LOOKED_AT:
        parts = torch.autograd.grad(losses[index], trained, retain_graph=True, materialize_grads=True)
        own = torch.cat([part.flatten() for part in parts]).numpy()
        hooked = taken.weighted_sum(torch.nn.functional.one_hot(torch.tensor(index), len(rows)).double())
        if not np.allclose(hooked, own, rtol=_ALIKE, atol=_ALIKE * np.abs(own).max(initial=0.0), equal_nan=True):
            raise UnsupportedMechanism(
                f"the gradient of {each.name!r} that is taken for a record is not that of the record's loss; use every "
                "parameter through its layer alone, on one row for each record in the batch's order"
            )
