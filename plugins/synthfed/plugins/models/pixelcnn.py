"""A gated autoregressive network for small grey images: each pixel given those above and to the left.

Never multiplies a weight by a mask: shifted, smaller kernels see the same pixels, so every layer is a plain one.
"""

from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import nn
from torch.nn import functional

from synthfed.protocols.errors import ConfigError
from synthfed.protocols.schema import Records
from synthfed.protocols.study import Study

from ..api import Given
from .arrays.moment_anchor import MomentAnchorOptions
from .likelihoods.held_columns import HeldColumns, drawn
from .likelihoods.layout import array_ground
from .likelihoods.likelihood import Family, RefinementOptions
from .likelihoods.refinement import Public
from .tables.table_anchor import Rate

MOST_PIXELS = 4096
AT_ONCE = 1024  # images drawn together


class PixelCnnOptions(MomentAnchorOptions, RefinementOptions):
    """What a study may set of this model.

    Attributes:
        anchor_share: the anchor's share of the budget.
        greys: grey levels of a pixel, evenly spaced between the array's bounds, both included.
        channels: width of the layers.
        depth: number of gated layers.
        reach: how many pixels a layer looks back, upwards and to the left.
        batch: images of one public step.
        public_steps: of the warm start.
        public_rate: its first learning rate.
    """

    anchor_share: Annotated[float, Field(gt=0, lt=1)] = 0.8
    greys: Annotated[int, Field(ge=2, le=64)] = 8
    channels: Annotated[int, Field(ge=1, le=256)] = 16
    depth: Annotated[int, Field(ge=1, le=32)] = 4
    reach: Annotated[int, Field(ge=1, le=8)] = 1
    batch: Annotated[int, Field(ge=8, le=65_536)] = 64
    public_steps: Annotated[int, Field(ge=0, le=100_000)] = 2000
    public_rate: Rate = 5e-3


