"""The charged comparison: what is better is kept, what is worse or unseen is not, and one record has one vote."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.plugins.core import COLUMNS, SITES, Core, made_up, study
from tests.plugins.gan_studies import FAMILIES, SMALL

from synthfed.plugins.api import Answer, Span
from synthfed.plugins.models.adversarial.comparison import Verdict
from synthfed.plugins.models.adversarial.critics import DenseCritic
from synthfed.plugins.models.adversarial.discriminator import LARGEST, calibration, learn, pool_size, votes
from synthfed.plugins.models.adversarial.engine import Adversarial
from synthfed.plugins.models.adversarial.table_gan import TableGan
from synthfed.plugins.models.tables.table_fitting import TableFitting

Trained = tuple[TableGan, Adversarial[TableFitting], Core]
ON: dict[str, Any] = SMALL | {"comparison_share": 0.02, "batch": 128}
BETTER: dict[str, Any] = {
    "start": "marginals",
    "critic_rate": 0.01,
    "generator_rate": 0.2,
    "averaging": 0.9,
}
WORSE: dict[str, Any] = {"fit_steps": 200, "generator_rate": 0.5, "pairs_anchor": 0.0, "marginals_anchor": 0.0}


def make(family: str = "gan", steps: int = 20, **options: Any) -> TableGan:
    return FAMILIES[family](study(COLUMNS, ON | options, plugin=family, steps=steps))


def trained(family: str = "gan", rounds: int = 1000, steps: int = 20, **options: Any) -> Trained:
    model = make(family, steps, **options)
    trainer, core = model.trainer(seed=3), Core(model, made_up())
    core.run(trainer, rounds)
    return model, trainer, core


def of_warm(model: TableGan, trainer: Adversarial[TableFitting], rows: int, seed: int) -> np.ndarray:
    """Return records of the warm start, made from a checkpoint's arrays alone."""
    state = trainer.state()
    other = model.trainer(seed=7)
    other.load(state | {"average": state["warm"], "comparison.weights": np.zeros(2)})
    return other.sample(rows, seed, {})


def association(records: np.ndarray) -> float:
    return float(np.mean(records[records[:, 3] == 1, 2]) - np.mean(records[records[:, 3] == 0, 2]))


def test_a_refinement_that_made_things_worse_is_thrown_away() -> None:
    model, trainer, _ = trained(steps=40, **WORSE)
    state, progress = trainer.state(), trainer.progress()
    assert np.abs(state["average"] - state["warm"]).max() > 1.0
    assert progress["kept"] == 0.0
    assert progress["comparison"] < -2 * progress["comparison_noise"]
    np.testing.assert_array_equal(trainer.sample(50, 1, {}), of_warm(model, trainer, 50, 1))


def test_a_refinement_that_taught_the_generator_something_is_kept() -> None:
    model, trainer, _ = trained(steps=60, **BETTER)
    progress = trainer.progress()
    assert progress["kept"] == 1.0
    assert progress["comparison"] > 5 * progress["comparison_noise"] > 0
    drawn = trainer.sample(20_000, 1, {})
    assert association(drawn) > 1.0
    assert abs(association(of_warm(model, trainer, 20_000, 1))) < 0.2
    assert set(trainer.sample(20, 1, {"ill": Span.at(1)})[:, 3]) == {1.0}


def test_a_refinement_of_an_anchor_that_was_hardly_fitted_is_kept() -> None:
    assert trained(steps=60, **BETTER | {"start": "pairs", "fit_steps": 1})[1].progress()["kept"] == 1.0


def test_a_refinement_that_changed_nothing_is_a_tie_and_costs_nothing() -> None:
    model, trainer, core = trained(generator_rate=1e-9)
    progress = trainer.progress()
    assert (progress["comparison"], progress["comparison_noise"], progress["kept"]) == (0.0, 0.0, 0.0)
    assert core.remaining == dict.fromkeys(core.remaining, 0)
    np.testing.assert_array_equal(trainer.sample(50, 1, {}), of_warm(model, trainer, 50, 1))


def test_great_noise_keeps_the_warm_start() -> None:
    model = make(steps=60, **BETTER)
    trainer, core = model.trainer(seed=3), Core(model, made_up())
    core.noise["comparison"] = 1e4
    core.run(trainer)
    progress = trainer.progress()
    assert progress["comparison_noise"] > 1.0
    assert progress["kept"] == 0.0


