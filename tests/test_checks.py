"""Arrays from Python: what does not belong together is named, all of it, before a trace."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cgsv_jax import checks, experiment, models, simulation
from cgsv_jax.config import ConfigError
from cgsv_jax.types import Clients, Model


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
    "a number twice": (
        lambda d, c: (d, of(c, numbers=np.array([0, 1, 1, 3]))),
        r"Clients.numbers holds 1 twice",
    ),
    "a number too many": (
        lambda d, c: (d, of(c, numbers=np.array([0, 1, 4, 3]))),
        r"Clients.numbers holds 4, it must hold numbers of clients from 0 to 3",
    ),
    "no data set": (lambda d, c: (tuple(d), c), r"a Dataset is expected, got tuple"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_before_anything_is_traced(name, world, tiny):
    change, sentence = WRONG[name]
    data, clients = change(*world)
    parts = tiny.parts()

    def untouched(*arguments):
        raise AssertionError("the run has begun")

    trainer = parts["trainer"]._replace(init=untouched, update=untouched)
    with pytest.raises(ValueError, match=sentence):
        checks.check(data, clients, parts["model"])
    with pytest.raises(ValueError, match=sentence):
        simulation.run(jax.random.key(0), data, clients, **parts | {"trainer": trainer})


def test_all_of_it_is_named_together(world):
    data, clients = world
    data = of(
        data,
        labels=data.labels[1:],
        test_inputs=set_at(data.test_inputs, 0, np.nan),
        validation=(data.inputs[:, :1], data.labels),
    )
    clients = of(clients, rows=clients.rows + 100, numbers=np.zeros(4, int))
    assert len(checks.problems(data, clients)) == 5


def test_what_belongs_together_is_left_alone(world, tiny):
    data, clients = world
    model = tiny.softmax()
    assert checks.problems(data, clients, model) == []
    bare = of(data, validation=None)
    lied = of(clients, labels=np.where(clients.mask, 2, 99), numbers=np.array([3, 1, 0, 2]))
    anywhere = of(clients, rows=np.where(clients.mask, clients.rows, -5))
    on_device = jax.device_put((data, clients))
    for pair in ((bare, lied), (data, anywhere), on_device):
        assert checks.problems(*pair, model) == []
    mixed = of(data, inputs=np.float16(data.inputs), test_inputs=np.float64(data.test_inputs))
    assert checks.problems(mixed, clients, model) == []
    no_rows = of(data, validation=(data.inputs[:0], data.labels[:0]))
    assert checks.problems(no_rows, clients, model) == []


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
        simulation.run(jax.random.key(0), *world, **tiny.parts() | {"model": huge})
    config = experiment.configure(hidden=(2**15, 2**16), algorithms="fedavg")
    with pytest.raises(ConfigError, match=r"Model has \d+ parameters, it must have"):
        experiment.problems(config)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (models.mlp((5,), 3), r"Model cannot be applied to inputs of float32 \[3\]: "),
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


# ---------------------------------------------------------------- through an experiment


def given(world, **asked):
    asked = {"clients": 4, "algorithms": "fedavg", "rounds": 2, "seeds": 1, "hidden": (4,)} | asked
    config = experiment.configure(**asked)
    return config, lambda *model: experiment.given(config, *world, *model)


def test_arrays_of_ones_own_go_through_an_experiment(world, tiny):
    config, make = given(world, algorithms="standalone")
    problem = make()
    result = experiment.run(config, dealt=(problem,))
    assert [cell.partition for cell in result.cells] == ["given"]
    assert result.cells[0].record.present.all()
    np.testing.assert_array_equal(problem.sizes, world[1].mask.sum(1))
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
