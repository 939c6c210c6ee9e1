"""Gaussian models of rows with unknown cells: densities, conditional means, maximum likelihood."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import log, pi
from typing import NamedTuple
from warnings import warn

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor

from skae._device import threads
from skae._linalg import top_eigenpairs
from skae._sklearn_compat import _get_threadpool_controller
from skae._validation import listed

# The EM algorithm ends where what is still to be gained in log-likelihood, as the last gains tell
# it, is less than this many nats for each row.
TOLERANCE = 1e-8
# The same, where a network goes on from there.
_TOLERANCE_OF_START = 1e-3
# Weights of a prior, as numbers of rows for each column.
_PRIORS = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0)
# Rows that are enough for a covariance, and columns up to which it may be any.
_MIN_ROWS = 1000
_ROWS_PER_COLUMN = 50
_MAX_FULL = 100
_MAX_LOADINGS = 50
_MAX_ITERATIONS = 300
# A variance is at least this share of the largest one, and of that of its column. Otherwise the
# likelihood of columns that depend on each other would have no maximum.
SMALLEST_SHARE = 1e-12
# Matrices of all patterns of known cells in a block of rows take at most this many bytes.
_BLOCK_BYTES = 32 << 20
# Below this many multiplications in a step, threads wait for each other longer than they work.
_SMALL_STEP = 10**9
# With more rows for each pattern than this, a product for each pattern beats one for each row.
_MANY_ROWS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Gaussian:
    """Normal distribution of rows with covariance ``loadings loadings' + noise_variance I``.

    Parameters
    ----------
    mean : Tensor of shape (n_features,), float64
    loadings : Tensor of shape (n_features, n_components), float64
    noise_variance : float
        Positive.
    """

    mean: Tensor
    loadings: Tensor
    noise_variance: float

    @classmethod
    def from_axes(
        cls, mean: np.ndarray, axes: np.ndarray, variances: np.ndarray, noise_variance: float
    ) -> Gaussian:
        """Take the variances along orthonormal axes, and that of all other directions.

        Parameters
        ----------
        mean : ndarray of shape (n_features,)
        axes : ndarray of shape (n_components, n_features)
        variances : ndarray of shape (n_components,)
        noise_variance : float
            Positive.
        """
        deviations = np.sqrt(np.maximum(variances - noise_variance, 0.0))
        loadings = (axes.T * deviations).astype(np.float64)
        return cls(
            torch.from_numpy(mean.astype(np.float64)), torch.from_numpy(loadings), noise_variance
        )

    def covariance(self) -> Tensor:
        """Covariance of the columns, (n_features, n_features)."""
        covariance = self.loadings @ self.loadings.T
        covariance.diagonal().add_(self.noise_variance)
        return covariance

    def fill(self, X: np.ndarray) -> np.ndarray:
        """Put conditional means, given the known cells of the row, in the place of unknown cells.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            NaN is an unknown cell.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            Known cells are those of X.
        """
        filled = X.copy()
        with _few_threads(X):
            for rows, known, given in self._blocks(X, with_uncertainty=False):
                values = (given.centred + self.mean).numpy().astype(X.dtype)
                filled[rows] = np.where(known.numpy(), X[rows], values)
        return filled

    def log_density(self, X: np.ndarray) -> np.ndarray:
        """Log-density of the known cells of each row in nats, (n_samples,); zero if none is."""
        with _few_threads(X):
            blocks = self._blocks(X, with_uncertainty=False)
            return np.concatenate([given.log_density.numpy() for _, _, given in blocks])

    def expected_moments(self, X: np.ndarray, weights: np.ndarray) -> tuple[Tensor, Tensor, float]:
        """Mean and covariance of all cells given the known ones, over rows with weights.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
        weights : ndarray of shape (n_samples,)
            They sum to one.

        Returns
        -------
        mean : Tensor of shape (n_features,)
        covariance : Tensor of shape (n_features, n_features)
            Of the rows with their unknown cells filled, plus what is uncertain about these.
        log_density : float
            Weighted mean over the rows.
        """
        shift, scatter, log_density = self.expected_sums(X, weights)
        return self.mean + shift, scatter - torch.outer(shift, shift), log_density

    def expected_sums(self, X: np.ndarray, weights: np.ndarray) -> tuple[Tensor, Tensor, float]:
        """Add up what `expected_moments` is made of; the sums of several tables may be added.

        Returns
        -------
        shift : Tensor of shape (n_features,)
            Sum of the distances to the mean.
        scatter : Tensor of shape (n_features, n_features)
            Sum of their products, plus what is uncertain.
        log_density : float
        """
        n_features = X.shape[1]
        shift = torch.zeros(n_features, dtype=torch.float64)
        scatter = torch.zeros(n_features, n_features, dtype=torch.float64)
        log_density = 0.0
        for rows, _known, given in self._blocks(X, with_uncertainty=True):
            row_weights = torch.from_numpy(weights[rows])
            weighted = given.centred * row_weights[:, None]
            shift += weighted.sum(dim=0)
            scatter += weighted.T @ given.centred + given.uncertainty(row_weights)
            log_density += float(row_weights @ given.log_density)
        return shift, scatter, log_density

    def precise(self, X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Multiply the centred known cells of each row by the inverse of their covariance.

        Returns
        -------
        product : ndarray of shape (n_samples, n_features)
            Zero in unknown cells.
        diagonal : ndarray of shape (n_samples, n_features)
            Diagonal of the inverse, at known cells.
        """
        product, diagonal = np.empty(X.shape), np.empty(X.shape)
        covariance = self.covariance()
        with _few_threads(X):
            for rows, known, patterns, pattern_of in _patterns(X, X.shape[1]):
                factor, deviations = _factors(covariance, patterns)
                centred = _centred(X[rows], known, self.mean) / deviations
                product[rows] = _solve(factor, pattern_of, centred) / deviations
                inverse = torch.cholesky_inverse(factor).diagonal(dim1=1, dim2=2)
                diagonal[rows] = inverse[pattern_of] / deviations.square()
        return product, diagonal

    def _blocks(
        self, X: np.ndarray, with_uncertainty: bool
    ) -> Iterator[tuple[slice, Tensor, _Given]]:
        """Blocks of rows, their known cells, and what is known about their unknown ones."""
        n_features, n_components = self.loadings.shape
        by_code = 2 * n_components < n_features
        width = max(n_components, 1) if by_code else n_features
        covariance = None if by_code else self.covariance()
        for rows, known, patterns, pattern_of in _patterns(X, width):
            centred = _centred(X[rows], known, self.mean)
            if covariance is None:
                given = _given_by_code(self, centred, known, patterns, pattern_of, with_uncertainty)
            else:
                given = _given_by_cells(
                    covariance, centred, known, patterns, pattern_of, with_uncertainty
                )
            yield rows, known, given


