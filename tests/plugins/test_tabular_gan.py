"""The tabular GAN: its declared sums, its private part, its warm start and its checkpoints."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from opacus.validators import ModuleValidator
from torch.nn.functional import softplus

from synthfed.plugins.api import Answer, Model, PrivatePart, Trainer
from synthfed.plugins.models.marginals import Released, probabilities, project_to_simplex, units_per_site
from synthfed.plugins.models.networks import Generator, build_critic, clipped_gradient
from synthfed.plugins.models.pairs import MAX_DIM, PairLayout, shrink
from synthfed.plugins.models.sampling import draw, sample_codes
from synthfed.plugins.models.tabular_gan import TabularGan
from synthfed.plugins.models.training import Training
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.study import Study
from synthfed.protocols.sums import Sum

SITES = 3
UNITS = 600
COLUMNS: list[dict[str, Any]] = [
    {"name": "kind", "kind": "categorical", "values": ["a", "b", "c"]},
    {"name": "count", "kind": "integer", "lower": 0, "upper": 40, "scale": "log", "missing": True},
    {"name": "size", "kind": "real", "lower": 0, "upper": 10, "decimals": 2},
    {"name": "ill", "kind": "categorical", "values": ["no", "yes"]},
]
SMALL: dict[str, Any] = {"bins": 8, "fit_steps": 40, "fakes": 128, "generator_hidden": 32, "critic_hidden": 8}


def study(columns: list[dict[str, Any]] = COLUMNS, **options: Any) -> Study:
    return Study.model_validate(
        {
            "format": 1,
            "name": "test",
            "target": columns[-1]["name"],
            "privacy": {
                "mode": "distributed",
                "epsilon": 5.0,
                "delta": 1e-5,
                "units_per_site": 1000,
                "sample_rate": 0.3,
                "steps": 6,
            },
            "model": {"plugin": "tabular-gan", "options": SMALL | options},
            "cohort": {"tolerated": 1, "quorum": 3, "sites": [{"id": f"s{i}"} for i in range(SITES)]},
            "columns": columns,
        }
    )


def records(rows: int = UNITS, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    ill = rng.random(rows) < 0.3
    count = np.where(rng.random(rows) < 0.1, np.nan, rng.poisson(1 + 6 * ill))
    return np.stack([rng.choice(3, rows, p=[0.6, 0.3, 0.1]), count, rng.uniform(0, 5 + 5 * ill), ill], axis=1)


class Core:
    """The core in one process: sums of clipped contributions with a little noise, rounds counted."""

    def __init__(self, model: TabularGan, *, noise: float = 0.1) -> None:
        self.private, self.noise = model.private(), noise
        self.sums = {each.name: each for each in model.sums()}
        self.remaining = {each.name: each.rounds for each in model.sums()}
        self.batch, self.rng = self.private.encode(records()), np.random.default_rng(1)

    def run(self, trainer: Training, rounds: int = 1000, *, overlap: bool = True) -> None:
        """Answer up to ``rounds`` of the trainer's wishes."""
        for _ in range(rounds):
            ask = trainer.ask(self.remaining)
            if ask is None:
                return
            self.remaining[ask.sum] -= 1
            if overlap:
                trainer.overlap()
            trainer.receive(self.answer(self.sums[ask.sum], ask.payload))

    def answer(self, wanted: Sum, payload: Mapping[str, np.ndarray]) -> Answer:
        batch = self.batch[self.rng.random(len(self.batch)) < wanted.sample_rate]
        assert tuple((name, each.shape) for name, each in payload.items()) == wanted.payload
        assert all(each.dtype == np.float32 for each in payload.values())
        if wanted.family == "statistic":
            parts = self.private.statistic(wanted.name, batch, payload)
            total = (parts / np.maximum(1, np.linalg.norm(parts, axis=1, keepdims=True))).sum(axis=0)
        else:
            total = self.gradients(payload, batch, wanted)
        assert total.shape == (wanted.dim,)
        return Answer(wanted.name, total + self.rng.normal(0, self.noise, wanted.dim), self.noise, SITES)

    def gradients(self, payload: Mapping[str, np.ndarray], batch: np.ndarray, wanted: Sum) -> np.ndarray:
        critic = self.private.module(wanted.name)
        assert isinstance(critic, torch.nn.Sequential)
        for parameter, values in zip(critic.parameters(), payload.values(), strict=True):
            parameter.data = torch.tensor(values)
        rows = torch.tensor(batch, dtype=torch.float32)
        # The fast sum stands in for the core's; it is tested against the slow one below.
        return clipped_gradient(critic, rows, lambda scores: softplus(-scores), wanted.clip_norm).double().numpy()


