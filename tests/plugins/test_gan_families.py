"""What every GAN for tables keeps, whatever its losses: the contract, exact checkpoints, one record's say."""

from typing import Any

import numpy as np
import pytest
import torch
from opacus.validators import ModuleValidator
from tests.plugins.core import COLUMNS, SITES, Core, made_up
from tests.plugins.gan_studies import FAMILIES, make, resumed, trained

from synthfed.plugins.api import Answer, Model, PrivatePart, Span, Trainer
from synthfed.protocols.errors import ConfigError

EVERYTHING: dict[str, Any] = {
    "critic_ladder": [1, 2],
    "ladder_grace": 1,
    "ladder_accuracy": 0.99,
    "spectral": 1.5,
    "critic_dropout": 0.2,
    "generator": "network",
    "generator_dropout": 0.1,
    "mixup": 0.3,
    "mixup_partners": 16,
    "features_share": 0.1,
    "features_every": 2,
    "diversity": 1.0,
    "pretraining": 3,
    "comparison_share": 0.03,
    "comparison_steps": 5,
}
OPTIONS = pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["default", "everything"])
FAMILY = pytest.mark.parametrize("family", FAMILIES)


def assert_same(first: Trainer, second: Trainer) -> None:
    assert first.state().keys() == second.state().keys()
    for name, values in first.state().items():
        np.testing.assert_array_equal(values, second.state()[name], err_msg=name)


@FAMILY
def test_a_family_satisfies_the_contract(family: str) -> None:
    model: Model = make(family)
    private: PrivatePart = model.private()
    trainer: Trainer = model.trainer(seed=0)
    assert private.encode(made_up(5)).shape == (5, 23)
    assert trainer.ask({"marginals": 1, "pairs": 1, "critic": 1}) is not None


