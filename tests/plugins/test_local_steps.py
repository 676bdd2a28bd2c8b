"""Several steps of a GAN's critic in one round: what goes to the sites, how they move, what the coordinator does."""

from typing import Any

import numpy as np
import pytest
import torch
from opacus.validators import ModuleValidator
from tests.plugins.core import Core, made_up
from tests.plugins.gan_studies import FAMILIES, make, resumed, trained

from synthfed.plugins.api import Answer, Ask, Still, local_part
from synthfed.plugins.models.adam import Adam, flatten
from synthfed.plugins.models.adversarial.critics import DenseCritic
from synthfed.plugins.models.adversarial.engine import Adversarial
from synthfed.plugins.models.adversarial.local_steps import Pace, Travelling
from synthfed.plugins.models.adversarial.unit_gradients import clipped_gradient
from synthfed.plugins.models.tables.table_fitting import TableFitting
from synthfed.protocols.errors import ConfigError

STEPS = 3
LOCAL: dict[str, Any] = {"refine": True, "local_steps": STEPS, "local_fakes": 16}
EVERYTHING: dict[str, Any] = LOCAL | {
    "critic_ladder": [1, 2],
    "spectral": 1.5,
    "critic_dropout": 0.2,
    "generator": "network",
    "mixup": 0.3,
    "mixup_partners": 8,
    "features_share": 0.1,
    "features_every": 2,
    "comparison_share": 0.03,
    "comparison_steps": 5,
}
FAMILY = pytest.mark.parametrize("family", FAMILIES)
OPTIONS = pytest.mark.parametrize("options", [LOCAL, EVERYTHING], ids=["local", "everything"])


def critics_ask(trainer: Adversarial[TableFitting], core: Core) -> Ask:
    """Return the next ask for the critic's gradient, whatever has to be answered before."""
    while (ask := trainer.ask(core.remaining)) is not None and ask.sum != "critic":
        core.remaining[ask.sum] -= 1
        trainer.receive(core.answer(core.sums[ask.sum], ask.payload))
    assert ask is not None
    return ask


@FAMILY
@OPTIONS
def test_the_studys_steps_take_so_many_times_fewer_rounds(family: str, options: dict[str, Any]) -> None:
    model = make(family, **options)
    critic, plain = model.sums()[-1], make(family).sums()[-1]
    assert (critic.rounds, critic.steps, plain.rounds, plain.steps) == (6 // STEPS, STEPS, 6, 1)
    assert critic.dim == plain.dim
    module = model.private().module("critic")
    assert ModuleValidator.validate(module, strict=False) == []
    assert critic.dim == sum(each.numel() for each in module.parameters() if each.requires_grad)
    assert critic.payload == tuple((name, tuple(each.shape)) for name, each in module.named_parameters())


def test_mean_features_are_asked_for_where_a_round_begins_only() -> None:
    assert [each.rounds for each in make("gan", **EVERYTHING).sums() if each.name == "features"] == [1]


def test_steps_that_are_no_whole_number_of_rounds_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"local_steps: privacy.steps = 6 is no multiple of 4 steps in a round"):
        make("gan", refine=True, local_steps=4)


@FAMILY
@OPTIONS
def test_all_steps_are_taken_and_counted(family: str, options: dict[str, Any]) -> None:
    model, trainer, core = trained(family, **options)
    assert trainer.progress()["steps"] == 6
    assert core.remaining["critic"] == 0
    assert not torch.equal(flatten(trainer._critic), flatten(model.fresh_critic(3)))
    assert np.isfinite(trainer.state()["critic"]).all()


@FAMILY
@OPTIONS
@pytest.mark.parametrize("done", [4, 5, 6])
def test_training_goes_on_from_a_checkpoint_bit_for_bit(family: str, options: dict[str, Any], done: int) -> None:
    first, second = resumed(family, done, **options)
    for name, values in first.state().items():
        np.testing.assert_array_equal(values, second.state()[name], err_msg=name)


def test_the_fakes_that_are_sent_are_records_and_change_with_each_round() -> None:
    _, trainer, core = trained("gan", rounds=4, **LOCAL)
    first, again = critics_ask(trainer, core), critics_ask(trainer, core)
    np.testing.assert_array_equal(first.payload["fakes"], again.payload["fakes"])
    np.testing.assert_allclose(first.payload["fakes"].sum(axis=1), 4.0, rtol=1e-5)
    core.remaining["critic"] -= 1
    trainer.receive(core.answer(core.sums["critic"], first.payload))
    assert not np.array_equal(first.payload["fakes"], critics_ask(trainer, core).payload["fakes"])


def test_fakes_are_sent_as_often_as_they_count() -> None:
    """Drawn are all three nearly as often, sent 60, 30 and 10 %. Eight deviations: 1e-15."""
    options = {"conditions": ["kind"], "balance": 0.9, "local_fakes": 4000}
    _, trainer, core = trained("cgan", rounds=4, **LOCAL | options)
    kinds = critics_ask(trainer, core).payload["fakes"][:, :3].mean(axis=0)
    np.testing.assert_allclose(kinds, [0.6, 0.3, 0.1], atol=0.085)


# Between two steps.


