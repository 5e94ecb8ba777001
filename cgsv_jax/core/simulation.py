"""Federated training as one pure function: clients lifted, rounds scanned.

`round_` is the paper's algorithm box. It knows a method only as an `Algorithm`, a network only as
a `Model` and local training only as a `Trainer`.
"""

import inspect
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cgsv_jax.core import checks, layout, local, vectors
from cgsv_jax.core import evaluation as evaluation_lib
from cgsv_jax.core import participation as participation_lib
from cgsv_jax.core.layout import over_clients
from cgsv_jax.types import (
    Algorithm,
    Answers,
    Array,
    ArrayTree,
    Attack,
    Clients,
    Conduct,
    Dataset,
    Download,
    Evaluation,
    Examples,
    Federation,
    Local,
    Losses,
    Model,
    Participation,
    PRNGKey,
    Record,
    Settings,
    Standing,
    State,
    Trainer,
    Upload,
)

# Fields of an Evaluation with an axis of clients: the last, except that of answers.
PER_CLIENT = ("accuracy", "loss", "distance", "validation_accuracy", "own_accuracy")

# One name per use of the run's key, so that a new use never shifts another's draws.
_START, _TRAINING, _ALGORITHM, _PRESENCE, _ATTACK, _RECOVERY, _CHOICE = range(7)


def origin(key: PRNGKey, model: Model) -> ArrayTree:
    """The random w_0 of a run, as the model's parameters."""
    return model.init(jax.random.fold_in(key, _START))


def init(
    key: PRNGKey, num_clients: int, federation: Federation, params: ArrayTree | None = None
) -> State:
    """The state before round 0: every client and the server hold the same random w_0.

    Args:
      key: of the run.
      num_clients: N.
      federation: of its settings, `mesh` says where the rows lie and `alone` whether there is a
        place for what `train_alone` measures.
      params: w_0, where it is there already; None: `origin` draws it.
    """
    model, trainer, algorithm, settings, _, attack = federation
    params = origin(key, model) if params is None else params
    start = vectors.ravel(params)
    rows = layout.rows_on(num_clients, settings.mesh)

    def repeat(x: Array) -> Array:
        # A copy even where N = 1: a state whose leaves share a buffer could not be donated.
        return jnp.array(jnp.tile(x, (rows,) + (1,) * x.ndim), copy=True)

    optimizer = jax.tree.map(lambda x: repeat(jnp.asarray(x)), trainer.init(params))
    return State(
        server=start,
        clients=layout.keep_sharded(repeat(start), settings.mesh),
        optimizer=layout.keep_sharded(optimizer, settings.mesh),
        algorithm=algorithm.init(num_clients, start.size),
        round=jnp.int32(0),
        reputation=jnp.zeros(num_clients),  # r_{i,0}
        attack=() if attack is None else attack.init(num_clients, start.size),
        alone=jnp.zeros(num_clients) if settings.alone else (),
    )


def params_of(state: State, client: int | str, model: Model) -> ArrayTree:
    """The parameters of one client, or of the server, as the model has them.

    >>> model = Model(lambda key: {"kernel": jnp.zeros((2, 3))}, lambda params, inputs, key: inputs)
    >>> state = State(jnp.zeros(6), jnp.ones((4, 6)), (), (), jnp.int32(1), jnp.zeros(4))
    >>> float(params_of(state, 3, model)["kernel"][1, 2])
    1.0

    Args:
      state: of one run, after any round.
      client: its row of `State.clients`, which is its number unless `Clients.numbers` says
        otherwise; or "server".
      model: of the run.

    Returns:
      A tree whose leaves have the shapes of those of `model.init`.

    Raises:
      ValueError: there is no such client, the state is of several runs, or of another model.
    """
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    number = sum(x.size for x in jax.tree.leaves(shapes))
    if np.ndim(state.server) != 1:
        raise ValueError(
            f"state holds {list(np.shape(state.server))} parameters of several runs, it must be "
            "that of one: jax.tree.map(lambda x: x[0], state)"
        )
    if state.server.size != number:
        raise ValueError(
            f"model has {number} parameters, it must have {state.server.size}, those of the state"
        )
    if client == "server":
        return vectors.unraveler(shapes)(state.server)
    rows = len(state.clients)
    if not isinstance(client, int | np.integer) or not 0 <= client < rows:
        raise ValueError(f'client is {client!r}, it must be in 0..{rows - 1}, or "server"')
    return vectors.unraveler(shapes)(state.clients[client])


