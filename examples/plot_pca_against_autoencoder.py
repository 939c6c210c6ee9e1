"""
PCA against an autoencoder of equal size
========================================

The fair question to an autoencoder is: how much better than PCA with as many numbers? Here is the
answer for codes from 2 to 32 numbers, with the autoencoder's defaults, on images that neither has
seen.

Add ``--data FOLDER`` for the images of Fashion-MNIST instead of scikit-learn's digits.
"""

# %%
# The error at every size
# -----------------------

import matplotlib.pyplot as plt
import numpy as np
from images import load_images

from skae import PCA, AutoencoderTransformer
from skae.plotting import ReconstructionDisplay

SIZES = [2, 4, 8, 16, 32]

images = load_images()
X_train, X_test = images.X_train, images.X_test
variance = np.mean((X_test - X_train.mean(axis=0)) ** 2)


def share_lost(model):
    """Squared error of unseen images, in shares of their variance."""
    again = model.inverse_transform(model.transform(X_test))
    return np.mean((again - X_test) ** 2) / variance


pca_sizes = np.arange(1, X_train.shape[1] // 2 + 1)
pca = PCA(pca_sizes[-1]).fit(X_train)
codes = pca.transform(X_test)
pca_lost = []
for size in pca_sizes:
    again = codes[:, :size] @ pca.components_[:size] + pca.mean_
    pca_lost.append(np.mean((again - X_test) ** 2) / variance)
pca_lost = np.array(pca_lost)

autoencoders = {
    size: AutoencoderTransformer(size, max_iter=40, random_state=0).fit(X_train) for size in SIZES
}
lost = {size: share_lost(autoencoder) for size, autoencoder in autoencoders.items()}

# %%
# In words: how many components PCA needs to lose as little as the autoencoder.

for size in SIZES:
    enough = np.flatnonzero(pca_lost <= lost[size])
    needs = pca_sizes[enough[0]] if len(enough) else f"more than {pca_sizes[-1]}"
    print(
        f"{size:2} numbers: the autoencoder loses {lost[size]:.3f}, PCA "
        f"{pca_lost[size - 1]:.3f}; PCA needs {needs} components to lose as little"
    )

fig, ax = plt.subplots(figsize=(6.5, 4.0), layout="constrained")
ax.plot(pca_sizes, pca_lost, color="#D55E00", label="PCA")
ax.plot(SIZES, list(lost.values()), "o-", color="#0072B2", label="autoencoder")
ax.set(
    xscale="log",
    yscale="log",
    xlabel="numbers in the code",
    ylabel="share of the variance lost",
    title="Unseen images",
)
ax.set_xticks(SIZES, SIZES)
ax.minorticks_off()
ax.legend()
plt.show()

# %%
# The autoencoder is ahead at every size, by the largest factor in the middle. This compares sizes
# alone: PCA is solved in milliseconds, has no learning rate, and its components are uncorrelated
# and in order.
#
# The same images at equal size
# -----------------------------

SIZE = 8
originals = images.one_of_each()
small_pca = PCA(SIZE).fit(X_train)
tables = {
    "original": originals,
    "autoencoder": autoencoders[SIZE].reconstruct(originals),
    "PCA": small_pca.inverse_transform(small_pca.transform(originals)),
}
display = ReconstructionDisplay(tables, image_shape=images.shape).plot()
display.ax_.set_title(f"Unseen images through {SIZE} numbers")
plt.show()
