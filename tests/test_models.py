"""The networks of images: sizes, both forms against each other and PyTorch, and the contract.

Those of text are in test_text_cnn.py.
"""

import contextlib
import functools
import itertools
import re
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import export, lax

from cgsv_jax import models
from cgsv_jax.models import cnn, conv, initializers

CNNS = {"mnist_cnn": (32, 32, 1), "cifar_cnn": (32, 32, 3), "tutorial_cnn": (32, 32, 3)}
SHAPES = {"mlp": (8, 8, 1), **CNNS}
SIZES = {"mlp": 4_810, "mnist_cnn": 104_242, "cifar_cnn": 121_182, "tutorial_cnn": 62_006}
# Pooling crops; the least size, or near it.
SMALL = {"mnist_cnn": (19, 22, 2), "cifar_cnn": (17, 16, 3), "tutorial_cnn": (17, 16, 3)}
TRACE = Path(__file__).parent / "data" / "mnist_cnn_compact.npz"


@pytest.fixture(autouse=True)
def no_silent_broadcasting():
    with jax.numpy_rank_promotion("raise"):
        yield


def images(shape, batch=3, seed=0, background=True):
    """Random rows [B, H, W, C]; the background is constant around a patch, as in MNIST."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(batch, *shape)).astype(np.float32)
    if background:
        inside = np.zeros(shape[:2], bool)
        inside[shape[0] // 3 : -4, shape[1] // 4 : -5] = True
        x = np.where(inside[None, :, :, None], x, np.float32(-0.42))
    return x


def start(name, shape, classes=10, seed=3):
    """Parameters of the sizes and bounds of `init`, drawn by NumPy: compiling `init` takes 3 s."""
    rng = np.random.default_rng(seed)
    params = jax.eval_shape(models.MODELS[name](shape, classes).init, jax.random.key(0))
    for layer in params.values():
        bound = (layer["kernel"].size // layer["bias"].size) ** -0.5
        for kind, leaf in layer.items():
            layer[kind] = jnp.float32(rng.uniform(-bound, bound, leaf.shape))
    return params


def cross_entropy(logits, labels):
    """Negative log-likelihood of each row, [B]."""
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]


def gradient(model, params, inputs, labels, key):
    return jax.grad(lambda p: cross_entropy(model.apply(p, inputs, key), labels).mean())(params)


def as_float64(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)


def to_numpy(tree):
    return jax.tree.map(np.asarray, tree)


def norm(tree):
    return float(np.sqrt(sum(np.sum(np.square(np.float64(x))) for x in jax.tree.leaves(tree))))


def distance(a, b):
    return norm(jax.tree.map(lambda x, y: np.float64(x) - np.float64(y), a, b))


# ---------------------------------------------------------------- sizes and shapes


def test_every_model_is_tested():
    assert set(models.MODELS) == {*SHAPES, "text_cnn"}


@pytest.mark.parametrize("name", SHAPES)
def test_number_of_parameters(name):
    params = jax.eval_shape(models.MODELS[name](SHAPES[name], 10).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == SIZES[name]


@pytest.mark.parametrize(
    ("name", "least"), [("mnist_cnn", 18), ("cifar_cnn", 16), ("tutorial_cnn", 16)], ids=CNNS
)
def test_least_size_works_and_one_pixel_less_is_refused(name, least):
    model = models.MODELS[name]((least, least, 1), 3)
    params = jax.eval_shape(model.init, jax.random.key(0))
    assert jax.eval_shape(model.apply, params, jnp.zeros((2, least, least, 1))).shape == (2, 3)
    refusal = re.escape(f"at least {least} x {least} pixels, got the shape (20, {least - 1}, 1)")
    with pytest.raises(ValueError, match=refusal):
        models.MODELS[name]((20, least - 1, 1), 3)
    with pytest.raises(ValueError, match=re.escape("(64,)")):
        models.MODELS[name]((64,), 3)


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="fft"):
        models.mnist_cnn((32, 32, 1), 10, conv="fft")
    with pytest.raises(ValueError, match=re.escape("(64, 0, 10)")):
        models.mlp((8, 8, 1), 10, hidden=(0,))


def test_hidden_layers_of_the_mlp():
    params = jax.eval_shape(models.mlp((5, 3), 2, hidden=(7, 4)).init, jax.random.key(0))
    assert {layer: leaf["kernel"].shape for layer, leaf in params.items()} == {
        "fc1": (15, 7),
        "fc2": (7, 4),
        "fc3": (4, 2),
    }
    assert set(jax.eval_shape(models.mlp((5,), 2, hidden=()).init, jax.random.key(0))) == {"fc1"}


def test_parameters_start_as_torch_starts_them():
    """U(-b, b), b = 1 / sqrt(fan_in): bounded by b, and filling the range."""
    layers = (
        (cnn.ConvPool(32, 5, nn.relu), (jnp.zeros((1, 9, 9, 16)), False)),
        (initializers.dense(84, 120, "fc"), (jnp.zeros((1, 120)),)),
    )
    for layer, inputs in layers:
        key = jax.random.key(1)
        params = jax.jit(layer.init, static_argnums=2)(key, *inputs)["params"]
        fan_in = params["kernel"].size // params["bias"].size
        bound = fan_in**-0.5
        for leaf in params.values():
            assert float(jnp.abs(leaf).max()) <= bound
            # The variance of n uniform draws has relative standard deviation sqrt(0.8 / n).
            assert abs(float(jnp.var(leaf)) * 3 * fan_in - 1) < 5 * np.sqrt(0.8 / leaf.size)


# ---------------------------------------------------------------- the operation conv + pool

GEOMETRIES = [  # kernel, height, width: odd and even kernels, sizes that pooling crops
    (1, 4, 5),
    (2, 9, 10),
    (3, 10, 13),
    (4, 9, 12),
    (5, 12, 11),
    (7, 15, 14),
]


def plain(x, kernel):
    """Convolution and pooling of x [C, H, W, B] by the library, differentiated by the library."""
    y = conv.plain_pool(conv.plain_conv(x.transpose(3, 1, 2, 0), kernel))
    return y.transpose(3, 1, 2, 0)


FORMS = conv.by_phases, conv.by_winner


@contextlib.contextmanager
def forced(form):
    """One form of the block convolution, whatever the platform; for what is traced meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv, "matmul_max", form)
        yield


