"""The training loop and batched inference.

Both know tensors and one module; neither knows a model or an estimator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import islice, repeat
from typing import Any, Protocol

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from skae._device import to_tensor
from skae._recording import Recording
from skae._solvers import FlatWeights, Solver
from skae._validation import float_dtype


class TrainableModule(nn.Module):
    """A network that owns its loss."""

    loss: Callable[..., Tensor]
    """Takes the tensors of a batch of rows and gives the loss of each row, (batch,), or its parts,
    (batch, n_parts)."""

    part_names: tuple[str, ...] = ()
    """Names of the parts, if the loss has any."""

    @property
    def loss_shape(self) -> tuple[int, ...]:
        """Shape of the loss of one row: that of a number, or of its parts."""
        return (len(self.part_names),) if self.part_names else ()

    encode: Callable[[Tensor], Tensor]
    """Takes a batch of rows and gives their codes, (batch, n_components)."""

    stages: Callable[[], Sequence[TrainableModule]]
    """Gives networks of one layer each, from the rows to the code, that share its weights."""

    n_warmup_epochs: int = 0
    """Number of epochs in which the loss is not yet what is to be minimised."""

    def begin_epoch(self, number: int) -> None:
        """Take note that an epoch of training begins, the first one with number one."""

    def total(self, losses: Tensor) -> Tensor:
        """Add up the parts of a loss, (..., n_parts) -> (...)."""
        return losses

    def by_hand(self, precision: str) -> Callable[[Rows], Tensor] | None:
        """Give a function that does the work of `differentiate`, if the module has a faster one.

        It takes a batch in training mode, returns the weighted mean of its losses, or of each part,
        and adds the derivatives of that mean to the ``grad`` of the weights.
        """
        return None


class SparseTable:
    """Rows of a sparse matrix, with as much of a tensor's interface as `Rows` needs.

    The matrix stays on the host; batches of it are made dense on the device.
    """

    def __init__(self, matrix: Any, device: torch.device | str = "cpu") -> None:
        self.matrix = sparse.csr_array(matrix, dtype=np.float32)
        self.shape = self.matrix.shape
        self.device = torch.device(device)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: slice) -> SparseTable:
        return SparseTable(self.matrix[index], self.device)

    def index_select(self, dim: int, index: Tensor) -> SparseTable:
        """Choose rows by their numbers."""
        return SparseTable(self.matrix[index.cpu().numpy()], self.device)

    def to(self, device: torch.device) -> SparseTable:
        """Choose the device of the dense batches."""
        return SparseTable(self.matrix, device)

    def to_dense(self) -> Tensor:
        """Make the rows a tensor."""
        return torch.from_numpy(self.matrix.toarray()).to(self.device)


@dataclass(frozen=True)
class Rows:
    """Rows to train on."""

    tensors: tuple[Any, ...]
    """The arguments of ``module.loss``, aligned along their first axis: each a tensor or, until
    a batch of it is taken, a `SparseTable`."""

    weights: Tensor | None = None
    """Weights of mean one."""

    def __len__(self) -> int:
        return len(self.tensors[0])

    @property
    def device(self) -> torch.device:
        """Where the rows are."""
        return self.tensors[0].device

    def to(self, device: torch.device) -> Rows:
        """Put the rows on a device."""
        return self._map(lambda tensor: tensor.to(device))

    def take(self, index: Tensor | slice) -> Rows:
        """Choose rows by their numbers (copied) or by a slice (not copied)."""
        if isinstance(index, slice):
            return self._map(lambda tensor: tensor[index])
        return self._map(lambda tensor: tensor.index_select(0, index))

    def split(self, size: int) -> Iterator[Rows]:
        """Yield the rows in pieces of a size; the last one takes what is left."""
        pieces = zip(*(tensor.split(size) for tensor in self.tensors), strict=True)
        weights = repeat(None) if self.weights is None else self.weights.split(size)
        return map(Rows, pieces, weights)

    def shares(self, n_parts: int = 1) -> Tensor:
        """Give the share of each row, or of one of its parts, in the weighted mean, (n_rows, 1)."""
        if self.weights is None:
            values = self.tensors[0]
            return equal_shares(len(values), n_parts, values.dtype, values.device)
        return self.weights[:, None] / (len(self) * n_parts)

    @property
    def bytes_per_row(self) -> int:
        """Size of a dense float32 row of all tensors."""
        return sum(4 * math.prod(tensor.shape[1:]) for tensor in self.tensors)

    def to_numpy(self) -> tuple[Any, np.ndarray | None]:
        """Give what is to be reconstructed, as an array or sparse matrix, and its weights."""
        target = self.tensors[-1]
        weights = None if self.weights is None else self.weights.double().numpy()
        return target.matrix if isinstance(target, SparseTable) else target.numpy(), weights

    def to_dense(self) -> Rows:
        """Make what is sparse dense."""
        return self._map(
            lambda table: table.to_dense() if isinstance(table, SparseTable) else table
        )

    def _map(self, function: Callable[[Any], Any]) -> Rows:
        weights = None if self.weights is None else function(self.weights)
        return Rows(tuple(function(tensor) for tensor in self.tensors), weights)


@lru_cache(maxsize=64)  # far more than one fit takes: a recorded step goes on reading what it read
def equal_shares(n_rows: int, n_parts: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Shares of rows without weights, (n_rows, 1); all batches of a size have the same tensor."""
    return torch.full((n_rows, 1), 1.0 / (n_rows * n_parts), dtype=dtype, device=device)


