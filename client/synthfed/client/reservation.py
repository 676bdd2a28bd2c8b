"""What a study may still spend at a site: kept for it from its approval until it has spent it or is over.

Never adds up epsilons: costs are put together, and the accountant composes them.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from synthfed.protocols.privacy.accountant import SampledGaussian
from synthfed.protocols.privacy.plan import charge
from synthfed.protocols.secagg.policy import Policy

Costs = Counter[tuple[float, float]]
"""How many steps there are of each sample rate and noise multiplier."""


@dataclass(frozen=True, slots=True)
class Share:
    """A sum's part of a reservation.

    Attributes:
        kind: the sum's name.
        event: what one round of it costs; its count is that of the round's local steps.
        rounds: the most that the plan allows.
    """

    kind: str
    event: SampledGaussian
    rounds: int


@dataclass(frozen=True, slots=True)
class Reservation:
    """The caps of a study's plan: whatever a coordinator asks for, and in whatever order, it can cost no more.

    Attributes:
        study: hash of its terms.
        study_name: for people.
        shares: one for each of its sums.
    """

    study: bytes
    study_name: str
    shares: tuple[Share, ...]

    @classmethod
    def of(cls, policy: Policy) -> "Reservation":
        """Return that of what is pinned."""
        study = policy.study
        shares = (Share(kind.sum.name, charge(kind, study, 1), kind.sum.rounds) for kind in policy.plan.kinds)
        return cls(study.hash, study.name, tuple(shares))

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> "Reservation":
        """Return that of an entry's content."""
        shares = (
            Share(
                each["sum"],
                SampledGaussian(each["sample_rate"], each["noise_multiplier"], each["steps"]),
                each["rounds"],
            )
            for each in content["sums"]
        )
        return cls(bytes.fromhex(content["study"]), content["study_name"], tuple(shares))

    @property
    def content(self) -> dict[str, Any]:
        """What an entry of it says."""
        sums = [
            {
                "sum": each.kind,
                "sample_rate": each.event.sample_rate,
                "noise_multiplier": each.event.noise_multiplier,
                "steps": each.event.count,
                "rounds": each.rounds,
            }
            for each in self.shares
        ]
        return {"study": self.study.hex(), "study_name": self.study_name, "sums": sums}

    def rounds_left(self, charged: Mapping[tuple[bytes, str], int]) -> dict[str, int]:
        """Return how many rounds of each sum were not charged yet.

        Args:
            charged: rounds, by the study's hash and the sum's name.
        """
        return {each.kind: max(0, each.rounds - charged.get((self.study, each.kind), 0)) for each in self.shares}

    def left(self, charged: Mapping[tuple[bytes, str], int]) -> Costs:
        """Return what was not charged yet; see `rounds_left`."""
        rounds, costs = self.rounds_left(charged), Costs()
        for each in self.shares:
            if rounds[each.kind]:
                event = each.event
                costs[event.sample_rate, event.noise_multiplier] += rounds[each.kind] * event.count
        return costs
