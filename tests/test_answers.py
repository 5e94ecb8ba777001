"""What models make of every test example: as in NumPy, in order, in every layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgsv_jax.command import main
from cgsv_jax.core import evaluation as evaluation_lib
from cgsv_jax.core import grid, simulation
from cgsv_jax.experiment import bind
from cgsv_jax.results import directory as directory_lib
from cgsv_jax.types import Settings, State

EPS = float(np.finfo(np.float32).eps)
N = 5
ROWS = 11  # batch 4: two whole batches, and one of which a row was in the second


def logits_of(tiny, models, inputs):
    """Softmax regression in NumPy: bias [C] and kernel [F, C] of every model, logits [N, n, C]."""
    classes, features = tiny.classes, tiny.features
    models = np.float64(models)
    kernels = models[:, classes:].reshape(-1, features, classes)
    return np.einsum("nf,kfc->knc", np.float64(inputs), kernels) + models[:, None, :classes]


def answers_of(tiny, models, inputs, labels):
    logits = logits_of(tiny, models, inputs)
    right = logits.argmax(-1) == labels
    shifted = logits - logits.max(-1, keepdims=True)
    chances = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return right, -chances[:, np.arange(len(labels)), labels]


@pytest.fixture(scope="module")
def judged(tiny):
    """Models [N, D], and rows whose losses all differ."""
    rng = np.random.default_rng(3)
    dimension = tiny.features * tiny.classes + tiny.classes
    models = rng.normal(size=(N, dimension)).astype(np.float32)
    inputs = rng.normal(size=(ROWS, tiny.features)).astype(np.float32)
    return models, inputs, rng.integers(0, tiny.classes, ROWS).astype(np.int32)


def evaluated(tiny, judged, batch=4, chosen=None, validation=None, **settings):
    models, inputs, labels = judged
    settings = Settings(1, eval_batch=batch, answers=True, **settings)
    federation = tiny.federation()._replace(model=tiny.softmax(), settings=settings)
    state = State(models[0], models, (), (), jnp.int32(0), jnp.zeros(len(models)))
    look = jax.jit(
        lambda state: simulation.evaluate(state, inputs, labels, federation, chosen, validation)
    )
    return look(state)


@pytest.mark.parametrize("batch", [1, 4, 10, 11, 500])
@pytest.mark.parametrize("width", [None, 1, 2])
def test_every_row_once_and_in_order(tiny, judged, batch, width):
    found = evaluated(tiny, judged, batch, eval_width=width)
    right, loss = answers_of(tiny, *judged)
    assert found.answers.right.dtype == bool
    assert 0 < right.mean() < 1
    np.testing.assert_array_equal(found.answers.right, right)
    np.testing.assert_allclose(found.answers.loss, loss, rtol=1e-5, atol=40 * EPS)
    assert (
        len(np.unique(np.float32(loss))) == loss.size
    )  # so that no order can be taken for another


@pytest.mark.parametrize("batch", [4, 500])
def test_means_are_accuracy_and_loss(tiny, judged, batch):
    """The same rows count, to the last one; and both are as without answers."""
    found = evaluated(tiny, judged, batch)
    share = np.asarray(found.answers.right).mean(-1)
    np.testing.assert_allclose(found.accuracy, share, rtol=EPS)  # XLA's quotient
    np.testing.assert_allclose(np.mean(found.answers.loss, -1), found.loss, rtol=1e-6)
    score = evaluation_lib.scorer(tiny.softmax(), batch)
    models, inputs, labels = judged
    plain = jax.jit(jax.vmap(lambda weights: score(inputs, labels, weights)))(models)
    np.testing.assert_array_equal(found.accuracy, plain[0])
    np.testing.assert_allclose(found.loss, plain[1], rtol=1e-6)


def test_of_chosen_clients(tiny, judged):
    chosen = np.array([4, 1], np.int32)
    few, every = evaluated(tiny, judged, chosen=chosen), evaluated(tiny, judged)
    for own, all_ in zip(few.answers, every.answers, strict=True):
        np.testing.assert_array_equal(own, np.asarray(all_)[chosen])


def test_validation_rows_are_judged_beside_the_test_rows(tiny, judged):
    """And change nothing of what is said of these."""
    _, inputs, labels = judged
    found = evaluated(tiny, judged, validation=(inputs[:7], labels[:7]))
    want = np.asarray(found.answers.right)[:, :7].mean(-1)
    np.testing.assert_allclose(found.validation_accuracy, want, rtol=1e-6)
    plain = evaluated(tiny, judged)
    assert plain.validation_accuracy is None
    jax.tree.map(np.testing.assert_array_equal, plain, found._replace(validation_accuracy=None))


def run_of(tiny, federation):
    data, clients = tiny.world()

    def run(key, hyper):
        del hyper
        return simulation.run(key, data, clients, federation)

    return run


@pytest.mark.parametrize("every", [1, 3])
def test_of_a_run_at_every_evaluation(tiny, every):
    """[K, N, n], the last that of the final models; two seeds at once are the two apart."""
    federation = tiny.federation(rounds=4)
    settings = federation.settings._replace(eval_every=every, answers=True)
    federation = federation._replace(model=tiny.softmax(), settings=settings)
    federation = federation._replace(trainer=tiny.federation(model=tiny.softmax()).trainer)
    run = run_of(tiny, federation)
    keys = jax.random.split(jax.random.key(5), 2)
    both = jax.jit(lambda keys: grid.runs(run, keys, {"gamma": jnp.zeros(2)}))(keys)
    data, _ = tiny.world()
    for index, key in enumerate(keys):
        state, _, evaluation = jax.jit(run)(key, {})
        moments = {1: 4, 3: 2}[every]
        assert evaluation.answers.right.shape == (moments, 4, len(data.test_labels))
        share = np.asarray(evaluation.answers.right).mean(-1)
        np.testing.assert_allclose(evaluation.accuracy, share, rtol=EPS)
        right, loss = answers_of(tiny, state.clients, data.test_inputs, data.test_labels)
        np.testing.assert_array_equal(evaluation.answers.right[-1], right)
        np.testing.assert_allclose(evaluation.answers.loss[-1], loss, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(both[2].answers.right[index], evaluation.answers.right)
        np.testing.assert_allclose(both[2].answers.loss[index], evaluation.answers.loss, rtol=1e-5)


def test_of_too_many_none_are_kept_and_a_line_says_so(monkeypatch, tmp_path, capsys):
    """One above the bound; what else is computed is the same."""
    words = ["run", "--clients=3", "--rounds=1", "--epochs=1", "--seeds=1", "--eval-rows=30"]
    for most in (90, 89):
        monkeypatch.setattr(bind, "MOST_ANSWERS", most)
        assert main.main([*words, "--out", str(tmp_path / str(most))]) == 0
        said = capsys.readouterr()
        assert ("answers to test examples are not kept" in said.out + said.err) == (most == 89)
    tables = [directory_lib.read(tmp_path / name).rounds for name in ("89", "90")]
    assert tables[0].equals(tables[1])


def test_nothing_of_rounds_without_evaluation(tiny):
    data, clients = tiny.world()
    federation = tiny.federation(rounds=2)
    federation = federation._replace(settings=federation.settings._replace(answers=True))
    key = jax.random.key(0)
    state = simulation.init(key, 4, federation)

    def advance(state):
        return simulation.advance(key, state, data, clients, federation, evaluated=False)

    _, _, evaluation = jax.eval_shape(advance, state)
    assert evaluation.answers.right.shape == (0, 4, len(data.test_labels))
