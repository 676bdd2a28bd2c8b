"""Whether a plugin lets the records of one batch act on each other, found out on made-up rows.

Never sees a record, and proves nothing of code that couples under other weights or rows than these.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from synthfed.plugins.api import Array, Payload, PrivatePart
from synthfed.protocols.errors import UnsupportedMechanism
from synthfed.protocols.schema import Categorical, Column, Integer, Records, width_of
from synthfed.protocols.sums import TILE, Sum

from .residue import NoCoins

LOOKED_AT: Final = (0, 1, TILE // 2 + 1, TILE - 1)
"""Records of a tile whose losses and gradients are looked at one by one."""

_TOLERANCE: Final = 1e-9
_EXCHANGES: Final = 8
_MISSING: Final = 0.1


def batch_layers(module: nn.Module) -> list[str]:
    """Return the layers that put something of the whole batch into each record's output, trained or frozen.

    Opacus looks at trained layers only; a frozen batch normalisation couples the records just as well.
    """
    return [
        f"{name or 'the module'} ({type(part).__name__})"
        for name, part in module.named_modules()
        if isinstance(part, _BatchNorm) or (isinstance(part, _InstanceNorm) and part.track_running_stats)
    ]


def made_up(each: Sum, width: int, rng: np.random.Generator) -> tuple[Payload, Array, Array]:
    """Return weights that are not zero, rows within [0, 1] and coins, to try a loss on.

    Weights are scaled to their number of inputs, so that a deep network neither dies out nor overflows.
    """
    payload = {
        name: (rng.normal(size=shape) / np.sqrt(max(1, int(np.prod(shape[1:]))))).astype(np.float32)
        for name, shape in each.payload
    }
    return payload, rng.random((TILE, width)), rng.uniform(0.01, 0.99, (TILE, each.coins))


def made_up_records(columns: Sequence[Column], rng: np.random.Generator) -> Records:
    """Return records within a schema's bounds, some values missing where they may be, shape ``(TILE, width)``."""
    parts = []
    for column in columns:
        shape = (TILE, width_of(column))
        if isinstance(column, Categorical):
            values = rng.integers(len(column.values), size=shape).astype(np.float64)
        elif isinstance(column, Integer):
            values = rng.integers(column.lower, column.upper, size=shape, endpoint=True).astype(np.float64)
        else:
            values = rng.uniform(column.lower, column.upper, shape)
        if column.missing:
            values[rng.random(shape) < _MISSING] = np.nan
        parts.append(values)
    return np.concatenate(parts, axis=1)


def check_rows_apart(what: str, of: Callable[[Array], Array], rows: Array, others: Array) -> None:
    """Refuse a function of rows in which one row has a part in another's answer, or chance has.

    Again and again a half of the rows, chosen at random, gives way to other ones; the answers to those that stay
    must stay, too.

    Args:
        what: the function in words, for the refusal.
        of: returns one answer for each row, shape ``(TILE, numbers)``.
        rows: made up, shape ``(TILE, width)``.
        others: further ones, of the same shape.

    Raises:
        UnsupportedMechanism: it is coupled, or tosses coins.
    """
    rng = np.random.default_rng(0)  # public: which rows give way does not matter
    with NoCoins():  # type: ignore[no-untyped-call]
        whole = np.array(of(rows.copy()))
        for _ in range(_EXCHANGES):
            stays = rng.random(len(rows)) < 0.5
            mixed = np.array(of(np.where(stays[:, None], rows, others)))
            if mixed.shape != whole.shape or not np.allclose(
                mixed[stays], whole[stays], rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True
            ):
                raise UnsupportedMechanism(
                    f"{what} gives for one record what depends on other records of its batch, or on chance, so that "
                    "no clipping could bound one unit; compute it row by row, and scale by the schema"
                )


def check_apart(private: PrivatePart, each: Sum, module: nn.Module, rows: Array, coins: Array) -> None:
    """Refuse a loss of one record that another record, or another record's coins, has a part in.

    For a few records two things are looked at: the derivative of the loss by all other rows and coins, and the
    loss itself beside other rows and coins, which also shows what was detached from the graph.

    Args:
        private: the plugin's private part.
        each: a gradient sum.
        module: with weights that are not zero.
        rows: encoded, made up, shape ``(TILE, width)``.
        coins: shape ``(TILE, each.coins)``.

    Raises:
        UnsupportedMechanism: it is coupled, or tosses coins of its own.
    """
    records, tossed = torch.tensor(rows, requires_grad=True), torch.tensor(coins, requires_grad=True)
    with NoCoins():  # type: ignore[no-untyped-call]
        losses = private.loss(each.name, module, records, tossed)
        for index in LOOKED_AT:
            parts = torch.autograd.grad(losses[index], (records, tossed), retain_graph=True, allow_unused=True)
            others = torch.arange(TILE) != index
            if any(part is not None and bool((part[others].nan_to_num() != 0).any()) for part in parts):
                raise _coupled(each)
            beside = others.double()[:, None]
            alone = private.loss(
                each.name,
                module,
                (records + beside * (records.flip(0) - records)).detach().requires_grad_(),
                (tossed + beside * (tossed.flip(0) - tossed)).detach(),
            )
            if not torch.isclose(alone[index], losses[index], rtol=_TOLERANCE, atol=0.0, equal_nan=True):
                raise _coupled(each)


def _coupled(each: Sum) -> UnsupportedMechanism:
    return UnsupportedMechanism(
        f"the loss of {each.name!r} for one record depends on the other records of its batch, so that no clipping "
        "could bound one unit; take normalisation and means over the batch out of the module and the loss"
    )
