"""What a coordinator proposes: a study's canonical terms under its signature.

Never counts as anybody's consent: it says who asks, and a site's people decide.
"""

from typing import ClassVar, Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from .errors import ConfigError, describe
from .ids import fingerprint
from .signed import PublicKey, SignedFile, decoded, public_text
from .study import Study, parse_study


class Proposal(SignedFile):
    """A study's canonical terms, as text, under the key of the coordinator who proposes them."""

    NAME: ClassVar[str] = "a signed proposal"
    DOMAIN: ClassVar[str] = "proposal"

    format: Literal[1] = 1
    terms: str
    coordinator: PublicKey

    @classmethod
    def of(cls, key: Ed25519PrivateKey, study: Study) -> Self:
        """Return the proposal of a study under a coordinator's key."""
        return cls.under(key, terms=study.canonical.decode("ascii"), coordinator=public_text(key))

    @property
    def signer(self) -> str:
        """The coordinator's key."""
        return self.coordinator

    @property
    def fingerprint(self) -> str:
        """The coordinator's key, for two people to compare by voice."""
        return fingerprint(decoded(self.coordinator))

    def study(self, *, where: str) -> Study:
        """Return the proposed study.

        Raises:
            ConfigError: what is wrong with the terms, or they are not in canonical form.
        """
        try:
            found = Study.model_validate_json(self.terms)
        except ValidationError as error:
            raise ConfigError(describe(error), where=where) from None
        if found.canonical != self.terms.encode():
            raise ConfigError("its terms are not in canonical form; ask the coordinator for a new one", where=where)
        return found


def parse_terms(content: bytes, *, where: str) -> tuple[Study, Proposal | None]:
    """Return the study that a file states: a study file, or a proposal, which is returned beside it.

    Raises:
        ConfigError: it is neither.
    """
    if content.lstrip()[:1] == b"{":  # no TOML begins like this
        proposal = Proposal.parse(content, where=where)
        return proposal.study(where=where), proposal
    try:
        return parse_study(content.decode("utf-8"), where=where), None
    except UnicodeDecodeError:
        raise ConfigError("is not UTF-8 text; save it as UTF-8", where=where) from None
