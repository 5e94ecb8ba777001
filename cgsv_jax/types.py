"""The types that cross module borders; nothing is computed here.

Shapes: N clients, M slots per client, D parameters, n rows, E local epochs, T rounds, B rows in a
batch, C classes. A plural name is stacked over clients (`deltas [N, D]`), a singular one belongs to
one client or to the server.

| paper | here | shape |
|---|---|---|
| w_{i,t} | `State.clients` | [N, D] |
| w_{N,t} | `State.server` | [D] |
| dw_i | `Upload.deltas` | [N, D] |
| u_{i,t} = Gamma dw_i / ‖dw_i‖ | `Upload.scales[:, None] * Upload.deltas`, never stored | [N, D] |
| u_{N,t} | `Download.aggregate` | [D] |
| psi_{i,t} | `Standing.score` | [N] |
| r_{i,t} | `Standing.reputation` | [N] |
| q_{i,t} | `Download.quota` | [N] |
| v_{i,t} | `Download.rewards` | [N, D] |
| Gamma, alpha, beta | `gamma`, `alpha`, `beta` of the factories | [] |
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

Array = jax.Array | np.ndarray  # what is traced, and what lies on the host
ArrayTree = Any  # arrays in tuples, lists and dicts: no type says more
PRNGKey = jax.Array


# ---------------------------------------------------------------- data, on the host


class Dataset(NamedTuple):
    """Training and test rows as arrays; `validation` is held out of every client's reach."""

    inputs: Array  # [n, ...] float32
    labels: Array  # [n] int32
    test_inputs: Array  # [n_test, ...] float32
    test_labels: Array  # [n_test] int32
    validation: tuple[Array, Array] | None = None  # inputs [n_val, ...], labels [n_val]


class Conduct(NamedTuple):
    """Which clients cheat with their uploads, and how."""

    attack: Array  # [N] int32, 0 is honest, k the k-th attack of the run (see attacks.py)
    strength: Array  # [N] float32, in the unit of the attack


class Clients(NamedTuple):
    """A partition: which rows of the training set each client holds.

    `labels` is there only where a client's labels are not the true ones; otherwise the labels are
    those of the rows. `numbers` is there only where clients are listed in another order than by
    number, for instance to share work evenly among devices: a client's draws follow its number.
    `own_rows` are rows that a client keeps to be judged on: it does not train on them.
    """

    rows: Array  # [N, M] int32, row numbers of Dataset.inputs; 0 where masked
    mask: Array  # [N, M] bool, False on padding slots
    labels: Array | None = None  # [N, M] int32
    numbers: Array | None = None  # [N] int32, client number of each row; None: in order
    joins: Array | None = None  # [N] int32, the first round a client takes part in; None: 0
    conduct: Conduct | None = None  # None: all are honest
    own_rows: Array | None = None  # [N, H] int32, likewise rows of Dataset.inputs; None: nobody has
    own_mask: Array | None = None  # [N, H] bool, False on padding slots
    own_labels: Array | None = None  # [N, H] int32; None: those of the rows

    @property
    def sizes(self) -> Array:
        """Rows per client, [N] int32."""
        return self.mask.sum(axis=-1, dtype="int32")


class Examples(NamedTuple):
    """What one client trains on: its slots, looked up in the shared training set."""

    inputs: Array  # [n, ...] shared by all clients
    rows: Array  # [M] int32, the row behind each slot
    labels: Array  # [M] int32, the label the client believes


# ---------------------------------------------------------------- models and local training


class Apply(Protocol):
    """`apply(params, inputs, key=None) -> logits`."""

    def __call__(self, params: ArrayTree, inputs: Array, key: PRNGKey | None = None) -> Array:
        """Logits [B, C] of inputs [B, ...]; no key evaluates, a key means training (dropout)."""
        ...


class Units(NamedTuple):
    """Which hidden units the parameters belong to, entry by entry of the raveled vector.

    A unit is a neuron of a dense layer or a channel of a convolution, with its activation and what
    pools it. It is switched off where the entries that feed it and those that read it are 0: its
    activation is f(0) = 0 then, and no gradient brings it back. A normalisation over units, or an
    f(0) that is not 0, does not keep it off.
    """

    feeds: Array  # [D] int32, the unit whose incoming weight or bias an entry is; -1: the output's
    reads: Array  # [D] int32, the unit whose activation it multiplies; -1: an input's, or a bias
    times: Array  # [D] int32, multiplications per example: of a convolution, its output positions
    layers: tuple[int, ...]  # hidden units of every layer, in order; H in all
    # Whether zeros in what feeds a unit are enough to keep it off, since f'(0) = 0 as relu's in
    # JAX; None: not known, the network is asked.
    incoming: bool | None = None