def constant(learning_rate_init: float, n_steps: int) -> Iterator[float]:
    """Yield the same learning rate for every step."""
    return repeat(learning_rate_init)


def cosine(learning_rate_init: float, n_steps: int) -> Iterator[float]:
    """Yield rates that fall to zero along half a cosine (Loshchilov & Hutter 2017)."""
    for step in range(n_steps):
        yield learning_rate_init * (1.0 + math.cos(math.pi * step / n_steps)) / 2.0


LEARNING_RATES: dict[str, Callable[[float, int], Iterator[float]]] = {
    "constant": constant,
    "cosine": cosine,
}

# Rows that go through the network together at inference: enough to keep a core busy, few enough
# that the widest layer stays in its cache.
INFERENCE_BATCH_SIZE = 4096

# Steps that save more than a recording costs, which is some tens of milliseconds.
MIN_STEPS_TO_RECORD = 100

# Size of the rows that are gathered together: they are still in a core's cache when their batch
# is due.
BLOCK_BYTES = 2**20


@dataclass
class History:
    """What training left behind besides the weights."""

    loss_curve: list[float] = field(default_factory=list)
    """Mean loss of each epoch's batches, as they were when they were trained on."""

    validation_loss_curve: list[float] = field(default_factory=list)
    """Mean validation loss after each epoch; empty without validation rows."""

    best_loss: float = math.inf
    """Lowest monitored loss: the validation loss if there is one, otherwise the training loss."""

    best_state: dict[str, Tensor] | None = None
    """The weights that had the lowest validation loss."""

    part_curves: dict[str, list[float]] = field(default_factory=dict)
    """The mean of each part of the loss in each epoch, if it has parts."""

    pretrain_loss_curves: list[list[float]] = field(default_factory=list)
    """The loss curve of each layer's own training."""


class Observer(Protocol):
    """Sees every epoch, and may stop the training."""

    def epoch_begins(self) -> None:
        """Take note that an epoch begins."""

    def epoch_ends(self, history: History) -> bool:
        """Take note that an epoch has ended; True stops the training."""


class Descent:
    """The weights of a module on their way down its loss.

    Parameters
    ----------
    module : TrainableModule
        Its parameters and their ``grad`` become views of one vector each.
    solver : str
        Key of `SOLVERS`.
    alpha : float
        Weight decay of matrices.
    precision : {"float32", "bf16"}
        Of matrix products.
    memory : dict of str to ndarray, default=None
        What a solver remembers of earlier steps.
    """

    def __init__(
        self,
        module: TrainableModule,
        solver: str,
        alpha: float,
        precision: str,
        memory: dict[str, np.ndarray] | None = None,
    ) -> None:
        self.module = module
        self.weights = FlatWeights(module)
        self.solver = Solver(self.weights, solver, alpha, memory)
        by_hand = module.by_hand(precision)
        self.needs_autograd = by_hand is None
        self.loss_and_gradients = by_hand or partial(differentiate, module, precision)

    def step(self, batch: Rows, rate: float | Tensor) -> Tensor:
        """Take a step and return the mean loss of the batch before it, or of each part."""
        self.weights.gradients.zero_()
        loss = self.loss_and_gradients(batch)
        self.solver.step(rate)
        return loss


