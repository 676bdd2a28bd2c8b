"""A masked autoregressive network for tables: each column's cells given those of the columns before it.

Never multiplies a weight by a mask: what a mask would cut is not there, so every layer is a plain dense one.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import nn
from torch.nn import functional

from synthfed.protocols.schema import Name, Records
from synthfed.protocols.study import Study

from ..api import Array, Given
from ..domains.encoding import Codes
from .likelihoods.held_columns import HeldColumns, drawn, held_names
from .likelihoods.layout import TableOptions, table_ground
from .likelihoods.likelihood import Family, RefinementOptions
from .likelihoods.refinement import AT_ONCE, Public
from .tables.table_anchor import Width


class MadeOptions(TableOptions, RefinementOptions):
    """What a study may set of this model.

    Attributes:
        hidden: units of a layer, shared out evenly among the columns.
        depth: number of hidden layers.
        conditions: categorical columns that come first, so that sampling can fix them; the target if none are named.
    """

    hidden: Width = 96
    depth: Annotated[int, Field(ge=1, le=8)] = 1
    conditions: Annotated[tuple[Name, ...], Field(strict=False)] | None = None


class Autoregression(nn.Module):
    """The logits of each column in turn, from the columns before it in one fixed order.

    A unit of degree k sees the first k columns. The masks of Germain et al. sort units by degree, and
    sorted they are block triangular; here each block row is a dense layer over the units it may see. It
    is the same function, needs half the numbers, and a site takes per-record gradients of it as of any
    dense layers. A number that is always 1 comes before the first column, so that no layer lacks an input.
    """

    def __init__(self, sizes: Sequence[int], hidden: int, depth: int) -> None:
        """Build for columns of ``sizes`` cells, in the order of the factors."""
        super().__init__()
        self.sizes, self.depth = list(sizes), depth
        each = max(1, round(hidden / len(sizes)))
        below = [1, *self.sizes[:-1]]  # numbers that a degree adds to what a unit of it may see
        layers: list[nn.Module] = []
        for _ in range(depth):
            seen = np.cumsum(below).tolist()
            layers += [nn.Linear(fan_in, each) for fan_in in seen]
            below = [each] * len(sizes)
        self.hidden = nn.ModuleList(layers)
        seen = np.cumsum(below).tolist()
        self.heads = nn.ModuleList(nn.Linear(fan_in, size) for fan_in, size in zip(seen, sizes, strict=True))

    def forward(self, batch: torch.Tensor) -> list[torch.Tensor]:
        """Return each column's logits, shapes ``(rows, cells)``.

        Args:
            batch: one-hot records in the order of the factors, shape ``(rows, sum(sizes))``.
        """
        walk = Walk(self, batch[:, :1] * 0 + 1)  # made of the batch, as hooks want an input that asks for a gradient
        return [walk.logits_after(before) for before in (None, *batch.split_with_sizes(self.sizes, 1)[:-1])]


class Walk:
    """One pass through the columns: each step computes only the units that its column adds."""

    def __init__(self, network: Autoregression, ones: torch.Tensor) -> None:
        """Stand before the first column, with ``ones`` of shape ``(rows, 1)`` in its place."""
        self._network, self._degree = network, 0
        self._seen: list[list[torch.Tensor]] = [[ones]]
        self._seen += [[] for _ in range(network.depth)]

    def logits_after(self, before: torch.Tensor | None) -> torch.Tensor:
        """Return the next column's logits, given the cells of the one before it; None before the first."""
        if before is not None:
            self._seen[0].append(before)
        for level in range(self._network.depth):
            layer = self._network.hidden[level * len(self._network.sizes) + self._degree]
            signal = layer(torch.cat(self._seen[level], 1))
            self._seen[level + 1].append(functional.silu(signal))
        logits: torch.Tensor = self._network.heads[self._degree](torch.cat(self._seen[-1], 1))
        self._degree += 1
        return logits


class Made(Family[Autoregression]):
    """The model plugin ``made`` (Germain, Gregor, Murray and Larochelle 2015, arXiv:1502.03509).

    Shapes: a record is one one-hot block per column, ``(rows, width)``; numbers are binned.
    Loss: minus the log-likelihood of each record's cells, the sum over columns of a softmax given the
    columns before, in nats; exact, and its exponential sums to 1 over all rows.
    Private: encoding, statistics of the anchor, the gradient of that loss.
    Public: the warm start on the anchor's records; drawing one column after the other. Condition columns
    come first, and their joint law is computed exactly, so any of them can be held.
    """

    name: ClassVar[str] = "made"
    Options: type[BaseModel] = MadeOptions

    def prepare(self, study: Study, options: Any) -> None:
        """Take any table; conditions, then the target, then the other columns in their order."""
        self._options: MadeOptions = options
        plugin = f"model {self.name!r}"
        self.layout, self.anchor = table_ground(study, options, plugin)
        names = held_names(study, options.conditions, self.layout)
        self._held = HeldColumns.of(self.layout, names)
        self.conditions, self._law = self._held.names, self._held.combinations
        first = [*self._held.blocks, self.layout.names.index(study.target)]
        self.order = list(dict.fromkeys([*first, *range(len(self.layout.sizes))]))
        self._sizes = [self.layout.sizes[block] for block in self.order]
        self._places = [place for block in self.order for place in self.layout.places(block)]

    def network(self) -> Autoregression:
        """Return a network with fresh weights."""
        return Autoregression(self._sizes, self._options.hidden, self._options.depth)

    def loss(self, network: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Return minus each record's log-likelihood, shape ``(rows,)``."""
        ordered = batch[:, self._places]
        heads = zip(ordered.split_with_sizes(self._sizes, 1), network(ordered), strict=True)
        return -torch.stack([(cells * functional.log_softmax(logits, 1)).sum(1) for cells, logits in heads]).sum(0)

    def draw(self, network: Autoregression, public: Public, rows: int, seed: int, given: Given) -> Records:  # noqa: ARG002
        """Return records drawn column by column after combinations of conditions that have ``given``."""
        rng = np.random.default_rng(seed)
        weights = self.joint(network)
        parts = [
            self._after(network, self._held.draw(self._law, weights, given, min(AT_ONCE, rows - first), rng), rng)
            for first in range(0, rows, AT_ONCE)
        ]
        return np.concatenate([np.empty((0, self.record_width)), *parts])

    def joint(self, network: Autoregression) -> Array:
        """Return the probability of each combination of conditions, shape ``(combinations,)``."""
        combinations = self._law
        walk, surprise = Walk(network, torch.ones(len(combinations), 1)), np.zeros(len(combinations))
        before = None
        for block, codes in zip(self._held.blocks, combinations.T, strict=True):
            logs = torch.log_softmax(walk.logits_after(before).double(), 1).numpy()
            surprise -= logs[np.arange(len(codes)), codes]
            before = self.layout.cells([block], codes[:, None])
        return np.exp(-surprise)

    def _after(self, network: Autoregression, chosen: Codes, rng: np.random.Generator) -> Records:
        codes = np.empty((len(chosen), len(self.order)), dtype=np.int64)
        walk, before = Walk(network, torch.ones(len(chosen), 1)), None
        for place, block in enumerate(self.order):
            logits = walk.logits_after(before)
            codes[:, block] = chosen[:, place] if place < chosen.shape[1] else drawn(logits, rng)
            before = self.layout.cells([block], codes[:, [block]])
        return self.layout.decode(np.empty((len(codes), 0)), codes, rng)
