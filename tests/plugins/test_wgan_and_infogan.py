"""What the Wasserstein and the information-maximising GAN add: a Lipschitz critic, codes that mean something."""

from typing import Any

import numpy as np
import pytest
import torch
from tests.plugins.core import COLUMNS, study
from tests.plugins.gan_studies import SMALL, make, trained

from synthfed.plugins.models.adam import Adam, flat_gradient, flatten, set_flat
from synthfed.plugins.models.adversarial.critics import DenseCritic
from synthfed.plugins.models.infogan import REACH, CodedGenerator, Infogan
from synthfed.plugins.models.wgan import Wgan
from synthfed.protocols.errors import ConfigError


def wgan(**options: Any) -> Wgan:
    return Wgan(study(COLUMNS, SMALL | options, plugin="wgan"))


def infogan(**options: Any) -> Infogan:
    return Infogan(study(COLUMNS, SMALL | options, plugin="infogan"))


def test_the_losses_of_a_wasserstein_critic_are_its_scores() -> None:
    scores, losses = torch.tensor([[2.0], [-3.0]]), Wgan.losses
    assert losses.real(scores).tolist() == [-2.0, 3.0]
    assert losses.fake(scores).tolist() == [2.0, -3.0]
    assert losses.generator(scores).tolist() == [-2.0, 3.0]


def test_clipping_bounds_every_weight_that_a_site_gets() -> None:
    _, trainer, core = trained("wgan", lipschitz="clip", weight_limit=0.03, critic_rate=0.5)
    core.remaining["critic"] = 1
    ask = trainer.ask(core.remaining)
    assert ask is not None
    assert max(np.abs(each).max() for each in ask.payload.values()) <= np.float32(0.03)


def test_the_penalty_is_for_the_penalised_critic_only() -> None:
    critic, fakes, rng = DenseCritic(23, 8, 2), torch.rand(20, 23), torch.Generator().manual_seed(0)
    assert wgan(lipschitz="clip").penalty(critic, fakes, rng) is None
    assert wgan(penalty_weight=0.0).penalty(critic, fakes, rng) == 0
    assert wgan().penalty(critic, fakes, rng) is not None


def test_the_penalty_draws_the_slope_between_fakes_towards_one() -> None:
    model, rng = wgan(), torch.Generator().manual_seed(0)
    critic = model.fresh_critic(0)
    fakes = torch.rand(64, 23, generator=rng)
    adam = Adam.of(critic)
    values = []
    for _ in range(200):
        penalty = model.penalty(critic, fakes, rng)
        assert penalty is not None
        values.append(float(penalty.detach()))
        adam.step(critic, flat_gradient(penalty, critic), 0.01, 0.5)
    assert values[-1] < 0.05 * values[0]


def test_the_penalty_is_part_of_the_public_gradient() -> None:
    gradients = []
    for weight in (0.0, 10.0):
        _, trainer, core = trained("wgan", rounds=4, penalty_weight=weight)
        trainer.ask(core.remaining)
        trainer.overlap()
        gradients.append(trainer.state()["fakes"])
    assert np.abs(gradients[0] - gradients[1]).max() > 1e-3


def test_a_wasserstein_critic_takes_for_fakes_what_scores_below_the_anchors_samples() -> None:
    critic, samples = DenseCritic(23, 8, 2), torch.rand(9, 23)
    with torch.no_grad():
        assert wgan().boundary(critic, samples) == pytest.approx(float(critic(samples).mean()))


def coded(**options: Any) -> CodedGenerator:
    made = infogan(**options).generator(seed=0)
    assert isinstance(made, CodedGenerator)
    return made


def test_the_latent_holds_noise_a_category_and_codes_of_variance_one() -> None:
    latents = coded(categories=3, codes=2).latents(20_000, torch.Generator().manual_seed(0))
    assert latents.shape == (20_000, 8 + 3 + 2)
    np.testing.assert_allclose(latents[:, 8:11].sum(1), 1.0)
    np.testing.assert_allclose(latents[:, 8:11].mean(0), 1 / 3, atol=0.02)
    np.testing.assert_allclose(latents[:, 11:].std(0), 1.0, atol=0.02)
    assert float(latents[:, 11:].abs().max()) <= REACH


@pytest.mark.parametrize("option", [{"categories": 0}, {"codes": 0}])
def test_either_kind_of_code_may_be_left_out(option: dict[str, int]) -> None:
    _, trainer, _ = trained("infogan", **option)
    assert trainer.sample(10, seed=0, given={}).shape == (10, 4)
    assert trainer.walk(2, 4, seed=0).shape == (8, 4)


def test_a_latent_without_any_code_is_refused() -> None:
    with pytest.raises(ConfigError, match="give the latent a code"):
        infogan(categories=0, codes=0)


def part_read(information: float) -> float:
    """Return how often the head reads a two-valued code from the released generator's records."""
    options: dict[str, Any] = {"fit_steps": 200, "categories": 2, "codes": 0, "generator_rate": 0.005}
    model, trainer, _ = trained("infogan", noise=5.0, information=information, **options)
    generator = model.generator(seed=0)
    assert isinstance(generator, CodedGenerator)
    model.follow(generator, model.fitting(seed=0))
    set_flat(generator, torch.tensor(trainer.state()["average"]))
    rng = torch.Generator().manual_seed(0)
    latents = generator.latents(4000, rng)
    with torch.no_grad():
        cells = generator.cells(generator(latents), rng, 0.7)
        guesses = generator.head(cells).argmax(1)
    return float((guesses == latents[:, 8:].argmax(1)).float().mean())


def test_the_codes_can_be_read_from_the_records_where_that_counts() -> None:
    assert part_read(0.0) < 0.65
    assert part_read(10.0) > 0.75


def test_a_walk_changes_one_code_and_nothing_else() -> None:
    path = coded(categories=3, codes=2).path(5, torch.Generator().manual_seed(0))
    moving = (path != path[:1]).any(0)
    assert moving.sum() == 1
    assert moving[-2:].any()
    torch.testing.assert_close(path[:, moving].flatten(), torch.linspace(-REACH, REACH, 5))
    turns = coded(categories=3, codes=0).path(6, torch.Generator().manual_seed(0))
    assert turns[:, 8:].argmax(1).tolist() == [0, 0, 1, 1, 2, 2]
    assert not (turns[:, :8] != turns[:1, :8]).any()


def test_the_head_is_trained_with_the_generator_at_the_coordinator_alone() -> None:
    model, trainer, core = trained("infogan")
    names = [name for name, _ in core.sums["critic"].payload]
    assert not [name for name in names if "head" in name]
    started = flatten(model.generator(seed=3))
    assert len(trainer.state()["generator"]) == len(started)
    assert trainer.progress()["codes_uncertainty"] >= 0
    assert make("infogan").conditions == ()
