"""The coordinator's half of a table's anchor: released statistics and the generator fitted to them.

Never sees a record: all that it works on was released.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from ...api import Answer, Ask
from ..adam import Adam, flat_gradient, flatten, set_flat
from ..anchor import tensor
from ..marginals import Released, probabilities, shares, units_per_site
from .conditions import CONDITIONS
from .histograms import Histograms
from .misfit import information
from .once import Once
from .pair_fitting import Misfit, Moments, PairFitting, released_of, released_state
from .sampling import sample_codes
from .wide_fitting import WideFitting

if TYPE_CHECKING:
    from .table_anchor import TableAnchor

MARGINALS: Final = "marginals"
FIT_MOMENTUM: Final = 0.9
PLAINNESS: Final = 0.015  # square standard deviations of the noise that one nat of `information` is worth, each unit


class TableFitting:
    """Released statistics of a table, and the generator fitted to them.

    Attributes:
        generator: its logits start at the released marginals.
        target: every cell's probability by all that was released, shape ``(width,)``.
        joint: that of every combination of conditions, shape ``(combinations,)``; None without several.
    """

    def __init__(self, anchor: "TableAnchor", seed: int) -> None:
        """Start without a release: uniform marginals."""
        self._anchor = anchor
        self._rng = torch.Generator().manual_seed(seed)
        self.generator = anchor.generator(seed)
        conditions = anchor.conditions
        self._marginals = Released(np.zeros(anchor.encoder.width))
        self._before_moments = Once[Histograms]()
        self._moments: Moments | None = PairFitting(anchor.layout, anchor.target) if anchor.layout else None
        if anchor.wide:
            self._moments = WideFitting(anchor.wide)
        self._joint = Released(np.zeros(len(conditions.one_hot) if conditions else 0))
        self._misfit: Misfit | None = None  # computed when first needed: sampling never does
        self._log: dict[str, float] = {}
        self._aim()

    def ask(self, remaining: Mapping[str, int]) -> Ask | None:
        """Return every round of the marginals, of the combinations of conditions, then of the two-way moments."""
        for name in (MARGINALS, CONDITIONS):
            if remaining.get(name, 0) > 0:
                return Ask(name, {})
        # Without marginals the two-way moments could be neither centred nor scaled.
        if self._moments is not None and self._marginals.weight > 0:
            return self._moments.ask(remaining, self._first)
        return None

    def receive(self, answer: Answer) -> None:
        """Add a statistic to its average."""
        self._misfit = None
        if answer.sum == MARGINALS:
            self._marginals = self._marginals.add(answer)
        elif answer.sum == CONDITIONS:
            self._joint = self._joint.add(answer)
        elif self._moments is not None:
            self._moments.receive(answer)
        self._aim()

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
        plainness = PLAINNESS * self.units_per_site * self._anchor.sites / pairs_misfit.count
        self.generator.spread(self._rng)
        for step in range(options.fit_steps):
            latents = self.generator.latents(rows, self._rng)
            expected = self.generator.probabilities(self.generator(latents))
            misfit, marginals_misfit = pairs_misfit(expected), self._marginals_misfit(expected)
            # Both are mean squares in units of the noise, but of different numbers of cells and moments.
            part = self.generator.marginals_weight * len(self.target) / pairs_misfit.count
            # Of all tables that fit as well the plainest: else the fit makes up structure of higher order from noise.
            loss = misfit + part * marginals_misfit + plainness * information(expected)
            gradient = flat_gradient(loss + self.generator.fit_loss(latents, expected), self.generator)
            rate = first_rate * (1 + np.cos(np.pi * step / options.fit_steps)) / 2
            adam.step(self.generator, gradient, float(rate), FIT_MOMENTUM)
        self._log = {
            "pairs_misfit": float(misfit.detach()),
            "marginals_misfit": float(marginals_misfit.detach()),
            "marginals_drift": float(self.drift(expected.detach())),
        }

    def pairs_misfit(self) -> Misfit | None:
        """Return the misfit of the released two-way moments; None where there are none."""
        if self._misfit is None and self._moments is not None:
            self._misfit = self._moments.misfit(self.units_per_site, self._first)
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
            **released_state("marginals", self._marginals),
            **released_state("conditions", self._joint),
            **(self._moments.state() if self._moments else {}),
        }

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restore what ``state`` returned."""
        set_flat(self.generator, tensor(state["anchor.generator"]))
        self._rng.set_state(tensor(state["anchor.rng"]))
        self._marginals, self._joint = released_of("marginals", state), released_of("conditions", state)
        if self._moments is not None:
            self._moments.load(state)
        self._log, self._misfit = {}, None
        self._aim()

    def _aim(self) -> None:
        """Set the first logits, and what the fit holds on to, to the marginals released so far."""
        anchor, estimate = self._anchor, self._estimate()
        self.target = torch.tensor(estimate.values, dtype=torch.float32)
        self._target_std = torch.tensor(estimate.noise_std, dtype=torch.float32)
        self.joint: torch.Tensor | None = None
        if anchor.conditions is not None and anchor.conditions.is_joint:
            combinations = [len(anchor.conditions.one_hot)]
            joint = probabilities(shares(self._joint, combinations), combinations)
            self.joint = torch.tensor(joint, dtype=torch.float32)
        self.generator.aim(self.target, self.joint)

    def _estimate(self) -> Histograms:
        """Return the columns' probabilities by all that was released: the moments hold the marginals once more."""
        anchor = self._anchor
        found = Histograms.of(self._marginals, anchor.sizes)
        for again in self._moments.histograms(self.units_per_site, self._first) if self._moments else ():
            found = found.averaged(again)
        return found.smoothed(anchor.encoder.blocks, anchor.groups)

    def _first(self) -> Histograms:
        """Return them by the marginals alone, as they were when the moments were asked for."""
        anchor, released = self._anchor, self._marginals
        return self._before_moments(
            lambda: Histograms.of(released, anchor.sizes).smoothed(anchor.encoder.blocks, anchor.groups), released
        )

    def _marginals_misfit(self, expected: torch.Tensor) -> torch.Tensor:
        """Return the mean square misfit of a batch's mean cells, in units of the noise of the released ones."""
        return ((expected.mean(0) - self.target) / self._target_std).square().mean()
