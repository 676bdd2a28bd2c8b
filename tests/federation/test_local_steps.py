"""A GAN whose sites take several steps in a round, trained by a whole federation over memory."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from synthfed.plugins.api import Answer
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.privacy.plan import charge
from synthfed.server.training import spent

Federate = Callable[..., Any]
STEPS = 3
ROUNDS = {"marginals": 2, "critic": 6 // STEPS, "comparison": 2}


def steps_paid(federation: Any, site: str) -> int:
    """Return how many steps of the critic the site's ledger holds."""
    kind = federation.pinned.policy.plan.kind("critic")
    price = charge(kind, federation.study, 1)
    return sum(
        event.count
        for event in federation.ledger(site).events()
        if (event.sample_rate, event.noise_multiplier) == (price.sample_rate, price.noise_multiplier)
    )


def test_all_steps_are_done_in_so_many_times_fewer_rounds_and_paid_for_at_every_site(federate: Federate) -> None:
    federation = federate(gan=True, mode="local", epsilon=5.0, local_steps=STEPS)
    outcome = federation.train()
    assert outcome.reason == "every planned round is done"
    assert outcome.tally.attempts == outcome.tally.released == ROUNDS
    assert outcome.trainer.progress()["steps"] == 6
    assert np.isfinite(outcome.trainer.sample(50, 0, {})).all()
    for site in federation.sites:
        assert federation.charges(site) == ROUNDS
        assert steps_paid(federation, site) == 6
        assert spent(federation.pinned.policy, outcome.tally.charged[site]) == federation.pinned.policy.plan.epsilon


def test_the_promise_and_each_steps_noise_are_those_of_one_step_in_a_round(federate: Federate) -> None:
    one, several = (
        federate(gan=True, mode="local", epsilon=5.0, local_steps=steps, name=f"by-{steps}").pinned.policy.plan
        for steps in (1, STEPS)
    )
    assert one.epsilon == several.epsilon
    assert [kind.noise_multiplier for kind in one.kinds] == [kind.noise_multiplier for kind in several.kinds]


def test_a_round_that_a_site_does_not_answer_costs_all_of_its_steps(federate: Federate) -> None:
    federation = federate(gan=True, mode="local", epsilon=5.0, local_steps=STEPS)
    federation.link.drop_reply("s0", [4])
    outcome = federation.train()
    assert outcome.tally.attempts == ROUNDS
    assert outcome.tally.released["critic"] == 1
    assert outcome.trainer.progress()["steps"] == STEPS
    assert steps_paid(federation, "s0") == STEPS * outcome.tally.charged["s0"]["critic"]
    assert steps_paid(federation, "s1") == 6


def test_the_coordinator_tells_the_model_the_noise_of_all_steps_and_sites(
    federate: Federate, monkeypatch: pytest.MonkeyPatch
) -> None:
    federation = federate(gan=True, mode="local", epsilon=5.0, local_steps=STEPS)
    trainer, answers = federation.pinned.model.trainer(0), []
    receive = trainer.receive

    def noting(answer: Answer) -> None:
        answers.append(answer)
        receive(answer)

    monkeypatch.setattr(trainer, "receive", noting)
    federation.train(trainer=trainer)
    kind = federation.pinned.policy.plan.kind("critic")
    own = kind.noise_multiplier * kind.sum.clip_norm
    critic = [answer for answer in answers if answer.sum == "critic"]
    assert [answer.noise_std for answer in critic] == pytest.approx([own * (4 * STEPS) ** 0.5] * 2)


def test_in_distributed_the_study_is_refused(federate: Federate) -> None:
    with pytest.raises(ConfigError, match=r"^privacy\.mode: .*sum 'critic' asks for 3"):
        federate(gan=True, epsilon=5.0, local_steps=STEPS)
