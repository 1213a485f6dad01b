"""What python -m tvts_jax.doctor looks at, in reading order.

Each check returns what is in order, or raises what is not. Checks import what they need themselves, so that a package
which is missing fails no others.
"""

import collections
import dataclasses
import glob
import importlib.metadata
import math
import os
import pathlib
import platform
import secrets
import shutil
import socket
import threading
from concurrent import futures

from tvts_jax.errors import UserError
from tvts_jax.human import size

WAIT = 60  # Seconds that other processes, devices and storage have to answer.
HUB = 15  # Seconds that a hub of tokenizers has.


@dataclasses.dataclass
class Run:
  """What is asked about, and what checks find out for those after them."""

  file: str | None  # --config
  workdir: str | None
  settings: list[str]  # --config.optim.lr=3e-4
  index: int = 0  # of this process
  stuck: bool = False  # Something has not answered, and may hold up an ordinary exit.
  config: object = None  # RunConfig
  mesh: object = None
  shapes: object = None  # of the train state: step.State of jax.ShapeDtypeStructs


class Late(UserError):
  """Something that has not answered in time, and may never do."""


def processes(run: Run) -> str:
  import jax

  from tvts_jax import sharding
  from tvts_jax.pod import distributed

  address = os.environ.get(distributed.ADDRESS) or 'the address that their cluster names'
  late = (
    f'the processes of this run have not met at {address} within {WAIT} s; start all of them, and let each reach '
    'process 0 there'
  )
  within(WAIT, late, distributed.initialize)
  late = f'JAX has found no devices within {WAIT} s; see that no other program holds them and that all processes live'
  within(WAIT, late, sharding.find_devices)
  count = jax.process_count()
  run.index = jax.process_index()
  return 'this one alone' if count == 1 else f'{count} that have met'


def versions(run: Run) -> str:
  """Against the ranges that the installed package itself was built with."""
  del run
  from packaging.requirements import Requirement
  from packaging.specifiers import SpecifierSet

  try:
    own = importlib.metadata.distribution('tvts-jax')
  except importlib.metadata.PackageNotFoundError:
    raise UserError('tvts-jax is not installed in this Python; install it: pip install -e .') from None
  wrong = []
  if not SpecifierSet(own.metadata['Requires-Python']).contains(platform.python_version()):
    wrong.append(f'Python is {platform.python_version()} and must be {own.metadata["Requires-Python"]}')
  needed = [
    needs for needs in map(Requirement, own.requires) if not needs.marker or needs.marker.evaluate({'extra': ''})
  ]
  for needs in needed:
    try:
      found = importlib.metadata.version(needs.name)
    except importlib.metadata.PackageNotFoundError:
      wrong.append(f'{needs.name} is missing and must be {needs.specifier}')
      continue
    if not needs.specifier.contains(found, prereleases=True):
      wrong.append(f'{needs.name} is {found} and must be {needs.specifier}')
  if wrong:
    raise UserError(f'{"; ".join(wrong)}; what the tests run on: pip install -r requirements.txt')
  return f'Python {platform.python_version()}, {len(needed)} packages as tvts-jax {own.version} needs them'


def devices(run: Run) -> str:
  del run
  import jax

  found = jax.devices()
  kinds = collections.Counter(device.device_kind for device in found)
  if {device.platform for device in found} == {'cpu'} and jax.config.jax_platforms != 'cpu' and has_nvidia():
    raise UserError(
      'there is an NVIDIA GPU in this machine, but JAX sees only CPUs; install what it lacks with '
      "pip install -e '.[gpu]', or set JAX_PLATFORMS=cpu if CPUs are meant"
    )
  memory = device_memory()
  each = '' if memory is None else f', {size(memory)} of memory each'
  if platform.system() == 'Linux' and 'cpu' in kinds and 'hugetlb' not in os.environ.get('GLIBC_TUNABLES', ''):
    each += '; huge pages make their steps faster: export GLIBC_TUNABLES=glibc.malloc.hugetlb=1'
  return ', '.join(f'{count} × {kind}' for kind, count in kinds.items()) + each


