"""The GANs for arrays: exact per-unit gradients of convolutions, a start at the anchor, conditions, checkpoints."""

from typing import Any

import numpy as np
import pytest
import torch
from opacus.validators import ModuleValidator
from tests.plugins.array_studies import DIGITS, SERIES, Core, digits, series, study

from synthfed.client.train import clipped_sum
from synthfed.plugins.api import Model, PrivatePart, Span, Trainer
from synthfed.plugins.models.adversarial.array_gan import ArrayGan
from synthfed.plugins.models.adversarial.convolutions import ArrayCritic, Refiner, held
from synthfed.plugins.models.adversarial.engine import Adversarial
from synthfed.plugins.models.adversarial.losses import LOGISTIC
from synthfed.plugins.models.adversarial.unit_gradients import clipped_gradient
from synthfed.plugins.models.arrays.moment_fitting import MomentFitting
from synthfed.plugins.models.dcgan import Dcgan
from synthfed.plugins.models.signal_gan import SignalGan
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.sums import TILE, Kind

COLUMNS: dict[str, list[dict[str, Any]]] = {"dcgan": DIGITS, "signal-gan": SERIES}
FAMILIES: dict[str, Any] = {"dcgan": Dcgan, "signal-gan": SignalGan}
SMALL: dict[str, Any] = {
    "batch": 32,
    "critic_channels": 4,
    "generator_channels": 4,
    "coefficients": 20,
    "directions": 8,
    "comparison_share": 0.0,  # as in the studies of tables
}
EVERYTHING: dict[str, Any] = {
    "critic_dropout": 0.2,
    "generator_dropout": 0.2,
    "mixup": 0.3,
    "mixup_partners": 8,
    "anchor_share": 0.7,
    "features_share": 0.1,
    "features_every": 2,
    "diversity": 0.5,
    "spectral": 2.0,
    "cells": 2,
    "pretraining": 2,
    "comparison_share": 0.05,
    "comparison_steps": 5,
}
FAMILY = pytest.mark.parametrize("family", FAMILIES)


def make(family: str, **options: Any) -> ArrayGan:
    made: ArrayGan = FAMILIES[family](study(COLUMNS[family], plugin=family, **(SMALL | options)))
    return made


def trained(family: str, rounds: int = 1000, **options: Any) -> tuple[ArrayGan, Adversarial[MomentFitting], Core]:
    model = make(family, **options)
    trainer, core = model.trainer(seed=3), core_of(family, model)
    core.run(trainer, rounds)
    return model, trainer, core


def core_of(family: str, model: ArrayGan) -> Core:
    records = digits() if family == "dcgan" else series()
    return Core(study(COLUMNS[family], plugin=family, **SMALL), model, records, noise=1.0)


@FAMILY
def test_a_family_satisfies_the_contract(family: str) -> None:
    model: Model = make(family)
    private: PrivatePart = model.private()
    trainer: Trainer = model.trainer(seed=0)
    assert trainer.ask({each.name: each.rounds for each in model.sums()}) is not None
    critic = model.sums()[-1]
    assert (critic.name, critic.family, critic.rounds) == ("critic", "gradient", 6)
    assert sum(each.share for each in model.sums()) == pytest.approx(1.0)
    module = private.module("critic")
    assert ModuleValidator.validate(module, strict=False) == []
    assert critic.dim == sum(each.numel() for each in module.parameters())
    assert model.conditions == {"dcgan": ("digit",), "signal-gan": ("sex", "ill")}[family]


@FAMILY
@pytest.mark.parametrize("clip_norm", [0.3, 1e3])
def test_the_cores_clipped_sum_is_that_of_gradients_taken_one_by_one(family: str, clip_norm: float) -> None:
    model = make(family, critic_dropout=0.2)
    core = core_of(family, model)
    private, wanted, batch = model.private(), core.sums["critic"], core.batch[:9]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        payload = {name: 0.3 * torch.randn(shape).numpy().astype(np.float32) for name, shape in wanted.payload}
    coins = np.random.default_rng(0).random((TILE, wanted.coins))
    bounded = type(wanted)(**{name: getattr(wanted, name) for name in wanted.__slots__} | {"clip_norm": clip_norm})
    fast = clipped_sum(private, Kind(bounded, 1.0, TILE, 64), payload, batch, coins)
    module, slow, norms = private.module("critic").double(), np.zeros(wanted.dim), []
    with torch.no_grad():
        for each, values in zip(module.parameters(), payload.values(), strict=True):
            each.copy_(torch.from_numpy(values))
    for record, tossed in zip(batch, coins, strict=False):
        loss = private.loss("critic", module, torch.from_numpy(record[None]), torch.from_numpy(tossed[None])).sum()
        parts = torch.autograd.grad(loss, list(module.parameters()))
        gradient = torch.cat([part.flatten() for part in parts]).numpy()
        norms.append(np.linalg.norm(gradient))
        slow += gradient * min(1.0, clip_norm / norms[-1])
    np.testing.assert_allclose(fast, slow, rtol=1e-9, atol=1e-11)
    assert (max(norms) > clip_norm) == (clip_norm < 1)


