"""The command ``synthfed bench``: comparisons that come with the package, with other projects' systems in them.

Never computes anything itself: it names the packaged plan and hands over.
"""

from pathlib import Path
from typing import Annotated, Final

import typer

from ..cli import AgainOption, OnlyOption, PeersOption, run_comparison

app: Final = typer.Typer(
    help="Run a packaged comparison with other projects' systems.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

TABLES: Final = Path(__file__).with_name("tables.toml")
"""The plan of ``bench tables``."""


@app.callback()
def bench() -> None:
    """Run a packaged comparison with other projects' systems."""


@app.command("tables")
def tables(
    data: Annotated[Path, typer.Option(help="Folder of the data sets' files; all must be public.")],
    results: Annotated[Path, typer.Option(help="The file of all runs; what is finished there is not run again.")] = (
        Path("tables.json")
    ),
    page: Annotated[Path, typer.Option(help="The page for the tables.")] = Path("tables.md"),
    plot: Annotated[Path, typer.Option(help="The SVG file for the picture.")] = Path("tables.svg"),
    only: OnlyOption = None,
    again: AgainOption = False,
    peers_python: PeersOption = None,
) -> None:
    """Measure the default model of tables beside other projects' systems on the same rows.

    The whole plan takes days; an interrupted one goes on where it stopped.
    """
    from .comparison import Request

    run_comparison(Request(TABLES, data, results, page, only or [], again, plot, peers_python))
