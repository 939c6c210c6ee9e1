"""The estimator PCA; its eigen-solvers are in `_decomposition`."""

from __future__ import annotations

from collections.abc import Callable
from math import inf, isfinite, log, pi
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from skae import _device_rows
from skae._arrays import ArrayApiMixin
from skae._blocks import is_dask
from skae._chunks import Chunks, Summary
from skae._decomposition import (
    EIGENSOLVERS,
    Decomposition,
    NotFiniteError,
    Problem,
    choose_solver,
    decompose,
    project,
    range_message,
    solve_moments,
    varies,
)
from skae._device import CPU, matrix_fits, resolve_device
from skae._device_array import DeviceArray, on_host
from skae._documentation import DocumentationLinkMixin
from skae._explanation import conditional_means, gaussian_score_contributions
from skae._linalg import minka_n_components, n_components_for_share, principal_axes
from skae._moments import Moments, centred_rows, threads_of_blas
from skae._output import in_output_container
from skae._persistence import check_shapes, reading, with_versions
from skae._processes import check_alone
from skae._rollback import unchanged_on_failure
from skae._sklearn_compat import (
    Interval,
    RealNotInt,
    StrOptions,
    validate_parameter_constraints,
)
from skae._unknown import SMALLEST_SHARE, Gaussian, known_moments, rows_with_known_cells
from skae._validation import (
    check_finite,
    float_dtype,
    mean_score,
    unknown_cells,
    validate_codes,
    validate_columns,
    validate_table,
    validate_weights,
    within_range,
)

_FLOAT_DTYPES = [np.float64, np.float32]
_SPARSE_SOLVERS = ("arpack", "covariance_eigh", "gram_eigh")
_TRUNCATED_SOLVERS = ("arpack", "randomized")
_SAVED_SHAPES = {
    "components_": ("n_components_", "n_features_in_"),
    "explained_variance_": ("n_components_",),
    "explained_variance_ratio_": ("n_components_",),
    "mean_": ("n_features_in_",),
    "singular_values_": ("n_components_",),
}
# Products of rows and columns from which an accelerator is worth its start-up.
_LARGE_PROBLEM = 10**10
# A fit keeps its moments for partial_fit up to this many features, which take 32 MiB.
_MAX_KEPT_FEATURES = 2048
# Sums of smaller squares have lost digits to underflow, or all of them.
_SMALLEST_SQUARES = 1e-300


# Parameters that have been found valid: to check them takes a fifth of the time of a small fit.
_VALID_PARAMETERS: set[tuple[Any, ...]] = set()
_MAX_REMEMBERED = 256


def _is_plain(random_state: Any) -> bool:
    """Whether to remember a value costs nothing."""
    return random_state is None or isinstance(random_state, Integral)


_UNKNOWN_IN_PARTIAL_FIT = (
    "Input X contains NaN: partial_fit adds the moments of rows, which those with unknown cells do "
    "not have. Pass all rows to fit, which takes them."
)


