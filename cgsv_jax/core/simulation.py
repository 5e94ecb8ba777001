"""Federated training as one pure function: clients lifted, rounds scanned.

`round_` is the paper's algorithm box. It knows a method only as an `Algorithm`, a network only as
a `Model` and local training only as a `Trainer`.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cgsv_jax.core import checks, layout, local, vectors
from cgsv_jax.core import evaluation as evaluation_lib
from cgsv_jax.core import participation as participation_lib
from cgsv_jax.core.attacks import Attack
from cgsv_jax.core.layout import over_clients
from cgsv_jax.core.participation import Participation
from cgsv_jax.types import (
    Algorithm,
    Array,
    ArrayTree,
    Clients,
    Dataset,
    Download,
    Evaluation,
    Examples,
    Model,
    PRNGKey,
    Record,
    Settings,
    Standing,
    State,
    Trainer,
    Upload,
)

PER_CLIENT = ("accuracy", "loss", "distance")  # fields of an Evaluation with an axis of clients

# One name per use of the run's key, so that a new use never shifts another's draws.
_START, _TRAINING, _ALGORITHM, _PRESENCE, _ATTACK, _RECOVERY = range(6)


def init(
    key: PRNGKey,
    num_clients: int,
    *,
    model: Model,
    algorithm: Algorithm,
    trainer: Trainer,
    attack: Attack | None = None,
    mesh: jax.sharding.Mesh | None = None,
    alone: bool = False,
) -> State:
    """The state before round 0: every client and the server hold the same random w_0.

    With `alone` it has a place for what `train_alone` finds.
    """
    params = model.init(jax.random.fold_in(key, _START))
    start = vectors.ravel(params)
    rows = layout.rows_on(num_clients, mesh)

    def repeat(x: Array) -> Array:
        # A copy even where N = 1: a state whose leaves share a buffer could not be donated.
        return jnp.array(jnp.tile(x, (rows,) + (1,) * x.ndim), copy=True)

    optimizer = jax.tree.map(lambda x: repeat(jnp.asarray(x)), trainer.init(params))
    return State(
        server=start,
        clients=layout.keep_sharded(repeat(start), mesh),
        optimizer=layout.keep_sharded(optimizer, mesh),
        algorithm=algorithm.init(num_clients, start.size),
        round=jnp.int32(0),
        reputation=jnp.zeros(num_clients),  # r_{i,0}
        attack=() if attack is None else attack.init(num_clients, start.size),
        alone=jnp.zeros(num_clients) if alone else (),
    )


def train(
    key: PRNGKey,
    state: State,
    data: Dataset,
    clients: Clients,
    *,
    model: Model,
    trainer: Trainer,
    settings: Settings,
    here: Array | None = None,
    orders: Array | None = None,
) -> tuple[Upload, ArrayTree]:
    """Local training of every client from its own model: the uploads and optimizer states.

    A client whose update is not finite is absent, as one that is not here: its delta and its
    optimizer's state are as if it had not trained.

    Args:
      key: of the run.
      state: before the round; clients [N, D].
      data: the rows.
      clients: who holds which.
      model: the network.
      trainer: local training of one client.
      settings: E and the layout's width.
      here: [N] bool, who takes part; None: everybody.
      orders: [N, E, M] the order in which each client visits its slots, -1 pads; default: drawn.
    """
    data, clients = jax.tree.map(jnp.asarray, checks.canonical(data, clients))
    shapes = jax.eval_shape(model.init, key)
    unravel = vectors.unraveler(shapes)
    labels = data.labels[clients.rows] if clients.labels is None else clients.labels
    # Keys depend on the round and the client's number alone, not on N or the layout.
    key_of_round = jax.random.fold_in(jax.random.fold_in(key, _TRAINING), state.round)

    losses = evaluation_lib.mean_loss(model, settings.eval_batch) if settings.start_loss else None

    def one_client(
        key, round_, inputs, number, here, weights, opt_state, rows, mask, labels, order
    ):
        start = None if losses is None else losses(inputs, rows, mask, labels, weights)
        order_key, step_key = jax.random.split(jax.random.fold_in(key, number))
        if order is None:
            order = local.draw_order(order_key, mask, settings.epochs)
        examples = Examples(inputs, rows, labels)
        delta, new_opt_state, loss = trainer.update(
            step_key, unravel(weights), opt_state, examples, order, round_
        )
        delta = vectors.ravel(delta)
        norm = vectors.norm(delta)
        finite = jnp.isfinite(norm)
        present = finite & here
        delta = jnp.where(present, delta, 0.0)
        opt_state = jax.tree.map(lambda n, o: jnp.where(present, n, o), new_opt_state, opt_state)
        norm = jnp.where(present, norm, 0.0)
        return delta, norm, present, here & ~finite, loss, start, opt_state

    sizes = clients.sizes
    count, rows = sizes.size, state.clients.shape[0]
    # Rows that only fill up a device hold nothing and take no step; the rules never see them.
    numbers = jnp.arange(count) if clients.numbers is None else clients.numbers
    here = jnp.ones(count, bool) if here is None else here
    numbers, here, slots, mask, labels_ = (
        layout.pad_rows(x, rows) for x in (numbers, here, clients.rows, clients.mask, labels)
    )
    orders = None if orders is None else layout.pad_rows(jnp.asarray(orders), rows, -1)
    lifted = over_clients(
        one_client,
        settings.width,
        work=layout.pad_rows(sizes, rows),
        mesh=settings.mesh,
        shared=(key_of_round, state.round, data.inputs),
    )
    *sent, optimizer = lifted(
        numbers, here, state.clients, state.optimizer, slots, mask, labels_, orders
    )
    deltas, norms, present, broken, loss, start = jax.tree.map(lambda x: x[:count], sent)
    upload = Upload(
        server=state.server,
        clients=state.clients[:count],
        deltas=deltas,
        norms=norms,
        scales=jnp.ones_like(norms),
        present=present,
        num_examples=sizes,
        loss=loss,
        learning_rate=jnp.asarray(trainer.learning_rate(state.round)),
        validation=data.validation,
        round=state.round,
        numbers=clients.numbers,
        broken=broken,
        start_loss=start,
        alone=state.alone if settings.alone else None,
    )
    return upload, optimizer


def round_(
    key: PRNGKey,
    state: State,
    data: Dataset,
    clients: Clients,
    *,
    model: Model,
    algorithm: Algorithm,
    trainer: Trainer,
    settings: Settings,
    participation: Participation | None = None,
    attack: Attack | None = None,
    orders: Array | None = None,
) -> tuple[State, Record]:
    """One round: local training, upload, aggregation, contribution, reward, download.

    Args:
      key: of the run.
      state: before the round.
      data: the rows.
      clients: who holds which, from which round on, and who cheats.
      model: the network.
      algorithm: the server's rules.
      trainer: local training of one client.
      settings: E and the layout's width.
      participation: who takes part; None: everybody who has joined.
      attack: what cheating clients upload; None: everybody is honest.
      orders: as in `train`.
    """
    clients = checks.counted(clients)
    whole, everybody, here, members = state, clients, None, None
    if participation is not None or clients.joins is not None:
        who_key = jax.random.fold_in(jax.random.fold_in(key, _PRESENCE), state.round)
        here, members = participation_lib.who(who_key, participation, state, clients)
    if members is not None:
        state, clients = participation_lib.gather(
            whole, everybody, members, algorithm.init, settings.mesh
        )
        orders = None if orders is None else participation_lib.take(jnp.asarray(orders), members)
    starts = None  # who starts from the server's model
    if algorithm.common is not None:
        starts = algorithm.common(state.round)
    if algorithm.recovers is not None:
        recovery_key = jax.random.fold_in(jax.random.fold_in(key, _RECOVERY), state.round)
        numbers = clients.numbers
        numbers = jnp.arange(clients.mask.shape[0]) if numbers is None else jnp.asarray(numbers)
        recovers = algorithm.recovers(recovery_key, state.round, numbers)
        starts = recovers if starts is None else starts | recovers
    if starts is not None:
        starts = starts & (True if here is None else here)
        starts = jnp.broadcast_to(starts, clients.mask.shape[:1])
        starts = layout.pad_rows(starts, state.clients.shape[0])
        models = jnp.where(starts[:, None], state.server[None, :], state.clients)
        state = state._replace(clients=layout.keep_sharded(models, settings.mesh))
    parts = {"model": model, "trainer": trainer, "settings": settings, "orders": orders}
    upload, optimizer = train(key, state, data, clients, here=here, **parts)  # dw_i
    if members is not None:
        upload = participation_lib.as_cohort(upload, everybody, members)
    if attack is not None and clients.conduct is not None:
        attack_key = jax.random.fold_in(jax.random.fold_in(key, _ATTACK), state.round)
        upload = _forged(upload, attack.forge(attack_key, upload, clients.conduct, state.attack))
    parts = {"algorithm": algorithm, "attack": attack, "mesh": settings.mesh}
    state, record = serve(key, state, upload, optimizer, **parts)
    if members is not None:
        state, record = participation_lib.scatter(
            whole, state, record, members, algorithm.init, settings.mesh
        )
    return state, record


def _forged(upload: Upload, deltas: Array) -> Upload:
    """The upload with other updates; one that is not finite makes its client absent."""
    norms = vectors.norms(deltas)
    finite = jnp.isfinite(norms)
    present = upload.present & finite
    return upload._replace(
        deltas=jnp.where(present[:, None], deltas, 0.0),
        norms=jnp.where(present, norms, 0.0),
        present=present,
        broken=upload.broken | (upload.present & ~finite),
    )


def serve(
    key: PRNGKey,
    state: State,
    upload: Upload,
    optimizer: ArrayTree,
    *,
    algorithm: Algorithm,
    attack: Attack | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[State, Record]:
    """The server's half of a round: aggregation, contribution, reward, download.

    Whatever the rules compute, no model leaves the finite numbers: an entry that would stays as it
    is.

    Args:
      key: of the run.
      state: before the round.
      upload: what `train` gave.
      optimizer: the clients' optimizer states after training.
      algorithm: the server's rules.
      attack: of attackers who look at what they get.
      mesh: devices that share the clients.
    """
    rules_key = jax.random.fold_in(jax.random.fold_in(key, _ALGORITHM), state.round)
    download, standing, rules = algorithm.update(rules_key, upload, state.algorithm)
    dtype = state.server.dtype  # the model's, whatever the rules compute in
    rewards = layout.pad_rows(download.rewards.astype(dtype), state.clients.shape[0])
    memory = state.attack
    if attack is not None:
        memory = attack.receive(download.rewards, upload.present, memory)
    clients = _finite(state.clients + rewards, state.clients)  # w_i += v_i, nothing else
    state = State(
        server=_finite(state.server + download.aggregate.astype(dtype), state.server),  # w_N += u_N
        clients=layout.keep_sharded(clients, mesh),
        optimizer=layout.keep_sharded(optimizer, mesh),
        algorithm=rules,
        round=state.round + 1,
        reputation=standing.reputation.astype(state.reputation.dtype),
        attack=memory,
        alone=state.alone,
    )
    took_part = upload.present if download.took_part is None else download.took_part
    record = Record(
        score=standing.score,
        reputation=standing.reputation,
        weight=download.weights,
        quota=download.quota,
        present=took_part,
        loss=jnp.where(took_part, upload.loss, jnp.nan),
        norm=upload.norms,
        energy=_received(download),
        broken=jnp.zeros_like(took_part) if upload.broken is None else upload.broken,
    )
    return state, record


def _finite(new: Array, old: Array) -> Array:
    return jnp.where(jnp.isfinite(new), new, old)


def _received(download: Download) -> Array:
    """‖v_i‖² / ‖u_N‖² [N]; 0 where no entry of u_N comes: then v_i is the client's own."""
    energy = download.energy
    if energy is None:
        energy = vectors.energies(download.rewards, download.aggregate)
    return jnp.where(download.quota > 0, energy, 0.0)


