"""How time and memory of a table study grow with rows, columns and sites; JSON and a table.

The study is that of `table_federation.py`: made-up rows, the default model, epsilon 1. A point that the file holds
already is not measured again, so an interrupted run goes on. It is no test. Never compares runs of different
machines; where others use the machine, processor time tells more than wall time.

    python -m tests.benchmarks.growth --out docs/growth.json
"""

import argparse
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

# Before anything imports torch or numpy, here and in the processes: waiting threads would count as time.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

from tests.benchmarks.stopwatch import Row
from tests.benchmarks.table_federation import Size, measure

SAMPLED: Final = 100_000
FULL: Final = (
    *(Size(rows, 15, 5, SAMPLED) for rows in (10_000, 100_000, 1_000_000)),
    *(Size(10_000, columns, 5, SAMPLED) for columns in (60, 200)),
    *(Size(10_000, 15, sites, SAMPLED) for sites in (3, 10, 50)),
)
QUICK: Final = (Size(600, 4, 3, 500),)

BEGIN: Final = "<!-- growth: begin -->\n"
END: Final = "<!-- growth: end -->\n"


def machine() -> Row:
    """Return what a figure depends on beside the program."""
    packages = ("synthfed", "numpy", "torch", "opacus")
    return {
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {package: metadata.version(package) for package in packages},
    }


def run(sizes: Iterable[Size], out: Path) -> list[Row]:
    """Measure every size that the file does not hold yet, keep each as soon as it is there, and return all rows."""
    rows: list[Row] = json.loads(out.read_text(encoding="utf-8"))["points"] if out.exists() else []
    for size in sizes:
        if _found(rows, size) is None:
            print(f"{size.rows:,} rows, {size.columns} columns, {size.sites} sites ...", flush=True)
            rows.append(measure(size))
            out.write_text(json.dumps({"machine": machine(), "points": rows}, indent=2) + "\n", encoding="utf-8")
    return [row for size in sizes if (row := _found(rows, size)) is not None]


def _found(rows: Sequence[Row], size: Size) -> Row | None:
    return next((row for row in rows if all(row[name] == value for name, value in size._asdict().items())), None)


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table in Markdown; seconds are processor seconds."""
    cells = [_cells(row) for row in rows]
    lines = [list(cells[0]), ["---"] * len(cells[0]), *(list(each.values()) for each in cells)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(row: Row) -> Mapping[str, str]:
    site, server = row["site_cpu_s"], row["coordinator_cpu_s"]
    study = row["sites"] * sum(site.values()) + sum(server.values()) - server["sample"]
    return {
        "rows": f"{row['rows']:,}",
        "columns": f"{row['columns']}",
        "sites": f"{row['sites']}",
        "plan": _short(server["plan"]),
        "a site: reading": _short(site["read"]),
        "rounds": _short(sum(site.values()) - site["read"]),
        "coordinator: fit": _short(server["fit"]),
        "rounds and release": _short(server["rounds"] + server["release"]),
        "all of it": _short(study),
        f"{row['sampled']:,} rows": _short(server["sample"]),
        "MB to a site": f"{row['bytes_down'] / 1e6:.1f}",
        "from it": f"{row['bytes_up'] / 1e6:.1f}",
        "its memory": f"{row['site_peak_mb']:,.0f}",
        "the coordinator's": f"{row['coordinator_peak_mb']:,.0f}",
    }


def _short(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds < 100 else f"{seconds:,.0f}"


def write_table(page: Path, text: str) -> None:
    """Put a table between the marks of a page."""
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    page.write_text(before + BEGIN + text + END + rest.split(END)[1], encoding="utf-8")


def main() -> None:
    """Measure what is missing, one study after another, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("growth.json"))
    parser.add_argument("--page", type=Path, help="a page with the marks of this table")
    parser.add_argument("--quick", action="store_true", help="a small study, to see that it runs")
    options = parser.parse_args()
    text = table(run(QUICK if options.quick else FULL, options.out))
    if options.page is not None:
        write_table(options.page, text)
    print(text)


if __name__ == "__main__":
    main()
