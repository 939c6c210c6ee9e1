"""Arrays of other libraries: the same numbers, in the same place, from every estimator."""

import copy
import pickle
import re

import array_api_strict
import numpy as np
import pytest
import skl2onnx
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags
from sklearn.utils._array_api import get_namespace_and_device, move_estimator_to, move_to
from sklearn.utils.estimator_checks import (
    check_array_api_input_and_values,
    check_array_api_same_namespace,
)

import skae.onnx  # noqa: F401
from skae import (
    PCA,
    AutoencoderOutlierDetector,
    AutoencoderTransformer,
    DenoisingAutoencoder,
    VAETransformer,
)
from skae._denoising_ensemble import DenoisingEnsemble
from skae._device_array import DeviceArray

SMALL = {"hidden_layer_sizes": (8,), "max_iter": 2, "random_state": 0}
MODELS = [
    PCA(2),
    AutoencoderTransformer(2, **SMALL),
    DenoisingAutoencoder(2, **SMALL),
    VAETransformer(2, **SMALL),
]
DETECTORS = [
    AutoencoderOutlierDetector(random_state=0),
    AutoencoderOutlierDetector(make_pipeline(StandardScaler(), PCA(2)), random_state=0),
]
ESTIMATORS = MODELS + DETECTORS
X = load_iris().data
PLACES = {
    "torch": lambda rows: torch.asarray(rows),
    "strict": lambda rows: array_api_strict.asarray(rows),
    "strict, second device": lambda rows: array_api_strict.asarray(
        rows, device=array_api_strict.Device("device1")
    ),
}


def short_name(estimator):
    inner = getattr(estimator, "estimator", None)
    return type(estimator).__name__ + f"-{type(inner).__name__}" * (inner is not None)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch):
    monkeypatch.setattr(DenoisingEnsemble, "_n_steps", 2)


@pytest.fixture(params=PLACES)
def place(request):
    """Give a function that puts rows of NumPy where another library has them."""
    with config_context(array_api_dispatch=True):
        yield PLACES[request.param]


def to_numpy(array):
    return move_to(array, xp=np, device="cpu")


def assert_same_place(array, given):
    assert get_namespace_and_device(array) == get_namespace_and_device(given)


def outputs(estimator, rows):
    """What the methods give that return arrays."""
    results = {
        name: getattr(estimator, name)(rows)
        for name in (
            *("transform", "reconstruct", "impute", "expected", "contributions", "score_samples"),
            *("reconstruction_error", "decision_function", "predict", "p_values"),
        )
        if hasattr(estimator, name)
    }
    if "transform" in results:
        results["inverse_transform"] = estimator.inverse_transform(results["transform"])
    if hasattr(estimator, "posterior"):
        results["mean"], results["deviation"] = estimator.posterior(rows)
        results["sample"] = estimator.sample(5, random_state=0)
    if hasattr(estimator, "select"):
        results["select"] = estimator.select(rows, fdr=0.99)
    for name in ("get_covariance", "get_precision"):
        if hasattr(estimator, name):
            results[name] = getattr(estimator, name)()
    return results