def train(
    key: PRNGKey,
    state: State,
    data: Dataset,
    clients: Clients,
    federation: Federation,
    orders: Array | None = None,
    participates: Array | None = None,
) -> tuple[Upload, ArrayTree]:
    """Local training of every client from its own model: the uploads and optimizer states.

    A client whose update is not finite is absent, as is one that does not take part: its delta is
    0, and its optimizer's state is that from before the round.

    Args:
      key: of the run.
      state: before the round; clients [N, D].
      data: the examples.
      clients: who holds which.
      federation: its model, its trainer, E and the layout's width.
      orders: [N, E, M] the order in which each client visits its slots, -1 pads; default: drawn.
      participates: [N] bool; None: everybody does.

    Returns:
      The Upload, N rows, and the optimizer states, leaves [rows, ...].
    """
    settings = federation.settings
    data, clients = jax.tree.map(jnp.asarray, checks.canonical(data, clients))
    sizes = clients.sizes
    count, rows = sizes.size, state.clients.shape[0]
    labels = data.labels[clients.rows] if clients.labels is None else clients.labels
    numbers = jnp.arange(count) if clients.numbers is None else clients.numbers
    participates = jnp.ones(count, bool) if participates is None else participates
    held_out = data.validation if settings.losses else None
    if settings.losses and held_out is None:
        raise ValueError("losses of every example are those on validation rows too, there are none")
    each = (numbers, participates, clients.rows, clients.mask, labels)
    # Rows that only fill up a device hold nothing and take no step; the rules never see them.
    each = _Client(
        *(layout.pad_rows(x, rows) for x in each),
        order=None if orders is None else layout.pad_rows(jnp.asarray(orders), rows, -1),
        weights=state.clients,
        optimizer=state.optimizer,
    )
    shared, own = [], []
    for rule in (federation.algorithm.local, federation.algorithm.personal):
        told = (
            ((), ()) if rule is None else rule.broadcast(state.algorithm, state.server, state.round)
        )
        shared.append(told[0])
        own.append(jax.tree.map(lambda x: layout.pad_rows(x, rows), told[1]))
    each = each._replace(own=layout.keep_sharded(tuple(own), settings.mesh))
    start = () if federation.algorithm.personal is None else state.server
    trained = over_clients(
        _one_client(federation),
        settings.width,
        work=layout.pad_rows(sizes, rows),
        mesh=settings.mesh,
        shared=(
            *(_key_of(key, _TRAINING, state.round), state.round, data.inputs, held_out),
            (*shared, start),
        ),
    )
    sent, optimizer = trained(each)
    sent = jax.tree.map(lambda x: x[:count], sent)
    upload = Upload(
        server=state.server,
        clients=state.clients[:count],
        deltas=sent.delta,
        norms=sent.norm,
        scales=jnp.ones_like(sent.norm),
        present=sent.present,
        num_examples=sizes,
        loss=sent.loss,
        learning_rate=jnp.asarray(federation.trainer.learning_rate(state.round)),
        validation=data.validation,
        round=state.round,
        numbers=clients.numbers,
        nonfinite=sent.nonfinite,
        start_loss=sent.start_loss,
        alone=state.alone if settings.alone else None,
        losses=None
        if sent.losses is None
        else Losses(sent.losses[0], clients.mask, sent.losses[1]),
        gradients=sent.gradient,
        own=sent.own,
    )
    return upload, optimizer


