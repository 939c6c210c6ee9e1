"""The classic autoencoders as parameters, each shown to do what it claims."""

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from scipy.linalg import subspace_angles
from scipy.special import expit, logit
from scipy.stats import norm
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from torch import nn

from skae import AutoencoderTransformer
from skae.networks import Conv2dNetwork
from skae.networks._dense import ACTIVATIONS

UNTRAINED = {"early_stopping": False, "learning_rate_init": 1e-30, "max_iter": 1, "random_state": 0}


@pytest.fixture(scope="module")
def iris():
    return StandardScaler().fit_transform(load_iris().data)


@pytest.fixture(scope="module")
def digits():
    return MinMaxScaler().fit_transform(load_digits().data[:600])


@pytest.fixture(scope="module")
def cancer():
    return StandardScaler().fit_transform(load_breast_cancer().data)


def reconstruct_by_pca(X, n_components, sample_weight=None):
    rows = X if sample_weight is None else np.repeat(X, sample_weight, axis=0)
    pca = PCA(min(n_components, *rows.shape), svd_solver="full").fit(rows)
    return pca.inverse_transform(pca.transform(X))


# The anchor


@pytest.mark.parametrize("tied_weights", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_training_starts_at_pca(cancer, activation, tied_weights):
    estimator = AutoencoderTransformer(
        5, activation=activation, tied_weights=tied_weights, **UNTRAINED
    ).fit(cancer)
    codes = PCA(5, svd_solver="full").fit_transform(cancer)
    assert_allclose(np.abs(estimator.transform(cancer)), np.abs(codes), atol=2e-5)
    assert_allclose(estimator.reconstruct(cancer), reconstruct_by_pca(cancer, 5), atol=2e-5)


@pytest.mark.parametrize("n_components", [4, 7, 12])
@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_code_beyond_the_rank_starts_at_zero(n_components, shape):
    X = np.random.default_rng(0).normal(size=shape)
    rank = min(shape[0] - 1, shape[1])
    estimator = AutoencoderTransformer(n_components, **UNTRAINED).fit(X)
    codes = estimator.transform(X)
    assert codes.shape == (shape[0], n_components)
    assert_allclose(codes[:, rank:], 0.0, atol=1e-5)
    assert_allclose(estimator.reconstruct(X), reconstruct_by_pca(X, n_components), atol=1e-5)
    trained = estimator.set_params(learning_rate_init="auto", max_iter=3).fit(X)
    assert np.isfinite(trained.transform(X)).all()


def test_the_start_respects_weights(iris):
    weights = np.random.default_rng(0).integers(0, 5, len(iris))
    estimator = AutoencoderTransformer(2, **UNTRAINED).fit(iris, sample_weight=weights)
    assert_allclose(estimator.reconstruct(iris), reconstruct_by_pca(iris, 2, weights), atol=1e-5)


def test_the_start_is_that_of_all_rows(iris):
    # Also of those that are held out: otherwise it would be worse than PCA on small tables.
    estimator = AutoencoderTransformer(2, **UNTRAINED | {"early_stopping": True}).fit(iris)
    assert_allclose(estimator.reconstruct(iris), reconstruct_by_pca(iris, 2), atol=1e-5)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_pca_is_returned_where_training_does_not_help(early_stopping):
    # Nothing improves on PCA for a normal distribution, and this rate only does harm.
    X = np.random.default_rng(0).normal(size=(300, 6)) * [3, 2, 1, 1, 1, 1]
    estimator = AutoencoderTransformer(
        2, early_stopping=early_stopping, learning_rate_init=0.5, max_iter=3, random_state=0
    ).fit(X)
    assert_allclose(estimator.reconstruct(X), reconstruct_by_pca(X, 2), atol=1e-5)
    assert estimator.loss_curve_[-1] > estimator.reconstruction_error(X).mean()


@pytest.mark.parametrize("early_stopping", [False, True])
def test_trained_anchor_beats_pca_on_the_monitored_loss(digits, early_stopping):
    estimator = AutoencoderTransformer(
        4, early_stopping=early_stopping, max_iter=15, random_state=0
    ).fit(digits)
    pca = np.square(digits - reconstruct_by_pca(digits, 4)).mean()
    assert -estimator.score(digits) < 0.9 * pca


@pytest.mark.parametrize("loss", ["bernoulli", "squared_error"])
def test_logistic_output_starts_at_the_tangent_of_pca(digits, loss):
    estimator = AutoencoderTransformer(3, loss=loss, output_activation="logistic", **UNTRAINED).fit(
        digits
    )
    mean = digits.mean(axis=0)
    inner = np.clip(mean, 1e-3, 1 - 1e-3)
    tangent = logit(inner) + (reconstruct_by_pca(digits, 3) - mean) / (inner * (1 - inner))
    assert_allclose(estimator.reconstruct(digits), expit(tangent), rtol=1e-3, atol=1e-4)


def test_fractional_n_components_and_partial_fit_start_at_pca_too(cancer):
    estimator = AutoencoderTransformer(0.8, learning_rate_init=1e-30, random_state=0)
    estimator.partial_fit(cancer[:200])
    n_components = PCA(0.8).fit(cancer[:200]).n_components_
    assert estimator.n_components_ == n_components
    desired = reconstruct_by_pca(cancer[:200], n_components)
    assert_allclose(estimator.reconstruct(cancer[:200]), desired, atol=2e-5)
    before = estimator.transform(cancer)
    estimator.partial_fit(cancer[200:])  # continues; does not start anew
    assert_allclose(estimator.transform(cancer), before, atol=1e-6)


def test_warm_start_does_not_go_back_to_pca(digits):
    estimator = AutoencoderTransformer(4, max_iter=10, warm_start=True, random_state=0)
    first = estimator.fit(digits).score(digits)
    assert (
        estimator.set_params(max_iter=1).fit(digits).score(digits) > 1.05 * first
    )  # scores are negative


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"output_activation": "relu"}, "init='pca'.*output_activation='relu'"),
        (
            {"output_activation": "logistic", "tied_weights": True},
            "tied_weights=True with init='pca'",
        ),
        ({"loss": "bernoulli", "tied_weights": True}, "tied_weights=True with init='pca'"),
        ({"pretrain_iter": 2}, "pretrain_iter=2.*init='pca'"),
    ],
)
def test_combinations_that_pca_cannot_start(digits, parameters, message):
    estimator = AutoencoderTransformer(2, max_iter=1, random_state=0, **parameters)
    with pytest.raises(ValueError, match=message):
        estimator.fit(digits)
    estimator.set_params(init="random").fit(digits)


