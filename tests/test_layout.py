"""The client axis may lie as it likes: the numbers are the same, and come back in order."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest

from cgsv_jax.core import layout, simulation
from cgsv_jax.types import Federation, Settings

EPS = float(np.finfo(np.float32).eps)
WIDTHS = [None, 1, 2, 3, 5, 8]  # of N = 5: all, one by one, two chunks that do not divide, N, N + 3


@pytest.mark.parametrize(
    ("width", "work"),
    [*((width, [1, 2, 0, 4, 3]) for width in WIDTHS), (2, None), (3, [3, 1, 2, 1, 0])],
)
def test_results_come_back_in_order(width, work):
    """Trees in, trees out, keys and absent arguments among them; work sorts in a cycle of three."""

    def function(number, tree, key, nothing):
        assert nothing is None
        # A loop as long as the work, as training is.
        total = jax.lax.fori_loop(0, number % 4, lambda i, x: x + 2.0, tree["x"][0])
        return {"number": number, "total": total, "draw": jax.random.bits(key)}

    numbers = jnp.array([7, 3, 5, 0, 9])
    keys = jax.random.split(jax.random.key(0), 5)
    x = jnp.arange(10.0).reshape(5, 2)
    work = work if work is None else jnp.array(work)
    lifted = jax.jit(layout.over_clients(function, width, work))
    got = lifted(numbers, {"x": x}, keys, None)
    assert got["number"].tolist() == numbers.tolist()
    assert got["total"].tolist() == (x[:, 0] + 2.0 * (numbers % 4)).tolist()
    assert got["draw"].tolist() == [int(jax.random.bits(k)) for k in keys]


@pytest.mark.parametrize(
    ("work", "want"),
    [
        ([4, 1, 3, 2], [[1, 2], [3, 4]]),  # and not (4, 1) (3, 2), of lengths 4 + 3
        ([9, 1, 2], [[1, 2], [9, 9]]),  # what fills a chunk up makes it no longer
    ],
)
def test_a_chunk_costs_its_longest_client(work, want):
    """So clients of like length share one."""
    seen = []

    def function(work):
        jax.debug.callback(seen.append, work)
        return work

    work = jnp.array(work)
    jax.block_until_ready(jax.jit(layout.over_clients(function, 2, work))(work))
    jax.effects_barrier()
    chunks = [sorted(int(x) for x in seen[i : i + 2]) for i in (0, 2)]
    assert sorted(chunks) == want


@pytest.mark.parametrize("width", [0, -1])
def test_width_below_one_is_refused(width):
    with pytest.raises(ValueError, match=f"{width}"):
        layout.over_clients(lambda x: x, width)


def test_default_width():
    assert layout.default_width("cpu") == 1
    assert layout.default_width("gpu") == layout.WIDEST_ON_GPU
    assert layout.default_width("tpu") is None
    assert layout.default_width() == layout.default_width(jax.default_backend())


# ---------------------------------------------------------------- training and evaluation


@pytest.fixture(scope="module")
def five(tiny):
    """Five ragged clients, one of them shorter than a batch, and a state after some history."""
    data, clients = tiny.world((5, 3, 8, 6, 2))
    federation = tiny.federation(
        model=tiny.softmax(), optimizer=functools.partial(optax.sgd, momentum=0.9)
    )
    state = simulation.init(jax.random.key(0), 5, federation)
    shift = jax.random.normal(jax.random.key(1), state.clients.shape) / 4
    state = state._replace(clients=state.clients + shift, round=jnp.int32(3))
    return data, clients, federation, (jax.random.key(2), state, tiny.orders(clients, 1, 2)[0])


def program(five, width):
    data, clients, federation, _ = five
    federation = federation._replace(settings=Settings(1, 2, eval_batch=3, width=width))

    def function(key, state, orders):
        upload, optimizer = simulation.train(key, state, data, clients, federation, orders)
        result = simulation.evaluate(state, data.test_inputs, data.test_labels, federation)
        return upload, optimizer, result

    return function


@pytest.fixture(scope="module")
def all_at_once(five):
    return jax.jit(program(five, None))(*five[-1])


@pytest.mark.parametrize("width", [1, 3])
def test_layouts_agree(five, all_at_once, width):
    """One round of training and an evaluation, from one state.

    Four steps a client whose sums have at most 12 terms of order 1, in another order: 4 x 12 units
    of EPS, and (1 + lr)^4 = 3 for what the later steps make of the earlier ones' error.
    """
    got = jax.jit(program(five, width))(*five[-1])
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(all_at_once), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=3 * 4 * 12 * EPS)
    upload, _, _ = got
    assert np.asarray(upload.norms).min() > 0.05  # there was something to get wrong
    np.testing.assert_array_equal(upload.num_examples, [5, 3, 8, 6, 2])


def test_a_layout_wide_enough_is_the_plain_program(five):
    traced = [str(jax.make_jaxpr(program(five, width))(*five[-1])) for width in (None, 5, 8)]
    assert traced[0] == traced[1] == traced[2]


@pytest.mark.parametrize("batch", [4, 500])
def test_evaluation_is_the_direct_computation(finished, batch):
    """Batches that do not divide the seven test rows, and that exceed them."""
    data, state = finished.data, finished.state
    federation = finished.federation._replace(settings=Settings(1, eval_batch=batch))
    evaluate = functools.partial(simulation.evaluate, federation=federation)
    result = jax.jit(evaluate)(state, data.test_inputs, data.test_labels)
    x, y = np.float64(data.test_inputs), np.asarray(data.test_labels)
    models = np.float64(np.concatenate([state.clients, state.server[None]]))
    shapes = jax.eval_shape(finished.federation.model.init, jax.random.key(0))
    like = [np.zeros(leaf.shape) for leaf in jax.tree.leaves(shapes)]
    logits = [oracle.mlp_logits(oracle.unravel(w, like), x) for w in models]
    accuracy = np.append(result.accuracy, result.server_accuracy)
    loss = np.append(result.loss, result.server_loss)
    np.testing.assert_allclose(accuracy, [np.mean(z.argmax(1) == y) for z in logits], rtol=EPS)
    # Two layers' sums and an average over seven rows: fewer than 20 roundings at magnitude 4.
    np.testing.assert_allclose(loss, [oracle.loss(z, y) for z in logits], rtol=0, atol=80 * EPS)
    assert result.round == 4


# ---------------------------------------------------------------- what a client does not depend on


def test_a_client_draws_the_same_whoever_else_is_there(tiny):
    """Orders and keys of the first clients when more are added, in two layouts."""
    wide = tiny.world((*tiny.sizes, 8, 1))
    narrow = wide[0], jax.tree.map(lambda x: x[:4], wide[1])

    def draws(data, clients, width):
        trainer, model = tiny.spy(clients), tiny.softmax()
        settings, key = Settings(1, 2, width=width), jax.random.key(3)
        federation = Federation(model, trainer, tiny.federation().algorithm, settings)
        state = simulation.init(key, len(clients.mask), federation)
        train = jax.jit(lambda s: simulation.train(key, s, data, clients, federation)[1])
        return state, train(state)

    start, few = draws(*narrow, None)
    start_, many = draws(*wide, 4)
    np.testing.assert_array_equal(start_.server, start.server)
    for a, b in zip(few, many, strict=True):
        np.testing.assert_array_equal(b[:4], a)


# ---------------------------------------------------------------- what width costs


@pytest.mark.parametrize("width", [1, 2, 3, 7, 20, None])
def test_waste_is_what_chunks_compute(width):
    """Counted the slow way: every chunk, filled up, runs as long as its longest client."""
    steps = np.random.default_rng(0).integers(1, 30, 20)
    size, total = width or 20, 0
    waiting = sorted(steps)
    while waiting:
        chunk, waiting = waiting[:size], waiting[size:]
        total += size * max(chunk)
    assert layout.waste(steps, width) == pytest.approx(total / steps.sum())


def test_the_balanced_width_is_the_widest_within_the_limit():
    steps = np.random.default_rng(0).integers(1, 30, 50)
    width = layout.balanced_width(steps)
    assert layout.waste(steps, width) <= layout.WASTE
    fewer_chunks = [w for w in range(width + 1, 51) if -(-50 // w) < -(-50 // width)]
    assert all(layout.waste(steps, w) > layout.WASTE for w in fewer_chunks)
    assert layout.balanced_width(steps, most=3) <= 3
    assert layout.balanced_width(np.full(50, 7)) == 50  # equal clients: all at once