@pytest.mark.parametrize("estimator", MODELS + DETECTORS[:1], ids=short_name)
@pytest.mark.parametrize(
    ("library", "device", "dtype"),
    [
        ("array_api_strict", "device1", "float32"),
        ("torch", "cpu", "float64"),
        pytest.param("torch", "cuda", "float32", marks=pytest.mark.gpu),
    ],
)
def test_scikit_learns_checks_with_values(estimator, library, device, dtype):
    check_array_api_input_and_values(
        type(estimator).__name__, estimator, library, device, dtype, check_sample_weight=True
    )


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=short_name)
def test_every_method_gives_the_bits_of_numpy_where_the_rows_are(estimator, place):
    desired = outputs(clone(estimator).fit(X), X)
    rows = place(X)
    fitted = clone(estimator).fit(rows)
    for name, array in outputs(fitted, rows).items():
        assert_same_place(array, rows)
        assert_array_equal(to_numpy(array), desired[name], err_msg=name)
    assert isinstance(fitted.score(rows) if hasattr(fitted, "score") else 0.0, float)
    if hasattr(fitted, "fit_transform"):
        assert_same_place(clone(estimator).fit_transform(rows), rows)
    for name, value in vars(fitted).items():
        assert not isinstance(value, np.ndarray), name


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=short_name)
def test_rows_from_elsewhere_are_refused_as_by_scikit_learn(estimator, place):
    check_array_api_same_namespace(type(estimator).__name__, estimator, "array_api_strict")
    fitted = clone(estimator).fit(place(X))
    before = dict(vars(fitted))
    with pytest.raises(ValueError, match=r"score_samples\(\) must use the same namespace"):
        fitted.score_samples(X)
    with pytest.raises(ValueError, match="must use the same namespace"):
        clone(estimator).fit(X).score_samples(place(X))
    if hasattr(fitted, "partial_fit"):
        with pytest.raises(ValueError, match=r"partial_fit\(\) must use the same namespace"):
            fitted.partial_fit(X)
    assert vars(fitted).keys() == before.keys()
    assert all(value is before[name] for name, value in vars(fitted).items())
    assert_array_equal(fitted.fit(X).score_samples(X), clone(estimator).fit(X).score_samples(X))


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=short_name)
def test_without_dispatch_results_are_those_of_arrays(estimator):
    desired = outputs(clone(estimator).fit(X), X)
    plain = clone(estimator).fit(torch.asarray(X))
    with config_context(array_api_dispatch=True):
        dispatched = clone(estimator).fit(torch.asarray(X))
    for fitted in (plain, dispatched):
        for rows in (X, torch.asarray(X)):
            actual = outputs(fitted, rows)
            assert actual.keys() == desired.keys()
            for name, array in actual.items():
                assert type(array) is np.ndarray
                assert_array_equal(array, desired[name], err_msg=name)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=short_name)
def test_copies_and_files_stay_where_they_are(estimator, place):
    rows = place(X)
    fitted = clone(estimator).fit(rows)
    desired = fitted.score_samples(rows)
    data = pickle.dumps(fitted)
    if fitted.__class__ is not AutoencoderOutlierDetector:
        assert b"array_api_strict._" not in data
        assert b"torch._" not in data
    for other in (pickle.loads(data), copy.deepcopy(fitted), clone(fitted).fit(rows)):
        scores = other.score_samples(rows)
        assert_same_place(scores, rows)
        assert_array_equal(to_numpy(scores), to_numpy(desired))
        assert vars(other).keys() == vars(fitted).keys()


# scikit-learn 1.9 does not move a fitted StandardScaler.
@pytest.mark.parametrize("estimator", MODELS + DETECTORS[:1], ids=short_name)
def test_estimators_move(estimator, place):
    rows = place(X)
    fitted = clone(estimator).fit(X)
    desired = fitted.score_samples(X)
    xp, _, device = get_namespace_and_device(rows)
    there = move_estimator_to(fitted, xp, device)
    assert_array_equal(to_numpy(there.score_samples(rows)), desired)
    back = move_estimator_to(there, np, "cpu")
    assert_array_equal(back.score_samples(X), desired)
    assert vars(back).keys() == vars(fitted).keys()


@pytest.mark.parametrize(
    "estimator", [e for e in MODELS if hasattr(e, "partial_fit")], ids=short_name
)
def test_rows_are_added_where_they_are(estimator, place):
    desired = clone(estimator).partial_fit(X[:100]).partial_fit(X[100:]).score_samples(X)
    streamed = clone(estimator).partial_fit(place(X[:100])).partial_fit(place(X[100:]))
    assert_array_equal(to_numpy(streamed.score_samples(place(X))), desired)


@pytest.mark.parametrize("svd_solver", ["arpack", "randomized", "full", "gram_eigh"])
def test_every_solver_takes_arrays_of_any_library(svd_solver, place):
    pca = PCA(2, svd_solver=svd_solver, random_state=0)
    desired = clone(pca).fit(X).components_
    assert_array_equal(to_numpy(pca.fit(place(X)).components_), desired)


def test_weights_follow_the_rows(place):
    weights = np.linspace(0.0, 2.0, len(X))
    desired = PCA(2).fit(X, sample_weight=weights).components_
    for given in (weights, place(weights)):
        assert_array_equal(to_numpy(PCA(2).fit(place(X), None, given).components_), desired)


def test_unknown_cells_of_tensors_are_unknown(place):
    gaps = np.where(np.random.default_rng(0).uniform(size=X.shape) < 0.1, np.nan, X)
    pca = PCA(2).fit(place(gaps))
    assert_array_equal(to_numpy(pca.impute(place(gaps))), PCA(2).fit(gaps).impute(gaps))