def test_a_training_that_never_got_a_comparison_falls_back_to_the_warm_start() -> None:
    model, trainer, core = trained(steps=60, rounds=62, **BETTER)
    assert core.remaining == {"marginals": 0, "comparison": 2, "critic": 0}
    for left in (2, 1, 0):
        ask = trainer.ask({"comparison": left})
        assert (ask is None) == (left == 0)
    assert "kept" not in trainer.progress()
    np.testing.assert_array_equal(trainer.sample(50, 1, {}), of_warm(model, trainer, 50, 1))
    np.testing.assert_array_equal(trainer.sample(50, 1, {}), trainer.sample(50, 1, {}))


def test_one_of_two_rounds_is_enough() -> None:
    _, trainer, core = trained(steps=60, rounds=62, **BETTER)
    first = trainer.ask(core.remaining)
    again = trainer.ask({**core.remaining, "comparison": 1})
    assert first is not None
    assert again is not None
    for name, values in first.payload.items():
        np.testing.assert_array_equal(values, again.payload[name])
    trainer.receive(core.answer(core.sums["comparison"], again.payload))
    assert trainer.progress()["kept"] == 1.0
    assert trainer.ask({}) is None


def test_without_a_share_there_is_no_comparison_and_the_refined_generator_stays() -> None:
    model, trainer, _ = trained(comparison_share=0.0, generator_rate=0.05)
    assert [each.name for each in model.sums()] == ["marginals", "pairs", "critic"]
    assert model.sums()[-1].share == pytest.approx(0.15)
    assert "kept" not in trainer.progress()
    assert not np.array_equal(trainer.sample(200, 1, {}), of_warm(model, trainer, 200, 1))


def test_the_comparison_is_one_number_of_all_units_at_the_critics_expense() -> None:
    sums = {each.name: each for each in make().sums()}
    comparison = sums["comparison"]
    assert (comparison.family, comparison.dim, comparison.clip_norm) == ("statistic", 1, 1.0)
    assert (comparison.sample_rate, comparison.rounds, comparison.share) == (1.0, 2, 0.02)
    assert sums["critic"].share == pytest.approx(0.13)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("done", [8, 10, 11, 12])
def test_a_checkpoint_on_either_side_of_the_comparison_goes_on_bit_for_bit(family: str, done: int) -> None:
    options: dict[str, Any] = {"generator_rate": 0.05, "comparison_steps": 20}
    model, first, core = trained(family, rounds=done, steps=6, **options)
    second, copy = model.trainer(seed=99), Core(model, made_up())
    second.load(first.state())
    assert second.progress().get("kept") == first.progress().get("kept")
    copy.follow(core)
    core.run(first)
    copy.run(second)
    assert core.remaining == dict.fromkeys(core.remaining, 0)
    for name, values in first.state().items():
        np.testing.assert_array_equal(values, second.state()[name], err_msg=name)
    np.testing.assert_array_equal(first.sample(100, 1, {}), second.sample(100, 1, {}))
    np.testing.assert_array_equal(first.walk(2, 5, 1), second.walk(2, 5, 1))


NUMBERS = st.floats(width=32, allow_nan=True, allow_infinity=True)


@settings(max_examples=60, deadline=None)
@given(row=st.lists(NUMBERS, min_size=23, max_size=23), size=st.sampled_from([0.0, 1.0, LARGEST, 1e30]))
def test_no_record_and_no_payload_gives_more_than_one_vote(row: list[float], size: float) -> None:
    model = make()
    rng = np.random.default_rng(0)
    payload = {name: (size * rng.normal(size=shape)).astype(np.float32) for name, shape in model.sums()[2].payload}
    told = model.private().statistic("comparison", np.array([row], dtype=np.float64), payload)
    assert told.shape == (1, 1)
    assert abs(told[0, 0]) <= 1.0


def test_a_vote_is_the_score_of_that_record_alone_until_it_is_clipped() -> None:
    model = make()
    batch = model.private().encode(made_up(40))
    critic = DenseCritic(23, 8, 2)
    payload = {name: 10 * each.detach().numpy() for name, each in critic.named_parameters()}
    with torch.no_grad():
        for each in critic.parameters():
            each.mul_(10)
    told = model.private().statistic("comparison", batch, payload)
    scores = critic(torch.from_numpy(batch).float()).detach()
    assert float(scores.abs().max()) > 1.0
    np.testing.assert_allclose(told, votes(scores).numpy(), atol=1e-4)
    np.testing.assert_allclose(model.private().statistic("comparison", batch[7:8], payload), told[7:8])


