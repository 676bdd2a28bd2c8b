"""The commands ``synthfed client ledger`` and ``synthfed client log``, for who runs a site.

Never changes a home: it can be read while its agent runs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from synthfed.protocols.errors import ConfigError, PrivacyError

from ..config import Home
from ..keys.cli import HomeOption, PassphraseOption, passphrases_of

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from ..entries import Book
    from ..reservation import Costs
    from .lines import Line
    from .statement import Statement

_HOME = Path("site")

log = typer.Typer(help="Print the log of this site's decisions, or verify it.", pretty_exceptions_enable=False)


def ledger(
    export: Annotated[Path | None, typer.Option(help="Write all entries to a new .json or .csv file.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Only say whether the ledger holds.")] = False,
    home: HomeOption = _HOME,
    passphrase_file: PassphraseOption = None,
) -> None:
    """Print what each study has spent of this site's budget; export or verify the ledger, also while an agent runs."""
    from synthfed.plugins.files import write_whole

    from ..keys.identity import load_identity
    from .statement import as_csv, as_json, read_statement

    place, console = Home(home), Console(highlight=False, soft_wrap=True)
    config, identity = place.load(), load_identity(place.identity, passphrases_of(place, passphrase_file))
    if export is not None and (export.suffix not in (".json", ".csv") or export.exists()):
        raise ConfigError("must be a new file whose name ends in .json or .csv", where="--export")
    with _verdict(console):
        statement = read_statement(place.ledger, identity)
    if export is not None:
        write_whole(export, [as_json(statement, config.site) if export.suffix == ".json" else as_csv(statement)])
        console.print(f"{len(statement.entries):,} entries written to {export}", markup=False)
    if verify:
        console.print(f"ok: {len(statement.entries):,} entries, of which {statement.book.length:,} charges; all hold")
    elif export is None:
        _print_accounts(console, place, statement)


def _print_accounts(console: Console, place: Home, statement: "Statement") -> None:
    import time

    from rich.table import Table

    from .statement import accounts, summary

    config = place.load()
    ceiling, rules, book = config.ceiling, config.policy, statement.book
    table = Table(
        "study", "terms", "rounds", "reserved", "noise", "epsilon", box=None, padding=(0, 2), header_style="dim"
    )
    for each in accounts(statement, ceiling.delta):
        parts = ("\n".join(lines) for lines in summary(each))
        of = "" if rules.epsilon_per_study is None else f" of {rules.epsilon_per_study:g}"
        table.add_row(each.name, each.study[:12], *parts, f"{each.epsilon:.3g}{of}")
    console.print(table)
    year, of_year = book.recent_costs(int(time.time())), rules.epsilon_per_year
    console.print(f"last 365 days   {_standing(year, book, of_year, ceiling.delta)} at delta {ceiling.delta:g}")
    total = _standing(book.costs, book, ceiling.epsilon, ceiling.delta)
    console.print(f"in total        {total}, {book.length:,} charges")


def _standing(costs: "Costs", book: "Book", most: float | None, delta: float) -> str:
    """Return what was spent, of how much, and what that comes to with all reservations, and so what remains."""
    from synthfed.protocols.privacy.accountant import epsilon

    from ..entries import events_of

    kept = book.kept_for_others()
    spent = f"epsilon {epsilon(events_of(costs), delta):.3g}" + ("" if most is None else f" of {most:g}")
    return spent + (f", {epsilon(events_of(costs + kept), delta):.3g} with what is reserved" if kept else "")


@log.callback(invoke_without_command=True)
def print_log(context: typer.Context, home: HomeOption = _HOME, passphrase_file: PassphraseOption = None) -> None:
    """Print every decision of this site's agent and people, one a line; they stay here."""
    from ..keys.identity import load_identity

    if context.invoked_subcommand is None:
        place, console = Home(home), Console(highlight=False, soft_wrap=True)
        for line in _lines(console, place, load_identity(place.identity, passphrases_of(place, passphrase_file))):
            console.print(_told(line), markup=False)


@log.command("verify")
def verify_log(home: HomeOption = _HOME, passphrase_file: PassphraseOption = None) -> None:
    """Say whether every line of the log holds and none is missing; exit with 1 and the line's number where not.

    The ledger is held against it: a session that was charged must be there, or log and mark are an older copy; and
    the ledger must hold as many charges as the log tells of, or ledger and mark are.
    """
    from ..keys.identity import load_identity
    from .statement import read_statement, unlogged_sessions

    place, console = Home(home), Console(highlight=False, soft_wrap=True)
    identity = load_identity(place.identity, passphrases_of(place, passphrase_file))
    with _verdict(console):
        statement = read_statement(place.ledger, identity)  # before the log, whose lines come before charges
        lines = list(_lines(console, place, identity))
        missing = unlogged_sessions(statement, lines)
        if missing:
            raise PrivacyError(
                f"{place.audit_log}: tells nothing of {len(missing):,} session(s) that the ledger was charged in, the "
                f"first of them {missing[0]}; log and mark are an older copy, restore the true ones"
            )
        told = max((line.body.get("charges", 0) for line in lines), default=0)
        if told > statement.book.length and told > read_statement(place.ledger, identity).book.length:
            raise PrivacyError(
                f"{place.ledger}: holds fewer charges than the {told:,} that the log tells of; ledger and mark are an "
                "older copy, restore the true ones"
            )
    console.print(f"ok: {len(lines):,} lines; all hold")


def _lines(console: Console, place: Home, identity: "Ed25519PrivateKey") -> "Iterator[Line]":
    """Yield the lines that hold; say what is wrong with the next one and exit with 1."""
    from .audit_log import read_log

    with _verdict(console):
        for each in read_log(place.audit_log, identity):
            if isinstance(each, bytes):
                console.print(
                    f"note: {len(each):,} byte(s) after the last line are the beginning of one: an agent is writing "
                    "it, or was interrupted"
                )
            else:
                yield each


@contextmanager
def _verdict(console: Console) -> "Iterator[None]":
    """Say what does not hold inside, and exit with 1."""
    try:
        yield
    except PrivacyError as error:
        console.print(f"not ok: {error}", markup=False)
        raise typer.Exit(1) from None


def _told(line: "Line") -> str:
    body = dict(line.body)
    first = [str(body.pop(name)) for name in ("n", "at", "who", "what")]
    facts = (f"{name}={','.join(value) if isinstance(value, list) else value}" for name, value in body.items())
    return "  ".join([*first, *facts])
