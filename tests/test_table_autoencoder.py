from decimal import Decimal

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from pandas.testing import assert_frame_equal
from scipy.special import expit
from sklearn.base import clone
from sklearn.decomposition import NMF
from sklearn.decomposition import PCA as SklearnPCA  # noqa: N811
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from skae import (
    PCA,
    AutoencoderTransformer,
    DenoisingAutoencoder,
    TableAutoencoder,
    TableEncoder,
    VAETransformer,
)

FAST = {"hidden_layer_sizes": (16,), "max_iter": 8, "random_state": 0}
ESTIMATORS = [
    PCA(3),
    AutoencoderTransformer(3, **FAST),
    DenoisingAutoencoder(3, **FAST),
    VAETransformer(3, **FAST),
]
CHECKED = [
    TableAutoencoder(PCA()),
    *(TableAutoencoder(clone(e).set_params(n_components=2, max_iter=3)) for e in ESTIMATORS[1:]),
]


def make_table(n=300, seed=0):
    """Columns of all kinds that depend on one hidden number."""
    rng = np.random.default_rng(seed)
    size = rng.normal(size=n)

    def three(values):
        return np.digitize(size + 0.4 * rng.normal(size=n), [-0.5, 0.5]), values

    place, towns = three(np.array(["Bonn", "Jena", "Ulm"]))
    step, steps = three(["S", "M", "L"])
    days = (100 * size + 20 * rng.normal(size=n)).round() + 800
    return pd.DataFrame(
        {
            "town": towns[place],
            "size": pd.Categorical(np.array(steps)[step], steps, ordered=True),
            "member": rng.uniform(size=n) < expit(2 * size),
            "orders": rng.poisson(np.exp(0.3 + 0.4 * size)),
            "income": (40 + 10 * size + 3 * rng.normal(size=n)).round(1),
            "since": (pd.Timestamp("2020-01-01") + pd.to_timedelta(days, unit="D")).tz_localize(
                "Europe/Berlin"
            ),
            "country": "DE",
        },
        index=np.arange(n) + 1000,
    )


def with_gaps(table, share=0.2, seed=1):
    rng = np.random.default_rng(seed)
    known = rng.uniform(size=table.shape) >= share
    known[:, -1] = True
    return table.astype({"orders": "Int64", "member": "boolean"}).where(known), known


@pytest.fixture(scope="module")
def table():
    return make_table()


@pytest.fixture(scope="module", params=ESTIMATORS, ids=lambda e: type(e).__name__)
def model(request, table):
    return TableAutoencoder(clone(request.param)).fit(table)


def expected_failed_checks(estimator):
    if isinstance(estimator.estimator, PCA):
        return {}
    return {"check_sample_weight_equivalence_on_dense_data": "training runs in float32"}


