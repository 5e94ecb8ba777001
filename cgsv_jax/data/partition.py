"""Who holds which rows: seeded partitions of a training set, on the host.

Every partition takes a `numpy.random.Generator`, the labels [n] of the rows to hand out and the
number of clients N, and returns `Clients` whose rows are positions 0..n-1 in those labels (`take`
turns positions in a pool into rows of the data set). Rows are packed to the left, padding slots
hold row 0, and M is the size of the largest client.

The sizes and the class counts are those of the released code (commit 7376663); its draws are not
reproducible, because it draws from two unrelated generators.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cgsv_jax import types
from cgsv_jax.core import checks, ranges
from cgsv_jax.host import files

POWER = 1.65911332899  # exponent of the released code's power law
SLOT = 25  # bytes of a client's slot: row, mask and label, here and on the device, and its order
ATTEMPTS = 100  # Dirichlet draws before giving up on min_rows
TURNS, CLOSEST = 500, 6  # in `equal` draws: turns with one tolerance, and how many tolerances


def uniform(rng: np.random.Generator, labels: types.Array, num_clients: int) -> types.Clients:
    """Equal sizes, up to one row: the shuffled rows cut into N slices.

    Args:
      rng: source of the shuffle.
      labels: labels [n] of the rows to hand out.
      num_clients: N, at most n.

    Returns:
      Disjoint clients that together hold every row.

    Raises:
      ValueError: if N is not between 1 and n.
    """
    labels, num_clients = _checked(rng, labels, num_clients)
    share, rest = divmod(len(labels), num_clients)
    sizes = share + (np.arange(num_clients) < rest)
    return _deal(rng.permutation(len(labels)), sizes)


def power_law(rng: np.random.Generator, labels: types.Array, num_clients: int) -> types.Clients:
    """Sizes that grow linearly with the client's number, from .12 to 1.9 of the mean.

    size_i = ceil(b_i / sum b * floor(n / N) * N), b = linspace(ppf(.01), ppf(.99), N) of
    `scipy.stats.powerlaw(1.659...)`. The ceils overshoot: the last clients get what is left, and
    where that leaves somebody without a row the sizes are rounded by largest remainder instead,
    with at least one row each. They can also undershoot, which leaves a few rows to nobody.

    Args:
      rng: source of the shuffle.
      labels: labels [n] of the rows to hand out.
      num_clients: N, at most n.

    Returns:
      Disjoint clients.

    Raises:
      ValueError: if N is not between 1 and n.
    """
    labels, num_clients = _checked(rng, labels, num_clients)
    sizes = power_law_sizes(len(labels), num_clients)
    return _deal(rng.permutation(len(labels)), sizes)


def power_law_sizes(num_rows: int, num_clients: int) -> np.ndarray:
    """Sizes [N] of `power_law`."""
    from scipy import stats  # half a second

    quantile = stats.powerlaw(POWER).ppf
    weights = np.linspace(quantile(0.01), quantile(0.99), num_clients)
    shares = weights / weights.sum()
    sizes = shares * (num_rows // num_clients) * num_clients
    # The middle one of an odd number is whole but for roundings, which are not every CPU's.
    sizes = np.ceil(sizes * (1 - num_clients * np.finfo(float).eps)).astype(np.int64)
    sizes = np.diff(np.minimum(sizes.cumsum(), num_rows), prepend=0)
    return sizes if sizes.min() >= 1 else _apportion(shares, num_rows)


def class_imbalance(
    rng: np.random.Generator,
    labels: types.Array,
    num_clients: int,
    num_classes: int | None = None,
    rows_per_client: int | None = None,
) -> types.Clients:
    """Equal sizes and nested classes: a client with k classes holds classes 0..k-1.

    The class counts are linspace(1, C, N), rounded down. Each client draws floor(size / k) rows of
    each of its classes WITH replacement, so clients overlap and may hold a row twice. The remainder
    is topped up with rows of its last class, and exactly those rows are withdrawn from that class:
    later clients neither draw them nor are topped up with them. A class whose rows are all
    withdrawn starts afresh, which happens only with thousands of clients.

    A client that holds fewer rows than linspace would give it classes holds one row of each of the
    first `size` classes, since it cannot hold more.

    Args:
      rng: source of the draws.
      labels: labels [n] of the rows to draw from.
      num_clients: N, at most n unless `rows_per_client` is given.
      num_classes: C; by default one more than the largest label.
      rows_per_client: the size of every client; floor(n / N) by default.

    Returns:
      Clients that overlap.

    Raises:
      ValueError: if N, C or the size is out of range, or a class that is needed has no rows.
    """
    labels, num_clients = _checked(rng, labels, num_clients, at_most_rows=rows_per_client is None)
    size = len(labels) // num_clients
    if rows_per_client is not None:
        size = _integer("rows_per_client", rows_per_client, 1)
    largest = int(labels.max()) + 1
    if num_classes is None:
        num_classes = largest
    num_classes = _integer("num_classes", num_classes, largest, "the labels that occur")

    counts = np.minimum(np.linspace(1, num_classes, num_clients, dtype=int), size)  # [N] k
    class_sizes = np.bincount(labels, minlength=num_classes)  # [C]
    empty = np.flatnonzero(class_sizes[: counts.max()] == 0)
    if empty.size:
        raise ValueError(
            f"class_imbalance needs rows of classes 0 to {counts.max() - 1}, "
            f"but class {empty[0]} has none among the {len(labels)} rows"
        )

    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    starts = class_sizes.cumsum() - class_sizes  # [C]
    each = size // counts  # [N] draws per class
    # Withdrawn before client i's turn: what the clients before it with the same last class took.
    top_ups = (size - each * counts)[:, None] * (counts[:, None] == np.arange(1, num_classes + 1))
    withdrawn = (top_ups.cumsum(axis=0) - top_ups) % np.maximum(class_sizes, 1)  # [N, C]

    slots = np.arange(size)  # [size]
    classes = np.minimum(slots // each[:, None], counts[:, None] - 1)  # [N, size]
    taken = np.take_along_axis(withdrawn, classes, axis=1)
    sizes = class_sizes[classes]
    drawn = taken + np.floor(rng.random(classes.shape) * (sizes - taken)).astype(np.int64)
    extra = slots - (each * counts)[:, None]  # [N, size], >= 0 on the topped-up slots
    position = np.where(extra >= 0, (taken + extra) % sizes, drawn)
    rows = by_class[starts[classes] + position]
    return types.Clients(rows.astype(np.int32), np.ones(rows.shape, bool))


def dirichlet(
    rng: np.random.Generator,
    labels: types.Array,
    num_clients: int,
    concentration: float = 0.5,
    min_rows: int = 1,
    balanced: bool = False,
    equal: bool = False,
) -> types.Clients:
    """Every class is cut among the clients in Dirichlet(concentration) shares.

    Small concentrations give clients few classes and uneven sizes. A draw that leaves a client
    with fewer than `min_rows` rows is thrown away whole and repeated, so that the shares keep the
    Dirichlet law given that everybody has enough.

    With `balanced` the classes are cut one after another, and who has n / N rows or more by then
    gets nothing of the next: the others' shares are scaled to sum to 1, and the cuts are rounded
    down. So do Yurochkin et al., after them NIID-Bench (which redraws below ten rows) and IAFL;
    sizes and numbers of classes then differ less.

    With `equal` every client draws the shares of its rows that are of each class, from
    Dirichlet(concentration C p) with p_c the share of class c among all rows, and sizes are equal
    up to a few hundredths: a client whose turn it is gets another draw, the best of N, where that
    brings the mean of all nearer to p, until the squared distance is below 1e-6 (ten times more
    after every 500 turns). What is left of it is taken from sizes. So do FLGo and, with it, FedRAC,
    whose DIR(3.0) on ten classes of equal sizes has a concentration of .3.

    Args:
      rng: source of the shares and the shuffle.
      labels: labels [n] of the rows to hand out.
      num_clients: N.
      concentration: parameter of the symmetric Dirichlet law, positive.
      min_rows: the fewest rows a client may have.
      balanced: whether nobody gets more rows who has a fair share of them.
      equal: whether clients draw their classes and have equal sizes.

    Returns:
      Disjoint clients that together hold every row.

    Raises:
      ValueError: if an argument is out of range, or no draw gave everyone `min_rows` rows.

    Reference: Hsu, Qi, Brown, arXiv:1909.06335; balanced as in the code of Yurochkin et al., ICML
      2019, and of Li et al., arXiv:2102.02079 (Xtra-Computing/NIID-Bench, 61b901a); equal as in
      that of Wang et al., CVPR 2026 (ZiHuiWangpcl1/FedRAC, 0d32a5c).
    """
    labels, num_clients = _checked(rng, labels, num_clients)
    if balanced and equal:
        raise ValueError("balanced and equal are two rules, it must be one of them")
    if not (np.isfinite(concentration) and concentration > 0):
        raise ValueError(f"concentration must be a positive number, got {concentration}")
    min_rows = _integer("min_rows", min_rows, 1)
    if num_clients * min_rows > len(labels):
        raise ValueError(
            f"min_rows must be at most {len(labels) // num_clients} for {num_clients} clients "
            f"and {len(labels)} rows, got {min_rows}"
        )
    class_sizes = np.bincount(labels)
    class_sizes = class_sizes[class_sizes > 0]
    fewest_short = num_clients
    for _ in range(ATTEMPTS):
        if equal:
            shares = _of_equal_sizes(rng, concentration, class_sizes, num_clients)
        else:
            shares = rng.dirichlet(np.full(num_clients, concentration), size=len(class_sizes))
        if balanced:
            table = _with_room(shares, class_sizes)
        else:
            # rint, not floor: the last cut must be the class size although shares sum to 1 - 1e-16.
            cuts = np.rint(shares.cumsum(axis=1) * class_sizes[:, None]).astype(np.int64)
            table = np.diff(cuts, axis=1, prepend=0)  # [C, N] rows of class c at client i
        short = int((table.sum(axis=0) < min_rows).sum())
        if not short:
            break
        fewest_short = min(fewest_short, short)
    else:
        raise ValueError(
            f"in {ATTEMPTS} Dirichlet draws with concentration {concentration} at least "
            f"{fewest_short} of the {num_clients} clients had fewer than min_rows = {min_rows} "
            "rows: raise the concentration, or lower min_rows or the number of clients"
        )
    return _cut(rng, labels, table)


def _with_room(shares: np.ndarray, class_sizes: np.ndarray) -> np.ndarray:
    """Rows [C, N] of `dirichlet` where who has a fair share of all rows gets no more."""
    table = np.zeros(shares.shape, np.int64)
    for c, size in enumerate(class_sizes):
        room = shares[c] * (table.sum(axis=0) < class_sizes.sum() / shares.shape[1])
        if not room.sum():  # tiny concentrations draw zeros: nobody has enough, and all is redrawn
            break
        cuts = np.floor((room / room.sum()).cumsum() * size).astype(np.int64)
        cuts[-1] = size
        table[c] = np.diff(cuts, prepend=0)
    return table


def _of_equal_sizes(
    rng: np.random.Generator, concentration: float, class_sizes: np.ndarray, num_clients: int
) -> np.ndarray:
    """Shares [C, N] of every class, of clients of equal sizes that draw their classes."""
    overall = class_sizes / class_sizes.sum()  # p
    law = concentration * len(overall) * overall
    drawn = rng.dirichlet(law, size=num_clients)  # [N, C]
    for turn in range(CLOSEST * TURNS):
        mean = drawn.mean(axis=0)
        error = np.square(mean - overall).sum()
        if error <= 1e-6 * 10.0 ** (turn // TURNS):
            break
        client = turn % num_clients
        others = rng.dirichlet(law, size=num_clients)
        means = mean + (others - drawn[client]) / num_clients
        errors = np.square(means - overall).sum(axis=1)
        if errors.min() < error:
            drawn[client] = others[errors.argmin()]
    totals = drawn.sum(axis=0)
    # A class that nobody drew goes to all alike.
    shares = np.where(totals > 0, drawn / np.where(totals > 0, totals, 1), 1 / num_clients)
    return shares.T


def size_dirichlet(
    rng: np.random.Generator,
    labels: types.Array,
    num_clients: int,
    concentration: float = 0.5,
    min_rows: int = 1,
) -> types.Clients:
    """Sizes of one Dirichlet(concentration) draw; whatever the label, rows go by the sizes alone.

    The shuffled rows are cut at n times the cumulated shares, rounded: `dirichlet` of a single
    class, with its redraws.

    Args:
      rng: source of the shares and the shuffle.
      labels: labels [n] of the rows to hand out.
      num_clients: N.
      concentration: parameter of the symmetric Dirichlet law, positive; small ones are uneven.
      min_rows: the fewest rows a client may have.

    Returns:
      Disjoint clients that together hold every row.

    Raises:
      ValueError: if an argument is out of range, or no draw gave everyone `min_rows` rows.

    Reference: Li et al., arXiv:2102.02079, quantity skew (its code redraws below ten rows).
    """
    labels, num_clients = _checked(rng, labels, num_clients)
    return dirichlet(rng, np.zeros_like(labels), num_clients, concentration, min_rows)


def by_shares(
    rng: np.random.Generator, labels: types.Array, num_clients: int, shares: types.Array
) -> types.Clients:
    """Sizes in given proportions; whatever the label, rows go by the sizes alone.

    size_i = n s_i / sum s, rounded by largest remainder, at least one row each.

    Args:
      rng: source of the shuffle.
      labels: labels [n] of the rows to hand out.
      num_clients: N, at most n.
      shares: s [N], positive; only their ratios count.

    Returns:
      Disjoint clients that together hold every row.

    Raises:
      ValueError: if N is not between 1 and n, or the shares are not N positive numbers.
    """
    labels, num_clients = _checked(rng, labels, num_clients)
    asked = np.asarray(shares)
    if asked.shape != (num_clients,) or asked.dtype.kind not in "iuf":
        raise ValueError(
            f"shares must be {num_clients} numbers, one per client, "
            f"got {asked.dtype} of shape {asked.shape}"
        )
    if not (np.isfinite(asked) & (asked > 0)).all():
        raise ValueError(f"shares must be positive and finite, got {asked.tolist()}")
    parts = asked / asked.max()  # whose sum no float misses
    return _deal(rng.permutation(len(labels)), _apportion(parts / parts.sum(), len(labels)))


def k_classes(
    rng: np.random.Generator,
    labels: types.Array,
    num_clients: int,
    classes_per_client: int = 2,
) -> types.Clients:
    """Every client holds exactly K classes, and every class is cut equally among its holders.

    Of the C classes that occur, numbered from 0, client i holds class i mod C and K - 1 others,
    each set of which is as likely as any other, whatever other clients hold. The shuffled rows of
    a class are cut into as many slices as clients hold it, equal up to one row; so sizes differ,
    and a class that nobody holds, which happens only if N < C, goes to nobody.

    Where that would give a class more holders than rows, clients choose one after another, each in
    its own random order of preference that starts with i mod C: the first K classes that leave
    enough rows for those who choose later. So K classes each are found whenever that is possible,
    which is when the sum over classes of min(rows, N) is at least N K.

    McMahan et al. (AISTATS 2017) deal out K of N K equal slices of the sorted rows instead: sizes
    are equal there, and clients may have fewer classes than K, or more.

    Args:
      rng: source of the classes and the shuffle.
      labels: labels [n] of the rows to hand out.
      num_clients: N.
      classes_per_client: K, at most C.

    Returns:
      Disjoint clients.

    Raises:
      ValueError: if an argument is out of range, or there are too few rows.

    Reference: Li et al., arXiv:2102.02079, quantity-based label imbalance, `#C = K`.
    """
    labels, num_clients = _checked(rng, labels, num_clients)
    wanted = _integer("classes_per_client", classes_per_client, 1)
    class_sizes = np.bincount(labels)
    class_sizes = class_sizes[class_sizes > 0]  # [C]
    if wanted > len(class_sizes):
        raise ValueError(
            f"classes_per_client must be at most {len(class_sizes)}, the number of classes that "
            f"occur, got {wanted}"
        )
    room = np.minimum(class_sizes, num_clients)
    if room.sum() < num_clients * wanted:
        raise ValueError(
            f"classes_per_client must be at most {room.sum() // num_clients} for {num_clients} "
            f"clients and classes of {', '.join(map(str, class_sizes[:20]))} rows, got {wanted}"
        )
    preference = rng.random((num_clients, len(class_sizes)))
    client = np.arange(num_clients)
    preference[client, client % len(class_sizes)] = -1
    preference = preference.argsort(axis=1)
    holds = np.zeros(preference.shape, bool)
    np.put_along_axis(holds, preference[:, :wanted], True, axis=1)
    if (holds.sum(axis=0) > room).any():
        holds = _in_turn(preference, wanted, room)
    holders = np.maximum(holds.sum(axis=0), 1)
    place = holds.cumsum(axis=0) - 1  # among the holders of a class
    table = holds * (class_sizes // holders + (place < class_sizes % holders))
    return _cut(rng, labels, table.T)


def _in_turn(preference: np.ndarray, wanted: int, room: np.ndarray) -> np.ndarray:
    """Which classes [N, C] clients hold that choose one after another.

    A class with room for everybody who is left costs the others nothing; of those with less, a
    client may take as many as leave the others `wanted` each. That leaves every client a choice,
    and none is forbidden that all could make together.

    Args:
      preference: [N, C] classes, the dearest first.
      wanted: K.
      room: [C] clients that a class has rows for, at most N, sum at least N K.
    """
    holds = np.zeros(preference.shape, bool)
    room = room.copy()
    for client, liked in enumerate(preference):
        later = len(preference) - 1 - client
        spare = np.minimum(room, later).sum() - later * wanted
        liked = liked[room[liked] > 0]
        scarce = room[liked] <= later
        mine = liked[~scarce | (scarce.cumsum() <= spare)][:wanted]
        holds[client, mine] = True
        room[mine] -= 1
    return holds


def from_lists(
    lists: Sequence[types.Array], num_rows: int | None = None, repeated_rows: bool = False
) -> types.Clients:
    """The clients that hold the listed rows, in the order listed.

    Args:
      lists: row numbers of every client, N vectors of integers, of any lengths from 1.
      num_rows: n, where known: rows are numbered from 0 to n - 1.
      repeated_rows: whether a row may be listed more than once, by one client or by several.

    Returns:
      The clients; rows that nobody lists belong to nobody.

    Raises:
      ValueError: naming the client, if a list is empty or no vector of row numbers, or a row is
        out of range or listed more than once.

    >>> from_lists([[3, 1], [0]]).rows
    array([[3, 1],
           [0, 0]], dtype=int32)
    """
    vectors = [np.asarray(rows) for rows in lists]
    if not vectors:
        raise ValueError("lists must hold the rows of at least one client, got none")
    for client, rows in enumerate(vectors):
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
            raise ValueError(
                f"the rows of client {client} must be a list of whole numbers, "
                f"got {rows.dtype} of shape {rows.shape}"
            )
        if not rows.size:
            raise ValueError(f"client {client} has no rows, every client must hold at least one")
    sizes = np.array([len(rows) for rows in vectors])
    order, client = np.concatenate(vectors), np.repeat(np.arange(len(sizes)), sizes)
    most = np.iinfo(np.int32).max if num_rows is None else _integer("num_rows", num_rows, 1) - 1
    wrong = np.flatnonzero((order < 0) | (order > most))
    if wrong.size:
        raise ValueError(
            f"client {client[wrong[0]]} holds row {order[wrong[0]]}, "
            f"rows are numbered from 0 to {most}"
        )
    if not repeated_rows:
        by_row = np.argsort(order, kind="stable")
        again = np.flatnonzero(np.diff(order[by_row]) == 0)
        if again.size:
            first, second = client[by_row[again[0] : again[0] + 2]]
            who = f"client {first} twice" if first == second else f"clients {first} and {second}"
            raise ValueError(
                f"row {order[by_row[again[0]]]} is held by {who}, "
                "repeated_rows would have to be allowed"
            )
    return _deal(order, sizes)


def _from_lists(
    rng: np.random.Generator,
    labels: types.Array,
    num_clients: int,
    lists: Sequence[types.Array],
    repeated_rows: bool = False,
) -> types.Clients:
    """`from_lists` as the other partitions are called; nothing is drawn."""
    labels, num_clients = _checked(rng, labels, num_clients, at_most_rows=not repeated_rows)
    if len(lists) != num_clients:
        raise ValueError(
            f"num_clients must be {len(lists)}, the number of lists, got {num_clients}"
        )
    return from_lists(lists, len(labels), repeated_rows)


def by_owner(
    rng: np.random.Generator,
    labels: types.Array,
    num_clients: int,
    owners: types.Array,
    min_rows: int = 1,
) -> types.Clients:
    """Each client is one owner of rows, for example the writer of the digits.

    Args:
      rng: source of the choice of owners and of the order of their rows.
      labels: labels [n] of the rows to hand out.
      num_clients: N, the number of owners drawn among those with enough rows.
      owners: an id [n] per row: integers or strings.
      min_rows: the fewest rows an owner may have.

    Returns:
      Disjoint clients; rows of owners that were not drawn belong to nobody.

    Raises:
      ValueError: if an argument is out of range, or too few owners have `min_rows` rows.
    """
    labels, num_clients = _checked(rng, labels, num_clients)
    min_rows = _integer("min_rows", min_rows, 1)
    owners = np.asarray(owners)
    if owners.shape != labels.shape:
        raise ValueError(
            f"owners must hold one id for each of the {len(labels)} rows, got shape {owners.shape}"
        )
    _, owner, counts = np.unique(owners, return_inverse=True, return_counts=True)
    eligible = np.flatnonzero(counts >= min_rows)
    if len(eligible) < num_clients:
        raise ValueError(
            f"num_clients must be at most {len(eligible)}, the number of owners with at least "
            f"min_rows = {min_rows} rows, got {num_clients}"
        )
    chosen = rng.permutation(eligible)[:num_clients]
    client = np.full(len(counts), -1)
    client[chosen] = np.arange(num_clients)
    shuffled = rng.permutation(len(labels))
    shuffled = shuffled[client[owner[shuffled]] >= 0]
    order = np.argsort(client[owner[shuffled]], kind="stable")
    return _deal(shuffled[order], counts[chosen])


PARTITIONS: dict[str, Callable[..., types.Clients]] = {
    "uniform": uniform,
    "power_law": power_law,
    "class_imbalance": class_imbalance,
    "dirichlet": dirichlet,
    "size_dirichlet": size_dirichlet,
    "by_shares": by_shares,
    "k_classes": k_classes,
    "by_owner": by_owner,
    "from_lists": _from_lists,
}


def split(
    rng: np.random.Generator,
    num_rows: int,
    validation_share: float,
    cap: int | None = None,
    kept: types.Array | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Shuffle the rows once, hold the tail out for validation, cap the rest.

    Args:
      rng: source of the shuffle.
      num_rows: n.
      validation_share: the share held out of every client's reach, in [0, 1).
      cap: the most rows the pool may have (N times the rows per client); None is no cap.
      kept: row numbers that are not held out: they come first, the order is the shuffle's.

    Returns:
      The pool [<= cap] and the validation rows, disjoint row numbers. The validation rows do not
      depend on the cap, nor on `kept` where none of its rows would have been held out.

    Raises:
      ValueError: if an argument is out of range or nothing is left to train on, or too little
        beside `kept` to hold out.
    """
    checks.generator(rng)
    num_rows = _integer("num_rows", num_rows, 1)
    if not 0 <= validation_share < 1:
        raise ValueError(f"validation_share must be in [0, 1), got {validation_share}")
    cap = num_rows if cap is None else _integer("cap", cap, 1)
    pool_rows = num_rows - round(validation_share * num_rows)
    if pool_rows < 1:
        raise ValueError(
            f"validation_share = {validation_share} leaves none of the {num_rows} rows to train on"
        )
    shuffled = rng.permutation(num_rows).astype(np.int32)
    if kept is not None:
        others = ~np.isin(shuffled, kept)
        if others.sum() < num_rows - pool_rows:
            raise ValueError(
                f"validation_share = {validation_share} holds out {num_rows - pool_rows} rows, "
                f"but only {others.sum()} of the {num_rows} rows are held by no client"
            )
        shuffled = shuffled[np.argsort(others, kind="stable")]
    return shuffled[: min(pool_rows, cap)], shuffled[pool_rows:]


