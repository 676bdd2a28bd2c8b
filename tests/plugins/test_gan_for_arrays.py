"""The seam for arrays: a small family of pictures on the engine, through the core's own clipped sums."""

# ruff: noqa: ARG002  (a contract's methods take what other models need)

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import BaseModel
from tests.plugins.core import Core, study
from torch import nn

from synthfed.plugins.api import Answer, Array, Ask, Given, Model, Payload
from synthfed.plugins.models.adam import Adam, flat_gradient, flatten, set_flat
from synthfed.plugins.models.adversarial.critics import Critic
from synthfed.plugins.models.adversarial.gan_family import Fakes, GanFamily
from synthfed.plugins.models.adversarial.gan_options import GanOptions, read_options
from synthfed.plugins.models.adversarial.losses import LOGISTIC
from synthfed.plugins.models.dropout import dropped
from synthfed.protocols.schema import Records
from synthfed.protocols.study import Study
from synthfed.protocols.sums import Sum

SIDE = 6
WIDTH = SIDE * SIDE
COLUMNS: list[dict[str, Any]] = [
    {"name": "picture", "kind": "array", "shape": [1, SIDE, SIDE], "lower": 0, "upper": 10},
    {"name": "ill", "kind": "categorical", "values": ["no", "yes"]},
]


class Options(GanOptions):
    """A small batch, and public steps to start with."""

    batch: int = 32
    pretraining: int = 4
    comparison_share: float = 0.0


class MeanFitting:
    """The mean picture, and samples around it."""

    def __init__(self, anchor: "MeanAnchor") -> None:
        self._anchor, self._total, self._sites = anchor, np.zeros(WIDTH + 1), 0

    def ask(self, remaining: Mapping[str, int]) -> Ask | None:
        return Ask("means", {}) if remaining.get("means", 0) > 0 else None

    def receive(self, answer: Answer) -> None:
        self._total, self._sites = answer.total, answer.sites

    def fit(self) -> None:
        """There is nothing to fit."""

    def sample(self, rows: int, rng: torch.Generator) -> torch.Tensor:
        mean = torch.tensor(self._total[:-1] / max(self._total[-1], 1.0), dtype=torch.float32)
        return (mean + 0.3 * torch.randn(rows, WIDTH, generator=rng)).clamp(-1, 1)

    @property
    def units_per_site(self) -> float:
        return max(float(self._total[-1]) * math.sqrt(WIDTH + 1) / max(self._sites, 1), 1.0)

    def progress(self) -> Mapping[str, float]:
        return {}

    def state(self) -> dict[str, np.ndarray]:
        return {"means": self._total.copy(), "means.sites": np.array([self._sites])}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        self._total, self._sites = state["means"].copy(), int(state["means.sites"][0])


class MeanAnchor:
    """Pixel means; every record's contribution has norm 1 at most."""

    share = 0.3

    def sums(self) -> tuple[Sum, ...]:
        return (Sum("means", "statistic", WIDTH + 1, 1.0, 1.0, 1, self.share),)

    def contributions(self, name: str, batch: Array, payload: Payload) -> Array:
        return np.asarray(np.concatenate([batch, np.ones((len(batch), 1))], axis=1) / math.sqrt(WIDTH + 1))

    def fitting(self, seed: int) -> MeanFitting:
        return MeanFitting(self)


