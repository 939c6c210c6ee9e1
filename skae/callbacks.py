"""Callbacks for the estimators, of scikit-learn's kind."""

from __future__ import annotations

import os
import tempfile
from numbers import Integral
from pathlib import Path
from typing import Any

__all__ = ["Checkpoint"]


class Checkpoint:
    """A fit that is killed goes on where it was.

    After an epoch, all that the training has reached goes to a file: weights, what the solver
    remembers, curves, the rows that are held out, random numbers. The same script, started again,
    goes on from there and ends with the same bits as a fit that nothing has interrupted. A fit that
    has ended, as its file says, is not done again.

    The file is written beside its place, flushed to the disk and then renamed, so that there is a
    whole file at any moment. It holds arrays and JSON and no pickle. It stays when the fit has
    ended; delete it, or use another path, to fit anew.

    Parameters
    ----------
    path : str or path-like
        The file, in a directory that exists. A fit inside a `Pipeline`, a `GridSearchCV` or an
        `AutoencoderOutlierDetector` has a file of its own beside it. Its name ends with a number
        that is computed from parameters and rows: ``run-3f2a90c1d4e5b607.skae`` for ``run.skae``.
    every : int, default=1
        Number of epochs from one file to the next. The last epoch is always kept.

    Raises
    ------
    ValueError
        By `fit`, if the file is of another fit: of other parameters, or of rows of another shape,
        dtype or content (1,024 rows are compared); if it is no checkpoint, damaged or written by
        another version; if the path is a directory, or its directory does not exist.
    OSError
        By `fit`, if the file cannot be written, as on a full disk. The earlier file is intact.

    Notes
    -----
    `fit` of an autoencoder or of the default model of `AutoencoderOutlierDetector` keeps its
    progress; `partial_fit` and `PCA` do not. Set the callback on the outermost estimator, which
    hands it on. The same bits need the same machine and the same versions of the packages, as
    everywhere. After Ctrl-C the error says where the training goes on.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn.datasets import load_iris
    >>> from skae import AutoencoderTransformer
    >>> from skae.callbacks import Checkpoint
    >>> X = load_iris().data
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     checkpoint = Checkpoint(Path(directory) / "run.skae")
    ...     estimator = AutoencoderTransformer(2, max_iter=3, random_state=0)
    ...     first = estimator.set_callbacks(checkpoint).fit(X).loss_curve_
    ...     # Another process would find the file and take the model from there.
    ...     again = estimator.fit(X).loss_curve_
    >>> first == again
    True
    """

    def __init__(self, path: str | os.PathLike[str], every: int = 1) -> None:
        if not isinstance(every, Integral) or isinstance(every, bool) or every < 1:
            raise ValueError(f"every={every!r} must be a number of epochs, an int of at least 1.")
        if not isinstance(path, str | os.PathLike) or not os.fspath(path):
            raise ValueError(f"path={path!r} must name a file, as 'run.skae' does.")
        self.path: str | os.PathLike[str] = path
        self.every: int = int(every)

    def __repr__(self) -> str:
        return f"Checkpoint({os.fspath(self.path)!r}, every={self.every})"

    @property
    def max_propagation_depth(self) -> None:
        """Hand the callback on to estimators inside of others, however deep."""
        return None

    def setup(self, estimator: Any, context: Any) -> None:
        """Check, before any work, that the file can be written.

        Parameters
        ----------
        estimator : estimator
            The estimator that is fitted.
        context : CallbackContext
            The task of the fit.
        """
        path = Path(self.path)
        if path.is_dir():
            raise ValueError(
                f"The path of the checkpoint, {str(path)!r}, is a directory; give a file in it, "
                f"such as {str(path / 'run.skae')!r}."
            )
        if not path.parent.is_dir():
            raise ValueError(
                f"The path of the checkpoint, {str(path)!r}, is in a directory that does not "
                "exist; make it first."
            )
        if path.exists() and not os.access(path, os.W_OK):
            raise ValueError(f"The checkpoint {str(path)!r} is read-only; give another path.")
        try:
            with tempfile.TemporaryFile(dir=path.parent):
                pass
        except OSError as error:
            raise OSError(
                error.errno,
                f"The checkpoint {str(path)!r} cannot be written: {error.strerror}. Give a path in "
                "a directory that can be written to",
            ) from error

    def teardown(self, estimator: Any, context: Any) -> None:
        """Do nothing: nothing is open between two files.

        Parameters
        ----------
        estimator : estimator
            The estimator that is fitted.
        context : CallbackContext
            The task of the fit.
        """

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Do nothing.

        Parameters
        ----------
        estimator : estimator
            The estimator that is fitted.
        context : CallbackContext
            The task of the fit.
        """

    def on_fit_task_end(self, estimator: Any, context: Any) -> None:
        """Do nothing: an epoch is kept when all callbacks have seen it, by the fit itself.

        Parameters
        ----------
        estimator : estimator
            The estimator that is fitted.
        context : CallbackContext
            The task of the fit.
        """
