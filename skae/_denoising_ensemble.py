"""DenoisingEnsemble: the outlier score of a table that one knows nothing about."""

from __future__ import annotations

import copy
import math
import warnings
from itertools import pairwise
from numbers import Integral
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.callback import with_callbacks
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from skae._checkpoint import Keeper
from skae._device import (
    CPU,
    FLOATS,
    LARGE_STEP,
    resolve_device,
    threads,
    torch_at_work,
)
from skae._module_estimator import ModuleEstimator
from skae._processes import check_alone
from skae._random import generator, normal_like, private_random_numbers, uniform_like
from skae._reporting import EpochReporter
from skae._rollback import unchanged_on_failure
from skae._rows import DenseTable, Rows, to_rows
from skae._rules import (
    TIE,
    Prediction,
    Rules,
    depth_of_rules,
    draw_rules,
    fit_prediction,
    fit_predictions,
    n_linear_terms,
)
from skae._sklearn_compat import Interval
from skae._training import Progress, Settings, TrainableModule, train
from skae._unknown import Gaussian, known_moments, most_likely, rows_with_known_cells
from skae._validation import validate_table, validate_weights

# Rows that others are compared with. More of them cost time in proportion and change little.
N_REFERENCES = 1024
# A reference is its own nearest neighbour; beside two others that does not hide it.
N_NEAREST = 3
# Outliers in the training data that are alike are neighbours of each other, but hardly a tenth of
# the references.
SHARE_NEAR = 0.1
# So many groups of a tenth, each around a reference, stand for all that there are: the closest of
# them is found by one small product, where the tenth of each row would have to be sorted out.
N_NEIGHBORHOODS = 128
# Columns of a matrix whose smallest number is found at once; the few smallest groups are sorted.
GROUP_SIZE = 16

HIDDEN_LAYER_SIZES = (64, 64)
MAX_NOISE_LEVEL = 0.5
LEARNING_RATE_INIT = 1e-2
BATCH_SIZE = 128
# Each network of a view leaves one of them out.
N_FOLDS = 8

# Views are the same rows in other coordinates, which keep their columns: with their tails pulled
# in, standardized, decorrelated. Nearest rows are looked for in the first two, near ones in all
# three, and networks restore the last two; more cost time and tell little more.
N_VIEWS = 3
N_NEAREST_VIEWS = 2
N_RESTORED_VIEWS = 2
# Rules that predict columns, and fits of these that each leave out some references.
N_RULES = 256
N_RULE_FOLDS = 4
# Where the kinds of distances are among all of them, and how much each kind counts: for rows that
# are normal, and for rows among which are outliers. There, what knows single rows too well and what
# learns relations takes outliers for normal as well, and how extreme cells are tells more.
KINDS = ("nearest", "near", "restored", "predicted", "tails")
N_DISTANCES = (N_NEAREST_VIEWS, N_VIEWS, N_RESTORED_VIEWS, 1, 1)
SHARES_NORMAL = (3.0, 3.0, 3.0, 3.0, 1.0)
SHARES_CONTAMINATED = (1.5, 3.0, 0.75, 0.5, 2.0)
# How much more a distance counts that tells rows from broken copies better: its share grows with
# the exponential of the area under the curve, times this.
SHARPNESS = 4.0
# Rows at which the area is known half as well as it could be.
N_ROWS_HALF_KNOWN = 16
SHARE_BROKEN = 0.1
# A cell this far out, in standard deviations, is as far as it gets. Squares stay finite.
FARTHEST = 1e9


# Of the Gaussian that fills unknown cells of training rows. A full covariance of more columns takes
# long, and has more to learn than the references know.
MAX_COMPONENTS = 64

# Multiply-adds of a step of training, or of distances to the references, from which more than one
# thread pays. Operators between the products are many and short, and threads that wait for each
# other cost more than they give where the cores have other work: beside five other processes on two
# cores, 569 x 30 took 3 s with one thread and 24 s with two, scores of 4,096 x 128 3.9 s and 4.9 s.
PARALLEL_PRODUCTS = 2**30


class Scaling(NamedTuple):
    """Where the columns of standardized rows lie, for the other two views."""

    median: np.ndarray
    spread: np.ndarray
    """Interquartile range as that of a standard normal distribution is 1."""
    squashed_mean: np.ndarray
    squashed_scale: np.ndarray
    axes: np.ndarray
    """Principal axes, (n_features, n_axes)."""
    gains: np.ndarray
    """One over the standard deviation along the axes."""
    gain_elsewhere: np.ndarray
    """One over the standard deviation orthogonal to the axes, ()."""


class Seen(NamedTuple):
    """What references are not to be compared with, because they are part of it."""

    numbers: Tensor
    """Among the references, (batch,)."""
    members: Tensor
    """Whether they belong to a neighbourhood, (n_views, batch, n_neighborhoods)."""
    folds: Tensor
    """Which network of each view has not seen them, (batch,)."""
    known: Tensor | None
    """Which of their cells are known, (batch, n_features); None if all are."""
    predictions: Prediction
    """Fitted without each of the folds of rules."""

    def take(self, part: Tensor) -> Seen:
        """Choose rows by their numbers."""
        known = None if self.known is None else self.known[part]
        members = self.members[:, part]
        return Seen(self.numbers[part], members, self.folds[part], known, self.predictions)


