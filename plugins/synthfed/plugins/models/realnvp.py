"""A normalising flow for tables: affine couplings of the columns' normal scores.

Never lets one record meet another: no batch statistics, and every layer is dense on one record's vector.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Final

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import nn

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Name, Records
from synthfed.protocols.study import Study

from ..api import Array, Given
from ..domains.encoding import Codes
from .likelihoods.held_columns import HeldColumns
from .likelihoods.layout import TableOptions, table_ground
from .likelihoods.likelihood import Family, RefinementOptions, dense
from .likelihoods.refinement import AT_ONCE, Public
from .tables.table_anchor import Width
from .tables.table_fitting import TableFitting

MOST_STRETCH: Final = 2.0  # of one coupling, as a logarithm
EDGE: Final = 1e-6  # a normal score is that of a share at least so far from 0 and 1
REFERENCE: Final = 8192


class RealNvpOptions(TableOptions, RefinementOptions):
    """What a study may set of this model.

    Attributes:
        hidden: width of the layers inside a coupling.
        depth: number of hidden layers inside a coupling.
        couplings: how many couplings follow each other.
        conditions: categorical columns that the flow is given instead of modelling them; all if none are named.
    """

    hidden: Width = 48
    depth: Annotated[int, Field(ge=1, le=8)] = 1
    couplings: Annotated[int, Field(ge=1, le=32)] = 6
    conditions: Annotated[tuple[Name, ...], Field(strict=False)] | None = None


class Grid(nn.Module):
    """From cells to normal scores by released marginals, which nobody trains."""

    def __init__(self, sizes: Sequence[int]) -> None:
        """Build for columns of ``sizes`` cells, all alike at first."""
        super().__init__()
        self.sizes = list(sizes)
        even = torch.cat([torch.full((size,), 1 / size) for size in sizes])
        self.probabilities = nn.Parameter(even, requires_grad=False)

    def forward(self, cells: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
        """Return each column's normal score, shape ``(rows, columns)``.

        Args:
            cells: one-hot, shape ``(rows, sum(sizes))``.
            parts: where inside its cell each value lies, from 0 to 1, shape ``(rows, columns)``.
        """
        scores = []
        both = zip(cells.split_with_sizes(self.sizes, 1), self.probabilities.split_with_sizes(self.sizes), strict=True)
        for (block, shares), part in zip(both, parts.T, strict=True):
            below = shares.cumsum(0) - shares
            scores.append(torch.special.ndtri((block @ below + part * (block @ shares)).clamp(EDGE, 1 - EDGE)))
        return torch.stack(scores, 1)

    def place(self, shares: Array) -> tuple[Codes, Array]:
        """Return the cell and the place inside it below which such a share of each column lies.

        Args:
            shares: in (0, 1), shape ``(rows, columns)``.
        """
        codes, parts = np.empty(shares.shape, dtype=np.int64), np.empty(shares.shape)
        for i, block in enumerate(self.probabilities.double().split_with_sizes(self.sizes)):
            share = np.maximum(block.numpy(), 1e-12)
            reached = np.concatenate([[0.0], np.cumsum(share)])
            codes[:, i] = np.clip(np.searchsorted(reached, shares[:, i], side="right") - 1, 0, len(share) - 1)
            parts[:, i] = np.clip((shares[:, i] - reached[codes[:, i]]) / share[codes[:, i]], 0, 1)
        return codes, parts


class Couplings(nn.Module):
    """Affine couplings: each moves one half of the numbers by what the other half and the conditions say."""

    def __init__(self, columns: int, given: int, hidden: int, depth: int, couplings: int) -> None:
        """Build for ``columns`` numbers and ``given`` condition cells; at first nothing is moved."""
        super().__init__()
        self.still: list[list[int]] = []
        self.moved: list[list[int]] = []
        layers = []
        for each in range(couplings):
            order = np.random.default_rng(each // 2).permutation(columns).tolist()  # public, and alike everywhere
            first, second = order[: columns // 2], order[columns // 2 :]
            # A lone number has no other half: then both couplings of a pair move it.
            still, moved = (first, second) if each % 2 == 0 or not first else (second, first)
            self.still.append(still)
            self.moved.append(moved)
            last = nn.Linear(hidden, 2 * len(moved))
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
            layers.append(nn.Sequential(dense([1 + len(still) + given, *[hidden] * depth]), nn.SiLU(), last))
        self.layers = nn.ModuleList(layers)

    def forward(self, scores: torch.Tensor, given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the latent of each record and the logarithm of the volume's stretch.

        Args:
            scores: shape ``(rows, columns)``.
            given: condition cells, shape ``(rows, given)``.
        """
        columns, stretched = list(scores.unbind(1)), torch.zeros_like(scores[:, 0])
        for still, moved, layer in zip(self.still, self.moved, self.layers, strict=True):
            stretch, shift = self._motion(layer, columns, still, given)
            for place, column in enumerate(moved):
                columns[column] = columns[column] * stretch[:, place].exp() + shift[:, place]
            stretched = stretched + stretch.sum(1)
        return torch.stack(columns, 1), stretched

    def back(self, latent: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        """Return the scores that ``forward`` takes to a latent, shape ``(rows, columns)``."""
        columns = list(latent.unbind(1))
        for still, moved, layer in reversed(list(zip(self.still, self.moved, self.layers, strict=True))):
            stretch, shift = self._motion(layer, columns, still, given)
            for place, column in enumerate(moved):
                columns[column] = (columns[column] - shift[:, place]) * (-stretch[:, place]).exp()
        return torch.stack(columns, 1)

    @staticmethod
    def _motion(
        layer: nn.Module, columns: Sequence[torch.Tensor], still: Sequence[int], given: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        known = [columns[column][:, None] for column in still]
        ones = columns[0][:, None] * 0 + 1  # an input even where nothing else is known
        raw, shift = layer(torch.cat([ones, *known, given], 1)).chunk(2, 1)
        return MOST_STRETCH * torch.tanh(raw / MOST_STRETCH), shift


class Flow(nn.Module):
    """Normal scores of the columns, then couplings."""

    def __init__(self, sizes: Sequence[int], given: int, options: RealNvpOptions) -> None:
        """Build for columns of ``sizes`` cells and ``given`` condition cells."""
        super().__init__()
        self.grid = Grid(sizes)
        self.couplings = Couplings(len(sizes), given, options.hidden, options.depth, options.couplings)

    def forward(
        self, cells: torch.Tensor, parts: torch.Tensor, given: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return normal scores, latents and the logarithm of the stretch between them."""
        scores = self.grid(cells, parts)
        return scores, *self.couplings(scores, given)


class RealNvp(Family[Flow]):
    """The model plugin ``realnvp`` (Dinh, Sohl-Dickstein and Bengio 2017, arXiv:1605.08803).

    Shapes: a record is its one-hot cells ``(rows, width)``, and for every column where in its cell the
    value begins and how much of the cell it stands for, ``(rows, columns)`` each. A whole number or one
    with few decimals stands for all that are rounded to it, a category or a missing value for its cell;
    one of the core's secret coins per column picks a point there (uniform dequantisation; Uria, Murray
    and Larochelle 2013, arXiv:1306.0186), and the released marginals make it a normal score.
    Loss: minus the log-density of the normal scores under the flow, in nats above that of independent
    columns: 0 where the flow moves nothing.
    Private: encoding, statistics of the anchor, the gradient of that loss by the couplings.
    Public: the marginals on the grid, as frozen parameters; the warm start on the anchor's records, spread
    evenly in their cells; drawing latents and following the flow back. Condition columns (all categories,
    unless some are named) are given to every coupling, which is better than to dequantise them, and are
    drawn together as they occur among the anchor's records; any of them can be held.
    """

    name: ClassVar[str] = "realnvp"
    Options: type[BaseModel] = RealNvpOptions

    def prepare(self, study: Study, options: Any) -> None:
        """Take any table with a column besides the conditions."""
        self._options: RealNvpOptions = options
        plugin = f"model {self.name!r}"
        self.layout, anchor = table_ground(study, options, plugin)
        self.anchor, self._table = anchor, anchor.encoder
        every = [name for name, count in zip(self.layout.names, self.layout.categories, strict=True) if count]
        names = every if options.conditions is None else options.conditions
        self._held = HeldColumns.of(self.layout, names)
        self.conditions = self._held.names
        self._moved = [i for i in range(len(self.layout.sizes)) if i not in self._held.blocks]
        if not self._moved:
            raise ConfigError(
                f"{plugin} needs a column that is no condition; name fewer conditions, or choose another model for "
                "a table without numbers",
                where="model.options: conditions",
            )
        self._cells = [place for block in self._moved for place in self.layout.places(block)]
        self.coins = len(self._moved)

    def network(self) -> Flow:
        """Return a flow that moves nothing yet."""
        return Flow([self.layout.sizes[i] for i in self._moved], len(self._held.places), self._options)

    def encode(self, records: Records) -> Array:
        """Return one-hot cells, then where in them the values begin and what parts they stand for."""
        return np.concatenate([self._table.encode(records), *self._table.inside(records)], axis=1)

    def loss(self, network: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
        """Return minus each record's log-density relative to independent columns, shape ``(rows,)``."""
        width, columns = self.layout.width, len(self.layout.sizes)
        begin, length = batch[:, width : width + columns], batch[:, width + columns :]
        parts = begin[:, self._moved] + coins * length[:, self._moved]
        scores, latent, stretch = network(batch[:, self._cells], parts, batch[:, list(self._held.places)])
        surprise: torch.Tensor = 0.5 * (latent.square() - scores.square()).sum(1) - stretch
        return surprise

    def settle(self, network: Flow, fitting: TableFitting) -> None:
        """Take the released marginals into the grid."""
        network.grid.probabilities.data.copy_(fitting.target[self._cells])

    def trained(self, network: Flow) -> Couplings:
        """Return the couplings."""
        return network.couplings

    def examples(self, records: torch.Tensor) -> torch.Tensor:
        """Return the anchor's records as standing for their whole cells."""
        columns = len(self.layout.sizes)
        return torch.cat([records, torch.zeros(len(records), columns), torch.ones(len(records), columns)], 1)

    def draw(self, network: Flow, public: Public, rows: int, seed: int, given: Given) -> Records:
        """Return records of normal latents, with conditions that have ``given``."""
        rng = np.random.default_rng(seed)
        reference = self._reference(network, public, seed)
        parts = []
        for first in range(0, rows, AT_ONCE):
            chosen = public.draw(self._held, given, min(AT_ONCE, rows - first), rng)
            latent = rng.standard_normal((len(chosen), len(self._moved)))
            parts.append(self._records(network, latent, chosen, reference))
        return np.concatenate([np.empty((0, self.record_width)), *parts])

    def walk(self, network: Flow, public: Public, walks: int, steps: int, seed: int) -> Records:
        """Return records along straight walks between two latents, conditions held."""
        rng = np.random.default_rng(seed)
        ends = rng.standard_normal((2, walks, 1, len(self._moved)))
        way = np.linspace(0, 1, steps)[:, None]
        latent = ((1 - way) * ends[0] + way * ends[1]).reshape(walks * steps, len(self._moved))
        chosen = public.draw(self._held, {}, walks, rng).repeat(steps, axis=0)
        return self._records(network, latent, chosen, self._reference(network, public, seed))

    def _scores(self, network: Flow, latent: Array, chosen: Codes) -> Array:
        given = self.layout.cells(self._held.blocks, chosen)
        return network.couplings.back(torch.from_numpy(latent).float(), given).double().numpy()

    def _reference(self, network: Flow, public: Public, seed: int) -> Array:
        """Return sorted scores of many draws: by their ranks the marginals become the released ones again."""
        rng = np.random.default_rng([seed, 1])
        chosen = public.draw(self._held, {}, REFERENCE, rng)
        return np.sort(self._scores(network, rng.standard_normal((REFERENCE, len(self._moved))), chosen), axis=0)

    def _records(self, network: Flow, latent: Array, chosen: Codes, reference: Array) -> Records:
        ranks = (np.arange(len(reference)) + 0.5) / len(reference)
        scores = self._scores(network, latent, chosen)
        ranked = [np.interp(column, known, ranks) for column, known in zip(scores.T, reference.T, strict=True)]
        codes = np.empty((len(scores), len(self.layout.sizes)), dtype=np.int64)
        parts = np.zeros(codes.shape)
        codes[:, list(self._held.blocks)] = chosen
        codes[:, self._moved], parts[:, self._moved] = network.grid.place(np.stack(ranked, axis=1))
        return self._table.decode_at(codes, parts)
