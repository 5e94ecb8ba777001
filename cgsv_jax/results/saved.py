"""The models of a run: written beside its tables, read again, and taken out one by one.

A run with --save-models has a folder `models`:

| file | holds |
|---|---|
| manifest.json | the network, its tensors by name, shape and type; of every file which run it \
is of, after which round, every client's test accuracy, and the digest |
| 0000.npz, ... | of a run of a method, `clients/TENSOR` [N, ...] and `server/TENSOR` |

They are plain arrays, and never pickles. A tensor is named by its place among the parameters.
"""

import functools
import hashlib
import io
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from cgsv_jax import models as models_lib
from cgsv_jax.core import vectors
from cgsv_jax.host import files
from cgsv_jax.results import directory as directory_lib
from cgsv_jax.results import frames as frames_lib
from cgsv_jax.types import Array, ArrayTree, Model

FORMAT = 1
MANIFEST = "manifest.json"
SERVER = "server"
_MOST = 1 << 40  # bytes of a file that are read


class _Tensor(TypedDict):
    name: str
    shape: list[int]
    dtype: str  # of the parameters; the files hold what NumPy has in its place


class _File(TypedDict):
    file: str
    sha256: str
    partition: str
    method: str
    partition_seed: int
    seed: int
    round: int
    server_accuracy: float
    accuracy: list[float | None]


class _Manifest(TypedDict):
    format: int
    model: dict[str, Any]
    tensors: list[_Tensor]
    files: list[_File]


class Saved(NamedTuple):
    """The models of one run of a method, after the round whose evaluation counts."""

    model: Model | None  # None: the run was with a network that no directory knows
    round: int  # rounds completed
    accuracy: np.ndarray  # [N] float32, on the test examples of the run; NaN: not evaluated
    server_accuracy: float
    file: pathlib.Path
    sha256: str
    tensors: tuple[_Tensor, ...]
    network: Mapping[str, Any] = {"name": "", "recipe": {}}  # how the package builds the model

    def submodel(self, client: int) -> models_lib.Submodel:
        """A client's model without the hidden units that are off in it: a small network.

        Raises:
          ValueError: as `params` and `models.submodel` do.
        """
        return models_lib.submodel(
            self.network["name"], self.network["recipe"], self.params(client)
        )

    def params(self, client: int | str) -> ArrayTree:
        """The parameters of a client by number, or of the "server", as the model has them.

        Where no model is known they are a dictionary of dictionaries.

        Raises:
          ValueError: there is no such client, or the file is damaged or is not there.
        """
        arrays = self.arrays(client)
        if self.model is None:
            return _nested(arrays)
        leaves = (jnp.asarray(arrays[own["name"]]) for own in self.tensors)
        return jax.tree.unflatten(jax.tree.structure(_shapes(self.model)), leaves)

    def arrays(self, client: int | str) -> dict[str, np.ndarray]:
        """The same as NumPy arrays by name.

        Raises:
          ValueError: as `params`.
        """
        number = len(self.accuracy)
        if client != SERVER and not (isinstance(client, int | np.integer) and 0 <= client < number):
            raise ValueError(f"--client is {client}, it must be in 0..{number - 1}, or {SERVER}")
        held = _read(self.file, self.sha256)
        found = {}
        with files.reading(self.file):
            for own in self.tensors:
                array = held[f"{'server' if client == SERVER else 'clients'}/{own['name']}"]
                array = array if client == SERVER else array[client]
                if list(array.shape) != own["shape"]:
                    raise ValueError(f"{own['name']} is of shape {list(array.shape)}")
                # NumPy alone has no bfloat16; JAX's is one of its types.
                found[own["name"]] = array.astype(jnp.dtype(own["dtype"]))
        return found


Key = tuple[str, str, int, int]  # partition, method, partition seed, seed: as in the tables


