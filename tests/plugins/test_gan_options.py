"""The options that all GANs share: what each of them does to training."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.plugins.core import COLUMNS, Core, made_up, study
from tests.plugins.gan_studies import SMALL, make, trained
from torch import nn
from torch.nn.functional import softplus

from synthfed.plugins.models.adam import flatten, set_flat
from synthfed.plugins.models.adversarial.critics import Critic, DenseCritic, Mixed, limit_spectra, limit_weights
from synthfed.plugins.models.adversarial.diversity import Diversity, log_diversity
from synthfed.plugins.models.adversarial.feature_matching import bounded
from synthfed.plugins.models.adversarial.ladder import Ladder
from synthfed.plugins.models.dropout import dropped
from synthfed.plugins.models.gan import Gan
from synthfed.plugins.models.tables.table_fitting import TableFitting


def sent(payload: Any) -> list[np.ndarray]:
    return [each.reshape(len(each), -1) for each in payload.values() if each.ndim > 1]


def test_spectral_normalisation_bounds_every_weight_that_a_site_gets() -> None:
    _, trainer, core = trained("gan", rounds=8, spectral=0.7, critic_rate=0.5)
    ask = trainer.ask(core.remaining)
    assert ask is not None
    norms = [np.linalg.norm(each, 2) for each in sent(ask.payload)]
    assert max(norms) <= 0.7 + 1e-5
    _, free, core = trained("gan", rounds=8, critic_rate=0.5)
    ask = free.ask(core.remaining)
    assert ask is not None
    assert max(np.linalg.norm(each, 2) for each in sent(ask.payload)) > 1.0


def test_projection_on_spectra_leaves_small_weights_and_takes_kernels_as_matrices() -> None:
    small, kernel = nn.Linear(3, 3), nn.Conv1d(2, 4, 3)
    with torch.no_grad():
        small.weight.copy_(0.3 * torch.eye(3))
        kernel.weight.mul_(50)
    before = small.weight.detach().clone()
    limit_spectra(small, 1.0)
    limit_spectra(kernel, 1.0)
    assert torch.equal(small.weight, before)
    assert torch.linalg.matrix_norm(kernel.weight.detach().flatten(1), ord=2) == pytest.approx(1.0, rel=1e-5)


def test_weight_clipping_bounds_every_parameter() -> None:
    critic = DenseCritic(6, 5, 2)
    limit_weights(critic, 0.01)
    assert float(flatten(critic).abs().max()) == pytest.approx(0.01)


@pytest.mark.parametrize(("still", "moved"), [("critic", "generator"), ("generator", "critic")])
def test_each_network_has_a_learning_rate_of_its_own(still: str, moved: str) -> None:
    _, started, _ = trained("gan", rounds=4)
    started.ask({"critic": 1})
    rates: dict[str, Any] = {f"{still}_rate": 1e-9, f"{moved}_rate": 1e-2}
    _, trainer, _ = trained("gan", **rates)
    before, after = started.state(), trainer.state()
    assert np.abs(after[still] - before[still]).max() < 1e-6
    assert np.abs(after[moved] - before[moved]).max() > 1e-3


def ladder(**changes: Any) -> Ladder:
    return Ladder((1, 2, 4), **({"least": 0.6, "decay": 0.5, "grace": 2} | changes))


def turns(of: Ladder, accuracy: float, steps: int) -> str:
    return "".join("G" if of.step(accuracy) else "." for _ in range(steps))


def test_a_critic_that_loses_sight_of_fakes_gets_more_steps_for_each_turn_of_the_generator() -> None:
    assert turns(ladder(), 0.5, 14) == "GG.G.G...G...G"


def test_a_critic_that_tells_fakes_stays_on_the_first_rung() -> None:
    assert turns(ladder(), 0.9, 6) == "GGGGGG"


def test_the_ladder_looks_at_a_running_mean_and_waits_for_the_grace() -> None:
    patient = ladder(grace=5)
    turns(patient, 0.9, 1)
    turns(patient, 0.5, 3)
    assert patient.steps == 1
    turns(patient, 0.5, 1)
    assert patient.steps == 2
    assert patient.accuracy == pytest.approx(0.525)


def test_a_ladder_goes_on_from_its_state() -> None:
    first, second = ladder(), ladder()
    turns(first, 0.5, 5)
    second.load(first.state())
    assert turns(first, 0.5, 9) == turns(second, 0.5, 9)


def test_on_a_higher_rung_the_generator_moves_less_often() -> None:
    _, every, _ = trained("gan")
    _, third, _ = trained("gan", critic_ladder=[3])
    assert every.state()["generator_adam.count"] == [12]
    assert third.state()["generator_adam.count"] == [4]
    assert third.progress()["critic_steps"] == 3


def test_the_released_generator_is_the_running_mean_of_the_trained_one() -> None:
    _, averaged, _ = trained("gan", generator_rate=0.01)
    state = averaged.state()
    assert np.abs(state["average"] - state["generator"]).max() > 1e-3
    _, plain, _ = trained("gan", generator_rate=0.01, averaging=0.0)
    np.testing.assert_allclose(plain.state()["average"], plain.state()["generator"], rtol=1e-5, atol=1e-7)


def test_the_mean_of_the_critics_features_is_asked_for_every_so_many_steps() -> None:
    _, trainer, core = trained("gan", rounds=4, features_share=0.1, features_every=4)
    asked = []
    while (ask := trainer.ask(core.remaining)) is not None:
        asked.append(ask.sum)
        core.remaining[ask.sum] -= 1
        trainer.overlap()
        trainer.receive(core.answer(core.sums[ask.sum], ask.payload))
    assert asked == ["features", *["critic"] * 4, "features", *["critic"] * 2]
    assert core.sums["features"].rounds == 2
    assert core.sums["critic"].share == pytest.approx(0.05)


def test_the_released_features_are_those_of_the_records_and_draw_the_fakes_to_them() -> None:
    _, trainer, core = trained("gan", rounds=5, features_share=0.1, features_every=6)
    state = trainer.state()
    critic = DenseCritic(23, 8, 2)
    set_flat(critic, torch.tensor(state["critic"]))
    rows = torch.tensor(core.batch, dtype=torch.float32)
    with torch.no_grad():
        mean = bounded(critic.features(rows)).mean(0).numpy()
    np.testing.assert_allclose(state["features.mean"], mean, atol=0.1)
    misfits = {}
    for weight in (0.0, 100.0):
        more: dict[str, Any] = {"generator_rate": 0.02, "marginals_anchor": 0.0, "pairs_anchor": 0.0}
        _, after, _ = trained(
            "gan", features_share=0.1, features_every=6, features_weight=weight, generator_steps=20, **more
        )
        misfits[weight] = after.progress()["features_misfit"]
    assert misfits[100.0] < misfits[0.0]


def test_bounded_features_are_never_longer_than_one() -> None:
    assert float(bounded(1e6 * torch.ones(2, 9)).norm(dim=1).max()) == pytest.approx(1.0)


def test_a_lost_round_of_features_is_asked_for_again_while_any_is_left() -> None:
    _, trainer, core = trained("gan", rounds=4, features_share=0.1, features_every=6)
    for _ in range(2):
        ask = trainer.ask(core.remaining)
        assert ask is not None
        assert ask.sum == "features"
    ask = trainer.ask({**core.remaining, "features": 0})
    assert ask is not None
    assert ask.sum == "critic"


def mixed() -> tuple[Mixed, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    partners, records = torch.rand(4, 6, generator=rng), torch.rand(9, 6, generator=rng)
    return Mixed(DenseCritic(6, 5, 1), partners, 0.5), records, torch.rand(9, 2, generator=rng)


def test_a_record_is_mixed_with_the_fake_that_its_own_coins_choose() -> None:
    module, records, coins = mixed()
    scores, part = module(records, coins).split(1, 1)
    torch.testing.assert_close(part[:, 0], 0.5 * coins[:, 0])
    for i, (record, toss) in enumerate(zip(records, coins, strict=True)):
        partner = module.partners[int(4 * toss[1])]
        by_hand = (1 - 0.5 * toss[0]) * record + 0.5 * toss[0] * partner
        torch.testing.assert_close(module.critic(by_hand[None])[0], scores[i])


def test_coins_at_either_end_choose_a_partner() -> None:
    module, records, _ = mixed()
    for end in (0.0, 1.0):
        assert module(records[:1], torch.full((1, 2), end)).shape == (1, 2)


def test_the_label_is_mixed_like_the_record() -> None:
    model = make("gan", mixup=0.8, mixup_partners=4)
    private, module = model.private(), model.private().module("critic")
    batch = torch.tensor(private.encode(made_up(5)), dtype=torch.float32)
    coins = torch.full((5, 2), 0.5)
    scores, part = module(batch, coins).split(1, 1)
    expected = 0.6 * softplus(-scores) + 0.4 * softplus(scores)
    torch.testing.assert_close(part, torch.full((5, 1), 0.4))
    torch.testing.assert_close(private.loss("critic", module, batch, coins), expected.squeeze(1))


def test_the_partners_that_are_sent_are_fakes_and_change_with_each_step() -> None:
    _, trainer, core = trained("gan", rounds=4, mixup=0.4, mixup_partners=16)
    first, again = trainer.ask(core.remaining), trainer.ask(core.remaining)
    assert first is not None
    assert again is not None
    partners = first.payload["partners"]
    np.testing.assert_array_equal(partners, again.payload["partners"])
    assert set(np.unique(np.round(partners, 5))) == {0.0, 1.0}
    np.testing.assert_allclose(partners.sum(axis=1), 4.0, rtol=1e-5)
    trainer.receive(core.answer(core.sums["critic"], first.payload))
    then = trainer.ask(core.remaining)
    assert then is not None
    assert not np.array_equal(partners, then.payload["partners"])


def test_the_diversity_of_a_batch_counts_its_different_records() -> None:
    kinds = 100.0 * torch.eye(8)
    for different in (1, 2, 8):
        batch = kinds[torch.arange(64) % different]
        assert float(log_diversity(batch, 1.0).exp()) == pytest.approx(different, rel=1e-4)


def test_diversity_sees_columns_that_go_together_where_no_marginal_shows_it() -> None:
    rng = torch.Generator().manual_seed(0)
    codes = torch.randint(2, (256, 6), generator=rng)
    free = nn.functional.one_hot(codes, 2).flatten(1).float()
    tied = nn.functional.one_hot(codes[:, :1].expand(-1, 6), 2).flatten(1).float()
    watch = Diversity(free)
    assert abs(float(watch(free))) < 1e-5
    assert float(watch(tied)) < -0.5


def test_the_diversity_loss_brings_a_collapsed_generator_back() -> None:
    found = {}
    for weight in (0.0, 1000.0):
        options: dict[str, Any] = {
            "generator": "network",
            "generator_rate": 0.03,
            "generator_steps": 30,
            "marginals_anchor": 0.0,
            "pairs_anchor": 0.0,
        }
        _, trainer, _ = trained("gan", diversity=weight, **options)
        found[weight] = trainer.progress()["diversity"]
    assert found[0.0] < -0.5
    assert found[1000.0] > found[0.0] + 0.3


def test_dropout_of_the_critic_follows_the_coins_and_keeps_the_mean() -> None:
    critic = DenseCritic(6, 50, 2, 0.4)
    batch = torch.rand(3, 6)
    assert critic.coins == 100
    assert torch.equal(critic(batch), critic(batch, None))
    assert not torch.equal(critic(batch), critic(batch, torch.rand(3, 100)))
    coins = torch.rand(20_000, 1)
    assert float(dropped(torch.ones(20_000, 1), coins, 0.4).mean()) == pytest.approx(1.0, abs=0.03)


def test_a_critic_with_dropout_and_mixup_declares_all_its_coins() -> None:
    critic = make("gan", critic_dropout=0.2, mixup=0.1).sums()[-1]
    assert critic.coins == 2 + 2 * 8
    assert make("gan").sums()[-1].coins == 0


def test_dropout_of_the_generator_ends_with_training() -> None:
    model, trainer, _ = trained("gan", generator="network", generator_dropout=0.5)
    generator = model.generator(seed=0)
    model.warm_start(generator, model.fitting(seed=0))
    rng = torch.Generator().manual_seed(0)
    generator.spread(rng)
    latents = generator.latents(4, rng)
    assert not torch.equal(generator(latents, rng, 0.5), generator(latents, rng, 0.5))
    assert torch.equal(generator(latents), generator(latents))
    np.testing.assert_array_equal(trainer.sample(9, seed=1, given={}), trainer.sample(9, seed=1, given={}))


def test_pretraining_moves_both_networks_before_the_first_private_step() -> None:
    states = {}
    for steps in (0, 20):
        _, trainer, core = trained("gan", rounds=4, pretraining=steps)
        trainer.ask(core.remaining)
        states[steps] = trainer.state()
    assert not np.array_equal(states[0]["critic"], states[20]["critic"])
    assert not np.array_equal(states[0]["generator"], states[20]["generator"])
    assert states[20]["critic_adam.count"] == [0]


class Bare(Gan):
    """A family whose generator is no part of the anchor, as those for arrays are."""

    def warm_start(self, generator: nn.Module, fitting: TableFitting) -> None:
        """Start at nothing."""


def test_pretraining_teaches_a_generator_that_the_fit_gave_nothing() -> None:
    gaps = {}
    for steps in (0, 200):
        options = {"generator_rate": 0.02, "critic_rate": 0.02, "averaging": 0.5, "fit_steps": 150, "pairs_anchor": 0.0}
        model = Bare(study(COLUMNS, SMALL | options | {"generator": "network", "pretraining": steps}))
        trainer, core = model.trainer(seed=3), Core(model, made_up())
        core.run(trainer, 5)
        drawn = trainer.sample(8000, seed=1, given={})
        gaps[steps] = np.mean(drawn[drawn[:, 3] == 1, 2]) - np.mean(drawn[drawn[:, 3] == 0, 2])
    assert abs(gaps[0]) < 0.3
    assert gaps[200] > 1.0


def test_a_score_below_the_boundary_is_taken_for_a_fake() -> None:
    _, trainer, _ = trained("gan", rounds=5)
    assert 0 <= trainer.progress()["fakes_told"] <= 1
    critic: Critic = DenseCritic(23, 8, 2)
    assert make("gan").boundary(critic, torch.zeros(3, 23)) == 0.0
