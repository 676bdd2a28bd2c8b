"""Pairwise masks: one site adds what the other subtracts, so that they vanish only in the sum.

Never applies a mask twice: the caller derives each key for one context.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from ..keystream import KeyStream, StreamCipher
from .ring import Words

_CHUNK_BYTES: Final = 256 * 1024  # chunk outside, peers inside: the chunk stays in cache


def apply_masks(words: Words, keys: Sequence[tuple[bytes, bool]], cipher: StreamCipher = "aes256-ctr") -> None:
    """Add or subtract every key's stream to the words, in place, modulo the ring.

    Args:
        words: the site's encoded sum; overwritten by its masked form.
        keys: per peer the mask key and whether it is added (the peer's name is the greater one).
        cipher: the stream's cipher, the same for all sites of a study.
    """
    streams = [(KeyStream(key, cipher), added) for key, added in keys]
    per_chunk = _CHUNK_BYTES // words.itemsize
    for start in range(0, len(words), per_chunk):
        chunk = words[start : start + per_chunk]
        for stream, added in streams:
            mask = np.frombuffer(stream.read(chunk.nbytes), dtype=words.dtype)
            (np.add if added else np.subtract)(chunk, mask, out=chunk)
