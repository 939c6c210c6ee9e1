"""Dask collections: moments in the workers, lazy results, and workers that are killed."""

import os
import signal
import threading
import time

import dask
import dask.array as da
import dask.dataframe as dd
import joblib
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skae import (
    PCA,
    AutoencoderOutlierDetector,
    AutoencoderTransformer,
    VAETransformer,
)

NAMES = list("abcdef")


@pytest.fixture(autouse=True)
def _in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def X():
    rng = np.random.default_rng(0)
    return rng.normal(size=(403, 3)) @ rng.normal(size=(3, 6)) + 0.1 * rng.normal(size=(403, 6)) + 5


CHUNKS = {
    "one": (403, 6),
    "many": (37, 6),
    "uneven": ((1, 0, 300, 102), (6,)),
    "columns too": (100, 2),
}


@pytest.fixture(params=CHUNKS)
def chunked(request, X):
    return da.from_array(X, chunks=CHUNKS[request.param])


def assert_same_pca(actual, desired, rtol=1e-12):
    assert_allclose(actual.components_, desired.components_, atol=rtol)
    for name in ("mean_", "explained_variance_", "explained_variance_ratio_", "noise_variance_"):
        assert_allclose(getattr(actual, name), getattr(desired, name), rtol=rtol, err_msg=name)
    assert actual.n_samples_ == desired.n_samples_
    assert actual.n_components_ == desired.n_components_


# PCA


@pytest.mark.parametrize("n_components", [2, 0.9, "mle", None])
def test_pca_is_that_of_one_machine_whatever_the_chunks(X, chunked, n_components):
    assert_same_pca(PCA(n_components).fit(chunked), PCA(n_components).fit(X))


def test_weights_are_those_of_one_machine(X, chunked):
    weights = np.linspace(0.0, 3.0, len(X))
    desired = PCA(2).fit(X, sample_weight=weights)
    lazy_weights = da.from_array(weights, chunks=50)
    for sample_weight in (weights, list(weights), lazy_weights, np.where(weights > 1, 1, 0)):
        if isinstance(sample_weight, np.ndarray) and sample_weight.dtype == int:
            desired = PCA(2).fit(X, sample_weight=sample_weight)
        assert_same_pca(PCA(2).fit(chunked, sample_weight=sample_weight), desired)


@pytest.mark.parametrize(("chunks", "n_components"), [("uneven", 0.9), ("columns too", 2)])
def test_unknown_cells_are_those_of_one_machine(X, chunks, n_components):
    X = np.where(np.random.default_rng(1).random(X.shape) < 0.2, np.nan, X)
    X[:3] = np.nan
    weights = np.linspace(0.0, 3.0, len(X))
    unknown = da.from_array(X, chunks=CHUNKS[chunks])
    for sample_weight in (None, weights):
        desired = PCA(n_components).fit(X, sample_weight=sample_weight)
        actual = PCA(n_components).fit(unknown, sample_weight=sample_weight)
        assert actual._fit_svd_solver == desired._fit_svd_solver == "em"
        assert_same_pca(actual, desired, rtol=1e-9)
        assert_allclose(actual.transform(unknown), desired.transform(X), atol=1e-8)


def test_partial_fit_adds_collections(X, chunked):
    desired = PCA(2).partial_fit(X[:50]).partial_fit(X)
    actual = PCA(2).partial_fit(da.from_array(X[:50], chunks=20)).partial_fit(chunked)
    assert_same_pca(actual, desired)
    assert_same_pca(PCA(2).fit(chunked).partial_fit(X[:50]), PCA(2).fit(X).partial_fit(X[:50]))


def test_frames_keep_names_and_float32_stays(X):
    frame = pd.DataFrame(X.astype(np.float32), columns=NAMES)
    frame.index = pd.RangeIndex(10, 413)
    lazy = dd.from_pandas(frame, npartitions=4)
    pca, desired = PCA(2).fit(lazy), PCA(2).fit(frame)
    assert list(pca.feature_names_in_) == NAMES
    assert pca.components_.dtype == np.float32
    assert_allclose(pca.components_, desired.components_, atol=1e-6)
    codes = pca.transform(lazy)
    assert isinstance(codes, dd.DataFrame)
    assert list(codes.columns) == ["pca0", "pca1"]
    assert set(codes.dtypes) == {np.dtype(np.float32)}
    computed = codes.compute()
    assert_array_equal(computed.index, frame.index)
    assert_array_equal(computed, pca.transform(frame))
    scores = pca.score_samples(lazy)
    assert isinstance(scores, dd.Series)
    assert_array_equal(scores.compute(), pca.score_samples(frame))
    assert list(pca.impute(lazy).columns) == NAMES
    assert_allclose(pca.inverse_transform(codes).compute(), pca.inverse_transform(computed))
    with pytest.warns(UserWarning, match="without feature names"):
        PCA(2).fit(X).transform(lazy)
    with pytest.raises(ValueError, match="feature names should match"):
        pca.transform(lazy.rename(columns={"a": "z"}))


