"""Files: read with a clear error, written all or nothing, folders as private as they were asked to be."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from synthfed.plugins.files import make_private_folder, read_text, sync, write_whole
from synthfed.protocols.errors import ConfigError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_text_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes("größe = 1\n".encode())
    assert read_text(tmp_path / "a.toml") == "größe = 1\n"


def test_a_file_that_is_not_there_is_named_with_the_reason_and_the_advice(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        read_text(tmp_path / "a.toml")
    assert str(refused.value) == f"{tmp_path / 'a.toml'}: cannot be read: No such file or directory"
    with pytest.raises(ConfigError, match=r"No such file or directory; make one$"):
        read_text(tmp_path / "a.toml", advice="make one")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_text(tmp_path)


def test_a_file_that_is_not_utf_8_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"a\.toml: is not UTF-8 text; save it as UTF-8$"):
        read_text(tmp_path / "a.toml")
    with pytest.raises(ConfigError, match=r"a\.toml: is not UTF-8 text; copy it again$"):
        read_text(tmp_path / "a.toml", advice="copy it again")


def test_a_file_is_written_in_parts_and_replaces_the_older_one(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    write_whole(path, [b"one\n"])
    write_whole(path, (part for part in (b"two\n", b"three\n")))
    assert path.read_bytes() == b"two\nthree\n"
    assert list(tmp_path.iterdir()) == [path]


def test_where_the_parts_end_in_an_error_the_older_file_stands_and_nothing_is_left(tmp_path: Path) -> None:
    def parts() -> Iterator[bytes]:
        yield b"half"
        raise ValueError("the writer failed")

    path = tmp_path / "a.csv"
    path.write_bytes(b"whole")
    with pytest.raises(ValueError, match="the writer failed"):
        write_whole(path, parts())
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def test_where_the_parts_are_interrupted_the_older_file_stands_and_nothing_is_left(tmp_path: Path) -> None:
    def parts() -> Iterator[bytes]:
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a.csv", parts())
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_an_error_of_the_operator(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a\.csv: cannot be written: No such file or directory; choose another"):
        write_whole(tmp_path / "no" / "a.csv", [b"x"])
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="folder: cannot be written: Is a directory"):
        write_whole(tmp_path / "folder", [b"x"])
    assert list(tmp_path.iterdir()) == [tmp_path / "folder"]
    with pytest.raises(ConfigError, match="cannot be written: Not a directory"):
        (tmp_path / "file").touch()
        write_whole(tmp_path / "file" / "a.csv", [b"x"])


def test_files_and_folders_can_be_put_on_disk(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    sync(tmp_path / "a")
    sync(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "b")


def test_a_private_folder_is_private_whatever_the_umask_and_may_be_asked_for_again(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        make_private_folder(tmp_path / "parent" / "home")
    finally:
        os.umask(old)
    assert mode(tmp_path / "parent" / "home") == 0o700
    make_private_folder(tmp_path / "parent" / "home")


@pytest.mark.parametrize("bits", [0o755, 0o710, 0o701])
def test_a_folder_that_others_can_enter_is_refused_and_stays_as_it_is(tmp_path: Path, bits: int) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home").chmod(bits)
    with pytest.raises(ConfigError, match="home: exists and can be entered by others; choose a new folder or `chmod"):
        make_private_folder(tmp_path / "home")
    assert mode(tmp_path / "home") == bits


def test_a_private_folder_where_a_file_is_in_the_way_is_an_error_of_the_operator(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file: cannot be made: File exists"):
        make_private_folder(tmp_path / "file")
    with pytest.raises(ConfigError, match="home: cannot be made: Not a directory"):
        make_private_folder(tmp_path / "file" / "home")


@pytest.mark.skipif(os.getuid() == 0, reason="root can write to any folder")
def test_a_private_folder_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o500)
    with pytest.raises(ConfigError, match="home: cannot be written to"):
        make_private_folder(tmp_path / "home")
