"""The anchor of tables: one-way marginals, two-way moments, and a mixture of products fitted to both.

Never sees more of a record than its contribution to a declared, clipped and noised sum.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch.nn import functional

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Strict
from synthfed.protocols.study import Study
from synthfed.protocols.sums import Sum

from ...api import Answer, Array, Ask, Payload
from ...domains.encoding import OneHotEncoder, scalars
from ..adam import Adam, flat_gradient, flatten, set_flat
from ..anchor import tensor
from ..marginals import Released, probabilities, units_per_site
from .conditions import CONDITIONS, ConditionalGenerator, Conditions
from .generator import Generator
from .misfit import PairMisfit
from .mixture import MixtureGenerator
from .network import NetworkGenerator
from .pairs import PairLayout
from .sampling import sample_codes

MARGINALS: Final = "marginals"
PAIRS: Final = "pairs"
EMBEDDING: Final = "embedding"
ROUNDS: Final = 2  # both statistics are averaged, so that one failed round costs accuracy only
FIT_MOMENTUM: Final = 0.9
FIT_MARGINALS_WEIGHT: Final = 0.02  # of the marginals' divergence against the plain square error of the moments

# Least, most, and how many for each root of a unit: finer ones would hold more noise than units. Chosen on training
# rows of Adult (12,500 declared units) and heart disease (1,280).
BINS: Final = (8, 64, 0.6)
GROUPS: Final = (4, 24, 0.22)

MakeGenerator = Callable[[int, int, int, Sequence[int]], NetworkGenerator]
"""From the noise's length, hidden width, depth and the columns' cells to a generator."""

Share = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
Width = Annotated[int, Field(ge=1, le=4096)]
Depth = Annotated[int, Field(ge=0, le=8)]


class TableAnchorOptions(Strict):
    """What a study may set of the anchor.

    Attributes:
        start: what is released first: the one-way marginals, or also the two-way moments.
        bins: cells of a numeric column; if not set, by the declared bound on all sites' units.
        groups: most groups that a column's cells are pooled into for the two-way moments; likewise.
        marginals_share: the marginals' share of the budget.
        conditions_share: the share of the combinations of conditions, where a model takes several columns as such.
        pairs_share: the two-way moments' share; what follows the anchor gets the rest.
        generator: a mixture of products, if not set, or a network; always that in a model that tells it something.
        components: of a mixture.
        latent: dimensions of a network's input.
        generator_hidden: width of its layers.
        generator_depth: number of its residual blocks.
        fit_rate: the first learning rate of the fit to the two-way moments; if not set, the generator's own.
        fit_steps: steps of that fit.
        fakes: records of one step of that fit; a mixture's are all its components.
    """

    start: Literal["marginals", "pairs"] = "pairs"
    bins: Annotated[int, Field(ge=2, le=256)] | None = None
    groups: Annotated[int, Field(ge=2, le=64)] | None = None
    marginals_share: Share = 0.25
    conditions_share: Share = 0.02
    pairs_share: Share = 0.6
    generator: Literal["mixture", "network"] | None = None
    components: Annotated[int, Field(ge=2, le=16_384)] = 1024
    latent: Width = 32
    generator_hidden: Width = 128
    generator_depth: Depth = 2
    fit_rate: Rate | None = None
    fit_steps: Annotated[int, Field(ge=1, le=100_000)] = 600
    fakes: Annotated[int, Field(ge=16, le=65_536)] = 1024

    @model_validator(mode="after")
    def _something_is_left(self) -> Self:
        if self.marginals_share + (self.pairs_share if self.start == "pairs" else 0.0) >= 1.0:
            raise ValueError("marginals_share and pairs_share must leave the network a share: sum below 1")
        return self


class TableAnchor:
    """The declared statistics of a table and what a record contributes to them.

    Attributes:
        encoder: of the study's columns.
        sizes: cells of each column.
        layout: of the two-way moments; None without them.
        conditions: what the generator is told; None for nothing.
        target: position of the target column.
        most_units_per_site: declared upper bound on a site's units.
        options: as the study sets them.
    """

    def __init__(
        self,
        study: Study,
        options: TableAnchorOptions,
        plugin: str,
        *,
        make: MakeGenerator | None = None,
        conditions: Sequence[str] = (),
    ) -> None:
        """Lay out the statistics of a study's columns.

        Args:
            study: whose columns they are.
            options: as the study sets them.
            plugin: who asks, for the error message.
            make: what makes the generator, a network of its own kind; None for what the options say.
            conditions: categorical columns that the generator is told instead; it is a conditional one then.

        Raises:
            ConfigError: a column is an array, which ``plugin`` cannot take, a condition cannot be one, or a
                mixture is asked for where the generator has to be told something.
        """
        if options.generator == "mixture" and (make is not None or conditions):
            raise ConfigError(
                f"{plugin} tells its generator something, which a mixture cannot hear; leave `generator` out",
                where="model.options.generator",
            )
        units = study.privacy.units_per_site * len(study.cohort.sites)
        self.encoder = OneHotEncoder(scalars(study.columns, plugin), options.bins or _resolution(units, *BINS))
        self.sizes = tuple(block.width for block in self.encoder.blocks)
        layout = PairLayout(self.sizes, options.groups or _resolution(units, *GROUPS))
        self.layout = layout if options.start == "pairs" and layout.dim else None
        self.target = [column.name for column in study.columns].index(study.target)
        self.most_units_per_site = study.privacy.units_per_site
        self.options, self._make = options, make
        self.conditions = Conditions(study.columns, self.sizes, conditions) if conditions else None

    @property
    def share(self) -> float:
        """The part of the budget that the statistics take."""
        return sum(each.share for each in self.sums())

    def sums(self) -> tuple[Sum, ...]:
        """Return the marginals, the combinations of several conditions and, unless left out, the two-way moments."""
        options, conditions = self.options, self.conditions
        sums = [Sum(MARGINALS, "statistic", self.encoder.width, 1.0, 1.0, ROUNDS, options.marginals_share)]
        if conditions is not None and conditions.is_joint:
            sums.append(conditions.sum(ROUNDS, options.conditions_share))
        if self.layout is not None:
            payload = ((EMBEDDING, self.layout.shape),)
            sums.append(Sum(PAIRS, "statistic", self.layout.dim, 1.0, 1.0, ROUNDS, options.pairs_share, payload))
        return tuple(sums)

    def contributions(self, name: str, batch: Array, payload: Payload) -> Array:
        """Return contributions to marginals, combinations (norm 1) or two-way moments, shape ``(rows, dim)``."""
        if name == CONDITIONS and self.conditions is not None:
            return self.conditions.contributions(batch)
        if name == PAIRS and self.layout is not None:
            return self.layout.contributions(batch, payload[EMBEDDING].astype(np.float64))
        return np.asarray(batch / np.sqrt(len(self.sizes)))

    def generator(self, seed: int) -> Generator:
        """Return a generator of the study's columns, weights by ``seed``, the process's random state untouched."""
        options = self.options
        size = (options.latent, options.generator_hidden, options.generator_depth, self.sizes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if self.conditions is not None:
                return ConditionalGenerator(*size, conditions=self.conditions)
            if self._make is not None:
                return self._make(*size)
            if options.generator == "network":
                return NetworkGenerator(*size)
            return MixtureGenerator(options.components, self.sizes)

    def fitting(self, seed: int) -> "TableFitting":
        """Return the coordinator's half."""
        return TableFitting(self, seed)


