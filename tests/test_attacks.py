"""Clients that cheat: what each attack uploads, that only attackers do, and what becomes of it."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgsv_jax.config.schema import ConfigError
from cgsv_jax.core import attacks, participation, simulation
from cgsv_jax.data import partition
from cgsv_jax.experiment import bind, deal, running
from cgsv_jax.experiment import names as names_lib
from cgsv_jax.results import frames, tables
from cgsv_jax.rules import methods
from cgsv_jax.types import Clients, Conduct, Download

EPS = float(np.finfo(np.float32).eps)
N, D = 5, 400


def conduct(*codes, strength=1.0):
    return Conduct(jnp.array(codes, jnp.int32), jnp.full(len(codes), strength, jnp.float32))


def sent_back(rewards):
    return Download(rewards[0], jnp.ones(N), rewards, jnp.full(N, D))


def forged(tiny, name, codes, strength=1.0, received=None, present=None, seed=0):
    """(deltas as trained, deltas as sent)."""
    deltas = np.random.default_rng(seed).normal(size=(N, D)).astype(np.float32)
    sent = tiny.upload(deltas, [4] * N, present)
    attack = attacks.attack([name])
    state = attack.init(N, D)
    if received is not None:
        state = attack.receive(sent_back(received), jnp.ones(N, bool), state)
    made = attack.forge(jax.random.key(3), sent, conduct(*codes, strength=strength), state)
    return np.asarray(sent.deltas), np.asarray(made)


@pytest.mark.parametrize("name", attacks.UPLOADS)
def test_honest_and_absent_clients_send_what_they_trained(tiny, name):
    received = np.random.default_rng(1).normal(size=(N, D))
    trained, sent = forged(tiny, name, [0, 1, 0, 1, 0], 0.5, received, present=[1, 1, 1, 0, 1])
    np.testing.assert_array_equal(sent[[0, 2, 3, 4]], trained[[0, 2, 3, 4]])
    assert np.any(sent[1] != trained[1])


def test_every_forgery_by_hand(tiny):
    codes = [1, 0, 1, 0, 0]
    for name, expected in (
        ("free_rider", lambda dw: 0 * dw),
        ("sign_flip", lambda dw: -2 * dw),
        ("scaled", lambda dw: 2 * dw),
        ("coordinated_sign_flip", lambda dw: -2 * (dw[[0]] + dw[[2]]) / 2),
    ):
        trained, sent = forged(tiny, name, codes, 2.0)
        want = np.broadcast_to(expected(np.float64(trained)), trained.shape)[[0, 2]]
        np.testing.assert_allclose(sent[[0, 2]], want, rtol=4 * EPS, atol=4 * EPS, err_msg=name)


def test_noise_has_the_stated_size(tiny):
    """Uniform in [-s, s]; Gaussian of length s ‖dw‖: of 400 entries, within six deviations."""
    trained, sent = forged(tiny, "free_rider_noise", [1] * N, 3.0)
    assert np.abs(sent).max() <= 3
    variance = 9 / 3
    assert abs(np.mean(sent**2) - variance) < 6 * np.sqrt(9**2 * (1 / 5 - 1 / 9) / sent.size)
    assert np.abs(np.corrcoef(sent)[np.triu_indices(N, 1)]).max() < 6 / np.sqrt(D)
    trained, sent = forged(tiny, "gaussian_noise", [1] * N, 2.0)
    ratio = np.linalg.norm(sent - trained, axis=1) / np.linalg.norm(trained, axis=1)
    np.testing.assert_allclose(ratio, 2, atol=6 * 2 / np.sqrt(2 * D))


def test_a_replay_is_the_last_download(tiny):
    """In whole rounds: client 1 uploads v_{1,t-1}, at first nothing."""
    data, clients = tiny.world((5, 3, 6))
    clients = clients._replace(conduct=conduct(0, 1, 0))
    federation = tiny.federation(model=tiny.softmax())
    federation = federation._replace(attack=attacks.attack(["free_rider_replay"]))
    state = simulation.init(jax.random.key(0), 3, federation)
    step = jax.jit(
        lambda state: simulation.round_(jax.random.key(0), state, data, clients, federation)
    )
    norms = []
    for _ in range(3):
        before = state.clients
        state, record = step(state)
        received = np.asarray(state.clients - before)
        # The memory is exactly what moved the models, up to the rounding of that sum.
        memory = np.asarray(state.attack.received)[:, 0]
        np.testing.assert_allclose(memory, received, atol=4 * EPS)
        norms.append((float(record.norm[1]), np.linalg.norm(memory[1])))
    assert norms[0][0] == 0
    for (sent, _), (_, got) in zip(norms[1:], norms[:-1], strict=True):
        np.testing.assert_allclose(sent, got, rtol=D * EPS)


@pytest.mark.long
@pytest.mark.parametrize("name", ["free_rider_replay_delayed", "free_rider_patient"])
def test_an_attacker_remembers_the_rounds_of_its_own(tiny, name):
    """In whole rounds of cohorts: client 1 uploads what moved it so many of its rounds ago."""
    data, clients = tiny.world((5, 3, 6))
    patient = name == "free_rider_patient"
    clients = clients._replace(conduct=conduct(0, 1, 0, strength=0.5 if patient else 2.0))
    schedule = np.array([[0, 1], [1, 2], [0, 2], [1, 2], [0, 1], [0, 2], [0, 1]])
    federation = tiny.federation(model=tiny.softmax())
    federation = federation._replace(
        attack=attacks.attack([name]),
        participation=participation.given(schedule),
        algorithm=methods.cgsv(floor=0.2),  # whoever uploads zeros at first receives something
    )
    state = simulation.init(jax.random.key(0), 3, federation)
    step = jax.jit(
        lambda state: simulation.round_(jax.random.key(0), state, data, clients, federation)
    )
    moved, entries, forged_rounds = [], [], 0
    for members in schedule:
        before = state.clients
        state, record = step(state)
        assert record.present.tolist() == [i in members for i in range(3)]
        if 1 not in members:
            continue
        turned = max(entries, default=0) >= state.server.size / 2 if patient else True
        if turned:
            back = 1 if patient else 2
            expected = np.linalg.norm(moved[-back]) if len(moved) >= back else 0
            np.testing.assert_allclose(record.norm[1], expected, rtol=1e-4)
            forged_rounds += expected > 0
        else:
            assert record.norm[1] > 0
        moved.append(np.asarray(state.clients - before)[1])
        entries.append(int(record.quota[1]))
    assert forged_rounds >= 2


def test_an_update_made_infinite_is_an_absent_client(tiny):
    data, clients = tiny.world((5, 3, 6))
    clients = clients._replace(conduct=conduct(0, 1, 0, strength=np.inf))
    federation = tiny.federation(model=tiny.softmax())
    state = simulation.init(jax.random.key(0), 3, federation)
    federation = federation._replace(attack=attacks.attack(["scaled"]))
    state, record = jax.jit(
        lambda s: simulation.round_(jax.random.key(0), s, data, clients, federation)
    )(state)
    assert record.present.tolist() == [True, False, True]
    assert record.nonfinite.tolist() == [False, True, False]
    assert np.isfinite(state.clients).all()


def test_one_program_serves_every_choice_of_attackers(tiny):
    data, clients = tiny.world((5, 3, 6))
    federation = tiny.federation(model=tiny.softmax())
    state = simulation.init(jax.random.key(0), 3, federation)
    federation = federation._replace(attack=attacks.attack(["sign_flip", "scaled"]))
    traces = []

    @jax.jit
    def step(state, clients):
        traces.append(1)
        return simulation.round_(jax.random.key(0), state, data, clients, federation)

    scores = [
        np.asarray(step(state, clients._replace(conduct=conduct(*codes)))[1].score)
        for codes in ([0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 2, 0])
    ]
    assert len(traces) == 1
    assert scores[1][0] < scores[0][0]  # reversed, it disagrees
    assert scores[2][2] < scores[0][2]
    np.testing.assert_allclose(scores[3], scores[0], atol=40 * EPS)  # Gamma takes the length away


@pytest.mark.parametrize("wrong", ["label_flip", "signflip"])
def test_an_unknown_upload_is_refused(wrong):
    with pytest.raises(ValueError, match="no attack on uploads"):
        attacks.attack([wrong])


# ---------------------------------------------------------------- who cheats


def partition_of(count=6, rows=4):
    return Clients(np.arange(count * rows).reshape(count, rows), np.ones((count, rows), bool))


def test_labels_are_flipped_or_drawn_for_attackers_only():
    clients, labels = partition_of(), np.arange(24) % 10
    asked = [("label_flip", 2, None), ("random_labels", 1, None)]
    made, names = attacks.dishonest(
        np.random.default_rng(0), clients, labels, 10, asked, attackers=[5, 0, 3]
    )
    assert names == ("label_flip", "", "", "random_labels", "", "label_flip")
    true = labels[clients.rows]
    np.testing.assert_array_equal(made.labels[[0, 5]], 9 - true[[0, 5]])
    np.testing.assert_array_equal(made.labels[[1, 2, 4]], true[[1, 2, 4]])
    assert np.any(made.labels[3] != true[3])
    assert ((made.labels >= 0) & (made.labels < 10)).all()
    assert made.conduct is None
    np.testing.assert_array_equal(made.rows, clients.rows)


def test_all_labels_of_a_client_are_drawn_as_ever():
    """A digest of the version in which a client lied about all of its rows or none."""
    clients = partition.power_law(np.random.default_rng(3), np.arange(90) % 10, 6)
    for whole in (None, 1.0):
        asked = [("random_labels", 2, whole), ("label_flip", 1, whole), ("scaled", 1, 4.0)]
        made, _ = attacks.dishonest(
            np.random.default_rng(5), clients, np.arange(90) % 10, 10, asked
        )
        digest = hashlib.sha256(np.asarray(made.labels, np.int64).tobytes()).hexdigest()
        assert digest[:16] == "f7c474e0de9687a4"


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.floats(2**-126, 1), st.integers(0, 99))
def test_a_share_of_the_rows_is_touched_and_no_other(rows, share, seed):
    """Of labels that a flip changes, exactly round(s n), at least one, none of them padding."""
    clients = partition.from_lists([range(rows, 2 * rows + 3), range(rows)])
    labels = np.arange(2 * rows + 3) % 4
    made, _ = attacks.dishonest(
        np.random.default_rng(seed), clients, labels, 4, [("label_flip", 1, share)], [1]
    )
    true = labels[clients.rows]
    wrong = (made.labels != true) & clients.mask
    assert wrong[1].sum() == max(1, round(share * rows))
    np.testing.assert_array_equal(made.labels[wrong], 3 - true[wrong])
    assert not wrong[0].any()
    drawn, _ = attacks.dishonest(
        np.random.default_rng(seed), clients, labels, 4, [("random_labels", 1, share)], [1]
    )
    assert ((drawn.labels != true) & clients.mask).sum() <= max(1, round(share * rows))


def test_noisy_labels_are_anywhere_and_right_by_chance():
    """Noise on the first rows only, or random labels without the true one, would fail."""
    labels = np.arange(20_000) % 10
    clients = partition.from_lists([range(20_000)])
    made, _ = attacks.dishonest(
        np.random.default_rng(0), clients, labels, 10, [("random_labels", 1, 0.4)]
    )
    wrong = (made.labels[0] != labels).astype(float)
    expected = 0.4 * 0.9
    for part in (wrong, wrong[:10_000], wrong[10_000:]):
        assert abs(part.mean() - expected) < 4 * part.std() / np.sqrt(len(part))
    counts = np.bincount(made.labels[0][wrong > 0], minlength=10)
    assert (abs(counts - counts.mean()) < 5 * np.sqrt(counts.mean())).all()


def test_a_share_that_is_none_is_refused():
    for share in (0.0, 1.5, -1.0, np.nan):
        with pytest.raises(ValueError, match="the strength of label_flip, a share of rows, is"):
            attacks.dishonest(
                np.random.default_rng(0), partition_of(), np.zeros(24, int), 3,
                [("label_flip", 1, share)],
            )  # fmt: skip


def test_codes_follow_the_order_of_attacks_on_uploads():
    asked = [("scaled", 1, 4.0), ("label_flip", 1, None), ("sign_flip", 2, None)]
    made, names = attacks.dishonest(
        np.random.default_rng(1), partition_of(), np.zeros(24, int), 3, asked
    )
    named = np.array(names)
    assert (made.conduct.attack[named == "scaled"] == 1).all()
    assert (made.conduct.attack[named == "sign_flip"] == 2).all()
    assert (made.conduct.attack[(named == "") | (named == "label_flip")] == 0).all()
    assert made.conduct.strength[named == "scaled"].tolist() == [4]
    assert sorted(named) == ["", "", "label_flip", "scaled", "sign_flip", "sign_flip"]


def test_one_client_poses_as_several():
    made, names = attacks.dishonest(
        np.random.default_rng(1), partition_of(), np.zeros(24, int), 3, [("replication", 3, None)]
    )
    assert len(names) == len(made.mask) == 8
    (who,) = {tuple(made.rows[i]) for i, name in enumerate(names) if name}
    assert sum(map(bool, names)) == 3
    assert who in set(map(tuple, partition_of().rows))


def test_more_attackers_than_clients_are_refused():
    asked = [("sign_flip", 4, None), ("scaled", 3, None)]
    with pytest.raises(ValueError, match="scaled needs 3 clients, 2 are left"):
        attacks.dishonest(np.random.default_rng(0), partition_of(), np.zeros(24, int), 3, asked)


# ---------------------------------------------------------------- in an experiment

SMALL = {
    "partitions": ("power_law",),
    "dataset": "digits",
    "hidden": (8,),
    "clients": 6,
    "epochs": 1,
    "rounds": 4,
    "seeds": 2,
}


@pytest.fixture(scope="module")
def honest():
    config = names_lib.configure(**SMALL, algorithms=("standalone", "cgsv"))
    return running.run(config)


ASKED = [*(f"{name}:2" for name in attacks.ATTACKS), *(f"{name}:2:0.5" for name in attacks.LABELS)]


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.long
def test_every_flag_reaches_the_run_and_not_the_yardstick(asked, honest):
    config = names_lib.configure(**SMALL, algorithms=("standalone", "cgsv"), attacks=[asked])
    result = running.run(config)
    (task,) = result.tasks
    cheats = np.array([bool(name) for name in task.cheats])
    alone, cgsv = result.cells
    assert cheats.sum() == 2
    kept = np.flatnonzero(~cheats)[: len(honest.cells[0].sizes)]
    # Whom nobody meets is not cheated: the honest ones' yardstick is that of an honest world.
    np.testing.assert_array_equal(
        alone.evaluation.accuracy[..., kept], honest.cells[0].evaluation.accuracy[..., kept]
    )
    if asked != "replication:2":
        assert np.any(cgsv.record.score[:, -1] != honest.cells[1].record.score[:, -1])
    else:
        assert cgsv.record.score.shape[-1] == 7
        twice = np.flatnonzero(cheats)
        assert np.array_equal(*(task.clients.rows[i] for i in twice))
    summary = frames.summary_frame(result.cells).filter(method="cgsv")
    assert summary["attackers"].to_list() == [2, 2]
    for name in frames.HONESTY[1:]:
        assert summary[name].null_count() == 0, name
    report = tables.honesty(frames.summary_frame(result.cells))
    assert report.lines[0].startswith(f"2 of {len(cheats)} clients cheat")


def test_what_a_table_says_of_attackers_by_hand(honest):
    """Columns from the arrays they are made of, on invented numbers."""
    (_, cell) = honest.cells
    reputation = np.zeros_like(cell.record.reputation)
    reputation[:, -1] = np.array([0.1, 0.2, 0.3, 0.25, 0.1, 0.05])
    cell = cell._replace(
        cheats=("", "sign_flip", "", "", "sign_flip", ""),
        record=cell.record._replace(reputation=reputation),
    )
    row = frames.summary_frame([honest.cells[0], cell]).filter(method="cgsv", seed=0).to_dicts()[0]
    honest_ones, others = [0, 2, 3, 5], [1, 4]
    final = np.float64(cell.evaluation.accuracy[0, -1])
    np.testing.assert_allclose(row["honest_accuracy"], final[honest_ones].mean(), rtol=1e-6)
    np.testing.assert_allclose(row["attacker_accuracy"], final[others].mean(), rtol=1e-6)
    np.testing.assert_allclose(row["attacker_reputation"], 0.15 / 0.175, rtol=1e-6)
    # Of the eight pairs (.1 .3 .25 .05) x (.2 .1): above 4, equal 1, below 3.
    np.testing.assert_allclose(row["separation"], 4.5 / 8)
    alone = np.float64(honest.cells[0].evaluation.accuracy[0, -1])
    rho = 100 * np.corrcoef(alone[honest_ones], final[honest_ones])[0, 1]
    np.testing.assert_allclose(row["honest_fairness"], rho, atol=1e-3)


def test_a_reversed_client_falls_to_the_floor():
    """A probe with a known verdict: of alike clients the reversed one is told from the others."""
    asked = {**SMALL, "partitions": "uniform", "rounds": 8, "epochs": 2, "batch_size": 32}
    config = names_lib.configure(
        **asked, algorithms="cgsv", attacks=["sign_flip:1"], attackers=[2], alpha=0.5
    )
    (cell,) = running.run(config).cells
    last = cell.record.reputation[:, -1]
    assert (last.argmin(axis=1) == 2).all()
    assert (last[:, 2] < 0.01).all()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"attacks": ["signflip:1"]}, "did you mean sign_flip"),
        ({"attacks": ["sign_flip"]}, "it must hold name:clients"),
        ({"attacks": ["sign_flip:0"]}, "at least one client"),
        ({"attacks": ["sign_flip:6"]}, "one must be honest"),
        ({"attacks": ["sign_flip:1", "sign_flip:2"]}, "names an attack twice"),
        ({"attacks": ["replication:2:3"]}, "has no strength"),
        (
            {"attacks": ["label_flip:1:3"]},
            "the strength of label_flip, a share of rows, is 3.0, it must",
        ),
        ({"attacks": ["random_labels:1:0"]}, "must be a number above 0 and at most 1"),
        ({"attacks": ["random_labels:1:-0.5"]}, "must be a number above 0 and at most 1"),
        ({"attacks": ["free_rider_replay_delayed:1:9"]}, "it must be a whole number from 1 to 8"),
        ({"attacks": ["free_rider_replay_sum:1:2.5"]}, "downloads, is 2.5, it must be a whole"),
        ({"attacks": ["free_rider_replay_noise:1:-1"]}, "a length, is -1.0, it must be"),
        ({"attacks": ["scaled:1:inf"]}, "it must hold name:clients"),
        ({"attacks": [3]}, "it must hold name:clients"),
        ({"attacks": ["sign_flip:2"], "attackers": [1]}, "names 1 clients, --attack needs 2"),
        ({"attacks": ["sign_flip:1"], "attackers": [9]}, "clients from 0 to 5"),
        ({"attackers": [1]}, "--attackers does nothing here"),
        ({"cohort": 9}, "--cohort is 9, it must be at most --clients, 6"),
        ({"cohort": 0}, "--cohort is 0"),
        ({"cohort_by": "reputation"}, "it needs --cohort"),
        ({"cohort": 2, "cohort_by": "luck"}, "--cohort-by is 'luck'"),
        ({"cohort": 2, "attendance": "x.npy"}, "ask for one"),
        ({"late": ["3"]}, "it must hold clients:round"),
        ({"late": ["1:4"]}, "a round before --rounds, 4"),
        ({"late": ["3:1", "3:2"]}, "one must be there from the start"),
        ({"dropout": 1.0}, "--dropout is 1.0"),
    ],
)
def test_what_cannot_be_is_named(asked, message):
    with pytest.raises(ConfigError, match=message):
        names_lib.configure(**SMALL, **asked)


# ---------------------------------------------------------------- who takes part, by flags


@pytest.mark.parametrize(
    ("shares", "line"),
    [
        ({"a": [1.0, 1.0], "b": [1.0, 1.0]}, None),
        ({"a": [0.5, 0.7], "b": [0.7, 0.5]}, "a client took part in 60.0 % of rounds"),
        # A method that chooses its clients itself must not lower the share of another.
        (
            {"a": [1.0, 1.0], "b": [0.3, 0.5], "c": [1.0, 1.0]},
            "a client took part in 100.0 % (a, c), 40.0 % (b) of rounds",
        ),
    ],
)
def test_who_took_part_is_said_of_every_method(shares, line):
    methods, present = zip(*((m, own) for m, both in shares.items() for own in both), strict=True)
    summary = pl.DataFrame({"method": methods, "present": present, "broken": [0] * len(methods)})
    assert tables.absences(summary) == ([] if line is None else [line])


def test_flags_of_participation_reach_the_run(tmp_path):
    schedule = np.array([[0, 1, -1], [2, 3, 4], [5, 0, -1], [1, 2, 3]])
    np.save(tmp_path / "who.npy", schedule)
    (tmp_path / "who.txt").write_text("0, 1\n2,3,4\n5,0\n1,2,3\n")
    base = {**SMALL, "seeds": 1, "algorithms": "cgsv"}
    seen = {}
    for name, asked in {
        "listed": {"attendance": str(tmp_path / "who.npy")},
        "lines": {"attendance": str(tmp_path / "who.txt")},
        "drawn": {"cohort": 2},
        "late": {"late": ["2:1", "1:3"]},
        "dropping": {"dropout": 0.5},
    }.items():
        result = running.run(names_lib.configure(**base, **asked))
        seen[name] = result.cells[0].record.present[0]
        summary = frames.summary_frame(result.cells)
        np.testing.assert_allclose(summary["present"][0], seen[name].mean())
        (line,) = tables.absences(summary)
        assert line == f"a client took part in {100 * summary['present'].mean():.1f} % of rounds"
    expected = np.zeros((4, 6), bool)
    for t, row in enumerate(schedule):
        expected[t, row[row >= 0]] = True
    np.testing.assert_array_equal(seen["listed"], expected)
    np.testing.assert_array_equal(seen["lines"], expected)
    assert seen["drawn"].sum(axis=1).tolist() == [2] * 4
    assert seen["late"].sum(axis=1).tolist() == [3, 5, 5, 6]
    assert 0 < seen["dropping"].mean() < 1


def test_a_cohort_by_reputation_is_drawn_by_it():
    """With all of the reputation, client 4 is in every cohort of two but for the uniform tenth."""
    config = names_lib.configure(**SMALL, algorithms="cgsv", cohort=2, cohort_by="reputation")
    (task,), (method,) = deal.tasks(config), config.methods
    who = bind.bind(config, method, task).participation(method.hyper())
    r = jnp.full(6, 1e-9).at[4].set(1.0)
    found = [
        4 in who.draw(jax.random.key(i), jnp.int32(0), jnp.arange(6), r, jnp.ones(6, bool))
        for i in range(60)
    ]
    # Left out of both places with probability of at most .1 x .1 a cohort.
    assert np.sum(found) >= 54


def test_broken_clients_are_counted_and_shown(honest):
    (_, cell) = honest.cells
    broken = np.zeros(cell.record.nonfinite.shape, bool)
    broken[0, 1, 2] = broken[1, :3, 4] = True
    cell = cell._replace(record=cell.record._replace(nonfinite=broken))
    summary = frames.summary_frame([cell])
    assert summary["broken"].to_list() == [1, 3]
    line = "cgsv: 4 updates were not finite, their clients absent in these rounds"
    assert line in tables.fairness(summary).lines
    clients = frames.clients_frame([cell])
    assert clients.filter(pl.col("broken") > 0).select("seed", "client", "broken").rows() == [
        (0, 2, 1),
        (1, 4, 3),
    ]
    assert frames.rounds_frame([cell])["broken"].sum() == 4
