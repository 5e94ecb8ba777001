"""One client's local epochs: order, short batches, ragged clients under vmap, learning rates."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracle
import pytest

from cgsv_jax.core import local, simulation
from cgsv_jax.experiment import names as names_lib
from cgsv_jax.types import Examples, Federation, Model, Settings

EPS = float(np.finfo(np.float32).eps)
EPOCHS, BATCH = 2, 4
OPTIMIZERS = {
    "sgd": optax.sgd,
    "momentum": functools.partial(optax.sgd, momentum=0.9),
    "adam": optax.adam,
    "adamw": optax.adamw,
}


def steps(size, epochs=EPOCHS, batch=BATCH):
    return epochs * -(-size // batch)


def examples_of(data, clients):
    """Examples whose rows and labels are stacked over clients."""
    labels = data.labels[clients.rows]
    return Examples(jnp.asarray(data.inputs), jnp.asarray(clients.rows), jnp.asarray(labels))


STACKED = Examples(None, 0, 0)


# ---------------------------------------------------------------- against optax and the oracle


@pytest.mark.parametrize(
    ("name", "per"), [*((name, "round") for name in OPTIMIZERS), ("sgd", "epoch")]
)
@pytest.mark.long
def test_ragged_clients_under_vmap_train_as_alone(tiny, name, per):
    """Two rounds by hand: NumPy's gradients, optax's updates, each client on its own.

    The last short batch counts, a finished client waits (its optimizer's count with it), and one
    trace serves all rounds.
    """
    data, clients = tiny.world(pad=3)
    sizes = clients.mask.sum(1)
    orders = tiny.orders(clients, 2, EPOCHS)
    model = tiny.softmax()
    with jax.enable_x64(True):
        data = data._replace(inputs=np.float64(data.inputs))
        schedule = local.decayed(0.3, 0.8, per=per, epochs=EPOCHS)
        trainer = local.trainer(model, OPTIMIZERS[name], schedule, batch_size=BATCH)
        lifted = jax.vmap(trainer.update, in_axes=(None, None, 0, STACKED, 0, None))

        @jax.jit
        @chex.assert_max_traces(n=1)
        def update(*args):
            return lifted(*args)

        params = model.init(jax.random.key(0))
        opt_state = trainer.init(params)
        many = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * len(sizes)), opt_state)
        alone = [opt_state] * len(sizes)
        for t in range(2):
            delta, many, loss = update(
                jax.random.key(1), params, many, examples_of(data, clients), orders[t], jnp.int32(t)
            )
            for i in range(len(sizes)):
                x, y = data.inputs[clients.rows[i]], data.labels[clients.rows[i]]
                w, losses = [np.float64(p) for p in jax.tree.leaves(params)], []
                for e in range(EPOCHS):
                    rate = 0.3 * 0.8 ** (t if per == "round" else t * EPOCHS + e)
                    for first in range(0, sizes[i], BATCH):
                        rows = orders[t, i, e, : sizes[i]][first : first + BATCH]
                        gradient = oracle.softmax_gradient(w, x[rows], y[rows])
                        mean = oracle.loss(oracle.softmax_logits(w, x[rows]), y[rows])
                        losses += [mean] * len(rows)
                        moved, alone[i] = OPTIMIZERS[name](rate).update(gradient_tree(gradient),
                            alone[i], gradient_tree(w))  # fmt: skip
                        w = jax.tree.leaves(optax.apply_updates(gradient_tree(w), moved))
                        w = [np.asarray(p) for p in w]
                # Six steps of sums of at most 12 terms of order 1, and Adam's quotient of moments,
                # which divides by gradients of 1e-3 or more: 72 x 1e3 x 2^-52 = 2e-11.
                close = {"rtol": 0, "atol": 2e-11}
                mine = jax.tree.map(lambda x, i=i: x[i], (delta, many, loss))
                got = np.concatenate([np.ravel(p) for p in jax.tree.leaves(mine[0])])
                np.testing.assert_allclose(
                    got, oracle.ravel(w) - oracle.ravel(jax.tree.leaves(params)), **close
                )
                np.testing.assert_allclose(mine[2], np.mean(losses), **close)
                jax.tree.map(
                    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-11),
                    mine[1], alone[i],
                )  # fmt: skip
        for leaf in jax.tree.leaves(many):
            if leaf.dtype == jnp.int32:  # Adam's count: the client's own steps and no others
                assert leaf.tolist() == [2 * steps(n) for n in sizes]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 7])
def test_local_steps_are_the_first_of_the_epochs(tiny, count):
    """K steps of every client by hand, through as many epochs of its order as that takes.

    A short last batch is a step; the rate is that of the epoch a step is in; the loss is the mean
    over the rows of these steps. Clients of many rows stop within their first epoch.
    """
    data, clients = tiny.world(pad=3)
    sizes = clients.mask.sum(1)
    epochs = local.epochs_for(count, sizes, BATCH)
    assert epochs == max(-(-count // steps(n, 1)) for n in sizes)
    orders = tiny.orders(clients, 1, epochs)[0]
    model = tiny.softmax()
    with jax.enable_x64(True):
        data = data._replace(inputs=np.float64(data.inputs))
        schedule = local.decayed(0.3, 0.8, per="epoch", epochs=epochs)
        trainer = local.trainer(model, optax.sgd, schedule, batch_size=BATCH, steps=count)
        update = jax.jit(jax.vmap(trainer.update, in_axes=(None, None, None, STACKED, 0, None)))
        params = model.init(jax.random.key(0))
        delta, _, loss = update(
            jax.random.key(1), params, trainer.init(params), examples_of(data, clients), orders,
            jnp.int32(2),
        )  # fmt: skip
    for i in range(len(sizes)):
        x, y = data.inputs[clients.rows[i]], data.labels[clients.rows[i]]
        w, losses = [np.float64(p) for p in jax.tree.leaves(params)], []
        batches = [
            (e, orders[i, e, first : min(first + BATCH, sizes[i])])
            for e in range(epochs)
            for first in range(0, sizes[i], BATCH)
        ]
        assert len(batches) >= count
        for e, rows in batches[:count]:
            losses += [oracle.loss(oracle.softmax_logits(w, x[rows]), y[rows])] * len(rows)
            gradient = oracle.softmax_gradient(w, x[rows], y[rows])
            w = [p - 0.3 * 0.8 ** (2 * epochs + e) * g for p, g in zip(w, gradient, strict=True)]
        got = np.concatenate([np.ravel(p[i]) for p in jax.tree.leaves(delta)])
        want = oracle.ravel(w) - oracle.ravel(jax.tree.leaves(params))
        # Seven steps, sums of at most 12 terms of order 1, in 2^-52.
        close = {"rtol": 0, "atol": 7 * 12 * 2.0**-52 * 4}
        np.testing.assert_allclose(got, want, **close)
        np.testing.assert_allclose(loss[i], np.mean(losses), **close)


def test_local_steps_need_as_many_epochs_as_they_take():
    assert local.epochs_for(6, np.array([8, 3, 0]), 4) == 6  # who has no rows takes no step
    assert local.epochs_for(6, np.array([8, 9]), 4) == 3
    assert local.epochs_for(1, np.array([800]), 4) == 1
    for wrong in ({"steps": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="is 0, it must be"):
            local.epochs_for(**({"steps": 1, "sizes": np.array([3]), "batch_size": 4} | wrong))


def test_clipped_sgd_cuts_gradients_to_norm_one():
    """Of all tensors together, as PyTorch's clip_grad_norm_ does; shorter ones are left alone."""
    descent = names_lib.OPTIMIZERS["clipped_sgd"](0.5)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(2)}
    for factor, length in ((1.0, 13.0), (0.05, 0.65)):
        gradient = {"a": factor * jnp.array([3.0]), "b": factor * jnp.array([4.0, 12.0])}
        updates, _ = descent.update(gradient, descent.init(params), params)
        cut = 0.5 * factor / max(length, 1)
        np.testing.assert_allclose(updates["a"], [-3 * cut], rtol=1e-6)
        np.testing.assert_allclose(updates["b"], [-4 * cut, -12 * cut], rtol=1e-6)