class _Given(NamedTuple):
    """Rows of a block, given their known cells.

    With U for the unknown cells of a pattern, the covariance of these is
    ``U base U + sign * roots' roots``. Nobody asks for the roots if they are None.
    """

    centred: Tensor  # (n_rows, n_features): minus the mean, unknown cells at their expectation
    log_density: Tensor  # (n_rows,)
    unknown: Tensor  # (n_patterns, n_features), ones and zeros
    pattern_of: Tensor  # (n_rows,)
    base: Tensor  # (n_features, n_features)
    sign: float
    roots: Tensor | None  # (n_patterns, n_roots, n_features)

    def uncertainty(self, weights: Tensor) -> Tensor:
        """Weighted sum of the conditional covariances of rows, (n_features, n_features)."""
        assert self.roots is not None
        n_patterns, _, n_features = self.roots.shape
        of_pattern = torch.zeros(n_patterns, dtype=weights.dtype)
        of_pattern.index_add_(0, self.pattern_of, weights)
        together = (self.unknown.T * of_pattern) @ self.unknown
        roots = (self.roots * of_pattern.sqrt()[:, None, None]).reshape(-1, n_features)
        return together * self.base + self.sign * (roots.T @ roots)


def _given_by_code(
    gaussian: Gaussian,
    centred: Tensor,
    known: Tensor,
    patterns: Tensor,
    pattern_of: Tensor,
    with_uncertainty: bool,
) -> _Given:
    """Solve for the code of each row: n_components equations, for few components."""
    loadings, noise = gaussian.loadings, gaussian.noise_variance
    n_features, k = loadings.shape
    products = (loadings[:, :, None] * loadings[:, None, :]).reshape(n_features, k * k)
    inner = (patterns @ products).reshape(len(patterns), k, k) + noise * torch.eye(
        k, dtype=loadings.dtype
    )
    factor = torch.linalg.cholesky(inner)
    code = _solve(factor, pattern_of, centred @ loadings)  # (n_rows, k)
    expected = code @ loadings.T
    # The residual itself: a difference of squared lengths would cancel its digits.
    rest = torch.where(known, centred - expected, 0.0)
    distance = rest.square().sum(dim=1) / noise + code.square().sum(dim=1)
    log_determinant = _log_determinant(factor) + (patterns.sum(dim=1) - k) * log(noise)
    unknown = 1.0 - patterns
    roots = None
    if with_uncertainty:
        roots = torch.linalg.solve_triangular(
            factor, loadings.T * unknown[:, None, :], upper=False
        )  # (n_patterns, k, n_features)
    return _Given(
        torch.where(known, centred, expected),
        _log_density(known, distance, log_determinant[pattern_of]),
        unknown,
        pattern_of,
        noise * torch.eye(n_features, dtype=loadings.dtype),
        noise,
        roots,
    )


