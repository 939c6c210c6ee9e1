"""Curves of the loss over the epochs of a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skae._sklearn_compat import _validate_style_kwargs, check_matplotlib_support
from skae.plotting._axes import COLORS, given_or_new
from skae.plotting._estimators import part_with

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Curves of the terms of which a loss is the sum, by the attribute that holds them.
PARTS = {"reconstruction_loss_curve_": "reconstruction", "kl_curve_": "Kullback-Leibler"}


class LossCurveDisplay:
    """Loss of each epoch.

    It is recommended to use `from_estimator`. All parameters are stored as attributes.

    Parameters
    ----------
    loss_curve : array-like of shape (n_epochs,)
        Training loss of each epoch.
    validation_loss_curve : array-like of shape (n_epochs,), default=None
        Loss of held-out rows after each epoch.
    parts : dict of str to array-like of shape (n_epochs,), default=None
        Terms whose sum is the training loss, by their names.
    best_loss : float, default=None
        Loss of the weights that were returned: a value of the validation curve, or none of them if
        the weights are those before the first epoch.
    loss_name : str, default=None
        Name of the loss, with its unit.

    Attributes
    ----------
    lines_ : list of matplotlib Line2D
        The curves: training, validation, parts.
    best_ : matplotlib Artist or None
        Mark of the weights that were returned.
    ax_ : matplotlib Axes
        Axes with the curves.
    figure_ : matplotlib Figure
        Figure that contains the curves.

    See Also
    --------
    LossCurveDisplay.from_estimator : Plot the curves of a fitted estimator.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skae import AutoencoderTransformer
    >>> from skae.plotting import LossCurveDisplay
    >>> X = load_digits().data / 16
    >>> autoencoder = AutoencoderTransformer(2, max_iter=5, random_state=0).fit(X)
    >>> display = LossCurveDisplay.from_estimator(autoencoder)
    >>> [line.get_label() for line in display.lines_]
    ['training', 'validation']
    """

    def __init__(
        self,
        loss_curve: Sequence[float],
        *,
        validation_loss_curve: Sequence[float] | None = None,
        parts: Mapping[str, Sequence[float]] | None = None,
        best_loss: float | None = None,
        loss_name: str | None = None,
    ) -> None:
        self.loss_curve = loss_curve
        self.validation_loss_curve = validation_loss_curve
        self.parts = parts
        self.best_loss = best_loss
        self.loss_name = loss_name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        ax: Axes | None = None,
        yscale: str = "auto",
        line_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Plot the loss curves of a fitted estimator.

        Parameters
        ----------
        estimator : estimator instance
            Fitted autoencoder, or a pipeline, search or detector that contains one. Of several
            trained steps of a pipeline, the last one is shown.
        ax : matplotlib Axes, default=None
            Axes to draw in. If None, a new figure is made.
        yscale : {"auto", "linear", "log"}, default="auto"
            Scale of the losses, see `plot`.
        line_kwargs : dict, default=None
            Keyword arguments of the curves.

        Returns
        -------
        display : LossCurveDisplay
            The display.
        """
        check_matplotlib_support(f"{cls.__name__}.from_estimator")
        check_is_fitted(estimator)
        trained = part_with(estimator, "loss_curve_")
        if trained is None:
            raise ValueError(
                f"{type(estimator).__name__} has no loss_curve_; pass an estimator that is trained "
                "in epochs, or a pipeline or search that contains one."
            )
        display = cls(
            trained.loss_curve_,
            validation_loss_curve=getattr(trained, "validation_loss_curve_", None),
            parts={
                name: getattr(trained, attribute)
                for attribute, name in PARTS.items()
                if hasattr(trained, attribute)
            },
            best_loss=getattr(trained, "best_loss_", None),
            loss_name=getattr(trained, "loss_unit_", None),
        )
        return display.plot(ax=ax, yscale=yscale, line_kwargs=line_kwargs)

    def plot(
        self,
        ax: Axes | None = None,
        *,
        yscale: str = "auto",
        line_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Plot the curves.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw in. If None, a new figure is made.
        yscale : {"auto", "linear", "log"}, default="auto"
            Scale of the losses. "auto" is "log" if all of them are positive and the largest is
            more than ten times the smallest.
        line_kwargs : dict, default=None
            Keyword arguments of the curves, for `matplotlib.axes.Axes.plot`.

        Returns
        -------
        display : LossCurveDisplay
            The display.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        curves = {"training": self.loss_curve}
        if self.validation_loss_curve is not None:
            curves["validation"] = self.validation_loss_curve
        curves.update(self.parts or {})
        if yscale not in ("auto", "linear", "log"):
            raise ValueError(f"yscale={yscale!r} is not one of 'auto', 'linear' and 'log'.")

        ax = given_or_new(ax, 6.4, 4.0)
        from matplotlib.ticker import MaxNLocator

        # A curve of one epoch would be an invisible line.
        marker = "o" if len(self.loss_curve) == 1 else None
        self.lines_ = []
        for number, (name, curve) in enumerate(curves.items()):
            style = {
                "color": COLORS[number],
                "linestyle": "-" if number < 2 else "--",
                "marker": marker,
            }
            style = _validate_style_kwargs(style, line_kwargs or {})
            epochs = np.arange(1, len(curve) + 1)
            self.lines_ += ax.plot(epochs, np.asarray(curve), label=name, **style)
        self.best_ = self._mark_best(ax)

        values = np.concatenate([np.asarray(curve, dtype=float) for curve in curves.values()])
        if yscale == "auto":
            yscale = "log" if 0 < values.min() < values.max() / 10 else "linear"
        ax.set(xlabel="epoch", ylabel=self.loss_name or "loss", yscale=yscale)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _mark_best(self, ax: Axes) -> Any:
        """Mark the epoch whose weights were returned, which only held-out rows decide."""
        if self.validation_loss_curve is None or self.best_loss is None:
            return None
        curve = np.asarray(self.validation_loss_curve)
        color = self.lines_[1].get_color()
        if self.best_loss in curve:
            epoch = int(np.argmax(curve == self.best_loss)) + 1
            label = f"best epoch: {epoch}"
            return ax.plot(epoch, self.best_loss, "o", color=color, markersize=8, label=label)[0]
        label = "returned: the weights before training"
        return ax.axhline(self.best_loss, color=color, linestyle=":", label=label)
