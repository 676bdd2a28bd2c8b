"""The two files that a coordinator and a site exchange by hand before anything else: invitation and enrolment.

Never carries a private key.
"""

import base64
from typing import Annotated, Literal, Self, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, ValidationError

from .errors import ConfigError, RemoteProtocolError
from .ids import digest, fingerprint
from .schema import Strict
from .secagg.keys import sign, verify
from .study import Site, canonical_json, describe

_Model = TypeVar("_Model", bound=Strict)


class Invitation(Strict):
    """Where a coordinator listens and the certificate authority (PEM) under which it can be recognised."""

    format: Literal[1] = 1
    address: Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+:[0-9]{1,5}$")]
    ca: str

    @property
    def fingerprint(self) -> str:
        """What both sides compare by voice."""
        return fingerprint(self.ca.encode())


class Enrolment(Strict):
    """A site's public keys: who it is in a study's roster, and its Flower node, signed by the first."""

    format: Literal[1] = 1
    site: str
    controller: str = ""
    identity: str
    node: Annotated[str, Field(pattern=r"^ecdsa-sha2-nistp384 [A-Za-z0-9+/=]+$")]
    signature: str = ""

    @classmethod
    def signed(cls, site: str, controller: str, identity: Ed25519PrivateKey, node: str) -> Self:
        """Return the enrolment of a site under its identity key."""
        public = base64.b64encode(identity.public_key().public_bytes_raw()).decode()
        draft = cls(site=site, controller=controller, identity=public, node=node)
        return draft.model_copy(update={"signature": base64.b64encode(sign(identity, draft._signed)).decode()})

    def verify(self, *, where: str) -> None:
        """Check that the holder of the identity key wrote this file.

        Raises:
            ConfigError: the signature or the key is wrong.
        """
        try:
            entry = self.roster_entry
            verify(entry.public_key, self._signed, base64.b64decode(self.signature), peer=self.site)
        except (RemoteProtocolError, ValueError):
            raise ConfigError(
                "is damaged or not signed by its own key; ask the site for a new one", where=where
            ) from None

    @property
    def roster_entry(self) -> Site:
        """The site as a study's roster lists it."""
        return Site(id=self.site, key=self.identity, controller=self.controller)

    @property
    def fingerprint(self) -> str:
        """What both sides compare by voice: it covers both keys and the site's name."""
        return fingerprint(self._signed)

    @property
    def _signed(self) -> bytes:
        return digest("enrolment", canonical_json(self.model_dump(mode="json", exclude={"signature"})))


def parse(model: type[_Model], text: str, *, where: str) -> _Model:
    """Return an invitation or enrolment from its JSON text; ConfigError names file and field."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(describe(error), where=where) from None