def differentiate(module: TrainableModule, precision: str, batch: Rows) -> Tensor:
    """Add the derivatives of the mean loss to the weights' ``grad``, and return that mean."""
    with products(precision, batch.device):
        loss = weighted_losses(module, batch).mean(dim=0)
    module.total(loss).backward()
    return loss.detach()


def train(
    module: TrainableModule,
    rows: Rows,
    validation_rows: Rows | None,
    history: History,
    *,
    solver: str,
    learning_rate: str,
    learning_rate_init: float,
    alpha: float,
    batch_size: int,
    max_iter: int,
    tol: float,
    n_iter_no_change: int,
    shuffle: bool,
    precision: str,
    never_worse: bool,
    observer: Observer,
) -> bool:
    """Minimise the mean of ``module.loss`` over the rows, epoch by epoch.

    Parameters
    ----------
    module : nn.Module
        ``module.loss(*batch)`` is the loss of each row of a batch. Trained in place. Its epochs
        are numbered on from those in `history`; those of its warm-up do not count for patience.
    rows : Rows
        Training data, on the module's device.
    validation_rows : Rows or None
        Data whose loss is monitored instead of the training loss. The weights with the lowest
        validation loss, those before the first epoch included, are restored at the end.
    history : History
        What went before, to be continued.
    solver, learning_rate : str
        Keys of `SOLVERS` and `LEARNING_RATES`.
    learning_rate_init, alpha : float
        Learning rate of the first step; weight decay.
    batch_size, max_iter : int
        Rows per step, where the last step of an epoch takes what is left; number of epochs.
    tol, n_iter_no_change : float, int
        Stop after `n_iter_no_change` epochs in a row that did not lower the monitored loss by
        the share `tol` of its best value.
    shuffle : bool
        Whether every epoch takes the rows in a new order.
    precision : {"float32", "bf16"}
        Of matrix products. Weights and sums are float32 either way.
    never_worse : bool
        Whether to restore the weights before the first epoch unless the loss of the monitored
        rows is clearly lower at the end, see `is_clear_gain`.
    observer : Observer
        Told of every epoch.

    Returns
    -------
    bool
        False if `never_worse` has restored the weights before the first epoch.

    Raises
    ------
    ValueError
        If the loss or a weight becomes infinite or NaN.
    """
    descent = Descent(module, solver, alpha, precision)
    recording = make_recording(descent, rows, batch_size, max_iter)
    n_steps = max_iter * math.ceil(len(rows) / batch_size)
    rates = LEARNING_RATES[learning_rate](learning_rate_init, n_steps)
    monitored_rows = rows if validation_rows is None else validation_rows
    if validation_rows is not None or never_worse:
        first_losses, first_state = row_losses(module, monitored_rows), state_of(module)
    if validation_rows is not None:
        history.best_loss, history.best_state = first_losses.mean().item(), first_state
    # The start may be hard to beat, as PCA is: it competes for what is returned, but patience is
    # measured against the epochs.
    best_trained_loss = math.inf
    n_idle = 0

    for epoch in range(1, max_iter + 1):
        observer.epoch_begins()
        loss = train_epoch(
            descent,
            rows,
            history,
            rates,
            batch_size=batch_size,
            shuffle=shuffle,
            recording=recording,
        )
        if validation_rows is not None:
            loss = mean_loss(module, validation_rows)
            history.validation_loss_curve.append(loss)
        check_finite(descent.weights.values, loss, epoch)

        # The training loss of a warm-up is not comparable with that of later epochs.
        warming_up = len(history.loss_curve) <= module.n_warmup_epochs
        if not warming_up:
            n_idle = 0 if is_gain(loss, best_trained_loss, tol) else n_idle + 1
            best_trained_loss = min(loss, best_trained_loss)
        if loss < history.best_loss and not (warming_up and validation_rows is None):
            history.best_loss = loss
            if validation_rows is not None:
                history.best_state = state_of(module)
        if observer.epoch_ends(history) or n_idle >= n_iter_no_change:
            break

    if history.best_state is not None:
        module.load_state_dict(history.best_state)
    if not never_worse or is_clear_gain(row_losses(module, monitored_rows), first_losses):
        return True
    module.load_state_dict(first_state)
    if validation_rows is not None:
        history.best_loss, history.best_state = first_losses.mean().item(), first_state
    return False