def train_alone(
    key: PRNGKey,
    state: State,
    data: Dataset,
    clients: Clients,
    *,
    rounds: int,
    model: Model,
    algorithm: Algorithm,
    trainer: Trainer,
    settings: Settings,
    participation: Participation | None = None,
    orders: Array | None = None,
) -> State:
    """`settings.rounds` further rounds without a server, before round 0 of a run.

    A method may need to know what each client reaches alone. So everybody first trains as the
    standalone baseline does, in the same rounds, from the same start, in the same orders; after the
    last of `rounds` in all, the accuracies on the server's validation rows are `State.alone`, and
    everything else is as it was before.

    Args:
      key: of the run.
      state: from `init(..., alone=True)`, or of the rounds alone before.
      data: as in `train`, with validation rows.
      clients: as in `train`.
      rounds: T of the run.
      model: as in `train`.
      algorithm: the run's, none of whose rules is asked.
      trainer: as in `train`.
      settings: rounds to go on for, and the rest as in `train`.
      participation: as in `round_`.
      orders: [T, N, E, M], or drawn.

    Raises:
      ValueError: there are no validation rows.
    """
    if data.validation is None or not len(data.validation[1]):
        raise ValueError("what clients reach alone is judged on validation rows, there are none")

    def keep_own(key: PRNGKey, upload: Upload, rules: ArrayTree) -> tuple:
        nothing = jnp.zeros_like(upload.norms)
        quota = jnp.zeros(nothing.shape, jnp.int32)
        stays = jnp.zeros_like(upload.server)
        own = Download(stays, nothing, upload.deltas, quota, nothing)
        return own, Standing(nothing, nothing), rules

    parts = {"model": model, "trainer": trainer, "algorithm": Algorithm(algorithm.init, keep_own)}

    def one_round(state: State, orders: Array | None) -> tuple[State, None]:
        options = parts | {"settings": settings, "participation": participation, "orders": orders}
        return round_(key, state, data, clients, **options)[0], None

    state, _ = jax.lax.scan(one_round, state, orders, settings.rounds)
    count = clients.mask.shape[0]
    reached = evaluate(state, *data.validation, model=model, settings=settings).accuracy[:count]
    start = init(key, count, mesh=settings.mesh, alone=True, **parts)
    start = start._replace(algorithm=state.algorithm, attack=state.attack, alone=reached)
    through = state.round >= rounds
    return jax.tree.map(lambda new, old: jnp.where(through, new, old), start, state)