def collective(run: Run) -> str:
  """A sum over all devices of all processes, whose result is known."""
  del run
  import jax
  import numpy as np

  def add() -> set[int]:
    everywhere = jax.sharding.Mesh(np.array(jax.devices()), ('all',))
    place = jax.NamedSharding(everywhere, jax.P('all'))
    numbers = np.arange(1, jax.device_count() + 1, dtype=np.int32)
    x_N = jax.make_array_from_callback(numbers.shape, place, lambda i: numbers[i])
    psum = jax.shard_map(lambda x: jax.lax.psum(x, 'all'), mesh=everywhere, in_specs=jax.P('all'), out_specs=jax.P())
    return {int(part.data[0]) for part in jax.jit(psum)(x_N).addressable_shards}

  n = jax.device_count()
  late = (
    f'{n} devices of {jax.process_count()} processes have not added up {n} numbers within {WAIT} s; see that all '
    'processes live and reach each other over the network, and that nothing else holds the devices'
  )
  got = within(WAIT, late, add)
  if got != {n * (n + 1) // 2}:
    raise UserError(f'1 + ... + {n} over all devices is {sorted(got)}; do not train on devices that add wrong numbers')
  return f'a sum over all devices ({n}) is right'


def storage(run: Run) -> str:
  from etils import epath

  from tvts_jax.files import write_whole

  def use(path) -> None:
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      try:
        for text in ('a first text', 'what took its place'):
          write_whole(path, text)
          if (got := path.read_text()) != text:
            raise UserError(f'{run.workdir} gave back {got!r} for {text!r}; take storage that keeps what is written')
      finally:
        path.unlink(missing_ok=True)
    except OSError as e:
      why = e.strerror or str(e)[:300]
      raise UserError(f'{run.workdir} can not be a work directory: {why}; mend that or give another --workdir') from e

  late = f'{run.workdir} has not answered within {WAIT} s; see that its storage is there'
  within(WAIT, late, use, epath.Path(run.workdir) / f'.doctor-{secrets.token_hex(4)}')
  return f'{run.workdir} can be written, read back, renamed in and deleted from'


def lock(run: Run) -> str:
  """No run lives there, and it is one and the same folder to all processes."""
  import jax
  import numpy as np
  from etils import epath
  from jax.experimental import multihost_utils

  from tvts_jax.files import is_local, write_whole
  from tvts_jax.run.stop import WorkdirLock

  def share() -> None:
    with WorkdirLock(run.workdir):
      if jax.process_count() == 1:
        return
      token = int(multihost_utils.broadcast_one_to_all(np.int32(secrets.randbits(31))))
      path = epath.Path(run.workdir) / f'.doctor-{token:x}'
      if run.index == 0:
        write_whole(path, '')
      multihost_utils.sync_global_devices('written')
      seen = path.exists()
      multihost_utils.sync_global_devices('looked')
      if run.index == 0:
        path.unlink()
      if not seen:
        raise UserError(
          f'{run.workdir} on {socket.gethostname()} is not the folder that process 0 writes to; give a --workdir that '
          'all processes share'
        )

  within(WAIT, f'the processes have not agreed about {run.workdir} within {WAIT} s; see that all reach it', share)
  if not is_local(run.workdir):
    return f'{run.workdir} knows no locks, so see yourself that one run at a time lives there'
  return f'no run lives in {run.workdir}'


def read_config(run: Run) -> str:
  from absl import flags
  from ml_collections import config_flags

  from tvts_jax import config as config_lib

  values, argv = flags.FlagValues(), ['doctor', f'--config={run.file}', *run.settings]
  config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=argv, lock_config=True)
  try:
    values(argv)
    given = values.config.to_dict()
  except UserError:
    raise
  except Exception as e:
    raise UserError(f'{run.file} can not be loaded: {type(e).__name__}: {str(e).strip().splitlines()[-1]}') from e
  run.config = config_lib.resolve(given)
  length = f'{run.config.epochs:g} epochs' if run.config.steps is None else f'{run.config.steps:,} steps'
  return f'{run.file}, for {length}'