def hold_out(rng: np.random.Generator, clients: types.Clients, share: float) -> types.Clients:
    """The clients with a share of each one's rows held out, to be judged on.

    Of d distinct rows round(share d) are drawn without replacement, at least one where there are
    two, and never the last. All slots of such a row leave training, each row is tested on once,
    and the label is the one that the client has for it. Another client that holds the row as well,
    as where a partition draws with replacement, goes on training on it.

    Args:
      rng: draws who keeps what.
      clients: the partition, N clients.
      share: in [0, 1); 0 leaves all as it is.

    Raises:
      ValueError: the share is out of range, or rows are held out already.
    """
    checks.generator(rng)
    checks.numbers(ranges.Interval(0, 1, "[)"), own_test_share=share)
    if not share:
        return clients
    if clients.own_rows is not None:
        raise ValueError(f"own_test_share is {share}, it must be 0: clients have such rows already")
    mask = np.asarray(clients.mask)
    number = len(mask)
    kept = mask.copy()
    tested = np.zeros(mask.shape, bool)
    for client, rows in enumerate(np.asarray(clients.rows)):
        slots = np.flatnonzero(mask[client])
        distinct, first = np.unique(rows[slots], return_index=True)
        drawn = rng.permutation(len(distinct))
        count = min(max(1, round(share * len(distinct))), len(distinct) - 1)
        out = np.sort(drawn[:count])
        kept[client] &= ~np.isin(rows, distinct[out])
        tested[client, slots[first[out]]] = True

    def packed(values: types.Array, there: np.ndarray) -> np.ndarray:
        """The values of the slots that are there, to the left, in their order."""
        found = np.zeros((number, max(1, there.sum(axis=1).max())), np.asarray(values).dtype)
        found[packed_mask(there)] = np.asarray(values)[there]
        return found

    def packed_mask(there: np.ndarray) -> np.ndarray:
        sizes = there.sum(axis=1)
        return np.arange(max(1, sizes.max())) < sizes[:, None]

    labels = clients.labels
    return clients._replace(
        rows=packed(clients.rows, kept),
        mask=packed_mask(kept),
        labels=None if labels is None else packed(labels, kept),
        own_rows=packed(clients.rows, tested),
        own_mask=packed_mask(tested),
        own_labels=None if labels is None else packed(labels, tested),
    )


