"""The steps of one round at a site: from a noised sum to the next payload, and how long all of them take.

Never sees a record: what moves is a function of payloads and of sums with the site's whole noise.
"""

import time
from typing import Any

import numpy as np

from synthfed.plugins.api import Array, LocalPart, Payload, local_part
from synthfed.plugins.pinning import Pinned
from synthfed.protocols.errors import UnsupportedMechanism
from synthfed.protocols.keystream import KeyStream
from synthfed.protocols.privacy.noise import discrete_gaussian
from synthfed.protocols.privacy.sampling import uniform_numbers
from synthfed.protocols.sums import SCALE_BITS, Kind

from .train import LARGEST_WEIGHT, clipped_sum, row_width


def moved(
    local: LocalPart, kind: Kind, payload: Payload, noised: Array, step: int
) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Return a round's next payload, as the plugin moves it by a step's noised sum, its values within bounds.

    Args:
        local: the plugin's part for this, which sees no record.
        kind: which sum.
        payload: at which the step's sum was taken.
        noised: that sum with this site's whole noise, in the sum's unit, shape ``(dim,)``.
        step: of the round, from 0.

    Raises:
        UnsupportedMechanism: its arrays are not those of the declared payload.
    """
    found = local.advance(kind.sum.name, payload, noised, step)
    if [(name, np.shape(array)) for name, array in found.items()] != list(kind.sum.payload):
        raise UnsupportedMechanism(f"between two steps of {kind.sum.name!r} the payload lost its declared arrays")
    # Weights that a coordinator chose may run away; that is no fault of the plugin's.
    return {name: _within(np.asarray(array)) for name, array in found.items()}


def _within(array: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
    kept: np.ndarray[Any, Any] = np.nan_to_num(array, nan=0.0).clip(-LARGEST_WEIGHT, LARGEST_WEIGHT)
    return kept.astype(np.float32)


def seconds_per_round(pinned: Pinned, kind: Kind) -> float:
    """Compute a round of a kind on made-up rows, noise and all local steps included, and return how long it took."""
    private, local = pinned.model.private(), local_part(pinned.model)
    width = row_width(pinned, private)
    payload = {name: np.zeros(shape, dtype=np.float32) for name, shape in kind.sum.payload}
    start = time.perf_counter()
    for step in range(kind.sum.steps):
        coins = uniform_numbers(KeyStream(bytes(32)), kind.slots, kind.sum.coins)
        total = clipped_sum(private, kind, payload, np.zeros((kind.slots, width)), coins)
        discrete_gaussian(KeyStream(bytes(32)), kind.sum.dim, SCALE_BITS)
        if step + 1 < kind.sum.steps:
            payload = moved(local, kind, payload, total, step)
    return time.perf_counter() - start
