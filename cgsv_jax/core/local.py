"""One client's local epochs, given the order in which it visits its rows.

Everything here is written for ONE client; `simulation` lifts it.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from cgsv_jax.core import checks, vectors
from cgsv_jax.types import Array, ArrayTree, Examples, Model, PRNGKey, Trainer

# Params, the optimizer's state, sum of losses; where asked for, sums of eta g and of eta.
Carry = tuple[ArrayTree, ArrayTree, Array, ArrayTree]
Schedule = Callable[[Array, Array], Array]  # (round [], epoch []) -> learning rate []
Optimizer = Callable[[Array], optax.GradientTransformation]  # learning rate [] -> optimizer
Loss = Callable[[Array, Array], Array]  # logits [B, C], labels [B] -> losses [B]

# How local training multiplies. "default" is the backend's own (TF32 on recent NVIDIA GPUs).
PRECISIONS = ("default", "float32", "tensorfloat32", "bfloat16")

negative_log_likelihood: Loss = optax.softmax_cross_entropy_with_integer_labels


def decayed(
    learning_rate: Array | float, decay: Array | float, *, per: str = "round", epochs: int = 1
) -> Schedule:
    """eta decay^round, or eta decay^(round E + epoch): the learning rate of a local epoch.

    It counts rounds, not the optimizer's steps, which differ between clients of different sizes.

    Args:
      learning_rate: eta, of the first epoch of round 0.
      decay: factor per round or per local epoch.
      per: "round" or "epoch".
      epochs: E, needed with "epoch".

    Raises:
      ValueError: `per` is another word, or a number is out of range.
    """
    checks.numbers(learning_rate=learning_rate, decay=decay, epochs=epochs)
    if per not in ("round", "epoch"):
        raise ValueError(f"decay_per is {per!r}, it must be round or epoch")

    def schedule(round_: Array, epoch: Array) -> Array:
        return learning_rate * decay ** (round_ if per == "round" else round_ * epochs + epoch)

    return schedule


def epochs_for(steps: int, sizes: Array, batch_size: int) -> int:
    """How many epochs the order must have for every client to take so many steps; on the host.

    The client with the fewest rows goes through them most often. A short last batch is a step.

    >>> epochs_for(5, np.array([32, 33, 320]), 32)
    5
    >>> epochs_for(5, np.array([33, 320]), 32)
    3

    Args:
      steps: K of every client.
      sizes: [N] rows of each client; one without any takes no step.
      batch_size: B.

    Raises:
      ValueError: a number is out of range.
    """
    checks.numbers(steps=steps, batch_size=batch_size)
    sizes = np.asarray(sizes)
    fewest = int(min(sizes[sizes > 0], default=1))
    return -(-steps // -(-fewest // batch_size))


def draw_order(key: PRNGKey, mask: Array, epochs: int) -> Array:
    """A fresh order of a client's slots for every epoch: mask [M] -> [E, M] int32, -1 pads.

    The draw of a slot depends on the key, the epoch and the slot alone, so padding slots at the
    end change nothing.
    """
    checks.numbers(epochs=epochs)
    chex.assert_rank(mask, 1)

    def one_epoch(epoch: Array) -> Array:
        # Integers, not floats: ties among 2^23 floats would favour early slots in large clients.
        draw = jax.random.bits(jax.random.fold_in(key, epoch), mask.shape, jnp.uint32) >> 1
        last = jnp.uint32(0xFFFFFFFF)
        order = jnp.argsort(jnp.where(mask, draw, last)).astype(jnp.int32)
        return jnp.where(jnp.arange(mask.size) < jnp.sum(mask), order, -1)

    return jax.vmap(one_epoch)(jnp.arange(epochs))


def trainer(
    model: Model,
    optimizer: Optimizer,
    schedule: Schedule,
    *,
    batch_size: int,
    loss: Loss = negative_log_likelihood,
    precision: str = "default",
    restart: bool = False,
    afresh: int | None = None,
    steps: int | None = None,
) -> Trainer:
    """E epochs of mini-batch descent, or K steps; the last short batch of an epoch is kept.

    The number of steps is read off the order, not off its padded width: a client computes no step
    and averages no row that it does not have. Under `vmap` a client that has finished waits
    unchanged, its optimizer's count included.

    Args:
      model: init and apply of the network.
      optimizer: learning rate -> optax transformation, for instance `optax.sgd`. It is rebuilt
        with the (traced) rate of each epoch, and its state is carried from step to step.
      schedule: (round, epoch) -> learning rate.
      batch_size: B, rows per step.
      loss: per-row loss, averaged over the rows of a batch.
      precision: one of `PRECISIONS`. "bfloat16" computes activations and gradients in it; weights,
        loss and updates stay as they are, and so does everything the server does.
      restart: whether the optimizer starts afresh in every round. Otherwise its state is carried
        from round to round, as in the released code, although the local weights it was accumulated
        on are rolled back.
      afresh: a round in which the optimizer is a new one, and from which on the rate is that of the
        first epoch of round 0; who is absent in that round keeps its old optimizer.
      steps: K, after which every client stops, wherever its epoch is then; None: it takes those
        of all epochs of its order, which are to be as many as `epochs_for` says.

    Returns:
      A Trainer.

    Raises:
      ValueError: a number is out of range, `precision` another word, a function cannot be called
        as it is here, or (when traced) the loss is not one number per row.
    """
    checks.numbers(batch_size=batch_size, **({} if steps is None else {"steps": steps}))
    checks.kinds(model=(model, Model, "cgsv_jax.models.from_linen(module, input_shape)"))
    _judge(optimizer, schedule)
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}, it must be one of {', '.join(PRECISIONS)}")
    multiplying = None if precision == "default" else precision

    def rate(round_: Array, epoch: Array) -> Array:
        planned = schedule(round_, epoch)
        if afresh is None:
            return planned
        return jnp.where(round_ < afresh, planned, schedule(jnp.int32(0), jnp.int32(0)))

    def logits_of(params: ArrayTree, inputs: Array, key: PRNGKey) -> Array:
        if precision != "bfloat16":
            return model.apply(params, inputs, key)
        params, inputs = _half((params, inputs))
        logits = model.apply(params, inputs, key)
        return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))

    def fresh(params: ArrayTree) -> ArrayTree:
        return optimizer(schedule(jnp.int32(0), jnp.int32(0))).init(params)

    def init(params: ArrayTree) -> ArrayTree:
        return () if restart else fresh(params)

    def update(
        key: PRNGKey,
        params: ArrayTree,
        opt_state: ArrayTree,
        examples: Examples,
        order: Array,
        round_: Array,
        *,
        pull: Callable[[ArrayTree], ArrayTree] | None = None,
        with_gradient: bool = False,
    ) -> tuple[ArrayTree, ...]:
        order, examples = jax.tree.map(jnp.asarray, (checks.counted(order), examples))
        chex.assert_rank([order, examples.rows, examples.labels], [2, 1, 1])
        # Nobody has more rows than slots: with many small clients most of a batch would be padding.
        width = min(batch_size, order.shape[1])
        visits = jnp.sum(order >= 0, axis=1)  # [E]
        last_step = jnp.cumsum(-(-visits // width))  # [E], steps up to and with an epoch
        first_step = jnp.concatenate([jnp.zeros(1, last_step.dtype), last_step[:-1]])
        stop = last_step[-1]
        if steps is not None:
            stop = jnp.minimum(stop, steps)
            visits = jnp.clip((stop - first_step) * width, 0, visits)
        short = -order.shape[1] % width
        order = jnp.pad(order, ((0, 0), (0, short)), constant_values=-1)

        def step(i: Array, carry: Carry) -> Carry:
            params, opt_state, total, path = carry
            epoch = jnp.sum(i >= last_step)
            start = (i - first_step[epoch]) * width
            slots = jax.lax.dynamic_slice(order, (epoch, start), (1, width))[0]
            valid = slots >= 0
            count = jnp.sum(valid)
            inputs = examples.inputs[examples.rows[slots]]
            labels = examples.labels[slots]

            def mean_loss(params: ArrayTree) -> Array:
                logits = logits_of(params, inputs, jax.random.fold_in(key, i))
                losses = loss(logits, labels)
                if losses.shape != labels.shape:
                    raise ValueError(
                        f"loss gives {list(losses.shape)} for the labels {list(labels.shape)} of a "
                        "batch, it must give one number per row"
                    )
                losses = jnp.where(valid, losses, 0.0)
                # The count is 0 only in a step that a batched loop computes and throws away.
                return jnp.sum(losses) / jnp.maximum(count, 1)

            with jax.default_matmul_precision(multiplying):
                mean, gradient = jax.value_and_grad(mean_loss)(params)
            eta = rate(round_, epoch)
            if with_gradient:
                one_more = gradient, jnp.ones_like(path[1])
                path = jax.tree.map(lambda x, g: x + (eta * g).astype(x.dtype), path, one_more)
            if pull is not None:
                gradient = jax.tree.map(jnp.add, gradient, pull(params))
            updates, opt_state = optimizer(eta).update(gradient, opt_state, params)
            return optax.apply_updates(params, updates), opt_state, total + mean * count, path

        first = fresh(params) if restart else opt_state
        if afresh is not None and not restart:
            new = round_ == afresh
            first = jax.tree.map(lambda x, y: jnp.where(new, x, y), fresh(params), opt_state)
        nothing = jnp.zeros((), jax.tree.leaves(params)[0].dtype)
        path = (jax.tree.map(jnp.zeros_like, params), nothing) if with_gradient else ()
        carry = (params, first, nothing, path)
        trained, last, total, path = jax.lax.fori_loop(0, stop, step, carry)
        opt_state = () if restart else last
        delta = jax.tree.map(jnp.subtract, trained, params)  # dw_i
        total = total / jnp.maximum(jnp.sum(visits), 1)
        if not with_gradient:
            return delta, opt_state, total
        summed, rates = path  # sum_k eta_k g_k, sum_k eta_k
        rates = jnp.where(rates > 0, rates, 1.0)
        return delta, opt_state, total, jax.tree.map(lambda x: x / rates, summed)

    def learning_rate(round_: Array) -> Array:
        return rate(round_, jnp.int32(0))

    return Trainer(init, update, learning_rate)


def forgotten(trainer: Trainer, shapes: ArrayTree, optimizer: ArrayTree, held: Array) -> ArrayTree:
    """The local optimizers' states, 0 where an entry is off: what they gathered would move it.

    Args:
      trainer: whose states they are; `init` says where a state belongs to parameters.
      shapes: of the parameters.
      optimizer: leaves [N, ...].
      held: [N, D] bool, the entries that are on.

    Raises:
      ValueError: it cannot be told which entry a part of the state belongs to.
    """

    def nowhere(x: Array, on: Array) -> Array:
        if isinstance(x, optax.MaskedNode):
            return x
        if x.shape != on.shape:
            raise ValueError(f"of a parameter {list(on.shape)} it keeps an array {list(x.shape)}")
        return jnp.where(on, x, jnp.zeros_like(x))

    def one(state: ArrayTree, held: Array) -> ArrayTree:
        parts = [held[t.start : t.stop].reshape(t.shape) for t in vectors.tensors(shapes)]
        on = jax.tree.unflatten(jax.tree.structure(shapes), parts)
        return optax.tree_utils.tree_map_params(
            *(trainer.init, nowhere, state, on),
            is_leaf=lambda x: isinstance(x, optax.MaskedNode),
        )

    try:
        own = jax.eval_shape(trainer.init, shapes)
        rest = optax.tree_utils.tree_map_params(trainer.init, lambda _: None, own)
        # What is left of a state without parameters must not know of them.
        bare = jax.eval_shape(trainer.init, {})
        if [x.shape for x in jax.tree.leaves(rest)] != [x.shape for x in jax.tree.leaves(bare)]:
            raise ValueError("it keeps parameters in another form than they have")
        return jax.vmap(one)(optimizer, held)
    except Exception as error:  # a stranger's `init` may raise anything
        raise ValueError(
            "where entries of a model are switched off, local optimizers must forget them, and "
            "Trainer.init does not say where its state belongs to which entry: an optax optimizer "
            f"does, or one that maps over the parameters ({error})"
        ) from error


def _judge(optimizer: Optimizer, schedule: Schedule) -> None:
    """Refuses what is no schedule, or no optimizer of its rates; nothing is computed."""
    moment = jax.ShapeDtypeStruct((), jnp.int32)
    form = "(round, epoch) -> learning rate [], for instance cgsv_jax.decayed(0.1, 0.99)"
    rate = checks.result("schedule", schedule, form, moment, moment)
    if getattr(rate, "shape", None) != ():
        raise ValueError(f"schedule gives {rate}, it must be a function {form}")
    form = "(learning rate) -> optax transformation, for instance optax.sgd"
    made = []
    checks.result("optimizer", optimizer, form, rate, seen=made.append)
    if not isinstance(made[0], optax.GradientTransformation):
        raise ValueError(
            f"optimizer gives a {type(made[0]).__name__}, it must be a function {form}"
        )


def _half(tree: ArrayTree) -> ArrayTree:
    """Floats in bfloat16; what is not a float, such as the rows of an embedding, as it is."""
    return jax.tree.map(
        lambda x: x.astype(jnp.bfloat16) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )
