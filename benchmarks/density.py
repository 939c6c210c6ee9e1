"""How likely are unseen rows under VAETransformer, and do rows that it draws look like real ones?

Log-densities of held-out rows in nats, on standardized tables: those that scikit-learn bundles
and, with ``--data``, those of ADBench (its ``.npz`` files in one folder). Everything is fitted to
the training rows alone; columns that are constant there are left out. Against

* PCA that keeps 0.9 of the variance, which all figures are differences to;
* GaussianMixture of 1, 2, 4 or 8 full covariances, whose number rows held out choose, with a floor
  on variances of 1e-6, which is that of VAETransformer, and of 1e-2;
* kernel densities, whose width rows held out choose;
* a Gaussian copula, whose marginal distributions are kernel densities;
* a plain variational autoencoder in Torch, with the layers of VAETransformer, random weights, one
  noise variance that is learned, and early stopping;
* a neural spline flow of the package ``zuko``, if it is installed: three transformations with
  layers of 64 and 64 units, early stopping.

The figures of autoencoders are lower bounds of the log-density, those of the others exact.

The figure of a model and a table is the *median* over the rows of the difference to PCA. A
standardized table may hold cells at a hundred standard deviations; under any normal noise such a
row has a log-density of minus some ten thousand nats, and alone decides the mean, which the file
of ``--json`` has too. Tables with columns of few values are counted apart: the narrower the noise
that a model can take there, the higher its figure, without a limit.

Rows that a model draws are compared with the held-out ones by what a classifier can tell them
apart (C2ST, Lopez-Paz & Oquab 2017): the area under the curve of gradient boosted trees, in
five-fold cross-validation, 0.5 if they cannot be told apart. Copies would pass that test. They
would show in the median distance of drawn rows to the nearest training row, divided by that of
held-out rows: it would be far below one.

    python benchmarks/density.py --data DIR
"""

from __future__ import annotations

import argparse
import copy
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from _common import describe_environment, installed, print_environment, read_tables, write_json
from joblib import Parallel, delayed
from scipy.stats import gaussian_kde, norm, trim_mean
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import cross_val_score, train_test_split
from sklearn.neighbors import KernelDensity, NearestNeighbors
from sklearn.preprocessing import StandardScaler
from torch import nn
from tqdm import tqdm

from skae import VAETransformer

BANDWIDTHS = np.geomspace(0.02, 3.0, 16)
MIXTURE_SIZES = (1, 2, 4, 8)
# A column is continuous if none of its values is that of more than this share of the rows.
LARGEST_SHARE = 0.1
# Nats by which two models count as equal: the float32 of training is worth less than that.
TOLERANCE = 0.01


class Fitted(NamedTuple):
    """A model: log-densities of rows, and new rows."""

    score_samples: Callable[[np.ndarray], np.ndarray]
    sample: Callable[[int], np.ndarray]


def trimmed_mean(scores: np.ndarray) -> float:
    """Mean of what is neither among the lowest nor among the highest tenth of the scores."""
    return float(trim_mean(scores, 0.1))


# Each of the following takes training rows and a seed. What is chosen by held-out rows is so by the
# same measure for all.


def fit_vae(X: np.ndarray, seed: int, **parameters: Any) -> Fitted:
    model = VAETransformer(random_state=seed, **parameters).fit(X)
    return Fitted(
        model.score_samples, lambda n: model.sample(n, random_state=seed, with_noise=True)
    )


