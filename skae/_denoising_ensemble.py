"""DenoisingEnsemble: the outlier score of a table that one knows nothing about."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from numbers import Integral
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.callback import with_callbacks
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
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
from skae._rows import INFERENCE_BATCH_SIZE, DenseTable, Rows, to_rows
from skae._sklearn_compat import Interval
from skae._training import Progress, Settings, TrainableModule, train
from skae._validation import validate_table, validate_weights

# Rows that others are compared with. More of them cost time in proportion and change little.
N_REFERENCES = 2048
# A reference is its own nearest neighbour; beside two others that does not hide it.
N_NEAREST = 3
# Outliers in the training data that are alike are neighbours of each other, but hardly a tenth of
# the references.
SHARE_NEAR = 0.1

HIDDEN_LAYER_SIZES = (128, 128)
MAX_NOISE_LEVEL = 0.5
LEARNING_RATE_INIT = 1e-2
BATCH_SIZE = 128
# Each network of a view leaves one of them out.
N_FOLDS = 8

# Views are the same rows in other coordinates, which keep their columns.
N_VIEWS = 3
# Distances of a row from what is expected, in each view: nearest, near, restored.
N_DISTANCES = 3
# A cell this far out, in standard deviations, is as far as it gets. Squares stay finite.
FARTHEST = 1e9


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


class Experts(TrainableModule):
    """Denoisers in three views of a table.

    Parameters
    ----------
    n_members : int
        Networks in each view.
    n_features, n_references, n_axes : int
    """

    max_cells: ClassVar[int] = 2**19
    """Cells of rows that are scored together, which bounds the memory for wide rows."""

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
    floor: Tensor
    log_mean: Tensor
    log_spread: Tensor

    def __init__(
        self, n_members: int, n_features: int, n_references: int = 1, n_axes: int = 1
    ) -> None:
        super().__init__()
        self.n_members = n_members
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
            "floor": (N_DISTANCES * N_VIEWS,),
            "log_mean": (N_DISTANCES * N_VIEWS,),
            "log_spread": (N_DISTANCES * N_VIEWS,),
        }.items():
            self.register_buffer(name, torch.empty(shape, dtype=torch.float32))
        sizes = (n_features, *HIDDEN_LAYER_SIZES, n_features)
        n_networks = N_VIEWS * n_members
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
        """Standardized rows as they are, with tails pulled in, and decorrelated.

        Parameters
        ----------
        z : Tensor of shape (batch, n_features)

        Returns
        -------
        Tensor of shape (n_views, batch, n_features)
        """
        squashed = torch.arcsinh((z - self.median) / self.spread)
        squashed = (squashed - self.squashed_mean) / self.squashed_scale
        along = (z @ self.axes) * (self.gains - self.gain_elsewhere)  # (batch, n_axes)
        return torch.stack([z, squashed, self.gain_elsewhere * z + along @ self.axes.T])

    def loss(self, x: Tensor, target: Tensor | None = None, known: Tensor | None = None) -> Tensor:
        """Sum over the networks of the squared error per feature, (batch,).

        The target is the number of the row's fold: a network does not learn from the rows of its
        own. These tell how large the errors of new rows are.
        """
        rows = self.views(x).repeat_interleave(self.n_members, dim=0)
        levels = uniform_like(rows[..., :1], 0.0, MAX_NOISE_LEVEL)
        restored = self.restore(rows + levels * normal_like(rows))
        errors = torch.square(restored - rows).mean(dim=2)  # (n_networks, batch)
        return (errors * (self.member() != target)).sum(dim=0)

    def member(self) -> Tensor:
        """Count the networks of each view, (n_networks, 1)."""
        return torch.arange(self.n_members, device=self.weights[0].device).repeat(N_VIEWS)[:, None]

    def restore(self, rows: Tensor) -> Tensor:
        """Let each network remove noise, (n_networks, batch, n_features) -> the same."""
        for weights, biases in zip(self.weights[:-1], self.biases[:-1], strict=True):
            rows = nn.functional.silu(torch.baddbmm(biases, rows, weights))
        return torch.baddbmm(self.biases[-1], rows, self.weights[-1])

    def errors(self, views: Tensor, folds: Tensor | None = None) -> Tensor:
        """Squared errors, mean over the networks of a view, (n_views, batch, n_features).

        With the folds of training rows, the mean is over the networks that have not seen the row.
        """
        rows = views.repeat_interleave(self.n_members, dim=0)
        errors = torch.square(self.restore(rows) - rows)
        if folds is not None:
            weights = (self.member() == folds).to(errors.dtype)  # (n_networks, batch)
            errors = self.n_members * errors * weights[..., None]
        return errors.unflatten(0, (N_VIEWS, self.n_members)).mean(dim=1)

    def squared_distances(self, z: Tensor, folds: Tensor | None = None) -> Tensor:
        """Squared distance of each cell from what is expected, (n_distances * n_views, batch, d).

        Parameters
        ----------
        z : Tensor of shape (batch, n_features)
            Standardized rows.
        folds : Tensor of shape (batch,), default=None
            Folds of the rows, if they are the references themselves. They are then compared with
            the others only.
        """
        views = self.views(z)
        near = [
            neighbor_distances(view, references, leave_out=folds is not None)
            for view, references in zip(views, self.views(self.references), strict=True)
        ]
        return torch.cat([torch.cat(near), self.errors(views, folds)])

    def calibrate(self, folds: Tensor) -> None:
        """Note how the distances of the references are distributed."""
        distances = self.squared_distances(self.references, folds).sum(dim=2)
        known = torch.ones_like(distances)
        left_out = folds < self.n_members
        known[-N_VIEWS:] = left_out.to(known.dtype)
        if not left_out.any():  # heavy rows alone are references, and all networks have seen them
            distances[-N_VIEWS:] = self.errors(self.views(self.references)).sum(dim=2)
            known[-N_VIEWS:] = 1.0
        shares = known / known.sum(dim=1, keepdim=True)
        # A row that occurs twice is at no distance from the others.
        self.floor = 1e-3 * (shares * distances).sum(dim=1) + 1e-9
        logs = torch.log(distances + self.floor[:, None])
        self.log_mean = (shares * logs).sum(dim=1)
        variances = (shares * torch.square(logs - self.log_mean[:, None])).sum(dim=1)
        self.log_spread = torch.sqrt(variances) + 1e-2

    def contributions(self, x: Tensor) -> Tensor:
        """Part of each cell in the score, (batch, n_features)."""
        n_rows = max(1, self.max_cells // x.shape[1])
        return torch.cat([self._contributions(part) for part in x.split(n_rows)])

    def _contributions(self, x: Tensor) -> Tensor:
        cells = self.squared_distances(self.standardize(x))
        cells = cells + self.floor[:, None, None] / x.shape[1]
        distances = cells.sum(dim=2)  # (n_distances * n_views, batch)
        z = (torch.log(distances) - self.log_mean[:, None]) / self.log_spread[:, None]
        evidence = -torch.special.log_ndtr(-z)
        return ((evidence / distances)[..., None] * cells).mean(dim=0)

    def expected(self, x: Tensor) -> Tensor:
        """Mean of the nearest other training rows, over the views, (batch, n_features).

        A training row is not compared with itself: a typo in it would be expected in part.
        """
        z = self.standardize(x)
        n_nearest, _ = numbers_of_neighbors(len(self.references))
        total = torch.zeros_like(x)
        for view, references in zip(self.views(z), self.views(self.references), strict=True):
            nearest = self.references[neighbors(view, references, n_nearest + 1)]
            same = torch.isclose(nearest, z[:, None], rtol=1e-5, atol=1e-6).all(dim=2)
            # The row itself goes, or else the farthest.
            left_out = torch.where(same.any(dim=1), same.int().argmax(dim=1), n_nearest)
            kept = torch.arange(n_nearest + 1, device=x.device) != left_out[:, None]
            total += (nearest * kept[..., None]).sum(dim=1) / n_nearest
        return self.mean + self.scale * total / N_VIEWS


def uniform(*shape: int, fan_in: int) -> nn.Parameter:
    """Weights that keep the size of what passes through them, as those of `torch.nn.Linear`."""
    bound = 1.0 / math.sqrt(fan_in)
    weights = torch.empty(shape, dtype=torch.float32)
    return nn.Parameter(weights.uniform_(-bound, bound, generator=generator(CPU)))


def numbers_of_neighbors(n_references: int) -> tuple[int, int]:
    """How many references are the nearest of a row, and how many are near."""
    nearest = max(1, min(N_NEAREST, n_references - 1))
    return nearest, max(nearest, int(SHARE_NEAR * n_references))


def neighbors(rows: Tensor, references: Tensor, n: int, leave_out: bool = False) -> Tensor:
    """Numbers of the closest references of each row, in order, (batch, n)."""
    rows, references = rows.double(), references.double()
    lengths = torch.square(rows).sum(dim=1)[:, None] + torch.square(references).sum(dim=1)
    squared = lengths - 2.0 * rows @ references.T  # (batch, n_references)
    # Which one of a tie comes first must not depend on how a product was rounded.
    squared = squared.float()
    if leave_out:
        squared.fill_diagonal_(math.inf)
    return squared.topk(n, largest=False).indices


def neighbor_distances(rows: Tensor, references: Tensor, leave_out: bool = False) -> Tensor:
    """Mean squared difference to the nearest and to the near references, (2, batch, d).

    Computed in float64: the squares of far rows cancel, and what is left has to be the same for a
    row whatever its dtype and whichever rows are beside it.
    """
    dtype = rows.dtype
    rows, references = rows.double(), references.double()
    n_nearest, n_near = numbers_of_neighbors(len(references))
    order = neighbors(rows, references, n_near, leave_out)
    nearest = torch.square(rows[:, None] - references[order[:, :n_nearest]]).mean(dim=1)
    # E(x - r)^2 = (x - E(r))^2 + V(r) over the near references.
    shares = rows.new_zeros(len(rows), len(references)).scatter_(1, order, 1.0 / n_near)
    moments = shares @ torch.cat([references, torch.square(references)], dim=1)  # (batch, 2d)
    mean, mean_square = moments.tensor_split(2, dim=1)
    variance = (mean_square - torch.square(mean)).clamp(min=0.0)
    return torch.stack([nearest, torch.square(rows - mean) + variance]).to(dtype)


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
    """Mean and standard deviation of the columns, or one instead of zero; in float64.

    Columns are divided by a power of two first, so that no square overflows or vanishes.
    """
    units = 2.0 ** (np.frexp(np.abs(X).max(axis=0))[1] - 1.0)
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
    n_members: int, mean: np.ndarray, scale: np.ndarray, references: np.ndarray
) -> Experts:
    """Networks with random weights, in views that the standardized references tell."""
    scaling = scaling_of(references.astype(np.float64))
    module = Experts(n_members, references.shape[1], len(references), scaling.axes.shape[1])
    for name, array in scaling._asdict().items():
        setattr(module, name, torch.from_numpy(np.asarray(array, dtype=np.float32)))
    module.mean, module.scale = torch.from_numpy(mean), torch.from_numpy(scale)
    module.references = torch.from_numpy(references)
    return module


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

    Each row is compared with what is expected of it, in nine ways: in three views of the table, by
    three denoisers. The views are the standardized columns; the same with their tails pulled in by
    an arcsinh, for skewed columns; and the same decorrelated, for relations between columns. The
    denoisers are the mean squared difference to the three nearest of the training rows, to a tenth
    of them, and to what small networks restore, which were trained to remove noise.

    Distances of different kinds have no common unit. Each is turned into evidence: minus the
    logarithm of the share of training rows at a larger distance, were the logarithms of distances
    normally distributed. The outlier score is the mean of the nine, as in Fisher's method for
    p-values, so that one clear voice is not outvoted by eight that see nothing. A row like the
    training data scores about 1.

    Parameters
    ----------
    n_estimators : int, default=2
        Number of networks in each view of the table. Each leaves out an eighth of the rows, which
        tell how large errors of new rows are.
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
    Training takes 500 steps, or one pass over the data if that is more. At most 2,048 rows, drawn
    at random, are kept to compare others with.

    Every distance is a sum over cells, and so the score is one too: a cell has the share of the
    evidence that it has of the distance. Decorrelation keeps each column as close to itself as it
    can ("ZCA-cor" [1]_), so that a decorrelated cell still speaks of its column.

    The numbers of neighbours, the noise (up to half a standard deviation, another for each row)
    and the learning rate were chosen on half of the tables of a benchmark, see the user guide.

    References
    ----------
    .. [1] Kessy, Lewin & Strimmer, "Optimal whitening and decorrelation", The American
       Statistician 72 (2018).
    .. [2] Ledoit & Wolf, "A well-conditioned estimator for large-dimensional covariance matrices",
       Journal of Multivariate Analysis 88 (2004). Shrinkage of the covariance.
    .. [3] Alain & Bengio, "What regularized auto-encoders learn from the data-generating
       distribution", Journal of Machine Learning Research 15 (2014).
    """

    _n_steps: ClassVar[int] = 500
    """Steps of the training, if that is not less than one pass over the data."""

    module_: Experts

    _needs_float64 = True  # distances are compared in it
    _public_name: ClassVar[str] = "AutoencoderOutlierDetector"  # in messages
    _parameter_constraints: ClassVar[dict[str, list]] = {
        "n_estimators": [Interval(Integral, 1, None, closed="left")],
        "device": [str],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        n_estimators: int = 2,
        *,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.n_estimators = n_estimators
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    @with_callbacks
    def fit(self, X: ArrayLike, y: Any = None, sample_weight: ArrayLike | None = None) -> Self:
        """Learn what the rows of X have in common.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training data.
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
        return self._apply("contributions", self._validate(X))

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
        return self._apply("expected", self._validate(X))

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
        z = standardize(X, mean, scale).astype(np.float32)  # (n_samples, n_features)
        folds = rng.permutation(len(z)) % max(N_FOLDS, self.n_estimators)
        chosen = sample(len(z), min(len(z), N_REFERENCES), weights, rng)
        with private_random_numbers(building_seed, CPU), torch_at_work(CPU):
            module = build_experts(self.n_estimators, mean, scale, z[chosen])
        rows = Rows(
            DenseTable(torch.from_numpy(z)),
            DenseTable(torch.from_numpy(folds)),
            None if weights is None else torch.from_numpy(weights / weights.mean()).float(),
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
                module.to(CPU).calibrate(torch.from_numpy(folds[chosen]))
            self.__dict__.update(self._fitted_attributes(module, device, progress))

    def _n_epochs(self, n_rows: int) -> int:
        return math.ceil(self._n_steps / math.ceil(n_rows / BATCH_SIZE))

    def _fitted_attributes(
        self, module: Experts, device: torch.device, progress: Progress
    ) -> dict[str, Any]:
        """Give what `fit` leaves on the estimator, with this module."""
        n_references, n_features = module.references.shape
        return {
            "module_": copy.deepcopy(module).to(CPU).eval(),
            "loss_curve_": list(progress.loss_curve),
            "device_": str(device),
            "_sizes": (module.n_members, n_features, n_references, module.axes.shape[1]),
        }

    def _validate_training_data(
        self, X: Any, sample_weight: ArrayLike | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Check rows and weights, and leave out the rows of weight zero."""
        X = validate_table(self, X, dtype=np.float64, ensure_min_samples=2)
        if sample_weight is None:
            return X, None
        weights = validate_weights(sample_weight, X)
        weights = weights / (weights.max() or 1.0)  # squares of huge ones would overflow
        kept = weights > 0.0
        n_rows = np.count_nonzero(kept)
        if n_rows < 2:
            raise ValueError(
                f"sample_weight leaves {n_rows} row of positive weight; at least 2 are needed."
            )
        return X[kept], weights[kept]

    def _validate(self, X: ArrayLike) -> np.ndarray:
        check_is_fitted(self)
        return validate_table(self, X, dtype=FLOATS, reset=False)

    def _build_empty(self) -> Experts:
        return Experts(*self._sizes)

    def _threads_to_apply(self, shape: tuple[int, int]) -> int | None:
        _, _, n_references, _ = self._sizes
        n_rows = min(shape[0], INFERENCE_BATCH_SIZE)
        return n_threads(min(n_rows * shape[1], self.module_.max_cells) * n_references)