class _Client(NamedTuple):
    """One client before its local training; stacked over clients by `train`."""

    number: Array  # [] int32
    participates: Array  # [] bool
    rows: Array  # [M] int32
    mask: Array  # [M] bool
    labels: Array  # [M] int32
    order: Array | None  # [E, M] int32; None: drawn
    weights: Array  # [D]
    optimizer: ArrayTree
    own: ArrayTree = ((), ())  # what the server has sent to it alone, to train each model with


class _Sent(NamedTuple):
    """What one client sends."""

    delta: Array  # [D]
    norm: Array  # []
    present: Array  # [] bool
    nonfinite: Array  # [] bool
    loss: Array  # []
    start_loss: Array | None  # []
    losses: tuple[Array, Array] | None  # [M] on its own rows, [n_val] on the server's
    gradient: Array | None  # [D]
    own: Array | None  # [D]


def _one_client(federation: Federation) -> Callable[..., tuple[_Sent, ArrayTree]]:
    """(key, round [], inputs [n, ...], held out, broadcast, client) -> (sent, optimizer).

    Of ONE client. `held_out` are the validation rows where their losses are asked for, else None.
    Its draws depend on the round, whose key it is, and its number alone, not on N or the layout.

    Raises:
      ValueError: the algorithm changes local training, and the trainer cannot read how.
    """
    model, trainer, algorithm, settings, *_ = federation
    rule, personal = algorithm.local, algorithm.personal
    _check_reads(trainer, rule)
    _check_reads(trainer, personal)
    unravel = vectors.unraveler(jax.eval_shape(model.init, jax.random.key(0)))
    losses = evaluation_lib.mean_loss(model, settings.eval_batch) if settings.start_loss else None
    each = evaluation_lib.example_losses(model, settings.eval_batch)

    def one(
        key: PRNGKey,
        round_: Array,
        inputs: Array,
        held_out: tuple[Array, Array] | None,
        shared: ArrayTree,
        client: _Client,
    ) -> tuple[_Sent, ArrayTree]:
        _, participates, rows, mask, labels, order, mine, optimizer, (own, own_personal) = client
        shared, shared_personal, server = shared
        # What is uploaded starts from the server's model where the client's own is another matter.
        weights = mine if personal is None else server
        start_loss = None if losses is None else losses(inputs, rows, mask, labels, weights)
        of_each = None
        if held_out is not None:
            theirs, true = held_out
            of_theirs = each(theirs, jnp.arange(true.size), true, weights)
            of_each = each(inputs, rows, labels, weights), of_theirs
        order_key, step_key = jax.random.split(jax.random.fold_in(key, client.number))
        if order is None:
            order = local.draw_order(order_key, mask, settings.epochs)
        examples = Examples(inputs, rows, labels)
        how: dict[str, Any] = {}
        if rule is not None:
            pull = rule.pull
            how["pull"] = lambda params: unravel(pull(vectors.ravel(params), weights, shared, own))
            how |= {"with_gradient": True} if rule.with_gradient else {}
        params = unravel(weights)
        kept = optimizer if personal is None else trainer.init(params)
        delta, trained, loss, *more = trainer.update(
            step_key, params, kept, examples, order, round_, **how
        )
        delta = vectors.ravel(delta)
        norm = vectors.norm(delta)
        finite = jnp.isfinite(norm)
        gradient = None
        if rule is not None and rule.with_gradient:
            gradient = vectors.ravel(*more)
            finite = finite & jnp.all(jnp.isfinite(gradient))
            gradient = jnp.where(finite & participates, gradient, 0.0)
        made = None
        if personal is not None:
            towards = personal.pull

            def pull_of_own(params: ArrayTree) -> ArrayTree:
                vector = vectors.ravel(params)
                return unravel(towards(vector, mine, shared_personal, own_personal))

            made, trained, *_ = trainer.update(
                *(step_key, unravel(mine), optimizer, examples, order, round_), pull=pull_of_own
            )
            made = vectors.ravel(made)
            finite = finite & jnp.isfinite(vectors.norm(made))
            made = jnp.where(finite & participates, made, 0.0)
        present = finite & participates
        delta = jnp.where(present, delta, 0.0)
        optimizer = jax.tree.map(lambda n, o: jnp.where(present, n, o), trained, optimizer)
        norm = jnp.where(present, norm, 0.0)
        nonfinite = participates & ~finite
        sent = _Sent(delta, norm, present, nonfinite, loss, start_loss, of_each, gradient, made)
        return sent, optimizer

    return one


