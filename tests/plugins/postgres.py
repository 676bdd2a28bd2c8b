"""A real PostgreSQL server of its own for tests, on a Unix socket alone, that asks for passwords."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

OWNER = "owner"
PASSWORD = "pass:w/rd"  # noqa: S105  (of a server that ends with the test)
_WITHIN_S = 30.0


class Unavailable(Exception):
    """There is no server here, or it cannot run; says why."""


@dataclass(frozen=True)
class Server:
    """A running server: the folder of its socket."""

    folder: Path

    def run(self, *statements: Any) -> list[Any]:
        """Run statements as the owner and return the rows of the last."""
        with self._connect() as connection:
            for statement in statements:
                result = connection.execute(statement)
            return result.fetchall() if result.description else []

    def copy(self, statement: Any, file: Path) -> None:
        """Run a `copy ... from stdin` statement with a file's content."""
        with self._connect() as connection, connection.cursor().copy(statement) as copy, file.open("rb") as source:
            while block := source.read(2**20):
                copy.write(block)

    def _connect(self) -> Any:
        import psycopg

        return psycopg.connect(host=str(self.folder), user=OWNER, password=PASSWORD, dbname="postgres")


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """Start a server from the package `pgserver` and stop it in the end; Unavailable where none can run."""
    found = find_spec("pgserver")  # not imported: it would start a server by its own rules, without passwords
    if found is None or found.origin is None:
        raise Unavailable("pgserver is not installed")
    programs = Path(found.origin).parent / "pginstall/bin"
    # Short, for a Unix socket, and open to the other user that a server needs where tests run as root.
    folder = Path(tempfile.mkdtemp(prefix="synthfed-pg-", dir="/tmp"))
    other: dict[str, Any] = {}
    if os.geteuid() == 0:
        other = {"user": "nobody", "group": "nogroup", "extra_groups": ()}
        shutil.chown(folder, "nobody")
    try:
        (folder / "password").write_text(PASSWORD)
        (folder / "password").chmod(0o644)
        made: Sequence[str] = (f"--username={OWNER}", f"--pwfile={folder / 'password'}", "--auth=scram-sha-256")
        _run([programs / "initdb", "-D", folder / "data", "--encoding=utf8", "--no-sync", *made], other)
        settings = ("-c", "listen_addresses=", "-c", f"unix_socket_directories={folder}", "-c", "fsync=off")
        log = (folder / "log").open("wb")
        server = subprocess.Popen(
            [programs / "postgres", "-D", folder / "data", *settings], cwd=folder, stdout=log, stderr=log, **other
        )
        try:
            _await(server, folder)
            yield Server(folder)
        finally:
            server.terminate()
            server.wait(_WITHIN_S)
            log.close()
    finally:
        shutil.rmtree(folder)


def _run(command: Sequence[str | Path], other: dict[str, Any]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", **other)
    except (OSError, LookupError) as error:
        raise Unavailable(f"PostgreSQL cannot be started here: {error}") from None
    if done.returncode != 0:
        raise Unavailable(f"PostgreSQL cannot be started here: {done.stderr.strip().splitlines()[-1:]}")


def _await(server: subprocess.Popen[bytes], folder: Path) -> None:
    until = time.monotonic() + _WITHIN_S
    while not (folder / "data/postmaster.pid").exists() or "ready" not in (folder / "data/postmaster.pid").read_text():
        if server.poll() is not None or time.monotonic() > until:
            raise Unavailable(f"PostgreSQL does not start here: {(folder / 'log').read_text().splitlines()[-1:]}")
        time.sleep(0.05)