def evaluate(
    state: State,
    inputs: Array,
    labels: Array,
    *,
    model: Model,
    settings: Settings,
    algorithm: Algorithm | None = None,
    chosen: Array | None = None,
) -> Evaluation:
    """Accuracy and mean negative log-likelihood of all models, and how far from the server's.

    Args:
      state: the models, clients [N, D] and server [D].
      inputs: [n, ...].
      labels: [n].
      model: the network; it is evaluated without a key.
      settings: rows per forward pass and the layout.
      algorithm: where it has one model for all, that is everybody's; None: clients have their own.
      chosen: [K] which clients; None: every row of `state.clients`.

    Returns:
      An Evaluation of one moment; clients' arrays [K] or [N].
    """
    inputs, labels = jax.tree.map(jnp.asarray, (checks.native(inputs), checks.counted(labels)))
    one_model = evaluation_lib.scorer(model, settings.eval_batch)

    def one_client(
        inputs: Array, labels: Array, server: Array, weights: Array
    ) -> tuple[Array, Array, Array]:
        # Here, where one client's model is at hand: no [N, D] of differences exists.
        distance = vectors.distances(weights[None, :], server)[0]
        return *one_model(inputs, labels, weights), distance

    weights = state.clients
    if algorithm is not None and algorithm.common is not None:
        weights = jnp.where(algorithm.common(state.round), state.server[None, :], weights)
    if chosen is not None:
        weights = layout.pad_rows(weights[chosen], layout.rows_on(chosen.size, settings.mesh))
    width = settings.eval_width or settings.width
    shared = inputs, labels, state.server
    seen = over_clients(one_client, width, mesh=settings.mesh, shared=shared)(weights)
    if chosen is not None:
        seen = tuple(x[: chosen.size] for x in seen)
    return Evaluation(state.round, *seen, *one_model(inputs, labels, state.server))


