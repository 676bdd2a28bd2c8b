"""The two files that a coordinator and a site exchange by hand before anything else: invitation and enrolment.

Never carries a private key.
"""

import base64
import re
from typing import Annotated, Final, Literal, Self, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import AfterValidator, ValidationError

from .cohort import Site
from .errors import ConfigError, RemoteProtocolError, describe
from .ids import digest, fingerprint
from .schema import Strict
from .secagg.keys import sign, verify
from .study import canonical_json

_ADDRESS: Final = re.compile(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*:([0-9]{1,5})")
_NODE: Final = re.compile(r"ecdsa-sha2-nistp384 [A-Za-z0-9+/=]+")


def _check_address(value: str) -> str:
    found = _ADDRESS.fullmatch(value)
    if found is None or not 1 <= int(found[1]) <= 65535:
        raise ValueError("must be HOST:PORT, a DNS name or IPv4 address and a port from 1 to 65535")
    return value


def _check_node(value: str) -> str:
    if not _NODE.fullmatch(value):
        raise ValueError("must be a Flower node's public key: ecdsa-sha2-nistp384 and base64")
    return value


Address = Annotated[str, AfterValidator(_check_address)]
"""Where a coordinator listens, ``host:port``."""


class Invitation(Strict):
    """Where a coordinator listens and the certificate authority (PEM) under which it can be recognised."""

    format: Literal[1] = 1
    address: Address
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
    node: Annotated[str, AfterValidator(_check_node)]
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


_File = TypeVar("_File", Invitation, Enrolment)


def parse(model: type[_File], text: str, *, where: str) -> _File:
    """Return an invitation or enrolment from its JSON text.

    Raises:
        ConfigError: naming the file, what it should be, the field and what is wrong with it.
    """
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        what, whose = ("invitation", "coordinator's") if model is Invitation else ("enrolment", "site's")
        problem = describe(error).partition("; ")[0]  # such a file is not mended by hand
        raise ConfigError(f"is not an {what}: {problem}; give the {whose} {what}.json", where=where) from None
