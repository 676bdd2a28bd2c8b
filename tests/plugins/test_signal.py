"""Series of several leads: reading by the schema, drafting, writing, pictures."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from synthfed.plugins.domains.signal import SignalDomain
from synthfed.protocols.errors import ConfigError, DataError
from synthfed.protocols.schema import ArrayColumn, Categorical, Column

SERIES = ArrayColumn(name="beat", shape=(2, 16), lower=-2, upper=2, decimals=3)
KIND = Categorical(name="kind", values=("normal", "other"))
COLUMNS: tuple[Column, ...] = (KIND, SERIES)
ROWS = 12


def beats() -> np.ndarray:
    phase = np.linspace(0, 2 * np.pi, 16) + np.arange(ROWS)[:, None]
    return np.round(np.stack([np.sin(phase), 1.9 * np.cos(phase)], axis=1), 3)


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **({"beat": beats(), "kind": np.array(["normal", "other"] * (ROWS // 2))} | arrays))
    return path


def test_reads_series_and_labels_in_the_order_of_the_schema(tmp_path: Path) -> None:
    table = SignalDomain().read(save(tmp_path / "a.npz"), COLUMNS, unit=None, records_per_unit=1)
    np.testing.assert_array_equal(table.records, np.column_stack([np.arange(ROWS) % 2, beats().reshape(ROWS, 32)]))


def test_a_series_of_one_lead_needs_no_axis_for_it(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", beat=beats()[:, 0])
    columns = (KIND, SERIES.model_copy(update={"shape": (1, 16)}))
    assert SignalDomain().read(path, columns, unit=None, records_per_unit=1).records.shape == (ROWS, 17)
    assert SignalDomain().draft(path)[0] == SERIES.model_copy(
        update={"shape": (1, 16), "lower": -1.0, "upper": 1.0, "decimals": 4}
    )


def test_a_number_out_of_bounds_is_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"array 'beat' has 12 row\(s\) with a number out of bounds"):
        SignalDomain().read(save(tmp_path / "a.npz", beat=3 * beats()), COLUMNS, unit=None, records_per_unit=1)


def test_a_drafted_schema_reads_the_file_it_was_drafted_from(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz")
    drafted = SignalDomain().draft(path)
    SignalDomain().check(drafted)
    assert drafted == (SERIES.model_copy(update={"lower": -1.9, "upper": 1.9, "decimals": 4}), KIND)
    assert len(SignalDomain().read(path, drafted, unit=None, records_per_unit=1).records) == ROWS


def test_what_is_written_reads_back_the_same(tmp_path: Path) -> None:
    records = SignalDomain().read(save(tmp_path / "a.npz"), COLUMNS, unit=None, records_per_unit=1).records
    SignalDomain().write(tmp_path / "b.npz", COLUMNS, [records])
    again = SignalDomain().read(tmp_path / "b.npz", COLUMNS, unit=None, records_per_unit=1).records
    np.testing.assert_allclose(again, records, rtol=0, atol=1e-6)


@pytest.mark.parametrize("columns", [(KIND,), (ArrayColumn(name="beat", shape=(1, 2, 16), lower=0, upper=1), KIND)])
def test_a_schema_of_other_data_is_refused(columns: tuple[Column, ...]) -> None:
    with pytest.raises(ConfigError, match="columns: "):
        SignalDomain().check(columns)


def test_a_picture_has_a_plot_per_record_with_a_strip_per_lead() -> None:
    records = np.column_stack([np.zeros(4), beats()[:4].reshape(4, 32)])
    drawn = SignalDomain().picture(COLUMNS, records, 2)
    assert drawn is not None
    with Image.open(io.BytesIO(drawn)) as picture:
        assert picture.format == "PNG"
        assert picture.height == 2 * (2 * 44 + 4) + 4
        colours = {colour for _, colour in picture.getcolors(10_000) or []}
    assert {(0, 114, 178), (213, 94, 0)} <= colours  # a line for each lead
    assert SignalDomain().picture(COLUMNS, records[:0], 2) is None
