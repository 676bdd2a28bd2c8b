"""The anchor of tables: its statistics, the warm start from them, and the records of the generator fitted to them."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.plugins.core import COLUMNS, SITES, UNITS, Core, made_up, study

from synthfed.plugins.api import Answer
from synthfed.plugins.domains.encoding import OneHotEncoder
from synthfed.plugins.models.adversarial.engine import Adversarial
from synthfed.plugins.models.gan import Gan
from synthfed.plugins.models.marginals import Released, probabilities, project_to_simplex, shares, units_per_site
from synthfed.plugins.models.tables.histograms import Histograms
from synthfed.plugins.models.tables.misfit import information
from synthfed.plugins.models.tables.network import NetworkGenerator
from synthfed.plugins.models.tables.pairs import EMBEDDING, MAX_DIM, PairLayout, shrink
from synthfed.plugins.models.tables.sampling import draw, even_numbers, sample_codes
from synthfed.plugins.models.tables.table_fitting import TableFitting
from synthfed.protocols.schema import Integer

SMALL: dict[str, Any] = {
    "refine": True,
    "bins": 8,
    "fit_steps": 40,
    "fakes": 128,
    "batch": 128,
    "generator_hidden": 32,
    "critic_hidden": 8,
}


def gan(columns: list[dict[str, Any]] = COLUMNS, **options: Any) -> Gan:
    return Gan(study(columns, SMALL | options))


def trained(rounds: int = 1000, **options: Any) -> tuple[Gan, Adversarial[TableFitting], Core]:
    model = gan(**options)
    trainer, core = model.trainer(seed=3), Core(model, made_up())
    core.run(trainer, rounds)
    return model, trainer, core


def test_every_record_contributes_to_the_marginals_with_norm_one() -> None:
    private = gan().private()
    parts = private.statistic("marginals", private.encode(made_up()), {})
    np.testing.assert_allclose(np.linalg.norm(parts, axis=1), 1.0)


def test_a_records_contribution_depends_on_that_record_and_the_payload_alone() -> None:
    model, trainer, core = trained(rounds=2)
    ask = trainer.ask(core.remaining)
    assert ask is not None
    assert ask.sum == "pairs"
    private, batch = model.private(), core.batch
    whole = private.statistic("pairs", batch, ask.payload)
    np.testing.assert_allclose(private.statistic("pairs", batch[7:8], ask.payload)[0], whole[7])
    critic, rows = private.module("critic"), torch.tensor(batch, dtype=torch.float32)
    coins = torch.empty(len(rows), 0)
    alone = private.loss("critic", critic, rows[7:8], coins[7:8])
    torch.testing.assert_close(alone[0], private.loss("critic", critic, rows, coins)[7])


def test_most_contributions_to_the_pairs_are_not_clipped() -> None:
    model, trainer, core = trained(rounds=2)
    ask = trainer.ask(core.remaining)
    assert ask is not None
    norms = np.linalg.norm(model.private().statistic("pairs", core.batch, ask.payload), axis=1)
    assert 0.7 < np.mean(norms <= 1) < 0.99


@pytest.mark.parametrize("start", ["marginals", "pairs"])
def test_the_warm_start_reproduces_the_released_marginals_and_units(start: str) -> None:
    model, trainer, core = trained(rounds=4 if start == "pairs" else 2, start=start)
    assert trainer.progress()["units_per_site"] == pytest.approx(UNITS / SITES, rel=0.01)
    trainer.ask(core.remaining)
    drawn = model.private().encode(trainer.sample(20_000, seed=5, given={})).mean(axis=0)
    np.testing.assert_allclose(drawn, core.batch.mean(axis=0), atol=0.015)


def test_a_start_from_pairs_brings_the_association_that_marginals_cannot() -> None:
    real = made_up(20_000, seed=9)
    real_gap = np.mean(real[real[:, 3] == 1, 2]) - np.mean(real[real[:, 3] == 0, 2])
    gaps = {}
    for start in ("marginals", "pairs"):
        sampled = trained(start=start, fit_steps=150, fakes=512)[1].sample(20_000, seed=5, given={})
        gaps[start] = np.mean(sampled[sampled[:, 3] == 1, 2]) - np.mean(sampled[sampled[:, 3] == 0, 2])
    assert gaps["pairs"] > 0.6 * real_gap
    assert abs(gaps["marginals"]) < 0.3 * real_gap


def test_samples_are_fixed_by_state_and_seed_and_leave_global_randomness_alone() -> None:
    model, trainer, _ = trained()
    before, legacy = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    first = trainer.sample(500, seed=1, given={})
    model.trainer(seed=8)
    model.private().module(model.sums()[-1].name)
    torch.testing.assert_close(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], legacy)  # type: ignore[index]
    torch.manual_seed(77)
    np.testing.assert_array_equal(trainer.sample(500, seed=1, given={}), first)
    assert not np.array_equal(trainer.sample(500, seed=2, given={}), first)


def test_a_drawn_cell_is_the_one_whose_share_of_the_odds_holds_the_uniform_number() -> None:
    sizes, rows = (3, 1, 300, 2), 2000
    logits = torch.randn(sum(sizes), rows, generator=torch.Generator().manual_seed(0)) * 4
    drawn = draw(logits, sizes, torch.Generator().manual_seed(1))
    uniform = even_numbers(len(sizes), rows, torch.Generator().manual_seed(1)).numpy()
    for codes, level, block in zip(drawn, uniform, logits.split_with_sizes(list(sizes)), strict=True):
        shares = torch.softmax(block.double(), 0).cumsum(0).numpy()
        slow = np.minimum((shares <= level).sum(axis=0), len(block) - 1)
        assert np.mean(codes == slow) > 0.999  # the odds of float32 round differently
        assert np.abs(codes - slow).max() <= 1


def test_centring_brings_back_the_released_marginals_whatever_the_logits() -> None:
    sizes = (4, 2)
    generator = NetworkGenerator(latent=8, hidden=16, depth=1, sizes=sizes)
    generator.spread(torch.Generator().manual_seed(0))
    generator.start.copy_(torch.tensor([60.0, 0.0, -60.0, 1.0, 3.0, 0.0]))
    released = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.05, 0.95])
    codes = sample_codes(generator, released, rows=40_000, seed=0)
    found = np.concatenate([np.bincount(codes[:, i], minlength=size) / len(codes) for i, size in enumerate(sizes)])
    np.testing.assert_allclose(found[4:], released[4:], atol=0.01)
    assert np.isfinite(found).all()
    generator.start.zero_()
    codes = sample_codes(generator, released, rows=40_000, seed=0)
    np.testing.assert_allclose(np.bincount(codes[:, 0], minlength=4) / len(codes), released[:4], atol=0.01)


def test_the_norms_of_contributions_to_the_pairs_need_no_contributions() -> None:
    model, trainer, core = trained(rounds=2)
    ask = trainer.ask(core.remaining)
    assert ask is not None
    assert model.anchor.layout is not None
    arrays = {name: each.astype(np.float64) for name, each in ask.payload.items()}
    slow = np.linalg.norm(model.anchor.layout.contributions(core.batch, arrays), axis=1)
    np.testing.assert_allclose(model.anchor.layout.norms(core.batch, arrays), slow)


def test_sampling_needs_no_training_and_obeys_the_schema() -> None:
    sampled = gan().trainer(seed=0).sample(1000, seed=0, given={})
    assert sampled.shape == (1000, 4)
    assert np.nanmin(sampled[:, 2]) >= 0
    assert np.nanmax(sampled[:, 2]) <= 10
    assert set(np.unique(sampled[:, 0])) == {0.0, 1.0, 2.0}


def test_without_any_statistic_the_critic_still_trains_from_uniform_columns() -> None:
    model = gan()
    trainer, core = model.trainer(seed=0), Core(model, made_up())
    core.remaining |= {"marginals": 0, "pairs": 2}
    core.run(trainer)
    assert core.remaining == {"marginals": 0, "pairs": 2, "critic": 0, "comparison": 0}
    assert trainer.progress()["steps"] == 6
    assert np.isfinite(trainer.state()["generator"]).all()


def test_a_lost_statistics_round_costs_accuracy_only() -> None:
    model = gan()
    trainer, core = model.trainer(seed=0), Core(model, made_up())
    core.remaining |= {"marginals": 1, "pairs": 1}
    core.run(trainer)
    assert trainer.progress()["pairs_misfit"] < np.inf


def test_releases_are_averaged_by_the_inverse_of_their_variance() -> None:
    released = Released(np.zeros(2)).add(Answer("marginals", np.array([3.0, 1.0]), 1.0, 2))
    released = released.add(Answer("marginals", np.array([7.0, 5.0]), 2.0, 2))
    np.testing.assert_allclose(released.per_site, [3.8 / 2, 1.8 / 2])
    assert released.noise_per_site == pytest.approx(np.sqrt(0.8) / 2)
    assert units_per_site(released, columns=1) == pytest.approx(2.8)


def test_probabilities_are_positive_and_sum_to_one_whatever_the_noise() -> None:
    noisy = Released(np.array([-5.0, 2.0, 3.0, -1.0, -2.0]), sites=1.0, weight=1.0)
    found = probabilities(shares(noisy, (3, 2)), (3, 2))
    assert (found > 0).all()
    np.testing.assert_allclose([found[:3].sum(), found[3:].sum()], 1.0)
    np.testing.assert_allclose(found[3:], 0.5)
    np.testing.assert_allclose(project_to_simplex(np.array([0.2, 0.3, 0.5])), [0.2, 0.3, 0.5])


def test_shrinkage_removes_pure_noise_and_keeps_a_strong_signal() -> None:
    rng = np.random.default_rng(0)
    signal = 25 * np.outer(np.repeat([-1, 1], 5), np.repeat([-1, 1], 6)) / np.sqrt(120)
    noise = rng.normal(0, 0.5, (10, 12))
    assert np.linalg.norm(shrink(noise, 0.5)) < 0.5 * np.linalg.norm(noise)
    assert np.linalg.norm(shrink(signal + noise, 0.5) - signal) < 0.6 * np.linalg.norm(noise)


def test_wide_tables_pool_more_so_that_the_message_stays_small() -> None:
    columns = tuple(Integer(name=f"size {i}", lower=0, upper=31) for i in range(60))
    layout = PairLayout(OneHotEncoder(columns, 32).blocks, groups=12)
    assert 0 < layout.dim <= MAX_DIM
    assert max(layout.counts) < 12


def test_information_is_what_the_latents_tell_of_all_columns() -> None:
    alike = torch.tensor([[0.3, 0.7, 0.5, 0.5]]).expand(6, 4)
    assert float(information(alike)) == pytest.approx(0.0, abs=1e-6)
    halves = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]], requires_grad=True)
    found = information(halves)  # each of two columns is known once the latent is
    assert float(found.detach()) == pytest.approx(2 * np.log(2), rel=1e-5)
    (gradient,) = torch.autograd.grad(found, halves)
    assert gradient.isfinite().all()


def test_the_fit_makes_up_little_structure_from_noise() -> None:
    records = np.stack([np.random.default_rng(i).permutation(column) for i, column in enumerate(made_up().T)], axis=1)
    model = gan(components=64, fit_steps=150)
    fitting = model.anchor.fitting(0)
    core = Core(model, records, noise=20.0)
    while (ask := fitting.ask(core.remaining)) is not None:
        core.remaining[ask.sum] -= 1
        fitting.receive(core.answer(core.sums[ask.sum], ask.payload))
    fitting.fit()
    generator = fitting.generator
    latents = generator.latents(generator.kinds, torch.Generator().manual_seed(0))
    found = float(information(generator.probabilities(generator(latents)).detach()))
    assert found < 1.5  # in nats; columns that do not go together have 0


def test_even_uniform_numbers_leave_each_cell_as_often_as_it_should_be() -> None:
    chances = torch.tensor([0.2, 0.5, 0.3])
    drawn = draw(chances.log()[:, None].expand(3, 1000).contiguous(), [3], torch.Generator().manual_seed(0))[0]
    assert np.abs(np.bincount(drawn, minlength=3) - [200, 500, 300]).max() <= 1  # independent draws stray by 15
    assert np.abs(np.bincount(drawn[:500], minlength=3) - [100, 250, 150]).max() > 1  # and yet in no order


def test_pairs_with_the_target_keep_what_is_too_faint_to_stand_out() -> None:
    anchor = gan().anchor
    layout, target, width = anchor.layout, anchor.target, anchor.encoder.width
    assert layout is not None
    even = np.concatenate([np.full(size, 1 / size) for size in anchor.sizes])
    arrays = layout.embedding(Histograms(even, np.full(width, 1e-3)), target)
    moments = np.random.default_rng(0).normal(0, 1, layout.dim)
    clean = layout.denoise(moments, 1.0, arrays, target)
    column = np.repeat(np.arange(len(layout.counts)), layout.counts)
    used = arrays[EMBEDDING].any(0)
    kept = [np.abs(clean[np.ix_((column == i) & used, (column == target) & used)]).sum() for i in range(target)]
    assert min(kept) > 0
