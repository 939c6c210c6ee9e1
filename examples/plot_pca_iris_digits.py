"""
Iris and digits in two components
=================================

Two components keep nearly all the variance of the four iris measurements, and less than a third
of that of the 64 pixels of the digits.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits, load_iris

from skae import PCA

figure, panels = plt.subplots(1, 2, figsize=(11, 4.5), num="pca_iris_digits", layout="constrained")
for axes, data, title in zip(
    panels, (load_iris(), load_digits()), ("Iris flowers", "Handwritten digits"), strict=True
):
    pca = PCA(n_components=2)
    Z = pca.fit_transform(data.data)
    names = [str(name) for name in data.target_names]
    colours = plt.get_cmap("tab10")
    for label, name in enumerate(names):
        rows = data.target == label
        axes.scatter(*Z[rows].T, s=10, color=colours(label), alpha=0.7, label=name)
    shares = 100 * pca.explained_variance_ratio_
    axes.set(
        title=f"{title}: {shares.sum():.0f} % of the variance",
        xlabel=f"Component 1 ({shares[0]:.0f} %)",
        ylabel=f"Component 2 ({shares[1]:.0f} %)",
    )
    axes.legend(markerscale=2, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
plt.show()
