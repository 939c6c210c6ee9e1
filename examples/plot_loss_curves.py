"""
Reading loss curves
===================

:class:`~skae.plotting.LossCurveDisplay` draws the training loss, the loss of the rows that were
held out, and a dot at the epoch whose weights ``fit`` returned. Six trainings, and what their
curves say.

Add ``--data FOLDER`` for the images of Fashion-MNIST instead of scikit-learn's digits.
"""

# %%
# Learning rates and numbers of rows
# ----------------------------------
# The network is always the default one, with a code of 16 numbers. Training is told not to stop
# early, so that the curves can be seen to their end; the best weights are returned nevertheless.

import matplotlib.pyplot as plt
from images import load_images

from skae import AutoencoderTransformer, VAETransformer
from skae.plotting import LossCurveDisplay

images = load_images()
X = images.X_train


def autoencoder(max_iter, **parameters):
    """Make an autoencoder that trains to its last epoch."""
    return AutoencoderTransformer(
        16, max_iter=max_iter, n_iter_no_change=max_iter, random_state=0, **parameters
    )


trainings = {
    "As it should be": autoencoder(40).fit(X),
    "100 times smaller learning rate": autoencoder(40, learning_rate_init=3e-5).fit(X),
    "Large and constant learning rate": autoencoder(
        40, learning_rate="constant", learning_rate_init=0.02
    ).fit(X),
    "300 rows, random start": autoencoder(
        120, init="random", learning_rate="constant", learning_rate_init=6e-3
    ).fit(X[:300]),
}
fig, axes = plt.subplots(2, 2, figsize=(10, 7), sharey=True, layout="constrained")
for ax, (title, model) in zip(axes.flat, trainings.items(), strict=True):
    LossCurveDisplay.from_estimator(model, ax=ax, yscale="log")
    ax.set_title(f"{title}: {model.best_loss_:.4f}")
fig.suptitle("Validation loss of the weights that were returned")
plt.show()

# %%
# *As it should be*: both curves fall and flatten as the learning rate falls to zero. The gap
# between them is small.
#
# *100 times smaller*: training hardly leaves its start, which is PCA, and PCA is what is returned.
# A curve that is flat from its first epoch on means that nothing was learned, not that all was.
#
# *Large and constant*: the first steps destroy what PCA had to offer, and later ones overshoot.
#
# *300 rows, random start*: the training loss falls on and on, while that of the held-out rows has
# come to a halt far above it. The network learns its rows by heart. The epochs after the dot cost
# nothing but time.
#
# When nothing is better than PCA
# -------------------------------
# From 100 rows the default network, which starts at PCA, learns nothing that helps for others.
# ``fit`` then returns PCA, and a dotted line takes the place of the dot. It does so also where the
# lowest of the validation losses beats PCA by less than its standard error, because the lowest of
# many is in part luck.

few = autoencoder(120, learning_rate="constant").fit(X[:100])
LossCurveDisplay.from_estimator(few).ax_.set_title("100 rows")
plt.show()

# %%
# The two terms of a variational autoencoder
# ------------------------------------------
# Its loss is the sum of how badly rows are described by their codes and of what the codes cost, the
# divergence of Kullback and Leibler. With ``beta_warmup`` the cost enters slowly: training buys
# long codes at first and gives part of them back.

vae = VAETransformer(16, beta_warmup=15, max_iter=30, random_state=0).fit(X)
LossCurveDisplay.from_estimator(vae).ax_.set_title("Variational autoencoder")
plt.show()
