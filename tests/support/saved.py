"""A train state whose every bit is known, and the processes that save it: python -m tests.support.saved NAME FOLDER"""

import logging
import os
import resource
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils

from tvts_jax import sharding
from tvts_jax.errors import UserError
from tvts_jax.pod import distributed
from tvts_jax.run import save_times, workdir_lock
from tvts_jax.run import stop as stop_lib
from tvts_jax.run.checkpoint import CheckpointConfig, Checkpoints
from tvts_jax.run.checkpoint_folder import CheckpointError
from tvts_jax.run.checkpoint_reader import CheckpointReader
from tvts_jax.step import State

SHAPES = {
  'embed': ((6, 8), 'float32'),
  'dense': {'kernel': ((8, 16), 'float32'), 'bias': ((16,), 'bfloat16')},
}
# What the trainer saves with a state.
META = {'config': '', 'version': '', 'model': {}, 'tokenizer': '', 'ema': False, 'data': [], 'vocabulary': ''}
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

  def take(s):
    drawn = np.frombuffer(rng.bytes(max(1, s.size) * s.dtype.itemsize), s.dtype).reshape(s.shape)
    # Of NaNs in bfloat16 the tests' quick way to compile keeps but one kind as it is.
    return np.where(np.isnan(drawn), s.dtype.type('nan'), drawn) if s.dtype == 'bfloat16' else drawn

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


class Heard(logging.Handler):
  """What is logged, and by being there the end of where it went before: a full disk would hit that, too."""

  def __init__(self):
    super().__init__(logging.WARNING)
    self.messages = []
    logging.getLogger().addHandler(self)

  def emit(self, record):
    self.messages.append(record.getMessage())


def file_limit(size: int | None) -> None:
  """As if the disk were full for all files larger than `size` bytes."""
  hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
  resource.setrlimit(resource.RLIMIT_FSIZE, (hard if size is None else size, hard))


def faults(folder: Path) -> None:
  """A disk that fills up and is freed again; then a save that the process shall not survive."""
  spec, heard = abstract(sharding.make_mesh({'fsdp': -1})), Heard()
  checkpoints = Checkpoints(folder, CheckpointConfig(keep=2))
  checkpoints.save(1, state(1, spec), {'step': 1})
  checkpoints.save(2, state(2, spec), {'step': 2})
  assert checkpoints.latest() == 2
  left = []
  large = jax.device_put(np.random.default_rng(0).random((8, 1024, 1024), np.float32))
  for size, content in ((2**20, {'large': large}), (100, state(3, spec))):
    file_limit(size)
    checkpoints.save(3, content, {'step': 3})
    left.append(checkpoints.latest())
    file_limit(None)
  for step in (4, 5):
    checkpoints.save(step, state(step, spec), {'step': step})
  print('left:', *left, 'after:', checkpoints.latest())
  print(*(f'heard: {message}' for message in heard.messages if 'step 3' in message), sep='\n', flush=True)
  checkpoints.save(6, {'large': large}, {'step': 6})
  os.kill(os.getpid(), signal.SIGSTOP)
  raise AssertionError('the parent should have killed this process')


def pod(folder: Path) -> None:
  """Two processes: restore what one saved, pass by a damaged one, agree when to save and when to stop, save, leave."""
  distributed.initialize()
  index, mesh = jax.process_index(), sharding.make_mesh({'data': 2, 'fsdp': 2})
  spec = abstract(mesh)
  given, meta = CheckpointReader(folder / 'given').restore(spec)
  print('restored', exact(given, 7, spec), meta, flush=True)
  with workdir_lock.hold(folder), stop_lib.Stop() as stop:
    try:
      with workdir_lock.hold(folder):
        print('both run', flush=True)
    except UserError as error:
      print('refused:', error, flush=True)
    # The clocks of the two disagree by far, what is due must not.
    fake = lambda speed: type('clock', (), {'monotonic': staticmethod(lambda: now * speed)})
    now, save_times.time = 0.0, fake(1 + 7 * index)
    checkpoints = Checkpoints(folder / 'checkpoints', CheckpointConfig(every_steps=None, every_minutes=1, keep=2))
    step, resumed, meta = checkpoints.resume(spec, lambda meta: None)
    print('resumed', exact(resumed, 1, spec), step, meta, flush=True)
    due = []
    for s in range(1, 400):
      now += 1.0
      if checkpoints.due(s):
        due.append(s)
        checkpoints.save(s, state(s, spec), {'by': index})
    save_times.time = time
    print('due', due, flush=True)
    print('ready', index, os.getpid(), flush=True)
    s = 400
    while not stop.requested():
      assert s < 2000, 'no process was asked to stop'
      time.sleep(0.02)
      s += 1
    checkpoints.save_last(s, state(s, spec), {'by': index})
    checkpoints.close()
    print('stopped at', s, flush=True)
  sys.exit(stop_lib.EXIT_CODE)


def full(folder: Path) -> None:
  """Two processes, one of which has no space left: for one save, and later for good."""
  distributed.initialize()
  spec, save_times.RETRY = abstract(sharding.make_mesh({'data': 2, 'fsdp': -1})), 0.1
  limit = lambda size: file_limit(size) if jax.process_index() == 1 else None
  checkpoints = Checkpoints(folder, CheckpointConfig(every_steps=50, every_minutes=None, keep=1))
  checkpoints.save(1, state(1, spec), {})
  assert checkpoints.latest() == 1
  limit(100)
  checkpoints.save(2, state(2, spec), {})
  tries = []
  try:
    for s in range(3, 10**6):
      if checkpoints.due(s):
        limit(100 if tries else None)
        checkpoints.save(s, state(s, spec), {})
        tries.append(s)
      time.sleep(0.01)
  except CheckpointError as error:
    print('tries', *tries, flush=True)
    print('stopped:', error, flush=True)
  multihost_utils.sync_global_devices('both have said so')
  distributed.leave(1)


if __name__ == '__main__':
  {'faults': faults, 'pod': pod, 'full': full}[sys.argv[1]](Path(sys.argv[2]))
