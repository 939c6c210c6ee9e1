"""Images for the examples: scikit-learn's digits or, with ``--data FOLDER``, Fashion-MNIST.

The folder holds the four files of Fashion-MNIST as they are distributed, in the idx format.
"""

import argparse
import gzip
from pathlib import Path
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


class Images(NamedTuple):
    """Images as rows with values from 0 to 1, some to train on and others to judge by."""

    X_train: np.ndarray
    X_test: np.ndarray
    y_train: np.ndarray
    y_test: np.ndarray
    shape: tuple[int, int]

    def split_again(self, seed, test_size=0.25):
        """Split all images in another way: training and test rows, training and test labels."""
        X = np.concatenate([self.X_train, self.X_test])
        y = np.concatenate([self.y_train, self.y_test])
        return train_test_split(X, y, test_size=test_size, stratify=y, random_state=seed)

    def one_of_each(self):
        """Choose a test image of each class."""
        return self.X_test[np.unique(self.y_test, return_index=True)[1]]


def load_images():
    """Load the images that the command line asks for."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--data", type=Path, metavar="FOLDER")
    folder = parser.parse_known_args()[0].data
    if folder is None:
        X, y = load_digits(return_X_y=True)
        return Images(*train_test_split(X / 16, y, stratify=y, random_state=0), (8, 8))
    # So many that an example takes a few minutes at most.
    X_train, X_test = (read(folder, part)[:n] / 255 for part, n in PARTS.items())
    y_train, y_test = (read(folder, part, "labels")[:n] for part, n in PARTS.items())
    X_train, X_test = (X.reshape(len(X), -1).astype(np.float32) for X in (X_train, X_test))
    return Images(X_train, X_test, y_train, y_test, (28, 28))


PARTS = {"train": 6_000, "t10k": 2_000}


def read(folder, part, what="images"):
    """Read a file of bytes: magic number, shape, values."""
    n_dimensions = {"images": 3, "labels": 1}[what]
    name = f"{part}-{what}-idx{n_dimensions}-ubyte.gz"
    content = gzip.decompress((folder / name).read_bytes())
    shape = np.frombuffer(content, ">i4", n_dimensions, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * n_dimensions).reshape(shape)
