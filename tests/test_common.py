"""One contract over every public estimator."""

import copy
import io
import pickle
import pickletools
import random
from functools import partial

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import NotFittedError
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch.testing import assert_close

from skae import PCA, AutoencoderTransformer, DenoisingAutoencoder, VAETransformer
from skae._losses import LOSSES
from skae._random import normal_like, private_random_numbers
from skae._rows import Batch, to_rows
from skae._training import Descent, differentiate
from skae.networks import Conv1dNetwork, Conv2dNetwork, RecurrentNetwork

ANY_WIDTH = [
    AutoencoderTransformer(2, hidden_layer_sizes=(8,), max_iter=3, random_state=0),
    DenoisingAutoencoder(2, hidden_layer_sizes=(8,), max_iter=3, random_state=0),
    VAETransformer(2, n_clusters=1, hidden_layer_sizes=(8,), max_iter=3, random_state=0),
    VAETransformer(2, n_clusters=3, hidden_layer_sizes=(8,), max_iter=3, random_state=0),
]
FOUR_COLUMNS = [
    AutoencoderTransformer(2, network=network, max_iter=3, random_state=0)
    for network in (
        Conv1dNetwork((4, 1), (3, 2)),
        Conv2dNetwork((2, 2), (3,)),
        RecurrentNetwork((2, 2), 3, cell="gru"),
        RecurrentNetwork((4, 1), 3, n_layers=2),
    )
]
FOUR_COLUMNS += [
    DenoisingAutoencoder(
        2, noise="masking", network=Conv2dNetwork((2, 2), (3,)), max_iter=3, random_state=0
    ),
    DenoisingAutoencoder(
        2,
        loss="gaussian",
        network=RecurrentNetwork((2, 2), 3),
        early_stopping=False,
        contraction=0.01,
        max_iter=3,
        random_state=0,
    ),
    VAETransformer(2, network=Conv2dNetwork((2, 2), (3,)), max_iter=3, random_state=0),
    VAETransformer(
        2,
        loss="gaussian",
        network=RecurrentNetwork((2, 2), 3),
        early_stopping=False,
        beta_warmup=2,
        max_iter=3,
        random_state=0,
    ),
]
DEFAULT = [AutoencoderTransformer(), DenoisingAutoencoder(), VAETransformer()]

# Parameters that change the way of the data, in combination.
COMBINATIONS = [
    clone(ANY_WIDTH[0]).set_params(**parameters)
    for parameters in (
        {"init": "random", "batch_size": 16},
        {"tied_weights": True, "sparsity": 0.01, "early_stopping": True},
        {"hidden_layer_sizes": (), "tied_weights": True, "use_bias": False},
        {"loss": "gaussian", "contraction": 0.01, "dropout": 0.2},
        {"init": "random", "pretrain_iter": 1, "hidden_layer_sizes": (6, 5), "activation": "tanh"},
        {"solver": "sgd", "learning_rate": "cosine", "alpha": 0.01, "precision": "bf16"},
        {"loss": "absolute_error", "sparsity": 0.01, "tied_weights": True},
    )
]
COMBINATIONS += [
    clone(ANY_WIDTH[1]).set_params(**parameters)
    for parameters in (
        {"noise": "salt_and_pepper", "noise_level": (0.0, 0.3), "early_stopping": True},
        {"noise": "swap", "tied_weights": True, "sparsity": 0.01, "contraction": 0.01},
        {"noise": "masking", "init": "random", "pretrain_iter": 1, "hidden_layer_sizes": (6, 5)},
    )
]
COMBINATIONS += [
    clone(ANY_WIDTH[2]).set_params(**parameters)
    for parameters in (
        {"init": "random", "noise_variance": 0.1, "n_importance_samples": 3, "batch_size": 16},
        {"loss": "gaussian", "beta": 2.0, "beta_warmup": 2, "early_stopping": False},
        {"use_bias": False, "dropout": 0.2, "solver": "rmsprop", "precision": "bf16"},
        {"loss": "absolute_error", "early_stopping": False},
    )
]

# These are part of scikit-learn's contract, but `parametrize_with_checks` does not yield them.
MORE_CHECKS = [
    estimator_checks.check_dataframe_column_names_consistency,
    estimator_checks.check_get_feature_names_out_error,
    estimator_checks.check_global_output_transform_pandas,
    estimator_checks.check_global_set_output_transform_polars,
    estimator_checks.check_inplace_ensure_writeable,
    estimator_checks.check_param_validation,
    estimator_checks.check_set_output_transform,
    estimator_checks.check_set_output_transform_pandas,
    estimator_checks.check_set_output_transform_polars,
    estimator_checks.check_transformer_get_feature_names_out,
    estimator_checks.check_transformer_get_feature_names_out_pandas,
]