@functools.partial(jax.jit, static_argnums=0)
def value_and_pull(function, x, kernel, cotangent):
    """Value [O, h, w, B], gradient of x, gradient of the kernel."""
    value, pull = jax.vjp(function, x, kernel)
    return value, *pull(cotangent)


@pytest.mark.parametrize(("k", "height", "width"), GEOMETRIES)
def test_block_form_on_exact_ties(k, height, width):
    """Small integers are summed exactly, so that ties are exact and every bit must agree.

    The input's gradient sees which of the tied entries was chosen.
    """
    rng = np.random.default_rng(k)
    x = rng.integers(-2, 3, (3, height, width, 4))
    x[:, : height - 2, :, 1:] = 1  # rows of the batch that are constant but for a strip
    kernel = rng.integers(-2, 3, (k, k, 3, 5))
    pooled = conv.pooled_size(height, k), conv.pooled_size(width, k)
    cotangent = rng.integers(-3, 4, (5, *pooled, 4))
    arguments = jnp.float32(x), jnp.float32(kernel), jnp.float32(cotangent)
    ours = value_and_pull(conv.block_conv_pool, *arguments)
    chex.assert_trees_all_equal(ours, value_and_pull(plain, *arguments))


@pytest.mark.parametrize(("k", "height", "width"), [(2, 9, 10), (3, 10, 13), (7, 15, 14)])
def test_block_form_on_random_numbers(k, height, width):
    """Float32 within the bound of its sums, float64 tightly.

    |fl(sum of n products) - exact| <= n eps sum |products|, and taking a maximum never adds to it.
    """
    rng = np.random.default_rng(k)
    h, w = conv.pooled_size(height, k), conv.pooled_size(width, k)
    x, kernel = rng.normal(size=(3, height, width, 4)), rng.normal(size=(k, k, 3, 5))
    arguments = jnp.float32(x), jnp.float32(kernel), jnp.float32(rng.normal(size=(5, h, w, 4)))
    ours = value_and_pull(conv.block_conv_pool, *arguments)
    with jax.enable_x64(True):
        arguments = as_float64(arguments)
        exact = value_and_pull(plain, *arguments)
        tight = value_and_pull(conv.block_conv_pool, *arguments)
        chex.assert_trees_all_close(tight, exact, rtol=0, atol=1e-12)
        # The same sums over absolute values; for gradients, as if all four entries were chosen.
        sums = value_and_pull(sum_of_windows, *jax.tree.map(jnp.abs, arguments))
    terms = (3 * (k + 1) ** 2, 5 * (k + 1) ** 2, 4 * 4 * h * w)  # phase kernels hold (k + 1)^2
    eps = np.finfo(np.float32).eps
    for mine, precise, total, n in zip(*map(to_numpy, (ours, exact, sums)), terms, strict=True):
        assert mine.dtype == np.float32
        assert np.all(np.abs(mine - precise) <= n * eps * total)