# Linear and tied


def test_linear_tied_autoencoder_spans_the_pca_subspace(iris):
    linear = AutoencoderTransformer(
        2, hidden_layer_sizes=(), activation="identity", tied_weights=True, use_bias=False,
        init="random", learning_rate="cosine", learning_rate_init=0.03, batch_size=150,
        max_iter=800, n_iter_no_change=800, tol=0.0, early_stopping=False, random_state=0,
    ).fit(iris)  # fmt: skip
    weights = linear.module_.encoder[0].weight.detach().double().numpy()  # (2, 4)
    axes = PCA(2).fit(iris).components_
    assert subspace_angles(weights.T, axes.T).max() < 1e-3
    # Tied weights make the axes orthonormal too.
    assert_allclose(weights @ weights.T, np.eye(2), atol=1e-3)


def test_linear_tied_autoencoder_is_exact_from_the_anchor(iris):
    linear = AutoencoderTransformer(
        2, hidden_layer_sizes=(), activation="identity", tied_weights=True, use_bias=False,
        max_iter=2, random_state=0,
    ).fit(iris)  # fmt: skip
    weights = linear.module_.encoder[0].weight.detach().double().numpy()
    assert subspace_angles(weights.T, PCA(2).fit(iris).components_.T).max() < 1e-3
    assert len(list(linear.module_.parameters())) == 1
    assert_allclose(linear.reconstruct(iris), iris @ weights.T @ weights, atol=1e-6)


