"""
A variational autoencoder: read, write and weigh digits
=======================================================

:class:`~skae.VAETransformer` learns a code for each row, as the other autoencoders do, and a
distribution of the rows along with it. So it can do two more things: draw new rows, and say how
likely a row is, in the unit in which :class:`~sklearn.decomposition.PCA` says it.

Four looks at handwritten digits: what a code keeps of an image, what the model draws by itself,
where the images lie in a code of two numbers, and what the weight ``beta`` does.
"""

# %%
# The data, and two densities of it
# ---------------------------------
# The digits of scikit-learn are 1797 images of 8 x 8 pixels. One constant brings their grey levels
# to [0, 1]. Both models get 16 numbers for an image. PCA is a density, too: a normal distribution
# with most of its variance along the leading axes. The autoencoder starts there, and training bends
# the flat surface that PCA puts through the data. Its figure is a lower bound of the log-density
# of images that were not trained on.

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import norm
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split

from skae import VAETransformer

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X / 16, y, stratify=y, random_state=0)

pca = PCA(16).fit(X_train)
vae = VAETransformer(16, max_iter=60, random_state=0).fit(X_train)
print(f"PCA  {pca.score(X_test):5.1f} nats per unseen image")
print(f"VAE  {vae.score(X_test):5.1f} nats per unseen image, at least")


def lost(model):
    """Root mean squared error of unseen images, in grey levels from 0 to 1."""
    X_again = model.inverse_transform(model.transform(X_test))
    return np.sqrt(np.mean(np.square(X_again - X_test)))


def show_images(axes, images):
    """Draw one image into each of the axes."""
    for ax, image in zip(axes, images, strict=True):
        ax.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])


def show_rows(name, title, rows):
    """Draw rows of ten images, each row with its label at the left."""
    fig, axes = plt.subplots(
        len(rows), 10, num=name, figsize=(9, 0.6 + 0.85 * len(rows)), layout="constrained"
    )
    for axes_row, (label, images) in zip(axes, rows.items(), strict=True):
        show_images(axes_row, images)
        axes_row[0].set_ylabel(label, rotation=0, ha="right", va="center")
    fig.suptitle(title)
    plt.show()


# %%
# What the code keeps
# -------------------
# ``transform`` gives the mean of the posterior of the code, ``inverse_transform`` decodes it. Below
# is one unseen image of each digit.

print(f"PCA loses {lost(pca):.3f}, the autoencoder {lost(vae):.3f}, grey levels from 0 to 1")

chosen = X_test[[np.flatnonzero(y_test == digit)[0] for digit in range(10)]]
show_rows(
    "vae_reconstructions",
    "Unseen digits, and what is left of them after 16 numbers",
    {
        "unseen": chosen,
        "VAE": vae.inverse_transform(vae.transform(chosen)),
        "PCA": pca.inverse_transform(pca.transform(chosen)),
    },
)

# %%
# What the models draw
# --------------------
# Codes have a standard normal distribution in the model, so a random code that is decoded is a new
# image. ``sample`` draws such images. With the noise that the model sees around every
# reconstruction, they have the distribution of the model; without it, they show what is systematic
# in it. PCA draws from its normal distribution, in which the mean of two digits is as good an image
# as either.

codes = np.random.default_rng(0).normal(scale=np.sqrt(pca.explained_variance_), size=(10, 16))
show_rows(
    "vae_samples",
    "Digits that nobody wrote",
    {
        "VAE": vae.sample(10, random_state=0),
        "VAE\nwith noise": vae.sample(10, random_state=0, with_noise=True),
        "PCA": pca.inverse_transform(codes),
    },
)

# %%
# A walk through a code of two numbers
# ------------------------------------
# A code of two numbers can be drawn as a map. On the left are the codes of unseen images, each
# as its digit; on the right is what the decoder makes of a grid over the same square. The steps of
# the grid are quantiles of the normal distribution, so that each image stands for an equal share
# of what the model draws.

