"""What all tests share: one thread for each process, the long tests first, and distributions with plugins."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from synthfed.plugins.distributions import fitting_range

# No test is a timed one: on a busy machine any example may take long.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# Before anything imports torch: threads of one process would only wait for the cores of the others.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slow tests first: one worker begins with them, and the other takes over what is left behind them."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def own_state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a register of data sets of its own: many have the same records, or copies of one home."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what audits of privacy proved beside what was claimed: a passed test alone would not tell how much."""
    for report in terminalreporter.getreports("passed"):
        for name, line in report.user_properties:
            if name == "audit":
                terminalreporter.write_line(f"epsilon by {line}")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that installs a distribution: its name, entry points, its one module's source, requirements."""

    def lay_out(name: str, points: str, source: str, *requires: str) -> Path:
        module = tmp_path / name / f"{name}.py"
        info = tmp_path / name / f"{name}-2.5.dist-info"
        info.mkdir(parents=True)
        lines = ["Metadata-Version: 2.1", f"Name: {name}", "Version: 2.5"]
        lines += [f"Requires-Dist: {each}" for each in requires or (f"synthfed{fitting_range()}",)]
        (info / "METADATA").write_text("\n".join(lines) + "\n")
        (info / "entry_points.txt").write_text(points)
        module.write_text(source)
        monkeypatch.syspath_prepend(str(module.parent))
        return module

    return lay_out
