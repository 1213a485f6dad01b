"""What a step of a run takes on given hardware: memory, what is moved between devices, and floors of its time.

For TPUs the step is compiled by their own compiler, where it is installed; for all else memory is estimated, and the
step is compiled for as many pretended devices, to see what it moves.
"""

import dataclasses
import importlib.util
import math
import multiprocessing
import os
import re
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import jax
from absl import logging

from tvts_jax import config as config_lib
from tvts_jax import sharding
from tvts_jax import step as step_lib
from tvts_jax.errors import UserError
from tvts_jax.machine import CHIPS, Chip
from tvts_jax.models import attention, flops
from tvts_jax.plan import feed, gpu, hlo
from tvts_jax.pod.peers import LIBC

FAR_TOO_LARGE = 1.5  # An estimate that is so many times what a chip has is believed without the compiler.


@dataclasses.dataclass(frozen=True)
class Topology:
  name: str
  chip: Chip
  shape: tuple[int, ...]  # Of a slice; of GPUs their number.
  slices: int = 1

  @classmethod
  def parse(cls, text: str) -> 'Topology':
    found = re.fullmatch(r'(?:(\d+)\*)?(\w+):(\d+(?:x\d+)*)', text.strip())
    if not found or found[2] not in CHIPS:
      raise UserError(
        f'--topology={text!r} is none; give a TPU slice as v5e:4x4, several as 2*v5e:16x16, or GPUs as h100:8; known '
        f'chips: {", ".join(CHIPS)}'
      )
    shape = tuple(map(int, found[3].split('x')))
    made = cls(text.strip(), CHIPS[found[2]], shape, int(found[1] or 1))
    if not made.is_tpu and (len(shape) > 1 or made.slices > 1):
      raise UserError(f'--topology={text!r}: GPUs are given by their number, as {found[2]}:{made.devices}')
    return made

  @property
  def is_tpu(self) -> bool:
    return self.chip.kinds[0].startswith('TPU')

  @property
  def devices(self) -> int:
    return math.prod(self.shape) * self.slices

  @property
  def linked(self) -> int:
    """Devices that share the fast links."""
    return math.prod(self.shape) if self.is_tpu else min(self.chip.together, self.devices)


@dataclasses.dataclass
class Bill:
  """Bytes and seconds are those of one device and one step."""

  topology: str
  devices: int
  batch: int
  mesh: dict[str, int]
  remat: str
  micro_batches: int
  memory: dict[str, float]  # By kind.
  peak_bytes: float
  has_bytes: float
  compiled: bool  # By the chip's own compiler: else memory is an estimate.
  why_not: str = ''  # The compiler's words, where it refused.
  moved: dict[str, float] = dataclasses.field(default_factory=dict)  # 'all-reduce, link': bytes sent.
  cycles: float = 0.0  # As the compiler estimates them.
  uncounted: int = 0  # Kernels that the estimate leaves out.
  modelled: float = 0.0  # Seconds, by XLA's model of GPUs: to compare programs with, and nothing more.
  fused: int = 0  # Calls of cuDNN's attention.
  copied: float = 0.0  # Bytes that copies and transposes write.
  clip_flops: float = 0.0
  floor: dict[str, float] = dataclasses.field(default_factory=dict)  # Seconds by what would take them.
  seconds: float = 0.0  # The time that compiling took.
  host: dict[str, float] = dataclasses.field(default_factory=dict)
  run: dict[str, float] = dataclasses.field(default_factory=dict)

  @property
  def fits(self) -> bool:
    return not self.why_not and self.peak_bytes <= self.has_bytes

  @property
  def bound(self) -> str:
    return max(self.floor, key=self.floor.get)

  @property
  def efficiency(self) -> float:
    """The share of arithmetic in a step in which nothing runs beside anything else."""
    return self.floor['arithmetic'] / sum(self.floor.values())


def has_compiler(topology: Topology) -> bool:
  return importlib.util.find_spec('libtpu') is not None if topology.is_tpu else gpu.has_compiler()


