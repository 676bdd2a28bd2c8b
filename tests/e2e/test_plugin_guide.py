"""The plugin guide's commands and snippets, in their order, as an author would copy them."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/plugin-guide.md").read_text(encoding="utf-8")
INSTALL = 'pip install -e ".[test]"'
SCRIPTS = """set -e
pytest() { python -m pytest "$@"; }
synthfed() { python -m synthfed.plugins.cli "$@"; }
"""


def script() -> str:
    """Return the guide's blocks as one script; those in Python are fed to the interpreter."""
    blocks = re.findall(r"^```(bash|python)\n(.*?)^```", GUIDE, flags=re.DOTALL | re.MULTILINE)
    fed = [body if kind == "bash" else f"python - <<'GUIDE'\n{body}GUIDE\n" for kind, body in blocks]
    assert len(fed) >= 7
    return SCRIPTS + "\n".join(fed).replace(INSTALL, f'python "{__file__}"')


def lay_out(package: Path, site: Path) -> None:
    """Install a package as pip would, without the network: its metadata, and the way to its sources."""
    project = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    lines = [f"Name: {project['name']}", f"Version: {project['version']}"]
    lines += [f"Requires-Dist: {each}" for each in project["dependencies"]]
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines, ""]))
    points = [
        f"[{group}]\n" + "\n".join(f"{name} = {target}" for name, target in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(points) + "\n")
    for each in (package / "src").iterdir():
        (site / each.name).symlink_to(each)


def test_the_guide_works_as_written(tmp_path: Path) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    site.mkdir()
    work.mkdir()
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(paths),
        "GUIDE_SITE": str(site),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash"], input=script(), cwd=work, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "150 passed" in done.stdout
    assert "MyChain: 150 of 150 passed" in done.stdout
    assert "failed     gradient-of-a-unit-is-its-own" in done.stdout
    assert "generated code; its generator is documented" in done.stdout
    assert "age,smoker,sick" in done.stdout
    assert (work / "synthfed-my-chain/release/report.html").is_file()
    assert "Traceback" not in done.stderr


if __name__ == "__main__":
    lay_out(Path.cwd(), Path(os.environ["GUIDE_SITE"]))
