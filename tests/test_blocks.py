"""Tables in files give the same models as in memory, block by block."""

import os
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

import skae
from skae import (
    PCA,
    AutoencoderOutlierDetector,
    AutoencoderTransformer,
    VAETransformer,
)
from skae._blocks import ArrowTable, SelectedRows, Without
from skae._random import private_random_numbers
from skae._rows import (
    DenseTable,
    MappedTable,
    Rows,
    batches,
    shuffled_blocks,
    split_rows,
    spread,
    to_table,
)

CPU = torch.device("cpu")
NAMES = ["a", "b", "c", "d"]


@pytest.fixture
def X():
    rng = np.random.default_rng(0)
    return rng.normal(size=(301, 2)) @ rng.normal(size=(2, 4)) + 0.1 * rng.normal(size=(301, 4))


@pytest.fixture
def parquet(X, tmp_path):
    """A dataset of two files with row groups of 40 rows."""
    frame = pd.DataFrame(X, columns=NAMES)
    for number, part in enumerate((frame[:150], frame[150:])):
        table = pa.Table.from_pandas(part, preserve_index=False)
        (tmp_path / "data").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / "data" / f"{number}.parquet", row_group_size=40)
    return ds.dataset(tmp_path / "data")


@pytest.fixture
def mapped(X, tmp_path):
    array = np.memmap(tmp_path / "X.bin", np.float64, "w+", shape=X.shape)
    array[:] = X
    return array


@pytest.fixture
def never_copied(monkeypatch):
    monkeypatch.setattr("skae._rows.MAX_COPIED_BYTES", 0)


# Reading


def test_a_table_in_a_file_gives_the_rows_of_an_array(X, parquet):
    table = ArrowTable(parquet)
    assert table.shape == X.shape
    assert table.dtype == np.float64
    assert table.column_names == NAMES
    assert_array_equal(table, X)
    for rows in (
        slice(30, 170), slice(5, 9), slice(300, 400), slice(9, 5), slice(10, 200, 7), 160, -1,
        [3, 299, 40, 3], np.array([], int),
    ):  # fmt: skip
        rows = rows if isinstance(rows, slice) else np.asarray(rows)
        assert_array_equal(table[rows], X[rows])
    assert_array_equal(table[:, 1:3], X[:, 1:3])
    assert_array_equal(table.min(axis=0), X.min(axis=0))
    assert_allclose(table.sum(), X.sum(), rtol=1e-12)
    assert table.max() == X.max()
    chosen = np.array([200, 3, 77])
    assert_array_equal(SelectedRows(table, chosen), X[chosen])


def test_all_rows_but_some_need_no_list_of_them():
    left_out = np.array([0, 1, 5, 9])
    desired = np.setdiff1d(np.arange(10), left_out)
    rest = Without(10, left_out)
    assert len(rest) == 6
    assert_array_equal(rest[:], desired)
    assert_array_equal(rest[2:5], desired[2:5])
    assert_array_equal(rest[np.array([5, 0])], desired[[5, 0]])


@pytest.mark.parametrize(
    ("column", "desired"),
    [
        (pa.array([1, None, 3]), [1, np.nan, 3]),
        (pa.array([True, False, None]), [1, 0, np.nan]),
        (pa.array([1, 2, 3], pa.decimal128(5, 2)), [1, 2, 3]),
        (pa.array([1.5, 2.5, None], pa.float32()).dictionary_encode(), [1.5, 2.5, np.nan]),
        (pa.array([1, 2, 3], pa.uint8()), [1, 2, 3]),
    ],
)
def test_columns_of_numbers_of_any_type_are_read(tmp_path, column, desired):
    pq.write_table(pa.table({"x": column}), tmp_path / "x.parquet")
    assert_array_equal(ArrowTable(pq.ParquetFile(tmp_path / "x.parquet"))[:, 0], desired)


def test_columns_of_float32_stay_so(X, tmp_path):
    frame = pd.DataFrame(X.astype(np.float32), columns=NAMES)
    frame.to_parquet(tmp_path / "x.parquet")
    dataset = ds.dataset(tmp_path)
    assert PCA(2).fit(dataset).transform(dataset).dtype == np.float32
    dataset = ds.dataset(pa.table({"x": [1.0, 2.0]}))  # in memory, without row groups
    assert_array_equal(ArrowTable(dataset), [[1.0], [2.0]])


# Order and hold-out


def streamed_rows(n_rows, tmp_path, n_columns=1):
    numbers = np.memmap(tmp_path / "numbers", np.float32, "w+", shape=(n_rows, n_columns))
    numbers[:] = np.arange(n_rows)[:, None]
    return Rows(MappedTable(numbers), DenseTable(torch.arange(float(n_rows))))


