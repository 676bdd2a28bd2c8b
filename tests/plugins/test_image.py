"""Images: reading by the schema from arrays and folders, writing, drafting, pictures."""

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from synthfed.plugins.domains.image import ImageDomain
from synthfed.protocols.errors import ConfigError, DataError
from synthfed.protocols.schema import ArrayColumn, Categorical, Column

PIXELS = ArrayColumn(name="images", shape=(1, 8, 8), lower=0, upper=16)
DIGIT = Categorical(name="labels", values=tuple(str(digit) for digit in range(10)))
COLUMNS: tuple[Column, ...] = (PIXELS, DIGIT)
ROWS = 30


def digits() -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    return data.images[:ROWS], data.target[:ROWS]


def save(path: Path, **arrays: Any) -> Path:
    images, labels = digits()
    np.savez(path, **({"images": images, "labels": labels} | arrays))
    return path


def problem_of(path: Path, columns: tuple[Column, ...] = COLUMNS, unit: str | None = None) -> str:
    with pytest.raises(DataError) as caught:
        ImageDomain().read(path, columns, unit=unit, records_per_unit=1 if unit is None else 5)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "reshape",
    [lambda images: images, lambda images: images[:, None], lambda images: images[..., None].astype(np.uint8)],
)
def test_reads_images_with_and_without_channels(tmp_path: Path, reshape: Callable[[Any], Any]) -> None:
    images, labels = digits()
    path = save(tmp_path / "a.npz", images=reshape(images), labels=labels[:, None])
    table = ImageDomain().read(path, COLUMNS, unit=None, records_per_unit=1)
    np.testing.assert_array_equal(table.records, np.column_stack([images.reshape(ROWS, 64), labels]))
    assert table.records.dtype == np.float64
    assert table.units.tolist() == list(range(ROWS))


