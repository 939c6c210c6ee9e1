"""Why a row is an outlier: its columns in the order of what they add to the score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd
from sklearn.utils.validation import check_is_fitted

from skae._sklearn_compat import (
    _safe_indexing,
    _validate_style_kwargs,
    check_matplotlib_support,
)
from skae.plotting._axes import COLORS, given_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Highest and lowest bar, in inches.
HEIGHT_OF_BAR, HEIGHT_OF_REST = 0.42, 1.2


class OutlierReasonDisplay:
    """Bars of what columns add to the outlier score of one row, with their values in words.

    It is recommended to use `from_estimator`. All parameters are stored as attributes.

    Parameters
    ----------
    reasons : DataFrame
        Of one row, indexed by columns: ``contribution``, ``value``, ``as_far_out`` and, where the
        model expects values, ``expected``.
    row_name : object, default=None
        Name of the row, for the title.
    outlier_score : float, default=None
        Outlier score of the row, for the title.
    threshold : float, default=None
        Score above which a row counts as an outlier, for the title.
    p_value : float, default=None
        Of the row, for the title.

    Attributes
    ----------
    bars_ : matplotlib BarContainer
        A bar for each column, the largest contribution on top.
    texts_ : list of matplotlib Text
        What is said of each column.
    ax_ : matplotlib Axes
        Axes with the bars.
    figure_ : matplotlib Figure
        Figure that contains the bars.

    See Also
    --------
    OutlierScoreDisplay : The scores of all rows.

    Examples
    --------
    >>> from sklearn.datasets import load_wine
    >>> from skae import PCA, AutoencoderOutlierDetector
    >>> from skae.plotting import OutlierReasonDisplay
    >>> X, cultivar = load_wine(return_X_y=True, as_frame=True)
    >>> detector = AutoencoderOutlierDetector(PCA(3), random_state=0).fit(X[cultivar == 0])
    >>> display = OutlierReasonDisplay.from_estimator(detector, X[cultivar == 2], n_columns=4)
    >>> len(display.texts_)
    4
    """

    def __init__(
        self,
        reasons: pd.DataFrame,
        *,
        row_name: Any = None,
        outlier_score: float | None = None,
        threshold: float | None = None,
        p_value: float | None = None,
    ) -> None:
        self.reasons = reasons
        self.row_name = row_name
        self.outlier_score = outlier_score
        self.threshold = threshold
        self.p_value = p_value

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        row: int | None = None,
        ax: Axes | None = None,
        n_columns: int = 8,
        bar_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Plot why a row of X is an outlier.

        Parameters
        ----------
        estimator : AutoencoderOutlierDetector
            Fitted detector.
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows.
        row : int, default=None
            Position of the row. If None, it is the one with the highest outlier score.
        ax : matplotlib Axes, default=None
            Axes to draw in. If None, a new figure is made.
        n_columns : int, default=8
            How many columns to show.
        bar_kwargs : dict, default=None
            Keyword arguments of the bars.

        Returns
        -------
        display : OutlierReasonDisplay
            The display.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        check_is_fitted(estimator)
        if not hasattr(estimator, "reasons"):
            raise ValueError(
                f"{type(estimator).__name__} has no method reasons; pass a fitted "
                "AutoencoderOutlierDetector."
            )
        scores = np.asarray(estimator.score_samples(X))
        place = int(np.argmin(scores)) if row is None else row
        if not -len(scores) <= place < len(scores):
            raise ValueError(f"row={row} is not a position in X, which has {len(scores)} rows.")
        place %= len(scores)
        of_row = estimator.reasons(_safe_indexing(X, [place]))
        name = of_row.index[0][0]
        p_value = None
        if estimator.calibration_scores_ is not None:
            p_value = float(estimator.p_values(_safe_indexing(X, [place]))[0])
        display = cls(
            of_row.droplevel(0),
            row_name=name,
            outlier_score=-float(scores[place]),
            threshold=-float(estimator.offset_),
            p_value=p_value,
        )
        return display.plot(ax=ax, n_columns=n_columns, bar_kwargs=bar_kwargs)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        n_columns: int = 8,
        bar_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Plot the bars.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw in. If None, a new figure is made.
        n_columns : int, default=8
            How many columns to show.
        bar_kwargs : dict, default=None
            Keyword arguments for `matplotlib.axes.Axes.barh`.

        Returns
        -------
        display : OutlierReasonDisplay
            The display.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        shown = self.reasons.nlargest(n_columns, "contribution")
        ax = given_or_new(ax, 7.2, HEIGHT_OF_REST + HEIGHT_OF_BAR * len(shown))
        style = _validate_style_kwargs({"color": COLORS[0], "height": 0.7}, bar_kwargs or {})
        places = np.arange(len(shown))[::-1]
        lengths = shown["contribution"].to_numpy(dtype=float)
        self.bars_ = ax.barh(places, lengths, **style)
        ax.set_yticks(places, [str(name) for name in shown.index])
        # Room for the words beside the longest bar.
        longest = max(lengths.max(initial=0.0), 1e-12)
        ax.set_xlim(min(lengths.min(initial=0.0), 0.0), 2.2 * longest)
        self.texts_ = [
            ax.annotate(
                self._words(cell),
                (max(length, 0.0), place),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize="small",
            )
            for place, length, (_, cell) in zip(places, lengths, shown.iterrows(), strict=True)
        ]
        ax.set(xlabel="part of the outlier score", title=self._title())
        self.ax_, self.figure_ = ax, ax.figure
        return self

    @staticmethod
    def _words(cell: pd.Series) -> str:
        words = short(cell["value"])
        if "expected" in cell.index and not pd.isna(cell["expected"]):
            words += f", expected {short(cell['expected'])}"
        return f"{words} ({cell['as_far_out']:.1%} as far out)"

    def _title(self) -> str:
        parts = ["Why this row" if self.row_name is None else f"Why row {self.row_name}"]
        if self.outlier_score is not None:
            score = f"score {self.outlier_score:.3g}"
            if self.threshold is not None:
                score += f", threshold {self.threshold:.3g}"
            parts.append(score)
        if self.p_value is not None:
            parts.append(f"p = {self.p_value:.2g}")
        return parts[0] + (": " + ", ".join(parts[1:]) if parts[1:] else "")


def short(value: Any) -> str:
    """Value as text, numbers with four digits, midnight as the day."""
    if isinstance(value, pd.Timestamp) and value == value.normalize():
        return str(value.date())
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)
