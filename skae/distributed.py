"""One training on many processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from numbers import Real

import torch.distributed

from skae._processes import Processes, current, entered

__all__ = ["data_parallel"]


@contextmanager
def data_parallel(timeout: float = 600.0) -> Iterator[None]:
    """Context in which the processes of a group fit one model, each to the rows that it has.

    Every process calls `fit` of an autoencoder with the same parameters and with rows of its own,
    as many as it has, or none. Steps, early stopping and the returned model are those of one
    process with all rows, one process after the other: each process computes the gradients of its
    rows in a batch, and their sum is what all of them go on with. All processes return the same
    model.

    Parameters
    ----------
    timeout : float, default=600.0
        Seconds after which a process that waits for the others gives up with an error. It must be
        longer than the others may take to read their rows.

    Yields
    ------
    None
        Nothing: `fit` finds the group by itself.

    Raises
    ------
    RuntimeError
        If the script was not started by ``torchrun`` and there is no process group; in `fit`, if
        another process has failed or is gone, with what it said.
    ValueError
        In `fit`, if the processes have different parameters or columns.

    Notes
    -----
    The group is that of `torch.distributed`. If there is none, one is made from what ``torchrun``
    says, and ended after the block. Only `fit` and `partial_fit` of autoencoders take part; other
    methods work on the rows that they are given, in each process by itself.

    Sums are those of one process but for rounding. Where a model draws noise, as
    `VAETransformer` does, each process draws its own, and the model is another one, as with another
    seed.

    Examples
    --------
    As ``train.py``, started by ``torchrun --nproc-per-node 4 train.py``::

        X = np.load("rows.npy", mmap_mode="r")
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        with data_parallel():
            model = AutoencoderTransformer(8, random_state=0).fit(X[rank::size])
        if rank == 0:
            joblib.dump(model, "model.joblib")

    One process is a group, too:

    >>> import tempfile
    >>> import torch.distributed
    >>> from sklearn.datasets import load_iris
    >>> from skae import AutoencoderTransformer
    >>> from skae.distributed import data_parallel
    >>> store = torch.distributed.HashStore()
    >>> torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    >>> with data_parallel():
    ...     model = AutoencoderTransformer(2, max_iter=2, random_state=0).fit(load_iris().data)
    >>> model.n_iter_
    2
    >>> torch.distributed.destroy_process_group()
    """
    if not isinstance(timeout, Real) or not timeout > 0.0:
        raise ValueError(f"timeout={timeout!r} must be a positive number of seconds.")
    if current() is not None:
        raise RuntimeError("data_parallel is at work already; leave out the inner block.")
    limit = timedelta(seconds=float(timeout))
    is_ours = not torch.distributed.is_initialized()
    if is_ours:
        if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
            raise RuntimeError(
                "data_parallel needs processes that know each other. Start the script by `torchrun "
                "--nproc-per-node 2 script.py`, or call torch.distributed.init_process_group first."
            )
        torch.distributed.init_process_group("gloo", timeout=limit)
    try:
        group = torch.distributed.new_group(backend="gloo", timeout=limit)
        with entered(Processes(group)):
            yield
    finally:
        if is_ours:
            torch.distributed.destroy_process_group()