@pytest.mark.parametrize("init", ["pca", "random"])
def test_tied_weights_stay_tied(iris, init):
    estimator = AutoencoderTransformer(
        2, hidden_layer_sizes=(6, 5), tied_weights=True, init=init, max_iter=5, random_state=0
    ).fit(iris)
    free = clone(estimator).set_params(tied_weights=False).fit(iris)

    def count(model):
        return sum(w.numel() for w in model.module_.parameters() if w.ndim == 2)

    assert 2 * count(estimator) == count(free)
    before = estimator.reconstruct(iris)
    other = pickle.loads(pickle.dumps(estimator))
    assert_array_equal(other.reconstruct(iris), before)
    other.partial_fit(iris)
    assert 2 * count(other) == count(free)
    assert_array_equal(estimator.reconstruct(iris), before)


# Penalties


def inactive_share(codes):
    """Share of code cells that are small beside the typical size of their unit."""
    return np.mean(np.abs(codes) < 0.05 * np.abs(codes).max())


def test_sparsity_silences_code_units(digits):
    shares = [
        inactive_share(
            AutoencoderTransformer(
                32, sparsity=sparsity, init="random", max_iter=40, random_state=0
            ).fit_transform(digits)
        )
        for sparsity in (0.0, 1e-3, 1e-2)
    ]
    assert shares[0] < 0.7 * shares[1] < 0.4 * shares[2]


def test_sparsity_is_the_l1_norm_of_the_code(iris):
    plain = AutoencoderTransformer(2, **UNTRAINED).fit(iris)
    penalised = AutoencoderTransformer(2, sparsity=0.3, **UNTRAINED).fit(iris)
    l1 = np.abs(plain.transform(iris)).sum(axis=1).mean()
    assert_allclose(penalised.loss_curve_[0] - plain.loss_curve_[0], 0.3 * l1, rtol=1e-5)
    # The penalty is one of training: scores are those of the reconstruction.
    assert_allclose(penalised.score(iris), plain.score(iris), rtol=1e-6)


def jacobian_norms(estimator, X):
    """Squared Frobenius norms of the encoder's Jacobian, by torch's own Jacobian."""
    encoder = estimator.module_.encoder
    rows = torch.tensor(X, dtype=torch.float32)
    jacobians = torch.func.vmap(torch.func.jacrev(encoder))(
        rows
    )  # (n_rows, n_components, n_features)
    return jacobians.square().sum(dim=(1, 2)).detach().numpy()


def test_contraction_is_the_squared_norm_of_the_jacobian(iris):
    plain = AutoencoderTransformer(2, init="random", **UNTRAINED).fit(iris)
    penalised = AutoencoderTransformer(2, init="random", contraction=0.3, **UNTRAINED).fit(iris)
    penalty = 0.3 * jacobian_norms(plain, iris).mean()
    assert_allclose(penalised.loss_curve_[0] - plain.loss_curve_[0], penalty, rtol=1e-4)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_contraction_flattens_the_encoder(iris, early_stopping):
    norms = [
        jacobian_norms(
            AutoencoderTransformer(
                2, contraction=contraction, max_iter=30, early_stopping=early_stopping,
                random_state=0,
            ).fit(iris),
            iris,
        ).mean()
        for contraction in (0.0, 0.01, 0.1)
    ]  # fmt: skip
    assert norms[0] > 1.1 * norms[1] > 1.1 * norms[2]


# The Gaussian loss


def test_gaussian_score_is_a_mean_log_density(iris):
    estimator = AutoencoderTransformer(2, loss="gaussian", max_iter=10, random_state=0).fit(iris)
    variance = np.exp(estimator.module_.log_variance.detach().double().numpy()) + 1e-6
    log_density = norm(estimator.reconstruct(iris), np.sqrt(variance)).logpdf(iris)
    assert_allclose(estimator.score_samples(iris), log_density.mean(axis=1), rtol=1e-6)


