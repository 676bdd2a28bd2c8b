"""What released sums of the moment anchor say: class means, directions, centres of cells, covariances.

Never touches a record: arithmetic on noisy sums and the known size of their noise.
"""

from typing import Final

import numpy as np

from ...api import Array
from ..marginals import Released, project_to_simplex
from .moment_sums import (
    COUNT_OF_MEANS,
    COUNT_OF_MOMENTS,
    PRODUCTS_OF_MOMENTS,
    VECTOR_OF_MEANS,
    VECTOR_OF_MOMENTS,
    read_means,
    read_moments,
    square,
)
from .shrinkage import positive, shrink_matrices, shrink_means

SURE: Final = 2.0  # a count is never taken for less than so many standard deviations of its noise
CELL_SPREAD: Final = 0.7  # first distance of a class's cells from its mean, in standard deviations


def probabilities_of(counts: Array) -> Array:
    """Return noisy counts as probabilities, uniform if nothing is left of them."""
    mass = float(counts.sum())
    return project_to_simplex(counts / mass) if mass > 0 else np.full(len(counts), 1 / len(counts))


def class_means(released: Released, classes: int, radius: float) -> tuple[Array, Array]:
    """Return counts ``(classes,)`` and shrunk means ``(classes, dim)`` of the classes."""
    counts, sums = read_means(released.per_site, classes)
    noise = released.noise_per_site
    safe = np.maximum(counts, max(SURE * noise / COUNT_OF_MEANS, 1e-9))
    errors = radius * noise / VECTOR_OF_MEANS / safe
    weights = probabilities_of(counts)
    return counts, shrink_means(radius * sums / safe[:, None], weights, errors)


def directions(released: Released, units: float, count: int, dim: int, radius: float) -> tuple[Array, Array]:
    """Return the first eigenvectors ``(count, dim)`` of the pooled products and their eigenvalues ``(dim,)``."""
    pooled = square(released.per_site, count) / units * radius**2
    values, vectors = np.linalg.eigh(pooled)
    return vectors[:, ::-1][:, :dim], np.maximum(values[::-1][:dim], 0.0)


def first_centres(means: Array, axes: Array, spreads: Array, cells: int) -> Array:
    """Return where the cells of each class start: its mean, moved apart at random where there are several.

    Args:
        means: shape ``(classes, count)``.
        axes: shape ``(count, dim)``.
        spreads: standard deviation along each axis, shape ``(dim,)``.
        cells: of each class.

    Returns:
        Shape ``(classes, cells, dim)``.
    """
    centres = np.repeat((means @ axes)[:, None], cells, axis=1)
    if cells == 1:
        return centres
    draws = np.random.default_rng(0).standard_normal(centres.shape)  # public; a restart must draw the same
    return np.asarray(centres + CELL_SPREAD * spreads * draws)


def moved_centres(released: Released, centres: Array, radius: float) -> Array:
    """Return each centre moved to the mean of what lay nearest to it, as far as that is not noise."""
    groups = centres.shape[0] * centres.shape[1]
    counts, sums = read_means(released.per_site, groups)
    noise = released.noise_per_site
    safe = np.maximum(counts, max(SURE * noise / COUNT_OF_MEANS, 1e-9))
    steps = _trusted(sums / safe[:, None], noise / VECTOR_OF_MEANS / safe)
    return centres + radius * steps.reshape(centres.shape)


def cell_moments(released: Released, classes: int, cells: int, dim: int) -> tuple[Array, Array, Array]:
    """Return each cell's count, mean and covariance, in units of the clipping radius.

    Means are drawn to their centre, covariances to their class's and these to the pooled one, as
    far as the noise demands.

    Returns:
        Shapes ``(classes, cells)``, ``(classes, cells, dim)`` and ``(classes, cells, dim, dim)``.
    """
    counts, sums, squares = read_moments(released.per_site, classes * cells, dim)
    noise = released.noise_per_site
    safe = np.maximum(counts, max(SURE * noise / COUNT_OF_MOMENTS, 1e-9))
    means = _trusted(sums / safe[:, None], noise / VECTOR_OF_MOMENTS / safe)
    about = squares - safe[:, None, None] * means[:, :, None] * means[:, None, :]
    error = noise / PRODUCTS_OF_MOMENTS
    whole = positive(about.sum(0) / safe.sum())
    by_class = about.reshape(classes, cells, dim, dim).sum(1)
    of_class = safe.reshape(classes, cells).sum(1)
    shared = shrink_matrices(by_class / of_class[:, None, None], whole, error * np.sqrt(cells) / of_class)
    if cells > 1:
        own = about / safe[:, None, None]
        shared = shrink_matrices(own, np.repeat(shared, cells, axis=0), error / safe)
    shape = (classes, cells, dim)
    return counts.reshape(shape[:2]), means.reshape(shape), shared.reshape(*shape, dim)


def _trusted(steps: Array, errors: Array) -> Array:
    """Return vectors ``(groups, dim)`` drawn to zero, by the spread of all their entries against the noise."""
    squares = errors[:, None] ** 2
    trust = 1 / np.maximum(squares, 1e-300) ** 2
    spread = max(float(((steps**2 - squares) * trust).sum() / (trust.sum() * steps.shape[1])), 0.0)
    return np.asarray(steps * spread / (spread + squares + 1e-300))
