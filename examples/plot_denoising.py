"""
Removing noise from images
==========================

A denoising autoencoder sees clean images only, and corrupts them itself while it learns to
restore them. Here it cleans handwritten digits of heavy noise, next to two ways that do without a
network:

* :class:`~sklearn.decomposition.PCA` keeps the leading components and drops the rest, where most
  of the noise is;
* a Gaussian filter takes an average over neighbouring pixels.

Both have one parameter, which is chosen on the training images.

Add ``--data FOLDER`` for the images of Fashion-MNIST instead of scikit-learn's digits.
"""

# %%
# The data
# --------
# The digits of scikit-learn are 1797 images of 8 x 8 pixels. Their grey levels are brought to
# [0, 1] by one constant for all of them: the noise has the same strength in every pixel, so every
# pixel has to keep the same unit. The noise has a standard deviation of 0.4 and is clipped to
# [0, 1] again, as the sensor of a camera would.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from images import load_images
from scipy.ndimage import gaussian_filter
from sklearn.decomposition import PCA

from skae import DenoisingAutoencoder
from skae.plotting import ReconstructionDisplay

LEVEL = 0.4

images = load_images()


def add_noise(X, rng):
    """Add normal noise and clip."""
    return np.clip(X + rng.normal(scale=LEVEL, size=X.shape), 0, 1)


def mean_squared_error(X, X_restored):
    """Mean over all pixels, in squared grey levels."""
    return np.mean(np.square(X_restored - X))


# %%
# Three denoisers
# ---------------
# Each function takes clean training images, noise for them, and returns a function that restores
# images.


def fit_pca(X_train, X_noisy):
    """Choose the number of components; clipping shifts the mean, so the noisy images are fitted."""
    candidates = [PCA(k).fit(X_noisy) for k in range(2, 33, 2)]

    def restore(pca, X):
        # The axes are those of the noisy images; the mean is that of the clean ones.
        return pca.inverse_transform(pca.transform(X)) - pca.mean_ + X_train.mean(axis=0)

    best = min(candidates, key=lambda pca: mean_squared_error(X_train, restore(pca, X_noisy)))
    return lambda X: restore(best, X)


def fit_gaussian_filter(X_train, X_noisy):
    """Choose the width of the filter, in pixels."""

    def restore(width, X):
        pictures = X.reshape(-1, *images.shape)
        return gaussian_filter(pictures, width, axes=(1, 2), mode="nearest").reshape(len(X), -1)

    widths = np.linspace(0.3, 2.0, 18)
    best = min(widths, key=lambda width: mean_squared_error(X_train, restore(width, X_noisy)))
    return lambda X: restore(best, X)


def fit_autoencoder(X_train, X_noisy):
    """Train on clean images; it draws noise itself, other noise in every epoch."""
    denoiser = DenoisingAutoencoder(
        32,
        noise="clipped_gaussian",
        noise_level=LEVEL,
        hidden_layer_sizes=(256,),
        max_iter=100,
        random_state=0,
    )
    return denoiser.fit(X_train).reconstruct


# %%
# The error on unseen images
# --------------------------
# The peak signal-to-noise ratio is the usual measure for images,
# :math:`10 \log_{10}(1 / \mathrm{mean\ squared\ error})` in decibels for grey levels in [0, 1].
# The table gives its mean and its standard deviation over three splits of the data, each with noise
# of its own.

fitters = {
    "PCA": fit_pca,
    "Gaussian filter": fit_gaussian_filter,
    "denoising autoencoder": fit_autoencoder,
}
ratios = []
for seed in range(3):
    rng = np.random.default_rng(seed)
    X_train, X_test, _, y_test = images.split_again(seed)
    X_train_noisy, X_test_noisy = add_noise(X_train, rng), add_noise(X_test, rng)
    restored = {"clean": X_test, "noisy": X_test_noisy}
    for name, fit in fitters.items():
        restored[name] = fit(X_train, X_train_noisy)(X_test_noisy)
    ratios.append(
        {
            name: -10 * np.log10(mean_squared_error(X_test, pictures))
            for name, pictures in restored.items()
            if name != "clean"
        }
    )
table = pd.DataFrame(ratios).agg(["mean", "std"]).T
print(table.to_string(float_format="{:.2f} dB".format))

# %%
# The pictures
# ------------
# One unseen image of each digit. The filter knows nothing of digits and can only blur. PCA knows
# which directions digits take, but drops or keeps each of them whole, for all images alike. The
# autoencoder's answer depends on the image: it puts back strokes that digits have and wipes away
# the rest. Where the noise leaves open which digit it was, the answer is the mean of what it may
# have been, because that has the smallest squared error: see the five and the last nine.

chosen = [np.flatnonzero(y_test == digit)[0] for digit in range(10)]
tables = {name.replace(" ", "\n"): pictures[chosen] for name, pictures in restored.items()}
display = ReconstructionDisplay(tables, image_shape=images.shape).plot()
display.ax_.set_title(f"Held-out images under noise of {LEVEL:g}, and what was restored")
plt.show()

# %%
# One network for several strengths
# ---------------------------------
# Who does not know the strength of the noise gives a range, from which each row draws its own in
# every step. From 0.2 upwards such a network is about as good as any that was trained for one
# strength. A network for weak noise lets strong noise through, and one for strong noise blurs what
# was nearly clean; there the wide range costs something, too.

levels = np.linspace(0.0, 0.8, 9)
rng = np.random.default_rng(0)
noise = rng.normal(size=X_test.shape)

fig, ax = plt.subplots(num="denoising_levels", figsize=(6.5, 3.8), layout="constrained")
styles = {0.1: "#0072B2", 0.4: "#009E73", 0.8: "#CC79A7", (0.0, 0.8): "#D55E00"}
for trained_for, color in styles.items():
    denoiser = DenoisingAutoencoder(
        32,
        noise="clipped_gaussian",
        noise_level=trained_for,
        hidden_layer_sizes=(256,),
        max_iter=60,
        random_state=0,
    ).fit(X_train)
    errors = [
        mean_squared_error(X_test, denoiser.reconstruct(np.clip(X_test + level * noise, 0, 1)))
        for level in levels
    ]
    is_range = isinstance(trained_for, tuple)
    ax.plot(
        levels,
        np.sqrt(errors),
        color=color,
        linewidth=3 if is_range else 1.5,
        linestyle="-" if is_range else "--",
        label="0 to 0.8" if is_range else f"{trained_for:g}",
    )
ax.set(
    xlabel="standard deviation of the test images' noise",
    ylabel="root mean squared error",
    title="Restored images, by what the network was trained for",
)
ax.legend(title="noise_level")
plt.show()
