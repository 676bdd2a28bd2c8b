"""Key streams, masks and ring arithmetic against big integers, known answers and statistics."""

from itertools import combinations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]
from tests.protocols.federation import refusal

from synthfed.protocols.ids import digest
from synthfed.protocols.keystream import CHUNK_BYTES, KeyStream
from synthfed.protocols.secagg import masks, ring
from synthfed.protocols.secagg.masks import apply_masks

BITS = (32, 64)
INT64 = st.integers(-(2**63), 2**63 - 1)
CORNERS = [0, 1, -1, 2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**63 - 1, -(2**63)]


def key_of(*parts: str) -> bytes:
    return digest("test-key", *(part.encode() for part in parts))


def pair_keys(cohort: list[str], site: str) -> list[tuple[bytes, bool]]:
    return [(key_of(*sorted((site, peer))), peer > site) for peer in cohort if peer != site]


def masked(cohort: list[str], site: str, values: list[int], bits: int) -> ring.Words:
    words = ring.to_words(np.array(values, dtype=np.int64), bits)
    apply_masks(words, pair_keys(cohort, site))
    return words


# The key stream.

NIST_KEY = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
NIST_COUNTER = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
NIST_PLAIN = bytes.fromhex(
    "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
    "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
)
NIST_CIPHER = bytes.fromhex(
    "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
    "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
)


def test_the_library_gives_the_known_answer_of_nist_sp_800_38a_f_5_5() -> None:
    encryptor = Cipher(algorithms.AES256(NIST_KEY), modes.CTR(NIST_COUNTER)).encryptor()
    assert encryptor.update(NIST_PLAIN) == NIST_CIPHER


def test_the_key_stream_is_aes_256_of_the_block_number_from_zero() -> None:
    block = Cipher(algorithms.AES256(NIST_KEY), modes.ECB()).encryptor()  # noqa: S305 - one block at a time
    assert block.update(NIST_COUNTER).hex() == "0bdf7df1591716335e9a8b15c860c502"  # F.5.5, output block 1
    expected = b"".join(block.update(number.to_bytes(16, "big")) for number in range(4))
    assert KeyStream(NIST_KEY).read(64) == expected
    assert KeyStream(bytes(32)).read(16).hex() == "dc95c078a2408989ad48a21492842087"  # AESAVS, zero key


@given(sizes=st.lists(st.integers(0, 3 * CHUNK_BYTES), max_size=4))
def test_a_stream_does_not_depend_on_how_it_is_cut(sizes: list[int]) -> None:
    stream = KeyStream(bytes(32))
    assert b"".join(stream.read(size) for size in sizes) == KeyStream(bytes(32)).read(sum(sizes))


def test_words_are_the_streams_bytes_in_little_endian_order() -> None:
    data = KeyStream(NIST_KEY).read(80)
    words = [int.from_bytes(data[i : i + 8], "little") for i in range(0, 80, 8)]
    assert KeyStream(NIST_KEY).words(10).tolist() == words


def test_a_key_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="key"):
        KeyStream(bytes(16))


# The ring.


@given(values=st.lists(INT64, max_size=20), bits=st.sampled_from(BITS))
@example(values=CORNERS, bits=32)
@example(values=CORNERS, bits=64)
def test_words_are_the_values_modulo_the_ring_and_centred_brings_back_the_nearest(values: list[int], bits: int) -> None:
    words = ring.to_words(np.array(values, dtype=np.int64), bits)
    assert words.tolist() == [value % 2**bits for value in values]
    half = 2 ** (bits - 1)
    assert ring.centred(words).tolist() == [(value + half) % 2**bits - half for value in values]