def test_labels_may_be_texts_and_units_are_numbered_in_order_of_appearance(tmp_path: Path) -> None:
    names = np.array([f"p{i // 3}" for i in range(ROWS)])
    path = save(tmp_path / "a.npz", labels=np.array([*["3", ""] * (ROWS // 2)]), patient=names)
    columns = (PIXELS, DIGIT.model_copy(update={"missing": True}))
    table = ImageDomain().read(path, columns, unit="patient", records_per_unit=3)
    assert table.units.tolist() == [i // 3 for i in range(ROWS)]
    assert table.records[0, -1] == 3
    assert np.isnan(table.records[1, -1])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.full((ROWS, 8, 8), 1234.5)}, "array 'images' has 30 row(s) with a number out of bounds"),
        ({"images": np.full((ROWS, 8, 8), np.nan)}, "array 'images' has 30 row(s) with a number that is not finite"),
        ({"images": np.zeros((ROWS, 9, 8))}, "array 'images' has records of shape (9, 8), but the schema says"),
        ({"images": np.full((ROWS, 8, 8), "1234.5")}, "array 'images' holds no numbers"),
        ({"labels": np.full(ROWS, 1234)}, "array 'labels' has 30 row(s) with a value that is not among"),
        ({"labels": np.full(ROWS, "")}, "array 'labels' has 30 row(s) with an empty cell"),
        ({"labels": np.zeros(ROWS)}, "array 'labels' must be one whole number or text for each record"),
        ({"labels": np.zeros(7, dtype=int)}, "arrays 'images' and 'labels' are not of one length"),
        ({"images": np.zeros((0, 8, 8)), "labels": np.zeros(0, dtype=int)}, "array 'images' has no rows"),
        ({"images": np.float64(3)}, "are not of one length"),
    ],
)
def test_what_does_not_fit_is_counted_by_array_and_no_value_shown(tmp_path: Path, arrays: Any, message: str) -> None:
    problem = problem_of(save(tmp_path / "a.npz", **arrays))
    assert message in problem
    assert "1234" not in problem


def test_units_over_the_contribution_bound_are_counted(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", patient=np.zeros(ROWS, dtype=int))
    assert "unit column 'patient' has 1 unit(s) with more than 5 rows" in problem_of(path, unit="patient")


COLOURED = (ArrayColumn(name="photo", shape=(3, 2, 4), lower=0, upper=255), Categorical(name="kind", values=("a", "b")))


def folder(path: Path, *lines: str, size: tuple[int, int] = (4, 2), mode: str = "RGB", name: str = "one.png") -> Path:
    path.mkdir()
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST)
    (Image.new("I;16", size) if mode == "I;16" else image.convert(mode)).save(path / name)
    (path / "labels.csv").write_text("\n".join(["file,kind,person", *lines]) + "\n")
    return path


def test_reads_a_folder_of_image_files_with_their_labels(tmp_path: Path) -> None:
    site = folder(tmp_path / "site", "one.png,b,p1", "one.png,a,p1")
    table = ImageDomain().read(site, COLOURED, unit="person", records_per_unit=2)
    expected = np.moveaxis(np.arange(24).reshape(2, 4, 3), -1, 0).ravel()
    np.testing.assert_array_equal(table.records, [[*expected, 1], [*expected, 0]])
    assert table.units.tolist() == [0, 0]
    assert table.names == {"file", "kind", "person"}


def test_reads_jpeg_files_and_turns_colours_into_grey_where_the_schema_says_so(tmp_path: Path) -> None:
    site = folder(tmp_path / "site", "one.jpg,b,p1", name="one.jpg")
    grey = (ArrayColumn(name="photo", shape=(1, 2, 4), lower=0, upper=255), COLOURED[1])
    assert ImageDomain().read(site, grey, unit=None, records_per_unit=1).records.shape == (1, 9)


@pytest.mark.parametrize(
    ("changes", "line", "message"),
    [
        ({}, "secret.png,a,p", "1 row(s) with a file that is not in the folder"),
        ({}, "../outside.png,a,p", "1 row(s) with a file that is not in the folder"),
        ({}, "labels.csv,a,p", "1 row(s) with a file that is no PNG or JPEG image"),
        ({"size": (5, 2)}, "one.png,a,p", "1 row(s) with an image of another size than the schema's"),
        ({"mode": "I;16"}, "one.png,a,p", "1 row(s) with an image of more than 8 bits"),
        ({"name": "one.gif"}, "one.gif,a,p", "1 row(s) with a file that is no PNG or JPEG image"),
        ({}, "one.png,secret,p", "column 'kind' has 1 row(s) with a value that is not among its categories"),
    ],
)
def test_an_image_file_that_does_not_fit_is_counted_and_not_named(
    tmp_path: Path, changes: Any, line: str, message: str
) -> None:
    (tmp_path / "outside.png").write_bytes(b"")
    problem = problem_of(folder(tmp_path / "site", line, **changes), COLOURED)
    assert message in problem
    assert "secret" not in problem


def test_an_image_that_states_huge_dimensions_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    site = folder(tmp_path / "site", "one.png,a,p")
    content = bytearray((site / "one.png").read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    (site / "one.png").write_bytes(content)
    assert "1 row(s) with a file that is no PNG or JPEG image" in problem_of(site, COLOURED)


@pytest.mark.parametrize(
    "columns",
    [
        (ArrayColumn(name="images", shape=(8, 8), lower=0, upper=16), DIGIT),
        (ArrayColumn(name="images", shape=(2, 8, 8), lower=0, upper=16), DIGIT),
        (DIGIT,),
    ],
)
def test_a_schema_of_other_data_is_refused(columns: tuple[Column, ...]) -> None:
    with pytest.raises(ConfigError, match="columns: "):
        ImageDomain().check(columns)


@pytest.mark.parametrize(
    ("column", "dtype"),
    [
        (PIXELS, np.uint8),
        (PIXELS.model_copy(update={"lower": -300.0}), np.int16),
        (PIXELS.model_copy(update={"lower": 0.1, "upper": 0.7, "decimals": 3}), np.float32),
        (PIXELS.model_copy(update={"decimals": 9}), np.float64),
        (PIXELS.model_copy(update={"lower": 0.2, "upper": 0.8}), np.float32),
    ],
)
def test_what_is_written_reads_back_within_the_bounds(tmp_path: Path, column: ArrayColumn, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    columns = (DIGIT, column)
    records = np.column_stack([rng.integers(10, size=5), rng.uniform(column.lower, column.upper, (5, 64))])
    records[0, 1:3] = column.lower, column.upper
    ImageDomain().write(tmp_path / "out.npz", columns, [records[:2], records[2:]])
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        assert (file["images"].shape, file["images"].dtype) == ((5, 1, 8, 8), np.dtype(dtype))
        assert file["labels"].dtype.kind == "i"
    again = ImageDomain().read(tmp_path / "out.npz", columns, unit=None, records_per_unit=1).records
    np.testing.assert_array_equal(again[:, 0], records[:, 0])
    slack = 0.5 * 10.0**-column.decimals + 1e-6
    np.testing.assert_allclose(again, records, rtol=0, atol=slack)


def test_a_missing_label_is_written_as_the_empty_text(tmp_path: Path) -> None:
    columns = (PIXELS, DIGIT.model_copy(update={"missing": True}))
    records = np.column_stack([np.zeros((2, 64)), [np.nan, 7]])
    ImageDomain().write(tmp_path / "out.npz", columns, [records])
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        assert file["labels"].tolist() == ["", "7"]


def test_a_schema_drafted_from_arrays_reads_them(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", split=np.array(["train", "test"] * (ROWS // 2)))
    drafted = ImageDomain().draft(path, exclude={"split"})
    assert drafted == COLUMNS
    ImageDomain().check(drafted)
    assert len(ImageDomain().read(path, drafted, unit=None, records_per_unit=1).records) == ROWS


def test_bytes_are_drafted_with_their_whole_range_and_reals_with_decimals(tmp_path: Path) -> None:
    images, _ = digits()
    path = save(tmp_path / "a.npz", images=(images * 15).astype(np.uint8)[..., None].repeat(3, axis=-1))
    pixels = ImageDomain().draft(path)[0]
    assert pixels == ArrayColumn(name="images", shape=(3, 8, 8), lower=0, upper=255)
    pixels = ImageDomain().draft(save(tmp_path / "b.npz", images=images / 17))[0]
    assert pixels == ArrayColumn(name="images", shape=(1, 8, 8), lower=0, upper=0.95, decimals=4)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"more": np.zeros((ROWS, 8, 8))}, r"more than one array of images \('images' and 'more'\)"),
        ({"images": np.arange(ROWS)}, "has no array of images"),
        ({"age": np.zeros(ROWS)}, "'age' must be one whole number or text.*drop it with `--drop age`"),
        ({"box": np.zeros((ROWS, 4), dtype=int)}, "'box' is not one value for each record"),
        ({"key": np.arange(ROWS)}, "'key' has 30 different values in 30 rows, which is no label"),
        ({"images": np.full((ROWS, 8, 8), np.inf)}, "'images' must hold finite numbers"),
        ({"images": np.full((ROWS, 8, 8), 0.0)}, "'images' holds one number only"),
    ],
)
def test_an_array_that_cannot_be_learnt_is_named_with_its_remedy(tmp_path: Path, arrays: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ImageDomain().draft(save(tmp_path / "a.npz", **arrays))


def test_only_arrays_that_exist_can_be_dropped(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no column 'unknown' to drop"):
        ImageDomain().draft(save(tmp_path / "a.npz"), exclude={"unknown"})


def test_a_schema_drafted_from_a_folder_reads_it(tmp_path: Path) -> None:
    site = folder(tmp_path / "site", "one.png,b,p1", "one.png,a,p2")
    drafted = ImageDomain().draft(site, exclude={"person"})
    assert drafted == (ArrayColumn(name="image", shape=(3, 2, 4), lower=0, upper=255), COLOURED[1])
    assert len(ImageDomain().read(site, drafted, unit="person", records_per_unit=1).records) == 2


@pytest.mark.parametrize(
    ("header", "message"), [("name,kind", "lacks column 'file'"), ("file,kind", "is not a PNG or JPEG image")]
)
def test_a_folder_that_cannot_be_drafted_is_refused(tmp_path: Path, header: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text(header + "\nnone.png,a\n")
    with pytest.raises(ConfigError, match=message):
        ImageDomain().draft(tmp_path)


def test_a_picture_has_one_tile_per_record_and_a_caption_where_a_row_has_one_label() -> None:
    images, labels = digits()
    order = np.argsort(labels, kind="stable")
    records = np.column_stack([images.reshape(ROWS, 64), labels])[order]
    drawn = ImageDomain().picture(COLUMNS, records[:6], 3)
    assert drawn is not None
    with Image.open(io.BytesIO(drawn)) as picture:
        assert picture.format == "PNG"
        tile = 56 + 4
        assert picture.height == 2 * tile + 4
        assert picture.width > 3 * tile + 4  # a caption stands before each row
    unlabelled = ImageDomain().picture(COLUMNS, records[[0, 9, 20]], 3)
    assert unlabelled is not None
    with Image.open(io.BytesIO(unlabelled)) as picture:
        assert picture.size == (3 * tile + 4, tile + 4)
        grey = np.asarray(picture.convert("L"))[4 + 3 : 60 : 7, 4 + 3 : 60 : 7]
    expected = np.rint(255 * records[0, :64].reshape(8, 8) / 16)
    np.testing.assert_allclose(grey, expected, atol=1)


def test_no_record_gives_no_picture_and_large_images_are_reduced() -> None:
    assert ImageDomain().picture(COLUMNS, np.zeros((0, 65)), 3) is None
    large = (ArrayColumn(name="photo", shape=(3, 400, 200), lower=0, upper=1),)
    drawn = ImageDomain().picture(large, np.full((1, 3 * 400 * 200), 0.5), 1)
    assert drawn is not None
    with Image.open(io.BytesIO(drawn)) as picture:
        assert picture.size == (4 + 80 + 4, 4 + 160 + 4)


def test_a_missing_library_is_named_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    (tmp_path / "labels.csv").write_text("file,kind\none.png,a\n")
    (tmp_path / "one.png").write_bytes(b"")
    for use in (
        lambda: ImageDomain().picture(COLUMNS, np.zeros((0, 65)), 3),
        lambda: ImageDomain().read(tmp_path, COLOURED, unit=None, records_per_unit=1),
        lambda: ImageDomain().draft(tmp_path),
    ):
        with pytest.raises(ConfigError, match=r'needs? Pillow; run: pip install "synthfed\[pictures\]"'):
            use()


def test_arrays_that_do_not_fit_are_left_out_and_further_ones_never_read(tmp_path: Path) -> None:
    images, labels = digits()
    images, labels = images.copy(), labels.copy()
    images[0, 2, 2], images[3, 1, 1], labels[3], labels[5] = np.nan, 99, 77, 88
    path = save(tmp_path / "a.npz", images=images, labels=labels, more=np.array([{}] * 3, dtype=object))
    table = ImageDomain().read(path, COLUMNS, unit=None, records_per_unit=1, drop_invalid=True)
    fitting = np.delete(np.arange(ROWS), [0, 3, 5])
    np.testing.assert_array_equal(table.records, np.column_stack([images[fitting].reshape(-1, 64), labels[fitting]]))
    assert (table.dropped, table.units.tolist()) == (3, list(range(ROWS - 3)))
    assert [problem.split(";")[0] for problem in table.problems] == [
        "array 'images' has 1 row(s) with a number that is not finite",
        "array 'images' has 1 row(s) with a number out of bounds",
        "array 'labels' has 2 row(s) with a value that is not among its categories",
    ]


def test_image_files_that_do_not_fit_are_left_out_and_counted(tmp_path: Path) -> None:
    site = folder(tmp_path / "site", "one.png,a,p1", "none.png,a,p2", "one.png,secret,p3", "one.png,b,p4")
    table = ImageDomain().read(site, COLOURED, unit="person", records_per_unit=1, drop_invalid=True)
    assert table.records[:, -1].tolist() == [0, 1]
    assert (table.dropped, table.units.tolist(), len(table.problems)) == (2, [0, 1], 2)
