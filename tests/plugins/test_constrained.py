"""A model under constraints: what its plugin sees of it, and what comes out however rarely its samples fit."""

from typing import Any

import numpy as np
import pytest
from tests.plugins.core import study
from tests.plugins.toy_model import Toy, ToyTrainer

from synthfed.plugins.api import Answer, Given, Records, Span
from synthfed.plugins.constrained import REDRAWS, ConstrainedModel
from synthfed.protocols.completion import Completion
from synthfed.protocols.study import Study

LEVELS = {"low": 1, "high": 2}
COLUMNS: list[dict[str, Any]] = [
    {"name": "code", "kind": "integer", "lower": 0, "upper": 3},
    {"name": "level", "kind": "categorical", "values": list(LEVELS)},
    {"name": "first", "kind": "integer", "lower": 0, "upper": 90},
    {"name": "last", "kind": "integer", "lower": 0, "upper": 90},
    {"name": "both", "kind": "integer", "lower": 0, "upper": 100},
    {"name": "a", "kind": "integer", "lower": 0, "upper": 99},
    {"name": "b", "kind": "integer", "lower": 0, "upper": 99},
    {"name": "ill", "kind": "categorical", "values": ["no", "yes"]},
]
CONSTRAINTS: list[dict[str, Any]] = [
    {"kind": "determines", "determinant": "level", "determined": "code", "table": LEVELS},
    {"kind": "order", "columns": ["first", "last"]},
    {"kind": "sum", "total": "both", "parts": ["a", "b"]},
]


class CountingTrainer(ToyTrainer):
    """Notes how many records it was asked for at a time."""

    def __init__(self, model: Toy, seed: int) -> None:
        super().__init__(model, seed)
        self.asked: list[int] = []

    def sample(self, rows: int, seed: int, given: Given) -> Records:
        self.asked.append(rows)
        return super().sample(rows, seed, given)


class Stubborn(CountingTrainer):
    """Samples one record, which breaks both the order and the total's bound."""

    def sample(self, rows: int, seed: int, given: Given) -> Records:
        records = super().sample(rows, seed, given)
        records[:, 1:5] = 80, 3, 99, 60
        return records


class Counting(Toy):
    at_coordinator = CountingTrainer


class Stuck(Toy):
    at_coordinator = Stubborn


def terms() -> Study:
    return Study.model_validate(study(COLUMNS, {}).model_dump() | {"constraints": CONSTRAINTS})


def wrapped(kind: type[Toy], seed: int = 0) -> tuple[Any, Any]:
    """Return the trainer of whole records, and the plugin's own inside it."""
    made: list[Any] = []

    class Kept(kind):  # type: ignore[misc,valid-type]
        def trainer(self, seed: int) -> Any:
            made.append(super().trainer(seed))
            return made[-1]

    trainer = ConstrainedModel(Kept(terms().free), Completion(terms().columns, terms().constraints)).trainer(seed)
    return trainer, made[0]


def check(records: Records) -> None:
    np.testing.assert_array_equal(records[:, 0], records[:, 1] + 1)
    assert (records[:, 2] <= records[:, 3]).all()
    np.testing.assert_array_equal(records[:, 4], records[:, 5] + records[:, 6])
    assert records[:, 4].max() <= 100


def test_what_fits_is_kept_and_the_rest_is_drawn_again() -> None:
    trainer, inner = wrapped(Counting)
    records = trainer.sample(1000, 5, {})
    check(records)
    assert inner.asked[0] == 1000
    assert 1 < len(inner.asked) < REDRAWS  # about one record in four fits
    completion = Completion(terms().columns, terms().constraints)
    first, kept = completion.complete(ToyTrainer(Toy(terms().free), 0).sample(1000, 5, {}))
    np.testing.assert_array_equal(records[kept], first[kept])


def test_the_same_seed_and_condition_give_the_same_records() -> None:
    (one, _), (two, _) = wrapped(Counting), wrapped(Counting)
    np.testing.assert_array_equal(one.sample(300, 7, {"level": Span.at(1)}), two.sample(300, 7, {"level": Span.at(1)}))
    assert not np.array_equal(one.sample(300, 7, {}), one.sample(300, 8, {}))


@pytest.mark.parametrize("rows", [1, 40])
def test_a_model_that_never_fits_is_asked_a_bounded_number_of_times_and_its_records_are_repaired(rows: int) -> None:
    trainer, inner = wrapped(Stuck)
    records = trainer.sample(rows, 1, {"level": Span.at(1)})
    check(records)
    assert inner.asked == [rows] * (REDRAWS + 1)
    assert (records[:, 1] == 1).all()
    np.testing.assert_array_equal(records[:, 2:4], [[3, 80]] * rows)


def test_a_walk_keeps_its_steps_and_every_constraint() -> None:
    trainer, inner = wrapped(Stuck)
    check(trainer.walk(2, 5, 0))
    assert inner.asked == [10]


def test_everything_else_is_the_plugins_own() -> None:
    model = ConstrainedModel(Toy(terms().free), Completion(terms().columns, terms().constraints))
    plain = Toy(terms().free)
    assert model.Options is Toy.Options
    assert model.conditions == ("level", "ill")
    assert model.sums() == plain.sums()
    rng = np.random.default_rng(0)
    records = rng.integers(0, 2, (6, len(COLUMNS))).astype(np.float64)
    batch = model.private().encode(records)
    np.testing.assert_array_equal(batch, plain.private().encode(records[:, [1, 2, 3, 5, 6, 7]]))
    np.testing.assert_array_equal(
        model.private().statistic("counts", batch, {}), plain.private().statistic("counts", batch, {})
    )


def test_training_and_checkpoints_go_through() -> None:
    trainer, inner = wrapped(Counting)
    ask = trainer.ask({"counts": 1})
    assert ask.sum == "counts"
    trainer.overlap()
    trainer.receive(Answer("counts", np.arange(len(inner.counts), dtype=np.float64), 0.0, 3))
    other, _ = wrapped(Counting, seed=9)
    other.load(trainer.state())
    np.testing.assert_array_equal(other.sample(50, 2, {}), trainer.sample(50, 2, {}))
    assert other.progress() == trainer.progress()