flat = VAETransformer(2, max_iter=60, random_state=0).fit(X_train)
codes = flat.transform(X_test)

fig, (left, right) = plt.subplots(1, 2, num="vae_walk", figsize=(9.4, 4.8), layout="constrained")
for digit, color in enumerate(plt.colormaps["viridis"](np.linspace(0.0, 0.85, 10))):
    left.scatter(*codes[y_test == digit].T, marker=f"${digit}$", s=40, color=color, lw=0.4)
limits = norm.ppf([0.01, 0.99])
left.set(
    xlim=limits, ylim=limits, aspect="equal", xlabel="first number", ylabel="second number",
    title="Codes of unseen digits",
)  # fmt: skip
steps = norm.ppf(np.linspace(0.04, 0.96, 13))
grid = np.stack(np.meshgrid(steps, steps[::-1]), axis=-1).reshape(-1, 2)
images = flat.inverse_transform(grid).reshape(13, 13, 8, 8)
images = np.pad(images, [(0, 0), (0, 0), (1, 1), (1, 1)])  # a frame of white
right.imshow(images.swapaxes(1, 2).reshape(130, 130), cmap="gray_r", vmin=0, vmax=1)
centres, ends = [4.5, 64.5, 124.5], ["4 %", "50 %", "96 %"]
right.set(
    xticks=centres, yticks=centres[::-1], xticklabels=ends, yticklabels=ends,
    xlabel="first number, quantile", ylabel="second number, quantile", title="Decoded grid",
)  # fmt: skip
plt.show()

# %%
# What beta does
# --------------
# Training weighs two losses: how badly images are reconstructed, and how much their codes tell,
# which is the divergence of the posteriors from the prior. ``beta`` is the weight of the second.
# With 1 their sum is minus the bound of the log-density, and unseen images are likeliest there. A
# smaller weight lets codes tell more than it is worth, and they are no longer spread as the prior
# is. A larger one makes codes tell less, until every image is reconstructed as the mean of them
# all. The numbers in the picture on the right are ``active_units_``, the components that vary.

weights = [0.1, 0.3, 1, 3, 10]
models = {
    beta: VAETransformer(16, beta=beta, max_iter=25, random_state=0).fit(X_train)
    for beta in weights
}


def nats_told(model, X):
    """Mean divergence of the posterior from the prior."""
    mean, std = model.posterior(X)
    return np.mean(np.sum(mean**2 + std**2 - 1 - 2 * np.log(std), axis=1)) / 2


fig, (left, right) = plt.subplots(1, 2, num="vae_beta", figsize=(9, 3.6), layout="constrained")
left.plot(
    weights, [nats_told(model, X_test) for model in models.values()],
    "o-", color="#0072B2", label="told by the code",
)  # fmt: skip
left.plot(
    weights, [model.score(X_test) for model in models.values()],
    "s--", color="#D55E00", label="bound of the log-density",
)  # fmt: skip
left.set(xscale="log", xticks=weights, xticklabels=weights, xlabel="beta",
         ylabel="nats per unseen image", title="Information and density")  # fmt: skip
left.minorticks_off()
left.legend()
errors = [lost(model) for model in models.values()]
right.plot(weights, errors, "o-", color="#009E73")
for (beta, model), error in zip(models.items(), errors, strict=True):
    right.annotate(
        f"{model.active_units_}", (beta, error), (0, 8),
        textcoords="offset points", ha="center",
    )  # fmt: skip
right.set(xscale="log", xticks=weights, xticklabels=weights, xlabel="beta", xlim=(0.06, 17),
          ylabel="root mean squared error", ylim=(0, 1.25 * max(errors)),
          title="Reconstruction, and active components")  # fmt: skip
right.minorticks_off()
plt.show()

# %%
# The same random codes, decoded by each of these models. With a weight of 10 every code gives
# nearly the same image.

show_rows(
    "vae_beta_samples",
    "Drawn with another weight of the divergence",
    {f"beta {beta:g}": model.sample(10, random_state=1) for beta, model in models.items()},
)