def _check_reads(trainer: Trainer, rule: Local | None) -> None:
    """Refuses a trainer that cannot do what the algorithm changes in local training."""
    if rule is None:
        return
    try:
        given = inspect.signature(trainer.update).parameters
    except (TypeError, ValueError):  # a callable without one: it is tried
        return
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in given.values()):
        return
    asked = ("pull", "with_gradient") if rule.with_gradient else ("pull",)
    if missing := [name for name in asked if name not in given]:
        raise ValueError(
            "the algorithm changes local training (Algorithm.local), and Trainer.update has no "
            f"{' and no '.join(missing)}: see cgsv_jax.Trainer for what it must do with it"
        )


def round_(
    key: PRNGKey,
    state: State,
    data: Dataset,
    clients: Clients,
    federation: Federation,
    orders: Array | None = None,
) -> tuple[State, Record]:
    """One round: local training, upload, aggregation, contribution, reward, download.

    Args:
      key: of the run.
      state: before the round.
      data: the examples.
      clients: who holds which, from which round on, and who cheats.
      federation: how they train and what the server does.
      orders: as in `train`.

    Returns:
      The state after the round and the round's Record, N rows.
    """

    def box(
        state: State,
        clients: Clients,
        orders: Array | None,
        participates: Array | None,
        as_seen: Callable[[Upload], Upload],
    ) -> tuple[State, Record]:
        participates = _chosen(key, state, clients, participates, federation.algorithm)
        state = _from_the_server(key, state, clients, participates, federation)
        upload, optimizer = train(key, state, data, clients, federation, orders, participates)
        upload = _forged(key, as_seen(upload), clients.conduct, state, federation.attack)
        return serve(key, state, upload, optimizer, federation)

    presence_key = _key_of(key, _PRESENCE, state.round)
    of_participants = participation_lib.of_participants(box, presence_key, federation)
    return of_participants(_parted(state, federation), checks.counted(clients), orders)


def _parted(state: State, federation: Federation) -> State:
    """The state in which w_i = w_N for all, where the one model becomes everybody's own."""
    algorithm = federation.algorithm
    if algorithm.parts is None:
        return state
    models = jnp.where(algorithm.parts(state.round), models_of(state, algorithm), state.clients)
    return state._replace(clients=layout.keep_sharded(models, federation.settings.mesh))


def _key_of(key: PRNGKey, use: int, round_: Array) -> PRNGKey:
    return jax.random.fold_in(jax.random.fold_in(key, use), round_)


def _numbers(clients: Clients) -> Array:
    """The client of each row, [N]."""
    numbers = clients.numbers
    return jnp.arange(clients.mask.shape[0]) if numbers is None else jnp.asarray(numbers)


def _chosen(
    key: PRNGKey,
    state: State,
    clients: Clients,
    participates: Array | None,
    algorithm: Algorithm,
) -> Array | None:
    """Of those who would take part, whom the algorithm takes: [N] bool, None for everybody."""
    if algorithm.chooses is None:
        return participates
    numbers = _numbers(clients)
    would = jnp.ones(numbers.shape, bool) if participates is None else participates
    choice_key = _key_of(key, _CHOICE, state.round)
    return would & algorithm.chooses(choice_key, state.round, state.algorithm, numbers, would)


