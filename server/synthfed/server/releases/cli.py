"""The commands of those who have a release: sample, audit and verify.

Never computes anything itself: it reads arguments, calls the server's modules and prints.
"""

from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

from synthfed.protocols.errors import ConfigError

from ..cli import LARGEST_SEED, RowsOption

sample: Final = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
audit: Final = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
verify: Final = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

ReleaseArgument = Annotated[Path, typer.Argument(help="A release folder.")]


@sample.command()
def sample_release(
    release: ReleaseArgument,
    out: Annotated[Path, typer.Option(help="The file to write, of the kind of the release's own.")],
    rows: RowsOption = 10_000,
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Fixes the rows.")] = 0,
    where: Annotated[
        list[str] | None,
        typer.Option(help="`column = value`, `column in low..high` or `column is missing`, of every row; repeat."),
    ] = None,
    balance: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Draw every category of a column equally often.")
    ] = None,
    equalise: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Draw a column's categories as often in every group ...")
    ] = None,
    across: Annotated[str | None, typer.Option(metavar="COLUMN", help="... of this one.")] = None,
    walks: Annotated[
        int | None, typer.Option(min=1, help="Split the rows into so many straight walks through the latent space.")
    ] = None,
) -> None:
    """Draw more synthetic rows from a release; costs no privacy."""
    import torch

    from ..release import Asked, sample_to, walk_to

    if out.is_dir() or not out.absolute().parent.is_dir():
        raise ConfigError("must be a file in a folder that exists", where=f"--out {out}")
    torch.set_num_threads(1)  # as in training: one thread's sums have one order, so a seed means the same rows anywhere
    given = {"--where": where, "--balance": balance, "--equalise": equalise, "--across": across}
    flag = next((flag for flag, value in given.items() if value), None)
    notice = ""
    if walks is None:
        notice = sample_to(release, rows, seed, out, Asked(where or [], balance, equalise, across))
    elif flag is not None:
        raise ConfigError(f"cannot be met along a walk; leave out {flag} or --walks", where=flag)
    else:
        walk_to(release, rows, seed, out, walks)
    typer.echo(f"{rows} rows: {out}")
    if notice:
        typer.echo(notice)


@audit.command()
def audit_a_release(
    release: ReleaseArgument,
    train: Annotated[Path, typer.Option(help="Real rows that the release was trained on.")],
    holdout: Annotated[Path, typer.Option(help="Real rows of the same population that nothing was trained on.")],
    out: Annotated[Path, typer.Option(help="A folder for the report, which others cannot enter.")],
    seed: Annotated[int, typer.Option(min=0, max=LARGEST_SEED, help="Fixes the audits' own draws.")] = 0,
) -> None:
    """Audit a release against real rows; the report tells statistics of these, and is yours to keep."""
    from .auditing import audit_files
    from .findings_table import findings_table

    findings = audit_files(release, train, holdout, out, seed)
    terminal = Console(highlight=False, soft_wrap=True)
    terminal.print(findings_table(findings))
    for each in findings:
        if each.unfit:
            terminal.print(f"{each.audit}: not asked: {each.unfit}", markup=False)
    terminal.print(
        f"report: {out.absolute() / 'report.html'}, made from real rows: not differentially private", markup=False
    )


@verify.command()
def verify_a_release(
    release: ReleaseArgument,
    coordinator: Annotated[str, typer.Option(help="The fingerprint that the coordinator told you otherwise.")] = "",
) -> None:
    """Check a release without a network: its seal, files, terms, model, promise, sites and report."""
    from .verifying import verify_release

    failed = []
    for each in verify_release(release, coordinator):
        typer.echo(f"{'well' if each.is_ok else 'WRONG':6} {each.name:9} {each.told}")
        failed += [] if each.is_ok else [each.name]
    if failed:
        raise ConfigError(f"{', '.join(failed)}: not as they should be; get the release again", where=str(release))
    typer.echo("The release is what was sealed, and its figures agree. Whether its rows are good is for audits to say.")
