"""
Rows with holes between them: what a generator draws there
==========================================================

A variational autoencoder with a standard normal distribution of codes has to pull one cloud over
all rows. Where rows lie on rings or arms with nothing between them, it draws new rows between them
as well. :class:`~skae.VAETransformer` finds clusters of rows first, by the likelihood of rows that
it holds out, and starts at their mixture.

Below are three shapes of two columns, and then a real table. "Standard" is the model of textbooks:
random weights and one normal distribution of codes, with the same layers and the same stopping.
"""

# %%
# Three shapes
# ------------
# The number above each picture is the share of drawn rows that lie farther from all real rows than
# 99 % of the real rows lie from each other.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer, make_circles, make_moons
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from skae import VAETransformer

rng = np.random.default_rng(0)
angle = 4.0 * np.pi * np.sqrt(rng.uniform(0.05, 1.0, 1500))
spiral = np.stack([angle * np.cos(angle), angle * np.sin(angle)], axis=1)
shapes = {
    "rings": make_circles(1500, noise=0.04, factor=0.5, random_state=0)[0],
    "moons": make_moons(1500, noise=0.06, random_state=0)[0],
    "a spiral": spiral + 0.3 * rng.normal(size=spiral.shape),
}
shapes = {name: StandardScaler().fit_transform(X) for name, X in shapes.items()}

standard = VAETransformer(2, init="random", n_clusters=1, random_state=0)
with_clusters = VAETransformer(random_state=0)


def share_outside(drawn, X):
    """Share of drawn rows in the holes."""
    neighbors = NearestNeighbors(n_neighbors=1).fit(X)
    among_themselves = neighbors.kneighbors()[0]
    return np.mean(neighbors.kneighbors(drawn)[0] > np.quantile(among_themselves, 0.99))


figure, axes = plt.subplots(3, 3, figsize=(8, 8), sharex="row", sharey="row", layout="constrained")
for line, (name, X) in zip(axes, shapes.items(), strict=True):
    line[0].set(title=f"{name}, real")
    line[0].plot(*X.T, ".", markersize=2)
    models = {"standard": standard, "with clusters": with_clusters}
    for ax, (label, model) in zip(line[1:], models.items(), strict=True):
        drawn = model.fit(X).sample(1500, random_state=1, with_noise=True)
        ax.plot(*drawn.T, ".", markersize=2)
        ax.set(title=f"{label}: {share_outside(drawn, X):.0%} outside")
for ax in axes.flat:
    ax.set(aspect="equal", xticks=[], yticks=[])
plt.show()

# %%
# A real table
# ------------
# Thirty measurements of 569 tumours cannot be looked at in two dimensions. Let a classifier tell
# drawn rows from real ones instead: an area under the curve of 0.5 means that it cannot. The real
# rows that it sees were not fitted to. Beside it is their mean log-density in nats, a bound. The
# standard model gets a code of seven numbers, which keeps nine tenths of the variance.

X = StandardScaler().fit_transform(load_breast_cancer().data)
X_train, X_test = X[::2], X[1::2]
standard.set_params(n_components=7)
for label, model in {"standard": standard, "with clusters": with_clusters}.items():
    drawn = model.fit(X_train).sample(len(X_test), random_state=0, with_noise=True)
    rows = np.concatenate([drawn, X_test])
    is_real = np.repeat([0, 1], [len(drawn), len(X_test)])
    classifier = HistGradientBoostingClassifier(max_iter=30, random_state=0)
    area = cross_val_score(classifier, rows, is_real, cv=5, scoring="roc_auc").mean()
    print(f"{label:<14} area under the curve {area:.2f}, {model.score(X_test):.1f} nats")
