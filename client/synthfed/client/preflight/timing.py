"""How long a study's rounds take on this machine, held against the fixed times of its answers.

Never measures on a record: the rows are made up.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Final

from synthfed.plugins.pinning import Pinned
from synthfed.protocols.sums import Family, Kind, answer_time_s

from ..local_steps import seconds_per_round
from .findings import Finding

_HEADROOM: Final = 2.0  # other sites or programs may share this machine's cores
_LEAST_TIME_S: Final = 0.05  # an answer also takes draws, masks and a write to disk
_TRIALS: Final = 3


def measured(pinned: Pinned) -> dict[str, list[float]]:
    """Return how long rounds of every kind take on made-up rows, in seconds, the fastest first."""
    took_s = {}
    for kind in pinned.policy.plan.kinds:
        seconds_per_round(pinned, kind)  # the first one warms up
        took_s[kind.sum.name] = sorted(seconds_per_round(pinned, kind) for _ in range(_TRIALS))
    return took_s


def look_at_timing(pinned: Pinned, took_s: Mapping[str, list[float]]) -> Iterator[Finding]:
    """Hold every kind of round against its fixed answer time, and say which times would do here."""
    fields: dict[Family, str] = {"gradient": "answer_time_s", "statistic": "statistic_time_s"}
    enough_s: dict[str, float] = {}
    for kind in pinned.policy.plan.kinds:
        field, trials_s = fields[kind.sum.family], took_s[kind.sum.name]
        middle_s, allowed_s = trials_s[_TRIALS // 2], answer_time_s(pinned.policy.study, kind.sum.family)
        enough_s[field] = max(enough_s.get(field, _LEAST_TIME_S), trials_s[-1] * _HEADROOM)
        detail = f"{_told(kind)} takes {middle_s * 1000:.0f} ms of its {allowed_s * 1000:.0f} ms"
        is_ok = middle_s * _HEADROOM <= allowed_s
        yield Finding("timing", is_ok, detail if is_ok else f"{detail}; agree on a longer {field} in [privacy]")
    times = " and ".join(f"{field} = {_rounded_up(value)}" for field, value in sorted(enough_s.items()))
    yield Finding("timing", True, f"{times} would do on this machine; the slowest site decides")


def _told(kind: Kind) -> str:
    many = kind.sum.steps
    return f"a step of {kind.sum.name!r}" if many == 1 else f"a round of {kind.sum.name!r} with its {many} steps"


def _rounded_up(value: float) -> float:
    """Return the next larger number of two digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / unit) * unit:.2g}")