@pytest.mark.filterwarnings("ignore:X has values that the columns did not have")
@parametrize_with_checks(CHECKED, expected_failed_checks=expected_failed_checks)
def test_scikit_learn_check(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names:UserWarning")
@pytest.mark.parametrize(
    "check",
    [
        estimator_checks.check_dataframe_column_names_consistency,
        estimator_checks.check_global_output_transform_pandas,
        estimator_checks.check_global_set_output_transform_polars,
        estimator_checks.check_param_validation,
        estimator_checks.check_set_output_transform_pandas,
        estimator_checks.check_set_output_transform_polars,
        estimator_checks.check_transformer_get_feature_names_out,
    ],
    ids=lambda check: check.__name__,
)
def test_scikit_learn_check_that_is_not_yielded(check):
    check("TableAutoencoder", clone(CHECKED[0]))


def assert_same_schema(actual, table):
    assert_frame_equal(actual.iloc[:0], table.iloc[:0], check_index_type=False)


def test_the_way_back_gives_the_same_kind_of_table(model, table):
    codes = model.transform(table)
    assert codes.shape == (300, 3)
    for back in (model.inverse_transform(codes), model.sample(40, random_state=0)):
        assert_same_schema(back, table)
        assert not back.isna().any().any()
        assert (back["orders"] >= 0).all()
    again = model.reconstruct(table)
    assert_same_schema(again, table)
    assert_array_equal(again.index, table.index)
    majority = table["town"].value_counts(normalize=True).max()
    assert (again["town"] == table["town"]).mean() > majority + 0.2
    assert np.corrcoef(again["income"], table["income"])[0, 1] > 0.8


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_other_libraries_get_their_own_tables(table, library):
    columns = ["town", "member", "orders", "income"]
    gaps, known = with_gaps(table)
    convert = {"polars": pl.from_pandas, "pyarrow": pa.Table.from_pandas}[library]
    own = convert(gaps[columns].reset_index(drop=True))
    model = TableAutoencoder(PCA(2)).fit(own)
    for back in (
        model.impute(own),
        model.sample(300, random_state=0),
        model.inverse_transform(model.transform(own)),
    ):
        assert type(back) is type(own)
        assert back.schema == own.schema
    filled = model.impute(own)
    filled = filled if library == "pyarrow" else filled.to_arrow()
    for name in columns:
        column = filled.column(name).to_pandas()
        assert not column.isna().any()
        there = known[:, table.columns.get_loc(name)]
        assert column[there].tolist() == gaps[name][there].tolist()


def test_pca_of_a_table_is_factor_analysis_of_mixed_data(table):
    # Pagès (2004): standardized numbers beside indicators over the roots of their shares.
    columns = table[["town", "member", "income"]]
    town = pd.get_dummies(columns["town"]).to_numpy(float)
    member = pd.get_dummies(columns["member"]).to_numpy(float)
    indicators = np.column_stack([town, member])
    shares = indicators.mean(axis=0)
    income = (columns["income"] - columns["income"].mean()) / columns["income"].std(ddof=0)
    mixed = np.column_stack([(indicators - shares) / np.sqrt(shares), income])
    desired = SklearnPCA(2).fit(mixed)
    model = TableAutoencoder(PCA(2)).fit(columns)
    assert_allclose(model.estimator_.explained_variance_, desired.explained_variance_, rtol=1e-9)
    assert_allclose(np.abs(model.transform(columns)), np.abs(desired.transform(mixed)), atol=1e-9)


@pytest.mark.parametrize("kind", [AutoencoderTransformer, DenoisingAutoencoder])
def test_a_column_of_fifty_categories_does_not_drown_a_number(kind):
    rng = np.random.default_rng(0)
    level = rng.integers(0, 50, 1500)
    table = pd.DataFrame({"level": [f"l{i:02}" for i in level], "x": rng.normal(size=1500)})
    estimator = kind(2, hidden_layer_sizes=(64,), max_iter=60, random_state=0)
    if kind is DenoisingAutoencoder:
        estimator.set_params(noise_level=0.1)
    model = TableAutoencoder(estimator).fit(table)
    # Both begin at one, the loss of a constant.
    errors = model.reconstruction_error(table, per_feature=True).mean()
    assert errors.max() < 0.85
    # Shares of the two directions of the code, whatever their scale.
    codes = model.transform(table)
    codes = (codes - codes.mean(axis=0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(codes.T))).T
    shares = []
    for column in (np.eye(50)[level], table[["x"]].to_numpy()):
        design = np.column_stack([np.ones(1500), column])
        fitted = design @ np.linalg.lstsq(design, codes, rcond=None)[0]
        shares.append(fitted.var(axis=0).sum() / codes.var(axis=0).sum())
    assert min(shares) > 0.3


def test_the_error_of_a_constant_is_one_in_each_column(table):
    # A code that says nothing leaves the best constant.
    estimator = AutoencoderTransformer(
        1, hidden_layer_sizes=(), init="random", max_iter=400, sparsity=50.0, random_state=0
    )
    model = TableAutoencoder(estimator).fit(table)
    errors = model.reconstruction_error(table, per_feature=True).mean()
    assert_allclose(errors.drop("country"), 1.0, atol=0.12)
    assert errors["country"] == 0.0


def test_errors_are_those_of_the_columns_and_sum_to_those_of_rows(model, table):
    by_column = model.reconstruction_error(table, per_feature=True)
    assert list(by_column.columns) == list(table.columns)
    assert_array_equal(by_column.index, table.index)
    modelled = by_column.drop(columns="country")
    assert_allclose(model.reconstruction_error(table), modelled.mean(axis=1), rtol=1e-6)
    if hasattr(model, "contributions"):
        contributions = model.contributions(table)
        assert contributions.shape == table.shape
        assert_allclose(contributions.sum(axis=1), -model.score_samples(table), rtol=1e-6)


def test_a_strange_cell_stands_out_in_its_own_column(model, table):
    strange = table.iloc[[0]].copy()
    strange["income"] = 400.0
    errors = model.reconstruction_error(strange, per_feature=True)
    usual = model.reconstruction_error(table, per_feature=True)
    assert (errors.iloc[0] / usual.std().replace(0.0, np.inf)).idxmax() == "income"
    assert model.score_samples(strange)[0] < np.quantile(model.score_samples(table), 0.02)


def test_the_score_of_a_vae_is_a_bound_of_the_log_probability():
    # Of independent columns, with a code that has nothing to say, it is the entropy.
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "a": rng.choice(["x", "y", "z"], 2000, p=[0.5, 0.3, 0.2]),
            "b": rng.uniform(size=2000) < 0.3,
            "c": rng.poisson(2.0, 2000),
        }
    )
    model = TableAutoencoder(VAETransformer(1, hidden_layer_sizes=(), max_iter=30, random_state=0))
    score = model.fit(table).score(table)
    entropies = [
        -sum(p * np.log(p) for p in table[name].value_counts(normalize=True)) for name in table
    ]
    assert -sum(entropies) - 0.15 < score < -sum(entropies) + 0.05