def _from_the_server(
    key: PRNGKey,
    state: State,
    clients: Clients,
    participates: Array | None,
    federation: Federation,
) -> State:
    """The state in which w_i = w_N where a client starts the round from the server's model.

    Private entries are its own nevertheless.
    """
    algorithm, mesh = federation.algorithm, federation.settings.mesh
    if algorithm.common is None and algorithm.recovers is None:
        return state
    starts = False if algorithm.common is None else algorithm.common(state.round)
    if algorithm.recovers is not None:
        recovery_key = _key_of(key, _RECOVERY, state.round)
        starts = starts | algorithm.recovers(recovery_key, state.round, _numbers(clients))
    starts = starts & (True if participates is None else participates)
    starts = jnp.broadcast_to(starts, clients.mask.shape[:1])
    starts = layout.pad_rows(starts, state.clients.shape[0])
    given = starts[:, None] & _shared(state, algorithm)
    models = jnp.where(given, state.server[None, :], state.clients)
    return state._replace(clients=layout.keep_sharded(models, mesh))


def _shared(state: State, algorithm: Algorithm) -> Array:
    """Which entries the server holds for all, [1, D] bool, or [1, 1] where it is every one."""
    if not algorithm.private:
        return jnp.ones((1, 1), bool)
    return ~vectors.within(algorithm.private, state.server.size)[None, :]


def _forged(
    key: PRNGKey, upload: Upload, conduct: Conduct | None, state: State, attack: Attack | None
) -> Upload:
    """The upload after the attack; a forged update that is not finite makes its client absent."""
    if attack is None or conduct is None:
        return upload
    deltas = attack.forge(_key_of(key, _ATTACK, state.round), upload, conduct, state.attack)
    norms = vectors.norms(deltas)
    finite = jnp.isfinite(norms)
    present = upload.present & finite
    return upload._replace(
        deltas=jnp.where(present[:, None], deltas, 0.0),
        norms=jnp.where(present, norms, 0.0),
        present=present,
        nonfinite=jnp.asarray(upload.nonfinite) | (upload.present & ~finite),
    )


def serve(
    key: PRNGKey, state: State, upload: Upload, optimizer: ArrayTree, federation: Federation
) -> tuple[State, Record]:
    """The server's half of a round: aggregation, contribution, reward, download.

    Whatever the rules compute, no model leaves the finite numbers: an entry that would stays as it
    is.

    Args:
      key: of the run.
      state: before the round.
      upload: from `train`.
      optimizer: the clients' optimizer states after training, leaves [rows, ...].
      federation: its algorithm, its attack (attackers may remember what they receive) and mesh.

    Returns:
      The state after the round and the round's Record, N rows.
    """
    algorithm, attack, mesh = federation.algorithm, federation.attack, federation.settings.mesh
    rules_key = _key_of(key, _ALGORITHM, state.round)
    download, standing, rules = algorithm.update(rules_key, upload, state.algorithm)
    dtype = state.server.dtype  # the model's, whatever the rules compute in
    rewards = layout.pad_rows(download.rewards.astype(dtype), state.clients.shape[0])
    work = None
    if download.held is not None:
        work = _work(federation, download.held & upload.present[:, None])
        held = download.held | ~upload.present[:, None]
        held = layout.pad_rows(held, state.clients.shape[0], True)
        shapes = jax.eval_shape(federation.model.init, jax.random.key(0))
        optimizer = local.forgotten(federation.trainer, shapes, optimizer, held)
    memory = state.attack
    if attack is not None:
        memory = attack.receive(_as_received(download, upload, algorithm), upload.present, memory)
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
    present = upload.present if download.present is None else download.present
    record = Record(
        score=standing.score,
        reputation=standing.reputation,
        weight=download.weights,
        quota=download.quota,
        present=present,
        loss=jnp.where(present, upload.loss, jnp.nan),
        norm=upload.norms,
        energy=_received(download),
        nonfinite=jnp.zeros_like(present) if upload.nonfinite is None else upload.nonfinite,
        work=work,
    )
    return state, record