class TableFitting:
    """Released statistics of a table, and the generator fitted to them.

    Attributes:
        generator: its logits start at the released marginals.
        target: every cell's released probability, shape ``(width,)``.
        joint: that of every combination of conditions, shape ``(combinations,)``; None without several.
    """

    def __init__(self, anchor: TableAnchor, seed: int) -> None:
        """Start without a release: uniform marginals."""
        self._anchor = anchor
        self._rng = torch.Generator().manual_seed(seed)
        self.generator = anchor.generator(seed)
        conditions = anchor.conditions
        self._marginals = Released(np.zeros(anchor.encoder.width))
        self._pairs = Released(np.zeros(anchor.layout.dim if anchor.layout else 0))
        self._joint = Released(np.zeros(len(conditions.one_hot) if conditions else 0))
        self._misfit: PairMisfit | None = None  # computed when first needed: sampling never does
        self._log: dict[str, float] = {}
        self._aim()

    def ask(self, remaining: Mapping[str, int]) -> Ask | None:
        """Return every round of the marginals, of the combinations of conditions, then of the two-way moments."""
        for name in (MARGINALS, CONDITIONS):
            if remaining.get(name, 0) > 0:
                return Ask(name, {})
        layout = self._anchor.layout
        # Without marginals the two-way moments could be neither centred nor scaled.
        if layout is not None and remaining.get(PAIRS, 0) > 0 and self._marginals.weight > 0:
            return Ask(PAIRS, {EMBEDDING: self._embedding(layout).astype(np.float32)})
        return None

    def receive(self, answer: Answer) -> None:
        """Add a statistic to its average."""
        self._misfit = None
        if answer.sum == MARGINALS:
            self._marginals = self._marginals.add(answer)
            self._aim()
        elif answer.sum == CONDITIONS:
            self._joint = self._joint.add(answer)
            self._aim()
        else:
            self._pairs = self._pairs.add(answer)

    @property
    def units_per_site(self) -> float:
        """The released estimate, or the declared bound if no marginal was ever released."""
        if self._marginals.weight == 0:
            return float(self._anchor.most_units_per_site)
        return units_per_site(self._marginals, len(self._anchor.sizes))

    def fit(self) -> None:
        """Fit the generator to the released two-way moments."""
        pairs_misfit = self.pairs_misfit()
        if pairs_misfit is None:
            return
        adam, options = Adam.of(self.generator), self._anchor.options
        rows, first_rate = self.generator.kinds or options.fakes, options.fit_rate or self.generator.fit_rate
        self.generator.spread(self._rng)
        for step in range(options.fit_steps):
            latents = self.generator.latents(rows, self._rng)
            expected = self.generator.probabilities(self.generator(latents))
            misfit, drift = pairs_misfit(expected), self.drift(expected)
            loss = misfit + FIT_MARGINALS_WEIGHT * pairs_misfit.scale * drift
            gradient = flat_gradient(loss + self.generator.fit_loss(latents, expected), self.generator)
            rate = first_rate * (1 + np.cos(np.pi * step / options.fit_steps)) / 2
            adam.step(self.generator, gradient, float(rate), FIT_MOMENTUM)
            self._log = {"pairs_misfit": float(misfit.detach()), "marginals_drift": float(drift.detach())}

    def pairs_misfit(self) -> PairMisfit | None:
        """Return the misfit of the released two-way moments; None where there are none."""
        layout = self._anchor.layout
        if self._misfit is None and layout is not None and self._pairs.weight > 0:
            units = self.units_per_site
            noise_std = self._pairs.noise_per_site / units
            moments = layout.denoise(self._pairs.per_site / units, noise_std)
            self._misfit = PairMisfit(layout, self._embedding(layout), moments, noise_std)
        return self._misfit

    def drift(self, expected: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
        """Return the divergence of a batch's mean cells from the released marginals, summed over columns.

        Args:
            expected: cell probabilities of fakes, shape ``(rows, width)``.
            weights: of the fakes, with mean 1, shape ``(rows,)``; all alike if None.
        """
        mean = (expected if weights is None else expected * weights[:, None]).mean(0)
        ratio = self.target.log() - mean.clamp_min(1e-8).log()
        return (self.target * ratio).sum()

    def sample(self, rows: int, rng: torch.Generator) -> torch.Tensor:
        """Return one-hot records, their marginals centred on the released ones, shape ``(rows, width)``."""
        seed = int(torch.randint(2**31, (), generator=rng))
        codes = torch.from_numpy(sample_codes(self.generator, self.target, rows, seed).copy())
        blocks = [functional.one_hot(each, size) for each, size in zip(codes.T, self._anchor.sizes, strict=True)]
        return torch.cat(blocks, 1).float()

    def progress(self) -> Mapping[str, float]:
        """Return the generator's misfits and the units per site."""
        return {"units_per_site": self.units_per_site, **self._log}

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return released sums, the fitted generator and the random state."""
        return {
            "anchor.generator": flatten(self.generator).numpy(),
            "anchor.rng": self._rng.get_state().numpy().copy(),
            **_released_state("marginals", self._marginals),
            **_released_state("pairs", self._pairs),
            **_released_state("conditions", self._joint),
        }

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restore what ``state`` returned."""
        set_flat(self.generator, tensor(state["anchor.generator"]))
        self._rng.set_state(tensor(state["anchor.rng"]))
        self._marginals, self._pairs = _released("marginals", state), _released("pairs", state)
        self._joint = _released("conditions", state)
        self._log, self._misfit = {}, None
        self._aim()

    def _aim(self) -> None:
        """Set the first logits, and what the fit holds on to, to the marginals released so far."""
        aim, conditions = probabilities(self._marginals, self._anchor.sizes), self._anchor.conditions
        self.target = torch.tensor(aim, dtype=torch.float32)
        self.joint: torch.Tensor | None = None
        if conditions is not None and conditions.is_joint:
            self.joint = torch.tensor(probabilities(self._joint, [len(conditions.one_hot)]), dtype=torch.float32)
        self.generator.aim(self.target, self.joint)

    def _embedding(self, layout: PairLayout) -> npt.NDArray[np.float64]:
        return layout.embedding(probabilities(self._marginals, self._anchor.sizes), self._anchor.target)


def _resolution(units: int, least: int, most: int, per_root: float) -> int:
    """Return how finely a column is told apart, by the public bound on the units of all sites."""
    return min(max(round(per_root * math.sqrt(units)), least), most)


def _released_state(name: str, released: Released) -> dict[str, npt.NDArray[Any]]:
    return {f"{name}.total": released.total.copy(), f"{name}.weights": np.array([released.sites, released.weight])}


def _released(name: str, state: Mapping[str, npt.NDArray[Any]]) -> Released:
    sites, weight = state[f"{name}.weights"]
    return Released(state[f"{name}.total"].copy(), float(sites), float(weight))
