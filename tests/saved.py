"""A train state whose every bit is known, and the processes that save it: python -m tests.saved NAME FOLDER"""

import os
import resource
import sys
import time
from pathlib import Path

import jax
import numpy as np
import optax

from tvts_jax import checkpoint, distributed, preemption, sharding
from tvts_jax.checkpoint import CheckpointConfig, CheckpointError, Checkpoints
from tvts_jax.errors import UserError
from tvts_jax.step import State

SHAPES = {
  'embed': ((6, 8), 'float32'),
  'dense': {'kernel': ((8, 16), 'float32'), 'bias': ((16,), 'bfloat16')},
}
TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))


def abstract(mesh, ema: bool = True, **changed) -> State:
  """Shapes, types and places of the state; `changed` replaces top entries of SHAPES."""
  params = jax.tree.map(lambda s: jax.ShapeDtypeStruct(*s), {**SHAPES, **changed}, is_leaf=lambda x: type(x) is tuple)
  step = jax.ShapeDtypeStruct((), 'int32')
  spec = State(step, params, jax.eval_shape(TX.init, params), params if ema else None)

  def place(path, s):
    axes = {'kernel': jax.P('fsdp'), 'embed': jax.P(None, 'fsdp')}.get(getattr(path[-1], 'key', None), jax.P())
    return jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=jax.NamedSharding(mesh, axes))

  return jax.tree.map_with_path(place, spec)


def bits(step: int, spec):
  """Any bits, NaNs of every kind among them, as a tree of numpy arrays like `spec`."""
  rng = np.random.default_rng(step)
  take = lambda s: np.frombuffer(rng.bytes(max(1, s.size) * s.dtype.itemsize), s.dtype).reshape(s.shape)
  return jax.tree.map(take, spec)


def state(step: int, spec):
  """The same as arrays on their devices."""
  put = lambda array, s: jax.make_array_from_callback(s.shape, s.sharding, lambda index: array[index])
  return jax.tree.map(put, bits(step, spec), spec)


def exact(restored, step: int, spec) -> bool:
  """Whether the parts that this process holds lie where they should and have every bit of that step."""
  assert jax.tree.structure(restored) == jax.tree.structure(spec)
  every = lambda array, s, full: (
    array.sharding == s.sharding
    and array.dtype == s.dtype
    and all(np.asarray(p.data).tobytes() == full[p.index].tobytes() for p in array.addressable_shards)
  )
  return all(jax.tree.leaves(jax.tree.map(every, restored, spec, bits(step, spec))))


def faults(folder: Path) -> None:
  """A disk that fills up and is freed again; then a save that the process shall not survive."""
  spec = abstract(sharding.make_mesh({'fsdp': -1}))
  checkpoints = Checkpoints(folder, CheckpointConfig(keep=2))
  checkpoints.save(1, state(1, spec), {'step': 1})
  checkpoints.save(2, state(2, spec), {'step': 2})
  assert checkpoints.latest() == 2
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  # The limit hits what is printed, too, if that goes into a file.
  said = []
  large = jax.device_put(np.random.default_rng(0).random((8, 1024, 1024), np.float32))
  for size, content in ((2**20, {'large': large}), (100, state(3, spec))):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
      checkpoints.save(3, content, {'step': 3})
      checkpoints.latest()
    except CheckpointError as error:
      said.append(f'refused: {error}')
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said.append(f'left: {checkpoints.latest()}')
  print(*said, sep='\n', flush=True)
  for step in (4, 5):
    checkpoints.save(step, state(step, spec), {'step': step})
  print('after:', checkpoints.latest(), flush=True)
  checkpoints.save(6, {'large': large}, {'step': 6})
  checkpoints.close()
  raise AssertionError('the parent should have killed this process')


def pod(folder: Path) -> None:
  """Two processes: restore what one saved, agree when to save by the clock and when to stop, save, leave."""
  distributed.initialize()
  index, mesh = jax.process_index(), sharding.make_mesh({'data': 2, 'fsdp': 2})
  spec = abstract(mesh)
  given, meta = Checkpoints(folder / 'given', None).restore(spec)
  print('restored', exact(given, 7, spec), meta, flush=True)
  with preemption.WorkdirLock(folder), preemption.Stop() as stop:
    try:
      with preemption.WorkdirLock(folder):
        print('both run', flush=True)
    except UserError as error:
      print('refused:', error, flush=True)
    # The clocks of the two disagree by far, what is due must not.
    fake = lambda speed: type('clock', (), {'monotonic': staticmethod(lambda: now * speed)})
    now, checkpoint.time = 0.0, fake(1 + 7 * index)
    checkpoints = Checkpoints(folder / 'checkpoints', CheckpointConfig(every_steps=None, every_minutes=1, keep=2))
    due = []
    for s in range(1, 400):
      now += 1.0
      if checkpoints.due(s):
        due.append(s)
        checkpoints.save(s, state(s, spec), {'by': index})
    checkpoint.time = time
    print('due', due, flush=True)
    print('ready', index, os.getpid(), flush=True)
    for s in range(400, 2000):
      if stop.requested(s):
        break
      time.sleep(0.02)
    else:
      raise AssertionError('no process was asked to stop')
    checkpoints.save(s, state(s, spec), {'by': index})
    checkpoints.close()
    print('stopped at', s, flush=True)
  sys.exit(preemption.EXIT_CODE)


def full(folder: Path) -> None:
  """Two processes, one of which has no space left."""
  distributed.initialize()
  spec = abstract(sharding.make_mesh({'data': 2, 'fsdp': -1}))
  checkpoints = Checkpoints(folder, CheckpointConfig(keep=1))
  checkpoints.save(1, state(1, spec), {})
  checkpoints.latest()
  if jax.process_index() == 1:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
  checkpoints.save(2, state(2, spec), {})
  for s in range(3, 10**6):
    checkpoints.due(s)
    time.sleep(0.01)


if __name__ == '__main__':
  {'faults': faults, 'pod': pod, 'full': full}[sys.argv[1]](Path(sys.argv[2]))