def _work(federation: Federation, held: Array) -> Array | None:
    """Multiplications [N] of models of which [N, D] entries are on; None: nobody knows them."""
    if federation.model.units is None:
        return None
    times = jnp.asarray(federation.model.units().times, float)
    return jnp.sum(jnp.where(held, times[None, :], 0.0), axis=1)


def _finite(new: Array, old: Array) -> Array:
    return jnp.where(jnp.isfinite(new), new, old)


def _as_received(download: Download, upload: Upload, algorithm: Algorithm) -> Download:
    """The download as attackers know it: what moves a personal model is no message of a server."""
    if not algorithm.needs.personal:
        return download
    sent = jnp.where(upload.present[:, None], download.aggregate[None, :], 0.0)
    return download._replace(rewards=sent.astype(download.rewards.dtype))


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
    federation: Federation,
    rounds: int,
    orders: Array | None = None,
) -> State:
    """`settings.rounds` further rounds without a server, before round 0 of a run.

    Some methods need to know what each client reaches alone. So everybody first trains as in the
    standalone baseline: in the same rounds, from the same start, in the same orders, honestly.
    After the last of `rounds` in all, the accuracies on the server's validation rows (on the test
    rows with `settings.alone_on_test`) are `State.alone`, and everything else is as it was before.

    Args:
      key: of the run.
      state: from `init` with `settings.alone`, or from a call of this function.
      data: as in `train`, with validation rows.
      clients: as in `train`.
      federation: of the run; its settings say how many rounds to go on for.
      rounds: T of the run.
      orders: [T, N, E, M], or drawn.

    Raises:
      ValueError: there are no validation rows.
    """
    judged_on = data.validation
    if federation.settings.alone_on_test:
        judged_on = data.test_inputs, data.test_labels
    if judged_on is None or not len(judged_on[1]):
        raise ValueError("what clients reach alone is judged on validation rows, there are none")

    def keep_own(
        key: PRNGKey, upload: Upload, rules: ArrayTree
    ) -> tuple[Download, Standing, ArrayTree]:
        nothing = jnp.zeros_like(upload.norms)
        quota = jnp.zeros(nothing.shape, jnp.int32)
        stays = jnp.zeros_like(upload.server)
        own = Download(stays, nothing, upload.deltas, quota, nothing)
        return own, Standing(nothing, nothing), rules

    without_server = Algorithm(federation.algorithm.init, keep_own)
    federation = federation._replace(algorithm=without_server, attack=None)

    def one_round(state: State, orders: Array | None) -> tuple[State, None]:
        return round_(key, state, data, clients, federation, orders)[0], None

    state, _ = jax.lax.scan(one_round, state, orders, federation.settings.rounds)
    count = clients.mask.shape[0]
    inputs, labels = judged_on
    plain = federation._replace(settings=federation.settings._replace(answers=False))
    reached = evaluate(state, inputs, labels, plain).accuracy[:count]
    start = init(key, count, federation)
    start = start._replace(algorithm=state.algorithm, attack=state.attack, alone=reached)
    through = state.round >= rounds
    return jax.tree.map(lambda new, old: jnp.where(through, new, old), start, state)


