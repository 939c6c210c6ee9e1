"""Progress of a fit, for scikit-learn's callbacks and for a terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from sklearn.base import BaseEstimator
from sklearn.callback import CallbackContext
from tqdm.auto import tqdm

from skae._checkpoint import Keeper
from skae._processes import is_first_process
from skae._training import Progress, State


class EpochReporter:
    """Tells scikit-learn's callbacks and the progress bar about epochs."""

    def __init__(
        self,
        estimator: BaseEstimator,
        context: CallbackContext,
        *,
        X: Any,
        sample_weight: Any,
        fitted_attributes: Callable[[], dict[str, Any]],
        keeper: Keeper,
        size: str = "",
    ) -> None:
        # An autoencoder's target is its input: a scorer that wants y is given X.
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self.task = {"estimator": estimator, "X": X, "y": X, "metadata": metadata}
        self.task_name = "epoch"
        self.context = context
        self.fitted_attributes = fitted_attributes
        self.keep: Callable[[Progress, Callable[[], State]], None] = keeper.keep
        self.bar = tqdm(
            desc=f"{type(estimator).__name__}{size and f' ({size})'}",
            total=context.max_subtasks,
            unit="epoch",
            initial=keeper.n_epochs,
            disable=not estimator.verbose or not is_first_process(),
        )

    def __enter__(self) -> Self:
        self.context.call_on_fit_task_begin(**self.task)
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            # Training that stopped early is complete; a notebook would show an open bar in red.
            self.bar.total = self.bar.n
            self.bar.refresh()
        self.bar.close()
        if error is None:
            # By now the estimator itself is fitted: nothing is to be added to a copy of it.
            self.context.call_on_fit_task_end(**self.task, reconstruction_attributes={})

    def epoch_begins(self) -> None:
        """Open the task of an epoch."""
        self.epoch = self.context.subcontext(task_name=self.task_name)
        self.epoch.call_on_fit_task_begin(**self.task)

    def epoch_ends(self, progress: Progress) -> bool:
        """Close the task of an epoch; True if a callback wants to stop."""
        loss = (progress.validation_loss_curve or progress.loss_curve)[-1]
        self.bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
        self.bar.update()
        return self.epoch.call_on_fit_task_end(
            **self.task, reconstruction_attributes=self.fitted_attributes
        )
