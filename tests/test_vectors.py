"""The algebra on [N, D]: norms that cannot overflow, cosines, and a stable ranking."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cgsv_jax.core import top_k, vectors

EPS = float(np.finfo(np.float32).eps)
few = settings(max_examples=30, deadline=None, derandomize=True)
# Heavy ties: few magnitudes, both signs, both zeros.
tied = st.lists(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 1e-30, 3e38]), min_size=11, max_size=11
)


def tree():
    return {
        "a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.full(3, 7.0)},
        "z": np.float32(9.0),
    }


def test_tensors_tile_the_raveled_vector():
    table = vectors.tensors(tree())
    assert [t.start for t in table] == [0, 3, 9]
    assert [t.stop for t in table] == [3, 9, 10]
    assert [t.shape for t in table] == [(3,), (2, 3), ()]
    assert ["bias" in table[0].name, "kernel" in table[1].name, "z" in table[2].name] == [True] * 3
    flat = vectors.ravel(tree())
    for t, leaf in zip(table, jax.tree.leaves(tree()), strict=True):
        np.testing.assert_array_equal(flat[t.start : t.stop].reshape(t.shape), leaf)
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tree()))
    assert vectors.tensors(shapes) == table


def test_unraveler_inverts_ravel():
    params = jax.tree.map(jnp.float32, tree())
    unravel = vectors.unraveler(jax.eval_shape(lambda: params))
    chex.assert_trees_all_equal(unravel(vectors.ravel(params)), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.vmap(unravel)(jnp.zeros((2, 10)))["a"], {
        "kernel": jnp.zeros((2, 2, 3)), "bias": jnp.zeros((2, 3)),
    })  # fmt: skip


# ---------------------------------------------------------------- norms and cosines


@pytest.mark.parametrize("power", [-100, -60, 60, 100])
def test_norm_beyond_the_range_of_squares(power):
    x = jnp.float32(np.random.default_rng(0).normal(size=50))
    # A power of two changes no significand, hence bitwise; squares would be 0 or inf.
    assert vectors.norm(x * 2.0**power) == vectors.norm(x) * 2.0**power
    # 50 squares are summed, and there are a quotient, a root and a product.
    exact = np.linalg.norm(np.float64(x))
    np.testing.assert_allclose(vectors.norm(x), exact, rtol=(50 / 2 + 3) * EPS)


@pytest.mark.parametrize("largest", [2.0**100, 2.0**125, 2.0**126, 2.0**127])
def test_norm_where_reciprocals_are_no_normal_numbers(largest):
    """Beyond 2^126 a quotient by x must not become a product with 1 / x, which flushes to 0."""
    for norm in (vectors.norm, jax.jit(vectors.norm)):
        # One magnitude: the quotient, the square and the root are 1 in whatever unit.
        assert norm(jnp.array([0.0, -largest, 0.0], jnp.float32)) == largest


def test_norm_beyond_the_largest_number_is_not_finite():
    """Such an update has no length to rescale: its client counts as absent, not as idle."""
    for norm in (vectors.norm, jax.jit(vectors.norm)):
        assert not jnp.isfinite(norm(jnp.full(4, 3e38)))
    assert not oracle.is_finite(np.full(4, 3e38, np.float32))


def test_norm_of_nothing():
    assert vectors.norm(jnp.zeros(4)) == 0
    assert vectors.norm(-jnp.zeros(4)) == 0
    assert vectors.norm(jnp.zeros(0)) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("other", [0.0, 1.0, 3e38])
def test_norm_is_not_finite_with_an_entry_that_is_not(bad, other):
    assert not jnp.isfinite(vectors.norm(jnp.array([other, bad, other], jnp.float32)))


def cosines_of(rows, vector, scales=None, epsilon=0.0):
    rows = jnp.asarray(rows)
    norms = vectors.norms(rows)
    scales = jnp.ones_like(norms) if scales is None else jnp.asarray(scales, rows.dtype)
    return vectors.cosines(rows, norms, scales, jnp.asarray(vector), epsilon)


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 2.0])
def test_cosines_are_the_oracles(epsilon):
    rng = np.random.default_rng(1)
    rows, vector, scales = rng.normal(size=(4, 20)), rng.normal(size=20), np.array([1, 0.1, 3, 0])
    rows[1] /= 10
    with jax.enable_x64(True):
        got = cosines_of(rows, vector, scales, epsilon)
    want = [oracle.cosine(s * r, vector, epsilon) for s, r in zip(scales, rows, strict=True)]
    # 20 products and two norms of order 1: 2 x 20 roundings of 2^-52.
    np.testing.assert_allclose(got, want, atol=40 * 2.0**-52)


@pytest.mark.parametrize("left", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("right", [1e-30, 1.0, 1e30])
def test_cosine_does_not_know_scale(left, right):
    rng = np.random.default_rng(2)
    rows, vector = np.float32(rng.normal(size=(3, 20))), np.float32(rng.normal(size=20))
    got = cosines_of(rows * np.float32(left), vector * np.float32(right))
    want = [oracle.cosine(np.float64(r), np.float64(vector)) for r in rows]
    # Scaling rounds every entry once, then as above, in float32.
    np.testing.assert_allclose(got, want, atol=42 * EPS)


@few
@given(
    st.lists(
        st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False), min_size=6, max_size=6
    )
)
@example([0.0] * 6)
@example([1e-38] * 6)
def test_cosine_of_a_vector_with_itself_is_at_most_one(entries):
    x = jnp.array(entries, jnp.float32)
    same, opposite, nothing = cosines_of(jnp.stack([x, -x, 0 * x]), x)
    assert -1 <= opposite <= 0 <= same <= 1
    assert nothing == 0
    if vectors.norm(x) > 0:
        assert same >= 1 - 8 * EPS  # six products, a norm twice


def test_linear_algebra_and_its_precision():
    rng = np.random.default_rng(3)
    u, w, v = rng.normal(size=(3, 5)), rng.normal(size=3), rng.normal(size=5)
    with jax.enable_x64(True):
        got = vectors.weighted_sum(w, u), vectors.dots(u, v), vectors.gram(u)
    for a, b in zip(got, (w @ u, u @ v, u @ u.T), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=10 * 2.0**-52 * 10)  # sums of <= 5 terms
    # A CPU has no lower precision to fall into, so that it is asked for is all one can see here.
    for function, arguments in [
        (vectors.weighted_sum, (w, u)),
        (vectors.dots, (u, v)),
        (vectors.gram, (u,)),
        (lambda u, v: cosines_of(u, v), (u, v)),
    ]:
        jaxpr = str(jax.make_jaxpr(function)(*map(jnp.float32, arguments)))
        assert jaxpr.count("dot_general[") == jaxpr.count("precision=(Precision.HIGHEST") > 0


def test_swapped_arguments_do_not_broadcast():
    with pytest.raises(AssertionError):
        vectors.weighted_sum(jnp.ones((3, 3)), jnp.ones(3))
    with pytest.raises(AssertionError):
        vectors.dots(jnp.ones(3), jnp.ones((3, 3)))


# ---------------------------------------------------------------- ranks


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@few
@given(tied)
def test_ranks_are_a_stable_argsort(dtype, entries):
    x = np.array(entries, dtype)
    with jax.enable_x64(dtype == np.float64):
        rank = top_k.ranks(jnp.asarray(x))
        assert jnp.asarray(x).dtype == dtype
    assert rank.dtype == jnp.int32
    np.testing.assert_array_equal(rank, oracle.ranks(x))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ranks_inside_every_transform(dtype):
    """The 64-bit integers of the float32 path must survive tracing where x64 is off."""
    rng = np.random.default_rng(4)
    matrix = rng.integers(-3, 4, (5, 40)).astype(np.float32)
    matrix[1] = rng.normal(size=40)
    matrix[2] = 0
    with jax.enable_x64(dtype == np.float64):
        x = jnp.asarray(matrix, dtype)
        want = np.stack([oracle.ranks(np.asarray(row)) for row in x])

        def in_scan(rows):
            return jax.lax.scan(
                lambda carry, row: (carry + row.sum(), top_k.ranks(row)), x[0, 0], rows
            )[1]

        for form in (
            jax.jit(jax.vmap(top_k.ranks)),
            jax.jit(lambda rows: jax.vmap(in_scan)(rows[None])[0]),
        ):
            rank = form(x)
            assert rank.dtype == jnp.int32
            np.testing.assert_array_equal(rank, want)


def _with_equals(vector, quota):
    """[N, D]: entry d is kept if fewer than quota_i are larger, one pair after another."""
    magnitude = np.abs(vector)
    larger = np.searchsorted(np.sort(-magnitude), -magnitude, side="left")
    return larger[None] < quota[:, None]


@few
@given(tied, st.integers(0, 11), st.integers(0, 11))
def test_masks_are_nested(entries, small, large):
    small, large = sorted((small, large))
    quota = np.array([small, large], np.int32)
    rank = top_k.ranks(jnp.array(entries))
    assert int(jnp.sum(rank < large)) == large  # exactly that many survive
    keys, last = top_k.tied(jnp.array(entries), quota)
    kept = np.asarray(keys) <= np.asarray(last)[:, None]
    assert not np.any(kept[0] & ~kept[1])
    assert not np.any((rank < small) & ~kept[0])
    np.testing.assert_array_equal(kept, _with_equals(np.float32(entries), quota))


def test_one_entry():
    one = jnp.array([-2.0])
    assert top_k.ranks(one).tolist() == [0]
    keys, last = top_k.tied(one, jnp.array([0, 1]))
    assert (keys <= last).tolist() == [False, True]


# ---------------------------------------------------------------- the largest entries


def _vectors(entries, seed=0):
    """Vectors with no ties, many ties, nothing but ties, zeros, and all magnitudes there are."""
    rng = np.random.default_rng(seed)
    plain = rng.normal(size=entries).astype(np.float32)
    tied = np.round(3 * plain) / 3
    sparse = np.where(rng.random(entries) < 0.5, 0, plain)
    wide = (10 ** rng.uniform(-44, 38, entries)).astype(np.float32)
    return {"plain": plain, "tied": tied, "equal": np.full_like(plain, -2), "sparse": sparse,
            "zero": np.zeros_like(plain), "wide": wide}  # fmt: skip


@pytest.mark.parametrize("entries", [1, 2, 300, 40_000])
def test_largest_is_ranks_below_quotas(entries):
    """By either way of finding the thresholds, and as chosen; exactly the quota survives."""
    rng = np.random.default_rng(1)
    quota = rng.integers(0, entries + 1, 9).astype(np.int32)
    quota[:4] = [0, entries, entries - 1, min(1, entries)]
    quota[4] = quota[5]  # two clients alike
    largest = jax.jit(top_k.largest)
    ways = [jax.jit(top_k.by_sorting), jax.jit(top_k.by_selecting)]
    for name, vector in _vectors(entries).items():
        want = np.asarray(top_k.ranks(jnp.asarray(vector)))[None] < quota[:, None]
        assert want.sum(axis=1).tolist() == quota.tolist()
        np.testing.assert_array_equal(largest(vector, quota), want, err_msg=name)
        keys = np.asarray(top_k.magnitude_keys(jnp.asarray(vector)))
        for way in ways:
            key, position = (np.asarray(x)[:, None] for x in way(keys, quota))
            kept = (keys < key) | ((keys == key) & (np.arange(entries) < position))
            np.testing.assert_array_equal(kept, want, err_msg=name)


@pytest.mark.parametrize("entries", [1, 2, 300, 40_000])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_entries_equal_to_the_last_one_are_kept(entries, dtype):
    """Sorted or selected: all that have fewer than quota_i larger ones before them."""
    rng = np.random.default_rng(1)
    quota = rng.integers(0, entries + 1, 9).astype(np.int32)
    quota[:4] = [0, entries, entries - 1, min(1, entries)]
    thresholds = jax.jit(top_k.tied)
    for name, vector in _vectors(entries).items():
        if dtype == np.float16 and name == "wide":
            continue  # beyond its range
        with jax.enable_x64(dtype == np.float64):
            keys, last = map(np.asarray, thresholds(vector.astype(dtype), quota))
        kept = keys <= last[:, None]
        np.testing.assert_array_equal(kept, _with_equals(vector.astype(dtype), quota), name)


def test_largest_under_vmap():
    """Over vectors and over quotas, as in a sweep."""
    rng = np.random.default_rng(2)
    matrix = rng.normal(size=(3, 40_000)).astype(np.float32)
    quota = rng.integers(0, 40_001, (3, 5)).astype(np.int32)
    got = jax.jit(jax.vmap(top_k.largest))(matrix, quota)
    for row, own, mask in zip(matrix, quota, got, strict=True):
        np.testing.assert_array_equal(mask, top_k.largest(jnp.asarray(row), jnp.asarray(own)))
    keys, last = jax.jit(jax.vmap(top_k.tied))(matrix, quota)
    for row, own, mask in zip(matrix, quota, keys[:, None] <= last[..., None], strict=True):
        np.testing.assert_array_equal(mask, _with_equals(row, own))


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e30])
def test_norms_of_a_matrix_are_those_of_its_rows(scale):
    """In one pass where that is safe, scaled where not: one tiny row makes all rows careful."""
    rng = np.random.default_rng(3)
    matrix = (scale * rng.normal(size=(4, 50))).astype(np.float32)
    matrix[1] = 0
    want = np.linalg.norm(np.float64(matrix), axis=1)
    # Fifty squares summed in any order, a root and a product.
    np.testing.assert_allclose(jax.jit(vectors.norms)(matrix), want, rtol=60 * EPS)
    careless = matrix[[0, 2, 3]]
    np.testing.assert_allclose(jax.jit(vectors.norms)(careless), want[[0, 2, 3]], rtol=60 * EPS)


# ---------------------------------------------------------------- energy


def test_energies_by_hand():
    rows = jnp.array([[3.0, 0, 0], [3, 0, -4], [0, 0, 0], [6, 0, -8]])
    vector = jnp.array([3.0, 0, -4])
    np.testing.assert_allclose(vectors.energies(rows, vector), [9 / 25, 1, 0, 4], rtol=4 * EPS)
    assert vectors.energies(rows, jnp.zeros(3)).tolist() == [0] * 4


@pytest.mark.parametrize("scale", [2e-38, 1e-30, 1e30, 4e37])
def test_energies_at_the_ends_of_the_range(scale):
    """Squares leave float32 in both directions, and 4e37 times 8 lies beyond 2^126."""
    vector = np.float32(scale) * np.array([3, 0, -8, 1], np.float32)
    rows = np.where([[1, 0, 1, 1], [1, 0, 0, 1], [0, 0, 1, 0]], vector, 0)
    want = [1, 10 / 74, 64 / 74]
    np.testing.assert_allclose(jax.jit(vectors.energies)(rows, vector), want, rtol=8 * EPS)
    quota = np.array([4, 1, 0], np.int32)
    got = jax.jit(top_k.energy_of_largest)(vector, quota)
    np.testing.assert_allclose(got, [1, 64 / 74, 0], rtol=8 * EPS)


@pytest.mark.parametrize("entries", [1, 2, 300, 40_000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_energy_of_largest_is_the_oracles(entries, dtype):
    """By either way of finding the thresholds, and as chosen, ties and zeros included."""
    rng = np.random.default_rng(1)
    quota = rng.integers(0, entries + 1, 9).astype(np.int32)
    quota[:4] = [0, entries, entries - 1, min(1, entries)]
    energy = jax.jit(top_k.energy_of_largest)
    ways = [jax.jit(top_k.by_sorting), jax.jit(top_k.by_selecting)]
    for name, vector in _vectors(entries).items():
        vector = vector.astype(dtype)
        if name == "wide" and np.abs(vector).max() < 1e-37:
            continue  # XLA takes subnormal numbers for zero
        rank = oracle.ranks(vector)
        rewards = np.where(rank[None] < quota[:, None], np.float64(vector), 0)
        want = [oracle.energy(reward, np.float64(vector)) for reward in rewards]
        with jax.enable_x64(dtype == np.float64):
            got = np.asarray(energy(vector, quota))
            assert got.dtype == dtype
        # Sums of up to 40,000 positive terms in any order.
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-12, err_msg=name)
        assert got[1] == float(np.any(vector))  # all entries, and not a rounding less
        if dtype == np.float32 and name != "wide":
            keys = top_k.magnitude_keys(jnp.asarray(vector))
            squares = np.square(vector)
            for way in ways:
                *_, sums = way(keys, quota, squares)
                rest = quota < entries
                total = np.square(np.float64(vector)).sum()
                wanted = np.array(want) * total
                np.testing.assert_allclose(sums[rest], wanted[rest], rtol=2e-5, atol=1e-7)