class Model(NamedTuple):
    """All that the simulation knows of a network; any library's network can be one.

    `units` is read by methods whose rewards are submodels alone. It raises a ValueError with the
    reason where a unit that is switched off would not stay so.
    """

    init: Callable[[PRNGKey], ArrayTree]  # key -> params
    apply: Apply
    units: Callable[[], Units] | None = None  # None: nobody said


# Places in the vector of a model: (start, stop) of every stretch of entries.
Spans = tuple[tuple[int, int], ...]


class Network(NamedTuple):
    """What a rule may know of the model: parameters are vectors to it, never a tree.

    `evaluate(weights [K, D], inputs [n, ...], labels [n]) -> (accuracy [K], loss [K])`, the loss a
    mean negative log-likelihood. `output() -> [C, F]` are the places in the vector of the last
    layer's weights and bias, a row per class; None where no such layer is known. Lazy: finding it
    takes seconds and few rules need it. `gradient(weights [D], inputs [n, ...], labels [n]) -> [D]`
    is that of the loss, of one model; None where only values are known. `units()` are those of the
    model, found to be right; None where the model does not say, and lazy too. `layers()` are the
    places of every layer's entries, in order of depth (see `evaluation.layers`).
    """

    evaluate: Callable[[Array, Array, Array], tuple[Array, Array]]
    output: Callable[[], Array | None] = lambda: None
    gradient: Callable[[Array, Array, Array], Array] | None = None
    units: Callable[[], Units | None] = lambda: None
    layers: Callable[[], tuple[Spans, ...]] = lambda: ()


class Trainer(NamedTuple):
    """Local training of ONE client; the simulation lifts it over clients.

    `update(key, params, opt_state, examples, order, round) -> (delta, opt_state, loss)` visits the
    slots of `order` [E, M'] int32 (-1 pads at the end of each epoch) and returns new minus old
    parameters as a pytree, the optimizer's state and the mean training loss of the rows visited.

    Algorithms with a `Local` need an `update` that takes keywords more; no others give them.
    `pull=None`: a function of the parameters, as a pytree, whose value is added to the gradient of
    every step. `with_gradient=False`: whether a fourth result is wanted, the mean of the gradients
    of all steps without what was added, weighted by their learning rates; a pytree too.
    """

    init: Callable[[ArrayTree], ArrayTree]  # params -> opt_state
    update: Callable[..., tuple[Any, ...]]
    learning_rate: Callable[[Array], Array]  # round [] -> eta of its first local epoch []


# ---------------------------------------------------------------- the wire


class Sent(NamedTuple):
    """What the server sent in its last k rounds, as it keeps it: no client's copy of it.

    A client receives entries of u_N, and whoever receives more of them receives all that others do:
    so how many clients got an entry says who did (see `rules.sent`).
    """

    aggregate: Array  # [k, D] u_N of the round in each slot
    takers: Array  # [k, D] int32, how many clients received each entry of it
    made: Array  # [k] int32, the round; -1 before there was one
    place: Array  # [N, k] int32, how many clients received more entries than this one
    heard: Array  # [N, k] int32, the round in which that was; -1 before there was one


class Losses(NamedTuple):
    """Losses of clients' models before training, example by example."""

    own: Array  # [N, M] on the examples in their slots
    held: Array  # [N, M] bool, False on padding slots
    validation: Array  # [N, n_val] on the server's own held-out rows