def sum_of_windows(x, kernel):
    """The convolution of x [C, H, W, B], summed over pooling windows: no less than its maximum."""
    y = conv.plain_conv(x.transpose(3, 1, 2, 0), kernel)
    return 4 * nn.avg_pool(y, (2, 2), strides=(2, 2)).transpose(3, 1, 2, 0)


@pytest.mark.parametrize(("k", "height", "width"), GEOMETRIES)
def test_the_winner_and_the_phases_give_the_same_bits(k, height, width):
    """What accelerators compute, forced on a CPU: values, both gradients, ties and constants."""
    rng = np.random.default_rng(k)
    x = rng.normal(size=(3, height, width, 4)).astype(np.float32)
    x[:, : height - 2, :, 2:] = -0.42  # rows of the batch that are constant but for a strip
    x[..., 1] = np.round(x[..., 1])  # and one whose ties are many and exact
    kernel = rng.normal(size=(k, k, 3, 5)).astype(np.float32)
    kernel[..., 1] = np.round(kernel[..., 1])
    h, w = conv.pooled_size(height, k), conv.pooled_size(width, k)
    cotangent = np.float32(rng.normal(size=(5, h, w, 4)))
    found = {}
    for form in FORMS:
        with forced(form):
            fresh = functools.partial(conv.block_conv_pool)  # traced anew
            found[form] = value_and_pull(fresh, x, kernel, cotangent)
    chex.assert_trees_all_equal(found[conv.by_winner], found[conv.by_phases])


# ---------------------------------------------------------------- whole networks, both forms


@functools.cache
def logits_and_gradient(name, shape, block):
    """Compiled once for both kinds of images; (params, inputs, labels) -> (logits, gradient)."""
    model, key = models.MODELS[name](shape, 10), jax.random.key(0) if block else None

    def loss(params, inputs, labels):
        logits = model.apply(params, inputs, key)
        return cross_entropy(logits, labels).mean(), logits

    def both(params, inputs, labels):
        gradients, logits = jax.grad(loss, has_aux=True)(params, inputs, labels)
        return logits, gradients

    return jax.jit(both)


@pytest.mark.parametrize("background", [False, True], ids=["random", "background"])
@pytest.mark.parametrize("name", CNNS)
@pytest.mark.long
def test_training_form_equals_evaluation_form(name, background):
    """Logits and gradients: tightly in float64; in float32 no worse than the library's own error.

    A float32 gradient has no simple bound, but the plain form's error against float64 shows what
    rounding does to this network; the block form, the same sums in another order, may err by a
    small multiple of it.
    """
    params = start(name, SMALL[name])
    inputs = images(SMALL[name], background=background)
    results = {}
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            p, x = jax.tree.map(lambda leaf, d=dtype: jnp.asarray(leaf, d), (params, inputs))
            for block in (True, False):
                both = logits_and_gradient(name, SMALL[name], block)(p, x, jnp.int32([0, 1, 2]))
                assert {leaf.dtype for leaf in jax.tree.leaves(both)} == {jnp.dtype(dtype)}
                results[block, dtype] = to_numpy(both)
    exact = results[False, "float64"]
    for i in (0, 1):  # logits, gradient
        assert distance(results[True, "float64"][i], exact[i]) < 1e-13 * norm(exact[i])
        error = distance(results[False, "float32"][i], exact[i])
        assert distance(results[True, "float32"][i], exact[i]) < 4 * error


