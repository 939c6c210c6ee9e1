"""Random estimators: parameters that are valid, at the edge, and not valid."""

import numpy as np
import torch
from hypothesis import strategies as st
from sklearn.ensemble import IsolationForest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from skae import (
    PCA,
    AutoencoderOutlierDetector,
    AutoencoderTransformer,
    DenoisingAutoencoder,
    TableEncoder,
    VAETransformer,
)
from skae.networks import Conv1dNetwork, RecurrentNetwork

NAN, INF = float("nan"), float("inf")

# Of each parameter first what is valid, then what is not.
VALUES = {
    "activation": (
        ("relu", "tanh", "logistic", "identity", "gelu", "silu", "elu", "selu"),
        ("swish", None),
    ),
    "alpha": ((1e-3, 1e3, 1e38, 1e-320, np.float32(0.1)), (1e40, -1.0, NAN, INF)),
    "batch_size": ((1, 2, 7, 10**12, np.int8(5)), (0, 2.0, None)),
    "beta": ((0.0, 0.5, 4, 1e30), (-1.0, 1e39, NAN)),
    "beta_warmup": ((1, 2), (3, -1)),
    "calibration_fraction": ((0.2, 0.5, None, 1e-9, 0.99), (0.0, 1.0, NAN)),
    "contamination": ((0.1, 0.5, 1e-9, np.float32(0.25)), (0.0, 0.6, "x", NAN)),
    "contraction": ((0.1, 1e30), (-1.0, 1e40)),
    "copy": ((False,), ("x",)),
    "cross_fit": ((True,), ("x",)),
    "device": (("cpu",), ("x", "cuda:99", None)),
    "dropout": ((0.5, 0.999), (1.0, -0.1, NAN)),
    "early_stopping": ((False,), (None,)),
    "hidden_layer_sizes": (
        ((), 4, (3, 2), [4], np.int8(3), np.array([3, 2])),
        (0, (0,), (2.5,), "a", (-1,), ((2,),), None, (True,), (10**30,), (10**9, 10**9)),
    ),
    "init": (("random",), ("x",)),
    "iterated_power": ((0, 1, 3), (-1, 2.5)),
    "learning_rate": (("constant",), ("x",)),
    "learning_rate_init": ((1e-3, 1.0, 1e3, 1e-300, 1e30), (0.0, 1e300, NAN, "x")),
    "loss": (("absolute_error", "bernoulli", "gaussian", "poisson"), ("x",)),
    "max_categories": ((2, 3), (1, 2.0)),
    "max_iter": ((1, 3), (0, 2.5)),
    "n_clusters": ((1, 2, 4), (0, 1.5, "x")),
    "n_components": (
        (1, 2, 3, 5, 12, 40, 0.5, 0.9, 0.999, np.int8(2), np.float32(0.5)),
        (0, -1, 1.5, True, "mle", None, NAN, 10**12),
    ),
    "n_importance_samples": ((3,), (0, 1.5)),
    "n_iter_no_change": ((1,), (0,)),
    "n_oversamples": ((1, 100), (0,)),
    "network": (("linear", "batch norm", "float64", "conv", "recurrent"), ("wide", "none", 3)),
    "noise": (
        ("clipped_gaussian", "masking", "salt_and_pepper", "swap", "own", "own float64"),
        ("x", "own wide", "own NaN", "own nothing"),
    ),
    "noise_level": (
        (0, 1.0, (0.0, 0.5), [0.1, 0.1]),
        ((0.5, 0.2), 2.0, [0.1], "a", NAN, INF, 1e38),
    ),
    "noise_variance": ((0.1, 1e-300, 1e300, 1e-9), (0.0, -1.0, "x", NAN)),
    "output_activation": (("identity", "logistic", "relu", "tanh"), ("x",)),
    "power_iteration_normalizer": (("QR", "LU", "none"), ("x",)),
    "precision": (("bf16",), ("float16",)),
    "pretrain_iter": ((1,), (-1,)),
    "random_state": ((0, "RandomState", None, 2**32 - 1), (-1, "a", 2**40)),
    "shuffle": ((False,), (None,)),
    "solver": (("adamw", "sgd", "adadelta", "rmsprop"), ("lbfgs",)),
    "sparsity": ((0.1, 1e30), (-1.0, 1e39)),
    "svd_solver": (
        ("covariance_eigh", "gram_eigh", "full", "randomized", "arpack"),
        ("x",),
    ),
    "tied_weights": ((True,), ("x",)),
    "tol": ((0.0, 0.5, 1e300), (-1.0, NAN, INF)),
    "unsupported": (("drop",), ("x",)),
    "use_bias": ((False,), ("x",)),
    "validation_fraction": ((0.5, 0.9, 1e-9), (0.0, 1.0)),
    "warm_start": ((True,), (None,)),
    "whiten": ((True,), ("x",)),
}

