"""Fair yet asymptotically equal: contributions first, then chances to take part by these."""

import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from cgsv_jax.core import checks, vectors
from cgsv_jax.core.ranges import Interval, from_
from cgsv_jax.rules import hotelling
from cgsv_jax.rules.contribution import games
from cgsv_jax.rules.contribution.shapley import all_values, coalitions, from_values
from cgsv_jax.rules.shares import over_present, renewed, scored
from cgsv_jax.rules.spec import Choice, Count, Number, Spec
from cgsv_jax.types import Algorithm, Array, Contribution, Download, PRNGKey, Standing, Upload

# Clients up to whom an exact phi is exact: 2^16 coalitions a round.
EXACT = 16

SELECTION_BETA = Number(
    150.0,
    Interval(0, math.inf, "[)"),
    "fair_yet_equal: 0 chooses everybody alike, more chooses by contribution",
    "selection beta",
)
SELECTED = Number(
    0.4, Interval(0, 1, "(]"), "fair_yet_equal: share of clients chosen per round", "selected"
)
STEADY = Number(
    0.7,
    Interval(0, 1),
    "fair_yet_equal: p-value of Hotelling's test above which contributions count as steady",
    "steady",
)
STEADY_ROUNDS = Count(
    15, from_(1), "fair_yet_equal: latest rounds, which are compared with those before"
)
STEADY_CLIENTS = Count(10, from_(1), "fair_yet_equal: clients, drawn, whose contributions count")
STAGE_ONE = Count(0, from_(0), "fair_yet_equal: rounds of the first stage; 0: until steady")


class FairYetEqualState(NamedTuple):
    """What the next round starts from."""

    second: Array  # [] bool, whether the second stage has begun
    phi: Array  # [N] mean of psi over the rounds of the first stage in which a client was heard
    heard: Array  # [N] int32, how many these are
    reputation: Array  # [N]
    place: Array  # [N] int32, where a client stands in the rows of `sample`, from 1; 0: nowhere
    watched: Array  # [] int32, how many stand there
    sample: hotelling.Sample  # of their psi
    # Of all clients, also where the rows above are those of a cohort.
    total: Array  # [] sum of phi
    known: Array  # [] int32, how many have been heard


