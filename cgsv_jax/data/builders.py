"""TFDS builders of the sets that TFDS lacks: SST and MR, from their authors' archives.

Preparing them needs no TensorFlow, since TFDS writes array_record files without it. What an archive
holds is parsed by pure functions of its bytes; its members are read in memory, so that no archive
can write anywhere.
"""

import hashlib
import io
import pathlib
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from cgsv_jax.host import files

Examples = dict[str, list[dict[str, Any]]]  # split -> examples, in the order of the archive

LEAF = re.compile(r" ([^()]+)\)")  # of a tree: the word behind its label


class Archive(NamedTuple):
    """A data set as its authors publish it."""

    url: str
    size: int  # bytes
    sha256: str
    homepage: str
    description: str
    texts: tuple[str, ...]  # the features that are texts; `text` is what a label is of
    classes: tuple[str, ...]  # names of the labels 0, 1, ...
    parse: Callable[[bytes], Examples]


def parse_sst(content: bytes) -> Examples:
    """The sentences of the zip file of trees, one tree a line; the root's label is a sentence's.

    A no-break space inside a token is part of it.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return {
            split: [_of_tree(line) for line in _lines(file.read(f"trees/{name}.txt"), "utf-8")]
            for split, name in (("train", "train"), ("validation", "dev"), ("test", "test"))
        }


def _read(archive: tarfile.TarFile, name: str) -> bytes:
    member = archive.extractfile(name)
    if member is None:
        raise ValueError(f"{name} is no file of the archive")
    return member.read()


def parse_mr(content: bytes) -> Examples:
    """The snippets of the tar file, the negative ones first, as one split.

    Most of the bytes above 127 are Latin-1 and some are cp1252. Latin-1 decodes them all, each to
    one character, which is all that a token needs.
    """
    with tarfile.open(fileobj=io.BytesIO(content)) as file:
        lines = [
            _lines(_read(file, f"rt-polaritydata/rt-polarity.{name}"), "latin-1")
            for name in ("neg", "pos")
        ]
    return {
        "train": [
            {"text": line.strip(" "), "label": label} for label in (0, 1) for line in lines[label]
        ]
    }


def _lines(content: bytes, encoding: str) -> list[str]:
    # Not str.splitlines, for which \x85, an ellipsis of cp1252 in the middle of MR's lines, ends
    # one.
    return [line.decode(encoding) for line in content.split(b"\n") if line]


def _of_tree(tree: str) -> dict[str, Any]:
    return {"text": " ".join(LEAF.findall(tree)), "tree": tree, "label": int(tree[1])}


ARCHIVES: dict[str, Archive] = {
    "sst": Archive(
        url="https://nlp.stanford.edu/sentiment/trainDevTestTrees_PTB.zip",
        size=789_539,
        sha256="5c613a4f673fc74097d523a2c83f38e0cc462984d847b82c7aaf36b01cbbbfcc",
        homepage="https://nlp.stanford.edu/sentiment/",
        description="Stanford Sentiment Treebank, fine-grained (5 classes), whole sentences; "
        "`tree` is the PTB s-expression.",
        texts=("text", "tree"),
        classes=("very negative", "negative", "neutral", "positive", "very positive"),
        parse=parse_sst,
    ),
    "mr": Archive(
        url="https://www.cs.cornell.edu/people/pabo/movie-review-data/rt-polaritydata.tar.gz",
        size=487_770,
        sha256="a05befe52aafda71d458d188a1c54506a998b1308613ba76bbda2e5029409ce9",
        homepage="https://www.cs.cornell.edu/people/pabo/movie-review-data/",
        description="Movie review sentence polarity v1.0 (Pang & Lee, ACL 2005).",
        texts=("text",),
        classes=("neg", "pos"),
        parse=parse_mr,
    ),
}


def examples(name: str, path: files.Path) -> Examples:
    """What the archive at `path` holds.

    Raises:
      ValueError: if it is absent, or not the published archive of the set.
    """
    path = files.path_of(path, "--archive")
    content = files.read_bytes(path)
    found, expected = hashlib.sha256(content).hexdigest(), ARCHIVES[name].sha256
    if found != expected:
        raise ValueError(
            f"{path} is not the archive of {name}: its sha256 is {found}, that of "
            f"{ARCHIVES[name].url} is {expected}"
        )
    return ARCHIVES[name].parse(content)


def builder(name: str, data_dir: pathlib.Path, given: Examples | None = None) -> Any:
    """The TFDS builder of a set of `ARCHIVES`, writing array_record files.

    The class is not registered: a prepared set is read by its metadata alone, without it.

    Args:
      name: key of `ARCHIVES`.
      data_dir: where to write.
      given: what a local copy of the archive holds; None: TFDS downloads it.
    """
    import tensorflow_datasets as tfds

    source = ARCHIVES[name]
    download: Any = tfds.download  # typed without its checksums
    snake = name  # a class body does not see a variable that it assigns itself

    class Sentences(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Sentences and their sentiment."""

        name = snake
        VERSION = tfds.core.Version("1.0.0")
        # In place of a file of checksums: what TFDS holds a download against.
        url_infos = {  # noqa: RUF012 (the attribute is TFDS's)
            source.url: download.checksums.UrlInfo(source.size, source.sha256, None)
        }

        def _info(self) -> Any:
            texts = {feature: tfds.features.Text() for feature in source.texts}
            labels = {"label": tfds.features.ClassLabel(names=source.classes)}
            return tfds.core.DatasetInfo(
                builder=self,
                description=source.description,
                features=tfds.features.FeaturesDict(texts | labels),
                supervised_keys=("text", "label"),
                homepage=source.homepage,
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            splits = given or examples(snake, pathlib.Path(dl_manager.download(source.url)))
            return {split: self._generate_examples(rows) for split, rows in splits.items()}

        def _generate_examples(self, rows: list) -> Iterator[tuple[int, dict[str, Any]]]:
            yield from enumerate(rows)

    return Sentences(data_dir=data_dir, file_format="array_record")