def devices_of(topology: Topology, own: bool) -> list:
  """Devices to compile for: the chips themselves, for their own compiler, or as many that are pretended."""
  if own and not topology.is_tpu:
    return gpu.devices(topology.chip, topology.devices)
  if own:
    from jax.experimental import topologies

    name = topology.name.rpartition('*')[2]  # Of one slice.
    options = {'num_slices': topology.slices} if topology.slices > 1 else {}
    try:
      return list(topologies.get_topology_desc(name, platform='tpu', **options).devices)
    except Exception as error:
      raise UserError(
        f'--topology={topology.name}: libtpu knows no such slice ({str(error).splitlines()[0]})'
      ) from error
  if len(jax.devices()) < topology.devices:
    raise UserError(
      f'--topology={topology.name} has {topology.devices} devices, and this process pretends to have '
      f'{len(jax.devices())}; ask for it alone'
    )
  return jax.devices()[: topology.devices]


def of_one_source(config: config_lib.RunConfig) -> config_lib.RunConfig:
  """The run if all its batches came from that of its sources that asks for the most."""
  parts, _ = config.input.parts()
  most = max(parts, key=lambda part: (part.tubelets, part.transcripts * part.max_tokens))
  return dataclasses.replace(config, input=most)


def plan(
  config: config_lib.RunConfig, topology: Topology, clips: int | None = None, own: bool = False, sparing: bool = False
) -> Bill:
  """clips: in an epoch, where that is known; own: by the chip's own compiler; sparing: without any, where the estimate
  says enough."""
  devices = devices_of(topology, own)
  with attention.compiling_for(devices[0]):
    return of_devices(config, topology, clips, own, sparing, devices)


def of_devices(config, topology: Topology, clips: int | None, own: bool, sparing: bool, devices: list) -> Bill:
  config = of_one_source(config)
  if not own:  # Pretended devices have no kernels.
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, attention='auto'))
  mesh = sharding.make_mesh(config.mesh, devices)
  sharding.check_batch(config.input.batch, config.micro_batches, mesh)
  parts = step_lib.describe(config, 1000)
  place = sharding.state_layout(parts.shapes, config.sharding, mesh)
  memory = estimate(config, parts, place, mesh)
  given = config.input
  bill = Bill(
    topology=topology.name,
    devices=topology.devices,
    batch=given.batch,
    mesh=dict(mesh.shape),
    remat=config.model.remat,
    micro_batches=config.micro_batches,
    memory=memory,
    peak_bytes=sum(memory.values()),
    has_bytes=topology.chip.memory,
    compiled=own,
    clip_flops=flops.of_clip(config.model, parts.loss_fn, parts.spec),
  )
  if sparing and bill.peak_bytes > (FAR_TOO_LARGE if own else 1) * bill.has_bytes:
    return bill
  rng, began = jax.eval_shape(lambda: jax.random.key(0)), time.monotonic()
  try:
    with jax.set_mesh(mesh):
      compiled = step_lib.compile_step(parts.train_step, parts.shapes, parts.spec, rng, place, mesh)
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    bill.why_not = too_large(str(error))
    return bill
  finally:
    bill.seconds = time.monotonic() - began
  if own:
    found = compiled.memory_analysis()
    bill.peak_bytes = found.peak_memory_in_bytes
    bill.memory = {
      'state and batch': found.argument_size_in_bytes,
      'the step itself': max(0, found.peak_memory_in_bytes - found.argument_size_in_bytes),
    }
  read = hlo.read(compiled.as_text(), topology.devices)
  bill.cycles, bill.uncounted = read.cycles, read.uncounted
  if own:
    bill.modelled, bill.fused, bill.copied = read.modelled, read.fused, read.copied
  for each in read.collectives:
    name = f'{each.kind}, {"network" if each.crosses(topology.linked) else "link"}'
    bill.moved[name] = bill.moved.get(name, 0.0) + each.sent()
  price(bill, config, topology, memory, clips)
  return bill


