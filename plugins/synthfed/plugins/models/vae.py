"""Variational autoencoders of tables, images and series, plain and conditional.

Never lets one record meet another: every layer is dense on one record's vector.
"""

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Final

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import nn
from torch.nn import functional

from synthfed.protocols.schema import Name, Records
from synthfed.protocols.study import Study

from ..api import Given
from ..domains.encoding import Codes
from .held_columns import HeldColumns, drawn, held_names
from .layout import AnchorOptions, ground
from .likelihood import Family, RefinementOptions, dense
from .refinement import AT_ONCE, Public
from .table_anchor import Depth, Width

LONGEST_LOG: Final = 6.0  # of a latent's standard deviation's logarithm, either way
CENTRING_PASSES: Final = 5


class VaeOptions(AnchorOptions, RefinementOptions):
    """What a study may set of an autoencoder.

    Attributes:
        latent_width: dimensions of the latent space.
        hidden: width of the layers of encoder and decoder.
        depth: number of hidden layers of each.
        spread: standard deviation of the decoder's Gaussian for plain numbers, which lie in [-1, 1].
        divergence: weight of the latent's divergence from the standard normal law in the loss (1 is the bound itself).
    """

    latent_width: Width = 16
    hidden: Width = 64
    depth: Depth = 1
    spread: Annotated[float, Field(gt=0, le=10)] = 0.3
    divergence: Annotated[float, Field(ge=0, le=100)] = 1.0


class CvaeOptions(VaeOptions):
    """What a study may set of a conditional autoencoder.

    Attributes:
        conditions: categorical columns that sampling can fix; the target if none are named.
    """

    conditions: Annotated[tuple[Name, ...], Field(strict=False)] | None = None


