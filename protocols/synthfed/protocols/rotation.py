"""One identity key of a site follows another: a statement that both have signed.

Never lets a key follow that only one of the two has signed, nor at another site.
"""

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, model_validator

from .errors import ConfigError, RemoteProtocolError
from .ids import digest
from .schema import Strict
from .secagg.keys import sign, verify
from .signed import PublicKey, decoded, public_text
from .study import canonical_json

MOST: Final = 32
"""The longest row of rotations that a file carries."""

_LATEST_UNIX_S: Final = 2**40


class Rotation(Strict):
    """That a site goes on under a new key.

    Attributes:
        format: of the statement.
        site: its name.
        old: the public key until then.
        new: the public key from then on.
        at_unix_s: when, by the site's clock; nothing is decided by it.
        by_old: the old key's signature: its holder agrees to the new key.
        by_new: the new key's: nobody can have a key follow that is another's.
    """

    format: Literal[1] = 1
    site: str
    old: PublicKey
    new: PublicKey
    at_unix_s: Annotated[int, Field(ge=0, le=_LATEST_UNIX_S)]
    by_old: str = ""
    by_new: str = ""

    @model_validator(mode="after")
    def _keys_differ(self) -> Self:
        if self.old == self.new:
            raise ValueError("the new key is the old one")
        return self

    @classmethod
    def of(cls, site: str, old: Ed25519PrivateKey, new: Ed25519PrivateKey, at_unix_s: int) -> Self:
        """Return the statement under both keys."""
        draft = cls(site=site, old=public_text(old), new=public_text(new), at_unix_s=at_unix_s)
        signatures = {"by_old": sign(old, draft.signed), "by_new": sign(new, draft.signed)}
        return draft.model_copy(update={name: base64.b64encode(each).decode() for name, each in signatures.items()})

    @property
    def signed(self) -> bytes:
        """What both signatures are over, 32 bytes."""
        fields: dict[str, Any] = self.model_dump(mode="json", exclude={"by_old", "by_new"})
        return digest("rotation", canonical_json(fields))

    def verify(self, *, where: str) -> None:
        """Raise ConfigError where one of the signatures does not hold."""
        try:
            verify(decoded(self.old), self.signed, decoded(self.by_old), peer=self.site)
            verify(decoded(self.new), self.signed, decoded(self.by_new), peer=self.site)
        except RemoteProtocolError:
            raise ConfigError(
                "states a rotation that was changed, or that not both keys have signed; ask the site for a new file",
                where=where,
            ) from None


def verify_row(rotations: Sequence[Rotation], site: str, last: str, *, where: str) -> None:
    """Check that rotations of one site lead, each from where the one before ended, to a key, and never back.

    Args:
        rotations: in their order; an empty row holds.
        site: whose they must be.
        last: the public key that the last one must lead to.
        where: the file, for an error.

    Raises:
        ConfigError: they do not.
    """
    for each in rotations:
        each.verify(where=where)
    keys = [*(each.old for each in rotations), last]
    is_row = all(each.site == site and each.new == key for each, key in zip(rotations, keys[1:], strict=True))
    if not is_row or len(set(keys)) < len(keys):
        raise ConfigError("its rotations do not lead to its key; ask the site for a new file", where=where)
