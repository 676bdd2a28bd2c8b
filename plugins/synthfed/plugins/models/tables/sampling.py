"""Synthetic cells from a trained generator, their marginals brought back to the released ones.

Never changes the generator or looks at a record: whatever it draws is post-processing of released sums.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch

from ...domains.encoding import Codes, Portions
from .generator import Generator

BATCH: Final = 4096  # records at a time: many for one call, few enough for the processor's cache
CENTRING_RECORDS: Final = 8192
MOST_NUMBERS: Final = 2**26  # logits at a time: fewer records of tables with more cells than about ten thousand
CENTRING_PASSES: Final = 5
MOST_SHIFT: Final = 30.0  # of a logit: beyond it, odds of float32 numbers would overflow


@torch.no_grad()
def sample_codes(
    generator: Generator, marginals: torch.Tensor, rows: int, seed: int, portions: Portions | None = None
) -> Codes:
    """Return the cells of synthetic records, the same for the same generator, marginals, rows, seed and ``portions``.

    Args:
        generator: the trained generator.
        marginals: every cell's released probability, all above 0, shape ``(width,)``.
        rows: how many records.
        seed: fixes them.
        portions: which part of a column's cells all records lie in, for a generator that takes conditions.

    Returns:
        Shape ``(rows, columns)``.

    Raises:
        ConfigError: there is no such record.
    """
    rng = torch.Generator().manual_seed(seed)
    shift = centring(generator, marginals, rng)  # of all records, whatever is asked for
    chances = None
    if portions:
        limits = _limits(generator.sizes, portions)
        chances = generator.chances(shift, limits)
        shift = shift + limits.float()
    codes = np.empty((len(generator.sizes), rows), dtype=np.int64)
    batch = min(BATCH, max(MOST_NUMBERS // len(marginals), 1))
    for first in range(0, rows, batch):
        latents = generator.latents(min(batch, rows - first), rng, chances)
        codes[:, first : first + batch] = draw(generator.logits_by_cell(latents, shift), generator.sizes, rng)
    for place, (begin, end) in (portions or {}).items():
        allowed = np.flatnonzero(end > begin)  # neighbours; a sum of odds is rounded, and a draw may pass the last
        codes[place] = codes[place].clip(allowed[0], allowed[-1])
    return codes.T


def _limits(sizes: Sequence[int], portions: Portions) -> torch.Tensor:
    """Return the logarithm of the part of every cell that is allowed, shape ``(width,)``, float64."""
    lengths = [portions[i][1] - portions[i][0] if i in portions else np.ones(size) for i, size in enumerate(sizes)]
    return torch.from_numpy(np.concatenate(lengths)).log()


@torch.no_grad()
def walk_codes(generator: Generator, marginals: torch.Tensor, walks: int, steps: int, seed: int) -> Codes:
    """Return the cells of records along walks through the latent space, shape ``(walks * steps, columns)``.

    Each walk's records are drawn with the same chance, so that what changes on the way is the latent's doing.
    """
    rng = torch.Generator().manual_seed(seed)
    shift = centring(generator, marginals, rng)
    codes = np.empty((walks, steps, len(generator.sizes)), dtype=np.int64)
    for walk in codes:
        logits = generator.logits_by_cell(generator.path(steps, rng), shift)
        scores = logits - torch.empty(len(shift), 1).exponential_(generator=rng).clamp_min(1e-30).log()
        walk[:] = np.stack([block.argmax(0).numpy() for block in scores.split_with_sizes(generator.sizes)], axis=1)
    return codes.reshape(walks * steps, len(generator.sizes))


def centring(generator: Generator, marginals: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Return what to add to the logits so that the marginals are the released ones again, shape ``(width,)``."""
    shift = torch.zeros_like(marginals)
    records = min(CENTRING_RECORDS, max(MOST_NUMBERS // len(marginals), 1))
    latents = generator.latents(records, rng)
    blocks = generator.logits_by_cell(latents, shift).split_with_sizes(generator.sizes)
    odds = [(block - block.amax(0)).exp_() for block in blocks]
    for _ in range(CENTRING_PASSES):
        factors = shift.exp().split_with_sizes(generator.sizes)
        # A shift multiplies a cell's odds, so two products per column give the mean of the shifted softmax.
        sums = [factor * (odd @ (factor @ odd).reciprocal()) for odd, factor in zip(odds, factors, strict=True)]
        expected = torch.cat(sums) / records
        shift += (marginals / expected.clamp_min(1e-8)).log()
        shift.clamp_(-MOST_SHIFT, MOST_SHIFT)
    return shift


def draw(logits: torch.Tensor, sizes: Sequence[int], rng: torch.Generator) -> Codes:
    """Return one cell of each column by inversion of even uniform numbers.

    Args:
        logits: of every cell, shape ``(width, rows)``.
        sizes: cells of each column.
        rng: where the uniform numbers come from.

    Returns:
        Shape ``(columns, rows)``.
    """
    uniform = even_numbers(len(sizes), logits.shape[1], rng)
    codes = np.zeros(uniform.shape, dtype=np.int16)
    for code, level, block in zip(codes, uniform, logits.split_with_sizes(list(sizes)), strict=True):
        odds = (block - block.amax(0)).exp_()
        left = (level * odds.sum(0)).numpy()
        # One cell of thousands of records at a time: running sums along each record take four times as long.
        for each in odds[:-1].numpy():
            left -= each
            code += left >= 0
    return codes.astype(np.int64)


def even_numbers(columns: int, records: int, rng: torch.Generator) -> torch.Tensor:
    """Return uniform numbers, shape ``(columns, records)``: every n-th part of [0, 1] holds one of a column's n.

    A record's numbers are uniform and independent of each other, so each record is an exact draw; taken together
    they make marginals stray less (Latin hypercube sampling: McKay, Beckman and Conover 1979, doi:10.2307/1268522).
    """
    places = torch.rand(columns, records, generator=rng).argsort(1)
    return (places + torch.rand(places.shape, generator=rng)) / records