@FAMILY
def test_the_clipped_gradient_of_fakes_is_that_of_gradients_taken_one_by_one(family: str) -> None:
    model = make(family)
    critic, rng = model.fresh_critic(0), torch.Generator().manual_seed(0)
    batch = torch.randn(70, model.encoded_width, generator=rng)
    found = clipped_gradient(critic, batch, torch.empty(70, 0), LOGISTIC.fake, 0.5)
    slow = torch.zeros_like(found)
    for record in batch:
        parts = torch.autograd.grad(LOGISTIC.fake(critic(record[None])).sum(), list(critic.parameters()))
        gradient = torch.cat([part.flatten() for part in parts])
        slow += gradient / max(1.0, float(gradient.norm()) / 0.5)
    torch.testing.assert_close(found, slow, rtol=1e-4, atol=1e-5)


@FAMILY
@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["default", "everything"])
@pytest.mark.parametrize("done", [0, 5, 9])
def test_training_goes_on_from_a_checkpoint_bit_for_bit(family: str, options: dict[str, Any], done: int) -> None:
    model, first, core = trained(family, rounds=done, **options)
    second, copy = model.trainer(seed=99), core_of(family, model)
    second.load(first.state())
    copy.remaining = dict(core.remaining)
    copy.rng.bit_generator.state = core.rng.bit_generator.state
    core.run(first)
    copy.run(second)
    assert first.progress()["steps"] == 6
    for name, values in first.state().items():
        np.testing.assert_array_equal(values, second.state()[name], err_msg=name)
    np.testing.assert_array_equal(first.sample(20, seed=1, given={}), second.sample(20, seed=1, given={}))


@FAMILY
def test_before_the_critics_first_step_records_are_the_anchors_own(family: str) -> None:
    model, trainer, _ = trained(family, rounds=8)
    fitting = model.fitting(0)
    fitting.load(trainer.state())
    rng, encoder = torch.Generator().manual_seed(7), model.anchor.encoder
    group = fitting.draw_classes(40, rng, {})
    rng.manual_seed(7)
    fitting.draw_classes(40, rng, {})
    torch.randn(40, model.options.latent, generator=rng)
    expected = encoder.decode(fitting.numbers(fitting.draw(group, rng)), model.anchor.codes_of(group))
    np.testing.assert_allclose(trainer.sample(40, seed=7, given={}), expected, atol=0.002)


@FAMILY
def test_the_critic_changes_the_anchors_draws_a_little(family: str) -> None:
    _, trainer, _ = trained(family, generator_rate=0.01)
    assert 0 < trainer.progress()["anchor_change"] < 0.1


@FAMILY
def test_samples_keep_to_the_given_categories_and_the_schema(family: str) -> None:
    model, trainer, _ = trained(family, generator_rate=0.1)
    name = model.conditions[-1]
    drawn = trainer.sample(50, seed=1, given={name: Span.at(1)})
    encoder = model.anchor.encoder
    assert (encoder.encode(drawn)[:, -encoder.sizes[-1] + 1] == 1).all()
    numbers = drawn[:, 1:] if family == "dcgan" else drawn[:, :64]
    assert numbers.min() >= encoder.array.lower
    assert numbers.max() <= encoder.array.upper
    assert trainer.sample(0, seed=1, given={}).shape == (0, drawn.shape[1])
    with pytest.raises(ConfigError, match="'age' cannot be fixed"):
        trainer.sample(5, seed=1, given={"age": Span.at(0)})