def _given_by_cells(
    covariance: Tensor,
    centred: Tensor,
    known: Tensor,
    patterns: Tensor,
    pattern_of: Tensor,
    with_uncertainty: bool,
) -> _Given:
    """Solve for the known cells of each row: n_features equations, for many components."""
    factor, deviations = _factors(covariance, patterns)
    correlation = covariance / torch.outer(deviations, deviations)
    scaled = centred / deviations
    weights = _solve(factor, pattern_of, scaled)  # (n_rows, n_features), zero in unknown cells
    expected = (weights @ correlation) * deviations
    distance = (scaled * weights).sum(dim=1)
    log_determinant = _log_determinant(factor) + 2.0 * patterns @ deviations.log()
    unknown = 1.0 - patterns
    roots = None
    if with_uncertainty:
        between = patterns[:, :, None] * covariance / deviations[:, None] * unknown[:, None, :]
        roots = torch.linalg.solve_triangular(factor, between, upper=False)
    return _Given(
        torch.where(known, centred, expected),
        _log_density(known, distance, log_determinant[pattern_of]),
        unknown,
        pattern_of,
        covariance,
        -1.0,
        roots,
    )


def _factors(covariance: Tensor, patterns: Tensor) -> tuple[Tensor, Tensor]:
    """Triangular factors of the correlations of the known cells of each pattern; deviations.

    Unknown cells are rows and columns of the identity.
    """
    deviations = covariance.diagonal().sqrt()
    correlation = covariance / torch.outer(deviations, deviations)
    matrices = patterns[:, :, None] * correlation * patterns[:, None, :]
    diagonal = matrices.diagonal(dim1=1, dim2=2)
    diagonal += torch.where(patterns > 0.0, SMALLEST_SHARE, 1.0)
    return torch.linalg.cholesky(matrices), deviations


def _log_determinant(factor: Tensor) -> Tensor:
    return 2.0 * factor.diagonal(dim1=1, dim2=2).log().sum(dim=1)


def _log_density(known: Tensor, distance: Tensor, log_determinant: Tensor) -> Tensor:
    n_known = known.sum(dim=1, dtype=distance.dtype)
    return -0.5 * (distance + log_determinant + n_known * log(2.0 * pi))


def _centred(X: np.ndarray, known: Tensor, mean: Tensor) -> Tensor:
    """Known cells minus their mean, and zeros."""
    return torch.where(known, torch.from_numpy(X.astype(np.float64)) - mean, 0.0)


