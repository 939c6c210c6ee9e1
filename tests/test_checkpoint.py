"""A fit that is killed goes on where it was, and ends with the same bits."""

import os
import pickle
import random
import signal
import time
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skae
from skae import (
    AutoencoderOutlierDetector,
    AutoencoderTransformer,
    DenoisingAutoencoder,
    VAETransformer,
)
from skae.callbacks import Checkpoint

SMALL = {"hidden_layer_sizes": (8,), "max_iter": 6, "batch_size": 16, "random_state": 0}

ESTIMATORS = {
    "anchored": AutoencoderTransformer(2, **SMALL),
    "dropout, no early stopping": AutoencoderTransformer(
        2, init="random", dropout=0.3, early_stopping=False, **SMALL
    ),
    "layer by layer": AutoencoderTransformer(
        2, init="random", pretrain_iter=2, **SMALL | {"hidden_layer_sizes": (8, 6), "max_iter": 2}
    ),
    "denoising": DenoisingAutoencoder(2, solver="adadelta", **SMALL),
    "variational": VAETransformer(2, learning_rate_init=0.02, **SMALL),
    "random seed": VAETransformer(2, **SMALL | {"random_state": None}),
}


@pytest.fixture
def X():
    rng = np.random.default_rng(0)
    return np.tanh(rng.normal(size=(120, 2)) @ rng.normal(size=(2, 5))) + rng.normal(
        0.0, 0.1, size=(120, 5)
    )


class Interrupt:
    """A callback that behaves like Ctrl-C in an epoch, before the epoch is kept."""

    def __init__(self, epoch):
        self.epoch = epoch

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context):
        if "epoch" in context.task_name or "layer" in context.task_name:
            self.epoch -= 1
            if self.epoch < 0:
                raise KeyboardInterrupt


def fit_with_interruptions(estimator, checkpoint, X, n_epochs_each=2):
    for _ in range(100):
        estimator = clone(estimator).set_callbacks(Interrupt(n_epochs_each), checkpoint)
        try:
            return estimator.fit(X)
        except KeyboardInterrupt as error:
            (note,) = error.__notes__
            assert f"kept in {str(Path(checkpoint.path))!r}" in note
    raise AssertionError("no progress")


def assert_same_bits(actual, desired):
    for name, weights in desired.module_.state_dict().items():
        assert_array_equal(actual.module_.state_dict()[name], weights, err_msg=name)
    names = [name for name in vars(desired) if name.endswith("_") and "curve" in name]
    for name in [*names, "n_iter_", "best_loss_"]:
        assert getattr(actual, name) == getattr(desired, name), name


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("every", [1, 2])
def test_an_interrupted_fit_ends_with_the_bits_of_an_uninterrupted_one(X, tmp_path, name, every):
    whole = clone(ESTIMATORS[name])
    path = tmp_path / "run.skae"
    if whole.random_state is None:  # the file brings the seeds of the fit that began it
        whole.set_callbacks(Checkpoint(tmp_path / "whole.skae", every=1000), Interrupt(1000))
        whole.fit(X)
        os.replace(tmp_path / "whole.skae", path)
        again = clone(ESTIMATORS[name]).set_callbacks(Checkpoint(path)).fit(X)
    else:
        whole.fit(X)
        again = fit_with_interruptions(whole, Checkpoint(path, every), X)
    assert_same_bits(again, whole)
    assert_array_equal(again.transform(X), whole.transform(X))
    assert [each.name for each in tmp_path.iterdir()] == ["run.skae"]


def test_a_checkpoint_changes_no_result_and_a_finished_fit_is_not_done_again(X, tmp_path):
    whole = clone(ESTIMATORS["anchored"]).fit(X)
    kept = clone(whole).set_callbacks(Checkpoint(tmp_path / "run.skae")).fit(X)
    assert_same_bits(kept, whole)
    assert_same_bits(clone(whole).set_callbacks(*kept._skl_callbacks, Interrupt(0)).fit(X), whole)


def test_weights_validation_rows_and_pairs_go_on_too(X, tmp_path):
    arguments = {
        "X": X, "X_clean": np.round(X, 1), "sample_weight": np.linspace(0, 1, len(X)),
        "X_val": X[::3], "X_clean_val": X[::3],
    }  # fmt: skip
    estimator = clone(ESTIMATORS["denoising"])
    whole = clone(estimator).fit(**arguments)
    with pytest.raises(KeyboardInterrupt):
        clone(estimator).set_callbacks(
            Checkpoint(tmp_path / "run.skae"), Interrupt(3)
        ).fit(**arguments)  # fmt: skip
    kept = clone(estimator).set_callbacks(Checkpoint(tmp_path / "run.skae"))
    for name, text in {"X_val": "X_val has other cells", "sample_weight": "sample_weight"}.items():
        others = {name: arguments[name] * np.linspace(0.5, 1.0, len(arguments[name])).reshape(
            -1, *[1] * (arguments[name].ndim - 1))}  # fmt: skip
        with pytest.raises(ValueError, match=f"of another fit.*{text}"):
            kept.fit(**arguments | others)
    assert_same_bits(kept.fit(**arguments), whole)