def evaluate(
    state: State,
    inputs: Array,
    labels: Array,
    federation: Federation,
    chosen: Array | None = None,
    validation: tuple[Array, Array] | None = None,
    own: tuple[Array, Array, Array, Array] | None = None,
) -> Evaluation:
    """Accuracy and mean negative log-likelihood of all models, and how far from the server's.

    Where the algorithm has one model for all, the server's is everybody's.

    Args:
      state: the models, clients [N, D] and server [D].
      inputs: [n, ...].
      labels: [n].
      federation: its model, evaluated without a key; its algorithm; rows per forward pass and the
        layout, and whether to keep the examples apart.
      chosen: [K] which clients; None: every row of `state.clients`.
      validation: inputs [n_val, ...] and labels [n_val] on which clients' models are judged too.
      own: on what every client is judged by itself: inputs [m, ...] that all share, and rows of
        them, which of these count, and their labels, [N, H].

    Returns:
      An Evaluation of one moment; clients' arrays [K] or [N], answers with an axis [n] more.
    """
    model, _, algorithm, settings, *_ = federation
    inputs, labels = jax.tree.map(jnp.asarray, (checks.native(inputs), checks.counted(labels)))
    if validation is not None:
        held = checks.native(validation[0]), checks.counted(validation[1])
        validation = jax.tree.map(jnp.asarray, held)
    one_model = evaluation_lib.scorer(model, settings.eval_batch)
    answered = evaluation_lib.answerer(model, settings.eval_batch)
    on_own = evaluation_lib.own_accuracy(model, settings.eval_batch)

    def one_client(
        inputs: Array,
        labels: Array,
        server: Array,
        validation: tuple[Array, Array] | None,
        own_inputs: Array | None,
        weights: Array,
        slots: tuple[Array, Array, Array] | None,
    ) -> tuple[Array, Array, Array, Array | None, Answers | None, Array | None]:
        # Here, where one client's model is at hand: no [N, D] of differences exists.
        distance = vectors.distances(weights[None, :], server)[0]
        held = None if validation is None else one_model(*validation, weights)[0]
        own = None if slots is None else on_own(own_inputs, *slots, weights)
        if settings.answers:
            accuracy, loss, answers = answered(inputs, labels, weights)
            return accuracy, loss, distance, held, answers, own
        return *one_model(inputs, labels, weights), distance, held, None, own

    weights = models_of(state, algorithm)
    own_inputs, *slots = own or (None,)
    if chosen is not None:
        weights, slots = jax.tree.map(lambda x: x[chosen], (weights, slots))
        weights = layout.pad_rows(weights, layout.rows_on(chosen.size, settings.mesh))
    # Rows that only fill up a device have no slot that counts.
    slots = tuple(layout.pad_rows(x, weights.shape[0]) for x in slots) or None
    width = settings.eval_width or settings.width
    shared = inputs, labels, state.server, validation, own_inputs
    results = over_clients(one_client, width, mesh=settings.mesh, shared=shared)(weights, slots)
    if chosen is not None:
        results = jax.tree.map(lambda x: x[: chosen.size], results)
    accuracy, loss, distance, held, answers, of_own = results
    server = one_model(inputs, labels, state.server)
    return Evaluation(state.round, accuracy, loss, distance, *server, held, answers, of_own)


def models_of(state: State, algorithm: Algorithm) -> Array:
    """The clients' models as they are evaluated, [rows, D]: the server's where all share one.

    Of a model with private entries they share the others.
    """
    if algorithm.common is None:
        return state.clients
    given = algorithm.common(state.round) & _shared(state, algorithm)
    return jnp.where(given, state.server[None, :], state.clients)


