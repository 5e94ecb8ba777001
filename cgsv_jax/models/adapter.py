"""Networks of flax.linen, flax.nnx and equinox as a `Model`.

Only parameters are trained, uploaded and rewarded. What else a network keeps from one call to the
next, such as BatchNorm's running statistics, would stay at its start: it is refused when the model
is built, by shapes alone.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cgsv_jax import types
from cgsv_jax.core import checks

if TYPE_CHECKING:
    import equinox as eqx  # pyright: ignore[reportMissingImports]
    from flax import nnx


def from_linen(
    module: nn.Module, input_shape: Sequence[int], dtype: jax.typing.DTypeLike = jnp.float32
) -> types.Model:
    """A linen module whose `__call__` is `(inputs [B, ...], train: bool) -> logits [B, C]`.

    A key given to `apply` means training and becomes the module's "dropout" stream. A module whose
    `__call__` takes no `train` is called without.

    >>> model = from_linen(nn.Dense(3), (4,))
    >>> model.apply(model.init(jax.random.key(1)), jnp.ones((2, 4))).shape
    (2, 3)

    Args:
        module: the network; its parameters are its only state.
        input_shape: shape of ONE example, without the batch axis.
        dtype: of the inputs (an integer type for a network that begins with an embedding).

    Raises:
        ValueError: if the module is not of flax.linen, cannot be called so, or keeps mutable
            collections such as BatchNorm's running statistics.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"module is {_kind(module)}, it must be a module of flax.linen; for others "
            "there are cg.models.from_nnx(lambda rngs: Net(rngs=rngs)) and "
            "cg.models.from_equinox(lambda key: Net(key=key))"
        )
    example = jax.ShapeDtypeStruct((1, *input_shape), dtype)
    takes_train = _takes(module, "train")

    def mode(train: bool) -> dict[str, Any]:
        return {"train": train} if takes_train else {}

    def variables(key: jax.Array, inputs: types.Array) -> Any:
        return module.init(key, inputs, **mode(False))

    form = "(inputs [B, ...], train: bool) -> logits [B, C]"
    held = checks.result("module", variables, form, jax.random.key(0), example)
    _refuse_state(module, "mutable collections", sorted(set(held) - {"params"}))

    def init(key: jax.Array) -> types.ArrayTree:
        return variables(key, jnp.zeros(example.shape, example.dtype))["params"]

    def apply(params: types.ArrayTree, inputs: types.Array, key: jax.Array | None = None) -> Any:
        if key is None:
            return module.apply({"params": params}, inputs, **mode(False))
        return module.apply({"params": params}, inputs, **mode(True), rngs={"dropout": key})

    return types.Model(init, apply)


def from_nnx(build: "Callable[[nnx.Rngs], nnx.Module]") -> types.Model:
    """A flax.nnx module, given as the function that builds it: each seed draws its own start.

    A key given to `apply` means training: the module is in the mode of `module.train()`, and every
    stream of random numbers that it keeps starts anew from the key; without a key it is in that of
    `module.eval()`. Parameters are an `nnx.State`, as `nnx.split` gives it and `nnx.update` takes.

    >>> from flax import nnx
    >>> model = from_nnx(lambda rngs: nnx.Linear(4, 3, rngs=rngs))
    >>> model.apply(model.init(jax.random.key(1)), jnp.ones((2, 4))).shape
    (2, 3)

    Args:
        build: `nnx.Rngs -> module`, whose `__call__` is `(inputs [B, ...]) -> logits [B, C]`. To
            start from parameters that are there, replace `init`: `model._replace(init=lambda key:
            params)`.

    Raises:
        ValueError: if it is no such function, or the module keeps arrays that are no `nnx.Param`,
            such as BatchNorm's running statistics.
    """
    from flax import nnx

    form = "nnx.Rngs -> module, for instance lambda rngs: Net(rngs=rngs)"
    module_of = _builder(build, nnx.Module, "flax.nnx", form)

    def parts(key: jax.Array) -> tuple[Any, Any, Any, Any]:
        module = module_of(nnx.Rngs(key))
        graph, params, streams, rest = nnx.split(module, nnx.Param, nnx.RngState, ...)
        return graph, params, streams, rest

    checks.result("build", parts, form, jax.random.key(0), seen=lambda own: own[1])
    # Not traced: in a trace nnx takes arrays that are no variables for a part of the code.
    graph, _, streams, rest = parts(jax.random.key(0))
    others = [".".join(map(str, path)) for path, _ in nnx.to_flat_state(rest)]
    _refuse_state(build, "arrays that are no nnx.Param", others)
    streams, structure = jax.tree.flatten(streams)

    def init(key: jax.Array) -> types.ArrayTree:
        return parts(key)[1]

    def apply(params: types.ArrayTree, inputs: types.Array, key: jax.Array | None = None) -> Any:
        own = jax.random.key(0) if key is None else key
        # Each layer keeps a stream, a key and how often it was asked: none may repeat another's.
        fresh = [_begun(jax.random.fold_in(own, place), x) for place, x in enumerate(streams)]
        module = nnx.merge(graph, params, jax.tree.unflatten(structure, fresh))
        if key is None:
            module.eval()
        else:
            module.train()
        return module(inputs)

    return types.Model(init, apply)


