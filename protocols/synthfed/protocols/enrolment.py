"""The two files that a coordinator and a site exchange by hand before anything else: invitation and enrolment.

Never carries a private key.
"""

import base64
import re
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, Self, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from .cohort import Site
from .errors import ConfigError, RemoteProtocolError, describe
from .ids import digest, fingerprint
from .rotation import MOST, Rotation, verify_row
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
    """A site's public keys: who it is in a study's roster, and its Flower node, signed by the first.

    Format 2 has the rotations by which its identity key came to follow earlier ones; format 1 has none.
    """

    format: Literal[1, 2] = 1
    site: str
    controller: str = ""
    identity: str
    node: Annotated[str, AfterValidator(_check_node)]
    rotations: Annotated[tuple[Rotation, ...], Field(max_length=MOST, strict=False)] = ()
    signature: str = ""

    @model_validator(mode="after")
    def _rotations_are_of_format_2(self) -> Self:
        if (self.format == 2) != bool(self.rotations):
            raise ValueError("rotations stand in format 2, and only there")
        return self

    @model_serializer(mode="wrap")
    def _as_the_format_has_it(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = write(self)
        if self.format == 1:  # as it was before there were others: the signature covers these very bytes
            fields.pop("rotations", None)
        return fields

    @classmethod
    def signed(
        cls, site: str, controller: str, identity: Ed25519PrivateKey, node: str, rotations: Sequence[Rotation] = ()
    ) -> Self:
        """Return the enrolment of a site under its identity key, with the last of the rotations that led to it."""
        public = base64.b64encode(identity.public_key().public_bytes_raw()).decode()
        row = tuple(rotations[-MOST:])
        draft = cls(format=2 if row else 1, site=site, controller=controller, identity=public, node=node, rotations=row)
        return draft.model_copy(update={"signature": base64.b64encode(sign(identity, draft._signed)).decode()})

    def verify(self, *, where: str) -> None:
        """Check that the holder of the identity key wrote this file, and that its rotations lead to that key.

        Raises:
            ConfigError: a signature, the key or a rotation is wrong.
        """
        try:
            entry = self.roster_entry
            verify(entry.public_key, self._signed, base64.b64decode(self.signature), peer=self.site)
        except (RemoteProtocolError, ValueError):
            raise ConfigError(
                "is damaged or not signed by its own key; ask the site for a new one", where=where
            ) from None
        verify_row(self.rotations, self.site, self.identity, where=where)

    def follows(self, key: str) -> bool:
        """Return whether the rotations of a file that was verified lead from an earlier key, in base64, to its own."""
        return any(each.old == key for each in self.rotations)

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
