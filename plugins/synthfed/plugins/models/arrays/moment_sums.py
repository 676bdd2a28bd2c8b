"""What one array and its label contribute to the sums of the moment anchor.

Never returns a contribution longer than 1: every bound holds by construction, whatever the payload.

Every record belongs to one group (a class, or a cell of one), so that a sum over groups has the
norm of one group's part. The parts are a count, a vector v of norm at most 1 and the products
v v^T, whose norm is that of v squared; their weights are the square roots of numbers that sum to 1.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from ...api import Array

Group = npt.NDArray[np.int64]

COUNT_OF_MEANS: Final = 0.3
VECTOR_OF_MEANS: Final = 0.91**0.5
COUNT_OF_MOMENTS: Final = 0.25
VECTOR_OF_MOMENTS: Final = 0.55
PRODUCTS_OF_MOMENTS: Final = (1 - COUNT_OF_MOMENTS**2 - VECTOR_OF_MOMENTS**2) ** 0.5


def clipped(vectors: Array, radius: float) -> Array:
    """Return vectors in units of a radius, those outside drawn back onto it: norms at most 1, same shape."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, max(radius, 1e-12)))


def mean_parts(vectors: Array, group: Group, groups: int) -> Array:
    """Return each record's count and vector, in its group's place: shape ``(rows, groups * (1 + dim))``.

    Args:
        vectors: of norm at most 1, shape ``(rows, dim)``.
        group: of each record, shape ``(rows,)``.
        groups: how many there are.
    """
    count = np.full((len(vectors), 1), COUNT_OF_MEANS)
    return _in_place(np.hstack([count, VECTOR_OF_MEANS * vectors]), group, groups)


def read_means(sums: Array, groups: int) -> tuple[Array, Array]:
    """Return released counts ``(groups,)`` and sums of vectors ``(groups, dim)``."""
    parts = sums.reshape(groups, -1)
    return parts[:, 0] / COUNT_OF_MEANS, parts[:, 1:] / VECTOR_OF_MEANS


def moment_parts(vectors: Array, group: Group, groups: int) -> Array:
    """Return each record's count, vector and products, in its group's place.

    Args:
        vectors: of norm at most 1, shape ``(rows, dim)``.
        group: of each record, shape ``(rows,)``.
        groups: how many there are.

    Returns:
        Shape ``(rows, groups * moment_size(dim))``.
    """
    count = np.full((len(vectors), 1), COUNT_OF_MOMENTS)
    parts = [count, VECTOR_OF_MOMENTS * vectors, PRODUCTS_OF_MOMENTS * products(vectors)]
    return _in_place(np.hstack(parts), group, groups)


def read_moments(sums: Array, groups: int, dim: int) -> tuple[Array, Array, Array]:
    """Return released counts ``(groups,)``, sums of vectors ``(groups, dim)``, of products ``(groups, dim, dim)``."""
    parts = sums.reshape(groups, moment_size(dim))
    vectors = parts[:, 1 : 1 + dim] / VECTOR_OF_MOMENTS
    return parts[:, 0] / COUNT_OF_MOMENTS, vectors, square(parts[:, 1 + dim :] / PRODUCTS_OF_MOMENTS, dim)


def moment_size(dim: int) -> int:
    """Return how many numbers a group's moments take."""
    return 1 + dim + dim * (dim + 1) // 2


def products(vectors: Array) -> Array:
    """Return all products of two entries, shape ``(rows, dim * (dim + 1) / 2)``, as long as the vector squared.

    Each product of two different entries stands once, times the root of 2.

    >>> products(np.array([[0.6, 0.8]])).round(3).tolist()
    [[0.36, 0.679, 0.64]]
    """
    first, second = np.triu_indices(vectors.shape[1])
    return np.asarray(vectors[:, first] * vectors[:, second] * np.where(first == second, 1.0, np.sqrt(2)))


def square(halves: Array, dim: int) -> Array:
    """Return the symmetric matrices whose entries ``products`` lists, shape ``(..., dim, dim)``."""
    first, second = np.triu_indices(dim)
    entries = halves / np.where(first == second, 1.0, np.sqrt(2))
    matrices = np.zeros((*halves.shape[:-1], dim, dim))
    matrices[..., first, second] = entries
    matrices[..., second, first] = entries
    return matrices


def _in_place(parts: Array, group: Group, groups: int) -> Array:
    placed = np.zeros((len(parts), groups, parts.shape[1]))
    placed[np.arange(len(parts)), group] = parts
    return placed.reshape(len(parts), -1)
