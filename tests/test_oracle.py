"""The oracle against numbers worked out by hand and against traces of the released code."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import oracle
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from oracle import PAPER, RELEASED, Options, State

# Hand-written decimals carry 7 digits; everything else is compared to float64 noise.
HAND = {"rtol": 0, "atol": 5e-8}
NOISE = {"rtol": 1e-14, "atol": 1e-14}

ALL = np.array([True, True, True])


# ---------------------------------------------------------------- options


def test_the_bundles_differ_exactly_where_the_released_code_differs():
    differing = {name for name in vars(PAPER) if getattr(PAPER, name) != getattr(RELEASED, name)}
    assert differing == {
        "mask_scope",
        "mask_count",
        "mask_ties",
        "norm_epsilon",
        "cosine_epsilon",
        "decay_per",
        "learning_rate",
        "decay",
    }


@pytest.mark.parametrize("name", ["mask_scope", "mask_count", "mask_ties", "beta_on"])
def test_an_unknown_option_is_refused(name):
    with pytest.raises(ValueError, match=name):
        Options(**{name: "layer"})


# ---------------------------------------------------------------- upload


def test_upload_has_the_norm_gamma():
    # ‖(3, 4)‖ = 5, so u = .5 / 5 * (3, 4) = (.3, .4).
    assert_allclose(oracle.upload(np.array([3.0, 4.0]), 0.5, 0.0), [0.3, 0.4], **NOISE)


def test_upload_epsilon_is_added_to_the_norm():
    # ‖(3, 4)‖ + 1 = 6: it is a sum and no maximum.
    assert_allclose(oracle.upload(np.array([3.0, 4.0]), 6.0, 1.0), [3.0, 4.0], **NOISE)


@pytest.mark.parametrize("epsilon", [0.0, 1e-7])
def test_a_zero_update_stays_zero(epsilon):
    assert_array_equal(oracle.upload(np.zeros(4), 0.5, epsilon), np.zeros(4))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_only_a_non_finite_upload_is_absent(bad):
    deltas = np.array([[1.0, 2.0], [0.0, 0.0], [1.0, bad]])
    assert_array_equal(oracle.who_is_present(deltas), [True, True, False])


def test_an_update_whose_norm_overflows_is_absent():
    assert not oracle.is_finite(np.array([1e30, 0.0], np.float32))
    assert oracle.is_finite(np.array([1e30, 0.0]))


# ---------------------------------------------------------------- weights and aggregate


def test_first_weights_are_size_shares():
    weights = oracle.aggregation_weights(np.zeros(3), ~ALL, np.array([1, 3, 4]), ALL)
    assert_allclose(weights, [1 / 8, 3 / 8, 4 / 8], **NOISE)
    weights = oracle.aggregation_weights(np.zeros(3), ~ALL, np.array([1, 3, 4]), ALL, "uniform")
    assert_allclose(weights, [1 / 3, 1 / 3, 1 / 3], **NOISE)


def test_weights_of_present_clients_are_renormalised():
    # .5 and .2 of .7; in a first round 1 and 4 of 5.
    present = np.array([True, False, True])
    weights = oracle.aggregation_weights(np.array([0.5, 0.3, 0.2]), ALL, np.ones(3), present)
    assert_allclose(weights, [5 / 7, 0, 2 / 7], **NOISE)
    weights = oracle.aggregation_weights(np.zeros(3), ~ALL, np.array([1, 3, 4]), present)
    assert_allclose(weights, [1 / 5, 0, 4 / 5], **NOISE)


def test_a_newcomer_brings_its_share_of_all_data():
    # Client 2 is new: 30 of 60 rows = .5, next to the reputations .6 and .4; the sum is 1.5.
    before, joined = np.array([0.6, 0.4, 0.0]), np.array([True, True, False])
    weights = oracle.aggregation_weights(before, joined, np.array([10, 20, 30]), ALL)
    assert_allclose(weights, [0.4, 0.4 / 1.5, 0.5 / 1.5], **NOISE)


def test_weights_that_sum_to_zero_become_uniform_over_the_present():
    # Client 0 is absent and holds all reputation.
    before, present = np.array([1.0, 0.0, 0.0]), np.array([False, True, True])
    weights = oracle.aggregation_weights(before, ALL, np.ones(3), present)
    assert_allclose(weights, [0, 0.5, 0.5], **NOISE)


def test_the_aggregate_never_touches_an_absent_row():
    uploads = np.array([[1.0, 0.0], [np.nan, np.inf], [0.0, 2.0]])
    present = np.array([True, False, True])
    total = oracle.aggregate(uploads, np.array([0.25, 0.0, 0.75]), present)
    assert_array_equal(total, [0.25, 1.5])


# ---------------------------------------------------------------- contribution


def test_cosine_by_hand():
    # (3, 4).(4, 3) = 24, both norms 5.
    assert_allclose(oracle.cosine(np.array([3.0, 4.0]), np.array([4.0, 3.0])), 24 / 25, **NOISE)


def test_cosine_epsilon_is_a_smallest_norm():
    # Norms .1 and 1 with epsilon .5: .06 / (.5 * 1); the square root of a sum would give .118.
    value = oracle.cosine(np.array([0.06, 0.08]), np.array([1.0, 0.0]), 0.5)
    assert_allclose(value, 0.12, **NOISE)


@pytest.mark.parametrize("epsilon", [0.0, 1e-10])
def test_cosine_of_a_zero_vector_is_zero(epsilon):
    assert oracle.cosine(np.zeros(3), np.ones(3), epsilon) == 0
    assert oracle.cosine(np.ones(3), np.zeros(3), epsilon) == 0


def test_cosine_stays_within_one():
    # Unclipped, float noise puts some cosines of a vector with itself above 1.
    vectors = np.random.default_rng(0).normal(size=(200, 6))
    values = [v @ v / np.sqrt(v @ v) / np.sqrt(v @ v) for v in vectors]
    assert max(values) > 1
    assert max(oracle.cosine(v, v) for v in vectors) <= 1
    assert min(oracle.cosine(v, -v) for v in vectors) >= -1


# ---------------------------------------------------------------- reputation


def test_reputation_by_hand():
    # .5 (.5, .3, .2) + .5 (1, .4, .6) = (.75, .35, .4), sum 1.5.
    value = oracle.reputation(
        np.array([0.5, 0.3, 0.2]), np.array([1.0, 0.4, 0.6]), ALL, alpha=0.5, floor=1e-3
    )
    assert_allclose(value, [0.5, 0.35 / 1.5, 0.4 / 1.5], **NOISE)


def test_the_floor_comes_before_normalising():
    # .5 (.5, .3, .2) + .5 (1, -.9, -.1) = (.75, -.3, .05); floor .1: (.75, .1, .1), sum .95.
    value = oracle.reputation(
        np.array([0.5, 0.3, 0.2]), np.array([1.0, -0.9, -0.1]), ALL, alpha=0.5, floor=0.1
    )
    assert_allclose(value, [0.75 / 0.95, 0.1 / 0.95, 0.1 / 0.95], **NOISE)


def test_absent_clients_keep_theirs_and_the_present_share_the_rest():
    # .5 (.5, .2) + .5 (1, .5) = (.75, .35), sum 1.1; they had .7 between them.
    value = oracle.reputation(
        np.array([0.5, 0.3, 0.2]),
        np.array([1.0, np.nan, 0.5]),
        np.array([True, False, True]),
        alpha=0.5,
        floor=1e-3,
    )
    assert_allclose(value, [0.7 * 0.75 / 1.1, 0.3, 0.7 * 0.35 / 1.1], **NOISE)


def test_nobody_present_changes_nothing():
    before = np.array([0.5, 0.3, 0.2])
    value = oracle.reputation(before, np.zeros(3), ~ALL, alpha=0.5, floor=1e-3)
    assert_array_equal(value, before)


def test_present_clients_who_had_nothing_share_nothing():
    # Client 0 is absent and holds all of it: 1 - 1 is left.
    value = oracle.reputation(
        np.array([1.0, 0.0, 0.0]), np.ones(3), np.array([False, True, True]), 0.5, 1e-3
    )
    assert_array_equal(value, [1, 0, 0])


def test_reputations_that_sum_to_zero_become_uniform():
    before, scores = np.zeros(3), np.array([-0.2, -0.1, -0.9])
    value = oracle.reputation(before, scores, ALL, alpha=0.5, floor=0.0)
    assert_allclose(value, [1 / 3, 1 / 3, 1 / 3], **NOISE)


def test_alpha_one_freezes_the_reputation():
    before, scores = np.array([0.5, 0.3, 0.2]), np.array([-1.0, 0.0, 1.0])
    assert_allclose(oracle.reputation(before, scores, ALL, 1.0, 1e-3), before, **NOISE)
    # From zero, all are lifted to the floor: the first normalised value is uniform.
    first = oracle.reputation(np.zeros(3), scores, ALL, 1.0, 1e-3)
    assert_allclose(first, [1 / 3, 1 / 3, 1 / 3], **NOISE)


def test_normalised_scores():
    # (.6, -.2, .2) / 1 as it is; .5 (.5, .3, .2) + .5 (.6, -.2, .2) = (.55, .05, .2), sum .8.
    before, scores = np.array([0.5, 0.3, 0.2]), np.array([3.0, -1.0, 1.0])
    value = oracle.reputation(before, scores, ALL, 0.5, 1e-3, normalise_scores=True)
    assert_allclose(value, [0.55 / 0.8, 0.05 / 0.8, 0.2 / 0.8], **NOISE)
    # Without client 1: (.75, .25) of the mass .7 = (.525, .175);
    # .5 (.5, .2) + .5 (.525, .175) = (.5125, .1875), sum .7, which is their mass already.
    present = np.array([True, False, True])
    value = oracle.reputation(before, scores, present, 0.5, 1e-3, normalise_scores=True)
    assert_allclose(value, [0.5125, 0.3, 0.1875], **NOISE)


def test_normalised_scores_that_are_all_zero_stay_zero():
    before = np.array([0.5, 0.3, 0.2])
    value = oracle.reputation(before, np.zeros(3), ALL, 0.5, 0.0, normalise_scores=True)
    assert_allclose(value, before, **NOISE)


def test_relative_floor():
    # alpha = 0 and psi = (1, 0): the floor .5 of two clients is .25, so r = (1, .25) / 1.25.
    state = State(np.zeros(2), np.zeros((2, 2)), np.array([1.0, 0.0]), np.array([True, True]))
    deltas, options = np.array([[1.0, 0.0], [0.0, 1.0]]), replace(PAPER, alpha=0.0, floor=0.5)
    _, seen = oracle.server_round(state, deltas, [1, 1], None, options)
    assert_allclose(seen["r"], [1 / 1.5, 0.5 / 1.5], **NOISE)
    _, seen = oracle.server_round(
        state, deltas, [1, 1], None, replace(options, relative_floor=True)
    )
    assert_allclose(seen["r"], [1 / 1.25, 0.25 / 1.25], **NOISE)


# ---------------------------------------------------------------- ratio


def test_ratio_by_hand():
    # tanh(.5) = .4621172, tanh(.3) = .2913126, tanh(.2) = .1973753.
    value = oracle.ratios(np.array([0.5, 0.3, 0.2]), 1.0, ALL)
    assert_allclose(value, [1, 0.6303868, 0.4271109], rtol=0, atol=5e-7)


def test_ratio_of_r_over_its_maximum():
    # tanh(1) = .7615942, tanh(.6) = .5370496, tanh(.4) = .3799490.
    value = oracle.ratios(np.array([0.5, 0.3, 0.2]), 1.0, ALL, beta_on="max")
    assert_allclose(value, [1, 0.7051650, 0.4988863], rtol=0, atol=5e-7)


@pytest.mark.parametrize("beta_on", ["sum", "max"])
def test_ratio_limits(beta_on):
    r = np.array([0.5, 0.3, 0.2])
    assert_allclose(oracle.ratios(r, 0.0, ALL, beta_on), [1, 0.6, 0.4], **NOISE)
    # tanh x = x - x^3 / 3: the limit is reached to beta^2.
    assert_allclose(oracle.ratios(r, 1e-6, ALL, beta_on), [1, 0.6, 0.4], rtol=0, atol=1e-12)
    assert_array_equal(oracle.ratios(r, np.inf, ALL, beta_on), [1, 1, 1])
    assert_array_equal(oracle.ratios(r, 1e7, ALL, beta_on), [1, 1, 1])
    assert_array_equal(oracle.ratios(np.array([1.0, 0, 0]), np.inf, ALL, beta_on), [1, 1, 1])


@pytest.mark.parametrize("beta", [0.0, 1.0, np.inf])
def test_ratio_is_taken_over_present_clients(beta):
    value = oracle.ratios(np.array([0.5, 0.3, 0.3]), beta, np.array([False, True, True]))
    assert_array_equal(value, [0, 1, 1])


@pytest.mark.parametrize("beta", [0.0, 1.0, np.inf])
def test_reputations_that_are_all_zero_earn_the_maximal_ratio(beta):
    value = oracle.ratios(np.array([1.0, 0.0, 0.0]), beta, np.array([False, True, True]))
    assert_array_equal(value, [0, 1, 1])


# ---------------------------------------------------------------- quota and mask


@pytest.mark.parametrize(
    ("length", "ratio", "floor", "ceil"),
    [
        (10, 0.55, 5, 6),  # 5.5
        (10, 0.5, 5, 5),  # exactly 5: floor and ceil agree
        (10, 1.0, 10, 9),  # even the best client loses the smallest entry
        (10, 0.95, 9, 9),  # 9.5: ceil says 10, at most 9
        (10, 0.05, 0, 1),
        (10, 0.0, 0, 0),
        (1, 0.5, 0, 0),  # a tensor of one entry is never sent under "ceil"
        (1, 1.0, 1, 0),
    ],
)
def test_quota(length, ratio, floor, ceil):
    assert oracle.quota(length, ratio, "floor") == floor
    assert oracle.quota(length, ratio, "ceil") == ceil


def test_ratio_one_earns_every_entry_even_where_float32_cannot_count_them():
    # float32(2^24 + 1) is 2^24.
    assert oracle.quota(2**24 + 1, np.float32(1), "floor") == 2**24 + 1


TIES = np.array([1.0, -1.0, 1.0, 0.5])


@pytest.mark.parametrize(
    ("kept", "position", "every"),
    [
        (0, [0, 0, 0, 0], [0, 0, 0, 0]),
        (1, [1, 0, 0, 0], [1, 1, 1, 0]),
        (2, [1, 1, 0, 0], [1, 1, 1, 0]),
        (3, [1, 1, 1, 0], [1, 1, 1, 0]),
        (4, [1, 1, 1, 1], [1, 1, 1, 1]),
    ],
)
def test_ties(kept, position, every):
    assert_array_equal(oracle.mask(TIES, [kept], [4], "position"), position)
    assert_array_equal(oracle.mask(TIES, [kept], [4], "all"), every)


def test_an_all_zero_vector_is_one_tie():
    assert_array_equal(oracle.mask(np.zeros(3), [1], [3], "position"), [1, 0, 0])
    assert_array_equal(oracle.mask(np.zeros(3), [1], [3], "all"), [1, 1, 1])


def test_mask_per_tensor_and_over_the_vector():
    # Magnitudes 9 8 7 | 1 2 3; the vector's best three are all of the first tensor.
    vector = np.array([9.0, -8.0, 7.0, 1.0, -2.0, 3.0])
    assert_array_equal(oracle.mask(vector, [3], [6], "position"), [1, 1, 1, 0, 0, 0])
    assert_array_equal(oracle.mask(vector, [1, 2], [3, 3], "position"), [1, 0, 0, 0, 1, 1])
    assert_array_equal(oracle.mask(vector, [0, 1], [3, 3], "all"), [0, 0, 0, 0, 0, 1])


def test_mask_refuses_tensors_that_do_not_fill_the_vector():
    with pytest.raises(ValueError, match="entries"):
        oracle.mask(np.ones(4), [1], [3], "position")


@pytest.mark.parametrize("ties", ["position", "all"])
def test_masks_are_nested_and_monotone(ties):
    vector = np.round(np.random.default_rng(1).normal(size=30), 1)  # rounding makes ties
    masks = [oracle.mask(vector, [k], [30], ties) for k in range(31)]
    for k in range(30):
        assert np.all(masks[k] <= masks[k + 1])
        assert masks[k].sum() == k if ties == "position" else masks[k].sum() >= k


# ---------------------------------------------------------------- a whole round, N = 2, D = 4
#
# dw_0 = (3, 4, 0, 0), dw_1 = (0, 0, 0, 2), Gamma = .5: u_0 = (.3, .4, 0, 0), u_1 = (0, 0, 0, .5).
# Sizes 3 and 1: weights .75, .25, u_N = (.225, .3, 0, .125), ‖u_N‖^2 = .15625 = 5 / 32.
# psi_0 = (.0675 + .12) / (.5 sqrt(5 / 32)) = .375 / .3952847 = .9486833 = 3 / sqrt(10)
# psi_1 = .0625 / (.5 sqrt(5 / 32)) = .3162278 = 1 / sqrt(10)
# r_0 = .05 psi, above the floor, normalised: 3 / 4 and 1 / 4, the weights once more.
# tanh(.25) / tanh(.75) = .2449187 / .6351490 = .3856082; 4 times that is 1.54.

DELTAS = np.array([[3.0, 4.0, 0.0, 0.0], [0.0, 0.0, 0.0, 2.0]])
SIZES = np.array([3, 1])
AGGREGATE = np.array([0.225, 0.3, 0.0, 0.125])


def assert_common_part(seen):
    assert_allclose(seen["norms"], [5, 2], **NOISE)
    assert_allclose(seen["weights"], [0.75, 0.25], **NOISE)
    assert_allclose(seen["psi"], [0.9486833, 0.3162278], **HAND)
    assert_allclose(seen["r"], [0.75, 0.25], **NOISE)
    assert_allclose(seen["ratio"], [1, 0.3856082], **HAND)


def test_paper_round_by_hand():
    start = oracle.start(np.array([1.0, 2.0, 3.0, 4.0]), 2)
    state, seen = oracle.server_round(start, DELTAS, SIZES)
    assert_common_part(seen)
    assert_allclose(seen["uploads"], [[0.3, 0.4, 0, 0], [0, 0, 0, 0.5]], **NOISE)
    assert_allclose(seen["aggregate"], AGGREGATE, **NOISE)
    assert_array_equal(seen["quota"], [[4], [1]])
    assert_allclose(seen["rewards"], [AGGREGATE, [0, 0.3, 0, 0]], **NOISE)
    assert_allclose(state.server, [1.225, 2.3, 3, 4.125], **NOISE)
    assert_allclose(state.clients, [[1.225, 2.3, 3, 4.125], [1, 2.3, 3, 4]], **NOISE)
    assert state.joined.all()
    assert state.round == 1


def test_the_second_round_weighs_by_reputation():
    # The same updates again: weights (.75, .25) are r now, so psi and then r repeat themselves:
    # .95 (3, 1) / 4 + .05 (3, 1) / sqrt(10) is still 3 : 1. The sizes no longer matter.
    state, _ = oracle.server_round(oracle.start(np.zeros(4), 2), DELTAS, SIZES)
    state, seen = oracle.server_round(state, DELTAS, np.array([1, 99]))
    assert_common_part(seen)
    assert_allclose(state.server, 2 * AGGREGATE, **NOISE)
    assert_allclose(state.clients, [2 * AGGREGATE, [0, 0.6, 0, 0]], **NOISE)


def test_released_round_by_hand():
    # Two tensors of two: min(ceil(2 * 1), 1) = 1 and min(ceil(.77), 1) = 1 for both clients, who
    # receive the larger entry of (.225, .3) and of (0, .125).
    start = oracle.start(np.zeros(4), 2)
    state, seen = oracle.server_round(start, DELTAS, SIZES, None, RELEASED, tensors=[2, 2])
    assert_array_equal(seen["quota"], [[1, 1], [1, 1]])
    # Gamma ‖dw‖ / (‖dw‖ + 1e-7) = .5 / (1 + 1e-7 / 5) and .5 / (1 + 1e-7 / 2).
    shrink = np.array([1 + 2e-8, 1 + 5e-8])
    assert_allclose(seen["upload_norms"], 0.5 / shrink, **NOISE)
    received = [0, 0.3 / shrink[0], 0, 0.125 / shrink[1]]
    assert_allclose(state.clients, [received, received], **NOISE)
    assert_allclose(seen["psi"], [0.9486833, 0.3162278], rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("scope", "count", "expected"),
    [
        ("vector", "floor", [[4], [1]]),
        ("vector", "ceil", [[3], [2]]),
        ("tensor", "floor", [[1, 3], [0, 1]]),  # .386 and 1.157
        ("tensor", "ceil", [[0, 2], [0, 2]]),
    ],
)
def test_scope_and_count_combine(scope, count, expected):
    options = replace(PAPER, mask_scope=scope, mask_count=count)
    start = oracle.start(np.zeros(4), 2)
    _, seen = oracle.server_round(start, DELTAS, SIZES, None, options, tensors=[1, 3])
    assert_array_equal(seen["quota"], expected)
    assert_array_equal(seen["mask"].sum(axis=1), np.sum(expected, axis=1))


def test_quotas_follow_the_given_ratios():
    start = oracle.start(np.zeros(4), 2)
    _, seen = oracle.server_round(start, DELTAS, SIZES, ratios=np.array([0.5, 1.0]))
    assert_array_equal(seen["quota"], [[2], [4]])
    assert_allclose(seen["rewards"], [[0.225, 0.3, 0, 0], AGGREGATE], **NOISE)


def test_a_scope_of_tensors_needs_their_lengths():
    with pytest.raises(ValueError, match="lengths"):
        oracle.server_round(oracle.start(np.zeros(4), 2), DELTAS, SIZES, None, RELEASED)


@pytest.mark.parametrize("how", ["told", "nan"])
def test_an_absent_client_is_left_alone(how):
    deltas = np.vstack([DELTAS, [5.0, 5.0, 5.0, 5.0]])
    present = np.array([True, True, False])
    if how == "nan":
        deltas[2, 1], present = np.nan, None
    start = oracle.start(np.zeros(4), 3)
    state, seen = oracle.server_round(start, deltas, np.array([3, 1, 96]), present)
    # The round of the two others, whatever the third one's size.
    assert_allclose(seen["weights"], [0.75, 0.25, 0], **NOISE)
    assert_allclose(state.reputation, [0.75, 0.25, 0], **NOISE)
    assert_allclose(state.clients, [AGGREGATE, [0, 0.3, 0, 0], [0, 0, 0, 0]], **NOISE)
    assert_array_equal(seen["quota"], [[4], [1], [0]])
    assert_array_equal(state.joined, [True, True, False])
    # Back in: it weighs its size share .96 next to .75 and .25, the sum being 1.96.
    _, seen = oracle.server_round(state, np.nan_to_num(deltas), np.array([3, 1, 96]))
    assert_allclose(seen["weights"], np.array([0.75, 0.25, 0.96]) / 1.96, **NOISE)
    assert_allclose(seen["r"].sum(), 1, **NOISE)


def test_a_round_without_anybody_moves_nothing():
    start = State(np.ones(4), np.ones((2, 4)), np.array([0.75, 0.25]), np.array([True, True]))
    state, seen = oracle.server_round(start, DELTAS, SIZES, np.array([False, False]))
    for before, after in zip(start[:4], state[:4], strict=True):
        assert_array_equal(before, after)
    assert not np.any(seen["rewards"])


@pytest.mark.parametrize("options", [PAPER, RELEASED])
def test_an_all_zero_round_is_legal(options):
    start = oracle.start(np.ones(4), 2)
    state, seen = oracle.server_round(start, 0 * DELTAS, SIZES, None, options, tensors=[2, 2])
    assert_array_equal(seen["present"], [True, True])
    assert_array_equal(seen["psi"], [0, 0])
    assert_allclose(seen["r"], [0.5, 0.5], **NOISE)  # both at the floor
    assert_array_equal(state.clients, np.ones((2, 4)))


def test_a_zero_update_among_others_scores_zero():
    # u_N is .75 u_0 alone, psi = (1, 0), .05 psi = (.05, 0), floor: (.05, .001) / .051.
    deltas = np.array([DELTAS[0], np.zeros(4)])
    _, seen = oracle.server_round(oracle.start(np.zeros(4), 2), deltas, SIZES)
    assert_allclose(seen["psi"], [1, 0], **NOISE)
    assert_allclose(seen["r"], [50 / 51, 1 / 51], **NOISE)


def test_a_float32_run_stays_float32():
    params = [p.astype(np.float32) for p in task("mlp")[2]]
    inputs, order = np.ones((2, 4), np.float32), np.array([[[[0, 1]]]])
    arguments = [inputs], [np.array([0, 1])], order
    history = oracle.run(params, *arguments, batch=2, gradient=oracle.mlp_gradient)
    assert {history[0][k].dtype for k in ("deltas", "server", "clients", "r")} == {
        np.dtype(np.float32)
    }


def test_float32_stays_float32():
    start = oracle.start(np.zeros(4, np.float32), 2)
    state, seen = oracle.server_round(start, DELTAS.astype(np.float32), SIZES)
    values = [*state[:3], *(seen[k] for k in ("uploads", "weights", "aggregate", "psi", "ratio"))]
    assert {v.dtype for v in values} == {np.dtype(np.float32)}


# ---------------------------------------------------------------- local training

MODELS = {
    "softmax": (oracle.softmax_logits, oracle.softmax_gradient, [(3,), (4, 3)]),
    "mlp": (oracle.mlp_logits, oracle.mlp_gradient, [(5,), (4, 5), (3,), (5, 3)]),
}


def task(name, rows=7, seed=0):
    rng = np.random.default_rng(seed)
    logits, gradient, shapes = MODELS[name]
    params = [rng.normal(size=shape) for shape in shapes]
    labels = rng.integers(0, 3, rows)
    return logits, gradient, params, rng.normal(size=(rows, 2, 2)), labels


@pytest.mark.parametrize("name", MODELS)
def test_gradients_agree_with_finite_differences(name):
    logits, gradient, params, inputs, labels = task(name)
    vector, step = oracle.ravel(params), 1e-5

    def value(v):
        return oracle.loss(logits(oracle.unravel(v, params), inputs), labels)

    steps = step * np.eye(len(vector))
    slopes = [(value(vector + s) - value(vector - s)) / (2 * step) for s in steps]
    # Truncation: step^2 = 1e-10 times a third derivative of order 1; rounding: 1e-16 / step.
    assert_allclose(oracle.ravel(gradient(params, inputs, labels)), slopes, rtol=0, atol=1e-8)


def test_one_logistic_step_by_hand():
    # Zero weights give p = (.5, .5), so dL/dlogits = (-.5, .5) for label 0; x = (1, 2), eta = .1:
    # the bias moves by (.05, -.05), the kernel by x times that.
    zeros = [np.zeros(2), np.zeros((2, 2))]
    inputs, labels, order = np.array([[1.0, 2.0]]), np.array([0]), np.array([[0]])
    delta = oracle.local_training(zeros, inputs, labels, order, [0.1], 8, oracle.softmax_gradient)
    assert_allclose(delta, [0.05, -0.05, 0.05, -0.05, 0.1, -0.1], **NOISE)


def test_batches_epochs_and_learning_rates_by_hand():
    # The loss is the batch mean of (w - x)^2 / 2, so a step is w += eta (mean x - w). Rows 1, 2, 6.
    # Epoch 0, eta .5, order 6 1 | 2: w = 0 -> .5 * 3.5 = 1.75 -> 1.75 + .5 * .25 = 1.875.
    # Epoch 1, eta .25, order 2 6 | 1: 1.875 + .25 * 2.125 = 2.40625, then - .25 * 1.40625.
    def gradient(params, inputs, labels):
        del labels
        return [params[0] - inputs.mean(axis=0)]

    rows, order = np.array([[1.0], [2.0], [6.0]]), np.array([[2, 0, 1, -1], [1, 2, 0, -1]])
    before = [np.array([0.0])]
    delta = oracle.local_training(before, rows, np.zeros(3, int), order, [0.5, 0.25], 2, gradient)
    assert_array_equal(delta, [2.0546875])
    assert before[0][0] == 0  # the client goes back to where it was


def test_a_client_without_rows_does_not_move():
    order = np.full((2, 3), -1)
    _, gradient, params, inputs, labels = task("mlp")
    delta = oracle.local_training(params, inputs, labels, order, [0.1, 0.1], 2, gradient)
    assert_array_equal(delta, np.zeros(5 + 20 + 3 + 15))


def test_padding_between_rows_is_refused():
    with pytest.raises(ValueError, match="padding"):
        oracle.visited(np.array([0, -1, 1]))


def test_learning_rates():
    options = Options(learning_rate=1.0, decay=0.5)
    assert oracle.learning_rates(options, 0, 3) == [1, 1, 1]
    assert oracle.learning_rates(options, 2, 3) == [0.25, 0.25, 0.25]
    per_epoch = replace(options, decay_per="epoch")
    assert oracle.learning_rates(per_epoch, 0, 3) == [1, 0.5, 0.25]
    assert oracle.learning_rates(per_epoch, 1, 3) == [0.125, 0.0625, 0.03125]


# ---------------------------------------------------------------- whole runs


def small_run(options=PAPER, algorithm="cgsv", rounds=3, sizes=(3, 4, 7), **kwargs):
    rng = np.random.default_rng(2)
    params = task("mlp")[2]
    inputs = [rng.normal(size=(n, 4)) for n in sizes]
    labels = [rng.integers(0, 3, n) for n in sizes]
    orders = np.full((rounds, len(sizes), 2, max(sizes)), -1)
    for index in np.ndindex(orders.shape[:3]):
        orders[index][: sizes[index[1]]] = rng.permutation(sizes[index[1]])
    history = oracle.run(
        params,
        inputs,
        labels,
        orders,
        options,
        algorithm,
        batch=3,
        gradient=oracle.mlp_gradient,
        **kwargs,
    )
    return oracle.ravel(params), history


def test_clients_move_by_rewards_only():
    before, history = small_run()
    rewards = np.sum([seen["rewards"] for seen in history], axis=0)
    assert_allclose(history[-1]["clients"], before + rewards, **NOISE)
    assert_allclose(history[1]["weights"], history[0]["r"], **NOISE)
    assert_allclose(history[2]["upload_norms"], 0.5, **NOISE)


def test_infinite_beta_gives_everybody_the_server_model():
    _, history = small_run(replace(PAPER, beta=np.inf))
    for seen in history:
        assert_array_equal(seen["clients"], np.array([seen["server"]] * 3))
    # The released mask drops the smallest entry of each tensor even then: 4 of 43.
    _, history = small_run(replace(RELEASED, beta=np.inf), rounds=1)
    assert_array_equal((history[0]["clients"] != history[0]["server"]).sum(axis=1), [4, 4, 4])


def test_fedavg_weighs_raw_updates_by_size():
    before, history = small_run(algorithm="fedavg")
    deltas = history[0]["deltas"]
    # 3, 4 and 7 of 14 rows.
    expected = before + deltas[0] * 3 / 14 + deltas[1] * 4 / 14 + deltas[2] * 7 / 14
    assert_allclose(history[0]["server"], expected, **NOISE)
    for seen in history:
        assert_array_equal(seen["clients"], np.array([seen["server"]] * 3))
        assert seen["psi"] is None


def test_standalone_clients_do_not_meet():
    before, history = small_run(algorithm="standalone")
    own = before + np.sum([seen["deltas"] for seen in history], axis=0)
    assert_allclose(history[-1]["clients"], own, **NOISE)
    assert_allclose(history[-1]["server"], own.mean(axis=0), **NOISE)


@pytest.mark.parametrize("algorithm", ["cgsv", "fedavg", "standalone"])
def test_absence_in_a_run(algorithm):
    present = np.array([[True, True, True], [True, False, True], [True, True, True]])
    _, history = small_run(algorithm=algorithm, present=present)
    assert_array_equal(history[1]["clients"][1], history[0]["clients"][1])
    assert history[1]["weights"][1] == 0
    for seen in history:
        assert_allclose(seen["weights"].sum(), 1, **NOISE)
    if algorithm == "cgsv":
        assert history[1]["r"][1] == history[0]["r"][1]
        assert_allclose([seen["r"].sum() for seen in history], 1, **NOISE)


def test_an_unknown_algorithm_is_refused():
    with pytest.raises(ValueError, match="fedprox"):
        small_run(algorithm="fedprox")


# ---------------------------------------------------------------- fairness


def test_fairness_by_hand():
    # Deviations (-1, 0, 1) and (-1, 1, 0): products sum to 1, squares to 2 and 2, so 1 / 2.
    assert_allclose(oracle.fairness([1, 2, 3], [1, 3, 2]), 50, **NOISE)
    assert_allclose(oracle.fairness([0.1, 0.2, 0.3], [0.5, 0.7, 0.9]), 100, **NOISE)
    assert_allclose(oracle.fairness([0.1, 0.2, 0.3], [0.9, 0.7, 0.5]), -100, **NOISE)


@pytest.mark.parametrize(
    ("standalone", "final"),
    [
        ([0.1, 0.2], [0.3, 0.4]),  # two points
        ([0.1, 0.2, 0.3], [0.5, 0.5, 0.5]),
        ([0.1, 0.2, 0.3], [0.3, 0.3, 0.1 + 0.2]),  # constant but for 5e-17
        ([0.1, 0.2, 0.3], [0.7, 0.7, float(np.float32(0.7))]),  # constant but for 1e-8
        ([0.0, 0.0, 0.0], [0.1, 0.2, 0.3]),
        ([0.1, np.nan, 0.3], [0.1, 0.2, 0.3]),
        ([0.1, 0.2, 0.3], [0.1, np.inf, 0.3]),
        ([], []),
    ],
)
def test_fairness_that_is_not_defined(standalone, final):
    assert oracle.fairness(standalone, final) is None


# ---------------------------------------------------------------- traces of the released code
#
# The traces are float32 runs of the released code; the oracle computes in float64 from the numbers
# stored, so that the difference is the trace's rounding alone. Two kinds of tolerance, u = 2^-24:
# * a chain of k roundings: k u relative;
# * a float32 sum of D terms: its error is a random walk of D roundings, of the size sqrt(D) u
#   relative to the sum of the magnitudes (the probabilistic form of the bound D u).
# A wrong rule moves psi, r or the ratio by 1e-3 and more, far outside both.

UNIT = 2.0**-24
FOLDER = os.environ.get("CGSV_TRACES")
FILES = sorted(Path(FOLDER).glob("*.npz")) if FOLDER else []
TRACES = (
    [pytest.param(path, id=path.stem) for path in FILES]
    if FOLDER
    else [pytest.param(None, marks=pytest.mark.skip("CGSV_TRACES does not name a folder"))]
)


class Trace:
    def __init__(self, path):
        with np.load(path) as archive:
            self.arrays = {name: archive[name] for name in archive.files}
        settings = self.settings = dict(entry.split("=") for entry in self.arrays["settings"])
        self.options = replace(
            RELEASED,
            gamma=float(settings["gamma"]),
            alpha=float(settings["alpha"]),
            beta=float(settings["beta"]),
        )
        self.init = [self.arrays[f"init/{name}"] for name in self.arrays["param_names"]]
        self.start = oracle.ravel(self.init).astype(float)
        self.tensors = [p.size for p in self.init]
        self.rounds, self.number = self.arrays["cosine"].shape

    def __getitem__(self, name):
        values = self.arrays[name]
        return values.astype(float) if values.dtype.kind == "f" else values

    def reputation_before(self, t):
        return self["reputation"][t - 1] if t else np.zeros(self.number)


def test_the_folder_of_traces_is_not_empty():
    if FOLDER is None:
        pytest.skip("CGSV_TRACES does not name a folder")
    assert FILES


@pytest.mark.parametrize("path", TRACES)
def test_small_steps_of_every_traced_round(path):
    trace = Trace(path)
    everybody = np.ones(trace.number, bool)
    options = trace.options
    for t in range(trace.rounds):
        before = trace.reputation_before(t)
        weights = oracle.aggregation_weights(
            before, everybody & (t > 0), trace["sizes"], everybody, options.first_weights
        )
        # Size shares: a division and a cast. Later the trace uses r itself, whose float32 sum
        # is 1 to N roundings, while the oracle divides by it.
        roundings = trace.number + 2
        assert_allclose(trace["weights"][t], weights, rtol=roundings * UNIT, atol=0)
        # Two products, their sum, N - 1 additions, a division, and 1 - alpha rounded.
        r = oracle.reputation(before, trace["cosine"][t], everybody, options.alpha, options.floor)
        roundings = trace.number + 5
        assert_allclose(trace["reputation"][t], r, rtol=roundings * UNIT, atol=0)
        # beta r, a tanh good to 2 ulp = 4 u, twice; a division.
        ratio = oracle.ratios(trace["reputation"][t], options.beta, everybody, options.beta_on)
        assert_allclose(trace["ratio"][t], ratio, rtol=11 * UNIT, atol=0)


@pytest.mark.parametrize("path", TRACES)
def test_reward_sizes_of_every_traced_round(path):
    # An entry received counts only if it is not zero: units that are dead for every client leave
    # exact zeros in u_N. The best client lacks at most the smallest entry of each tensor, so its
    # count says how many there are to receive. Ties at the threshold add to the count: images whose
    # channels are shifted copies of each other make exact ties of two or three in the first kernel,
    # so at most two come on top. Where the vectors are kept, the counts are compared exactly below.
    trace = Trace(path)
    ratio, received = trace.arrays["ratio"], trace["reward_nonzero"]
    for t in range(trace.rounds):
        available = received[t].max(axis=0)
        for i in range(trace.number):
            kept = oracle.quotas(trace.tensors, ratio[t, i], trace.options.mask_count)
            excess = received[t, i] - np.minimum(kept, available)
            assert_array_equal(excess[1:], 0)
            assert 0 <= excess[0] <= 2


def kept_rounds(trace, options):
    """Every round whose update vectors are kept: (position, t, state after, what was seen)."""
    for kept, t in enumerate(trace["kept_rounds"]):
        # What is stored is u after the rescale; before it, dw had this length.
        lengths = trace["update_norm_before"][t] + options.norm_epsilon
        state = State(
            trace.start,
            np.array([trace.start] * trace.number),
            trace.reputation_before(t),
            np.full(trace.number, t > 0),
            int(t),
        )
        deltas = trace["update_flat"][kept] * lengths[:, None] / options.gamma
        state, seen = oracle.server_round(
            state, deltas, trace["sizes"], None, options, trace["ratio"][t], trace.tensors
        )
        yield kept, t, state, seen


def received_entries(trace, seen):
    """Non-zero entries of every reward per tensor, [N, L]."""
    starts = np.cumsum([0, *trace.tensors])[:-1]
    return np.add.reduceat(seen["rewards"] != 0, starts, axis=1, dtype=int)


@pytest.mark.parametrize("path", TRACES)
def test_whole_server_rounds_from_traced_updates(path):
    trace = Trace(path)
    if "update_flat" not in trace.arrays:
        pytest.skip("this trace keeps no full update vectors")
    options = trace.options
    walk = np.sqrt(len(trace.start)) * UNIT
    for kept, t, state, seen in kept_rounds(trace, options):
        # One float32 norm of D squares, halved by the square root, in each: in the rescale, in the
        # norm stored.
        assert_allclose(trace["update_norm"][t], seen["upload_norms"], rtol=walk, atol=0)
        assert_allclose(trace["update_flat"][kept], seen["uploads"], rtol=walk, atol=0)
        # A dot product, whose terms may cancel (so it is absolute, psi being relative to the
        # norms), and two norms that count half each.
        error = 2 * walk
        assert_allclose(trace["cosine"][t], seen["psi"], rtol=0, atol=error)
        # r = x / sum x with x = alpha r' + (1 - alpha) psi: x and the sum share the error.
        averages = options.alpha * trace.reputation_before(t) + (1 - options.alpha) * seen["psi"]
        error = 2 * (1 - options.alpha) * error / averages.min() + (trace.number + 5) * UNIT
        assert_allclose(trace["reputation"][t], seen["r"], rtol=error, atol=0)
        # tanh is concave: x tanh'(x) / tanh(x) <= 1 passes on no more than the error of each r.
        ratio = oracle.ratios(seen["r"], options.beta, seen["present"], options.beta_on)
        assert_allclose(trace["ratio"][t], ratio, rtol=2 * error + 11 * UNIT, atol=0)
        # From the same ratio the counts are integers and must agree.
        assert_array_equal(received_entries(trace, seen), trace["reward_nonzero"][t])
        if t == 0:
            # The rewards themselves: they are what moved the common start. N products and N sums of
            # at most Gamma (weights sum to 1, norms bound entries), the addition to a parameter,
            # and the rescale's own error in the entries of u_N.
            sums = (trace.number + 2) * options.gamma + np.abs(trace.start).max()
            atol = sums * UNIT + walk * np.abs(seen["aggregate"]).max()
            assert_allclose(trace["server_flat"][kept], state.server, rtol=0, atol=atol)
            assert_allclose(trace["agent_flat"][kept], state.clients, rtol=0, atol=atol)


@pytest.mark.skipif(FOLDER is None, reason="CGSV_TRACES does not name a folder")
@pytest.mark.parametrize("name", ["mask_scope", "mask_count", "mask_ties"])
def test_the_traces_tell_the_released_mask_from_the_paper_s(name):
    # Otherwise the agreement above would prove nothing about this option. Ties decide a single
    # entry of one round, so all traces count together.
    agree = True
    for trace in map(Trace, FILES):
        if "update_flat" not in trace.arrays:
            continue
        options = replace(trace.options, **{name: getattr(PAPER, name)})
        for _, t, _, seen in kept_rounds(trace, options):
            agree &= np.array_equal(received_entries(trace, seen), trace["reward_nonzero"][t])
    assert not agree


def torch_gradient(model):
    """Gradient of the traced network, so that the oracle's client can be run on it."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    activation = {"mnist": torch.tanh, "cifar": torch.relu}[model]

    def gradient(params, inputs, labels):
        leaves = [torch.tensor(p, requires_grad=True) for p in params]
        layers = list(zip(leaves[::2], leaves[1::2], strict=True))
        hidden = torch.tensor(inputs.astype(params[0].dtype))
        for kernel, bias in layers[:2]:
            hidden = activation(functional.conv2d(hidden, kernel, bias))
            hidden = functional.max_pool2d(hidden, 2)
        hidden = hidden.flatten(1)
        for kernel, bias in layers[2:-1]:
            hidden = activation(functional.linear(hidden, kernel, bias))
        logits = functional.linear(hidden, *layers[-1])
        functional.cross_entropy(logits, torch.tensor(labels).long()).backward()
        return [leaf.grad.numpy() for leaf in leaves]

    return gradient