class PCA(
    DocumentationLinkMixin,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    ArrayApiMixin,
    BaseEstimator,
):
    """Principal component analysis (PCA), exact and for data of any size.

    Signature, attributes and sign convention are those of
    :class:`sklearn.decomposition.PCA`, and `partial_fit` takes the place of
    :class:`sklearn.decomposition.IncrementalPCA`, exactly instead of approximately. Rows are
    centred before they are multiplied, and everything is accumulated in float64. NaN, None,
    NA, nulls and masked cells are unknown: the model is then that of the largest likelihood of the
    known cells.

    Parameters
    ----------
    n_components : int, float or "mle", default=None
        Number of components. None keeps all, ``min(n_samples, n_features)`` of them (one fewer
        with ``svd_solver="arpack"``). A float in (0, 1) keeps as many as explain more than that
        share of the variance. "mle" maximises Minka's evidence and needs at least as many rows
        as features. The last two need a solver that computes all variances.

    copy : bool, default=True
        For compatibility. The data passed to fit is never overwritten.

    whiten : bool, default=False
        Scale the components to unit variance. A component without variance, which rank-deficient
        data has, is zero for every row instead of being divided by rounding errors.

    svd_solver : {"auto", "covariance_eigh", "gram_eigh", "full", "randomized", "arpack"}, \
            default="auto"
        "auto" :
            "covariance_eigh" where there are at least as many rows as features, else
            "gram_eigh"; "randomized" for few components of large, nearly square data, whose
            eigenproblem would take more than twice the time; for sparse data with more than 1000
            rows and features, "arpack" for up to a tenth of them. See the user guide.
        "covariance_eigh" :
            Eigenvalues of the (n_features, n_features) covariance matrix. Reads a memory map
            block by block. Takes sparse data.
        "gram_eigh" :
            Eigenvalues of the (n_samples, n_samples) inner products, for wide data. Takes
            sparse data.
        "full" :
            Singular values, by QR decomposition in float64: for ill-conditioned data.
        "randomized" :
            Approximate, by the method of Halko et al. (2011).
        "arpack" :
            Lanczos iteration, for sparse data; fewer than ``min(n_samples, n_features)``.

    tol : float, default=0.0
        Tolerance of the singular values with "arpack", in [0, inf).

    iterated_power : int or "auto", default="auto"
        Number of power iterations with "randomized". "auto" makes 7 for fewer components than a
        tenth of ``min(n_samples, n_features)``, and else 4.

    n_oversamples : int, default=10
        Number of additional random vectors with "randomized".

    power_iteration_normalizer : {"auto", "QR", "LU", "none"}, default="auto"
        What keeps the vectors of "randomized" apart. "auto" is "none" for up to two iterations
        and else "LU", which is faster than "QR".

    random_state : int, RandomState instance or None, default=None
        Starting vectors of "randomized" and "arpack".

    device : str, default="auto"
        Where the moments and the eigenproblem are computed: "cpu", "cuda" or "cuda:1". "auto"
        takes a CUDA device for large problems if there is one. "arpack" and sparse data use the
        CPU.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        Orthonormal principal axes in decreasing order of ``explained_variance_``. The entry
        that is largest in absolute value is positive in each.

    explained_variance_ : ndarray of shape (n_components,)
        Variances of the components, in squared units of the data, with the sum of the weights
        minus one as the degrees of freedom. For a single row they are zero.

    explained_variance_ratio_ : ndarray of shape (n_components,)
        Their shares in the variance of all features; zero for data without any variance.

    singular_values_ : ndarray of shape (n_components,)
        Singular values of the centred rows, these multiplied by the roots of their weights.

    mean_ : ndarray of shape (n_features,)
        (Weighted) mean of each feature.

    n_components_ : int
        Number of components.

    n_samples_ : int
        Number of rows in the training data.

    n_samples_seen_ : int
        Number of rows in all calls of `partial_fit`, or in `fit`.

    noise_variance_ : float
        Mean of the ``min(n_samples, n_features) - n_components`` variances that are left out
        (Tipping & Bishop 1999). Rows of zero weight do not count.

    n_features_in_ : int
        Number of features.

    feature_names_in_ : ndarray of shape (n_features,)
        Names of the features, if all are strings.

    See Also
    --------
    sklearn.decomposition.PCA : The model of this class.

    Notes
    -----
    Arrays have the dtype of the training data: float32 stays float32. Large float32 data is
    multiplied in float32 once it is centred; the error of a variance is then about 1e-7 of the
    largest one, and below 1e-6 of itself for well-scaled data. Otherwise all digits of float64
    are kept: variances that are smaller than 1e-9 of the largest one, which an eigenproblem
    loses, are computed again from the data projected on their axes.

    Rows with unknown cells are fitted by the EM algorithm, on the CPU, whatever ``svd_solver`` and
    ``device`` are: the parameters maximise the likelihood of the known cells for a normal
    distribution with ``n_components`` variances along axes and one in all other directions. That is
    right where a cell is unknown by chance, or for reasons that known cells tell. The variances are
    then multiplied by n / (n - 1), as those of complete rows are. A row without known cells says
    nothing.

    Under ``whiten=True`` the covariance, the precision and the scores are those of the data, as
    they are without. scikit-learn multiplies the variances in twice there.

    References
    ----------
    Chan, Golub & LeVeque (1983). "Algorithms for computing the sample variance: analysis and
    recommendations". The American Statistician 37(3), 242-247.

    Tipping & Bishop (1999). "Probabilistic principal component analysis". Journal of the Royal
    Statistical Society B 61(3), 611-622.

    Minka (2000). "Automatic choice of dimensionality for PCA". NIPS 13, 598-604.

    Halko, Martinsson & Tropp (2011). "Finding structure with randomness: probabilistic
    algorithms for constructing approximate matrix decompositions". SIAM Review 53(2), 217-288.

    Examples
    --------
    >>> import numpy as np
    >>> from skae import PCA
    >>> X = np.array([[-1, -1], [-2, -1], [-3, -2], [1, 1], [2, 1], [3, 2]])
    >>> pca = PCA(n_components=2).fit(X)
    >>> print(pca.explained_variance_ratio_.round(4))
    [0.9924 0.0076]
    >>> print(pca.transform(X[:2]).round(4))
    [[-1.3834 -0.2936]
     [-2.2219  0.2513]]
    """

    n_samples_seen_: int
    _accumulated: dict[str, Any]

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "n_components": [
            Interval(Integral, 0, None, closed="left"),
            Interval(RealNotInt, 0, 1, closed="neither"),
            StrOptions({"mle"}),
            None,
        ],
        "copy": ["boolean"],
        "whiten": ["boolean"],
        "svd_solver": [StrOptions({"auto", *EIGENSOLVERS})],
        "tol": [Interval(Real, 0, None, closed="left")],
        "iterated_power": [StrOptions({"auto"}), Interval(Integral, 0, None, closed="left")],
        "n_oversamples": [Interval(Integral, 1, None, closed="left")],
        "power_iteration_normalizer": [StrOptions({"auto", "QR", "LU", "none"})],
        "random_state": ["random_state"],
        "device": [str],
    }

    def __init__(
        self,
        n_components: int | float | str | None = None,
        *,
        copy: bool = True,
        whiten: bool = False,
        svd_solver: str = "auto",
        tol: float = 0.0,
        iterated_power: int | str = "auto",
        n_oversamples: int = 10,
        power_iteration_normalizer: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
    ) -> None:
        self.n_components = n_components
        self.copy = copy
        self.whiten = whiten
        self.svd_solver = svd_solver
        self.tol = tol
        self.iterated_power = iterated_power
        self.n_oversamples = n_oversamples
        self.power_iteration_normalizer = power_iteration_normalizer
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Find the principal components of X.

        A failed fit leaves an earlier one as it was.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training data. A memory map is read block by block. NaN is an unknown cell of dense
            data.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Non-negative weights. A row of weight 2 counts as two rows.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If X or the weights are not numbers of matching shapes, if a cell is infinite or no
            cell of a column is known, if the weights are negative or add up to no more than one, or
            if ``n_components`` is too large for the data or not possible with the solver.
        TypeError
            If X is sparse and the solver needs dense data.
        MemoryError
            If the matrix of the solver does not fit in memory.
        """
        self._fit(X, sample_weight)
        return self

    def fit_transform(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Find the principal components of X and project X on them.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training data.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights, as in `fit`.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_components)
            In the dtype of X.
        """
        X = self._fit(X, sample_weight)
        if is_dask(X):
            return self.transform(X)
        return self._transform(self._fill(X) if self._fit_svd_solver == "em" else X)

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Add rows, exactly: the result is that of `fit` on all rows so far.

        Every call keeps a (n_features, n_features) matrix up to date and solves its
        eigenproblem, whatever ``svd_solver`` is, so that few large batches are faster than many
        small ones. While fewer rows than ``n_components`` have been seen, there are as many
        components as rows. A `fit` by "covariance_eigh" of up to 2048 features can be
        continued.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Any number of rows.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights, as in `fit`.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            As in `fit`; if the rows have another width than those before; if ``n_components``
            was changed in between; or after a `fit` that has kept no moments to add to.
        MemoryError
            If the covariance matrix does not fit in memory.
        """
        self._check_parameters()
        check_alone(type(self).__name__)
        first = not hasattr(self, "components_")
        if not first and not hasattr(self, "_accumulated"):
            raise ValueError(
                "partial_fit cannot add rows to this fit, which has not kept their moments: "
                f"svd_solver={self._fit_svd_solver!r} with {self.n_features_in_} features. Pass "
                "all rows to partial_fit, in as many calls as you like."
                if self._fit_svd_solver != "em"
                else "partial_fit cannot add rows to this fit, whose rows had unknown cells. Pass "
                "all rows to fit."
            )
        if not first and self._accumulated["n_components"] != self.n_components:
            raise ValueError(
                f"n_components={self.n_components!r} was "
                f"{self._accumulated['n_components']!r} for the rows before. Set it back, or "
                "clone the estimator to start again."
            )
        with unchanged_on_failure(self):
            if is_dask(X):
                self._fit_chunks(X, sample_weight, continued=not first)
                return self
            X, sample_weight = self._validate(X, sample_weight, reset=first)
            self._update(X, sample_weight, first)
        return self

    def _update(self, X: Any, sample_weight: np.ndarray | None, first: bool) -> None:
        n_features = X.shape[1]
        device = self._resolve_device(X)
        self._check_width(n_features, device, "partial_fit")
        # What float32 products lose cannot be computed again from rows that are gone.
        with threads_of_blas(X):
            moments = Moments.from_rows(X, sample_weight, device=device, product_dtype=np.float64)
        trace = float(moments.scatter.trace())
        if not isfinite(trace) or (trace < _SMALLEST_SQUARES and varies(X, sample_weight)):
            names = getattr(self, "feature_names_in_", None)
            if self._unknown_rows(X) is not None:
                raise ValueError(_UNKNOWN_IN_PARTIAL_FIT)
            check_finite(X, type(self).__name__, names)
            raise ValueError(range_message(X, names))
        with threads_of_blas(X):
            self._continue(moments, X.shape[0], X.dtype, first)

    def _check_width(self, n_features: int, device: torch.device, method: str) -> None:
        if not matrix_fits(n_features, device):
            raise MemoryError(_memory_message("covariance_eigh", n_features, method))
        if isinstance(self.n_components, Integral) and self.n_components > n_features:
            raise ValueError(
                f"n_components={self.n_components} must be between 0 and "
                f"n_features={n_features} in {method}."
            )

    def _continue(self, moments: Moments, n_rows: int, dtype: np.dtype, first: bool) -> None:
        """Add the moments of rows to those before them, if there are any, and solve."""
        if not first:
            n_rows += self.n_samples_seen_
            device = moments.mean.device
            moments = Moments.from_arrays(self._accumulated, device=device).merge(moments)
            dtype = np.result_type(self.mean_, dtype)
        n_components = self.n_components
        if isinstance(n_components, Integral):
            limit = _component_limit(moments.n_samples, moments.weight, len(moments.mean))
            n_components = min(n_components, limit)
        self._solve_moments(moments, n_rows, n_components, dtype)

    def _solve_moments(
        self, moments: Moments, n_rows: int, n_components: Any, dtype: np.dtype
    ) -> None:
        """Solve for rows that are there no more, and store the result."""
        n_features = len(moments.mean)
        limit = _component_limit(moments.n_samples, moments.weight, n_features)
        _check_n_components(n_components, limit, "covariance_eigh", n_rows >= n_features)
        degrees_of_freedom = _degrees_of_freedom(moments.weight, moments.n_samples)
        n_computed = int(n_components) if isinstance(n_components, Integral) else limit
        decomposition = solve_moments(moments, degrees_of_freedom, n_computed)
        self._store(decomposition, n_components, limit, moments.weight, dtype)
        self._fit_svd_solver = "covariance_eigh"
        self.n_samples_ = self.n_samples_seen_ = n_rows
        self._accumulate(moments)

    def _fit_chunks(self, X: Any, sample_weight: Any, *, continued: bool | None = None) -> None:
        """Fit to a Dask collection, whose moments its workers compute.

        `continued` tells whether rows before these ones count, in `partial_fit`; None is a fit.
        """
        if self.svd_solver not in ("auto", "covariance_eigh"):
            raise ValueError(
                f"svd_solver={self.svd_solver!r} needs the rows, and of a Dask collection only the "
                "moments come here; use 'auto' or 'covariance_eigh'."
            )
        chunks = Chunks(X, sample_weight, self)
        names = None if chunks.names is None else pd.DataFrame(columns=chunks.names)
        validate_columns(self, names, chunks.n_features, reset=not continued)
        self._check_width(chunks.n_features, CPU, "fit")
        summary = chunks.summarize()
        dtype = np.dtype(np.float32 if summary.is_single else np.float64)
        moments, extremes = summary.moments, summary.extremes
        if summary.n_unknown > 0:
            if continued is not None:
                raise ValueError(_UNKNOWN_IN_PARTIAL_FIT)
            self._fit_known_chunks(chunks, summary, dtype)
            return
        trace = float(moments.scatter.trace())
        if not isfinite(trace) or (trace < _SMALLEST_SQUARES and (extremes[0] < extremes[1]).any()):
            raise ValueError(range_message(extremes, chunks.names))
        with threads_of_blas(extremes):
            if continued is None:
                self._solve_moments(moments, summary.n_rows, self.n_components, dtype)
            else:
                self._continue(moments, summary.n_rows, dtype, first=not continued)

    def _fit_known_chunks(self, chunks: Chunks, summary: Summary, dtype: np.dtype) -> None:
        """Fit to the known cells of a Dask collection."""
        largest = float(np.nanmax(np.abs(summary.extremes), initial=0.0))
        moments = summary.moments
        limit = _component_limit(moments.n_samples, moments.weight, chunks.n_features)
        _check_n_components(self.n_components, limit, "em", limit >= chunks.n_features)
        self._store_known(
            lambda n_components: chunks.known_moments(n_components, largest),
            weight=summary.weight_with_known,
            n_rows=summary.n_with_known,
            limit=limit,
            extremes=summary.extremes,
            names=chunks.names,
            dtype=dtype,
        )
        self._fit_svd_solver = "em"
        self.n_samples_ = self.n_samples_seen_ = summary.n_rows
        self.__dict__.pop("_accumulated", None)

    def _accumulate(self, moments: Moments) -> None:
        """Keep moments, as NumPy arrays, for partial_fit to add to."""
        self._accumulated = {
            "n_components": self.n_components,
            **moments.to_arrays(),
        }

    def transform(self, X: Any) -> Any:
        """Project X on the principal components.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        Z : ndarray of shape (n_samples, n_components)
            In the dtype of X. Of a row with unknown cells, the mean in the probabilistic model
            given the known ones: the components of the row that `impute` gives.
        """
        return self._transform(self._fill(self._read(X)))

    def impute(self, X: Any) -> Any:
        """Fill the unknown cells of X with what the known cells of their rows let expect.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows in the units of the training data. NaN, None, NA, null and masked cells are
            unknown.

        Returns
        -------
        X_filled : ndarray of shape (n_samples, n_features)
            Known cells as they are. Unknown cells are at their conditional mean in the
            probabilistic model, given the known cells of the row; those of a row without any are at
            ``mean_``. `set_output` turns them into a DataFrame.

        Examples
        --------
        >>> import numpy as np
        >>> from skae import PCA
        >>> X = np.array([[1.0, 2.0], [2.0, 4.1], [3.0, 5.9], [4.0, np.nan], [np.nan, 10.0]])
        >>> print(PCA().fit(X).impute(X)[3:].round(1))
        [[ 4.   7.9]
         [ 5.1 10. ]]
        """
        rows = self._dense_rows(X)
        filled = self._fill(rows)
        return in_output_container(self, filled.copy() if filled is rows else filled, X)

    def _read(self, X: Any) -> Any:
        """Validate rows, but for unknown and infinite cells of dense ones; see `_unknown_rows`."""
        check_is_fitted(self)
        return validate_table(
            self,
            X,
            # A memory map of integers is converted block by block.
            dtype=None if _is_lazy(X) else _FLOAT_DTYPES,
            accept_sparse=("csr", "csc"),
            ensure_all_finite=False,
            reset=False,
        )

    def _unknown_rows(self, X: Any) -> np.ndarray | None:
        """Numbers of the rows of validated X with unknown cells; None if there are none."""
        unknown = unknown_cells(X, type(self).__name__, getattr(self, "feature_names_in_", None))
        return None if unknown is None else np.flatnonzero(unknown.any(axis=1))

    def _fill(self, X: Any) -> Any:
        """Fill the unknown cells of validated rows; X itself if there are none."""
        rows = self._unknown_rows(X)
        if rows is None:
            return X
        filled_rows = self._gaussian().fill(on_host(X[rows]))
        if isinstance(X, DeviceArray):
            tensor = X.tensor.clone()
            tensor[rows] = X.on_same_device(filled_rows)
            return within_range(DeviceArray(tensor))
        filled = np.array(X)
        filled[rows] = filled_rows
        return within_range(filled)

    def _gaussian(self) -> Gaussian:
        """Give the probabilistic model as a distribution."""
        noise, variances = self._model_variances(float(self.noise_variance_))
        return Gaussian.from_axes(self.mean_, self.components_, variances, noise)

    def _transform(self, X: Any) -> Any:
        dtype = float_dtype(X)
        with np.errstate(over="ignore", invalid="ignore"):
            Z = self._project(X)
            if isfinite(Z.sum()):
                return Z
            # Differences or sums on the way may be too large for the dtype and the result not.
            Z = self._project(X.astype(np.float64)).astype(dtype)
        (rows,) = np.nonzero(~np.isfinite(on_host(Z)).all(axis=1))
        if len(rows):
            raise ValueError(
                f"Row {rows[0]} of X is so far from the training data that {dtype} numbers cannot "
                "hold its components. Drop such rows, or replace the cells that stand for unknown "
                "values."
            )
        return Z

    def _project(self, X: Any) -> Any:
        Z = project(X, self.mean_, self.components_)
        if not self.whiten:
            return Z
        deviations = np.sqrt(self.explained_variance_)
        scale = np.divide(1.0, deviations, out=np.zeros_like(deviations), where=deviations > 0.0)
        if isinstance(Z, DeviceArray):
            wide = torch.from_numpy(scale).to(Z.device)
            return DeviceArray((Z.tensor * wide).to(Z.tensor.dtype))
        if deviations.dtype == self.components_.dtype:
            return Z * scale.astype(Z.dtype, copy=False)
        return (Z * scale).astype(Z.dtype)  # deviations that the dtype of the data cannot hold

    def inverse_transform(self, X: Any) -> Any:
        """Map components back to features.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_components)
            Components, whitened if ``whiten=True``.

        Returns
        -------
        X_original : ndarray of shape (n_samples, n_features)
            The points of the principal subspace that have these components, in the dtype of X.
            `set_output` turns them into a DataFrame.
        """
        codes = validate_codes(self, X)
        axes = self.components_
        if self.whiten:
            axes = np.sqrt(self.explained_variance_)[:, np.newaxis] * axes
        dtype = codes.dtype
        rows: Any
        with np.errstate(over="ignore", invalid="ignore"):
            if isinstance(codes, DeviceArray):
                rows = _device_rows.affine(codes, axes, self.mean_)
            else:
                rows = codes @ axes.astype(dtype, copy=False) + self.mean_.astype(dtype, copy=False)
        return in_output_container(self, within_range(rows), X)

    def get_covariance(self) -> np.ndarray:
        """Covariance matrix of the probabilistic model.

        Returns
        -------
        covariance : ndarray of shape (n_features, n_features)
            The variances along the components, and ``noise_variance_`` in all other directions;
            the same with and without whitening.
        """
        check_is_fitted(self)
        axes = self.components_
        excess = np.maximum(self.explained_variance_ - self.noise_variance_, 0.0)
        covariance = (axes.T * excess) @ axes  # (n_features, n_features)
        covariance.flat[:: len(covariance) + 1] += self.noise_variance_
        return covariance

    def get_precision(self) -> np.ndarray:
        """Inverse of the covariance matrix of the probabilistic model.

        Returns
        -------
        precision : ndarray of shape (n_features, n_features)
            Where the covariance is singular, a variance of zero is taken for the smallest one
            that rounding lets exist beside the largest. float64, if float32 cannot hold it.
        """
        check_is_fitted(self)
        precision, dtype = self._precision(), self.components_.dtype
        held = np.abs(precision).max() <= np.finfo(dtype).max
        return precision.astype(dtype, copy=False) if held else precision

    def _precision(self) -> np.ndarray:
        """Inverse of the covariance matrix, in float64."""
        noise, variances = self._model_variances(float(self.noise_variance_))
        axes = self.components_.astype(np.float64)
        if len(axes) == axes.shape[1]:
            return (axes.T / variances) @ axes
        precision = (axes.T * (1.0 / variances - 1.0 / noise)) @ axes
        precision.flat[:: len(precision) + 1] += 1.0 / noise
        return precision

    def _model_variances(self, noise: float) -> tuple[float, np.ndarray]:
        """Noise variance, and variances along the components, none of them zero."""
        variances = self.explained_variance_.astype(np.float64)
        largest = max(noise, float(variances.max(initial=0.0)))
        smallest = max(
            largest * float(np.finfo(self.components_.dtype).eps),
            float(np.finfo(np.float64).tiny) / np.finfo(np.float64).eps,
        )
        noise = noise if noise > 0.0 else smallest
        return noise, np.maximum(variances, noise)

    def score_samples(self, X: Any) -> np.ndarray:
        """Log-density of each row in the probabilistic model.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        log_density : ndarray of shape (n_samples,)
            Of the known cells, in nats; higher is more normal. With fewer cells known it is another
            density, zero if none is.
        """
        X = self._read(X)
        X = X.tocsr() if sparse.issparse(X) else X
        rows = self._unknown_rows(X)
        log_density = self._log_density(X, float(self.noise_variance_))
        if rows is not None:
            lowest = float(np.finfo(log_density.dtype).min)
            of_known = self._gaussian().log_density(on_host(X[rows]))
            of_known = np.nan_to_num(of_known, nan=lowest)
            log_density[rows] = np.maximum(of_known, lowest)
        return log_density

    def _likely_noise_variance(self) -> float:
        """Noise variance of the largest likelihood, for densities of new rows.

        It spreads the variance that is left out over all ``n_features - n_components`` directions.
        ``noise_variance_`` is scikit-learn's, which divides by fewer if there are fewer rows than
        features.
        """
        n_left_out = self.components_.shape[1] - self.n_components_
        return self._left_out_variance / n_left_out if n_left_out else 0.0

    def _become_density(self) -> None:
        """Take the most likely noise variance, where nobody asks for scikit-learn's numbers."""
        if self.n_samples_ < self.components_.shape[1]:  # otherwise it is that already
            self.noise_variance_ = self._likely_noise_variance()

    def _log_density(self, X: Any, noise_variance: float) -> np.ndarray:
        """Log-density of validated rows for a variance in the directions that are left out."""
        noise, variances = self._model_variances(noise_variance)
        axes = self.components_.astype(np.float64)
        n_components, n_features = axes.shape
        mean = self.mean_.astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            distances = squared_distances(X, mean, axes, variances, noise)
        log_determinant = np.log(variances).sum() + (n_features - n_components) * log(noise)
        log_density = -0.5 * (distances + n_features * log(2.0 * pi) + log_determinant)
        # What no number can hold is as improbable as numbers can say.
        lowest = float(np.finfo(float_dtype(X)).min)
        log_density = np.nan_to_num(log_density, nan=lowest, neginf=lowest)
        return np.maximum(log_density, lowest).astype(float_dtype(X), copy=False)

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Mean log-density of the rows.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Rows in the units of the training data.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows in the mean.

        Returns
        -------
        score : float
            In nats.
        """
        return mean_score(self.score_samples(X), sample_weight)

    def contributions(self, X: Any) -> np.ndarray:
        """Part of each cell in the outlier score of its row, minus the log-density.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        contributions : ndarray of shape (n_samples, n_features)
            Shapley values in nats: what a cell adds to the outlier score if it moves from its mean
            to its value, on average over the orders in which the cells of the row may do so
            (Mayrhofer & Filzmoser, 2023). The logarithm of the normalizing constant is spread
            evenly. The contributions of a row sum to minus its score; those of unknown cells are
            zero.
        """
        log_density = self.score_samples(X)
        rows = on_host(self._dense_rows(X))
        unknown = self._unknown_rows(rows)
        contributions = gaussian_score_contributions(
            self._fill(rows), self.mean_, self._precision(), log_density
        )
        if unknown is not None:
            known = ~np.isnan(rows[unknown])
            with np.errstate(over="ignore", invalid="ignore"):
                centred = np.where(known, rows[unknown] - self.mean_, 0.0)
                parts = 0.5 * centred * self._gaussian().precise(rows[unknown])[0]
                rest = -log_density[unknown] - parts.sum(axis=1)
                parts += known * (rest / np.maximum(known.sum(axis=1), 1))[:, np.newaxis]
            largest = float(np.finfo(contributions.dtype).max)
            contributions[unknown] = np.clip(np.nan_to_num(parts), -largest, largest)
        return contributions

    def expected(self, X: Any) -> np.ndarray:
        """Give the mean of each cell in the model, given all other known ones of its row.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n_samples, n_features)
            Rows in the units of the training data.

        Returns
        -------
        X_expected : ndarray of shape (n_samples, n_features)
            Conditional means.
        """
        rows = on_host(self._dense_rows(X))
        unknown = self._unknown_rows(rows)
        means = conditional_means(self._fill(rows), self.mean_, self._precision())
        if unknown is not None:
            gaussian = self._gaussian()
            product, diagonal = gaussian.precise(rows[unknown])
            means[unknown] = gaussian.fill(rows[unknown]) - product / diagonal
        with np.errstate(over="ignore"):
            return within_range(means.astype(float_dtype(rows), copy=False))

    def _dense_rows(self, X: Any) -> np.ndarray:
        X = self._read(X)
        return X.toarray() if sparse.issparse(X) else X

    def __getstate__(self) -> dict[str, Any]:
        return with_versions(super().__getstate__())

    def __setstate__(self, state: dict[str, Any]) -> None:
        with reading(self, state) as state:
            check_shapes(state, _SAVED_SHAPES)
            super().__setstate__(state)

    @property
    def _n_features_out(self) -> int:
        return self.components_.shape[0]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        tags.input_tags.allow_nan = True
        tags.input_tags.sparse = self.svd_solver in ("auto", *_SPARSE_SOLVERS)
        return tags

    def _fit(self, X: Any, sample_weight: Any) -> Any:
        """Fit, and return the validated data."""
        self._check_parameters()
        check_alone(type(self).__name__)
        with unchanged_on_failure(self):
            if is_dask(X):
                self._fit_chunks(X, sample_weight)
                return X
            X, sample_weight = self._validate(X, sample_weight, reset=True)
            if sparse.issparse(X) and self.svd_solver not in ("auto", *_SPARSE_SOLVERS):
                raise TypeError(
                    f"svd_solver={self.svd_solver!r} would need the sparse X as a dense array; use "
                    f"'auto' or one of {', '.join(map(repr, _SPARSE_SOLVERS))}."
                )
            if isinstance(X, DeviceArray) and self.svd_solver == "arpack":
                raise ValueError(
                    "PCA with svd_solver='arpack' is not supported for Array API inputs on the "
                    f"device {str(X.device)!r}: its iterations are SciPy's. Use 'auto'."
                )
            self._solve(X, sample_weight)
        return X

    def _check_parameters(self) -> None:
        parameters = [(name, getattr(self, name)) for name in self._parameter_constraints]
        key = tuple((name, type(value), value) for name, value in parameters)
        try:
            if key in _VALID_PARAMETERS:
                return
        except TypeError:  # a value that cannot be looked up
            key = ()
        # As _validate_params of scikit-learn, which takes longer to look up the names of the
        # parameters than a small problem takes to solve.
        validate_parameter_constraints(
            self._parameter_constraints, dict(parameters), caller_name=type(self).__name__
        )
        if key and len(_VALID_PARAMETERS) < _MAX_REMEMBERED and _is_plain(self.random_state):
            _VALID_PARAMETERS.add(key)

    def _validate(self, X: Any, sample_weight: Any, reset: bool) -> tuple[Any, np.ndarray | None]:
        # Whether all cells are finite shows in their mean, so that they are read only once.
        X = validate_table(
            self,
            X,
            # A memory map of integers is converted block by block.
            dtype=None if _is_lazy(X) else _FLOAT_DTYPES,
            accept_sparse=("csr", "csc"),
            ensure_all_finite=False,
            reset=reset,
        )
        if sparse.issparse(X) and not X.has_canonical_format:
            X = X.copy()
            X.sum_duplicates()
        if sample_weight is not None:
            sample_weight = validate_weights(sample_weight, X)
            with np.errstate(over="ignore"):
                if not isfinite(sample_weight.sum()):
                    raise ValueError(
                        "sample_weight adds up to more than a float64 can hold; divide the weights "
                        "by sample_weight.max()."
                    )
        return X, sample_weight

    def _resolve_device(self, X: Any) -> torch.device:
        n_samples, n_features = X.shape
        large = n_samples * n_features * min(n_samples, n_features) >= _LARGE_PROBLEM
        if isinstance(X, DeviceArray) and self.device == "auto":
            device = X.device
        else:
            device = resolve_device(self.device, large=large and not sparse.issparse(X))
        if device.type == "mps":
            raise ValueError(
                f"device={str(device)!r} cannot compute in float64, which PCA needs; use 'cpu'."
            )
        return device

    def _solve(self, X: Any, sample_weight: np.ndarray | None) -> None:
        n_samples, n_features = X.shape
        device = self._resolve_device(X)
        n_positive = n_samples if sample_weight is None else int(np.count_nonzero(sample_weight))
        weight = float(n_samples) if sample_weight is None else float(sample_weight.sum())
        solver, n_components = self.svd_solver, self.n_components
        if isinstance(n_components, Integral):
            n_components = int(n_components)  # products of NumPy's integers overflow
        if solver == "auto":
            solver = choose_solver(
                n_samples,
                n_features,
                n_components,
                is_sparse=sparse.issparse(X),
                device=device,
            )
        limit = _component_limit(n_positive, weight, n_features)
        largest = min(n_samples, n_features) if solver in _TRUNCATED_SOLVERS else limit
        _check_n_components(self.n_components, largest, solver, limit >= n_features)
        if solver in ("covariance_eigh", "gram_eigh"):
            m = n_features if solver == "covariance_eigh" else n_samples
            if not matrix_fits(m, device):
                raise MemoryError(_memory_message(solver, m, "fit"))
        problem = Problem(
            X,
            sample_weight,
            _degrees_of_freedom(weight, n_positive),
            n_components if isinstance(n_components, int) else None,
            limit,
            min(max(n_positive - 1, 1), n_features),
            device,
            tol=self.tol,
            iterated_power=self.iterated_power,
            n_oversamples=int(self.n_oversamples),
            power_iteration_normalizer=self.power_iteration_normalizer,
            random_state=self.random_state,
            names=getattr(self, "feature_names_in_", None),
        )
        dtype = X.dtype if X.dtype == np.float32 else np.dtype(np.float64)
        try:
            decomposition = decompose(problem, solver)
            self._store(decomposition, self.n_components, limit, weight, dtype)
        except NotFiniteError:
            if self._unknown_rows(X) is None:
                raise
            solver = "em"
            decomposition = self._solve_known(problem, dtype)
        self._fit_svd_solver = solver
        self.n_samples_ = self.n_samples_seen_ = n_samples
        if decomposition.moments is not None and n_features <= _MAX_KEPT_FEATURES:
            self._accumulate(decomposition.moments)
        elif hasattr(self, "_accumulated"):
            del self._accumulated

    def _solve_known(self, problem: Problem, dtype: np.dtype) -> Decomposition:
        """Solve for rows with unknown cells, and store the result."""
        X, row_weights = rows_with_known_cells(
            on_host(problem.X), problem.sample_weight, problem.names
        )
        weight = float(row_weights.sum())
        return self._store_known(
            lambda n: known_moments(X, row_weights / weight, n, type(self).__name__),
            weight=weight,
            n_rows=len(X),
            limit=problem.limit,
            extremes=X,
            names=problem.names,
            dtype=dtype,
        )

    def _store_known(
        self,
        moments_of: Callable[[int], tuple[np.ndarray, np.ndarray]],
        *,
        weight: float,
        n_rows: int,
        limit: int,
        extremes: np.ndarray,
        names: Any,
        dtype: np.dtype,
    ) -> Decomposition:
        """Solve for the moments of rows with unknown cells, and store the result.

        Parameters
        ----------
        moments_of : callable
            Gives mean and covariance for a number of components.
        weight : float
        n_rows : int
        limit : int
            Largest number of components.
        extremes : ndarray of shape (any, n_features)
            Rows that tell how large cells are, for messages.
        names : sequence or None
            Of the columns.
        dtype : dtype
            Of the data.
        """
        n_features = extremes.shape[1]
        if not matrix_fits(n_features, CPU):
            raise MemoryError(_memory_message("em", n_features, "fit"))
        degrees_of_freedom = _degrees_of_freedom(weight, n_rows)

        def solve(n_components: int) -> Decomposition:
            mean, covariance = moments_of(n_components)
            if not np.isfinite(covariance).all():
                raise ValueError(range_message(np.nan_to_num(extremes), names))
            # Of rows whose cells are all known, these are the unbiased variances.
            unbiased = torch.from_numpy(covariance * (weight / degrees_of_freedom))
            variances, axes = principal_axes(unbiased, noise=4.0 * SMALLEST_SHARE)
            total = float(variances.sum())
            lowest, highest = np.nanmin(extremes, axis=0), np.nanmax(extremes, axis=0)
            if not 0.0 < total < inf and np.any(highest > lowest):
                raise ValueError(range_message(np.nan_to_num(extremes), names))
            return Decomposition(mean, total, variances, axes)

        n_components: Any = self.n_components
        if n_components is None:
            n_components = limit
        elif not isinstance(n_components, Integral):
            variances = solve(n_features).variances
            n_components = (
                minka_n_components(variances, weight)
                if n_components == "mle"
                else n_components_for_share(variances, n_components)
            )
        decomposition = solve(int(n_components))
        self._store(decomposition, int(n_components), n_features, weight, dtype)
        return decomposition

    def _store(
        self,
        decomposition: Decomposition,
        n_components: Any,
        limit: int,
        weight: float,
        dtype: np.dtype,
    ) -> None:
        """Keep the components that were asked for, as NumPy arrays of the dtype of the data."""
        variances = decomposition.variances[:limit]
        is_complete = len(variances) == limit
        total = float(variances.sum()) if is_complete else decomposition.total_variance
        if n_components is None:
            k = len(variances)
        elif n_components == "mle":
            k = minka_n_components(variances, weight)
        elif isinstance(n_components, Integral):
            k = int(n_components)
        else:
            k = n_components_for_share(variances, n_components)
        if k == limit:
            noise_variance = 0.0
        elif is_complete:
            noise_variance = float(variances[k:].mean())
        else:
            noise_variance = max(total - float(variances[:k].sum()), 0.0) / (limit - k)
        kept = variances[:k]
        degrees_of_freedom = max(weight - 1.0, 1.0)
        self.n_components_ = k
        self.components_ = np.array(decomposition.axes[:k], dtype=dtype, order="C")
        self.explained_variance_ = _in_dtype(kept, dtype)
        self.explained_variance_ratio_ = (kept / total if total > 0.0 else 0.0 * kept).astype(dtype)
        self.singular_values_ = _in_dtype(np.sqrt(kept) * np.sqrt(degrees_of_freedom), dtype)
        self.mean_ = decomposition.mean.astype(dtype)
        self.noise_variance_ = noise_variance
        self._left_out_variance = noise_variance * (limit - k)


def squared_distances(
    X: Any, mean: np.ndarray, axes: np.ndarray, variances: np.ndarray, noise: float
) -> np.ndarray:
    """Squared Mahalanobis distances for variances along axes and one in all other directions."""
    if isinstance(X, DeviceArray):
        return _device_rows.squared_distances(X, mean, axes, variances, noise)
    distances = np.empty(X.shape[0])
    for rows, centred in centred_rows(X, mean):
        along = centred @ axes.T  # (n_rows, n_components)
        distances[rows] = np.square(along) @ (1.0 / variances)
        # The residual itself: a difference of squared lengths would cancel its digits.
        rest = centred - along @ axes
        distances[rows] += np.einsum("ij,ij->i", rest, rest) / noise
    return distances


def _in_dtype(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Cast to a dtype, unless it cannot hold all of the values."""
    limits = np.finfo(dtype)
    positive = values[values > 0.0]
    held = bool(np.all((positive >= limits.tiny) & (positive <= limits.max)))
    return values.astype(dtype) if held else values


