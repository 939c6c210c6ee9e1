"""Moments against float64 references: merging, weights, precision, bounded memory."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from scipy import sparse
from threadpoolctl import threadpool_info, threadpool_limits

import skae
from skae import PCA, _decomposition, _moments
from skae._device_rows import full_precision_product
from skae._moments import (
    Moments,
    column_means,
    gram_matrix,
    product_dtype_for,
    project_on_rows,
    threads_of_blas,
)

SEEDS = st.integers(0, 2**32 - 1)


def reference(X, weights=None):
    X = np.asarray(X, dtype=np.float64)
    weights = np.ones(len(X)) if weights is None else weights
    mean = weights @ X / weights.sum()
    mean += weights @ (X - mean) / weights.sum()
    return mean, (weights[:, None] * (X - mean)).T @ (X - mean)


def assert_same(moments, mean, scatter, rtol=1e-10):
    scale = max(float(np.abs(scatter).max()), 1e-300)
    assert_allclose(moments.mean, mean, rtol=rtol, atol=rtol)
    assert_allclose(moments.scatter, scatter, rtol=rtol, atol=rtol * scale)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 60), st.integers(1, 12), st.lists(st.integers(0, 60), max_size=4))
def test_merging_is_exact_in_any_order(seed, n, d, cuts):
    X = np.random.default_rng(seed).normal(3.0, 2.0, (n, d))
    parts = np.split(X, sorted(min(cut, n) for cut in cuts))
    states = [Moments.from_rows(part) for part in parts if len(part)]
    forwards = reduce(Moments.merge, states)
    backwards = reduce(Moments.merge, reversed(states))
    mean, scatter = reference(X)
    for moments in (forwards, backwards):
        assert_same(moments, mean, scatter)
        assert moments.n_samples == moments.weight == n


def test_arrays_give_the_moments_back():
    moments = Moments.from_rows(np.random.default_rng(0).normal(size=(9, 4)), np.arange(9.0))
    arrays = moments.to_arrays()
    assert {type(value) for value in arrays.values()} == {int, float, np.ndarray}
    again = Moments.from_arrays(arrays)
    assert (again.n_samples, again.weight) == (8, 36.0)
    assert torch.equal(again.mean, moments.mean)
    assert torch.equal(again.scatter, moments.scatter)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(1, 30), st.integers(1, 8))
def test_integer_weights_are_repetitions(seed, n, d):
    rng = np.random.default_rng(seed)
    X, counts = rng.normal(10.0, 1.0, (n, d)), rng.integers(0, 4, n)
    counts[0] += 1
    repeated = Moments.from_rows(np.repeat(X, counts, axis=0))
    weighted = Moments.from_rows(X, counts.astype(float))
    assert_same(weighted, repeated.mean.numpy(), repeated.scatter.numpy())
    assert weighted.weight == pytest.approx(repeated.weight)


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_extreme_weights_neither_overflow_nor_underflow(scale):
    X = np.random.default_rng(0).normal(size=(50, 3))
    moments = Moments.from_rows(X, np.full(50, scale))
    assert_allclose(moments.scatter / scale, reference(X)[1], atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(2, 50), st.integers(1, 8))
def test_translation_by_a_million_changes_only_the_mean(seed, n, d):
    X = np.random.default_rng(seed).normal(size=(n, d))
    moments, moved = Moments.from_rows(X), Moments.from_rows(X + 1e6)
    assert_allclose(moved.scatter, moments.scatter, atol=1e-8 * n)
    assert_allclose(moved.mean - 1e6, moments.mean, atol=1e-8)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(60_000, 30), (9_000, 300), (3, 5), (1, 4)])
def test_blocks_of_any_layout_add_up(shape, dtype, order):
    rng = np.random.default_rng(0)
    X = np.asarray(rng.normal(2.0, 1.0, shape) + np.linspace(0, 9, shape[0])[:, None], dtype, order)
    mean, scatter = reference(X)
    rtol = 1e-6 if product_dtype_for(X) == np.float32 else 1e-11
    assert_same(Moments.from_rows(X), mean, scatter, rtol=rtol)
    assert_allclose(column_means(X), mean, rtol=1e-12)


def test_float32_data_with_a_large_mean_keeps_its_eigenvalues():
    rng = np.random.default_rng(0)
    X = rng.normal(1e4, 1.0, (40_000, 60)).astype(np.float32)
    assert product_dtype_for(X) == np.float32
    exact = np.linalg.svd(X - X.mean(axis=0, dtype=np.float64), compute_uv=False) ** 2
    computed = np.linalg.eigvalsh(Moments.from_rows(X).scatter.numpy())[::-1]
    assert np.abs(computed / exact - 1).max() < 1e-5


def test_float32_products_of_well_scaled_data_are_exact_to_a_millionth():
    rng = np.random.default_rng(1)
    X = (rng.normal(size=(60_000, 100)) @ rng.normal(size=(100, 100))).astype(np.float32)
    X = (X + rng.normal(size=X.shape) * X.std()).astype(np.float32)
    exact = np.linalg.svd(X - X.mean(axis=0, dtype=np.float64), compute_uv=False) ** 2
    computed = np.linalg.eigvalsh(Moments.from_rows(X, product_dtype=np.float32).scatter.numpy())
    assert np.abs(computed[::-1] / exact - 1).max() < 1e-6


@pytest.mark.parametrize("container", [sparse.csr_matrix, sparse.csc_array])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("mean", [0.0, 1e6])
def test_sparse_moments_and_inner_products_equal_dense_ones(container, weighted, mean):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 12)) * (rng.uniform(size=(40, 12)) < 0.3)
    X[:, 3] = rng.normal(mean, 1.0, 40)  # a dense column: cannot be centred afterwards
    weights = rng.uniform(0.0, 2.0, 40) if weighted else None
    exact_mean, exact_scatter = reference(X, weights)
    assert_same(Moments.from_rows(container(X), weights), exact_mean, exact_scatter, rtol=1e-9)
    root = np.ones(40) if weights is None else np.sqrt(weights)
    centred = root[:, None] * (X - exact_mean)
    for data in (X, container(X)):
        found_mean, gram = gram_matrix(data, weights)
        assert_allclose(found_mean, exact_mean, rtol=1e-12)
        assert_allclose(gram, centred @ centred.T, atol=1e-8)
        coefficients = rng.normal(size=(40, 3))
        combined = project_on_rows(data, coefficients, weights)
        assert_allclose(combined, coefficients.T @ centred, atol=1e-8)


def test_cells_of_heavy_rows_do_not_hide_a_large_mean():
    X = np.zeros((1000, 2))
    X[:3] = 1e6 + np.arange(6).reshape(3, 2)
    weights = np.where(np.arange(1000) < 3, 1.0, 1e-12)
    assert_same(Moments.from_rows(sparse.csr_array(X), weights), *reference(X, weights), rtol=1e-9)


def test_operations_leave_their_operands_unchanged():
    moments = Moments.from_rows(np.eye(4))
    before = moments.mean.clone(), moments.scatter.clone()
    moments.merge(Moments.from_rows(np.ones((2, 4))))
    assert torch.equal(moments.mean, before[0])
    assert torch.equal(moments.scatter, before[1])


MEMMAP_SCRIPT = """
import resource, sys
import numpy as np
from skae import PCA

