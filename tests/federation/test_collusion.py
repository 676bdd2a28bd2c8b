"""A coordinator and the tolerated bad site put together all they have, against real agents."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats  # type: ignore[import-untyped]
from tests.federation.coordinator import Coordinator

from synthfed.protocols.secagg import messages, ring
from synthfed.protocols.secagg.keys import Ratchet
from synthfed.protocols.secagg.masks import apply_masks
from synthfed.protocols.sums import noise_shares

Federate = Callable[..., Any]
DIM = 2000
BAD = "s3"


def keys_of_the_bad_site(federation: Any) -> dict[str, Ratchet]:
    """Return copies of the keys that it shares with the others, as it may keep them against the protocol."""
    ratchets: dict[str, Ratchet] = copy.deepcopy(federation.sites[BAD]._agent.machine._session.ratchets)
    return ratchets


def freed_sum(
    coordinator: Coordinator, message: messages.Round, answers: dict[str, messages.Masked], shared: dict[str, Ratchet]
) -> npt.NDArray[np.int64]:
    """Return the honest sites' words, less every mask that the bad site knows, added up."""
    total = np.zeros(DIM, dtype=np.uint32)
    context = message.context(coordinator.aggregator._transcript)
    for site, masked in answers.items():
        if site == BAD:
            continue
        shared[site].advance(message.counter)
        words = ring.from_bytes(masked.words, DIM, 32, peer=site).copy()
        apply_masks(words, [(shared[site].derive("mask", context), site > BAD)])  # what the site added is taken off
        ring.add_in_place(total, words)
    return ring.centred(total)


@pytest.mark.parametrize("mode", ["distributed", "local"])
def test_what_a_coordinator_and_a_tolerated_site_can_take_off_leaves_the_honest_sum_and_the_promised_noise(
    federate: Federate, mode: str
) -> None:
    """Three rounds of each of two cohorts, 12,000 draws; false alarm 2e-6 per mode."""
    federation = federate(dim=DIM, mode=mode)
    kind = federation.pinned.policy.plan.kinds[0]
    promised = kind.noise_multiplier * kind.sum.clip_norm
    coordinator = Coordinator(federation)
    shared = keys_of_the_bad_site(federation)
    for cohort in [("s0", "s1", "s2", BAD), ("s0", "s1", BAD)]:
        step = kind.grid_step(noise_shares(federation.study, len(cohort)))
        plain = sum(federation.plain[site] for site in cohort if site != BAD)
        left = []
        for _ in range(3):
            message = coordinator.round(cohort)
            answers = {site: coordinator.send(site, message) for site in cohort}
            found = freed_sum(coordinator, message, answers, shared) * step
            found[: len(plain)] -= plain
            left.append(found)
            coordinator.aggregator.give_up()
        noise = np.concatenate(left)
        shares = len(cohort) - 1 if mode == "local" else 1  # in units of the promised variance
        statistic = float((noise**2).sum()) / (promised**2 * shares)
        assert stats.chi2.ppf(5e-7, len(noise)) < statistic < stats.chi2.ppf(1 - 5e-7, len(noise))
        assert float((noise**2).mean()) >= promised**2 * stats.chi2.ppf(5e-7, len(noise)) / len(noise)


def test_without_the_bad_sites_keys_or_without_one_honest_site_nothing_is_left_but_masks(federate: Federate) -> None:
    """Chi-squared of the top 4 bits in 16 cells, 4 sums; above 60 once in 4 million."""
    federation = federate(dim=DIM)
    coordinator = Coordinator(federation)
    shared = keys_of_the_bad_site(federation)
    message = coordinator.round()
    answers = coordinator.all(message)
    for missing in ("s0", "s1", "s2"):
        part = {site: masked for site, masked in answers.items() if site != missing}
        assert is_uniform(freed_sum(coordinator, message, part, copy.deepcopy(shared)))
    strangers = {site: Ratchet(bytes(32)) for site in shared}
    assert is_uniform(freed_sum(coordinator, message, answers, strangers))
    assert not is_uniform(freed_sum(coordinator, message, answers, shared))


def is_uniform(total: npt.NDArray[np.int64]) -> bool:
    counts = np.bincount((total >> 28) & 15, minlength=16)
    expected = len(total) / 16
    return bool(np.sum((counts - expected) ** 2 / expected) < 60)
