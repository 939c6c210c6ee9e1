"""Predictions of each column of a table from the others, by linear terms and random rules."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# Rules are conjunctions of so many conditions, such as "column 3 > 0.2 and column 8 < 1".
DEPTH = 2
# Values count as equal if they differ by no more than this share, or this.
TIE = 1e-6
# Columns up to which linear terms are among the predictors: their number is squared in memory.
MAX_LINEAR = 256
# Weight of the squares of coefficients, of standardized predictors.
RIDGE_LINEAR, RIDGE_RULES = 1e-3, 1e-2


class Rules(NamedTuple):
    """Conjunctions of conditions ``sign * cell >= limit``, each about other columns."""

    columns: Tensor
    """(n_rules, depth), int64"""
    signs: Tensor
    """(n_rules, depth), 1 or -1"""
    limits: Tensor
    """(n_rules, depth)"""

    def met(self, rows: Tensor) -> Tensor:
        """Ones where a row meets a rule, (batch, n_rules), in the dtype of the rows."""
        # Cells and their opposites, column by column: a sign is then a choice among these.
        cells = torch.cat([rows.mT, -rows.mT])
        met = torch.ones(len(self.columns), len(rows), dtype=torch.bool, device=rows.device)
        for columns, signs, limits in zip(
            self.columns.mT, self.signs.mT, self.limits.mT, strict=True
        ):
            places = torch.where(signs > 0.0, columns, columns + rows.shape[1])
            met &= cells.index_select(0, places) >= limits[:, None]
        return met.to(rows.dtype).mT

    def uses(self, n_features: int) -> Tensor:
        """Whether a rule is about a column, (n_rules, n_features)."""
        used = torch.zeros(len(self.columns), n_features, dtype=torch.bool)
        return used.scatter_(1, self.columns, True)


class Prediction(NamedTuple):
    """Coefficients for each column, zero where a predictor has to do with the column itself."""

    slopes: Tensor
    """Of the columns, (..., n_linear, n_features)."""
    effects: Tensor
    """Of the rules, (..., n_rules, n_features)."""
    intercept: Tensor
    """(..., 1, n_features)"""

    def predict(self, rows: Tensor, met: Tensor) -> Tensor:
        """Predict all cells of rows that meet rules, (..., batch, n_features)."""
        linear = rows[..., : self.slopes.shape[-2]] @ self.slopes
        return linear + met @ self.effects + self.intercept


def n_linear_terms(n_features: int) -> int:
    """Count the columns that are predictors themselves."""
    return n_features if n_features <= MAX_LINEAR else 0


def depth_of_rules(n_features: int) -> int:
    """Count the conditions of a rule, which leave a column to be predicted if there are two."""
    return max(1, min(DEPTH, n_features - 1))


def draw_rules(rows: Tensor, n_rules: int, rng: np.random.Generator) -> Rules:
    """Draw conditions about random columns, each against a random one of their values."""
    n_rows, n_features = rows.shape
    depth = depth_of_rules(n_features)
    columns = rng.random((n_rules, n_features)).argsort(axis=1)[:, :depth]
    values = rows.double().numpy()[rng.integers(n_rows, size=(n_rules, depth)), columns]
    signs = rng.choice([-1.0, 1.0], size=(n_rules, depth))
    # A value equals itself however it was rounded.
    limits = signs * values - TIE * (1.0 + np.abs(values))
    return Rules(*map(torch.from_numpy, (columns.astype(np.int64), signs, limits)))


def fit_prediction(rows: Tensor, rules: Rules) -> Prediction:
    """Regress every column on linear terms and rules that have nothing to do with it.

    All columns share one ridge regression. Its coefficients b for a column are then corrected for
    the predictors S that the column may not have: with the inverse P of the matrix of the normal
    equations, the solution under ``b_S = 0`` is ``b - P_:S (P_SS)^-1 b_S``.

    Parameters
    ----------
    rows : Tensor of shape (n_rows, n_features), float64
    rules : Rules

    References
    ----------
    Friedman & Popescu, "Predictive learning via rule ensembles", Annals of Applied Statistics 2
    (2008). Rules as predictors.
    """
    n_rows, n_features = rows.shape
    n_linear = n_linear_terms(n_features)
    mean = rows.mean(dim=0)
    predictors = torch.cat([rows[:, :n_linear], rules.met(rows)], dim=1)
    centers = predictors.mean(dim=0)
    predictors = predictors - centers
    deviations = torch.sqrt(torch.square(predictors).mean(dim=0))
    deviations = torch.where(deviations > 1e-6, deviations, torch.inf)  # constant ones say nothing
    predictors = predictors / deviations
    ridge = torch.full((predictors.shape[1],), RIDGE_RULES, dtype=rows.dtype)
    ridge[:n_linear] = RIDGE_LINEAR
    inverse = torch.cholesky_inverse(
        torch.linalg.cholesky(predictors.T @ predictors / n_rows + torch.diag(ridge))
    )
    coefficients = inverse @ (predictors.T @ (rows - mean) / n_rows)  # (n_predictors, n_features)
    own = torch.cat([torch.eye(n_features, dtype=torch.bool)[:n_linear], rules.uses(n_features)])
    for column in own.any(dim=0).nonzero()[:, 0].tolist():
        (places,) = torch.nonzero(own[:, column], as_tuple=True)
        among = torch.linalg.solve(inverse[places][:, places], coefficients[places, column])
        coefficients[:, column] -= inverse[:, places] @ among
    coefficients = torch.where(own, 0.0, coefficients) / deviations[:, None]
    intercept = mean - centers @ coefficients
    return Prediction(coefficients[:n_linear], coefficients[n_linear:], intercept[None])


def fit_predictions(rows: Tensor, rules: Rules, folds: Tensor, n_folds: int) -> Prediction:
    """Fit without each fold in turn, for predictions of its rows; stacked, (n_folds, ...)."""
    fitted = []
    for fold in range(n_folds):
        kept = rows[folds != fold]
        fitted.append(fit_prediction(kept if len(kept) else rows, rules))
    return Prediction(*map(torch.stack, zip(*fitted, strict=True)))
