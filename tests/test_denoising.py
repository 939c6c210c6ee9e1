"""DenoisingAutoencoder against closed forms of what it learns."""

import inspect
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skae import AutoencoderTransformer, DenoisingAutoencoder
from skae._corruption import NOISES

N_FEATURES = 4
LONG = {"max_iter": 1500, "n_iter_no_change": 1500}


@pytest.fixture(scope="module")
def X():
    """Correlated columns of mean zero, 400 rows."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, N_FEATURES)) @ rng.normal(size=(N_FEATURES, N_FEATURES))
    return X - X.mean(axis=0)


@pytest.fixture(scope="module")
def digits():
    X = load_digits().data / 16
    return X[::2], X[1::2]


def linear(n_components=N_FEATURES, **parameters):
    """Build a denoiser without hidden layers, whose optimum is known."""
    parameters = {
        "hidden_layer_sizes": (),
        "learning_rate": "cosine",
        "learning_rate_init": 0.02,
        "batch_size": 400,
        "early_stopping": False,
        "max_iter": 600,
        "n_iter_no_change": 600,
        "random_state": 0,
    } | parameters
    return DenoisingAutoencoder(n_components, **parameters)


def matrix(estimator):
    """Matrix of a linear denoiser: row i is what becomes of unit vector i."""
    unit_vectors = np.eye(N_FEATURES)
    return estimator.reconstruct(unit_vectors) - estimator.reconstruct(np.zeros_like(unit_vectors))


def scatter_of_noisy_rows(S, noise, level):
    """Expected scatter of corrupted rows, and of clean with corrupted ones (Chen et al. 2012)."""
    if noise == "gaussian":
        return S + level**2 * np.eye(len(S)), S
    both_kept = (1 - level) ** 2 * S
    np.fill_diagonal(both_kept, np.diag(S) * (1 - level if noise == "masking" else 1.0))
    return both_kept, (1 - level) * S


@pytest.mark.parametrize(
    ("noise", "level"), [("gaussian", 0.8), ("masking", 0.3), ("swap", 0.3)], ids=str
)
def test_linear_denoiser_is_the_wiener_filter(X, noise, level):
    noisy_scatter, cross_scatter = scatter_of_noisy_rows(X.T @ X / len(X), noise, level)
    wiener = np.linalg.solve(noisy_scatter, cross_scatter)
    assert_allclose(matrix(linear(noise=noise, noise_level=level).fit(X)), wiener, atol=0.02)


def test_linear_denoiser_with_a_short_code_shrinks_the_principal_components(X):
    # Gaussian noise of variance v keeps PCA's axes and shrinks each by l / (l + v).
    variances, axes = np.linalg.eigh(X.T @ X / len(X))
    shrinkage = np.where(variances >= np.sort(variances)[-2], variances / (variances + 0.25), 0.0)
    desired = (axes * shrinkage) @ axes.T
    assert_allclose(matrix(linear(2, noise_level=0.5).fit(X)), desired, atol=0.02)


def test_a_range_of_levels_acts_by_its_mean_square(X):
    S = X.T @ X / len(X)
    mean_square = 1.2**2 / 3  # of a uniform level between 0 and 1.2
    wiener = np.linalg.solve(S + mean_square * np.eye(N_FEATURES), S)
    assert_allclose(matrix(linear(noise_level=(0.0, 1.2)).fit(X)), wiener, atol=0.02)


def test_paired_training_is_regression_on_the_pairs(X):
    rng = np.random.default_rng(1)
    X_noisy = X @ rng.normal(size=(N_FEATURES, N_FEATURES)) + 0.5 + rng.normal(size=X.shape)
    # The noise does not matter with pairs; if it did, this much would ruin everything.
    estimator = linear(noise_level=100.0, init="random", **LONG).fit(X_noisy, X_clean=X)
    regression = LinearRegression().fit(X_noisy, X)
    assert_allclose(matrix(estimator), regression.coef_.T, atol=2e-3)
    assert_allclose(estimator.reconstruct(X_noisy), regression.predict(X_noisy), atol=5e-3)


def test_the_loss_of_a_copy_is_the_variance_of_the_noise(X):
    """A full linear code copies its input. Without learning, the loss is then the noise."""
    low, high = X.min(axis=0), X.max(axis=0)
    rows = np.tile(X, (50, 1))
    expected = {
        ("gaussian", 0.5): 0.25,
        ("gaussian", (0.3, 0.9)): 0.39,
        ("masking", 0.2): 0.2 * np.mean(X**2),
        ("salt_and_pepper", 0.2): 0.1 * np.mean((X - low) ** 2 + (X - high) ** 2),
        ("swap", 0.2): 0.2 * 2 * np.mean(X**2),
    }
    for (noise, level), loss in expected.items():
        estimator = linear(noise=noise, noise_level=level, learning_rate_init=1e-9, max_iter=1)
        assert_allclose(estimator.fit(rows).loss_curve_, loss, rtol=0.03, err_msg=noise)


def test_noise_is_fresh_in_every_epoch(X):
    estimator = linear(learning_rate_init=1e-9, max_iter=5).fit(X)
    assert len(set(estimator.loss_curve_)) == 5
    assert_allclose(estimator.loss_curve_, 0.3**2, rtol=0.15)


@pytest.mark.parametrize("noise", ["gaussian", "clipped_gaussian", "masking", "swap"])
def test_restored_digits_are_closer_to_the_clean_ones(digits, noise):
    train, test = digits
    rng = np.random.default_rng(0)
    noisy = {
        "gaussian": lambda: test + rng.normal(scale=0.3, size=test.shape),
        "clipped_gaussian": lambda: np.clip(test + rng.normal(scale=0.3, size=test.shape), 0, 1),
        "masking": lambda: np.where(rng.random(test.shape) < 0.3, 0.0, test),
        "swap": lambda: np.where(rng.random(test.shape) < 0.3, rng.permutation(test), test),
    }[noise]()
    denoiser = DenoisingAutoencoder(noise=noise, max_iter=20, random_state=0).fit(train)
    plain = AutoencoderTransformer(max_iter=20, random_state=0).fit(train)
    error, plain_error, noisy_error = (
        np.mean(np.square(rows - test))
        for rows in (denoiser.reconstruct(noisy), plain.reconstruct(noisy), noisy)
    )
    assert error < 0.95 * plain_error
    assert error < 0.75 * noisy_error


def test_inference_is_clean(X):
    estimator = DenoisingAutoencoder(2, noise_level=5.0, max_iter=2, random_state=0).fit(X)
    assert_array_equal(estimator.reconstruct(X), estimator.reconstruct(X))
    plain = AutoencoderTransformer(2, max_iter=1, random_state=0).fit(X)
    weights = estimator.module_.state_dict()
    plain.module_.load_state_dict({name: weights[name] for name in plain.module_.state_dict()})
    for method in ("transform", "reconstruct", "reconstruction_error"):
        assert_array_equal(getattr(estimator, method)(X), getattr(plain, method)(X))


@pytest.mark.parametrize("parameters", [{}, {"early_stopping": True}, {"dropout": 0.2}], ids=str)
def test_without_noise_it_is_the_autoencoder(X, parameters):
    plain = AutoencoderTransformer(2, max_iter=5, random_state=0, **parameters).fit(X)
    estimator = DenoisingAutoencoder(2, noise_level=0, max_iter=5, random_state=0, **parameters)
    assert_array_equal(estimator.fit(X).reconstruct(X), plain.reconstruct(X))
    assert estimator.loss_curve_ == plain.loss_curve_
    assert estimator.validation_loss_curve_ == plain.validation_loss_curve_


def test_parameters_are_those_of_the_autoencoder_and_two_more():
    def parameters(estimator):
        return {
            name: (parameter.default, parameter.kind)
            for name, parameter in inspect.signature(estimator).parameters.items()
        }

    own = parameters(DenoisingAutoencoder)
    assert list(own)[:3] == ["n_components", "noise", "noise_level"]
    del own["noise"], own["noise_level"]
    assert list(own.items()) == list(parameters(AutoencoderTransformer).items())


def test_early_stopping_watches_how_well_noise_is_removed(X):
    # The start copies rows exactly. Were they monitored without noise, nothing could beat it.
    estimator = linear(noise_level=0.8, max_iter=300, early_stopping=True).fit(X)
    noisy = X + np.random.default_rng(1).normal(scale=0.8, size=X.shape)
    assert np.mean(np.square(estimator.reconstruct(noisy) - X)) < 0.75 * 0.8**2
    assert estimator.best_loss_ == min(estimator.validation_loss_curve_)


def test_rows_are_monitored_under_the_same_noise_every_time(X):
    module = DenoisingAutoencoder(2, max_iter=1, random_state=0).fit(X).module_
    rows = torch.tensor(X, dtype=torch.float32)
    state = torch.random.get_rng_state()
    with torch.no_grad():
        losses = module.loss(rows)
        assert_array_equal(module.loss(rows), losses)
        assert not torch.equal(losses, module.reconstruction_loss(rows))
    assert_array_equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("paired", [False, True])
def test_ranges_are_those_of_the_clean_rows_of_the_first_fit(X, paired):
    estimator = DenoisingAutoencoder(
        2, noise="salt_and_pepper", max_iter=1, warm_start=True, random_state=0
    )
    estimator.fit(*((X * 3, None, None, X) if paired else (X,)))
    ranges = np.float32(X.min(axis=0)), np.float32(X.max(axis=0))
    estimator.fit(X / 2).partial_fit(X * 2)
    for fitted in (estimator, pickle.loads(pickle.dumps(estimator))):
        assert_array_equal(fitted.module_.corruption.low, ranges[0])
        assert_array_equal(fitted.module_.corruption.high, ranges[1])


@pytest.mark.parametrize("noise", [*NOISES, lambda x, level: x + level * torch.randn_like(x)])
def test_noise_does_not_depend_on_the_strides_of_the_data(X, noise):
    estimator = linear(noise=noise, max_iter=3)
    rows, columns = (clone(estimator).fit(np.asarray(X, order=order)) for order in "CF")
    assert_allclose(columns.loss_curve_, rows.loss_curve_, rtol=1e-4)


@pytest.mark.parametrize("level", [[0.1, 0.3], np.array([0.1, 0.3]), np.float32(0.2), 1], ids=str)
def test_levels_may_be_any_numbers(X, level):
    fitted = DenoisingAutoencoder(2, noise="swap", noise_level=level, max_iter=1).fit(X)
    assert np.isfinite(fitted.loss_curve_).all()


def test_warm_start_may_change_the_noise(X):
    estimator = DenoisingAutoencoder(2, max_iter=2, warm_start=True, random_state=0).fit(X)
    estimator.set_params(noise="salt_and_pepper", noise_level=(0.0, 0.2)).fit(X)
    assert estimator.n_iter_ == 4


def test_partial_fit_corrupts_and_takes_pairs(X):
    estimator = linear(learning_rate_init=1e-9, noise_level=0.5).partial_fit(X)
    assert_allclose(estimator.loss_curve_, 0.25, rtol=0.15)
    estimator.partial_fit(X + 2.0, X_clean=X)
    assert_allclose(estimator.loss_curve_[-1], 4.0, rtol=1e-3)


def shift_columns(x, level):
    return x.roll(1, dims=1) + 0.0 * level


def test_a_callable_gets_rows_and_levels(X):
    shapes = []

    def noise(x, level):
        shapes.append((tuple(x.shape), tuple(level.shape)))
        assert ((level >= 0.2) & (level <= 0.4)).all()
        return x.zero_()  # in place: the training data must survive it

    estimator = linear(noise=noise, noise_level=(0.2, 0.4), max_iter=2, learning_rate_init=1e-9)
    before = X.copy()
    estimator.fit(X)
    assert set(shapes) == {((400, N_FEATURES), (400, 1))}
    assert_array_equal(X, before)
    assert_allclose(estimator.loss_curve_, np.mean(X**2), rtol=1e-4)


def test_a_callable_decides_what_level_zero_means(X):
    estimator = linear(noise=shift_columns, noise_level=0.0, max_iter=1, learning_rate_init=1e-9)
    expected = np.mean(np.square(np.roll(X, 1, axis=1) - X))
    assert_allclose(estimator.fit(X).loss_curve_, expected, rtol=1e-4)


def test_a_callable_is_learned_and_pickled(X):
    # A denoiser that sees columns in another order learns to put them back.
    estimator = linear(noise=shift_columns, **LONG).fit(X)
    assert_allclose(estimator.reconstruct(np.roll(X, 1, axis=1)), X, atol=1e-2)
    other = pickle.loads(pickle.dumps(estimator))
    assert other.noise is shift_columns
    assert_array_equal(other.reconstruct(X), estimator.reconstruct(X))
    other.partial_fit(X)


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (lambda x, level: x[:, :1], r"noise=.* gave \(400, 1\) for rows of shape \(400, 4\)"),
        (lambda x, level: x.numpy(), "noise=.* gave ndarray"),
        (lambda x, level: None, "noise=.* gave NoneType"),
    ],
)
def test_a_callable_must_keep_the_shape(X, noise, message):
    with pytest.raises(ValueError, match=message):
        linear(noise=noise).fit(X)


@pytest.mark.parametrize(
    ("noise", "level"),
    [
        ("masking", 1.5),
        ("salt_and_pepper", (0.0, 1.01)),
        ("swap", 2),
        ("gaussian", -0.1),
        ("gaussian", (0.5, 0.1)),
        ("gaussian", (-0.5, 0.1)),
        ("gaussian", (0.1, 0.2, 0.3)),
        ("gaussian", ()),
        ("gaussian", (0.1,)),
        ("gaussian", ((0.1, 0.2),)),
        ("gaussian", ((0.1, 0.2), 0.3)),
        ("gaussian", ("a", "b")),
        ("gaussian", np.inf),
        ("gaussian", np.nan),
        ("gaussian", (0.0, np.nan)),
        ("gaussian", None),
        ("gaussian", "strong"),
        (shift_columns, -1.0),
        (shift_columns, (2.0, 1.0)),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_bad_noise_levels(X, noise, level, method):
    estimator = DenoisingAutoencoder(2, noise=noise, noise_level=level, max_iter=1)
    with pytest.raises(ValueError, match="noise_level") as error:
        getattr(estimator, method)(X)
    assert repr(level) in str(error.value)


@pytest.mark.parametrize("noise", ["poisson", None, 0.5])
def test_bad_noise(X, noise):
    with pytest.raises(ValueError, match=f"noise.*{noise}"):
        DenoisingAutoencoder(2, noise=noise).fit(X)


def test_bad_pairs(X):
    estimator = DenoisingAutoencoder(2, max_iter=1)
    with pytest.raises(ValueError, match=r"X_clean has shape \(399, 4\) and X has shape \(400, 4"):
        estimator.fit(X, X_clean=X[1:])
    with pytest.raises(ValueError, match=r"X_clean has shape \(400, 3\)"):
        estimator.partial_fit(X, X_clean=X[:, 1:])
    with pytest.raises(ValueError, match="X_clean contains infinity"):
        estimator.fit(X, X_clean=np.where(X > 1, np.inf, X))
    with pytest.raises(ValueError, match="bernoulli.*column 0 of X_clean ranges"):
        clone(estimator).set_params(loss="bernoulli").fit(X, X_clean=X * 100)
    frame = pd.DataFrame(X, columns=list("abcd"))
    with pytest.raises(ValueError, match="X_clean has columns .*'d', 'c'.* same order"):
        estimator.fit(frame, X_clean=frame[list("abdc")])
    assert not hasattr(estimator, "module_")
    estimator.fit(frame, X_clean=frame)


def test_targets_obey_the_loss_and_noisy_inputs_need_not(X):
    X_clean = 1 / (1 + np.exp(-X))
    estimator = DenoisingAutoencoder(2, loss="bernoulli", max_iter=2, random_state=0)
    restored = estimator.fit(X, X_clean=X_clean).reconstruct(X)
    assert ((restored > 0) & (restored < 1)).all()


def test_pairs_have_weights(X):
    weights = np.tile([1.0, 0.0], 200)
    X_noisy = X + 1.0
    kwargs = {"max_iter": 3, "random_state": 0}
    weighted = DenoisingAutoencoder(2, **kwargs).fit(X_noisy, sample_weight=weights, X_clean=X)
    chosen = DenoisingAutoencoder(2, **kwargs).fit(X_noisy[::2], X_clean=X[::2])
    assert_array_equal(weighted.reconstruct(X), chosen.reconstruct(X))


def test_pairs_find_their_way_through_a_pipeline(X):
    X_clean, X_noisy = 10 * X + 3, 10 * X + 3 + np.random.default_rng(0).normal(size=X.shape)
    scaler = StandardScaler().fit(X_noisy)
    denoiser = DenoisingAutoencoder(2, max_iter=3, random_state=0)
    desired = clone(denoiser).fit(scaler.transform(X_noisy), X_clean=scaler.transform(X_clean))

    pipeline = make_pipeline(StandardScaler(), clone(denoiser))
    pipeline.fit(X_noisy, denoisingautoencoder__X_clean=scaler.transform(X_clean))
    assert_array_equal(pipeline[-1].loss_curve_, desired.loss_curve_)
    with config_context(enable_metadata_routing=True):
        routed = make_pipeline(StandardScaler(), clone(denoiser).set_fit_request(X_clean=True))
        codes = routed.fit_transform(X_noisy, X_clean=scaler.transform(X_clean))
    assert_array_equal(codes, desired.transform(scaler.transform(X_noisy)))


@pytest.mark.parametrize(
    "parameters",
    [
        {"tied_weights": True, "sparsity": 0.01, "contraction": 0.01},
        {"loss": "gaussian", "early_stopping": True},
        {"hidden_layer_sizes": (8, 6), "init": "random", "dropout": 0.1, "precision": "bf16"},
        {"solver": "sgd", "use_bias": False, "alpha": 0.01},
    ],
    ids=str,
)
def test_combinations(X, parameters):
    estimator = DenoisingAutoencoder(
        2, noise="swap", noise_level=(0.0, 0.3), max_iter=3, random_state=0, **parameters
    ).fit(X)
    assert np.isfinite(estimator.reconstruct(X)).all()
    other = pickle.loads(pickle.dumps(estimator))
    assert_array_equal(other.reconstruct(X), estimator.reconstruct(X))


@pytest.mark.gpu
@pytest.mark.parametrize("noise", NOISES)
def test_noise_on_cuda_is_private_and_repeatable(X, noise):
    before = torch.cuda.get_rng_state(), torch.random.get_rng_state()
    estimator = DenoisingAutoencoder(
        2, noise=noise, noise_level=(0.1, 0.3), max_iter=3, early_stopping=True, device="cuda",
        random_state=0,
    )  # fmt: skip
    first, second = (clone(estimator).fit(X) for _ in range(2))
    assert first.validation_loss_curve_ == second.validation_loss_curve_
    assert_array_equal(first.reconstruct(X), second.reconstruct(X))
    assert_array_equal(torch.cuda.get_rng_state(), before[0])
    assert_array_equal(torch.random.get_rng_state(), before[1])
