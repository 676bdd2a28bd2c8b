"""What a site's stewards decide over a study: signed decisions, and when they suffice.

Never reads a file or a clock, and never counts one key as two people.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import AfterValidator, Field, model_validator

from .ids import SITE_ID
from .schema import Name, Strict
from .signed import Hash, PublicKey, SignedFile, public_text
from .study import Line

LATEST_UNIX_S: Final = 2**40
"""The latest time of a decision."""
NEVER: Final = -1
"""Stands for the time of a block where there is none."""

Act = Literal["approve", "reject", "withdraw"]


def _check_site(value: str) -> str:
    if not SITE_ID.fullmatch(value):
        raise ValueError("must be 1-32 lower-case letters, digits and inner hyphens")
    return value


class PluginPin(Strict):
    """A plugin's code as one machine has it: where it comes from, and the hash over all of its package's files."""

    kind: Literal["model", "domain"]
    name: Name
    distribution: str
    version: str
    hash: Hash


@dataclass(frozen=True, slots=True)
class Subject:
    """What a decision is about, as one site's agent has it pinned.

    Attributes:
        site: the site's id: a decision holds at one site only.
        study: hash of the study's terms, in hexadecimal.
        policy: hash of all that is pinned: terms, every sum with its noise and cap, the plugins' code.
        plugins: of the model and of the domain, which the policy's hash covers; beside it to tell what changed.
    """

    site: str
    study: str
    policy: str
    plugins: tuple[PluginPin, ...]


class Decision(SignedFile):
    """What one steward decided over one study at one site, and when, signed.

    An approval is of a policy and its plugins. What ends one needs no more than the study's hash, so that it can be
    said when a plugin is gone, and holds whatever is pinned.
    """

    NAME: ClassVar[str] = "a steward's decision"
    DOMAIN: ClassVar[str] = "decision"

    format: Literal[1] = 1
    decision: Act
    site: Annotated[str, AfterValidator(_check_site)]
    study: Hash
    policy: Hash | None = None
    plugins: Annotated[tuple[PluginPin, ...], Field(max_length=8, strict=False)] = ()
    steward: PublicKey
    at_unix_s: Annotated[int, Field(ge=0, le=LATEST_UNIX_S)]
    reason: Line | None = None

    @model_validator(mode="after")
    def _approvals_say_of_what(self) -> Self:
        if (self.decision == "approve") != (self.policy is not None and bool(self.plugins)):
            raise ValueError("an approval names policy and plugins, and nothing else does")
        return self

    @classmethod
    def of(cls, key: Ed25519PrivateKey, act: Act, subject: Subject, at_unix_s: int, reason: str | None = None) -> Self:
        """Return a decision under a steward's key."""
        pins: dict[str, Any] = {"policy": subject.policy, "plugins": subject.plugins} if act == "approve" else {}
        where = {"site": subject.site, "study": subject.study}
        return cls.under(
            key, decision=act, **where, **pins, steward=public_text(key), at_unix_s=at_unix_s, reason=reason
        )

    @property
    def signer(self) -> str:
        """The steward's key."""
        return self.steward

    def covers(self, subject: Subject) -> bool:
        """Return whether it is about exactly what is pinned."""
        return Subject(self.site, self.study, self.policy or "", self.plugins) == subject


@dataclass(frozen=True, slots=True)
class Standing:
    """What all decisions of a site over what it has pinned amount to.

    Attributes:
        approvals: keys of the stewards whose approval stands.
        needed: how many it takes.
        block: the last rejection or withdrawal, None where there is none among the decisions.
        blocked_unix_s: its time, or that of one which is remembered elsewhere; `NEVER` without one.
        outdated: approvals of these terms that no block ended, but that were of other code or another plan.
    """

    approvals: frozenset[str]
    needed: int
    block: Decision | None
    blocked_unix_s: int
    outdated: tuple[Decision, ...]

    @property
    def is_approved(self) -> bool:
        """Whether the site may serve."""
        return len(self.approvals) >= self.needed


def standing(
    decisions: Iterable[Decision],
    subject: Subject,
    stewards: Collection[str],
    needed: int,
    blocked_unix_s: int = NEVER,
) -> Standing:
    """Return what decisions amount to, in whatever order they come.

    An approval counts if one of the stewards signed it, it is of exactly what is pinned, and it is later than every
    block. A block counts whoever signed it: to stop is never too easy.

    Args:
        decisions: whose signatures hold; those over other studies or of other sites do not matter.
        subject: what is pinned.
        stewards: public keys of who may approve.
        needed: how many of them must.
        blocked_unix_s: time of the latest block that is remembered elsewhere.
    """
    own = [each for each in decisions if (each.site, each.study) == (subject.site, subject.study)]
    blocks = [each for each in own if each.decision != "approve"]
    last = max(blocks, key=lambda each: (each.at_unix_s, each.signature), default=None)
    since = max(blocked_unix_s, NEVER if last is None else last.at_unix_s)
    later = [each for each in own if each.decision == "approve" and each.steward in stewards and each.at_unix_s > since]
    outdated = sorted((each for each in later if not each.covers(subject)), key=lambda each: each.signature)
    approvals = frozenset(each.steward for each in later if each.covers(subject))
    return Standing(approvals, needed, last, since, tuple(outdated))