def gradient_tree(arrays):
    return dict(zip(("bias", "kernel"), arrays, strict=True))


def test_given_orders_are_the_oracles_training(tiny):
    """The same statement by the oracle's own loop, for a network with a hidden layer."""
    data, clients = tiny.world()
    orders = tiny.orders(clients, 1, EPOCHS)[0]
    model = tiny.mlp()
    with jax.enable_x64(True):
        data = data._replace(inputs=np.float64(data.inputs))
        trainer = local.trainer(
            model, optax.sgd, local.decayed(0.3, 0.8, per="epoch", epochs=EPOCHS), batch_size=BATCH
        )
        params = model.init(jax.random.key(0))
        update = jax.jit(jax.vmap(trainer.update, in_axes=(None, None, None, STACKED, 0, None)))
        delta, _, _ = update(
            jax.random.key(1), params, trainer.init(params), examples_of(data, clients), orders,
            jnp.int32(3),
        )  # fmt: skip
    rates = oracle.learning_rates(
        oracle.Options(learning_rate=0.3, decay=0.8, decay_per="epoch"), 3, EPOCHS
    )
    for i, mask in enumerate(clients.mask):
        rows = clients.rows[i][mask]
        want = oracle.local_training(
            [np.asarray(p) for p in jax.tree.leaves(params)], data.inputs[rows], data.labels[rows],
            orders[i], rates, BATCH, oracle.mlp_gradient,
        )  # fmt: skip
        got = np.concatenate([np.ravel(p[i]) for p in jax.tree.leaves(delta)])
        # Four steps, sums of at most 12 terms of order 1, in 2^-52.
        np.testing.assert_allclose(got, want, rtol=0, atol=4 * 12 * 2.0**-52 * 4)