# Killed processes


@contextmanager
def child_of(function):
    """A process that runs a function; it is not left behind."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads do not run in it
        child = os.fork()
    if child == 0:
        status = 1
        with suppress(BaseException):
            function()
            status = 0
        os._exit(status)
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(child, 0)


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes to be killed")


@needs_fork
def test_a_fit_killed_at_twenty_moments_ends_with_the_same_bits(X, tmp_path):
    model = VAETransformer(2, **SMALL | {"max_iter": 40, "hidden_layer_sizes": (64, 64)})
    path, result = tmp_path / "run.skae", tmp_path / "result.pickle"
    checkpoint = Checkpoint(path)
    rng = random.Random(0)

    def fit():
        result.write_bytes(pickle.dumps(clone(model).set_callbacks(checkpoint).fit(X)))

    def leftovers():
        return set(tmp_path.glob(".*.part"))

    n_killed = n_while_writing = 0
    while not result.exists():
        before = leftovers()
        in_a_write = n_killed % 2
        end = time.monotonic() + (20.0 if in_a_write else rng.uniform(0.0, 0.3))
        with child_of(fit) as child:
            while n_killed >= 20 or time.monotonic() < end:
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    assert status == 0
                    break
                if n_killed < 20 and in_a_write and leftovers() - before:
                    break
                time.sleep(0.0005)
        n_killed += 1
        n_while_writing += bool(leftovers() - before)
    assert n_killed == 21
    assert n_while_writing >= 5
    assert_same_bits(pickle.loads(result.read_bytes()), clone(model).fit(X))


class Fill:
    """A callback after which files end after some bytes, as if the disk were full."""

    setup = teardown = on_fit_task_begin = lambda self, estimator, context: None

    def on_fit_task_end(self, estimator, context):
        if context.task_id == 3:
            resource = pytest.importorskip("resource")
            resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))


@needs_fork
def test_a_full_disk_leaves_the_earlier_file_and_says_so(X, tmp_path):
    model, path = clone(ESTIMATORS["anchored"]), tmp_path / "run.skae"
    reader, writer = os.pipe()

    def fit():
        with pytest.raises(OSError, match="checkpoint") as caught:
            clone(model).set_callbacks(Fill(), Checkpoint(path)).fit(X)
        os.write(writer, str(caught.value).encode())

    with child_of(fit) as child:
        assert os.waitpid(child, 0)[1] == 0
    os.close(writer)
    with os.fdopen(reader) as pipe:
        message = pipe.read()
    assert f"The checkpoint {str(path)!r} cannot be written after epoch 4" in message
    assert "File too large. The file of an earlier epoch is intact" in message
    assert [each.name for each in tmp_path.iterdir()] == ["run.skae"]
    assert_same_bits(clone(model).set_callbacks(Checkpoint(path)).fit(X), clone(model).fit(X))


def test_what_killed_processes_left_is_removed_when_it_is_old(X, tmp_path):
    young, old = tmp_path / ".run.skae.abc.part", tmp_path / ".run.skae.xyz.part"
    for path in (young, old):
        path.write_bytes(b"half a file")
    os.utime(old, (time.time() - 10_000,) * 2)
    clone(ESTIMATORS["anchored"]).set_callbacks(Checkpoint(tmp_path / "run.skae")).fit(X)
    assert young.exists()
    assert not old.exists()


# Searches and pipelines


def test_every_fit_of_a_search_has_a_file_and_goes_on_from_it(X, tmp_path):
    pipeline = make_pipeline(StandardScaler(), clone(ESTIMATORS["anchored"]))
    search = GridSearchCV(pipeline, {"autoencodertransformer__n_components": [1, 2]}, cv=2)
    whole = clone(search).fit(X)
    checkpoint = Checkpoint(tmp_path / "run.skae")
    with pytest.raises(KeyboardInterrupt):  # in the third fit of five
        clone(search).set_callbacks(checkpoint, NestedInterrupt(15)).fit(X)
    assert len(list(tmp_path.iterdir())) == 3
    again = clone(search).set_callbacks(checkpoint, NestedInterrupt(16)).fit(X)  # of 18 epochs left
    files = [path.name for path in tmp_path.iterdir()]
    assert len(files) == 5
    assert all(name.startswith("run-") and name.endswith(".skae") for name in files)
    assert_array_equal(again.cv_results_["mean_test_score"], whole.cv_results_["mean_test_score"])
    assert_same_bits(again.best_estimator_[-1], whole.best_estimator_[-1])


class NestedInterrupt(Interrupt):
    max_propagation_depth = None


def test_the_detector_keeps_the_training_of_its_default_model(X, tmp_path, monkeypatch):
    monkeypatch.setattr(skae._outliers.DenoisingEnsemble, "_n_steps", 20)
    detector = AutoencoderOutlierDetector(random_state=0)
    whole = clone(detector).fit(X)
    checkpoint = Checkpoint(tmp_path / "run.skae", every=5)
    with pytest.raises(KeyboardInterrupt):
        clone(detector).set_callbacks(checkpoint, NestedInterrupt(12)).fit(X)
    assert len(list(tmp_path.iterdir())) == 1
    again = clone(detector).set_callbacks(checkpoint).fit(X)
    assert_array_equal(again.score_samples(X), whole.score_samples(X))


def test_an_estimator_with_a_checkpoint_can_be_pickled(X, tmp_path):
    checkpoint = Checkpoint(tmp_path / "run.skae", every=3)
    estimator = clone(ESTIMATORS["anchored"]).set_callbacks(checkpoint).fit(X)
    loaded = pickle.loads(pickle.dumps(estimator))
    assert_array_equal(loaded.transform(X), estimator.transform(X))
    assert repr(loaded._skl_callbacks[0]) == repr(checkpoint)


# Files that are refused


@pytest.fixture
def kept(X, tmp_path):
    """An estimator whose checkpoint has been written."""
    checkpoint = Checkpoint(tmp_path / "run.skae")
    return clone(ESTIMATORS["anchored"]).set_callbacks(checkpoint).fit(X)


def test_a_file_of_other_parameters_or_rows_is_refused(X, kept):
    changed = clone(kept).set_params(max_iter=7, solver="sgd")
    with pytest.raises(ValueError, match=r"another fit: max_iter is 7 here and 6 there; solver is"):
        changed.fit(X)
    for rows, text in {
        "fewer": (X[1:], r"shape of X is \[119, 5\] here and \[120, 5\] there"),
        "other": (X + np.eye(120, 5), "X has other cells"),
        "narrower": (X.astype(np.float32), "dtype of X is 'float32' here and 'float64' there"),
    }.values():
        with pytest.raises(ValueError, match=f"of another fit: .*{text}.*delete the file"):
            clone(kept).fit(rows)
    with pytest.raises(ValueError, match="estimator is 'VAETransformer' here"):
        VAETransformer(2).set_callbacks(*kept._skl_callbacks).fit(X)
    with pytest.raises(ValueError, match="another fit: sample_weight has other cells"):
        clone(kept).fit(X, sample_weight=np.arange(120.0) + 1)


def test_a_warm_start_needs_a_file_of_its_own(X, kept):
    kept.set_params(warm_start=True)
    kept._skl_callbacks[0].path.unlink()
    kept.fit(X)
    with pytest.raises(ValueError, match="epochs of earlier fits is 12 here and 6 there"):
        kept.fit(X)


def pickled(data):
    return pickle.dumps({"format": "skae checkpoint 1"})


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data[:3000] + bytes([data[3000] ^ 1]) + data[3001:],
        lambda data: b"PK not a zip file",
        lambda data: b'{"format": "skae checkpoint 1"}',
        pickled,
    ],
)
def test_a_truncated_or_foreign_file_is_refused(X, kept, damage):
    path = kept._skl_callbacks[0].path
    data = damage(path.read_bytes())
    path.write_bytes(data)
    before = dict(vars(kept))
    with pytest.raises(ValueError, match="cannot be read: it is no checkpoint, damaged or"):
        kept.fit(X)
    assert vars(kept) == before
    assert path.read_bytes() == data


def test_other_files_of_arrays_are_refused(X, tmp_path):
    path = tmp_path / "run.skae"
    for arrays in ({"x": X}, {"record": np.frombuffer(b"[]", np.uint8)}):
        with open(path, "wb") as file:
            np.savez(file, **arrays)
        with pytest.raises(ValueError, match="cannot be read"):
            clone(ESTIMATORS["anchored"]).set_callbacks(Checkpoint(path)).fit(X)


def test_paths_that_cannot_be_written_are_refused_before_any_work(X, tmp_path):
    estimator = clone(ESTIMATORS["anchored"])
    with pytest.raises(ValueError, match="is a directory; give a file in it"):
        estimator.set_callbacks(Checkpoint(tmp_path)).fit(X)
    with pytest.raises(ValueError, match="directory that does not exist; make it first"):
        estimator.set_callbacks(Checkpoint(tmp_path / "no" / "run.skae")).fit(X)
    if Path("/proc/self").exists():
        with pytest.raises(OSError, match="'/proc/run.skae' cannot be written: .*Give a path"):
            estimator.set_callbacks(Checkpoint("/proc/run.skae")).fit(X)
    with pytest.raises(ValueError, match="2 checkpoints"):
        estimator.set_callbacks(Checkpoint(tmp_path / "a"), Checkpoint(tmp_path / "b")).fit(X)
    for arguments in ((), ("",), ("a", 0), ("a", 1.5), ("a", True), (None,)):
        with pytest.raises((ValueError, TypeError)):
            Checkpoint(*arguments)
