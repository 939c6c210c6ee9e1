"""How much noise does DenoisingAutoencoder remove from images, next to classical denoisers?

Fashion-MNIST with normal noise of standard deviation 0.5, clipped to [0, 1]. The error is the mean
squared difference to the clean test images per pixel; restored pixels are clipped to [0, 1] for
everyone. Against

* PCA: the projection of noisy images on the leading components of clean ones;
* linear regression of the clean pixels on the noisy ones, the best linear denoiser;
* filters of scipy (Gaussian, median, Wiener) and scikit-image (non-local means, total variation;
  left out if it is not installed).

Whatever these have to choose is chosen on noisy training images. The networks see clean training
images only, and add the noise themselves.

    python benchmarks/denoising.py --data /usr/share/datasets/fashion-mnist
"""

from __future__ import annotations

import argparse
import importlib.util
from functools import cache, partial
from pathlib import Path

import numpy as np
from _common import (
    describe_environment,
    median,
    print_environment,
    read_fashion_mnist,
    run_in_turns,
    write_json,
)
from scipy.ndimage import gaussian_filter, median_filter
from scipy.signal import wiener
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression

from skae import DenoisingAutoencoder
from skae.networks import Conv2dNetwork

LEVEL = 0.5
SIDE = 28
# Training images on which filters choose their parameters: one number needs no more.
N_CHOOSING = 500


def add_noise(X, seed):
    noise = np.random.default_rng(seed).standard_normal(X.shape, dtype=np.float32)
    return np.clip(X + LEVEL * noise, 0, 1)


def squared_error(X, restored):
    return float(np.mean(np.square(np.clip(restored, 0, 1) - X), dtype=np.float64))


def decibels(error):
    """Peak signal-to-noise ratio of a mean squared error of values in [0, 1]."""
    return -10 * np.log10(error)


# Each of the following takes clean and noisy training images and a seed, and returns a function
# that restores images.


def fit_nothing(X, X_noisy, seed):
    return lambda X: X


def fit_pca(X, X_noisy, seed):
    pca = PCA(min(256, len(X)), svd_solver="covariance_eigh").fit(X)
    noisy_mean = X_noisy.mean(axis=0)  # clipping moves it

    def restore(k, X):
        axes = pca.components_[:k]
        return (X - noisy_mean) @ axes.T @ axes + pca.mean_

    sizes = [4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256]
    best = min(sizes, key=lambda k: squared_error(X, restore(k, X_noisy)))
    return partial(restore, best)


def fit_linear_regression(X, X_noisy, seed):
    return LinearRegression().fit(X_noisy, X).predict


def fit_filter(restore_image, candidates, X, X_noisy, seed):
    """Choose the parameter of a filter that works on one image at a time."""

    def restore(candidate, X):
        images = [restore_image(image, candidate) for image in X.reshape(-1, SIDE, SIDE)]
        return np.reshape(images, X.shape)

    chosen = slice(N_CHOOSING)
    best = min(
        candidates,
        key=lambda candidate: squared_error(X[chosen], restore(candidate, X_noisy[chosen])),
    )
    return partial(restore, best)


def fit_dense(epochs, device, X, X_noisy, seed):
    return DenoisingAutoencoder(
        128,
        noise="clipped_gaussian",
        noise_level=LEVEL,
        hidden_layer_sizes=(1024,),
        learning_rate="cosine",
        batch_size=128,
        max_iter=epochs,
        n_iter_no_change=epochs,
        device=device,
        random_state=seed,
    ).fit(X).reconstruct  # fmt: skip


def fit_conv(epochs, device, X, X_noisy, seed):
    return DenoisingAutoencoder(
        128,
        noise="clipped_gaussian",
        noise_level=LEVEL,
        network=Conv2dNetwork((SIDE, SIDE), channels=(32, 64)),
        learning_rate="cosine",
        batch_size=128,
        max_iter=epochs,
        n_iter_no_change=epochs,
        device=device,
        random_state=seed,
    ).fit(X).reconstruct  # fmt: skip


