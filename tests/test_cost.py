"""What a round costs by the model, against counts by hand, XLA's own, and compiled messages."""

import math
from pathlib import Path

import jax
import pytest

from benchmarks import common, cost, hlo, population
from cgsv_jax import models
from cgsv_jax.experiment import timing

TEXT = """HloModule jit_f, is_scheduled=true

%body (t.0: f32[8]) -> f32[8] {
  %t.0 = f32[8]{0} parameter(0)
  %both = (f32[], s32[4]{0}) all-reduce(%t.0, %t.0), replica_groups={}, to_apply=%add
  ROOT %turned = f32[8]{0} collective-permute(%t.0), source_target_pairs={{0,1}}
}

ENTRY %main (x: f32[8], y: bf16[2,3]) -> f32[16] {
  %x = f32[8]{0} parameter(0)
  %y = bf16[2,3]{1,0} parameter(1)
  %begun = (f32[8]{0}, f32[16]{0}) all-gather-start(%x), dimensions={0}
  %gathered = f32[16]{0} all-gather-done(%begun)
  %summed = bf16[2,3]{1,0} all-reduce-start(%y), to_apply=%add
  %ended = bf16[2,3]{1,0} all-reduce-done(%summed)
  ROOT %sum = f32[16]{0} add(%gathered, %gathered)
}
"""
# N = 10, D = 1,988 of 32 inputs and 46 units; 7 rows, three epochs in batches of 4; 9 test rows.
WORK = cost.Work(cost.mlp(32, 46), 10, 7, 3, 4, 32, 9, 10)


def test_collectives_are_read_off_the_text():
    """In a loop too; of one that is begun here and done there the result alone, and once."""
    found = sorted((each.kind, each.bytes) for each in hlo.module(TEXT).collectives())
    assert found == [
        ("all-gather", 64), ("all-reduce", 12), ("all-reduce", 20), ("collective-permute", 32)
    ]  # fmt: skip


def test_arithmetic_and_bytes_are_those_counted_by_hand():
    weights = 32 * 46 + 46 * 10
    assert cost.steps(WORK) == 6
    assert cost.flops(WORK)[:3] == (10 * 21 * 6 * weights, 4 * 10 * 1988, 11 * 9 * 2 * weights)
    step, row = 5 * 4 * 1988, 4 * 4 * (32 + 46 + 10)
    assert cost.moved(WORK).training == 10 * (6 * step + 21 * row)
    assert cost.moved(WORK).server == 4 * 4 * 10 * 1988
    few = WORK._replace(cohort=5, half=True)
    assert cost.moved(few).server == cost.moved(WORK).server
    assert cost.moved(few).training == cost.moved(WORK).training / 4


def test_networks_cost_what_xla_counts():
    """Of the plain form; what XLA counts beside products is below a twentieth."""
    network = cost.mlp(32, 46)
    model = models.MODELS["mlp"]((32,), 10, hidden=(46,))
    params = jax.eval_shape(model.init, jax.random.key(0))
    assert network.parameters == sum(x.size for x in jax.tree.leaves(params))
    batch = jax.ShapeDtypeStruct((16, 32), "float32")
    assert network.forward == pytest.approx(timing.cost(model.apply, params, batch)[0] / 16, 0.05)
    work = common.random_work("mnist_cnn", [64], batch_size=32, learning_rate=0.1, test_rows=10)
    assert cost.MNIST_CNN.forward == pytest.approx(common.forward_flops(work), 0.01)
    assert cost.MNIST_CNN.backward == pytest.approx(common.step_flops(work), 0.01)


def test_memory_of_a_device():
    """Thirteen clients are two rows on each of eight devices; a cohort's pass all of them."""
    row = 4 * 1988
    whole = cost.memory(WORK._replace(clients=13, devices=8))
    assert (whole["models"], whole["updates"], whole["a cohort's models"]) == (2 * row, 2 * row, 0)
    assert whole["examples"] == 4 * 32 * (13 * 7 + 9)
    assert whole["steps"] == 2 * 3 * row  # four at once would be more than a device has
    # A cohort of seven has an eighth row: one on each device, beside two copies of all of them.
    few = cost.memory(WORK._replace(clients=13, devices=8, cohort=7))
    assert (few["models"], few["updates"], few["a cohort's models"]) == (2 * row, row, 17 * row)
    alone = cost.memory(WORK._replace(cohort=7))
    assert (alone["updates"], alone["a cohort's models"]) == (8 * row, 8 * row)