def _solve(factor: Tensor, pattern_of: Tensor, rows: Tensor) -> Tensor:
    """Solve the equations of each row's pattern, given their triangular factors."""
    if len(rows) <= _MANY_ROWS * len(factor):
        return torch.cholesky_solve(rows[:, :, None], factor[pattern_of])[:, :, 0]
    solutions = torch.empty_like(rows)
    order = pattern_of.argsort()
    counts = torch.bincount(pattern_of, minlength=len(factor)).tolist()
    for index, triangle in zip(order.split(counts), factor, strict=True):
        solutions[index] = torch.cholesky_solve(rows[index].T, triangle).T
    return solutions


def _patterns(X: np.ndarray, width: int) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Yield blocks of rows, with their known cells and the patterns that these make.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    width : int
        Each pattern needs a matrix of (width, n_features).

    Yields
    ------
    rows : slice
    known : Tensor of shape (n_rows, n_features), bool
    patterns : Tensor of shape (n_patterns, n_features), float64
        The ones are known cells.
    pattern_of : Tensor of shape (n_rows,)
    """
    n_samples, n_features = X.shape
    size = max(_BLOCK_BYTES // (8 * width * n_features), 1)
    for start in range(0, n_samples, size):
        rows = slice(start, start + size)
        known = ~np.isnan(X[rows])
        packed = np.ascontiguousarray(np.packbits(known, axis=1))
        keys = packed.view(np.dtype((np.void, packed.shape[1])))[:, 0]
        _, first, pattern_of = np.unique(keys, return_index=True, return_inverse=True)
        yield (
            rows,
            torch.from_numpy(known),
            torch.from_numpy(known[first].astype(np.float64)),
            torch.from_numpy(pattern_of),
        )


def known_moments(
    X: np.ndarray, weights: np.ndarray, n_components: int, owner: str
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of rows with unknown cells, at the maximum of the likelihood.

    The rows are draws from a normal distribution, whose covariance is that of probabilistic PCA:
    ``n_components`` variances and axes, and one variance for all other directions. Cells are
    unknown at random: whether a cell is known depends on known cells only.

    The unknown cells are the hidden variables of the EM algorithm. The expectation step takes the
    mean and the covariance of the unknown cells of each row given its known ones. For covariance
    ``S`` and a row with known cells o and unknown cells u these are the regression
    ``m_u + S_uo S_oo^-1 (x_o - m_o)`` and ``S_uu - S_uo S_oo^-1 S_ou``. The mean and the
    covariance of the filled rows, to which the covariance of the unknown cells is added, are then
    those of complete data. The maximization step is the closed form of probabilistic PCA for them:
    the largest eigenvalues with their eigenvectors, and the mean of the others as the variance of
    the noise. No step lowers the likelihood. Complete data is at the maximum, which is PCA, after
    the first step. After every two steps the moments are extrapolated, which is kept only if it
    raises the likelihood.

    NOTE[DIFF]: Tipping and Bishop's algorithm has the codes as hidden variables too, which makes a
    step cheaper and many more steps necessary, above all where the noise is small.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        NaN is an unknown cell. Every row and every column has a known one.
    weights : ndarray of shape (n_samples,)
        They sum to one.
    n_components : int
        Between 0 and ``n_features``.
    owner : str
        Name of the estimator, for the warning.

    Returns
    -------
    mean : ndarray of shape (n_features,)
    covariance : ndarray of shape (n_features, n_features)
        Its principal axes are those of the model.

    References
    ----------
    Dempster, Laird & Rubin (1977). "Maximum likelihood from incomplete data via the EM algorithm".
    Journal of the Royal Statistical Society B 39(1), 1-38.

    Little & Rubin (2002). "Statistical analysis with missing data", 2nd edition, chapter 11.

    Tipping & Bishop (1999). "Probabilistic principal component analysis". Journal of the Royal
    Statistical Society B 61(3), 611-622.
    """
    scale = 2.0 ** -np.frexp(np.nanmax(np.abs(X)))[1]  # squares stay in the range of the numbers
    X = X * scale
    with _few_threads(X):
        mean, covariance = maximum_likelihood(
            lambda gaussian: gaussian.expected_moments(X, weights),
            _moments_of_columns(X, weights),
            n_components,
            owner,
        )
    with np.errstate(over="ignore"):  # what is infinite is an error of those who ask
        return mean.numpy() / scale, covariance.numpy() / scale / scale


