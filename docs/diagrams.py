"""Writes the state diagrams of `protocol.md` from the kernel's tables: `python docs/diagrams.py`.

Never draws an arrow that is not in a table; with ``--check`` it changes nothing and says what differs.
"""

import re
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

from synthfed.protocols.secagg.table import AGGREGATE, SITE, Aggregate, Site

PAGE = Path(__file__).parent / "protocol.md"


def diagram(table: Mapping[tuple[Enum, Enum], Enum], start: Enum) -> str:
    """Return a table of transitions as a mermaid state diagram, one line an arrow."""
    arrows = [f"    {state.name} --> {to.name}: {event.name}" for (state, event), to in table.items()]
    return "\n".join(["```mermaid", "stateDiagram-v2", f"    [*] --> {start.name}", *arrows, "```"])


def with_diagrams(page: str) -> str:
    """Return the page with what stands between each pair of marks replaced by its diagram."""
    drawn = {"site": diagram(SITE, Site.IDLE), "aggregator": diagram(AGGREGATE, Aggregate.HELLOS)}
    for name, text in drawn.items():
        marks = re.compile(rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)", re.DOTALL)
        page, count = marks.subn(lambda found, text=text: found[1] + text + found[2], page)
        if count != 1:
            raise SystemExit(f"{PAGE}: needs one pair of marks named {name!r}, has {count}")
    return page


def main() -> None:
    """Rewrite the page, or check it."""
    page = PAGE.read_text(encoding="utf-8")
    wanted = with_diagrams(page)
    if "--check" in sys.argv[1:]:
        if page != wanted:
            raise SystemExit(f"{PAGE}: the diagrams differ from the tables; run `python docs/diagrams.py`")
    else:
        PAGE.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()
