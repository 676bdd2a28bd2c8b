"""The autoencoders: the bound they minimise, the marginals they keep, latents that pictures lie between."""

import numpy as np
import pytest
import torch
from tests.plugins.core import COLUMNS, made_up, study
from tests.plugins.likelihood_studies import TABLE, make, pictures, trained
from torch.distributions import Categorical, Normal, kl_divergence

from synthfed.plugins.api import Span
from synthfed.plugins.models.arrays.dct import CosineBasis
from synthfed.plugins.models.likelihoods.coefficients import Coefficients, Levels
from synthfed.plugins.models.likelihoods.held_columns import HeldColumns
from synthfed.plugins.models.likelihoods.layout import table_ground
from synthfed.plugins.models.tables.table_anchor import TableAnchorOptions
from synthfed.plugins.models.vae import Vae
from synthfed.protocols.errors import ConfigError


@pytest.mark.parametrize("family", ["vae", "vae-pictures", "cvae", "cvae-pictures"])
def test_the_loss_is_minus_the_evidence_lower_bound_with_one_draw(family: str) -> None:
    model = make(family, divergence=0.7)
    assert isinstance(model, Vae)
    network = model.fresh(3).double()
    rows = pictures(6) if family.endswith("pictures") else made_up(6)
    batch = torch.from_numpy(model.encode(rows))
    coins = torch.rand(6, 3, generator=torch.Generator().manual_seed(0)).double()
    normal = Normal(0.0, 1.0).icdf(coins)  # type: ignore[no-untyped-call]
    numbers = model.layout.numbers
    # All 16 cosine coefficients of 16 pixels: an orthonormal basis, scaled by 1.
    truth = (
        torch.from_numpy(CosineBasis((1, 4, 4), 16).analyse(batch[:, :numbers].numpy())) if numbers else batch[:, :0]
    )
    inputs = torch.cat([truth, batch[:, numbers:]], 1)
    mean, log_std = network.encoder(inputs).chunk(2, 1)
    log_std = 6 * torch.tanh(log_std / 6)
    held = [place for name in model.conditions for place in model.layout.places(model.layout.names.index(name))]
    given = batch[:, held]
    answer = network.decoder(torch.cat([mean + log_std.exp() * normal, given], 1))
    spread = torch.exp(3 * torch.tanh(answer[:, numbers : 2 * numbers] / 3))
    slow = -Normal(answer[:, :numbers], spread).log_prob(truth).sum(1)  # type: ignore[no-untyped-call]
    start = 2 * numbers
    for block, name in enumerate(model.layout.names):
        if name not in model.conditions:
            size, codes = model.layout.sizes[block], batch[:, list(model.layout.places(block))].argmax(1)
            head = Categorical(logits=answer[:, start : start + size])
            slow = slow - head.log_prob(codes)  # type: ignore[no-untyped-call]
            start += size
    slow = slow + 0.7 * kl_divergence(Normal(mean, log_std.exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(model.loss(network, batch, coins), slow)


@pytest.mark.parametrize("family", ["vae", "cvae"])
def test_sampling_brings_back_the_anchors_marginals_whatever_the_decoder(family: str) -> None:
    # The aim is the marginals of the anchor's records: of enough of them for chance to be far below the bound.
    model, trainer, _ = trained(family, rounds=5, public_records=16_384)
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
    drawn = held.draw(law, alike, {"kind": Span.at(2)}, 20_000, rng)
    assert (drawn[:, 1] == 2).all()
    assert drawn[:, 0].mean() == pytest.approx(law[law[:, 1] == 2, 0].mean(), abs=0.01)
    never = held.draw(law[law[:, 1] != 2], alike[law[:, 1] != 2], {"kind": Span.at(2)}, 20_000, rng)
    assert (never[:, 1] == 2).all()
    assert never[:, 0].mean() == pytest.approx(law[law[:, 1] != 2, 0].mean(), abs=0.01)
    np.testing.assert_array_equal(np.unique(held.combinations, axis=0), held.combinations)
    assert HeldColumns.of(layout, []).draw(np.empty((1, 0), dtype=np.int64), np.ones(1), {}, 4, rng).shape == (4, 0)


def test_pictures_come_back_from_all_their_coefficients_and_smoothed_from_fewer() -> None:
    numbers = torch.from_numpy(make("vae-pictures").encode(pictures(20))[:, :16])
    whole = Coefficients(CosineBasis((1, 4, 4), 16).analyse(np.eye(16)))
    np.testing.assert_allclose(whole.synthesise(whole.analyse(numbers)), numbers, atol=1e-12)
    fewer = Coefficients(CosineBasis((1, 4, 4), 6).analyse(np.eye(16)))
    smooth = fewer.synthesise(fewer.analyse(numbers))
    np.testing.assert_allclose(fewer.synthesise(fewer.analyse(torch.from_numpy(smooth))), smooth, atol=1e-12)
    assert fewer.analyse(numbers).shape == (20, 6)


def test_levels_become_as_frequent_as_wanted_and_keep_their_order() -> None:
    rng = np.random.default_rng(0)
    made, aimed = rng.normal(size=(500, 8)), np.where(rng.random((500, 8)) < 0.6, -1.0, rng.random((500, 8)))
    mapped = Levels(made, aimed)(made)
    assert (mapped == -1).mean() == pytest.approx(0.6, abs=0.02)
    assert mapped.mean() == pytest.approx(aimed.mean(), abs=0.02)
    order = np.argsort(made, axis=None)
    assert (np.diff(mapped.ravel()[order]) >= 0).all()


def test_pictures_have_the_grey_levels_of_the_anchors_whatever_the_decoder() -> None:
    model, trainer, _ = trained("cvae-pictures", rounds=9)
    for each in trainer._average.decoder.parameters():
        each.data = torch.randn(each.shape, generator=torch.Generator().manual_seed(1)) * 0.3
    drawn = model.layout.encode(trainer.sample(2000, seed=5, given={}))[:, :16]
    aimed = trainer._public().records[:, :16].numpy()
    parts = np.linspace(0.05, 0.95, 10)
    np.testing.assert_allclose(np.quantile(drawn, parts), np.quantile(aimed, parts), atol=0.12)