# Lazy results


@pytest.mark.parametrize(
    "estimator",
    [
        PCA(2, whiten=True),
        AutoencoderTransformer(2, max_iter=1, random_state=0),
        VAETransformer(2, max_iter=1, random_state=0),
        AutoencoderOutlierDetector(PCA(2)),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, int])
def test_results_are_lazy_and_known_before_they_are_computed(X, estimator, dtype):
    X = X.astype(dtype)
    fitted = clone(estimator).fit(X.astype(float))
    lazy = da.from_array(X, chunks=(100, 4))
    n_checked = 0
    for name in (
        "transform", "score_samples", "reconstruct", "impute", "reconstruction_error",
        "expected", "contributions", "predict", "decision_function", "p_values",
    ):  # fmt: skip
        if not hasattr(fitted, name):
            continue
        n_checked += 1
        desired, result = getattr(fitted, name)(X), getattr(fitted, name)(lazy)
        assert isinstance(result, da.Array), name
        assert result.shape == desired.shape, name
        assert result.dtype == desired.dtype, name
        assert result.chunks[0] == lazy.chunks[0], name
        assert len(result.chunks[1:]) == desired.ndim - 1
        assert_allclose(result.compute(), desired, rtol=1e-5, atol=1e-6, err_msg=name)
    assert n_checked >= 4
    if hasattr(fitted, "score"):
        assert_allclose(fitted.score(lazy), fitted.score(X), rtol=1e-6)
    if hasattr(fitted, "inverse_transform"):
        codes = fitted.transform(lazy)
        assert_array_equal(
            fitted.inverse_transform(codes), fitted.inverse_transform(codes.compute())
        )


def test_nothing_is_computed_before_it_is_asked_for(X):
    def fail(block):
        if len(block) > 1:
            raise AssertionError("computed")
        return block

    lazy = da.from_array(X, chunks=100).map_blocks(fail, dtype=float)
    PCA(2).fit(X).transform(lazy)


def test_chunks_of_unknown_length(X):
    lazy = da.from_array(X, chunks=100)
    unknown = lazy[lazy[:, 0] > 5.0]
    rows = X[X[:, 0] > 5.0]
    assert np.isnan(unknown.shape[0])
    weights = np.linspace(1, 2, len(rows))
    pca = PCA(2).fit(unknown, sample_weight=weights)
    assert_same_pca(pca, PCA(2).fit(rows, sample_weight=weights))
    codes = pca.transform(unknown)
    assert np.isnan(codes.shape[0])
    assert codes.shape[1] == 2
    assert_array_equal(codes.compute(), pca.transform(rows))
    nothing = lazy[lazy[:, 0] > 1e9]  # chunks of no rows
    assert pca.transform(nothing).compute().shape == (0, 2)
    with pytest.raises(ValueError, match=r"0 sample\(s\)"):
        PCA(2).fit(nothing)


@pytest.mark.parametrize("cls", [AutoencoderTransformer, VAETransformer])
def test_autoencoders_train_on_chunks_that_come_one_by_one(X, cls, monkeypatch):
    estimator = cls(
        2, hidden_layer_sizes=(8,), max_iter=2, shuffle=False, early_stopping=False, random_state=0
    )
    X = X.astype(np.float32)
    desired = clone(estimator).fit(X)
    for in_memory in (True, False):
        if not in_memory:
            monkeypatch.setattr("skae._rows.MAX_COPIED_BYTES", 0)
        frame = dd.from_pandas(pd.DataFrame(X, columns=NAMES), npartitions=3)
        for table in (da.from_array(X, chunks=(90, 4)), frame):
            actual = clone(estimator).fit(table)
            assert_allclose(actual.loss_curve_, desired.loss_curve_, rtol=1e-5)
        stopped = clone(estimator).set_params(early_stopping=True, shuffle=True)
        assert_allclose(stopped.fit(table).loss_curve_, desired.loss_curve_, rtol=0.5)


# Bad input


def test_collections_that_are_no_tables_of_numbers_are_refused(X):
    for fit in (PCA(2).fit, AutoencoderTransformer(2, max_iter=1).fit):
        with pytest.raises(ValueError, match="Expected 2D array, got 1D array"):
            fit(da.from_array(X[:, 0], chunks=100))
        frame = pd.DataFrame({"x": X[:, 0], "kind": pd.Categorical(["a"] * len(X))})
        with pytest.raises(ValueError, match="'kind' of X holds category.*TableAutoencoder"):
            fit(dd.from_pandas(frame, npartitions=2))
        with pytest.raises(ValueError, match="'day' of X holds datetime64"):
            fit(dd.from_pandas(pd.DataFrame({"day": pd.to_datetime(["2024-01-01"] * 4)})))


def test_objects_that_are_numbers_are_read_and_others_are_named(X):
    rows = X.astype(object)
    rows[5, 1] = None
    lazy = da.from_array(rows, chunks=(100, 6))
    desired = np.where(pd.isna(rows), np.nan, X)
    assert_same_pca(PCA(2).fit(lazy), PCA(2).fit(desired), rtol=1e-9)
    rows[7, 2] = "seven"
    with pytest.raises(ValueError, match="could not convert string to float: 'seven'"):
        PCA(2).fit(da.from_array(rows, chunks=(100, 6)))