def client_gradients(name, dtype="float32"):
    """A new function of two clients' (params, inputs, labels), its arguments as well."""
    model = models.MODELS[name](SMALL[name], 10)

    def loss(params, inputs, labels):
        params, inputs = jax.tree.map(lambda x: x.astype(dtype), (params, inputs))
        logits = model.apply(params, inputs, jax.random.key(0)).astype("float32")
        return cross_entropy(logits, labels).mean()

    first, second = start(name, SMALL[name]), start(name, SMALL[name], seed=1)
    params = jax.tree.map(lambda *x: jnp.stack(x), first, second)
    inputs = np.stack([images(SMALL[name]), images(SMALL[name], seed=1)])
    return jax.jit(jax.vmap(jax.grad(loss))), (params, inputs, jnp.int32([[0, 1, 2], [3, 4, 5]]))


@pytest.mark.parametrize("name", ["mnist_cnn", "cifar_cnn"])
@pytest.mark.long
def test_what_accelerators_train_with_has_the_same_bits(name):
    """Gradients of whole networks, of clients side by side, background included.

    In bfloat16 the sum of pads may keep more digits between its terms than the updates in place,
    which round after each of the at most 16 of them: 16 times 2^-9 of what they add.
    """
    found = {}
    for form, dtype in itertools.product(FORMS, ("float32", "bfloat16")):
        with forced(form):
            function, arguments = client_gradients(name, dtype)
            found[form, dtype] = to_numpy(function(*arguments))
    phases, winner = (found[form, "float32"] for form in FORMS)
    chex.assert_trees_all_equal(winner, phases)
    phases, winner = (found[form, "bfloat16"] for form in FORMS)
    for x, y in zip(*map(jax.tree.leaves, (winner, phases)), strict=True):
        assert distance(x, y) <= 16 * 2.0**-9 * norm(y)


@pytest.mark.long
def test_a_cpu_compiles_what_it_compiled_without_a_choice():
    """Nothing of the form that it does not take is left: the same operations in the same order."""
    programs = []
    for form in (conv.by_phases, conv.matmul_max):
        with forced(form):
            function, arguments = client_gradients("cifar_cnn")
            programs.append(operations(function.lower(*arguments).compile().as_text()))
    assert len(programs[0]) > 100
    assert programs[0] == programs[1]


def operations(text):
    """The instructions of a compiled program, its names numbered by their first appearance."""
    names = {}
    body = re.sub(r", (metadata|stack_frame_id)=(\{[^}]*\}|\d+)", "", text)
    body = re.sub(r"%[\w.-]+", lambda name: str(names.setdefault(name[0], len(names))), body)
    return [line for line in body.splitlines() if " = " in line]


@pytest.mark.long
def test_one_program_holds_both_forms():
    """Exported for a CPU and for CUDA, it computes here what the CPU's own does."""
    function, arguments = client_gradients("cifar_cnn")
    barriers = {}
    for platform in ("cpu", "cuda"):
        module = export.export(function, platforms=[platform])(*arguments).mlir_module()
        barriers[platform] = module.count("= stablehlo.optimization_barrier")
    assert barriers == {"cpu": 0, "cuda": 6}  # columns, phases and their gradient, twice
    both = export.export(function, platforms=["cpu", "cuda"])(*arguments)
    chex.assert_trees_all_equal(both.call(*arguments), function(*arguments))


@pytest.mark.parametrize("name", CNNS)
@pytest.mark.parametrize("key", [None, jax.random.key(0)])
def test_forms_can_be_chosen_by_hand(name, key):
    """The program shows which form runs: the block form has no convolution.

    By default it depends on what is wanted, not on who asks: a server may take a gradient on its
    own rows, without a key.
    """
    inputs, params = images(SMALL[name]), start(name, SMALL[name])
    plain = {}
    for form in ("auto", "block", "lax"):
        model = models.MODELS[name](SMALL[name], 10, conv=form)

        def total(params, model=model):
            return jnp.sum(model.apply(params, inputs, key))

        for wanted, function in (("value", total), ("gradient", jax.grad(total))):
            program = str(jax.make_jaxpr(function)(params))
            plain[form, wanted] = "conv_general_dilated" in program
    assert plain == {
        ("auto", "value"): True,
        ("auto", "gradient"): False,
        ("block", "value"): False,
        ("block", "gradient"): False,
        ("lax", "value"): True,
        ("lax", "gradient"): True,
    }