@FAMILY
def test_a_walk_keeps_its_labels_and_goes_in_small_steps(family: str) -> None:
    model, trainer, _ = trained(family, rounds=10)
    walk = model.encode(trainer.walk(2, 12, seed=4)).reshape(2, 12, -1)
    numbers = model.anchor.encoder.numbers
    assert (walk[:, :, numbers:] == walk[:, :1, numbers:]).all()
    steps = np.linalg.norm(np.diff(walk[:, :, :numbers], axis=1), axis=2).max(1)
    whole = np.linalg.norm(walk[:, 0, :numbers] - walk[:, -1, :numbers], axis=1)
    assert (steps < 0.4 * whole).all()
    assert len(trainer.walk(0, 5, seed=4)) == len(trainer.walk(2, 0, seed=4)) == 0


@FAMILY
def test_the_processs_random_state_is_left_alone(family: str) -> None:
    before = torch.random.get_rng_state()
    _, trainer, _ = trained(family, rounds=9)
    trainer.sample(5, seed=0, given={})
    torch.testing.assert_close(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("family", "shape", "message"),
    [
        ("dcgan", [2, 32], "use 'signal-gan' for series"),
        ("signal-gan", [1, 8, 8], "use 'dcgan' for images"),
        ("dcgan", [1, 3, 8], "at least 4 numbers along every axis"),
    ],
)
def test_arrays_of_another_form_are_refused(family: str, shape: list[int], message: str) -> None:
    array = {"name": "x", "kind": "array", "shape": shape, "lower": 0, "upper": 1}
    with pytest.raises(ConfigError, match=message):
        FAMILIES[family](study([array, DIGITS[0]], plugin=family))


@pytest.mark.parametrize("shape", [(1, 4), (2, 13), (3, 8, 5), (1, 28, 28), (1, 5, 6, 7)])
def test_networks_fit_arrays_of_every_form_and_keep_records_apart(shape: tuple[int, ...]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        critic, refiner = ArrayCritic(shape, 3, 4, 0.0), Refiner(shape, 3, 4, 2)
        torch.nn.init.normal_(refiner.last.weight)
        records = torch.rand(5, int(np.prod(shape)) + 3) * 2 - 1
        noise = torch.randn(5, 2)
    refined = refiner(records, noise)
    torch.testing.assert_close(refined[:, -3:], records[:, -3:])
    assert refined[:, :-3].abs().max() <= 1
    torch.testing.assert_close(refiner(records[2:3], noise[2:3])[0], refined[2])
    torch.testing.assert_close(critic(records[2:3])[0], critic(records)[2])


def test_numbers_beyond_the_bounds_are_held_but_find_their_way_back() -> None:
    numbers = torch.tensor([-3.0, 0.5, 2.0], requires_grad=True)
    kept = held(numbers)
    assert kept.tolist() == [-1.0, 0.5, 1.0]
    (slopes,) = torch.autograd.grad(kept.sum(), numbers)
    torch.testing.assert_close(slopes, torch.tensor([0.1, 1.0, 0.1]))


@FAMILY
def test_a_refinement_that_spoils_arrays_is_thrown_away_by_the_comparison(family: str) -> None:
    options: dict[str, Any] = {"generator_rate": 0.3, "anchor_hold": 0.0, "generator_steps": 8, "averaging": 0.5}
    _, trainer, _ = trained(family, comparison_share=0.02, comparison_steps=100, **options)
    _, anchor, _ = trained(family, rounds=8, comparison_share=0.02)
    progress, moved = trainer.progress(), trainer.state()
    assert np.abs(moved["average"] - moved["warm"]).max() > 0.1
    assert progress["kept"] == 0.0
    assert progress["comparison"] < -5 * progress["comparison_noise"]
    np.testing.assert_array_equal(trainer.sample(9, seed=1, given={}), anchor.sample(9, seed=1, given={}))


@FAMILY
def test_a_critics_score_of_an_array_is_one_bounded_vote(family: str) -> None:
    model = make(family, comparison_share=0.02)
    private, comparison = model.private(), next(each for each in model.sums() if each.name == "comparison")
    rng = np.random.default_rng(0)
    for size in (0.1, 1e3):
        payload = {name: (size * rng.normal(size=shape)).astype(np.float32) for name, shape in comparison.payload}
        batch = rng.normal(0, size, (40, model.encoded_width))
        told = private.statistic("comparison", batch, payload)
        assert told.shape == (40, 1)
        assert np.abs(told).max() <= 1.0
        np.testing.assert_allclose(private.statistic("comparison", batch[7:8], payload), told[7:8])
