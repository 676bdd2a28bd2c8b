"""What the contract carries without a special case in the core: phases, several critics, statistics, voxels."""

from collections import Counter

import numpy as np
import pytest

from synthfed.plugins.api import Answer
from synthfed.plugins.testing.cases import Case
from synthfed.plugins.testing.checks import CHECKS
from synthfed.plugins.testing.suite import Conformance, Suite, every
from synthfed.plugins.testing.trial import Trial
from synthfed.protocols.schema import ArrayColumn, Categorical, Records

from .phased_model import Phased


def _voxels(rows: int, rng: np.random.Generator) -> Records:
    labels = rng.choice(2, rows)
    heights = np.arange(4)[None, :, None, None] < 1 + 2 * labels[:, None, None, None]
    voxels = np.clip(heights + rng.normal(0, 0.1, (rows, 4, 4, 4)), 0, 1)
    return np.column_stack([np.round(voxels, 2).reshape(rows, -1), labels])


VOXELS = Case(
    "voxels with a label",
    (
        ArrayColumn(name="voxels", shape=(1, 4, 4, 4), lower=0.0, upper=1.0, decimals=2),
        Categorical(name="shape", values=("flat", "tall")),
    ),
    _voxels,
)


@pytest.mark.parametrize("check", every(Suite(CHECKS, [Trial(Phased, VOXELS, {})])), ids=str)
def test_a_model_of_many_phases_keeps_the_contract_on_voxels(check: Conformance) -> None:
    check()


def test_the_phases_follow_each_other_and_the_last_has_two_critics_and_a_statistic_a_step() -> None:
    model = Phased(VOXELS.study({}))
    trainer, remaining = model.trainer(0), Counter({each.name: each.rounds for each in model.sums()})
    asked: list[str] = []
    while (ask := trainer.ask(remaining)) is not None:
        asked.append(ask.sum)
        remaining[ask.sum] -= 1
        dim = next(each.dim for each in model.sums() if each.name == ask.sum)
        trainer.receive(Answer(ask.sum, np.ones(dim), 1.0, 3))
    steps = model.steps
    first = ["means", *["embed"] * steps, *["supervise"] * steps, *["coarse", "features"] * steps]
    assert asked[: len(first)] == first
    assert asked[len(first) :] == ["coarse", "fine", "features"] * steps