@pytest.mark.parametrize("name", SHAPES)
def test_rows_without_cotangent_contribute_nothing(name):
    """Padding rows: whatever they hold, each bit of the gradient is as if they held zeros."""
    shape = SMALL.get(name, SHAPES[name])
    model = models.MODELS[name](shape, 10)
    params, x = start(name, shape), images(shape, batch=4)
    labels, weights = jnp.array([1, 2, 3, 4]), jnp.array([0.5, 0.0, 0.5, 0.0])

    @jax.jit
    @jax.grad
    def weighted(params, inputs, weights):
        logits = model.apply(params, inputs, jax.random.key(1))
        return jnp.sum(weights * cross_entropy(logits, labels))

    zeros, huge = x.copy(), x.copy()
    zeros[1::2], huge[1::2] = 0, 1e20 * x[1::2]
    expected = weighted(params, zeros, weights)
    assert norm(expected) > 0
    chex.assert_trees_all_equal(weighted(params, huge, weights), expected)
    nothing = weighted(params, huge, 0 * weights)
    chex.assert_trees_all_equal(nothing, jax.tree.map(jnp.zeros_like, nothing))


# ---------------------------------------------------------------- transforms


def two_steps(model, params, inputs, labels):
    """Two gradient steps by scan, inside a while loop that runs once, as local training nests."""
    key = jax.random.key(0)

    def step(params, _):
        gradients = gradient(model, params, inputs, labels, key)
        return jax.tree.map(lambda p, g: p - 0.05 * g, params, gradients), None

    return lax.fori_loop(0, jnp.int32(1), lambda _, p: lax.scan(step, p, length=2)[0], params)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.long
def test_clients_by_vmap_map_and_loop_agree(name):
    """Sums in another order per layout: equal in float64 up to its rounding."""
    shape = SMALL.get(name, SHAPES[name])
    model = models.MODELS[name](shape, 10)
    starts = [start(name, shape, seed=i) for i in range(3)]
    with jax.enable_x64(True):
        params = as_float64(jax.tree.map(lambda *leaves: np.stack(leaves), *starts))
        inputs = as_float64(np.stack([images(shape, seed=i) for i in range(3)]))
        labels = jnp.array([[0, 1, 2], [3, 4, 5], [6, 7, 8]])

        def one(args):
            return two_steps(model, *args)

        stacked = params, inputs, labels
        at_once = jax.jit(jax.vmap(one))(stacked)
        mapped = jax.jit(lambda a: lax.map(one, a))(stacked)
        single = jax.jit(one)
        loop = [single(jax.tree.map(lambda leaf, i=i: leaf[i], stacked)) for i in range(3)]
        looped = jax.tree.map(lambda *leaves: jnp.stack(leaves), *loop)
        way = distance(looped, params)
        assert way > 0
        for other in (mapped, at_once):
            assert distance(other, looped) < 1e-12 * way


@pytest.mark.parametrize("name", SHAPES)
def test_contract(name):
    """Shapes without running, jit = no jit, and a program for TPUs."""
    shape, key = SMALL.get(name, SHAPES[name]), jax.random.key(0)
    model, params = models.MODELS[name](shape, 7), start(name, shape, 7)
    inputs, labels = jnp.asarray(images(shape)), jnp.arange(3)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    for x64 in (False, True):  # parameters are float32 whatever the default precision
        with jax.enable_x64(x64):
            shapes = jax.eval_shape(model.init, key)
            chex.assert_trees_all_equal_shapes_and_dtypes(params, shapes)
    for switch in (None, key):
        logits = jax.eval_shape(lambda p, s=switch: model.apply(p, inputs, s), params)
        assert (logits.shape, logits.dtype) == ((3, 7), jnp.float32)

    compiled = jax.jit(model.apply)(params, inputs, key)
    with jax.disable_jit():
        eager = model.apply(params, inputs, key)
    # Both sum at most a few thousand terms per layer, in orders of their own.
    assert distance(compiled, eager) < 1e-5 * norm(eager)

    def value_and_gradient(params, inputs, labels):
        loss = lambda p: cross_entropy(model.apply(p, inputs, key), labels).mean()  # noqa: E731
        return jax.value_and_grad(loss)(params)

    exported = export.export(jax.jit(value_and_gradient), platforms=["tpu"])(params, inputs, labels)
    assert exported.platforms == ("tpu",)