def fit_gaussian(
    X: np.ndarray, weights: np.ndarray, widths: Sequence[int], owner: str
) -> tuple[Gaussian, float]:
    """Give the most likely normal distribution of rows with unknown cells, under a prior.

    The prior is that of columns that do not depend on each other. What it weighs is chosen by how
    well hidden cells are expected: little where there are many rows for each column.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Standardized. NaN is an unknown cell. Every row and every column has a known one.
    weights : ndarray of shape (n_samples,)
        They sum to one.
    widths : sequence of int
        Numbers of features of the cells, see `hide`.
    owner : str
        Name of the estimator, for a warning.

    Returns
    -------
    gaussian : Gaussian
    prior : float
        Weight of the prior, where all rows together have a weight of one.
    """
    n_rows, n_features = X.shape
    rng = np.random.default_rng(0)
    n_components = n_features if n_features <= _MAX_FULL else min(_MAX_LOADINGS, n_rows)
    most = max(_MIN_ROWS, _ROWS_PER_COLUMN * n_features)
    if n_rows > most:
        chosen = rng.permutation(n_rows)[:most]
        chosen = np.concatenate([chosen, np.nanargmax(np.abs(X), axis=0)])  # no column gets lost
        X, weights = X[chosen], weights[chosen] / weights[chosen].sum()

    def fit(rows: np.ndarray, prior: float) -> Gaussian:
        own = weights[: len(rows)] / weights[: len(rows)].sum()
        with _few_threads(rows):
            mean, covariance = maximum_likelihood(
                lambda gaussian: gaussian.expected_moments(rows, own),
                _moments_of_columns(rows, own),
                n_components,
                owner,
                tolerance=_TOLERANCE_OF_START,
                prior=prior,
            )
            return most_likely(mean, _with_prior(covariance, prior), n_components)

    known = ~np.isnan(X)
    hidden = hide(known, widths, rng)[:_MIN_ROWS]
    hidden &= (known[:_MIN_ROWS] & ~hidden).any(axis=0)  # each column keeps a cell
    partly = np.where(hidden, np.nan, X[:_MIN_ROWS])
    n_pseudo, least = _PRIORS[0], np.inf
    if known[: len(hidden)].any(axis=0).all():
        for candidate in _PRIORS:
            filled = fit(partly, candidate * n_features / len(partly)).fill(partly)
            error = float(np.square(filled - X[: len(hidden)])[hidden].sum())
            if error >= least:
                break
            n_pseudo, least = candidate, error
    prior = n_pseudo * n_features / len(X)
    return fit(X, prior), prior