def fit_pca(X: np.ndarray, seed: int) -> Fitted:
    model = PCA(0.9, svd_solver="full").fit(X)

    def sample(n: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return rng.multivariate_normal(model.mean_, model.get_covariance(), n, method="eigh")

    return Fitted(model.score_samples, sample)


def fit_mixture(X: np.ndarray, seed: int, floor: float) -> Fitted:
    kept, held_out = train_test_split(X, test_size=0.2, random_state=seed)

    def fit(size: int, rows: np.ndarray) -> GaussianMixture:
        return GaussianMixture(size, reg_covar=floor, random_state=seed).fit(rows)

    sizes = [size for size in MIXTURE_SIZES if size < len(kept)]
    best = max(sizes, key=lambda size: trimmed_mean(fit(size, kept).score_samples(held_out)))
    model = fit(best, X)
    return Fitted(model.score_samples, lambda n: model.sample(n)[0])


def fit_kernels(X: np.ndarray, seed: int) -> Fitted:
    kept, held_out = train_test_split(X, test_size=0.2, random_state=seed)
    best = max(
        BANDWIDTHS,
        key=lambda width: trimmed_mean(
            KernelDensity(bandwidth=width).fit(kept).score_samples(held_out)
        ),
    )
    model = KernelDensity(bandwidth=best).fit(X)
    return Fitted(model.score_samples, lambda n: model.sample(n, random_state=seed))


def fit_copula(X: np.ndarray, seed: int) -> Fitted:
    kernels = [gaussian_kde(column, "silverman") for column in X.T]
    grids = [np.sort(kernel.resample(4000, seed=seed)[0]) for kernel in kernels]
    levels = (np.arange(4000) + 0.5) / 4000

    def to_normal(rows: np.ndarray) -> np.ndarray:
        shares = [
            np.interp(column, grid, levels) for column, grid in zip(rows.T, grids, strict=True)
        ]
        return norm.ppf(np.stack(shares, axis=1))

    correlation = np.corrcoef(to_normal(X).T) + 1e-3 * np.eye(X.shape[1])
    scale = np.sqrt(np.diag(correlation))
    correlation /= np.outer(scale, scale)
    precision, log_determinant = np.linalg.inv(correlation), np.linalg.slogdet(correlation)[1]

    def score_samples(rows: np.ndarray) -> np.ndarray:
        normal = to_normal(rows)
        distance = np.einsum("ij,jk,ik->i", normal, precision - np.eye(len(precision)), normal)
        marginal = sum(
            kernel.logpdf(column) for column, kernel in zip(rows.T, kernels, strict=True)
        )
        return marginal - (distance + log_determinant) / 2.0

    def sample(n: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        normal = rng.multivariate_normal(np.zeros(len(correlation)), correlation, n, method="eigh")
        shares = norm.cdf(normal)
        return np.stack(
            [np.interp(u, levels, grid) for u, grid in zip(shares.T, grids, strict=True)], axis=1
        )

    return Fitted(score_samples, sample)


def descend(
    module: nn.Module,
    loss: Callable[[torch.Tensor], torch.Tensor],
    X: np.ndarray,
    seed: int,
    rate: float,
) -> None:
    """Train by Adam, at most 100 epochs of batches of 64, and keep the best epoch of rows held out.

    Patience is ten epochs, as that of VAETransformer.
    """
    kept, held_out = (
        torch.from_numpy(rows).float()
        for rows in train_test_split(X, test_size=0.1, random_state=seed)
    )
    optimizer = torch.optim.Adam(module.parameters(), rate)
    best, weights, n_idle = math.inf, copy.deepcopy(module.state_dict()), 0
    for _ in range(100):
        for batch in kept[torch.randperm(len(kept))].split(64):
            optimizer.zero_grad()
            loss(batch).mean().backward()
            optimizer.step()
        with torch.no_grad():
            monitored = loss(held_out).mean().item()
        n_idle = 0 if monitored < best else n_idle + 1
        if monitored < best:
            best, weights = monitored, copy.deepcopy(module.state_dict())
        if n_idle == 10:
            break
    module.load_state_dict(weights)


class PlainVAE(nn.Module):
    """The variational autoencoder of tutorials, with a noise variance that is learned."""

    def __init__(self, n_features: int, n_components: int) -> None:
        super().__init__()
        self.n_components = n_components
        self.encoder = nn.Sequential(
            nn.Linear(n_features, 128), nn.SiLU(), nn.Linear(128, 64), nn.SiLU(),
            nn.Linear(64, 2 * n_components),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(n_components, 64), nn.SiLU(), nn.Linear(64, 128), nn.SiLU(),
            nn.Linear(128, n_features),
        )  # fmt: skip
        self.log_noise = nn.Parameter(torch.zeros(()))

    def loss(self, x: torch.Tensor, n_draws: int = 1) -> torch.Tensor:
        """Minus the bound of each row."""
        mean, log_variance = self.encoder(x).chunk(2, dim=-1)
        divergence = (mean**2 + log_variance.exp() - 1.0 - log_variance).sum(dim=-1) / 2.0
        z = mean + (log_variance / 2.0).exp() * torch.randn(n_draws, *mean.shape)
        noise = self.log_noise.exp() + 1e-6
        nats = (torch.log(2.0 * math.pi * noise) + (x - self.decoder(z)) ** 2 / noise) / 2.0
        return nats.sum(dim=-1).mean(dim=0) + divergence

    @torch.no_grad()
    def score_samples(self, X: np.ndarray) -> np.ndarray:
        """Bound of each row from 64 draws."""
        return -self.loss(torch.from_numpy(X).float(), 64).double().numpy()

    @torch.no_grad()
    def sample(self, n: int) -> np.ndarray:
        """Draw rows, with noise."""
        mean = self.decoder(torch.randn(n, self.n_components))
        return (mean + (self.log_noise / 2.0).exp() * torch.randn_like(mean)).double().numpy()


def fit_plain_vae(X: np.ndarray, seed: int) -> Fitted:
    torch.manual_seed(seed)
    module = PlainVAE(X.shape[1], PCA(0.9, svd_solver="full").fit(X).n_components_)
    descend(module, module.loss, X, seed, 0.003)
    return Fitted(module.score_samples, module.sample)


def fit_flow(X: np.ndarray, seed: int) -> Fitted:
    from zuko.flows import NSF

    torch.manual_seed(seed)
    # One coupling of columns in turn instead of all columns one after the other would be faster to
    # draw from; autoregressive transformations are the better densities.
    flow = NSF(X.shape[1], transforms=3, hidden_features=(64, 64))
    descend(flow, lambda batch: -flow().log_prob(batch), X, seed, 0.003)

    @torch.no_grad()
    def score_samples(rows: np.ndarray) -> np.ndarray:
        return flow().log_prob(torch.from_numpy(rows).float()).double().numpy()

    @torch.no_grad()
    def sample(n: int) -> np.ndarray:
        return flow().sample((n,)).double().numpy()

    return Fitted(score_samples, sample)


MODELS: dict[str, Callable[[np.ndarray, int], Fitted]] = {
    "PCA": fit_pca,
    "VAETransformer": fit_vae,
    "mixture, 1e-6": lambda X, seed: fit_mixture(X, seed, 1e-6),
    "mixture, 1e-2": lambda X, seed: fit_mixture(X, seed, 1e-2),
    "kernels": fit_kernels,
    "copula": fit_copula,
    "plain VAE": fit_plain_vae,
}
if installed("zuko"):
    MODELS["spline flow"] = fit_flow


def two_sample_auc(drawn: np.ndarray, real: np.ndarray) -> float:
    """How well boosted trees tell drawn rows from real ones, 0.5 is not at all."""
    rows = np.concatenate([drawn, real])
    is_real = np.repeat([0, 1], [len(drawn), len(real)])
    order = np.random.default_rng(0).permutation(len(rows))
    classifier = HistGradientBoostingClassifier(max_iter=50, random_state=0)
    areas = cross_val_score(classifier, rows[order], is_real[order], cv=5, scoring="roc_auc")
    return float(areas.mean())


def relative_distance(drawn: np.ndarray, test: np.ndarray, train: np.ndarray) -> float:
    """Median distance to the nearest training row, as a multiple of that of held-out rows."""
    neighbors = NearestNeighbors(n_neighbors=1).fit(train)
    medians = [np.median(neighbors.kneighbors(rows)[0]) for rows in (drawn, test)]
    return float(medians[0] / max(medians[1], 1e-12))


def is_continuous(X: np.ndarray) -> bool:
    """Whether no value of any column is that of many rows."""
    counts = [np.unique(column, return_counts=True)[1].max() for column in X.T]
    return bool(max(counts) <= LARGEST_SHARE * len(X))


def compare(name: str, X: np.ndarray, seed: int, labels: list[str]) -> dict[str, Any]:
    """Densities and drawn rows of one split of one table."""
    torch.set_num_threads(1)
    train, test = train_test_split(X, test_size=0.3, random_state=seed)
    varies = train.std(axis=0) > 0
    scaler = StandardScaler().fit(train[:, varies])
    train, test = scaler.transform(train[:, varies]), scaler.transform(test[:, varies])
    result: dict[str, Any] = {
        "table": name, "rows": len(X), "columns": train.shape[1], "seed": seed,
        "continuous": is_continuous(X), "median": {}, "mean": {}, "auc": {}, "distance": {},
        "seconds": {},
    }  # fmt: skip
    with warnings.catch_warnings():
        # What has not converged is reported as it is; tables with columns that nearly are constant
        # are what they are.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", UserWarning)
        reference = None
        for label in labels:
            start = time.process_time()
            model = MODELS[label](train, seed)
            result["seconds"][label] = time.process_time() - start
            densities = model.score_samples(test)
            reference = densities if reference is None else reference
            result["median"][label] = float(np.median(densities - reference))
            result["mean"][label] = float(np.mean(densities - reference))
            drawn = model.sample(len(test))
            result["auc"][label] = two_sample_auc(drawn, test)
            result["distance"][label] = relative_distance(drawn, test, train)
    return result


def per_table(rows: list[dict[str, Any]], quantity: str) -> dict[str, dict[str, float]]:
    """Mean over the splits of a quantity of each table and model."""
    tables: dict[str, list[dict[str, float]]] = {}
    for row in rows:
        tables.setdefault(row["table"], []).append(row[quantity])
    return {
        name: {label: float(np.mean([split[label] for split in splits])) for label in splits[0]}
        for name, splits in tables.items()
    }


def print_tables(rows: list[dict[str, Any]]) -> None:
    """Print a line for each table."""
    shapes = {row["table"]: (row["rows"], row["columns"], row["continuous"]) for row in rows}
    labels = list(rows[0]["median"])
    for quantity, title in {
        "median": "log-density of a held-out row minus that of PCA in nats, median over the rows",
        "auc": "area under the curve of drawn against held-out rows",
    }.items():
        print(f"\n{title}")
        print(f"{'table':<20}{'rows':>6}{'cols':>6}{'cont.':>6}", *(f"{m:>15}" for m in labels))
        for name, values in per_table(rows, quantity).items():
            n_rows, n_columns, continuous = shapes[name]
            print(f"{name:<20}{n_rows:>6}{n_columns:>6}{'yes' if continuous else '':>6}",
                  *(f"{values[label]:>15.2f}" for label in labels))  # fmt: skip


def summarize(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Give the figures of each half of the tables, of all, and of continuous ones."""
    found = {key: per_table(rows, key) for key in ("median", "mean", "auc", "distance", "seconds")}
    names = list(found["median"])
    continuous = {row["table"] for row in rows if row["continuous"]}
    groups = {
        "all": names,
        "continuous": [name for name in names if name in continuous],
        "development half": names[::2],
        "other half": names[1::2],
        "other half, continuous": [name for name in names[1::2] if name in continuous],
    }
    ours = "VAETransformer"
    summary: dict[str, dict[str, dict[str, float]]] = {}
    for group, members in groups.items():
        if not members:
            continue
        summary[f"{group} ({len(members)} tables)"] = {
            label: {
                "median gain": float(np.median([found["median"][n][label] for n in members])),
                "mean gain": float(np.mean([found["median"][n][label] for n in members])),
                "ours at or above": float(
                    np.mean(
                        [
                            found["median"][n][ours] >= found["median"][n][label] - TOLERANCE
                            for n in members
                        ]
                    )
                ),
                "auc": float(np.median([found["auc"][n][label] for n in members])),
                "ours drawn better": float(
                    np.mean([found["auc"][n][ours] < found["auc"][n][label] for n in members])
                ),
                "distance": float(np.median([found["distance"][n][label] for n in members])),
                "seconds": float(np.mean([found["seconds"][n][label] for n in members])),
            }
            for label in found["median"][names[0]]
        }
    return summary


def print_summary(summary: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print a line for each model of each group of tables."""
    for group, figures in summary.items():
        columns = list(next(iter(figures.values())))
        print(f"\n{group:<36}", *(f"{column:>17}" for column in columns))
        for label, values in figures.items():
            print(f"{label:<36}", *(f"{values[column]:>17.2f}" for column in columns))


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of ADBench's .npz files")
    parser.add_argument("--seeds", type=int, default=1, help="splits of each table")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=1500, help="rows of a table at most")
    parser.add_argument("--columns", type=int, default=100, help="leave out tables with more")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--half", type=int, choices=(0, 1), help="only every second table")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    arguments = parser.parse_args()

    environment = describe_environment(["numpy", "scikit-learn", "torch"], peers=["zuko"])
    print_environment(environment)
    tables = list(read_tables(arguments.data, arguments.rows))
    kept = [(name, X) for name, X in tables if X.shape[1] <= arguments.columns]
    if arguments.half is not None:
        kept = kept[arguments.half :: 2]
    labels = ["PCA", *(label for label in arguments.models if label != "PCA")]
    tasks = [
        delayed(compare)(name, X, seed, labels)
        for name, X in kept
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    ]
    results = Parallel(n_jobs=arguments.jobs, return_as="generator")(tasks)
    rows = list(tqdm(results, total=len(tasks), unit="split"))
    print_tables(rows)
    summary = summarize(rows)
    print_summary(summary)
    write_json(arguments.json, {"environment": environment, "rows": rows, "summary": summary})


if __name__ == "__main__":
    main()
