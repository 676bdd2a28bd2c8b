"""The whole comparison: what of the plan is still to be done, one run after another, the page after each.

Never runs again what is finished, and never lets one failure stop the others.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from synthfed.plugins.files import read_text

from .apart import run_apart
from .plan import Plan, Wanted, choose, parse_plan
from .plot import write_plot
from .results import Results, Run
from .rows import check_source
from .table import SCORES, write_page


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of the command.

    Attributes:
        plan: the plan's file.
        data: the folder of the data sets' files, if any is needed.
        results: the JSON file of all runs, which also tells what is finished.
        page: the markdown page.
        only: filters of runs; see `choose`.
        again: run also what is finished.
        plot: the picture of quality against epsilon, if one is wanted.
        python: the interpreter that peers run in; None for this one.
    """

    plan: Path
    data: Path | None
    results: Path
    page: Path
    only: Sequence[str] = ()
    again: bool = False
    plot: Path | None = None
    python: Path | None = None


def compare(request: Request, say: Callable[[str], None]) -> int:
    """Run what is left of a plan, each in its own process, and return how many runs failed.

    A failed run is tried again the next time. An interruption loses the run in work only.

    Args:
        request: what to do.
        say: told a line for each run.

    Raises:
        ConfigError: the plan, a data set's file, the results or the page is not what it must be.
    """
    plan = parse_plan(read_text(request.plan), where=str(request.plan))
    chosen = choose(plan, request.only)
    results = Results(request.results)
    left = [wanted for wanted in chosen if request.again or not _is_done(results, wanted)]
    for source in {wanted.data.name: wanted.data for wanted in left}.values():
        check_source(source, request.data)
    _show(request, plan, results)  # before hours of work: it can be written
    say(f"{len(left)} of {len(chosen)} runs are to be done")
    failures = 0
    for number, wanted in enumerate(left, 1):
        say(f"{number} of {len(left)}: {_title(wanted)} ...")
        done = run_apart(wanted, request.data, request.python)
        results.add(done)
        _show(request, plan, results)
        failures += bool(done.error)
        say(f"    {_line(done)}")
    return failures


def _show(request: Request, plan: Plan, results: Results) -> None:
    runs = results.of(plan.wanted())
    write_page(request.page, plan, runs)
    if request.plot is not None:
        write_plot(request.plot, plan, runs)


def _title(wanted: Wanted) -> str:
    model, data, seed, split, epsilon = wanted.key
    named = [("seed", str(seed)), ("epsilon", epsilon), ("sites", split)]
    return ", ".join([f"{model} on {data}", *(f"{name} {text}" for name, text in named if text)])


def _is_done(results: Results, wanted: Wanted) -> bool:
    found = results.find(wanted)
    return found is not None and not found.error


def _line(done: Run) -> str:
    if done.error:
        return f"failed: {done.error}"
    # A trivial model's `auc` is that of a classifier of real rows, and a ladder's page shows learners of drawn rows.
    scores = ("auc-mean",) if done.rung else tuple(SCORES)
    shown = ("tvd2", *scores, "coverage")
    numbers = [f"{name} {done.measures[name].value:.3f}" for name in shown if name in done.measures]
    return ", ".join(numbers + ([] if done.cost is None else [f"{done.cost.seconds:.0f} s"]))
