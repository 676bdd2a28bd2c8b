"""The parts of the moment anchor that are plain mathematics: waves, levels, bounded sums, shrinkage."""

import numpy as np
import pytest

from synthfed.plugins.models.arrays.dct import CosineBasis
from synthfed.plugins.models.arrays.grey_levels import Levels, level_shares
from synthfed.plugins.models.arrays.moment_sums import (
    clipped,
    mean_parts,
    moment_parts,
    moment_size,
    products,
    read_means,
    read_moments,
    square,
)
from synthfed.plugins.models.arrays.shrinkage import positive, shrink_matrices, shrink_means


@pytest.mark.parametrize("shape", [(6,), (2, 12), (1, 5, 7), (3, 4, 4), (1, 3, 4, 5)])
def test_all_coefficients_together_are_the_array_and_keep_its_length(shape: tuple[int, ...]) -> None:
    arrays = np.random.default_rng(0).normal(size=(4, int(np.prod(shape))))
    basis = CosineBasis(shape, 10_000)
    waves = basis.analyse(arrays)
    assert basis.count == waves.shape[1] == arrays.shape[1]
    np.testing.assert_allclose(np.linalg.norm(waves, axis=1), np.linalg.norm(arrays, axis=1))
    np.testing.assert_allclose(basis.synthesise(waves), arrays, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 40), (1, 9, 7), (2, 8, 8)])
def test_few_coefficients_are_the_nearest_smooth_array(shape: tuple[int, ...]) -> None:
    basis = CosineBasis(shape, 12)
    arrays = np.random.default_rng(0).normal(size=(3, basis.numbers))
    near = basis.synthesise(basis.analyse(arrays))
    np.testing.assert_allclose(basis.analyse(near), basis.analyse(arrays), atol=1e-12)
    np.testing.assert_allclose(((arrays - near) * near).sum(1), 0, atol=1e-9)


def test_the_first_coefficients_are_the_channels_means_then_the_slowest_waves() -> None:
    flat = np.repeat([[1.0, -2.0]], 16, axis=1)
    np.testing.assert_allclose(CosineBasis((2, 16), 4).analyse(flat), [[4.0, -8.0, 0, 0]], atol=1e-12)


def test_a_records_coefficients_do_not_depend_on_other_records() -> None:
    arrays = np.random.default_rng(0).normal(size=(20, 64))
    basis = CosineBasis((1, 8, 8), 30)
    np.testing.assert_allclose(basis.analyse(arrays[3:4])[0], basis.analyse(arrays)[3], atol=1e-12)


def test_level_shares_count_the_nearest_level_of_each_number() -> None:
    shares = level_shares(np.array([[-1, -0.9, 0.2, 1.0], [9.0, 0.0, 0.0, -9.0]]), 3)
    np.testing.assert_allclose(shares, [[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]])


def test_levels_give_back_the_moments_and_quantiles_of_the_numbers() -> None:
    numbers = np.clip(np.random.default_rng(0).normal(-0.2, 0.3, (50, 400)), -1, 1)
    levels = Levels.of(level_shares(numbers, 64).sum(0), 0.01)
    assert levels.mean == pytest.approx(numbers.mean(), abs=0.01)
    assert levels.variance == pytest.approx(numbers.var(), rel=0.02)
    parts = np.linspace(0.05, 0.95, 10)
    np.testing.assert_allclose(levels.quantiles(parts), np.quantile(numbers, parts), atol=0.03)


def test_levels_that_are_noise_alone_do_not_widen_the_variance() -> None:
    rng = np.random.default_rng(0)
    sums = np.zeros(64)
    sums[30:34] = 250
    levels = Levels.of(sums + rng.normal(0, 3, 64), 3.0)
    assert levels.variance < 2 * Levels.of(sums, 3.0).variance
    assert Levels.of(np.full(8, -1.0), 3.0).shares.tolist() == [0.125] * 8


def test_no_contribution_is_longer_than_one_whatever_the_vector() -> None:
    rng = np.random.default_rng(0)
    vectors = clipped(rng.normal(size=(200, 7)) * rng.exponential(3, (200, 1)), 1.5)
    group = rng.integers(0, 3, 200)
    for parts in (vectors, products(vectors), mean_parts(vectors, group, 3), moment_parts(vectors, group, 3)):
        norms = np.linalg.norm(parts, axis=1)
        assert norms.max() <= 1 + 1e-12
        assert norms.max() > 0.99


def test_sums_are_read_as_the_counts_means_and_products_of_every_group() -> None:
    rng = np.random.default_rng(0)
    vectors, group = clipped(rng.normal(size=(60, 4)), 5.0), np.arange(60) % 3
    counts, sums = read_means(mean_parts(vectors, group, 3).sum(0), 3)
    more_counts, more_sums, squares = read_moments(moment_parts(vectors, group, 3).sum(0), 3, 4)
    np.testing.assert_allclose([counts, more_counts], 20)
    for each in range(3):
        own = vectors[group == each]
        np.testing.assert_allclose(sums[each], own.sum(0))
        np.testing.assert_allclose(more_sums[each], own.sum(0))
        np.testing.assert_allclose(squares[each], own.T @ own)
    assert moment_size(4) == 15


def test_products_are_as_long_as_the_vector_squared_and_can_be_put_back() -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 6))
    np.testing.assert_allclose(np.linalg.norm(products(vectors), axis=1), (vectors**2).sum(1))
    np.testing.assert_allclose(square(products(vectors), 6), vectors[:, :, None] * vectors[:, None, :])


def test_shrunk_means_are_nearer_to_the_truth_than_noisy_ones() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(0, [[3.0, 0.1]], (10, 2))
    weights, noise = np.full(10, 0.1), np.ones(10)
    noisy = true + rng.normal(size=(10, 2))
    shrunk = shrink_means(noisy, weights, noise)
    assert np.mean((shrunk - true) ** 2) < 0.8 * np.mean((noisy - true) ** 2)
    np.testing.assert_allclose(shrink_means(noisy, weights, noise * 1e-6), noisy, atol=1e-6)
    np.testing.assert_array_equal(shrink_means(noisy[:2], weights[:2], noise[:2]), noisy[:2])


def test_shrunk_matrices_are_positive_and_nearer_to_the_truth() -> None:
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(6, 5, 5)) * 0.3 + np.diag([2.0, 1.5, 1, 0.5, 0.2])
    true = factors @ factors.transpose(0, 2, 1)
    draws = rng.normal(size=true.shape)
    noisy = true + (draws + draws.transpose(0, 2, 1)) / 2 * 2.0
    shrunk = shrink_matrices(noisy, positive(noisy.mean(0)), np.full(6, 2.0))
    assert np.linalg.eigvalsh(shrunk).min() > -1e-9
    assert np.sum((shrunk - true) ** 2) < 0.6 * np.sum((positive(noisy) - true) ** 2)
    np.testing.assert_allclose(shrink_matrices(true, true.mean(0), np.full(6, 1e-6)), true, atol=1e-6)
