"""Records of an array and labels: encoded by the schema alone, and back."""

import numpy as np
import pytest

from synthfed.plugins.domains.arrays import ArrayEncoder
from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import ArrayColumn, Categorical, Column, Real

COLUMNS: tuple[Column, ...] = (
    Categorical(name="view", values=("front", "side"), missing=True),
    ArrayColumn(name="pixels", shape=(1, 2, 2), lower=0.0, upper=10.0),
    Categorical(name="digit", values=("zero", "one", "two")),
)
RECORDS = np.array([[1, 0, 5, 10, 2, 2], [np.nan, 10, 0, 0, 1, 0]], dtype=np.float64)


def test_numbers_are_scaled_by_the_bounds_and_labels_are_one_hot_behind_them() -> None:
    encoder = ArrayEncoder(COLUMNS, "test")
    assert (encoder.numbers, encoder.sizes, encoder.width) == (4, (3, 3), 10)
    expected = [[-1, 0, 1, -0.6, 0, 1, 0, 0, 0, 1], [1, -1, -1, -0.8, 0, 0, 1, 1, 0, 0]]
    np.testing.assert_allclose(encoder.encode(RECORDS), expected)


def test_what_is_encoded_decodes_to_the_same_records() -> None:
    encoder = ArrayEncoder(COLUMNS, "test")
    codes = np.array([[1, 2], [2, 0]])
    np.testing.assert_array_equal(encoder.decode(encoder.encode(RECORDS)[:, :4], codes), RECORDS)


def test_decoded_numbers_stay_within_the_bounds_and_decimals() -> None:
    decoded = ArrayEncoder(COLUMNS, "test").decode(np.array([[-9.0, 9.0, 0.07, 0.0]]), np.array([[0, 0]]))
    assert decoded[0, 1:5].tolist() == [0.0, 10.0, 5.0, 5.0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_every_float_has_an_encoding_within_the_range(value: float) -> None:
    encoded = ArrayEncoder(COLUMNS, "test").encode(np.full((1, 6), value))
    assert np.abs(encoded).max() <= 1
    assert encoded[0, 4:].sum() == 2


@pytest.mark.parametrize("columns", [COLUMNS[:1], (*COLUMNS, Real(name="age", lower=0.0, upper=9.0)), COLUMNS[1:2] * 2])
def test_another_schema_is_refused(columns: tuple[Column, ...]) -> None:
    with pytest.raises(ConfigError, match="test is for records of one array"):
        ArrayEncoder(columns, "test")
