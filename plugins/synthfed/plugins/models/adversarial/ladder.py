"""When the generator has its turn: a ladder of critic's steps, climbed by what the critic makes of fakes alone.

Never looks at real records, nor at anything released about them: the schedule costs no privacy.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


class Ladder:
    """The schedule of Bie, Kamath and Zhang (2023, arXiv:2302.02936).

    Noise slows the critic down, not the generator. Where the critic no longer tells fakes, it gets more
    steps before the generator's next turn, and keeps them.

    Attributes:
        accuracy: running mean of the part of fakes that the critic told; 1 before the first turn.
    """

    def __init__(self, rungs: Sequence[int], *, least: float, decay: float, grace: int) -> None:
        """Start on the first rung.

        Args:
            rungs: critic's steps for each of the generator's turns, rising.
            least: the next rung is taken where the running mean is below.
            decay: of the running mean.
            grace: turns on a rung before that.
        """
        self._rungs, self._least, self._decay, self._grace = tuple(rungs), least, decay, grace
        self._rung = self._steps = self._turns = self._seen = 0
        self.accuracy = 1.0

    @property
    def steps(self) -> int:
        """The critic's steps for each turn of the generator at present."""
        return self._rungs[self._rung]

    def step(self, accuracy: float) -> bool:
        """Count a critic's step and return whether the generator's turn has come.

        Args:
            accuracy: the part of a batch of fakes that the critic took for fakes.
        """
        self._steps += 1
        if self._steps < self.steps:
            return False
        self._steps = 0
        self._turns += 1
        self.accuracy = self.accuracy * self._decay + accuracy * (1 - self._decay) if self._seen else accuracy
        self._seen = 1
        if self._turns >= self._grace and self.accuracy < self._least and self._rung < len(self._rungs) - 1:
            self._rung, self._turns = self._rung + 1, 0
        return True

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return where it stands."""
        counts = np.array([self._rung, self._steps, self._turns, self._seen], dtype=np.int64)
        return {"ladder": counts, "ladder.accuracy": np.array([self.accuracy])}

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restore what ``state`` returned."""
        self._rung, self._steps, self._turns, self._seen = (int(each) for each in state["ladder"])
        self.accuracy = float(state["ladder.accuracy"][0])