X = np.memmap(sys.argv[1], dtype=sys.argv[2], mode="r", shape=(400_000, 100))
PCA(3, svd_solver=sys.argv[3], iterated_power=1).fit(X[:500])  # whatever is allocated once
used = int(next(line for line in open("/proc/self/status") if "VmData" in line).split()[1]) * 1024
limit = used + (100 << 20)  # a file of 160 MB, or 320 MB as float64, does not fit
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
pca = PCA(3, svd_solver=sys.argv[3], iterated_power=1, random_state=0).fit(X)
np.save(sys.argv[1] + ".npy", pca.explained_variance_)
try:
    np.ones(X.shape, dtype=X.dtype)
except MemoryError:
    sys.exit(0)
sys.exit("the limit does not hold")
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="limits memory as on Linux")
@pytest.mark.parametrize(
    ("dtype", "solver"), [("float32", "auto"), ("int32", "auto"), ("float32", "full")]
)
def test_memory_map_is_read_in_blocks(tmp_path, dtype, solver):
    path = tmp_path / "rows"
    file = np.memmap(path, dtype=dtype, mode="w+", shape=(400_000, 100))
    small = np.random.default_rng(0).integers(-9, 9, (4_000, 100)) * np.linspace(1, 5, 100)
    for start in range(0, len(file), 4_000):
        file[start : start + 4_000] = small
    file.flush()
    del file
    result = subprocess.run(
        [sys.executable, "-c", MEMMAP_SCRIPT, str(path), dtype, solver],
        env={"PYTHONPATH": str(Path(skae.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    values = small.astype(dtype).astype(float)
    exact = np.linalg.eigvalsh(np.cov(values.T, bias=True))[::-1][:3] * 400_000 / 399_999
    assert_allclose(np.load(f"{path}.npy"), exact, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_moments_streamed_to_a_gpu_equal_those_of_the_cpu(dtype, weighted):
    rng = np.random.default_rng(0)
    X = rng.normal(1e3, 1.0, (300_000, 50)).astype(dtype)
    weights = rng.uniform(size=len(X)) if weighted else None
    on_gpu = Moments.from_rows(X, weights, device="cuda")
    on_cpu = Moments.from_rows(X, weights)
    assert on_gpu.scatter.is_cuda
    rtol = 1e-5 if dtype == np.float32 else 1e-11
    scale = float(on_cpu.scatter.abs().max())
    assert_allclose(on_gpu.mean.cpu(), on_cpu.mean, rtol=1e-7)
    assert_allclose(on_gpu.scatter.cpu(), on_cpu.scatter, atol=rtol * scale)
    wide = X[:50].T[:20].copy()
    assert_allclose(gram_matrix(wide, device="cuda")[1].cpu(), gram_matrix(wide)[1], rtol=1e-3)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_threads_share_the_blocks(monkeypatch, dtype, weighted):
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(20_000, 120)) + 5).astype(dtype)  # several blocks
    weights = rng.uniform(size=len(X)) if weighted else None
    threads = set()

    def recorded(*arguments):
        threads.add(threading.get_ident())
        return scatter_of_blocks(*arguments)

    scatter_of_blocks = _moments._scatter_of_blocks
    monkeypatch.setattr(_moments, "_scatter_of_blocks", recorded)
    results = []
    for n_threads in (1, 3):
        monkeypatch.setattr(_moments, "_openmp_effective_n_threads", lambda n=n_threads: n)
        results.append((Moments.from_rows(X, weights), *gram_matrix(X[:300].T, None)))
    assert len(threads) > 1
    (one, mean, gram), (three, mean_three, gram_three) = results
    # BLAS itself sums in another order with another number of threads.
    tolerance = 1e-6 if dtype == np.float32 else 1e-13
    for actual, desired in (
        (three.mean, one.mean),
        (three.scatter, one.scatter),
        (mean_three, mean),
        (gram_three, gram),
    ):
        assert_allclose(actual, desired, rtol=0, atol=tolerance * float(desired.abs().max()))


def test_overflow_is_silent_in_threads_too(monkeypatch):
    monkeypatch.setattr(_moments, "_openmp_effective_n_threads", lambda: 2)
    X = np.full((30_000, 60), 1e200)
    X[::2] = -1e200
    assert not torch.isfinite(Moments.from_rows(X).scatter).all()


@pytest.mark.parametrize("precision", ["none", "ieee", "tf32"])
def test_products_on_a_gpu_are_not_rounded_to_tensorfloat32(precision):
    rows = torch.ones(3, 2)
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = precision
    try:
        product = full_precision_product(rows)
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert product.dtype == (torch.float64 if precision == "tf32" else torch.float32)


def n_threads_of_blas():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((20_000, 100), {1}), ((100, 20_000), {1}), ((200, 10), {2}), ((20_000, 1000), {2})],
)
def test_blas_has_one_thread_where_more_do_not_help(shape, expected):
    with threadpool_limits(2, user_api="blas"):
        with threads_of_blas(np.broadcast_to(0.0, shape)):
            assert n_threads_of_blas() == expected
        assert n_threads_of_blas() == {2}


def test_blas_has_its_threads_again_after_fits_in_eight_threads():
    X = np.random.default_rng(0).normal(size=(4000, 80))

    def fit(number):
        if number % 3 == 0:
            with pytest.raises(ValueError, match="infinity"):
                PCA(2).fit(np.where(X > 3, np.inf, X))
        else:
            PCA(2, svd_solver="gram_eigh" if number % 3 == 1 else "auto").fit(X[:3000].T)
            PCA(2).fit(X)

    with threadpool_limits(2, user_api="blas"):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(fit, range(24)))
        assert n_threads_of_blas() == {2}