def hide(known: np.ndarray, widths: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Choose known cells to hide: those that another row lacks, or at random.

    A row is left with a known cell if it has one, and at random with shares between 0.05 and 0.6
    of its cells hidden.

    Parameters
    ----------
    known : ndarray of bool of shape (n_samples, n_features)
    widths : sequence of int
        Numbers of neighbouring features that are one cell, such as the levels of a category, and
        known or hidden together.
    rng : numpy.random.Generator

    Returns
    -------
    hidden : ndarray of bool of shape (n_samples, n_features)

    References
    ----------
    Gorla et al., "CACTI: leveraging copy masking and contextual information to improve tabular
    data imputation", ICML (2025). The patterns of other rows.
    """
    n_rows = len(known)
    known = known[:, np.cumsum(widths) - widths]
    of_others = known & ~known[rng.permutation(n_rows)]
    at_random = known & (rng.random(known.shape) < rng.uniform(0.05, 0.6, (n_rows, 1)))
    copied = (rng.random((n_rows, 1)) < 0.5) & of_others.any(axis=1, keepdims=True)
    hidden = np.where(copied, of_others, at_random)
    hidden[(known == hidden).all(axis=1)] = False
    return np.repeat(hidden, widths, axis=1)


def maximum_likelihood(
    expected_moments: Callable[[Gaussian], tuple[Tensor, Tensor, float]],
    start: tuple[Tensor, Tensor],
    n_components: int,
    owner: str,
    tolerance: float = TOLERANCE,
    prior: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Iterate until hardly any likelihood is left to gain.

    Parameters
    ----------
    expected_moments : callable
        The expectation step, see `Gaussian.expected_moments`.
    start : (Tensor of shape (n_features,), Tensor of shape (n_features, n_features))
        Mean and covariance to start from.
    n_components : int
    owner : str
        Name of the estimator, for the warning.
    tolerance : float, default=1e-8
        What may be left to gain, in nats a row.
    prior : float, default=0.0
        Weight of the identity as a prior of the covariance, beside one of all rows.

    Returns
    -------
    mean : Tensor of shape (n_features,)
    covariance : Tensor of shape (n_features, n_features)
    """

    def step(moments: _Moments) -> tuple[_Moments, float]:
        gaussian = most_likely(moments.mean, _with_prior(moments.covariance, prior), n_components)
        mean, covariance, log_density = expected_moments(gaussian)
        if prior > 0.0:
            log_density += prior * _log_prior(gaussian)
        return _Moments(mean, covariance), log_density

    first = _Moments(*start)
    gain, before = np.inf, -np.inf
    for _ in range(_MAX_ITERATIONS):
        second, _ = step(first)
        third, log_density = step(second)
        try:
            extrapolated, far_log_density = step(_extrapolate(first, second, third))
        except torch.linalg.LinAlgError:  # too far off to be solved
            far_log_density = -np.inf
        first = third
        if far_log_density >= log_density:
            first, log_density = extrapolated, far_log_density
        gain_before, gain = gain, log_density - before
        before = log_density
        if _still_to_gain(gain_before, gain) < tolerance:
            break
    else:
        warn(
            f"{owner} has not converged on the known cells after {3 * _MAX_ITERATIONS} steps of "
            "the EM algorithm. Take fewer components, or drop columns of which little is known or "
            "which follow from others.",
            ConvergenceWarning,
            stacklevel=2,
        )
    return first


def _with_prior(covariance: Tensor, prior: float) -> Tensor:
    """Mean of a covariance and the identity, of which the prior is the weight beside one."""
    if prior == 0.0:
        return covariance
    identity = torch.eye(len(covariance), dtype=covariance.dtype)
    return (covariance + prior * identity) / (1.0 + prior)


def _log_prior(gaussian: Gaussian) -> float:
    """Logarithm of the prior of a covariance, up to a constant, for a weight of one."""
    factor = torch.linalg.cholesky(gaussian.covariance())
    trace = float(torch.cholesky_inverse(factor).trace())
    return -float(factor.diagonal().log().sum()) - 0.5 * trace


class _Moments(NamedTuple):
    mean: Tensor  # (n_features,)
    covariance: Tensor  # (n_features, n_features)


def _extrapolate(first: _Moments, second: _Moments, third: _Moments) -> _Moments:
    """Go on in the direction of two steps of EM, as far as they shrink slowly.

    Logarithms of the covariances are extrapolated, so that variances stay positive.

    References
    ----------
    Varadhan & Roland (2008). "Simple and globally convergent methods for accelerating the
    convergence of any EM algorithm". Scandinavian Journal of Statistics 35(2), 335-353, scheme S3.
    """
    start, *others = (
        torch.cat([moments.mean[None], _log_matrix(moments.covariance)])
        for moments in (first, second, third)
    )
    change = others[0] - start
    bend = others[1] - others[0] - change
    ratio = float(change.norm() / bend.norm()) if bend.any() else 1.0
    length = min(max(ratio, 1.0), 1e4)
    mean, *logarithm = start + 2.0 * length * change + length**2 * bend
    values, vectors = torch.linalg.eigh(torch.stack(logarithm))
    # What lies far off is not taken, but has to be a number: cells are at most one.
    variances = values.clamp(max=log(len(mean))).exp()
    return _Moments(mean, (vectors * variances) @ vectors.T)


def _log_matrix(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    smallest = max(SMALLEST_SHARE * float(values[-1]), float(np.finfo(np.float64).tiny))
    return (vectors * values.clamp(min=smallest).log()) @ vectors.T


def _few_threads(X: np.ndarray) -> ExitStack:
    """Context in which small steps have one thread."""
    stack = ExitStack()
    if X.size * X.shape[1] < _SMALL_STEP:
        stack.enter_context(threads(1))
        stack.enter_context(_get_threadpool_controller().limit(limits=1, user_api="blas"))
    return stack


def rows_with_known_cells(
    X: np.ndarray,
    sample_weight: np.ndarray | None,
    names: Sequence[str] | np.ndarray | None,
    table: str = "X",
) -> tuple[np.ndarray, np.ndarray]:
    """Leave out rows without weight and rows without known cells, which say nothing.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    sample_weight : ndarray of shape (n_samples,) or None
    names : sequence of str, ndarray or None
        Of the columns, for messages.
    table : str, default="X"
        Name of the table, for messages.

    Returns
    -------
    X : ndarray of shape (n_kept, n_features), float64
    weights : ndarray of shape (n_kept,)

    Raises
    ------
    ValueError
        If a column has no known cell.
    """
    weights = np.ones(len(X)) if sample_weight is None else sample_weight
    known = ~np.isnan(X)
    kept = known.any(axis=1) & (weights > 0.0)
    empty = np.flatnonzero(~known[kept].any(axis=0))
    if len(empty):
        labels = empty if names is None else np.asarray(names)[empty]
        columns = f"{len(empty)} column{'s' * (len(empty) > 1)}"
        rows = " in rows of positive weight" if (weights == 0.0).any() else ""
        raise ValueError(
            f"Input {table} contains NaN in all cells of {columns}{rows}: "
            f"{listed(labels.tolist())}. Nothing can be learned about a column of which no cell is "
            "known; drop it."
        )
    return X[kept].astype(np.float64), weights[kept]


def _still_to_gain(gain_before: float, gain: float) -> float:
    """Sum of the gains that follow if each is to the one before as these two are."""
    if gain <= 0.0:
        return 0.0
    ratio = gain / gain_before
    return gain * ratio / (1.0 - ratio) if 0.0 < ratio < 1.0 else np.inf


def most_likely(mean: Tensor, covariance: Tensor, n_components: int) -> Gaussian:
    """Probabilistic PCA with the largest likelihood for these moments."""
    n_features = len(mean)
    k = min(n_components, n_features - 1)  # the smallest variance is that of the noise
    variances, axes = top_eigenpairs(covariance, k)  # (k,), (n_features, k)
    total = float(covariance.trace())
    noise = (total - float(variances.sum())) / (n_features - k)
    largest = max(noise, float(variances.max(initial=0.0)))
    noise = max(noise, SMALLEST_SHARE * largest, float(np.finfo(np.float64).tiny))
    return Gaussian.from_axes(mean.numpy(), np.ascontiguousarray(axes.T), variances, noise)


def column_sums(X: np.ndarray, weights: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
    """Weight of the rows; weight and weighted sum of the known cells of each column."""
    unknown = np.isnan(X)
    known_weights = np.where(unknown, 0.0, weights[:, None])
    sums = (known_weights * np.where(unknown, 0.0, X)).sum(axis=0)
    return float(weights.sum()), known_weights.sum(axis=0), sums


def column_products(X: np.ndarray, weights: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Weighted sum of the products of centred known cells, (n_features, n_features)."""
    centred = np.where(np.isnan(X), 0.0, X - mean)
    return (centred.T * weights) @ centred


def _moments_of_columns(X: np.ndarray, weights: np.ndarray) -> _Moments:
    """Where the EM algorithm starts: unknown cells that depend on no other ones."""
    _, of_column, sums = column_sums(X, weights)
    mean = sums / of_column
    covariance = column_products(X, weights, mean)
    variances = np.diagonal(covariance) / of_column
    covariance.flat[:: len(mean) + 1] = variances
    return _Moments(torch.from_numpy(mean), torch.from_numpy(covariance))
