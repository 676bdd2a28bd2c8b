"""How long a site's table takes to load and validate, from every source, and how much memory; JSON and a table.

The rows are made up (`made_up_table.py`), with a text column that names a unit for every two rows. Each source is read
in a process of its own, by the functions of the agent. It is no test. Never compares runs of different machines; where
others use the machine, processor time tells more than wall time.

    python -m tests.benchmarks.loading --out docs/loading.json --page docs/data.md
"""

import argparse
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

# Before anything imports numpy, here and in the processes: waiting threads would count as time.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

from tests.benchmarks.growth import machine
from tests.benchmarks.made_up_table import made_up_columns, made_up_rows
from tests.benchmarks.stopwatch import Row, load, peak_mb, seconds
from tests.plugins.postgres import OWNER, PASSWORD, Unavailable, running

from synthfed.client.data import encode
from synthfed.plugins.api import Table
from synthfed.plugins.domains.csv_files import open_csv
from synthfed.plugins.domains.parts import Form
from synthfed.plugins.domains.table import TableDomain
from synthfed.protocols.schema import Categorical, Column, Integer

UNIT: Final = "person"
BEGIN: Final = "<!-- loading: begin -->\n"
END: Final = "<!-- loading: end -->\n"


def measure(path: Path, columns: Sequence[Column]) -> Row:
    """Return seconds and this process's peak memory of loading a table, and then of encoding it."""
    found: list[Table] = []
    before = peak_mb()

    def read() -> None:
        found.append(TableDomain().read(path, columns, unit=UNIT, records_per_unit=2))

    wall, cpu = seconds(read)
    row: Row = {"wall_s": wall, "cpu_s": cpu, "before_mb": before, "peak_mb": peak_mb()}
    wall, cpu = seconds(lambda: encode(TableDomain().encoder(columns), found[0].records))  # type: ignore[arg-type]
    return {**row, "encode_wall_s": wall, "encode_cpu_s": cpu, "encode_peak_mb": peak_mb(), **load()}


@contextlib.contextmanager
def sources(folder: Path, rows: int, columns: Sequence[Column]) -> Iterator[dict[str, Path]]:
    """Give the same table in every form that this machine has."""
    plain = folder / "plain.csv"
    TableDomain().write(plain, columns, [made_up_rows(columns, rows, seed=1)])
    text = folder / "table.csv"
    with plain.open(encoding="utf-8") as source, text.open("w", encoding="utf-8") as out:
        out.write(f"{UNIT},{next(source)}")
        out.writelines(f"p{i // 2:07},{line}" for i, line in enumerate(source))
    plain.unlink()
    found = {"CSV": text, "Parquet": _parquet(text), "SQLite": _sqlite(text, columns)}
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(running())
        except Unavailable as error:
            print(error, flush=True)
        else:
            server.run(f"create table patients ({_declared(columns)})")
            server.copy("copy patients from stdin (format csv, header)", text)
            address = f"postgresql+psycopg://{OWNER}:{quote(PASSWORD, safe='')}@/postgres?host={server.folder}"
            found["PostgreSQL"] = _describe(folder / "postgres.toml", address)
        yield found


def _parquet(text: Path) -> Path:
    from pyarrow import csv, parquet

    parquet.write_table(csv.read_csv(text), text.with_suffix(".parquet"))
    return text.with_suffix(".parquet")


def _sqlite(text: Path, columns: Sequence[Column]) -> Path:
    file = text.with_suffix(".db")
    forms: dict[str, Form] = dict.fromkeys([UNIT, *(column.name for column in columns)], "text")
    with sqlite3.connect(file) as database, open_csv(text) as source:
        database.execute(f"create table patients ({_declared(columns)})")
        marks = ", ".join("?" * len(forms))
        for part in source.parts(forms):
            database.executemany(f"insert into patients values ({marks})", zip(*part.cells, strict=True))  # noqa: S608
    database.close()
    return _describe(text.with_name("sqlite.toml"), f"sqlite:///{file}")


def _declared(columns: Sequence[Column]) -> str:
    kinds = [
        "text" if isinstance(each, Categorical) else "integer" if isinstance(each, Integer) else "double precision"
        for each in columns
    ]
    return ", ".join([f"{UNIT} text", *(f"{each.name} {kind}" for each, kind in zip(columns, kinds, strict=True))])


def _describe(path: Path, url: str) -> Path:
    path.write_text(f'format = 1\nurl = "{url}"\ntable = "patients"\n', encoding="utf-8")
    path.chmod(0o600)
    return path


def run(rows: int, width: int, folder: Path) -> list[Row]:
    """Return a row of figures for every source."""
    found: list[Row] = []
    with sources(folder, rows, made_up_columns(width)) as paths:
        for name, path in paths.items():
            command = [
                sys.executable,
                "-m",
                "tests.benchmarks.loading",
                "--measure",
                str(path),
                "--columns",
                str(width),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append({"source": name, "rows": rows, "columns": width, **json.loads(done.stdout)})
            print(json.dumps(found[-1]), flush=True)
    return found


def table(rows: Sequence[Row]) -> str:
    """Return the figures as a table in Markdown."""
    lines = [
        "| source | CPU s | peak MB | encode: CPU s | peak MB then | wall s | load |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['source']} | {row['cpu_s']:.1f} | {row['peak_mb']:,.0f} | {row['encode_cpu_s']:.1f} | "
        f"{row['encode_peak_mb']:,.0f} | {row['wall_s']:.1f} | {row['load']:.0f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure one file, or make all sources and measure each in a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("loading.json"))
    parser.add_argument("--page", type=Path, help="a page with the marks of this table")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=30)
    parser.add_argument("--measure", type=Path, help="read this one file and print what it took")
    options = parser.parse_args()
    if options.measure is not None:
        print(json.dumps(measure(options.measure, made_up_columns(options.columns))))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows = run(options.rows, options.columns, Path(folder))
    options.out.write_text(json.dumps({"machine": machine(), "points": rows}, indent=2) + "\n", encoding="utf-8")
    text = table(rows)
    if options.page is not None:
        before, rest = options.page.read_text(encoding="utf-8").split(BEGIN)
        options.page.write_text(before + BEGIN + text + END + rest.split(END)[1], encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