def test_overlapping_blocks_leave_the_threads_of_blas_as_the_first_found_them():
    narrow = np.broadcast_to(0.0, (20_000, 100))
    with threadpool_limits(2, user_api="blas"):
        first, second = threads_of_blas(narrow), threads_of_blas(narrow)
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert n_threads_of_blas() == {1}
        second.__exit__(None, None, None)
        assert n_threads_of_blas() == {2}


def test_an_interrupt_leaves_the_threads_of_blas(monkeypatch):
    narrow = np.broadcast_to(0.0, (20_000, 100))
    set_threads, calls = _moments._set_threads, iter([KeyboardInterrupt])

    def interrupted(library, n_threads):
        set_threads(library, n_threads)
        for error in calls:
            raise error

    monkeypatch.setattr(_moments, "_set_threads", interrupted)
    with threadpool_limits(2, user_api="blas"):
        with pytest.raises(KeyboardInterrupt), threads_of_blas(narrow):
            pass
        assert n_threads_of_blas() == {2}
        with threads_of_blas(narrow):
            assert n_threads_of_blas() == {1}
        assert n_threads_of_blas() == {2}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("container", [np.asarray, sparse.csr_array])
def test_constant_columns_have_their_value_as_mean_and_a_scatter_of_zero(container, weighted):
    rng = np.random.default_rng(0)
    X = np.column_stack([np.full(70_000, 0.1), np.full(70_000, 1e18 / 3), rng.normal(size=70_000)])
    weights = rng.uniform(size=len(X)) if weighted else None
    moments = Moments.from_rows(container(X), weights)
    assert moments.mean[:2].tolist() == X[0, :2].tolist()
    assert not moments.scatter[:2].any()
    assert not moments.scatter[:, :2].any()
    assert_allclose(moments.scatter[2, 2], reference(X[:, 2:], weights)[1][0, 0], rtol=1e-9)


