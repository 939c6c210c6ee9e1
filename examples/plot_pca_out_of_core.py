"""
PCA of data larger than memory
==============================

`fit` reads a memory map block by block, and `partial_fit` adds one batch after the other. Both
are exact: their components agree to rounding, whatever the size of the batches.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from skae import PCA
from skae.plotting import ReconstructionDisplay

# %%
# A file of images: the digits, each many times with new noise.
digits = load_digits().data.astype(np.float32)
n_copies = 20
with tempfile.TemporaryDirectory() as folder:
    shape = (n_copies * len(digits), digits.shape[1])
    images = np.memmap(Path(folder) / "images", dtype=np.float32, mode="w+", shape=shape)
    rng = np.random.default_rng(0)
    for copy in range(n_copies):
        rows = slice(copy * len(digits), (copy + 1) * len(digits))
        images[rows] = digits + rng.normal(0.0, 2.0, digits.shape)

    whole = PCA(n_components=16).fit(images)
    batches = PCA(n_components=16)
    differences, rows_seen = [], []
    for batch in np.array_split(images, 60):
        batches.partial_fit(batch)
        overlaps = np.linalg.svd(whole.components_ @ batches.components_.T, compute_uv=False)
        differences.append(np.degrees(np.arccos(np.clip(overlaps.min(), 0.0, 1.0))))
        rows_seen.append(batches.n_samples_seen_)
    del images

# %%
# After every batch the components are exactly those of the rows so far. They approach those of
# the whole file as more rows are seen, and meet them with the last.
figure, panels = plt.subplots(
    1, 2, figsize=(10, 4), num="pca_out_of_core", layout="constrained", width_ratios=[3, 2]
)
panels[0].plot(rows_seen, differences, color="#0072B2")
panels[0].set(
    xlabel="Rows seen", ylabel="Largest angle to the components of all rows (°)", ylim=(0, None)
)
display = ReconstructionDisplay({"components": whole.components_}, image_shape=(8, 8))
display.plot(panels[1], n_columns=4, style_kwargs={"cmap": "RdBu_r", "vmin": -0.4, "vmax": 0.4})
panels[1].set(title="The first 16 components", ylabel=None)
plt.show()
