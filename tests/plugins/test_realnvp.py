"""The flow of tables: there and back, the right volume, and cells whose points it picks."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.plugins.core import COLUMNS, made_up, study
from tests.plugins.likelihood_studies import TABLE, make, trained

from synthfed.plugins.domains.encoding import OneHotEncoder
from synthfed.plugins.models.realnvp import Couplings, Flow, Grid, RealNvp, RealNvpOptions
from synthfed.protocols.errors import ConfigError


def moved(network: Any, seed: int = 0) -> Any:
    """Return the network with weights that matter."""
    rng = torch.Generator().manual_seed(seed)
    for each in network.parameters():
        if each.requires_grad:
            each.data = torch.randn(each.shape, generator=rng, dtype=each.dtype) * 0.5
    return network


@pytest.mark.parametrize("columns", [1, 2, 5])
def test_the_way_back_is_the_inverse(columns: int) -> None:
    flow = moved(Couplings(columns, 3, 8, 2, 5).double())
    scores, given = torch.randn(20, columns).double(), torch.rand(20, 3).double()
    latent, _ = flow(scores, given)
    assert (latent != scores).any(0).all()
    torch.testing.assert_close(flow.back(latent, given), scores)


@pytest.mark.parametrize("columns", [1, 2, 5])
def test_the_stretch_is_the_determinant_of_the_jacobian(columns: int) -> None:
    flow = moved(Couplings(columns, 3, 8, 1, 4).double())
    for row in range(5):
        scores, given = torch.randn(columns).double(), torch.rand(1, 3).double()
        jacobian = torch.autograd.functional.jacobian(lambda x, g=given: flow(x[None], g)[0][0], scores)  # type: ignore[no-untyped-call]
        _, stretch = flow(scores[None], given)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, stretch[0], msg=f"row {row}")


def test_a_fresh_flow_moves_nothing_and_its_loss_is_zero() -> None:
    model = make("realnvp-target")
    assert isinstance(model, RealNvp)
    batch = torch.from_numpy(model.encode(made_up(10)))
    coins = torch.full((10, model.coins), 0.3, dtype=torch.float64)
    losses = model.loss(model.fresh().double(), batch, coins)
    torch.testing.assert_close(losses, torch.zeros(10).double(), atol=1e-12, rtol=0)


def test_the_density_of_a_flow_integrates_to_one_over_two_columns() -> None:
    columns = [
        {"name": "x", "kind": "real", "lower": 0, "upper": 1},
        {"name": "y", "kind": "real", "lower": 0, "upper": 1},
    ]
    model = RealNvp(study(columns, TABLE | {"couplings": 2, "bins": 4}, plugin="realnvp"))
    network = model.fresh().double()
    for each in network.couplings.parameters():
        each.data = torch.randn(each.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.3
    # No number lies at the lower bound, which has a cell of its own.
    network.grid.probabilities.data = torch.tensor([1e-9, 0.25, 0.25, 0.25, 0.25] * 2).double()
    middle = (np.arange(400) + 0.5) / 400
    grid = np.stack(np.meshgrid(middle, middle), axis=-1).reshape(-1, 2)
    with torch.no_grad():
        losses = model.loss(network, torch.from_numpy(model.encode(grid)), torch.full((len(grid), 2), 0.5).double())
    # On uniform marginals the density relative to independent columns is the density itself.
    assert float(torch.exp(-losses).mean()) == pytest.approx(1, abs=0.01)


def test_a_normal_score_goes_back_to_its_cell_and_place() -> None:
    grid = Grid([3, 4]).double()
    grid.probabilities.data = torch.tensor([0.2, 0.5, 0.3, 0.1, 0.2, 0.3, 0.4]).double()
    rng = np.random.default_rng(0)
    codes, parts = np.stack([rng.integers(3, size=50), rng.integers(4, size=50)], 1), rng.uniform(0.01, 0.99, (50, 2))
    cells = torch.from_numpy(np.hstack([np.eye(3)[codes[:, 0]], np.eye(4)[codes[:, 1]]]))
    scores = grid(cells, torch.from_numpy(parts))
    back = grid.place(torch.special.ndtr(scores).detach().numpy())
    np.testing.assert_array_equal(back[0], codes)
    np.testing.assert_allclose(back[1], parts, atol=1e-9)


@pytest.mark.parametrize("coin", [1e-9, 0.5, 1 - 1e-9])
def test_whatever_the_coin_a_value_comes_back_from_the_part_of_its_cell_that_it_stands_for(coin: float) -> None:
    encoder = OneHotEncoder(study(COLUMNS, {}).columns, 8)  # type: ignore[arg-type]
    records = made_up(2000)
    begin, length = encoder.inside(records)
    assert (begin >= 0).all()
    assert (begin + length <= 1 + 1e-12).all()
    back = encoder.decode_at(encoder.codes(records), begin + coin * length)
    np.testing.assert_array_equal(back[:, [0, 1, 3]], records[:, [0, 1, 3]])
    np.testing.assert_allclose(back[:, 2], records[:, 2], atol=0.0100001)


def test_every_number_has_a_place_in_its_cell() -> None:
    encoder = OneHotEncoder(study(COLUMNS, {}).columns, 8)  # type: ignore[arg-type]
    extreme = np.array([[np.nan] * 4, [np.inf] * 4, [-np.inf] * 4, [1e300] * 4, [-7.5] * 4])
    for part in encoder.inside(extreme):
        assert ((part >= 0) & (part <= 1)).all()


def test_the_grid_is_that_of_the_released_marginals_also_after_a_checkpoint() -> None:
    model, trainer, _ = trained("realnvp-target", rounds=5)
    assert isinstance(model, RealNvp)
    second = model.trainer(seed=9)
    second.load(trainer.state())
    ask, same = trainer.ask({"network": 1}), second.ask({"network": 1})
    assert ask is not None
    assert same is not None
    sent = ask.payload["network.grid.probabilities"]
    np.testing.assert_array_equal(sent, same.payload["network.grid.probabilities"])
    counts = model.layout.encode(made_up()).mean(0)[model._cells]
    np.testing.assert_allclose(sent, counts, atol=0.01)


def test_sampling_brings_back_the_released_marginals_whatever_the_flow() -> None:
    model, trainer, _ = trained("realnvp-target", rounds=6)
    for each in model.trained(trainer._average).parameters():
        each.data = torch.randn(each.shape, generator=torch.Generator().manual_seed(1)) * 0.2
    drawn = model.layout.encode(trainer.sample(20_000, seed=5, given={})).mean(0)
    np.testing.assert_allclose(drawn, model.layout.encode(made_up()).mean(0), atol=0.025)


def test_a_table_of_conditions_alone_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a column that is no condition"):
        RealNvp(study(COLUMNS[-1:], TABLE, plugin="realnvp"))


def test_frozen_marginals_take_part_but_nobody_trains_them() -> None:
    network = Flow([3, 2], 0, RealNvpOptions())
    assert [name for name, each in network.named_parameters() if not each.requires_grad] == ["grid.probabilities"]


def test_every_category_is_a_condition_unless_some_are_named() -> None:
    assert make("realnvp").conditions == ("kind", "ill")
    assert make("realnvp-target").conditions == ("ill",)
