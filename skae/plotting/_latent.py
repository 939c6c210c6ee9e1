"""Codes of rows as points, and the rows that codes stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_consistent_length
from sklearn.utils.multiclass import type_of_target

from skae._sklearn_compat import _validate_style_kwargs, check_matplotlib_support
from skae.plotting._axes import (
    category_style,
    check_image_shape,
    given_or_new,
    gray_map,
    mosaic,
    panels,
    point_map,
)
from skae.plotting._estimators import as_array, decode, encode, encoder_of, image_shape_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# More different numbers than this are a quantity, not categories.
MAX_CATEGORIES = 20
MAX_COMPONENTS = 5  # that a pair grid shows if nothing is said
SHARE_OUTSIDE = 0.01  # of the codes that each end of the decoded grid leaves out


class LatentDisplay:
    """Codes of rows in the plane of two components, in pairs, or decoded on a grid.

    It is recommended to use `from_estimator`. All parameters are stored as attributes.

    Parameters
    ----------
    codes : array-like of shape (n_samples, n_components)
        Codes.
    y : array-like of shape (n_samples,), default=None
        Labels or values that colour the points.
    y_name : str, default=None
        Title of the legend or label of the colour bar.
    grid : pair of array-like, each of shape (n_grid,), default=None
        Equally spaced values of both components, at whose crossings codes were decoded.
    decoded : array-like of shape (n_grid, n_grid, n_features), default=None
        Rows decoded from the codes of the grid. The first axis runs along the second component,
        from below.
    image_shape : tuple of int, default=None
        Height and width, or height, width and 3, of images that are flattened to rows.
    limits : pair of float, default=None
        Values that are drawn as the lowest and the highest grey level. By default those of
        `decoded`.

    Attributes
    ----------
    artists_ : list
        What was drawn: collections of points, histograms, or the picture.
    axes_ : ndarray of matplotlib Axes
        The panels; of a pair grid, None above the diagonal.
    ax_ : matplotlib Axes
        The axes themselves, or the empty frame around several panels.
    figure_ : matplotlib Figure
        Figure that contains the panels.

    See Also
    --------
    LatentDisplay.from_estimator : Plot the codes of a fitted estimator.
    ReconstructionDisplay : Rows over their reconstructions.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skae import AutoencoderTransformer
    >>> from skae.plotting import LatentDisplay
    >>> X, y = load_digits(n_class=3, return_X_y=True)
    >>> autoencoder = AutoencoderTransformer(2, max_iter=5, random_state=0).fit(X / 16)
    >>> display = LatentDisplay.from_estimator(autoencoder, X / 16, y)
    >>> [text.get_text() for text in display.ax_.get_legend().get_texts()]
    ['0', '1', '2']
    """

    def __init__(
        self,
        codes: ArrayLike,
        y: ArrayLike | None = None,
        *,
        y_name: str | None = None,
        grid: tuple[ArrayLike, ArrayLike] | None = None,
        decoded: ArrayLike | None = None,
        image_shape: Sequence[int] | None = None,
        limits: tuple[float, float] | None = None,
    ) -> None:
        self.codes = codes
        self.y = y
        self.y_name = y_name
        self.grid = grid
        self.decoded = decoded
        self.image_shape = image_shape
        self.limits = limits

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        kind: str = "scatter",
        n_grid: int = 15,
        image_shape: Sequence[int] | None = None,
        ax: Axes | None = None,
        components: Sequence[int] | None = None,
        style_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Plot the codes of X.

        Parameters
        ----------
        estimator : estimator instance
            Fitted autoencoder, PCA or other transformer, or a pipeline or search that contains one.
        X : array-like of shape (n_samples, n_features)
            Rows to encode.
        y : array-like of shape (n_samples,), default=None
            Labels or values that colour the points.
        kind : {"scatter", "decoded"}, default="scatter"
            What to draw, see `plot`.
        n_grid : int, default=15
            Number of values of each component to decode, if `kind="decoded"`. They are equally
            spaced over all but the lowest and the highest hundredth of the codes.
        image_shape : tuple of int, default=None
            Height and width, or height, width and 3, of images that are flattened to rows. If
            None, it is that of the network of the autoencoder, if it has one.
        ax : matplotlib Axes, default=None
            Axes to draw in. If None, a new figure is made.
        components : sequence of int, default=None
            Components to show, see `plot`.
        style_kwargs : dict, default=None
            Keyword arguments of the points or the picture.

        Returns
        -------
        display : LatentDisplay
            The display.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        encoder = encoder_of(estimator)
        codes = encode(encoder, X)
        grid = decoded = limits = None
        if kind == "decoded":
            if codes.shape[1] != 2:
                raise ValueError(
                    f"kind='decoded' needs codes of 2 components, and these have {codes.shape[1]}."
                )
            ends = np.quantile(codes, [SHARE_OUTSIDE, 1.0 - SHARE_OUTSIDE], axis=0)
            grid = tuple(np.linspace(ends[0], ends[1], n_grid).T)
            crossings = np.stack(np.meshgrid(*grid), axis=-1)  # (n_grid, n_grid, 2)
            rows = decode(encoder, crossings.reshape(-1, 2).astype(codes.dtype))
            decoded = rows.reshape(n_grid, n_grid, -1)
            table = as_array(X)
            limits = (table.min(), table.max())
        display = cls(
            codes,
            y,
            y_name=getattr(y, "name", None),
            grid=grid,
            decoded=decoded,
            image_shape=image_shape_of(encoder) if image_shape is None else image_shape,
            limits=limits,
        )
        return display.plot(ax=ax, kind=kind, components=components, style_kwargs=style_kwargs)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        kind: str = "scatter",
        components: Sequence[int] | None = None,
        style_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Plot the codes.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw in, which are divided if need be. If None, a new figure is made.
        kind : {"scatter", "decoded"}, default="scatter"
            What to draw. "scatter": a point for each code, for two components in one panel,
            otherwise in a panel for each pair, with histograms on the diagonal. "decoded": at each
            point of the plane the image that its code stands for.
        components : sequence of int, default=None
            Components to show, by their numbers from zero. By default all, but of more than five
            the first five.
        style_kwargs : dict, default=None
            Keyword arguments for `matplotlib.axes.Axes.scatter` or
            `matplotlib.axes.Axes.imshow`.

        Returns
        -------
        display : LatentDisplay
            The display.
        """
        if kind not in ("scatter", "decoded"):
            raise ValueError(f"kind={kind!r} is not one of 'scatter' and 'decoded'.")
        check_matplotlib_support(f"{type(self).__name__}.plot")
        codes = np.asarray(self.codes)
        if components is None:
            components = range(min(codes.shape[1], MAX_COMPONENTS))
        elif not components or not set(components) <= set(range(codes.shape[1])):
            raise ValueError(
                f"components={components!r} names components that codes of {codes.shape[1]} do "
                f"not have; use some of 0 to {codes.shape[1] - 1}."
            )
        if kind == "decoded":
            self._decoded(ax, style_kwargs or {})
        elif len(components) == 2:
            self._plane(codes, components, ax, style_kwargs or {})
        else:
            self._pairs(codes, components, ax, style_kwargs or {})
        self.figure_ = self.ax_.figure
        return self

    def _plane(
        self,
        codes: np.ndarray,
        components: Sequence[int],
        ax: Axes | None,
        style_kwargs: dict[str, Any],
    ) -> None:
        ax = given_or_new(ax, 6.4, 4.8)
        groups = self._groups(len(codes))
        first, second = components
        self.artists_ = scatter(ax, codes[:, [first, second]], groups, style_kwargs)
        ax.set(xlabel=f"component {first}", ylabel=f"component {second}")
        self.ax_, self.axes_ = ax, np.array([[ax]])
        self._explain(groups, self.artists_, ax, ax, loc="center left", bbox_to_anchor=(1.0, 0.5))

    def _pairs(
        self,
        codes: np.ndarray,
        components: Sequence[int],
        ax: Axes | None,
        style_kwargs: dict[str, Any],
    ) -> None:
        size = len(components)
        ax = given_or_new(ax, 1.6 + 1.9 * size, 1.2 + 1.7 * size)
        grid = panels(ax, size, size, sharex="col")
        groups = self._groups(len(codes))
        self.artists_ = []
        points: list = []
        for row, i in enumerate(components):
            for column, j in enumerate(components):
                panel = grid[row, column]
                if column > row:
                    panel.remove()
                    grid[row, column] = None
                elif column == row:
                    self.artists_ += histograms(panel, codes[:, i], groups)
                    panel.set_yticks([])
                else:
                    points = scatter(panel, codes[:, [j, i]], groups, {"s": 6, **style_kwargs})
                    self.artists_ += points
                if column == 0:
                    panel.set_ylabel(f"component {i}" if row > 0 else "number of rows")
                elif column < row:
                    panel.tick_params(labelleft=False)
                if row == size - 1:
                    panel.set_xlabel(f"component {j}")
        self.ax_, self.axes_ = ax, grid
        if points:
            drawn = [panel for panel in grid.flat if panel is not None]
            self._explain(groups, points, ax, drawn, loc="upper right")
        elif self.y is not None and groups.values is None:
            ax.legend(title=self.y_name)

    def _decoded(self, ax: Axes | None, style_kwargs: dict[str, Any]) -> None:
        if self.grid is None or self.decoded is None or self.image_shape is None:
            raise ValueError(
                "kind='decoded' needs decoded images and image_shape, their height and width; make "
                "the display with from_estimator(..., kind='decoded', image_shape=...)."
            )
        rows = np.asarray(self.decoded)[::-1]  # the second component grows upwards
        shape = check_image_shape(self.image_shape, rows.shape[-1])
        ax = given_or_new(ax, 6.0, 6.0 * shape[0] / shape[1], "compressed")
        low, high = (rows.min(), rows.max()) if self.limits is None else self.limits
        style = {"cmap": gray_map(ax), "vmin": low, "vmax": high}
        style = _validate_style_kwargs({**style, "interpolation": "nearest"}, style_kwargs)
        picture = mosaic(rows, shape, (style["vmin"], style["vmax"]))
        (left, right), (bottom, top) = (cell_ends(np.asarray(values)) for values in self.grid)
        # Square pixels, whatever the ranges of the components.
        aspect = (right - left) / (top - bottom) * picture.shape[0] / picture.shape[1]
        style |= {"extent": (left, right, bottom, top), "aspect": aspect}
        self.artists_ = [ax.imshow(picture, **style)]
        ax.set(xlabel="component 0", ylabel="component 1")
        self.ax_, self.axes_ = ax, np.array([[ax]])

    def _groups(self, n_codes: int) -> Groups:
        if self.y is None:
            return Groups({None: np.full(n_codes, True)})
        y = np.asarray(self.y)
        check_consistent_length(np.empty(n_codes), y)
        labels = np.unique(y)
        is_number = np.issubdtype(y.dtype, np.number)
        if type_of_target(y) == "continuous" or (is_number and len(labels) > MAX_CATEGORIES):
            return Groups({None: np.full(n_codes, True)}, y)
        return Groups({str(label): y == label for label in labels})

    def _explain(self, groups: Groups, points: list, ax: Axes, panels: Any, **place: Any) -> None:
        """Say what the colours mean."""
        if groups.values is not None:
            ax.figure.colorbar(points[0], ax=panels, label=self.y_name or "y")
        elif self.y is not None:
            ax.legend(handles=points, title=self.y_name, markerscale=2, **place)


