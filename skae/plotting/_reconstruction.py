"""Rows above what became of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike

from skae._sklearn_compat import (
    _get_feature_names,
    _validate_style_kwargs,
    check_matplotlib_support,
)
from skae.plotting._axes import (
    COLOR_MAP,
    category_style,
    check_image_shape,
    given_or_new,
    gray_map,
    mosaic,
    panels,
)
from skae.plotting._estimators import (
    as_array,
    decode,
    encode,
    encoder_of,
    first_rows,
    image_shape_of,
    row_names_of,
    sample,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = ("auto", "images", "lines", "heatmap")
MAX_NAMES = 20  # ticks with names that fit under a panel


class ReconstructionDisplay:
    """Rows, and what became of them: reconstructed, denoised, or drawn anew.

    It is recommended to use `from_estimator`. To compare several models, pass their
    reconstructions to the constructor. All parameters are stored as attributes.

    Parameters
    ----------
    tables : dict of str to array-like of shape (n_rows, n_features)
        What to show of each row, by its name, from the top: for example the original and its
        reconstructions. The first one sets the scale of images and heat maps.
    image_shape : tuple of int, default=None
        Height and width, or height, width and 3, of images that are flattened to rows.
    feature_names : list of str, default=None
        Names of the features, for lines and heat maps.
    row_names : list, default=None
        Names of the rows, for lines and heat maps. Numbers by default.

    Attributes
    ----------
    artists_ : dict of str to list
        What was drawn for each table: for images the one picture, which is common to all tables;
        for lines a line for each row; for heat maps the map.
    axes_ : ndarray of matplotlib Axes
        The panels. Images have one, lines one for each row, heat maps one for each table.
    ax_ : matplotlib Axes
        The axes themselves, or the empty frame around several panels.
    figure_ : matplotlib Figure
        Figure that contains the panels.

    See Also
    --------
    ReconstructionDisplay.from_estimator : Plot the reconstructions of a fitted estimator.
    LatentDisplay : Codes of rows.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skae import AutoencoderTransformer
    >>> from skae.plotting import ReconstructionDisplay
    >>> X = load_digits().data / 16
    >>> autoencoder = AutoencoderTransformer(8, max_iter=5, random_state=0).fit(X[:1000])
    >>> display = ReconstructionDisplay.from_estimator(autoencoder, X[1000:], image_shape=(8, 8))
    >>> [label.get_text() for label in display.ax_.get_yticklabels()]
    ['original', 'reconstruction']
    """

    def __init__(
        self,
        tables: Mapping[str, ArrayLike],
        *,
        image_shape: Sequence[int] | None = None,
        feature_names: Sequence[str] | None = None,
        row_names: Sequence[Any] | None = None,
    ) -> None:
        self.tables = tables
        self.image_shape = image_shape
        self.feature_names = feature_names
        self.row_names = row_names

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        *,
        X_clean: ArrayLike | None = None,
        n_rows: int = 10,
        n_samples: int = 0,
        random_state: int | np.random.RandomState | None = None,
        image_shape: Sequence[int] | None = None,
        ax: Axes | None = None,
        kind: str = "auto",
        n_columns: int | None = None,
        style_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Plot rows of X over their reconstructions.

        Parameters
        ----------
        estimator : estimator instance
            Fitted autoencoder, PCA or other transformer with an inverse, or a pipeline or search
            that contains one. Reconstructions of a pipeline are in the units of X.
        X : array-like of shape (n_samples, n_features)
            Rows to encode and decode.
        X_clean : array-like of shape (n_samples, n_features), default=None
            What the rows would be without noise. X is then called "noisy" and its reconstruction
            "denoised".
        n_rows : int, default=10
            How many rows of X to show, from the top.
        n_samples : int, default=0
            How many new rows to draw from a generative model, shown below the others.
        random_state : int, RandomState instance or None, default=None
            Determines the new rows.
        image_shape : tuple of int, default=None
            Height and width, or height, width and 3, of images that are flattened to rows. If
            None, it is that of the network of the autoencoder, if it has one.
        ax : matplotlib Axes, default=None
            Axes to draw in. If None, a new figure is made.
        kind : {"auto", "images", "lines", "heatmap"}, default="auto"
            What to draw, see `plot`.
        n_columns : int, default=None
            Rows of X to show side by side, see `plot`.
        style_kwargs : dict, default=None
            Keyword arguments of the images or lines.

        Returns
        -------
        display : ReconstructionDisplay
            The display.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        encoder = encoder_of(estimator)
        rows = first_rows(X, n_rows)
        reconstructions = decode(encoder, encode(encoder, rows))
        tables = {"original": as_array(rows), "reconstruction": reconstructions}
        if X_clean is not None:
            tables = {"noisy": as_array(rows), "denoised": reconstructions}
            tables["clean"] = as_array(first_rows(X_clean, n_rows))
        if n_samples > 0:
            tables["sample"] = sample(encoder, n_samples, random_state)
        display = cls(
            tables,
            image_shape=image_shape_of(encoder) if image_shape is None else image_shape,
            feature_names=_get_feature_names(X),
            row_names=row_names_of(rows, len(reconstructions)),
        )
        return display.plot(ax=ax, kind=kind, n_columns=n_columns, style_kwargs=style_kwargs)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        kind: str = "auto",
        n_columns: int | None = None,
        style_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Plot the tables.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw in, which are divided if need be. If None, a new figure is made.
        kind : {"auto", "images", "lines", "heatmap"}, default="auto"
            What to draw. "images": a column of images for each row. "lines": a panel for each row,
            with a line for each table, for sequences and spectra. "heatmap": a map for each table,
            in which each feature is centred and scaled by the mean and the standard deviation that
            it has in the first table. "auto" is "images" if there is an `image_shape`, otherwise
            "lines".
        n_columns : int, default=None
            Number of rows side by side, as images or panels, after which the next ones start below.
            By default all images, and up to four panels with lines.
        style_kwargs : dict, default=None
            Keyword arguments for `matplotlib.axes.Axes.imshow` or, with lines,
            `matplotlib.axes.Axes.plot`.

        Returns
        -------
        display : ReconstructionDisplay
            The display.
        """
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r} is not one of {', '.join(map(repr, KINDS))}.")
        if kind == "images" and self.image_shape is None:
            raise ValueError("kind='images' needs image_shape, the height and width of an image.")
        if kind == "auto":
            kind = "lines" if self.image_shape is None else "images"
        check_matplotlib_support(f"{type(self).__name__}.plot")
        tables = {name: np.atleast_2d(as_array(table)) for name, table in self.tables.items()}
        draw = {"images": self._images, "lines": self._lines, "heatmap": self._heatmap}[kind]
        draw(tables, ax, n_columns, style_kwargs or {})
        self.figure_ = self.ax_.figure
        return self

    def _images(
        self,
        tables: dict[str, np.ndarray],
        ax: Axes | None,
        n_columns: int | None,
        style_kwargs: dict[str, Any],
    ) -> None:
        first = next(iter(tables.values()))
        shape = check_image_shape(self.image_shape or (), first.shape[1])
        n_rows = max(map(len, tables.values()))
        n_columns = min(n_columns or n_rows, n_rows)
        n_blocks = math.ceil(n_rows / n_columns)
        n_lines = n_blocks * len(tables)
        lines = np.full((n_blocks, len(tables), n_columns, first.shape[1]), np.nan)
        for number, table in enumerate(tables.values()):
            for block in range(n_blocks):
                part = table[block * n_columns : (block + 1) * n_columns]
                lines[block, number, : len(part)] = part

        size = 0.85
        height = size * shape[0] / shape[1]
        ax = given_or_new(ax, 1.2 + size * n_columns, 0.4 + height * n_lines, "compressed")
        limits = (np.nanmin(first), np.nanmax(first))
        style = {"cmap": gray_map(ax), "vmin": limits[0], "vmax": limits[1]}
        style = _validate_style_kwargs({**style, "interpolation": "nearest"}, style_kwargs)
        shown = lines.reshape(n_lines, n_columns, -1)
        picture = mosaic(shown, shape, (style["vmin"], style["vmax"]))
        image = ax.imshow(picture, **style)
        ax.set_xticks([])
        if len(tables) == 1:
            ax.set_yticks([])
            ax.set_ylabel(next(iter(tables)))
        else:
            height = picture.shape[0] / n_lines
            centres = (np.arange(n_lines) + 0.5) * height - 0.5
            ax.set_yticks(centres, list(tables) * n_blocks)
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
        ax.patch.set_visible(False)
        self.artists_: dict[str, list] = {name: [image] for name in tables}
        self.ax_, self.axes_ = ax, np.array([[ax]])

    def _lines(
        self,
        tables: dict[str, np.ndarray],
        ax: Axes | None,
        n_columns: int | None,
        style_kwargs: dict[str, Any],
    ) -> None:
        n_rows = max(map(len, tables.values()))
        n_columns = min(n_columns or 4, n_rows)
        n_lines = math.ceil(n_rows / n_columns)
        n_features = next(iter(tables.values())).shape[1]
        height = 0.8 + 1.7 * n_lines + 1.5 * self._has_names(n_features)
        ax = given_or_new(ax, 1.6 + 2.2 * n_columns, height)
        grid = panels(ax, n_lines, n_columns, sharex=True, sharey=True)
        self.artists_ = {name: [] for name in tables}
        for row, panel in zip(range(n_rows), grid.flat, strict=False):
            for number, (name, table) in enumerate(tables.items()):
                if row < len(table):
                    style = {"color": category_style(number)["color"], "linewidth": 1.2}
                    style = _validate_style_kwargs(style, style_kwargs)
                    self.artists_[name] += panel.plot(table[row], label=name, **style)
            panel.set_title(self._row_name(row), fontsize="small")
        for panel in grid.flat[n_rows:]:
            panel.set_axis_off()
        lowest = grid.flat[max(n_rows - n_columns, 0) : n_rows]
        self._name_features(lowest, n_features)
        for panel in lowest:
            panel.tick_params(labelbottom=True)
        handles = [lines[0] for lines in self.artists_.values()]
        grid[0, -1].legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        self.ax_, self.axes_ = ax, grid

    def _heatmap(
        self,
        tables: dict[str, np.ndarray],
        ax: Axes | None,
        n_columns: int | None,
        style_kwargs: dict[str, Any],
    ) -> None:
        first = next(iter(tables.values())).astype(float)
        mean, deviation = first.mean(axis=0), first.std(axis=0)
        deviation[deviation == 0] = 1.0
        scaled = {name: (table - mean) / deviation for name, table in tables.items()}
        limit = np.abs(scaled[next(iter(tables))]).max()

        width = max(2.4, min(5.0, 0.25 * first.shape[1]))
        height = max(2.4, min(8.0, 0.25 * len(first)))
        ax = given_or_new(ax, 1.6 + width * len(tables), 1.2 + height)
        grid = panels(ax, 1, len(tables), sharey=len({len(t) for t in tables.values()}) == 1)
        style = {"cmap": COLOR_MAP, "vmin": -limit, "vmax": limit, "aspect": "auto"}
        style = _validate_style_kwargs({**style, "interpolation": "nearest"}, style_kwargs)
        self.artists_ = {}
        for panel, (name, table) in zip(grid.flat, scaled.items(), strict=True):
            self.artists_[name] = [panel.imshow(table, **style)]
            panel.set_title(name)
        if len(first) <= MAX_NAMES:
            names = [self._row_name(row) for row in range(len(first))]
            grid[0, 0].set_yticks(range(len(first)), names)
        else:
            grid[0, 0].set_ylabel("row")
        self._name_features(grid.flat, first.shape[1])
        ax.figure.colorbar(
            self.artists_[name][0],
            ax=list(grid.flat),
            label="standard deviations from the mean of the feature",
        )
        self.ax_, self.axes_ = ax, grid

    def _row_name(self, row: int) -> str:
        if self.row_names is None or row >= len(self.row_names):
            return f"row {row}"
        name = self.row_names[row]
        return name if isinstance(name, str) else f"row {name}"

    def _has_names(self, n_features: int) -> bool:
        return self.feature_names is not None and n_features <= MAX_NAMES

    def _name_features(self, axes: Any, n_features: int) -> None:
        for ax in axes:
            if self._has_names(n_features):
                ax.set_xticks(range(n_features), self.feature_names, rotation=90)
            else:
                ax.set_xlabel("feature")