def trained(rounds: int = 1000, **options: Any) -> tuple[TabularGan, Training, Core]:
    model = TabularGan(study(**options))
    trainer, core = model.trainer(seed=3), Core(model)
    core.run(trainer, rounds)
    return model, trainer, core


def test_the_plugin_satisfies_the_contract() -> None:
    model: Model = TabularGan(study())
    private: PrivatePart = model.private()
    trainer: Trainer = model.trainer(seed=0)
    assert private.encode(records(5)).shape == (5, 22)
    assert trainer.ask({"marginals": 1, "pairs": 1, "critic": 1}) is not None


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"depth": 3}, "model.options: depth"),
        ({"bins": 1}, "model.options: bins"),
        ({"marginals_share": 0.5, "pairs_share": 0.5}, "must leave the network a share"),
    ],
)
def test_an_option_that_is_unknown_or_out_of_range_is_named(option: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TabularGan(study(**option))


def test_the_sums_declare_what_the_private_part_delivers() -> None:
    model = TabularGan(study())
    marginals, pairs, critic = model.sums()
    assert (marginals.sample_rate, marginals.rounds, pairs.rounds) == (1.0, 2, 2)
    assert (critic.sample_rate, critic.rounds, critic.clip_norm) == (0.3, 6, 1.0)
    assert marginals.share + pairs.share + critic.share == pytest.approx(1.0)
    module = model.private().module("critic")
    assert ModuleValidator.validate(module, strict=False) == []
    assert critic.dim == sum(each.numel() for each in module.parameters())
    assert critic.payload == tuple((name, tuple(each.shape)) for name, each in module.named_parameters())


def test_without_pairs_the_critic_gets_the_rest_of_the_budget() -> None:
    marginals, critic = TabularGan(study(start="marginals", marginals_share=0.2)).sums()
    assert (marginals.share, critic.share) == (0.2, 0.8)


def test_a_table_of_one_column_has_no_pairs() -> None:
    model = TabularGan(study(columns=COLUMNS[-1:]))
    assert [each.name for each in model.sums()] == ["marginals", "critic"]


def test_every_record_contributes_to_the_marginals_with_norm_one() -> None:
    private = TabularGan(study()).private()
    parts = private.statistic("marginals", private.encode(records()), {})
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


def test_the_clipped_gradient_of_fakes_equals_the_slow_sum_over_records() -> None:
    torch.manual_seed(0)
    critic, batch = build_critic(6, 5, 2), torch.randn(40, 6)
    slow = torch.zeros(sum(each.numel() for each in critic.parameters()))
    for row in batch:
        loss = softplus(critic(row[None])).sum()
        gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(critic.parameters()))])
        slow += gradient / max(1.0, float(gradient.norm()) / 0.5)
    fast = clipped_gradient(critic, batch, softplus, 0.5)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("start", ["marginals", "pairs"])
def test_the_warm_start_reproduces_the_released_marginals_and_units(start: str) -> None:
    model, trainer, core = trained(rounds=4 if start == "pairs" else 2, start=start)
    assert trainer.progress()["units_per_site"] == pytest.approx(UNITS / SITES, rel=0.01)
    trainer.ask(core.remaining)
    drawn = model.private().encode(trainer.sample(20_000, seed=5, given={})).mean(axis=0)
    np.testing.assert_allclose(drawn, core.batch.mean(axis=0), atol=0.015)


def test_training_keeps_the_marginals() -> None:
    model, trainer, core = trained(generator_rate=0.05, critic_rate=0.05)
    drawn = model.private().encode(trainer.sample(20_000, seed=5, given={})).mean(axis=0)
    np.testing.assert_allclose(drawn, core.batch.mean(axis=0), atol=0.02)


def test_a_start_from_pairs_brings_the_association_that_marginals_cannot() -> None:
    real = records(20_000, seed=9)
    real_gap = np.mean(real[real[:, 3] == 1, 2]) - np.mean(real[real[:, 3] == 0, 2])
    gaps = {}
    for start in ("marginals", "pairs"):
        sampled = trained(start=start, fit_steps=150, fakes=512)[1].sample(20_000, seed=5, given={})
        gaps[start] = np.mean(sampled[sampled[:, 3] == 1, 2]) - np.mean(sampled[sampled[:, 3] == 0, 2])
    assert gaps["pairs"] > 0.6 * real_gap
    assert abs(gaps["marginals"]) < 0.3 * real_gap


@pytest.mark.parametrize("done", [0, 1, 3, 6])
def test_training_goes_on_from_a_checkpoint_bit_for_bit(done: int) -> None:
    model, first, core = trained(rounds=done)
    second, copy = model.trainer(seed=99), Core(model)
    second.load(first.state())
    copy.remaining = dict(core.remaining)
    copy.rng.bit_generator.state = core.rng.bit_generator.state
    core.run(first)
    copy.run(second)
    assert first.state().keys() == second.state().keys()
    for name, values in first.state().items():
        np.testing.assert_array_equal(values, second.state()[name], err_msg=name)
    np.testing.assert_array_equal(first.sample(100, seed=1, given={}), second.sample(100, seed=1, given={}))


