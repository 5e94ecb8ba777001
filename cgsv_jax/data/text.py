"""SST and MR as token numbers: lower-cased words, split on spaces, padded to one length.

0 is padding, so that the mask is `inputs != 0`; 1 stands for a word that no training row has; the
others are the training rows' words, the most frequent first. Both sets bring validation rows of
their own. Only the texts are cached: numbering them is quick.
"""

import collections
import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from cgsv_jax import types

PADDING, UNKNOWN, FIRST = 0, 1, 2  # the numbers below FIRST are no word of the vocabulary

# The longest sentence of any split, so that none is cut; the mean is 19 and 21 words.
SST_LENGTH, MR_LENGTH = 56, 59
MR_SHARES = (0.8, 0.1, 0.1)  # of training, validation and test rows

Texts = Sequence[bytes] | np.ndarray


def sst(arrays: Mapping[str, np.ndarray]) -> types.Dataset:
    """8,544, 1,101 and 2,210 sentences [56] of five classes, in the official splits."""
    parts = [(arrays[f"{s}_texts"], arrays[f"{s}_labels"]) for s in ("train", "test", "validation")]
    return dataset(*parts, length=SST_LENGTH)


def mr(arrays: Mapping[str, np.ndarray]) -> types.Dataset:
    """8,530, 1,066 and 1,066 snippets [59] of two classes, split at random but without a seed.

    The set has one split with the negative snippets first. Its rows are ordered by the SHA-256 of
    their texts: that shuffles, cannot change with a version of NumPy, and puts the copies of a
    snippet side by side, so that no training row is a test row as well.
    """
    texts, labels = arrays["train_texts"], arrays["train_labels"]
    order = np.array(scattered(texts), np.int64)
    train, validation, _ = MR_SHARES
    cuts = np.rint(np.cumsum([train, validation]) * len(order)).astype(int)
    train_rows, validation_rows, test_rows = np.split(order, cuts)
    parts = [(texts[rows], labels[rows]) for rows in (train_rows, test_rows, validation_rows)]
    return dataset(*parts, length=MR_LENGTH)


def dataset(
    train: tuple[Texts, np.ndarray],
    test: tuple[Texts, np.ndarray],
    validation: tuple[Texts, np.ndarray],
    *,
    length: int,
) -> types.Dataset:
    """Texts [n] and labels [n] of three splits as a data set with inputs int32 [n, length].

    The vocabulary is that of the training rows alone: what is learnt of a word that only a test row
    has is nothing. Every number from `FIRST` to the largest occurs in the training inputs.
    """
    words = [tokens(text)[:length] for text in train[0]]
    number = vocabulary(words)
    inputs, test_inputs, held_out = (
        encode([tokens(text) for text in texts], number, length)
        for texts, _ in (train, test, validation)
    )
    return types.Dataset(inputs, train[1], test_inputs, test[1], (held_out, validation[1]))


def tokens(text: bytes) -> list[str]:
    """The lower-cased words of a text.

    Split on spaces alone: some words hold a no-break space.

    >>> tokens("A 2\\xa01/2-hour  film".encode())
    ['a', '2\\xa01/2-hour', 'film']
    """
    return [word for word in text.decode().lower().split(" ") if word]


def vocabulary(sentences: Iterable[Sequence[str]]) -> dict[str, int]:
    """Word -> number, by falling frequency and then by the alphabet.

    >>> vocabulary([["b", "a"], ["c", "b"]])
    {'b': 2, 'a': 3, 'c': 4}
    """
    counts = collections.Counter(word for sentence in sentences for word in sentence)
    ordered = sorted(counts, key=lambda word: (-counts[word], word))
    return {word: number for number, word in enumerate(ordered, start=FIRST)}


def encode(sentences: Sequence[Sequence[str]], number: dict[str, int], length: int) -> np.ndarray:
    """Numbers [n, length] int32 of the first `length` words of every sentence.

    >>> encode([["a", "x"], ["a", "a", "b", "b"]], {"a": 2, "b": 3}, 3)
    array([[2, 1, 0],
           [2, 2, 3]], dtype=int32)
    """
    inputs = np.full((len(sentences), length), PADDING, np.int32)
    for row, sentence in zip(inputs, sentences, strict=True):
        numbers = [number.get(word, UNKNOWN) for word in sentence[:length]]
        row[: len(numbers)] = numbers
    return inputs


def scattered(texts: Texts) -> list[int]:
    """The rows in the order of their texts' SHA-256."""
    return sorted(range(len(texts)), key=lambda row: hashlib.sha256(texts[row]).digest())
