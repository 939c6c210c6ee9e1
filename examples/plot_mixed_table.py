"""
A table as it is: gaps, new rows and strange cells
==================================================

Flats in three towns, with numbers, text, booleans, dates and gaps. One estimator fills the gaps,
draws new flats and marks the cells that do not fit.
"""

# %%
# A table with gaps
# -----------------
# The flats are made up, so that the truth behind the gaps is known. One hidden number, which could
# be called quality, is behind all columns.

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from skae import PCA, TableAutoencoder, VAETransformer

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "0.75"

rng = np.random.default_rng(0)
n = 1500
quality = rng.normal(size=n)
town = np.array(["Jena", "Bonn", "Ulm"])[np.digitize(quality + rng.normal(size=n), [-0.5, 0.8])]
level = pd.Series(town).map({"Jena": 8.0, "Bonn": 11.0, "Ulm": 13.0}).to_numpy()
area = np.exp(4.2 + 0.25 * quality + 0.15 * rng.normal(size=n))
built = 1950 + 65 / (1 + np.exp(-quality - 0.7 * rng.normal(size=n)))
flats = pd.DataFrame(
    {
        "town": town,
        "rooms": np.clip(np.rint(area / 24 + 0.3 * rng.normal(size=n)), 1, None).astype(int),
        "balcony": rng.uniform(size=n) < 1 / (1 + np.exp(-2 * quality)),
        "area": area.round(1),
        "rent": (area * level * (1 + 0.1 * rng.normal(size=n))).round(-1),
        "built": pd.to_datetime(built.astype(int).astype(str)),
    }
)
hidden = rng.uniform(size=flats.shape) < 0.2
gaps = flats.astype({"rooms": "Int64", "balcony": "boolean"}).mask(hidden)
print(gaps.head())

# %%
# Filled beside the truth
# -----------------------
# ``impute`` fills the unknown cells and nothing else, in the types of the table.

filled = TableAutoencoder(PCA(4)).fit(gaps).impute(gaps)
print(filled.head())

figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
for ax, name in zip(axes, ("rent", "area"), strict=True):
    rows = hidden[:, flats.columns.get_loc(name)]
    ax.scatter(flats[name][rows], filled[name][rows], s=8, color=BLUE, alpha=0.6)
    ends = [flats[name].min(), flats[name].max()]
    ax.plot(ends, ends, color=GREY, zorder=0)
    ax.set(xlabel=f"{name}, the truth", ylabel=f"{name}, filled")
figure.suptitle("Cells that were unknown")
plt.show()

right = (filled["town"] == flats["town"])[hidden[:, 0]].mean()
print(f"towns that are right: {right:.0%}, the most frequent one: {(town == 'Bonn').mean():.0%}")

# %%
# New flats
# ---------
# ``VAETransformer`` has a likelihood for each kind of column. Its new rows have the types of the
# table, and only values that its columns can have.

model = TableAutoencoder(VAETransformer(4, max_iter=40, random_state=0)).fit(flats)
new = model.sample(n, random_state=0)

figure, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained", sharex=True, sharey=True)
for ax, table, title in zip(axes, (flats, new), ("real", "drawn"), strict=True):
    for name, color in zip(("Jena", "Bonn", "Ulm"), (BLUE, ORANGE, GREEN), strict=True):
        rows = table["town"] == name
        ax.scatter(table["area"][rows], table["rent"][rows], s=5, color=color, label=name)
    ax.set(xlabel="area", title=title)
axes[0].set_ylabel("rent")
axes[0].legend(markerscale=2)
plt.show()

# %%
# With conditions: what is a flat of 60 square metres in each town?

asked = pd.DataFrame({"town": ["Jena", "Bonn", "Ulm"], "area": 60.0})
answers = model.sample(300, random_state=0, conditions=asked)
print(answers.groupby("town")["rent"].describe()[["25%", "50%", "75%"]])

# %%
# Strange cells
# -------------
# Some cells are changed by hand. The error of each cell, next to what is usual in its column, marks
# them in place.

strange = flats.sample(8, random_state=1)
strange.iloc[1, flats.columns.get_loc("rent")] *= 3
strange.iloc[4, flats.columns.get_loc("rooms")] = 9
strange.iloc[6, flats.columns.get_loc("area")] = 260.0
usual = model.reconstruction_error(flats, per_feature=True)
errors = model.reconstruction_error(strange, per_feature=True)
excess = ((errors - usual.mean()) / usual.std()).clip(0, 12)

figure, ax = plt.subplots(figsize=(8, 2.8), layout="constrained")
ax.set_axis_off()
picture = ax.table(
    strange.assign(built=strange["built"].dt.year).astype(str).to_numpy(),
    colLabels=list(strange.columns),
    cellColours=plt.colormaps["Oranges"](excess.to_numpy() / 15),
    loc="center",
)
picture.scale(1, 1.4)
ax.set_title("The darker, the stranger")
plt.show()