def fair_yet_equal(
    selection_beta: chex.Numeric = 150.0,
    selected: chex.Numeric = 0.4,
    steady: chex.Numeric = 0.7,
    *,
    phi: str = "exact",
    stage_one: int = 0,
    steady_rounds: int = 15,
    steady_clients: int = 10,
    second_weights: str = "all",
    sends: str = "new",
) -> Algorithm:
    """FedAvg until contributions are steady; then k clients a round, drawn by these.

    First stage, everybody: u_N = sum_i n_i dw_i / sum n, phi_i the mean over rounds of client i's
    Shapley value psi_i of the game nu(S) = cos(u_S, u_N), u_S = sum_{i in S} n_i dw_i. It ends in
    the first round t > tau in which Hotelling's T² (`rules.hotelling`) of psi, of P clients drawn
    at random, against its mean over the first t - tau rounds, has a p-value above `steady`.
    Second stage: k = floor(selected N) clients, drawn without replacement with
    p_i = exp(beta phi_i) / sum_j exp(beta phi_j), start from w_N, train and count; they receive
    v_i = w_N + u_N - w_i. The others keep the models that they were last given, and age. Whoever
    contributes more is more often up to date; beta = 0 makes all equal, and with time all are.

    No validation data. O(N^2 D + 2^N N) a round of the first stage, beyond 16 clients or with drawn
    coalitions O(N^2 D + N^4); O(N D) of the second; O(tau P + P^2 + N) of state. The record's score
    is psi, in the second stage phi; its reputation the p_i.

    Where text and code (commit 34dfd30) differ, or the code does what nobody can have meant:
    local training there steps on the last batch of an epoch alone, here on all (`--local-steps`
    counts steps); its coalitions weigh updates by n_i², here by n_i (`phi="released"`: as there);
    a number of rounds given for the first stage is lost there, here it holds (`stage_one`); in the
    second stage it adds sum_{i in S} n_i dw_i / sum n over ALL clients, a step about k / N as long
    as a mean, and so does this (`second_weights="chosen"`: the mean of the chosen); it sets a
    client that was chosen back to the w_N from before the round (`sends="old"`), here it has what
    it has helped to make. A fresh slice of a stream in every round, learning rates divided by five
    and momentum are the experiment's business.

    Assumed: an absent client's phi stays, and in the test it counts as its own mean so far; who has
    never been heard counts as the mean of the others; of P clients or fewer the test watches all
    but one, since values that sum to 1 have no inverse covariance; k is of the clients that are
    there, at least 1. Everybody who takes part starts from w_N, in both stages. If contributions
    never become steady, as in fewer than tau + 1 rounds, it is FedAvg to the end.

    >>> algorithm = fair_yet_equal(selection_beta=30.0, stage_one=20)  # from round 20 on

    Args:
      selection_beta: beta >= 0; 150 with streams, 30 in reinforcement learning.
      selected: k / N in (0, 1].
      steady: p-value in [0, 1]; .7 with streams, .95 in reinforcement learning.
      phi: "exact" Shapley values up to 16 clients, drawn coalitions beyond; "sampled", drawn as in
        the code, for every client one coalition of every size; "released", these with n_i².
      stage_one: rounds of the first stage; 0: until the test.
      steady_rounds: tau >= 1.
      steady_clients: P >= 1.
      second_weights: "all" or "chosen".
      sends: "new" or "old".

    Raises:
      ValueError: a number is out of range or a word another one.

    Reference:
      Lin et al., Fair yet Asymptotically Equal Collaborative Learning, ICML 2023;
      xqlin98/Fair-yet-Equal-CML, 34dfd30. Read: abstract and code; the paper's text was not.
    """
    checks.numbers(SELECTION_BETA.allowed, selection_beta=selection_beta)
    checks.numbers(SELECTED.allowed, selected=selected)
    checks.numbers(STEADY.allowed, steady=steady)
    checks.numbers(STEADY_ROUNDS.allowed, steady_rounds=steady_rounds)
    checks.numbers(STEADY_CLIENTS.allowed, steady_clients=steady_clients)
    checks.numbers(STAGE_ONE.allowed, stage_one=stage_one)
    measure = cosine_shapley(phi)
    of_chosen = checks.choice("second_weights", second_weights, "all", "chosen") == "chosen"
    new = checks.choice("sends", sends, "new", "old") == "new"

    def init(num_clients: int, num_parameters: int) -> FairYetEqualState:
        del num_parameters
        nothing = jnp.zeros(num_clients)
        return FairYetEqualState(
            second=jnp.bool_(False),
            phi=nothing,
            heard=jnp.zeros(num_clients, jnp.int32),
            reputation=nothing,
            place=jnp.zeros(num_clients, jnp.int32),
            watched=jnp.int32(0),
            sample=hotelling.empty(steady_clients, steady_rounds),
            total=jnp.zeros(()),
            known=jnp.int32(0),
        )

    def update(
        key: jax.Array, upload: Upload, state: FairYetEqualState
    ) -> tuple[Download, Standing, FairYetEqualState]:
        present, second = upload.present, state.second
        rows = upload.num_examples.astype(upload.deltas.dtype)  # floats: int32 may not hold the sum
        weights = over_present(rows, present)
        aggregate = vectors.weighted_sum(weights, upload.deltas)
        there = jnp.sum(jnp.where(present, rows, 0.0))
        part = jnp.where(second, there / jnp.maximum(jnp.sum(rows), 1), 1.0)
        moves = aggregate if of_chosen else part * aggregate
        watch_key, value_key = jax.random.split(key)

        def valued() -> tuple[Array, FairYetEqualState]:
            psi, _ = scored(measure, value_key, upload, aggregate, weights, ())
            return psi.astype(upload.deltas.dtype), _heard(watch_key, upload, psi, state)

        def chosen() -> tuple[Array, FairYetEqualState]:
            return jnp.where(present, _known(state), 0.0).astype(upload.deltas.dtype), state

        score, state = jax.lax.cond(second, chosen, valued)
        if stage_one:
            ends = upload.round + 1 >= stage_one
        else:
            ends = hotelling.p_value(state.sample, state.watched) > steady
        chances = chances_of(selection_beta, _known(state), present)
        old = state.reputation
        reputation = renewed(chances, old, present).astype(old.dtype)
        state = state._replace(second=second | ends, reputation=reputation)
        target = upload.server + moves if new else upload.server
        rewards = jnp.where(present[:, None], target[None, :] - upload.clients, 0.0)
        quota = jnp.where(present, aggregate.size, 0).astype(jnp.int32)
        energy = present.astype(upload.norms.dtype) if new else None
        return Download(moves, weights, rewards, quota, energy), Standing(score, reputation), state

    def recovers(key: PRNGKey, round_: Array, numbers: Array) -> Array:
        del key, round_
        return jnp.ones(numbers.shape, bool)

    def chooses(
        key: PRNGKey, round_: Array, state: FairYetEqualState, numbers: Array, participates: Array
    ) -> Array:
        del round_
        drawn = _drawn(key, selection_beta * _known(state), selected, numbers, participates)
        return jnp.where(state.second, drawn, participates)

    return Algorithm(init, jax.jit(update), recovers=recovers, needs=measure.needs, chooses=chooses)


