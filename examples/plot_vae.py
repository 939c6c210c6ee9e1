"""
A variational autoencoder: read, write and weigh digits
=======================================================

:class:`~skae.VAETransformer` learns a code for each row, as the other autoencoders do, and a
distribution of the rows along with it. So it can do two more things: draw new rows, and say how
likely a row is, in the unit in which :class:`~sklearn.decomposition.PCA` says it.

Four looks at handwritten digits: what a code keeps of an image, what the model draws by itself,
where the images lie in a code of two numbers, and what the weight ``beta`` does.

Add ``--data FOLDER`` for the images of Fashion-MNIST instead of scikit-learn's digits.
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
from images import load_images
from sklearn.decomposition import PCA

from skae import VAETransformer
from skae.plotting import LatentDisplay, ReconstructionDisplay

images = load_images()
X_train, X_test, y_test = images.X_train, images.X_test, images.y_test

pca = PCA(16).fit(X_train)
vae = VAETransformer(16, max_iter=60, random_state=0).fit(X_train)
print(f"PCA  {pca.score(X_test):5.1f} nats per unseen image")
print(f"VAE  {vae.score(X_test):5.1f} nats per unseen image, at least")


def lost(model):
    """Root mean squared error of unseen images, in grey levels from 0 to 1."""
    X_again = model.inverse_transform(model.transform(X_test))
    return np.sqrt(np.mean(np.square(X_again - X_test)))


def show(title, tables):
    """Draw rows of images, each with its label at the left."""
    display = ReconstructionDisplay(tables, image_shape=images.shape)
    display.plot(style_kwargs={"vmin": 0, "vmax": 1})
    display.ax_.set_title(title)
    plt.show()


# %%
# What the code keeps
# -------------------
# ``transform`` gives the mean of the posterior of the code, ``inverse_transform`` decodes it. Below
# is one unseen image of each digit.

print(f"PCA loses {lost(pca):.3f}, the autoencoder {lost(vae):.3f}, grey levels from 0 to 1")

chosen = images.one_of_each()
show(
    "Unseen images, and what is left of them after 16 numbers",
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
show(
    "Images that nobody made",
    {
        "VAE": vae.sample(10, random_state=0),
        "VAE\nwith noise": vae.sample(10, random_state=0, with_noise=True),
        "PCA": pca.inverse_transform(codes),
    },
)

# %%
# A walk through a code of two numbers
# ------------------------------------
# A code of two numbers can be drawn as a map. On the left are the codes of unseen images, on the
# right is what the decoder makes of a grid over them. Codes are spread as the prior is, a standard
# normal distribution about zero: from there come the images that the model draws.

flat = VAETransformer(2, max_iter=60, random_state=0).fit(X_train)
fig, (left, right) = plt.subplots(1, 2, figsize=(11.5, 5.2), layout="compressed")
LatentDisplay.from_estimator(flat, X_test, y_test, ax=left)
left.set(title="Codes of unseen images", aspect="equal")
LatentDisplay.from_estimator(
    flat, X_test, kind="decoded", image_shape=images.shape, n_grid=13, ax=right
)
right.set_title("Decoded grid")
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

show(
    "Drawn with another weight of the divergence",
    {f"beta {beta:g}": model.sample(10, random_state=1) for beta, model in models.items()},
)