def advance(
    key: PRNGKey,
    state: State,
    data: Dataset,
    clients: Clients,
    *,
    model: Model,
    algorithm: Algorithm,
    trainer: Trainer,
    settings: Settings,
    participation: Participation | None = None,
    attack: Attack | None = None,
    orders: Array | None = None,
    chosen: Array | None = None,
    evaluated: bool = True,
) -> tuple[State, Record, Evaluation]:
    """`settings.rounds` further rounds, evaluated after every k-th and after the last.

    Args:
      key: of the run, the same in every call.
      state: where to go on from.
      data: as in `train`.
      clients: as in `train`.
      model: as in `train`.
      algorithm: the server's rules.
      trainer: as in `train`.
      settings: T, E, k and the layout's width.
      participation: as in `round_`.
      attack: as in `round_`.
      orders: [T, N, E, M], or drawn.
      chosen: [K] which clients to evaluate; None: all.
      evaluated: False for rounds that end before the next evaluation.

    Returns:
      The state, Record [T, N] and Evaluation [ceil(T / k), ...], or [0, ...] if not evaluated.

    Raises:
      ValueError: a part is of another kind, a number out of range, or the arrays do not belong
        together (see `checks.complaints`; their values are only looked at outside of
        transformations).
    """
    _judge(key, algorithm, trainer, settings, participation, attack)
    checks.check(data, clients, model)
    data, clients = checks.canonical(data, clients)
    parts = {"model": model, "algorithm": algorithm, "trainer": trainer, "settings": settings}
    parts |= {"participation": participation, "attack": attack}
    every = min(settings.eval_every, settings.rounds)
    count = clients.mask.shape[0]

    def one_round(state: State, orders: Array | None) -> tuple[State, Record]:
        return round_(key, state, data, clients, orders=orders, **parts)

    def seen(state: State) -> Evaluation:
        options = {"model": model, "settings": settings, "chosen": chosen}
        options["algorithm"] = algorithm
        result = evaluate(state, data.test_inputs, data.test_labels, **options)
        if chosen is None:  # without the rows that only fill up a device
            fields = {name: getattr(result, name)[:count] for name in PER_CLIENT}
            result = result._replace(**fields)
        return result

    def block(state: State, orders: Array | None, length: int):
        state, record = jax.lax.scan(one_round, state, orders, length)
        return state, (record, seen(state))

    if not evaluated:
        state, record = jax.lax.scan(one_round, state, orders, settings.rounds)
        nothing = jax.tree.map(
            lambda x: jnp.zeros((0, *x.shape), x.dtype), jax.eval_shape(seen, state)
        )
        return state, record, nothing

    whole, rest = divmod(settings.rounds, every)
    head = None if orders is None else orders[: whole * every]
    head = head if head is None else head.reshape(whole, every, *head.shape[1:])
    # A scan in a scan, not a condition: a batched condition would evaluate in every round.
    state, (record, evaluation) = jax.lax.scan(lambda s, o: block(s, o, every), state, head, whole)
    record = jax.tree.map(lambda x: x.reshape(whole * every, *x.shape[2:]), record)
    if rest:
        tail = None if orders is None else orders[whole * every :]
        state, (last, result) = block(state, tail, rest)
        record = jax.tree.map(lambda x, y: jnp.concatenate([x, y]), record, last)
        evaluation = jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), evaluation, result)
    return state, record, evaluation


