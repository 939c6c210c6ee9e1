"""The training loop. It knows rows and one module, and neither a model nor an estimator."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol
from warnings import warn

import numpy as np
import torch
from torch import Tensor, nn

from skae._processes import Processes
from skae._random import permutation, random_numbers_of_the_process
from skae._recording import Recording
from skae._rows import INFERENCE_BATCH_SIZE, Batch, DenseTable, Rows, batches
from skae._shared import own_batches, processes_of, shared_losses
from skae._solvers import FlatWeights, Solver
from skae._torch_compat import has_hooks


class TrainableModule(nn.Module):
    """A network that owns its loss. Only `loss` has to be written."""

    part_names: tuple[str, ...] = ()
    """Names of the parts, if the loss has any."""

    n_warmup_epochs: int = 0
    """Number of epochs in which the loss is not yet what is to be minimised."""

    def loss(self, x: Tensor, target: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        """Give the loss of each row of a batch, (batch,), or its parts, (batch, n_parts).

        Only pairs have a target, and only tables with unknown cells have a mask of the known ones.
        """
        raise NotImplementedError

    def encode(self, x: Tensor) -> Tensor:
        """Give the codes of a batch of rows, (batch, n_components)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Encode, so that the module can be called, hooked and exported."""
        return self.encode(x)

    @property
    def loss_shape(self) -> tuple[int, ...]:
        """Shape of the loss of one row: that of a number, or of its parts."""
        return (len(self.part_names),) if self.part_names else ()

    def total(self, losses: Tensor) -> Tensor:
        """Add up the parts of a loss, (..., n_parts) -> (...)."""
        return losses

    def stages(self) -> Sequence[TrainableModule]:
        """Give networks of one layer each, from the rows to the code, that share its weights."""
        raise NotImplementedError

    def begin_epoch(self, number: int) -> None:
        """Take note that an epoch of training begins, the first one with number one."""

    def by_hand(self, precision: str) -> ByHand | None:
        """Give a faster way to the derivatives than `differentiate`, if there is one.

        It must be the gradient of `loss` to the last term. It therefore belongs to exactly the
        class that wrote both: begin with ``if type(self) is not ThatClass: return None``, so that a
        subclass with another loss is differentiated automatically.
        """
        return None


class ByHand(NamedTuple):
    """The derivatives of a loss, written out."""

    loss_and_gradients: Callable[[Batch], Tensor]
    """Gives the weighted mean of the losses of a batch in training mode, or of each part, and adds
    the derivatives of that mean to the ``grad`` of the weights."""

    weights: Sequence[Tensor]
    """The parameters whose derivatives these are."""


def constant(learning_rate_init: float, step: int, n_steps: int) -> float:
    """Take the same learning rate in every step."""
    return learning_rate_init


def cosine(learning_rate_init: float, step: int, n_steps: int) -> float:
    """Let the rate fall to zero along half a cosine (Loshchilov & Hutter 2017)."""
    return learning_rate_init * (1.0 + math.cos(math.pi * step / n_steps)) / 2.0


LEARNING_RATES: dict[str, Callable[[float, int, int], float]] = {
    "constant": constant,
    "cosine": cosine,
}

# Steps that save more than a recording costs, which is some tens of milliseconds.
MIN_STEPS_TO_RECORD = 100


@dataclass(frozen=True)
class Settings:
    """How to train."""

    solver: str
    """Key of `SOLVERS`."""

    learning_rate_init: float
    """Learning rate of the first step."""

    batch_size: int
    """Rows of a step; the last step of an epoch takes what is left."""

    max_iter: int
    """Number of epochs, if nothing ends the training before."""

    learning_rate: str = "cosine"
    """Key of `LEARNING_RATES`."""

    alpha: float = 0.0
    """Weight decay."""

    tol: float = 0.0
    """Progress is a monitored loss below the best one by more than this share of it."""

    n_iter_no_change: float = math.inf
    """Number of epochs in a row without progress after which training ends."""

    shuffle: bool = True
    """Whether every epoch takes the rows in a new order."""

    precision: str = "float32"
    """Of matrix products, "float32" or "bf16". Weights and sums are float32 either way."""

    keeps_interrupted: bool = False
    """Whether Ctrl-C ends the training with what it has reached, in place of an error."""

    never_worse: bool = False
    """Whether to return to the weights before the first epoch unless the loss of the monitored
    rows is clearly lower at the end, see `is_clear_gain`."""


@dataclass(frozen=True)
class State:
    """Weights, and what the solver remembered when it reached them."""

    weights: dict[str, Tensor]
    memory: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Progress:
    """All that a fit has reached, so that it can be looked at, kept and continued."""

    loss_curve: list[float] = field(default_factory=list)
    """Mean loss of each epoch's batches, as they were when they were trained on."""

    validation_loss_curve: list[float] = field(default_factory=list)
    """Mean validation loss after each epoch; empty without validation rows."""

    part_curves: dict[str, list[float]] = field(default_factory=dict)
    """The mean of each part of the loss in each epoch, if it has parts."""

    pretrain_loss_curves: list[list[float]] = field(default_factory=list)
    """The loss curve of each layer's own training."""

    best_loss: float = math.inf
    """Lowest monitored loss: the validation loss if there is one, otherwise the training loss."""

    best: State | None = None
    """What had the lowest validation loss."""

    memory: dict[str, np.ndarray] = field(default_factory=dict)
    """What the solver remembers, to go on from there."""

    held_out: np.ndarray | None = None
    """Numbers of the rows that are held out."""

    n_epochs: int = 0
    """Epochs of this training; the curves may have more, of those before it."""

    best_trained_loss: float = math.inf
    """Lowest monitored loss of an epoch of this training."""

    n_idle: int = 0
    """Epochs in a row without progress."""

    kept_start: bool = False
    """Whether the weights are those before the first epoch, because nothing was clearly better."""

    done: bool = False
    """Whether the training has come to its end."""

    start: State | None = None
    """What there was before the first epoch; None until then."""

    first_losses: Tensor | None = None
    """Loss of each monitored row before the first epoch, if the start is to be compared with."""

    current: State | None = None
    """What there is now, as far as it is kept: training goes on from it."""

    stage: Progress | None = None
    """That of the layer that is being pretrained."""

    @property
    def n_epochs_in_all(self) -> int:
        """Epochs of this training and of its pretraining."""
        n_pretrained = sum(map(len, self.pretrain_loss_curves))
        return self.n_epochs + n_pretrained + (self.stage.n_epochs if self.stage else 0)


