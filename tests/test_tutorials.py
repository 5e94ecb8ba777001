"""The tutorials of the pages are scripts that run as they stand, and hold what they claim."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import cgsv_jax as cg
from cgsv_jax.core import simulation

ROOT = Path(__file__).parents[1]
OTHERS = {"early_stopping_tensorboard"}  # looked at more closely in test_tracking.py
SCRIPTS = {path.stem: path for path in sorted((ROOT / "docs" / "tutorials").glob("*.py"))}
EXPECTED = {"own_measure", "own_method", "own_model", "own_data", "export", "replay", "dp_sgd"}
LONGEST = {"dp_sgd": 60}  # a whole trainer; of the others 25 lines


def test_every_tutorial_is_tried():
    assert SCRIPTS.keys() == EXPECTED | OTHERS


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_tutorial_is_short(name):
    lines = SCRIPTS[name].read_text(encoding="utf-8").splitlines()
    code = [line for line in lines if line.strip() and not line.startswith("#")]
    assert len(code) < LONGEST.get(name, 25)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_tutorial_runs_and_claims_what_is_so(name, tmp_path):
    path = SCRIPTS[name]
    assert "assert " in path.read_text(encoding="utf-8")
    code = f"import sys, runpy; sys.path.insert(0, {str(ROOT)!r}); runpy.run_path({str(path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


# ---------------------------------------------------------------- DP-SGD


@pytest.fixture(scope="module")
def dp_sgd():
    """The trainer of the page: its first cell of code."""
    made = {}
    exec(SCRIPTS["dp_sgd"].read_text(encoding="utf-8").split("# %%")[2], made)
    return made["dp_sgd"]


def trained(trainer, tiny, model, data, clients, epochs=1, rounds=1):
    """Updates [T, N, D] of clients that train alone, and their losses [T, N]."""
    settings = cg.Settings(rounds=1, epochs=epochs)
    federation = cg.Federation(model, trainer, cg.standalone(), settings)
    key = jax.random.key(1)
    state, seen = simulation.init(key, len(clients.mask), federation), []
    one_round = jax.jit(
        lambda state, order: simulation.round_(key, state, data, clients, federation, order)
    )
    for order in tiny.orders(clients, rounds, epochs):
        before = state.clients
        state, record = one_round(state, order)
        seen.append((state.clients - before, record.loss))
    return [np.asarray(jnp.stack(x)) for x in zip(*seen, strict=True)]


@pytest.mark.long
def test_without_noise_and_cuts_dp_sgd_is_sgd(tiny, dp_sgd):
    """Ragged clients, short last batches and pads, in float64.

    A step adds at most 4 numbers below 10 in another order, 4 x 10 x 2^-52 < 1e-14; 30 steps of
    rate .3, each of which may stretch what is there by 1.3^(1/3), make less than 1e-11 of it.
    """
    data, clients = tiny.world(pad=2)
    model = tiny.softmax()
    with jax.enable_x64(True):
        data = data._replace(inputs=np.float64(data.inputs))
        plain = cg.trainer(model, optax.sgd, cg.decayed(0.3, 1.0), batch_size=4)
        want, losses = trained(plain, tiny, model, data, clients, epochs=2, rounds=3)
        private = dp_sgd(model, clip=1e9, sigma=0.0, rate=0.3, batch=4)
        got, seen = trained(private, tiny, model, data, clients, epochs=2, rounds=3)
    assert np.abs(want).max() > 0.1
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-11)
    np.testing.assert_allclose(seen, losses, rtol=0, atol=1e-11)


@pytest.mark.long
def test_noise_of_dp_sgd_is_sigma_c_over_b_and_of_each_client_and_round_its_own(tiny, dp_sgd):
    """Of updates of one step without a gradient; D = 8 000 entries.

    A deviation of n normal numbers is off by a share of 1 / sqrt(2 n), a correlation of two of them
    is 1 / sqrt(n): at 5 of these one in a million is refused.
    """
    data, clients = tiny.world(pad=2)
    size, rate, clip, sigma = 8_000, 0.3, 0.5, 2.0
    still = cg.Model(
        lambda key: {"a": jnp.zeros((size // 2, 2))}, lambda w, x, key=None: jnp.zeros((len(x), 3))
    )
    batch = clients.mask.shape[1]
    trainer = dp_sgd(still, clip=clip, sigma=sigma, rate=rate, batch=batch)
    updates, _ = trained(trainer, tiny, still, data, clients, rounds=3)
    of_each = updates.reshape(-1, size)
    wide = rate * sigma * clip / np.tile(clients.mask.sum(axis=1), 3)  # eta sigma C / B
    np.testing.assert_allclose(of_each.std(axis=1), wide, rtol=5 / np.sqrt(2 * size))
    assert np.all(np.abs(of_each.mean(axis=1)) < 5 * wide / np.sqrt(size))
    alike = np.corrcoef(of_each) - np.eye(len(of_each))
    assert np.abs(alike).max() < 5 / np.sqrt(size)


@pytest.mark.long
def test_one_example_moves_a_step_of_dp_sgd_by_little(tiny, dp_sgd):
    """However far out it lies: by 2 eta C / B, where SGD goes along with it."""
    data, clients = tiny.world()
    model, batch = tiny.softmax(), clients.mask.shape[1]
    far = data.inputs.copy()
    far[clients.rows[0, 0]] *= -1e3
    moved = []
    for clip in (0.01, 1e9):
        trainer = dp_sgd(model, clip=clip, sigma=0.0, rate=0.3, batch=batch)
        both = [
            trained(trainer, tiny, model, data._replace(inputs=x), clients)[0][0]
            for x in (data.inputs, far)
        ]
        moved.append(np.linalg.norm(both[1] - both[0], axis=1))
    bound = 2 * 0.3 * 0.01 / clients.mask[0].sum()
    assert 0 < moved[0][0] <= bound * (1 + 1e-5)
    assert moved[1][0] > 100 * bound
    np.testing.assert_array_equal(np.array(moved)[:, 1:], 0)
