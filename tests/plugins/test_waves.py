"""The critic's shorter view of a table: smooth functions of numbers, everything else as it is."""

import numpy as np
import pytest
import torch
from tests.plugins.core import COLUMNS, Core, made_up, study
from tests.plugins.gan_studies import FAMILIES, SMALL

from synthfed.plugins.domains.encoding import OneHotEncoder
from synthfed.plugins.models.tables.waves import waves
from synthfed.protocols.schema import Categorical, Integer, Real

KIND = Categorical(name="kind", values=("a", "b", "c"))
SIZE = Real(name="size", lower=0, upper=1, missing=True)
PAID = Real(name="paid", lower=0, upper=1e6, scale="log")


def test_categories_and_short_columns_are_seen_as_they_are() -> None:
    blocks = OneHotEncoder((KIND, Integer(name="few", lower=0, upper=3)), 16, 16).blocks
    torch.testing.assert_close(waves(blocks, 4), torch.eye(7))


def test_a_number_is_seen_as_cosines_of_its_place_that_tell_nothing_of_each_other() -> None:
    view = waves(OneHotEncoder((Real(name="size", lower=0, upper=1),), 32).blocks, 5)
    assert view.shape == (33, 6)  # the lower bound is seen apart
    torch.testing.assert_close(view[:, :5].T @ view[:, :5] / 33, torch.eye(5), atol=1e-5, rtol=0)


def test_missing_and_a_lower_bound_of_its_own_are_seen_apart() -> None:
    blocks = OneHotEncoder((SIZE, PAID), 16).blocks
    view = waves(blocks, 4)
    assert view.shape == (18 + 16, 6 + 5)
    assert view[0, 4] == 1.0
    assert view[17].tolist() == [0, 0, 0, 0, 0, 1, *[0] * 5]
    assert view[18, 10] == 1.0
    assert (view[19:, 10] == 0).all()


@pytest.mark.parametrize("family", ["gan", "wgan"])
def test_a_critic_with_a_short_view_has_fewer_parameters_and_trains(family: str) -> None:
    options = SMALL | {"bins": 32}
    dims = {}
    for count in (0, 4):
        model = FAMILIES[family](study(COLUMNS, options | {"critic_waves": count}, plugin=family))
        dims[count] = model.sums()[-1].dim
        trainer, core = model.trainer(seed=3), Core(model, made_up())
        core.run(trainer, 1000)
        assert np.isfinite(trainer.state()["critic"]).all()
        assert trainer.progress()["steps"] > 0
    assert dims[4] < dims[0]
