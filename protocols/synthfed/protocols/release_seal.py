"""The seal of a release: the hash of each of its files, under its coordinator's signature.

Never says that what the files state is true: it says that they are those that were sealed.
"""

import re
from typing import Annotated, ClassVar, Final, Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import AfterValidator, Field

from .ids import fingerprint
from .signed import Hash, PublicKey, SignedFile, decoded, public_text

_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


def _check_path(value: str) -> str:
    if not all(_PART.fullmatch(part) for part in value.split("/")) or len(value) > 200:
        raise ValueError("must be a file's path below the release, its parts of letters, digits and _ . + -")
    return value


FilePath = Annotated[str, AfterValidator(_check_path)]
"""A file's path below the release, with slashes: no part of it hides or climbs."""


class ReleaseSeal(SignedFile):
    """What a release consisted of when it was sealed.

    Attributes:
        setting: a simulation has no coordinator: its seal is under a key that was made for it and thrown away, and
            shows no more than that nothing was changed since.
        study: the hash of the study's terms.
        files: SHA-256 of every other file of the release, by its path.
        coordinator: the public key that signed.
    """

    NAME: ClassVar[str] = "a release's seal"
    DOMAIN: ClassVar[str] = "release-seal"

    format: Literal[1] = 1
    setting: Literal["federation", "simulation"]
    study: Hash
    files: Annotated[dict[FilePath, Hash], Field(min_length=1, max_length=10_000)]
    coordinator: PublicKey

    @classmethod
    def of(
        cls,
        key: Ed25519PrivateKey,
        *,
        study: bytes,
        setting: Literal["federation", "simulation"],
        files: dict[str, bytes],
    ) -> Self:
        """Return the seal of files, by path and SHA-256, under a coordinator's key."""
        hashes = {path: sha256.hex() for path, sha256 in sorted(files.items())}
        return cls.under(key, setting=setting, study=study.hex(), files=hashes, coordinator=public_text(key))

    @property
    def signer(self) -> str:
        """The coordinator's key."""
        return self.coordinator

    @property
    def fingerprint(self) -> str:
        """The coordinator's key, for two people to compare by voice."""
        return fingerprint(decoded(self.coordinator))
