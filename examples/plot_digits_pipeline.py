"""
An autoencoder in a pipeline
============================

An autoencoder learns to write down each row of a table in a few numbers, its *code*, so that the
row can be read back from them. Here it sits between a scaler and a classifier, where
:class:`~sklearn.decomposition.PCA` often sits, and a grid search chooses the length of the code
and the learning rate.

Three questions about handwritten digits:

* How much of an image is left after it went through a code of 4, 8 or 16 numbers?
* How well can a linear classifier tell the digits apart by their codes?
* Does the non-linear code earn its training time, that is, does it do better than PCA's?
"""

# %%
# The data
# --------
# The digits of scikit-learn are 1797 images of 8 x 8 pixels with grey levels from 0 to 16, one
# image per row. A quarter of them is put aside: neither the grid search nor any training below
# sees it, and every number in the table at the end is measured on it.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler

from skae import AutoencoderTransformer
from skae.plotting import LossCurveDisplay, ReconstructionDisplay

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)

# %%
# The pipeline
# ------------
# Scaling comes first. Training expects values of the order of one, and the squared error weighs a
# pixel by its variance. :class:`~sklearn.preprocessing.MinMaxScaler` keeps the pixels comparable,
# whereas standardising would blow up those at the rim, which are nearly always empty.
#
# The autoencoder keeps its defaults but for fewer epochs, which saves time here and costs little.
# The classifier is linear on purpose: what it cannot separate, the code did not untangle.

pipeline = Pipeline(
    [
        ("scale", MinMaxScaler()),
        ("encode", AutoencoderTransformer(max_iter=60, random_state=0)),
        ("classify", LogisticRegression(max_iter=2000)),
    ]
)

# %%
# The search
# ----------
# The parameters of the autoencoder are searched like those of any other step. What counts here is
# the accuracy of the whole pipeline; to search for the smallest reconstruction error instead,
# search the first two steps alone, because the ``score`` of the autoencoder is minus its loss.

search = GridSearchCV(
    pipeline,
    {"encode__n_components": [4, 8, 16], "encode__learning_rate_init": [3e-3, 1e-2]},
    cv=3,
    n_jobs=2,
)
search.fit(X_train, y_train)

print("best parameters:", search.best_params_)
print(f"cross-validated accuracy: {search.best_score_:.3f}")

# %%
# Against PCA, and against no code at all
# ---------------------------------------
# :class:`~sklearn.decomposition.PCA` goes into the same place of the same pipeline, with the same
# number of components. All but the last step of a pipeline is a pipeline itself, and its
# ``inverse_transform`` leads from the code back to the pixels. So both errors are in the same
# unit: the root of the mean squared difference of a pixel, in grey levels of 0 to 16.


def reconstruct(fitted, X):
    """Encode rows, decode them, and undo the scaling."""
    return fitted[:-1].inverse_transform(fitted[:-1].transform(X))


def error_in_grey_levels(fitted, X):
    """Root mean squared difference between rows and their reconstructions."""
    return np.sqrt(np.mean(np.square(reconstruct(fitted, X) - X)))


best = search.best_estimator_
models = {}
for size in [4, 8, 16]:
    models["autoencoder", size] = clone(best).set_params(encode__n_components=size)
    models["PCA", size] = clone(best).set_params(encode=PCA(size, random_state=0))
models["raw pixels", X.shape[1]] = clone(best).set_params(encode="passthrough")

table = pd.DataFrame(
    [
        {
            "features": name,
            "components": size,
            "error (grey levels)": error_in_grey_levels(model.fit(X_train, y_train), X_test),
            "accuracy": model.score(X_test, y_test),
        }
        for (name, size), model in models.items()
    ]
)
print(table.to_string(index=False, float_format="{:.3f}".format))

# %%
# At every size the autoencoder's code keeps more of the image. For the classifier that matters
# most where the code is short: at 16 numbers PCA is close, takes milliseconds and has no
# learning rate to tune. Raw pixels need no code at all and are hard to beat on images this
# small.
#
# What is lost
# ------------
# One unseen image of each digit, and what is left of it after the code that the search chose.

size = search.best_params_["encode__n_components"]
autoencoder, pca = models["autoencoder", size], models["PCA", size]
digits = X_test[[np.flatnonzero(y_test == digit)[0] for digit in range(10)]]
tables = {
    "original": digits,
    f"autoencoder\n{size} numbers": reconstruct(autoencoder, digits),
    f"PCA\n{size} numbers": reconstruct(pca, digits),
}
display = ReconstructionDisplay(tables, image_shape=(8, 8)).plot()
display.ax_.set_title("Held-out digits and their reconstructions")
plt.show()

# %%
# How training went
# -----------------
# ``loss_curve_`` holds the mean loss of each epoch: the squared error of a pixel, here in the units
# of the scaled pixels. ``validation_loss_curve_`` is that of the rows held out to stop in time, and
# the dot marks the epoch whose weights are returned. Both begin near the dashed line, where PCA
# ends up with as many components, because training starts there. A curve that still falls steeply
# at its end asks for more epochs (``max_iter``); one that jumps about asks for a smaller
# ``learning_rate_init``.

scaled = pca["scale"].transform(X_train)
scaled_again = pca["encode"].inverse_transform(pca["encode"].transform(scaled))
pca_loss = np.mean(np.square(scaled_again - scaled))

display = LossCurveDisplay.from_estimator(autoencoder, yscale="log")
ax = display.ax_
ax.axhline(pca_loss, color="#009E73", linestyle="--", label="PCA, same rows and size")
ax.set_title(f"Training loss with {size} components")
ax.legend()
plt.show()
