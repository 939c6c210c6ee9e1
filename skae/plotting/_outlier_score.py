"""How outlying rows are, and where the threshold is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_consistent_length
from sklearn.utils.validation import check_is_fitted

from skae._sklearn_compat import _validate_style_kwargs, check_matplotlib_support
from skae.plotting._axes import COLORS, given_or_new
from skae.plotting._estimators import part_with, row_names_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

THRESHOLD_COLOR = COLORS[1]
GROUP_COLORS = (COLORS[0], COLORS[4], COLORS[2], COLORS[3], COLORS[5])


# Shares of the height of the axes: the tallest bar ends below the names.
TALLEST_BAR, LOWEST_NAME, HIGHEST_NAME = 0.5, 0.55, 0.82


def leave_room_above_bars(ax: Axes) -> None:
    """Raise the upper limit, so that the tallest bar leaves room for names above it."""
    low, high = ax.get_ylim()
    if ax.get_yscale() == "log":
        ax.set_ylim(low, low * (high / low) ** (1.0 / TALLEST_BAR))
    else:
        ax.set_ylim(low, low + (high - low) / TALLEST_BAR)


class OutlierScoreDisplay:
    """Histogram of outlier scores with the threshold and the most outlying rows.

    It is recommended to use `from_estimator`. All parameters are stored as attributes.

    Parameters
    ----------
    outlier_scores : array-like of shape (n_samples,)
        Scores, higher for rows that are more outlying.
    threshold : float, default=None
        Score above which a row counts as an outlier.
    y : array-like of shape (n_samples,), default=None
        Labels of the rows, for a histogram each.
    row_names : list of length n_samples, default=None
        Names of the rows. Numbers by default.

    Attributes
    ----------
    histograms_ : dict of str to matplotlib artist
        The histogram of each label; of all rows under the name "rows" without labels.
    threshold_ : matplotlib Line2D or None
        The line of the threshold.
    texts_ : list of matplotlib Text
        Names of the most outlying rows, the highest score first.
    ax_ : matplotlib Axes
        Axes with the histogram.
    figure_ : matplotlib Figure
        Figure that contains the histogram.

    See Also
    --------
    OutlierScoreDisplay.from_estimator : Plot the scores that a fitted detector gives to rows.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skae import PCA, AutoencoderOutlierDetector
    >>> from skae.plotting import OutlierScoreDisplay
    >>> X, cultivar = load_wine(return_X_y=True, as_frame=True)
    >>> detector = AutoencoderOutlierDetector(PCA(3)).fit(X[cultivar == 0])
    >>> display = OutlierScoreDisplay.from_estimator(detector, X, cultivar, n_named=3)
    >>> list(display.histograms_), len(display.texts_)
    (['0', '1', '2'], 3)
    """

    def __init__(
        self,
        outlier_scores: ArrayLike,
        *,
        threshold: float | None = None,
        y: ArrayLike | None = None,
        row_names: Sequence[Any] | None = None,
    ) -> None:
        self.outlier_scores = outlier_scores
        self.threshold = threshold
        self.y = y
        self.row_names = row_names

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike | None = None,
        *,
        ax: Axes | None = None,
        n_named: int = 5,
        xscale: str = "auto",
        hist_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Plot the outlier scores of X.

        Parameters
        ----------
        estimator : estimator instance
            Fitted outlier detector, skae's or scikit-learn's, or a pipeline or search that ends in
            one. Its outlier scores are minus `score_samples` and its threshold is minus `offset_`;
            what has `score_samples` alone is shown without a threshold.
        X : array-like of shape (n_samples, n_features)
            Rows to score.
        y : array-like of shape (n_samples,), default=None
            Labels of the rows, for a histogram each: known outliers, or the predictions.
        ax : matplotlib Axes, default=None
            Axes to draw in. If None, a new figure is made.
        n_named : int, default=5
            How many of the most outlying rows to name: by the index of a DataFrame, otherwise by
            their number.
        xscale : {"auto", "linear", "log"}, default="auto"
            Scale of the scores, see `plot`.
        hist_kwargs : dict, default=None
            Keyword arguments of the histograms.

        Returns
        -------
        display : OutlierScoreDisplay
            The display.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        check_is_fitted(estimator)
        if not hasattr(estimator, "score_samples"):
            raise ValueError(
                f"{type(estimator).__name__} has no score_samples; pass a fitted outlier detector, "
                "or a pipeline or search that ends in one."
            )
        scores = -np.asarray(estimator.score_samples(X))
        offset = getattr(part_with(estimator, "offset_"), "offset_", None)
        display = cls(
            scores,
            threshold=None if offset is None else -float(offset),
            y=y,
            row_names=row_names_of(X, len(scores)),
        )
        return display.plot(ax=ax, n_named=n_named, xscale=xscale, hist_kwargs=hist_kwargs)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        n_named: int = 5,
        xscale: str = "auto",
        hist_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Plot the histogram.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw in. If None, a new figure is made.
        n_named : int, default=5
            How many of the most outlying rows to name.
        xscale : {"auto", "linear", "log"}, default="auto"
            Scale of the scores. "auto" is "log" if all of them are positive and the largest is more
            than a hundred times the smallest.
        hist_kwargs : dict, default=None
            Keyword arguments for `matplotlib.axes.Axes.hist`. By default there are 40 bins and the
            number of rows is on a logarithmic scale, on which single rows can be seen.

        Returns
        -------
        display : OutlierScoreDisplay
            The display.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        if xscale not in ("auto", "linear", "log"):
            raise ValueError(f"xscale={xscale!r} is not one of 'auto', 'linear' and 'log'.")
        scores = np.asarray(self.outlier_scores, dtype=float)
        if xscale == "auto":
            xscale = "log" if 0 < scores.min() < scores.max() / 100 else "linear"
        if xscale == "log" and scores.min() <= 0:
            raise ValueError(
                f"xscale='log' needs positive scores, and the smallest is {scores.min():.4g}; use "
                "xscale='linear'."
            )
        groups = {"rows": scores}
        if self.y is not None:
            y = np.asarray(self.y)
            check_consistent_length(scores, y)
            groups = {str(label): scores[y == label] for label in np.unique(y)}
        ax = given_or_new(ax, 6.4, 4.0)

        self.histograms_ = {}
        edges = np.histogram_bin_edges(scores, bins=40)
        if xscale == "log":
            edges = np.geomspace(scores.min(), edges[-1], len(edges))
        for number, (name, group) in enumerate(groups.items()):
            color = GROUP_COLORS[number % len(GROUP_COLORS)]
            style = {"bins": edges, "color": color, "alpha": 0.6, "label": name, "log": True}
            style |= {"histtype": "stepfilled", "edgecolor": color}
            style = _validate_style_kwargs(style, hist_kwargs or {})
            self.histograms_[name] = ax.hist(group, **style)[2]
        self.threshold_ = None
        if self.threshold is not None:
            n_above = int(np.sum(scores > self.threshold))
            self.threshold_ = ax.axvline(
                self.threshold,
                color=THRESHOLD_COLOR,
                linestyle="--",
                label=f"threshold: {self.threshold:.4g} ({n_above} above)",
            )
        ax.set(xlabel="outlier score", ylabel="number of rows", xscale=xscale)
        if n_named > 0:
            leave_room_above_bars(ax)
        self._name_rows(ax, scores, n_named)
        if self.threshold is not None or self.y is not None:
            ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _name_rows(self, ax: Axes, scores: np.ndarray, n_named: int) -> None:
        """Write names on stems that get shorter with the score, so that none crosses another."""
        names = range(len(scores)) if self.row_names is None else self.row_names
        top = np.argsort(-scores, kind="stable")[:n_named]
        self.texts_ = []
        for place, row in enumerate(top):
            height = HIGHEST_NAME - (HIGHEST_NAME - LOWEST_NAME) * place / max(len(top), 1)
            ax.plot(
                [scores[row]] * 2,
                [0, height],
                color="0.5",
                linewidth=0.8,
                transform=ax.get_xaxis_transform(),
            )
            self.texts_.append(
                ax.annotate(
                    str(names[row]),
                    (scores[row], height),
                    xycoords=ax.get_xaxis_transform(),
                    xytext=(-2, 0),
                    textcoords="offset points",
                    ha="right",
                    va="top",
                    fontsize="small",
                )
            )