def test_a_checkpoint_taken_while_the_sites_compute_goes_on_bit_for_bit() -> None:
    model, first, core = trained(rounds=5)
    first.ask(core.remaining)
    first.overlap()
    second = model.trainer(seed=99)
    second.load(first.state())
    answer = Answer("critic", np.full(core.sums["critic"].dim, 0.5), 0.1, SITES)
    for trainer in (first, second):
        trainer.receive(answer)
    np.testing.assert_array_equal(first.state()["critic"], second.state()["critic"])


def test_the_outcome_does_not_depend_on_whether_overlap_was_used_or_a_round_failed() -> None:
    model, first, _ = trained()
    second, core = model.trainer(seed=3), Core(model)
    core.run(second, 5, overlap=False)
    second.ask(core.remaining)
    second.overlap()
    core.run(second, overlap=False)
    np.testing.assert_array_equal(first.state()["anchor.generator"], second.state()["anchor.generator"])


def test_a_checkpoint_of_another_study_is_refused() -> None:
    state = trained(rounds=1)[1].state()
    with pytest.raises(ConfigError, match="use a checkpoint of this study"):
        TabularGan(study(critic_hidden=9)).trainer(seed=0).load(state)


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
    uniform = torch.rand(len(sizes), rows, generator=torch.Generator().manual_seed(1)).numpy()
    for codes, level, block in zip(drawn, uniform, logits.split_with_sizes(list(sizes)), strict=True):
        shares = torch.softmax(block.double(), 0).cumsum(0).numpy()
        slow = np.minimum((shares <= level).sum(axis=0), len(block) - 1)
        assert np.mean(codes == slow) > 0.999  # the odds of float32 round differently
        assert np.abs(codes - slow).max() <= 1


def test_centring_brings_back_the_released_marginals_whatever_the_logits() -> None:
    sizes = (4, 2)
    generator = Generator(latent=8, hidden=16, depth=1, sizes=sizes)
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
    embedding = ask.payload["embedding"].astype(np.float64)
    slow = np.linalg.norm(model.anchor.layout.contributions(core.batch, embedding), axis=1)
    np.testing.assert_allclose(model.anchor.layout.norms(core.batch, embedding), slow)


def test_sampling_needs_no_training_and_obeys_the_schema() -> None:
    sampled = TabularGan(study()).trainer(seed=0).sample(1000, seed=0, given={})
    assert sampled.shape == (1000, 4)
    assert np.nanmin(sampled[:, 2]) >= 0
    assert np.nanmax(sampled[:, 2]) <= 10
    assert set(np.unique(sampled[:, 0])) == {0.0, 1.0, 2.0}


def test_without_any_statistic_the_critic_still_trains_from_uniform_columns() -> None:
    model = TabularGan(study())
    trainer, core = model.trainer(seed=0), Core(model)
    core.remaining |= {"marginals": 0, "pairs": 2}
    core.run(trainer)
    assert core.remaining == {"marginals": 0, "pairs": 2, "critic": 0}
    assert trainer.progress()["steps"] == 6
    assert np.isfinite(trainer.state()["anchor.generator"]).all()


def test_a_lost_statistics_round_costs_accuracy_only() -> None:
    model = TabularGan(study())
    trainer, core = model.trainer(seed=0), Core(model)
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
    found = probabilities(noisy, (3, 2))
    assert (found > 0).all()
    np.testing.assert_allclose([found[:3].sum(), found[3:].sum()], 1.0)
    np.testing.assert_allclose(found[3:], 0.5)
    np.testing.assert_allclose(project_to_simplex(np.array([0.2, 0.3, 0.5])), [0.2, 0.3, 0.5])


def test_shrinkage_removes_pure_noise_and_keeps_a_strong_signal() -> None:
    rng = np.random.default_rng(0)
    signal = 50 * np.outer(np.ones(10), np.ones(12)) / np.sqrt(120)
    noise = rng.normal(0, 0.5, (10, 12))
    assert np.linalg.norm(shrink(noise, 0.5)) < 0.5 * np.linalg.norm(noise)
    assert np.linalg.norm(shrink(signal + noise, 0.5) - signal) < 0.6 * np.linalg.norm(noise)


def test_wide_tables_pool_more_so_that_the_message_stays_small() -> None:
    layout = PairLayout([32] * 60, groups=12)
    assert 0 < layout.dim <= MAX_DIM
    assert max(layout.counts) < 12
