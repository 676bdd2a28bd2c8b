"""GANs for tables by default: the anchor has all of the budget, and no critic is trained unless a study asks for it."""

from typing import Any

import numpy as np
import pytest
from tests.plugins.core import COLUMNS, Core, made_up, study
from tests.plugins.gan_studies import FAMILIES

from synthfed.protocols.errors import ConfigError

SMALL: dict[str, Any] = {"bins": 8, "fit_steps": 40, "fakes": 64, "latent": 8, "generator_hidden": 16}


@pytest.mark.parametrize("family", FAMILIES)
def test_without_being_asked_a_gan_declares_statistics_alone_with_all_of_the_budget(family: str) -> None:
    sums = FAMILIES[family](study(COLUMNS, SMALL, plugin=family)).sums()
    assert {each.family for each in sums} == {"statistic"}
    assert {each.name for each in sums} == {"marginals", "pairs"}
    assert sum(each.share for each in sums) == pytest.approx(1.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_study_asks_for_the_critic_by_one_option(family: str) -> None:
    sums = FAMILIES[family](study(COLUMNS, SMALL | {"refine": True}, plugin=family)).sums()
    assert [each.name for each in sums if each.family == "gradient"] == ["critic"]
    assert "comparison" in {each.name for each in sums}
    assert sum(each.share for each in sums) == pytest.approx(1.0)


def test_the_anchor_keeps_the_proportions_of_its_shares() -> None:
    plain, refined = ({each.name: each.share for each in of(refine).sums()} for refine in (False, True))
    assert plain["marginals"] / plain["pairs"] == pytest.approx(refined["marginals"] / refined["pairs"])


def of(refine: bool, **options: Any) -> Any:
    return FAMILIES["gan"](study(COLUMNS, SMALL | {"refine": refine} | options))


def test_records_come_from_the_fitted_anchor_and_no_round_is_spent_on_anything_else() -> None:
    model = of(refine=False)
    trainer, core = model.trainer(seed=3), Core(model, made_up())
    core.run(trainer, 1000)
    assert core.remaining == {"marginals": 0, "pairs": 0}
    records, progress = trainer.sample(4000, 1, {}), trainer.progress()
    assert records.shape == (4000, len(COLUMNS))
    assert "kept" not in progress
    assert progress["steps"] == 0
    again = model.trainer(seed=9)
    again.load(trainer.state())
    np.testing.assert_array_equal(again.sample(50, 2, {}), trainer.sample(50, 2, {}))


@pytest.mark.parametrize("option", [{"critic_rate": 0.01}, {"comparison_share": 0.1}, {"batch": 64}])
def test_an_option_of_the_critic_is_refused_where_there_is_none(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(option))} does nothing without the critic; set refine = true"):
        of(refine=False, **option)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("gan", {"temperature": 0.5}),
        ("wgan", {"lipschitz": "clip"}),
        ("cgan", {"balance": 0.5}),
        ("infogan", {"pairs_anchor": 1.0}),
    ],
)
def test_so_is_an_option_of_a_family_that_acts_in_the_critics_steps_alone(family: str, options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ConfigError, match=f"{name} does nothing without the critic; set refine = true"):
        FAMILIES[family](study(COLUMNS, SMALL | options, plugin=family))
    FAMILIES[family](study(COLUMNS, SMALL | options | {"refine": True}, plugin=family))


def test_what_the_fit_of_the_anchor_uses_needs_no_critic() -> None:
    used: dict[str, dict[str, Any]] = {
        "cgan": {"conditions": ["kind"]},
        "infogan": {"categories": 3, "information": 0.5},
    }
    for family, options in used.items():
        assert FAMILIES[family](study(COLUMNS, SMALL | options, plugin=family)).sums()


def test_a_start_that_leaves_all_associations_to_the_critic_needs_one() -> None:
    with pytest.raises(ConfigError, match="set refine = true"):
        of(refine=False, start="marginals")


def test_fakes_for_the_sites_are_refused_where_none_are_sent() -> None:
    with pytest.raises(ConfigError, match="local_fakes does nothing with one step in a round; set local_steps"):
        FAMILIES["gan"](study(COLUMNS, {"refine": True, "local_fakes": 16}))
