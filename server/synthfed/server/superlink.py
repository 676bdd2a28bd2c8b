"""Runs Flower for a coordinator: SuperLink, SuperExec, enrolled nodes, and one run of the app.

Never exposes more than the ports of ``server.toml``, and leaves no process behind.
"""

import contextlib
import json
import secrets
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Final

from synthfed.plugins.processes import Child, close_all, flower_environment, program
from synthfed.protocols.errors import ConfigError, TransportError

from .home import ServerConfig, ServerHome

_FEDERATION: Final = "coordinator"
_START_S: Final = 60.0
_COMMAND_S: Final = 120.0


class SuperLink:
    """A running SuperLink with its own SuperExec."""

    def __init__(self, home: ServerHome, config: ServerConfig) -> None:
        """Remember the home; nothing runs yet."""
        self._home = home
        self._config = config
        self._local = f"127.0.0.1:{config.port}"
        path = home.path.absolute()
        self._environment = flower_environment(path / "flwr")
        authority, secret = str(path / "ca.crt"), str(path / "superexec.secret")
        superlink = [
            program("flower-superlink"),
            *("--host", config.bind, "--port", str(config.port)),
            *("--ssl-certfile", str(path / "server.crt"), "--ssl-keyfile", str(path / "server.key")),
            *("--ssl-ca-certfile", authority, "--enable-supernode-auth", "--database", str(path / "flower.db")),
            *("--isolation", "process", "--disable-runtime-dependency-installation"),
            *("--superexec-auth-secret-file", secret),
        ]
        superexec = [
            program("flower-superexec"),
            *("--runtime-api-address", self._local, "--root-certificates", authority),
            *("--superexec-auth-secret-file", secret),
        ]
        self._is_orphaned = False
        self.children = [
            Child("SuperLink", superlink, home.logs / "superlink.log", self._environment),
            Child("SuperExec", superexec, home.logs / "superexec.log", self._environment),
        ]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start both programs, and end them and all they started on the way out."""
        self._write_settings()
        try:
            self.children[0].start()
            self._wait_until_healthy()
            self.children[1].start()
            yield
        finally:
            close_all(list(reversed(self.children)))

    def check(self) -> None:
        """Raise TransportError if one of the programs, or the run's own process, has ended.

        The latter only from the second look on, so that the run's last word can be read in between.
        """
        if self._is_orphaned:
            raise TransportError("the run's process ended without a word; go on with --resume")
        self._is_orphaned = self.children[1].has_lost("flwr-serverapp")
        for child in self.children:
            if child.exit_code() is not None:
                raise TransportError(
                    f"{child.name} ended with code {child.exit_code()} (log: {child.log}); go on with --resume"
                )

    def register(self, keys: list[Path]) -> None:
        """Let the nodes with these public keys connect; one that is known already stays so."""
        with ThreadPoolExecutor(2) as pool:
            for output in pool.map(lambda key: self._flwr("supernode", "register", str(key), _FEDERATION), keys):
                is_known = "already" in output.lower()
                if not is_known and '"success": true' not in output:
                    raise self._failure("a node could not be registered", output)

    def submit(self, app: Path, run_folder: Path, transport: str) -> str:
        """Start one run of the app and return Flower's number for it."""
        settings = f"run={json.dumps(str(run_folder.absolute()))} transport={json.dumps(transport)}"
        output = self._flwr("run", str(app), _FEDERATION, "--run-config", settings)
        try:
            answer = json.loads(output[output.index("{") : output.rindex("}") + 1])
            return str(answer["run-id"])
        except (ValueError, KeyError):
            raise self._failure("the run could not be started", output) from None

    def stop(self, run: str) -> None:
        """Tell Flower to end a run, so that no later SuperLink starts it again."""
        with contextlib.suppress(TransportError):
            self._flwr("stop", run, _FEDERATION)

    def _flwr(self, *arguments: str) -> str:
        command = [program("flwr"), *arguments, "--format", "json"]
        try:
            done = subprocess.run(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=_COMMAND_S,
                check=False,
                start_new_session=True,  # an interrupt reaches this program only, which ends its children in order
            )
        except subprocess.TimeoutExpired:
            raise TransportError(f"`flwr {arguments[0]}` did not answer within {_COMMAND_S:.0f} s") from None
        return done.stdout.decode(errors="replace")

    def _failure(self, what: str, output: str) -> TransportError:
        """Return what a command's failure means; that a program has ended explains more than its output."""
        self.check()
        return TransportError(f"{what}: {_one_line(output)}")

    def _write_settings(self) -> None:
        folder = self._home.path / "flwr"
        folder.mkdir(exist_ok=True)
        secret = self._home.path / "superexec.secret"
        if not secret.exists():
            secret.touch(mode=0o600)
            secret.write_bytes(secrets.token_hex(32).encode())
        authority = json.dumps(str((self._home.path / "ca.crt").absolute()))
        (folder / "config.toml").write_text(
            f'[superlink]\ndefault = "{_FEDERATION}"\n\n[superlink.{_FEDERATION}]\naddress = "{self._local}"\n'
            f"root-certificates = {authority}\n",
            encoding="utf-8",
        )

    def _wait_until_healthy(self) -> None:
        context = ssl.create_default_context(cafile=str(self._home.path / "ca.crt"))
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            child = self.children[0]
            code = child.exit_code()
            if code is not None and code < 0:  # killed: no port's fault
                self.check()
            if code is not None:
                raise ConfigError(
                    f"the SuperLink could not start on port {self._config.port}; another program may use it: choose "
                    f"another `port`, and look at {child.log}",
                    where=str(self._home.config),
                )
            connection = HTTPSConnection("127.0.0.1", self._config.port, timeout=2, context=context)
            try:
                connection.request("GET", "/health")
                if connection.getresponse().status < 500:
                    return
            except (OSError, HTTPException):
                time.sleep(0.1)
            finally:
                connection.close()
        raise TransportError(f"the SuperLink did not answer within {_START_S:.0f} s (log: {self.children[0].log})")


def flower_app() -> Path:
    """Return the folder of the Flower app stub: in the package, or in the source tree of an editable install."""
    here = Path(__file__).parent
    for folder in (here / "flower", here.parents[2] / "deploy" / "flower"):
        if (folder / "pyproject.toml").exists():
            return folder
    raise ConfigError("the Flower app stub is missing from this installation; reinstall synthfed")


def _one_line(output: str) -> str:
    return " ".join(output.split())[-300:]
