"""What the server sent to whom in its last rounds, from u_N and a number per entry and client.

Of rewards that are parts of u_N the larger contains the smaller. An entry that c clients received
went to the c clients with the most entries, so the c of every entry and the place of every client
say who received what: k (2 D + 2 N) numbers for k rounds, where the rewards themselves are k N D.
"""

import jax.numpy as jnp

from cgsv_jax.types import Array, Sent, Upload


def nothing(num_clients: int, num_parameters: int, rounds: int) -> Sent:
    """Before the first round."""
    return Sent(
        aggregate=jnp.zeros((rounds, num_parameters)),
        takers=jnp.zeros((rounds, num_parameters), jnp.int32),
        made=jnp.full(rounds, -1, jnp.int32),
        place=jnp.zeros((num_clients, rounds), jnp.int32),
        heard=jnp.full((num_clients, rounds), -1, jnp.int32),
    )


def remembered(sent: Sent, round_: Array, aggregate: Array, rewards: Array, present: Array) -> Sent:
    """With this round in place of the oldest. A client that is absent was sent nothing in it.

    Args:
      sent: of the rounds before.
      round_: [], this one.
      aggregate: [D] u_N.
      rewards: [N, D] v_i.
      present: [N] bool.
    """
    slot = round_ % sent.made.size
    got = (rewards != 0) & present[:, None]
    counts = jnp.sum(got, axis=1, dtype=jnp.int32)
    place = jnp.searchsorted(jnp.sort(-counts), -counts, side="left").astype(jnp.int32)

    def put(rows: Array, row: Array) -> Array:
        return jnp.asarray(rows).at[slot].set(row.astype(rows.dtype))

    def put_present(columns: Array, column: Array) -> Array:
        column = jnp.where(present, column, columns[:, slot])
        return jnp.asarray(columns).at[:, slot].set(column)

    return Sent(
        aggregate=put(sent.aggregate, aggregate),
        takers=put(sent.takers, jnp.sum(got, axis=0, dtype=jnp.int32)),
        made=put(sent.made, round_),
        place=put_present(sent.place, place),
        heard=put_present(sent.heard, round_),
    )


def recent(upload: Upload, rounds: int) -> Sent:
    """What was sent in the last rounds, of which the server may remember more.

    Raises:
      ValueError: (when traced) the upload does not carry what was sent.
    """
    if upload.sent is None:
        raise ValueError("this rule needs uploads with what was sent, see Needs.sent")
    made = upload.sent.made
    return upload.sent._replace(made=jnp.where(made >= upload.round - rounds, made, -1))


def received(sent: Sent, slot: int) -> Array:
    """v_i of the round in a slot, [N, D]; 0 where a client was absent, or the round is none yet.

    Where rewards are not entries of u_N as they are (scaled ones), they are the same up to length.
    """
    heard = (sent.heard[:, slot] == sent.made[slot]) & (sent.made[slot] >= 0)
    mine = heard[:, None] & (sent.place[:, slot][:, None] < sent.takers[slot][None, :])
    return jnp.where(mine, sent.aggregate[slot][None, :], 0.0)