@pytest.mark.parametrize("batch_size", [7, 64, 1000])
def test_an_epoch_takes_every_row_of_a_file_once_in_full_batches(tmp_path, monkeypatch, batch_size):
    monkeypatch.setattr("skae._rows.STREAM_BLOCK_BYTES", 40)
    monkeypatch.setattr("skae._rows.BUFFER_BYTES", 800)  # ten blocks of ten rows
    rows = streamed_rows(1003, tmp_path)
    with private_random_numbers(0, CPU):
        taken = list(batches(rows, batch_size, shuffle=True))
    assert [len(batch) for batch in taken[:-1]] == [batch_size] * (1003 // batch_size)
    for batch in taken:
        assert_array_equal(batch.x[:, 0], batch.target)
    order = torch.cat([batch.target for batch in taken])
    assert_array_equal(order.sort().values, np.arange(1003))
    # Rows of the first batch come from all over the file.
    first = order[:100]
    assert len(torch.unique(first // 100)) >= 6
    with private_random_numbers(0, CPU):
        again = torch.cat([batch.target for batch in batches(rows, batch_size, shuffle=True)])
        other = torch.cat([batch.target for batch in batches(rows, batch_size, shuffle=True)])
    assert_array_equal(again, order)
    assert not torch.equal(other, order)


def test_row_groups_are_read_whole_and_once_an_epoch(parquet, monkeypatch):
    rows = Rows(MappedTable(ArrowTable(parquet)))
    n_read = []
    decode = ArrowTable._decode
    monkeypatch.setattr(
        ArrowTable, "_decode", lambda table, piece: n_read.append(1) or decode(table, piece)
    )
    kept, held_out, _ = split_rows(rows, 30, None)
    n_read.clear()
    with private_random_numbers(0, CPU):
        assert sum(map(len, shuffled_blocks(kept, kept.starts, 16))) == 271
    assert len(n_read) == 8
    assert len(held_out) == 30


def test_rows_are_held_out_all_over_the_file(tmp_path):
    with private_random_numbers(0, CPU):
        chosen = spread(1003, 100)
    ends = np.floor(np.arange(101) * 10.03)
    assert np.all((ends[:-1] <= chosen.numpy()) & (chosen.numpy() < ends[1:]))
    kept, held_out, numbers = split_rows(streamed_rows(1003, tmp_path), 100, None)
    assert_array_equal(held_out.batch(slice(None)).target, numbers)
    assert_array_equal(
        kept.batch(slice(None)).x[:, 0], np.setdiff1d(np.arange(1003), numbers.numpy())
    )
    again = split_rows(streamed_rows(1003, tmp_path), 100, numbers.numpy())[2]
    assert_array_equal(again, numbers)
    for n_rows, n_chosen in ((5, 5), (7, 3), (2, 1)):
        assert len(torch.unique(spread(n_rows, n_chosen))) == n_chosen


def test_batches_of_sorted_rows_vary_as_those_of_the_full_shuffle(tmp_path, monkeypatch):
    monkeypatch.setattr("skae._rows.STREAM_BLOCK_BYTES", 16)  # four rows of one column
    monkeypatch.setattr("skae._rows.BUFFER_BYTES", 2**14)  # 2,048 rows, as they are 8 bytes long
    rows = streamed_rows(20_000, tmp_path)
    with private_random_numbers(0, CPU):
        means = [
            batch.target.mean().item()
            for _ in range(3)
            for batch in batches(rows, 64, shuffle=True)
            if len(batch) == 64
        ]
    # Of 64 rows drawn without replacement; the standard error of this ratio is 0.023.
    desired = 20_000 / np.sqrt(12 * 64) * np.sqrt(1 - 64 / 20_000)
    assert_allclose(np.std(means), desired, rtol=0.08)
    assert abs(np.mean(means) - 10_000) < 20_000 / 64


# Estimators


def tables(X, mapped, parquet):
    return {"map": mapped, "view of a map": np.asarray(mapped), "dataset": parquet}


@pytest.mark.parametrize("kind", ["map", "view of a map", "dataset"])
def test_pca_of_a_file_is_that_of_an_array(X, mapped, parquet, kind):
    table = tables(X, mapped, parquet)[kind]
    weights = np.linspace(0.0, 2.0, len(X))
    for sample_weight in (None, weights):
        desired = PCA(2).fit(X, sample_weight=sample_weight)
        actual = PCA(2).fit(table, sample_weight=sample_weight)
        assert_allclose(actual.components_, desired.components_, rtol=1e-9)
        assert_allclose(actual.explained_variance_, desired.explained_variance_, rtol=1e-12)
    assert_allclose(actual.transform(table), desired.transform(X), atol=1e-12)
    assert_allclose(actual.score_samples(table), desired.score_samples(X), rtol=1e-9)
    assert_allclose(actual.partial_fit(table).mean_, PCA(2).fit(X).partial_fit(X).mean_, rtol=1)


@pytest.mark.parametrize("cls", [AutoencoderTransformer, VAETransformer])
@pytest.mark.parametrize("kind", ["map", "dataset"])
def test_autoencoders_of_a_file_are_those_of_an_array(X, tmp_path, never_copied, cls, kind):
    X = X.astype(np.float32)
    if kind == "map":
        table = np.memmap(tmp_path / "X.bin", np.float32, "w+", shape=X.shape)
        table[:] = X
    else:
        X = pd.DataFrame(X, columns=NAMES)
        X.to_parquet(tmp_path / "X.parquet", row_group_size=40)
        table = ds.dataset(tmp_path)
    estimator = cls(
        2, hidden_layer_sizes=(8,), max_iter=2, shuffle=False, early_stopping=False, random_state=0
    )
    desired = clone(estimator).fit(X)
    actual = clone(estimator).fit(table)
    assert_allclose(actual.loss_curve_, desired.loss_curve_, rtol=1e-6)
    for method in ("transform", "reconstruct", "reconstruction_error", "score_samples", "expected"):
        found = getattr(desired, method)(table)
        assert_array_equal(found, getattr(desired, method)(X), err_msg=method)
    if kind == "dataset":
        assert list(actual.feature_names_in_) == NAMES
    stopped = clone(estimator).set_params(early_stopping=True, shuffle=True, max_iter=5)
    stopped.fit(table, sample_weight=np.arange(301.0))
    assert stopped.score(X) >= desired.score(X) - 0.5


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float64, np.float32])
def test_maps_of_any_numbers_are_read_without_a_copy(tmp_path, never_copied, dtype, monkeypatch):
    X = np.random.default_rng(0).integers(0, 100, size=(200, 5)).astype(dtype)
    array = np.memmap(tmp_path / "X", dtype, "w+", shape=X.shape)
    array[:] = X
    seen = []
    monkeypatch.setattr(
        "skae._completion.to_rows", lambda *a: seen.append(a[0]) or skae._rows.to_rows(*a)
    )
    estimator = AutoencoderTransformer(2, max_iter=2, random_state=0)
    for table in (array, np.asarray(array), array[::2], np.asarray(array)[:, :4]):
        estimator.fit(table)
        assert np.shares_memory(seen[-1], array)
        assert isinstance(to_table(seen[-1]), MappedTable)
        assert_allclose(estimator.transform(table), estimator.transform(np.array(table)), rtol=1e-6)


def test_unknown_cells_of_a_file_are_those_of_an_array(X, tmp_path):
    X = np.where(np.random.default_rng(1).random(X.shape) < 0.1, np.nan, X)
    pd.DataFrame(X, columns=NAMES).to_parquet(tmp_path / "x.parquet", row_group_size=50)
    dataset = ds.dataset(tmp_path)
    desired, actual = PCA(2).fit(X), PCA(2).fit(dataset)
    assert_array_equal(actual.components_, desired.components_)
    assert_allclose(actual.transform(dataset), desired.transform(X), atol=1e-12)
    assert_allclose(actual.score_samples(dataset), desired.score_samples(X), rtol=1e-9)


def test_the_detector_scores_a_file(X, parquet, mapped):
    detector = AutoencoderOutlierDetector(PCA(2), random_state=0).fit(X)
    assert_array_equal(detector.score_samples(mapped), detector.score_samples(X))
    detector = AutoencoderOutlierDetector(PCA(2), random_state=0).fit(
        pd.DataFrame(X, columns=NAMES)
    )
    assert_array_equal(detector.predict(parquet), detector.predict(pd.DataFrame(X, columns=NAMES)))


MEMORY = """
    import resource, sys
    import numpy as np
    import torch
    from skae import PCA, AutoencoderTransformer
    import skae._rows
    torch.set_num_threads(1)
    skae._rows.MAX_COPIED_BYTES = skae._rows.BUFFER_BYTES = 2**20
    shape = int(sys.argv[2]), 50
    X = np.memmap(sys.argv[1], np.float64, "w+", shape=shape)
    X[::50] = np.random.default_rng(0).normal(size=(shape[0] // 50, 50))  # a sparse file
    X.flush()
    model = AutoencoderTransformer(
        2, hidden_layer_sizes=(4,), batch_size=4096, max_iter=1, random_state=0
    )
    model.fit(X[:10_000])
    PCA(2).fit(X[:10_000])
    # Pages of the file count as well, so the limit is on what the process asks for.
    with open("/proc/self/status") as status:
        (data,) = [int(line.split()[1]) for line in status if line.startswith("VmData")]
    limit = data * 1024 + 48 * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    model.fit(X)
    PCA(2).fit(X)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs limits of Linux")
def test_memory_does_not_grow_with_the_file(tmp_path):
    """A table of 240 MB is fitted with 48 MB more than a small one."""
    import subprocess
    import sys

    environment = {**os.environ, "PYTHONPATH": str(Path(skae.__file__).parents[1])}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(MEMORY), str(tmp_path / "X"), "600000"],
        capture_output=True, text=True, timeout=200, env=environment, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]


# Files that are refused


def write(path, **columns):
    pq.write_table(pa.table(columns), path)


def test_files_with_different_columns_are_refused(tmp_path):
    write(tmp_path / "0.parquet", x=[1.0, 2.0], y=[1.0, 2.0])
    write(tmp_path / "1.parquet", x=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"1.parquet has no column 'y', which other files"):
        PCA(1).fit(ds.dataset(tmp_path))
    write(tmp_path / "1.parquet", x=[1.0, 2.0], y=[1.0, 2.0], z=[1.0, 2.0])
    with pytest.raises(ValueError, match=r"1.parquet has a column 'z', which the schema"):
        PCA(1).fit(ds.dataset(tmp_path))
    write(tmp_path / "1.parquet", x=[1.0, 2.0], y=["a", "b"])
    with pytest.raises(ValueError, match=r"Column 'y' of .*1.parquet holds string, and double in"):
        PCA(1).fit(ds.dataset(tmp_path))
    write(tmp_path / "1.parquet", x=[1, 2], y=[1.0, 2.0])
    assert PCA(1).fit(ds.dataset(tmp_path)).n_samples_ == 4  # numbers of another type are numbers


def test_columns_that_are_no_numbers_are_named(tmp_path):
    write(tmp_path / "0.parquet", x=[1.0, 2.0], name=["a", "b"])
    with pytest.raises(ValueError, match=r"Column 'name' of X holds string.*1 of 2.*TableEncoder"):
        AutoencoderTransformer(1).fit(ds.dataset(tmp_path))


def test_infinite_and_huge_cells_of_a_file_are_named(tmp_path, X):
    for value, text in ((np.inf, "infinity"), (1e39, "huge")):
        write(tmp_path / "0.parquet", x=X[:, 0], y=np.r_[X[1:, 1], value])
        with pytest.raises(ValueError, match=rf"X contains.*{text}.* column 'y' \(1\)"):
            AutoencoderTransformer(1).fit(ds.dataset(tmp_path))


def test_filtered_and_empty_datasets_are_refused(parquet, tmp_path):
    with pytest.raises(ValueError, match="cannot be read by row groups"):
        PCA(1).fit(parquet.filter(ds.field("a") > 0))
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty" / "0.parquet", x=pa.array([], pa.float64()))
    for estimator in (PCA(1), AutoencoderTransformer(1)):
        with pytest.raises(ValueError, match=r"0 sample\(s\)"):
            estimator.fit(ds.dataset(tmp_path / "empty"))
    with pytest.raises(ValueError, match="unseen at fit time"):
        PCA(1).fit(pd.DataFrame(np.ones((4, 3)), columns=list("abc"))).transform(parquet)


def test_a_file_that_shrinks_is_an_error_and_no_crash(mapped, tmp_path, never_copied):
    class Truncate:
        setup = teardown = on_fit_task_begin = lambda self, estimator, context: None

        def on_fit_task_end(self, estimator, context):
            os.truncate(mapped.filename, 4096)

    estimator = AutoencoderTransformer(2, max_iter=3, random_state=0)
    with pytest.raises(ValueError, match=r"X.bin' has 4096 bytes now, and 9632 are needed"):
        estimator.set_callbacks(Truncate()).fit(mapped)
    for call in (PCA(2).fit, estimator.fit):
        with pytest.raises(ValueError, match="has become shorter since it was mapped"):
            call(mapped)


def test_a_parquet_file_that_changes_is_an_error(parquet, X):
    pca = PCA(2).fit(parquet)
    for path in parquet.files:
        os.truncate(path, os.stat(path).st_size // 2)
    with pytest.raises(ValueError, match=r"Row group \d of 0.parquet of X cannot be read"):
        pca.transform(parquet)
