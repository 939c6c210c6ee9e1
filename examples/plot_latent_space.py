"""
Digits in the plane
===================

Two numbers for an image are few, but they can be looked at: as the place of the image in a plane,
and as the image that stands at each place. PCA and an autoencoder beside each other.

Add ``--data FOLDER`` for the images of Fashion-MNIST instead of scikit-learn's digits.
"""

# %%
# Where unseen images lie
# -----------------------
# Neither model knows which digit an image shows. How well two numbers tell them apart is measured
# afterwards, by the share of unseen images whose nearest neighbour among the training codes is of
# the same kind.

import matplotlib.pyplot as plt
import numpy as np
from images import load_images
from sklearn.neighbors import KNeighborsClassifier

from skae import PCA, AutoencoderTransformer
from skae.plotting import LatentDisplay, ReconstructionDisplay

images = load_images()
X_train, X_test, y_train, y_test, image_shape = images
models = {
    "PCA": PCA(2).fit(X_train),
    "autoencoder": AutoencoderTransformer(
        2, hidden_layer_sizes=(256, 128, 64), max_iter=80, random_state=0
    ).fit(X_train),
}

fig, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
for ax, (name, model) in zip(axes, models.items(), strict=True):
    neighbours = KNeighborsClassifier(1).fit(model.transform(X_train), y_train)
    accuracy = neighbours.score(model.transform(X_test), y_test)
    print(f"{name}: the nearest neighbour is of the same kind for {accuracy:.0%} of the images")
    LatentDisplay.from_estimator(model, X_test, y_test, ax=ax)
    ax.set_title(f"{name}: {accuracy:.0%} beside their own kind")
axes[0].get_legend().remove()
plt.show()

# %%
# What stands where
# -----------------
# ``kind="decoded"`` decodes a grid of codes. PCA can only add two patterns to the mean image, in
# all amounts. The autoencoder has room for different shapes, with transitions between them.

fig, axes = plt.subplots(1, 2, figsize=(11, 5.6), layout="compressed")
for ax, (name, model) in zip(axes, models.items(), strict=True):
    LatentDisplay.from_estimator(
        model, X_test, kind="decoded", image_shape=image_shape, n_grid=12, ax=ax
    )
    ax.set_title(name)
plt.show()

# %%
# On the way between two images
# -----------------------------
# The mean of two images shows both at once. The image in the middle between their codes can be
# a third shape. The line from the code of one unseen image to that of another, in seven steps, with
# the mix of their pixels above it:

first, last = images.one_of_each()[[0, 7]]
steps = np.linspace(0, 1, 7)[:, np.newaxis]
tables = {"pixels": (1 - steps) * first + steps * last}
for name, model in models.items():
    ends = model.transform(np.stack([first, last]))
    tables[name] = model.inverse_transform((1 - steps) * ends[:1] + steps * ends[1:])
display = ReconstructionDisplay(tables, image_shape=image_shape).plot()
display.ax_.set_title("From one image to another")
plt.show()