def write(
    directory: directory_lib.Path,
    cells: Iterable[frames_lib.Cell],
    model: Model,
    network: Mapping[str, Any],
) -> None:
    """Writes the folder `models` of a run; equal arguments give equal bytes.

    Args:
      directory: of the run.
      cells: what it computed, with models.
      model: the network of all of them.
      network: what is said of it, for somebody who is to build it again.

    Raises:
      OSError: something cannot be written.
    """
    shapes = _shapes(model)
    places = vectors.tensors(shapes)
    tensors = _tensors_of(shapes)
    folder = files.inside(directory, directory_lib.MODELS)
    written: list[_File] = []
    for cell in frames_lib.ended(cells):
        assert cell.models is not None
        servers, clients = map(np.asarray, cell.models)
        accuracy, server_accuracy, rounds = (
            frames_lib.at_the_end(cell, getattr(cell.evaluation, name))
            for name in ("accuracy", "server_accuracy", "round")
        )
        accuracy = frames_lib.of_all(cell, accuracy)
        for run, seed in enumerate(cell.seeds):
            arrays = {}
            for tensor, place in zip(tensors, places, strict=True):
                own, name, shape = slice(place.start, place.stop), tensor["name"], tensor["shape"]
                arrays[f"clients/{name}"] = clients[run, :, own].reshape(-1, *shape)
                arrays[f"server/{name}"] = servers[run, own].reshape(shape)
            content = _npz(arrays)
            file = f"{len(written):04d}.npz"
            # One by one: all of them would be in memory a second time.
            files.write_files(folder, {file: content})
            written.append(
                _File(
                    file=file,
                    sha256=hashlib.sha256(content).hexdigest(),
                    partition=cell.partition,
                    method=cell.method,
                    partition_seed=cell.partition_seed,
                    seed=seed,
                    round=int(rounds[run]),
                    server_accuracy=float(server_accuracy[run]),
                    accuracy=[None if np.isnan(x) else float(x) for x in accuracy[run]],
                )
            )
    manifest = _Manifest(format=FORMAT, model=dict(network), tensors=tensors, files=written)
    files.write_files(folder, {MANIFEST: files.document(manifest)})


def models(run: directory_lib.Path, model: Model | None = None) -> dict[Key, Saved]:
    """The models that a run has kept, by partition, method, partition seed and seed.

    >>> kept = models("runs/compare-digits-001")  # doctest: +SKIP
    >>> own = kept["class_imbalance", "cgsv", 0, 0]  # doctest: +SKIP
    >>> logits = own.model.apply(own.params(4), inputs)  # doctest: +SKIP

    Args:
      run: its directory.
      model: the network, where it was one of your own, or of a plugin.

    Raises:
      ValueError: it has kept none, or what it holds is damaged or of another network.
    """
    folder = files.inside(files.path_of(run, "the run's directory"), directory_lib.MODELS)
    path = files.inside(folder, MANIFEST)
    if files.kind(path) == "nothing":
        raise ValueError(f"{os.fspath(run)} holds no models, a run keeps them with --save-models")
    manifest = files.read_json(path, must_be_sealed=True)
    with files.reading(path):
        if manifest.get("format") != FORMAT:
            raise ValueError(f"its format is {manifest.get('format')}, {FORMAT} is read")
        known: _Manifest = files.judged(manifest, _Manifest)
        model = model or _network(known["model"])
        tensors = tuple(known["tensors"])
        if model is not None and tuple(_tensors_of(_shapes(model))) != tensors:
            raise ValueError("model has other parameters than the one that was trained")
        found = {}
        for own in known["files"]:
            key = own["partition"], own["method"], own["partition_seed"], own["seed"]
            accuracy = np.array([np.nan if x is None else x for x in own["accuracy"]], np.float32)
            file = files.inside(folder, own["file"])
            found[key] = Saved(
                *(model, own["round"], accuracy, own["server_accuracy"], file, own["sha256"]),
                *(tensors, known["model"]),
            )
    return found