def expected_failed_checks(estimator):
    return {
        # A step sums float32 numbers, and repeated rows make it sum in another order: the codes
        # agree to about 1e-7, not to the 1e-9 of the check. With mini-batches the equality holds
        # in expectation only, and repeated rows are corrupted apart.
        # test_integer_weights_are_repetitions_at_full_batch stands in.
        "check_sample_weight_equivalence_on_dense_data": "training runs in float32",
        "check_sample_weight_equivalence_on_sparse_data": "training runs in float32",
    }


@parametrize_with_checks(ANY_WIDTH + DEFAULT, expected_failed_checks=expected_failed_checks)
def test_scikit_learn_check(estimator, check):
    check(estimator)


# These checks mix arrays and DataFrames on purpose.
@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names:UserWarning")
@pytest.mark.parametrize("check", MORE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("estimator", [*ANY_WIDTH, *DEFAULT, PCA()], ids=repr)
def test_scikit_learn_check_that_is_not_yielded(estimator, check):
    check(type(estimator).__name__, clone(estimator))


@pytest.fixture(scope="module")
def X():
    X = load_iris().data
    return (X - X.mean(axis=0)) / X.std(axis=0)


def short_name(estimator):
    return " ".join(repr(estimator).split())


@pytest.fixture(params=ANY_WIDTH + COMBINATIONS + FOUR_COLUMNS, ids=short_name)
def estimator(request):
    return clone(request.param)


def outputs(estimator, X):
    """What every method gives for the rows of X, one entry a row."""
    codes = np.asarray(estimator.transform(X))
    return {
        "transform": codes,
        "inverse_transform": estimator.inverse_transform(codes),
        "reconstruct": estimator.reconstruct(X),
        "reconstruction_error": estimator.reconstruction_error(X),
        "reconstruction_error per feature": estimator.reconstruction_error(X, per_feature=True),
        "score_samples": estimator.score_samples(X),
    } | ({"std": estimator.posterior(X)[1]} if hasattr(estimator, "posterior") else {})


def assert_same_outputs(actual, desired, **tolerances):
    assert actual.keys() == desired.keys()
    for name in desired:
        assert_allclose(actual[name], desired[name], err_msg=name, **tolerances)


def trainable(estimator, X):
    """The module of an estimator before training, in float64, away from its start."""
    with private_random_numbers(0, torch.device("cpu")):
        rows = to_rows(X, None, None)
        choice, linear = estimator._choose(rows, False, None)
        linear = estimator._linear_start(rows, choice.n_components, False, linear)
        module = estimator._start(rows, choice, False, linear).double()
        for weights in module.parameters():
            weights.data += 0.3 * normal_like(weights)  # opens gates, fills layers of zeros
    module.train()
    module.begin_epoch(1)
    return module


def gradient_batches(paired):
    rng = np.random.default_rng(0)
    x, target = torch.from_numpy(rng.uniform(size=(2, 11, 4)))
    weights = torch.linspace(0.1, 1.9, 11, dtype=torch.float64)
    known = torch.from_numpy(rng.uniform(size=(11, 4)) < 0.6)
    yield Batch(x)
    yield Batch(x, weights=weights, known=known)
    if paired:
        yield Batch(x, target)
        yield Batch(x, target, weights, known)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_that_is_trained_is_that_of_the_loss(estimator, loss):
    """Against automatic differentiation: value and gradient, for every parameter."""
    X = np.random.default_rng(1).uniform(0.1, 0.9, size=(30, 4))
    fixes_noise = getattr(estimator, "noise_variance", "learned") != "learned"
    if fixes_noise and LOSSES[loss].learns_variance | (not LOSSES[loss].density.has_variance):
        return  # refused by the estimator
    estimator.set_params(loss=loss, precision="float32", device="cpu")
    module = trainable(estimator, X)
    descent = Descent(module, estimator._settings())
    is_dense = estimator.network is None and not getattr(estimator, "contraction", 0.0)
    assert descent.needs_autograd != is_dense
    for batch in gradient_batches(paired=isinstance(estimator, DenoisingAutoencoder)):
        results = []
        for function in (descent.loss_and_gradients, partial(differentiate, module, "float32")):
            descent.weights.gradients.zero_()
            with private_random_numbers(1, torch.device("cpu")):  # of noise, codes and dropout
                results.append((function(batch), descent.weights.gradients.clone()))
        assert_close(*results, rtol=1e-9, atol=1e-11)
        if estimator.network is None:  # rectifiers in others may be shut
            assert all(weights.grad.any() for weights in module.parameters())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("fitted_on", [np.float32, np.float64])
def test_results_have_the_dtype_of_the_input(estimator, X, fitted_on, dtype):
    estimator.fit(X.astype(fitted_on))
    for name, result in outputs(estimator, X.astype(dtype)).items():
        assert result.dtype == dtype, name


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.float16, ">f8", bool])
def test_other_numbers_become_float64(estimator, X, dtype):
    table = (np.abs(X) * 10).astype(dtype)
    estimator.fit(table)
    desired = outputs(estimator, table.astype(np.float64))
    actual = outputs(estimator, table)
    assert {result.dtype for result in actual.values()} == {np.dtype(np.float64)}
    assert_same_outputs(actual, desired, rtol=1e-12)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-12), (np.float32, 2e-5)])
