"""Arrays from Python: what does not belong together is named, all of it, before a trace."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from declared import TABLES, Hyper
from flax import linen as nn
from flax import nnx

import cgsv_jax as cg
from cgsv_jax import experiment, models
from cgsv_jax.command import main
from cgsv_jax.config import resolve
from cgsv_jax.config.schema import ConfigError
from cgsv_jax.core import checks, evaluation, local, simulation
from cgsv_jax.experiment import deal, identity, names, running
from cgsv_jax.results import directory
from cgsv_jax.rules import methods
from cgsv_jax.types import Clients, Model, Network


def of(value, **changes):
    return value._replace(**changes)


@pytest.fixture
def world(tiny):
    return tiny.world(pad=1)


def set_at(values, place, value):
    values = np.array(values)
    values[place] = value
    return values


# field -> (what makes it wrong, what must be said)
WRONG = {
    "inputs is a list": (lambda d, c: (of(d, inputs=[1]), c), r"Dataset.inputs is a list"),
    "inputs without rows": (
        lambda d, c: (of(d, inputs=d.inputs[:0], labels=d.labels[:0]), c),
        r"Dataset.inputs holds 0 rows, it must hold from 1",
    ),
    "inputs of words": (
        lambda d, c: (of(d, inputs=d.inputs.astype(str)), c),
        r"Dataset.inputs is <U\d+ \[22, 3\], it must be numbers",
    ),
    "inputs of nothing": (
        lambda d, c: (of(d, inputs=d.inputs[:, :0]), c),
        r"Dataset.inputs is float32 \[22, 0\], a row must hold something",
    ),
    "nan": (
        lambda d, c: (of(d, inputs=set_at(d.inputs, (3, 1), np.nan)), c),
        r"Dataset.inputs holds nan, it must be finite",
    ),
    "infinite": (
        lambda d, c: (of(d, test_inputs=set_at(d.test_inputs, (3, 1), -np.inf)), c),
        r"Dataset.test_inputs holds -inf",
    ),
    "beyond float32": (
        lambda d, c: (of(d, inputs=set_at(np.float64(d.inputs), 0, 1e39)), c),
        r"Dataset.inputs holds 1e\+39, it must be finite",
    ),
    "labels are floats": (
        lambda d, c: (of(d, labels=np.float32(d.labels)), c),
        r"Dataset.labels is float32 \[22\], it must be integers \[22\]",
    ),
    "a label too few": (
        lambda d, c: (of(d, labels=d.labels[1:]), c),
        r"Dataset.labels is int32 \[21\], it must be integers \[22\]",
    ),
    "one hot": (
        lambda d, c: (of(d, labels=np.eye(3, dtype=int)[d.labels]), c),
        r"Dataset.labels is int64 \[22, 3\], it must be integers \[22\]",
    ),
    "a class too many": (
        lambda d, c: (of(d, labels=set_at(d.labels, 5, 3)), c),
        r"Dataset.labels holds 3, it must hold classes from 0 to 2",
    ),
    "a negative class": (
        lambda d, c: (of(d, test_labels=set_at(d.test_labels, 5, -1)), c),
        r"Dataset.test_labels holds -1",
    ),
    "other rows in the test set": (
        lambda d, c: (of(d, test_inputs=d.test_inputs[:, :2]), c),
        r"Dataset.test_inputs are rows of float32 \[2\], they must be of float32 \[3\]",
    ),
    "no test set": (
        lambda d, c: (of(d, test_inputs=d.test_inputs[:0], test_labels=d.test_labels[:0]), c),
        r"Dataset.test_inputs holds 0 rows",
    ),
    "validation is one array": (
        lambda d, c: (of(d, validation=d.inputs), c),
        r"Dataset.validation must be inputs and labels",
    ),
    "validation without labels": (
        lambda d, c: (of(d, validation=(d.inputs, d.labels[1:])), c),
        r"Dataset.validation labels is int32 \[21\]",
    ),
    "mask of numbers": (
        lambda d, c: (d, of(c, mask=np.int32(c.mask))),
        r"Clients.mask is int32 \[4, 9\], it must be bool",
    ),
    "nobody": (
        lambda d, c: (d, Clients(c.rows[:0], c.mask[:0])),
        r"Clients.mask is bool \[0, 9\], it must be bool \[clients, slots\], at least \[1, 1\]",
    ),
    "rows of other clients": (
        lambda d, c: (d, of(c, rows=c.rows[1:])),
        r"Clients.rows is int32 \[3, 9\], it must be integers \[4, 9\]",
    ),
    "a row too many": (
        lambda d, c: (d, of(c, rows=set_at(c.rows, (0, 0), 22))),
        r"Clients.rows holds 22, it must hold rows of the training set from 0 to 21",
    ),
    "believed labels": (
        lambda d, c: (d, of(c, labels=np.full(c.mask.shape, 3))),
        r"Clients.labels holds 3",
    ),
    "masked inputs": (
        lambda d, c: (of(d, inputs=np.ma.masked_less(d.inputs, 0)), c),
        r"Dataset.inputs is a masked array, whose mask would be lost, .*: fill it, or leave out",
    ),
    "masked rows": (
        lambda d, c: (d, of(c, rows=np.ma.array(c.rows, mask=~c.mask))),
        r"Clients.rows is a masked array",
    ),
    "a number twice": (
        lambda d, c: (d, of(c, numbers=np.array([0, 1, 1, 3]))),
        r"Clients.numbers holds 1 twice",
    ),
    "a number too many": (
        lambda d, c: (d, of(c, numbers=np.array([0, 1, 4, 3]))),
        r"Clients.numbers holds 4, it must hold numbers of clients from 0 to 3",
    ),
    "no data set": (lambda d, c: (tuple(d), c), r"data is a tuple, it must be a Dataset"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_before_anything_is_traced(name, world, tiny):
    change, sentence = WRONG[name]
    data, clients = change(*world)
    federation = tiny.federation()

    def untouched(*arguments):
        raise AssertionError("the run has begun")

    trainer = federation.trainer._replace(init=untouched, update=untouched)
    with pytest.raises(ValueError, match=sentence):
        checks.check(data, clients, federation.model)
    with pytest.raises(ValueError, match=sentence):
        simulation.run(jax.random.key(0), data, clients, federation._replace(trainer=trainer))


def test_all_of_it_is_named_together(world):
    data, clients = world
    data = of(
        data,
        labels=data.labels[1:],
        test_inputs=set_at(data.test_inputs, 0, np.nan),
        validation=(data.inputs[:, :1], data.labels),
    )
    clients = of(clients, rows=clients.rows + 100, numbers=np.zeros(4, int))
    assert len(checks.complaints(data, clients)) == 5


def test_what_belongs_together_is_left_alone(world, tiny):
    data, clients = world
    model = tiny.softmax()
    assert checks.complaints(data, clients, model) == []
    bare = of(data, validation=None)
    lied = of(clients, labels=np.where(clients.mask, 2, 99), numbers=np.array([3, 1, 0, 2]))
    anywhere = of(clients, rows=np.where(clients.mask, clients.rows, -5))
    on_device = jax.device_put((data, clients))
    for pair in ((bare, lied), (data, anywhere), on_device):
        assert checks.complaints(*pair, model) == []
    mixed = of(data, inputs=np.float16(data.inputs), test_inputs=np.float64(data.test_inputs))
    assert checks.complaints(mixed, clients, model) == []
    no_rows = of(data, validation=(data.inputs[:0], data.labels[:0]))
    assert checks.complaints(no_rows, clients, model) == []


def test_of_tracers_only_the_static_is_judged(world, tiny):
    data, clients = world
    wrong_values = of(data, labels=data.labels + 7)

    def shape(data, clients):
        checks.check(data, clients, tiny.softmax())
        return data.inputs

    jax.eval_shape(shape, wrong_values, clients)
    with pytest.raises(ValueError, match=r"Dataset.labels is int32 \[21\]"):
        jax.eval_shape(shape, of(data, labels=data.labels[1:]), clients)


def never_made(key):
    """2^31 parameters: 8 GiB, were it ever called outside of `eval_shape`."""
    return {"w": jnp.zeros((2**16, 2**15))}


def test_more_parameters_than_int32_counts_are_refused_by_their_shapes(world, tiny):
    huge = Model(never_made, lambda params, x, key=None: x @ params["w"][:3, :3])
    with pytest.raises(ValueError, match="Model has 2147483648 parameters"):
        checks.check(*world, huge)
    with pytest.raises(ValueError, match="Model has 2147483648 parameters"):
        simulation.run(jax.random.key(0), *world, tiny.federation()._replace(model=huge))
    config = names.configure(hidden=(2**15, 2**16), algorithms="fedavg")
    with pytest.raises(ConfigError, match=r"Model has \d+ parameters, it must have"):
        deal.tasks(config)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (
            models.mlp((5,), 3),
            r"Model.apply cannot be called, it must be a function \(params, inputs float32 \[3\]\)",
        ),
        (
            Model(lambda key: {"a": jnp.ones((3, 3))}, lambda p, x: x @ p["a"]),
            r"Model.apply cannot be called, .*\(params, inputs float32 \[3\], key\) -> logits .*: "
            r".*takes 2 positional arguments but 3 were given",
        ),
        (
            Model(lambda: {}, lambda p, x, key=None: x),
            r"Model.init cannot be called, .*\(key\) -> p",
        ),
        (nn.Dense(3), r"model is a Dense, it must be"),
        (Model(lambda key: {}, lambda p, x, key=None: x), r"Model has 0 parameters"),
        (
            Model(lambda key: {"a": jnp.arange(3)}, lambda p, x, key=None: x),
            r"parameters that are no floats",
        ),
        (
            Model(lambda key: {"a": jnp.ones(3)}, lambda p, x, key=None: x @ p["a"]),
            r"Model.apply gives \[1\] .* logits \[1, classes\]",
        ),
    ],
)
def test_a_model_that_does_not_fit_is_named(model, sentence, world):
    with pytest.raises(ValueError, match=sentence):
        checks.check(*world, model)


# ---------------------------------------------------------------- numbers and functions

RNG = np.random.default_rng(0)
LABELS = np.arange(6) % 3


RULES = cg.reputation.size_share(), cg.aggregation.uniform(), cg.reward.share_all()
NETWORK = evaluation.network(models.mlp((4,), 2), (4,))


def trainer(optimizer=optax.sgd, schedule=None, batch_size=4, model=None):
    schedule = cg.decayed(0.1, 0.99) if schedule is None else schedule
    return cg.trainer(model or models.mlp((3,), 3), optimizer, schedule, batch_size=batch_size)


def cheating(attackers, count=2):
    clients = cg.partition.uniform(RNG, LABELS, 3)
    return cg.attacks.dishonest(RNG, clients, LABELS, 3, [("free_rider", count, None)], attackers)


# What Python takes wrongly: call -> the sentence, with the field, the value and what it must be.
REFUSED = [
    (lambda: cg.cgsv(gamma=-0.5), r"gamma is -0.5, it must be a number above 0"),
    (lambda: cg.cgsv(gamma=np.float32(np.nan)), r"gamma is nan"),
    (lambda: cg.cgsv(gamma=1e-60), r"gamma is 1e-60, which is no number in float"),
    (lambda: cg.cgsv(alpha=1.5), r"alpha is 1.5, it must be a number at least 0 and at most 1"),
    (lambda: cg.cgsv(alpha="high"), r"alpha is 'high'"),
    (lambda: cg.cgsv(alpha=True), r"alpha is True"),
    (lambda: cg.cgsv(beta=jnp.float32(-1)), r"beta is -1.0, .* at least 0, infinity allowed"),
    (lambda: cg.cgsv(floor=2), r"floor is 2"),
    (lambda: cg.cgsv(norm_epsilon=np.inf), r"epsilon is inf"),
    (lambda: cg.cgsv(alpha=np.array([0.5, 0.5, -1.0])), r"alpha is -1.0"),
    (lambda: cg.contribution.cosine(-1.0), r"epsilon is -1.0"),
    (lambda: cg.contribution.tmc_shapley(None, 10, -0.1), r"tolerance is -0.1"),
    (lambda: cg.contribution.banzhaf(None, 2.5), r"permutations is 2.5, .* whole number from 1"),
    (lambda: methods.iafl(0.5, 1.5), r"recovery is 1.5"),
    (lambda: cg.aggregation.q_fair(-1), r"q is -1, it must be a number at least 0"),
    (lambda: cg.participation.uniform(0), r"size is 0, it must be a whole number from 1"),
    (lambda: cg.participation.everybody(1.0), r"dropout is 1.0, .* at least 0 and below 1"),
    (lambda: cg.participation.given([[0, 1], [2, 2]]), r"schedule holds client 2 twice in a round"),
    (lambda: cg.participation.given([[0, -2]]), r"schedule holds -2, .* -1 for nobody"),
    (lambda: cg.decayed(0.0, 0.9), r"learning_rate is 0.0, it must be a number above 0"),
    (lambda: cg.decayed(0.1, 1.1), r"decay is 1.1"),
    (lambda: cg.draw_order(jax.random.key(0), jnp.ones(3, bool), 0), r"epochs is 0"),
    (lambda: trainer(batch_size=0), r"batch_size is 0, it must be a whole number from 1"),
    (lambda: trainer(optax.sgd(0.1)), r"optimizer is a Grad\w+, .* for instance optax.sgd"),
    (lambda: trainer(lambda rate: rate), r"optimizer gives a \w*Tracer, .*optax transformation"),
    (
        lambda: trainer(schedule=0.1),
        r"schedule is 0.1, it must be .* for instance cgsv_jax.decayed",
    ),
    (
        lambda: trainer(schedule=optax.exponential_decay(0.1, 10, 0.9)),
        r"schedule cannot be called, it must be a function \(round, epoch\) -> .*1 positional arg",
    ),
    (
        lambda: trainer(schedule=lambda r, e: jnp.ones(2)),
        r"schedule gives .*, it must be a function",
    ),
    (lambda: trainer(model=nn.Dense(3)), r"model is a Dense, it must be"),
    (
        lambda: cg.compose(cg.contribution.cosine(), *[None] * 2),
        r"reputation is a Contribution, .*\nag",
    ),
    (
        lambda: cg.compose(*RULES, removal=0.3),
        r"removal is 0.3, it must be of type Removal or None",
    ),
    (
        lambda: cg.attacks.attack("sign_flip"),
        r"names is 'sign_flip', .* for instance \[\"sign_flip",
    ),
    (lambda: cg.reward.scale(1.0, beta_on="mean"), r"beta_on is 'mean', it must be sum or max"),
    (
        lambda: cg.cgsv(contribution=cg.contribution.cosine),
        r"contribution is a function, .* of type Contribution",
    ),
    (lambda: cg.partition.uniform(0, LABELS, 2), r"rng is 0, .* numpy.random.default_rng\(0\)"),
    (lambda: cg.partition.power_law(np.random, LABELS, 2), r"rng is a module"),
    (
        lambda: cg.partition.uniform(RNG, np.ma.masked_less(LABELS, 1), 2),
        r"labels is a masked array",
    ),
    (lambda: cheating([1, 1]), r"attackers is \[1, 1\], it must hold distinct clients from 0 to 2"),
    (lambda: cheating([-1, 0]), r"attackers is \[-1, 0\]"),
    (lambda: cheating([], -1), r"the number of clients of free_rider is -1"),
    (lambda: cg.models.from_linen(nn.Embed(3, 4), (4,)), r"module cannot be called, .*train: bool"),
    (
        lambda: cg.models.from_linen(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), (4,)),
        r"module is a Linear of flax.nnx\S*, .* cg.models.from_nnx\(lambda rngs: Net",
    ),
    (
        lambda: cg.models.from_nnx(nnx.Linear(4, 3, rngs=nnx.Rngs(0))),
        r"build is a Linear already, it must be a function nnx.Rngs -> module",
    ),
    (lambda: cg.models.from_nnx(nn.Dense(3)), r"build cannot be called, .* nnx.Rngs -> module"),
    (lambda: cg.models.from_nnx(lambda rngs: 3), r"it gives a int of builtins, which is no"),
]


@pytest.mark.parametrize(("call", "sentence"), REFUSED, ids=[s[:30] for _, s in REFUSED])
def test_what_a_factory_cannot_be_given_is_named(call, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        call()
    assert "it must" in str(caught.value) or "must hold" in str(caught.value)


def test_what_the_command_refuses_the_factories_refuse():
    """One table of ranges: whatever a number is called in it, Python is told as the command is."""
    builds = {
        **{name: cg.cgsv for name in ("gamma", "alpha", "beta", "floor", "norm_epsilon")},
        "gamma_decay": lambda gamma_decay: cg.cgsv(gamma_decay=gamma_decay),
        "cosine_epsilon": lambda cosine_epsilon: cg.contribution.cosine(cosine_epsilon),
        "alike": lambda alike: cg.contribution.quotient(cg.contribution.cosine(), alike),
        "quotient_memory": lambda quotient_memory: cg.contribution.quotient(
            cg.contribution.cosine(), memory=quotient_memory
        ),
        "penalty": lambda penalty: cg.contribution.quotient(
            cg.contribution.cosine(), penalty=penalty
        ),
        "significance": lambda significance: cg.contribution.echo(
            cg.contribution.cosine(), significance=significance
        ),
        "foolsgold_confidence": lambda foolsgold_confidence: cg.contribution.foolsgold(
            foolsgold_confidence
        ),
        "viceroy_omega": lambda viceroy_omega: cg.contribution.viceroy(omega=viceroy_omega),
        "viceroy_eta": lambda viceroy_eta: cg.contribution.viceroy(eta=viceroy_eta),
        "s2_wef_deviations": lambda s2_wef_deviations: cg.contribution.s2_wef(
            cg.contribution.cosine(), deviations=s2_wef_deviations
        ),
        "viceroy_drop": lambda viceroy_drop: cg.contribution.viceroy(drop=viceroy_drop),
        "tolerance": lambda tolerance: cg.contribution.gtg_shapley(None, 1, tolerance),
        "permutations": lambda permutations: cg.contribution.sampled_shapley(None, permutations),
        "q": lambda q: cg.aggregation.q_fair(q),
        "trim": lambda trim: cg.aggregation.trimmed_mean(trim),
        "clip_norm": lambda clip_norm: cg.aggregation.norm_clipping(clip_norm),
        "weiszfeld_smoothing": lambda weiszfeld_smoothing: cg.aggregation.geometric_median(
            1, weiszfeld_smoothing
        ),
        "kappa": lambda kappa: cg.reward.mix(kappa),
        "recovery": lambda recovery: methods.iafl(0.1, recovery),
        "removal": lambda removal: cg.compose(*RULES, removal=methods.Removal(removal)),
        "clip": lambda clip: cg.compose(*RULES, clip=clip),
        "kl_floor": lambda kl_floor: methods.fedave(
            Network(lambda *_: None), scope="vector", kl_floor=kl_floor
        ),
        "selection_beta": methods.fair_yet_equal,
        "selected": lambda selected: methods.fair_yet_equal(150.0, selected),
        "steady": lambda steady: methods.fair_yet_equal(150.0, 0.4, steady),
        "growth": lambda growth: cg.reputation.sharpened(
            cg.contribution.cosine(), 0.5, growth=growth
        ),
        "steepness": lambda steepness: methods.fedsac(NETWORK, steepness),
        **{
            f"held_back{part}": functools.partial(methods.fedrac, NETWORK)
            for part in ("", "_late", "_rounds", "_pace", "_start")
        },
        "mu": methods.fedprox,
        "personal_pull": methods.ditto,
        "server_rate": lambda server_rate: methods.scaffold(server_rate),
        "server_momentum": lambda server_momentum: methods.fedavgm(1.0, server_momentum),
        "server_beta2": lambda server_beta2: methods.fedyogi(beta2=server_beta2),
        "server_tau": lambda server_tau: methods.fedadam(tau=server_tau),
        "dropout": cg.participation.everybody,
        "learning_rate": lambda learning_rate: cg.decayed(learning_rate, 0.9),
        "decay": lambda decay: cg.decayed(0.1, decay),
    }
    assert set(Hyper._fields) <= set(builds)
    for name, build in builds.items():
        allowed = TABLES.options[name].allowed
        for value in (allowed.low, allowed.high, allowed.low - 1, allowed.high + 1, np.nan):
            wrong = allowed.complaints(name, value)
            try:
                build(**{name: value})
            except ValueError:
                assert wrong, (name, value)
            else:
                assert not wrong, (name, value)


def test_traced_numbers_and_functions_are_left_alone():
    """A factory inside a transformation sees tracers, of which nothing is asked."""

    def build(gamma, rate):
        cg.cgsv(gamma, gamma, gamma)
        trainer(schedule=cg.decayed(rate, rate))
        return gamma

    jax.jit(jax.vmap(build))(jnp.array([-1.0, 2.0]), jnp.array([-1.0, 2.0]))


@pytest.mark.parametrize("name", ["rounds", "epochs", "eval_every", "eval_batch"])
def test_settings_are_judged(name, world, tiny):
    federation = tiny.federation()
    settings = federation.settings._replace(**{name: 0})
    with pytest.raises(ValueError, match=f"{name} is 0, it must be a whole number from 1"):
        cg.run(jax.random.key(0), *world, federation._replace(settings=settings))


def test_parts_of_another_kind_are_named_together(world, tiny):
    federation = tiny.federation()._replace(
        algorithm=cg.cgsv, participation=0.5, settings={"rounds": 3}
    )
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        cg.run(0, *world, federation)
    assert str(caught.value).splitlines() == [
        "key is 0, it must be of type Array or ndarray, for instance jax.random.key(0)",
        "algorithm is a function, it must be of type Algorithm, for instance cgsv_jax.cgsv()",
        "settings is a dict, it must be of type Settings, "
        "for instance cgsv_jax.Settings(rounds=10)",
        "participation is 0.5, it must be of type Participation or None, for instance "
        "cgsv_jax.participation.uniform(20)",
    ]


def test_parts_by_name_are_an_older_form_of_a_federation(world, tiny):
    federation = tiny.federation(rounds=1)
    orders, key = tiny.orders(world[1], 1, 2), jax.random.key(0)
    with pytest.warns(DeprecationWarning, match=r"use run\(.* cgsv_jax\.Federation\("):
        found = cg.run(key, *world, orders=orders, **federation._asdict())
    jax.tree.map(np.testing.assert_array_equal, found, cg.run(key, *world, federation, orders))
    with pytest.raises(TypeError, match="a federation and settings beside it"):
        cg.run(key, *world, federation, settings=federation.settings)
    with pytest.raises(ValueError, match=r"federation is a tuple, .* cgsv_jax\.Federation"):
        cg.run(key, *world, tuple(federation))


def test_a_loss_is_one_number_per_row(world, tiny):
    def mean(logits, labels):
        return jnp.mean(local.negative_log_likelihood(logits, labels))

    federation = tiny.federation()
    schedule = cg.decayed(0.1, 0.99)
    trainer = cg.trainer(federation.model, optax.sgd, schedule, batch_size=4, loss=mean)
    with pytest.raises(ValueError, match=r"loss gives \[\] .* it must give one number per row"):
        cg.run(jax.random.key(0), *world, federation._replace(trainer=trainer))


def test_a_schedule_of_clients_that_are_not_there_is_refused(world, tiny):
    federation = tiny.federation()._replace(participation=cg.participation.given([[0, 4]]))
    with pytest.raises(ValueError, match=r"schedule holds client 4, .* from 0 to 3"):
        cg.run(jax.random.key(0), *world, federation)


# ---------------------------------------------------------------- what is taken, and means the same


def as_if(x, order=">"):
    """The same numbers in the other byte order; integers unsigned and as short as they fit."""
    if x is None or x.dtype == bool:
        return x
    return x.astype(np.dtype(np.uint8 if x.dtype.kind == "i" else x.dtype).newbyteorder(order))


def test_byte_order_and_unsigned_numbers_change_nothing(world, tiny):
    """Labels of one byte, big-endian rows: the run, its cohort and given orders are the same."""
    data, clients = world
    clients = of(clients, numbers=np.array([2, 0, 3, 1]), joins=np.array([0, 0, 1, 0]))
    orders = tiny.orders(clients, 2, 2)
    whole = np.where(orders < 0, 0, orders)[..., :3]  # every client has three rows: nothing pads
    schedule = np.array([[0, 3], [1, 2]])
    federation = tiny.federation(rounds=2)._replace(participation=cg.participation.given(schedule))
    odd = federation._replace(participation=cg.participation.given(schedule.astype(">u2")))
    data_, clients_ = jax.tree.map(as_if, (data, clients))
    assert {x.dtype.str for x in jax.tree.leaves(data_)} == {">f4", "|u1"}
    clients_ = of(clients_, rows=clients.rows.astype(">i8"), numbers=np.uint8(clients.numbers))
    for order in (orders, whole):
        given = order.astype(np.int32 if order is orders else np.uint8)
        want = cg.run(jax.random.key(0), data, clients, federation, order)
        found = cg.run(jax.random.key(0), data_, clients_, odd, given)
        for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(found), strict=True):
            np.testing.assert_array_equal(a, b)


def test_classes_held_are_counted_of_unsigned_labels():
    clients = Clients(np.zeros((2, 3), np.int32), np.array([[1, 1, 1], [1, 0, 0]], bool))
    labels = np.array([[0, 1, 2], [0, 0, 0]], np.uint8)
    _, held = cg.partition.describe(of(clients, labels=labels), np.zeros(1, np.uint8))
    assert held.tolist() == [3, 1]


def test_paths_are_paths(tmp_path):
    asked = {"dataset": "mnist", "attendance": tmp_path / "who.txt", "data_dir": tmp_path}
    config = names.configure(**asked)
    assert (config.data_dir, config.attendance) == (str(tmp_path), str(tmp_path / "who.txt"))


# ---------------------------------------------------------------- through an experiment


# All that would be digits' own otherwise.
TRAINED = {"epochs": 3, "batch_size": 16, "learning_rate": 0.1, "decay": 0.99}


def given(world, **asked):
    asked = {"clients": 4, "algorithms": "fedavg", "rounds": 2, "seeds": 1, "hidden": (4,)} | asked
    asked = TRAINED | asked
    config = names.configure(**asked)
    return config, lambda *model: deal.given(config, *world, *model)


def test_arrays_of_ones_own_go_through_an_experiment(world, tiny):
    config, make = given(world, algorithms="standalone")
    task = make()
    result = running.run(config, dealt=(task,))
    assert [cell.partition for cell in result.cells] == ["given"]
    assert result.cells[0].record.present.all()
    np.testing.assert_array_equal(task.sizes, world[1].mask.sum(1))
    assert make(tiny.softmax()).tensors == tiny.sizes_of(tiny.softmax())


def test_arrays_of_ones_own_are_checked(world):
    data, clients = world
    _, make = given((of(data, labels=data.labels[1:]), of(clients, rows=clients.rows + 50)))
    with pytest.raises(ConfigError, match=r"Dataset.labels is .*\n(.*\n)*Clients.rows holds"):
        make()
    _, make = given(world, clients=5)
    with pytest.raises(ConfigError, match="--clients is 5, it must be 4, the clients given"):
        make()
    _, make = given((of(data, validation=None), clients), algorithms=("rank", "cffl"))
    with pytest.raises(ConfigError, match=r"rank judges models .*\ncffl judges models"):
        make()


@pytest.mark.parametrize("own_model", [False, True])
def test_the_config_of_a_run_on_ones_own_arrays_is_of_no_other_experiment(
    world, tiny, own_model, tmp_path, capsys
):
    """It says what the arrays were, nothing of digits, and is refused to be repeated."""
    config, make = given(world, algorithms="standalone", partitions="uniform", batch_size=4)
    model = [tiny.softmax()] if own_model else []
    result = running.run(config, dealt=(make(*model),))
    texts = []
    for name in ("one", "two"):
        running.save(directory.create(tmp_path / name), result)
        texts.append((tmp_path / name / "config.json").read_bytes())
    assert texts[0] == texts[1]
    assert b"digits" not in texts[0]
    assert b"uniform" not in texts[0].replace(b'"cohort_by": "uniform"', b"")
    values = directory.read(tmp_path / "one").config
    assert (values["dataset"], values["partitions"], values["batch_size"]) == (
        "given",
        ["given"],
        4,
    )
    assert values["model"] == ("given" if own_model else "mlp")
    assert ("hidden" in values) != own_model
    assert values["given"]["arrays"]["Dataset.inputs"] == "float32 [22, 3]"
    assert values["given"]["arrays"]["Clients.mask"] == "bool [4, 9]"
    if own_model:
        assert values["given"]["model"]["parameters"] == 12
    other = make(*model)
    labels = set_at(world[0].labels, 0, (world[0].labels[0] + 1) % 3)
    changed = other._replace(data=of(other.data, labels=labels))
    again, differs = (identity.described(task)["digest"] for task in (other, changed))
    assert again == values["given"]["digest"] != differs
    file = str(tmp_path / "one" / "config.json")
    assert main.main(["run", "--config", file, "--out", str(tmp_path / "again")]) == 2
    assert "with experiment.again and the same arrays" in capsys.readouterr().err
    (tmp_path / "one" / "summary.json").unlink()  # as if it had not finished
    assert main.main(["run", "--resume", str(tmp_path / "one")]) == 2
    assert "with experiment.again and the same arrays" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()
    assert main.main(["plot", str(tmp_path / "two")]) == 0


def test_what_nobody_asked_for_is_said_where_arrays_are_ones_own(world):
    config = names.configure(
        clients=4, algorithms=("fedavg", "cgsv"), rounds=2, decay=0.5, hidden=(4,)
    )
    said = (
        "arrays of your own are trained on with the numbers of digits: epochs = 3, "
        "batch_size = 16, learning_rate = 0.1, gamma = 0.5; what is given to configure is not "
        "said here"
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(said)}$"):
        deal.given(config, *world)
    asked = names.configure(clients=4, algorithms="fedavg", rounds=2, hidden=(4,), **TRAINED)
    assert asked.taken == ()
    assert asked == dataclasses.replace(asked, taken=(("rounds", 3),))  # it is no part of a config


@pytest.mark.parametrize("own_model", [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_run_on_ones_own_arrays_is_repeated_with_the_same_arrays_only(
    world, tiny, own_model, tmp_path
):
    config, make = given(world, algorithms="fedavg", eval_clients=3, late=("1:1",))
    model = [tiny.softmax()] if own_model else []
    running.save(directory.create(tmp_path / "one"), running.run(config, dealt=(make(*model),)))
    found, task = experiment.again(tmp_path / "one", *world, *model)
    running.save(directory.create(tmp_path / "two"), running.run(found, dealt=(task,)))
    for name in ("config.json", "rounds.parquet", "clients.parquet", "summary.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    data, clients = world
    labels = set_at(data.labels, 0, (data.labels[0] + 1) % 3)
    swapped = clients.rows[::-1], clients.mask[::-1]
    file = tmp_path / "one" / "config.json"
    for others, sentence in (
        ((of(data, labels=labels), clients), "other arrays than those of the run: the rows differ"),
        ((data, of(clients, rows=swapped[0], mask=swapped[1])), "the run: the partition differ"),
        ((of(data, test_inputs=data.test_inputs[1:], test_labels=data.test_labels[1:]), clients),
         r"Dataset.test_inputs is float32 .*, in the run it was float32"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=sentence):
            experiment.again(file, *others, *model)
    with pytest.raises(ConfigError, match="the model is another one than that of the run"):
        experiment.again(file, *world, *([] if own_model else [tiny.softmax()]))
    with pytest.raises(ConfigError, match=r"experiment\.again and the same arrays"):
        experiment.read(file)


def test_two_tasks_of_one_name_are_refused(world):
    config, make = given(world)
    with pytest.raises(ConfigError, match="dealt holds two tasks of one name"):
        running.run(config, dealt=(make(), make()))


def test_a_config_is_read_from_python(tmp_path):
    config = names.configure(algorithms=("standalone", "cgsv"), clients=3)
    directory.begin(directory.create(tmp_path / "run"), resolve.to_dict(config))
    assert experiment.read(tmp_path / "run") == config
    with pytest.raises(ConfigError, match="a run on a data set, which needs no arrays"):
        experiment.again(tmp_path / "run", None, None)
