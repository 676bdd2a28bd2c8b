"""Pictures of synthetic records and of public curves, as PNG files: grids of images, plots of lines.

Never draws a real record: what it is given was sampled from a model, or told by the coordinator in public.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from synthfed.protocols.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

Numbers = npt.NDArray[np.float64]
Colour = tuple[int, int, int]

_PAPER: Final[Colour] = (255, 255, 255)
_INK: Final[Colour] = (40, 48, 56)
_DIM: Final[Colour] = (211, 218, 225)
# Told apart also by most who do not see all colours (Okabe & Ito 2008, Color Universal Design).
_LINES: Final[tuple[Colour, ...]] = (
    (0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (230, 159, 0),
)  # fmt: skip
_GAP: Final = 4  # pixels between tiles
_FONT: Final = 13
_CAPTION: Final = 120  # the widest caption, in pixels; a longer one is cut
_TILE: Final = 56  # the least height or width of a tile; smaller images are enlarged
_MOST: Final = 160  # the greatest; larger ones are reduced
_FINE: Final = 3  # lines are drawn so many times larger and then reduced, which smooths them


def pillow(module: str = "Image") -> Any:
    """Return a module of Pillow, which few studies need and which is not installed with the rest.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(f"PIL.{module}")
    except ImportError:
        raise ConfigError('images and pictures need Pillow; run: pip install "synthfed[pictures]"') from None


def image_tile(pixels: Numbers) -> Image:
    """Return an image from numbers in [0, 1], shape ``(1 or 3, height, width)``, enlarged or reduced to a tile."""
    image = pillow()
    raw = np.rint(255 * np.clip(np.moveaxis(pixels, 0, -1), 0, 1)).astype(np.uint8)
    tile: Image = image.fromarray(raw[..., 0] if raw.shape[-1] == 1 else raw).convert("RGB")
    largest = max(tile.size)
    if largest > _MOST:
        return tile.resize([max(1, side * _MOST // largest) for side in tile.size], image.Resampling.BOX)
    times = max(1, _TILE // largest)
    return tile.resize([side * times for side in tile.size], image.Resampling.NEAREST)


def plot_tile(lines: Numbers, low: Numbers, high: Numbers, *, width: int = 150, height: int = 44) -> Image:
    """Return lines below each other, one colour each, every one between its own bounds.

    Args:
        lines: shape ``(lines, steps)``.
        low: the number at the bottom of each line's strip, shape ``(lines,)``.
        high: the number at its top, shape ``(lines,)``.
        width: of the tile, in pixels.
        height: of each line's strip, in pixels.
    """
    image, draw = pillow(), pillow("ImageDraw")
    tile: Image = image.new("RGB", (width * _FINE, height * _FINE * len(lines)), _PAPER)
    pen = draw.Draw(tile)
    across = np.linspace(0, width * _FINE - 1, lines.shape[1])
    for i, line in enumerate(lines):
        share = (line - low[i]) / max(high[i] - low[i], 1e-12)
        top = (i * height + 2 + (1 - np.clip(share, 0, 1)) * (height - 5)) * _FINE
        points = list(zip(across.tolist(), top.tolist(), strict=True))
        pen.line(points if len(points) > 1 else points * 2, fill=_LINES[i % len(_LINES)], width=_FINE + 1)
    pen.rectangle((0, 0, tile.width - 1, tile.height - 1), outline=_DIM, width=_FINE)
    return tile.reduce(_FINE)


def grid(tiles: Sequence[Image], across: int, captions: Sequence[str]) -> bytes:
    """Return a PNG of tiles of one size, ``across`` in a row, each row with a caption before it where it has one."""
    font = pillow("ImageFont").load_default(_FONT)
    width, height = (side + _GAP for side in tiles[0].size)
    left = _GAP + min(_CAPTION, max((round(font.getlength(text)) + 2 * _GAP for text in captions if text), default=0))
    rows = -(-len(tiles) // across)
    sheet = pillow().new("RGB", (left + across * width, _GAP + rows * height), _PAPER)
    pen = pillow("ImageDraw").Draw(sheet)
    for row, text in enumerate(captions[:rows]):
        pen.text((_GAP, _GAP + row * height + height / 2), text, fill=_INK, font=font, anchor="lm")
    for i, tile in enumerate(tiles):
        sheet.paste(tile, (left + i % across * width, _GAP + i // across * height))
    return _png(sheet)


def curves(named: Sequence[tuple[str, Sequence[float], Sequence[float]]]) -> bytes:
    """Return a PNG of curves below each other, each in a box with its name, its range and its last value.

    Args:
        named: each curve's name, its steps and its values, at least one.
    """
    width, height, head = 640, 110, 22
    font = pillow("ImageFont").load_default(_FONT)
    sheet = pillow().new("RGB", (width + 2 * _GAP, len(named) * (height + 2 * head) + _GAP), _PAPER)
    pen = pillow("ImageDraw").Draw(sheet)
    for i, (name, steps, values) in enumerate(named):
        top = i * (height + 2 * head) + _GAP
        line, at = np.array([values], dtype=np.float64), np.array(steps, dtype=np.float64)
        even = np.interp(np.linspace(at[0], at[-1], width), at, line[0])[None]
        low, high = line.min(axis=1), line.max(axis=1)
        pen.text((_GAP, top + 2), name, fill=_INK, font=font)
        range_of = f"from {low[0]:.4g} to {high[0]:.4g}, last {values[-1]:.4g}"
        pen.text((width, top + 2), range_of, fill=_INK, font=font, anchor="ra")
        sheet.paste(plot_tile(even, low, high, width=width, height=height), (_GAP, top + head))
        pen.text((_GAP, top + head + height + 2), f"step {steps[0]:,.0f}", fill=_INK, font=font)
        pen.text((width, top + head + height + 2), f"step {steps[-1]:,.0f}", fill=_INK, font=font, anchor="ra")
    return _png(sheet)


def _png(sheet: Image) -> bytes:
    file = io.BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()