def test_a_row_does_not_depend_on_its_neighbours(estimator, X, dtype, rtol):
    X = X.astype(dtype)
    whole = outputs(estimator.fit(X), X)
    order = np.random.default_rng(0).permutation(len(X))
    shuffled = outputs(estimator, X[order])
    alone = [outputs(estimator, row[np.newaxis]) for row in X[:10]]
    for name, result in whole.items():
        assert_allclose(shuffled[name], result[order], rtol=rtol, atol=rtol, err_msg=name)
        one_by_one = np.concatenate([row[name] for row in alone])
        assert_allclose(one_by_one, result[:10], rtol=rtol, atol=rtol, err_msg=name)


def test_long_tables_are_transformed_in_batches(estimator, X):
    estimator.fit(X)
    long = np.tile(X, (60, 1))  # 9,000 rows
    desired = {name: np.concatenate([r] * 60) for name, r in outputs(estimator, X).items()}
    assert_same_outputs(outputs(estimator, long), desired, rtol=1e-10, atol=1e-12)


def read_only(X, tmp_path):
    X = X.copy()
    X.flags.writeable = False
    return X


def memory_map(X, tmp_path):
    path = tmp_path / "X.npy"
    np.save(path, X)
    return np.load(path, mmap_mode="r")


SPARSE = {
    "csr matrix": sparse.csr_matrix,
    "csr array": sparse.csr_array,
    "csc array": sparse.csc_array,
    "coo array": sparse.coo_array,
}


@pytest.mark.parametrize("container", SPARSE)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_sparse_tables_give_the_results_of_dense_ones(estimator, X, container, dtype):
    X = np.where(np.abs(X) > 0.7, np.round(3 * X), 0.0).astype(dtype)
    desired = outputs(clone(estimator).fit(X), X)
    sparse_X = SPARSE[container](X)
    estimator.fit(sparse_X)
    actual = outputs(estimator, sparse_X)
    assert {type(result) for result in actual.values()} == {np.ndarray}
    assert {result.dtype for result in actual.values()} == {r.dtype for r in desired.values()}
    # PCA sums sparse and dense data in another order.
    assert_same_outputs(actual, desired, rtol=1e-3, atol=1e-4)
    estimator.partial_fit(sparse_X)


