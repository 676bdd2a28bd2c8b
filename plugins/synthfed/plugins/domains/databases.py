"""Tables in databases: the columns asked for of one table or query, read once, in a transaction that cannot write.

Never connects over a network, never to a server that lets anybody in, and never shows what a database answers.
"""

import os
import sqlite3
import tomllib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self
from uuid import UUID

import numpy as np
from pydantic import Field, ValidationError, model_validator

from synthfed.protocols.errors import ConfigError, describe
from synthfed.protocols.schema import Strict

from ..files import read_text
from .parts import MISSING, Cells, Form, Part, check_names, finite, number_text, numbers_of, unfit_type

if TYPE_CHECKING:
    from sqlalchemy import ColumnClause, Connection, Engine, Select
    from sqlalchemy.engine import URL

_AT_ONCE: Final = 512  # rows: so few stay in the processor's cache while they are turned into columns
_CONNECT_S: Final = 10
_JOURNALS: Final = ("-wal", "-shm", "-journal")  # files beside a SQLite database that hold parts of it
_NUMBERS: Final = frozenset((int, float, bool, Decimal, type(None)))
_NAMES: Final = frozenset((int, str, type(None), date, UUID))
_TEXTS: Final = _NAMES | {bool, float, Decimal}
_POSTGRES: Final = "postgresql+psycopg://USER:PASSWORD@/DATABASE?host=/FOLDER/OF/ITS/SOCKET"
_HOW: Final = f'url = "{_POSTGRES}" or "sqlite:///FILE"'


class Place(Strict):
    """The content of a file that says where in a database a table is; it holds a password and is private (0600)."""

    format: Literal[1]
    url: str
    table: str = ""
    inside: Annotated[str, Field(alias="schema")] = ""
    query: str = ""

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if bool(self.table) == bool(self.query):
            raise ValueError("needs either `table` or `query`")
        if self.inside and not self.table:
            raise ValueError("has a `schema` without a `table`")
        return self


class DatabaseSource:
    """An open table or query of a database; NULL and the empty text are missing values."""

    def __init__(self, path: Path, place: Place, connection: "Connection") -> None:
        """Look up the columns' names: a table's in the catalogue, a query's in an empty result."""
        self._path, self._place, self._connection = path, place, connection
        self.names: Sequence[str] = self._names()

    def parts(self, wanted: Mapping[str, Form]) -> Iterator[Part]:
        """Yield the rows in parts; see `Source`. The statement names the wanted columns and no other."""
        from sqlalchemy import column, select, table, text
        from sqlalchemy.sql import quoted_name

        check_names(str(self._path), self.names, list(wanted))
        columns: list[ColumnClause[Any]] = [column(quoted_name(name, quote=True)) for name in wanted]
        if self._place.query:
            source = text(_verbatim(self._place.query)).columns(*columns).subquery("source")
            statement = select(*source.c)
        else:
            inside = quoted_name(self._place.inside, quote=True) if self._place.inside else None
            named = table(quoted_name(self._place.table, quote=True), *columns, schema=inside)
            statement = select(*named.c)
        with self._connection.execution_options(yield_per=_AT_ONCE).execute(statement) as result:
            for rows in result.partitions():
                cells = [
                    _cells(self._path, name, form, values)
                    for (name, form), values in zip(wanted.items(), zip(*rows, strict=True), strict=True)
                ]
                yield Part(cells)

    def _names(self) -> list[str]:
        from sqlalchemy import false, inspect, literal_column, select, text

        if self._place.query:
            source = text(_verbatim(self._place.query)).columns().subquery("source")
            nothing: Select[Any] = select(literal_column("*")).select_from(source).where(false())
            return list(self._connection.execute(nothing).keys())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # at a type that SQLAlchemy does not know, of a column that may not matter
            columns = inspect(self._connection).get_columns(self._place.table, schema=self._place.inside or None)
        return [each["name"] for each in columns]


@contextmanager
def open_database(path: Path) -> Iterator[DatabaseSource]:
    """Open the table that a file describes; the connection is closed when this is left.

    Raises:
        ConfigError: the file is wrong or others can read it, the database cannot be reached or read, it asks for
            no password, or SQLAlchemy or the driver is not installed.
    """
    place = _load(path)
    engine = _engine(path, _url(path, place))
    from sqlalchemy.exc import NoSuchTableError, SQLAlchemyError

    try:
        with _connected(path, engine) as connection, connection.begin():
            yield DatabaseSource(path, place, connection)
    except NoSuchTableError:
        raise ConfigError(
            "the database has no such table that this user may see; check `schema` and `table`", where=str(path)
        ) from None
    except (SQLAlchemyError, sqlite3.Error, UnicodeDecodeError) as error:  # the last where a name is not UTF-8
        raise ConfigError(
            f"the database refuses to read the table or query ({_kind(error)}); try it with the database's own program",
            where=str(path),
        ) from None
    finally:
        engine.dispose()


def files_behind(path: Path) -> list[Path]:
    """Return the files of a SQLite database that a description names; none where there is none that this user can read.

    Raises:
        ConfigError: the description is wrong.
    """
    if path.suffix != ".toml" or not os.access(path, os.R_OK):
        return []
    url = _url(path, _load(path))
    if url.get_backend_name() != "sqlite":
        return []
    file = _sqlite_file(path, url)
    return [file, *(file.with_name(file.name + end) for end in _JOURNALS)]


def table_behind(path: Path) -> str:
    """Return what tells the table that a description names from others, without user and password; else nothing.

    Raises:
        ConfigError: the description is wrong.
    """
    if path.suffix != ".toml":
        return ""
    place = _load(path)
    url = _url(path, place)
    is_file = url.get_backend_name() == "sqlite"
    where = str(_sqlite_file(path, url)) if is_file else f"{url.query['host']} {url.query.get('port')} {url.database}"
    return "\n".join((where, place.inside, place.table, place.query))


