"""The private sum: the one form in which real records are ever touched.

Never holds a record or a contribution: these are declarations only.
"""

import math
import re
from dataclasses import dataclass
from typing import Any, Final, Literal

from .errors import UnsupportedMechanism
from .study import Study

Family = Literal["statistic", "gradient"]

NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,30}[a-z0-9])?")
SCALE_BITS: Final = 18
GRID: Final = 2**SCALE_BITS
"""Standard deviation of one site's discrete Gaussian in integer grid steps; a power of two."""
TILE: Final = 64
"""Slots come in whole tiles, ..."""
SLOTS_AT_ONCE: Final = 512
"""... and, where there are more than this many, in whole batches of it: every batch has one shape."""
MAX_DIM: Final = 10**8
MAX_COINS: Final = 2**16
MAX_STEPS: Final = 2**10
"""Local steps of one round; so many sums of 2**52 still fit into 64 bits."""
PROBE: Final = "probe"
"""Reserved: the kind of a round without data, which masks canary words only and is not charged."""


@dataclass(frozen=True, slots=True)
class Sum:
    """One kind of private sum that a model asks for.

    Attributes:
        name: unique in the model; lower-case letters, digits and inner hyphens.
        family: ``statistic`` (a vector per unit) or ``gradient`` (of a module's loss per unit).
        dim: length of the vector, for a gradient the number of the module's parameters.
        clip_norm: L2 bound of one unit's contribution, enforced by the core.
        sample_rate: probability with which a unit takes part in a round, in (0, 1].
        rounds: how many rounds may be asked for; a failed round counts, so this is also the cap.
        share: relative share of the privacy budget (of the squared mu of Gaussian privacy), above
            0; the core normalises.
        payload: name and shape of each float32 array of a round's payload, in order.
        coins: how many uniform numbers the core draws for each unit in each round, for a loss that
            needs chance (a latent draw, dropout); secret, and independent between units. None for a
            statistic, which is not given any.
        steps: of one round, taken one after another at each site, each with fresh coins and the site's whole noise;
            what leaves is the sum of them. More than 1 is for gradients in ``local`` mode only.
    """

    name: str
    family: Family
    dim: int
    clip_norm: float
    sample_rate: float
    rounds: int
    share: float
    payload: tuple[tuple[str, tuple[int, ...]], ...] = ()
    coins: int = 0
    steps: int = 1

    def __post_init__(self) -> None:
        """Refuse a declaration that the core could not bound."""
        if not NAME.fullmatch(self.name):
            raise UnsupportedMechanism(f"sum {self.name!r}: use lower-case letters, digits and inner hyphens")
        if self.name == PROBE:
            raise UnsupportedMechanism(f"sum {self.name!r}: the name is reserved; choose another")
        if self.family not in ("statistic", "gradient"):
            raise UnsupportedMechanism(f"sum {self.name!r}: family {self.family!r} is not known")
        if self.family == "statistic" and self.coins > 0:
            raise UnsupportedMechanism(f"sum {self.name!r}: a statistic has no coins; declare 0, or use a gradient")
        if self.family == "statistic" and self.steps != 1:
            raise UnsupportedMechanism(f"sum {self.name!r}: a statistic has one step in a round; declare more rounds")
        counts = (self.dim, self.rounds, self.coins, self.steps)
        counted = all(
            type(each) is int for each in counts
        )  # a part of a step or round would be planned, and not charged
        counted = counted and 1 <= self.dim <= MAX_DIM and self.rounds >= 1 and 0 <= self.coins <= MAX_COINS
        counted = counted and 1 <= self.steps <= MAX_STEPS
        positive = 0 < self.clip_norm < float("inf") and 0 < self.share < float("inf")
        if not (counted and positive and 0 < self.sample_rate <= 1):
            raise UnsupportedMechanism(
                f"sum {self.name!r}: dim, clip_norm, sample_rate, rounds, share, coins or steps is out of range or no "
                "whole number where it counts"
            )


@dataclass(frozen=True, slots=True)
class Kind:
    """A sum whose noise and message format are fixed: what the sites pin and the ledger counts.

    Attributes:
        sum: the declaration.
        noise_multiplier: noise std of one step's released sum towards the coordinator and the tolerated
            bad sites together, in units of ``clip_norm``.
        slots: fixed number of slots that a site computes per step, whatever its sample is.
        ring_bits: 32 or 64, the width of a masked word.
    """

    sum: Sum
    noise_multiplier: float
    slots: int
    ring_bits: int

    @property
    def answer_bytes(self) -> int:
        """Length of the masked words that a site sends in a round."""
        return self.sum.dim * self.ring_bits // 8

    @property
    def payload_bytes(self) -> int:
        """Length of what a round brings to a site: float32 arrays."""
        return 4 * sum(math.prod(shape) for _, shape in self.sum.payload)

    def grid_step(self, honest: int) -> float:
        """Return the value of one integer step, so that one site's noise share has std ``GRID`` steps."""
        return self.noise_multiplier * self.sum.clip_norm / (math.sqrt(honest) * GRID)

    def declaration(self) -> dict[str, Any]:
        """Return the fields that enter the policy hash, as plain values; one step in a round is left unsaid."""
        fields = {
            "name": self.sum.name,
            "family": self.sum.family,
            "dim": self.sum.dim,
            "clip_norm": self.sum.clip_norm,
            "sample_rate": self.sum.sample_rate,
            "rounds": self.sum.rounds,
            "payload": [[name, list(shape)] for name, shape in self.sum.payload],
            "coins": self.sum.coins,
            "noise_multiplier": self.noise_multiplier,
            "slots": self.slots,
            "ring_bits": self.ring_bits,
            "grid": GRID,
        }
        return fields if self.sum.steps == 1 else fields | {"steps": self.sum.steps}


def noise_shares(study: Study, present: int) -> int:
    """Return how many sites' shares make up the promised noise when ``present`` sites take part.

    In ``distributed`` the tolerated bad sites may subtract their own share, so only the rest
    counts; in ``local`` every site adds the whole noise.
    """
    return present - study.cohort.tolerated if study.privacy.mode == "distributed" else 1


def own_noise(study: Study, kind: Kind) -> float:
    """Return the standard deviation of one site's own noise where it is least, in units of the clip norm.

    A site's share shrinks as the cohort grows, so this is its share when all sites take part: what
    hides the site's own units if every other site works with the coordinator. In ``local`` it is the
    whole noise. Where a round has several steps, each has this noise.
    """
    return kind.noise_multiplier / math.sqrt(noise_shares(study, len(study.cohort.sites)))


def answer_time_s(study: Study, family: Family) -> float:
    """Return the declared seconds from a round's charge to its answer, the same whatever the data are."""
    return study.privacy.statistic_time_s if family == "statistic" else study.privacy.answer_time_s