class Upload(NamedTuple):
    """What the server sees in one round.

    A client is absent if it does not take part or if its update is not finite: `present` is False
    and its row of `deltas` is 0. With a cohort of size C, arrays [N] are [C + 1]; the last row is
    an absent placeholder for all clients that do not take part.
    """

    server: Array  # [D] w_N before the round
    clients: Array  # [N, D] w_i before the round
    deltas: Array  # [N, D] dw_i, new minus old, as trained
    norms: Array  # [N] ‖dw_i‖
    scales: Array  # [N] u_i = scales_i dw_i; ones until the algorithm rescales
    present: Array  # [N] bool
    num_examples: Array  # [N] int32
    loss: Array  # [N] mean local training loss of the round; anything where absent
    learning_rate: Array  # [] of the round's first local epoch
    validation: tuple[Array, Array] | None  # the server's own held-out rows
    round: Array  # [] int32, counted from 0
    numbers: Array | None = None  # [N] int32, the client of each row; None: in order
    population: int | None = None  # N, where the rows are a cohort; None: as many as rows
    nonfinite: Array | None = None  # [N] bool, whose update was not finite
    removed: Array | None = None  # [N] bool, who is there, but taken out for good; None: nobody
    start_loss: Array | None = None  # [N] F_i(w_i) on its own rows before training, where asked for
    alone: Array | None = None  # [N] accuracy of the standalone models, where asked for
    losses: Losses | None = None  # of every example before training, where asked for
    sent: Sent | None = None  # what the server sent in the rounds before, where asked for
    own: Array | None = None  # [N, D] what training made of its own model, see `Algorithm.personal`
    gradients: Array | None = None  # [N, D] see `Local.with_gradient`, 0 where absent


class Standing(NamedTuple):
    """How the server regards each client.

    `reputation` is non-negative and sums to 1; absent clients keep theirs.
    """

    score: Array  # [N] this round's measure, psi; 0 for an absent client
    reputation: Array  # [N] r


class Download(NamedTuple):
    """What the server sends; `rewards` is the only thing that ever moves a client."""

    aggregate: Array  # [D] u_N, what moves the server
    weights: Array  # [N] the weights that made it
    rewards: Array  # [N, D] v_i
    quota: Array  # [N] int32, entries of u_N received
    energy: Array | None = None  # [N] ‖v_i‖² / ‖u_N‖²; None: measured from the rewards
    present: Array | None = None  # [N] bool, for the record; None: as in the upload
    # [N, D] bool, entries that are switched on in a client's model from now on: of all others its
    # local optimizer forgets what it has gathered. None: all are.
    held: Array | None = None


# ---------------------------------------------------------------- (init, update) pairs


def _nothing(num_clients: int) -> int:
    del num_clients
    return 0


def _nothing_sent(state: ArrayTree, server: Array, round_: Array) -> tuple[ArrayTree, ArrayTree]:
    del state, server, round_
    return (), ()


class Needs(NamedTuple):
    """What a rule asks for beside updates and what it values, said where the rule is made.

    Rules that are made of others hand on what these need (`algorithms.needs_of` adds it up). A rule
    that says nothing is given no validation rows in an experiment, and its rounds count as cheap.
    """

    validation: bool = False  # whether it reads `Upload.validation`
    start_loss: bool = False  # whether it reads `Upload.start_loss`
    losses: bool = False  # whether it reads `Upload.losses`
    alone: bool = False  # whether it reads `Upload.alone`, an accuracy on validation rows
    alone_on_test: bool = False  # or on the test rows, as authors have done
    more_rounds: int = 0  # rounds of a second stage, after the last
    afresh: bool = False  # whether local optimizers are new there, at the rate of round 0
    sent: int = 0  # rounds of which it reads `Upload.sent`
    personal: bool = False  # whether clients train a second model, see `Algorithm.personal`
    valuations: Callable[[int], int] = _nothing  # N -> models or coalitions that a round values
    # Sentences on what the rule comes to on this model, with these numbers, for whoever runs it.
    notes: tuple[str, ...] = ()

    @property
    def rows(self) -> bool:
        """Whether the server must hold validation rows."""
        return self.validation or self.losses or (self.alone and not self.alone_on_test)


class Parts(NamedTuple):
    """A measure without state that knows of an upload the cosines of some parts with those of u_N.

    `joined(cosines [P, N], present [N]) -> score [N]` is the measure.
    """

    places: Array  # [P, F] int32, of each part in the vector
    joined: Callable[[Array, Array], Array]


class Contribution(NamedTuple):
    """A contribution measure: how much each upload of this round is worth.

    `init(num_clients, num_parameters) -> state`;
    `update(key, upload, aggregate [D], weights [N], state) -> (score [N], state)`.
    """

    init: Callable[[int, int], ArrayTree]
    update: Callable[[PRNGKey, Upload, Array, Array, ArrayTree], tuple[Array, ArrayTree]]
    needs: Needs = Needs()
    parts: Parts | None = None  # None: it judges a vector as a whole


class Reputation(NamedTuple):
    """A measure with a memory: scores become reputations.

    `update(key, upload, aggregate [D], weights [N], standing, state) -> (standing, state)`.
    """

    init: Callable[[int, int], ArrayTree]
    update: Callable[
        [PRNGKey, Upload, Array, Array, Standing, ArrayTree], tuple[Standing, ArrayTree]
    ]
    needs: Needs = Needs()


