"""Distributions with plugins, laid out as pip would install them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from synthfed.plugins.distributions import fitting_range


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