def make_recording(
    descent: Descent, rows: Rows, batch_size: int, max_iter: int
) -> Recording | None:
    """Prepare the recording of a step if it pays: on a CUDA device, for many steps by hand."""
    n_batches = len(rows) // batch_size
    if (
        rows.device.type != "cuda"
        or descent.needs_autograd
        or any(isinstance(table, SparseTable) for table in rows.tensors)
        or descent.module.n_warmup_epochs > 0  # a replay would not see the loss change
        or n_batches * max_iter < MIN_STEPS_TO_RECORD
    ):
        return None

    def step(index: Tensor, rate: Tensor) -> Tensor:
        return descent.step(rows.take(index), rate)

    return Recording(step, n_batches, batch_size, descent.module.loss_shape, rows.device)


def train_epoch(
    descent: Descent,
    rows: Rows,
    history: History,
    rates: Iterator[float],
    *,
    batch_size: int,
    shuffle: bool,
    recording: Recording | None = None,
) -> float:
    """Pass over the rows once, in steps of `batch_size`; record and return the mean loss.

    The loss of a batch is that before its step. It stays on the device until the epoch ends,
    because reading it back would make the host wait for every step. A recording takes the steps of
    the full batches.
    """
    module = descent.module
    module.train()
    module.begin_epoch(len(history.loss_curve) + 1)
    total = torch.zeros(module.loss_shape, device=rows.device)
    with torch.inference_mode(not descent.needs_autograd):  # spares operators their bookkeeping
        if recording is None:
            for batch, rate in zip(batches(rows, batch_size, shuffle), rates, strict=False):
                total.add_(descent.step(batch, rate), alpha=len(batch))
        else:
            order = (torch.randperm if shuffle else torch.arange)(len(rows), device=rows.device)
            order, rest = order[: recording.n_rows], order[recording.n_rows :]
            sums = recording.run(order, list(islice(rates, recording.n_batches)))
            total.add_(sums, alpha=batch_size)
            if len(rest) > 0:
                total.add_(descent.step(rows.take(rest), next(rates)), alpha=len(rest))
    mean = total / len(rows)
    history.loss_curve.append(module.total(mean).item())
    for name, part in zip(module.part_names, mean.reshape(-1).tolist(), strict=False):
        history.part_curves.setdefault(name, []).append(part)
    return history.loss_curve[-1]


