"""The least core: shares that no coalition has much reason to leave."""

import functools

import jax
import numpy as np

from cgsv_jax.rules.contribution import games
from cgsv_jax.rules.contribution.shapley import all_values, at_most, coalitions
from cgsv_jax.rules.spec import Spec
from cgsv_jax.types import Array, Contribution

# A linear programme of 2^N constraints on the host, up to N times a round.
MOST = 12
# The solver is feasible to 1e-7 of nu, and float32 values are no better.
_TIGHT = 1e-6


def solve(values: np.ndarray) -> tuple[np.ndarray, float]:
    """min e such that sum_i x_i = nu(N) and sum_{i in S} x_i + e >= nu(S) for every other S.

    The empty coalition is worth nothing: nu is counted from nu(nobody). Many x reach the least e.
    This gives the prenucleolus, the one x whose deficits nu(S) - x(S), sorted from the largest
    down, come first in the dictionary: alike clients receive alike, and a null player receives 0.

    Up to N linear programmes: the deficit of the coalitions that can be no better off is fixed,
    then the largest deficit of the others is minimised. A multiplier above zero shows a coalition
    whose deficit is the same in every optimum. Each programme has only the directions left free as
    its unknowns, so that what was fixed stays as it is and none can be infeasible.

    Args:
      values: [2^N], numbered as `shapley.all_values` does; on the host.

    Returns:
      x [N] and e, negative where every coalition gains by staying; 0 for N = 1, which has no
      other coalition.

    Reference:
      Yan and Procaccia, If You Like Shapley Then You'll Love the Core, AAAI 2021; Schmeidler, The
      Nucleolus of a Characteristic Function Game, SIAM J. Appl. Math. 1969.
    """
    from scipy.optimize import linprog

    worth = np.asarray(values, np.float64)
    players = worth.size.bit_length() - 1
    worth = worth - worth[0]
    inside = ((np.arange(worth.size)[:, None] >> np.arange(players)) & 1).astype(float)
    scale = np.max(np.abs(worth))
    if scale == 0:
        return np.zeros(players), 0.0
    worth = worth / scale  # the solver's tolerances are absolute
    x = np.full(players, worth[-1] / players)
    fixed, least = inside[-1:], 0.0
    while True:
        _, sizes, rows = np.linalg.svd(fixed)
        free = rows[np.sum(sizes > 1e-9) :].T  # [N, F] directions that keep every fixed deficit
        if free.shape[1] == 0:
            return x * scale, float(least * scale)
        moves = inside @ free
        open_ = np.abs(moves).max(axis=1) > 1e-9
        # min e over (y, e): -S(free y) - e <= S(x) - nu(S). Its dual has as many rows as there are
        # unknowns and a column a coalition, which is the faster form to solve:
        # max sum_S m_S (nu(S) - S(x)) with sum_S m_S S(free) = 0, sum_S m_S = 1, m >= 0.
        deficit = worth[open_] - inside[open_] @ x
        rows = np.concatenate([moves[open_].T, np.ones((1, deficit.size))])
        goal = np.append(np.zeros(free.shape[1]), 1.0)
        found = linprog(-deficit, A_eq=rows, b_eq=goal, method="highs-ds")
        if not found.success:
            raise RuntimeError(f"the least core was not found: {found.message}")
        step = -found.eqlin.marginals  # the multipliers of the dual's rows: y and e
        x = x + free @ step[:-1]
        least = step[-1] if fixed.shape[0] == 1 else least
        fixed = np.concatenate([fixed, inside[open_][found.x > _TIGHT]])


def least_core(game: games.Game | None = None, most: int = MOST) -> Contribution:
    """x_i, the point of the least core that `solve` gives, by default of nu(S) = cos(u_S, u_N).

    It sums to nu(everybody) - nu(nobody). 2^N coalitions a round, and linear programmes on the
    host, so that a round waits for it and a batch of seeds is solved one after another.

    Args:
      game: another game than `games.cosine_game()`.
      most: clients it is computed for, at most.
    """

    def on_host(values: np.ndarray) -> np.ndarray:
        values = np.asarray(values)
        return solve(values)[0].astype(values.dtype)

    def solution(key: jax.Array, value: games.Value, players: int) -> Array:
        del key
        values = all_values(value, players)
        shares = jax.ShapeDtypeStruct((players,), values.dtype)
        return jax.pure_callback(on_host, shares, values, vmap_method="sequential")

    return games.measure_of(game, solution, functools.partial(at_most, most), valuations=coalitions)


LEAST_CORE = Spec(least_core, parts={"game": "cosine"}, defaults=games.OTHER_SCALE)
