"""A table of a real PostgreSQL server: what is asked of it, what is refused, and how an agent reaches it."""

import contextlib
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from tests.plugins.postgres import PASSWORD, Server, Unavailable, running

from synthfed.plugins.api import Table
from synthfed.plugins.domains.table import TableDomain
from synthfed.protocols.errors import ConfigError, DataError
from synthfed.protocols.schema import Categorical, Integer, Real, Scalar

pytest.importorskip("psycopg")

COLUMNS: tuple[Scalar, ...] = (
    Categorical(name="ward", values=("north", "south"), missing=True),
    Integer(name="visits", lower=0, upper=20_000),
    Real(name='cost; "in" %s', lower=0.0, upper=2500.0, decimals=3),
    Categorical(name="smokes", values=("false", "true")),
    Categorical(name="admitted", values=("2024-03-01",), missing=True),
)
ROWS = 20_000
TABLE = f"""\
    create schema "Clinic";
    create table "Clinic".patients (
        person uuid, ward text, visits bigint, "cost; ""in"" %s" numeric(9, 3), smokes boolean, admitted date,
        note jsonb, seen timestamp, place point, born text
    );
    insert into "Clinic".patients
        select gen_random_uuid(), case i % 3 when 0 then 'north' when 1 then 'south' end, i, i / 8.0, i % 2 = 1,
            case when i % 5 = 0 then date '2024-03-01' end, '{{"a": 1}}', now(), point(1, 2), 'SECRET'
        from generate_series(0, {ROWS - 1}) as i;
    create role reader login password '{PASSWORD}';
    create role friend login password '{PASSWORD}';
    grant usage on schema "Clinic" to reader, friend;
    grant select on "Clinic".patients to friend;
    grant select (person, ward, visits, "cost; ""in"" %s", smokes, admitted) on "Clinic".patients to reader;
    create sequence counter;
    grant all on sequence counter to reader;
"""  # noqa: S608


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with contextlib.ExitStack() as stack:
        try:
            started = stack.enter_context(running())
        except Unavailable as error:
            pytest.skip(str(error))
        for statement in TABLE.split(";\n"):
            if statement.strip():
                started.run(statement.encode())
        yield started


def url(server: Server, user: str = "reader", password: str = PASSWORD) -> str:
    return f"postgresql+psycopg://{user}:{quote(password, safe='')}@/postgres?host={server.folder}"


@pytest.fixture
def path(tmp_path: Path, server: Server) -> Path:
    return describe(tmp_path / "site.toml", server, 'schema = "Clinic"\ntable = "patients"')


def describe(path: Path, server: Server, what: str, user: str = "reader", password: str = PASSWORD) -> Path:
    path.write_text(f'format = 1\nurl = "{url(server, user, password)}"\n{what}\n', encoding="utf-8")
    path.chmod(0o600)
    return path


def read(
    path: Path, columns: tuple[Scalar, ...] = COLUMNS, unit: str | None = "person", *, drop: bool = False
) -> Table:
    return TableDomain().read(path, columns, unit=unit, records_per_unit=1, drop_invalid=drop)


def test_a_table_is_read_as_the_schema_types_it(path: Path) -> None:
    table = read(path)
    records = table.records[np.argsort(table.records[:, 1])]
    number = np.arange(ROWS, dtype=np.float64)
    np.testing.assert_array_equal(records[:, 0], np.choose(np.arange(ROWS) % 3, [0, 1, np.nan]))
    np.testing.assert_array_equal(records[:, 1], number)
    np.testing.assert_array_equal(records[:, 2], number / 8)
    np.testing.assert_array_equal(records[:, 3], number % 2)
    np.testing.assert_array_equal(records[:, 4], np.where(number % 5 == 0, 0, np.nan))
    assert len(np.unique(table.units)) == ROWS
    assert {"note", "seen", "place", "born"} < table.names


