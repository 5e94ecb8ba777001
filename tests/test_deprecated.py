"""The names of the version before work for this one, and name the new ones."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cgsv_jax as cg
from cgsv_jax import experiment
from cgsv_jax.core import deprecated

RENAMED = {
    (cg, "Measure"): cg.Contribution,
    (cg.contribution, "moving_average"): cg.reputation.moving_average,
    (cg.contribution, "size_share"): cg.reputation.size_share,
    (experiment, "problems"): experiment.tasks,
}


@pytest.mark.parametrize(("module", "old"), RENAMED, ids=[old for _, old in RENAMED])
def test_an_old_name_is_the_new_thing(module, old):
    new = RENAMED[module, old]
    with pytest.warns(DeprecationWarning, match=rf"\.{old} is now called cgsv_jax\.") as caught:
        assert getattr(module, old) is new
    assert str(caught[0].message).endswith(f".{new.__name__}")
    assert caught[0].filename == __file__  # the line that is to be changed


@pytest.mark.parametrize("module", [cg, cg.contribution, experiment])
def test_a_name_that_never_was_is_refused(module):
    with pytest.raises(AttributeError, match=re.escape(f"{module.__name__!r} has no attribute")):
        module.nothing  # noqa: B018


def server_step(algorithm, tiny):
    up = tiny.upload(np.eye(3, 12), [4, 5, 6])
    state = algorithm.init(3, 12)
    return jax.jit(algorithm.update)(jax.random.key(0), up, state)


def test_old_keywords_build_the_same_method(tiny):
    projection = cg.contribution.projection()
    with pytest.warns(DeprecationWarning, match="measure of cgsv is now called contribution"):
        old = cg.cgsv(measure=projection)
    new = cg.cgsv(contribution=projection)
    parts = cg.aggregation.by_reputation(), cg.reward.sparsify(1.0)
    reputation = cg.reputation.moving_average(projection, 0.95)
    with pytest.warns(DeprecationWarning, match="contribution of compose is now .* reputation"):
        composed = cg.compose(contribution=reputation, aggregation=parts[0], reward=parts[1])
    for one, other in ((old, new), (composed, cg.compose(reputation, *parts))):
        pairs = zip(*(jax.tree.leaves(server_step(a, tiny)) for a in (one, other)), strict=True)
        assert all(jnp.array_equal(x, y) for x, y in pairs)


def test_what_was_a_contribution_is_told_from_what_is_one():
    """The word has changed its meaning, so the wrong one is handed over where it was the right."""
    with pytest.raises(ValueError, match=r"reputation is .*, it must be of type Reputation"):
        cg.compose(
            cg.contribution.cosine(), cg.aggregation.by_reputation(), cg.reward.sparsify(1.0)
        )


def test_an_argument_is_given_once():
    identity = deprecated.arguments(lambda new: new, old="new")
    with pytest.raises(TypeError, match="is given new twice, once as old"):
        identity(new=1, old=2)
    warned = pytest.warns(DeprecationWarning, match="old of .* is now called new")
    with pytest.raises(TypeError, match="multiple values"), warned:
        identity(1, old=2)
