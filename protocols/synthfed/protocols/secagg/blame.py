"""Whom to look at when masks did not cancel: what the opened canary keys of one round show.

Never looks at a site's sum: canary words hide ones, under keys of their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ..keystream import StreamCipher
from .masks import apply_masks
from .messages import CANARY_WORDS
from .ring import to_words


@dataclass(frozen=True, slots=True)
class Finding:
    """What an opening shows.

    Attributes:
        sites: whose canary words do not follow from the keys that they state themselves; each of them deviates.
        pairs: sites, none of them among those, that state different keys for each other; one of the two deviates.
        silent: who opened nothing that could be taken.
    """

    sites: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    silent: tuple[str, ...]

    def __str__(self) -> str:
        """Return it in words."""
        said = [f"the canary words of {site} do not follow from its own keys: {site} deviates" for site in self.sites]
        said += [f"{one} and {other} state different keys: one of the two deviates" for one, other in self.pairs]
        said += [f"{site} did not open its canary keys" for site in self.silent]
        if said:
            return "; ".join(said)
        return (
            "all canary words follow from keys that both ends state: what is left is a site whose vector is beyond "
            "what clipping and noise allow, or the coordinator itself"
        )


def find(
    canaries: Mapping[str, bytes], stated: Mapping[str, Mapping[str, bytes]], bits: int, cipher: StreamCipher
) -> Finding:
    """Return what the opened keys show of a round whose sum was corrupt.

    A site that states a false key is found by its own words, unless it had masked under that key from the start;
    then only it and the other end know who deviates. What a caught site says of others counts for nothing.

    Args:
        canaries: the canary words that each site of the cohort signed and sent.
        stated: the canary keys that each site which opened states, for every other site of the cohort.
        bits: width of a word.
        cipher: of the study's masks.
    """
    sites = tuple(site for site in sorted(stated) if canaries[site] != _masked_ones(site, stated[site], bits, cipher))
    believed = [site for site in sorted(stated) if site not in sites]
    pairs = tuple((one, other) for one, other in combinations(believed, 2) if stated[one][other] != stated[other][one])
    return Finding(sites, pairs, tuple(sorted(canaries.keys() - stated.keys())))


def _masked_ones(site: str, pads: Mapping[str, bytes], bits: int, cipher: StreamCipher) -> bytes:
    """Return a site's canary words under the keys that it states."""
    words = to_words(np.ones(CANARY_WORDS, dtype=np.int64), bits)
    apply_masks(words, [(key, peer > site) for peer, key in pads.items()], cipher)
    return words.tobytes()
