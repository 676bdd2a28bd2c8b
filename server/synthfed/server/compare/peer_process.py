"""The process of one peer: it fits another project's system on a table of public rows and writes what it draws.

Run by its path, in an environment that need not hold this project: it imports nothing of it, and never
reads more than the folder that it is told.
"""

import importlib
import json
import resource
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

MISSING = "\u2014"
"""What stands for a missing category: it is one more category to every peer."""

Spec = Mapping[str, Any]
"""What is asked: system, options, epsilon and delta (None without promise), seed, rows, and columns."""

_SHARE_OF_BINS = 0.1  # of epsilon, for the bins of numbers: the systems' own default at epsilon 1
_MODEL_MIB = 80  # the most that a graphical model may take: the default of the paper's own code


def main(folder: str) -> None:
    """Read ``spec.json`` and ``train.csv`` of a folder, write ``drawn.csv`` and ``answer.json``."""
    place = Path(folder)
    spec = json.loads((place / "spec.json").read_text(encoding="utf-8"))
    try:
        fit = SYSTEMS[spec["system"]](spec)
        frame = read(place / "train.csv", spec)
    except ModuleNotFoundError as error:
        _answer(place, {"missing": error.name})
        return
    start, cpu_start = time.monotonic(), time.process_time()
    drawn = fit(frame)
    cost = {
        "seconds": time.monotonic() - start,
        "cpu_seconds": time.process_time() - cpu_start,
        "peak_mib": peak_mib(),
    }
    write(place / "drawn.csv", drawn, spec)
    names = ("ctgan", "dpmm", "numpy", "pandas", "sdv", "torch")
    found = {each.metadata["Name"]: each.version for each in metadata.distributions()}
    _answer(place, {"cost": cost, "versions": {name: found[name] for name in names if name in found}})


def read(path: Path, spec: Spec) -> Any:
    """Return the rows as a frame: texts for categories, numbers (NaN where missing) for the rest."""
    pandas = importlib.import_module("pandas")
    frame = pandas.read_csv(path, dtype=str, keep_default_na=False)
    for column in spec["columns"]:
        name = column["name"]
        if column["kind"] == "categorical":
            frame[name] = frame[name].replace("", MISSING)
        else:
            numbers = pandas.to_numeric(frame[name])
            whole = column["kind"] == "integer" and not numbers.isna().any()
            frame[name] = numbers.astype("int64" if whole else "float64")
    return frame


def write(path: Path, drawn: Any, spec: Spec) -> None:
    """Write drawn rows as the schema types them: numbers inside their bounds, a missing value an empty cell."""
    pandas = importlib.import_module("pandas")
    cells = {}
    for column in spec["columns"]:
        values = drawn[column["name"]]
        if column["kind"] == "categorical":
            cells[column["name"]] = ["" if value == MISSING else str(value) for value in values]
        else:
            numbers = pandas.to_numeric(values).clip(column["lower"], column["upper"])
            places = column["decimals"] if column["kind"] == "real" else 0
            cells[column["name"]] = ["" if value != value else f"{value:.{places}f}" for value in numbers]
    pandas.DataFrame(cells).to_csv(path, index=False)


def _sdv(name: str, spec: Spec, **fixed: Any) -> Callable[[Any], Any]:
    """Return what fits a synthesizer of SDV, which takes kinds of columns, and bounds from the rows alone."""
    synthesizers = importlib.import_module("sdv.single_table")
    numpy, torch = importlib.import_module("numpy"), importlib.import_module("torch")
    kinds = {each["name"]: "categorical" if each["kind"] == "categorical" else "numerical" for each in spec["columns"]}
    told = {"tables": {"rows": {"columns": {column: {"sdtype": kind} for column, kind in kinds.items()}}}}
    described = importlib.import_module("sdv.metadata").Metadata.load_from_dict(told)

    def fit(frame: Any) -> Any:
        numpy.random.seed(spec["seed"])  # the only seeds that these systems know
        torch.manual_seed(spec["seed"])
        synthesizer = getattr(synthesizers, name)(described, **fixed, **spec["options"])
        synthesizer.fit({"rows": frame})
        return synthesizer.sample(spec["rows"])["rows"]

    return fit


def _dpmm(name: str, spec: Spec) -> Callable[[Any], Any]:
    """Return what fits a pipeline of dpmm, which takes public bounds and categories.

    Its bins of numbers are charged on top of what it calls epsilon; here both together are the promise.
    """
    pipeline = getattr(importlib.import_module("dpmm.pipelines"), name)
    for_bins = _SHARE_OF_BINS * spec["epsilon"]
    domain = {each["name"]: domain_of(each) for each in spec["columns"]}

    def fit(frame: Any) -> Any:
        chosen = {"max_model_size": _MODEL_MIB, "n_jobs": 1} | spec["options"]
        fitted = pipeline(epsilon=spec["epsilon"] - for_bins, delta=spec["delta"], proc_epsilon=for_bins, **chosen)
        fitted.fit(frame, domain, random_state=spec["seed"])
        return fitted.generate(spec["rows"], random_state=spec["seed"] + 1)

    return fit


def domain_of(column: Mapping[str, Any]) -> dict[str, Any]:
    """Return what dpmm is told of a column: its categories, or its bounds."""
    if column["kind"] == "categorical":
        return {"categories": [*column["values"], *([MISSING] if column["missing"] else [])]}
    return {"lower": column["lower"], "upper": column["upper"]}


def peak_mib() -> float:
    """Return the most resident memory of this process so far, in MiB."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1024
    except (OSError, StopIteration):
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return used / (2**20 if sys.platform == "darwin" else 2**10)


def _answer(place: Path, told: Mapping[str, Any]) -> None:
    (place / "answer.json").write_text(json.dumps(told), encoding="utf-8")


SYSTEMS: Mapping[str, Callable[[Spec], Callable[[Any], Any]]] = {
    "gaussian-copula": lambda spec: _sdv("GaussianCopulaSynthesizer", spec),
    "ctgan": lambda spec: _sdv("CTGANSynthesizer", spec, enable_gpu=False),
    "tvae": lambda spec: _sdv("TVAESynthesizer", spec, enable_gpu=False),
    "aim": lambda spec: _dpmm("AIMPipeline", spec),
    "mst": lambda spec: _dpmm("MSTPipeline", spec),
}
"""By name, what returns the function that fits a system and draws from it."""


if __name__ == "__main__":
    main(sys.argv[1])