class Groups(NamedTuple):
    """How points are coloured."""

    members: dict[str | None, np.ndarray]
    """Which points belong to a category, by its name; all of them to None without categories."""

    values: np.ndarray | None = None
    """A value of each point, for a colour bar."""


def scatter(ax: Axes, points: np.ndarray, groups: Groups, style_kwargs: dict[str, Any]) -> list:
    """Draw points, (n_points, 2), and return a collection for each group."""
    collections: list = []
    for number, (name, is_member) in enumerate(groups.members.items()):
        style: dict[str, Any] = {"s": 14, "alpha": 0.8, "linewidths": 0, "label": name}
        if groups.values is None:
            style |= category_style(number)
        else:
            style |= {"cmap": point_map(ax), "c": groups.values}
        style = style | style_kwargs
        collections.append(ax.scatter(*points[is_member].T, **style))
    return collections


def histograms(ax: Axes, values: np.ndarray, groups: Groups) -> list:
    """Draw the outline of a histogram for each group, over the same bins."""
    bins = np.histogram_bin_edges(values, bins=30).tolist()
    outlines: list = []
    for number, (name, is_member) in enumerate(groups.members.items()):
        color = category_style(number)["color"]
        style = {"histtype": "step", "color": color, "label": name, "bins": bins}
        outline: Any = ax.hist(values[is_member], **style)[2]
        outlines += outline
    return outlines


def cell_ends(values: np.ndarray) -> tuple[float, float]:
    """Outer borders of cells that have equally spaced values in their middle."""
    half = (values[-1] - values[0]) / (2 * max(len(values) - 1, 1)) or 0.5
    return values[0] - half, values[-1] + half
