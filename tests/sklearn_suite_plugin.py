"""A pytest plugin that puts skae.PCA in the place of scikit-learn's classes.

``pytest -p sklearn_suite_plugin --pyargs sklearn.decomposition.tests.test_pca`` imports it before
it collects anything, so that the test modules import our class. It also fails every test that
passes without having created one, and every reason below that no test is left out for.
"""

import functools
from typing import ClassVar

import pytest
import scipy.sparse
import sklearn.decomposition
from sklearn.utils import gen_batches

import skae

# The tests that are left out, by the start of their names: reason, and what takes their place.
EXCLUDED = {
    "test_sparse_pca_solver_error": (
        "literal message; test_sparse_data_needs_a_solver_that_keeps_it_sparse"
    ),
    "test_pca_validation[auto-3-": (
        "literal message that names 'full', which 'auto' is not here; "
        "test_too_many_components_are_an_error_that_names_them"
    ),
    "test_pca_svd_solver_auto": (
        "asserts what 'auto' chooses, by a private attribute; "
        "test_auto_takes_the_smaller_eigenproblem and "
        "test_auto_agrees_with_the_full_decomposition"
    ),
    "test_pca_score[": (
        "asserts that whitening lowers the density of the data, which is scikit-learn's error; "
        "test_score_is_the_gaussian_log_density, with and without whitening"
    ),
    "test_assess_dimension_bad_rank": (
        "tests a private helper only; test_minka_log_evidence_rejects_impossible_ranks"
    ),
    "test_small_eigenvalues_mle": (
        "tests a private helper only; test_minka_log_evidence_of_tiny_variances_is_minus_infinity"
    ),
    "test_assess_dimension_rank_one": (
        "tests a private helper only; test_minka_log_evidence_agrees_with_scikit_learn"
    ),
    "test_array_api_error_and_warnings_on_unsupported_params": (
        "literal messages for arpack and LU, which are refused there for want of functions in the "
        "array API; here they are SciPy's, whatever library the rows are of; "
        "test_every_solver_takes_arrays_of_any_library"
    ),
    "test_incremental_pca_sparse": (
        "ends with the literal message that sparse rows cannot be added, which they can here; "
        "test_partial_fit_on_sparse_batches_equals_fit"
    ),
    "test_incremental_pca_validation": (
        "literal messages, the second one for a first batch with fewer rows than components, "
        "which is allowed here; test_partial_fit_rejects_more_components_than_features and "
        "test_partial_fit_takes_batches_with_fewer_rows_than_components"
    ),
}

_created = 0
_original_init = skae.PCA.__init__


@functools.wraps(_original_init)
def _counting_init(self, *args, **kwargs):
    global _created
    _created += 1
    _original_init(self, *args, **kwargs)


class IncrementalPCA(skae.PCA):
    """Feeds `fit` to `partial_fit` batch by batch, in the way of scikit-learn's class."""

    _parameter_constraints: ClassVar = {
        **skae.PCA._parameter_constraints,
        "batch_size": "no_validation",
    }

    def __init__(self, n_components=None, *, whiten=False, copy=True, batch_size=None):
        super().__init__(n_components, whiten=whiten, copy=copy)
        self.batch_size = batch_size

    def fit(self, X, y=None):
        for name in [name for name in vars(self) if name.endswith("_") or name == "_accumulated"]:
            delattr(self, name)
        size = self.batch_size or 5 * X.shape[1]
        if scipy.sparse.issparse(X):
            X = X.tocsr()
        for batch in gen_batches(X.shape[0], size, min_batch_size=self.n_components or 0):
            self.partial_fit(X[batch])
        return self

    def fit_transform(self, X, y=None):
        return self.fit(X).transform(X)


def pytest_configure(config):
    skae.PCA.__init__ = _counting_init
    sklearn.decomposition.PCA = skae.PCA
    sklearn.decomposition.IncrementalPCA = IncrementalPCA


def pytest_collection_modifyitems(config, items):
    excluded = [item for item in items if item.name.startswith(tuple(EXCLUDED))]
    stale = [
        start for start in EXCLUDED if not any(item.name.startswith(start) for item in excluded)
    ]
    if stale:
        raise pytest.UsageError(f"EXCLUDED names tests that do not exist: {stale}")
    config.hook.pytest_deselected(items=excluded)
    items[:] = [item for item in items if item not in excluded]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    before = _created
    result = yield
    if _created == before:
        pytest.fail(f"{item.nodeid} passed without creating skae.PCA")
    return result
