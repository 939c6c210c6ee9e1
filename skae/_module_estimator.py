"""ModuleEstimator: what estimators share whose model is a Torch module."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.callback import CallbackContext, CallbackSupportMixin
from sklearn.utils import check_random_state
from torch import nn

from skae._arrays import ArrayApiMixin
from skae._checkpoint import Keeper
from skae._device import (
    CPU,
    TORCH_DTYPE,
    copy_to,
    is_available,
    threads,
    torch_at_work,
)
from skae._device_array import DeviceArray
from skae._documentation import DocumentationLinkMixin
from skae._persistence import load_weights, reading, with_versions
from skae._processes import own_random_numbers
from skae._random import private_random_numbers
from skae._reporting import EpochReporter
from skae._rows import in_batches
from skae._validation import float_dtype, within_range

# Which end of the numbers stands for a loss, and for a score, that no number can hold.
WORST = {
    "contributions": 1,
    "contributions_of_known": 1,
    "elementwise_loss": 1,
    "reconstruction_loss": 1,
    "score": -1,
}


class ModuleEstimator(
    DocumentationLinkMixin, CallbackSupportMixin, ArrayApiMixin, BaseEstimator, ABC
):
    """An estimator around a module: how it is trained, applied to rows, copied and saved.

    Fitted, it has ``module_`` on the CPU and in evaluation mode, and ``device_``, the name of the
    device of its training.
    """

    device: str
    random_state: int | np.random.RandomState | None
    verbose: bool
    module_: nn.Module
    device_: str

    _needs_float64: ClassVar[bool] = False
    """Whether the module computes in float64 also for rows of float32."""

    @abstractmethod
    def _build_empty(self) -> nn.Module:
        """Build the fitted module without its weights, from what else `fit` has left."""

    @abstractmethod
    def _threads_to_apply(self, shape: tuple[int, int]) -> int | None:
        """Choose the threads for a table of this shape, None for as many as there are."""

    def _draw_seeds(self, *more: int) -> tuple[int, int]:
        """Seeds for building and for training."""
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        building, training = np.random.SeedSequence((seed, *more)).generate_state(2)
        return int(building), int(training)

    @contextmanager
    def _training(
        self,
        context: CallbackContext,
        task: dict[str, Any],
        *,
        seed: int,
        device: torch.device,
        n_threads: int | None,
        fitted_attributes: Callable[[], dict[str, Any]],
        keeper: Keeper,
        module: nn.Module,
    ) -> Iterator[EpochReporter]:
        """Prepare for `train`: arithmetic, threads, random numbers, and who is told of epochs.

        Parameters
        ----------
        context : CallbackContext
            Of the fit.
        task : dict
            What callbacks are given: ``X`` and ``sample_weight``; and what the progress bar says
            of the model's ``size``.
        seed : int
            Of the training.
        device : torch.device
        n_threads : int or None
            Threads of the CPU; None for as many as there are.
        fitted_attributes : callable
            Gives what `fit` would leave if it ended now.
        keeper : Keeper
            Knows what to go on from.
        module : nn.Module
            What is trained.
        """
        with (
            torch_at_work(device),
            private_random_numbers(seed, device),
            own_random_numbers(seed, device),
            threads(n_threads),
            keeper.going_on(module),
            EpochReporter(
                self, context, fitted_attributes=fitted_attributes, keeper=keeper, **task
            ) as reporter,
        ):
            yield reporter

    def _apply(self, method: str, X: Any, *arguments: Any, known: np.ndarray | None = None) -> Any:
        """Apply a method of the fitted module to rows, in their dtype.

        If not all cells are known, the method's last argument are those that are.
        """
        device, dtype = torch.device(self.device_), TORCH_DTYPE[float_dtype(X).name]
        if isinstance(X, DeviceArray):
            device = X.device  # wherever the training was
        in_float64 = self._needs_float64 or dtype == torch.float64
        if not is_available(device) or (device.type == "mps" and in_float64):
            device = CPU
        module = self.module_
        if device != CPU or in_float64:
            module = copy_to(module, device, dtype)
        function = getattr(module, method)
        with torch_at_work(device), threads(self._threads_to_apply(X.shape)):
            results = in_batches(
                lambda batch, *cells: function(batch, *arguments, *cells), X, device, known
            )
        return within_range(results, WORST.get(method))

    def __getstate__(self) -> dict[str, Any]:
        """Replace the module by its weights as arrays, which any machine and reader can load."""
        state = dict(super().__getstate__())  # object's is the live __dict__
        if "module_" in state:
            module = state.pop("module_")
            state["_weights"] = {name: w.numpy() for name, w in module.state_dict().items()}
        return with_versions(state)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Rebuild the module around its weights."""
        with reading(self, state) as state:
            weights = state.pop("_weights", None)
            super().__setstate__(state)
            if weights is not None:
                with torch.device("meta"):  # no memory, no random numbers
                    module = self._build_empty()
                self.module_ = load_weights(module, weights)
