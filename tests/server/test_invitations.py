"""The coordinator goes on to invite nodes after a moment in which the SuperLink failed."""

import time
from pathlib import Path
from typing import Any

import pytest

from synthfed.server.app import _Sessions
from synthfed.server.certificates import write_certificates


class FailingGrid:
    """Flower's side, which fails at first and then knows of no node."""

    def __init__(self, failures: int) -> None:
        self.failures, self.answers = failures, 0

    def get_node_ids(self) -> list[int]:
        if self.failures:
            self.failures -= 1
            raise OSError("500 Internal Server Error")
        self.answers += 1
        return []


def test_a_superlink_that_fails_for_a_moment_does_not_end_the_invitations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("synthfed.server.app._RETRY_S", 0.01)
    write_certificates(tmp_path, ["127.0.0.1"])
    files = {"certificate": tmp_path / "server.crt", "key": tmp_path / "server.key"}
    grid: Any = FailingGrid(failures=2)
    sessions = _Sessions(grid, {"steps_bind": "127.0.0.1:0", "steps_address": "127.0.0.1:1", **files}, frozenset({"a"}))
    deadline = time.monotonic() + 10
    while not grid.answers and time.monotonic() < deadline:
        time.sleep(0.02)
    sessions.close()
    assert grid.answers
    assert caplog.text.count("the SuperLink could not be asked (OSError); asking again") == 2