@pytest.fixture(scope="module", params=ESTIMATORS, ids=lambda e: type(e).__name__)
def gappy(request, table):
    """A table with gaps, which cells are known, and a model that was fitted to it."""
    gaps, known = with_gaps(table)
    return gaps, known, TableAutoencoder(clone(request.param)).fit(gaps)


def test_unknown_cells_have_no_error_and_no_part_in_scores(gappy):
    gaps, known, model = gappy
    errors = model.reconstruction_error(gaps, per_feature=True)
    assert_array_equal(errors.isna(), ~known)
    modelled = errors.drop(columns="country")
    assert_allclose(model.reconstruction_error(gaps), modelled.mean(axis=1).fillna(0), rtol=1e-6)
    assert np.isfinite(model.score_samples(gaps)).all()
    if hasattr(model, "contributions"):
        contributions = model.contributions(gaps)
        assert_allclose(contributions.sum(axis=1), -model.score_samples(gaps), rtol=1e-6)
        if not isinstance(model.estimator, PCA):
            assert_array_equal(contributions[~known], 0.0)


def test_impute_fills_gaps_only_and_keeps_types(table, gappy):
    gaps, known, model = gappy
    filled = model.impute(gaps)
    assert_array_equal(filled.dtypes, gaps.dtypes)
    assert_array_equal(filled.index, gaps.index)
    assert not filled.isna().any().any()
    for place, name in enumerate(table):
        there = known[:, place]
        assert_array_equal(filled[name][there], gaps[name][there])
        hidden = filled[name][~there], table[name][~there]
        if name == "income":
            assert np.corrcoef(*hidden)[0, 1] > 0.6
        elif name == "town":
            assert (hidden[0] == hidden[1]).mean() > 0.5


def test_drawn_imputations_differ_in_gaps_only(gappy):
    gaps, known, model = gappy
    if not isinstance(model.estimator, VAETransformer):
        with pytest.raises(ValueError, match="n_draws=2 needs a distribution of unknown cells"):
            model.impute(gaps, n_draws=2)
        return
    one, other = model.impute(gaps, n_draws=2, random_state=0)
    assert not one.isna().any().any()
    assert_array_equal(one.dtypes, gaps.dtypes)
    differs = one.to_numpy() != other.to_numpy()
    assert differs.any()
    assert not differs[known].any()
    assert_frame_equal(model.impute(gaps, n_draws=2, random_state=0)[0], one)


def test_impute_leaves_other_columns_alone(table):
    gaps, _ = with_gaps(table)
    gaps["letter"] = [f"Dear Sir or Madam, {i}" for i in range(300)]
    gaps.loc[1005, "letter"] = None
    gaps["nothing"] = np.nan
    with pytest.warns(UserWarning, match="leaves out what it cannot encode"):
        model = TableAutoencoder(PCA(2), unsupported="drop").fit(gaps)
    filled = model.impute(gaps)
    assert list(filled.columns) == list(gaps.columns)
    pd.testing.assert_series_equal(filled["letter"], gaps["letter"])
    assert filled["nothing"].isna().all()