@given(st.data())
def test_the_sum_of_masked_words_is_the_plain_sum_modulo_the_ring(data: st.DataObject) -> None:
    bits = data.draw(st.sampled_from(BITS))
    dim = data.draw(st.integers(1, 8))
    cohort = [f"s{i}" for i in range(data.draw(st.integers(2, 7)))]
    vectors = st.lists(INT64 | st.sampled_from(CORNERS), min_size=dim, max_size=dim)
    plain = {site: data.draw(vectors) for site in cohort}
    total = ring.to_words(np.zeros(dim, dtype=np.int64), bits)
    for site in cohort:
        words = masked(cohort, site, plain[site], bits)
        ring.add_in_place(total, ring.from_bytes(words.tobytes(), dim, bits, peer=site))
    assert total.tolist() == [sum(column) % 2**bits for column in zip(*plain.values(), strict=True)]


@pytest.mark.parametrize("bits", BITS)
def test_a_sum_that_leaves_the_ring_wraps_around_as_big_integers_do(bits: int) -> None:
    largest = 2 ** (bits - 1) - 1
    total = ring.to_words(np.array([largest, -largest - 1, largest], dtype=np.int64), bits)
    ring.add_in_place(total, ring.to_words(np.array([1, -1, largest], dtype=np.int64), bits))
    assert ring.centred(total).tolist() == [-largest - 1, largest, -2]


@pytest.mark.parametrize(("bits", "size"), [(32, 11), (32, 13), (32, 24), (64, 12), (64, 25), (32, 0)])
def test_words_of_the_wrong_length_are_refused(bits: int, size: int) -> None:
    assert refusal(lambda: ring.from_bytes(bytes(size), 3, bits, peer="b")) == "b: a masked sum has the wrong length"


def test_encoding_clamps_to_the_box_and_rounds_to_the_nearest_even_step() -> None:
    total = np.array([0.0, 0.26, 0.25, 0.75, -0.26, 1e300, -1e300])
    assert ring.to_grid(total, 0.5, 7.0).tolist() == [0, 1, 0, 2, -1, 7, -7]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_sum_that_is_not_finite_is_not_encoded(bad: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        ring.to_grid(np.array([0.0, bad]), 1.0, 10.0)


@given(
    total=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8),
    change=st.floats(-10, 10),
    box=st.integers(1, 10**6),
)
def test_clamping_and_rounding_enlarge_a_difference_by_at_most_one_step(
    total: list[float], change: float, box: int
) -> None:
    one, other = np.array(total), np.array(total) + change
    difference = np.abs(ring.to_grid(one, 0.25, box) - ring.to_grid(other, 0.25, box))
    assert (difference <= np.abs(one - other) / 0.25 + 1 + 1e-6).all()


