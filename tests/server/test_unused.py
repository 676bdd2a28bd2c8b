"""A run that asked no site for anything gives way to a new one, whole; any other stands."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.server.test_store import STUDY

from synthfed.protocols.errors import ConfigError
from synthfed.server.store import Run, Status, Tally
from synthfed.server.unused import put_aside

CHANGED = STUDY.replace("epsilon = 2.0", "epsilon = 4.0")
ASKED = Tally(attempts=Counter(critic=1), charged={"a": Counter(critic=1)})


def begin(folder: Path, text: str = STUDY) -> Run:
    return Run.begin(folder, text, {"seed": 3}, resume=False)


def save(run: Run, tally: Tally) -> None:
    run.save(run.study(), {"weights": np.zeros(2)}, tally)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "stored"


@pytest.mark.parametrize(
    "live",
    [lambda _: None, lambda run: save(run, Tally(started="2026-01-01")), lambda run: run.report(Status("failed"))],
    ids=["begun", "waited for sites", "failed"],
)
def test_a_run_that_asked_nothing_is_put_aside_with_every_file_and_a_new_one_begins(
    folder: Path, live: Callable[[Run], None]
) -> None:
    live(begin(folder))
    (folder / "own-notes.txt").write_text("by the operator", encoding="utf-8")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigError, match="already holds a run"):
        begin(folder, CHANGED)
    aside = put_aside(folder)
    assert aside == folder.with_name("stored~unused-1")
    assert {path.name: path.read_bytes() for path in aside.iterdir()} == before
    assert begin(folder, CHANGED).study_text() == CHANGED
    assert put_aside(folder) == folder.with_name("stored~unused-2")
    assert aside.exists()


@pytest.mark.parametrize(
    "live",
    [
        lambda run: run.note_asked(ASKED),
        lambda run: (run.folder / "asked.jsonl").write_text('{"att'),
        lambda run: (run.folder / "asked.jsonl").mkdir(),
        lambda run: save(run, ASKED),
        lambda run: run.report(Status("training", step=1)),
        lambda run: (run.folder / "checkpoint.safetensors").write_bytes(b"damaged"),
        lambda run: (run.folder / "study.toml").write_text("damaged"),
    ],
    ids=["asked", "note torn", "note unreadable", "checkpoint", "status", "checkpoint damaged", "study damaged"],
)
def test_a_run_that_asked_or_may_have_asked_stands(folder: Path, live: Callable[[Run], object]) -> None:
    live(begin(folder))
    assert put_aside(folder) is None
    with pytest.raises(ConfigError, match="already holds a run of this study, whose charges stand"):
        begin(folder)


def test_where_there_is_no_run_nothing_is_put_aside(folder: Path) -> None:
    assert put_aside(folder) is None
    folder.mkdir(parents=True)
    (folder / "other.txt").touch()
    assert put_aside(folder) is None
    assert folder.exists()


def test_a_folder_that_cannot_be_renamed_is_told_in_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(folder)

    def refused(_: Path, __: Path) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(ConfigError, match=r"stored: holds a run .* cannot be renamed: Read-only file system"):
        put_aside(folder)
