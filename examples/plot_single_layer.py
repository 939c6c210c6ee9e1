"""
The smallest autoencoder, and what PCA has to do with it
========================================================

Without hidden layers, an autoencoder is a matrix that leads to the code and a matrix that leads
back. Under the squared error the best it can do is known: it is PCA. Trained from random weights,
it comes close, with other axes in the same plane.

Bending the output changes that. Behind a logistic function, with the cross-entropy as the loss,
the same two matrices describe grey levels that stay between 0 and 1.

Add ``--data FOLDER`` for the images of Fashion-MNIST instead of scikit-learn's digits.
"""

# %%
# Three models of equal size
# --------------------------
# All of them write an image as 16 numbers. ``init="random"`` is needed here: by default an
# autoencoder starts at PCA, and without hidden layers there would be nothing left to learn.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from images import load_images
from scipy.linalg import subspace_angles

from skae import PCA, AutoencoderTransformer
from skae.plotting import ReconstructionDisplay

images = load_images()
options = {
    "hidden_layer_sizes": (),
    "init": "random",
    "learning_rate_init": 0.01,
    "max_iter": 150,
    "random_state": 0,
}
models = {
    "PCA": PCA(16),
    "linear": AutoencoderTransformer(16, **options),
    "logistic": AutoencoderTransformer(16, loss="bernoulli", **options),
}
X_test = images.X_test
rows, tables = [], {"original": images.one_of_each()}
for name, model in models.items():
    model.fit(images.X_train)
    again = model.inverse_transform(model.transform(X_test))
    tables[name] = model.inverse_transform(model.transform(tables["original"]))
    rows.append(
        {
            "model": name,
            "squared error": np.mean((again - X_test) ** 2),
            "smallest grey": again.min(),
            "largest grey": again.max(),
        }
    )
print(pd.DataFrame(rows).to_string(index=False, float_format="{:.4f}".format))

# %%
# On unseen images, the squared error of the linear autoencoder is PCA's to the digits shown. Both
# leave the range of the grey levels; the logistic one cannot, and has the smallest error although
# it was trained for another one.

ReconstructionDisplay(tables, image_shape=images.shape).plot()
plt.show()

# %%
# The weights as images
# ---------------------
# A row of the matrix that leads to the code has a weight for each pixel. PCA's rows are orthogonal
# and in the order of their variance. Those of the autoencoders are in no order and overlap: any
# mixture of the axes serves as well. The logistic one has its largest weights at the rim, where
# there is hardly ever any ink. Red is positive and blue negative.

weights = {"PCA": models["PCA"].components_}
for name in ("linear", "logistic"):
    weights[name] = models[name].module_.encoder[0].weight.detach().numpy()
scaled = {name: w / np.linalg.norm(w, axis=1, keepdims=True) for name, w in weights.items()}
limit = np.quantile(np.abs(np.concatenate(list(scaled.values()))), 0.99)
tables = {name: w[:10] for name, w in scaled.items()}
display = ReconstructionDisplay(tables, image_shape=images.shape)
display.plot(style_kwargs={"cmap": "RdBu_r", "vmin": -limit, "vmax": limit})
display.ax_.set_title("Ten of the 16 rows of each encoder")
plt.show()

# %%
# What matters is the space that the decoder's columns span. Of the 16 angles between PCA's and that
# of the linear autoencoder half are below the median, and the largest is that of a direction with
# so little variance that gradient descent has yet to find it.

decoder = models["linear"].module_.decoder[0].weight.detach().numpy()  # (n_pixels, 16)
angles = np.degrees(subspace_angles(models["PCA"].components_.T, decoder))
print(f"largest angle: {angles[0]:.0f} degrees; median: {np.median(angles):.1f} degrees")
