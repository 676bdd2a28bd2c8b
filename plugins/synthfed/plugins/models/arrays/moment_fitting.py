"""The coordinator's half of the moment anchor: what to ask next, and the sampler fitted to the answers.

Never sees more of the records than released sums; all that it computes is post-processing.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import torch

from synthfed.protocols.errors import ConfigError

from ...api import Answer, Array, Ask, Given
from ..marginals import Released
from .grey_levels import Levels
from .moment_estimates import cell_moments, class_means, directions, first_centres, moved_centres, probabilities_of
from .moment_mixture import Correction, Mixture
from .moment_sums import Group
from .shrinkage import positive

if TYPE_CHECKING:
    from .moment_anchor import MomentAnchor

MEANS_REACH: Final = 1.1  # radii of the clipping balls, in units of what is expected of a norm
BASIS_REACH: Final = 0.8
MOMENTS_REACH: Final = 0.65
STRENGTH: Final = 0.85  # of the correction of levels


class MomentFitting:
    """Released statistics of arrays, and the mixture of Gaussians that follows from them."""

    def __init__(self, anchor: "MomentAnchor", seed: int) -> None:  # noqa: ARG002  (nothing is drawn)
        """Start without a release: all levels alike, one shapeless class like the other."""
        self._anchor = anchor
        self._released = {each.name: Released(np.zeros(each.dim)) for each in anchor.sums()}
        count, dim, classes = anchor.waves.count, anchor.dim, anchor.classes
        self._frame = np.zeros(2)  # centre and radius of the means
        self._radius = 1.0  # of the basis
        self._counts = np.zeros(classes)
        self._means = np.zeros((classes, count))
        self._axes = np.eye(count, dim)
        self._spreads = np.zeros(dim)
        self._centres = np.zeros((classes, anchor.options.cells, dim))
        self._drawing: tuple[Mixture, Correction] | None = None  # follows from the rest
        self._scale()
        self._spread_evenly()

    def ask(self, remaining: Mapping[str, int]) -> Ask | None:
        """Return every round of each statistic in turn."""
        for each in self._anchor.sums():
            if remaining.get(each.name, 0) > 0:
                sent = {name: self._payload(each.name, name) for name, _ in each.payload}
                return Ask(each.name, {name: values.astype(np.float32) for name, values in sent.items()})
        return None

    def receive(self, answer: Answer) -> None:
        """Add a statistic to its average, and derive from it what later ones are asked with."""
        released = self._released[answer.sum].add(answer)
        self._released[answer.sum] = released
        self._drawing = None
        anchor = self._anchor
        if answer.sum == "levels":
            self._scale()
        elif answer.sum == "means":
            self._take_means(released)
        elif answer.sum == "basis":
            values = directions(released, self.units_per_site, anchor.waves.count, anchor.dim, self._radius)
            self._axes, self._spreads = values[0], np.sqrt(values[1])
        elif answer.sum == "cells":
            # Rounds of this one follow each other; an average over different centres would mean nothing.
            alone = Released(np.zeros(len(answer.total))).add(answer)
            self._centres = moved_centres(alone, self._centres, self._reach())
            return
        else:
            return
        self._centres = first_centres(self._means, self._axes, self._spreads, anchor.options.cells)

    @property
    def levels(self) -> Levels:
        """The released distribution of all numbers."""
        released = self._released["levels"]
        return Levels.of(released.per_site, released.noise_per_site)

    @property
    def units_per_site(self) -> float:
        """The released estimate, or the declared bound if no class mean was ever released."""
        if self._released["means"].weight == 0:
            return float(self._anchor.most_units_per_site)
        return max(float(self._counts.sum()), 1.0)

    def fit(self) -> None:
        """Make the sampler."""
        self._sampler()

    def sample(self, rows: int, rng: torch.Generator) -> torch.Tensor:
        """Return encoded records, shape ``(rows, width)``, float32."""
        return self.sample_classes(self.draw_classes(rows, rng, {}), rng)

    def sample_classes(self, group: Group, rng: torch.Generator) -> torch.Tensor:
        """Return encoded records of these classes, shape ``(rows, width)``, float32."""
        return self.encoded(self.draw(group, rng), group)

    def draw(self, group: Group, rng: torch.Generator) -> Array:
        """Return cosine coefficients of fresh arrays of these classes, shape ``(rows, coefficients)``."""
        return self._sampler()[0].draw(group, rng)

    def draw_classes(self, rows: int, rng: torch.Generator, given: Given) -> Group:
        """Return classes by their released probability among those with the given categories, shape ``(rows,)``."""
        return self._sampler()[0].draw_classes(rows, rng, self._anchor.allowed(given))

    def numbers(self, coefficients: Array) -> Array:
        """Return the numbers in [-1, 1] that coefficients stand for, levels corrected, shape ``(rows, numbers)``."""
        mixture, correction = self._sampler()
        return correction(mixture.arrays(coefficients))

    def encoded(self, coefficients: Array, group: Group) -> torch.Tensor:
        """Return the encoded records of coefficients and classes, shape ``(rows, width)``, float32."""
        encoder = self._anchor.encoder
        numbers = self.numbers(coefficients)
        encoded = np.zeros((len(group), encoder.width), dtype=np.float32)
        encoded[:, : encoder.numbers] = numbers
        starts = encoder.numbers + np.cumsum([0, *encoder.sizes[:-1]])[: len(encoder.sizes)].astype(np.int64)
        np.put_along_axis(encoded, starts + self._anchor.codes_of(group), 1.0, axis=1)
        return torch.from_numpy(encoded)

    def progress(self) -> Mapping[str, float]:
        """Return the units per site and the radii within which contributions are not clipped."""
        radii = {"radius_of_means": float(self._frame[1]), "radius_of_basis": self._radius}
        return {"units_per_site": self.units_per_site, **radii, "radius_of_moments": self._reach()}

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Return released sums and what was derived from them."""
        sums = {f"anchor.sum.{name}": each.total.copy() for name, each in self._released.items()}
        weights = [[each.sites, each.weight] for each in self._released.values()]
        return sums | {
            "anchor.weights": np.array(weights),
            "anchor.frame": np.append(self._frame, self._radius),
            "anchor.counts": self._counts.copy(),
            "anchor.means": self._means.copy(),
            "anchor.axes": self._axes.copy(),
            "anchor.spreads": self._spreads.copy(),
            "anchor.centres": self._centres.copy(),
        }

    def load(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Restore what ``state`` returned.

        Raises:
            ConfigError: an array is missing or of another shape.
        """
        for name, values in self.state().items():
            if name not in state or state[name].shape != values.shape:
                raise ConfigError(f"array {name!r} does not fit; use a checkpoint of this study")
        for name, (sites, weight) in zip(self._released, state["anchor.weights"], strict=True):
            self._released[name] = Released(np.array(state[f"anchor.sum.{name}"]), float(sites), float(weight))
        self._frame, self._radius = np.array(state["anchor.frame"][:2]), float(state["anchor.frame"][2])
        self._counts, self._means = np.array(state["anchor.counts"]), np.array(state["anchor.means"])
        self._axes, self._spreads = np.array(state["anchor.axes"]), np.array(state["anchor.spreads"])
        self._centres = np.array(state["anchor.centres"])
        self._drawing = None

    def _scale(self) -> None:
        """Set centre and radius of the means by the released levels."""
        levels = self.levels
        self._frame = np.array([levels.mean, MEANS_REACH * np.sqrt(self._energy())])
        self._radius = BASIS_REACH * np.sqrt(self._energy())

    def _energy(self) -> float:
        """Return the expected squared norm of an array about the mean number."""
        return self._anchor.encoder.numbers * self.levels.variance

    def _spread_evenly(self) -> None:
        self._spreads = np.full(self._anchor.dim, np.sqrt(self.levels.variance))

    def _take_means(self, released: Released) -> None:
        """Set class means, and the radius of the basis by what they leave of the expected norm."""
        self._counts, self._means = class_means(released, self._anchor.classes, float(self._frame[1]))
        shares = probabilities_of(self._counts)
        between = float(shares @ (self._means**2).sum(1))
        within = max(self._energy() - between, 0.1 * self._energy())
        self._radius = BASIS_REACH * float(np.sqrt(within))

    def _reach(self) -> float:
        """Return the radius of the moments."""
        return MOMENTS_REACH / BASIS_REACH * self._radius

    def _payload(self, name: str, part: str) -> Array:
        if part == "frame":
            radius = {"means": self._frame[1], "basis": self._radius}.get(name, self._reach())
            return np.array([self._frame[0], radius])
        return {"means": self._means, "axes": self._axes, "centres": self._centres}[part]

    def _sampler(self) -> tuple[Mixture, Correction]:
        if self._drawing is None:
            mixture = self._mixture()
            self._drawing = mixture, Correction.between(mixture, self.levels, STRENGTH)
        return self._drawing

    def _mixture(self) -> Mixture:
        anchor, released = self._anchor, self._released["moments"]
        cells, axes, reach = anchor.options.cells, self._axes, self._reach()
        classes = probabilities_of(self._counts)
        parts = np.full((anchor.classes, cells), 1 / cells)
        centres = self._centres
        roots = np.broadcast_to(np.diag(self._spreads), (*centres.shape, anchor.dim))
        if released.weight > 0:
            counts, shifts, covariances = cell_moments(released, anchor.classes, cells, anchor.dim)
            centres = centres + reach * shifts
            roots = reach * _roots(covariances)
            parts = np.stack([probabilities_of(each) for each in counts])
            classes = probabilities_of(counts.sum(1))
        rest = self._means - self._means @ axes @ axes.T
        return Mixture(anchor.waves, classes, parts, centres, roots, axes, rest, float(self._frame[0]))


def _roots(covariances: Array) -> Array:
    """Return symmetric square roots of positive matrices, shape ``(..., dim, dim)``."""
    values, vectors = np.linalg.eigh(positive(covariances))
    roots = np.sqrt(np.maximum(values, 0.0))[..., None, :]
    return np.asarray((vectors * roots) @ np.swapaxes(vectors, -1, -2))
