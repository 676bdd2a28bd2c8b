"""The coordinator's half of the tabular GAN: warm start, fakes, optimisers, checkpoints.

Never sees more of the records than released sums; all that it computes is post-processing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Records

from ..api import Answer, Ask
from ..domains.encoding import OneHotEncoder
from .marginals import Released, probabilities, units_per_site
from .misfit import PairMisfit
from .networks import Adam, Generator, clipped_gradient, flat_gradient, flatten, set_flat
from .pairs import PairLayout
from .sampling import sample_codes

if TYPE_CHECKING:
    from .tabular_gan import Options

MARGINALS: Final = "marginals"
PAIRS: Final = "pairs"
CRITIC: Final = "critic"
EMBEDDING: Final = "embedding"

FIT_MOMENTUM: Final = 0.9
GENERATOR_MOMENTUM: Final = 0.5
FIT_MARGINALS_WEIGHT: Final = 0.02  # of the marginals' divergence against the plain square error of the moments


@dataclass(frozen=True, slots=True)
class Plan:
    """What a study fixes for the training.

    Attributes:
        encoder: of the study's columns.
        sizes: cells of each column.
        layout: of the two-way moments; None without them.
        target: position of the target column.
        clip_norm: bound on one record's critic gradient, for real records and fakes alike.
        sample_rate: probability of a unit to take part in a critic step.
        most_units_per_site: declared upper bound on a site's units.
    """

    encoder: OneHotEncoder
    sizes: tuple[int, ...]
    layout: PairLayout | None
    target: int
    clip_norm: float
    sample_rate: float
    most_units_per_site: int


class Training:
    """The trainer: asks for statistics first, starts the generator at them, then trains both networks."""

    def __init__(self, plan: Plan, options: "Options", critic: Callable[[], nn.Sequential], seed: int) -> None:
        """Draw initial weights from ``seed`` without touching the process's random state."""
        self._plan, self._options = plan, options
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._critic = critic()
            self._generator = _generator(plan, options)
            self._average = _generator(plan, options)
        set_flat(self._average, flatten(self._generator))
        self._rng = torch.Generator().manual_seed(seed)
        self._critic_adam, self._generator_adam = Adam.of(self._critic), Adam.of(self._generator)
        self._marginals = Released(np.zeros(plan.encoder.width))
        self._pairs = Released(np.zeros(plan.layout.dim if plan.layout else 0))
        self._started = False
        self._steps = 0
        self._fakes = torch.empty(0)  # gradient on fakes at the critic's present weights; empty until computed
        self._misfit: PairMisfit | None = None  # computed when first needed: sampling never does
        self._log: dict[str, float] = {}
        self._aim()

    def ask(self, remaining: Mapping[str, int]) -> Ask | None:
        """Return the next sum: every round of the statistics, then critic steps until none is left."""
        if remaining.get(MARGINALS, 0) > 0:
            return Ask(MARGINALS, {})
        layout = self._plan.layout
        # Without marginals the two-way moments could be neither centred nor scaled.
        if layout is not None and remaining.get(PAIRS, 0) > 0 and self._marginals.weight > 0:
            return Ask(PAIRS, {EMBEDDING: self._embedding(layout).astype(np.float32)})
        self._start()
        if remaining.get(CRITIC, 0) > 0:
            weights = self._critic.named_parameters()
            return Ask(CRITIC, {name: each.detach().numpy().copy() for name, each in weights})
        return None

    def overlap(self) -> None:
        """Do the public work of a step once for each of the critic's weights: fakes, then the generator."""
        if not self._started or len(self._fakes):
            return
        options = self._options
        with torch.no_grad():
            logits = self._generator.logits(options.fakes, self._rng)
            cells = self._generator.cells(logits, self._rng, options.temperature)
        # Clipped like the real half, so that both cancel where fakes and records are alike.
        gradient = clipped_gradient(self._critic, cells, functional.softplus, self._plan.clip_norm)
        for _ in range(options.generator_steps):
            self._step_generator()
        self._fakes = gradient / options.fakes

    def receive(self, answer: Answer) -> None:
        """Add a statistic to its average, or move the critic along the released gradient."""
        if answer.sum == MARGINALS:
            self._marginals, self._misfit = self._marginals.add(answer), None
            self._aim()
        elif answer.sum == PAIRS:
            self._pairs, self._misfit = self._pairs.add(answer), None
        else:
            self._step_critic(answer)

    def sample(self, rows: int, seed: int) -> Records:
        """Return synthetic records from the averaged generator, its marginals centred on the released ones."""
        codes = sample_codes(self._average, self._target, rows, seed)
        return self._plan.encoder.decode(codes, np.random.default_rng(seed))

    def progress(self) -> Mapping[str, float]:
        """Return the critic's steps, its mean score of fakes, the generator's misfits and the units per site."""
        return {"steps": float(self._steps), "units_per_site": self._units_per_site(), **self._log}

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return weights, optimisers, released sums, the gradient on fakes and the random state."""
        return {
            "critic": flatten(self._critic).numpy(),
            "generator": flatten(self._generator).numpy(),
            "average": flatten(self._average).numpy(),
            **_adam_state("critic_adam", self._critic_adam),
            **_adam_state("generator_adam", self._generator_adam),
            **_released_state("marginals", self._marginals),
            **_released_state("pairs", self._pairs),
            "fakes": self._fakes.numpy().copy(),
            "progress": np.array([self._steps, self._started], dtype=np.int64),
            "rng": self._rng.get_state().numpy().copy(),
        }

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restore a checkpoint; what follows is bit for bit what would have followed it.

        Raises:
            ConfigError: the checkpoint belongs to another study or lacks an array.
        """
        mine = self.state()
        wrong = [
            name for name in mine if name != "fakes" and (name not in state or state[name].shape != mine[name].shape)
        ]
        if wrong or "fakes" not in state:
            raise ConfigError(f"array {(wrong or ['fakes'])[0]!r} does not fit; use a checkpoint of this study")
        for name, network in (("critic", self._critic), ("generator", self._generator), ("average", self._average)):
            set_flat(network, _tensor(state[name]))
        self._critic_adam = _adam("critic_adam", state)
        self._generator_adam = _adam("generator_adam", state)
        self._marginals, self._pairs = _released("marginals", state), _released("pairs", state)
        self._fakes = _tensor(state["fakes"])
        self._steps, self._started = int(state["progress"][0]), bool(state["progress"][1])
        self._rng.set_state(_tensor(state["rng"]))
        self._log = {}
        self._aim()
        self._misfit = None

    def _aim(self) -> None:
        """Set the generator's first logits, and its anchor, to the marginals released so far."""
        aim = probabilities(self._marginals, self._plan.sizes)
        self._target = torch.tensor(aim, dtype=torch.float32)
        for network in (self._generator, self._average):
            network.start.copy_(self._target.log())

    def _units_per_site(self) -> float:
        """Return the released estimate, or the declared bound if no marginal was ever released.

        A wrong scale of the real half only shifts the logistic critic's scores by a constant.
        """
        if self._marginals.weight == 0:
            return float(self._plan.most_units_per_site)
        return units_per_site(self._marginals, len(self._plan.sizes))

    def _embedding(self, layout: PairLayout) -> npt.NDArray[np.float64]:
        return layout.embedding(probabilities(self._marginals, self._plan.sizes), self._plan.target)

    def _start(self) -> None:
        """Fit the generator to the released two-way moments, once."""
        if self._started:
            return
        self._started = True
        pairs_misfit = self._pairs_misfit()
        if pairs_misfit is None:
            return
        adam, options = Adam.of(self._generator), self._options
        self._generator.spread(self._rng)
        for step in range(options.fit_steps):
            expected = self._generator.probabilities(self._generator.logits(options.fakes, self._rng))
            misfit, drift = pairs_misfit(expected), self._drift(expected)
            gradient = flat_gradient(misfit + FIT_MARGINALS_WEIGHT * pairs_misfit.scale * drift, self._generator)
            rate = options.fit_rate * (1 + np.cos(np.pi * step / options.fit_steps)) / 2
            adam.step(self._generator, gradient, float(rate), FIT_MOMENTUM)
            self._log = {"pairs_misfit": float(misfit.detach()), "marginals_drift": float(drift.detach())}
        set_flat(self._average, flatten(self._generator))

    def _pairs_misfit(self) -> PairMisfit | None:
        """Return the misfit of the released two-way moments; None where there are none."""
        layout = self._plan.layout
        if self._misfit is None and layout is not None and self._pairs.weight > 0:
            units = self._units_per_site()
            noise_std = self._pairs.noise_per_site / units
            moments = layout.denoise(self._pairs.per_site / units, noise_std)
            self._misfit = PairMisfit(layout, self._embedding(layout), moments, noise_std)
        return self._misfit

    def _drift(self, expected: torch.Tensor) -> torch.Tensor:
        """Return the divergence of the generator's marginals from the released ones, summed over columns."""
        ratio = self._target.log() - expected.mean(0).clamp_min(1e-8).log()
        return (self._target * ratio).sum()

    def _step_generator(self) -> None:
        """Move the generator towards higher scores, held to the released statistics, and average it."""
        options = self._options
        logits = self._generator.logits(options.fakes, self._rng)
        scores = self._critic(self._generator.cells(logits, self._rng, options.temperature))
        expected = self._generator.probabilities(logits)
        drift = self._drift(expected)
        loss = functional.softplus(-scores).mean() + options.marginals_anchor * drift
        self._log = {"fake_score": float(scores.detach().mean()), "marginals_drift": float(drift.detach())}
        pairs_misfit = self._pairs_misfit()
        if pairs_misfit is not None:
            misfit = pairs_misfit(expected)
            loss = loss + options.pairs_anchor * misfit
            self._log["pairs_misfit"] = float(misfit.detach())
        gradient = flat_gradient(loss, self._generator)
        self._generator_adam.step(self._generator, gradient, options.generator_rate, GENERATOR_MOMENTUM)
        set_flat(self._average, flatten(self._generator).lerp(flatten(self._average), options.averaging))

    def _step_critic(self, answer: Answer) -> None:
        self.overlap()
        lot = self._plan.sample_rate * self._units_per_site() * answer.sites
        real = torch.tensor(answer.total / lot, dtype=torch.float32)
        options = self._options
        self._critic_adam.step(self._critic, real + self._fakes, options.critic_rate, options.critic_momentum)
        self._fakes = torch.empty(0)
        self._steps += 1


def _generator(plan: Plan, options: "Options") -> Generator:
    return Generator(options.latent, options.generator_hidden, options.generator_depth, plan.sizes)


def _tensor(values: npt.NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(values.copy())


def _adam_state(name: str, adam: Adam) -> dict[str, npt.NDArray[Any]]:
    return {
        f"{name}.mean": adam.mean.numpy().copy(),
        f"{name}.square": adam.square.numpy().copy(),
        f"{name}.count": np.array([adam.count], dtype=np.int64),
    }


def _adam(name: str, state: Mapping[str, npt.NDArray[Any]]) -> Adam:
    return Adam(_tensor(state[f"{name}.mean"]), _tensor(state[f"{name}.square"]), int(state[f"{name}.count"][0]))


def _released_state(name: str, released: Released) -> dict[str, npt.NDArray[Any]]:
    return {f"{name}.total": released.total.copy(), f"{name}.weights": np.array([released.sites, released.weight])}


def _released(name: str, state: Mapping[str, npt.NDArray[Any]]) -> Released:
    sites, weight = state[f"{name}.weights"]
    return Released(state[f"{name}.total"].copy(), float(sites), float(weight))