QUICK = {"hidden_layer_sizes": (4,), "max_iter": 2, "random_state": 0}


def linear_network(n_features, n_components):
    return nn.Linear(n_features, n_components), nn.Linear(n_components, n_features)


def batch_norm_network(n_features, n_components):
    encoder, decoder = linear_network(n_features, n_components)
    return nn.Sequential(nn.BatchNorm1d(n_features), encoder), decoder


def float64_network(n_features, n_components):
    return tuple(module.double() for module in linear_network(n_features, n_components))


def wide_network(n_features, n_components):
    return linear_network(n_features, n_components + 1)


def no_network(n_features, n_components):
    return None


# What stands for objects that a case can print and make anew.
NETWORKS = {
    "linear": lambda: linear_network,
    "batch norm": lambda: batch_norm_network,
    "float64": lambda: float64_network,
    "conv": lambda: Conv1dNetwork((4, 1), (2,)),
    "recurrent": lambda: RecurrentNetwork((2, 2), 3),
    "wide": lambda: wide_network,
    "none": lambda: no_network,
}


def own_noise(x, level):
    return x + level * torch.randn_like(x)


def float64_noise(x, level):
    return x.double()


def wide_noise(x, level):
    return torch.cat([x, x], dim=1)


def nan_noise(x, level):
    return x * NAN


def no_noise(x, level):
    return None


NOISES = {
    "own": lambda: own_noise,
    "own float64": lambda: float64_noise,
    "own wide": lambda: wide_noise,
    "own NaN": lambda: nan_noise,
    "own nothing": lambda: no_noise,
}
MODELS = {
    "PCA": lambda: PCA(2, random_state=0),
    "whitened": lambda: PCA(1, whiten=True, svd_solver="full"),
    "AE": lambda: AutoencoderTransformer(2, **QUICK),
    "DAE": lambda: DenoisingAutoencoder(1, **QUICK),
    "VAE": lambda: VAETransformer(1, **QUICK),
    "pipeline": lambda: make_pipeline(StandardScaler(), PCA(0.9)),
    "scaled AE": lambda: make_pipeline(StandardScaler(), AutoencoderTransformer(0.5, **QUICK)),
    "forest": lambda: IsolationForest(n_estimators=3, random_state=0),
    "scaler": StandardScaler,  # without score_samples
    "class": lambda: PCA,
}
# Those with parts that are not ours, and warn of what they want.
OTHERS = ("pipeline", "scaled AE", "forest")
OBJECTS = {
    "network": NETWORKS,
    "noise": NOISES,
    "estimator": MODELS,
    "random_state": {"RandomState": lambda: np.random.RandomState(0)},
}

DENSE = {"hidden_layer_sizes", "activation", "dropout", "tied_weights", "use_bias", "pretrain_iter"}
ESTIMATORS = {
    "PCA": (PCA, {"random_state": 0}),
    "AE": (AutoencoderTransformer, {"n_components": 2, **QUICK}),
    "DAE": (DenoisingAutoencoder, {"n_components": 2, **QUICK}),
    "VAE": (VAETransformer, {"n_components": 2, **QUICK}),
    "detector": (AutoencoderOutlierDetector, {"random_state": 0}),
    "TableEncoder": (TableEncoder, {}),
}


def make_estimator(name, parameters):
    """The estimator of a case."""
    cls, base = ESTIMATORS[name]
    return cls(**base | {key: make_parameter(key, value) for key, value in parameters})


def make_parameter(name, value):
    """What stands behind a name in a case."""
    objects = OBJECTS.get(name, {})
    return objects[value]() if isinstance(value, str) and value in objects else value


@st.composite
def parameters_of(draw, name):
    """Strategy for parameters: a few that are not the default, at most one that is not valid."""
    cls, _ = ESTIMATORS[name]
    own = sorted(set(cls().get_params(deep=False)) & set(VALUES))
    n_changed = min(draw(st.sampled_from((0, 1, 1, 2, 2, 3, 4, 5))), len(own))
    chosen = draw(
        st.lists(st.sampled_from(own), min_size=n_changed, max_size=n_changed, unique=True)
    )
    if "network" in chosen:
        chosen = [key for key in chosen if key not in DENSE]
    with_invalid = draw(st.sampled_from((False,) * 8 + (True,)))
    changed = []
    for place, key in enumerate(chosen):
        valid, invalid = VALUES[key]
        changed.append(
            (key, draw(st.sampled_from(invalid if with_invalid and not place else valid)))
        )
    if "network" in chosen:
        changed.append(("hidden_layer_sizes", (128, 64)))
    if name == "detector":
        model = draw(st.sampled_from((None, None, *MODELS)))
        changed += [("estimator", model)] if model is not None else []
    return tuple(changed)