class Observer(Protocol):
    """Sees every epoch, and may stop the training."""

    task_name: str
    """What an epoch is part of."""

    def epoch_begins(self) -> None:
        """Take note that an epoch begins."""

    def epoch_ends(self, progress: Progress) -> bool:
        """Take note that an epoch has ended; True stops the training."""

    def keep(self, progress: Progress, state: Callable[[], State]) -> None:
        """Keep what has been reached after an epoch, for which `state` gives weights and memory."""


class Descent:
    """The weights of a module on their way down its loss.

    Parameters
    ----------
    module : TrainableModule
        Its parameters and their ``grad`` become views of one vector each.
    settings : Settings
    memory : dict of str to ndarray, default=None
        What a solver remembers of earlier steps.
    """

    def __init__(
        self,
        module: TrainableModule,
        settings: Settings,
        memory: dict[str, np.ndarray] | None = None,
    ) -> None:
        self.module = module
        self.weights = FlatWeights(module)
        self.solver = Solver(self.weights, settings.solver, settings.alpha, memory)
        by_hand: ByHand | None = None
        if all(weights.requires_grad for weights in module.parameters()) and not has_hooks(module):
            by_hand = module.by_hand(settings.precision)
        self.needs_autograd = by_hand is None or not covers(by_hand.weights, module)
        self.loss_and_gradients: Callable[[Batch], Tensor] = (
            partial(differentiate, module, settings.precision)
            if by_hand is None or self.needs_autograd
            else by_hand.loss_and_gradients
        )

    def step(self, batch: Batch, rate: float | Tensor) -> Tensor:
        """Take a step and return the mean loss of the batch before it, or of each part."""
        self.weights.gradients.zero_()
        loss = self.loss_and_gradients(batch)
        self.solver.step(rate)
        return loss

    def shared_step(self, batch: Batch, rate: float | Tensor, processes: Processes) -> Tensor:
        """Take a step of all processes, of whose batch some rows are here.

        All that the processes tell each other is one vector: the sums of gradients and losses.
        """
        gradients = self.weights.gradients.zero_()
        loss = gradients.new_zeros(self.module.loss_shape)
        if len(batch) > 0:
            with processes.drawing_own():
                loss = self.loss_and_gradients(batch)
        total = processes.add(torch.cat([gradients, loss.reshape(-1)]))
        gradients.copy_(total[: len(gradients)])
        self.solver.step(rate)
        return total[len(gradients) :].reshape(loss.shape)

    def state(self) -> State:
        """Copy the weights, and what the solver remembers."""
        return State(state_of(self.module), self.solver.memory_arrays())