class PictureCritic(Critic):
    """One strided convolution and a group norm."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 2, stride=2)
        self.norm = nn.GroupNorm(2, 4)
        self.exit = nn.Linear(36, 1)
        self.dropout, self.coins = dropout, 36 if dropout else 0

    def features(self, batch: torch.Tensor, coins: torch.Tensor | None = None) -> torch.Tensor:
        signal = torch.relu(self.norm(self.convolution(batch.view(-1, 1, SIDE, SIDE)))).flatten(1)
        return dropped(signal, coins if self.coins else None, self.dropout)


class Pictures(GanFamily[MeanFitting]):
    """A GAN of small pictures."""

    Options: type[BaseModel] = Options
    losses = LOGISTIC

    def __init__(self, study: Study) -> None:
        super().__init__(study, read_options(Options, study), MeanAnchor())

    @property
    def encoded_width(self) -> int:
        return WIDTH

    def encode(self, records: Records) -> Array:
        return np.clip(records[:, :WIDTH] / 5 - 1, -1, 1)

    def critic(self) -> Critic:
        return PictureCritic(self.options.critic_dropout)

    def fitting(self, seed: int) -> MeanFitting:
        return MeanFitting(MeanAnchor())

    def generator(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, WIDTH), nn.Tanh())

    def warm_start(self, generator: nn.Module, fitting: MeanFitting) -> None:
        """Pre-training does that."""

    def fakes(self, generator: nn.Module, rows: int, rng: torch.Generator) -> Fakes:
        latents = torch.randn(rows, 5, generator=rng)
        records: torch.Tensor = generator(latents)
        return Fakes(records, records, latents)

    def sample(self, generator: nn.Module, fitting: MeanFitting, rows: int, seed: int, given: Given) -> Records:
        with torch.no_grad():
            fakes = self.fakes(generator, rows, torch.Generator().manual_seed(seed))
        return np.concatenate([5 * (fakes.records.double().numpy() + 1), np.zeros((rows, 1))], axis=1)

    def walk(self, generator: nn.Module, fitting: MeanFitting, walks: int, steps: int, seed: int) -> Records:
        return self.sample(generator, fitting, walks * steps, seed, {})


EVERYTHING: dict[str, Any] = {
    "critic_ladder": [1, 2],
    "ladder_grace": 1,
    "ladder_accuracy": 0.99,
    "spectral": 1.0,
    "critic_dropout": 0.3,
    "mixup": 0.3,
    "mixup_partners": 8,
    "features_share": 0.1,
    "features_every": 2,
    "diversity": 1.0,
    "comparison_share": 0.05,
    "comparison_steps": 5,
}


def pictures(**options: Any) -> tuple[Pictures, Core]:
    model = Pictures(study(COLUMNS, options, plugin="pictures"))
    rng = np.random.default_rng(0)
    bright = np.arange(WIDTH) % 2 * 8.0
    records = np.concatenate([np.clip(bright + rng.normal(0, 2, (300, WIDTH)), 0, 10), np.zeros((300, 1))], axis=1)
    return model, Core(model, records)


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["default", "everything"])
@pytest.mark.parametrize("done", [0, 3])
def test_a_family_for_arrays_trains_and_goes_on_from_a_checkpoint_bit_for_bit(
    options: dict[str, Any], done: int
) -> None:
    model, core = pictures(**options)
    first, second, copy = model.trainer(seed=3), model.trainer(seed=4), Core(model, np.zeros((1, WIDTH + 1)))
    core.run(first, done)
    second.load(first.state())
    copy.batch = core.batch
    copy.follow(core)
    core.run(first)
    copy.run(second)
    assert first.progress()["steps"] == 6
    for name, values in first.state().items():
        np.testing.assert_array_equal(values, second.state()[name], err_msg=name)


def test_pretraining_on_the_anchors_samples_starts_the_generator_at_them() -> None:
    gaps = {}
    for steps in (0, 300):
        model, core = pictures(pretraining=steps, critic_rate=0.01, generator_rate=0.01, averaging=0.9)
        trainer = model.trainer(seed=3)
        core.run(trainer, 2)
        drawn = trainer.sample(500, seed=0, given={})[:, :WIDTH].mean(axis=0)
        gaps[steps] = drawn[1::2].mean() - drawn[::2].mean()
    assert abs(gaps[0]) < 1.0
    assert gaps[300] > 3.0


def test_a_family_for_arrays_satisfies_the_contract() -> None:
    model: Model = pictures()[0]
    assert [each.name for each in model.sums()] == ["means", "critic"]
    generator = pictures()[0].generator(seed=1)
    before = flatten(generator)
    Adam.of(generator).step(generator, flat_gradient(generator(torch.ones(1, 5)).sum(), generator), 0.1, 0.5)
    assert not torch.equal(before, flatten(generator))
    set_flat(generator, before)
    assert torch.equal(before, flatten(generator))