def test_a_ring_sends_each_part_around_twice():
    """Every device passes on one of P parts, P - 1 times to sum and as often to share."""
    work = WORK._replace(devices=8, clients=16)
    told = cost.messages(work)
    passes = 2 * sum(told["all-reduce"] / 8 for _ in range(7))
    passes += sum(told["all-gather"] / 8 for _ in range(7))
    assert cost.sent(work) == pytest.approx(passes)
    assert cost.sent(WORK) == 0  # one device


def test_the_fitted_run_is_predicted_exactly_and_others_from_it():
    phases = cost.Phases(1.0, 0.25, 0.5)
    machine = cost.fitted(WORK, phases, 3.5, 5e8)
    assert cost.seconds(WORK, machine) == pytest.approx((2.0, 0.5, 1.0, 0.0))
    assert cost.peak(WORK, machine) == pytest.approx(5e8)
    many = WORK._replace(clients=1000, evaluated=1000)
    assert cost.seconds(many, machine) == pytest.approx((200, 50, 1001 / 11, 0))
    grown = 990 * (2 * 4 * 1988 + 2 * 7 * 32 * 4 + 7 * cost.SLOT + 43 + 9 * 5)
    assert cost.peak(many, machine) == pytest.approx(5e8 + grown)
    # Half of each rate, on two devices: as long as before but for the messages.
    shared = cost.seconds(many._replace(devices=2), cost.at(machine, 0.5))
    assert shared[:3] == pytest.approx(cost.seconds(many, machine)[:3])


def test_starting_steps_is_what_small_chunks_cost():
    """A thousand clients on an H100 are 16 chunks, started for every step and test batch."""
    many = WORK._replace(clients=1000, evaluated=1000, width=64)
    training, _, evaluation, _ = cost.seconds(many, cost.H100)
    assert training == pytest.approx(16 * 6 * cost.H100.step)
    assert evaluation == pytest.approx(16 * cost.H100.step)
    slow = cost.seconds(many, cost.H100._replace(near=1e6))
    assert slow.training == cost.moved(many).training / 1e6


@pytest.mark.parametrize(
    ("took", "most", "verdict"), [(3.5, 5e8, "yes"), (5.5, 5e8, "**no**"), (3.5, 3e8, "**no**")]
)
def test_the_verdict_needs_time_and_memory(took, most, verdict):
    machine = cost.fitted(WORK, cost.Phases(1.0, 0.25, 0.5), 3.5, 5e8)
    line = cost.beside("wide", WORK, machine, took, most)
    assert line.split(" | ")[-1] == f"{verdict} |"
    assert line.count("|") == cost.MEASURED.splitlines()[0].count("|")
    assert cost.beside("wide", WORK, machine, took, most, fit=True).endswith("| fitted |")


def test_populations_are_the_works_that_are_measured():
    work = cost.work_of(population.KINDS["wide"], 50)
    bound, _ = population.bound_of("wide", 50)
    assert work.network.parameters == sum(bound.task.tensors)
    assert work.epochs == bound.settings.epochs
    assert cost.steps(work) * 50 == bound.steps.sum()
    assert work.entries == math.prod(bound.data.inputs.shape[1:])
    assert work.rows * 50 == len(bound.data.labels)
    assert work.test_rows == len(bound.data.test_labels)
    with pytest.raises(ValueError, match="model is mnist_cnn, it must be mlp"):
        cost.work_of(population.KINDS["cohort"], 50)


def test_the_page_shows_the_table_of_a_million():
    page = (Path(__file__).parents[1] / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert "\n".join([cost.MILLION, *cost.million()]) in page


@pytest.mark.long
def test_messages_are_those_that_xla_compiles():
    """Byte for byte, on eight devices: all and some evaluated, all and some taking part."""
    found = cost.on_eight()
    assert len(found) == len(cost.COMPILED)
    for one in found:
        assert one["P"] == 8
        assert one["compiled"] == one["model"], one
    assert all("equal" not in line and "**no**" not in line for line in cost.communication(found))


@pytest.mark.nightly
def test_smoke_of_measured_beside_predicted():
    first, second = cost.compared("wide", "smoke")
    assert first.endswith("| fitted |")
    assert second.startswith("| wide, D = 1,988 | 100 | ")
