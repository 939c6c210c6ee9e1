"""
Sparse codes
============

A code that is longer than it needs to be, of which each row uses a small part, often has components
that mean something: here strokes, of which an image is put together. The parameter ``sparsity`` is
the price of the L1 norm of the code.

Add ``--data FOLDER`` for the images of Fashion-MNIST instead of scikit-learn's digits.
"""

# %%
# The price and what it buys
# --------------------------
# Tied weights keep the decoder from undoing the penalty: without them the code could get small
# without getting sparse. A component counts as active where it is at least a tenth of the largest
# one of its row. The prices are for 8 x 8 pixels: the loss is a mean over the pixels, so that
# images with more of them ask for a smaller price. The mean image is taken off first, or a
# component of its own would be the largest in every row.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from images import load_images

from skae import AutoencoderTransformer
from skae.plotting import ReconstructionDisplay

N_COMPONENTS = 64

images = load_images()
mean = images.X_train.mean(axis=0)
X_train, X_test = images.X_train - mean, images.X_test - mean
variance = np.mean(X_test**2)
scale = 64 / X_train.shape[1]


def active(codes):
    """Whether each component is used by each row."""
    sizes = np.abs(codes)
    return sizes > 0.1 * sizes.max(axis=1, keepdims=True)


models, rows = {}, []
for sparsity in (0.0, 1e-3, 2e-3, 4e-3):
    model = AutoencoderTransformer(
        N_COMPONENTS,
        hidden_layer_sizes=(),
        init="random",
        tied_weights=True,
        sparsity=sparsity * scale,
        max_iter=120,
        random_state=0,
    ).fit(X_train)
    models[sparsity] = model
    again = model.reconstruct(X_test)
    rows.append(
        {
            "sparsity": sparsity,
            "active components": active(model.transform(X_test)).sum(axis=1).mean(),
            "share of variance lost": np.mean((again - X_test) ** 2) / variance,
        }
    )
print(pd.DataFrame(rows).to_string(index=False, float_format="{:.4g}".format))

# %%
# The first step of the price is cheap: more than half of the active components fall silent, and
# next to nothing of the image is lost. The last step saves few and costs much.
#
# The sizes of the components
# ---------------------------
# Without a price the components of unseen images take all sizes. With it most of them are
# near zero and a few are large.

fig, ax = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
colors = {0.0: "#D55E00", 2e-3: "#0072B2"}
for sparsity, color in colors.items():
    codes = models[sparsity].transform(X_test)
    relative = codes / np.abs(codes).max(axis=1, keepdims=True)
    label = f"sparsity={sparsity:g}: {active(codes).mean():.0%} active"
    ax.hist(relative.ravel(), bins=81, histtype="step", linewidth=1.5, color=color, label=label)
ax.set(
    xlabel="component, relative to the largest of its row",
    ylabel="number of components of all rows",
    title="Codes of unseen images",
)
ax.legend()
plt.show()

# %%
# What the components stand for
# -----------------------------
# The decoder's column of a component is what it adds to an image. Here are the ten components that
# are active in most images. Without a price they are patterns that cover the whole image, its empty
# rim included; with it, they are nearer to strokes. Red adds ink and blue takes it away, or the
# other way round where the component is negative.

tables = {}
for sparsity in colors:
    model = models[sparsity]
    # Tied: the encoder's rows are the decoder's columns.
    columns = model.module_.encoder[0].weight.detach().numpy()  # (n_components, n_pixels)
    most_used = np.argsort(-active(model.transform(X_test)).mean(axis=0))[:10]
    chosen = columns[most_used]
    tables[f"sparsity={sparsity:g}"] = chosen / np.abs(chosen).max(axis=1, keepdims=True)
display = ReconstructionDisplay(tables, image_shape=images.shape)
display.plot(style_kwargs={"cmap": "RdBu_r", "vmin": -1, "vmax": 1})
display.ax_.set_title("The ten components used most")
plt.show()
