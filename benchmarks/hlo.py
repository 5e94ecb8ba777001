"""What a compiled program does, read off its text: kernels, bytes, arithmetic, collectives.

Kernels are those of programs that were compiled for a GPU and scheduled (`compiled_for_gpu`);
collectives are in the text of every program for several devices (`cost`). Nothing here needs a
device, and nothing of it is a time: `Kernel.seconds` is the least that a device of given rates
could take.
"""

import functools
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "token": 0}  # others have their bits in their names
# What the device does not do, or what is another computation's work.
_FREE = {
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "copy-done",
    "while", "conditional", "call", "partition-id", "replica-id", "opt-barrier",
}  # fmt: skip
_SLICES = {"slice", "dynamic-slice", "gather"}
_COLLECTIVES = {
    "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute",
}  # fmt: skip


class Shape(NamedTuple):
    """An array's type and sizes."""

    dtype: str
    sizes: tuple[int, ...]

    @property
    def width(self) -> int:
        """Bytes of an entry; less than one counts as one."""
        bits = re.search(r"\d+", self.dtype)
        return _BYTES.get(self.dtype, max(int(bits[0]) // 8, 1) if bits else 1)

    @property
    def bytes(self) -> int:
        """In memory."""
        return self.width * math.prod(self.sizes)


class Instruction(NamedTuple):
    """A line of a computation."""

    name: str
    shapes: tuple[Shape, ...]  # several where it gives a tuple
    opcode: str
    operands: tuple[str, ...]
    rest: str  # attributes, for a parameter or constant its content

    @property
    def bytes(self) -> int:
        """Of its result."""
        return sum(shape.bytes for shape in self.shapes)

    def called(self, attribute: str) -> str | None:
        """The computation that an attribute names."""
        found = re.search(rf"\b{attribute}=%([\w.-]+)", self.rest)
        return found and found[1]


Computation = Mapping[str, Instruction]  # in order, the root is the last
Place = tuple[Computation, Instruction]


class Kernel(NamedTuple):
    """Something that the device is asked to do."""

    name: str
    opcode: str
    bytes: int  # that it reads and writes, each once
    flops: float  # of products and convolutions
    half: bool  # whether these are of 16 bits
    windows: tuple[int, ...]  # sizes of convolutions that a library computes
    product: str  # who multiplies: "triton", "cublas", "cudnn <kind>"; "" where nothing is

    def seconds(self, bandwidth: float, single: float, half: float) -> float:
        """The larger of its bytes and its arithmetic at these rates, per second."""
        return max(self.bytes / bandwidth, self.flops / (half if self.half else single))


class Collective(NamedTuple):
    """What devices tell each other at once."""

    kind: str  # as XLA calls it
    bytes: int  # of its result on one device


class Module(NamedTuple):
    """A compiled program."""

    computations: Mapping[str, Computation]
    entry: str

    def kernels(self, computation: str) -> Iterator[Kernel]:
        """Of one call: of a loop one turn, of a choice the branch that moves most."""
        for each in self.computations[computation].values():
            if each.opcode == "while":
                yield from self.kernels(each.called("body") or "")
                yield from self.kernels(each.called("condition") or "")
            elif each.opcode == "call":
                yield from self.kernels(each.called("to_apply") or "")
            elif each.opcode == "conditional":
                branches = [list(self.kernels(name)) for name in _branches(each)]
                yield from max(branches, key=lambda kernels: sum(k.bytes for k in kernels))
            elif each.opcode not in _FREE:
                yield self._kernel(self.computations[computation], each)

    def loops(self) -> list[tuple[str, bool]]:
        """Bodies of all loops, each with whether the compiler knows its length."""
        return [
            (each.called("body") or "", "known_trip_count" in each.rest)
            for computation in self.computations.values()
            for each in computation.values()
            if each.opcode == "while"
        ]

    def collectives(self) -> list[Collective]:
        """All that the text holds: of a loop one turn, of a choice every branch."""
        return [
            Collective(kind, sum(shape.bytes for shape in _given(each)))
            for computation in self.computations.values()
            for each in computation.values()
            if (kind := each.opcode.removesuffix("-start")) in _COLLECTIVES
        ]

    def _kernel(self, around: Computation, each: Instruction) -> Kernel:
        inside = self.computations[each.called("calls") or ""] if each.opcode == "fusion" else {}
        flops, half, windows, product = 0.0, False, [], ""
        for computation, one in self._all(around, each):
            if one.opcode in ("dot", "convolution", "custom-call"):
                work = _arithmetic(computation, one)
                flops += work
                half = half or (work > 0 and computation[one.operands[0]].shapes[0].width == 2)
                product = product or (_library(one) or "triton" if work else "")
                windows += _window(one)
        read, written = _traffic(around, each, inside)
        moved = read + written
        return Kernel(each.name, each.opcode, moved, flops, half, tuple(windows), product)

    def _all(self, around: Computation, each: Instruction) -> Iterator[Place]:
        """An instruction and those of the computations that are fused into it."""
        yield around, each
        inside = self.computations.get(each.called("calls") or "", {})
        for one in inside.values() if each.opcode == "fusion" else ():
            yield from self._all(inside, one)


@functools.lru_cache(maxsize=2)
def module(text: str) -> Module:
    """Reads `jax.stages.Compiled.as_text()`.

    Raises:
        ValueError: it has no entry.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        head = re.match(r"(ENTRY )?%([\w.-]+) \(.*\{$", line)
        if head:
            current = computations.setdefault(head[2], {})
            entry = head[2] if head[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and " = " in line:
            each = _instruction(line.strip().removeprefix("ROOT "))
            current[each.name] = each
    if not entry:
        raise ValueError(f"there is no ENTRY in a text of {len(text)} characters")
    return Module(computations, entry)


def _instruction(line: str) -> Instruction:
    name, _, right = line.removeprefix("%").partition(" = ")
    split = _closing(right) if right.startswith("(") else right.index(" ")
    shape, right = right[:split], right[split:].strip()
    opcode, _, _ = right.partition("(")
    end = _closing(right[len(opcode) :]) + len(opcode)
    inner, rest = right[len(opcode) + 1 : end - 1], right[end:]
    if opcode in ("parameter", "constant"):
        return Instruction(name, _shapes(shape), opcode, (), inner)
    return Instruction(name, _shapes(shape), opcode, tuple(re.findall(r"%([\w.-]+)", inner)), rest)


def _closing(text: str) -> int:
    """The length of the parenthesis that `text` starts with."""
    depth = 0
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return place + 1
    raise ValueError(f"no parenthesis closes {text[:60]!r}")


def _shapes(text: str) -> tuple[Shape, ...]:
    found = re.findall(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]", text)
    return tuple(
        Shape(dtype, tuple(map(int, filter(None, sizes.split(","))))) for dtype, sizes in found
    )


def _branches(each: Instruction) -> list[str]:
    listed = re.search(r"branch_computations=\{([^}]*)\}", each.rest)
    if listed:
        return re.findall(r"%([\w.-]+)", listed[1])
    return [each.called(f"{which}_computation") or "" for which in ("true", "false")]


# ---------------------------------------------------------------- bytes


def _given(each: Instruction) -> tuple[Shape, ...]:
    """What a collective results in: one that is only begun has its operands before, too."""
    if each.opcode in ("all-gather-start", "collective-permute-start"):
        return each.shapes[len(each.operands) :][: len(each.operands)]
    return each.shapes


def _traffic(around: Computation, each: Instruction, inside: Computation) -> tuple[int, int]:
    """Bytes that it reads and writes: of what it slices the slices, of what it updates these."""
    if each.opcode == "custom-call":  # the second result of a library's is its scratch
        return sum(around[name].bytes for name in each.operands), each.shapes[0].bytes
    if not inside:
        if each.opcode in _SLICES:
            return each.bytes, each.bytes
        if each.opcode == "dynamic-update-slice":
            return around[each.operands[1]].bytes, around[each.operands[1]].bytes
        return sum(around[name].bytes for name in each.operands), each.bytes
    parameters = sorted(
        (one for one in inside.values() if one.opcode == "parameter"), key=lambda one: int(one.rest)
    )
    read = sum(_read(inside, one) for one in parameters)
    *_, root = inside.values()
    roots = [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]
    return read, sum(_written(inside, one) for one in roots)


def _read(inside: Computation, one: Instruction) -> int:
    """What a fused computation reads of one of its parameters, at most all of it."""
    total = 0
    for user in inside.values():
        if one.name not in user.operands:
            continue
        if user.opcode == "bitcast":
            total += _read(inside, user)
        elif user.opcode in _SLICES and user.operands[0] == one.name:
            total += user.bytes
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == one.name:
            total += 0  # in place
        else:
            return one.bytes
    return min(total, one.bytes)


def _written(inside: Computation, root: Instruction) -> int:
    while root.opcode == "bitcast":
        root = inside[root.operands[0]]
    if root.opcode == "dynamic-update-slice":
        return inside[root.operands[1]].bytes
    return root.bytes


# ---------------------------------------------------------------- arithmetic


def _library(one: Instruction) -> str:
    target = re.search(r'custom_call_target="__(cublas|cudnn)\$(\w*)', one.rest)
    if not target:
        return ""
    return "cublas" if target[1] == "cublas" else f"cudnn {target[2]}"


def _arithmetic(around: Computation, one: Instruction) -> float:
    """FLOPs of a product or convolution; 0 for what is neither."""
    library = _library(one)
    if one.opcode == "dot" or library == "cublas":
        listed = re.search(r'lhs_contracting_dim\w+"?[=:][{\[]([^}\]]*)[}\]]', one.rest)
        places = map(int, re.findall(r"\d+", listed[1] if listed else ""))
        sizes = around[one.operands[0]].shapes[0].sizes
        return 2.0 * math.prod(one.shapes[0].sizes) * math.prod(sizes[i] for i in places)
    if one.opcode != "convolution" and not library:
        return 0.0
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", one.rest)
    first, second = (around[name].shapes[0].sizes for name in one.operands[:2])
    result, kernel_labels = one.shapes[0].sizes, labels[2] if labels else ""
    if "BackwardFilter" in library:
        kernel, responses = result, second
    elif "BackwardInput" in library:
        kernel, responses = second, first
    else:
        kernel, responses = second, result
    outputs = kernel[kernel_labels.index("o")] if labels else 1
    return 2.0 * math.prod(responses) * math.prod(kernel) / outputs


def _window(one: Instruction) -> list[int]:
    """The sides of a convolution's window."""
    found = re.search(r"window=\{size=([\dx]+)", one.rest)
    if one.opcode != "convolution" and not _library(one).startswith("cudnn"):
        return []
    return [int(side) for side in found[1].split("x")] if found else []