def take(clients: types.Clients, pool: types.Array) -> types.Clients:
    """The same clients, their positions in `pool` [n] replaced by the row numbers there."""
    rows = np.where(clients.mask, np.asarray(pool)[clients.rows], 0)
    return clients._replace(rows=rows.astype(np.int32))


def describe(clients: types.Clients, labels: types.Array) -> tuple[np.ndarray, np.ndarray]:
    """What each client holds: sizes [N] and numbers of distinct labels [N].

    Where the clients carry labels of their own, those are counted.

    Args:
      clients: the partition.
      labels: labels of the rows that `clients.rows` points at.
    """
    held = holdings(clients, labels)
    return held.sum(axis=1, dtype=np.int32), (held > 0).sum(axis=1, dtype=np.int32)


def holdings(clients: types.Clients, labels: types.Array) -> np.ndarray:
    """Rows [N, C] of every label that each client holds, as `describe` counts them."""
    mask = np.asarray(clients.mask)
    labels = np.asarray(labels)[clients.rows] if clients.labels is None else clients.labels
    held = np.zeros((len(mask), int(labels.max(initial=0)) + 1), np.int32)
    client, slot = np.nonzero(mask)
    np.add.at(held, (client, labels[client, slot]), 1)
    return held


def _deal(order: np.ndarray, sizes: np.ndarray) -> types.Clients:
    """Consecutive slices of `order` as left-packed rows; what is beyond sum(sizes) is dropped."""
    slots, there = len(sizes) * int(sizes.max()), files.host_memory()
    if SLOT * slots > there:
        raise ValueError(
            f"--clients, --partition: the largest client holds {sizes.max():,} rows, so many slots "
            f"of {len(sizes):,} clients would take {SLOT * slots / 2**30:,.1f} GiB of memory, "
            f"there are {there / 2**30:,.1f} GiB"
        )
    mask = np.arange(sizes.max()) < sizes[:, None]  # [N, M]
    rows = np.zeros(mask.shape, np.int32)
    rows[mask] = order[: sizes.sum()]
    return types.Clients(rows, mask)


