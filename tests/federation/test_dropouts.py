"""Sites that are lost at any stage, answers that come late, and what each retry is made of."""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats  # type: ignore[import-untyped]
from tests.federation.coordinator import Coordinator

from synthfed.protocols.errors import RemoteProtocolError
from synthfed.protocols.secagg import masks, messages, ring
from synthfed.protocols.secagg import site as site_module
from synthfed.protocols.sums import GRID, PROBE

Federate = Callable[..., Any]
DIM, DATA = 2000, 6  # a toy's sum holds data in its first coordinates, and only noise in the others
MODES = ("distributed", "local")


def is_probe(message: messages.Message) -> bool:
    return isinstance(message, messages.Round) and message.kind == PROBE


def is_round(message: messages.Message) -> bool:
    return isinstance(message, messages.Round) and message.kind != PROBE


STAGES: dict[str, Callable[[messages.Message], bool]] = {
    "Open": lambda message: isinstance(message, messages.Open),
    "Hello": lambda message: isinstance(message, messages.Hello),
    "Roll": lambda message: isinstance(message, messages.Roll),
    "Confirm": lambda message: isinstance(message, messages.Confirm),
    "Seal": lambda message: isinstance(message, messages.Seal),
    "Ready": lambda message: isinstance(message, messages.Ready),
    "the probe": is_probe,
    "its answer": lambda message: isinstance(message, messages.Masked) and not message.words,
    "a round": is_round,
    "its masked sum": lambda message: isinstance(message, messages.Masked) and bool(message.words),
}


@pytest.mark.parametrize("stage", STAGES)
def test_a_site_that_drops_out_at_any_stage_is_done_without_and_comes_back(federate: Federate, stage: str) -> None:
    federation = federate(rounds=4)
    federation.link.lose_first("s1", STAGES[stage])
    outcome = federation.train()
    assert outcome.reason == "every planned round is done"
    lost = stage in ("a round", "its masked sum")
    assert outcome.tally.attempts == {"mean": 4}
    assert outcome.tally.released == {"mean": 4 - lost}
    sizes = [answer.sites for answer in outcome.trainer.answers]
    assert sizes[0] == 3
    assert sizes[-1] == 4
    for site in federation.sites:
        charged = federation.charges(site).get("mean", 0)
        asked = outcome.tally.charged[site]["mean"]
        assert charged == asked - (stage == "a round" and site == "s1")
    for answer in outcome.trainer.answers:
        cohort = [site for site in federation.sites if site != "s1" or answer.sites == 4]
        plain = sum(federation.plain[site] for site in cohort)
        assert np.abs(answer.total - plain).max() < 7 * answer.noise_std


@pytest.mark.parametrize("mode", MODES)
def test_a_sum_that_comes_after_the_retry_completes_only_the_round_that_everyone_paid_for(
    federate: Federate, mode: str
) -> None:
    """What a hostile coordinator holds at the end are two sums, each charged, with independent noise."""
    federation = federate(dim=DIM, mode=mode)
    coordinator = Coordinator(federation)
    first = coordinator.round()
    early = coordinator.all(first)
    late = early.pop("s3")
    coordinator.aggregator.give_up()
    retry = coordinator.round(early)
    answers = {site: coordinator.send(site, retry) for site in early}
    with pytest.raises(RemoteProtocolError, match="answers another round"):
        coordinator.aggregator.add_masked("s3", late)
    for site, masked in answers.items():
        coordinator.aggregator.add_masked(site, masked)
    retried = coordinator.aggregator.total()[DATA:]
    with pytest.raises(RemoteProtocolError, match="answers another round"):
        coordinator.aggregator.add_masked("s3", late)
    both = [early[site] for site in early] + [late]
    total = np.zeros(DIM, dtype=np.uint32)
    for masked in both:
        ring.add_in_place(total, ring.from_bytes(masked.words, DIM, 32, peer="site"))
    completed = ring.centred(total)[DATA:]
    assert [federation.charges(f"s{number}") for number in range(4)] == [{"mean": 2}] * 3 + [{"mean": 1}]
    # All noise is fresh: variances and the variance of the difference are those of independent shares.
    assert has_variance(completed, 4 * GRID**2)
    assert has_variance(retried, 3 * GRID**2)
    assert has_variance(completed - retried, 7 * GRID**2)


def has_variance(draws: npt.NDArray[np.int64], expected: float) -> bool:
    """Return whether centred normal draws have this variance; a false no once in a million."""
    statistic = float((draws.astype(np.float64) ** 2).sum()) / expected
    return bool(stats.chi2.ppf(5e-7, len(draws)) < statistic < stats.chi2.ppf(1 - 5e-7, len(draws)))


@pytest.mark.parametrize("mode", MODES)
def test_no_sum_is_masked_twice_over_repetitions_retries_sessions_and_restarts(
    federate: Federate, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """The same weights are asked for again in every way there is, and what is masked is looked at before the masks.

    Two of a site's sums differ by two independent draws of noise: 6 pairs, false alarm 6e-6 per mode.
    """
    federation = federate(dim=DIM, mode=mode)
    masked: list[npt.NDArray[np.int64]] = []

    def watched(words: ring.Words, keys: Sequence[tuple[bytes, bool]], *cipher: Any) -> None:
        if len(words) == DIM:
            assert len(keys) in (2, 3)
            masked.append(ring.centred(words.copy()))
        masks.apply_masks(words, keys, *cipher)

    monkeypatch.setattr(site_module, "apply_masks", watched)
    coordinator = Coordinator(federation)
    message = coordinator.round()
    assert coordinator.send("s0", message) == coordinator.send("s0", message)  # a repetition computes nothing
    assert len(masked) == 1
    coordinator.aggregator.give_up()
    assert isinstance(coordinator.send("s0", coordinator.round(("s0", "s1", "s2"))), messages.Masked)  # a retry
    coordinator = Coordinator(federation)  # a new session, whose counters begin again
    assert isinstance(coordinator.send("s0", coordinator.round()), messages.Masked)
    federation.restart("s0")
    coordinator = Coordinator(federation)
    assert isinstance(coordinator.send("s0", coordinator.round()), messages.Masked)
    assert len(masked) == 4
    assert federation.charges("s0") == {"mean": 4}
    for one, other in combinations(masked, 2):
        assert has_variance(one[DATA:] - other[DATA:], 2 * GRID**2)