def test_impute_knows_categories_that_fit_did_not():
    table = make_table().assign(town=lambda t: t["town"].astype("category"))
    model = TableAutoencoder(PCA(2)).fit(table)
    new = table.assign(town=table["town"].cat.add_categories("Aalen"))
    new.loc[1000, "town"] = "Aalen"
    new.loc[1001, "town"] = None
    with pytest.warns(UserWarning, match="did not have in fit"):
        filled = model.impute(new)
    assert filled.loc[1000, "town"] == "Aalen"
    assert filled.loc[1001, "town"] in ("Bonn", "Jena", "Ulm")
    # The levels of the other table may be fewer.
    few = table.iloc[:2].assign(town=pd.Categorical([None, "Ulm"], ["Ulm"]))
    assert model.impute(few)["town"].notna().all()


def test_imputed_arrays_are_arrays():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 1)) * [1.0, 2.0, 3.0] + 0.1 * rng.normal(size=(50, 3))
    hidden = X.copy()
    hidden[::5, 1] = np.nan
    filled = TableAutoencoder(PCA(1)).fit(hidden).impute(hidden)
    assert isinstance(filled, np.ndarray)
    assert_allclose(filled[::5, 1], X[::5, 1], atol=0.6)
    assert_array_equal(filled[~np.isnan(hidden)], X[~np.isnan(hidden)])


def test_drawn_rows_are_distributed_like_those_of_fit(model, table):
    drawn = model.sample(4000, random_state=0)
    assert_array_equal(model.sample(4000, random_state=0).to_numpy(), drawn.to_numpy())
    for name in ("town", "size", "member"):
        shares = table[name].value_counts(normalize=True)
        found = drawn[name].value_counts(normalize=True).reindex(shares.index)
        assert_allclose(found, shares, atol=0.12)
    assert abs(drawn["income"].mean() - table["income"].mean()) < 0.25 * table["income"].std()
    assert_allclose(drawn["income"].std(), table["income"].std(), rtol=0.3)
    means = [t.groupby("town")["income"].mean() for t in (drawn, table)]
    assert_array_equal(means[0].sort_values().index, means[1].sort_values().index)
    assert len(drawn.drop_duplicates()) > 3000


def test_conditions_are_kept_and_answered(model, table):
    conditions = pd.DataFrame({"town": ["Ulm", "Bonn"], "size": ["L", None]})
    drawn = model.sample(400, random_state=0, conditions=conditions)
    assert_same_schema(drawn, table)
    assert_array_equal(drawn["town"], np.repeat(["Ulm", "Bonn"], 400))
    assert (drawn["size"][:400] == "L").all()
    incomes = drawn["income"].to_numpy().reshape(2, 400).mean(axis=1)
    like = [(table["town"] == "Ulm") & (table["size"] == "L"), table["town"] == "Bonn"]
    assert_allclose(incomes, [table["income"][rows].mean() for rows in like], atol=4.0)


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (pd.DataFrame({"village": ["Ulm"]}), "has a column 'village', which is none"),
        (pd.DataFrame({"town": ["Aalen"]}), "values of column 'town' .* in fit: Aalen"),
        (pd.DataFrame({"town": [3.5]}), "Column 'town' of X holds numbers now, and text in fit"),
        ({"town": "Ulm"}, "must be a DataFrame"),
    ],
)
def test_conditions_that_cannot_be_met_are_named(model, conditions, message):
    with pytest.raises(ValueError, match=message):
        model.sample(1, conditions=conditions)


@pytest.mark.parametrize("n", [0, 1.5, True, "3"])
def test_a_number_of_draws_is_a_positive_integer(model, n):
    with pytest.raises(ValueError, match="n_samples=.* must be an integer of at least 1"):
        model.sample(n)


def test_a_pipeline_and_a_grid_search_take_raw_tables(table):
    target = table["income"] > 40
    features = table.drop(columns="income")
    search = GridSearchCV(
        make_pipeline(TableAutoencoder(PCA(1)), LogisticRegression()),
        {"tableautoencoder__estimator__n_components": [1, 3]},
        cv=2,
    ).fit(features, target)
    assert search.best_score_ > 0.8
    by_score = GridSearchCV(TableAutoencoder(PCA(1)), {"estimator__n_components": [1, 4]}, cv=2)
    assert np.isfinite(by_score.fit(table).best_score_)


def test_codes_have_names_and_an_index(table):
    model = TableAutoencoder(PCA(2)).set_output(transform="pandas").fit(table)
    codes = model.transform(table)
    assert list(codes.columns) == ["pca0", "pca1"]
    assert_array_equal(codes.index, table.index)
    assert_array_equal(model.inverse_transform(codes).index, table.index)


