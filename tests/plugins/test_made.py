"""The masked autoregressive network: a law over rows that sums to 1, and no look ahead."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from tests.plugins.core import study
from tests.plugins.likelihood_studies import TABLE, make, trained
from torch.nn import functional

from synthfed.plugins.api import Span
from synthfed.plugins.models.likelihoods.refinement import Public
from synthfed.plugins.models.made import Autoregression, Made, Walk
from synthfed.protocols.errors import ConfigError

TINY: list[dict[str, Any]] = [
    {"name": "a", "kind": "categorical", "values": ["x", "y", "z"], "missing": True},
    {"name": "b", "kind": "integer", "lower": 0, "upper": 2},
    {"name": "c", "kind": "categorical", "values": ["no", "yes"]},
]


def moved(network: Autoregression, seed: int = 0) -> Autoregression:
    """Return the network with weights that matter."""
    rng = torch.Generator().manual_seed(seed)
    for each in network.parameters():
        each.data = torch.randn(each.shape, generator=rng)
    return network


def test_the_likelihoods_of_all_rows_of_a_table_sum_to_one() -> None:
    model = Made(study(TINY, TABLE | {"depth": 2}, plugin="made"))
    network = moved(model.fresh()).double()
    codes = np.array(list(product(range(4), range(3), range(2))))
    cells = model.layout.cells(range(3), codes).double()
    losses = model.loss(network, cells, torch.empty(len(codes), 0))
    assert float(torch.exp(-losses.detach()).sum()) == pytest.approx(1, abs=1e-12)


def test_a_columns_logits_depend_on_the_columns_before_it_and_on_no_other() -> None:
    network = moved(Autoregression([3, 2, 4, 2], hidden=10, depth=2))
    batch = torch.rand(1, 11)
    edges = np.cumsum([0, 3, 2, 4, 2])
    for column in range(4):
        jacobian = torch.autograd.functional.jacobian(lambda x, i=column: network(x)[i][0], batch)[:, 0]  # type: ignore[no-untyped-call]
        assert (jacobian[:, edges[column] :] == 0).all()
        assert (jacobian[:, : edges[column]] != 0).any() == (column > 0)


def test_the_blocks_are_the_masked_layers_of_the_paper_with_the_units_sorted_by_degree() -> None:
    sizes, each = [3, 2, 4], 2
    network = moved(Autoregression(sizes, hidden=6, depth=2))
    batch = functional.one_hot(torch.tensor([[0, 4, 8], [2, 3, 5]]), 9).sum(1).float()
    degree_of_input = torch.tensor([0, *np.repeat([1, 2, 3], sizes)])
    degree_of_unit, degree_of_output = (
        torch.tensor(np.repeat([0, 1, 2], each)),
        torch.tensor(np.repeat([1, 2, 3], sizes)),
    )
    signal = torch.cat([torch.ones(2, 1), batch], 1)
    below = degree_of_input
    for level in range(2):
        mask = degree_of_unit[:, None] >= below[None, :]
        signal = functional.silu(
            functional.linear(signal, *dense_form(network.hidden[3 * level : 3 * level + 3], mask))
        )
        below = degree_of_unit
    mask = degree_of_output[:, None] > degree_of_unit[None, :]
    expected = functional.linear(signal, *dense_form(network.heads, mask))
    torch.testing.assert_close(torch.cat(network(batch), 1), expected)


def dense_form(blocks: Any, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one masked weight and bias that hold all blocks."""
    weight = torch.full(mask.shape, torch.nan)
    row = 0
    for block in blocks:
        weight[row : row + block.out_features, : block.in_features] = block.weight
        row += block.out_features
    assert not weight[mask].isnan().any()
    assert weight[~mask].isnan().all()
    return weight.nan_to_num(), torch.cat([block.bias for block in blocks])


def test_the_joint_law_of_the_conditions_is_the_sum_over_all_other_columns() -> None:
    model = Made(study(TINY, TABLE | {"conditions": ["c", "a"]}, plugin="made"))
    network = moved(model.fresh())
    codes = np.array(list(product(range(4), range(3), range(2))))
    cells = model.layout.cells(range(3), codes)
    with torch.no_grad():
        law = torch.exp(-model.loss(network, cells, torch.empty(len(codes), 0))).numpy()
        joint = model.joint(network)
    slow = np.zeros((2, 4))
    np.add.at(slow, (codes[:, 2], codes[:, 0]), law)
    np.testing.assert_allclose(joint.reshape(2, 4), slow, atol=1e-6)


def test_draws_follow_the_law_also_under_a_condition_that_is_not_the_first() -> None:
    model = Made(study(TINY, TABLE | {"conditions": ["c", "a"]}, plugin="made"))
    network = moved(model.fresh(), seed=3)
    codes = np.array(list(product([1], range(3), range(2))))
    cells = model.layout.cells(range(3), codes)
    with torch.no_grad():
        law = torch.exp(-model.loss(network, cells, torch.empty(len(codes), 0))).double().numpy()
        rows = model.draw(network, Public(cells), 40_000, 0, {"a": Span.at(1)})
    assert (rows[:, 0] == 1).all()
    found = np.bincount((rows[:, 1] * 2 + rows[:, 2]).astype(int), minlength=6) / len(rows)
    np.testing.assert_allclose(found, law / law.sum(), atol=0.012)


def test_a_walk_computes_the_same_logits_as_one_pass() -> None:
    network = moved(Autoregression([3, 2, 4], hidden=6, depth=2))
    batch = torch.rand(5, 9)
    walk, parts = Walk(network, torch.ones(5, 1)), batch.split_with_sizes([3, 2, 4], 1)
    for whole, before in zip(network(batch), (None, *parts[:-1]), strict=True):
        torch.testing.assert_close(walk.logits_after(before), whole)


def test_the_conditions_come_first_and_then_the_target() -> None:
    for conditions, order in ((["kind"], [0, 3, 1, 2]), ([], [3, 0, 1, 2])):
        model = make("made", conditions=conditions)
        assert isinstance(model, Made)
        assert model.order == order
    assert trained("made", rounds=1, conditions=[])[1].sample(4, 0, {}).shape == (4, 4)


def test_too_many_combinations_of_conditions_are_refused() -> None:
    wide = [{"name": f"c{i}", "kind": "categorical", "values": [str(k) for k in range(20)]} for i in range(3)]
    with pytest.raises(ConfigError, match="8,000 combinations, more than 4,096"):
        make("made", wide, conditions=["c0", "c1", "c2"])
