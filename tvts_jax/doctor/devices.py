"""Checks of this machine and its pod: processes, packages, devices."""

import collections
import glob
import importlib.metadata
import os
import platform

from tvts_jax.doctor import examination
from tvts_jax.doctor.examination import Run, within
from tvts_jax.errors import UserError
from tvts_jax.human import size


def processes(run: Run) -> str:
  import jax

  from tvts_jax import sharding
  from tvts_jax.pod import distributed

  address = os.environ.get(distributed.ADDRESS) or 'the address that their cluster names'
  late = (
    f'the processes of this run have not met at {address} within {examination.WAIT} s; start all of them, and let each '
    'reach process 0 there'
  )
  within(examination.WAIT, late, distributed.initialize)
  late = (
    f'JAX has found no devices within {examination.WAIT} s; see that no other program holds them and that all '
    'processes live'
  )
  within(examination.WAIT, late, sharding.find_devices)
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
    each += '; huge pages make their steps faster; export GLIBC_TUNABLES=glibc.malloc.hugetlb=1'
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
    f'{n} devices of {jax.process_count()} processes have not added up {n} numbers within {examination.WAIT} s; see '
    'that all processes live and reach each other over the network, and that nothing else holds the devices'
  )
  got = within(examination.WAIT, late, add)
  if got != {n * (n + 1) // 2}:
    raise UserError(f'1 + ... + {n} over all devices is {sorted(got)}; do not train on devices that add wrong numbers')
  return f'a sum over all devices ({n}) is right'


def device_memory() -> int | None:
  """Bytes that JAX may take of this process's smallest device; None where it does not say."""
  import jax

  limits = [(device.memory_stats() or {}).get('bytes_limit') for device in jax.local_devices()]
  return None if None in limits else min(limits)


def has_nvidia() -> bool:
  return bool(glob.glob('/dev/nvidia[0-9]*'))
