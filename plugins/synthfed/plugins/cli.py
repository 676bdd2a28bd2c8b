"""The root command: mounts every command by entry point and turns errors into exit codes.

Never imports the client, the server, torch, Flower or a plugin before its command is called.
"""

import importlib
import os
import sys
from typing import Any, Final

import click
import typer
from typer.core import TyperGroup

from synthfed.protocols import errors

from .distributions import CORE, points

GROUP: Final = "synthfed.commands"

EXIT_CODES: Final = {
    errors.ConfigError: 3,
    errors.DataError: 4,
    errors.PrivacyError: 5,
    errors.TransportError: 6,
    errors.QuorumLost: 7,
    errors.RemoteProtocolError: 8,
    errors.PluginError: 9,
}
"""Stable exit codes, by who must act; 1 is a bug, 2 a wrong command line, 130 an interruption."""

_HELP: Final = {
    "audit": "Audit a release against real rows.",
    "bench": "Measure models against other projects' systems.",
    "client": "Run a site.",
    "compare": "Measure models against each other.",
    "demo": "Run a federation of up to six sites on this machine.",
    "plugins": "List, show, check and start plugins.",
    "sample": "Draw more synthetic rows from a release.",
    "server": "Run a coordinator.",
    "simulate": "Run a study in one process.",
    "study": "Draft and check a study file.",
    "verify": "Check that a release is whole, sealed and consistent.",
}


class Commands(TyperGroup):
    """Lists commands by entry point and imports one only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of all installed commands."""
        return sorted({point.name for point in points(GROUP)})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:  # noqa: ARG002
        """Return a command; its module is imported only when the command is really invoked."""
        named = [each for each in points(GROUP) if each.name == name]
        # No other distribution may put its own agent in the place of synthfed's.
        point = next((each for each in named if each.distribution == CORE), next(iter(named), None))
        return None if point is None else _Deferred(name=name, target=point.target, help=_HELP.get(name, ""))


class _Deferred(click.Command):
    """Stands for a command in a listing; becomes the real one when it gets arguments."""

    def __init__(self, *, name: str, target: str, help: str) -> None:  # noqa: A002
        super().__init__(name, help=help)
        self._target = target

    def make_context(self, info_name: str | None, args: list[str], **extra: Any) -> click.Context:  # type: ignore[override]
        module, _, attribute = self._target.partition(":")
        real = typer.main.get_command(getattr(importlib.import_module(module), attribute))
        self.invoke = real.invoke  # type: ignore[method-assign]
        return real.make_context(info_name, args, **extra)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # it would print local variables, and an agent's hold records
    help="Synthetic data from a federation.",
)


@app.callback()
def _root() -> None:
    """Synthetic data from a federation whose records never leave their sites."""


def main() -> None:
    """Run ``synthfed`` and exit with a stable code; an error becomes one sentence."""
    try:
        app()
    except errors.SynthfedError as error:
        sys.stderr.write(f"synthfed: {error}\n")
        sys.exit(next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1))
    except KeyboardInterrupt:
        sys.stderr.write("synthfed: interrupted\n")
        sys.exit(130)
    except Exception as error:
        if os.environ.get("SYNTHFED_DEBUG"):
            raise
        kind = type(error).__name__
        sys.stderr.write(f"synthfed: internal error ({kind}), a bug; set SYNTHFED_DEBUG=1 to see where\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
