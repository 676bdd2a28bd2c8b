"""A run's folder: checkpoints all or nothing, one study each, and a status for people."""

import json
import os
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.study import Study, parse_study
from synthfed.server.store import Run, Status, Tally

STUDY = """
format = 1
name = "stored"
target = "ill"
[privacy]
mode = "local"
epsilon = 2.0
delta = 1e-6
units_per_site = 100
sample_rate = 0.5
steps = 3
[model]
plugin = "tabular-gan"
[cohort]
tolerated = 1
quorum = 2
sites = [{ id = "a" }, { id = "b" }]
[[columns]]
kind = "categorical"
name = "ill"
values = ["no", "yes"]
"""
STATE: dict[str, Any] = {
    "weights": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4).T,
    "moments": np.arange(5, dtype=np.float64),
    "empty": np.empty(0, dtype=np.float32),
    "steps": np.array([7, 1], dtype=np.int64),
    "rng": np.arange(16, dtype=np.uint8),
}


@pytest.fixture
def study() -> Study:
    return parse_study(STUDY, where="test")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.begin(tmp_path / "runs" / "stored", STUDY, {"seed": 3, "wait_all_s": 1.5}, resume=False)


def tally() -> Tally:
    return Tally(
        attempts=Counter(marginals=2, critic=5),
        released=Counter(marginals=2, critic=4),
        charged={"a": Counter(critic=5), "b": Counter()},
        history=[{"step": 1.0, "loss": 0.1 + 0.2}, {"step": 2.0}],
        started="2026-01-01T00:00:00+00:00",
        seconds=1.25,
    )


def checkpoint(run: Run) -> Path:
    return run.folder / "checkpoint.safetensors"


def header(file: Path) -> tuple[dict[str, Any], bytes]:
    data = file.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def rewrite_header(file: Path, fields: dict[str, Any], body: bytes) -> None:
    text = json.dumps(fields).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + body)


def test_a_checkpoint_comes_back_exactly(run: Run, study: Study) -> None:
    assert run.load(study) is None
    run.save(study, STATE, tally())
    loaded = run.load(study)
    assert loaded is not None
    state, counted = loaded
    assert set(state) == set(STATE)
    for name, array in STATE.items():
        assert state[name].dtype == array.dtype
        assert np.array_equal(state[name], array)
    assert counted == tally()
    assert counted.attempts["unheard-of"] == 0  # still a Counter
    assert counted.charged["b"]["critic"] == 0


def test_a_later_checkpoint_replaces_an_earlier_one(run: Run, study: Study) -> None:
    run.save(study, STATE, tally())
    run.save(study, {"weights": np.zeros(2)}, Tally())
    loaded = run.load(study)
    assert loaded is not None
    assert list(loaded[0]) == ["weights"]
    assert loaded[1] == Tally()
    assert not list(run.folder.glob(".*.part"))


def asked(attempts: int) -> Tally:
    return Tally(attempts=Counter(marginals=2, critic=attempts), charged={"a": Counter(critic=attempts)})


def test_a_round_that_was_asked_for_after_the_checkpoint_is_not_forgotten(run: Run, study: Study) -> None:
    run.save(study, STATE, tally())
    run.note_asked(asked(6))
    run.note_asked(asked(7))
    loaded = run.load(study)
    assert loaded is not None
    assert (loaded[1].attempts, loaded[1].charged) == (asked(7).attempts, asked(7).charged)
    assert (loaded[1].released, loaded[1].history) == (tally().released, tally().history)


def test_a_note_that_a_crash_tore_or_that_is_older_than_the_checkpoint_changes_nothing(run: Run, study: Study) -> None:
    run.save(study, STATE, tally())
    run.note_asked(asked(1))
    with (run.folder / "asked.jsonl").open("a") as file:
        file.write('{"attempts": {"critic": 99')
    loaded = run.load(study)
    assert loaded is not None
    assert loaded[1] == tally()


def test_a_checkpoint_takes_the_place_of_the_notes_before_it(run: Run, study: Study) -> None:
    run.save(study, STATE, tally())
    run.note_asked(asked(6))
    run.save(study, STATE, asked(6))
    assert (run.folder / "asked.jsonl").read_bytes() == b""


def test_a_note_that_cannot_be_written_stops_the_run_before_the_round_is_posted(run: Run) -> None:
    (run.folder / "asked.jsonl").mkdir()
    with pytest.raises(ConfigError, match=r"asked\.jsonl: cannot be written"):
        run.note_asked(tally())


def test_a_new_run_keeps_study_and_settings(run: Run, study: Study) -> None:
    assert run.study_text() == STUDY
    assert run.study() == study
    assert run.settings() == {"seed": 3, "wait_all_s": 1.5}
    assert run.status().phase == "waiting"


def test_a_run_is_begun_once_and_gone_on_with_by_resume_alone(run: Run) -> None:
    with pytest.raises(ConfigError, match="go on with --resume"):
        Run.begin(run.folder, STUDY, {}, resume=False)
    assert run.settings() == {"seed": 3, "wait_all_s": 1.5}
    again = Run.begin(run.folder, STUDY, {"seed": 4}, resume=True)
    assert again.settings() == {"seed": 4}


