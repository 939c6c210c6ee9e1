"""
Outliers: how far, how sure and why
===================================

A detector is fitted to benign tumours only and asked about others. Its scores tell the malignant
ones apart, its threshold keeps the rate of false alarms, and its explanation names the columns that
do not fit.
"""

# %%
# Fit to what is normal
# ---------------------
# The breast cancer data of scikit-learn has 30 measurements of cell nuclei for each of 569 tumours.
# The detector sees 70 % of the benign ones and no malignant one. It scales the columns itself, and
# nothing is tuned.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import IsolationForest
from sklearn.metrics import RocCurveDisplay
from sklearn.model_selection import train_test_split
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skae import AutoencoderOutlierDetector
from skae.plotting import OutlierScoreDisplay

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "0.45"

X, y = load_breast_cancer(return_X_y=True, as_frame=True)
benign, malignant = X[y == 1], X[y == 0]
known, unseen = train_test_split(benign, test_size=0.3, random_state=0)
new = pd.concat([unseen, malignant])
is_malignant = new.index.isin(malignant.index)

detector = AutoencoderOutlierDetector(random_state=0).fit(known)

# %%
# The scores and the threshold
# ----------------------------
# Minus ``score_samples`` is the outlier score: how far a row is from what the model expects, as the
# negative logarithm of how often that happens. The threshold comes from benign rows that were held
# out of the fit, so that a new benign row is called an outlier with a probability of at most 0.05.
# The names are those of the five most outlying tumours.

outlier_scores = -detector.score_samples(new)
kinds = np.where(is_malignant, "malignant", "benign, unseen")
display = OutlierScoreDisplay.from_estimator(detector, new, kinds)
display.ax_.set_title("Scores of tumours that the detector was not fitted to")
plt.show()

called = pd.Series(detector.predict(new) == -1).groupby(is_malignant).mean()
print(f"called outliers: {called[False]:.1%} of the benign, {called[True]:.1%} of the malignant")

# %%
# Why this row
# ------------
# ``explain`` splits the outlier score of a row into contributions of the columns, and tells what
# the model expected there. Below is a malignant tumour from the middle of those that were called
# outliers.

outliers = np.flatnonzero(is_malignant & (detector.predict(new) == -1))
middle = outliers[np.argsort(outlier_scores[outliers])[len(outliers) // 2]]
row = new.iloc[[middle]]
contributions, expected = detector.explain(row, expected=True)
shown = contributions.iloc[0].nlargest(8)[::-1]

fig, ax = plt.subplots(num="outliers_explanation", figsize=(7, 3.8), layout="constrained")
ax.barh(shown.index, shown, color=ORANGE)
for place, name in enumerate(shown.index):
    text = f" {row[name].iloc[0]:.4g} instead of {expected[name].iloc[0]:.4g}"
    ax.text(shown[name], place, text, va="center", fontsize=9)
ax.set(
    xlabel="contribution to the outlier score",
    xlim=(0, 1.5 * shown.max()),
    title=(
        f"Tumour {row.index[0]}: {shown.sum() / outlier_scores[middle]:.0%} of its score of "
        f"{outlier_scores[middle]:.2f} are from eight columns"
    ),
)
plt.show()

# %%
# Against neighbours and forests
# ------------------------------
# Where the threshold is does not matter here: the curve shows, for every threshold, how many of
# the malignant rows are found at how many false alarms. One table says little about which method is
# better; on this one they are close to each other. ``benchmarks/outliers.py`` compares them on
# many.


def neighbour_distance(X_known, X_new, n_neighbors=5):
    """Mean distance to the nearest known rows, on standardized columns."""
    scaler = StandardScaler().fit(X_known)
    neighbours = NearestNeighbors(n_neighbors=n_neighbors).fit(scaler.transform(X_known))
    return neighbours.kneighbors(scaler.transform(X_new))[0].mean(axis=1)


forest = make_pipeline(StandardScaler(), IsolationForest(random_state=0)).fit(known)
scores = {
    "AutoencoderOutlierDetector": (outlier_scores, ORANGE, "-"),
    "5 nearest neighbours": (neighbour_distance(known, new), BLUE, "--"),
    "IsolationForest": (-forest.score_samples(new), GREEN, "-."),
}

fig, ax = plt.subplots(num="outliers_roc", figsize=(5.2, 4.8), layout="constrained")
for name, (score, color, linestyle) in scores.items():
    RocCurveDisplay.from_predictions(
        is_malignant,
        score,
        name=name,
        ax=ax,
        curve_kwargs={"color": color, "linestyle": linestyle, "linewidth": 2},
    )
ax.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":")
ax.set(
    xlabel="share of benign tumours called outliers",
    ylabel="share of malignant tumours called outliers",
    title="Tumours that no method was fitted to",
)
ax.legend(loc="lower right", fontsize=9)
plt.show()
