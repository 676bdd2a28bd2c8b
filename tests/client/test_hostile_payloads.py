"""Payloads that are no honest weights: code, other types, other lengths, what no number may be."""

import json
import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.client.federation import UNITS, WEIGHTS, Federation, Join, Plugin, answered, is_sum, opened

from synthfed.client.train import LARGEST_WEIGHT, read_payload
from synthfed.plugins.api import Array, PrivatePart
from synthfed.protocols.errors import RemoteProtocolError
from synthfed.protocols.secagg import messages
from synthfed.protocols.secagg.messages import Code, Refusal
from synthfed.protocols.sums import Kind, Sum, noise_shares

DIM = 10
SIZE = len(WEIGHTS)
KIND = Kind(Sum("g", "gradient", DIM, 1.0, 0.5, 1, 1.0, (("w", (3, 2)), ("b", (4,)))), 1.0, 64, 32)
VALUES = np.linspace(-1, 1, DIM)


class Touch:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def safetensors(size: int = 0) -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [3, 1], "data_offsets": [0, 12]}}).encode()
    return (len(header).to_bytes(8, "little") + header + WEIGHTS)[: size or None]


HOSTILE = {
    "nothing": b"",
    "safetensors": safetensors(),
    "an .npy file": b"\x93NUMPY\x01\x00" + WEIGHTS,
    "float64": VALUES.astype("<f8").tobytes(),
    "float16": VALUES.astype("<f2").tobytes(),
    "bytes": VALUES.astype("i1").tobytes(),
    "large integers": np.full(DIM, 2**31 - 1, dtype="<i4").tobytes(),
    "negative integers": np.full(DIM, -1, dtype="<i4").tobytes(),
    "one value too few": WEIGHTS[:-4],
    "one value more": WEIGHTS + bytes(4),
    "one byte too few": WEIGHTS[:-1],
    "one byte more": WEIGHTS + b"\0",
    "twice": 2 * WEIGHTS,
    **{
        f"{value} at {place}": WEIGHTS[: 4 * place] + np.float32(value).tobytes() + WEIGHTS[4 * place + 4 :]
        for value in (np.nan, np.inf, -np.inf, 1e38, -3.4e38, 10_001.0)
        for place in (0, DIM - 1)
    },
    "a signalling NaN": WEIGHTS[:-4] + bytes.fromhex("010080ff"),
}


def asked(federation: Federation, payload: bytes) -> bytes:
    frame = messages.encode(messages.Round(1, ("a", "b", "c"), "critic", payload), 7)
    return answered(federation.a, frame).frame


@pytest.mark.parametrize("payload", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_payload_is_refused_by_the_one_constant_before_charge_and_records(
    join: Join, tiny: PrivatePart, payload: bytes
) -> None:
    met: list[Array] = []
    federation = join(private=Plugin(tiny, met.append))
    assert asked(federation, payload) == messages.encode(Refusal(Code.PROTOCOL), 7)
    assert (federation.a.ledger.length, met) == (0, [])
    assert is_sum(federation.reply("critic"))  # the counter was not burnt


def test_pickled_code_is_never_run_whatever_its_length(join: Join, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    code = pickle.dumps(Touch(touched))
    federation = join()
    for payload in (code, code[:SIZE], code.ljust(4 * SIZE, b"."), b"\x80\x04." + bytes(SIZE - 3)):
        asked(federation, payload)
        federation.a.machine.close()
        federation.shake_hands()
    assert not touched.exists()
    pickle.loads(code)  # noqa: S301 - the weapon works
    assert touched.exists()


def bits(*values: int) -> npt.NDArray[np.float32]:
    return np.array(values, dtype="<u4").view("<f4")


EXTREME = [*bits(0, 0x80000000, 1, 0x80000001, 0x007FFFFF, 0x00800000), LARGEST_WEIGHT, -LARGEST_WEIGHT, 1.0]
"""Both zeros, subnormal numbers, the least normal one, and the largest that are allowed."""


@given(
    data=st.one_of(
        st.binary(min_size=4 * DIM, max_size=4 * DIM),
        st.lists(st.floats(width=32), min_size=DIM, max_size=DIM).map(lambda v: np.array(v, dtype="<f4").tobytes()),
        st.lists(st.sampled_from(EXTREME), min_size=DIM, max_size=DIM).map(
            lambda v: np.array(v, dtype="<f4").tobytes()
        ),
    )
)
def test_bytes_of_the_right_length_are_refused_or_are_small_finite_numbers_read_as_they_stand(data: bytes) -> None:
    values = [float(value) for value in np.frombuffer(data, dtype="<f4")]
    is_good = all(-LARGEST_WEIGHT <= value <= LARGEST_WEIGHT for value in values)
    try:
        arrays = read_payload(KIND, data)
    except RemoteProtocolError:
        assert not is_good
        return
    assert is_good
    assert [array.dtype for array in arrays.values()] == [np.float32] * 2
    assert b"".join(array.tobytes() for array in arrays.values()) == data


@given(data=st.binary(max_size=200).filter(lambda data: len(data) != 4 * DIM))
def test_bytes_of_any_other_length_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="wrong size"):
        read_payload(KIND, data)


@pytest.mark.parametrize("seed", range(4))
def test_the_most_extreme_weights_that_are_allowed_give_a_sum_within_every_units_clip_norm(
    join: Join, seed: int
) -> None:
    """And without a failure on records, which would stop the agent."""
    federation = join()
    rng = np.random.default_rng(seed)
    weights = rng.choice(np.array(EXTREME, dtype="<f4"), DIM)
    frame = messages.encode(messages.Round(1, ("a", "b", "c"), "critic", weights.tobytes()), 7)
    answer = opened(federation.a, "a", frame)
    kind = federation.policy.plan.kind("critic")
    assert kind is not None
    step = kind.grid_step(noise_shares(federation.policy.study, 3))
    assert np.linalg.norm(answer.grid) * step <= UNITS * kind.sum.clip_norm + DIM * step
    assert federation.a.ledger.unsettled() == ()
