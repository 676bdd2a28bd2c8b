"""The corners of both rings against Python's integers: sums at the edges of the box, and what noise may add."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocols import federation as fed

from synthfed.protocols.privacy.plan import box
from synthfed.protocols.secagg import ring
from synthfed.protocols.secagg.masks import apply_masks
from synthfed.protocols.secagg.messages import CANARY_WORDS
from synthfed.protocols.study import Study
from synthfed.protocols.sums import GRID

BITS = (32, 64)
SIZES = (3, 10, 50)
DIM = 5
WIDE = {32: "steps", 64: "wide"}


def study_of(sites: int) -> Study:
    names = tuple(f"s{i:02}" for i in range(sites))
    return fed.study_of(names, quorum=sites, tolerated=max(1, (sites - 1) // 3))


def deviations(sites: int) -> int:
    """Return sixteen standard deviations of the sites' summed noise, in grid steps, rounded up."""
    return math.ceil(16 * GRID * math.sqrt(sites))


def masked_sum(parts: list[list[int]], bits: int) -> list[int]:
    """Return the centred sum of the sites' masked words, each pair of sites under one mask."""
    total = ring.to_words(np.zeros(len(parts[0]), dtype=np.int64), bits)
    for one, part in enumerate(parts):
        words = ring.to_words(np.array(part, dtype=np.int64), bits)
        pairs = [(sorted((one, other)), other > one) for other in range(len(parts)) if other != one]
        apply_masks(words, [(bytes([*pair]) * 16, added) for pair, added in pairs])
        ring.add_in_place(total, ring.from_bytes(words.tobytes(), len(part), bits, peer=str(one)))
    return [int(value) for value in ring.centred(total)]


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("sites", SIZES)
def test_all_sites_at_the_edge_of_the_box_with_sixteen_deviations_of_noise_give_the_sum_of_python_integers(
    bits: int, sites: int
) -> None:
    """Both edges, with the noise outwards, inwards, at one site or spread over all."""
    edge = box(study_of(sites), bits)
    noise = deviations(sites)
    corners = []
    for sign in (1, -1):
        for outward in (1, -1, 0):
            alone = [sign * edge] * sites
            alone[0] += sign * outward * noise
            share, rest = divmod(noise, sites)
            spread = [sign * (edge + outward * (share + (site < rest))) for site in range(sites)]
            corners += [alone, spread]
    parts = [list(column) for column in zip(*corners, strict=True)]
    expected = [sum(corner) for corner in corners]
    assert max(expected) >= 2 ** (bits - 1) - 2**10 or bits == 64  # the corner is reached: the 64-bit box is 2**52
    assert masked_sum(parts, bits) == expected


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("sites", SIZES)
def test_the_box_leaves_room_for_the_noise_by_exact_arithmetic(bits: int, sites: int) -> None:
    """Computed in floats and rounded down to a whole step, the box is the exact one to within a step."""
    found = Fraction(box(study_of(sites), bits))
    wanted = (2 ** (bits - 1) - 1 - 16 * GRID * Fraction(math.isqrt(sites * 10**40), 10**20)) / sites
    assert found <= min(wanted * (1 + Fraction(1, 2**51)), 2**52)
    assert found >= min(wanted * (1 - Fraction(1, 2**51)), 2**52) - 1 or bits == 64


@pytest.mark.parametrize("bits", BITS)
def test_one_step_beyond_the_ring_wraps_as_python_integers_do_and_the_last_step_inside_does_not(bits: int) -> None:
    half = 2 ** (bits - 1)
    parts = [[half - 2, half - 1, -half + 1, -half], [1, 1, -1, -1], [0, 0, 0, 0]]
    assert masked_sum(parts, bits) == [half - 1, -half, -half, half - 1]


EDGES = {bits: [0, 1, -1, 2 ** (bits - 1) - 1, -(2 ** (bits - 1)), 2**31, -(2**31) - 1, 2**52] for bits in BITS}


@given(st.data())
def test_any_values_sum_up_under_masks_as_python_integers_modulo_the_ring(data: st.DataObject) -> None:
    bits = data.draw(st.sampled_from(BITS))
    value = st.sampled_from(EDGES[bits]) | st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    parts = data.draw(st.lists(st.lists(value, min_size=3, max_size=3), min_size=2, max_size=8))
    half = 2 ** (bits - 1)
    expected = [(sum(column) + half) % 2**bits - half for column in zip(*parts, strict=True)]
    assert masked_sum(parts, bits) == expected


@given(
    ends=st.lists(st.sampled_from([1, -1]) | st.floats(-1, 1), min_size=DIM, max_size=DIM),
    bits=st.sampled_from(BITS),
    sites=st.sampled_from(SIZES),
    far=st.sampled_from([1.0, 1 + 2**-52, 2.0, 1e250]),
    step=st.sampled_from([1.0, 0.1, 1e-9, 7e5, 2.0**-40]),
)
def test_a_sum_at_or_beyond_the_box_is_brought_to_an_integer_of_the_ring_inside_the_box(
    ends: list[float], bits: int, sites: int, far: float, step: float
) -> None:
    limit = box(study_of(sites), bits)
    grid = ring.to_grid(np.array(ends) * limit * step * far, step, limit)
    for value, end in zip(grid.tolist(), ends, strict=True):
        assert abs(value) <= limit
        assert value * end >= 0
        assert -(2 ** (bits - 1)) <= value < 2 ** (bits - 1)


@pytest.mark.parametrize("bits", BITS)
def test_machines_at_the_edge_of_their_boxes_and_sixteen_deviations_of_noise_sum_up_exactly(bits: int) -> None:
    """Through real handshakes, rounds, masks and signatures; the sum is read before any test of its size."""
    federation = fed.Federation().active()
    message = federation.aggregator.round(fed.NAMES, WIDE[bits], b"w")
    edge, noise = box(federation.policy.study, bits), deviations(len(fed.NAMES))
    total = [0] * fed.DIM
    words = ring.to_words(np.zeros(fed.DIM, dtype=np.int64), bits)
    canary = ring.to_words(np.zeros(CANARY_WORDS, dtype=np.int64), bits)
    for place, name in enumerate(fed.NAMES):
        values = [(-1) ** far * (edge + noise * (place == far)) for far in range(fed.DIM)]
        total = [one + value for one, value in zip(total, values, strict=True)]
        masked = federation.answer(name, message, np.array(values, dtype=np.int64))
        ring.add_in_place(words, ring.from_bytes(masked.words, fed.DIM, bits, peer=name))
        ring.add_in_place(canary, ring.from_bytes(masked.canary, CANARY_WORDS, bits, peer=name))
    assert ring.centred(words).tolist() == total
    assert canary.tolist() == [len(fed.NAMES)] * CANARY_WORDS
