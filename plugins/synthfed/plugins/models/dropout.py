"""Dropout whose chance is an argument, so that who draws it is the caller's to say.

Never draws: a site gets its coins from the core, the coordinator from its own generator.
"""

import torch


def dropped(signal: torch.Tensor, coins: torch.Tensor | None, rate: float) -> torch.Tensor:
    """Return a signal without the units whose coin is below ``rate``, the others scaled to the same mean.

    Inverted dropout (Srivastava et al. 2014, JMLR 15) with the chance as an argument.
    """
    return signal if coins is None else signal * (coins >= rate) / (1.0 - rate)