CONTAINERS = {
    "list": lambda X, tmp_path: X.tolist(),
    "read-only": read_only,
    "Fortran order": lambda X, tmp_path: np.asfortranarray(X),
    "every second column": lambda X, tmp_path: np.repeat(X, 2, axis=1)[:, ::2],
    "backwards": lambda X, tmp_path: X[::-1, ::-1].copy()[::-1, ::-1],
    "memory map": memory_map,
    "pandas": lambda X, tmp_path: pd.DataFrame(X, columns=list("abcd")),
    "polars": lambda X, tmp_path: pl.DataFrame(X, schema=list("abcd")),
    "pyarrow": lambda X, tmp_path: pa.table(dict(zip("abcd", X.T, strict=True))),
    "torch": lambda X, tmp_path: torch.tensor(X),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_container_gives_the_same_results(estimator, X, tmp_path, container):
    desired = outputs(clone(estimator).fit(X), X)
    contained = CONTAINERS[container](X, tmp_path)
    estimator.fit(contained)
    if container in ("pandas", "polars", "pyarrow"):
        assert_array_equal(estimator.feature_names_in_, list("abcd"))
    assert_same_outputs(outputs(estimator, contained), desired, rtol=0)


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_set_output(estimator, X, container):
    frame = CONTAINERS[container](X, None)
    codes = estimator.set_output(transform=container).fit_transform(frame)
    assert type(codes) is {"pandas": pd.DataFrame, "polars": pl.DataFrame}[container]
    assert list(codes.columns) == list(estimator.get_feature_names_out())
    assert_array_equal(codes.to_numpy(), clone(estimator).fit(X).transform(X))


def test_input_is_not_changed(estimator, X):
    for dtype in (np.float32, np.float64):
        table = X.astype(dtype)
        outputs(estimator.fit(table), table)
        assert_array_equal(table, X.astype(dtype))


def joblib_round_trip(estimator):
    file = io.BytesIO()
    joblib.dump(estimator, file)
    file.seek(0)
    return joblib.load(file)


COPIES = {
    "pickle": lambda estimator: pickle.loads(pickle.dumps(estimator)),
    "joblib": joblib_round_trip,
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@pytest.mark.parametrize("way", COPIES)
def test_copies_give_the_same_bits(estimator, X, way):
    estimator.fit(X)
    before = outputs(estimator, X)
    torch_state = torch.random.get_rng_state()
    other = COPIES[way](estimator)
    assert_array_equal(torch.random.get_rng_state(), torch_state)
    assert_same_outputs(outputs(other, X), before, rtol=0)
    assert_same_outputs(outputs(estimator, X), before, rtol=0)
    assert repr(other.get_params()) == repr(estimator.get_params())  # networks have no ==
    assert vars(other).keys() == vars(estimator).keys()


def test_copies_remember_the_network_that_was_fitted(estimator, X):
    before = outputs(estimator.fit(X), X)
    estimator.set_params(hidden_layer_sizes=(3, 3), n_components=1)
    assert_same_outputs(outputs(pickle.loads(pickle.dumps(estimator)), X), before, rtol=0)


def test_pickles_hold_nothing_of_torch(estimator, X):
    data = pickle.dumps(estimator.fit(X), protocol=5)
    strings = [argument for _, argument, _ in pickletools.genops(data) if isinstance(argument, str)]
    assert "module_" not in strings
    assert not [text for text in strings if text.split(".")[0] == "torch"]


def test_files_from_a_gpu_load_anywhere(estimator, X):
    before = outputs(estimator.fit(X), X)
    state = estimator.__getstate__() | {"device_": "cuda:7"}
    other = type(estimator).__new__(type(estimator))
    other.__setstate__(state)
    assert other.device_ == "cuda:7"
    assert_same_outputs(outputs(other, X), before, rtol=0)


def test_refit_equals_first_fit(estimator, X):
    first = outputs(estimator.fit(X), X)
    assert_same_outputs(outputs(estimator.fit(X), X), first, rtol=0)
    assert_same_outputs(outputs(clone(estimator).fit(X), X), first, rtol=0)
    other_seed = clone(estimator).set_params(random_state=1).fit(X)
    assert other_seed.loss_curve_ != estimator.loss_curve_


def test_random_state_may_be_an_instance(estimator, X):
    fits = [
        clone(estimator).set_params(random_state=np.random.RandomState(3)).fit(X) for _ in range(2)
    ]
    assert_same_outputs(outputs(fits[0], X), outputs(fits[1], X), rtol=0)
    pickle.loads(pickle.dumps(fits[0]))


def global_random_state():
    return (
        random.getstate(),
        [part.tolist() if hasattr(part, "tolist") else part for part in np.random.get_state()],
        torch.random.get_rng_state().tolist(),
    )


def test_global_random_state_is_untouched(estimator, X):
    estimator.set_params(random_state=0)
    before = global_random_state()
    estimator.fit(X).partial_fit(X)
    outputs(estimator, X)
    assert global_random_state() == before


def test_global_random_state_has_no_influence(estimator, X):
    desired = outputs(estimator.fit(X), X)
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(123)
        assert_same_outputs(outputs(estimator.fit(X), X), desired, rtol=0)


def test_only_fitting_writes_attributes(estimator, X):
    estimator.fit(X)
    before = dict(vars(estimator))
    outputs(estimator, X)
    estimator.score(X)
    estimator.get_feature_names_out()
    repr(estimator)
    assert vars(estimator) == before


def test_repr_and_html(estimator, X):
    for candidate in (estimator, estimator.fit(X)):
        assert type(candidate).__name__ in repr(candidate)
        assert type(candidate).__name__ in candidate._repr_html_()


def test_score_is_the_weighted_mean_of_score_samples(estimator, X):
    scores = estimator.fit(X).score_samples(X)
    weights = np.arange(len(X))
    assert_allclose(estimator.score(X), scores.mean())
    assert_allclose(estimator.score(X, sample_weight=weights), scores @ weights / weights.sum())
    with pytest.raises(ValueError, match="Negative values"):
        estimator.score(X, sample_weight=-weights)


def test_weight_zero_is_absence(estimator, X):
    weights = np.tile([1.0, 0.0, 1.0], len(X) // 3)
    weighted = outputs(clone(estimator).fit(X, sample_weight=weights), X)
    assert_same_outputs(weighted, outputs(estimator.fit(X[weights > 0]), X), rtol=0)


@settings(max_examples=40, deadline=None)
@given(
    n_samples=st.integers(2, 12),
    n_features=st.integers(1, 6),
    n_components=st.integers(1, 8),
    batch_size=st.integers(1, 16),
    dtype=st.sampled_from([np.float32, np.float64]),
    kind=st.sampled_from(ANY_WIDTH + COMBINATIONS),
    seed=st.integers(0, 100),
)
def test_any_shape_round_trips(n_samples, n_features, n_components, batch_size, dtype, kind, seed):
    X = np.random.default_rng(seed).standard_normal((n_samples, n_features)).astype(dtype)
    estimator = clone(kind).set_params(n_components=n_components, batch_size=batch_size)
    for name, result in outputs(estimator.fit(X), X).items():
        assert len(result) == n_samples, name
        assert np.isfinite(result).all(), name
        assert result.dtype == dtype, name
    assert estimator.transform(X).shape == (n_samples, n_components)
    assert estimator.reconstruct(X).shape == X.shape


# Bad input. A fit that fails must leave the earlier model as it was.

BAD_TABLES = {
    "inf": (lambda X: np.where(X > 2, np.inf, X), ValueError, "infinity"),
    "1-D": (lambda X: X[:, 0], ValueError, "Expected 2D array"),
    "no rows": (lambda X: X[:0], ValueError, "0 sample"),
    "no columns": (lambda X: X[:, :0], ValueError, "0 feature"),
    "strings": (lambda X: X.astype(str).astype(object) + "a", ValueError, "could not convert"),
    "complex": (lambda X: X + 1j, ValueError, "Complex data not supported"),
    "object": (lambda X: np.full(X.shape, {}), TypeError, "argument must be .* string.* number"),
    "sparse NaN": (lambda X: sparse.csr_array(np.where(X > 2, np.nan, X)), ValueError, "NaN"),
    "sparse 3-D": (lambda X: sparse.coo_array(X[np.newaxis]), ValueError, "2D|dim|3"),
}


@pytest.mark.parametrize("table", BAD_TABLES)
@pytest.mark.parametrize("method", ["fit", "partial_fit", "transform", "score_samples"])
@pytest.mark.parametrize("kind", ANY_WIDTH, ids=short_name)
def test_bad_tables(kind, X, method, table):
    estimator = clone(kind)
    make, error, message = BAD_TABLES[table]
    before = outputs(estimator.fit(X), X)
    attributes = dict(vars(estimator))
    with pytest.raises(error, match=message):
        getattr(estimator, method)(make(X))
    assert vars(estimator) == attributes
    assert_same_outputs(outputs(estimator, X), before, rtol=0)


def test_one_row_is_too_few_to_fit(estimator, X):
    with pytest.raises(ValueError, match="1 sample.* minimum of 2 is required"):
        estimator.fit(X[:1])
    with pytest.raises(ValueError, match="sample_weight leaves 1 row"):
        estimator.fit(X[:3], sample_weight=[0, 1, 0])


@pytest.mark.parametrize(
    "method", ["partial_fit", "transform", "reconstruct", "reconstruction_error", "score"]
)
def test_wrong_number_of_columns(estimator, X, method):
    estimator.fit(X)
    with pytest.raises(ValueError, match="X has 3 features, but .* is expecting 4 features"):
        getattr(estimator, method)(X[:, :3])


@pytest.mark.parametrize("columns", ["abce", "abdc"], ids=["renamed", "reordered"])
def test_other_column_names(estimator, X, columns):
    estimator.fit(pd.DataFrame(X, columns=list("abcd")))
    with pytest.raises(ValueError, match="feature names should match"):
        estimator.transform(pd.DataFrame(X, columns=list(columns)))


def test_codes_of_the_wrong_width(estimator, X):
    codes = estimator.fit(X).transform(X)
    with pytest.raises(ValueError, match="X has 3 columns, but .* n_components_=2"):
        estimator.inverse_transform(np.hstack([codes, codes[:, :1]]))


@pytest.mark.parametrize(
    "method",
    ["transform", "inverse_transform", "reconstruct", "reconstruction_error", "score_samples"],
)
def test_methods_need_a_fit(estimator, X, method):
    with pytest.raises(NotFittedError, match="not fitted yet"):
        getattr(estimator, method)(X)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (-1.0, "Negative values in data passed to `sample_weight`"),
        (np.zeros(150), "zero"),
        (np.ones(3), r"inconsistent|shape"),
        (np.full(150, np.nan), "NaN"),
    ],
)
def test_bad_weights(estimator, X, weights, message):
    weights = np.where(np.arange(150) == 5, weights, 1.0) if np.isscalar(weights) else weights
    with pytest.raises(ValueError, match=message):
        estimator.fit(X, sample_weight=weights)


BAD_PARAMETERS = [
    ("n_components", 0),
    ("n_components", -1),
    ("n_components", True),
    ("n_components", "ten"),
    ("n_components", 1.5),
    ("activation", "cube"),
    ("network", "dense"),
    ("init", "xavier"),
    ("tied_weights", "yes"),
    ("use_bias", None),
    ("sparsity", -0.1),
    ("contraction", -0.1),
    ("pretrain_iter", -1),
    ("output_activation", "cube"),
    ("loss", "hinge"),
    ("dropout", 1.0),
    ("alpha", -1.0),
    ("solver", "lbfgs"),
    ("learning_rate", "adaptive"),
    ("learning_rate_init", 0.0),
    ("batch_size", 0),
    ("max_iter", 0),
    ("validation_fraction", 1.0),
    ("n_iter_no_change", 0),
    ("tol", -1e-3),
    ("precision", "float16"),
    ("device", "tpu"),
    ("device", "gpu"),
    ("device", "cuda:99"),
    ("device", 0),
    ("random_state", "seed"),
]


def assert_refused(estimator, X, method, parameter, value):
    before = outputs(estimator.fit(X), X)
    estimator.set_params(**{parameter: value})
    with pytest.raises(ValueError, match=parameter.split("__")[-1]) as error:
        getattr(estimator, method)(X)
    assert str(value) in str(error.value)
    assert_same_outputs(outputs(estimator, X), before, rtol=0)


@pytest.mark.parametrize(
    ("estimator", "parameter", "value"),
    [
        pytest.param(estimator, parameter, value, id=f"{short_name(estimator)}-{parameter}-{value}")
        for estimator in ANY_WIDTH
        for parameter, value in BAD_PARAMETERS
        if parameter in estimator.get_params()
    ],
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_bad_parameters(estimator, X, method, parameter, value):
    assert_refused(clone(estimator), X, method, parameter, value)


@pytest.mark.parametrize("value", [(0,), -1, "a", ("a",), (2.5,), ((4, 2), (4, 2))])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("estimator", ANY_WIDTH, ids=short_name)
def test_bad_hidden_layer_sizes(estimator, X, method, value):
    assert_refused(clone(estimator), X, method, "hidden_layer_sizes", value)


BAD_NETWORK_PARAMETERS = {
    "image_shape": [(4, 2), (4,), (1, 2, 2, 1), (-2, -2), (2.0, 2.0), "a", 4, None],
    "sequence_shape": [(4, 2), (4,), (1, 2, 2), (-2, -2), (2.0, 2.0), "a", 4, None],
    "channels": [0, (3, 0), (2.5,), ((3, 3), 3), "a", None, (3, 3, 3, 3)],
    "kernel_size": [1, 4, 3.0, (3, 3)],
    "activation": ["cube"],
    "hidden_size": [0, 2.5],
    "cell": ["elman"],
    "n_layers": [0],
}


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("estimator", FOUR_COLUMNS, ids=short_name)
def test_bad_network_parameters(estimator, X, method):
    for parameter in estimator.network.get_params():
        for value in BAD_NETWORK_PARAMETERS[parameter]:
            assert_refused(clone(estimator), X, method, f"network__{parameter}", value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_where_there_is_none(estimator, X):
    with pytest.raises(ValueError, match="device='cuda' is not available on this machine"):
        estimator.set_params(device="cuda").fit(X)
