"""The engine of every GAN: sites are private gradient oracles of its critic, the coordinator trains the rest.

Never sees more of the records than released sums; all that it computes is post-processing. In
particular no real record touches the generator, which learns from the critic and released statistics.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Records

from ...api import Answer, Ask, Given
from ..adam import Adam, flat_gradient, flatten, set_flat
from ..anchor import Fitting, tensor
from .comparison import COMPARISON, Comparison
from .diversity import RECORDS, Diversity
from .feature_matching import FEATURES, FeatureMatching
from .ladder import Ladder
from .local_steps import Pace
from .unit_gradients import clipped_gradient

if TYPE_CHECKING:
    from .gan_family import Fakes, GanFamily

CRITIC: Final = "critic"
GENERATOR_MOMENTUM: Final = 0.5

F = TypeVar("F", bound=Fitting)


class Adversarial(Generic[F]):
    """The trainer: asks for statistics first, starts the generator at them, then trains both networks.

    At last it asks which generator is to stay, the one it started with or the refined one.

    A step of the critic is the released sum of clipped gradients on real records plus the same sum on
    fakes, computed here without noise, while the sites compute theirs.
    """

    def __init__(self, family: "GanFamily[F]", seed: int) -> None:
        """Draw initial weights from ``seed`` without touching the process's random state."""
        options = family.options
        self._family, self._options, self._sum = family, options, family.gradients()
        self._fitting = family.fitting(seed)
        self._critic = family.fresh_critic(seed)
        self._generator, self._average = family.generator(seed), family.generator(seed)
        self._rng = torch.Generator().manual_seed(seed)
        self._critic_adam, self._generator_adam = Adam.of(self._critic), Adam.of(self._generator)
        self._ladder = Ladder(
            options.critic_ladder,
            least=options.ladder_accuracy,
            decay=options.ladder_decay,
            grace=options.ladder_grace,
        )
        self._samples = torch.zeros(min(RECORDS, options.batch), family.encoded_width)  # of the anchor, once fitted
        self._diversity = Diversity(self._samples)
        self._matching = FeatureMatching(family.fresh_critic(seed)) if options.features_share > 0 else None
        self._comparison = Comparison(family, self._fitting, self._average, seed)
        self._pace = Pace()
        sent = (options.local_fakes if options.local_steps > 1 else 0, options.mixup_partners if options.mixup else 0)
        self._partners = torch.zeros(sum(sent), family.encoded_width)  # fakes that go to the sites, ...
        self._sent = sent  # ... some for their own steps, some to be mixed with
        self._started = self._is_ready = self._has_partners = False
        self._steps = 0
        self._fakes = torch.zeros_like(flatten(self._critic))  # gradient on fakes at the critic's present weights
        self._asked = ""  # the last sum; a checkpoint need not hold it, for what follows one is another ask
        self._log: dict[str, float] = {}
        family.bound(self._critic)
        self._follow()

    def ask(self, remaining: Mapping[str, int]) -> Ask | None:
        """Return the next sum: every round of the statistics, critic steps until none is left, the comparison."""
        wanted = self._fitting.ask(remaining)
        if wanted is None:
            self._start()
            wanted = self._next_step(remaining) or self._comparison.ask(remaining, self._rng)
        self._asked = "" if wanted is None else wanted.sum
        return wanted

    def overlap(self) -> None:
        """Do the public work of a critic's step, once for each of its weights: fakes, then the generator."""
        if self._asked == CRITIC:
            self._prepare()

    def receive(self, answer: Answer) -> None:
        """Add a statistic to its average, or move the critic along the released gradient."""
        if answer.sum == CRITIC:
            self._step_critic(answer)
        elif answer.sum == FEATURES and self._matching is not None:
            self._matching.receive(answer, flatten(self._critic), self._lot(answer), self._steps)
        elif answer.sum == COMPARISON:
            self._comparison.receive(answer)
        else:
            self._fitting.receive(answer)
            self._follow()

    def sample(self, rows: int, seed: int, given: Given) -> Records:
        """Return synthetic records from the generator that is kept."""
        return self._family.sample(self._comparison.kept, self._fitting, rows, seed, given)

    def walk(self, walks: int, steps: int, seed: int) -> Records:
        """Return records of the generator that is kept along straight walks through the latent space."""
        return self._family.walk(self._comparison.kept, self._fitting, walks, steps, seed)

    def progress(self) -> Mapping[str, float]:
        """Return the critic's steps, what it makes of fakes, their diversity, each public loss, and the verdict."""
        compared = self._comparison.progress()
        return {"steps": float(self._steps), **self._fitting.progress(), **self._log, **compared}

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return weights, optimisers, released sums, what was prepared for the next step, the random state."""
        flags = [self._steps, self._started, self._is_ready, self._has_partners]
        return {
            "critic": flatten(self._critic).numpy(),
            "generator": flatten(self._generator).numpy(),
            "average": flatten(self._average).numpy(),
            **self._critic_adam.state("critic_adam"),
            **self._generator_adam.state("generator_adam"),
            **self._fitting.state(),
            **self._ladder.state(),
            **(self._matching.state() if self._matching is not None else {}),
            **self._comparison.state(),
            **(self._pace.state() if self._options.local_steps > 1 else {}),
            "fakes": self._fakes.numpy().copy(),
            "partners": self._partners.numpy().copy(),
            "samples": self._samples.numpy().copy(),
            "progress": np.array(flags, dtype=np.int64),
            "rng": self._rng.get_state().numpy().copy(),
        }

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restore a checkpoint; what follows is bit for bit what would have followed it.

        Raises:
            ConfigError: the checkpoint belongs to another study or lacks an array.
        """
        wrong = [name for name, mine in self.state().items() if name not in state or state[name].shape != mine.shape]
        if wrong:
            raise ConfigError(f"array {wrong[0]!r} does not fit; use a checkpoint of this study")
        pace = self._pace if self._options.local_steps > 1 else None
        for part in (self._fitting, self._ladder, self._matching, self._comparison, pace):
            if part is not None:
                part.load(state)
        for name, network in (("critic", self._critic), ("generator", self._generator), ("average", self._average)):
            set_flat(network, tensor(state[name]))
        self._critic_adam, self._generator_adam = (Adam.load(name, state) for name in ("critic_adam", "generator_adam"))
        self._fakes, self._partners = tensor(state["fakes"]), tensor(state["partners"])
        self._samples = tensor(state["samples"])
        self._diversity = Diversity(self._samples)
        self._steps, self._started, self._is_ready, self._has_partners = (
            int(state["progress"][0]),
            *(bool(flag) for flag in state["progress"][1:]),
        )
        self._rng.set_state(tensor(state["rng"]))
        self._asked, self._log = "", {}
        self._follow()

    def _next_step(self, remaining: Mapping[str, int]) -> Ask | None:
        if remaining.get(CRITIC, 0) < 1:
            return None
        weights = {name: each.detach().numpy().copy() for name, each in self._critic.named_parameters()}
        is_due = self._matching is not None and self._matching.is_due(self._steps, self._options.features_every)
        if is_due and remaining.get(FEATURES, 0) > 0:
            return Ask(FEATURES, weights)
        names = [name for name, _ in self._sum.payload]
        return Ask(CRITIC, dict(zip(names, [*self._beside(), *weights.values()], strict=True)))

    def _beside(self) -> list[npt.NDArray[np.float32]]:
        """Return what goes to the sites before the critic's weights: rates and fakes, as far as they need them."""
        if not any(self._sent):
            return []
        self._choose_partners()
        fakes, partners = (each.numpy().copy() for each in self._partners.split_with_sizes(self._sent))
        mixed = [partners] if self._options.mixup else []
        if self._options.local_steps == 1:
            return mixed
        lot = self._sum.sample_rate * self._fitting.units_per_site
        return [self._pace.rates(self._critic_adam, self._options.critic_rate, lot), fakes, *mixed]

    def _choose_partners(self) -> None:
        """Draw the fakes that go to the sites, once for each of the critic's weights, as often as they count."""
        if not self._has_partners:
            with torch.no_grad():
                fakes = self._family.fakes(self._generator, sum(self._sent), self._rng)
            self._partners, self._has_partners = fakes.records, True
            if fakes.weights is not None:
                chosen = torch.multinomial(fakes.weights, sum(self._sent), replacement=True, generator=self._rng)
                self._partners = fakes.records[chosen]

    def _follow(self) -> None:
        """Let the generators hold what was released."""
        for generator in (self._generator, self._average, self._comparison.warm):
            self._family.follow(generator, self._fitting)

    def _start(self) -> None:
        """Fit the anchor and start the generator at it, once."""
        if self._started:
            return
        self._started = True
        self._fitting.fit()
        self._family.warm_start(self._generator, self._fitting)
        set_flat(self._average, flatten(self._generator))
        self._samples = self._fitting.sample(len(self._samples), self._rng)
        self._diversity = Diversity(self._samples)
        self._pretrain()
        self._comparison.begin()

    def _pretrain(self) -> None:
        """Train both networks on the anchor's samples in place of records, which costs no privacy."""
        options, family = self._options, self._family
        for _ in range(options.pretraining):
            samples = self._fitting.sample(options.batch, self._rng)
            fakes = self._fresh_fakes()
            of_samples = self._critic(samples, self._coins(len(samples)))
            of_fakes = self._critic(fakes.records, self._coins(len(fakes.records)))
            loss = family.losses.real(of_samples).mean() + fakes.mean(family.losses.fake(of_fakes))
            penalty = family.penalty(self._critic, fakes.records, self._rng)
            gradient = flat_gradient(loss if penalty is None else loss + penalty, self._critic)
            self._critic_adam.step(self._critic, gradient, options.critic_rate, options.critic_momentum)
            family.bound(self._critic)
            self._step_generator()
        if options.pretraining:  # gradients with noise are of another size than these
            self._critic_adam, self._generator_adam = Adam.of(self._critic), Adam.of(self._generator)

    def _prepare(self) -> None:
        """Compute the critic's gradient on fakes, and give the generator its turn where it has come."""
        if self._is_ready or not self._started:
            return
        options, family, fakes = self._options, self._family, self._fresh_fakes()
        coins, bound = self._coins(options.batch), self._sum.clip_norm
        # Clipped like the real half, so that both cancel where fakes and records are alike.
        summed = clipped_gradient(self._critic, fakes.records, coins, family.losses.fake, bound, fakes.weights)
        self._fakes = summed / options.batch
        penalty = family.penalty(self._critic, fakes.records, self._rng)
        if penalty is not None:
            self._fakes += flat_gradient(penalty, self._critic)
        with torch.no_grad():
            boundary = family.boundary(self._critic, self._samples)
            told = float((self._critic(fakes.records) < boundary).float().mean())
            self._log = {"fakes_told": told, "diversity": float(self._diversity(fakes.records))}
        if self._ladder.step(told):
            for _ in range(options.generator_steps):
                self._step_generator()
        self._log["critic_steps"] = float(self._ladder.steps)
        self._is_ready = True

    def _fresh_fakes(self) -> "Fakes":
        with torch.no_grad():
            return self._family.fakes(self._generator, self._options.batch, self._rng)

    def _coins(self, rows: int) -> torch.Tensor:
        return torch.rand(rows, self._critic.coins, generator=self._rng)

    def _step_generator(self) -> None:
        """Move the generator towards higher scores, held to the public losses, and average it."""
        options, family = self._options, self._family
        fakes = family.fakes(self._generator, options.batch, self._rng)
        scores = self._critic(fakes.records, self._coins(options.batch))
        loss = family.losses.generator(scores).mean()
        self._log["fake_score"] = float(scores.detach().mean())
        for name, (weight, value) in self._public_losses(fakes).items():
            loss = loss + weight * value
            self._log[name] = float(value.detach())
        gradient = flat_gradient(loss, self._generator)
        self._generator_adam.step(self._generator, gradient, options.generator_rate, GENERATOR_MOMENTUM)
        set_flat(self._average, flatten(self._generator).lerp(flatten(self._average), options.averaging))

    def _public_losses(self, fakes: "Fakes") -> dict[str, tuple[float, torch.Tensor]]:
        losses = dict(self._family.public_losses(self._generator, self._fitting, fakes))
        if self._matching is not None:
            misfit = self._matching.misfit(fakes.records, fakes.weights)
            if misfit is not None:
                losses["features_misfit"] = (self._options.features_weight, misfit)
        if self._options.diversity > 0:
            losses["diversity_lost"] = (self._options.diversity, (-self._diversity(fakes.records)).relu())
        return losses

    def _lot(self, answer: Answer) -> float:
        """Return the expected number of units in a step's released sum."""
        return self._sum.sample_rate * self._fitting.units_per_site * answer.sites

    def _step_critic(self, answer: Answer) -> None:
        """Move the critic as many steps as the sites have taken, each time along the mean of their sums."""
        options = self._options
        lot = options.local_steps * self._lot(answer)
        # A wrong scale of the real half only shifts the critic's scores by a constant.
        real = torch.tensor(answer.total / lot, dtype=torch.float32)
        self._pace.receive(answer, lot, options.local_steps)
        for _ in range(options.local_steps):
            self._prepare()
            self._critic_adam.step(self._critic, real + self._fakes, options.critic_rate, options.critic_momentum)
            self._family.bound(self._critic)
            self._is_ready = self._has_partners = False
            self._steps += 1
