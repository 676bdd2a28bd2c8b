"""Pseudorandom words from a secret key: AES-256 in counter mode, or ChaCha20.

Never uses a key twice for two purposes: every caller derives its own (``keys.derive``).
"""

from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

_CHUNK_BYTES: Final = 256 * 1024  # stays in the second-level cache beside the array it is added to
_ZEROS: Final = memoryview(bytes(_CHUNK_BYTES))

StreamCipher = Literal["aes256-ctr", "chacha20"]
"""Both are pseudorandom under a 32-byte key; ChaCha20 is the faster one on processors without AES instructions."""


class KeyStream:
    """A stream of uniform words, the same for the same 32-byte key on every machine."""

    def __init__(self, key: bytes, cipher: StreamCipher = "aes256-ctr") -> None:
        """Start the stream at its first block; the key must be fresh for this stream."""
        if cipher == "chacha20":
            self._encryptor = Cipher(algorithms.ChaCha20(key, bytes(16)), None).encryptor()
        else:
            self._encryptor = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()

    def read(self, size_bytes: int) -> bytes:
        """Return the next bytes of the stream."""
        whole, rest = divmod(size_bytes, _CHUNK_BYTES)
        parts = [self._encryptor.update(_ZEROS) for _ in range(whole)]
        return b"".join([*parts, self._encryptor.update(_ZEROS[:rest])])

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """Return the next ``count`` uniform 64-bit words, shape ``(count,)``, read as little-endian."""
        return np.frombuffer(self.read(8 * count), dtype="<u8").astype(np.uint64, copy=False)
