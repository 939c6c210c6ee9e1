"""Axes, colours and mosaics that the displays share.

Text, ticks and frames follow Matplotlib's settings, so that a dark style stays legible. Only data
are given colours here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The first six are those of Okabe & Ito (2008) that show up on white and on black, told apart
# with every kind of colour vision; the first four have a contrast of at least 3 to both. The
# others need their marker beside them.
COLORS = (
    "#0072B2",  # blue
    "#D55E00",  # vermilion
    "#009E73",  # bluish green
    "#CC79A7",  # reddish purple
    "#E69F00",  # orange
    "#56B4E9",  # sky blue
    "#7F7F7F",  # grey
    "#AA3377",  # wine
    "#999933",  # olive
    "#8C564B",  # brown
)
MARKERS = "os^DvPX*<>"
COLOR_MAP = "viridis"
BORDER = 1  # of an image among others, in pixels


def category_style(number: int) -> dict[str, Any]:
    """Choose a colour and a marker; the pair is different for each of the first hundred numbers."""
    cycle, place = divmod(number, len(COLORS))
    return {"color": COLORS[place], "marker": MARKERS[(place + cycle) % len(MARKERS)]}


def given_or_new(
    ax: Axes | None,
    width: float,
    height: float,
    layout: Literal["constrained", "compressed"] = "constrained",
) -> Axes:
    """Return the axes to draw in: of a new figure, sized in inches, if there are none.

    The layout "compressed" leaves room for titles above pictures, whose aspect is fixed.
    """
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height), layout=layout)[1]


def panels(
    ax: Axes,
    n_rows: int,
    n_columns: int,
    sharex: bool | Literal["col"] = False,
    sharey: bool | Literal["row"] = False,
) -> np.ndarray:
    """Divide axes into a grid, (n_rows, n_columns); `ax` becomes an empty frame around it."""
    if n_rows * n_columns == 1:
        return np.array([[ax]])
    place = ax.get_subplotspec()
    if place is None:
        raise ValueError(
            f"ax={ax!r} has no place in a grid that could be divided; pass ax=None or axes that "
            "plt.subplots made."
        )
    ax.set_axis_off()
    return place.subgridspec(n_rows, n_columns).subplots(
        sharex=sharex, sharey=sharey, squeeze=False
    )


def is_light(ax: Axes) -> bool:
    """Whether the background is light."""
    from matplotlib.colors import to_rgb

    return bool(np.mean(to_rgb(ax.get_facecolor())) > 0.5)


def gray_map(ax: Axes) -> str:
    """Grey levels whose lowest one is close to the background."""
    return "gray_r" if is_light(ax) else "gray"


def point_map(ax: Axes) -> Any:
    """Colours for values of points, without the end that is close to the background."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    ends = (0.0, 0.75) if is_light(ax) else (0.2, 1.0)
    return ListedColormap(colormaps[COLOR_MAP](np.linspace(*ends, 256)))


def check_image_shape(image_shape: Sequence[int], n_features: int) -> tuple[int, int, int]:
    """Return height, width and number of colours of images whose rows have `n_features`."""
    shape = tuple(int(length) for length in image_shape)
    if (
        len(shape) not in (2, 3)
        or np.prod(shape) != n_features
        or shape[2:] not in ((), (1,), (3,))
    ):
        raise ValueError(
            f"image_shape={tuple(image_shape)} does not fit rows of {n_features} features; pass "
            "(height, width) or (height, width, 3) whose product is the number of features."
        )
    height, width, n_colors = (*shape, 1)[:3]
    return height, width, n_colors


def mosaic(
    rows: np.ndarray, image_shape: tuple[int, int, int], limits: tuple[float, float]
) -> np.ndarray:
    """Lay images out in a rectangle, each with a transparent border of `BORDER` pixels.

    Parameters
    ----------
    rows : ndarray of shape (n_lines, n_columns, n_features)
        Flattened images; NaN where there is none.
    image_shape : tuple of int
        Height, width and 1 or 3 colours.
    limits : tuple of float
        Values that stand for no and for full intensity of a colour; of no use for grey images.

    Returns
    -------
    ndarray of shape (height, width) or (height, width, 4)
        Values with NaN in the borders, or red, green, blue and opacity.
    """
    n_lines, n_columns, _ = rows.shape
    height, width, n_colors = image_shape
    tiles = rows.reshape(n_lines, n_columns, height, width, n_colors).astype(float)
    border = (BORDER, BORDER)
    tiles = np.pad(tiles, ((0, 0), (0, 0), border, border, (0, 0)), constant_values=np.nan)
    height, width = tiles.shape[2:4]
    picture = tiles.swapaxes(1, 2).reshape(n_lines * height, n_columns * width, n_colors)
    if n_colors == 1:
        return picture[..., 0]
    low, high = limits
    colors = np.clip((picture - low) / ((high - low) or 1.0), 0.0, 1.0)
    opacity = np.isfinite(picture[..., :1])
    return np.concatenate([np.nan_to_num(colors), opacity], axis=-1)