def test_infinite_cells_weights_and_solvers_that_do_not_fit_are_refused(X):
    lazy = da.from_array(X, chunks=100)
    infinite = dd.from_pandas(pd.DataFrame(X, columns=NAMES).assign(c=np.inf), npartitions=3)
    with pytest.raises(ValueError, match=r"infinity.*'c'"):
        PCA(2).fit(infinite)
    with pytest.raises(ValueError, match="svd_solver='randomized' needs the rows"):
        PCA(2, svd_solver="randomized").fit(lazy)
    with pytest.raises(ValueError, match="5 chunks of rows, and sample_weight has 1"):
        PCA(2).fit(lazy, sample_weight=dd.from_pandas(pd.Series(X[:, 0]), npartitions=1))
    with pytest.raises(ValueError, match="sample_weight"):
        PCA(2).fit(lazy, sample_weight=np.ones(402))
    with pytest.raises(ValueError, match="[Nn]egative"):
        PCA(2).fit(lazy, sample_weight=-np.ones(403))
    with pytest.raises(ValueError, match="NaN in all cells of 1 columns"):
        PCA(2).fit(da.from_array(np.c_[X, np.full(403, np.nan)], chunks=100))
    with pytest.raises(ValueError, match="partial_fit adds the moments"):
        PCA(2).partial_fit(da.from_array(np.where(X > 8, np.nan, X), chunks=100))
    with pytest.raises(ValueError, match="6 features, but PCA is expecting 5"):
        PCA(2).partial_fit(X[:, :5]).partial_fit(lazy)
    with pytest.raises(ValueError, match="outside of the range of float64"):
        PCA(2).fit(da.from_array(X * 1e200, chunks=100))


# Clusters


@pytest.fixture(scope="module")
def client():
    """A client of two processes, that is not asked unless a test says so."""
    from distributed import Client, LocalCluster

    settings = {"distributed.comm.timeouts.connect": "60s", "distributed.admin.log-format": ""}
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0",
            silence_logs=50,
        ) as cluster,
        Client(cluster, set_as_default=False, timeout=60) as client,
    ):  # fmt: skip
        client.wait_for_workers(2, timeout=100)
        yield client


@pytest.fixture
def at_work(client):
    client.wait_for_workers(2, timeout=100)
    with dask.config.set(scheduler=None), client.as_current():
        yield client


def test_workers_apply_models_and_do_not_take_more_threads_than_they_have(X, at_work):
    lazy = da.from_array(X, chunks=(100, 6))
    fitted = AutoencoderTransformer(2, max_iter=1, random_state=0).fit(X)
    assert_array_equal(fitted.transform(lazy).compute(), fitted.transform(X))

    def n_threads():
        import torch
        from threadpoolctl import threadpool_info

        blas = [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]
        return [torch.get_num_threads(), *blas]

    for found in at_work.run(n_threads).values():
        assert set(found) == {1}


def test_a_search_on_a_cluster_finds_what_one_process_finds(X, at_work):
    search = GridSearchCV(
        AutoencoderTransformer(hidden_layer_sizes=(4,), max_iter=1, random_state=0),
        {"n_components": [1, 2]},
        cv=2,
    )
    desired = clone(search).fit(X)
    with joblib.parallel_config("dask", client=at_work):
        search.fit(X)
    for name in ("mean_test_score", "rank_test_score"):
        assert_allclose(search.cv_results_[name], desired.cv_results_[name], rtol=1e-6)


def slowly(block):
    time.sleep(0.05)
    return block


def test_a_killed_worker_changes_nothing(X, at_work):
    lazy = da.from_array(X, chunks=(10, 6)).map_blocks(slowly, dtype=X.dtype)
    pids = at_work.run(os.getpid)

    def kill():
        time.sleep(0.4)
        os.kill(next(iter(pids.values())), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        pca = PCA(2).fit(lazy)
    finally:
        killer.join()
    assert_same_pca(pca, PCA(2).fit(X))
    at_work.wait_for_workers(2, timeout=100)  # the nanny starts another one
    assert set(at_work.run(os.getpid).values()) != set(pids.values())


def test_a_client_without_workers_is_an_error_and_no_wait(X):
    from distributed import Client, LocalCluster

    lazy = da.from_array(X, chunks=100)
    with (
        dask.config.set(scheduler=None),
        LocalCluster(n_workers=0, processes=False, dashboard_address=":0", silence_logs=50) as none,
        Client(none, set_as_default=False) as client,
        client.as_current(),
    ):
        with pytest.raises(RuntimeError, match="no workers"):
            PCA(2).fit(lazy)
        client.close()
        with pytest.raises(RuntimeError, match=r"client is clos.*scheduler cannot be reached"):
            PCA(2).fit(lazy)
