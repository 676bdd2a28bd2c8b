"""The conditional GAN: given categories are exact, the others follow, rare ones can be practised."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.plugins.core import COLUMNS, made_up
from tests.plugins.gan_studies import make, trained

from synthfed.plugins.api import Span
from synthfed.plugins.models.cgan import Cgan
from synthfed.plugins.models.tables.conditions import ConditionalGenerator, Conditions
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Categorical

BOTH: dict[str, Any] = {"conditions": ["kind", "ill"]}


def gap(records: np.ndarray) -> float:
    return float(np.mean(records[records[:, 3] == 1, 2]) - np.mean(records[records[:, 3] == 0, 2]))


def test_the_condition_is_the_target_unless_columns_are_named() -> None:
    assert make("cgan").conditions == ("ill",)
    assert make("cgan", **BOTH).conditions == ("kind", "ill")
    assert Cgan.conditions == ()


@pytest.mark.parametrize("category", [0, 1])
def test_every_record_has_the_given_category(category: int) -> None:
    for rounds in (0, 1000):
        _, trainer, _ = trained("cgan", rounds=rounds)
        records = trainer.sample(5000, seed=1, given={"ill": Span.at(category)})
        assert set(records[:, 3]) == {float(category)}


def test_of_several_conditions_any_may_be_given() -> None:
    _, trainer, _ = trained("cgan", **BOTH)
    one = trainer.sample(4000, seed=1, given={"kind": Span.at(2)})
    assert set(one[:, 0]) == {2.0}
    assert set(one[:, 3]) == {0.0, 1.0}
    both = trainer.sample(4000, seed=1, given={"kind": Span.at(2), "ill": Span.at(1)})
    assert set(both[:, 0]) == {2.0}
    assert set(both[:, 3]) == {1.0}


def test_what_is_not_given_follows_what_is() -> None:
    _, trainer, _ = trained("cgan", fit_steps=200, fakes=256)
    ill, well = (trainer.sample(8000, seed=1, given={"ill": Span.at(each)}) for each in (1, 0))
    real = gap(made_up(20_000, seed=9))
    assert np.mean(ill[:, 2]) - np.mean(well[:, 2]) > 0.5 * real


def test_without_anything_given_the_combinations_are_as_often_as_they_were_released() -> None:
    _, trainer, core = trained("cgan", **BOTH)
    records = trainer.sample(20_000, seed=1, given={})
    real = made_up()
    for kind in range(3):
        for ill in range(2):
            share = np.mean((records[:, 0] == kind) & (records[:, 3] == ill))
            assert share == pytest.approx(np.mean((real[:, 0] == kind) & (real[:, 3] == ill)), abs=0.02)
    assert core.sums["conditions"].dim == 6


def test_several_conditions_are_counted_together_and_one_needs_no_count() -> None:
    model = make("cgan", **BOTH)
    batch = model.private().encode(made_up())
    counts = model.private().statistic("conditions", batch, {})
    np.testing.assert_array_equal(counts.sum(axis=1), 1.0)
    real = made_up()
    np.testing.assert_array_equal(counts.argmax(axis=1), 2 * real[:, 0] + real[:, 3])
    assert "conditions" not in [each.name for each in make("cgan").sums()]


def test_a_missing_category_is_one_that_training_knows() -> None:
    columns: list[dict[str, Any]] = [{**COLUMNS[0], "missing": True}, COLUMNS[3]]
    model = make("cgan", columns=columns, conditions=["kind"])
    trainer = model.trainer(seed=0)
    drawn = trainer.sample(2000, seed=1, given={})
    assert np.isnan(drawn[:, 0]).any()
    assert set(trainer.sample(500, seed=1, given={"kind": Span.at(0)})[:, 0]) == {0.0}


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (["size"], "'size' cannot be a condition; name categorical columns, each once"),
        (["nothing"], "'nothing' cannot be a condition"),
        (["ill", "ill"], "'ill' cannot be a condition"),
    ],
)
def test_a_condition_must_be_a_categorical_column_named_once(conditions: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make("cgan", conditions=conditions)


def test_too_many_combinations_are_refused() -> None:
    columns = [Categorical(name=name, values=tuple(map(str, range(80)))) for name in ("a", "b")]
    with pytest.raises(ConfigError, match="6,400 combinations, more than 4,096; name fewer columns"):
        Conditions(columns, [80, 80], ["a", "b"])


def test_a_walk_keeps_its_conditions() -> None:
    _, trainer, _ = trained("cgan", **BOTH)
    records = trainer.walk(6, 10, seed=1).reshape(6, 10, 4)
    assert (records[:, :, [0, 3]] == records[:, :1, [0, 3]]).all()


def generator() -> ConditionalGenerator:
    columns = [Categorical(name="a", values=("x", "y", "z")), Categorical(name="b", values=("p", "q"))]
    made = ConditionalGenerator(4, 8, 1, [3, 2], conditions=Conditions(columns, [3, 2], ["a"]))
    made.aim(torch.tensor([0.9, 0.08, 0.02, 0.5, 0.5]), None)
    return made


def test_balanced_draws_practise_rare_categories_and_weigh_less() -> None:
    made, rng = generator(), torch.Generator().manual_seed(0)
    latents = made.latents(40_000, rng, balance=0.6)
    drawn = latents[:, 4:].mean(0)
    torch.testing.assert_close(drawn, 0.4 * torch.tensor([0.9, 0.08, 0.02]) + 0.2, atol=0.01, rtol=0)
    weights = made.weights(latents, 0.6)
    assert float(weights.mean()) == pytest.approx(1.0, abs=1e-5)
    counted = (latents[:, 4:] * weights[:, None]).mean(0)
    torch.testing.assert_close(counted, torch.tensor([0.9, 0.08, 0.02]), atol=0.01, rtol=0)


def test_a_given_category_leaves_its_column_no_choice_at_any_temperature() -> None:
    made, rng = generator(), torch.Generator().manual_seed(0)
    limits = torch.tensor([-torch.inf, -torch.inf, 0, 0, 0])
    latents = made.latents(500, rng, made.chances(torch.zeros(5), limits))
    probabilities = made.probabilities(made(latents))
    torch.testing.assert_close(probabilities[:, 2], torch.ones(500))
    cells = made.cells(made(latents), rng, 10.0)
    torch.testing.assert_close(cells[:, :3].detach(), torch.tensor([0.0, 0.0, 1.0]).expand(500, 3))


def test_balance_does_not_change_how_often_a_category_is_released() -> None:
    _, trainer, core = trained("cgan", balance=0.9, generator_rate=0.02)
    drawn = trainer.sample(20_000, seed=1, given={})
    assert np.mean(drawn[:, 3]) == pytest.approx(core.batch[:, -1].mean(), abs=0.02)
    assert gap(drawn) > 0.5