class Autoencoder(nn.Module):
    """Encoder and decoder; both are given the condition cells, which the decoder leaves out of its answer."""

    def __init__(self, width: int, conditions: Sequence[int], latent: int, hidden: int, depth: int) -> None:
        """Build for records of ``width`` places, of which ``conditions`` are given."""
        super().__init__()
        self.given = list(conditions)
        self.encoder = dense([width, *[hidden] * depth, 2 * latent])
        self.decoder = dense([latent + len(self.given), *[hidden] * depth, width - len(self.given)])

    def forward(self, batch: torch.Tensor, normal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what the decoder makes of a draw, the latent's mean, and its log standard deviation.

        Args:
            batch: encoded records, shape ``(rows, width)``.
            normal: standard normal numbers, shape ``(rows, latent)``.
        """
        mean, raw = self.encoder(batch).chunk(2, 1)
        log_std = LONGEST_LOG * torch.tanh(raw / LONGEST_LOG)
        latent = mean + log_std.exp() * normal
        return self.decode(latent, batch[:, self.given]), mean, log_std

    def decode(self, latent: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        """Return means of the plain numbers and logits of the cells, shape ``(rows, width - conditions)``."""
        answer: torch.Tensor = self.decoder(torch.cat([latent, given], 1))
        return answer


class Vae(Family[Autoencoder]):
    """The model plugin ``vae`` (Kingma and Welling 2014, arXiv:1312.6114).

    Shapes: a record is one vector of plain numbers (pixels, samples of a series; in [-1, 1]) and one-hot
    cells (columns of a table, labels), ``(rows, width)``; a latent is ``(rows, latent_width)``.
    Loss: minus the evidence lower bound of each record with one draw of its latent, in nats: a Gaussian
    of fixed ``spread`` for the numbers, a softmax for each column's cells, and the closed form of the
    divergence.
    Private: encoding, statistics of the anchor, the gradient of that loss by encoder and decoder. A
    record's latent is drawn from the core's secret coins.
    Public: the warm start on the anchor's records; drawing latents from the standard normal law and
    decoding them. Cells are drawn with their marginals centred on the anchor's.
    """

    name: ClassVar[str] = "vae"
    Options: type[BaseModel] = VaeOptions

    def prepare(self, study: Study, options: Any) -> None:
        """Take any table, or one array with labels."""
        self._options: VaeOptions = options
        self.layout, self.anchor = ground(study, options, f"model {self.name!r}")
        self._held = HeldColumns.of(self.layout, self.held(study, options))
        self.conditions, self.coins = self._held.names, options.latent_width
        kept = [i for i in range(len(self.layout.sizes)) if i not in self._held.blocks]
        self._kept, self._sizes = kept, [self.layout.sizes[i] for i in kept]
        cells = [place for block in kept for place in self.layout.places(block)]
        self._places = [*range(self.layout.numbers), *cells]

    def held(self, study: Study, options: Any) -> tuple[str, ...]:  # noqa: ARG002
        """Return the columns that are given, not modelled: none."""
        return ()

    def network(self) -> Autoencoder:
        """Return an autoencoder with fresh weights."""
        options = self._options
        return Autoencoder(self.layout.width, self._held.places, options.latent_width, options.hidden, options.depth)

    def loss(self, network: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
        """Return minus each record's evidence lower bound, shape ``(rows,)``."""
        answer, mean, log_std = network(batch, torch.special.ndtri(coins))
        truth, numbers, spread = batch[:, self._places], self.layout.numbers, self._options.spread
        square = (truth[:, :numbers] - answer[:, :numbers]).square().sum(1) / (2 * spread**2)
        surprise = square + numbers * math.log(spread * math.sqrt(2 * math.pi))
        heads = zip(self._heads(truth), self._heads(answer), strict=True)
        for cells, logits in heads:
            surprise = surprise - (cells * functional.log_softmax(logits, 1)).sum(1)
        divergence = 0.5 * (mean.square() + (2 * log_std).exp() - 1).sum(1) - log_std.sum(1)
        bound: torch.Tensor = surprise + self._options.divergence * divergence
        return bound

    def draw(self, network: Autoencoder, public: Public, rows: int, seed: int, given: Given) -> Records:
        """Return records whose latents are standard normal and whose conditions occur as in the anchor."""
        rng, torch_rng = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        shift = self._centring(network, public, seed)
        parts = []
        for first in range(0, rows, AT_ONCE):
            count = min(AT_ONCE, rows - first)
            chosen = public.draw(self._held, given, count, rng)
            latent = torch.randn(count, self._options.latent_width, generator=torch_rng)
            parts.append(self._records(self._decoded(network, latent, chosen) + shift, chosen, rng))
        return np.concatenate([np.empty((0, self.record_width)), *parts])

    def walk(self, network: Autoencoder, public: Public, walks: int, steps: int, seed: int) -> Records:
        """Return the likeliest records along straight walks between two latents, conditions held."""
        rng, torch_rng = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        ends = torch.randn(2, walks, 1, self._options.latent_width, generator=torch_rng)
        latent = torch.lerp(ends[0], ends[1], torch.linspace(0, 1, steps)[:, None]).flatten(0, 1)
        chosen = public.draw(self._held, {}, walks, rng).repeat(steps, axis=0)
        return self._records(self._decoded(network, latent, chosen), chosen, None)

    def _decoded(self, network: Autoencoder, latent: torch.Tensor, chosen: Codes) -> torch.Tensor:
        return network.decode(latent, self.layout.cells(self._held.blocks, chosen))

    def _heads(self, signal: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return signal[:, self.layout.numbers :].split_with_sizes(self._sizes, 1)

    def _records(self, answer: torch.Tensor, chosen: Codes, rng: np.random.Generator | None) -> Records:
        """Return records of a decoder's answer: cells drawn by ``rng``, or the likeliest without it."""
        codes = np.empty((len(answer), len(self.layout.sizes)), dtype=np.int64)
        codes[:, list(self._held.blocks)] = chosen
        for block, logits in zip(self._kept, self._heads(answer), strict=True):
            codes[:, block] = logits.argmax(1).numpy() if rng is None else drawn(logits, rng)
        numbers = answer[:, : self.layout.numbers].double().numpy()
        return self.layout.decode(numbers, codes, rng or np.random.default_rng(0))

    def _centring(self, network: Autoencoder, public: Public, seed: int) -> torch.Tensor:
        """Return what to add to an answer so that its cells are as frequent as the anchor's, shape ``(width,)``."""
        rng = torch.Generator().manual_seed(seed)
        latent = torch.randn(AT_ONCE, self._options.latent_width, generator=rng)
        answer = self._decoded(network, latent, public.draw(self._held, {}, AT_ONCE, np.random.default_rng(seed)))
        aims = self._heads(public.marginals[None, self._places])
        shifts = [_shift(logits, aim[0]) for logits, aim in zip(self._heads(answer), aims, strict=True)]
        return torch.cat([torch.zeros(self.layout.numbers), *shifts])


class Cvae(Vae):
    """The model plugin ``cvae`` (Sohn, Lee and Yan 2015, NeurIPS 28): an autoencoder given some categories.

    Shapes, loss, private and public part are those of `Vae`, but encoder and decoder both see the cells
    of the condition columns, and the decoder does not model them: records are drawn with any of their
    categories held exactly. How often combinations of these occur is the anchor's.
    """

    name: ClassVar[str] = "cvae"
    Options: type[BaseModel] = CvaeOptions

    def held(self, study: Study, options: Any) -> tuple[str, ...]:
        """Return the columns that are given, not modelled."""
        return held_names(study, options.conditions, self.layout)


def _shift(logits: torch.Tensor, aim: torch.Tensor) -> torch.Tensor:
    """Return what to add to a column's logits so that its mean cells become ``aim``, shape ``(cells,)``."""
    shift = torch.zeros_like(aim)
    for _ in range(CENTRING_PASSES):
        expected = torch.softmax(logits + shift, 1).mean(0)
        shift = (shift + (aim.clamp_min(1e-6) / expected.clamp_min(1e-8)).log()).clamp(-30, 30)
    return shift