def normal(rows: int, shift: float, seed: int) -> torch.Tensor:
    return torch.randn(rows, 3, generator=torch.Generator().manual_seed(seed)) + shift


def learnt(shift: float) -> tuple[DenseCritic, float, float]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        critic = DenseCritic(3, 16, 2)
    rng = torch.Generator().manual_seed(5)
    return critic, *learn(critic, normal(8192, 0, 0), normal(8192, shift, 1), steps=400, batch=256, rng=rng)


def test_the_mean_vote_is_what_the_second_generator_is_nearer_by() -> None:
    critic, bound, variance = learnt(0.5)
    at_second, at_first, between = (normal(20_000, shift, 9) for shift in (0.5, 0.0, 0.25))
    with torch.no_grad():
        nearer = [bound * float(votes(critic(each)).mean()) for each in (at_second, at_first, between)]
        spread = float(votes(critic(at_first)).var())
    # The divergence of one normal from the other is 3 * 0.5 ** 2 / 2 nats.
    np.testing.assert_allclose(nearer, [0.375, -0.375, 0.0], atol=0.06)
    assert variance == pytest.approx(spread, rel=0.2)
    assert 1.2 < bound < 2.5


def test_votes_between_fakes_that_cannot_be_told_apart_count_nothing() -> None:
    critic, bound, _ = learnt(0.0)
    assert bound == 0.0
    assert 0.9 < float((critic(normal(1000, 0.0, 2)).abs() < 1).float().mean()) < 0.99


def test_fakes_without_overlap_leave_weights_that_can_be_sent() -> None:
    critic, bound, _ = learnt(100.0)
    assert 0 < bound < 100
    assert all(bool(each.isfinite().all()) for each in critic.parameters())
    assert float(critic.exit.weight.detach().abs().max()) <= LARGEST * 1.001


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 0.0), (3.0, 0.0), (0.5, 1.0)])
def test_calibration_undoes_what_a_discriminator_got_wrong(factor: float, shift: float) -> None:
    rng = torch.Generator().manual_seed(0)
    ends = torch.ones(20_000, dtype=torch.float64)
    noise = torch.randn(40_000, generator=rng, dtype=torch.float64)
    logits = torch.cat([ends, -ends]) / 2 + noise  # their log ratio is the number itself
    slope, moved = calibration(factor * (logits + shift))
    assert slope == pytest.approx(1 / factor, rel=0.05)
    assert moved == pytest.approx(-shift, abs=0.05)


def test_scores_of_the_wrong_sign_tell_nothing() -> None:
    scores = torch.cat([-torch.ones(50, dtype=torch.float64), torch.ones(50, dtype=torch.float64)])
    assert calibration(scores) == (0.0, 0.0)


def test_a_gain_is_kept_from_two_standard_deviations_on() -> None:
    assert Verdict(0.21, 0.1).is_kept
    assert not Verdict(0.2, 0.1).is_kept
    assert not Verdict(0.0, 0.0).is_kept
    assert not Verdict(-1.0, 0.1).is_kept


def test_the_estimate_is_a_mean_over_units_and_its_noise_holds_that_of_the_release() -> None:
    _, trainer, core = trained(steps=60, rounds=62, **BETTER)
    ask = trainer.ask(core.remaining)
    assert ask is not None
    bound, variance = trainer.state()["comparison.votes"][1:]
    for total, noise in ((70.0, 30.0), (50.0, 30.0)):
        trainer.receive(Answer("comparison", np.array([total]), noise, SITES))
    progress = trainer.progress()
    units = SITES * progress["units_per_site"]
    assert progress["comparison"] == pytest.approx(bound * 60 / units)
    assert progress["comparison_noise"] == pytest.approx(bound * np.sqrt(450 / units**2 + variance / units))


def test_a_pool_of_fakes_is_bounded_by_what_a_record_holds() -> None:
    assert pool_size(200, 1024) == 16_384
    assert pool_size(100_000, 1024) == 1024
    assert pool_size(10, 16) == 1024