def advance(
    key: PRNGKey,
    state: State,
    data: Dataset,
    clients: Clients,
    federation: Federation,
    orders: Array | None = None,
    chosen: Array | None = None,
    evaluated: bool = True,
    validation: tuple[Array, Array] | None = None,
) -> tuple[State, Record, Evaluation]:
    """`settings.rounds` further rounds, evaluated after every k-th and after the last.

    Args:
      key: of the run, the same in every call.
      state: where to go on from.
      data: as in `train`.
      clients: as in `train`.
      federation: how they train, what the server does; T, E, k and the layout.
      orders: [T, N, E, M], or drawn.
      chosen: [K] which clients to evaluate; None: all.
      evaluated: False for rounds that end before the next evaluation.
      validation: inputs and labels on which evaluations judge clients' models too. Rules see those
        of `data` alone.

    Returns:
      The state, Record [T, N] and Evaluation [ceil(T / k), ...], or [0, ...] if not evaluated.

    Raises:
      ValueError: a part is of another kind, a number out of range, or the arrays do not belong
        together (see `checks.complaints`; their values are only looked at outside of
        transformations).
    """
    _check(key, data, clients, federation)
    data, clients = checks.canonical(data, clients)
    rounds = federation.settings.rounds
    every = min(federation.settings.eval_every, rounds)
    count = clients.mask.shape[0]

    own = _own_rows(data, clients)

    def one_round(state: State, orders: Array | None) -> tuple[State, Record]:
        return round_(key, state, data, clients, federation, orders)

    def evaluation_of(state: State) -> Evaluation:
        tested = data.test_inputs, data.test_labels
        result = evaluate(state, *tested, federation, chosen, validation, own)
        if chosen is None:  # without the rows that only fill up a device
            fields = {name: getattr(result, name) for name in (*PER_CLIENT, "answers")}
            result = result._replace(**jax.tree.map(lambda x: x[:count], fields))
        return result

    def block(
        state: State, orders: Array | None, length: int
    ) -> tuple[State, tuple[Record, Evaluation]]:
        state, record = jax.lax.scan(one_round, state, orders, length)
        return state, (record, evaluation_of(state))

    if not evaluated:
        state, record = jax.lax.scan(one_round, state, orders, rounds)
        nothing = jax.tree.map(
            lambda x: jnp.zeros((0, *x.shape), x.dtype), jax.eval_shape(evaluation_of, state)
        )
        return state, record, nothing

    whole, rest = divmod(rounds, every)
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


def _own_rows(data: Dataset, clients: Clients) -> tuple[Array, Array, Array, Array] | None:
    """What `evaluate` judges every client on by itself; None where nobody has rows of its own."""
    if clients.own_rows is None or clients.own_mask is None:
        return None
    inputs, own_labels, rows, mask = map(
        jnp.asarray, (data.inputs, data.labels, clients.own_rows, clients.own_mask)
    )
    if clients.own_labels is None:
        return inputs, rows, mask, own_labels[rows]
    return inputs, rows, mask, jnp.asarray(clients.own_labels)


def run(
    key: PRNGKey,
    data: Dataset,
    clients: Clients,
    federation: Federation | None = None,
    orders: Array | None = None,
    chosen: Array | None = None,
    **parts: Any,
) -> tuple[State, Record, Evaluation]:
    """A whole run from w_0: `init`, then `advance`. Pure: jit it, vmap it over keys.

    With `settings.alone`, `train_alone` comes between.

    Args:
      key: of the run.
      data: the examples, to train on and to test with.
      clients: who holds which.
      federation: how they train and what the server does.
      orders: [T, N, E, M], or drawn.
      chosen: [K] which clients to evaluate; None: all.
      **parts: deprecated, the fields of the federation by name in its place.

    Returns:
      The final State, Record [T, N] and Evaluation [ceil(T / eval_every), ...].

    Raises:
      ValueError: as `advance` does.
      TypeError: both a federation and parts are given, or parts are missing.
    """
    if federation is None:
        warnings.warn(
            "run(..., model=, trainer=, ...) is deprecated, use "
            "run(key, data, clients, cgsv_jax.Federation(model, trainer, ...))",
            DeprecationWarning,
            stacklevel=2,
        )
        federation = Federation(**parts)
    elif parts:
        raise TypeError(f"run() got a federation and {', '.join(parts)} beside it")
    _check(key, data, clients, federation)
    settings = federation.settings
    state = init(key, clients.mask.shape[0], federation)
    if settings.alone:
        state = train_alone(key, state, data, clients, federation, settings.rounds, orders)
    return advance(key, state, data, clients, federation, orders, chosen)


def _check(key: PRNGKey, data: Dataset, clients: Clients, federation: Federation) -> None:
    """Refuses parts of another kind, settings out of range, arrays that do not belong together."""
    checks.kinds(
        federation=(
            federation,
            Federation,
            "cgsv_jax.Federation(model, trainer, algorithm, settings)",
        )
    )
    model, trainer, algorithm, settings, participation, attack = federation
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
    checks.check(data, clients, model)