@pytest.mark.parametrize("path", TRACES)
def test_local_training_of_the_first_two_traced_rounds(path):
    # Batches, short last batch, epochs and the learning rate of every epoch. The second round is
    # what tells a decay per epoch from one per round, or from none.
    trace = Trace(path)
    if "update_flat" not in trace.arrays:
        pytest.skip("this trace keeps no full update vectors")
    settings, gradient = trace.settings, torch_gradient(trace.settings["model"])
    rates = {"learning_rate": float(settings["lr"]), "decay": float(settings["decay"])}
    options, epochs = replace(trace.options, **rates), int(settings["epochs"])

    for client in range(trace.number):
        for t, start in enumerate([trace.start, trace["agent_flat"][0, client]]):
            # float32 on purpose: where two entries of a pooling window tie, or a unit sits at zero,
            # the gradient jumps, and float64 breaks the tie the other way.
            delta = oracle.local_training(
                oracle.unravel(start.astype(np.float32), trace.init),
                trace.arrays[f"inputs/{client}"],
                trace.arrays[f"labels/{client}"],
                trace["batch_order"][t, client],
                oracle.learning_rates(options, t, epochs),
                int(settings["batch"]),
                gradient,
            ).astype(float)
            length = oracle.norm(delta)
            # Every step rounds every parameter to u; and the trace's norm is a float32 sum. A decay
            # per round instead of per epoch moves the length by .7 to 7 %, far outside this error.
            steps = epochs * -(-trace["sizes"][client] // int(settings["batch"]))
            rounding = steps * UNIT * oracle.norm(start) / length
            error = rounding + np.sqrt(len(start)) * UNIT
            assert error < 1e-4
            assert_allclose(length, trace["update_norm_before"][t, client], rtol=error)
            if t == 0:
                direction = delta * options.gamma / length
                gap = oracle.norm(direction - trace["update_flat"][0, client])
                assert gap <= error * options.gamma
