"""An attack on the summed output of real agents: what it proves about epsilon, against what is claimed."""

import math
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats  # type: ignore[import-untyped]
from tests.client.federation import Federation, Identities, Plugin, answered, decoded, join_at

from synthfed.client.agent import Agent
from synthfed.client.config import Ceiling
from synthfed.client.data import UnitData
from synthfed.plugins.api import Array, Payload, PrivatePart
from synthfed.protocols.privacy.accountant import OVERFLOW_SHARE, epsilon
from synthfed.protocols.privacy.plan import Plan, charge
from synthfed.protocols.secagg import messages
from synthfed.protocols.secagg.policy import Policy
from synthfed.protocols.secagg.site import SiteMachine
from synthfed.protocols.study import Study
from synthfed.protocols.sums import Kind, Sum, noise_shares

REPETITIONS = 2000
AUDIT_DELTA = 1e-2
BOUND_ALARM = 1e-2
CLIP_NORM = 2.0
NOISE = 1.0
THRESHOLD = 1.75
NO_RECORD = UnitData(np.empty((0, 1)), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
CANARY = UnitData(np.full((1, 1), 1e6), np.zeros(1, dtype=np.int64), np.ones(1, dtype=np.int64))


class Loud(Plugin):
    """A record's value in one coordinate, so that a huge one has the largest contribution that clipping leaves."""

    def statistic(self, name: str, batch: Array, payload: Payload) -> Array:  # noqa: ARG002
        return np.concatenate([np.zeros_like(batch), batch], axis=1)


@pytest.fixture
def audited(study: Study) -> Policy:
    """Terms under which one release alone is worth attacking: noise 1, no sampling, as many rounds as one likes."""
    each = Sum("count", "statistic", 2, CLIP_NORM, 1.0, 3 * REPETITIONS, 1.0)
    return Policy(study, Plan((Kind(each, NOISE, 64, 32),), 1.0, 1.0, ((1, 1.0),)), b"code")


def silent(machine: SiteMachine, message: messages.Round) -> messages.Masked:
    """Return what the one tolerated bad site sends: masks without noise, so that its share is missing."""
    accepted = machine.accept(message)
    machine.commit(accepted)
    return machine.mask(accepted, np.zeros(2, dtype=np.int64))


def released(federation: Federation, victim: Agent) -> float:
    """Return the coordinate of the summed output that the canary moves, in units of the clip norm."""
    message = federation.aggregator.round(("a", "b", "c"), "count", b"")
    frame = messages.encode(message, 1)
    for site, agent in (("a", victim), ("b", federation.agents["b"])):
        masked = decoded(answered(agent, frame))
        assert isinstance(masked, messages.Masked)
        federation.aggregator.add_masked(site, masked)
    federation.aggregator.add_masked("c", silent(federation.agents["c"].machine, message))
    (kind,) = federation.policy.plan.kinds
    total = federation.aggregator.total() * kind.grid_step(noise_shares(federation.policy.study, 3))
    return float(total[1] / CLIP_NORM)


def lower_bound(present: npt.NDArray[np.bool_], absent: npt.NDArray[np.bool_]) -> float:
    """Return what guesses prove about epsilon, by Clopper and Pearson's bounds on both rates (99 % each)."""
    hits, alarms = int(present.sum()), int(absent.sum())
    hit_rate = stats.beta.ppf(BOUND_ALARM, hits, len(present) - hits + 1)
    alarm_rate = stats.beta.ppf(1 - BOUND_ALARM, alarms + 1, len(absent) - alarms)
    return math.log(max(float(hit_rate) - AUDIT_DELTA, 1e-9) / float(alarm_rate))


def test_an_attack_on_the_sum_proves_less_epsilon_than_is_claimed_for_one_release_and_a_fair_part_of_it(
    tmp_path: Path, audited: Policy, identities: Identities, tiny: PrivatePart
) -> None:
    """Two thousand releases with one unit of the largest contribution and two thousand without, at delta 1e-2.

    The coordinator and the tolerated bad site, which adds no noise, guess by a threshold fixed beforehand.
    A sound agent's bound is 1.34 with standard deviation 0.11, the claim 2.32, three tenths of it 0.70: each of
    the two ends is at least five standard deviations away (false alarm below 1e-6).
    """
    promise = Ceiling.model_construct(epsilon=1e9, delta=1e-5)  # far beyond what a site may allow
    with ExitStack() as stack:
        join = join_at(stack, tmp_path, audited, identities, tiny)
        federation: Federation = join(data=NO_RECORD, private=Loud(tiny), ceiling=promise)
        worlds = {world: replace(federation.a, data=data) for world, data in (("out", NO_RECORD), ("in", CANARY))}
        seen: dict[str, list[float]] = {"out": [], "in": []}
        for number in range(REPETITIONS):
            if number % 400 == 399:  # a site allows one session a thousand rounds
                federation.shake_hands(number.to_bytes(32, "little"))
            for world, victim in worlds.items():
                seen[world].append(released(federation, victim))
    out, present = np.array(seen["out"]), np.array(seen["in"])
    (kind,) = audited.plan.kinds
    claimed = epsilon([charge(kind, audited.study, 1)], AUDIT_DELTA / (1 - OVERFLOW_SHARE))
    proven = lower_bound(present > THRESHOLD, out > THRESHOLD)
    assert 0.3 * claimed < proven < claimed
    # The law itself: means 0 and 1, and noise of the promised size although one share of three is missing.
    for sample, mean in ((out, 0.0), (present, 1.0)):
        assert abs(sample.mean() - mean) < 5.5 * NOISE / math.sqrt(REPETITIONS)
        assert abs(sample.var() / NOISE**2 - 1) < 5.5 * math.sqrt(2 / REPETITIONS)
