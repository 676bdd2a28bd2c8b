"""The architecture checks itself: arrows, entry points, imports of the help page, sizes of files."""

import ast
import inspect
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from synthfed.plugins import api
from synthfed.server.simulate import SiteInMemory

ROOT = Path(__file__).parent.parent
SOURCES = sorted(path for part in ("protocols", "plugins", "client", "server") for path in (ROOT / part).rglob("*.py"))
LONGEST = 400


def imports_of(path: Path) -> set[str]:
    """Return the top-level packages that a file imports, at any depth of nesting."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def files_that_import(package: str) -> set[str]:
    return {path.relative_to(ROOT).as_posix() for path in SOURCES if package in imports_of(path)}


def test_flower_is_imported_in_the_two_apps_only() -> None:
    assert files_that_import("flwr") == {
        "client/synthfed/client/app.py",
        "server/synthfed/server/app.py",
    }


def test_grpc_is_imported_in_the_step_service_and_the_relay_only() -> None:
    assert files_that_import("grpc") == {
        "client/synthfed/client/relay.py",
        "server/synthfed/server/stream.py",
    }


def test_opacus_is_imported_where_gradients_are_clipped_only() -> None:
    assert files_that_import("opacus") == {"client/synthfed/client/train.py"}


@pytest.mark.parametrize(
    ("package", "reader"), [("pyarrow", "parquet_files"), ("sqlalchemy", "databases"), ("sqlite3", "databases")]
)
def test_a_source_of_tables_is_imported_by_its_reader_only(package: str, reader: str) -> None:
    readers = {name for name in files_that_import(package) if name.startswith("plugins/")}
    assert readers == {f"plugins/synthfed/plugins/domains/{reader}.py"}


def test_typer_is_imported_by_command_lines_only() -> None:
    assert {Path(name).name for name in files_that_import("typer")} == {"cli.py"}


@pytest.mark.parametrize("package", ["pickle", "marshal", "shelve", "dill", "joblib"])
def test_nothing_unpickles(package: str) -> None:
    assert not files_that_import(package)


def test_nothing_evaluates_text_or_runs_a_shell() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = node.func.id if isinstance(node.func, ast.Name) else ""
                assert name not in {"eval", "exec", "compile"}, path
                assert not any(keyword.arg == "shell" for keyword in node.keywords), path


def test_the_agent_opens_no_network_connection() -> None:
    names = ["agent", "site", "data", "train", "gate", "vault", "anchor", "entries", "chain", "conversion"]
    names += ["policy", "rules", "hours", "books/audit_log", "books/lines", "books/statement", "books/cli"]
    names += [
        f"keys/{name}" for name in ("files", "identity", "modes", "passphrases", "rotation", "sealed", "succession")
    ]
    names += ["consent/standing", "consent/decisions", "consent/release", "books/looking"]
    names += ["admission", "dataset", "register", "reservation", "ledger_file", "limits"]
    for name in names:
        forbidden = {"socket", "ssl", "http", "urllib", "grpc", "flwr", "requests", "httpx"}
        assert not imports_of(ROOT / f"client/synthfed/client/{name}.py") & forbidden


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_is_short_and_says_what_it_is_for_and_never_does(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= LONGEST
    docstring = ast.get_docstring(ast.parse(text)) or ""
    assert "Never" in docstring or "never" in docstring, "the module's docstring lacks its 'never' sentence"


@pytest.mark.parametrize("word", ["common", "utils", "misc", "helpers", "base", "manager"])
def test_no_file_has_a_name_that_says_nothing(word: str) -> None:
    assert not [path for path in SOURCES if path.stem == word]


def test_every_entry_point_loads() -> None:
    groups = ("commands", "sites", "models", "domains", "audits")
    points = [point for group in groups for point in metadata.entry_points(group=f"synthfed.{group}")]
    assert len(points) >= 11
    for point in points:
        assert callable(point.load()), point


PROTOCOLS: dict[str, type] = {
    "models": api.Model,
    "domains": api.Domain,
    "audits": api.Audit,
    "sites": SiteInMemory,
}


@pytest.mark.parametrize("group", PROTOCOLS)
def test_every_plugin_has_the_methods_of_its_contract_with_the_same_parameters(group: str) -> None:
    for point in metadata.entry_points(group=f"synthfed.{group}"):
        plugin = point.load()
        for name, wanted in inspect.getmembers(PROTOCOLS[group], inspect.isfunction):
            if name.startswith("_"):
                continue
            found = inspect.signature(getattr(plugin, name))
            assert list(found.parameters) == list(inspect.signature(wanted).parameters), f"{point.value}.{name}"


def test_the_help_page_loads_no_heavy_package() -> None:
    program = (
        "import sys; sys.argv = ['synthfed', '--help']\n"
        "from synthfed.plugins.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'opacus', 'flwr', 'pandas', 'numpy', 'scipy', 'grpc', 'pyarrow', 'sqlalchemy'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "simulate" in done.stdout


def test_the_diagrams_of_the_protocol_page_are_those_of_the_state_tables() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs/diagrams.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_import_contracts_hold() -> None:
    program = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run([program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("page", ["recovery.md", "security.md"])
def test_every_test_that_a_page_names_exists(page: str) -> None:
    named = set(re.findall(r"`(tests/[\w/.]+)`", (ROOT / "docs" / page).read_text(encoding="utf-8")))
    assert named
    assert not {name for name in named if not (ROOT / name).exists()}


def test_every_failure_that_the_page_on_recovery_tells_of_has_a_test() -> None:
    lines = (ROOT / "docs/recovery.md").read_text(encoding="utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")][1:]
    assert len(rows) >= 15
    for what, *_, tests in rows:
        assert re.search(r"`(T|D|tests/[\w/.]+)`", tests), what