def test_there_is_nothing_to_resume_in_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run to resume"):
        Run.begin(tmp_path, STUDY, {}, resume=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("attempts", "advice"), [(0, "it asked no site yet: leave out --resume"), (1, "a changed study needs a new name")]
)
def test_a_run_of_other_terms_is_refused_and_left_alone(run: Run, attempts: int, advice: str) -> None:
    if attempts:
        run.note_asked(asked(attempts))
    with pytest.raises(ConfigError, match=f"holds a run of other terms; {advice}"):
        Run.begin(run.folder, STUDY.replace("epsilon = 2.0", "epsilon = 4.0"), {}, resume=True)
    assert run.study_text() == STUDY
    assert run.settings() == {"seed": 3, "wait_all_s": 1.5}


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        Run.begin(tmp_path / "file" / "run", STUDY, {}, resume=False)


def test_a_checkpoint_of_other_terms_is_refused(run: Run, study: Study) -> None:
    run.save(study, STATE, tally())
    other = parse_study(STUDY.replace("steps = 3", "steps = 4"), where="test")
    with pytest.raises(ConfigError, match="was written for other terms"):
        run.load(other)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100, -1])
def test_a_truncated_checkpoint_is_refused_in_one_sentence(run: Run, study: Study, size: int) -> None:
    run.save(study, STATE, tally())
    checkpoint(run).write_bytes(checkpoint(run).read_bytes()[:size])
    with pytest.raises(ConfigError, match="restore it from a backup") as refused:
        run.load(study)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"\x00" * 100, b"\xff" * 100, b"PK\x03\x04 not a checkpoint", b"{}"])
def test_a_file_that_is_no_checkpoint_is_refused(run: Run, study: Study, content: bytes) -> None:
    checkpoint(run).write_bytes(content)
    with pytest.raises(ConfigError):
        run.load(study)


@pytest.mark.parametrize("changes", [{"format": "2"}, {"format": ""}, {"study": ""}])
def test_a_checkpoint_of_another_format_is_refused(run: Run, study: Study, changes: dict[str, str]) -> None:
    run.save(study, STATE, tally())
    fields, body = header(checkpoint(run))
    fields["__metadata__"] |= changes
    rewrite_header(checkpoint(run), fields, body)
    with pytest.raises(ConfigError, match="another version"):
        run.load(study)


def test_interrupted_writes_do_no_harm(run: Run, study: Study) -> None:
    run.save(study, STATE, tally())
    for name in ("checkpoint.safetensors", "study.toml", "settings.json"):
        (run.folder / f".{name}.part").write_bytes(b"half")
    (run.folder / ".status.1.part").write_bytes(b"half")
    assert run.load(study) is not None
    assert run.study() == study
    run.save(study, STATE, Tally())
    loaded = run.load(study)
    assert loaded is not None
    assert loaded[1] == Tally()


def test_a_write_that_fails_leaves_the_last_checkpoint(run: Run, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    run.save(study, STATE, tally())

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ConfigError, match="No space"):
        run.save(study, {}, Tally())
    loaded = run.load(study)
    assert loaded is not None
    assert loaded[1] == tally()


def test_a_status_comes_back_with_who_wrote_it(run: Run) -> None:
    status = Status("training", "sum 'critic'", step=3, steps=9, sites={"a": {"present": True, "epsilon": 0.5}})
    run.report(status)
    read = run.status()
    assert (read.phase, read.step, read.sites) == ("training", 3, {"a": {"present": True, "epsilon": 0.5}})
    assert read.pid == os.getpid()
    assert read.at_unix_s > 0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"unknown": 1}', b"\xff\xfe", b"null"])
def test_a_damaged_status_reads_as_none_yet(run: Run, content: bytes) -> None:
    (run.folder / "status.json").write_bytes(content)
    assert run.status() == Status()


@pytest.mark.parametrize("damaged", [None, "", "{", "[]", "{}"])
def test_a_checkpoint_with_a_damaged_tally_is_refused_in_one_sentence(
    run: Run, study: Study, damaged: str | None
) -> None:
    run.save(study, STATE, tally())
    fields, body = header(checkpoint(run))
    del fields["__metadata__"]["tally"]
    if damaged is not None:
        fields["__metadata__"]["tally"] = damaged
    rewrite_header(checkpoint(run), fields, body)
    with pytest.raises(ConfigError):
        run.load(study)


def test_a_checkpoint_with_a_flipped_bit_is_refused(run: Run, study: Study) -> None:
    run.save(study, STATE, tally())
    data = bytearray(checkpoint(run).read_bytes())
    data[-1] ^= 1
    checkpoint(run).write_bytes(data)
    with pytest.raises(ConfigError):
        run.load(study)


def test_a_damaged_study_file_of_a_run_is_one_error(run: Run) -> None:
    (run.folder / "study.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError):
        Run.begin(run.folder, STUDY, {}, resume=True)


def test_any_flipped_bit_of_a_checkpoint_is_refused(run: Run, study: Study) -> None:
    run.save(study, STATE, tally())
    whole = checkpoint(run).read_bytes()
    for position in range(0, len(whole), 7):
        data = bytearray(whole)
        data[position] ^= 1 << position % 8
        checkpoint(run).write_bytes(data)
        with pytest.raises(ConfigError):
            run.load(study)