def test_gaussian_variance_starts_at_that_of_the_residuals(iris):
    weights = np.random.default_rng(0).integers(0, 4, len(iris))
    estimator = AutoencoderTransformer(2, loss="gaussian", **UNTRAINED)
    estimator.fit(iris, sample_weight=weights)
    residuals = np.square(estimator.reconstruct(iris) - iris)
    desired = np.average(residuals, axis=0, weights=weights)
    assert_allclose(estimator.module_.log_variance.exp().detach(), desired, rtol=1e-4)


def test_gaussian_loss_survives_constant_columns(iris):
    X = np.hstack([iris, np.ones((len(iris), 1)), np.zeros((len(iris), 1))])
    estimator = AutoencoderTransformer(2, loss="gaussian", max_iter=20, random_state=0).fit(X)
    assert np.isfinite(estimator.score(X))
    assert estimator.loss_curve_[-1] < estimator.loss_curve_[0]


# Layer by layer


@pytest.mark.parametrize("tied_weights", [False, True])
def test_pretraining_trains_every_layer_on_the_one_below(digits, tied_weights):
    estimator = AutoencoderTransformer(
        8, hidden_layer_sizes=(32, 16), init="random", tied_weights=tied_weights,
        pretrain_iter=6, dropout=0.1, **UNTRAINED | {"learning_rate_init": 1e-3},
    ).fit(digits)  # fmt: skip
    curves = estimator.pretrain_loss_curves_
    assert [len(curve) for curve in curves] == [6, 6, 6]
    for curve in curves:
        assert curve[-1] < 0.95 * curve[0]
    plain = clone(estimator).set_params(pretrain_iter=0).fit(digits)
    assert plain.pretrain_loss_curves_ == []
    assert estimator.loss_curve_[0] < 0.95 * plain.loss_curve_[0]
    assert estimator.n_iter_ == 1


def test_first_stage_is_an_autoencoder_of_one_layer(iris):
    # With one linear layer, pretraining is the training of the whole network.
    options = {"hidden_layer_sizes": (), "init": "random", "random_state": 0, "max_iter": 4}
    whole = AutoencoderTransformer(2, early_stopping=False, **options).fit(iris)
    staged = AutoencoderTransformer(
        2, early_stopping=False, **options | {"max_iter": 1}, pretrain_iter=4
    ).fit(iris)
    assert_array_equal(staged.pretrain_loss_curves_[0], whole.loss_curve_)


def test_warm_start_does_not_pretrain_again(digits):
    estimator = AutoencoderTransformer(
        2, init="random", pretrain_iter=2, max_iter=2, warm_start=True, random_state=0
    )
    first = [list(curve) for curve in estimator.fit(digits).pretrain_loss_curves_]
    assert estimator.fit(digits).pretrain_loss_curves_ == first


# Networks of one's own


def two_layers(n_features, n_components):
    encoder = nn.Sequential(nn.Linear(n_features, 7), nn.Tanh(), nn.Linear(7, n_components))
    return encoder, nn.Linear(n_components, n_features)


def test_a_callable_gives_any_two_modules(iris):
    estimator = AutoencoderTransformer(2, network=two_layers, max_iter=5, random_state=0)
    estimator.fit(iris)
    assert isinstance(estimator.module_.decoder, nn.Linear)
    other = pickle.loads(pickle.dumps(estimator))
    assert_array_equal(other.reconstruct(iris), estimator.reconstruct(iris))
    assert other.partial_fit(iris).n_iter_ == estimator.n_iter_ + 1