class Aggregation(NamedTuple):
    """How uploads become u_N.

    `update(key, upload, standing of the previous round, state) -> (aggregate [D], weights [N],
    state)`.
    """

    init: Callable[[int, int], ArrayTree]
    update: Callable[[PRNGKey, Upload, Standing, ArrayTree], tuple[Array, Array, ArrayTree]]
    needs: Needs = Needs()


class Reward(NamedTuple):
    """What each client gets back.

    `update(key, upload, aggregate [D], standing of this round, state) -> (rewards [N, D],
    quota [N], state)`.

    `energy(upload, aggregate [D], standing of this round, quota [N]) -> ‖v_i‖² / ‖u_N‖² [N]` is an
    optional closed form, so that the rewards [N, D] need not be stored to be summed up.
    """

    init: Callable[[int, int], ArrayTree]
    update: Callable[[PRNGKey, Upload, Array, Standing, ArrayTree], tuple[Array, Array, ArrayTree]]
    energy: Callable[[Upload, Array, Standing, Array], Array] | None = None
    needs: Needs = Needs()


class Local(NamedTuple):
    """What an algorithm changes in the local training of ONE client.

    `broadcast(algorithm's state, server [D], round []) -> (shared, own)` is what the server sends
    before training: a tree for all, and one with a row [N, ...] per client; `()` for nothing.
    `pull(weights [D], start [D], shared, own) -> [D]` is added to the gradient of every local step;
    `start` are the weights that the client's round started from, `own` is its row.

    The trainer must read it (see `Trainer`). It draws nothing, and works on vectors as the server
    does, for one client: the simulation lifts it.
    """

    pull: Callable[[Array, Array, ArrayTree, ArrayTree], Array]
    broadcast: Callable[[ArrayTree, Array, Array], tuple[ArrayTree, ArrayTree]] = _nothing_sent
    # Whether clients send the mean gradient of their steps too, without the pull:
    # `Upload.gradients`, N D more.
    with_gradient: bool = False
    news: int = 0  # vectors [D] of what is broadcast that a client does not know before


class Algorithm(NamedTuple):
    """The server's side of a round; the simulation knows nothing else of a method.

    `init(num_clients, num_parameters) -> state`;
    `update(key, upload, state) -> (download, standing, state)`.

    `common(round) -> bool []`: True if all clients share one global model. Participants then start
    from the server's model and are evaluated on it. Only makes a difference after an absence.

    `parts(round) -> bool []`: whether the one model becomes every client's own before the round,
    whoever takes part in it. None: it never does.

    `recovers(key, round, numbers [N]) -> bool [N]`: which participants give up their own model and
    start from the server's.

    `private` are entries that stay with the clients: the server neither reads nor moves them, and
    starting from its model, or being evaluated on it, means all others (see `rules.private`).

    `chooses(key, round, state, numbers [N], participates [N] bool) -> bool [N]`: which of those who
    would take part do, by the algorithm's own state; a cohort, drop-outs and late joiners come
    before. The others are absent: they keep their models and all that is remembered of them.

    `local` is what it changes in clients' training; None: nothing.

    `personal` makes every participant train twice in a round, in the same order of its examples:
    the upload is what training from the server's model gives, by a new optimizer, and `Upload.own`
    what training from its own model gives, by the optimizer that stays with it, where this is what
    changes in that training. Its `broadcast` is made of the state before the round, as that of
    `local`. None: what is uploaded is the training of its own model.
    """

    init: Callable[[int, int], ArrayTree]
    update: Callable[[PRNGKey, Upload, ArrayTree], tuple[Download, Standing, ArrayTree]]
    common: Callable[[Array], Array] | None = None
    recovers: Callable[[PRNGKey, Array, Array], Array] | None = None
    needs: Needs = Needs()
    private: Spans = ()
    chooses: Callable[[PRNGKey, Array, ArrayTree, Array, Array], Array] | None = None
    local: Local | None = None
    personal: Local | None = None
    parts: Callable[[Array], Array] | None = None


class Participation(NamedTuple):
    """Who takes part in a round.

    `draw(key, round [], numbers [N], reputation [N], joined [N] bool) -> members [C] int32`, rows
    in ascending order; N stands for nobody, where fewer than C have joined. Without a size there is
    no cohort: every client that has joined takes part.
    """

    size: int | None  # C
    draw: Callable[[PRNGKey, Array, Array, Array, Array], Array] | None
    dropout: Array | float = 0.0  # probability that a client stays away that should take part