def scipy_filters():
    widths = np.linspace(0.5, 2.5, 9)
    return {
        "Gaussian filter": partial(fit_filter, gaussian_filter, widths),
        "median filter": partial(fit_filter, median_filter, [3, 5, 7]),
        "Wiener filter": partial(fit_filter, restore_by_wiener, [3, 5, 7, 9]),
    }


def restore_by_wiener(image, size):
    with np.errstate(divide="ignore", invalid="ignore"):  # where windows are constant
        return wiener(image, size, noise=LEVEL**2)


def scikit_image_filters():
    if importlib.util.find_spec("skimage") is None:
        print("scikit-image is not installed: without non-local means and total variation")
        return {}
    from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

    def non_local_means(image, strength):
        return denoise_nl_means(
            image, patch_size=5, patch_distance=9, h=strength * LEVEL, sigma=LEVEL, fast_mode=True
        )

    return {
        "non-local means": partial(fit_filter, non_local_means, [0.2, 0.4, 0.6, 0.8, 1.0]),
        "total variation": partial(fit_filter, denoise_tv_chambolle, [0.2, 0.4, 0.6, 0.8, 1.0]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the four idx .gz files")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, help="training and test rows, for a quick look")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, help="file to write the results to")
    arguments = parser.parse_args()

    packages = ["torch", "numpy", "scipy", "scikit-learn"]
    networks = {
        "DenoisingAutoencoder, dense": partial(fit_dense, arguments.epochs, arguments.device),
        "DenoisingAutoencoder, conv": partial(fit_conv, arguments.epochs, arguments.device),
    }
    others = {
        "PCA": fit_pca,
        "linear regression": fit_linear_regression,
        **scipy_filters(),
        **scikit_image_filters(),
    }
    if "non-local means" in others:
        packages.append("scikit-image")
    environment = describe_environment(packages)
    print_environment(environment)
    X, X_test = (images[: arguments.rows] for images in read_fashion_mnist(arguments.data))
    print(
        f"{len(X)} training and {len(X_test)} test images, noise {LEVEL} clipped to [0, 1], "
        f"{arguments.epochs} epochs, {arguments.seeds} seeds, device {arguments.device}"
    )

    @cache
    def noisy_images(seed):
        return add_noise(X, seed), add_noise(X_test, 1_000_000 + seed)

    def error(fit, seed):
        X_noisy, X_test_noisy = noisy_images(seed)
        return squared_error(X_test, fit(X, X_noisy, seed)(X_test_noisy))

    fitters = {"noisy images": fit_nothing, **others, **networks}
    runs = run_in_turns(
        {name: partial(error, fit) for name, fit in fitters.items()}, arguments.seeds
    )
    results = {
        name: {
            "squared error": [run.result for run in own_runs],
            "seconds": [run.seconds for run in own_runs],
        }
        for name, own_runs in runs.items()
    }
    errors = {name: median(result["squared error"]) for name, result in results.items()}

    print("\nmedian, lowest and highest test error over the seeds; seconds to fit and restore")
    for name, result in results.items():
        print(
            f"  {name:<28} {errors[name]:.5f} ({min(result['squared error']):.5f} to "
            f"{max(result['squared error']):.5f})   {decibels(errors[name]):5.2f} dB   "
            f"{median(result['seconds']):7.1f} s"
        )
    best = min(others, key=errors.__getitem__)
    ratios = {name: errors[name] / errors[best] for name in networks}
    print(f"\nsquared error, over that of the best of the others ({best})")
    for name, ratio in ratios.items():
        print(f"  {name:<28} {ratio:.3f}")
    write_json(
        arguments.json,
        {"environment": environment, "results": results, "best of the others": best}
        | {"ratios": ratios},
    )


if __name__ == "__main__":
    main()