def test_before_the_first_sum_nobody_moves_and_after_it_everybody_does() -> None:
    _, trainer, core = trained("gan", rounds=4, **LOCAL)
    first = critics_ask(trainer, core)
    assert (first.payload["rates"] == 0).all()
    core.remaining["critic"] -= 1
    trainer.receive(core.answer(core.sums["critic"], first.payload))
    assert (critics_ask(trainer, core).payload["rates"] > 0).all()


@OPTIONS
def test_a_step_moves_the_critics_weights_down_the_noised_sum_and_the_fakes_gradient(options: dict[str, Any]) -> None:
    plain = {name: value for name, value in options.items() if name not in ("spectral", "critic_dropout")}
    model, trainer, core = trained("gan", rounds=4, **plain)
    payload = dict(critics_ask(trainer, core).payload)
    payload["rates"] = np.array([0.25, 0.5], dtype=np.float32)
    before = {name: array.copy() for name, array in payload.items()}
    noised = np.random.default_rng(0).normal(size=core.sums["critic"].dim)
    following = model.local().advance("critic", payload, noised, 1)
    assert list(following) == list(payload)
    kept = ["rates", "fakes", *[name for name in payload if name.endswith("partners")]]
    for name, array in payload.items():
        np.testing.assert_array_equal(array, before[name])  # what was given is not written to
        assert np.array_equal(following[name], array) == (name in kept)
    module = model.site_module()
    assert isinstance(module, Travelling)
    with torch.no_grad():
        for each, array in zip(module.parameters(), payload.values(), strict=True):
            each.copy_(torch.tensor(array))
    fakes = torch.tensor(payload["fakes"])
    public = clipped_gradient(module.critic, fakes, torch.empty(16, 0), model.losses.fake, 1.0) / 16
    expected = flatten(module.critic) - 0.25 * torch.tensor(noised, dtype=torch.float32) - 0.5 * public
    found = np.concatenate([following[name].ravel() for name in payload if name not in kept])
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)


@FAMILY
@OPTIONS
def test_the_same_arguments_move_every_site_alike_and_leave_torchs_generator_alone(
    family: str, options: dict[str, Any]
) -> None:
    _, trainer, core = trained(family, rounds=5, **options)
    payload, noised = critics_ask(trainer, core).payload, np.ones(core.sums["critic"].dim)
    before = torch.get_rng_state()
    one, other = (make(family, **options).local().advance("critic", payload, noised, 2) for _ in range(2))
    assert all(np.array_equal(one[name], other[name]) for name in payload)
    assert torch.equal(before, torch.get_rng_state())


def test_weights_stay_where_the_family_lets_them_be() -> None:
    options = LOCAL | {"lipschitz": "clip", "spectral": 0.5}
    model, trainer, core = trained("wgan", rounds=5, **options)
    payload = {**critics_ask(trainer, core).payload, "rates": np.ones(2, dtype=np.float32)}
    following = model.local().advance("critic", payload, 1e3 * np.ones(core.sums["critic"].dim), 0)
    limit = model.options.weight_limit  # type: ignore[attr-defined]
    assert all(np.abs(array).max() <= limit for name, array in following.items() if name.startswith("module."))


@FAMILY
def test_weights_that_a_coordinator_lets_run_away_are_no_failure_of_the_model(family: str) -> None:
    """A failure between two steps would mute the site until a person has looked."""
    model = make(family, **LOCAL, critic_depth=8, spectral=1.5)
    critic = next(each for each in model.sums() if each.name == "critic")
    payload = {name: np.full(shape, 1e4, dtype=np.float32) for name, shape in critic.payload}
    following = model.local().advance("critic", payload, np.ones(critic.dim), 0)
    assert all(np.isfinite(array).all() for array in following.values())


def test_a_model_without_local_steps_stands_still() -> None:
    model, trainer, core = trained("gan", rounds=4)
    payload = critics_ask(trainer, core).payload
    for part in (Still(), model.local()):
        assert part.advance("critic", payload, np.ones(core.sums["critic"].dim), 0) is payload
    assert isinstance(local_part(Core(model, made_up()).private), Still)  # type: ignore[arg-type]  # offers no `local`


def test_a_sites_step_is_divided_by_the_scale_that_its_own_noise_would_give_the_optimiser() -> None:
    """Gradient 0.3 and, of one site and step, noise 0.5: a round's mean of 4 steps of 5 sites has 0.5 / sqrt(20)."""
    critic, pace, lot = DenseCritic(1, 1, 1), Pace(), 100.0
    adam = Adam.of(critic)
    adam.step(critic, torch.full((4,), (0.3**2 + 0.5**2 / 20) ** 0.5), 0.0, 0.0)
    pace.receive(Answer("critic", np.zeros(4), 0.5 * lot * 20**0.5, 5), 20 * lot, 4)
    private, public = pace.rates(adam, 0.01, lot)
    assert public == pytest.approx(0.01 / (0.3**2 + 0.5**2) ** 0.5, rel=1e-5)
    assert private == pytest.approx(public / lot, rel=1e-5)
    again = Pace()
    again.load(pace.state())
    np.testing.assert_array_equal(again.rates(adam, 0.01, lot), [private, public])