def quadratic(curvature, centre):
    """Loss a/2 (w - c)^2 on every row; params {"w": []}; the target c rides in as the input."""
    model = Model(
        lambda key: {"w": jnp.float32(3.0)},
        lambda params, inputs, key=None: (params["w"] - inputs[:, 0])[:, None],
    )
    return model, lambda logits, labels: curvature / 2 * jnp.square(logits[:, 0])


@pytest.mark.parametrize("size", [1, 4, 5])
def test_quadratic_in_closed_form(size):
    """w = c + (w_0 - c) prod (1 - a eta_e)^(steps of the epoch)."""
    a, c, eta, decay = 0.7, -1.5, 0.4, 0.5
    model, loss = quadratic(a, c)
    schedule = local.decayed(eta, decay, per="epoch", epochs=EPOCHS)
    trainer = local.trainer(model, optax.sgd, schedule, batch_size=BATCH, loss=loss)
    order = jnp.where(jnp.arange(5) < size, jnp.arange(5), -1)
    examples = Examples(jnp.full((5, 1), c), jnp.arange(5), jnp.zeros(5, jnp.int32))
    params = model.init(None)
    delta, _, _ = jax.jit(trainer.update)(
        jax.random.key(0), params, trainer.init(params), examples, jnp.stack([order] * EPOCHS),
        jnp.int32(2),
    )  # fmt: skip
    rates = [eta * decay ** (2 * EPOCHS + e) for e in range(EPOCHS)]
    factor = np.prod([(1 - a * rate) ** -(-size // BATCH) for rate in rates])
    # Four steps of a handful of roundings at magnitude 3 to 4.5.
    np.testing.assert_allclose(delta["w"], (3.0 - c) * (factor - 1), atol=4 * 6 * 4.5 * EPS)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_an_optimizer_persists_or_restarts(name, tiny):
    """From one start, the second round repeats the first exactly if nothing is carried over.

    Plain descent has nothing to carry. A restarting client holds no state between rounds, and its
    first round is that of a persisting one.
    """
    data, clients = tiny.world()
    model = tiny.softmax()
    params = model.init(jax.random.key(0))
    orders = tiny.orders(clients, 1, EPOCHS)[0, 0]
    deltas = {}
    for restart in (False, True):
        trainer = local.trainer(
            model, OPTIMIZERS[name], local.decayed(0.3, 1.0), batch_size=BATCH, restart=restart
        )
        update = jax.jit(trainer.update)
        state = trainer.init(params)
        assert bool(jax.tree.leaves(state)) == (name == "adam" and not restart)
        for t in range(2):
            mine = Examples(data.inputs, clients.rows[0], data.labels[clients.rows[0]])
            delta, state, _ = update(jax.random.key(1), params, state, mine, orders, jnp.int32(t))
            deltas[restart, t] = delta
    same = jax.tree.map(np.array_equal, deltas[False, 0], deltas[False, 1])
    assert all(jax.tree.leaves(same)) == (name == "sgd")
    for other in (deltas[False, 0], deltas[True, 1]):
        jax.tree.map(np.testing.assert_array_equal, deltas[True, 0], other)


def test_an_optimizer_begins_afresh_in_a_round(tiny):
    """From then on as in round 0 of one that does not: no decay, and no momentum at first."""
    data, clients = tiny.world()
    model, orders = tiny.softmax(), tiny.orders(clients, 1, EPOCHS)[0, 0]
    params = model.init(jax.random.key(0))
    mine = Examples(data.inputs, clients.rows[0], data.labels[clients.rows[0]])
    plain, again = (
        local.trainer(
            model, OPTIMIZERS["momentum"], local.decayed(0.3, 0.5, per="epoch", epochs=EPOCHS),
            batch_size=BATCH, afresh=afresh,
        )
        for afresh in (None, 2)
    )  # fmt: skip
    # A constant rate is that of a trainer without decay.
    steady = local.trainer(model, OPTIMIZERS["momentum"], local.decayed(0.3, 1.0), batch_size=BATCH)
    old = jax.tree.map(lambda x: x + 1, plain.init(params))
    for t, like, state in ((1, plain, old), (2, steady, plain.init(params)), (3, steady, old)):
        arguments = (mine, orders, jnp.int32(t))
        got = jax.jit(again.update)(jax.random.key(1), params, old, *arguments)
        want = jax.jit(like.update)(jax.random.key(1), params, state, *arguments)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=8 * EPS), got, want)
        assert again.learning_rate(jnp.int32(t)) == like.learning_rate(jnp.int32(t))


def test_a_client_without_rows_stays_where_it_is(tiny):
    model = tiny.softmax()
    trainer = local.trainer(model, optax.adam, local.decayed(0.1, 1.0), batch_size=BATCH)
    params = model.init(jax.random.key(0))
    opt_state = trainer.init(params)
    examples = Examples(jnp.ones((2, 3)), jnp.zeros(5, jnp.int32), jnp.zeros(5, jnp.int32))
    nothing = jnp.full((EPOCHS, 5), -1)
    delta, new, loss = trainer.update(
        jax.random.key(0), params, opt_state, examples, nothing, jnp.int32(0)
    )
    assert loss == 0
    assert all(not np.any(x) for x in jax.tree.leaves(delta))
    jax.tree.map(np.testing.assert_array_equal, new, opt_state)


def test_padding_changes_no_bit(tiny):
    data, clients = tiny.world()
    orders = tiny.orders(clients, 1, EPOCHS)[0]
    model = tiny.softmax()
    trainer = local.trainer(model, optax.adam, local.decayed(0.3, 0.8), batch_size=BATCH)
    params = model.init(jax.random.key(0))
    examples = examples_of(data, clients)
    update = jax.jit(trainer.update)

    def train(i, width):
        rows = np.zeros(width, np.int32)
        order = np.full((EPOCHS, width), -1, np.int32)
        size = clients.mask[i].sum()
        rows[:size], order[:, :size] = clients.rows[i][:size], orders[i][:, :size]
        mine = examples._replace(rows=rows, labels=data.labels[rows])
        return update(jax.random.key(1), params, trainer.init(params), mine, order, jnp.int32(0))

    assert clients.mask[0].sum() == 5
    jax.tree.map(np.testing.assert_array_equal, train(0, 5), train(0, 11))


@pytest.mark.parametrize("batch", [0, -3])
def test_batch_size_below_one_is_refused(tiny, batch):
    with pytest.raises(ValueError, match=f"{batch}"):
        local.trainer(tiny.softmax(), optax.sgd, local.decayed(0.1, 1.0), batch_size=batch)


# ---------------------------------------------------------------- learning rates


@pytest.mark.parametrize("per", ["round", "epoch"])
def test_schedule_is_the_oracles(tiny, per):
    setting = oracle.Options(learning_rate=0.15, decay=0.977, decay_per=per)
    schedule = local.decayed(0.15, 0.977, per=per, epochs=3)
    trainer = local.trainer(tiny.softmax(), optax.sgd, schedule, batch_size=1)
    for t in (0, 1, 57, 199):
        want = oracle.learning_rates(setting, t, 3)
        got = [schedule(jnp.int32(t), jnp.int32(e)) for e in range(3)]
        # A power with exponent k <= 600 turns the base's half ulp into k / 2 of them.
        np.testing.assert_allclose(got, want, rtol=(600 / 2 + 4) * EPS)
        assert trainer.learning_rate(jnp.int32(t)) == got[0]


def test_an_unknown_form_of_decay_is_refused():
    with pytest.raises(ValueError, match="step"):
        local.decayed(0.1, 0.9, per="step")


# ---------------------------------------------------------------- the order of rows


MASK = np.array([1, 1, 1, 1, 1, 0, 0], bool)


draw = jax.jit(local.draw_order, static_argnums=2)


def test_order_visits_every_row_once_and_then_pads():
    """In every epoch, whatever the mask; and the same in x64, where bits are 64 wide."""
    scattered = np.array([0, 1, 0, 1, 1, 0, 1], bool)
    for mask in (MASK, scattered, ~(MASK | True), MASK | True):
        order = draw(jax.random.key(0), jnp.asarray(mask), 4)
        with jax.enable_x64(True):
            wide = draw(jax.random.key(0), jnp.asarray(mask), 4)
        assert order.dtype == wide.dtype == jnp.int32
        for epoch in np.asarray(order):
            assert sorted(epoch[: mask.sum()]) == np.flatnonzero(mask).tolist()
            assert (epoch[mask.sum() :] == -1).all()
        np.testing.assert_array_equal(wide, order)


def test_order_does_not_know_the_padding_or_the_number_of_epochs():
    key, mask = jax.random.key(0), jnp.asarray(MASK)
    order = draw(key, mask, 4)
    wider = draw(key, jnp.pad(mask, (0, 9)), 4)
    np.testing.assert_array_equal(wider[:, : mask.size], order)
    assert (np.asarray(wider)[:, mask.size :] == -1).all()
    np.testing.assert_array_equal(draw(key, mask, 2), order[:2])


def test_orders_are_uniform_and_fresh():
    """4,000 seeds in one vmap: every slot in every place, epochs independent."""
    seeds = 4000
    keys = jax.random.split(jax.random.key(1), seeds)
    orders = jax.jit(jax.vmap(lambda k: local.draw_order(k, jnp.asarray(MASK), 2)))(keys)
    orders = np.asarray(orders)[:, :, :5]
    # Counts are binomial; five standard deviations are exceeded once in 1.7 million, and there are
    # 25 + 25 + 25 of them.
    noise = 5 * np.sqrt(seeds * 0.2 * 0.8)
    for epoch in (0, 1):
        counts = [[np.sum(orders[:, epoch, place] == s) for s in range(5)] for place in range(5)]
        assert np.abs(np.array(counts) - seeds / 5).max() < noise
    # Were an epoch's order the previous one's, or a shift of it, these counts would not be uniform.
    first_of_second = orders[np.arange(seeds), 1, 0]
    place_in_first = np.argmax(orders[:, 0] == first_of_second[:, None], axis=1)
    joint = np.bincount(place_in_first, minlength=5)
    assert np.abs(joint - seeds / 5).max() < noise


def test_drawn_orders_replay_bit_for_bit(tiny):
    """Order is data: what a run draws can be written down and given to another."""
    data, clients = tiny.world(pad=1)
    federation = tiny.federation(model=tiny.softmax())
    settings, key = Settings(1, EPOCHS), jax.random.key(4)

    def looker(trainer):
        own = federation._replace(trainer=trainer, settings=settings)
        state = simulation.init(key, 4, own)

        @jax.jit
        def look(round_, orders):
            return simulation.train(key, state._replace(round=round_), data, clients, own, orders)

        return look

    look, train = looker(tiny.spy(clients)), looker(federation.trainer)
    _, (drawn, rows, labels, keys) = look(2, None)
    _, (later, _, _, later_keys) = look(3, None)
    assert drawn.shape == (4, EPOCHS, 9)
    np.testing.assert_array_equal(rows, clients.rows)
    np.testing.assert_array_equal(labels, data.labels[clients.rows])
    for i, size in enumerate(tiny.sizes):
        for epoch in np.asarray(drawn[i]):
            assert sorted(epoch[:size]) == list(range(size))
    assert np.any(drawn != later)
    keys = np.concatenate([keys, later_keys])
    assert len(np.unique(keys, axis=0)) == 8  # a fresh one for every round and client
    upload, optimizer = train(2, None)
    jax.tree.map(np.testing.assert_array_equal, (upload, optimizer), train(2, drawn))
    other, _ = train(2, later)  # it is the given order that is visited
    assert np.any(other.deltas != upload.deltas)


# ---------------------------------------------------------------- randomness inside the network


def test_every_step_has_a_key_of_its_own(tiny):
    """A dropout-like network: its gradient is the noise it drew, kept by a recording optimizer."""
    model = Model(
        lambda key: jnp.zeros(()),
        lambda w, x, key=None: (w * jax.random.normal(key) + 0 * x[:, 0])[:, None],
    )

    def recorder(rate):
        def init(params):
            return jnp.int32(0), jnp.zeros(8)

        def update(gradient, state, params=None):
            count, seen = state
            return 0 * gradient, (count + 1, seen.at[count].set(gradient))

        return optax.GradientTransformation(init, update)

    data, clients = tiny.world()
    trainer = local.trainer(
        model, recorder, local.decayed(1.0, 1.0), batch_size=BATCH,
        loss=lambda logits, labels: logits[:, 0],
    )  # fmt: skip
    federation = Federation(model, trainer, tiny.federation().algorithm, Settings(1, EPOCHS))
    key, orders = jax.random.key(0), tiny.orders(clients, 1, EPOCHS)[0]
    state = simulation.init(key, 4, federation)
    train = jax.jit(lambda s: simulation.train(key, s, data, clients, federation, orders)[1])
    draws = []
    for t in (0, 1):
        counts, seen = train(state._replace(round=jnp.int32(t)))
        assert counts.tolist() == [steps(n) for n in tiny.sizes]
        draws += [np.asarray(s)[:c] for s, c in zip(seen, counts, strict=True)]
    draws = np.concatenate(draws)
    assert len(draws) == len(np.unique(draws))


# ---------------------------------------------------------------- speed that changes no number


def test_a_batch_is_never_wider_than_the_slots(tiny):
    """Nobody has eight rows of a batch of 512: the program computes eight, and the same numbers."""
    data, clients = tiny.world()
    orders = tiny.orders(clients, 1, 2)[0]

    def one_round(batch):
        federation = tiny.federation(batch=batch)
        state = simulation.init(jax.random.key(0), 4, federation)
        function = functools.partial(simulation.train, federation=federation, orders=orders)
        text = jax.jit(function).lower(jax.random.key(0), state, data, clients).as_text()
        return function(jax.random.key(0), state, data, clients)[0], text

    (wide, text), (narrow, _) = one_round(512), one_round(8)
    assert "512x" not in text
    np.testing.assert_array_equal(wide.deltas, narrow.deltas)


@pytest.mark.parametrize("precision", local.PRECISIONS)
def test_precisions_train_the_same_client(tiny, precision):
    """bfloat16 keeps 8 bits: a few steps end within a few of its roundings, and not exactly.

    The others are float32 on a CPU, whatever an accelerator makes of them.
    """
    data, clients = tiny.world()
    orders = tiny.orders(clients, 1, 1)[0]
    model = tiny.mlp()

    def deltas(precision):
        federation = tiny.federation(model=model, epochs=1)
        schedule = local.decayed(0.3, 1.0)
        trainer = local.trainer(model, optax.sgd, schedule, batch_size=4, precision=precision)
        federation, key = federation._replace(trainer=trainer), jax.random.key(0)
        state = simulation.init(key, 4, federation)
        upload, _ = simulation.train(key, state, data, clients, federation, orders)
        assert upload.deltas.dtype == jnp.float32
        return np.asarray(upload.deltas)

    exact, got = deltas("float32"), deltas(precision)
    gap = np.linalg.norm(got - exact) / np.linalg.norm(exact)
    if precision == "bfloat16":
        assert 1e-5 < gap < 4 * 2.0**-8
    else:
        assert gap == 0


def test_an_unknown_precision_is_refused(tiny):
    with pytest.raises(ValueError, match="precision is 'half'"):
        local.trainer(tiny.mlp(), optax.sgd, local.decayed(1, 1), batch_size=1, precision="half")
