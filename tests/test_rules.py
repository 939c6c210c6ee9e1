import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from skae._rules import (
    RIDGE_LINEAR,
    RIDGE_RULES,
    draw_rules,
    fit_prediction,
    fit_predictions,
    n_linear_terms,
)


def table(n_features, n_rows=120):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n_rows, n_features)) @ rng.normal(size=(n_features, n_features))


def met_by_hand(X, rules):
    met = np.ones((len(X), len(rules.columns)), dtype=bool)
    for rule in range(len(rules.columns)):
        for place in range(rules.columns.shape[1]):
            column, sign = int(rules.columns[rule, place]), float(rules.signs[rule, place])
            met[:, rule] &= sign * X[:, column] >= float(rules.limits[rule, place])
    return met


@pytest.mark.parametrize("n_features", [1, 2, 5])
def test_rules_are_conjunctions_about_other_columns(n_features):
    X = table(n_features)
    rules = draw_rules(torch.from_numpy(X), 30, np.random.default_rng(1))
    np.testing.assert_array_equal(rules.met(torch.from_numpy(X)).numpy(), met_by_hand(X, rules))
    for columns in rules.columns.tolist():
        assert len(set(columns)) == len(columns)


def test_a_value_meets_its_own_condition_however_it_was_rounded():
    X = table(4)
    rules = draw_rules(torch.from_numpy(X), 200, np.random.default_rng(1))
    met = rules.met(torch.from_numpy(X))
    narrow = torch.from_numpy(X.astype(np.float32)).double()
    assert torch.equal(met, rules.met(narrow))


@pytest.mark.parametrize("n_features", [2, 5])
def test_predictions_are_ridge_regressions_without_what_has_to_do_with_the_column(n_features):
    X = table(n_features)
    rows = torch.from_numpy(X)
    rules = draw_rules(rows, 20, np.random.default_rng(1))
    predicted = fit_prediction(rows, rules).predict(rows, rules.met(rows)).numpy()
    met = met_by_hand(X, rules).astype(float)
    uses = rules.uses(n_features).numpy()
    for column in range(n_features):
        others = np.arange(n_features) != column
        kept = met[:, ~uses[:, column] & (met.std(axis=0) > 0.0)]
        predictors = StandardScaler().fit_transform(np.column_stack([X[:, others], kept]))
        # Of a ridge with a weight for each predictor.
        weights = np.sqrt(
            np.r_[np.full(others.sum(), RIDGE_LINEAR), np.full(kept.shape[1], RIDGE_RULES)]
        )
        ridge = Ridge(alpha=len(X)).fit(predictors / weights, X[:, column])
        wanted = ridge.predict(predictors / weights)
        np.testing.assert_allclose(predicted[:, column], wanted, rtol=1e-6, atol=1e-8)


def test_a_cell_has_no_part_in_its_own_prediction():
    X = table(5)
    rows = torch.from_numpy(X)
    rules = draw_rules(rows, 40, np.random.default_rng(1))
    prediction = fit_prediction(rows, rules)
    before = prediction.predict(rows, rules.met(rows))
    for column in range(5):
        other = rows.clone()
        other[:, column] = torch.from_numpy(np.random.default_rng(2).normal(size=len(X)))
        after = prediction.predict(other, rules.met(other))
        np.testing.assert_allclose(after[:, column], before[:, column], rtol=1e-12, atol=1e-12)


def test_predictions_of_a_fold_do_not_know_its_rows():
    X = table(4)
    rows, folds = torch.from_numpy(X), torch.arange(len(X)) % 3
    rules = draw_rules(rows, 20, np.random.default_rng(1))
    stacked = fit_predictions(rows, rules, folds, 3).predict(rows, rules.met(rows))
    for fold in range(3):
        alone = fit_prediction(rows[folds != fold], rules).predict(rows, rules.met(rows))
        np.testing.assert_allclose(stacked[fold], alone, rtol=1e-10)


def test_columns_of_wide_tables_are_predicted_by_rules_alone():
    assert n_linear_terms(10_000) == 0
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 300)))
    rules = draw_rules(rows, 64, np.random.default_rng(1))
    prediction = fit_prediction(rows, rules)
    assert prediction.slopes.shape == (0, 300)
    assert torch.isfinite(prediction.predict(rows, rules.met(rows))).all()
