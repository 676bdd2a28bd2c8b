"""What a site pins before a session: the study, its plan and the plugin's code.

Never takes anything from the coordinator: every field was agreed out of band.
"""

from dataclasses import dataclass
from typing import Final

from ..ids import digest
from ..privacy.plan import Plan
from ..study import Study, canonical_json

SUITE: Final = "ed25519+x25519+mlkem768+hkdf-sha256+aes256ctr/1"


@dataclass(frozen=True, slots=True)
class Policy:
    """The pinned policy; its hash enters every signature and every key.

    Attributes:
        study: the signed terms, with the roster and its keys.
        plan: every kind of sum with its noise, slots, ring and cap.
        code: hash of the model plugin's code.
    """

    study: Study
    plan: Plan
    code: bytes

    @property
    def hash(self) -> bytes:
        """The digest of everything pinned, 32 bytes."""
        kinds = canonical_json([kind.declaration() for kind in self.plan.kinds])
        return digest("policy", self.study.canonical, kinds, self.code, SUITE.encode())
