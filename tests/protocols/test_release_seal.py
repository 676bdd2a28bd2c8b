"""The seal of a release: it holds byte for byte, and names only files that lie below the release."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError
from tests.vectors import generate

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.ids import fingerprint
from synthfed.protocols.release_seal import ReleaseSeal

VECTOR: dict[str, Any] = json.loads((generate.FOLDER / "release-seal.json").read_text(encoding="ascii"))
KEY = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(VECTOR["coordinator_seed"]))
CONTENT = VECTOR["file"].encode()


def sealed(**files: bytes) -> ReleaseSeal:
    return ReleaseSeal.of(KEY, study=bytes(32), setting="federation", files=files)


def test_a_seal_reads_back_as_it_was_written() -> None:
    seal = ReleaseSeal.parse(CONTENT, where="seal.json")
    assert seal.content == CONTENT
    assert seal.files == {"model/weights.safetensors": "02" * 32, "study.toml": "01" * 32}
    assert seal.fingerprint == fingerprint(KEY.public_key().public_bytes_raw())


@pytest.mark.parametrize("place", range(0, len(CONTENT), 7))
def test_a_seal_of_which_a_byte_was_changed_is_refused(place: int) -> None:
    changed = bytearray(CONTENT)
    changed[place] ^= 1
    with pytest.raises(ConfigError, match=r"seal\.json: (is not|was changed)"):
        ReleaseSeal.parse(bytes(changed), where="seal.json")


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../other", "a//b", "a/../b", ".hidden", "a/.b", "a b", "x" * 201])
def test_a_path_that_climbs_hides_or_cannot_be_written_everywhere_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="must be a file's path below the release"):
        ReleaseSeal.of(KEY, study=bytes(32), setting="federation", files={path: bytes(32)})


def test_a_seal_of_nothing_is_none() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        sealed()


def test_seals_do_not_depend_on_the_order_of_files() -> None:
    assert sealed(a=bytes(32), b=bytes(32)).content == sealed(b=bytes(32), a=bytes(32)).content