class Experts(TrainableModule):
    """Denoisers in three views of a table.

    Parameters
    ----------
    n_members : int
        Networks in each view.
    n_features, n_references, n_axes, n_neighborhoods : int
    """

    max_cells: ClassVar[int] = 2**19
    """Cells of rows, or of distances to references, that are computed together. It bounds the
    memory, and what is computed stays in the cache of the processor."""

    mean: Tensor
    scale: Tensor
    median: Tensor
    spread: Tensor
    squashed_mean: Tensor
    squashed_scale: Tensor
    axes: Tensor
    gains: Tensor
    gain_elsewhere: Tensor
    references: Tensor
    reference_views: Tensor
    centers: Tensor
    variances: Tensor
    tail_edges: Tensor
    tail_values: Tensor
    rule_columns: Tensor
    rule_signs: Tensor
    rule_limits: Tensor
    slopes: Tensor
    effects: Tensor
    intercept: Tensor
    unpredicted: Tensor
    floor: Tensor
    log_mean: Tensor
    log_spread: Tensor
    shares: Tensor

    def __init__(
        self,
        n_members: int,
        n_features: int,
        n_references: int = 1,
        n_axes: int = 1,
        n_neighborhoods: int = 1,
    ) -> None:
        super().__init__()
        self.n_members = n_members
        self.is_wide = n_axes < n_features
        width = n_axes if self.is_wide else n_features
        depth = depth_of_rules(n_features)
        n_distances = sum(N_DISTANCES)
        for name, shape in {
            "mean": (n_features,),
            "scale": (n_features,),
            "median": (n_features,),
            "spread": (n_features,),
            "squashed_mean": (n_features,),
            "squashed_scale": (n_features,),
            "axes": (n_features, n_axes),
            "gains": (n_axes,),
            "gain_elsewhere": (),
            "references": (n_references, n_features),
            "reference_views": (N_VIEWS, n_references, n_features),
            "centers": (N_VIEWS, n_neighborhoods, n_features),
            "variances": (N_VIEWS, n_neighborhoods, n_features),
            "tail_edges": (n_features, n_references),
            "tail_values": (n_features, n_references + 1),
            "rule_signs": (N_RULES, depth),
            "rule_limits": (N_RULES, depth),
            "slopes": (n_linear_terms(n_features), n_features),
            "effects": (N_RULES, n_features),
            "intercept": (1, n_features),
            "unpredicted": (n_features,),
            "floor": (n_distances,),
            "log_mean": (n_distances,),
            "log_spread": (n_distances,),
            "shares": (n_distances,),
        }.items():
            self.register_buffer(name, torch.empty(shape, dtype=torch.float32))
        self.register_buffer("rule_columns", torch.empty((N_RULES, depth), dtype=torch.int64))
        sizes = (width, *HIDDEN_LAYER_SIZES, width)
        n_networks = N_RESTORED_VIEWS * n_members
        self.weights = nn.ParameterList(
            uniform(n_networks, i, o, fan_in=i) for i, o in pairwise(sizes)
        )
        self.biases = nn.ParameterList(
            uniform(n_networks, 1, o, fan_in=i) for i, o in pairwise(sizes)
        )

    def standardize(self, x: Tensor) -> Tensor:
        """Rows in standard deviations from the mean."""
        return standardize(x, self.mean, self.scale)

    def views(self, z: Tensor) -> Tensor:
        """Standardized rows with their tails pulled in, as they are, and decorrelated.

        Parameters
        ----------
        z : Tensor of shape (batch, n_features)

        Returns
        -------
        Tensor of shape (n_views, batch, n_features)
        """
        squashed = torch.arcsinh((z - self.median) / self.spread)
        squashed = (squashed - self.squashed_mean) / self.squashed_scale
        return torch.stack([squashed, z, self.decorrelate(z)])

    def decorrelate(self, z: Tensor) -> Tensor:
        """Standardized rows times the symmetric root of their inverse covariance."""
        along = (z @ self.axes) * (self.gains - self.gain_elsewhere)  # (batch, n_axes)
        return self.gain_elsewhere * z + along @ self.axes.T

    def to_restore(self, z: Tensor) -> Tensor:
        """Give what the networks are trained on: coordinates of wide rows, (batch, width).

        Wide rows are restored in the space that the references span. What is orthogonal to it has
        no structure that they could tell, and is never restored. Noise that is equal in all
        directions is so in these coordinates.
        """
        return z @ self.axes if self.is_wide else z

    def loss(self, x: Tensor, target: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        """Sum over the networks of the squared error per feature, (batch,).

        The target is the number of the row's fold: a network does not learn from the rows of its
        own. These tell how large the errors of new rows are.
        """
        decorrelated = self.gains * x if self.is_wide else self.decorrelate(x)
        rows = torch.stack([x, decorrelated]).repeat_interleave(self.n_members, dim=0)
        levels = uniform_like(rows[..., :1], 0.0, MAX_NOISE_LEVEL)
        restored = self.restore(rows + levels * normal_like(rows))
        squares = torch.square(restored - rows)  # (n_networks, batch, width)
        if known is not None:
            squares = squares * known
        errors = squares.sum(dim=2) / len(self.mean)
        return (errors * (self.member() != target)).sum(dim=0)

    def member(self) -> Tensor:
        """Count the networks of each view, (n_networks, 1)."""
        return torch.arange(self.n_members, device=self.weights[0].device).repeat(N_RESTORED_VIEWS)[
            :, None
        ]

    def restore(self, rows: Tensor) -> Tensor:
        """Let each network remove noise, (n_networks, batch, n_features) -> the same."""
        for weights, biases in zip(self.weights[:-1], self.biases[:-1], strict=True):
            rows = nn.functional.silu(torch.baddbmm(biases, rows, weights))
        return torch.baddbmm(self.biases[-1], rows, self.weights[-1])

    def errors(self, views: Tensor, folds: Tensor | None = None) -> Tensor:
        """Squared errors, mean over the networks of a view, (n_restored_views, batch, d).

        With the folds of training rows, the mean is over the networks that have not seen the row.
        """
        views = views[-N_RESTORED_VIEWS:]
        rows = self.to_restore(views).repeat_interleave(self.n_members, dim=0)
        restored = self.restore(rows)
        if self.is_wide:
            restored = restored @ self.axes.T
        shape = (N_RESTORED_VIEWS, self.n_members)
        errors = torch.square(restored.unflatten(0, shape) - views[:, None])
        if folds is not None:
            weights = (self.member() == folds).unflatten(0, shape)
            errors = self.n_members * errors * weights[..., None]
        return errors.mean(dim=1)

    def rules(self) -> Rules:
        """Conditions that predict columns."""
        return Rules(self.rule_columns, self.rule_signs, self.rule_limits)

    def unforeseen(self, squashed: Tensor, seen: Seen | None = None) -> Tensor:
        """Squared difference to what the other columns predict, in its mean, (batch, d)."""
        met = self.rules().met(squashed)
        if seen is None:
            predicted = Prediction(self.slopes, self.effects, self.intercept).predict(squashed, met)
        else:
            each = seen.predictions.predict(squashed, met)  # (n_folds, batch, d)
            predicted = each[seen.folds % N_RULE_FOLDS, torch.arange(len(squashed))]
        return torch.square(squashed - predicted) / self.unpredicted

    def tails(self, z: Tensor) -> Tensor:
        """Minus the logarithm of the share of references as far out, by column, (batch, d)."""
        places = torch.searchsorted(self.tail_edges, z.T.contiguous())  # (d, batch)
        return self.tail_values.gather(1, places).T

    def distances(self, z: Tensor, known: Tensor | None = None, seen: Seen | None = None) -> Tensor:
        """Distance of each cell from what is expected, in all ways, (n_distances, batch, d).

        Parameters
        ----------
        z : Tensor of shape (batch, n_features)
            Standardized rows, with their unknown cells filled.
        known : Tensor of shape (batch, n_features), default=None
            Which cells are known, as ones; None for all. The others are at no distance, and known
            ones count for them.
        seen : Seen, default=None
            If the rows are references. They are then compared with the others only.
        """
        views = self.views(z)
        numbers, members, folds = (None,) * 3 if seen is None else seen[:3]
        found = slice(N_NEAREST_VIEWS)
        distances = torch.cat(
            [
                nearest_distances(views[found], self.reference_views[found], numbers),
                near_distances(views, self.centers, self.variances, self.n_near(), members),
                self.errors(views, folds),
                self.unforeseen(views[0], seen)[None],
                self.tails(z)[None],
            ]
        )
        if known is not None:
            n_known = known.sum(dim=1, keepdim=True).clamp(min=1)
            distances *= known * (z.shape[1] / n_known)
        return distances

    def n_near(self) -> int:
        """Count the references in a neighbourhood."""
        return numbers_of_neighbors(len(self.references))[1]

    def calibrate(self, seen: Seen) -> None:
        """Note how the distances of the references are distributed."""
        distances = self.left_out_distances(self.references, seen)
        left_out = seen.folds < self.n_members
        known = torch.ones_like(distances)
        known[RESTORED] = left_out.to(known.dtype)
        if not left_out.any():  # heavy rows alone are references, and all networks have seen them
            distances[RESTORED] = self.errors(self.reference_views).sum(dim=2)
            known[RESTORED] = 1.0
        shares = known / known.sum(dim=1, keepdim=True)
        # A row that occurs twice is at no distance from the others.
        self.floor = 1e-3 * (shares * distances).sum(dim=1) + 1e-9
        logs = torch.log(distances + self.floor[:, None])
        self.log_mean = (shares * logs).sum(dim=1)
        variances = (shares * torch.square(logs - self.log_mean[:, None])).sum(dim=1)
        self.log_spread = torch.sqrt(variances) + 1e-2

    def weigh(self, shares: tuple[float, ...]) -> None:
        """Let each kind of distances have its share of the score.

        Parameters
        ----------
        shares : tuple of float
            One for each of `KINDS`.
        """
        of_each = [share / n for share, n in zip(shares, N_DISTANCES, strict=True)]
        shares_of_each = torch.tensor(of_each, dtype=torch.float32)
        self.shares = shares_of_each.repeat_interleave(torch.tensor(N_DISTANCES))
        self.shares /= self.shares.sum()

    def prefer_what_sees_broken_rows(self, seen: Seen, rng: np.random.Generator) -> None:
        """Let those distances count more that tell rows from copies with cells of other rows.

        Only references are taken that a network of each view has not seen.
        """
        (whole,) = torch.nonzero(seen.folds < self.n_members, as_tuple=True)
        if len(whole) == 0:
            return
        seen = seen.take(whole)
        rows = self.references[whole]
        before = self.left_out_distances(rows, seen)
        areas = torch.zeros_like(self.shares)
        for n_cells in (1, max(1, round(SHARE_BROKEN * rows.shape[1]))):
            broken = with_foreign_cells(rows, self.references, n_cells, rng)
            after = self.left_out_distances(broken, seen)
            areas += area_under_curve(before, after) / 2.0
        reliability = len(rows) / (len(rows) + N_ROWS_HALF_KNOWN)
        self.shares *= torch.exp(SHARPNESS * reliability * (areas - areas.max()))
        self.shares /= self.shares.sum()

    def left_out_distances(self, rows: Tensor, seen: Seen) -> Tensor:
        """Distances of references or broken copies of these, (n_distances, batch)."""
        parts = torch.arange(len(rows)).split(self.n_rows_together())
        return torch.cat(
            [self._left_out_distances(rows[part], seen.take(part)) for part in parts], dim=1
        )

    def _left_out_distances(self, rows: Tensor, seen: Seen) -> Tensor:
        return self.distances(rows, seen.known, seen).sum(dim=2)

    def n_rows_together(self) -> int:
        """Count the rows that are scored together."""
        return max(1, self.max_cells // max(self.references.shape))

    def contributions(self, x: Tensor) -> Tensor:
        """Part of each cell in the score, (batch, n_features)."""
        return torch.cat([self._contributions(part) for part in x.split(self.n_rows_together())])

    def contributions_of_known(self, x_and_known: Tensor) -> Tensor:
        """Part of each known cell in the score, (batch, n_features).

        Parameters
        ----------
        x_and_known : Tensor of shape (batch, 2 * n_features)
            Rows with their unknown cells filled; then ones for known cells.
        """
        parts = x_and_known.split(self.n_rows_together())
        return torch.cat([self._contributions(*part.chunk(2, dim=1)) for part in parts])

    def _contributions(self, x: Tensor, known: Tensor | None = None) -> Tensor:
        cells = self.distances(self.standardize(x), known)
        cells += self.floor[:, None, None] / x.shape[1]
        distances = cells.sum(dim=2)  # (n_distances, batch)
        z = (torch.log(distances) - self.log_mean[:, None]) / self.log_spread[:, None]
        evidence = -torch.special.log_ndtr(-z)
        if known is not None:
            evidence = evidence * known.any(dim=1)  # nothing speaks against a row without any
            cells = cells * known
            distances = cells.sum(dim=2) + (~known.any(dim=1)).to(cells.dtype)
        return torch.einsum("kb,kbd->bd", self.shares[:, None] * evidence / distances, cells)

    def expected(self, x: Tensor) -> Tensor:
        """Mean of the nearest other training rows, over the views, (batch, n_features).

        A training row is not compared with itself: a typo in it would be expected in part.
        """
        return torch.cat([self._expected(part) for part in x.split(self.n_rows_together())])

    def _expected(self, x: Tensor) -> Tensor:
        z = self.standardize(x)
        n_nearest, _ = numbers_of_neighbors(len(self.references))
        total = torch.zeros_like(x)
        found = slice(N_NEAREST_VIEWS)
        order = neighbors(self.views(z)[found], self.reference_views[found], n_nearest + 1)
        for numbers in order:
            nearest = self.references[numbers]  # (batch, n_nearest + 1, d)
            same = torch.isclose(nearest, z[:, None], rtol=1e-5, atol=1e-6).all(dim=2)
            # The row itself goes, or else the farthest.
            left_out = torch.where(same.any(dim=1), same.int().argmax(dim=1), n_nearest)
            kept = torch.arange(n_nearest + 1, device=x.device) != left_out[:, None]
            total += (nearest * kept[..., None]).sum(dim=1) / n_nearest
        return self.mean + self.scale * total / N_NEAREST_VIEWS


# Where the restored distances are among all of them.
RESTORED = slice(N_NEAREST_VIEWS + N_VIEWS, N_NEAREST_VIEWS + N_VIEWS + N_RESTORED_VIEWS)


def tails_of(references: Tensor) -> tuple[Tensor, Tensor]:
    """Edges of steps in the columns, and minus the log of the share of references beyond each step.

    Below the median, the references beyond a cell are those that are not above it, and above the
    median those that are not below it.

    Returns
    -------
    edges : Tensor of shape (n_features, n_references)
        References in order. Equal cells count as beyond, however they were rounded.
    values : Tensor of shape (n_features, n_references + 1)
        Between the edges and outside of them.
    """
    n = len(references)
    ordered = references.T.double().sort(dim=1).values
    tie = TIE * (1.0 + ordered.abs())
    upper = torch.arange(n) >= n // 2
    edges = torch.where(upper, ordered + tie, ordered - tie)
    n_below = torch.arange(n + 1, dtype=torch.float64)
    n_beyond = torch.minimum(n_below, n - n_below).clamp(min=0.5).expand(len(ordered), -1).clone()
    # A cell at the median has all cells that equal it on both sides.
    middle = ordered[:, n // 2, None]
    is_equal = torch.abs(ordered - middle) <= 2.0 * tie
    not_above = (is_equal | (ordered < middle)).sum(dim=1)
    not_below = (is_equal | (ordered > middle)).sum(dim=1)
    n_beyond[:, n // 2] = torch.minimum(not_above, not_below).double()
    return edges.to(references.dtype).contiguous(), torch.log(n / n_beyond).to(references.dtype)


def with_foreign_cells(
    rows: Tensor, others: Tensor, n_cells: int, rng: np.random.Generator
) -> Tensor:
    """Replace cells of each row, in random columns, by cells of random other rows."""
    columns = torch.from_numpy(rng.random(tuple(rows.shape)).argsort(axis=1)[:, :n_cells].copy())
    donors = torch.from_numpy(rng.integers(len(others), size=(len(rows), n_cells)))
    return rows.scatter(1, columns, others[donors, columns])


def area_under_curve(lower: Tensor, higher: Tensor) -> Tensor:
    """Probability that one of `higher` exceeds one of `lower`, ties by half, (n_distances,)."""
    differences = higher[:, :, None] - lower[:, None]
    return (0.5 + 0.5 * torch.sign(differences)).mean(dim=(1, 2))


def uniform(*shape: int, fan_in: int) -> nn.Parameter:
    """Weights that keep the size of what passes through them, as those of `torch.nn.Linear`."""
    bound = 1.0 / math.sqrt(fan_in)
    weights = torch.empty(shape, dtype=torch.float32)
    return nn.Parameter(weights.uniform_(-bound, bound, generator=generator(CPU)))


def numbers_of_neighbors(n_references: int) -> tuple[int, int]:
    """How many references are the nearest of a row, and how many are near."""
    nearest = max(1, min(N_NEAREST, n_references - 1))
    return nearest, max(nearest + 1, int(SHARE_NEAR * n_references))


def squared_distances_to(rows: Tensor, points: Tensor, variances: Tensor | None = None) -> Tensor:
    """Squared distances of rows to points, plus the variance around these.

    Computed in float64, because the squares of far rows cancel.

    Parameters
    ----------
    rows : Tensor of shape (n_views, batch, n_features)
    points : Tensor of shape (n_views, n_points, n_features)
    variances : Tensor of shape (n_views, n_points, n_features), default=None

    Returns
    -------
    Tensor of shape (n_views, batch, n_points)
    """
    rows, points = rows.double(), points.double()
    lengths = torch.square(points)
    if variances is not None:
        lengths = lengths + variances
    # The squares are two more columns of the product, which saves passes over the result.
    one = rows.new_ones(len(rows), 1, 1)
    of_rows = [rows, torch.square(rows).sum(dim=2, keepdim=True), one.expand(-1, rows.shape[1], 1)]
    of_points = [-2.0 * points, one.expand(-1, points.shape[1], 1), lengths.sum(2, keepdim=True)]
    return torch.cat(of_rows, dim=2) @ torch.cat(of_points, dim=2).mT


def lowest(numbers: Tensor, n: int) -> Tensor:
    """Places of the n lowest numbers along the last axis, in order, (..., n).

    The n lowest are in the n groups with the lowest minima, which are found faster. Which one of a
    tie comes first must not depend on how a product was rounded: float32 numbers are compared.
    """
    n_groups = -(-numbers.shape[-1] // GROUP_SIZE)
    if n_groups <= n:
        return numbers.float().topk(n, largest=False).indices
    missing = n_groups * GROUP_SIZE - numbers.shape[-1]
    if missing:
        numbers = nn.functional.pad(numbers, (0, missing), value=math.inf)
    # The members of a group are n_groups apart, so that minima of neighbours are taken together.
    minima = numbers.unflatten(-1, (GROUP_SIZE, n_groups)).amin(dim=-2)
    groups = minima.float().topk(n, largest=False).indices
    steps = n_groups * torch.arange(GROUP_SIZE, device=numbers.device)
    candidates = (groups[..., None] + steps).flatten(-2)  # (..., n * GROUP_SIZE)
    first = numbers.gather(-1, candidates).float().topk(n, largest=False).indices
    return candidates.gather(-1, first)


def neighbors(rows: Tensor, references: Tensor, n: int, left_out: Tensor | None = None) -> Tensor:
    """Numbers of the closest references of each row, in order, (n_views, batch, n).

    Parameters
    ----------
    rows : Tensor of shape (n_views, batch, n_features)
    references : Tensor of shape (n_views, n_references, n_features)
    n : int
    left_out : Tensor of shape (batch,), default=None
        Number of a reference that is not taken.
    """
    squared = squared_distances_to(rows, references)
    if left_out is not None:
        squared[:, torch.arange(len(left_out)), left_out] = math.inf
    return lowest(squared, n)


def nearest_distances(rows: Tensor, references: Tensor, left_out: Tensor | None = None) -> Tensor:
    """Mean squared difference to the nearest references, (n_views, batch, d).

    The parameters are those of `neighbors`.
    """
    n_nearest, _ = numbers_of_neighbors(references.shape[1])
    order = neighbors(rows, references, n_nearest, left_out)
    views = torch.arange(len(rows), device=rows.device)[:, None]
    total = torch.zeros_like(rows)
    for numbers in order.unbind(dim=2):
        total += torch.square(rows - references[views, numbers])
    return total / n_nearest


def near_distances(
    rows: Tensor,
    centers: Tensor,
    variances: Tensor,
    n_near: int,
    members: Tensor | None = None,
) -> Tensor:
    """Mean squared difference to the references in the closest neighbourhood, (n_views, batch, d).

    It is ``E(x - r)^2 = (x - E(r))^2 + V(r)``. The closest neighbourhood has the smallest sum.

    Parameters
    ----------
    rows : Tensor of shape (n_views, batch, n_features)
    centers, variances : Tensor of shape (n_views, n_neighborhoods, n_features)
        Moments of the references in each neighbourhood.
    n_near : int
        Number of these.
    members : Tensor of shape (n_views, batch, n_neighborhoods), default=None
        Whether a row belongs to the neighbourhood. It is then compared with the others there.
    """
    squared = squared_distances_to(rows, centers, variances)
    without_itself = n_near / (n_near - 1.0)  # its own difference is zero
    if members is not None:
        squared = torch.where(members, without_itself * squared, squared)
    closest = lowest(squared, 1)[..., 0]
    views = torch.arange(len(rows), device=rows.device)[:, None]
    cells = torch.square(rows - centers[views, closest]) + variances[views, closest]
    if members is not None:
        own = members.gather(2, closest[..., None])
        cells = torch.where(own, without_itself * cells, cells)
    return cells


class Neighborhoods(NamedTuple):
    """Groups of references that are close to each other."""

    centers: Tensor
    """(n_views, n_neighborhoods, n_features)"""
    variances: Tensor
    """(n_views, n_neighborhoods, n_features)"""
    members: Tensor
    """Which references belong to which, (n_views, n_references, n_neighborhoods)."""


def neighborhoods(references: Tensor, chosen: Tensor) -> Neighborhoods:
    """Describe the neighbourhoods of some references.

    Parameters
    ----------
    references : Tensor of shape (n_views, n_references, n_features)
    chosen : Tensor of shape (n_neighborhoods,)
        Numbers of those in their middle.
    """
    n_near = min(numbers_of_neighbors(references.shape[1])[1], references.shape[1])
    order = neighbors(references[:, chosen], references, n_near)
    members = torch.zeros(len(references), len(chosen), references.shape[1], dtype=torch.float64)
    members.scatter_(2, order, 1.0)
    wide = references.double()
    centers = members @ wide / n_near
    variances = (members @ torch.square(wide) / n_near - torch.square(centers)).clamp(min=0.0)
    dtype = references.dtype
    return Neighborhoods(centers.to(dtype), variances.to(dtype), members.mT > 0.0)


def n_threads(n_products: int) -> int | None:
    """Threads for work of so many multiply-adds; None is as many as there are."""
    return 1 if n_products < PARALLEL_PRODUCTS else None


def sample(n_rows: int, n: int, weights: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """Draw rows in proportion to their weights, as evenly as possible; sorted numbers, (n,).

    A row is drawn as often as its share times n, rounded up or down: all rows once if n is their
    number and their weights are equal.
    """
    order = rng.permutation(n_rows)
    total = np.cumsum(np.ones(n_rows) if weights is None else weights[order])
    positions = (np.arange(n) + 0.5) / n * total[-1]
    return np.sort(order[np.searchsorted(total, positions)])


def standardize(x: Any, mean: Any, scale: Any) -> Any:
    """Rows, of Torch or NumPy, in standard deviations from the mean.

    Half of each is subtracted, because the difference of two huge numbers may be infinite.
    """
    return (2.0 * ((0.5 * x - 0.5 * mean) / scale)).clip(-FARTHEST, FARTHEST)


def standardization(X: np.ndarray, weights: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the known cells of columns, or one instead of zero.

    Columns are divided by a power of two first, so that no square overflows or vanishes.
    """
    units = 2.0 ** (np.frexp(np.nanmax(np.abs(X), axis=0))[1] - 1.0)
    scaler = StandardScaler().fit(X / units, sample_weight=weights)
    constant = scaler.var_ == 0.0
    return scaler.mean_ * units, np.where(constant, 1.0, scaler.scale_ * units)


def ledoit_wolf_shrinkage(z: np.ndarray, variances: np.ndarray) -> float:
    """Share of its mean variance in the shrunk covariance of centred rows.

    Parameters
    ----------
    z : ndarray of shape (n_rows, n_features)
    variances : ndarray of shape (n_components,)
        Of all principal components.

    References
    ----------
    Ledoit & Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", Journal
    of Multivariate Analysis 88 (2004).
    """
    squared_norm = np.square(variances).sum()
    distance = squared_norm - np.square(variances.sum()) / z.shape[1]
    fourth_moment = np.square(np.square(z).sum(axis=1)).mean()
    error = (fourth_moment - squared_norm) / len(z)
    return float(np.clip(error / distance, 0.0, 1.0)) if distance > 0.0 else 0.0


def scaling_of(z: np.ndarray) -> Scaling:
    """Describe standardized rows, in float64."""
    median = np.median(z, axis=0)
    lower, upper = np.quantile(z, [0.25, 0.75], axis=0)
    spread = (upper - lower) / 1.349
    spread[spread < 1e-3] = 1.0  # most rows have the same value there
    squashed = StandardScaler().fit(np.arcsinh((z - median) / spread))
    # Torch's decomposition keeps to the number of threads, as that of NumPy does not.
    with threads(n_threads(z.size * min(z.shape))):
        _, singular_values, axes = torch.linalg.svd(torch.from_numpy(z), full_matrices=False)
    variances = np.square(singular_values.numpy()) / len(z)
    shrinkage = ledoit_wolf_shrinkage(z, variances)
    elsewhere = shrinkage * variances.sum() / z.shape[1]
    variances = (1.0 - shrinkage) * variances + elsewhere
    return Scaling(
        median,
        spread,
        squashed.mean_,
        squashed.scale_,
        axes.numpy().T,
        1.0 / np.sqrt(np.maximum(variances, 1e-6)),
        np.asarray(1.0 / np.sqrt(max(elsewhere, 1e-6))),
    )


def build_experts(
    n_members: int,
    mean: np.ndarray,
    scale: np.ndarray,
    references: np.ndarray,
    folds: Tensor,
    known: Tensor | None,
    rng: np.random.Generator,
) -> tuple[Experts, Seen]:
    """Networks with random weights, and all else that the standardized references tell.

    Also gives what of this the references are part of.
    """
    scaling = scaling_of(references.astype(np.float64))
    n_references, n_features = references.shape
    n_neighborhoods = min(N_NEIGHBORHOODS, n_references)
    module = Experts(n_members, n_features, n_references, scaling.axes.shape[1], n_neighborhoods)
    for name, array in scaling._asdict().items():
        setattr(module, name, torch.from_numpy(np.asarray(array, dtype=np.float32)))
    module.mean, module.scale = torch.from_numpy(mean), torch.from_numpy(scale)
    module.references = torch.from_numpy(references)
    module.reference_views = module.views(module.references)
    module.tail_edges, module.tail_values = tails_of(module.references)
    chosen = torch.arange(n_neighborhoods) * n_references // n_neighborhoods
    found = neighborhoods(module.reference_views, chosen)
    module.centers, module.variances = found.centers, found.variances

    squashed = module.reference_views[0].double()
    rules = draw_rules(squashed, N_RULES, rng)
    module.rule_columns, module.rule_signs, module.rule_limits = (
        rules.columns,
        rules.signs.float(),
        rules.limits.float(),
    )
    rules = Rules(*(part.double() if part.is_floating_point() else part for part in module.rules()))
    rule_folds = folds % N_RULE_FOLDS
    of_folds = fit_predictions(squashed, rules, rule_folds, N_RULE_FOLDS)
    predicted = of_folds.predict(squashed, rules.met(squashed))[
        rule_folds, torch.arange(n_references)
    ]
    module.unpredicted = (torch.square(squashed - predicted).mean(dim=0) + 1e-6).float()
    of_all = fit_prediction(squashed, rules)
    module.slopes, module.effects, module.intercept = (part.float() for part in of_all)
    predictions = Prediction(*(part.float() for part in of_folds))
    return module, Seen(torch.arange(n_references), found.members, folds, known, predictions)


def gaussian_of(module: Experts) -> Gaussian:
    """Distribution of standardized rows with the covariance that decorrelates them."""
    return Gaussian.from_axes(
        np.zeros(len(module.mean)),
        module.axes.T.double().numpy(),
        1.0 / np.square(module.gains.double().numpy()),
        float(1.0 / np.square(module.gain_elsewhere.double().numpy())),
    )


def fill_gaps(z: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Put the most likely values, given their row's known cells, in the place of unknown cells.

    Parameters
    ----------
    z : ndarray of shape (n_samples, n_features)
        Standardized rows. Every column has a known cell.
    chosen : ndarray of shape (n_references,)
        Numbers of the rows that tell what is likely.
    """
    rows = z[chosen]
    rows = rows[~np.isnan(rows).all(axis=1)]
    # A column of which these know nothing is filled by its mean.
    seen = ~np.isnan(rows).all(axis=0)
    n_components = min(int(seen.sum()), MAX_COMPONENTS)
    weights = np.full(len(rows), 1.0 / len(rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # cells are filled well before
        mean, covariance = known_moments(rows[:, seen], weights, n_components, "DenoisingEnsemble")
    gaussian = most_likely(torch.from_numpy(mean), torch.from_numpy(covariance), n_components)
    filled = z.copy()
    filled[:, seen] = gaussian.fill(z[:, seen])
    return np.nan_to_num(filled, nan=0.0)


def train_experts(
    module: Experts, rows: Rows, progress: Progress, n_epochs: int, reporter: EpochReporter
) -> None:
    """Train for a fixed number of epochs."""
    settings = Settings(
        solver="adam",
        learning_rate_init=LEARNING_RATE_INIT,
        batch_size=BATCH_SIZE,
        max_iter=n_epochs,
    )
    train(module, rows, None, progress, settings, reporter)


class DenoisingEnsemble(ModuleEstimator):
    """Outlier score of the rows of a table, without anything to tune.

    Each row is compared with what is expected of it, in nine ways of five kinds, in three views of
    the table: the standardized columns; the same with their tails pulled in by an arcsinh, for
    skewed columns; and the same decorrelated, for relations between columns. The kinds are

    * the mean squared difference to the three nearest training rows, in the first two views;
    * that to the closest group of a tenth of the training rows, in all views;
    * the squared error of what small networks restore that were trained to remove noise, in the
      first and the last view;
    * the squared error of what is predicted of each column by the others, by a ridge regression on
      these and on random rules;
    * minus the logarithm of the share of training rows that are as far out, column by column.

    Distances of different kinds have no common unit. Each is turned into evidence: minus the
    logarithm of the share of training rows at a larger distance, were the logarithms of distances
    normally distributed. The outlier score is a weighted mean of the nine, as in Fisher's method
    for p-values, so that one clear voice is not outvoted by eight that see nothing. A row like the
    training data scores about 1.

    How much each way counts is chosen for the table, if its rows are normal: the more, the better
    it tells training rows from copies of them in which one cell, or a tenth of the cells, come from
    other rows.

    Parameters
    ----------
    n_estimators : int, default=2
        Number of networks in each view of the table. Each leaves out an eighth of the rows, which
        tell how large errors of new rows are.
    contaminated : bool, default=False
        Whether there are outliers among the rows of `fit`.
    device : str, default="auto"
        Where to train and score, as in `AutoencoderTransformer`.
    random_state : int, RandomState instance or None, default=None
        Determines the initial weights, the order of rows and the noise.
    verbose : bool, default=False
        Whether to show a progress bar.

    Attributes
    ----------
    loss_curve_ : list of float
        Loss of each epoch, a sum over the networks.
    device_ : str
        Device of the training.
    n_features_in_ : int
        Number of columns of X.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the columns of X, if it had any that are all strings.

    Notes
    -----
    Training takes 250 steps, or one pass over the data if that is more. At most 1,024 rows, drawn
    at random, are kept to compare others with. Rows are scored in blocks: beside the rows and their
    result, this takes less than 100 MB, whatever their number.

    Every distance is a sum over cells, and so the score is one too: a cell has the share of the
    evidence that it has of the distance. Decorrelation keeps each column as close to itself as it
    can ("ZCA-cor" [1]_), so that a decorrelated cell still speaks of its column.

    The kinds and their shares, the numbers of neighbours, the noise (up to half a standard
    deviation, another for each row) and the learning rate were chosen on half of the tables of a
    benchmark, see the user guide.

    References
    ----------
    .. [1] Kessy, Lewin & Strimmer, "Optimal whitening and decorrelation", The American
       Statistician 72 (2018).
    .. [2] Ledoit & Wolf, "A well-conditioned estimator for large-dimensional covariance matrices",
       Journal of Multivariate Analysis 88 (2004). Shrinkage of the covariance.
    .. [3] Alain & Bengio, "What regularized auto-encoders learn from the data-generating
       distribution", Journal of Machine Learning Research 15 (2014).
    """

    _n_steps: ClassVar[int] = 250
    """Steps of the training, if that is not less than one pass over the data."""

    module_: Experts

    _takes_device_arrays = False
    _needs_float64 = True  # distances are compared in it
    _public_name: ClassVar[str] = "AutoencoderOutlierDetector"  # in messages
    _parameter_constraints: ClassVar[dict[str, list]] = {
        "n_estimators": [Interval(Integral, 1, None, closed="left")],
        "contaminated": ["boolean"],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        n_estimators: int = 2,
        *,
        contaminated: bool = False,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.n_estimators = n_estimators
        self.contaminated = contaminated
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    def fit(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> Self:
        """Learn what the rows of X have in common.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training data. NaN is an unknown cell.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the rows.

        Returns
        -------
        self : object
            Fitted estimator.
        """
        self._validate_params()
        check_alone(type(self).__name__)
        resolve_device(self.device, large=False)
        with unchanged_on_failure(self):
            self._fit(X, sample_weight)
        return self

    def score_samples(self, X: ArrayLike) -> np.ndarray:
        """Minus the outlier score of each row; the higher, the more normal.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data.

        Returns
        -------
        score : ndarray of shape (n_samples,)
            Minus the sum of `contributions`.
        """
        return -self.contributions(X).sum(axis=1)

    def contributions(self, X: ArrayLike) -> np.ndarray:
        """Part of each cell in the outlier score of its row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data.

        Returns
        -------
        contributions : ndarray of shape (n_samples, n_features)
            At least 0; they sum to minus `score_samples`.
        """
        rows, known = self._validate(X)
        if known is None:
            return self._apply("contributions", rows)
        return self._apply("contributions_of_known", np.hstack([rows, known.astype(rows.dtype)]))

    def expected(self, X: ArrayLike) -> np.ndarray:
        """Give the value that the model expected in each cell.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data.

        Returns
        -------
        X_expected : ndarray of shape (n_samples, n_features)
            Mean of the nearest rows of `fit`, other than the row itself, in the units of X.
        """
        return self._apply("expected", self._validate(X)[0])

    def _fit(self, X: Any, sample_weight: ArrayLike | None) -> None:
        X, weights = self._validate_training_data(X, sample_weight)
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        context = self._init_callback_context(max_subtasks=self._n_epochs(len(X)))
        keeper = Keeper(
            self, context, lambda: {"": (to_rows(X, None, weights), X.dtype)}, 0, (seed,)
        )
        (seed,) = keeper.seeds
        building_seed, training_seed = np.random.SeedSequence(seed).generate_state(2).tolist()
        rng = np.random.default_rng(seed)

        mean, scale = standardization(X, weights)
        z = standardize(X, mean, scale)  # (n_samples, n_features)
        folds = rng.permutation(len(z)) % max(N_FOLDS, self.n_estimators)
        chosen = sample(len(z), min(len(z), N_REFERENCES), weights, rng)
        known = None
        if np.isnan(z).any():
            known = torch.from_numpy(~np.isnan(z))
            z = fill_gaps(z, chosen)
        z = z.astype(np.float32)
        with private_random_numbers(building_seed, CPU), torch_at_work(CPU):
            of_chosen = torch.from_numpy(folds[chosen])
            known_chosen = None if known is None else known[chosen]
            module, seen = build_experts(
                self.n_estimators, mean, scale, z[chosen], of_chosen, known_chosen, rng
            )
            module.weigh(SHARES_CONTAMINATED if self.contaminated else SHARES_NORMAL)
        rows = Rows(
            DenseTable(module.to_restore(torch.from_numpy(z))),
            DenseTable(torch.from_numpy(folds)),
            None if weights is None else torch.from_numpy(weights / weights.mean()).float(),
            # Coordinates of wide rows belong to no cell.
            None if known is None or module.is_wide else DenseTable(known),
        )
        step_size = BATCH_SIZE * sum(weight.numel() for weight in module.parameters())
        device = resolve_device(self.device, large=step_size >= LARGE_STEP)
        progress = keeper.begin(Progress())
        with self._training(
            context,
            {"X": X, "sample_weight": sample_weight},
            seed=training_seed,
            device=device,
            n_threads=n_threads(step_size),
            fitted_attributes=lambda: self._fitted_attributes(module, device, progress),
            keeper=keeper,
            module=module,
        ) as reporter:
            n_epochs = self._n_epochs(len(rows))
            train_experts(module.to(device), rows.to(device), progress, n_epochs, reporter)
            with torch.no_grad():
                module.to(CPU).calibrate(seen)
                if not self.contaminated:
                    module.prefer_what_sees_broken_rows(seen, rng)
            self.__dict__.update(self._fitted_attributes(module, device, progress))

    def _n_epochs(self, n_rows: int) -> int:
        return math.ceil(self._n_steps / math.ceil(n_rows / BATCH_SIZE))

    def _fitted_attributes(
        self, module: Experts, device: torch.device, progress: Progress
    ) -> dict[str, Any]:
        """Give what `fit` leaves on the estimator, with this module."""
        n_references, n_features = module.references.shape
        n_axes, n_neighborhoods = module.axes.shape[1], module.centers.shape[1]
        return {
            "module_": copy.deepcopy(module).to(CPU).eval(),
            "loss_curve_": list(progress.loss_curve),
            "device_": str(device),
            "_sizes": (module.n_members, n_features, n_references, n_axes, n_neighborhoods),
        }

    def _validate_training_data(
        self, X: Any, sample_weight: ArrayLike | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Check rows and weights, and leave out the rows of weight zero."""
        X = validate_table(
            self, X, dtype=np.float64, ensure_min_samples=2, ensure_all_finite="allow-nan"
        )
        has_gaps = bool(np.isnan(X).any())
        names = getattr(self, "feature_names_in_", None)
        if sample_weight is None:
            return (rows_with_known_cells(X, None, names)[0] if has_gaps else X), None
        weights = validate_weights(sample_weight, X)
        weights = weights / (weights.max() or 1.0)  # squares of huge ones would overflow
        kept = weights > 0.0
        n_rows = np.count_nonzero(kept)
        if n_rows < 2:
            raise ValueError(
                f"sample_weight leaves {n_rows} row of positive weight; at least 2 are needed."
            )
        X, weights = X[kept], weights[kept]
        return rows_with_known_cells(X, weights, names) if has_gaps else (X, weights)

    def _validate(self, X: ArrayLike) -> tuple[np.ndarray, np.ndarray | None]:
        """Rows with their unknown cells filled, and which cells are known; None if all are."""
        check_is_fitted(self)
        rows = validate_table(self, X, dtype=FLOATS, reset=False, ensure_all_finite="allow-nan")
        if rows.dtype.kind != "f" or not np.isnan(rows).any():
            return rows, None
        known = ~np.isnan(rows)
        mean, scale = self.module_.mean.double().numpy(), self.module_.scale.double().numpy()
        filled = gaussian_of(self.module_).fill(standardize(rows.astype(np.float64), mean, scale))
        return np.where(known, rows, (mean + scale * filled).astype(rows.dtype)), known

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _build_empty(self) -> Experts:
        return Experts(*self._sizes)

    def _threads_to_apply(self, shape: tuple[int, int]) -> int | None:
        _, _, n_references, *_ = self._sizes
        n_rows = min(shape[0], self.module_.n_rows_together())
        return n_threads(N_VIEWS * n_rows * shape[1] * n_references)