class Attack(NamedTuple):
    """The attacks of a run.

    `init(num_clients, num_parameters) -> state`;
    `forge(key, upload, conduct, state) -> deltas [N, D]`;
    `receive(download, present [N], state) -> state`, of which a client knows its own row.
    """

    init: Callable[[int, int], ArrayTree]
    forge: Callable[[PRNGKey, Upload, Conduct, ArrayTree], Array]
    receive: Callable[[Download, Array, ArrayTree], ArrayTree]


# ---------------------------------------------------------------- settings of a run


# Numbers that may be traced and vmapped, by name: changing one never recompiles. The rules declare
# which there are (`rules.spec.Number`).
Hyper = dict[str, Array]


class Settings(NamedTuple):
    """Numbers that decide shapes and programs: changing one recompiles."""

    rounds: int  # T
    epochs: int = 3  # E
    eval_every: int = 1  # rounds
    eval_batch: int = 500  # test rows per forward pass
    width: int | None = None  # clients trained at once; None: all (see layout.py)
    eval_width: int | None = None  # models evaluated at once; None: as `width`
    mesh: jax.sharding.Mesh | None = None  # devices that share the clients; None: one
    start_loss: bool = False  # whether uploads carry the loss before training (q-FFL reads it)
    losses: bool = False  # whether they carry those of every example (FedAVE reads them)
    alone: bool = False  # whether they carry what clients reach alone (IAFL may read it)
    alone_on_test: bool = False  # whether that is judged on the test rows, not on validation rows
    answers: bool = False  # whether evaluations say it of every test example


class Federation(NamedTuple):
    """All of a run but its key and its arrays: how clients train and what the server does."""

    model: Model
    trainer: Trainer
    algorithm: Algorithm
    settings: Settings
    participation: Participation | None = None  # None: everybody who has joined takes part
    attack: Attack | None = None  # of clients that cheat with their uploads; None: all are honest


# ---------------------------------------------------------------- a run: carry and outputs


class State(NamedTuple):
    """The carry of a run, all that a later round needs."""

    server: Array  # [D] w_N
    clients: Array  # [N, D] w_i; over several devices, rows that nobody reads may follow
    optimizer: ArrayTree  # leaves [N, ...], likewise
    algorithm: ArrayTree
    round: Array  # [] int32, the next round
    reputation: Array  # [N] r, 0 before a client was ever heard
    attack: ArrayTree = ()  # what attackers remember
    alone: ArrayTree = ()  # [N] accuracy of the standalone models, where `Settings.alone`


class Record(NamedTuple):
    """One round seen from outside; stacked over rounds by the scan, never carried."""

    score: Array  # [T, N] psi
    reputation: Array  # [T, N] r
    weight: Array  # [T, N] aggregation weight
    quota: Array  # [T, N] int32
    present: Array  # [T, N] bool
    loss: Array  # [T, N] local training loss, NaN where absent
    norm: Array  # [T, N] ‖dw_i‖
    energy: Array  # [T, N] ‖v_i‖² / ‖u_N‖², of what was received; 0 where nothing was
    nonfinite: Array  # [T, N] bool, whose update was not finite
    # [T, N], multiplications by a parameter that the client's model takes per example after
    # the round, 0 where absent; None where nothing is switched off in it. Its quota counts these.
    work: Array | None = None


class Answers(NamedTuple):
    """What clients' models make of every test example, in the order of the test set.

    Their means over n are the accuracy and the loss, up to rounding.
    """

    right: Array  # [..., n] bool, whether the most likely class is the label
    # [..., n] float32, negative log-likelihood of the label; None where only `right` was kept
    loss: Array | None


class Evaluation(NamedTuple):
    """Test accuracy and loss, and distance to the server, after every `eval_every`-th round.

    Where only some clients are evaluated, N here is their number.
    """

    round: Array  # [K] int32, rounds completed
    accuracy: Array  # [K, N]
    loss: Array  # [K, N] mean negative log-likelihood
    distance: Array  # [K, N] ‖w_N - w_i‖
    server_accuracy: Array  # [K]
    server_loss: Array  # [K]
    validation_accuracy: Array | None = None  # [K, N], where validation rows are given to judge by
    answers: Answers | None = None  # leaves [K, N, n], where `Settings.answers`
    own_accuracy: Array | None = None  # [K, N] on `Clients.own_rows`; NaN of a client without any