def export(
    run: directory_lib.Path,
    out: directory_lib.Path,
    client: int | str,
    method: str | None = None,
    seed: int | None = None,
    partition: str | None = None,
    partition_seed: int | None = None,
) -> pathlib.Path:
    """Writes one client's, or the server's, parameters to a file; where there is one choice it need
    not be named.

    Args:
      run: a directory that has kept its models.
      out: .npz, or .safetensors where that package is installed.
      client: its number, or "server".
      method: whose, and with which of the run's seeds, partitions and partition seeds.
      seed: as said.
      partition: as said.
      partition_seed: as said.

    Raises:
      ValueError: there is no such model, several would do, or `out` is of another kind or one of
        a run's own files.
      OSError: it cannot be written.
    """
    file = files.path_of(out, "--out")
    if file.suffix not in _WRITERS:
        raise ValueError(f"--out is {os.fspath(out)!r}, it must end in {' or '.join(_WRITERS)}")
    directory_lib.keep_off(file, "--out")
    kept = models(run)
    asked = {"partition": partition, "method": method, "partition_seed": partition_seed}
    asked["seed"] = seed
    keys = list(kept)
    for place, (name, value) in enumerate(asked.items()):
        there = list(dict.fromkeys(key[place] for key in keys))
        flag = "--" + name.replace("_", "-")
        if value is None and len(there) > 1:
            raise ValueError(f"{flag} is missing, it must be one of {', '.join(map(str, there))}")
        if value is not None and value not in there:
            raise ValueError(f"{flag} is {value}, it must be one of {', '.join(map(str, there))}")
        keys = [key for key in keys if key[place] == (there[0] if value is None else value)]
    content = _WRITERS[file.suffix](kept[keys[0]].arrays(client))
    files.write_files(file.parent, {file.name: content})
    return file


# ---------------------------------------------------------------- parameters and files


def _shapes(model: Model) -> ArrayTree:
    return jax.eval_shape(model.init, jax.random.key(0))


def _tensors_of(shapes: ArrayTree) -> list[_Tensor]:
    """In the order in which parameters are raveled; names are paths, all different."""
    leaves = jax.tree_util.tree_flatten_with_path(shapes)[0]
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    if len(set(names)) < len(names) or not all(names):
        names = [f"{number:04d}" for number in range(len(names))]
    return [
        _Tensor(name=name, shape=list(leaf.shape), dtype=str(leaf.dtype))
        for name, (_, leaf) in zip(names, leaves, strict=True)
    ]


def _network(said: Mapping[str, Any]) -> Model | None:
    """The network that is said to be it, if the package has it."""
    builder = models_lib.MODELS.get(str(said.get("name")))
    if builder is None:
        return None
    try:
        return models_lib.built(builder, said["recipe"])
    except (TypeError, KeyError) as error:
        raise ValueError(f"its network cannot be built: {error}") from error


def _nested(arrays: Mapping[str, Array]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, array in arrays.items():
        *folders, last = name.split("/")
        functools.reduce(lambda at, part: at.setdefault(part, {}), folders, found)[last] = array
    return found


@functools.lru_cache(maxsize=1)  # of the latest run, whose clients are often read one by one
def _read(file: pathlib.Path, sha256: str) -> dict[str, np.ndarray]:
    if files.digest_of_file(file) != sha256:
        raise ValueError(f"{file} cannot be read: it is not what was written")
    return files.read_arrays(file, _MOST)


def _npz(arrays: Mapping[str, np.ndarray]) -> bytes:
    content = io.BytesIO()
    held: dict[str, Any] = {
        name: x.astype(np.float32) if x.dtype.kind == "V" else x for name, x in arrays.items()
    }
    np.savez(content, **held)
    return content.getvalue()


def _safetensors(arrays: Mapping[str, np.ndarray]) -> bytes:
    try:
        from safetensors.numpy import save  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            "--out ends in .safetensors, for which the package of this name must be installed: "
            "pip install safetensors"
        ) from error
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


_WRITERS = {".npz": _npz, ".safetensors": _safetensors}
