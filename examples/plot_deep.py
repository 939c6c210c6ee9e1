"""
How deep should it be?
======================

Hidden layers bend the code. Here images are written as very few numbers by PCA, by autoencoders of
growing depth, and by the same networks from random weights instead of PCA's solution. What counts
is the share of the variance of unseen images that is lost.

Add ``--data FOLDER`` for the images of Fashion-MNIST instead of scikit-learn's digits.
"""

# %%
# Depths to compare
# -----------------
# ``hidden_layer_sizes`` are the layers of the encoder; the decoder has the same ones in reverse.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from images import load_images

from skae import PCA, AutoencoderTransformer
from skae.plotting import ReconstructionDisplay

N_COMPONENTS = 4
DEPTHS = {
    "no hidden layer": (),
    "one: 64": (64,),
    "two: 128, 64": (128, 64),
    "three: 256, 128, 64": (256, 128, 64),
}

images = load_images()
X_train, X_test = images.X_train, images.X_test


def share_lost(model):
    """Squared error of unseen images, in shares of their variance."""
    again = model.inverse_transform(model.transform(X_test))
    return np.sum((again - X_test) ** 2) / np.sum((X_test - X_train.mean(axis=0)) ** 2)


pca = PCA(N_COMPONENTS).fit(X_train)
lost, deepest = {}, {}
for depth, layers in DEPTHS.items():
    for init in ("pca", "random"):
        model = AutoencoderTransformer(
            N_COMPONENTS, hidden_layer_sizes=layers, init=init, max_iter=30, random_state=0
        )
        lost[depth, init] = share_lost(model.fit(X_train))
        deepest[init] = model

table = pd.Series(lost).unstack().loc[list(DEPTHS)]
table.columns.name = "lost, by init"
print(f"PCA loses {share_lost(pca):.3f} of the variance.")
print(table.to_string(float_format="{:.3f}".format))

# %%
# Without hidden layers the start at PCA is already the best there is, and random weights are still
# on their way there. The first hidden layer gains most, and each further one less. Starting at PCA
# is better at every depth for this number of epochs.

colors = {"pca": "#0072B2", "random": "#D55E00"}
fig, ax = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
for init, color in colors.items():
    ax.plot(range(len(DEPTHS)), table[init], "o-", color=color, label=f'init="{init}"')
ax.axhline(share_lost(pca), color="0.5", linestyle="--", label="PCA")
ax.set_xticks(range(len(DEPTHS)), [depth.replace(": ", ":\n") for depth in DEPTHS])
ax.set(
    xlabel="hidden layers of the encoder",
    ylabel="share of the variance lost",
    title=f"Unseen images through {N_COMPONENTS} numbers",
    ylim=(0, None),
)
ax.legend()
plt.show()

# %%
# What is left of the images
# --------------------------
# An unseen image of each kind.

originals = images.one_of_each()
models = {"PCA": pca, "three hidden layers": deepest["pca"]}
tables = {"original": originals}
for name, model in models.items():
    tables[f"{name}:\n{share_lost(model):.0%} lost"] = model.inverse_transform(
        model.transform(originals)
    )
display = ReconstructionDisplay(tables, image_shape=images.shape).plot()
display.ax_.set_title(f"{X_test.shape[1]} pixels as {N_COMPONENTS} numbers")
plt.show()