def covers(weights: Sequence[Tensor], module: nn.Module) -> bool:
    """Whether all that the module is to learn is among the weights."""
    return {id(weight) for weight in module.parameters()} <= {id(weight) for weight in weights}


def differentiate(module: TrainableModule, precision: str, batch: Batch) -> Tensor:
    """Add the derivatives of the mean loss to the weights' ``grad``, and return that mean."""
    try:
        with random_numbers_of_the_process(), products(precision, batch.device):
            losses = weighted_losses(module, batch)
            is_whole = batch.n_in_all is None
            loss = losses.mean(dim=0) if is_whole else losses.sum(dim=0) / batch.n_rows
    except ValueError as error:
        if len(batch) > 1:
            raise
        raise ValueError(
            f"A step of one row is too small for the network: {error}. Change batch_size, so that "
            "it leaves more than one row for the last step of an epoch."
        ) from error
    module.total(loss).backward()
    return loss.detach()


def train(
    module: TrainableModule,
    rows: Rows,
    validation_rows: Rows | None,
    progress: Progress,
    settings: Settings,
    observer: Observer,
) -> None:
    """Minimise the mean of ``module.loss`` over the rows, epoch by epoch.

    Parameters
    ----------
    module : TrainableModule
        Trained in place. Its epochs are numbered on from those in `progress`; those of its warm-up
        do not count for patience.
    rows : Rows
        Training data.
    validation_rows : Rows or None
        Data whose loss is monitored instead of the training loss. The weights with the lowest
        validation loss, those before the first epoch included, are restored at the end.
    progress : Progress
        What went before, to be continued; afterwards what has been reached.
    settings : Settings
    observer : Observer
        Told of every epoch.

    Raises
    ------
    ValueError
        If the loss or a weight becomes infinite or NaN.
    """
    monitored_rows = rows if validation_rows is None else validation_rows
    processes = processes_of(rows)
    memory = progress.memory
    if progress.current is not None:
        module.load_state_dict(progress.current.weights)
        memory = progress.current.memory
    descent = Descent(module, settings, memory)
    recording = make_recording(descent, rows, settings)
    if progress.start is None:
        progress.start = descent.state()
        if validation_rows is not None or settings.never_worse:
            progress.first_losses = row_losses(module, monitored_rows)
        if validation_rows is not None:
            return_to_start(progress)

    while not progress.done:
        observer.epoch_begins()
        with interruptible(progress, settings):
            loss = train_epoch(descent, rows, progress, settings, recording)
            if validation_rows is not None:
                loss = mean_loss(module, validation_rows)
                progress.validation_loss_curve.append(loss)
            check_finite(descent.weights.values, loss, progress.n_epochs)
        if progress.done:
            break
        with interruptible(progress, settings):
            compare(progress, descent, loss, settings, is_validated=validation_rows is not None)
            is_stopped = observer.epoch_ends(progress)
            if processes is not None:
                is_stopped = any(processes.gather(is_stopped))
            progress.done = is_stopped or (
                progress.n_epochs >= settings.max_iter
                or progress.n_idle >= settings.n_iter_no_change
            )
            observer.keep(progress, descent.state)

    end = progress.best or descent.state()
    if validation_rows is None:
        # The loss of an epoch is that before its steps: what the last one did has not been seen.
        check_finite(descent.weights.values, mean_loss(module, first_rows(rows)), progress.n_epochs)
    else:
        module.load_state_dict(end.weights)
    progress.memory = end.memory
    if not settings.never_worse:
        return
    assert progress.first_losses is not None
    if is_clear_gain(row_losses(module, monitored_rows), progress.first_losses):
        return
    module.load_state_dict(progress.start.weights)
    progress.kept_start, progress.memory = True, {}
    if validation_rows is not None:
        return_to_start(progress)


@contextmanager
def interruptible(progress: Progress, settings: Settings) -> Iterator[None]:
    """Context in which Ctrl-C may end the training; what the block adds to the curves goes."""
    curves = (progress.loss_curve, progress.validation_loss_curve, *progress.part_curves.values())
    lengths, n_epochs = list(map(len, curves)), progress.n_epochs
    try:
        yield
    except KeyboardInterrupt:
        if not settings.keeps_interrupted or n_epochs == 0:
            raise
        for curve, length in zip(curves, lengths, strict=True):
            del curve[length:]
        progress.n_epochs, progress.done = n_epochs, True
        warn(
            f"Training was interrupted after {n_epochs} of at most {settings.max_iter} epochs; the "
            "model is the best one until then. To go on, set warm_start=True and call fit again.",
            stacklevel=2,
        )


def return_to_start(progress: Progress) -> None:
    """Take what there was before the first epoch for the best."""
    assert progress.first_losses is not None
    progress.best_loss, progress.best = progress.first_losses.mean().item(), progress.start