def _load(path: Path) -> Place:
    text = read_text(path, advice="it says where in a database the table is")
    if path.stat().st_mode & 0o077:
        raise ConfigError("can be read by others, and may hold a password; run `chmod 600` on it", where=str(path))
    try:
        return Place.model_validate(tomllib.loads(text))
    except ValidationError as error:
        raise ConfigError(describe(error), where=str(path)) from None
    except (ValueError, RecursionError):  # its words could quote the password
        raise ConfigError("is not valid TOML; mend it", where=str(path)) from None


def _url(path: Path, place: Place) -> "URL":
    """Return the database's address; ConfigError unless it is a file or a password at a Unix socket."""
    try:
        from sqlalchemy import make_url
        from sqlalchemy.exc import ArgumentError
    except ImportError:
        raise ConfigError('needs SQLAlchemy; run `pip install "synthfed[sql]"`', where=str(path)) from None
    try:
        url = make_url(place.url)
    except (ArgumentError, ValueError):
        raise ConfigError(f"url: is no database's address; give {_HOW}", where=str(path)) from None
    if url.get_backend_name() == "sqlite":
        if not url.database or "\0" in url.database or url.query or url.host:
            raise ConfigError('url: must be "sqlite:///FILE" and nothing more', where=str(path))
        return url
    if url.drivername != "postgresql+psycopg":
        raise ConfigError(f"url: is of a database that is not read; give {_HOW}, or a file", where=str(path))
    folder = url.query.get("host")
    is_socket = isinstance(folder, str) and folder.startswith("/") and "," not in folder
    if url.host or not is_socket or not set(url.query) <= {"host", "port"}:
        raise ConfigError(
            f'url: must reach the server by a Unix socket, as "{_POSTGRES}": the agent has no network; a server on '
            "another machine can be reached through a socket that `ssh -L` forwards",
            where=str(path),
        )
    if not url.password:
        raise ConfigError(
            "url: has no password; a database that asks for none lets the node in, too, in which a coordinator can "
            "run code",
            where=str(path),
        )
    return url


def _engine(path: Path, url: "URL") -> "Engine":
    from sqlalchemy import create_engine

    if url.get_backend_name() == "sqlite":
        address = f"{_sqlite_file(path, url).as_uri()}?mode=ro"
        return create_engine("sqlite://", creator=lambda: sqlite3.connect(address, uri=True), hide_parameters=True)
    try:
        return create_engine(
            url,
            connect_args={"connect_timeout": _CONNECT_S},
            isolation_level="REPEATABLE READ",
            execution_options={"postgresql_readonly": True},
            hide_parameters=True,
        )
    except ImportError:
        raise ConfigError('needs psycopg; run `pip install "synthfed[sql]"`', where=str(path)) from None


@contextmanager
def _connected(path: Path, engine: "Engine") -> Iterator["Connection"]:
    from sqlalchemy.exc import DBAPIError

    try:
        connection = engine.connect()
    except DBAPIError as error:
        raise ConfigError(
            f"the database cannot be reached, or refuses this user ({_kind(error)}); check `url`", where=str(path)
        ) from None
    with connection:
        if engine.dialect.name == "postgresql" and not _has_asked(connection):
            raise ConfigError(
                "the database asked for no password, so it lets the node in, too, in which a coordinator can run code; "
                "demand one of every user in its pg_hba.conf (scram-sha-256)",
                where=str(path),
            )
        yield connection


def _has_asked(connection: "Connection") -> bool:
    driver: Any = connection.connection.driver_connection
    return bool(driver.pgconn.used_password)


def _sqlite_file(path: Path, url: "URL") -> Path:
    """Return a database's file; a relative path starts where the description lies."""
    file = path.absolute().parent / Path(str(url.database)).expanduser()
    return file.resolve()


def _kind(error: Exception) -> str:
    """Return the class of an error and its code: what a database says in words could quote a record."""
    code = getattr(getattr(error, "orig", None), "sqlstate", None)
    return f"{type(error).__name__} {code}" if code else type(error).__name__


def _verbatim(query: str) -> str:
    """Return a query in which no colon stands for a parameter."""
    return query.strip().rstrip(";").replace(":", "\\:")


def _cells(path: Path, name: str, form: Form, values: Sequence[Any]) -> Cells:
    """Return a column of what the driver returned in the form wanted; DataError where a type has no such form."""
    kinds = set(map(type, values))
    if form == "number":
        if kinds <= _NUMBERS:
            return finite(np.array(values, dtype=np.float64), lambda row: values[row] is None)
        if kinds <= {*_NUMBERS, str}:
            return numbers_of([MISSING if value is None else str(value) for value in values])
        raise unfit_type(path, name, _named(kinds - _NUMBERS - {str}), form)
    if kinds <= {str}:
        return values
    # A decimal that names a unit must be whole: 1 and 1.0 are one number, and would be two units.
    whole = {Decimal} if all(map(_is_whole, values)) else set()
    allowed = _TEXTS if form == "text" else _NAMES | whole
    if not kinds <= allowed:
        raise unfit_type(path, name, _named(kinds - allowed), form)
    return [_text(value) for value in values]


def _is_whole(value: object) -> bool:
    return not isinstance(value, Decimal) or value.as_tuple().exponent == 0


def _named(kinds: set[type]) -> str:
    return ", ".join(sorted(kind.__name__ for kind in kinds))


def _text(value: object) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return number_text(value)
    return value.isoformat() if isinstance(value, date) else str(value)
