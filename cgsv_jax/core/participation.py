"""Who takes part in a round: everybody, a cohort that is drawn or given, less those who drop out.

A cohort costs what the cohort costs: `take` gathers its rows of everything, the round is computed
on these, and `put` scatters them back.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cgsv_jax.core import checks, layout, vectors
from cgsv_jax.types import (
    Array,
    ArrayTree,
    Clients,
    Federation,
    Participation,
    PRNGKey,
    Record,
    State,
    Upload,
)

# Share of a draw by reputation that is uniform: whoever fell to the floor must be heard again.
UNIFORM = 0.1


def everybody(dropout: Array | float = 0.0) -> Participation:
    """All clients that have joined, in every round."""
    checks.numbers(dropout=dropout)
    return Participation(None, None, dropout)


def uniform(size: int, dropout: Array | float = 0.0) -> Participation:
    """A cohort of C clients, each as likely as every other, without replacement.

    Args:
      size: C >= 1.
      dropout: probability in [0, 1) of each member's not taking part after all.

    Raises:
      ValueError: size < 1.
    """

    def weight(reputation: Array) -> Array:
        return jnp.ones_like(reputation)

    return _drawn(size, weight, dropout)


def by_reputation(size: int, dropout: Array | float = 0.0) -> Participation:
    """A cohort of C clients, one after another with p_i = .9 r_i / sum r + .1 / N of those left.

    A client that has never been heard has no reputation and counts as one with the mean, 1 / N.

    Args:
      size: C >= 1.
      dropout: probability in [0, 1) of each member's not taking part after all.

    Raises:
      ValueError: size < 1.
    """

    def weight(reputation: Array) -> Array:
        mean = 1 / reputation.size
        r = jnp.where(reputation > 0, reputation, mean)
        return (1 - UNIFORM) * r / jnp.sum(r) + UNIFORM * mean

    return _drawn(size, weight, dropout)


def given(schedule: Array, dropout: Array | float = 0.0) -> Participation:
    """The clients [C] of every round, by number, as listed; after the last round from the first.

    Args:
      schedule: [T, C] int32; -1 for nobody. A client may not stand in a row twice.
      dropout: probability in [0, 1) of each member's not taking part after all.

    Raises:
      ValueError: not a table of whole numbers, or with no round or no client in it; a client twice
        in a round, or (when traced) one that is not among the N.
    """
    checks.numbers(dropout=dropout)
    schedule = checks.array("schedule", schedule)
    if schedule.ndim != 2 or not schedule.size or schedule.dtype.kind != "i":
        raise ValueError(
            f"a schedule is [T, C] whole numbers, got {schedule.dtype}{schedule.shape}"
        )
    most = -1  # the largest number, where it is known
    if checks.known(schedule):
        rows = np.sort(np.asarray(schedule), axis=1)
        most, twice = (
            int(rows.max()),
            rows[:, 1:][(rows[:, 1:] == rows[:, :-1]) & (rows[:, 1:] >= 0)],
        )
        if rows.min() < -1 or twice.size:
            wrong = f"client {twice[0]} twice in a round" if twice.size else f"{rows.min()}"
            raise ValueError(
                f"schedule holds {wrong}, a round must hold distinct clients from 0, -1 for nobody"
            )
    schedule = jnp.asarray(schedule)

    def draw(
        key: PRNGKey, round_: Array, numbers: Array, reputation: Array, joined: Array
    ) -> Array:
        del key, reputation
        if most >= numbers.size:
            raise ValueError(
                f"schedule holds client {most}, it must hold clients from 0 to {numbers.size - 1}"
            )
        listed = schedule[round_ % schedule.shape[0]]
        rows = jnp.argsort(numbers).astype(jnp.int32)  # the row of every number
        participates = (listed >= 0) & joined[rows[listed]]
        return jnp.sort(jnp.where(participates, rows[listed], numbers.size))

    return Participation(schedule.shape[1], draw, dropout)


def _drawn(size: int, weight: Callable[[Array], Array], dropout: Array | float) -> Participation:
    checks.numbers(dropout=dropout)
    checks.numbers("cohort", size=size)

    def draw(
        key: PRNGKey, round_: Array, numbers: Array, reputation: Array, joined: Array
    ) -> Array:
        del round_  # it is in the key
        count = numbers.size
        keys = vectors.draws(key, numbers, count)
        # The C largest of log p_i + Gumbel noise are C draws without replacement.
        noise = jax.vmap(lambda k: jax.random.gumbel(k, (), reputation.dtype))(keys)
        lots = jnp.where(joined, jnp.log(weight(reputation)) + noise, -jnp.inf)
        # A tie would go by row, and rows are dealt to devices: but noise has 2^23 values and more.
        highest, members = jax.lax.top_k(lots, min(size, count))
        members = jnp.where(highest > -jnp.inf, members, count).astype(jnp.int32)
        return jnp.sort(members)

    return Participation(size, draw, dropout)


# ---------------------------------------------------------------- who takes part


def of_participants(
    round_: Callable[..., tuple[State, Record]], key: PRNGKey, federation: Federation
) -> Callable[[State, Clients, Array | None], tuple[State, Record]]:
    """Wraps a round of the clients that it is given, so that it is one of those who take part.

    Args:
      round_: (state, clients, orders, participates, as_seen) -> (state, record), of N clients or of
        a cohort. `participates` [N] bool is None where everybody does; `as_seen` turns the uploads
        that clients send into what the rules see.
      key: of the round.
      federation: its participation, its algorithm's `init` and its mesh.

    Returns:
      (state, clients, orders) -> (state, record), of all N clients.
    """

    def wrapped(state: State, clients: Clients, orders: Array | None) -> tuple[State, Record]:
        participates = members = None
        if federation.participation is not None or clients.joins is not None:
            participates, members = who(key, federation.participation, state, clients)
        if members is None:
            return round_(state, clients, orders, participates, lambda upload: upload)
        init, mesh = federation.algorithm.init, federation.settings.mesh
        of_cohort = gather(state, clients, members, init, mesh)
        orders = None if orders is None else take(jnp.asarray(orders), members)
        as_seen = functools.partial(as_cohort, everybody=clients, members=members)
        cohort, record = round_(*of_cohort, orders, participates, as_seen)
        return scatter(state, cohort, record, members, init, mesh)

    return wrapped


def who(
    key: PRNGKey, participation: Participation | None, state: State, clients: Clients
) -> tuple[Array, Array | None]:
    """Who takes part in this round, and the rows of the cohort if there is one.

    Args:
      key: of the round.
      participation: None: everybody.
      state: before the round, of N clients.
      clients: N of them; `joins` says from which round on.

    Returns:
      participates [N] bool and None; or, of a cohort, participates [C + 1] and members [C + 1]
      int32. The last row is the placeholder of all who stay away; its place, as that of every
      missing member, lies beyond every array.
    """
    participation = participation or everybody()
    count = clients.mask.shape[0]
    numbers = jnp.arange(count) if clients.numbers is None else jnp.asarray(clients.numbers)
    draw_key, drop_key = jax.random.split(key)
    joined = jnp.ones(count, bool)
    if clients.joins is not None:
        joined = state.round >= jnp.asarray(clients.joins)

    def stay(numbers: Array) -> Array:
        keys = vectors.draws(drop_key, numbers, numbers.size)
        return jax.vmap(lambda k: ~jax.random.bernoulli(k, participation.dropout))(keys)

    if participation.size is None or participation.draw is None:
        return joined & stay(numbers), None
    members = participation.draw(draw_key, state.round, numbers, state.reputation, joined)
    members = jnp.append(members, count)
    # Only members may drop out, so draws are made for them alone.
    participates = stay(take(numbers, members)) & (members < count)
    members = jnp.where(members < count, members, state.clients.shape[0]).astype(jnp.int32)
    return participates, members


# ---------------------------------------------------------------- the rows of a cohort


def take(tree: ArrayTree, members: Array) -> ArrayTree:
    """Rows of every leaf [N, ...]: those of `members` [C], zeros for nobody."""
    return jax.tree.map(lambda x: jnp.asarray(x).at[members].get(mode="fill", fill_value=0), tree)


def put(tree: ArrayTree, members: Array, rows: ArrayTree) -> ArrayTree:
    """The tree with `rows` [C, ...] in place of those of `members`; nobody's are dropped."""
    return jax.tree.map(lambda x, y: x.at[members].set(y, mode="drop"), tree, rows)