def _cut(rng: np.random.Generator, labels: np.ndarray, table: np.ndarray) -> types.Clients:
    """Shuffled rows: table [C, N] of every class that occurs go to a client, the rest to nobody."""
    shuffled = rng.permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    class_sizes = np.bincount(labels)
    rest = class_sizes[class_sizes > 0] - table.sum(axis=1)
    counts = np.column_stack([table, rest])  # [C, N + 1]
    owner = np.repeat(np.tile(np.arange(counts.shape[1]), len(counts)), counts.ravel())  # [n]
    return _deal(by_class[np.argsort(owner, kind="stable")], table.sum(axis=0))


def _apportion(shares: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers >= 1 that sum to `total` >= N, by largest remainder.

    Lifting the smallest to 1 takes rows from the others, which may push the next one below 1; it
    ends because the others average at least 1. The epsilon keeps a quota of 1, computed as .999...,
    from being lifted and everybody from being lifted at once.
    """
    lifted = np.zeros(len(shares), bool)
    while True:
        scale = (total - lifted.sum()) / shares[~lifted].sum()
        quotas = np.where(lifted, 1.0, shares * scale)
        low = quotas < 1 - 1e-9
        if not low.any():
            break
        lifted |= low
    sizes = np.floor(quotas + 1e-9).astype(np.int64)
    # Of equal remainders the first goes first, whatever the last bits of the quotas are.
    order = np.argsort(np.rint((sizes - quotas) * 2**30), kind="stable")
    sizes[order[: total - sizes.sum()]] += 1
    return sizes


def _checked(
    rng: Any, labels: Any, num_clients: int, at_most_rows: bool = True
) -> tuple[np.ndarray, int]:
    checks.generator(rng)
    labels = np.asarray(checks.array("labels", labels))
    if labels.ndim != 1 or not len(labels) or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise ValueError(
            "labels must be a non-empty vector of class numbers from 0, got "
            f"{labels.dtype} of shape {labels.shape}"
        )
    num_clients = _integer("num_clients", num_clients, 1)
    if at_most_rows and num_clients > len(labels):
        raise ValueError(
            f"num_clients must be between 1 and {len(labels)}, the number of rows, "
            f"got {num_clients}"
        )
    return labels, num_clients


def _integer(name: str, value: Any, least: int, because: str = "") -> int:
    try:
        value = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be a whole number, got {value!r}") from None
    if value < least:
        reason = f" for {because}" if because else ""
        raise ValueError(f"{name} must be at least {least}{reason}, got {value}")
    return value