def test_copies_and_files_give_the_same_results(model, table, tmp_path):
    joblib.dump(model, tmp_path / "model.joblib")
    again = joblib.load(tmp_path / "model.joblib")
    assert_array_equal(again.transform(table), model.transform(table))
    assert_frame_equal(again.sample(5, random_state=0), model.sample(5, random_state=0))
    assert_frame_equal(again.schema_, model.schema_)


def test_skops_reads_the_file(table):
    io = pytest.importorskip("skops.io")
    from skae import TRUSTED_TYPES

    model = TableAutoencoder(clone(ESTIMATORS[3])).fit(table)
    again = io.loads(io.dumps(model), trusted=TRUSTED_TYPES)
    assert_array_equal(again.transform(table), model.transform(table))
    assert_frame_equal(again.sample(5, random_state=0), model.sample(5, random_state=0))


def test_weights_reach_the_estimator(table):
    weights = np.random.default_rng(0).integers(0, 3, len(table))
    weighted = TableAutoencoder(PCA(2)).fit(table, sample_weight=weights)
    repeated = TableAutoencoder(PCA(2)).fit(table.loc[table.index.repeat(weights)])
    assert_allclose(
        weighted.estimator_.explained_variance_,
        repeated.estimator_.explained_variance_,
        rtol=1e-9,
    )
    with pytest.raises(ValueError, match="takes no sample_weight"):
        TableAutoencoder(SklearnPCA(2)).fit(table, sample_weight=weights)


def test_partial_fit_goes_on_with_the_columns_of_the_first_rows(table):
    model = TableAutoencoder(PCA(2))
    for start in range(0, 300, 100):
        model.partial_fit(table.iloc[start : start + 100])
    assert model.estimator_.n_samples_seen_ == 300
    assert_same_schema(model.reconstruct(table), table)
    assert not hasattr(TableAutoencoder(SklearnPCA(2)), "partial_fit")


def test_estimators_of_others_are_wrapped(table):
    model = TableAutoencoder(SklearnPCA(3)).fit(table)
    assert_allclose(
        np.abs(model.transform(table)),
        np.abs(TableAutoencoder(PCA(3)).fit(table).transform(table)),
        rtol=1e-6,
        atol=1e-9,
    )
    assert_same_schema(model.sample(5, random_state=0), table)


def test_schema_tells_the_losses(table):
    assert_array_equal(
        TableAutoencoder(clone(ESTIMATORS[3])).fit(table).schema_["loss"],
        [
            "categorical",
            "ordinal",
            "bernoulli",
            "negative_binomial",
            "gaussian",
            "gaussian",
            "none",
        ],
    )
    schema = TableAutoencoder(clone(ESTIMATORS[1])).fit(table).schema_
    assert list(schema["loss"][3:6]) == ["squared_error"] * 3


def test_methods_that_the_estimator_lacks_are_not_there(table):
    model = TableAutoencoder(clone(ESTIMATORS[3]))
    assert hasattr(model, "score_samples")
    assert not hasattr(TableAutoencoder(NMF()), "score_samples")
    with pytest.raises(NotFittedError):
        model.sample(1)


def test_a_failed_fit_leaves_the_earlier_one(table):
    model = TableAutoencoder(PCA(2)).fit(table)
    codes = model.transform(table)
    with pytest.raises(ValueError, match="n_components"):
        model.set_params(estimator__n_components=1000).fit(table)
    assert_array_equal(model.transform(table), codes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(tags=[[1]] * 300), "column 'tags' holds .*make columns of them"),
        (lambda t: t.assign(z=1j), "column 'z' holds complex numbers"),
        (lambda t: t.set_axis([*t.columns[:-1], "town"], axis=1), "the same name: 'town'"),
        (lambda t: t.assign(income=np.inf), "Column 'income' of X holds infinite numbers"),
        (lambda t: t.iloc[:0], "0 sample"),
        (lambda t: t.iloc[:1], "n_samples=1"),
        (lambda t: t[["country"]], "one known value or none"),
        (lambda t: t.assign(text=[f"Dear {i}" for i in range(300)]), "'text' holds 300 different"),
        (lambda t: t.set_axis(pd.MultiIndex.from_product([["a"], t.columns]), axis=1), "several"),
    ],
)
@pytest.mark.parametrize("estimator", [ESTIMATORS[0], ESTIMATORS[3]])
def test_bad_tables_are_refused_in_words(table, estimator, change, message):
    with pytest.raises(ValueError, match=message):
        TableAutoencoder(clone(estimator)).fit(change(table))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="town"), "(?s)missing.*town"),
        (lambda t: t.assign(more=1), "(?s)unseen.*more"),
        (lambda t: t[t.columns[::-1]], "order"),
        (lambda t: t.assign(town=1.5), "Column 'town' of X holds numbers now, and text in fit"),
        (lambda t: t.assign(since="soon"), "Column 'since' of X holds text now"),
        (lambda t: t.assign(income=-np.inf), "Column 'income' of X holds infinite numbers"),
    ],
)
def test_tables_with_other_columns_are_refused_in_words(model, table, change, message):
    for method in (model.transform, model.reconstruct, model.impute, model.reconstruction_error):
        with pytest.raises(ValueError, match=message):
            method(change(table))


