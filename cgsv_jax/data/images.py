"""MNIST and CIFAR-10 as standardised float32 images, NHWC, preprocessed as the released code does.

Only the uint8 images are cached: they are a quarter of the size and standardising is quick.
"""

from collections.abc import Mapping

import numpy as np

from cgsv_jax import types

# Mean and std of the training images per channel, as widely used and as in the released code.
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)


def mnist(arrays: Mapping[str, np.ndarray]) -> types.Dataset:
    """60,000 and 10,000 images [32, 32, 1]: padded by 2, divided by 255, standardised.

    Mean and std are one number each, taken over the PADDED images (.1000 and .2752, not the usual
    .1307 and .3081 of 28 x 28), and the test images are standardised by their own.
    """
    inputs, test_inputs = (
        standardised_mnist(arrays[f"{split}_images"]) for split in ("train", "test")
    )
    return types.Dataset(inputs, arrays["train_labels"], test_inputs, arrays["test_labels"])


def cifar10(arrays: Mapping[str, np.ndarray]) -> types.Dataset:
    """50,000 and 10,000 images [32, 32, 3], standardised per channel, without augmentation."""
    inputs, test_inputs = (
        standardised_cifar(arrays[f"{split}_images"]) for split in ("train", "test")
    )
    return types.Dataset(inputs, arrays["train_labels"], test_inputs, arrays["test_labels"])


def standardised_mnist(images: np.ndarray) -> np.ndarray:
    """uint8 [n, 28, 28, 1] to float32 [n, 32, 32, 1] of mean 0 and std 1 over all pixels.

    One number per pixel value, so mean and std are those of a histogram, exact to float64, where a
    float32 sum over 61 million pixels would not be.
    """
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)))
    values = np.arange(256) / 255
    shares = np.bincount(padded.ravel(), minlength=256) / padded.size
    mean = values @ shares
    std = np.sqrt((values - mean) ** 2 @ shares)
    return ((values - mean) / std).astype(np.float32)[padded]


def standardised_cifar(images: np.ndarray) -> np.ndarray:
    """uint8 [n, 32, 32, 3] to float32, by the fixed mean and std of each channel."""
    inputs = images.astype(np.float32)
    inputs /= 255
    inputs -= np.asarray(CIFAR_MEAN, np.float32)
    inputs /= np.asarray(CIFAR_STD, np.float32)
    return inputs
