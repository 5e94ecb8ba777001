"""The exact Shapley value of the cosine game: brute force, axioms, edges."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgsv_jax.config.schema import ConfigError
from cgsv_jax.experiment import deal, names
from cgsv_jax.rules.contribution.shapley import MOST, exact

EPS = float(np.finfo(np.float32).eps)
# Products and sums of at most N^2 + N terms of order 1, weighted by coefficients that sum to 2.
NOISE = 2 * (8**2 + 8) * EPS


def game(vectors):
    """nu(S) = cos(u_S, u_N) of a set of players, 0 for a zero vector, in float64."""
    whole = vectors.sum(axis=0)

    def nu(players):
        u = vectors[list(players)].sum(axis=0)
        lengths = np.linalg.norm(u) * np.linalg.norm(whole)
        return u @ whole / lengths if lengths > 1e-12 else 0.0

    return nu


def over_permutations(vectors):
    count, nu = len(vectors), game(vectors)
    phi = np.zeros(count)
    for order in itertools.permutations(range(count)):
        for place, player in enumerate(order):
            phi[player] += nu(order[: place + 1]) - nu(order[:place])
    return phi / math.factorial(count)


def over_coalitions(vectors):
    count, nu = len(vectors), game(vectors)
    phi = np.zeros(count)
    for player in range(count):
        others = [i for i in range(count) if i != player]
        for size in range(count):
            weight = 1 / (count * math.comb(count - 1, size))
            for players in itertools.combinations(others, size):
                phi[player] += weight * (nu((*players, player)) - nu(players))
    return phi


def of(vectors):
    vectors = jnp.asarray(vectors, jnp.float32)
    return np.asarray(jax.jit(exact)(jnp.matmul(vectors, vectors.T, precision="highest")))


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_equals_brute_force_over_permutations(count):
    vectors = np.random.default_rng(count).normal(size=(count, 30)) + 0.3
    np.testing.assert_allclose(of(vectors), over_permutations(vectors), rtol=0, atol=NOISE)


def test_equals_brute_force_over_coalitions():
    vectors = np.random.default_rng(0).normal(size=(8, 40))
    vectors[0] *= -1
    vectors[1] *= 1e-3  # a small client is no zero
    np.testing.assert_allclose(of(vectors), over_coalitions(vectors), rtol=0, atol=NOISE)


def test_blocks_of_coalitions_are_one_game():
    """Seventeen players: four blocks of 2^15 coalitions, where two players are alike."""
    vectors = np.random.default_rng(0).normal(size=(17, 60)) + 0.2
    vectors[16] = vectors[3]
    vectors[5] = 0
    phi = of(vectors)
    noise = 2 * (17**2 + 17) * EPS
    assert abs(phi.sum() - 1) < noise  # efficiency
    assert abs(phi[16] - phi[3]) < noise  # symmetry
    assert abs(phi[5]) < noise  # null player
    # Dropping the null player changes nobody's value.
    rest = of(np.delete(vectors, 5, axis=0))
    np.testing.assert_allclose(np.delete(phi, 5), rest, rtol=0, atol=noise)


def test_the_most_players_are_within_reach():
    """2^24 coalitions in chunks: as without a null player, whose game has half as many."""
    vectors = np.random.default_rng(0).normal(size=(MOST, 60)) + 0.2
    vectors[1] = vectors[22]
    vectors[5] = 0
    phi = of(vectors)
    noise = 2 * (MOST**2 + MOST) * EPS
    assert abs(phi.sum() - 1) < noise
    assert abs(phi[1] - phi[22]) < noise
    assert abs(phi[5]) < noise
    rest = of(np.delete(vectors, 5, axis=0))
    np.testing.assert_allclose(np.delete(phi, 5), rest, rtol=0, atol=noise)


def test_only_directions_count():
    """nu does not see a common factor."""
    vectors = np.random.default_rng(0).normal(size=(6, 30))
    np.testing.assert_allclose(of(7 * vectors), of(vectors), rtol=0, atol=NOISE)


@pytest.mark.parametrize(
    ("vectors", "want"),
    [
        (np.zeros((3, 4)), [0, 0, 0]),  # nobody moves: no value to share
        (np.array([[1.0, 0], [-1, 0]]), [0, 0]),  # u_N cancels
        # nu({0}) = 1, nu({1}) = -1, nu(N) = 1.
        (np.array([[3.0, 0], [-1, 0]]), [1.5, -0.5]),
    ],
)
def test_zero_and_cancelling_vectors(vectors, want):
    np.testing.assert_allclose(of(vectors), want, rtol=0, atol=NOISE)


def test_too_many_players_are_refused():
    with pytest.raises(ValueError, match=f"at most {MOST}"):
        exact(jnp.eye(MOST + 1))
    with pytest.raises(ConfigError, match="for at most 24 clients"):
        deal.tasks(names.configure(clients=25, contribution="shapley"))
