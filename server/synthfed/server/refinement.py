"""What a report says of a refinement: that there was none, or how a private comparison judged it.

Never guesses: of a refinement without a released comparison it says nothing.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from synthfed.protocols.sums import Family

JUDGED: Final = ("comparison", "comparison_noise", "kept")
"""Names under which a model's progress tells its verdict: the gain in nats a record, its deviation, 1 or 0."""

_REFINEMENT: Final = "the refinement by the critic's private steps"


def refinement(history: Sequence[Mapping[str, float]], families: Collection[Family]) -> str:
    """Return in one sentence what the refinement added and whether it was kept; nothing without a comparison.

    Args:
        history: public numbers of the training; the last verdict counts.
        families: of the sums that were declared; none where nobody knows.
    """
    if families and "gradient" not in families:
        return (
            "No network took private steps: all of the budget went to released statistics, and all rows come from the "
            "generator fitted to them."
        )
    verdicts = [[float(point[name]) for name in JUDGED] for point in history if all(name in point for name in JUDGED)]
    if not verdicts or not all(map(math.isfinite, verdicts[-1])):
        return ""
    gain, noise, kept = verdicts[-1]
    if noise == 0:
        return (
            f"{_REFINEMENT.capitalize()} made nothing that can be told from the warm start, the generator before them, "
            "by synthetic rows alone: all rows come from the warm start."
        )
    measured = f"{gain:.3g} nats a record (standard deviation {noise:.2g})"
    if kept:
        return f"By a private comparison on real records {_REFINEMENT} added {measured}, so it was kept."
    return (
        f"By a private comparison on real records {_REFINEMENT} added {measured}, which is not clearly above 0: "
        "it was thrown away, and all rows come from the warm start, the generator before them."
    )
