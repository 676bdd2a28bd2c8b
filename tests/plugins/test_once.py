"""What is dear to make is made once: a table's embedding, asked for in every round and at every load."""

import numpy as np
from tests.plugins.core import COLUMNS, Core, made_up, study

from synthfed.plugins.models.gan import Gan
from synthfed.plugins.models.tables.once import Once


def test_what_is_dear_is_made_once_for_the_same_things_and_anew_for_others() -> None:
    once, made = Once[int](), iter(range(9))
    first, second = object(), object()
    assert [once(lambda: next(made), each) for each in (first, first, second, second, first)] == [0, 0, 1, 1, 2]


def test_an_anchor_asks_for_the_same_features_in_every_round_and_after_a_load() -> None:
    model = Gan(study(COLUMNS, {"bins": 8, "fit_steps": 5}))
    trainer, core = model.trainer(seed=3), Core(model, made_up())
    core.run(trainer, 2)
    first = trainer.ask(core.remaining)
    core.run(trainer, 1)
    second = trainer.ask(core.remaining)
    other = model.trainer(seed=4)
    other.load(trainer.state())
    third = other.ask(core.remaining)
    assert first is not None
    for each in (second, third):
        assert each is not None
        assert each.sum == first.sum == "pairs"
        for name, values in first.payload.items():
            np.testing.assert_array_equal(each.payload[name], values)
