"""What a plan must not fall below or exceed: the study's own limits, and a message's.

Never changes a plan to fit: it is refused with what could be changed in the terms.
"""

from collections.abc import Sequence
from typing import Final

from ..errors import ConfigError, UnsupportedMechanism
from ..study import Study
from ..sums import Kind, Sum, own_noise
from ..wire import MAX_BODY_BYTES

_ENVELOPE_BYTES: Final = 2**14  # cohort, context, canary, signature
MOST_NUMBERS: Final = 2**24
"""Coins that a site draws for one step: 128 MiB of them, within a fixed answer time."""


def check_steps(study: Study, sums: Sequence[Sum]) -> None:
    """Refuse several steps in a round where a site's own noise does not hide its units in each of them.

    Between two steps a site moves by its own noised sum, so that the later one depends on it. In `distributed` that
    sum holds a share of the noise only, and the others' shares never reach it.

    Raises:
        ConfigError: naming the mode and the sum.
    """
    several = next((each for each in sums if each.steps > 1), None)
    if several is not None and study.privacy.mode != "local":
        raise ConfigError(
            f"{study.privacy.mode!r} allows one step in a round, and sum {several.name!r} asks for {several.steps}: "
            "a site's later steps depend on its earlier ones, which other sites' noise does not protect there; use "
            '"local", in which every step has the site\'s whole noise, or one step',
            where="privacy.mode",
        )


def check_frames(kinds: Sequence[Kind]) -> None:
    """Refuse a sum whose messages would be longer than a frame: every round of it would be charged and lost.

    Raises:
        UnsupportedMechanism: naming the sum.
    """
    for kind in kinds:
        if max(kind.answer_bytes, kind.payload_bytes) + _ENVELOPE_BYTES > MAX_BODY_BYTES:
            raise UnsupportedMechanism(
                f"sum {kind.sum.name!r}: {kind.sum.dim} values of {kind.ring_bits} bits do not fit into one message "
                f"of {MAX_BODY_BYTES} bytes; use a smaller model"
            )


def check_coins(kinds: Sequence[Kind]) -> None:
    """Refuse a sum for which a site would have to draw more uniform numbers in a step than it has room for.

    Raises:
        UnsupportedMechanism: naming the sum.
    """
    for kind in kinds:
        if kind.slots * kind.sum.coins > MOST_NUMBERS:
            raise UnsupportedMechanism(
                f"sum {kind.sum.name!r}: {kind.sum.coins} coins for each of {kind.slots} slots are more than the "
                f"{MOST_NUMBERS} numbers a site draws in a step; use fewer coins, a lower privacy.sample_rate or a "
                "lower privacy.units_per_site"
            )


def check_ceiling(study: Study, failing: float) -> None:
    """Refuse a plan whose epsilon, if secure aggregation fails, is above the study's ceiling.

    Raises:
        ConfigError: telling both.
    """
    ceiling = study.cohort.epsilon_if_secagg_fails_at_most
    if ceiling is not None and failing > ceiling:
        # In `local` nothing hangs on secure aggregation, so the promise itself is above the ceiling.
        advice = "" if study.privacy.mode == "local" else 'privacy.mode = "local" or '
        raise ConfigError(
            f"epsilon would be {failing:.3g} if secure aggregation failed, above "
            f"cohort.epsilon_if_secagg_fails_at_most = {ceiling}; use {advice}a smaller privacy.epsilon"
        )


def check_floor(study: Study, kinds: Sequence[Kind]) -> None:
    """Refuse a plan in which one site alone would add less noise to some sum than the study's floor.

    Raises:
        ConfigError: naming the sum with the least noise.
    """
    floor, least = study.privacy.sigma_floor, min(kinds, key=lambda kind: own_noise(study, kind))
    if floor is not None and own_noise(study, least) < floor:
        advice = "" if study.privacy.mode == "local" else 'privacy.mode = "local", a larger cohort.tolerated, '
        raise ConfigError(
            f"sum {least.sum.name!r}: one site alone would add noise of {own_noise(study, least):.4g} clip norms when "
            f"all {len(study.cohort.sites)} sites take part, below privacy.sigma_floor = {floor}; use {advice}"
            "a smaller privacy.epsilon or a lower floor"
        )
