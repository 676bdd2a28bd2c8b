"""Pseudorandom words from a secret key: AES-256 in counter mode, or ChaCha20.

Never uses a key twice for two purposes: every caller derives its own (``keys.derive``).
"""

from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

CHUNK_BYTES: Final = 256 * 1024  # stays in the second-level cache beside the array it is added to
_ZEROS: Final = memoryview(bytes(CHUNK_BYTES))

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

    def fill(self, block: npt.NDArray[np.uint8]) -> None:
        """Overwrite a contiguous block with the next bytes of the stream."""
        for start in range(0, len(block), CHUNK_BYTES):
            chunk = block[start : start + CHUNK_BYTES]
            self._encryptor.update_into(_ZEROS[: len(chunk)], chunk.data)

    def read(self, size_bytes: int) -> bytes:
        """Return the next bytes of the stream."""
        return self._next(size_bytes).tobytes()

    def words(self, count: int) -> npt.NDArray[np.uint64]:
        """Return the next ``count`` uniform 64-bit words, shape ``(count,)``, read as little-endian."""
        return self._next(8 * count).view("<u8").astype(np.uint64, copy=False)

    def _next(self, size_bytes: int) -> npt.NDArray[np.uint8]:
        block = np.empty(size_bytes, dtype=np.uint8)
        self.fill(block)
        return block
