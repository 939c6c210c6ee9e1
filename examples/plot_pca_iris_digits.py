"""
Iris and digits in two components
=================================

Two components keep nearly all the variance of the four iris measurements, and less than a third
of that of the 64 pixels of the digits.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits, load_iris

from skae import PCA
from skae.plotting import LatentDisplay

figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), num="pca_iris_digits", layout="constrained")
for axes, data, title in zip(
    panels, (load_iris(), load_digits()), ("Iris flowers", "Handwritten digits"), strict=True
):
    pca = PCA(n_components=2).fit(data.data)
    LatentDisplay.from_estimator(pca, data.data, data.target_names[data.target], ax=axes)
    shares = 100 * pca.explained_variance_ratio_
    axes.set(
        title=f"{title}: {shares.sum():.0f} % of the variance",
        xlabel=f"Component 0 ({shares[0]:.0f} %)",
        ylabel=f"Component 1 ({shares[1]:.0f} %)",
    )
plt.show()