@FAMILY
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"depth": 3}, "model.options: depth"),
        ({"bins": 1}, "model.options: bins"),
        ({"critic_ladder": [2, 1]}, "must rise from rung to rung"),
        ({"marginals_share": 0.5, "pairs_share": 0.5}, "must leave the network a share"),
        ({"features_share": 0.5}, "must leave the critic a share"),
        ({"comparison_share": 0.15}, "must leave the critic a share"),
        ({"fit_rate": 0.0}, "model.options: fit_rate"),
    ],
)
def test_an_option_that_is_unknown_or_out_of_range_is_named(family: str, option: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(family, **option)


@FAMILY
@OPTIONS
def test_the_sums_declare_what_the_private_part_delivers(family: str, options: dict[str, Any]) -> None:
    model = make(family, **options)
    sums = {each.name: each for each in model.sums()}
    assert (sums["marginals"].sample_rate, sums["marginals"].rounds, sums["pairs"].rounds) == (1.0, 2, 2)
    critic = sums["critic"]
    assert (critic.sample_rate, critic.rounds, critic.clip_norm) == (0.3, 6, 1.0)
    assert sum(each.share for each in sums.values()) == pytest.approx(1.0)
    module = model.private().module("critic")
    assert ModuleValidator.validate(module, strict=False) == []
    assert critic.dim == sum(each.numel() for each in module.parameters() if each.requires_grad)
    assert critic.payload == tuple((name, tuple(each.shape)) for name, each in module.named_parameters())


@FAMILY
def test_without_pairs_the_critic_gets_the_rest_of_the_budget(family: str) -> None:
    marginals, critic = make(family, start="marginals", marginals_share=0.2).sums()
    assert (marginals.share, critic.share) == (0.2, 0.8)


@FAMILY
def test_a_table_of_one_column_has_no_pairs(family: str) -> None:
    model = make(family, columns=COLUMNS[-1:])
    assert [each.name for each in model.sums()] == ["marginals", "critic"]


@FAMILY
@OPTIONS
def test_a_records_loss_and_statistics_depend_on_that_record_alone(family: str, options: dict[str, Any]) -> None:
    model, trainer, core = trained(family, rounds=4, **options)
    private, batch = model.private(), core.batch
    ask = trainer.ask(core.remaining)
    assert ask is not None
    if ask.sum == "features":
        whole = private.statistic(ask.sum, batch, ask.payload)
        np.testing.assert_allclose(private.statistic(ask.sum, batch[7:8], ask.payload)[0], whole[7])
        assert np.linalg.norm(whole, axis=1).max() <= 1.0
        trainer.receive(core.answer(core.sums[ask.sum], ask.payload))
        ask = trainer.ask(core.remaining)
    assert ask is not None
    module = private.module("critic")
    with torch.no_grad():
        for each, values in zip(module.parameters(), ask.payload.values(), strict=True):
            each.copy_(torch.from_numpy(values))
    rows = torch.tensor(batch, dtype=torch.float32)
    coins = torch.rand(len(rows), core.sums["critic"].coins, generator=torch.Generator().manual_seed(0))
    losses = private.loss("critic", module, rows, coins)
    assert losses.shape == (len(rows),)
    torch.testing.assert_close(private.loss("critic", module, rows[7:8], coins[7:8])[0], losses[7])


@FAMILY
@OPTIONS
@pytest.mark.parametrize("done", [0, 3, 5, 8])
def test_training_goes_on_from_a_checkpoint_bit_for_bit(family: str, options: dict[str, Any], done: int) -> None:
    first, second = resumed(family, done, **options)
    assert first.progress()["steps"] == 6
    assert_same(first, second)
    np.testing.assert_array_equal(first.sample(100, seed=1, given={}), second.sample(100, seed=1, given={}))
    np.testing.assert_array_equal(first.walk(2, 5, seed=1), second.walk(2, 5, seed=1))


@FAMILY
@OPTIONS
def test_a_checkpoint_taken_while_the_sites_compute_goes_on_bit_for_bit(family: str, options: dict[str, Any]) -> None:
    model, first, core = trained(family, rounds=6, **options)
    ask = first.ask(core.remaining)
    assert ask is not None
    assert ask.sum == "critic"
    first.overlap()
    second = model.trainer(seed=99)
    second.load(first.state())
    answer = Answer("critic", np.full(core.sums["critic"].dim, 0.5), 0.1, SITES)
    for trainer in (first, second):
        trainer.receive(answer)
    assert_same(first, second)


@FAMILY
@OPTIONS
def test_the_outcome_does_not_depend_on_whether_overlap_was_used_or_a_round_failed(
    family: str, options: dict[str, Any]
) -> None:
    model, first, _ = trained(family, **options)
    second, core = model.trainer(seed=3), Core(model, made_up())
    core.run(second, 6, overlap=False)
    second.ask(core.remaining)
    second.overlap()
    core.run(second, overlap=False)
    assert_same(first, second)


@FAMILY
def test_a_checkpoint_of_another_study_is_refused(family: str) -> None:
    state = trained(family, rounds=1)[1].state()
    with pytest.raises(ConfigError, match="use a checkpoint of this study"):
        make(family, critic_hidden=9).trainer(seed=0).load(state)


@FAMILY
def test_the_seed_fixes_the_start_and_another_one_gives_another(family: str) -> None:
    before = torch.random.get_rng_state()
    model = make(family, generator="network")  # a mixture's components are all alike before the fit
    first, again, other = (model.trainer(seed=seed).state() for seed in (1, 1, 2))
    for name, values in first.items():
        np.testing.assert_array_equal(values, again[name], err_msg=name)
    assert not np.array_equal(first["critic"], other["critic"])
    assert not np.array_equal(first["generator"], other["generator"])
    assert torch.equal(before, torch.random.get_rng_state())


@FAMILY
def test_training_keeps_the_marginals(family: str) -> None:
    model, trainer, core = trained(family, generator_rate=0.05, critic_rate=0.05)
    drawn = model.private().encode(trainer.sample(20_000, seed=5, given={})).mean(axis=0)
    np.testing.assert_allclose(drawn, core.batch.mean(axis=0), atol=0.03)


@FAMILY
def test_a_walk_is_made_of_records_that_change_step_by_step(family: str) -> None:
    _, trainer, _ = trained(family, rounds=5, fit_steps=100)
    records = trainer.walk(3, 40, seed=2)
    assert records.shape == (120, 4)
    assert set(np.unique(records[:, 0])) <= {0.0, 1.0, 2.0}
    categories = records[:, [0, 3]].reshape(3, 40, 2)
    changes = np.mean(categories[:, 1:] != categories[:, :-1])
    assert changes < 0.15  # of independent draws, near half
    assert trainer.walk(0, 5, seed=2).shape == (0, 4)


@FAMILY
def test_a_condition_that_a_family_does_not_have_is_refused(family: str) -> None:
    trainer = make(family).trainer(seed=0)
    with pytest.raises(ConfigError, match="'nobody' cannot be fixed in sampling"):
        trainer.sample(5, seed=0, given={"nobody": Span.at(1)})