def run(
    key: PRNGKey,
    data: Dataset,
    clients: Clients,
    *,
    model: Model,
    algorithm: Algorithm,
    trainer: Trainer,
    settings: Settings,
    participation: Participation | None = None,
    attack: Attack | None = None,
    orders: Array | None = None,
    chosen: Array | None = None,
) -> tuple[State, Record, Evaluation]:
    """A whole run from w_0: `init`, then `advance`. Pure: jit it, vmap it over keys.

    With `settings.alone`, `train_alone` comes between.

    Returns:
      The final State, Record [T, N] and Evaluation [ceil(T / eval_every), ...].

    Raises:
      ValueError: as `advance` does.
    """
    _judge(key, algorithm, trainer, settings, participation, attack)
    checks.check(data, clients, model)
    num_clients = clients.mask.shape[0]
    parts = {"model": model, "algorithm": algorithm, "trainer": trainer}
    state = init(key, num_clients, attack=attack, mesh=settings.mesh, alone=settings.alone, **parts)
    parts |= {"settings": settings, "participation": participation, "orders": orders}
    if settings.alone:
        state = train_alone(key, state, data, clients, rounds=settings.rounds, **parts)
    return advance(key, state, data, clients, attack=attack, chosen=chosen, **parts)


def _judge(
    key: PRNGKey,
    algorithm: Algorithm,
    trainer: Trainer,
    settings: Settings,
    participation: Participation | None,
    attack: Attack | None,
) -> None:
    """Refuses parts of another kind, and settings out of range."""
    checks.kinds(
        key=(key, jax.Array | np.ndarray, "jax.random.key(0)"),
        algorithm=(algorithm, Algorithm, "cgsv_jax.cgsv()"),
        trainer=(
            trainer,
            Trainer,
            "cgsv_jax.trainer(model, optax.sgd, cgsv_jax.decayed(0.1, 1.0))",
        ),
        settings=(settings, Settings, "cgsv_jax.Settings(rounds=10)"),
        participation=(participation, Participation | None, "cgsv_jax.participation.uniform(20)"),
        attack=(attack, Attack | None, 'cgsv_jax.attacks.attack(["sign_flip"])'),
    )
    numbers = ("rounds", "epochs", "eval_every", "eval_batch")
    checks.numbers(**{name: getattr(settings, name) for name in numbers})
