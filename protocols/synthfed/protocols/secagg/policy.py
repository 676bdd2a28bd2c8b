"""What a site pins before a session: the study, its plan and the plugin's code.

Never takes anything from the coordinator: every field was agreed out of band.
"""

from dataclasses import dataclass

from ..ids import digest
from ..privacy.plan import Plan
from ..study import Study, canonical_json
from .suites import SUITES, Suite


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
    def is_masked(self) -> bool:
        """Whether sites mask their vectors; only in ``local``, by the study's choice, they do not."""
        return self.study.aggregation.combine == "sum"

    @property
    def suite(self) -> Suite:
        """What two sites agree on a key by."""
        return SUITES[self.study.aggregation.key_agreement]

    @property
    def hash(self) -> bytes:
        """The digest of everything pinned, 32 bytes."""
        kinds = canonical_json([kind.declaration() for kind in self.plan.kinds])
        return digest("policy", self.study.canonical, kinds, self.code, self.suite.name.encode())
