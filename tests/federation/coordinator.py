"""A coordinator in the tests' own hands, for what the product's would never do."""

import secrets
from collections.abc import Collection
from typing import Any

import numpy as np

from synthfed.protocols.secagg import messages, ring
from synthfed.protocols.secagg.aggregator import Aggregator, _Taken

SCALE = np.ones(1, dtype="<f4").tobytes()
OTHER_SCALE = np.full(1, 0.5, dtype="<f4").tobytes()


class Coordinator:
    """A coordinator that shakes hands properly and then sends each site whatever it likes."""

    def __init__(self, federation: Any, until: str = "ACTIVE") -> None:
        """Open a session with every site, or stop when they have come to an earlier state."""
        self.federation = federation
        self.aggregator = Aggregator(federation.pinned.policy, secrets.token_bytes(32))
        if until == "IDLE":
            return
        for site, hello in self.all(self.aggregator.open()).items():
            self.aggregator.add_hello(site, hello)
        if until == "HELLO":
            return
        for site, confirm in self.all(self.aggregator.roll()).items():
            self.aggregator.add_confirm(site, confirm)
        if until != "KEYED":
            assert set(self.all(self.aggregator.seal()).values()) == {messages.Ready()}

    def all(self, message: messages.Message) -> dict[str, Any]:
        """Return every site's answer to one message."""
        return {site: self.send(site, message) for site in self.federation.sites}

    def send(self, site: str, message: messages.Message) -> Any:
        """Return one site's answer to a message."""
        answer, _ = messages.decode(self.federation.answers[site](messages.encode(message, 1)))
        return answer

    def round(self, cohort: Collection[str] = ()) -> messages.Round:
        """Return the next round of the toy's sum, with every site where no cohort is given."""
        return self.aggregator.round(tuple(sorted(cohort or self.federation.sites)), "mean", SCALE)

    def add_up_regardless(self, answers: dict[str, messages.Masked]) -> Any:
        """Return the total over the answers with no check but that of the sum itself."""
        for site, masked in answers.items():
            ring.add_in_place(
                self.aggregator._sum, ring.from_bytes(masked.words, self.aggregator._sum.size, 32, peer=site)
            )
            self.aggregator._taken[site] = _Taken(b"", masked.canary)
        return self.aggregator.total()