def pretrain(
    module: TrainableModule,
    rows: Rows,
    progress: Progress,
    settings: Settings,
    observer: Observer,
) -> None:
    """Train each layer as an autoencoder of the codes of the layer below it."""
    if progress.start is not None:
        return  # of the training that comes after this one
    if progress.current is not None:
        module.load_state_dict(progress.current.weights)
    n_done = len(progress.pretrain_loss_curves)
    for number, stage in enumerate(module.stages(), start=1):
        observer.task_name = f"pretraining of layer {number}"
        if number > n_done:
            progress.current = State(state_of(module))
            progress.stage = progress.stage or Progress()
            train(stage, rows, None, progress.stage, settings, observer)
            progress.pretrain_loss_curves.append(progress.stage.loss_curve)
            progress.stage = None
        rows = encode_rows(stage.eval().encode, rows)
    progress.current = None
    observer.task_name = "epoch"


def compare(
    progress: Progress, descent: Descent, loss: float, settings: Settings, is_validated: bool
) -> None:
    """Note whether the monitored loss of an epoch is lower than those before."""
    # The training loss of a warm-up is not comparable with that of later epochs.
    warming_up = len(progress.loss_curve) <= descent.module.n_warmup_epochs
    if not warming_up:
        # The start may be hard to beat, as PCA is: it competes for what is returned, but patience
        # is measured against the epochs.
        is_progress = is_gain(loss, progress.best_trained_loss, settings.tol)
        progress.n_idle = 0 if is_progress else progress.n_idle + 1
        progress.best_trained_loss = min(loss, progress.best_trained_loss)
    if loss < progress.best_loss and (is_validated or not warming_up):
        progress.best_loss = loss
        if is_validated:
            progress.best = descent.state()


def make_recording(descent: Descent, rows: Rows, settings: Settings) -> Recording | None:
    """Prepare the recording of a step if it pays: on a CUDA device, for many steps by hand."""
    n_batches = len(rows) // settings.batch_size
    if (
        rows.device.type != "cuda"
        or descent.needs_autograd
        or not rows.is_resident
        or descent.module.n_warmup_epochs > 0  # a replay would not see the loss change
        or n_batches * settings.max_iter < MIN_STEPS_TO_RECORD
    ):
        return None

    def step(index: Tensor, rate: Tensor) -> Tensor:
        return descent.step(rows.batch(index), rate)

    return Recording(step, n_batches, settings.batch_size, descent.module.loss_shape, rows.device)


def train_epoch(
    descent: Descent,
    rows: Rows,
    progress: Progress,
    settings: Settings,
    recording: Recording | None = None,
) -> float:
    """Pass over the rows once, in steps of `batch_size`; record and return the mean loss.

    The loss of a batch is that before its step. It stays on the device until the epoch ends,
    because reading it back would make the host wait for every step. A recording takes the steps of
    the full batches.
    """
    module, batch_size = descent.module, settings.batch_size
    module.train()
    module.begin_epoch(len(progress.loss_curve) + 1)
    rates = learning_rates(settings, progress.n_epochs, math.ceil(len(rows) / batch_size))
    total = torch.zeros(module.loss_shape, dtype=torch.float32, device=rows.device)
    with torch.inference_mode(not descent.needs_autograd):  # spares operators their bookkeeping
        processes = processes_of(rows)
        if processes is not None:
            shared = own_batches(rows, batch_size, settings.shuffle)
            for batch, rate in zip(shared, rates, strict=True):
                total.add_(descent.shared_step(batch, rate, processes), alpha=batch.n_rows)
        elif recording is None:
            for batch, rate in zip(batches(rows, batch_size, settings.shuffle), rates, strict=True):
                total.add_(descent.step(batch, rate), alpha=len(batch))
        else:
            order = torch.arange(len(rows), device=rows.device)
            if settings.shuffle:
                order = permutation(len(rows), rows.device)
            order, rest = order[: recording.n_rows], order[recording.n_rows :]
            sums = recording.run(order, rates[: recording.n_batches])
            total.add_(sums, alpha=batch_size)
            if len(rest) > 0:
                total.add_(descent.step(rows.batch(rest), rates[-1]), alpha=len(rest))
    mean = total / len(rows)
    progress.n_epochs += 1
    progress.loss_curve.append(module.total(mean).item())
    for name, part in zip(module.part_names, mean.reshape(-1).tolist(), strict=False):
        progress.part_curves.setdefault(name, []).append(part)
    return progress.loss_curve[-1]


