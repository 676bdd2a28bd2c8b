"""Variational autoencoders of tables, images and series, plain and conditional.

Never lets one record meet another: every layer is dense on one record's vector.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import nn
from torch.nn import functional

from synthfed.protocols.schema import Name, Records
from synthfed.protocols.study import Study

from ..api import Array, Given
from ..domains.encoding import Codes
from .likelihoods.coefficients import Coefficients, Levels
from .likelihoods.held_columns import HeldColumns, drawn, held_names
from .likelihoods.layout import AnchorOptions, ground
from .likelihoods.likelihood import Family, RefinementOptions, dense
from .likelihoods.refinement import AT_ONCE, Public
from .tables.table_anchor import Depth, Width

LONGEST_LOG: Final = 6.0  # of a latent's standard deviation's logarithm, either way
LONGEST_LOG_SPREAD: Final = 3.0  # of a coefficient's spread's
HALF_LOG_TAU: Final = math.log(2 * math.pi) / 2
REFERENCE: Final = 4096
CENTRING_PASSES: Final = 5


class VaeOptions(AnchorOptions, RefinementOptions):
    """What a study may set of an autoencoder; ``coefficients`` also says how many of an array it models.

    Attributes:
        latent_width: dimensions of the latent space.
        hidden: width of the layers of encoder and decoder.
        depth: number of hidden layers of each.
        divergence: weight of the latent's divergence from the standard normal law in the loss (1 is the bound itself).
        public_steps: steps of the warm start.
    """

    latent_width: Width = 24
    hidden: Width = 96
    depth: Depth = 1
    divergence: Annotated[float, Field(ge=0, le=100)] = 1.0
    public_steps: Annotated[int, Field(ge=0, le=100_000)] = 2500


class CvaeOptions(VaeOptions):
    """What a study may set of a conditional autoencoder.

    Attributes:
        conditions: categorical columns that sampling can fix; the target if none are named.
    """

    conditions: Annotated[tuple[Name, ...], Field(strict=False)] | None = None


class Autoencoder(nn.Module):
    """Encoder and decoder; both are given the condition cells, which the decoder leaves out of its answer."""

    def __init__(self, width: int, conditions: Sequence[int], answers: int, options: VaeOptions) -> None:
        """Build for vectors of ``width`` places, of which ``conditions`` are given, and as many ``answers``."""
        super().__init__()
        self.given = list(conditions)
        latent, middle = options.latent_width, [options.hidden] * options.depth
        self.encoder = dense([width, *middle, 2 * latent])
        self.decoder = dense([latent + len(self.given), *middle, answers])

    def forward(self, batch: torch.Tensor, normal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return what the decoder makes of a draw, the latent's mean, and its log standard deviation.

        Args:
            batch: shape ``(rows, width)``.
            normal: standard normal numbers, shape ``(rows, latent)``.
        """
        mean, raw = self.encoder(batch).chunk(2, 1)
        log_std = bounded(raw, LONGEST_LOG)
        latent = mean + log_std.exp() * normal
        return self.decode(latent, batch[:, self.given]), mean, log_std

    def decode(self, latent: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        """Return coefficients' means, the logarithms of their spreads and cells' logits, shape ``(rows, answers)``."""
        answer: torch.Tensor = self.decoder(torch.cat([latent, given], 1))
        return answer


class Vae(Family[Autoencoder]):
    """The model plugin ``vae`` (Kingma and Welling 2014, arXiv:1312.6114).

    Shapes: a record is plain numbers (pixels, samples of a series; in [-1, 1]) and one-hot cells (columns
    of a table, labels), ``(rows, width)``; networks see ``coefficients`` cosine coefficients in place of
    the numbers. A latent is ``(rows, latent_width)``.
    Loss: minus the evidence lower bound of each record with one draw of its latent, in nats: a Gaussian
    for each coefficient, its mean and spread the decoder's; a softmax for each column's cells; the closed
    form of the divergence.
    Private: encoding, statistics of the anchor, the gradient of that loss by encoder and decoder. A
    record's latent is drawn from the core's secret coins.
    Public: the warm start on the anchor's records; drawing latents from the standard normal law and
    drawing from the decoder's laws. Cells and grey levels come as often as in the anchor's records.
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
        self._cells = [place for block in kept for place in self.layout.places(block)]
        self._coefficients = Coefficients.of(self.anchor)

    def held(self, study: Study, options: Any) -> tuple[str, ...]:  # noqa: ARG002
        """Return the columns that are given, not modelled: none."""
        return ()

    def network(self) -> Autoencoder:
        """Return an autoencoder with fresh weights."""
        count = self._coefficients.count
        given = [count + place - self.layout.numbers for place in self._held.places]
        return Autoencoder(count + sum(self.layout.sizes), given, 2 * count + len(self._cells), self._options)

    def loss(self, network: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:
        """Return minus each record's evidence lower bound, shape ``(rows,)``."""
        truth = self._coefficients.analyse(batch[:, : self.layout.numbers])
        inputs = torch.cat([truth, batch[:, self.layout.numbers :]], 1)
        answer, mean, log_std = network(inputs, torch.special.ndtri(coins))
        middle, log_spread, *heads = self._laws(answer)
        surprise = (0.5 * ((truth - middle) / log_spread.exp()).square() + log_spread + HALF_LOG_TAU).sum(1)
        for cells, logits in zip(batch[:, self._cells].split_with_sizes(self._sizes, 1), heads, strict=True):
            surprise = surprise - (cells * functional.log_softmax(logits, 1)).sum(1)
        divergence = 0.5 * (mean.square() + (2 * log_std).exp() - 1).sum(1) - log_std.sum(1)
        bound: torch.Tensor = surprise + self._options.divergence * divergence
        return bound

    def _laws(self, answer: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return coefficients' means, the logarithms of their spreads, and each column's logits."""
        count = self._coefficients.count
        middle, raw, *heads = answer.split_with_sizes([count, count, *self._sizes], 1)
        return middle, bounded(raw, LONGEST_LOG_SPREAD), *heads

    def draw(self, network: Autoencoder, public: Public, rows: int, seed: int, given: Given) -> Records:
        """Return records whose latents are standard normal and whose conditions occur as in the anchor."""
        rng = np.random.default_rng(seed)
        correction = self._correction(network, public, seed)
        parts = [np.empty((0, self.record_width))]
        for first in range(0, rows, AT_ONCE):
            chosen = public.draw(self._held, given, min(AT_ONCE, rows - first), rng)
            answer = self._answer(network, self._latents(len(chosen), rng), chosen)
            parts.append(self._records(answer, chosen, correction, rng))
        return np.concatenate(parts)

    def walk(self, network: Autoencoder, public: Public, walks: int, steps: int, seed: int) -> Records:
        """Return the likeliest records along straight walks between two latents, conditions held."""
        rng = np.random.default_rng(seed)
        ends = self._latents(2 * walks, rng).reshape(2, walks, 1, -1)
        latent = torch.lerp(ends[0], ends[1], torch.linspace(0, 1, steps)[:, None]).flatten(0, 1)
        chosen = public.draw(self._held, {}, walks, rng).repeat(steps, axis=0)
        return self._records(
            self._answer(network, latent, chosen), chosen, self._correction(network, public, seed), None
        )

    def _latents(self, rows: int, rng: np.random.Generator) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal((rows, self._options.latent_width))).float()

    def _answer(self, network: Autoencoder, latent: torch.Tensor, chosen: Codes) -> torch.Tensor:
        return network.decode(latent, self.layout.cells(self._held.blocks, chosen))

    def _records(
        self, answer: torch.Tensor, chosen: Codes, correction: "Correction", rng: np.random.Generator | None
    ) -> Records:
        """Return records of a decoder's answer, drawn by ``rng``, or the likeliest without it."""
        middle, log_spread, *heads = self._laws(answer)
        codes = np.empty((len(answer), len(self.layout.sizes)), dtype=np.int64)
        codes[:, list(self._held.blocks)] = chosen
        for block, logits, shift in zip(self._kept, heads, correction.shifts, strict=True):
            shifted = logits + shift
            codes[:, block] = shifted.argmax(1).numpy() if rng is None else drawn(shifted, rng)
        numbers = self._numbers(middle, log_spread, rng)
        numbers = numbers if correction.levels is None else correction.levels(numbers)
        return self.layout.decode(numbers, codes, rng or np.random.default_rng(0))

    def _numbers(self, middle: torch.Tensor, log_spread: torch.Tensor, rng: np.random.Generator | None) -> Array:
        if rng is not None:
            middle = middle + log_spread.exp() * torch.from_numpy(rng.standard_normal(middle.shape))
        return self._coefficients.synthesise(middle)

    def _correction(self, network: Autoencoder, public: Public, seed: int) -> "Correction":
        """Return what makes cells and grey levels as frequent as among the anchor's records."""
        rng = np.random.default_rng([seed, 1])
        chosen = public.draw(self._held, {}, REFERENCE, rng)
        middle, log_spread, *heads = self._laws(self._answer(network, self._latents(REFERENCE, rng), chosen))
        aims = public.marginals[self._cells].split_with_sizes(self._sizes)
        shifts = [shift_to(aim, logits) for aim, logits in zip(aims, heads, strict=True)]
        if not self.layout.numbers:
            return Correction(shifts, None)
        aimed = public.records[:REFERENCE, : self.layout.numbers].numpy()
        return Correction(shifts, Levels(self._numbers(middle, log_spread, rng), aimed))


@dataclass(frozen=True, slots=True)
class Correction:
    """What is done to all answers alike before records are drawn from them.

    Attributes:
        shifts: what is added to each column's logits.
        levels: a map of the numbers; None for records without.
    """

    shifts: list[torch.Tensor]
    levels: Levels | None


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


def shift_to(aim: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Return what to add to a column's logits so that its mean cells become ``aim``, shape ``(cells,)``."""
    shift = torch.zeros_like(aim)
    for _ in range(CENTRING_PASSES):
        expected = torch.softmax(logits + shift, 1).mean(0)
        shift = (shift + (aim.clamp_min(1e-6) / expected.clamp_min(1e-8)).log()).clamp(-30, 30)
    return shift


def bounded(values: torch.Tensor, most: float) -> torch.Tensor:
    """Return values pressed smoothly between ``-most`` and ``most``; small ones hardly change."""
    return most * torch.tanh(values / most)
