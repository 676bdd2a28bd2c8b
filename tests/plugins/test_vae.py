"""The autoencoders: the bound they minimise, the marginals they keep, latents that pictures lie between."""

import numpy as np
import pytest
import torch
from tests.plugins.core import COLUMNS, made_up, study
from tests.plugins.likelihood_studies import TABLE, make, pictures, trained
from torch.distributions import Categorical, Normal, kl_divergence

from synthfed.plugins.models.held_columns import HeldColumns
from synthfed.plugins.models.layout import table_ground
from synthfed.plugins.models.table_anchor import TableAnchorOptions
from synthfed.plugins.models.vae import Vae
from synthfed.protocols.errors import ConfigError


@pytest.mark.parametrize("family", ["vae", "vae-pictures", "cvae", "cvae-pictures"])
def test_the_loss_is_minus_the_evidence_lower_bound_with_one_draw(family: str) -> None:
    model = make(family, divergence=0.7, spread=0.4)
    assert isinstance(model, Vae)
    network = model.fresh(3).double()
    rows = pictures(6) if family.endswith("pictures") else made_up(6)
    batch = torch.from_numpy(model.encode(rows))
    coins = torch.rand(6, 3, generator=torch.Generator().manual_seed(0)).double()
    normal = Normal(0.0, 1.0).icdf(coins)  # type: ignore[no-untyped-call]
    mean, log_std = network.encoder(batch).chunk(2, 1)
    log_std = 6 * torch.tanh(log_std / 6)
    given = batch[:, list(model._held.places)]
    answer = network.decoder(torch.cat([mean + log_std.exp() * normal, given], 1))
    numbers = model.layout.numbers
    slow = -Normal(answer[:, :numbers], 0.4).log_prob(batch[:, :numbers]).sum(1)  # type: ignore[no-untyped-call]
    start = numbers
    for block in model._kept:
        size = model.layout.sizes[block]
        codes = batch[:, list(model.layout.places(block))].argmax(1)
        slow = slow - Categorical(logits=answer[:, start : start + size]).log_prob(codes)  # type: ignore[no-untyped-call]
        start += size
    slow = slow + 0.7 * kl_divergence(Normal(mean, log_std.exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(model.loss(network, batch, coins), slow)


@pytest.mark.parametrize("family", ["vae", "cvae"])
def test_sampling_brings_back_the_anchors_marginals_whatever_the_decoder(family: str) -> None:
    model, trainer, _ = trained(family, rounds=5)
    for each in trainer._average.decoder.parameters():
        each.data = torch.randn(each.shape, generator=torch.Generator().manual_seed(1)) * 0.5
    drawn = model.layout.encode(trainer.sample(20_000, seed=5, given={})).mean(0)
    np.testing.assert_allclose(drawn, model.layout.encode(made_up()).mean(0), atol=0.04)


def test_a_walk_ends_at_two_draws_and_changes_step_by_step() -> None:
    _, trainer, _ = trained("vae-pictures", public_steps=300)
    walks = trainer.walk(20, 9, seed=4)[:, :16].reshape(20, 9, 16)
    steps = np.abs(np.diff(walks, axis=1)).sum(2).max()
    whole = np.abs(walks[:, -1] - walks[:, 0]).sum(1).max()
    assert whole > 2 * steps


def test_a_conditional_autoencoder_of_pictures_models_the_labels_it_is_not_given() -> None:
    model = make("cvae-pictures", conditions=[])
    assert model.conditions == ()
    assert model.trainer(0).sample(50, 0, {})[:, 16].max() <= 2


@pytest.mark.parametrize("conditions", [["size"], ["nobody"], ["ill", "ill"]])
def test_a_condition_that_cannot_be_one_is_refused(conditions: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"model\.options: conditions"):
        make("cvae", conditions=conditions)


def test_the_target_is_the_condition_unless_it_is_a_number() -> None:
    assert make("cvae", conditions=["kind"]).conditions == ("kind",)
    plain = TABLE | {"latent_width": 3}
    by_default = type(make("cvae"))(study(COLUMNS, plain, plugin="cvae"))
    assert by_default.conditions == ("ill",)
    number_last = [COLUMNS[0], COLUMNS[3], COLUMNS[2]]
    assert type(make("cvae"))(study(number_last, plain, plugin="cvae")).conditions == ()


def test_combinations_are_drawn_as_often_as_they_occur_among_those_that_fit() -> None:
    layout, _ = table_ground(study(COLUMNS, {}), TableAnchorOptions(bins=8), "test")
    held = HeldColumns.of(layout, ["ill", "kind"])
    law = held.codes(torch.from_numpy(layout.encode(made_up(3000))))
    rng, alike = np.random.default_rng(0), np.ones(3000)
    drawn = held.draw(law, alike, {"kind": 2}, 20_000, rng)
    assert (drawn[:, 1] == 2).all()
    assert drawn[:, 0].mean() == pytest.approx(law[law[:, 1] == 2, 0].mean(), abs=0.01)
    never = held.draw(law[law[:, 1] != 2], alike[law[:, 1] != 2], {"kind": 2}, 20_000, rng)
    assert (never[:, 1] == 2).all()
    assert never[:, 0].mean() == pytest.approx(law[law[:, 1] != 2, 0].mean(), abs=0.01)
    np.testing.assert_array_equal(np.unique(held.combinations, axis=0), held.combinations)
    assert HeldColumns.of(layout, []).draw(np.empty((1, 0), dtype=np.int64), np.ones(1), {}, 4, rng).shape == (4, 0)