def test_one_statement_asks_for_the_declared_columns_and_the_connection_is_closed(
    path: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """The user may read no other column, so that a wider statement would fail."""
    caplog.set_level(logging.INFO, "sqlalchemy.engine")
    read(path)
    asked = [" ".join(record.getMessage().split()) for record in caplog.records]
    selected = [text for text in asked if text.startswith("SELECT") and "Clinic" in text and "pg_catalog" not in text]
    own = '"Clinic"."patients"'
    names = ", ".join(
        f"{own}.{name}" for name in ('"ward"', '"visits"', '"cost; ""in"" %%s"', '"smokes"', '"admitted"')
    )
    assert selected == [f'SELECT {names}, {own}."person" FROM {own}']  # noqa: S608
    assert server.run("select count(*) from pg_stat_activity where usename = 'reader'") == [(0,)]


def test_rows_that_do_not_fit_are_counted_or_left_out(path: Path) -> None:
    narrow = (Integer(name="visits", lower=100, upper=ROWS - 11),)
    with pytest.raises(DataError) as caught:
        read(path, narrow, None)
    assert "has 100 row(s) with a value out of bounds (below them)" in str(caught.value)
    assert "has 10 row(s) with a value out of bounds (above them)" in str(caught.value)
    table = read(path, narrow, None, drop=True)
    assert (len(table.records), table.dropped) == (ROWS - 110, 110)


def test_a_query_is_read_by_the_declared_columns(tmp_path: Path, server: Server) -> None:
    query = """query = '''select visits::int as "Visits", ward, ':x' as more, 5 % 3 as rest
        from "Clinic".patients where ward = 'north';'''"""
    path = describe(tmp_path / "site.toml", server, query)
    table = read(path, (Integer(name="Visits", lower=0, upper=ROWS),), None)
    assert sorted(table.records[:, 0].tolist()) == [float(i) for i in range(0, ROWS, 3)]
    assert table.names == {"Visits", "ward", "more", "rest"}


def test_a_query_that_would_write_is_refused_by_the_database(tmp_path: Path, server: Server) -> None:
    path = describe(tmp_path / "site.toml", server, "query = \"select setval('counter', 7) as x\"")
    with pytest.raises(ConfigError, match=r"refuses to read the table or query \(InternalError 25006\)"):
        read(path, (Integer(name="x", lower=0, upper=9),), None)
    assert server.run("select last_value from counter") == [(1,)]


@pytest.mark.parametrize(
    ("column", "unit", "message"),
    [
        (Integer(name="admitted", lower=0, upper=9), None, "column 'admitted' is of type date, but the schema has a"),
        (Categorical(name="note", values=("a",)), None, "column 'note' is of type dict, but the schema has categories"),
        (Categorical(name="seen", values=("a",)), None, "column 'seen' is of type datetime, but the schema has"),
        (Integer(name="visits", lower=0, upper=9), "smokes", "column 'smokes' is of type bool, but it names units"),
        (Integer(name="visits", lower=0, upper=9), 'cost; "in" %s', "is of type Decimal, but it names units"),
    ],
)
def test_a_type_that_cannot_be_what_the_schema_says_is_refused(
    tmp_path: Path, server: Server, column: Scalar, unit: str | None, message: str
) -> None:
    path = describe(tmp_path / "site.toml", server, 'schema = "Clinic"\ntable = "patients"', "friend")
    with pytest.raises(DataError, match=message):
        read(path, (column,), unit)


def test_a_column_that_the_user_may_not_read_or_a_wrong_password_is_said_without_the_databases_words(
    path: Path, tmp_path: Path, server: Server
) -> None:
    with pytest.raises(ConfigError, match=r"refuses to read .* \(ProgrammingError 42501\)"):
        read(path, (Categorical(name="born", values=("a",)),), None)
    wrong = describe(tmp_path / "wrong.toml", server, 'schema = "Clinic"\ntable = "patients"', password="SECRET")  # noqa: S106
    with pytest.raises(ConfigError, match="cannot be reached, or refuses this user") as caught:
        read(wrong)
    assert "SECRET" not in str(caught.value)
    elsewhere = describe(tmp_path / "else.toml", Server(tmp_path), 'table = "patients"')
    with pytest.raises(ConfigError, match="cannot be reached"):
        read(elsewhere)


def test_a_server_that_asks_for_no_password_is_refused(path: Path, server: Server) -> None:
    """The node runs as the same user, and code of the coordinator could run in it."""
    rules = server.folder / "data/pg_hba.conf"
    before = rules.read_text()
    rules.write_text("local all reader trust\n" + before)
    server.run("select pg_reload_conf()")
    try:
        with pytest.raises(ConfigError, match="asked for no password, so it lets the node in, too"):
            until_reloaded(path)
    finally:
        rules.write_text(before)
        server.run("select pg_reload_conf()")


def until_reloaded(path: Path) -> None:
    """Read until it fails: the server takes its new rules a moment after it was asked to."""
    for _ in range(200):
        read(path)


def test_a_process_without_a_network_reads_through_the_socket(path: Path) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from synthfed.client.namespaces import leave_network\n"
        "if not leave_network(): sys.exit(77)\n"
        "from synthfed.plugins.domains.table import TableDomain\n"
        "from synthfed.protocols.schema import Integer\n"
        "columns = (Integer(name='visits', lower=0, upper=20_000),)\n"
        "table = TableDomain().read(Path(sys.argv[1]), columns, unit='person', records_per_unit=1)\n"
        "print(len(table.records))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("this kernel gives no network namespace")
    assert (done.returncode, done.stdout) == (0, f"{ROWS}\n"), done.stderr