class Gated(nn.Module):
    """One layer of both stacks (van den Oord et al. 2016, arXiv:1606.05328, figure 2), conditions added to each."""

    def __init__(self, inputs: int, channels: int, reach: int, labels: int) -> None:
        """Build for ``inputs`` channels; a kernel covers ``reach`` rows above, or columns to the left, and its own."""
        super().__init__()
        self.vertical = nn.Conv2d(inputs, 2 * channels, (reach + 1, 2 * reach + 1))
        self.horizontal = nn.Conv2d(inputs, 2 * channels, (1, reach + 1))
        self.across = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        self.vertical_label = nn.Linear(labels, 2 * channels, bias=False)
        self.horizontal_label = nn.Linear(labels, 2 * channels, bias=False)

    def below(self, window: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        """Return the vertical features of rows of a window that is padded already, before their gate."""
        features: torch.Tensor = self.vertical(window) + self.vertical_label(given)[:, :, None, None]
        return features

    def beside(self, window: torch.Tensor, above: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        """Return the horizontal features of a padded window, with those ``above`` added."""
        features = self.horizontal(window) + above + self.horizontal_label(given)[:, :, None, None]
        moved: torch.Tensor = self.out(gate(features))
        return moved


class PixelNetwork(nn.Module):
    """Both stacks and a head: the logits of every pixel's grey level from the pixels before it."""

    def __init__(self, options: PixelCnnOptions, labels: int) -> None:
        """Build for ``labels`` condition cells."""
        super().__init__()
        self.reach = options.reach
        # A second channel of ones tells the image from what it is padded with.
        widths = [2, *[options.channels] * (options.depth - 1)]
        self.layers = nn.ModuleList(Gated(width, options.channels, options.reach, labels) for width in widths)
        self.middle = nn.Conv2d(options.channels, 2 * options.channels, 1)
        self.last = nn.Conv2d(2 * options.channels, options.greys, 1)

    @property
    def stack(self) -> list[Gated]:
        """The gated layers, in their order."""
        return [layer for layer in self.layers if isinstance(layer, Gated)]

    def forward(self, image: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        """Return logits, shape ``(rows, greys, height, width)``.

        Args:
            image: quantised values in [-1, 1] and ones, shape ``(rows, 2, height, width)``.
            given: condition cells, shape ``(rows, labels)``.
        """
        down = beside = image
        for place, layer in enumerate(self.stack):
            reach = self.reach
            features = layer.below(functional.pad(down, (reach, reach, reach, 0)), given)
            above = layer.across(functional.pad(features, (0, 0, 1, 0))[:, :, :-1])
            if place == 0:  # a pixel's own value must not be seen, ...
                beside = layer.beside(functional.pad(beside, (reach + 1, 0))[..., :-1], above, given)
            else:  # ... and features of its place never have
                beside = beside + layer.beside(functional.pad(beside, (reach, 0)), above, given)
            down = gate(features)
        return self.head(beside)

    def head(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits of horizontal features."""
        logits: torch.Tensor = self.last(functional.silu(self.middle(functional.silu(features))))
        return logits


class Raster:
    """Draws images pixel by pixel; every feature is computed once, as in a single pass."""

    def __init__(self, network: PixelNetwork, given: torch.Tensor, width: int) -> None:
        """Stand above the first row of images of some ``width`` with these condition cells."""
        self._network, self._given, self._width = network, given, width
        self._layers = network.stack
        channels = [layer.vertical.in_channels for layer in self._layers]
        self._rows = [torch.zeros(len(given), each, network.reach + 1, width) for each in channels]
        self._above = [
            layer.across(torch.zeros(len(given), layer.across.in_channels, 1, width)) for layer in self._layers
        ]

    def start_row(self) -> None:
        """Stand left of the first pixel of a row."""
        reach = self._network.reach
        channels = [layer.vertical.in_channels for layer in self._layers]
        self._left = [torch.zeros(len(self._given), each, 1, reach + 1) for each in channels]
        self._column = 0

    def logits(self) -> torch.Tensor:
        """Return the next pixel's logits, shape ``(rows, greys)``."""
        column, features = slice(self._column, self._column + 1), torch.empty(0)
        for place, layer in enumerate(self._layers):
            above = self._above[place][..., column]
            if place > 0:
                self._left[place] = torch.cat([self._left[place][..., 1:], features], 3)
            moved = layer.beside(self._left[place], above, self._given)
            features = moved if place == 0 else features + moved
        return self._network.head(features)[:, :, 0, 0]

    def put(self, values: torch.Tensor) -> None:
        """Put a pixel, shape ``(rows,)``, and step to the next."""
        pixel = torch.stack([values, torch.ones_like(values)], 1)[:, :, None, None]
        self._left[0] = torch.cat([self._left[0][..., 1:], pixel], 3)
        self._column += 1

    def end_row(self, row: torch.Tensor) -> None:
        """Take a finished row of values, shape ``(rows, width)``, into the vertical stack."""
        reach = self._network.reach
        signal = torch.stack([row, torch.ones_like(row)], 1)[:, :, None]
        for place, layer in enumerate(self._layers):
            self._rows[place] = torch.cat([self._rows[place][:, :, 1:], signal], 2)
            features = layer.below(functional.pad(self._rows[place], (reach, reach)), self._given)
            self._above[place], signal = layer.across(features), gate(features)


class PixelCnn(Family[PixelNetwork]):
    """The model plugin ``pixelcnn`` (van den Oord, Kalchbrenner and Kavukcuoglu 2016, arXiv:1601.06759).

    Shapes: a record is its pixels ``(rows, height * width)`` in [-1, 1] and one-hot labels; the network
    sees pixels on ``greys`` levels, ``(rows, 2, height, width)`` with a channel of ones.
    Loss: minus the log-likelihood of each image's grey levels given its labels, in nats, a sum of one
    softmax per pixel in raster order; it sums to 1 over all images. The layers are the gated ones of
    van den Oord et al. (2016, arXiv:1606.05328), whose two stacks need no masks and have no blind spot.
    Private: encoding, statistics of the anchor, the gradient of that loss.
    Public: the warm start on the anchor's records; how often labels occur; drawing one pixel after the
    other. Every label can be held.
    """

    name: ClassVar[str] = "pixelcnn"
    Options: type[BaseModel] = PixelCnnOptions

    def prepare(self, study: Study, options: Any) -> None:
        """Take one array of a single channel with labels."""
        self._options: PixelCnnOptions = options
        plugin = f"model {self.name!r}"
        self.layout, anchor = array_ground(study, options, options.anchor_share, plugin)
        self.anchor, shape = anchor, anchor.encoder.array.shape
        shape = shape if len(shape) > 2 else (1, *shape)
        if len(shape) != 3 or shape[0] != 1 or self.layout.numbers > MOST_PIXELS:
            raise ConfigError(
                f"{plugin} is for images of one channel and at most {MOST_PIXELS:,} pixels, shape (height, width); "
                "choose another model",
                where="columns",
            )
        self._height, self._width = shape[1:]
        self._held = HeldColumns.of(self.layout, self.layout.names)
        self.conditions = self._held.names

    def network(self) -> PixelNetwork:
        """Return a network with fresh weights."""
        return PixelNetwork(self._options, len(self._held.places))

    def loss(self, network: nn.Module, batch: torch.Tensor, coins: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        """Return minus each image's log-likelihood given its labels, shape ``(rows,)``."""
        pixels = batch[:, : self.layout.numbers].reshape(-1, 1, self._height, self._width)
        top = self._options.greys - 1
        levels = ((pixels.clamp(-1, 1) + 1) / 2 * top).round()
        values = levels / top * 2 - 1
        logits = network(torch.cat([values, torch.ones_like(values)], 1), batch[:, self.layout.numbers :])
        surprise = functional.cross_entropy(logits, levels[:, 0].detach().long(), reduction="none")
        return surprise.sum((1, 2))

    def draw(self, network: PixelNetwork, public: Public, rows: int, seed: int, given: Given) -> Records:
        """Return images drawn pixel by pixel, with labels that have ``given``."""
        rng = np.random.default_rng(seed)
        parts = [np.empty((0, self.record_width))]
        for first in range(0, rows, AT_ONCE):
            codes = public.draw(self._held, given, min(AT_ONCE, rows - first), rng)
            images = self._images(network, self.layout.cells(self._held.blocks, codes), rng)
            parts.append(self.layout.decode(images.double().numpy(), codes, rng))
        return np.concatenate(parts)

    def _images(self, network: PixelNetwork, labels: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        raster, top = Raster(network, labels, self._width), self._options.greys - 1
        images = torch.empty(len(labels), self._height, self._width)
        for row in range(self._height):
            raster.start_row()
            for column in range(self._width):
                images[:, row, column] = torch.from_numpy(drawn(raster.logits(), rng)) / top * 2 - 1
                raster.put(images[:, row, column])
            raster.end_row(images[:, row])
        return images.flatten(1)


def gate(features: torch.Tensor) -> torch.Tensor:
    """Return half as many channels: one half's tangent, let through by the other half."""
    values, doors = features.chunk(2, 1)
    return torch.tanh(values) * torch.sigmoid(doors)
