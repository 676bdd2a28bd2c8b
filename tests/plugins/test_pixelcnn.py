"""The gated pixel network: a law over images that sums to 1, no look ahead, draws as in a single pass."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from tests.plugins.core import study
from tests.plugins.likelihood_studies import ARRAY, make

from synthfed.plugins.api import Span
from synthfed.plugins.models.likelihoods.refinement import Public
from synthfed.plugins.models.pixelcnn import PixelCnn, PixelNetwork, Raster
from synthfed.protocols.errors import ConfigError

LABEL: dict[str, Any] = {"name": "side", "kind": "categorical", "values": ["left", "right"]}


def model_of(shape: list[int], **options: Any) -> PixelCnn:
    every = {name: value for name, value in ARRAY.items() if name != "hidden"} | {"channels": 3, "depth": 3} | options
    array = {"name": "picture", "kind": "array", "shape": shape, "lower": 0, "upper": 3}
    return PixelCnn(study([array, LABEL], every, plugin="pixelcnn"))


def moved(network: PixelNetwork, seed: int = 0) -> PixelNetwork:
    """Return the network with weights that matter."""
    rng = torch.Generator().manual_seed(seed)
    for each in network.parameters():
        each.data = torch.randn(each.shape, generator=rng) * 0.7
    return network


def every_image(greys: int, pixels: int) -> np.ndarray:
    return np.array(list(product(np.linspace(-1, 1, greys), repeat=pixels)))


@pytest.mark.parametrize(("shape", "greys"), [([2, 2], 3), ([1, 3, 2], 2), ([1, 6], 2)])
def test_the_likelihoods_of_all_images_with_one_label_sum_to_one(shape: list[int], greys: int) -> None:
    model = model_of(shape, greys=greys)
    network, images = moved(model.fresh()).double(), every_image(greys, int(np.prod(shape)))
    for label in np.eye(2):
        batch = torch.from_numpy(np.hstack([images, np.tile(label, (len(images), 1))]))
        losses = model.loss(network, batch, torch.empty(len(batch), 0))
        assert float(torch.exp(-losses.detach()).sum()) == pytest.approx(1, abs=1e-10)


@pytest.mark.parametrize("reach", [1, 2])
def test_a_pixels_logits_depend_on_all_pixels_before_it_and_on_no_other(reach: int) -> None:
    network = moved(model_of([5, 6], reach=reach, depth=6).fresh()).double()
    given = torch.ones(1, 2).double()

    def logits(values: torch.Tensor) -> torch.Tensor:
        image = torch.stack([values, torch.ones_like(values)])[None]
        answer: torch.Tensor = network(image, given)[0].sum(0).flatten()
        return answer

    # Features saturate in large weights, so that a far pixel's influence is looked for as a change, not a slope.
    before = logits(torch.zeros(5, 6).double())
    for pixel in range(30):
        values = torch.zeros(30).double()
        values[pixel] = 0.5
        differs = (logits(values.reshape(5, 6)) != before).numpy()
        assert not differs[: pixel + 1].any()
        assert differs[pixel + 1 :].all()


@pytest.mark.parametrize(("reach", "depth"), [(1, 1), (1, 3), (2, 2)])
def test_drawing_pixel_by_pixel_computes_the_same_logits_as_one_pass(reach: int, depth: int) -> None:
    network = moved(model_of([4, 5], reach=reach, depth=depth, greys=3).fresh())
    values, given = torch.rand(7, 4, 5) * 2 - 1, torch.rand(7, 2)
    with torch.no_grad():
        whole = network(torch.stack([values, torch.ones_like(values)], 1), given)
        raster = Raster(network, given, 5)
        for row in range(4):
            raster.start_row()
            for column in range(5):
                torch.testing.assert_close(raster.logits(), whole[:, :, row, column], atol=1e-5, rtol=1e-4)
                raster.put(values[:, row, column])
            raster.end_row(values[:, row])


def test_draws_follow_the_law_given_a_label() -> None:
    model = model_of([2, 2], greys=2)
    network, images = moved(model.fresh(), seed=2), every_image(2, 4)
    batch = torch.from_numpy(np.hstack([images, np.tile([0, 1], (16, 1))])).float()
    with torch.no_grad():
        law = torch.exp(-model.loss(network, batch, torch.empty(16, 0))).numpy()
        rows = model.draw(network, Public(batch), 20_000, 0, {"side": Span.at(1)})
    assert (rows[:, 4] == 1).all()
    assert set(np.unique(rows[:, :4])) == {0.0, 3.0}
    found = np.bincount(((rows[:, :4] > 1) @ [8, 4, 2, 1]).astype(int), minlength=16) / len(rows)
    np.testing.assert_allclose(found, law, atol=0.015)


@pytest.mark.parametrize("shape", [[2, 4, 4], [2, 2, 2, 2], [7], [1, 65, 64]])
def test_what_is_no_small_grey_image_is_refused(shape: list[int]) -> None:
    with pytest.raises(ConfigError, match="images of one channel"):
        model_of(shape)


def test_a_table_is_refused() -> None:
    columns = [{"name": "size", "kind": "real", "lower": 0, "upper": 1}, LABEL]
    with pytest.raises(ConfigError, match="exactly one array column"):
        PixelCnn(study(columns, {}, plugin="pixelcnn"))


def test_every_label_is_a_condition() -> None:
    assert make("pixelcnn").conditions == ("side",)