def _heard(key: PRNGKey, upload: Upload, psi: Array, state: FairYetEqualState) -> FairYetEqualState:
    """The state with one round more of psi [N]; a round in which nobody was present is none."""
    present, sample = upload.present, state.sample
    size = sample.mean.size
    count = state.heard + present
    step = (psi - state.phi) / jnp.maximum(count, 1)
    phi = jnp.where(present, state.phi + step, state.phi).astype(state.phi.dtype)
    total = (state.total + jnp.sum(phi - state.phi)).astype(state.total.dtype)
    known = state.known + jnp.sum(present & (state.heard == 0), dtype=jnp.int32)
    # The clients that the test watches are drawn in the first round.
    keys = vectors.draws(key, upload.numbers, present.size)
    lots = jax.vmap(lambda k: jax.random.uniform(k))(keys)
    order = jnp.argsort(jnp.where(present, lots, jnp.inf))
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(order.size))
    number = jnp.clip(jnp.sum(present) - 1, 1, size).astype(jnp.int32)
    first = (sample.rows == 0) & jnp.any(present)
    drawn = jnp.where(present & (rank < number), rank + 1, 0).astype(jnp.int32)
    place = jnp.where(first, drawn, state.place)
    watched = jnp.where(first, number, state.watched)
    # Where a client is absent stands its mean so far: it neither moves the mean nor adds spread.
    at = jnp.where(present & (place > 0), place - 1, size)
    row = jnp.asarray(sample.mean).at[at].set(psi.astype(sample.mean.dtype), mode="drop")
    longer = hotelling.added(sample, row)
    some = jnp.any(present)
    sample = jax.tree.map(lambda x, y: jnp.where(some, x, y).astype(y.dtype), longer, sample)
    told = {"phi": phi, "heard": count, "total": total, "known": known}
    return state._replace(place=place, watched=watched, sample=sample, **told)


def _known(state: FairYetEqualState) -> Array:
    """phi [N], of who has never been heard the mean of the others."""
    mean = (state.total / jnp.maximum(state.known, 1)).astype(state.phi.dtype)
    return jnp.where(state.heard > 0, state.phi, mean)


def chances_of(beta: chex.Numeric, phi: Array, present: Array) -> Array:
    """exp(beta phi_i) [N] of the present clients in units of the largest, 0 of the others."""
    most = jnp.max(jnp.where(present, phi, -jnp.inf))
    return jnp.where(present, jnp.exp(beta * jnp.where(present, phi - most, 0.0)), 0.0)


