"""The lowest discrete cosine coefficients of an image, a series or a volume: a basis that no data chose.

Never depends on a record: the shape alone fixes every coefficient.
"""

import math
from collections.abc import Sequence

import numpy as np

from ...api import Array


class CosineBasis:
    """An orthonormal basis of the smoothest arrays of a shape, each channel or lead for itself.

    The type-II discrete cosine transform (Ahmed, Natarajan and Rao 1974, doi:10.1109/T-C.1974.223784)
    along every axis but the first, which counts channels; an array of one axis is one channel.

    Attributes:
        count: number of coefficients.
        numbers: numbers of an array.
    """

    def __init__(self, shape: Sequence[int], most: int) -> None:
        """Keep the ``most`` coefficients of lowest frequency, all of an array that has fewer."""
        channels, *axes = shape if len(shape) > 1 else (1, *shape)
        self.numbers = math.prod(shape)
        self.count = min(most, self.numbers)
        self._whole = (channels, *axes)
        reach = [min(size, most) for size in axes]  # along one axis nothing beyond this can be among the lowest
        index = np.indices((channels, *reach)).reshape(len(axes) + 1, -1)
        frequency = sum(place / size for place, size in zip(index[1:], axes, strict=True))
        # Rounded, so that equal frequencies tie and the order is the same on every machine.
        order = np.argsort(np.round(frequency, 9), kind="stable")[: self.count]
        self._kept = tuple(index[:, order])
        self._waves = [_waves(int(place.max()) + 1, size) for place, size in zip(self._kept[1:], axes, strict=True)]

    def analyse(self, arrays: Array) -> Array:
        """Return the coefficients of flat arrays ``(rows, numbers)``, shape ``(rows, count)``."""
        signal = arrays.reshape(len(arrays), *self._whole)
        for axis, waves in enumerate(self._waves, start=2):
            signal = np.moveaxis(np.tensordot(signal, waves, axes=(axis, 1)), -1, axis)
        return np.asarray(signal[(slice(None), *self._kept)])

    def synthesise(self, coefficients: Array) -> Array:
        """Return the flat arrays that have these coefficients and no others, shape ``(rows, numbers)``."""
        signal = np.zeros((len(coefficients), self._whole[0], *(len(waves) for waves in self._waves)))
        signal[(slice(None), *self._kept)] = coefficients
        for axis, waves in enumerate(self._waves, start=2):
            signal = np.moveaxis(np.tensordot(signal, waves, axes=(axis, 0)), -1, axis)
        return signal.reshape(len(coefficients), self.numbers)


def _waves(count: int, size: int) -> Array:
    """Return the first cosine waves of an axis, orthonormal, shape ``(count, size)``.

    >>> np.round(_waves(2, 2), 4).tolist()
    [[0.7071, 0.7071], [0.7071, -0.7071]]
    """
    waves = np.cos(np.pi / size * (np.arange(size) + 0.5) * np.arange(count)[:, None])
    waves *= np.sqrt(2 / size)
    waves[0] /= np.sqrt(2)
    return np.asarray(waves)