def test_pairs_and_validation_rows_follow_the_rows(place):
    noisy = X + 0.1
    denoiser = DenoisingAutoencoder(2, **SMALL)
    desired = clone(denoiser).fit(noisy, X_clean=X, X_val=noisy[:20], X_clean_val=X[:20])
    actual = clone(denoiser).fit(
        place(noisy), X_clean=place(X), X_val=place(noisy[:20]), X_clean_val=place(X[:20])
    )
    assert actual.validation_loss_curve_ == desired.validation_loss_curve_


def test_other_numbers_are_taken_as_arrays_take_them(place):
    whole = np.round(10 * X).astype(np.int64)
    assert_array_equal(
        to_numpy(PCA(2).fit_transform(place(whole))), PCA(2).fit(whole).transform(whole)
    )
    halves = torch.asarray(X).half()
    assert PCA(2).fit(halves).transform(halves).dtype == torch.float64
    brain = torch.asarray(X).bfloat16()
    assert PCA(2).fit(brain).components_.dtype == torch.float64


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of StandardScaler
def test_a_pipeline_stays_where_its_rows_are(place):
    rows = place(X)
    pipeline = make_pipeline(StandardScaler(), PCA(3), AutoencoderTransformer(2, **SMALL))
    codes = pipeline.fit(rows).transform(rows)
    assert_same_place(codes, rows)
    assert_same_place(pipeline.inverse_transform(codes), rows)
    desired = clone(pipeline).fit(X).transform(X)
    assert_allclose(to_numpy(codes), desired, rtol=1e-3, atol=1e-4)


def test_explanations_are_data_frames(place):
    detector = AutoencoderOutlierDetector(PCA(2), random_state=0)
    desired = clone(detector).fit(X).explain(X[:5])
    assert_array_equal(detector.fit(place(X)).explain(place(X[:5])), desired)
    detector.set_contamination(0.1)
    assert isinstance(detector.offset_, float)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=short_name)
def test_a_failed_fit_leaves_the_earlier_one(estimator, place):
    fitted = clone(estimator).fit(place(X))
    before = dict(vars(fitted))
    with pytest.raises(ValueError, match="infinity"):
        fitted.fit(place(np.where(X > 7.0, np.inf, X)))
    assert vars(fitted) == before


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (torch.asarray(X).requires_grad_(), "requires gradients.*detach"),
        (torch.asarray(X).to_sparse(), "not dense.*to_dense"),
        (torch.asarray(X)[0], "Expected 2D array"),
        (torch.asarray(X).to(torch.complex64), "Complex data not supported"),
        (array_api_strict.asarray(X[0]), "Expected 2D array"),
    ],
    ids=["gradients", "sparse", "one row", "complex", "strict"],
)
@pytest.mark.parametrize("estimator", [PCA(2), AutoencoderTransformer(2, **SMALL)], ids=short_name)
def test_what_is_no_table_is_an_error_in_words(estimator, rows, message):
    with config_context(array_api_dispatch=True), pytest.raises(ValueError, match=message):
        estimator.fit(rows)


class Unshared:
    """Array of a library without DLPack."""

    shape, ndim, device, dtype = (150, 4), 2, "cpu", "float64"

    def __array_namespace__(self, api_version=None):
        return Unshared

    __name__ = "unshared"


def test_a_library_that_does_not_share_its_memory_is_named():
    with config_context(array_api_dispatch=True), pytest.raises(TypeError, match="by DLPack"):
        PCA().fit(Unshared())


def test_a_file_from_a_device_that_is_not_here_has_arrays_of_numpy(monkeypatch):
    with config_context(array_api_dispatch=True):
        pca = PCA(2).fit(torch.asarray(X))
    state = pca.__getstate__()
    for library, device in [("torch", "cuda:7"), ("cupy", "<CUDA Device 0>"), ("os", "cpu")]:
        loaded = PCA()
        with pytest.warns(UserWarning, match=re.escape(f"of {library} on the device '{device}'")):
            loaded.__setstate__({**state, "_array_like": (library, device)})
        assert_array_equal(loaded.transform(X), PCA(2).fit(X).transform(X))