def from_equinox(build: "Callable[[jax.Array], eqx.Module]") -> types.Model:
    """An equinox module, given as the function that builds it: each seed draws its own start.

    Equinox writes a network for one example; here it is lifted over a batch. A key given to `apply`
    means training: `eqx.nn.inference_mode` is off, and a module whose `__call__` takes a `key` gets
    one for each example; without a key it is on. Parameters are the module with None in place of
    what is no array of floats, as `eqx.partition` gives it and `eqx.combine` takes.

    Args:
        build: `key -> module`, whose `__call__` is `(example [...]) -> logits [C]`, or with a
            `key` beside it.

    Raises:
        ValueError: if it is no such function, or the module keeps state, such as that of
            `eqx.nn.BatchNorm`, or arrays that are no floats.
        ModuleNotFoundError: where equinox is not installed.
    """
    import equinox as eqx  # pyright: ignore[reportMissingImports]

    form = "key -> module, for instance lambda key: Net(key=key)"
    module_of = _builder(build, eqx.Module, "equinox", form)
    modules = []  # its arrays are tracers, what else it holds is kept
    checks.result("build", module_of, form, jax.random.key(0), seen=modules.append)
    leaves, structure = jax.tree_util.tree_flatten_with_path(modules[0])
    trained = [eqx.is_inexact_array(leaf) for _, leaf in leaves]
    others = [
        jax.tree_util.keystr(path).lstrip(".")
        for path, leaf in leaves
        if eqx.is_array(leaf) and not eqx.is_inexact_array(leaf)
    ]
    stateful = jax.tree.leaves(modules[0], is_leaf=lambda x: isinstance(x, eqx.nn.StateIndex))
    others += ["eqx.nn.State"] * any(isinstance(x, eqx.nn.StateIndex) for x in stateful)
    _refuse_state(modules[0], "arrays that are no parameters", others)
    code = [None if own else leaf for own, (_, leaf) in zip(trained, leaves, strict=True)]
    code = jax.tree.unflatten(structure, code)
    takes_key = _takes(modules[0], "key")

    def init(key: jax.Array) -> types.ArrayTree:
        found = zip(trained, jax.tree.leaves(module_of(key)), strict=True)
        return jax.tree.unflatten(structure, [leaf if own else None for own, leaf in found])

    def apply(params: types.ArrayTree, inputs: types.Array, key: jax.Array | None = None) -> Any:
        module: Any = eqx.nn.inference_mode(eqx.combine(params, code), value=key is None)
        if not takes_key:
            return jax.vmap(module)(inputs)
        if key is None:
            return jax.vmap(lambda example: module(example, key=None))(inputs)
        keys = jax.random.split(key, len(inputs))
        return jax.vmap(lambda example, key: module(example, key=key))(inputs, keys)

    return types.Model(init, apply)


def _builder(build: Any, kind: type, library: str, form: str) -> Callable[[Any], Any]:
    """`build`, which must give modules of a library and be none itself."""
    if isinstance(build, kind):
        raise ValueError(
            f"build is a {type(build).__name__} already, it must be a function {form}: every seed "
            "draws a start of its own"
        )

    def module_of(argument: Any) -> Any:
        module = build(argument)
        if not isinstance(module, kind):
            raise TypeError(f"it gives {_kind(module)}, which is no {library}.Module")
        return module

    return module_of


def _takes(module: Any, argument: str) -> bool:
    """Whether the call of a module takes this argument."""
    parameters = inspect.signature(type(module).__call__).parameters
    return argument in parameters or any(
        own.kind is inspect.Parameter.VAR_KEYWORD for own in parameters.values()
    )


def _begun(key: jax.Array, like: jax.Array) -> jax.Array:
    """A stream's key, or its count."""
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.split(key, like.shape) if like.shape else key
    return jnp.zeros(like.shape, like.dtype)


def _kind(value: Any) -> str:
    return f"a {type(value).__name__} of {type(value).__module__}"


def _refuse_state(module: Any, what: str, names: Sequence[str]) -> None:
    if names:
        name = getattr(module, "__name__", type(module).__name__)
        raise ValueError(
            f"{name} keeps {what} ({', '.join(names)}), which are neither trained nor exchanged by "
            "clients: use a layer without running state, such as GroupNorm in place of BatchNorm, "
            "and compute constants where they are used."
        )
