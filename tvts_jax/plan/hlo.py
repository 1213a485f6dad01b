"""What a compiled step moves, and how long its compiler takes it to run, out of the compiler's text.

A loop stands there once: all that is in its body counts as often as it runs.
"""

import math
import re
from typing import NamedTuple

import numpy as np

BYTES = {'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'f16': 2, 'bf16': 2, 's32': 4, 'u32': 4, 'f32': 4}
BYTES |= {'s64': 8, 'u64': 8, 'f64': 8}
COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')

COMPUTATION = re.compile(r'^(?:ENTRY )?%?([\w.\-]+) .*\{$')
INSTRUCTION = re.compile(r'^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$')
SHAPE = re.compile(r'\b(\w+)\[([\d,]*)\]')
CALLED = re.compile(r'(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)')
BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')
TRIPS = re.compile(r'known_trip_count\W+n\W+(\d+)')
NO_ESTIMATE = 2**62  # Of cycles; from here on a compiler means that it does not know.
CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')
MODELLED = re.compile(r'"exec_time_us":([\d.e+]+)[^}]*"name":"sol"')
COPIES = ('copy', 'transpose')
CHANNEL = re.compile(r'channel_id=(\d+)')
# Calls that compute nothing.
FREE = re.compile(r'custom_call_target="(AllocateBuffer|ConcatBitcast|AsyncCollectiveStart|AsyncCollectiveDone)"')


class Collective(NamedTuple):
  kind: str
  bytes: float  # Of its result on one device, times how often it runs in a step.
  size: int  # Of a group of devices.
  groups: np.ndarray | None  # [G, N] ids of devices, or None for all of them.

  def sent(self) -> float:
    """Bytes that leave one device, by the best way around a ring."""
    n = self.size
    if self.kind == 'all-reduce':
      return 2 * self.bytes * (n - 1) / n
    if self.kind == 'reduce-scatter':
      return self.bytes * (n - 1)
    return self.bytes if self.kind in ('collective-permute', 'send') else self.bytes * (n - 1) / n

  def crosses(self, slice_size: int) -> bool:
    """Whether devices of different slices take part in one group."""
    return self.groups is None or bool((np.ptp(self.groups // slice_size, axis=1) > 0).any())


class Step(NamedTuple):
  collectives: list[Collective]
  cycles: float  # As the compiler of TPUs estimates them; 0 where it does not.
  uncounted: int  # Calls of kernels that it has no estimate of.
  modelled: float  # Seconds, as that of GPUs models them, without kernels of cuDNN; 0 where it does not.
  fused: int  # Calls of cuDNN's attention, forward and backward.
  copied: float  # Bytes that copies and transposes write.


def read(text: str, devices: int) -> Step:
  """text: compiled.as_text(), of a program for so many devices."""
  computations, entry = computations_in(text)
  times = times_run(computations, entry)
  found, cycles, uncounted, modelled, fused, copied = {}, 0.0, 0, 0.0, 0, 0.0
  for name, lines in computations.items():
    if not (often := times.get(name, 0)):
      continue
    for opcode, shape, rest in lines:
      estimate = CYCLES.search(rest)
      if estimate and int(estimate[1]) < NO_ESTIMATE:
        cycles += often * int(estimate[1])
      elif estimate or (opcode == 'custom-call' and not FREE.search(rest)):
        uncounted += round(often)
      if model := MODELLED.search(rest):
        modelled += often * 1e-6 * float(model[1])
      fused += round(often) * (opcode == 'custom-call' and '__cudnn$fmha' in rest)
      copied += often * sum(sizes_of(shape)) * (opcode in COPIES)
      kind = opcode.removesuffix('-start')
      if kind == 'send' and 'megascale' in rest:  # So TPUs reach those of other slices: by way of their hosts.
        found[kind, len(found)] = Collective(kind, often * sizes_of(shape)[0], 2, None)
      if kind in COLLECTIVES:
        groups = groups_of(rest, kind)
        size = devices if groups is None else groups.shape[1]
        if size > 1:
          result = result_bytes(shape, opcode)
          if name.startswith('all-reduce-scatter'):
            # So TPUs write a reduce-scatter: a fusion of an all-reduce, and of the slice that they keep of it.
            kind, result = 'reduce-scatter', result / size
          # TPUs write one that runs beside other work into each part of that, always with the number of its channel.
          channel = CHANNEL.search(rest)
          found[kind, channel[1] if channel else len(found)] = Collective(kind, often * result, size, groups)
  return Step(list(found.values()), cycles, uncounted, modelled, fused, copied)


def computations_in(text: str) -> tuple[dict[str, list[tuple[str, str, str]]], str]:
  """{name: [(opcode, shape, the rest of the line)]}, and which of them is the program."""
  computations, entry, lines = {}, '', None
  for line in text.splitlines():
    if head := COMPUTATION.match(line):
      lines = computations[head[1]] = []
      entry = head[1] if line.startswith('ENTRY') else entry
    elif line.startswith('}'):
      lines = None
    elif lines is not None and (found := INSTRUCTION.match(line)):
      lines.append((found[3], found[2], found[4]))
  return computations, entry


def times_run(computations: dict, entry: str) -> dict[str, float]:
  """How often each computation runs in a step."""
  times = dict.fromkeys(computations, 0.0)

  def visit(name: str, often: float) -> None:
    times[name] += often
    for opcode, _, rest in computations[name]:
      called = CALLED.findall(rest)
      if branches := BRANCHES.search(rest):
        called += [branch.strip(' %') for branch in branches[1].split(',')]
      trips = 1
      if opcode == 'while':
        trips = int(known[1]) if (known := TRIPS.search(rest)) else bound(computations, rest)
      for other in called:
        # What reduces or compares single numbers is called of every element, and moves nothing.
        if other in computations and opcode not in ('reduce', 'sort', 'scatter', 'select-and-scatter', 'map'):
          visit(other, often * trips)

  visit(entry, 1.0)
  return times


def bound(computations: dict, rest: str) -> int:
  """How often a loop runs whose compiler does not say it: the largest constant that its condition compares with."""
  condition = re.search(r'condition=%?([\w.\-]+)', rest)[1]
  constants = [
    int(value[1])
    for opcode, _, own in computations[condition]
    if opcode == 'constant' and (value := re.match(r'(\d+)\)', own))
  ]
  return max(constants, default=1)


def sizes_of(shape: str) -> list[int]:
  """Bytes of each array in the text of a shape or of a tuple of them."""
  counts = [(kind, [int(n) for n in sizes.split(',') if n]) for kind, sizes in SHAPE.findall(shape)]
  return [BYTES[kind] * math.prod(sizes) for kind, sizes in counts if kind in BYTES]


def result_bytes(shape: str, opcode: str) -> int:
  """Of what a collective leaves on each device. Those that only start give a tuple that begins with what they read."""
  sizes = sizes_of(shape)
  if opcode in ('all-gather-start', 'collective-permute-start'):
    operands = re.match(r'\(\((.*?)\)', shape)
    return sum(sizes[len(sizes_of(operands[1])) :][: len(sizes_of(operands[1]))]) if operands else sizes[1]
  return sum(sizes)


def groups_of(rest: str, kind: str) -> np.ndarray | None:
  """Three ways to write them, and one for pairs: axes of a mesh, a transposed range of numbers, and a list."""
  numbers = lambda text: [int(n) for n in text.split(',')]
  if kind == 'collective-permute':
    return np.array(
      [numbers(pair) for pair in re.findall(r'\{(\d+,\d+)\}', rest[rest.index('source_target_pairs=') :])]
    )
  if found := re.search(
    r'replica_groups=mesh\[(.*?)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{(.*?)\}', rest
  ):
    mesh, shape, order, axes = found.groups()
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    ids = read_range(numbers(shape) if shape else list(sizes.values()), order and numbers(order))
    return along(ids.reshape(list(sizes.values())), list(sizes), axes)
  if found := re.search(r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', rest):
    return read_range(numbers(found[2]), found[3] and numbers(found[3])).reshape(numbers(found[1]))
  found = re.search(r'replica_groups=\{(\{.*?\})\}', rest)
  return np.array([numbers(group) for group in re.findall(r'\{([\d,]+)\}', found[1])]) if found else None


def read_range(shape: list[int], order: list[int] | None) -> np.ndarray:
  ids = np.arange(math.prod(shape)).reshape(shape)
  return ids.transpose(order) if order else ids


def along(ids: np.ndarray, names: list[str], axes: str) -> np.ndarray:
  """Groups [G, N] of a mesh of ids along some of its axes, such as "'x','y':(2)4": of y the 4 behind the first 2."""
  shape, grouped = [], []
  parts = {
    name: (int(before or 1), int(size or 0))
    for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", axes)
  }
  for name, size in zip(names, ids.shape):
    before, own = parts.get(name, (size, 1))
    own = own or size
    grouped.append(len(shape) + 1)
    shape += [before, own, size // before // own]
  others = [axis for axis in range(len(shape)) if axis not in grouped]
  members = math.prod(shape[axis] for axis in grouped)
  return ids.reshape(shape).transpose(others + grouped).reshape(-1, members)
