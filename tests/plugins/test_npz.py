"""Named arrays in files: what is read, what is refused before it costs anything, what is written."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synthfed.plugins.domains.npz import Written, open_arrays, write_arrays
from synthfed.protocols.errors import ConfigError, DataError

NUMBERS = np.arange(24, dtype=np.float32).reshape(4, 3, 2)


def head_of(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()[: len(file.getvalue()) - array.nbytes]


def archive(path: Path, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries.items():
            file.writestr(f"{name}.npy", content)
    return path


def read(path: Path, name: str = "x") -> Any:
    with open_arrays(path) as file:
        return file.read(name)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("array", [NUMBERS, np.asfortranarray(NUMBERS), np.array(["ä", "bc"]), np.array([True, False])])
def test_an_array_reads_as_numpy_saved_it(tmp_path: Path, save: Callable[..., None], array: np.ndarray) -> None:
    save(tmp_path / "a.npz", x=array)
    np.testing.assert_array_equal(read(tmp_path / "a.npz"), array)


def test_a_head_is_told_without_reading_the_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=NUMBERS, label=np.arange(4))
    with open_arrays(tmp_path / "a.npz") as file:
        assert file.names == ("x", "label")
        assert (file.stated("x").shape, file.stated("x").dtype) == ((4, 3, 2), np.dtype(np.float32))


def test_an_array_of_objects_is_refused_and_never_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="'x' is of a type that is not read"):
        read(tmp_path / "a.npz")


def test_an_array_too_large_for_memory_is_refused_by_its_head(tmp_path: Path) -> None:
    head = head_of(np.zeros(1)).replace(b"'shape': (1,), }          ", b"'shape': (9999999999,), } ")
    with pytest.raises(DataError, match=r"more than 536,870,912 numbers"):
        read(archive(tmp_path / "a.npz", x=head))


def test_an_array_that_is_longer_than_its_head_states_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = archive(tmp_path / "bomb.npz", x=head_of(np.zeros(1)) + bytes(2**22))
    assert path.stat().st_size < 2**14
    with pytest.raises(DataError, match="not as long as its head states"):
        read(path)


def test_an_archive_that_lies_about_an_entrys_size_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", x=head_of(np.zeros(1)) + bytes(2**22))
    content, true_size = path.read_bytes(), len(head_of(np.zeros(1))) + 2**22
    path.write_bytes(content.replace(struct.pack("<I", true_size), struct.pack("<I", true_size - 2**22 + 8)))
    with pytest.raises(DataError, match=r"not a complete \.npz file"):
        read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no archive", r"not a complete \.npz file"),
        (b"", r"not a complete \.npz file"),
    ],
)
def test_a_file_that_is_no_archive_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read(tmp_path / "a.npz")


def test_a_head_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'x' has no valid head"):
        read(archive(tmp_path / "a.npz", x=b"\x93NUMPY\x01\x00\x04\x00oops"))


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file, pytest.warns(UserWarning, match="Duplicate"):
        for _ in range(2):
            file.writestr("x.npy", head_of(np.zeros(0)))
    with pytest.raises(DataError, match="holds an array twice"):
        read(tmp_path / "a.npz")


def test_an_array_that_is_missing_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=NUMBERS)
    with pytest.raises(DataError, match=r"lacks array 'x'.*arrays: 'images'"):
        read(tmp_path / "a.npz")


def test_a_path_that_is_no_file_is_the_operators_to_mend(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        read(tmp_path / "none.npz")
    with pytest.raises(ConfigError, match="not a regular file"):
        read(tmp_path)


WRITTEN = (
    Written("x", (2,), np.dtype(np.uint8), lambda records: records[:, :2]),
    Written("label", (), np.dtype("U3"), lambda records: np.array(["no", "yes"])[records[:, 2].astype(int)]),
)
RECORDS = np.array([[1, 2, 0], [3, 4, 1], [5, 6, 1]], dtype=np.float64)


def test_what_is_written_does_not_depend_on_how_the_rows_are_cut_into_chunks(tmp_path: Path) -> None:
    write_arrays(tmp_path / "a.npz", WRITTEN, [RECORDS])
    write_arrays(tmp_path / "b.npz", WRITTEN, iter([RECORDS[:1], RECORDS[1:]]))
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["x"], RECORDS[:, :2])
        assert file["x"].dtype == np.uint8
        assert file["label"].tolist() == ["no", "yes", "yes"]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail() -> Any:
        yield RECORDS
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        write_arrays(tmp_path / "a.npz", WRITTEN, fail())
    assert not list(tmp_path.iterdir())
