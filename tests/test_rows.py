"""Tables of every kind give the same batches, and batches the same weighted means."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skae import AutoencoderTransformer
from skae._random import private_random_numbers
from skae._rows import (
    Batch,
    DenseTable,
    MappedTable,
    Rows,
    SparseTable,
    batches,
    in_batches,
    to_rows,
    to_table,
)

CPU = torch.device("cpu")


@pytest.fixture
def X():
    X = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    X[X < 0] = 0.0
    return X


@pytest.fixture
def mapped(X, tmp_path):
    array = np.memmap(tmp_path / "X", np.float64, "w+", shape=X.shape)
    array[:] = X
    return array


@pytest.fixture(params=["dense", "sparse", "mapped", "some of a map"])
def table(request, X, mapped):
    match request.param:
        case "dense":
            return DenseTable(torch.from_numpy(X))
        case "sparse":
            return SparseTable(sparse.csr_array(X))
        case "mapped":
            return MappedTable(mapped)
    twice = np.concatenate([mapped, mapped])
    return MappedTable(twice, np.arange(10, 20))


def test_every_table_gives_the_rows_that_it_is_asked_for(table, X):
    assert table.shape == (10, 3)
    index = torch.tensor([7, 0, 3])
    for taken in (table.dense(index), table.take(index).dense(slice(None))):
        assert taken.dtype == torch.float32
        assert_array_equal(taken, X[index])
    assert_array_equal(table.dense(slice(2, 5)), X[2:5])
    assert_array_equal(table.take(index).take(torch.tensor([2])).dense(slice(None)), X[[3]])


@pytest.mark.parametrize("weighted", [False, True])
def test_the_source_of_a_table_has_its_weighted_mean(table, X, weighted):
    weights = np.linspace(0.1, 1.9, 10) if weighted else None
    source, source_weights = table.source(weights)
    dense = source.toarray() if sparse.issparse(source) else source
    mean = np.average(dense, axis=0, weights=source_weights)
    assert_allclose(mean, np.average(X, axis=0, weights=weights), rtol=1e-6)


def test_a_long_memory_map_is_not_copied(monkeypatch, mapped):
    assert isinstance(to_table(mapped), DenseTable)
    monkeypatch.setattr("skae._rows.MAX_COPIED_BYTES", 4 * mapped.size - 1)
    assert isinstance(to_table(np.asarray(mapped)), MappedTable)
    assert isinstance(to_table(np.array(mapped)), DenseTable)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_fit_to_a_memory_map_is_that_to_an_array(monkeypatch, tmp_path, dtype):
    X = np.random.default_rng(0).normal(size=(200, 6)).astype(dtype)
    array = np.memmap(tmp_path / "X", dtype, "w+", shape=X.shape)
    array[:] = X
    estimator = AutoencoderTransformer(2, max_iter=2, random_state=0)
    desired = estimator.fit(X).transform(X)
    monkeypatch.setattr("skae._rows.MAX_COPIED_BYTES", 0)
    # PCA, as a start, reads the rows of a map before they are rounded to float32.
    assert_allclose(estimator.fit(array).transform(X), desired, atol=1e-5)


def test_a_table_that_does_not_fit_stays_where_it_is(monkeypatch):
    values = torch.rand(10, 3)
    place = torch.device("meta")  # stands for an accelerator
    monkeypatch.setattr("skae._rows.available_memory", lambda device: 2 * values.nbytes - 1)
    table = DenseTable(values).to(place)
    assert table.values.device == CPU
    assert not table.is_resident
    assert table.dense(torch.tensor([1, 2])).device == place
    monkeypatch.setattr("skae._rows.available_memory", lambda device: 2 * values.nbytes)
    assert DenseTable(values).to(place).is_resident


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_takes_every_row_once(shuffle):
    numbers = torch.arange(10.0)
    rows = Rows(DenseTable(numbers[:, None]), DenseTable(numbers), numbers)
    with private_random_numbers(0, CPU):
        taken = list(batches(rows, 4, shuffle))
    assert [len(batch) for batch in taken] == [4, 4, 2]
    for batch in taken:
        assert_array_equal(batch.x[:, 0], batch.target)
        assert_array_equal(batch.weights, batch.target)
    order = torch.cat([batch.weights for batch in taken])
    assert_array_equal(order.sort().values, numbers)
    assert bool((order == numbers).all()) != shuffle


def test_shares_of_cells_weigh_known_cells_only():
    known = torch.tensor([[True, False, True], [True, True, True], [False, False, False]])
    weights = torch.tensor([0.5, 1.5, 1.0])
    batch = Batch(torch.zeros(3, 3), weights=weights, known=known)
    desired = [[0.5 / 6, 0.0, 0.5 / 6], [1.5 / 9] * 3, [0.0] * 3]
    assert_allclose(batch.cell_shares(), desired, rtol=1e-6)
    assert_allclose(Batch(torch.zeros(4, 3)).cell_shares(), np.full((4, 1), 1 / 12), rtol=1e-6)


def test_equal_weights_are_none():
    X = np.zeros((4, 2), dtype=np.float32)
    assert to_rows(X, None, np.full(4, 3.0)).weights is None
    rows = to_rows(X, None, np.array([2.0, 0.0, 2.0, 2.0]))
    assert len(rows) == 3
    assert rows.weights is None
    assert_allclose(to_rows(X, None, np.array([1.0, 0, 2, 3])).weights, [0.5, 1.0, 1.5])


def test_in_batches_keeps_order_and_bounds_memory():
    sizes = []

    def double(x):
        sizes.append(len(x))
        return 2 * x

    X = np.arange(20_000.0).reshape(10_000, 2)
    assert_array_equal(in_batches(double, X, CPU), 2 * X)
    assert sizes == [4096, 4096, 1808]