def by_row(
    init: Callable[[int, int], ArrayTree], num_clients: int, num_parameters: int
) -> tuple[bool, ...]:
    """Which leaves of an algorithm's state have a row per client: read off two abstract states.

    Raises:
      ValueError: a leaf grows with N otherwise than by rows, so that no part of it is a cohort's.
    """

    def leaves(number: int) -> list[jax.ShapeDtypeStruct]:
        return jax.tree.leaves(jax.eval_shape(lambda: init(number, num_parameters)))

    mine = leaves(num_clients)
    try:  # a rule may refuse more clients, or fewer
        theirs = leaves(num_clients - 1 if num_clients > 1 else 2)
    except ValueError:
        theirs = leaves(num_clients + 1)
    flags = []
    for leaf, like in zip(mine, theirs, strict=True):
        grows = leaf.shape != like.shape
        if grows and (leaf.shape[0], *like.shape[1:]) != (num_clients, *leaf.shape[1:]):
            raise ValueError(
                f"the algorithm keeps an array {leaf.shape} for {num_clients} clients, of which "
                "there is no part for a cohort: it must be [N, ...]"
            )
        flags.append(grows)
    return tuple(flags)


def gather(
    state: State,
    clients: Clients,
    members: Array,
    init: Callable[[int, int], ArrayTree],
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[State, Clients]:
    """The state and the partition of a cohort, as if it were all clients, and a placeholder row.

    The placeholder row, the last, holds the sum of the algorithm's state of those who stay away
    (`all` for flags), so a cohort's reputations sum to 1 minus theirs.

    Args:
      state: of N clients.
      clients: N.
      members: [C + 1], from `who`.
      init: the algorithm's.
      mesh: devices that share the clients.
    """
    count = clients.mask.shape[0]
    # Rows of the models, of which some only fill up a device.
    places = _places(state, members, mesh)
    numbers = jnp.arange(count) if clients.numbers is None else clients.numbers
    leaves, structure = jax.tree.flatten(state.algorithm)

    def part(leaf: jax.Array) -> jax.Array:
        if leaf.dtype == bool:
            away = jnp.all(leaf.at[members].set(True, mode="drop"), axis=0)
        else:
            away = jnp.sum(leaf.at[members].set(0, mode="drop"), axis=0, dtype=leaf.dtype)
        return take(leaf, members).at[-1].set(away)

    flags = by_row(init, count, state.server.size)
    rules = [part(x) if rows else x for x, rows in zip(leaves, flags, strict=True)]
    cohort = State(
        server=state.server,
        clients=layout.keep_sharded(take(state.clients, places), mesh),
        optimizer=layout.keep_sharded(take(state.optimizer, places), mesh),
        algorithm=jax.tree.unflatten(structure, rules),
        round=state.round,
        reputation=take(state.reputation, members),
        attack=take(state.attack, members),
        alone=take(state.alone, members),
    )
    untrained = {"own_rows": None, "own_mask": None, "own_labels": None}
    part_of = take(clients._replace(numbers=numbers, joins=None, **untrained), members)
    return cohort, part_of


def as_cohort(upload: Upload, everybody: Clients, members: Array) -> Upload:
    """The upload of a cohort as the rules see it: its last row holds the examples of all away.

    A rule's draws follow a client's rank in the cohort, by number.

    Args:
      upload: [C + 1] rows.
      everybody: N clients.
      members: [C + 1], from `who`.
    """
    sizes = jnp.asarray(everybody.sizes)
    # The sum may overflow int32: clamp it to the largest float32 below 2^31.
    away = jnp.sum(sizes.at[members].set(0, mode="drop").astype(jnp.float32))
    away = jnp.minimum(away, 2.0**31 - 128).astype(jnp.int32)
    nobody = jnp.arange(members.size) == members.size - 1
    order = jnp.argsort(jnp.where(nobody, jnp.iinfo(jnp.int32).max, jnp.asarray(upload.numbers)))
    return upload._replace(
        population=sizes.size,
        num_examples=jnp.asarray(upload.num_examples).at[-1].set(away),
        numbers=jnp.argsort(order).astype(jnp.int32),
    )


def scatter(
    state: State,
    cohort: State,
    record: Record,
    members: Array,
    init: Callable[[int, int], ArrayTree],
    mesh: jax.sharding.Mesh | None = None,
) -> tuple[State, Record]:
    """The state of all N clients after a cohort's round, and their record.

    Who stays away keeps model, optimizer state, reputation and whatever a rule remembers of it.

    Args:
      state: before the round, of N clients.
      cohort: after it, of the cohort.
      record: [C + 1] of the cohort.
      members: [C + 1], from `who`.
      init: the algorithm's.
      mesh: devices that share the clients.
    """
    count = state.reputation.size
    places = _places(state, members, mesh)
    leaves, structure = jax.tree.flatten(state.algorithm)
    flags = by_row(init, count, state.server.size)
    pairs = zip(leaves, jax.tree.leaves(cohort.algorithm), flags, strict=True)
    rules = [put(x, members, y) if rows else y for x, y, rows in pairs]
    whole = State(
        server=cohort.server,
        clients=layout.keep_sharded(put(state.clients, places, cohort.clients), mesh),
        optimizer=layout.keep_sharded(put(state.optimizer, places, cohort.optimizer), mesh),
        algorithm=jax.tree.unflatten(structure, rules),
        round=cohort.round,
        reputation=put(state.reputation, members, cohort.reputation),
        attack=put(state.attack, members, cohort.attack),
        alone=state.alone,
    )
    nothing = jax.tree.map(lambda x: jnp.zeros(count, x.dtype), record)
    nothing = nothing._replace(
        reputation=state.reputation.astype(record.reputation.dtype),
        loss=jnp.full(count, jnp.nan, record.loss.dtype),
    )
    return whole, put(nothing, members, record)


def _places(state: State, members: Array, mesh: jax.sharding.Mesh | None) -> Array:
    rows = layout.rows_on(members.size, mesh)
    return layout.pad_rows(members, rows, state.clients.shape[0])
