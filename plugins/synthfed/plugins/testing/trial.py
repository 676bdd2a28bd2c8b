"""One plugin on one kind of data: the very core of a site, a made-up federation, and what came of it.

Never imports the client: the core's clipped sum comes by the entry point group ``synthfed.core``.
"""

import contextlib
import copy
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from synthfed.protocols.errors import UnsupportedMechanism
from synthfed.protocols.privacy.plan import Plan, make_plan
from synthfed.protocols.schema import Records
from synthfed.protocols.study import Study
from synthfed.protocols.sums import Kind, Sum

from ..api import Answer, Array, Ask, Model, Payload, PrivatePart, Trainer, local_part
from .calls import Package
from .cases import SITES, UNITS, Case
from .check import Broken, promise
from .core import clipped_sum
from .surroundings import noting_randomness, noting_settings
from .watch import noting_acts

SEED: Final = 5
MOST_ASKS: Final = 1000

State = Mapping[str, npt.NDArray[Any]]


@dataclass(slots=True)
class Training:
    """What a made-up federation saw of a trainer.

    Attributes:
        trainer: as the training left it.
        asks: every sum asked for, in order.
        remaining: rounds left of each kind.
        states: the checkpoint before each ask.
    """

    trainer: Trainer
    remaining: dict[str, int]
    asks: list[Ask] = field(default_factory=list)
    states: list[dict[str, npt.NDArray[Any]]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Watched:
    """What a second training, like the first, left behind.

    Attributes:
        state: the trainer's at its end.
        moved: the global generators that it moved.
        acts: the files, sockets and processes that it opened.
        changed: the settings of the process that it, or sampling after it, changed.
    """

    state: dict[str, npt.NDArray[Any]]
    moved: list[str]
    acts: list[str]
    changed: list[str]


class Trial:
    """A plugin, a kind of data, and the results that several checks share, each computed when first needed."""

    def __init__(self, plugin: type[Model], case: Case, options: Mapping[str, Any]) -> None:
        """Take part with the class itself: nothing is installed or pinned."""
        self.plugin, self.case, self.options = plugin, case, options
        self.package = Package(plugin.__module__)
        self.data = case.name
        self.told: dict[str, str] = {}

    @functools.cached_property
    def study(self) -> Study:
        """The made-up study: `local` where a sum has several steps in a round, which no other mode allows."""
        study = self.case.study(self.options)
        if all(each.steps == 1 for each in self.plugin(study).sums()):
            return study
        return study.model_copy(update={"privacy": study.privacy.model_copy(update={"mode": "local"})})

    @property
    def records(self) -> Records:
        """A fresh copy of the made-up records, so that no check meets what a plugin has written into them."""
        return self.other_records(SEED)

    def other_records(self, seed: int) -> Records:
        """Return as many other records of the same kind."""
        return self.case.draw(UNITS, np.random.default_rng(seed))

    def model(self) -> Model:
        """Return a fresh instance."""
        return self.plugin(self.study)

    @functools.cached_property
    def plan(self) -> Plan:
        """What the study's budget gives each sum."""
        return _planned(self.study.canonical, self.model().sums())

    def kinds(self, family: str) -> list[Kind]:
        """Return the plan's kinds of a family."""
        return [kind for kind in self.plan.kinds if kind.sum.family == family]

    def kind(self, name: str) -> Kind:
        """Return the plan's kind of that name."""
        found = self.plan.kind(name)
        if found is None:
            raise Broken(f"the trainer asks for {name!r}, which `sums` does not declare; declare it")
        return found

    @functools.cached_property
    def training(self) -> Training:
        """A whole training with the planned noise."""
        return self.train()

    @functools.cached_property
    def watched(self) -> Watched:
        """A second training under watch; whatever is loaded at first use has been by then."""
        self.training  # noqa: B018
        with noting_settings() as changed:
            with noting_acts() as acts, noting_randomness() as moved:
                trainer = self.train().trainer
            state = trainer.state()
            with contextlib.suppress(Exception):  # checks of sampling tell of it
                self.sample(5, trainer=trainer)
        return Watched(state, moved, acts, changed)

    @property
    def batch(self) -> Array:
        """A fresh copy of the encoded records."""
        return self._encoded.copy()

    @functools.cached_property
    def _encoded(self) -> Array:
        return self.model().private().encode(self.records)

    @property
    def payloads(self) -> dict[str, Payload]:
        """A made-up payload of each kind of sum: what a private part does must hold under any."""
        rng = np.random.default_rng(SEED)
        return {
            kind.sum.name: {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in kind.sum.payload}
            for kind in self.plan.kinds
        }

    def asked(self, name: str) -> Payload | None:
        """Return the last payload that the trainer sent with a sum; None if it never asked for it."""
        return next((ask.payload for ask in reversed(self.training.asks) if ask.sum == name), None)

    def statistic(
        self, name: str, batch: Array, private: PrivatePart | None = None, payload: Payload | None = None
    ) -> Array:
        """Return the contributions of a batch to a statistic, shape ``(rows, dim)``."""
        private = private or self.model().private()
        payload = self.payloads[name] if payload is None else payload
        return np.array(private.statistic(name, batch, payload), dtype=np.float64)

    def module(self, each: Sum, private: PrivatePart) -> nn.Module:
        """Return a module in double precision, with the made-up payload as its parameters."""
        module = private.module(each.name).double()
        with torch.no_grad():
            for parameter, array in zip(module.parameters(), self.payloads[each.name].values(), strict=True):
                parameter.copy_(torch.tensor(array, dtype=torch.float64))
        return module

    def loss(self, each: Sum, batch: Array, private: PrivatePart, module: nn.Module) -> torch.Tensor:
        """Return the plain losses of a batch, shape ``(rows,)``."""
        return private.loss(each.name, module, torch.tensor(batch), torch.tensor(self.coins(each, len(batch))))

    def coins(self, each: Sum, rows: int, seed: int = SEED) -> Array:
        """Return made-up coins of a sum, shape ``(rows, coins)``."""
        return np.random.default_rng(seed).uniform(0.01, 0.99, (rows, each.coins))

    def summed(self, kind: Kind, batch: Array, coins: Array | None = None, private: PrivatePart | None = None) -> Array:
        """Return the core's clipped sum of a batch, shape ``(dim,)``.

        Raises:
            Broken: the core refuses the plugin.
        """
        tossed = self.coins(kind.sum, kind.slots) if coins is None else coins
        private = private or self.model().private()
        try:
            return clipped_sum()(private, kind, self.payloads[kind.sum.name], batch, tossed)
        except UnsupportedMechanism as error:
            raise Broken(f"the core refuses the sum {kind.sum.name!r}: {error}") from error

    def train(
        self,
        *,
        seed: int = SEED,
        noise: float = 1.0,
        overlaps: int = 1,
        fails: Callable[[Ask, int], bool] = lambda ask, index: False,  # noqa: ARG005
        sites: int = SITES,
        start: tuple[State, int, Mapping[str, int]] | None = None,
        model: Model | None = None,
    ) -> Training:
        """Run a made-up federation until the trainer wants no more.

        Args:
            seed: of the trainer.
            noise: factor on the planned noise.
            overlaps: how often ``overlap`` is called in a round.
            fails: says of which asks the answer is lost.
            sites: that take part.
            start: a checkpoint to go on from, how many asks came before it, and what was left then.
            model: whose trainer it is; a fresh one if None.

        Raises:
            Broken: it never ends, or asks for what it may not.
        """
        trainer = (model or self.model()).trainer(seed)
        training = Training(trainer, {kind.sum.name: kind.sum.rounds for kind in self.plan.kinds})
        first = 0
        if start is not None:
            state, first, remaining = start
            trainer.load(state)
            training.remaining = dict(remaining)
        for index in range(first, first + MOST_ASKS):
            training.states.append(copy.deepcopy(trainer.state()))
            ask = trainer.ask(dict(training.remaining))
            if ask is None:
                return training
            kind = self.kind(ask.sum)
            promise(
                training.remaining[ask.sum] > 0,
                f"the trainer asks for {ask.sum!r} though none of its rounds is left; look at `remaining`",
            )
            training.asks.append(Ask(ask.sum, copy.deepcopy(dict(ask.payload))))
            training.remaining[ask.sum] -= 1
            for _ in range(overlaps):
                trainer.overlap()
            if not fails(ask, index):
                trainer.receive(self._answer(kind, ask.payload, index, noise, sites))
        raise Broken("the trainer never stops asking; return None from `ask` when it is trained")

    def _answer(self, kind: Kind, payload: Payload, index: int, noise: float, sites: int) -> Answer:
        """Return what a federation would release, its noise and coins drawn from a fixed seed."""
        rng = np.random.default_rng([SEED, index])
        std = noise * kind.noise_multiplier * kind.sum.clip_norm * math.sqrt(kind.sum.steps)
        total = sum(self._site(kind, payload, noise, rng) for _ in range(sites))
        return Answer(kind.sum.name, total + rng.normal(0, std, kind.sum.dim), std, sites)

    def _site(self, kind: Kind, payload: Payload, noise: float, rng: np.random.Generator) -> Array:
        """Return one site's clipped sums of all steps of a round; noise goes into its own steps only."""
        model, batch = self.model(), self.batch
        private, local = model.private(), local_part(model)
        total, std = np.zeros(kind.sum.dim), noise * kind.noise_multiplier * kind.sum.clip_norm
        for step in range(kind.sum.steps):
            sampled = batch[rng.random(len(batch)) < kind.sum.sample_rate]
            coins = rng.uniform(0.001, 0.999, (kind.slots, kind.sum.coins))
            try:
                summed = clipped_sum()(private, kind, payload, sampled, coins)
            except UnsupportedMechanism as error:
                raise Broken(f"the core refuses the sum {kind.sum.name!r}: {error}") from error
            total += summed
            if step + 1 < kind.sum.steps:
                payload = local.advance(kind.sum.name, payload, summed + rng.normal(0, std, kind.sum.dim), step)
        return total

    def sample(self, rows: int, seed: int = SEED, trainer: Trainer | None = None) -> Records:
        """Return synthetic records of the trained model, or of another trainer."""
        return (trainer or self.training.trainer).sample(rows, seed, {})


@functools.lru_cache(maxsize=64)
def _planned(terms: bytes, sums: tuple[Sum, ...]) -> Plan:
    """Return the plan of a study's canonical terms; planning takes a second, and many trials share one."""
    return make_plan(Study.model_validate_json(terms), sums)


def same_states(one: State, other: State) -> bool:
    """Return whether two checkpoints are equal, bit for bit."""
    return one.keys() == other.keys() and all(
        one[name].shape == other[name].shape
        and one[name].dtype == other[name].dtype
        and np.array_equal(one[name], other[name], equal_nan=one[name].dtype.kind == "f")
        for name in one
    )
