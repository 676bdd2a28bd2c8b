"""Pairwise masks: one site adds what the other subtracts, so that they vanish only in the sum.

Never applies a mask twice: the caller derives each key for one context.
"""

from collections.abc import Sequence

import numpy as np

from ..keystream import CHUNK_BYTES, KeyStream, StreamCipher
from .ring import Words


def apply_masks(words: Words, keys: Sequence[tuple[bytes, bool]], cipher: StreamCipher = "aes256-ctr") -> None:
    """Add or subtract every key's stream to the words, in place, modulo the ring.

    Args:
        words: the site's encoded sum; overwritten by its masked form.
        keys: per peer the mask key and whether it is added (the peer's name is the greater one).
        cipher: the stream's cipher, the same for all sites of a study.
    """
    streams = [(KeyStream(key, cipher), added) for key, added in keys]
    per_chunk = CHUNK_BYTES // words.itemsize
    block = np.empty(min(CHUNK_BYTES, words.nbytes), dtype=np.uint8)
    for start in range(0, len(words), per_chunk):  # chunk outside, peers inside: the chunk stays in cache
        chunk = words[start : start + per_chunk]
        mask = block[: chunk.nbytes]
        for stream, added in streams:
            stream.fill(mask)
            (np.add if added else np.subtract)(chunk, mask.view(words.dtype), out=chunk)
    block[:] = 0  # no mask stays behind in memory that others may get
