"""Mixtures of probabilistic PCAs in one linear code: their choice, their fit and their prior."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import logsumexp
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from torch import Tensor, nn

from skae._decomposition import LinearCode, linear_code, most_likely_noise, project
from skae._device import CPU
from skae._losses import VARIANCE_FLOOR
from skae._random import permutation
from skae._rows import Rows

# Numbers of clusters that are tried, one after the other until one is no better than the last.
CLUSTER_COUNTS = (1, 2, 4, 8, 16)

# Rows that choices are made on, at most, and cells of their dense table.
MAX_ROWS = 4000
MAX_CELLS = 2**26

# Share of the held-out rows at either end that do not count in a choice. Under a normal noise one
# row with a cell a hundred standard deviations from the mean costs more than all others together.
TRIMMED = 0.1

# With at least so many rows two fifths of them judge, in two folds. Otherwise all do, in five.
MANY_ROWS = 600

# Rows of the mean covariance of all clusters that are added to the rows of each. It keeps the
# covariance of a small cluster from collapsing onto its rows (after Fraley & Raftery 2007).
PRIOR_ROWS = 5.0

# A code as long as the row leaves the noise free below the smallest variance. Clusters may be
# narrower than that in all directions; this share of it is narrow enough on all tables tried.
NARROW = 0.01

# Loadings of a component that carries nothing, relative to the noise: small, yet invertible.
SMALLEST_EXCESS = 1e-3

# Clusters that are less likely than this share for a row are no part of its bound.
SMALLEST_SHARE = 1e-6

MAX_ITER = 100
TOL = 1e-3


class Choice(NamedTuple):
    """What held-out rows choose of the start of a model."""

    n_components: int
    n_clusters: int = 1
    noise_share: float = 1.0
    """Share of the most likely noise variance that the noise starts with."""


class Mixture(NamedTuple):
    """Normal distributions of linear codes with the noise of the rows."""

    shares: np.ndarray  # (n_clusters,), their sum is one
    means: np.ndarray  # (n_clusters, n_components)
    variances: np.ndarray  # (n_clusters, n_components), along the axes
    axes: np.ndarray  # (n_clusters, n_components, n_components), orthonormal rows


def log_densities(codes: np.ndarray, mixture: Mixture) -> np.ndarray:
    """Log of share times density of each cluster, (n_samples, n_clusters)."""
    logs = np.empty((len(codes), len(mixture.shares)))
    n_components = codes.shape[1]
    for c, (share, mean, variances, axes) in enumerate(zip(*mixture, strict=True)):
        distance = (np.square((codes - mean) @ axes.T) / variances).sum(axis=1)
        log_determinant = np.log(variances).sum() + n_components * math.log(2.0 * math.pi)
        logs[:, c] = math.log(share) - (log_determinant + distance) / 2.0
    return logs


def fit_mixture(
    codes: np.ndarray, weights: np.ndarray, n_clusters: int, noise_variance: float, seed: int
) -> Mixture:
    """Fit a mixture of normal distributions none of which is narrower than the noise.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_components), float64
        Rows along orthonormal axes.
    weights : ndarray of shape (n_samples,)
        Positive, of mean one.
    n_clusters : int
        Their largest number: clusters that lose their rows are left out.
    noise_variance : float
        Variance of the noise along each axis.
    seed : int
        Of the clusters that k-means starts with.

    Returns
    -------
    Mixture

    References
    ----------
    Tipping & Bishop, "Mixtures of probabilistic principal component analysers", Neural Computation
    11 (1999).

    Fraley & Raftery, "Bayesian regularization for normal mixture estimation and model-based
    clustering", Journal of Classification 24 (2007).
    """
    memberships = first_memberships(codes, weights, n_clusters, seed)
    likelihood = -math.inf
    while True:
        for _ in range(MAX_ITER):
            mixture = most_likely_mixture(codes, weights, memberships, noise_variance)
            logs = log_densities(codes, mixture)
            totals = logsumexp(logs, axis=1)
            memberships = np.exp(logs - totals[:, np.newaxis])
            last, likelihood = likelihood, float(np.average(totals, weights=weights))
            if len(mixture.shares) == 1 or likelihood - last < TOL:
                break
        lost = weights @ memberships < 1.0
        if not lost.any() or lost.all():
            return mixture
        memberships = memberships[:, ~lost]
        memberships /= np.maximum(memberships.sum(axis=1, keepdims=True), np.finfo(float).tiny)
        likelihood = -math.inf


def first_memberships(
    codes: np.ndarray, weights: np.ndarray, n_clusters: int, seed: int
) -> np.ndarray:
    """Clusters of k-means, as zeros and ones, (n_samples, at most n_clusters)."""
    if n_clusters == 1:
        return np.ones((len(codes), 1))
    with warnings.catch_warnings():
        # Fewer distinct rows than clusters: it then finds fewer.
        warnings.simplefilter("ignore", ConvergenceWarning)
        means = KMeans(min(n_clusters, len(codes)), n_init=1, random_state=seed)
        labels = means.fit(codes, sample_weight=weights).labels_
    return np.eye(labels.max() + 1)[:, np.unique(labels)][labels]


def most_likely_mixture(
    codes: np.ndarray, weights: np.ndarray, memberships: np.ndarray, noise_variance: float
) -> Mixture:
    """Give the mixture of rows whose memberships of the clusters are known, (n, n_clusters)."""
    weighted = memberships * weights[:, np.newaxis]
    sizes = weighted.sum(axis=0) + 10.0 * np.finfo(np.float64).eps  # of a lost one
    means = (weighted.T @ codes) / sizes[:, np.newaxis]
    scatters = []
    for c, mean in enumerate(means):
        centred = codes - mean
        scatters.append((weighted[:, c, np.newaxis] * centred).T @ centred)
    pooled = sum(scatters) / sizes.sum()
    found = [
        np.linalg.eigh((scatter + PRIOR_ROWS * pooled) / (size + PRIOR_ROWS))
        for scatter, size in zip(scatters, sizes, strict=True)
    ]
    # The most likely covariance that contains the noise has the same axes.
    variances = np.stack([np.maximum(values, noise_variance)[::-1] for values, _ in found])
    axes = np.stack([vectors.T[::-1] for _, vectors in found])
    return Mixture(sizes / sizes.sum(), means, variances, axes)


def mixture_of_rows(
    rows: Rows, linear: LinearCode, n_clusters: int, noise_variance: float
) -> Mixture:
    """Fit a mixture to the linear codes of rows, of at most 10,000 of them."""
    index = permutation(len(rows), CPU)
    seed = int(index[0])
    X, weights = dense_rows(rows, index[:10_000])
    codes = project(X, linear.mean, linear.axes).astype(np.float64)
    return fit_mixture(codes, weights, n_clusters, noise_variance, seed)


def dense_rows(rows: Rows, index: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Rows by their numbers, as an array, and their weights, of mean one."""
    index = index[: max(2, MAX_CELLS // rows.restored.shape[1])]
    X = rows.restored.dense(index).cpu().numpy()
    if rows.weights is None:
        return X, np.ones(len(X))
    weights = rows.weights[index].cpu().double().numpy()
    return X, weights / weights.mean()


def choose(
    rows: Rows,
    n_components: int | None,
    cluster_counts: Sequence[int],
    noise_variance: float | None,
) -> Choice:
    """Choose the length of a linear code and a number of clusters by the density of held-out rows.

    Parameters
    ----------
    rows : Rows
        At most `MAX_ROWS` of them are looked at.
    n_components : int or None
        Length of the code. None chooses between the most likely length of probabilistic PCA, and a
        code as long as the row with a noise that is narrower than any variance.
    cluster_counts : sequence of int
        Numbers of clusters, in increasing order.
    noise_variance : float or None
        Noise of the rows, None for the most likely one.

    Returns
    -------
    Choice
    """
    index = permutation(len(rows), CPU)[:MAX_ROWS]
    seed = int(index[0])
    X, weights = dense_rows(rows, index)
    tables = [Fold(X, weights, kept, held_out) for kept, held_out in folds(len(X))]
    rank = min(len(fold.linear.variances) for fold in tables)
    if n_components is None:
        curves = [fold.curve(rank, noise_variance) for fold in tables]
        lengths = trimmed_mean(np.concatenate(curves), held_out_weights(tables))
        candidates = [Choice(int(lengths.argmax()) + 1)]
        if rank == X.shape[1] and noise_variance is None:
            candidates.append(Choice(rank, noise_share=NARROW))
    else:
        candidates = [Choice(n_components)]
    if list(cluster_counts) == [1]:
        return candidates[0]
    n_fitted = min(len(fold.kept) for fold in tables)
    counts = [n for n in cluster_counts if n == cluster_counts[0] or 10 * n <= n_fitted]
    judges = held_out_weights(tables)

    @cache
    def scores_of(choice: Choice) -> np.ndarray:
        return np.concatenate([fold.score(choice, noise_variance, seed) for fold in tables])

    best, best_scores = candidates[0], scores_of(candidates[0]._replace(n_clusters=counts[0]))
    for candidate in candidates:
        last_scores = None
        for n_clusters in counts:
            rival = candidate._replace(n_clusters=n_clusters)
            scores = scores_of(rival)
            if last_scores is not None and not is_clearly_above(scores, last_scores, judges):
                break
            last_scores = scores
            # With one cluster all narrower noises give the same density; the widest trains best.
            is_new = rival.n_clusters > 1 or rival.noise_share == 1.0
            if is_new and is_clearly_above(scores, best_scores, judges):
                best, best_scores = rival, scores
    return best._replace(n_clusters=max(best.n_clusters, counts[0]))


def folds(n_rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the numbers of rows to fit to and of others, in at most five ways."""
    parts = np.array_split(np.arange(n_rows), min(5, n_rows))
    for held_out in parts[:2] if n_rows >= MANY_ROWS else parts:
        yield np.setdiff1d(np.arange(n_rows), held_out), held_out


class Fold:
    """PCA of some rows, and how likely others are under it.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    weights : ndarray of shape (n_samples,)
    kept, held_out : ndarray of int
        Numbers of the rows to fit to and of the others.
    """

    def __init__(
        self, X: np.ndarray, weights: np.ndarray, kept: np.ndarray, held_out: np.ndarray
    ) -> None:
        self.kept = kept
        self.weights = weights[kept] / weights[kept].mean()
        self.held_out_weights = weights[held_out]
        self.linear = linear_code(X[kept], self.weights, min(len(kept), X.shape[1]))
        self.codes, self.held_out_codes = (
            project(X[rows], self.linear.mean, self.linear.axes).astype(np.float64)
            for rows in (kept, held_out)
        )
        self.squares = np.square(X[held_out] - self.linear.mean).sum(axis=1)
        self.n_features = X.shape[1]

    def curve(self, rank: int, noise_variance: float | None) -> np.ndarray:
        """Log-density of the other rows for codes of every length, (n_held_out, rank)."""
        smallest = VARIANCE_FLOOR if noise_variance is None else noise_variance
        variances = np.maximum(self.linear.variances[:rank], smallest)
        squares = np.square(self.held_out_codes[:, :rank])
        along = np.cumsum(squares / variances + np.log(2.0 * math.pi * variances), axis=1)
        rest = np.maximum(self.squares[:, np.newaxis] - np.cumsum(squares, axis=1), 0.0)
        noise = np.array(
            [
                most_likely_noise(
                    shortened(self.linear, length, self.n_features), self.n_features, noise_variance
                )
                for length in range(1, rank + 1)
            ]
        )
        n_left = self.n_features - np.arange(1, rank + 1)
        beside = np.where(n_left > 0, rest / noise + n_left * np.log(2.0 * math.pi * noise), 0.0)
        return -(along + beside) / 2.0

    def score(self, choice: Choice, noise_variance: float | None, seed: int) -> np.ndarray:
        """Log-density of the other rows under a mixture, (n_held_out,)."""
        length = min(choice.n_components, len(self.linear.variances))
        linear = shortened(self.linear, length, self.n_features)
        noise = most_likely_noise(linear, self.n_features, noise_variance, choice.noise_share)
        mixture = fit_mixture(self.codes[:, :length], self.weights, choice.n_clusters, noise, seed)
        logs = log_densities(self.held_out_codes[:, :length], mixture)
        return logsumexp(logs, axis=1) + self._beside(length, noise)

    def _beside(self, length: int, noise_variance: float) -> np.ndarray:
        """Log-density along the directions that a code leaves out, (n_held_out,)."""
        n_left = self.n_features - length
        if n_left == 0:
            return np.zeros(len(self.squares))
        rest = self.squares - np.square(self.held_out_codes[:, :length]).sum(axis=1)
        constant = n_left * math.log(2.0 * math.pi * noise_variance)
        return -(constant + np.maximum(rest, 0.0) / noise_variance) / 2.0


def held_out_weights(tables: Sequence[Fold]) -> np.ndarray:
    """Weights of the held-out rows of all folds."""
    return np.concatenate([fold.held_out_weights for fold in tables])


def shortened(linear: LinearCode, length: int, n_features: int) -> LinearCode:
    """Give the first components of a linear code; the others become noise."""
    rank = len(linear.variances)
    rest = linear.noise_variance * (n_features - rank) + linear.variances[length:].sum()
    return linear._replace(
        variances=linear.variances[:length],
        axes=linear.axes[:length],
        noise_variance=rest / max(n_features - length, 1),
    )


def trimmed_mean(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean over the rows, without a share of them at either end, (n, ...) -> (...)."""
    order = np.argsort(scores, axis=0)
    sorted_weights = weights[order]
    above = np.cumsum(sorted_weights, axis=0)
    total = above[-1:]
    kept = np.clip(
        np.minimum(above, (1.0 - TRIMMED) * total)
        - np.maximum(above - sorted_weights, TRIMMED * total),
        0.0,
        None,
    )
    ordered = np.take_along_axis(scores, order, axis=0)
    return (ordered * kept).sum(axis=0) / kept.sum(axis=0)


def is_clearly_above(scores: np.ndarray, others: np.ndarray, weights: np.ndarray) -> bool:
    """Whether rows are likelier by more than the standard error, whatever a few of them say."""
    gains = scores - others
    low, high = np.quantile(gains, [TRIMMED, 1.0 - TRIMMED])
    gains = np.clip(gains, low, high)
    mean = np.average(gains, weights=weights)
    variance = np.average(np.square(gains - mean), weights=weights)
    return bool(mean > math.sqrt(variance / len(gains)))


class MixturePrior(nn.Module):
    """Clusters of codes: z = center + loadings w, with a standard normal w in each.

    The encoder gives one code e of a row. Along the axes of each cluster it becomes coordinates
    t, and the posterior mean of w is t times a gain. With the linear code that the clusters were
    fitted in, this is the exact posterior of a mixture of probabilistic PCAs.

    Parameters
    ----------
    n_clusters, n_components : int
    """

    def __init__(self, n_clusters: int, n_components: int) -> None:
        super().__init__()
        self.n_clusters, self.n_components = n_clusters, n_components
        shapes = {
            "log_shares": (n_clusters,),
            "centers": (n_clusters, n_components),
            "loadings": (n_clusters * n_components, n_components),
            "rotations": (n_clusters * n_components, n_components),
            "offsets": (n_clusters * n_components,),
            "precisions": (n_clusters, n_components),
            "gains": (n_clusters, n_components),
            "log_scales": (n_clusters,),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float32))

    log_shares: Tensor
    centers: Tensor
    loadings: Tensor
    rotations: Tensor
    offsets: Tensor
    precisions: Tensor
    gains: Tensor
    log_scales: Tensor

    def place(self, mixture: Mixture, noise_variance: float, code_variances: np.ndarray) -> None:
        """Put the clusters at a mixture.

        Parameters
        ----------
        mixture : Mixture
            Of linear codes.
        noise_variance : float
        code_variances : ndarray of shape (n_components,)
            Of the linear codes, at least that of the noise.
        """
        rank = len(code_variances)
        scales = scales_of(code_variances, noise_variance)
        excess = np.sqrt(np.maximum(mixture.variances - noise_variance, 0.0))
        self.log_shares.copy_(torch.from_numpy(np.log(mixture.shares)))
        self.log_scales.copy_(torch.from_numpy(np.log(mixture.variances).sum(axis=1) / 2.0))
        # What follows has a place for components beyond the linear code, which carry nothing yet.
        # In every cluster they are w itself.
        self._put("centers", mixture.means / scales, 0.0)
        self._put("precisions", 1.0 / mixture.variances, 0.0)
        self._put("gains", excess / mixture.variances, 1.0)
        offsets = -(mixture.axes @ mixture.means[:, :, np.newaxis])[:, :, 0]
        self._put("offsets", offsets, 0.0)
        beyond = torch.eye(self.n_components)[rank:]
        for name, axes in {
            "loadings": excess[:, :, np.newaxis] * mixture.axes / scales,
            "rotations": mixture.axes * (code_variances / scales),
        }.items():
            self._put(name, axes, beyond)

    def _put(self, name: str, values: np.ndarray, beyond: float | Tensor) -> None:
        """Fill a buffer from its first components, and the other components of each cluster."""
        buffer = getattr(self, name).view(self.n_clusters, self.n_components, -1)
        rank = values.shape[1]
        buffer.zero_()
        buffer[:, rank:] = beyond
        values = values.reshape(self.n_clusters, rank, -1)
        buffer[:, :rank, : values.shape[2]] = torch.from_numpy(values).float()

    def coordinates(self, code: Tensor) -> Tensor:
        """Give coordinates along the axes of each cluster, (batch, n_clusters, n_components)."""
        flat = torch.addmm(self.offsets, code, self.rotations.T)
        return flat.view(-1, self.n_clusters, self.n_components)

    def log_memberships(self, coordinates: Tensor) -> Tensor:
        """Log-probabilities of the clusters given the code of a row, (batch, n_clusters)."""
        distance = (torch.square(coordinates) * self.precisions).sum(dim=-1)
        distance = distance.clamp(max=torch.finfo(torch.float32).max)  # of rows very far away
        return torch.log_softmax(self.log_shares - self.log_scales - distance / 2.0, dim=-1)

    def draw(self, log_memberships: Tensor, uniform: Tensor) -> Tensor:
        """Draw a cluster for each row by numbers in [0, 1), (batch, 1) -> (batch,)."""
        below = log_memberships.exp().cumsum(dim=-1)[:, :-1] < uniform
        return below.sum(dim=-1)

    def spread(self, w: Tensor, cluster: Tensor) -> Tensor:
        """Put numbers of a cluster beside zeros for the others, (batch, all coordinates)."""
        n_rows = len(w)
        slots = w.new_zeros(n_rows, self.n_clusters, self.n_components)
        slots[torch.arange(n_rows, device=w.device), cluster] = w
        return slots.view(n_rows, -1)

    def codes(self, w: Tensor, cluster: Tensor) -> Tensor:
        """Give the codes of w in the cluster of each row, (batch, n_components)."""
        return torch.addmm(self.centers[cluster], self.spread(w, cluster), self.loadings)

    def coordinates_of(self, by_code: Tensor, cluster: Tensor) -> Tensor:
        """Give the derivative by w from that by what `codes` returned, (batch, n_components)."""
        return self._chosen(by_code @ self.loadings.T, cluster)

    def by_code(self, by_coordinates: Tensor, cluster: Tensor) -> Tensor:
        """Give the derivative by the code from that by its coordinates in a cluster."""
        return self.spread(by_coordinates, cluster) @ self.rotations

    def _chosen(self, flat: Tensor, cluster: Tensor) -> Tensor:
        rows = torch.arange(len(flat), device=flat.device)
        return flat.view(len(flat), self.n_clusters, self.n_components)[rows, cluster]

    def shares(self) -> np.ndarray:
        """Shares of the clusters, (n_clusters,), float64."""
        shares = np.exp(self.log_shares.cpu().double().numpy())
        return shares / shares.sum()

    def place_codes(self, w: np.ndarray, clusters: np.ndarray) -> np.ndarray:
        """Give the codes of w in the cluster of each row, (n, n_components)."""
        codes = np.empty_like(w)
        centers, loadings = (t.cpu().double().numpy() for t in (self.centers, self._loadings()))
        for cluster in range(self.n_clusters):
            rows = clusters == cluster
            codes[rows] = centers[cluster] + w[rows] @ loadings[cluster]
        return codes

    def codes_in(self, cluster: int, w: Tensor) -> Tensor:
        """Give the codes of w in one cluster, (..., n_components)."""
        return self.centers[cluster] + w @ self._loadings()[cluster]

    def code_moments(
        self, memberships: Tensor, mean: Tensor, variance: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Give mean and variance of the code over the clusters, 2 x (batch, n_components).

        `mean` and `variance` are those of w in each, (batch, n_clusters, n_components).
        """
        shares = memberships[..., None]
        loadings = self._loadings()
        means = self.centers + torch.einsum("bcj,cji->bci", mean, loadings)
        within = torch.einsum("bcj,cji->bci", variance, torch.square(loadings))
        total = (shares * means).sum(dim=1)
        between = torch.square(means - total[:, None])
        return total, (shares * (within + between)).sum(dim=1)

    def _loadings(self) -> Tensor:
        return self.loadings.view(self.n_clusters, self.n_components, self.n_components)


def scales_of(code_variances: np.ndarray, noise_variance: float) -> np.ndarray:
    """Give standard deviations of codes without the noise, none of them zero, (n_components,)."""
    return np.sqrt(np.maximum(code_variances - noise_variance, SMALLEST_EXCESS * noise_variance))
