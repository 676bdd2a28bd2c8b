"""Shows a run's progress in the terminal: phase, step, epsilon per site, speed, time left.

Never changes a run: it only draws what the run reports.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .store import Status


@contextmanager
def watching(console: Console) -> Iterator[Callable[[Status], None]]:
    """Yield a function that shows a status: redrawn in place on a terminal, one line per change elsewhere."""
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4, transient=True) as live:
            yield lambda status: live.update(draw(status))
    else:
        shown: list[str] = []

        def show(status: Status) -> None:
            line = one_line(status)
            if not shown or shown[-1] != line:
                shown[:] = [line]
                console.print(line, markup=False, highlight=False, soft_wrap=True)

        yield show


def draw(status: Status) -> Group:
    """Return a status as a small table with a bar."""
    head = Text(f"{status.phase}  ", style="bold")
    head.append(f"{status.message}   ", style="dim")
    if status.phase == "training":
        head.append(f"round {status.step}/{status.steps}   {status.rate:.1f} rounds/s   {_minutes(status.left_s)} left")
    bar = ProgressBar(total=max(status.steps, 1), completed=status.step, width=60)
    table = Table("site", "now", "epsilon spent", box=None, padding=(0, 2), header_style="dim")
    for site, numbers in status.sites.items():
        present = Text("takes part", style="green") if numbers["present"] else Text("away", style="red")
        table.add_row(site, present, f"{numbers['epsilon']:.3f}")
    curve = "   ".join(f"{name} {value:.4g}" for name, value in status.numbers.items())
    return Group(head, bar, table, Text(curve, style="dim"))


def one_line(status: Status) -> str:
    """Return a status as one line, rounded so that a log does not grow by every step."""
    if status.phase != "training":
        return f"{status.phase}: {status.message}"
    tenth = 10 * status.step // max(status.steps, 1) * 10
    here = sum(bool(numbers["present"]) for numbers in status.sites.values())
    spent = max((numbers["epsilon"] for numbers in status.sites.values()), default=0.0)
    return f"training: {tenth} % of {status.steps} rounds, {here} of {len(status.sites)} sites, epsilon {spent:.1f}"


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
