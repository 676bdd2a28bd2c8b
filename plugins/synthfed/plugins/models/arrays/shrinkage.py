"""Estimates from noisy statistics of many groups: each is drawn to what all groups have in common.

Never uses more than released sums and the known size of their noise.
"""

import numpy as np

from ...api import Array


def shrink_means(means: Array, weights: Array, noise: Array) -> Array:
    """Return group means drawn to their weighted mean, each coordinate as far as its spread is noise.

    James and Stein's estimator in its positive part (Efron and Morris 1973, doi:10.2307/2284155),
    with the spread between groups estimated for each coordinate.

    Args:
        means: shape ``(groups, dim)``.
        weights: of the groups, summing to 1, shape ``(groups,)``.
        noise: standard deviation of each group's noise, the same in every coordinate, shape ``(groups,)``.
    """
    if len(means) < 3:  # too few groups to tell their spread from noise
        return means
    centre = weights @ means
    gaps = means - centre
    freedom = len(means) / (len(means) - 1)
    spread = np.maximum(((gaps**2 * freedom - noise[:, None] ** 2) * weights[:, None]).sum(0), 0.0)
    return np.asarray(centre + gaps * spread / (spread + noise[:, None] ** 2 + 1e-300))


def shrink_matrices(matrices: Array, common: Array, noise: Array) -> Array:
    """Return symmetric matrices drawn entry by entry to a common one, and made positive.

    The entries of the groups' matrices are taken to spread about the common one like the product of
    its standard deviations, times a factor that is estimated from all entries together.

    Args:
        matrices: shape ``(groups, dim, dim)``.
        common: shape ``(dim, dim)`` or one for each group.
        noise: standard deviation of the noise of a diagonal entry, shape ``(groups,)``; that of
            another entry is smaller by the root of 2.
    """
    shared = np.broadcast_to(common, matrices.shape)
    dim = matrices.shape[1]
    errors = noise[:, None, None] ** 2 * (np.eye(dim) / 2 + 0.5)
    scales = np.sqrt(np.maximum(np.einsum("gii->gi", shared), 1e-12))
    products = scales[:, :, None] * scales[:, None, :]
    # Precise groups tell most about the factor.
    trust = 1 / np.maximum(noise, 1e-12)[:, None, None] ** 4
    excess = ((matrices - shared) ** 2 - errors) * products**2 * trust
    factor = max(float(excess.sum() / (products**4 * trust).sum()), 0.0)
    spread = factor * products**2
    return positive(shared + (matrices - shared) * spread / (spread + errors + 1e-300))


def positive(matrices: Array) -> Array:
    """Return the nearest symmetric matrices without negative eigenvalues, shape ``(..., dim, dim)``."""
    values, vectors = np.linalg.eigh((matrices + np.swapaxes(matrices, -1, -2)) / 2)
    return np.asarray((vectors * np.maximum(values, 0.0)[..., None, :]) @ np.swapaxes(vectors, -1, -2))
