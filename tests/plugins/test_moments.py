"""The model of private moments: its declared sums, what it reproduces, its conditions and checkpoints."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tests.plugins.array_studies import DIGITS, SERIES, SITES, Core, digits, floor_samples, series, study

from synthfed.plugins.api import Model, PrivatePart, Span, Trainer
from synthfed.plugins.models.moments import Moments, MomentsTrainer
from synthfed.protocols.errors import ConfigError, LocalProtocolError


def trained(
    columns: list[dict[str, Any]] = DIGITS, *, rounds: int = 1000, noise: float | None = 2.0, **options: Any
) -> tuple[Moments, MomentsTrainer, Core]:
    terms = study(columns, **options)
    model = Moments(terms)
    trainer, core = model.trainer(seed=0), Core(terms, model, digits() if columns == DIGITS else series(), noise=noise)
    core.run(trainer, rounds)
    return model, trainer, core


def test_the_plugin_satisfies_the_contract() -> None:
    model: Model = Moments(study())
    private: PrivatePart = model.private()
    trainer: Trainer = model.trainer(seed=0)
    assert private.encode(digits()[:5]).shape == (5, 74)
    assert trainer.ask({each.name: each.rounds for each in model.sums()}) is not None
    assert model.conditions == ("digit",)


@pytest.mark.parametrize("cells", [1, 3])
def test_every_contribution_is_within_its_bound_and_of_the_declared_length(cells: int) -> None:
    model, private = Moments(study(cells=cells)), Moments(study(cells=cells)).private()
    rng = np.random.default_rng(0)
    batch = private.encode(np.vstack([digits()[:40], rng.normal(0, 1e6, (40, 65))]))
    for each in model.sums():
        payload = {name: rng.normal(0, 3, shape).astype(np.float32) for name, shape in each.payload}
        parts = private.statistic(each.name, batch, payload)
        assert parts.shape == (80, each.dim)
        assert np.linalg.norm(parts, axis=1).max() <= each.clip_norm + 1e-9
        alone = private.statistic(each.name, batch[7:8], payload)[0]
        np.testing.assert_allclose(alone, parts[7], atol=1e-12)


def test_shares_follow_the_options_and_sum_to_one() -> None:
    sums = {each.name: each for each in Moments(study(cells=2, basis_part=0.4)).sums()}
    assert list(sums) == ["levels", "means", "basis", "cells", "moments"]
    assert sum(each.share for each in sums.values()) == pytest.approx(1.0)
    assert sums["basis"].share == pytest.approx(2 * sums["cells"].share)
    assert "cells" not in [each.name for each in Moments(study()).sums()]


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (DIGITS, {"size": 3}, "model.options: size"),
        (DIGITS, {"directions": 50, "coefficients": 40}, "directions must not exceed"),
        (SERIES[1:], {}, "exactly one array"),
        (
            [*DIGITS, {"name": "site", "kind": "categorical", "values": [str(i) for i in range(30)]}],
            {},
            "there are 300; leave columns out",
        ),
    ],
)
def test_a_study_it_cannot_take_is_refused(
    columns: list[dict[str, Any]], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Moments(study(columns, **options))


def test_without_noise_the_means_and_covariances_of_each_class_come_back() -> None:
    model, trainer, core = trained(SERIES, noise=1e-3, coefficients=40, directions=12)
    drawn = model.private().encode(trainer.sample(6000, seed=1, given={}))
    real = core.batch
    for ill in (False, True):
        mine, theirs = drawn[drawn[:, -1] == ill], real[real[:, -1] == ill]
        np.testing.assert_allclose(mine[:, :64].mean(0), theirs[:, :64].mean(0), atol=0.03)
        np.testing.assert_allclose(np.cov(mine[:, :64].T), np.cov(theirs[:, :64].T), atol=0.02)
    np.testing.assert_allclose(drawn[:, 64:].mean(0), real[:, 64:].mean(0), atol=0.03)


def accuracy(drawn: np.ndarray, real: np.ndarray) -> float:
    learned = LogisticRegression(max_iter=300).fit(drawn[:, :64], drawn[:, 64:].argmax(1))
    return float(learned.score(real[:, :64], real[:, 64:].argmax(1)))


@pytest.mark.parametrize("cells", [1, 3])
def test_a_classifier_learns_digits_from_samples_better_than_from_noisy_pixel_means(cells: int) -> None:
    model, trainer, core = trained(noise=None, epsilon=3.0, cells=cells)
    drawn = model.private().encode(trainer.sample(2000, seed=1, given={}))
    floor = accuracy(floor_samples(study(epsilon=3.0), core.batch, 64, 2000), core.batch)
    assert accuracy(drawn, core.batch) > floor + 0.02
    assert trainer.progress()["units_per_site"] == pytest.approx(len(core.batch) / SITES, rel=0.1)


def test_samples_keep_to_the_given_categories_and_the_schema() -> None:
    _, trainer, _ = trained(SERIES, coefficients=20, directions=8)
    drawn = trainer.sample(300, seed=1, given={"ill": Span.at(1), "sex": Span.at(0)})
    assert (drawn[:, 64:] == [0, 1]).all()
    assert drawn[:, :64].min() >= -3
    assert drawn[:, :64].max() <= 5
    np.testing.assert_array_equal(drawn, np.round(drawn, 3))
    free = trainer.sample(300, seed=1, given={})
    assert 0.1 < np.isnan(free[:, 64]).mean() < 0.6
    np.testing.assert_array_equal(free, trainer.sample(300, seed=1, given={}))
    assert not np.array_equal(free, trainer.sample(300, seed=2, given={}))
    assert trainer.sample(0, seed=1, given={}).shape == (0, 66)


def test_a_walk_goes_from_one_draw_to_another_of_its_class_in_small_steps() -> None:
    _, trainer, _ = trained()
    walk = trainer.walk(3, 9, seed=4).reshape(3, 9, 65)
    assert (walk[:, :, 0] == walk[:, :1, 0]).all()
    steps, whole = np.abs(np.diff(walk[:, :, 1:], axis=1)).max(), np.abs(walk[:, 0, 1:] - walk[:, -1, 1:]).max()
    assert 0 < steps < 0.5 * whole
    assert trainer.walk(0, 9, seed=4).shape == (0, 65)


@pytest.mark.parametrize("done", [0, 1, 3, 5, 7, 9])
def test_training_goes_on_from_a_checkpoint_bit_for_bit(done: int) -> None:
    model, first, core = trained(rounds=done, cells=2, coefficients=30, directions=10)
    second = model.trainer(seed=9)
    second.load(first.state())
    for _ in range(10 - done):
        asks = first.ask(core.remaining), second.ask(core.remaining)
        assert asks[0] is not None
        assert asks[1] is not None
        for name, values in asks[0].payload.items():
            np.testing.assert_array_equal(values, asks[1].payload[name])
        answer = core.answer(asks[0].sum, asks[0].payload)
        core.remaining[asks[0].sum] -= 1
        first.receive(answer)
        second.receive(answer)
    np.testing.assert_array_equal(first.sample(50, seed=1, given={}), second.sample(50, seed=1, given={}))


def test_a_checkpoint_of_another_study_is_refused() -> None:
    state = Moments(study(SERIES)).trainer(seed=0).state()
    with pytest.raises(ConfigError, match="use a checkpoint of this study"):
        Moments(study()).trainer(seed=0).load(state)


@pytest.mark.parametrize("lost", ["levels", "means", "basis", "cells", "moments"])
def test_a_statistic_of_which_every_round_failed_costs_quality_only(lost: str) -> None:
    terms = study(cells=2)
    model = Moments(terms)
    trainer, core = model.trainer(seed=0), Core(terms, model, digits(), noise=2.0)
    core.remaining[lost] = 0
    core.run(trainer)
    assert np.isfinite(trainer.sample(100, seed=0, given={})).all()


def test_hopeless_noise_still_gives_records_within_the_schema() -> None:
    _, trainer, _ = trained(noise=1e6)
    drawn = trainer.sample(200, seed=0, given={})
    assert drawn[:, 1:].min() >= 0
    assert drawn[:, 1:].max() <= 16


def test_sampling_leaves_global_randomness_alone() -> None:
    _, trainer, _ = trained(rounds=2)
    before = torch.random.get_rng_state()
    trainer.sample(10, seed=1, given={})
    torch.testing.assert_close(torch.random.get_rng_state(), before)


def test_there_is_no_gradient_to_ask_for() -> None:
    private = Moments(study()).private()
    with pytest.raises(LocalProtocolError, match="statistics only"):
        private.module("critic")
    with pytest.raises(LocalProtocolError, match="statistics only"):
        private.loss("critic", torch.nn.Identity(), torch.zeros(1, 74), torch.zeros(1, 0))
