"""The README's commands, as a reader would copy them."""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def section(title: str) -> list[str]:
    """Return the bash blocks of one section of the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    body = text.split(f"## {title}\n")[1].split("\n## ")[0]
    return re.findall(r"```bash\n(.*?)```", body, flags=re.DOTALL)


def test_two_sites_by_hand_works_as_written(left_over: Callable[[str], list[str]]) -> None:
    folder = Path(tempfile.mkdtemp(prefix="synthfed-readme-", dir="/tmp"))
    script = "set -e\n" + "\n".join(section("Two sites by hand")) + "\nwait\n"
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(folder)}
    try:
        done = subprocess.run(
            ["bash"],
            input=script,
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "not ok" not in done.stdout
        assert "Traceback" not in done.stderr
        lab = folder / "lab"
        assert len((lab / "more.csv").read_text().splitlines()) == 100_001
        assert (lab / "release/report.html").stat().st_size < 5 * 2**20
        assert (lab / "simulated/synthetic.csv").read_text().startswith("age,sex,pressure,smoker,sick\n")
        assert not left_over(str(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