def _is_lazy(X: Any) -> bool:
    """Whether X is a memory map that is converted block by block."""
    return isinstance(X, np.memmap) and X.dtype.kind in "iu"


def _degrees_of_freedom(weight: float, n_rows: int) -> float:
    if n_rows > 1 and not weight > 1.0 + 1e-6:
        raise ValueError(
            f"sample_weight adds up to {weight}, but a row of weight 2 counts as two rows, so that "
            "a variance needs more than 1; multiply the weights by n_samples / sample_weight.sum()."
        )
    # A single row has no variance, and nothing to divide.
    return weight - 1.0 if n_rows > 1 else 1.0


def _component_limit(n_rows: int, weight: float, n_features: int) -> int:
    """Largest number of components: a row of weight 2 counts as two, of weight 1/2 as one."""
    return min(max(n_rows, int(weight)), n_features)


def _check_n_components(n_components: Any, limit: int, solver: str, is_tall: bool) -> None:
    """Raise a ValueError if the solver cannot find so many components of this data."""
    if n_components is None:
        if solver == "arpack" and limit < 2:
            raise ValueError(
                f"svd_solver={solver!r} finds fewer than min(n_samples, n_features)={limit} "
                "components, so none; use svd_solver='auto'."
            )
        return
    truncated = solver in _TRUNCATED_SOLVERS
    if isinstance(n_components, str):
        if truncated:
            raise ValueError(
                f"n_components={n_components!r} cannot be a string with svd_solver={solver!r}"
            )
        if not is_tall:
            raise ValueError(
                f"n_components={n_components!r} is only supported if n_samples >= n_features"
            )
    elif not isinstance(n_components, Integral):
        if truncated:
            raise ValueError(
                f"n_components={n_components} is a share of the variance, which needs all "
                f"variances; svd_solver={solver!r} computes only some. Use svd_solver='auto'."
            )
    elif not int(truncated) <= int(n_components) <= limit:
        raise ValueError(
            f"n_components={n_components} must be between {int(truncated)} and "
            f"min(n_samples, n_features)={limit} with svd_solver={solver!r}"
        )
    elif solver == "arpack" and n_components == limit:
        raise ValueError(
            f"n_components={n_components} must be strictly less than "
            f"min(n_samples, n_features)={limit} with svd_solver={solver!r}"
        )


def _memory_message(solver: str, m: int, method: str) -> str:
    needed = 3 * 8 * m * m / 2**30
    advice = (
        "use fit with svd_solver='randomized', or with 'arpack' for sparse X, and an integer "
        "n_components"
    )
    if solver == "covariance_eigh":
        advice += ", or svd_solver='gram_eigh' if there are fewer rows than features"
    return (
        f"svd_solver={solver!r} in {method} needs {m} x {m} matrices in float64, about "
        f"{needed:.1f} GiB, which do not fit in memory; {advice}."
    )