def _drawn(
    key: PRNGKey, logits: Array, share: chex.Numeric, numbers: Array, participates: Array
) -> Array:
    """floor(share N) of those who would take part, at least 1: [N] bool.

    The k largest of log p_i + Gumbel noise are k draws without replacement.
    """
    keys = vectors.draws(key, numbers, numbers.size)
    noise = jax.vmap(lambda k: jax.random.gumbel(k, (), logits.dtype))(keys)
    lots = jnp.where(participates, logits + noise, -jnp.inf)
    order = jnp.argsort(-lots)
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(order.size))
    # A share that float32 holds a rounding too low must not cost a client.
    whole = share * jnp.sum(participates) * (1 + 4 * jnp.finfo(logits.dtype).eps)
    return participates & (rank < jnp.maximum(jnp.floor(whole), 1))


def cosine_shapley(phi: str) -> Contribution:
    """psi_i of the game of cosines, as `fair_yet_equal` measures it.

    Args:
      phi: "exact", up to 16 clients; "sampled"; or "released", where updates weigh w_i² in
        coalitions and w_i in u_N.

    Raises:
      ValueError: another word.
    """
    checks.choice("phi", phi, "exact", "sampled", "released")

    def solution(key: jax.Array, value: games.Value, players: int) -> Array:
        if phi == "exact" and players <= EXACT:
            return from_values(all_values(value, players))
        return stratified(key, value, players)

    def of_round(upload: Upload, aggregate: Array, weights: Array) -> games.Value:
        value = games.cosine_game()(upload, aggregate, weights)
        return twice(value, weights) if phi == "released" else value

    def valuations(players: int) -> int:
        exact = phi == "exact" and players <= EXACT
        return coalitions(players) if exact else 2 * players**2

    return games.measure_of(games.Game(of_round), solution, valuations=valuations, draws=True)


def twice(value: games.Value, weights: Array) -> games.Value:
    """The game whose coalitions hold w_j of client j: u_S = sum_{j in S} w_j (w_j u_j)."""
    parts = weights / jnp.maximum(jnp.max(weights), jnp.finfo(weights.dtype).tiny)
    return lambda member: value(member.astype(parts.dtype) * parts[None, :])


def stratified(key: PRNGKey, value: games.Value, players: int) -> Array:
    """phi_i = mean over sizes k = 0 .. N - 1 of nu(S and i) - nu(S), S one of k others, drawn: [N].

    Unbiased; 2 N^2 coalitions.

    Args:
      key: draws the coalitions.
      value: nu.
      players: N.
    """
    keys = jax.random.split(key, players)

    def of_player(i: Array) -> Array:
        lots = jax.random.bits(keys[i], (players, players), jnp.uint32) >> 1
        lots = lots.at[:, i].set(jnp.uint32(0xFFFFFFFF))  # the player itself stands last
        rank = jnp.argsort(jnp.argsort(lots, axis=1), axis=1)
        return gain(value, i, rank < jnp.arange(players)[:, None])

    return games.steps(of_player, players)


def gain(value: games.Value, player: Array, before: Array) -> Array:
    """The mean of nu(S and i) - nu(S) over coalitions S [K, N] without player i, []."""
    after = before | (jnp.arange(before.shape[1]) == player)[None, :]
    values = value(jnp.concatenate([before, after]))
    return jnp.mean(values[before.shape[0] :] - values[: before.shape[0]])


FAIR_YET_EQUAL = Spec(
    fair_yet_equal,
    {
        "selection_beta": SELECTION_BETA,
        "selected": SELECTED,
        "phi": Choice(
            "exact",
            ("exact", "sampled", "released"),
            "fair_yet_equal: Shapley values exact (up to 16 clients), of drawn coalitions, or of "
            "these with weights by size squared",
        ),
        "stage_one": STAGE_ONE,
        "steady": STEADY,
        "steady_rounds": STEADY_ROUNDS,
        "steady_clients": STEADY_CLIENTS,
        "second_weights": Choice(
            "all",
            ("all", "chosen"),
            "fair_yet_equal: the chosen clients' updates are weighted by their share of all "
            "examples, or of their own",
        ),
        "sends": Choice(
            "new",
            ("new", "old"),
            "fair_yet_equal: a chosen client receives the server's model of after the round, or "
            "of before",
        ),
    },
)