def estimate(config, parts: step_lib.Parts, place, mesh) -> dict[str, float]:
  """Bytes on one device by what they are for: what is certain, and what the backward pass finds of the forward."""
  here = lambda x, where: math.prod(where.shard_shape(x.shape)) * x.dtype.itemsize
  sum_of = lambda tree, places: float(sum(map(here, jax.tree.leaves(tree), jax.tree.leaves(places))))
  ways = mesh.shape['data'] * mesh.shape['fsdp']
  shapes, spec = parts.shapes, parts.spec
  part = {
    name: jax.ShapeDtypeStruct((x.shape[0] // config.micro_batches, *x.shape[1:]), x.dtype) for name, x in spec.items()
  }

  def kept(params, batch, rng):
    batch = batch | parts.loss_fn.ask(parts.model.apply, params, batch, rng)
    _, pull = jax.vjp(lambda params: parts.loss_fn(parts.model.apply(params, batch, rng, True), batch)[0], params)
    given = {id(x) for x in jax.tree.leaves((params, batch))}
    return [x for x in jax.tree.leaves(pull) if id(x) not in given]

  rng = jax.eval_shape(lambda: jax.random.key(0))
  bytes_of = lambda x: x.size * (x.dtype.itemsize if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else 8)
  residuals = sum(map(bytes_of, jax.eval_shape(kept, shapes.params, part, rng)))
  params = sum_of(shapes.params, place.params)
  return {
    'parameters': params * (1 + (shapes.ema is not None)),
    'optimizer': sum_of(shapes.opt_state, place.opt_state),
    'gradient': params,
    'batch': sum(x.size * x.dtype.itemsize for x in spec.values()) / ways,
    'kept for the backward pass': residuals / ways,
  }


def too_large(message: str) -> str:
  """What the compiler says is too much, in one line."""
  found = re.search(r'Used ([\d.]+\w) of ([\d.]+\w)', message) or re.search(
    r'\(([\d.]+\w?)\) exceeds .*?\(([\d.]+\w?)\)', message
  )
  return f'needs {found[1]}iB of {found[2]}iB' if found else message.strip().splitlines()[0][:200]


def price(bill: Bill, config, topology: Topology, memory: dict, clips: int | None) -> None:
  """Floors of the step, and what follows from them."""
  chip, N = topology.chip, topology.devices
  sent = lambda kind: sum(value for name, value in bill.moved.items() if name.endswith(kind))
  state = memory['parameters'] + memory['optimizer']
  bill.floor = {
    'arithmetic': bill.clip_flops * bill.batch / N / chip.flops,
    # The state is read and written once, and what is kept is written and read.
    'memory': (2 * state + 2 * memory['gradient'] + 2 * memory['kept for the backward pass']) / chip.memory_speed,
    'links': sent('link') / chip.link,
    'network': sent('network') / chip.network,
  }
  step = bill.floor[bill.bound]
  rate = bill.batch / step
  bill.host = feed.host(config, chip, N, rate / max(1, N // chip.together))
  steps = config.steps if config.steps is not None else clips and config.epochs * clips / bill.batch
  bill.run = {'chip_hours_per_million_clips': 1e6 / rate * N / 3600}
  if steps:
    bill.run |= {'steps': steps, 'hours': steps * step / 3600, 'chip_hours': steps * step * N / 3600}


def apart(config: config_lib.RunConfig, topology: Topology, clips: int | None, sparing: bool = False) -> Bill:
  """plan(), which calls the chips' own compiler, if it is here, in another process, since it may crash."""
  if has_compiler(topology):
    environment = {} if topology.is_tpu else gpu.ENVIRONMENT
    with ProcessPoolExecutor(1, multiprocessing.get_context('spawn'), begin_child, (environment,)) as child:
      try:
        return child.submit(plan, config, topology, clips, True, sparing).result()
      except BrokenProcessPool:
        logging.warning('the compiler of %s crashed, so its memory is estimated', topology.name)
  return plan(config, topology, clips, sparing=sparing)


def begin_child(environment: dict[str, str]) -> None:
  """Nothing else would stop a compiler whose caller was killed."""
  LIBC.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG.
  os.environ.update(environment)
  jax.config.update('jax_platforms', 'cpu')