# Masks.


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("extra", [-1, 0, 1, 5])
def test_masks_do_not_depend_on_the_chunks_they_are_applied_in(bits: int, extra: int) -> None:
    dim = 2 * CHUNK_BYTES // (bits // 8) + extra
    words = ring.to_words(np.zeros(dim, dtype=np.int64), bits)
    apply_masks(words, [(key_of("x"), True), (key_of("y"), False)])
    streams = [np.frombuffer(KeyStream(key_of(name)).read(dim * bits // 8), dtype=words.dtype) for name in "xy"]
    np.testing.assert_array_equal(words, streams[0] - streams[1])


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("chunk_bytes", [8, 16, 24, 1000, 4096])
def test_masks_are_the_same_for_every_size_of_chunk(
    bits: int, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [(key_of("x"), True), (key_of("y"), False), (key_of("z"), True)]
    whole, cut = (ring.to_words(np.arange(1001), bits) for _ in range(2))
    apply_masks(whole, keys)
    monkeypatch.setattr(masks, "CHUNK_BYTES", chunk_bytes)
    apply_masks(cut, keys)
    assert cut.tobytes() == whole.tobytes()


NIST_STREAM = KeyStream(NIST_KEY).read(64)  # AES-256 of the block numbers, by the test above


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("added", [True, False])
def test_masked_words_are_little_endian_integers_plus_or_minus_the_streams_on_every_machine(
    bits: int, added: bool
) -> None:
    size = bits // 8
    values = [(-1) ** i * (2 ** (bits - 2) + 123456789 * i) for i in range(64 // size)]
    words = ring.to_words(np.array(values, dtype=np.int64), bits)
    apply_masks(words, [(NIST_KEY, added)])
    expected = b""
    for i, value in enumerate(values):
        mask = int.from_bytes(NIST_STREAM[size * i : size * (i + 1)], "little")
        expected += ((value + (mask if added else -mask)) % 2**bits).to_bytes(size, "little")
    assert words.tobytes() == expected
    assert ring.from_bytes(expected, len(values), bits, peer="b").tolist() == words.tolist()


def test_a_known_answer_of_a_masked_sum() -> None:
    """The stream's first words under the key of SP 800-38A, F.5.5, added to zeros: the bytes as they are sent."""
    for bits in BITS:
        words = ring.to_words(np.zeros(2 * 64 // bits, dtype=np.int64), bits)
        apply_masks(words, [(NIST_KEY, True)])
        assert words.tobytes().hex() == "e568f68194cf76d6174d4cc04310a854"


def test_without_peers_nothing_is_masked() -> None:
    words = ring.to_words(np.arange(4), 32)
    apply_masks(words, [])
    assert words.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("bits", BITS)
def test_every_part_of_a_cohort_but_the_whole_has_a_sum_that_looks_uniform(bits: int) -> None:
    """Chi-squared over 256 byte values, 14 seeded sums; false alarm 14 * 1e-6 if the keys were random."""
    cohort, dim = ["a", "b", "c", "d"], 20_000
    words = {site: masked(cohort, site, [7] * dim, bits) for site in cohort}
    for size in (1, 2, 3):
        for part in combinations(cohort, size):
            total = ring.to_words(np.zeros(dim, dtype=np.int64), bits)
            for site in part:
                ring.add_in_place(total, words[site])
            counts = np.bincount(np.frombuffer(total.tobytes(), dtype=np.uint8), minlength=256)
            assert stats.chisquare(counts).pvalue > 1e-6


@pytest.mark.parametrize("bits", BITS)
def test_masks_use_every_bit_of_a_word_and_no_part_of_a_word_follows_from_another(bits: int) -> None:
    """Masks under fifty keys, 100,000 words of each width.

    Chi-squared of each byte of a word (4 + 8 tests), of the exclusive or of every two of them (6 + 28) and
    of it and the same byte of the next word (4 + 8), and of every bit (32 + 64): false alarm 154 * 1e-7.
    """
    count = 100_000
    words = ring.to_words(np.zeros(count, dtype=np.int64), bits)
    for start in range(0, count, count // 50):  # fifty keys, as many rounds have
        apply_masks(words[start : start + count // 50], [(key_of(str(start)), start % 4000 == 0)])
    lanes = np.frombuffer(words.tobytes(), dtype=np.uint8).reshape(count, bits // 8)
    looked_at = [
        *lanes.T,
        *(lanes[:, i] ^ lanes[:, j] for i, j in combinations(range(bits // 8), 2)),
        *(lanes[1:] ^ lanes[:-1]).T,
    ]
    for lane in looked_at:
        assert stats.chisquare(np.bincount(lane, minlength=256)).pvalue > 1e-7
    ones = np.unpackbits(lanes, axis=1, bitorder="little").sum(axis=0)
    assert ones.shape == (bits,)
    assert (np.abs(ones - count / 2) < 5.33 * (count / 4) ** 0.5).all()


@pytest.mark.parametrize("bits", BITS)
def test_words_sent_for_the_smallest_and_the_largest_sums_are_alike_in_every_bit(bits: int) -> None:
    """Also the top bits: 4 sums of 20,000 words, each bit within 5.33 standard deviations (false alarm 4e-5)."""
    count = 20_000
    for value in (0, 1, 2 ** (bits - 1) - 1, -(2 ** (bits - 1))):
        words = masked(["a", "b", "c"], "b", [value] * count, bits)
        ones = np.unpackbits(np.frombuffer(words.tobytes(), dtype=np.uint8).reshape(count, -1), axis=1).sum(axis=0)
        assert (np.abs(ones - count / 2) < 5.33 * (count / 4) ** 0.5).all()