@pytest.mark.parametrize(
    "parameters",
    [
        {"hidden_layer_sizes": (5,)},
        {"activation": "tanh"},
        {"dropout": 0.1},
        {"tied_weights": True},
        {"use_bias": False},
        {"pretrain_iter": 1},
    ],
)
def test_parameters_of_the_dense_network_need_it(iris, parameters):
    estimator = AutoencoderTransformer(2, network=two_layers, **parameters)
    (name,) = parameters
    with pytest.raises(ValueError, match=f"{name}=.*network=.*two_layers"):
        estimator.fit(iris)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (lambda n, k: nn.Linear(n, k), "must return two torch.nn.Module"),
        (lambda n, k: (nn.Linear(n, k), None), "must return two torch.nn.Module"),
        (
            lambda n, k: (nn.Linear(n, k + 1), nn.Linear(k + 1, n)),
            r"encoder .* \(2, 4\) to \(2, 2\)",
        ),
        (lambda n, k: (nn.Linear(n + 1, k), nn.Linear(k, n)), r"encoder .* \(2, 4\) to \(2, 2\)"),
        (lambda n, k: (nn.Linear(n, k), nn.Linear(k, n - 1)), r"decoder .* it gives \(2, 3\)"),
        (Conv2dNetwork, "must return two torch.nn.Module"),
    ],
)
def test_what_a_callable_returns_is_checked(iris, network, message):
    with pytest.raises(ValueError, match=message):
        AutoencoderTransformer(2, network=network).fit(iris)


def test_alpha_is_not_undone_by_the_anchor(iris):
    estimators = [
        AutoencoderTransformer(
            2, alpha=alpha, early_stopping=False, max_iter=20, random_state=0
        ).fit(iris)
        for alpha in (0.001, 0.1)
    ]
    norms = [e.module_.encoder.linear.weight.square().sum().item() for e in estimators]
    assert norms[1] < 0.9 * norms[0] < norms[0]


def test_patience_begins_with_training(digits):
    # Anchored at 32 components, the first epochs are worse than PCA and the later ones better.
    estimator = AutoencoderTransformer(32, max_iter=60, random_state=0).fit(digits)
    assert (
        -estimator.score(digits) < 0.8 * np.square(digits - reconstruct_by_pca(digits, 32)).mean()
    )


# Sparse tables


def test_sparse_rows_are_never_dense_together(monkeypatch):
    X = sparse.random_array((3000, 40), density=0.05, rng=0, format="csr")
    n_rows = []
    toarray = sparse.csr_array.toarray

    def recorded(self, *args, **kwargs):
        n_rows.append(self.shape[0])
        return toarray(self, *args, **kwargs)

    monkeypatch.setattr(sparse.csr_array, "toarray", recorded)
    monkeypatch.setattr("skae._rows.BLOCK_BYTES", 130 * 40 * 4)
    estimator = AutoencoderTransformer(
        3, hidden_layer_sizes=(8,), early_stopping=True, max_iter=2, random_state=0
    ).fit(X)
    batches = [n for n in n_rows if n != 40]  # PCA's scatter matrix is 40 x 40
    assert max(batches) == 300  # the rows held out
    assert sorted(set(batches) - {300})[-1] == 128  # two batches of 64 fit a block
    assert sum(batches) >= 2 * 2700
    assert estimator.transform(X).shape == (3000, 3)


def test_sparse_counts_train_with_every_option():
    X = sparse.random_array((200, 12), density=0.3, rng=0, format="csr")
    X.data[:] = 1.0
    for parameters in (
        {"loss": "bernoulli"},
        {"loss": "gaussian", "tied_weights": True},
        {"sparsity": 1e-3, "contraction": 1e-3, "init": "random"},
        {"init": "random", "pretrain_iter": 1},
        {"n_components": 0.5},
    ):
        estimator = AutoencoderTransformer(**{"n_components": 2} | parameters, max_iter=2)
        estimator.set_params(random_state=0).fit(X, sample_weight=np.arange(200))
        assert np.isfinite(estimator.score(X))
    X.data[0] = 2.0
    with pytest.raises(ValueError, match="loss='bernoulli' takes values"):
        AutoencoderTransformer(2, loss="bernoulli").fit(X)