def shards(run: Run) -> str:
  """Manifests, indexes, and the size of every shard."""
  from tvts_jax.shards import index

  found = []
  for part in run.config.input.parts()[0]:
    manifest = index.load(part.folder, part.split)
    index.load_index(manifest)
    total = sum(shard.bytes for shard in manifest.shards)
    found.append(f'{manifest.count:,} records of {part.split!r} in {part.folder}, {size(total)}')
  return ', '.join(found)


def tokenizer(run: Run) -> str:
  from tvts_jax import train
  from tvts_jax.input.tokens import Tokenizer

  found = []
  for part in run.config.input.parts()[0]:
    late = f'{part.tokenizer!r} is no folder here, and no hub has given it within {HUB} s; give a folder'
    limit = None if os.path.isdir(part.tokenizer) else HUB
    opened = within(limit, late, Tokenizer, part.tokenizer, part.max_tokens)
    train.check_vocabulary(run.config, part.tokenizer, opened.vocab_size)
    found.append(f'{part.tokenizer} with {opened.vocab_size} word pieces')
  return ', '.join(dict.fromkeys(found))


def examples(run: Run) -> str:
  """Opens the input as a run does, which makes one example."""
  from tvts_jax import train
  from tvts_jax.input import pipeline

  source = pipeline.open(run.config.input)
  train.check_labels(run.config)
  return f'{source.num_examples:,}, {source.steps_per_epoch:,} steps an epoch'


def batch(run: Run) -> str:
  from tvts_jax import sharding

  run.mesh = sharding.make_mesh(run.config.mesh)
  sharding.check_batch(run.config.input.batch, run.config.micro_batches, run.mesh)
  axes = ', '.join(f'{axis} {count}' for axis, count in run.mesh.shape.items())
  return f'{run.config.input.batch} clips fit the mesh of {axes}'


def evals(run: Run) -> str:
  from tvts_jax import evaluators
  from tvts_jax.models import tvts

  built = evaluators.build(run.config, tvts.build(run.config.model), run.mesh)
  return f'{", ".join(built)} can be made' if built else 'none are asked for'


def model(run: Run) -> str:
  """Shapes of the train state; nothing is allocated."""
  import jax

  from tvts_jax import step as step_lib

  run.shapes = step_lib.describe(run.config, steps=1).shapes
  count = sum(leaf.size for leaf in jax.tree.leaves(run.shapes.params))
  return f'{count:,} parameters, {size(state_bytes(run.shapes))} with the state of the optimizer'


def weights(run: Run) -> str:
  """Reads every file as a run does, so that a damaged or unfitting one shows here."""
  from etils import epath

  from tvts_jax import convert
  from tvts_jax.config import INIT
  from tvts_jax.models.tvts import HEADS
  from tvts_jax.run.checkpoint import of_run

  found, wrong = [], []
  for part, path in run.config.init.items():
    if not path:
      continue
    try:
      if part == 'run' and not (epath.Path(path) / 'config.json').exists():
        with of_run(path) as checkpoints:
          checkpoints.read_meta()
      else:  # A folder of weights brings every part.
        parts = [name for name in run.shapes.params if not name.startswith(HEADS)]
        for each in parts if part == 'run' else [part]:
          convert.load_part(run.shapes.params, run.config.model, each, path)
    except UserError as e:
      wrong.append(f'{e}; init.{part} is {INIT[part]}')
    else:
      found.append(f'{part} from {path}')
  if wrong:
    raise UserError('; '.join(wrong))
  return ', '.join(found) or 'none are asked for'


