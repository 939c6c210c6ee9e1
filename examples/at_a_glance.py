"""Draw the picture of the README: what each estimator makes of handwritten digits.

Usage: python examples/at_a_glance.py docs/_static/at_a_glance.png
"""

import argparse
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skae import PCA, AutoencoderTransformer, DenoisingAutoencoder, VAETransformer


def draw():
    """Fit the estimators to three quarters of the digits and draw what they make of the rest."""
    X, y = load_digits(return_X_y=True)
    X_train, X_test, _, y_test = train_test_split(X / 16, y, stratify=y, random_state=0)
    chosen = [int(np.flatnonzero(y_test == digit)[0]) for digit in range(10)]
    originals = X_test[chosen]
    noisy = originals + np.random.default_rng(0).normal(scale=0.3, size=originals.shape)

    pca = PCA(8).fit(X_train)
    autoencoder = AutoencoderTransformer(8, random_state=0).fit(X_train)
    denoiser = DenoisingAutoencoder(32, noise_level=0.3, random_state=0).fit(X_train)
    generator = VAETransformer(16, loss="bernoulli", random_state=0).fit(X_train)
    rows = {
        "new images": originals,
        "PCA, 8 numbers": pca.inverse_transform(pca.transform(originals)),
        "autoencoder, 8 numbers": autoencoder.reconstruct(originals),
        "with noise": noisy,
        "denoised": denoiser.reconstruct(noisy),
        "generated": generator.sample(10, random_state=0),
    }
    figure = plt.figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(2.2, 1))
    axes = left.subplots(len(rows), len(chosen))
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for ax, image in zip(line, images, strict=True):
            ax.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)

    lengths = [2, 4, 8, 16]
    errors: dict[str, list[float]] = {"PCA": [], "autoencoder": []}
    for length in lengths:
        linear = PCA(length).fit(X_train)
        again = linear.inverse_transform(linear.transform(X_test))
        errors["PCA"].append(np.square(X_test - again).mean())
        model = clone(autoencoder).set_params(n_components=length).fit(X_train)
        errors["autoencoder"].append(model.reconstruction_error(X_test).mean())
    variance = X_test.var(axis=0).mean()
    ax = right.subplots()
    for name, curve in errors.items():
        shares = 100 * np.array(curve) / variance
        ax.plot(lengths, shares, marker="o", label=name)
        for length, share in zip(lengths, shares, strict=True):
            ax.annotate(f"{share:.0f}", (length, share), (4, 4), textcoords="offset points")
    ax.set_xscale("log", base=2)
    ax.set(xticks=lengths, xticklabels=lengths, ylim=(0, None), xlabel="numbers in the code")
    ax.set_title("error on new images,\n% of their variance")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return figure


def main():
    """Draw the picture to the file named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path, metavar="FILE")
    draw().savefig(parser.parse_args().path, dpi=110)


if __name__ == "__main__":
    main()