def learning_rates(settings: Settings, n_epochs: int, n_batches: int) -> list[float]:
    """Learning rates of the steps of an epoch, after so many epochs."""
    rate_of = LEARNING_RATES[settings.learning_rate]
    n_steps = settings.max_iter * n_batches
    steps = range(n_epochs * n_batches, (n_epochs + 1) * n_batches)
    return [rate_of(settings.learning_rate_init, step, n_steps) for step in steps]


def weighted_losses(module: TrainableModule, batch: Batch) -> Tensor:
    """Loss of each row, or its parts, times its weight."""
    losses = module.loss(*batch.arguments)  # (batch,) or (batch, n_parts)
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
    if processes_of(rows) is not None:
        with torch.no_grad():
            return shared_losses(rows, lambda x: module.total(weighted_losses(module, x)))
    # Small results between large intermediates would keep the memory of these from being used
    # again, hence one result for all batches.
    losses = torch.empty(len(rows), dtype=torch.float32, device=rows.device)
    start = 0
    with torch.no_grad():  # inference mode would not let a loss differentiate the encoder
        for batch in batches(rows, INFERENCE_BATCH_SIZE, shuffle=False):
            losses[start : start + len(batch)] = module.total(weighted_losses(module, batch))
            start += len(batch)
    return losses


def mean_loss(module: TrainableModule, rows: Rows) -> float:
    """Mean loss of the rows in evaluation mode."""
    return row_losses(module, rows).mean().item()


def first_rows(rows: Rows) -> Rows:
    """Take as many rows as a batch of inference has."""
    if len(rows) <= INFERENCE_BATCH_SIZE:
        return rows
    return rows.take(torch.arange(INFERENCE_BATCH_SIZE, device=rows.device))


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """Copy the weights of a module."""
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def best_module(module: TrainableModule, progress: Progress) -> TrainableModule:
    """Copy a module, with the best weights so far."""
    module = copy.deepcopy(module)
    if progress.best is not None:
        module.load_state_dict(progress.best.weights)
    return module


def is_clear_gain(losses: Tensor, earlier_losses: Tensor) -> bool:
    """Whether the loss of the same rows fell by more than its standard error.

    The lowest of many validation losses is in part the luckiest one. Where few rows decide, the
    simpler model is kept unless the difference stands out (the one-standard-error rule of
    Breiman et al. 1984).

    Parameters
    ----------
    losses, earlier_losses : Tensor of shape (n_rows,)
    """
    gains = (earlier_losses.cpu() - losses.cpu()).double()
    standard_error = gains.std(correction=0) / math.sqrt(len(gains))
    return bool(gains.mean() > standard_error)


def is_gain(loss: float, best_loss: float, tol: float) -> bool:
    """Whether a loss is lower than the best one by more than the share `tol` of it."""
    return not math.isfinite(best_loss) or loss < best_loss - tol * abs(best_loss)


def mean_squared_residual(reconstruct: Callable[[Tensor], Tensor], rows: Rows) -> Tensor:
    """Weighted mean over the rows of the squared residual of each feature, (n_features,).

    Of the known cells, if not all are.
    """
    total = torch.zeros(rows.restored.shape[1], dtype=torch.float32, device=rows.device)
    n_rows = torch.zeros_like(total)
    # A module that has not been trained yet is in training mode, and may draw.
    with torch.no_grad(), random_numbers_of_the_process():
        for batch in batches(rows, INFERENCE_BATCH_SIZE, shuffle=False):
            squared = torch.square(reconstruct(batch.x) - batch.restored)
            weights = None if batch.weights is None else batch.weights[:, None]
            if batch.known is not None:
                weights = batch.known if weights is None else weights * batch.known
                n_rows += weights.sum(dim=0)
            total += (squared if weights is None else squared * weights).sum(0)
    return total / (len(rows) if rows.known is None else n_rows.clamp(min=1e-30))


def encode_rows(encode: Callable[[Tensor], Tensor], rows: Rows) -> Rows:
    """Replace the rows by their codes."""
    with torch.no_grad():
        codes = [encode(batch.x) for batch in batches(rows, INFERENCE_BATCH_SIZE, shuffle=False)]
    return Rows(DenseTable(torch.cat(codes), rows.device), weights=rows.weights)


def check_finite(weights: Tensor, loss: float, epoch: int) -> None:
    """Raise a ValueError if the loss of an epoch or the weights after it are not finite."""
    if math.isfinite(loss) and weights.isfinite().all():
        return
    raise ValueError(
        f"Training diverged in epoch {epoch}: the loss is {loss}, and weights may have become "
        "infinite or NaN. Scale the features, for example with StandardScaler, or lower "
        "learning_rate_init."
    )