def memory(run: Run) -> str:
  from tvts_jax import sharding

  place = sharding.state_layout(run.shapes, run.config.sharding, run.mesh)
  need, there = state_bytes(run.shapes, place), device_memory()
  what = f'parameters and state of the optimizer take {size(need)} of each device'
  if there is None:
    return f'{what}, and activations more; how much a device has is not known'
  if need > there:
    raise UserError(f'{what}, which has {size(there)}; split them over more devices with --config.mesh.fsdp')
  return f'{what}, which has {size(there)} for them and for activations'


def space(run: Run) -> str:
  """Room for all checkpoints that a run keeps and the one that it writes, less those that are there."""
  from tvts_jax.files import is_local
  from tvts_jax.run.checkpoint import FOLDER

  each, keep = state_bytes(run.shapes), run.config.checkpoint.keep
  what = f'a checkpoint takes {size(each)}, and up to {keep + 1} lie in {run.workdir} at a time'
  if not is_local(run.workdir):
    return f'{what}; how much is free there is not known'
  there = sum(path.name.isdigit() for path in pathlib.Path(run.workdir, FOLDER).glob('*'))
  need = each * (keep + 1 - min(there, keep))
  free = shutil.disk_usage(existing(run.workdir)).free
  if free < need:
    raise UserError(
      f'{what}, so the run needs {size(need)} more than is there, but {size(free)} are free; make room, give another '
      '--workdir, or keep fewer with --config.checkpoint.keep'
    )
  return f'{what}; {size(free)} are free'


# Each check by name, then what it needs: a flag, or other checks that are passed.
CHECKS = {
  'processes': (processes,),
  'versions': (versions,),
  'devices': (devices, 'processes'),
  'collective': (collective, 'processes'),
  'storage': (storage, '--workdir'),
  'lock': (lock, 'storage', 'collective'),
  'config': (read_config, '--config'),
  'shards': (shards, 'config'),
  'tokenizer': (tokenizer, 'config'),
  'examples': (examples, 'shards', 'tokenizer'),
  'batch': (batch, 'config', 'collective'),
  'evaluators': (evals, 'examples', 'batch'),
  'model': (model, 'config', 'collective'),
  'weights': (weights, 'model'),
  'memory': (memory, 'model', 'batch'),
  'space': (space, 'model', '--workdir'),
}


def within(seconds: float | None, late: str, function, *args):
  """What the function returns. Late if that takes longer: it is left behind, because nothing can end it."""
  future = futures.Future()

  def work() -> None:
    try:
      future.set_result(function(*args))
    except BaseException as e:  # noqa: BLE001 - whatever it is, it is raised again where the result is asked for
      future.set_exception(e)

  threading.Thread(target=work, daemon=True).start()
  futures.wait([future], seconds)
  if not future.done():
    raise Late(late)
  return future.result()


def state_bytes(shapes, place=None) -> int:
  """Of the whole train state, or of the part that a device holds."""
  import jax

  leaves = jax.tree.leaves(shapes)
  held = [leaf.shape for leaf in leaves]
  if place is not None:
    held = [where.shard_shape(shape) for where, shape in zip(jax.tree.leaves(place), held)]
  return sum(math.prod(shape) * leaf.dtype.itemsize for shape, leaf in zip(held, leaves))


def device_memory() -> int | None:
  """Bytes that JAX may take of this process's smallest device; None where it does not say."""
  import jax

  limits = [(device.memory_stats() or {}).get('bytes_limit') for device in jax.local_devices()]
  return None if None in limits else min(limits)


def has_nvidia() -> bool:
  return bool(glob.glob('/dev/nvidia[0-9]*'))


def existing(path: str) -> str:
  """The path, or the nearest folder above it that is there."""
  path = os.path.abspath(path)
  while not os.path.exists(path):
    path = os.path.dirname(path)
  return path