@pytest.mark.parametrize(
    "estimator", [PCA(2), AutoencoderOutlierDetector(PCA(2), random_state=0)], ids=short_name
)
def test_estimators_fitted_to_tensors_are_converted_to_onnx(estimator):
    with config_context(array_api_dispatch=True):
        fitted = clone(estimator).fit(torch.asarray(X))
    desired = skl2onnx.to_onnx(clone(estimator).fit(X), X[:1]).graph.node
    assert [n.op_type for n in skl2onnx.to_onnx(fitted, X[:1]).graph.node] == [
        n.op_type for n in desired
    ]


def test_searches_and_scores_of_folds_take_tensors():
    search = GridSearchCV(PCA(), {"n_components": [1, 2, 3]}, cv=3)
    desired = clone(search).fit(X)
    with config_context(array_api_dispatch=True):
        found = search.fit(torch.asarray(X))
    assert found.best_params_ == desired.best_params_
    assert_array_equal(found.cv_results_["mean_test_score"], desired.cv_results_["mean_test_score"])


def test_tags_tell_of_array_api_support():
    assert all(get_tags(estimator).array_api_support for estimator in ESTIMATORS)


# Tables that never come to the host


@pytest.fixture
def tensors_as_on_a_device(monkeypatch):
    """Take the way of accelerators with tensors of the CPU."""
    monkeypatch.setattr(DeviceArray, "is_for", staticmethod(lambda tensor: True))
    with config_context(array_api_dispatch=True):
        yield


@pytest.fixture
def no_large_copies(monkeypatch):
    """Let nothing come to the host that has as many cells as there are rows."""

    def refuse(name):
        original = getattr(torch.Tensor, name)

        def call(tensor, *arguments, **named):
            targets = [torch.device(a).type for a in arguments if isinstance(a, str | torch.device)]
            if name != "to" or ("cpu" in targets and tensor.device.type != "cpu"):
                assert tensor.numel() <= N_ROWS, f"{tuple(tensor.shape)} by {name}"
            return original(tensor, *arguments, **named)

        monkeypatch.setattr(torch.Tensor, name, call)

    for name in ("cpu", "numpy", "__array__", "__dlpack__", "tolist", "to"):
        refuse(name)


N_ROWS = 600


def wide_and_long():
    rng = np.random.default_rng(0)
    for shape in ((N_ROWS, 6), (6, N_ROWS), (40, 7)):
        yield 1.0 + rng.normal(size=shape) * np.linspace(1.0, 3.0, shape[1])


@pytest.mark.usefixtures("tensors_as_on_a_device")
@pytest.mark.parametrize(
    "svd_solver", ["auto", "covariance_eigh", "gram_eigh", "full", "randomized"]
)
@pytest.mark.parametrize("whiten", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_pca_on_a_device_is_pca(svd_solver, whiten, dtype):
    tolerance = (
        {"rtol": 1e-7, "atol": 1e-9} if dtype == np.float64 else {"rtol": 1e-3, "atol": 1e-4}
    )
    for table in wide_and_long():
        if table.shape[svd_solver == "covariance_eigh"] == N_ROWS and svd_solver.endswith("eigh"):
            continue  # its eigenproblem would be large
        rows = table.astype(dtype)
        weights = np.linspace(0.0, 2.0, len(rows))
        pca = PCA(3, svd_solver=svd_solver, whiten=whiten, random_state=0)
        desired = clone(pca).fit(rows, sample_weight=weights)
        actual = pca.fit(torch.asarray(rows), sample_weight=torch.asarray(weights))
        for name in ("components_", "mean_", "explained_variance_", "singular_values_"):
            found = getattr(actual, name).numpy()
            assert_allclose(found, getattr(desired, name), err_msg=name, **tolerance)
        results, expected = outputs(actual, torch.asarray(rows)), outputs(desired, rows)
        for name, array in results.items():
            assert array.dtype == torch.asarray(rows).dtype
            assert_allclose(array.numpy(), expected[name], err_msg=name, **tolerance)


@pytest.mark.usefixtures("tensors_as_on_a_device")
def test_small_variances_on_a_device_are_exact():
    rng = np.random.default_rng(0)
    scales = np.array([1.0, 1e-3, 1e-7, 1e-9])
    rotation = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    table = rng.normal(size=(300, 4)) * scales @ rotation
    constant = np.column_stack([table, np.full(300, 0.1)])
    narrow = table + 1e6
    for rows in (table, constant, narrow, 1e140 * table, 1e-140 * table):
        desired = np.linalg.svd(rows - rows.mean(axis=0), compute_uv=False)
        singular_values = PCA(4).fit(torch.asarray(rows)).singular_values_.numpy()
        kept = desired[:4] > 1e-6 * desired[0]
        assert_allclose(singular_values[kept], desired[:4][kept], rtol=1e-6)
    assert PCA().fit(torch.asarray(constant)).singular_values_[4] == 0.0


@pytest.mark.usefixtures("tensors_as_on_a_device")
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=short_name)
def test_estimators_on_a_device_give_what_arrays_give(estimator):
    desired = outputs(clone(estimator).fit(X), X)
    rows = torch.asarray(X)
    for name, array in outputs(clone(estimator).fit(rows), rows).items():
        assert isinstance(array, torch.Tensor)
        assert not array.is_inference()
        assert_allclose(array.numpy(), desired[name], rtol=1e-6, atol=1e-9, err_msg=name)


