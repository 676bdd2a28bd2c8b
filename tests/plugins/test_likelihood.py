"""What every family that is trained by a loss alone keeps: the contract, exact checkpoints, one record's say."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from opacus.validators import ModuleValidator
from tests.plugins.core import COLUMNS, SITES, Core, study
from tests.plugins.likelihood_studies import FAMILIES, PICTURES, make, records_of, trained

from synthfed.client.train import clipped_sum
from synthfed.plugins.api import Answer, Array, Model, Payload, PrivatePart, Span, Trainer
from synthfed.plugins.models.likelihoods.likelihood import Family
from synthfed.plugins.models.likelihoods.refinement import NETWORK
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import places
from synthfed.protocols.sums import Kind

FAMILY = pytest.mark.parametrize("family", FAMILIES)
CONDITIONAL = pytest.mark.parametrize("family", [name for name in FAMILIES if not name.startswith("vae")])
STRONG: dict[bool, dict[str, Any]] = {False: {"fit_steps": 150}, True: {"coefficients": 16}}
STATISTICS = {"table": 4, "array": 8}


def statistics(family: str) -> int:
    """Return how many rounds of statistics come before the first gradient."""
    return STATISTICS["array" if FAMILIES[family][1] else "table"]


def weights_of(model: Family[Any], seed: int = 5) -> Payload:
    """Return weights with which everything moves, also what starts at zero."""
    rng = np.random.default_rng(seed)
    module = model.private().module(NETWORK)
    frozen = {name: each.numpy() for name, each in module.named_parameters() if not each.requires_grad}
    shapes = {name: tuple(each.shape) for name, each in module.named_parameters()}
    drawn = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    return drawn | frozen | {"factor.value": np.array([0.25], dtype=np.float32)}


def oracle(model: Family[Any], weights: Payload, batch: Array, coins: Array, clip_norm: float) -> Array:
    """Return the sum of clipped gradients, one record after the other, by plain autograd."""
    network, scale = model.fresh().double(), float(weights["factor.value"][0])
    with torch.no_grad():
        for name, each in network.named_parameters():
            each.copy_(torch.from_numpy(weights[f"network.{name}"].astype(np.float64)))
    moved = [each for each in network.parameters() if each.requires_grad]
    total = np.zeros(sum(each.numel() for each in moved))
    for row, coin in zip(torch.from_numpy(batch), torch.from_numpy(coins), strict=True):
        loss = scale * model.loss(network, row[None], coin[None]).sum()
        gradient = torch.cat([part.flatten() for part in torch.autograd.grad(loss, moved)]).numpy()
        total += gradient * min(1.0, clip_norm / max(float(np.linalg.norm(gradient)), 1e-300))
    return total


def assert_same(first: Trainer, second: Trainer) -> None:
    assert first.state().keys() == second.state().keys()
    for name, values in first.state().items():
        np.testing.assert_array_equal(values, second.state()[name], err_msg=name)


@FAMILY
def test_a_family_satisfies_the_contract(family: str) -> None:
    model: Model = make(family)
    private: PrivatePart = model.private()
    trainer: Trainer = model.trainer(seed=0)
    assert len(private.encode(records_of(family, 5))) == 5
    assert trainer.ask({each.name: each.rounds for each in model.sums()}) is not None


@FAMILY
def test_an_option_that_is_unknown_or_out_of_range_is_named(family: str) -> None:
    with pytest.raises(ConfigError, match=r"model.options: nonsense"):
        make(family, nonsense=3)
    with pytest.raises(ConfigError, match=r"model.options: averaging"):
        make(family, averaging=1.0)


@pytest.mark.parametrize(("family", "option"), [("vae", "levels"), ("vae", "anchor_share"), ("cvae-pictures", "bins")])
def test_an_option_for_the_other_kind_of_data_is_refused(family: str, option: str) -> None:
    with pytest.raises(ConfigError, match=f"{option}.* leave it out"):
        make(family, None, **{option: 0.5 if option == "anchor_share" else 20})


@FAMILY
def test_the_sums_declare_what_the_private_part_delivers(family: str) -> None:
    model = make(family)
    *_, gradient = model.sums()
    assert sum(each.share for each in model.sums()) == pytest.approx(1.0)
    assert (gradient.name, gradient.sample_rate, gradient.rounds, gradient.clip_norm) == (NETWORK, 0.3, 6, 1.0)
    module = model.private().module(NETWORK)
    assert ModuleValidator.validate(module, strict=False) == []
    assert gradient.dim == sum(each.numel() for each in module.parameters() if each.requires_grad)
    assert gradient.payload == tuple((name, tuple(each.shape)) for name, each in module.named_parameters())


@FAMILY
@pytest.mark.parametrize("clip_norm", [0.3, 1e6])
def test_the_cores_sum_of_clipped_gradients_equals_a_slow_sum_over_records(family: str, clip_norm: float) -> None:
    model = make(family)
    weights, rng = weights_of(model), np.random.default_rng(0)
    batch = model.private().encode(records_of(family, 20))
    coins = rng.random((64, model.coins))
    kind = Kind(replace(model.gradient(), clip_norm=clip_norm), 1.0, 64, 64)
    fast = clipped_sum(model.private(), kind, weights, batch, coins)
    slow = oracle(model, weights, batch, coins[:20], clip_norm)
    assert np.abs(slow).max() > 0
    np.testing.assert_allclose(fast, slow, atol=1e-9 * max(1.0, np.abs(slow).max()))


@FAMILY
def test_a_records_loss_depends_on_that_record_its_coins_and_the_weights_alone(family: str) -> None:
    model = make(family)
    private, rng = model.private(), np.random.default_rng(1)
    batch = torch.from_numpy(private.encode(records_of(family, 30)))
    coins = torch.from_numpy(rng.random((30, model.coins)))
    module = private.module(NETWORK).double()
    whole = private.loss(NETWORK, module, batch, coins)
    assert whole.shape == (30,)
    alone = private.loss(NETWORK, module, batch[7:8], coins[7:8])
    torch.testing.assert_close(alone[0], whole[7])


@FAMILY
@pytest.mark.parametrize("done", [0, 1, "statistics", "two more"])
def test_training_goes_on_from_a_checkpoint_bit_for_bit(family: str, done: int | str) -> None:
    rounds = {"statistics": statistics(family), "two more": statistics(family) + 2}.get(str(done), done)
    model, first, core = trained(family, rounds=int(rounds))
    second, copy = model.trainer(seed=99), Core(model, records_of(family))
    second.load(first.state())
    copy.follow(core)
    core.run(first)
    copy.run(second)
    assert_same(first, second)
    np.testing.assert_array_equal(first.sample(60, seed=1, given={}), second.sample(60, seed=1, given={}))


@FAMILY
def test_a_round_that_failed_changes_nothing(family: str) -> None:
    model, first, _ = trained(family)
    second, core = model.trainer(seed=3), Core(model, records_of(family))
    core.run(second, statistics(family) + 1, overlap=False)
    second.ask(core.remaining)
    second.overlap()
    core.run(second, overlap=False)
    assert_same(first, second)


def test_a_checkpoint_of_another_study_is_refused() -> None:
    state = trained("made", rounds=1)[1].state()
    with pytest.raises(ConfigError, match="use a checkpoint of this study"):
        make("made", hidden=90).trainer(seed=0).load(state)
    with pytest.raises(ConfigError, match="use a checkpoint of this study"):
        make("made").trainer(seed=0).load({name: values for name, values in state.items() if name != "rng"})


@FAMILY
def test_samples_are_fixed_by_state_and_seed_and_leave_global_randomness_alone(family: str) -> None:
    model, trainer, _ = trained(family)
    before, legacy = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    first = trainer.sample(50, seed=1, given={})
    model.trainer(seed=8)
    model.private().module(NETWORK)
    torch.testing.assert_close(torch.random.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], legacy)  # type: ignore[index]
    torch.manual_seed(77)
    np.testing.assert_array_equal(trainer.sample(50, seed=1, given={}), first)
    assert not np.array_equal(trainer.sample(50, seed=2, given={}), first)


@FAMILY
def test_two_seeds_train_two_networks_and_one_seed_one(family: str) -> None:
    model = make(family)
    same, other = model.trainer(seed=3), model.trainer(seed=4)
    np.testing.assert_array_equal(model.trainer(seed=3).state()["network"], same.state()["network"])
    assert not np.array_equal(other.state()["network"], same.state()["network"])


@FAMILY
def test_sampling_needs_no_training_and_obeys_the_schema(family: str) -> None:
    model = make(family)
    sampled = model.trainer(seed=0).sample(300, seed=0, given={})
    if FAMILIES[family][1]:
        assert sampled.shape == (300, 17)
        assert sampled[:, :16].min() >= 0
        assert sampled[:, :16].max() <= 16
        np.testing.assert_array_equal(sampled[:, :16], np.rint(sampled[:, :16]))
    else:
        assert sampled.shape == (300, 4)
        assert np.nanmin(sampled[:, 2]) >= 0
        assert np.nanmax(sampled[:, 2]) <= 10
        assert set(np.unique(sampled[:, 0])) <= {0.0, 1.0, 2.0}
    assert model.trainer(seed=0).sample(0, seed=0, given={}).shape == (0, sampled.shape[1])


@CONDITIONAL
def test_what_is_given_is_held_exactly_and_the_rest_follows_it(family: str) -> None:
    model, trainer, _ = trained(family, public_steps=300, public_rate=0.01, **STRONG[FAMILIES[family][1]])
    place, name = (16, "side") if FAMILIES[family][1] else (3, "ill")
    assert name in model.conditions
    halves = [trainer.sample(400, seed=2, given={name: Span.at(category)}) for category in (0, 1)]
    for category, records in enumerate(halves):
        assert (records[:, place] == category).all()
    feature = [np.nanmean(records[:, 2]) for records in halves]  # the third pixel, or the size: larger in the second
    assert feature[1] - feature[0] > (2 if FAMILIES[family][1] else 1)


@FAMILY
def test_a_column_that_is_no_condition_cannot_be_given(family: str) -> None:
    with pytest.raises(ConfigError, match="cannot be fixed in sampling"):
        make(family).trainer(seed=0).sample(3, seed=0, given={"size": Span.at(1)})


@pytest.mark.parametrize("family", ["cvae", "made", "realnvp"])
def test_each_of_several_conditions_can_be_given_alone_or_together(family: str) -> None:
    _, trainer, _ = trained(family)
    alone = trainer.sample(500, seed=2, given={"kind": Span.at(1)})
    assert (alone[:, 0] == 1).all()
    assert 0.1 < alone[:, 3].mean() < 0.6
    both = trainer.sample(50, seed=2, given={"kind": Span.at(2), "ill": Span.at(1)})
    assert (both[:, [0, 3]] == [2, 1]).all()


@FAMILY
def test_the_warm_start_costs_nothing_and_brings_the_anchors_associations(family: str) -> None:
    model = make(family, public_steps=400, public_rate=0.01, **STRONG[FAMILIES[family][1]])
    trainer, core = model.trainer(seed=3), Core(model, records_of(family))
    core.run(trainer, statistics(family))
    trainer.ask(core.remaining)
    assert trainer.progress()["steps"] == 0
    sampled = trainer.sample(2000, seed=5, given={})
    label, feature = (16, 2) if FAMILIES[family][1] else (3, 2)
    parts = [np.nanmean(sampled[sampled[:, label] == category, feature]) for category in (0, 1)]
    assert parts[1] - parts[0] > (2 if FAMILIES[family][1] else 1)


@FAMILY
def test_a_cold_start_is_possible_and_says_nothing_of_the_anchor(family: str) -> None:
    model = make(family, public_steps=0)
    trainer, core = model.trainer(seed=3), Core(model, records_of(family))
    core.run(trainer, statistics(family))
    trainer.ask(core.remaining)
    np.testing.assert_array_equal(trainer.state()["network"], model.trainer(seed=3).state()["network"])
    core.run(trainer)
    assert trainer.progress()["steps"] == 6


@pytest.mark.parametrize("family", ["vae", "made", "cvae-pictures", "pixelcnn", "realnvp"])
def test_private_rounds_without_noise_lower_the_loss_of_real_records(family: str) -> None:
    model = make(family, public_steps=0, rate=0.03, averaging=0.0)
    trainer, core = model.trainer(seed=3), Core(model, records_of(family), noise=1e-9)
    core.run(trainer, statistics(family))
    trainer.ask(core.remaining)
    batch, coins = torch.from_numpy(core.batch), torch.full((len(core.batch), model.coins), 0.4, dtype=torch.float64)

    def loss() -> float:
        network = model.fresh().double()
        ask = trainer.ask(core.remaining | {NETWORK: 1})
        assert ask is not None
        for name, each in network.named_parameters():
            each.data = torch.from_numpy(ask.payload[f"network.{name}"].astype(np.float64))
        return float(model.loss(network, batch, coins).mean().detach())

    before = loss()
    core.remaining[NETWORK] = 40
    core.run(trainer)
    assert loss() < before - 0.1


def test_progress_tells_gradient_and_noise() -> None:
    _, trainer, core = trained("made")
    progress = trainer.progress()
    assert progress["steps"] == 6
    lot = 0.3 * progress["units_per_site"] * SITES * float(trainer.state()["scale"][0])
    assert progress["gradient_noise"] == pytest.approx(core.noise[NETWORK] / lot * core.sums[NETWORK].dim ** 0.5)
    assert 0 < progress["gradient"] <= 20
    assert np.isfinite(progress["public_loss"])


@FAMILY
def test_walks_are_records_of_the_schema_or_none(family: str) -> None:
    model, trainer, _ = trained(family, rounds=statistics(family))
    walked = trainer.walk(3, 5, seed=1)
    width = 17 if FAMILIES[family][1] else 4
    has_latent = family.startswith(("vae", "cvae", "realnvp"))
    assert walked.shape == (15 if has_latent else 0, width)
    np.testing.assert_array_equal(walked, trainer.walk(3, 5, seed=1))
    if model.conditions and has_latent:
        assert all(len(set(walk[:, -1])) == 1 for walk in walked.reshape(3, 5, width))


def test_a_network_that_was_never_released_statistics_still_trains() -> None:
    model = make("made")
    trainer, core = model.trainer(seed=0), Core(model, records_of("made"))
    core.remaining |= {"marginals": 0, "pairs": 0}
    core.run(trainer)
    assert trainer.progress()["steps"] == 6


def test_the_released_gradient_is_divided_by_the_expected_number_of_units() -> None:
    model, trainer, core = trained("made", rounds=4)
    ask = trainer.ask(core.remaining)
    assert ask is not None
    before = trainer.state()["adam.mean"]
    trainer.receive(Answer(NETWORK, np.full(model.gradient().dim, 54.0), 0.1, SITES))
    lot = 0.3 * trainer.progress()["units_per_site"] * SITES * float(ask.payload["factor.value"][0])
    moved = trainer.state()["adam.mean"] - before
    np.testing.assert_allclose(moved, 54.0 / lot * 0.1, rtol=1e-4)


def test_records_have_the_places_of_the_schema() -> None:
    for family, (_, is_array, _) in FAMILIES.items():
        columns = study(PICTURES if is_array else COLUMNS, {}).columns
        assert make(family).record_width == places(columns)[-1]


@FAMILY
def test_the_public_factor_of_the_loss_leaves_most_of_the_anchors_gradients_uncut(family: str) -> None:
    model, trainer, core = trained(family, rounds=statistics(family))
    ask = trainer.ask(core.remaining)
    assert ask is not None
    batch = model.examples(trainer._public().records[100:164]).double().numpy()
    coins = np.random.default_rng(0).random((64, model.coins))
    norms = []
    for row, coin in zip(batch, coins, strict=True):
        kind = Kind(replace(model.gradient(), clip_norm=1e9), 1.0, 64, 64)
        tiled = np.tile(coin, (64, 1))
        norms.append(np.linalg.norm(clipped_sum(model.private(), kind, ask.payload, row[None], tiled)))
    assert 0.7 < np.mean(np.array(norms) <= 1) < 1
    assert np.median(norms) > 0.2
