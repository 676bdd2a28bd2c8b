"""What audits found, as a table for a terminal.

Never shows a number without its interval, its trivial floor and what real rows reach.
"""

from collections.abc import Sequence
from typing import Final

from rich.table import Table

from ..report import Finding

_MEASURES: Final = {
    "tvd1": "distance",
    "tvd2": "pair distance",
    "auc": "AUC on real rows",
    "utility-kept": "gain kept",
    "coverage": "real rows reached",
    "density": "density near real rows",
    "detection": "told from real (AUC)",
    "membership-ratio": "members found, density",
    "membership-distance": "members found, distance",
    "attribute-advantage": "secret guessed, gain",
    "nearer-to-train": "nearer to train rows",
    "copies": "copies of train rows",
}


def findings_table(findings: Sequence[Finding]) -> Table:
    """Return each measure beside its trivial floor and what real rows reach, those of single columns last."""
    estimates = [estimate for finding in findings for estimate in finding.estimates]
    table = Table("measure", "synthetic", "interval", "floor", "real", box=None, padding=(0, 2))
    for each in sorted(estimates, key=lambda estimate: bool(estimate.column)):
        name = f"{_MEASURES.get(each.name, each.name)}{f' of {each.column}' if each.column else ''}"
        interval = f"{each.low:.3f} to {each.high:.3f}"
        table.add_row(name, f"{each.value:.3f}", interval, f"{each.baseline:.3f}", f"{each.control:.3f}")
    return table