@pytest.mark.usefixtures("tensors_as_on_a_device")
def test_what_is_wrong_with_a_table_on_a_device_is_said_in_the_same_words():
    wrong = [
        X[:0],
        X[:1],
        X[:, :0],
        np.where(X > 7.0, np.inf, X),
        np.full_like(X, np.nan),
        np.where(X > 7.0, 1e300, X),
    ]
    for estimator in (PCA(2), AutoencoderTransformer(2, **SMALL)):
        for table in wrong:
            with pytest.raises(ValueError, match=r"\w") as desired:
                clone(estimator).fit(table)
            with pytest.raises(ValueError, match=re.escape(str(desired.value))):
                clone(estimator).fit(torch.asarray(table))
        fitted = clone(estimator).fit(torch.asarray(X))
        with pytest.raises(ValueError, match="X has 3 features, but"):
            fitted.transform(torch.asarray(X[:, :3]))
        with pytest.raises(ValueError, match="X has 3 columns, but this"):
            fitted.inverse_transform(torch.asarray(X[:, :3]))
    with pytest.raises(ValueError, match="'arpack' is not supported for Array API inputs"):
        PCA(2, svd_solver="arpack").fit(torch.asarray(X))
    with pytest.raises(ValueError, match="takes values in"):
        AutoencoderTransformer(2, loss="bernoulli", **SMALL).fit(torch.asarray(X))


@pytest.mark.usefixtures("tensors_as_on_a_device")
def test_gaps_on_a_device_are_filled():
    gaps = np.where(np.random.default_rng(0).uniform(size=X.shape) < 0.1, np.nan, X)
    desired = outputs(PCA(2).fit(gaps), gaps)
    for name, array in outputs(PCA(2).fit(torch.asarray(gaps)), torch.asarray(gaps)).items():
        assert_allclose(array.numpy(), desired[name], rtol=1e-6, atol=1e-9, err_msg=name)


def run_pipeline(rows):
    pipeline = make_pipeline(StandardScaler(), PCA(), AutoencoderTransformer(2, **SMALL))
    codes = pipeline.fit(rows).transform(rows)
    assert codes.device == rows.device
    assert pipeline.inverse_transform(codes).device == rows.device
    streamed = PCA().partial_fit(rows[:100]).partial_fit(rows[100:])
    assert streamed.transform(rows).device == rows.device
    wide = rows.T
    assert PCA(1).fit(wide).transform(wide).device == rows.device


@pytest.mark.usefixtures("tensors_as_on_a_device", "no_large_copies")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_pipeline_on_a_device_never_leaves_it(dtype):
    run_pipeline(torch.asarray(next(wide_and_long()), dtype=dtype))


@pytest.mark.gpu
@pytest.mark.usefixtures("no_large_copies")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_pipeline_on_cuda_never_leaves_it(dtype):
    rows = torch.asarray(next(wide_and_long()), dtype=dtype, device="cuda")
    with config_context(array_api_dispatch=True):
        run_pipeline(rows)


@pytest.mark.gpu
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=short_name)
def test_cuda_gives_what_the_cpu_gives(estimator):
    rows = torch.asarray(X, device="cuda")
    with config_context(array_api_dispatch=True):
        fitted = clone(estimator).fit(rows)
        host = move_estimator_to(fitted, np, "cpu")
        expected = outputs(host, X)
        for name, array in outputs(fitted, rows).items():
            assert array.device == rows.device
            assert_allclose(array.cpu(), expected[name], rtol=1e-5, atol=1e-8, err_msg=name)
        assert b"torch" not in pickle.dumps(move_estimator_to(fitted, np, "cpu"))
