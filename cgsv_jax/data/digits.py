"""Handwritten digits that ship with scikit-learn: 1,797 real 8x8 images, no download.

Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998.
"""

from typing import Any

import numpy as np

from cgsv_jax import types

EVERY = 5  # one image in five of every class is a test row


def load() -> types.Dataset:
    """1,442 training and 355 test images [8, 8, 1], standardised by the training mean and std.

    The split has no seed: in every class, every fifth image in file order is a test row. So it
    cannot change with a version of NumPy, and every class has the same share of test rows.
    """
    from sklearn import datasets

    digits: Any = datasets.load_digits()
    labels = digits.target.astype(np.int32)
    order = np.argsort(labels, kind="stable")
    rank = np.empty(len(labels), np.int64)  # of a row within its class
    sizes = np.bincount(labels)
    rank[order] = np.arange(len(labels)) - np.repeat(sizes.cumsum() - sizes, sizes)
    test = rank % EVERY == EVERY - 1

    images = digits.images[..., None] / 16
    inputs = ((images - images[~test].mean()) / images[~test].std()).astype(np.float32)
    return types.Dataset(inputs[~test], labels[~test], inputs[test], labels[test])