# ---------------------------------------------------------------- PyTorch


@pytest.mark.parametrize("name", CNNS)
def test_round_trip_through_torch_layouts(name):
    params = start(name, CNNS[name])
    arrays = models.params_to_torch(params)
    assert list(arrays)[:4] == ["conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"]
    assert arrays["conv1.weight"].shape[:2] == (params["conv1"]["bias"].size, CNNS[name][2])
    chex.assert_trees_all_equal(models.params_from_torch(arrays), params)
    np.testing.assert_array_equal(
        arrays["conv2.weight"][5, 3, 1, 2], params["conv2"]["kernel"][1, 2, 3, 5]
    )
    np.testing.assert_array_equal(arrays["fc1.weight"][7, 11], params["fc1"]["kernel"][11, 7])


def test_foreign_arrays_are_refused():
    with pytest.raises(ValueError, match=re.escape("'bn1.running_mean' of shape (3,)")):
        models.params_from_torch({"bn1.running_mean": np.zeros(3)})


def test_flat_order_of_the_released_trace():
    """Names, shapes and order are those in which the released code flattens its model."""
    if not TRACE.exists():
        pytest.skip(f"{TRACE.name} is not there")
    with np.load(TRACE) as trace:
        names = [str(name) for name in trace["param_names"]]
        first = {name: trace[f"init/{name}"] for name in names}
    params = models.params_from_torch(first)
    model = models.mnist_cnn()
    chex.assert_trees_all_equal_shapes_and_dtypes(
        params, jax.eval_shape(model.init, jax.random.key(0))
    )
    arrays = models.params_to_torch(params)
    assert list(arrays) == names
    chex.assert_trees_all_equal(arrays, first)


@pytest.mark.parametrize("name", ["mnist_cnn", "cifar_cnn"])
def test_torch_computes_the_same(name):
    """Logits and gradients in float64, on images with ties."""
    torch = pytest.importorskip("torch", reason="PyTorch is the other side of this comparison")
    from benchmarks.pytorch.networks import NETWORKS

    torch.manual_seed(0)
    network = NETWORKS[name]().double()
    inputs, labels = np.float64(images(CNNS[name])), np.int32([0, 1, 2])
    logits = network.logits(torch.from_numpy(inputs.transpose(0, 3, 1, 2)))
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels).long()).backward()
    theirs = {n: p.grad.numpy() for n, p in network.named_parameters()}
    with jax.enable_x64(True):
        params = models.params_from_torch(
            {n: p.detach().numpy() for n, p in network.named_parameters()}
        )
        arguments = params, jnp.asarray(inputs), jnp.asarray(labels)
        ours, ours_gradient = logits_and_gradient(name, CNNS[name], True)(*arguments)
        evaluated = models.MODELS[name](CNNS[name], 10).apply(*arguments[:2])
    theirs_logits = logits.detach().numpy()
    for mine in (ours, evaluated):
        assert distance(mine, theirs_logits) < 1e-13 * norm(theirs_logits)
    assert distance(models.params_to_torch(ours_gradient), theirs) < 1e-13 * norm(theirs)


def test_equal_recipes_have_one_model():
    """Lists are as good as tuples; and another option is another model."""
    recipe = {"input_shape": [4], "num_classes": 3, "hidden": [5]}
    one, same, other = (
        models.built(models.mlp, own)
        for own in (recipe, recipe | {"hidden": (5,)}, recipe | {"hidden": [6]})
    )
    assert one is same
    assert one is not other
