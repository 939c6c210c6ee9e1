"""
How many components?
====================

Three answers for the digits: a share of the variance, the evidence of Minka's model ("mle"), and
the held-out log-density of the probabilistic model, which `score` gives in nats.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score

from skae import PCA

X = load_digits().data
counts = np.arange(1, 61, 3)
by_share = PCA(n_components=0.9).fit(X).n_components_
by_evidence = PCA(n_components="mle").fit(X).n_components_

# %%
# The pixels at the border are constant within some folds, so that a model that keeps every
# component would be singular: a little noise makes the densities comparable.
rng = np.random.default_rng(0)
noisy = X + rng.normal(0.0, 0.5, X.shape)
densities = [cross_val_score(PCA(n_components=k), noisy, cv=5).mean() for k in counts]
by_density = counts[np.argmax(densities)]

figure, (left, right) = plt.subplots(
    1, 2, figsize=(10, 4), num="pca_choose_n_components", layout="constrained"
)
explained = np.cumsum(PCA().fit(X).explained_variance_ratio_)
left.plot(np.arange(1, 65), 100 * explained, color="#0072B2")
left.axhline(90, color="0.6", linewidth=1)
left.axvline(by_share, color="#E69F00", label=f"90 % of the variance: {by_share}")
left.axvline(by_evidence, color="#009E73", label=f'"mle": {by_evidence}')
left.set(xlabel="Components", ylabel="Explained variance (%)", ylim=(0, 102))
left.legend(loc="lower right")
right.plot(counts, densities, "o-", color="#0072B2", markersize=4)
right.axvline(by_density, color="#D55E00", label=f"Most likely: {by_density}")
right.set(xlabel="Components", ylabel="Held-out log-density (nats per image)")
right.legend(loc="lower right")
plt.show()