def batches(rows: Rows, batch_size: int, shuffle: bool) -> Iterator[Rows]:
    """Yield the rows in batches; the last one takes what is left.

    Rows are gathered, and made dense, for as many batches at once as fit a block: few calls for
    narrow tables, and little memory for any.
    """
    shuffle = shuffle and batch_size < len(rows)
    order = torch.randperm(len(rows), device=rows.device) if shuffle else None
    block_size = batch_size * max(1, BLOCK_BYTES // (batch_size * rows.bytes_per_row))
    for start in range(0, len(rows), block_size):
        block = slice(start, start + block_size)
        yield from rows.take(block if order is None else order[block]).to_dense().split(batch_size)


def weighted_losses(module: TrainableModule, batch: Rows) -> Tensor:
    """Loss of each row, or its parts, times its weight."""
    losses = module.loss(*batch.tensors)  # (batch,) or (batch, n_parts)
    if batch.weights is None:
        return losses
    return losses * (batch.weights if losses.ndim == 1 else batch.weights[:, None])


def products(precision: str, device: torch.device) -> AbstractContextManager:
    """Context in which matrix products have the given precision."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def row_losses(module: TrainableModule, rows: Rows) -> Tensor:
    """Loss of each row times its weight, in evaluation mode, (n_rows,)."""
    module.eval()
    # Small results between large intermediates would keep the memory of these from being used
    # again, hence one result for all batches.
    losses = torch.empty(len(rows), device=rows.device)
    start = 0
    with torch.no_grad():  # inference mode would not let a loss differentiate the encoder
        for batch in batches(rows, INFERENCE_BATCH_SIZE, shuffle=False):
            losses[start : start + len(batch)] = module.total(weighted_losses(module, batch))
            start += len(batch)
    return losses


def mean_loss(module: TrainableModule, rows: Rows) -> float:
    """Mean loss of the rows in evaluation mode."""
    return row_losses(module, rows).mean().item()


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Copy the weights of a module."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def is_clear_gain(losses: Tensor, earlier_losses: Tensor) -> bool:
    """Whether the loss of the same rows fell by more than its standard error.

    The lowest of many validation losses is in part the luckiest one. Where few rows decide, the
    simpler model is kept unless the difference stands out (the one-standard-error rule of
    Breiman et al. 1984).

    Parameters
    ----------
    losses, earlier_losses : Tensor of shape (n_rows,)
    """
    gains = (earlier_losses - losses).cpu().double()
    standard_error = gains.std(correction=0) / math.sqrt(len(gains))
    return bool(gains.mean() > standard_error)


def is_gain(loss: float, best_loss: float, tol: float) -> bool:
    """Whether a loss is lower than the best one by more than the share `tol` of it."""
    return not math.isfinite(best_loss) or loss < best_loss - tol * abs(best_loss)


def mean_squared_residual(reconstruct: Callable[[Tensor], Tensor], rows: Rows) -> Tensor:
    """Weighted mean over the rows of the squared residual of each feature, (n_features,)."""
    total = torch.zeros(rows.tensors[-1].shape[1])
    with torch.no_grad():
        for batch in batches(rows, INFERENCE_BATCH_SIZE, shuffle=False):
            squared = torch.square(reconstruct(batch.tensors[0]) - batch.tensors[-1])
            total += (squared if batch.weights is None else squared * batch.weights[:, None]).sum(0)
    return total / len(rows)


def encode_rows(encode: Callable[[Tensor], Tensor], rows: Rows) -> Rows:
    """Replace the rows by their codes."""
    with torch.no_grad():
        codes = [encode(b.tensors[0]) for b in batches(rows, INFERENCE_BATCH_SIZE, shuffle=False)]
    return Rows((torch.cat(codes),), rows.weights)


def check_finite(weights: Tensor, loss: float, epoch: int) -> None:
    """Raise a ValueError if the loss of an epoch or the weights after it are not finite."""
    if math.isfinite(loss) and weights.isfinite().all():
        return
    raise ValueError(
        f"Training diverged in epoch {epoch}: the loss is {loss}, and weights may have become "
        "infinite or NaN. Scale the features, for example with StandardScaler, or lower "
        "learning_rate_init."
    )


def in_batches(function: Callable[[Tensor], Tensor], X: Any, device: torch.device) -> np.ndarray:
    """Apply a function of row batches to an array of any length in bounded memory.

    Parameters
    ----------
    function : callable
        Maps a tensor (batch, ...) on `device` to one of the same dtype, row by row.
    X : ndarray or sparse matrix of shape (n_rows, n_columns)
    device : torch.device

    Returns
    -------
    ndarray
        The results of all rows.
    """
    n_rows = X.shape[0]
    results: np.ndarray | None = None
    with torch.inference_mode():
        for start in range(0, n_rows, INFERENCE_BATCH_SIZE):
            batch = X[start : start + INFERENCE_BATCH_SIZE]
            batch = (
                batch.toarray()
                if sparse.issparse(batch)
                else np.ascontiguousarray(batch, float_dtype(X))
            )
            result = function(to_tensor(batch, device)).cpu().numpy()
            if n_rows <= INFERENCE_BATCH_SIZE:
                return result
            if results is None:
                results = np.empty((n_rows, *result.shape[1:]), result.dtype)
            results[start : start + INFERENCE_BATCH_SIZE] = result
    assert results is not None
    return results
