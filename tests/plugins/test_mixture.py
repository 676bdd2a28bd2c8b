"""The mixture of products as a table's generator: its latents, its fit, and how finely it tells columns apart."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.plugins.core import COLUMNS, made_up, study
from tests.plugins.gan_studies import SMALL, make, trained

from synthfed.plugins.models.gan import Gan
from synthfed.plugins.models.tables.mixture import MixtureGenerator
from synthfed.protocols.errors import ConfigError


def generator(components: int = 50) -> MixtureGenerator:
    made = MixtureGenerator(components, sizes=(3, 2))
    made.spread(torch.Generator().manual_seed(0))
    return made


def test_every_component_is_drawn_as_often_as_another() -> None:
    made, rng = generator(), torch.Generator().manual_seed(1)
    counts = torch.bincount(made.latents(200, rng)[:, 0].long(), minlength=50)
    assert torch.equal(counts, torch.full((50,), 4))
    few = torch.bincount(made.latents(30, rng)[:, 0].long(), minlength=50)
    assert few.max() == 1


def test_two_batches_come_in_different_orders_and_a_seed_fixes_them() -> None:
    made = generator()
    first, second = (made.latents(50, torch.Generator().manual_seed(seed)) for seed in (1, 2))
    assert not torch.equal(first, second)
    assert torch.equal(first, made.latents(50, torch.Generator().manual_seed(1)))


def test_a_walk_goes_straight_from_one_component_to_another() -> None:
    made = generator()
    with torch.no_grad():
        walk = made(made.path(5, torch.Generator().manual_seed(0)))
        rows = made.table + made.start
    assert (rows == walk[0]).all(1).any()
    torch.testing.assert_close(walk[2], (walk[0] + walk[4]) / 2)
    assert not torch.equal(walk[0], walk[4])


def test_logits_by_cell_are_the_logits_turned_and_shifted() -> None:
    made = generator()
    made.start.copy_(torch.randn(5))
    latents, shift = made.latents(7, torch.Generator().manual_seed(0)), torch.randn(5)
    torch.testing.assert_close(made.logits_by_cell(latents, shift), (made(latents) + shift).T)


def test_before_the_fit_every_record_is_as_the_marginals_say() -> None:
    made = MixtureGenerator(20, sizes=(3, 2))
    marginals = torch.tensor([0.2, 0.3, 0.5, 0.9, 0.1])
    made.aim(marginals, None)
    found = made.probabilities(made(made.latents(20, torch.Generator().manual_seed(0))))
    torch.testing.assert_close(found, marginals.expand(20, 5))


def test_the_fit_is_closer_to_the_released_moments_than_their_noise_is_long() -> None:
    _, trainer, _ = trained("gan", rounds=4, noise=5.0, fit_steps=200)
    assert trainer.ask({"critic": 6}) is not None  # the fit is made when the first gradient is wanted
    assert trainer.progress()["pairs_misfit"] < 1.0


def test_a_mixture_tells_how_columns_go_together() -> None:
    real = made_up(20_000, seed=9)
    real_gap = np.mean(real[real[:, 3] == 1, 2]) - np.mean(real[real[:, 3] == 0, 2])
    gaps = {}
    for kind in ("mixture", "network"):
        drawn = trained("gan", fit_steps=200, generator=kind)[1].sample(20_000, seed=5, given={})
        gaps[kind] = np.mean(drawn[drawn[:, 3] == 1, 2]) - np.mean(drawn[drawn[:, 3] == 0, 2])
    assert abs(gaps["mixture"] - real_gap) < 0.25 * real_gap
    assert abs(gaps["mixture"] - real_gap) < abs(gaps["network"] - real_gap) + 0.1 * real_gap


@pytest.mark.parametrize("family", ["cgan", "infogan"])
def test_a_generator_that_is_told_something_is_no_mixture(family: str) -> None:
    with pytest.raises(ConfigError, match="a mixture cannot hear"):
        make(family, generator="mixture")


@pytest.mark.parametrize("family", ["gan", "wgan"])
def test_a_mixture_has_no_units_to_drop(family: str) -> None:
    with pytest.raises(ConfigError, match="no hidden units to drop"):
        make(family, generator_dropout=0.1)


def test_cells_are_as_fine_as_the_declared_number_of_units_bears() -> None:
    columns: list[dict[str, Any]] = [{"name": "size", "kind": "real", "lower": 0, "upper": 1}, COLUMNS[-1]]
    options = {name: value for name, value in SMALL.items() if name != "bins"}
    sizes = []
    for units in (10, 1000, 1_000_000):
        terms = study(columns, options)
        privacy = terms.privacy.model_copy(update={"units_per_site": units})
        anchor = Gan(terms.model_copy(update={"privacy": privacy})).anchor
        assert anchor.layout is not None
        sizes.append((anchor.sizes[0], anchor.layout.counts[0]))
    assert sizes == [(17, 4), (67, 12), (129, 24)]


def test_a_table_of_many_reals_keeps_to_a_plain_grid() -> None:
    options = {name: value for name, value in SMALL.items() if name != "bins"}
    widths = []
    for reals in (3, 80):
        columns = [{"name": f"size {i}", "kind": "real", "lower": 0, "upper": 1} for i in range(reals)]
        terms = study([*columns, COLUMNS[-1]], options)
        widths.append(Gan(terms).anchor.sizes[0])
    assert widths == [67, 34]