@pytest.mark.parametrize("weighted", [False, True])
def test_columns_that_vary_in_their_last_digits_are_exact(weighted):
    rng = np.random.default_rng(0)
    steps = rng.integers(0, 5, 3000)
    X = np.column_stack([1e15 + np.spacing(1e15) * steps, rng.normal(size=3000)])
    weights = rng.uniform(size=len(X)) if weighted else None
    _, scatter = reference(np.column_stack([np.spacing(1e15) * steps, X[:, 1]]), weights)
    assert_allclose(Moments.from_rows(X, weights).scatter, scatter, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "fit",
    [lambda X: PCA(2).fit(X), lambda X: _decomposition.linear_code(X, None, 2)],
    ids=["PCA", "start of a network"],
)
def test_narrow_eigenproblems_are_solved_with_one_thread_of_blas(monkeypatch, fit):
    seen = []

    def recorded(*arguments, **keywords):
        seen.append(n_threads_of_blas())
        return solve(*arguments, **keywords)

    solve = _decomposition.principal_axes
    monkeypatch.setattr(_decomposition, "principal_axes", recorded)
    with threadpool_limits(2, user_api="blas"):
        fit(np.random.default_rng(0).normal(size=(4000, 80)))
    assert seen == [{1}]


def test_few_multiplications_are_not_shared_by_threads(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("a pool of threads was started")

    monkeypatch.setattr(_moments, "_openmp_effective_n_threads", lambda: 3)
    monkeypatch.setattr(_moments, "ThreadPoolExecutor", refuse)
    Moments.from_rows(np.ones((20_000, 50)))  # several blocks
    with pytest.raises(AssertionError, match="pool"):
        Moments.from_rows(np.ones((60_000, 50)))