def test_integer_names_and_many_levels_and_distant_dates(table):
    rng = np.random.default_rng(0)
    wide = pd.DataFrame(
        {
            0: rng.choice([f"l{i}" for i in range(60)], 300),
            1: pd.Series(np.array(["1500-01-01", "2300-05-05"], "M8[s]")[rng.integers(0, 2, 300)]),
            2: pd.arrays.SparseArray(rng.integers(0, 3, 300)),
        }
    )
    model = TableAutoencoder(PCA(2)).fit(wide)
    assert_same_schema(model.reconstruct(wide), wide)
    assert list(model.reconstruction_error(wide, per_feature=True).columns) == [0, 1, 2]


@pytest.mark.parametrize("loss", ["bernoulli", "poisson"])
def test_losses_of_all_columns_alike_are_refused(table, loss):
    with pytest.raises(ValueError, match=f"loss='{loss}' of the estimator is for all columns"):
        TableAutoencoder(AutoencoderTransformer(2, loss=loss)).fit(table)


def test_sums_by_column_of_the_table(table):
    encoder = TableEncoder().fit(table)
    encoded = encoder.transform(table)
    sums = encoder.sum_by_column(encoded)
    for place, block in enumerate(encoder.blocks_):
        assert_allclose(sums[:, place], encoded[:, block.columns].sum(axis=1))
    with pytest.raises(ValueError, match="encoded columns and needs all of them"):
        encoder.sum_by_column(encoded[:, 1:])


def test_a_level_of_held_out_rows_only_is_unknown_with_a_warning(model, table):
    new = table.iloc[:5].assign(town="Aalen")
    with pytest.warns(UserWarning, match="'town': Aalen"):
        codes = model.transform(new)
    assert np.isfinite(codes).all()
    with pytest.warns(UserWarning, match="'town': Aalen"):
        errors = model.reconstruction_error(new, per_feature=True)
    assert errors["town"].isna().all()


def test_ten_thousand_levels_are_refused_or_grouped():
    levels = pd.DataFrame({"id": [f"l{i}" for i in range(10_000)], "x": np.arange(10_000.0)})
    with pytest.raises(ValueError, match="column 'id' holds 10,000 different values"):
        TableAutoencoder(PCA(1)).fit(levels)
    model = TableAutoencoder(PCA(1), kinds={"id": "category"}).fit(levels)
    assert model.schema_["n_encoded"].tolist() == [50, 1]


def test_decimals_and_nested_values_and_mixed_time_zones():
    rng = np.random.default_rng(0)
    price = [Decimal(f"{value:.2f}") for value in rng.normal(5, 1, 40)]
    table = pd.DataFrame({"price": price, "x": rng.normal(size=40)})
    back = TableAutoencoder(PCA(2)).fit(table).reconstruct(table)
    assert back["price"].tolist() == price
    zones = [pd.Timestamp("2024-01-01", tz=zone) for zone in ("UTC", "Asia/Tokyo")] * 20
    with pytest.raises(ValueError, match="several time zones"):
        TableAutoencoder(PCA(2)).fit(table.assign(when=pd.Series(zones, dtype=object)))
    nested = pa.table({"x": table["x"], "tags": [[1, 2]] * 40})
    with pytest.raises(ValueError, match="'tags' holds nested values"):
        TableAutoencoder(PCA(1)).fit(nested)
