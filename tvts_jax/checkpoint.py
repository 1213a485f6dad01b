"""Checkpoints of a run: saved while training goes on, restored on any mesh and by any number of processes.

A thin room around orbax's AsyncCheckpointer. FOLDER/STEP is one checkpoint; it appears whole or not at all. Its item
'state' holds the arrays of a train state under flat names ('params/video/embed/kernel', 'opt_state/1/0/count'), so
that no class of another library is part of the format; its item 'meta' is JSON: what the caller gave, and a table of
all arrays, against which a restore is checked before any array is read.
"""

import os
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from tvts_jax.errors import UserError
from tvts_jax.sharding import path_name

FOLDER = 'checkpoints'  # Their place in a work directory.
FORMAT = 1
UNFINISHED = '.orbax-checkpoint-tmp'  # Ends the name of a checkpoint until it is complete.
SETTLE = 60  # Seconds left to the other threads of a save that failed.
STORAGE_ERRORS = OSError, ValueError, RuntimeError  # What orbax and tensorstore raise.
SHOWN = 3  # How many of the differing arrays a refusal names.


class CheckpointError(UserError):
  """A checkpoint that can not be written, read or used, in one sentence."""


@dataclass(frozen=True)
class CheckpointConfig:
  every_steps: int | None = 1000
  every_minutes: float | None = 15.0
  keep: int = 3  # The newest ones; an older one goes only after a newer one is complete.

  def __post_init__(self):
    for name, least in (('every_steps', 1), ('keep', 1)):
      value = getattr(self, name)
      if value is not None and value < least:
        raise UserError(f'checkpoint.{name} is {value}; it must be at least {least}')
    if self.every_minutes is not None and not self.every_minutes > 0:
      raise UserError(f'checkpoint.every_minutes is {self.every_minutes}; it must be more than 0, or None for never')


class Checkpoints:
  """All processes of a run make the same calls in the same order."""

  def __init__(self, folder, config: CheckpointConfig | None):
    """With config None the folder is only read: nothing in it is created, cleaned up or deleted."""
    self.folder, self.config = epath.Path(folder), config
    try:
      if config is not None and jax.process_index() == 0:
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob(f'*{UNFINISHED}'):
          logging.info('removing %s, which was never completed', path)
          path.rmtree()
      self._steps = sorted(ocp.utils.checkpoint_steps(self.folder))  # The complete ones.
    except OSError as e:
      raise CheckpointError(f'{self.folder} can not hold checkpoints: {reason(e)}') from e
    self._checkpointer = new_checkpointer()
    self._background = ThreadPoolExecutor(1, 'checkpoints')
    self._saving = None  # (step, future) of a save that may still be running
    self._last = None  # The step that was saved or restored last.
    self._saved_at = self._asked_at = time.monotonic()
    self._asked_step, self._ask_step = None, 0

  def latest(self) -> int | None:
    """The newest complete step; waits for a save that is running."""
    self._collect(wait=True)
    return max(self._steps, default=None)

  def due(self, step: int) -> bool:
    """Whether to save before step `step`. Ask once per step: this also raises the error of a save that failed."""
    self._collect(wait=False)
    if step in (0, self._last):
      return False
    if self.config.every_steps is not None and step % self.config.every_steps == 0:
      return True
    return self.config.every_minutes is not None and self._minutes_are_over(step)

  def _minutes_are_over(self, step: int) -> bool:
    """By the clock of process 0. To spare a talk at every step, the processes agree on the step to talk again: half
    the way, at the pace since the last talk, so a save is late by no more than a few steps."""
    now = time.monotonic()
    wait = self.config.every_minutes * 60 - (now - self._saved_at)  # seconds
    if jax.process_count() == 1:
      return wait <= 0
    if step < self._ask_step:
      return False
    steps = 1
    if self._asked_step is not None and step > self._asked_step:
      pace = (now - self._asked_at) / (step - self._asked_step)  # seconds per step
      steps = max(1, int(min(wait / max(pace, 1e-6) / 2, 1e6)))
    steps = int(multihost_utils.broadcast_one_to_all(np.int32(0 if wait <= 0 else steps)))
    self._asked_at, self._asked_step, self._ask_step = now, step, step + steps
    return steps == 0

  def save(self, step: int, state, meta: dict) -> None:
    """Starts to save; a step that is there already is left as it is. The caller may go on, and donate the state, at
    once. An error of the save before this one is raised here; the checkpoints from before are not touched by it."""
    self._collect(wait=True)
    self._last, self._saved_at = step, time.monotonic()
    if step in self._steps:
      return
    arrays = named(state)
    content = {'format': FORMAT, 'arrays': {name: describe(x) for name, x in arrays.items()}, 'meta': meta}
    items = ocp.args.Composite(state=ocp.args.PyTreeSave(arrays), meta=ocp.args.JsonSave(content))
    try:
      # By force, because something incomplete may lie there where an object store has no names for unfinished ones.
      self._checkpointer.save(self.folder / str(step), items, force=True)
    except STORAGE_ERRORS as e:
      raise self._failed(step, e) from e
    self._saving = step, self._background.submit(self._finish, [*self._steps, step])

  def _finish(self, steps: list[int]) -> None:
    """In the background: only a complete checkpoint may replace an older one."""
    self._checkpointer.wait_until_finished()
    if jax.process_index() == 0:
      for step in steps[: -self.config.keep]:
        remove(self.folder / str(step))

  def _collect(self, wait: bool) -> None:
    """Takes note of a save that is finished, one way or the other."""
    if self._saving is None or not (wait or self._saving[1].done()):
      return
    (step, future), self._saving = self._saving, None
    try:
      future.result()
    except STORAGE_ERRORS as e:
      raise self._failed(step, e) from e
    self._steps = [*self._steps, step][-self.config.keep :]

  def _failed(self, step: int, error) -> CheckpointError:
    settle()
    if jax.process_index() == 0:
      remove(self.folder / f'{step}{UNFINISHED}')  # It may be what fills the disk.
    self._checkpointer = new_checkpointer()  # The old one may have more errors of this save to raise.
    left = f'the newest complete one is {max(self._steps)}' if self._steps else 'there is no earlier one'
    return CheckpointError(f'step {step} could not be saved in {self.folder}: {reason(error)}; {left}')

  def restore(self, abstract_state, step: int | None = None):
    """(state, meta) of a step, by default the newest.

    Args:
      abstract_state: jax.ShapeDtypeStructs with the shardings that the arrays shall have, as a tree.
    """
    step = self._find(step)
    content = self._content(step)
    wanted = named(abstract_state)
    refuse_differing(content['arrays'], wanted, self.folder / str(step))
    arrays = self._arrays(step, wanted)
    self._last = step
    return jax.tree.unflatten(jax.tree.structure(abstract_state), arrays.values()), content['meta']

  def read_meta(self, step: int | None = None) -> dict:
    """What was given to save(); no array is read."""
    return self._content(self._find(step))['meta']

  def restore_part(self, part: str, abstract, step: int | None = None):
    """One field of the saved state alone, such as 'params' or 'ema'."""
    step = self._find(step)
    held = self._content(step)['arrays']
    parts = {name.split('/')[0] for name in held}
    if part not in parts:
      raise CheckpointError(f'{self.folder / str(step)} holds no {part!r}; it holds {", ".join(sorted(parts))}')
    wanted = {f'{part}/{name}': x for name, x in named(abstract).items()}
    held = {name: value for name, value in held.items() if name.startswith(f'{part}/')}
    refuse_differing(held, wanted, self.folder / str(step))
    return jax.tree.unflatten(jax.tree.structure(abstract), self._arrays(step, wanted).values())

  def close(self) -> None:
    """Waits for a running save and raises its error."""
    self._collect(wait=True)
    self._background.shutdown()
    self._checkpointer.close()

  def __enter__(self):
    return self

  def __exit__(self, kind, error, traceback) -> None:
    try:
      self.close()
    except CheckpointError as e:
      if error is None:
        raise
      logging.error('%s', e)  # What stopped the run is the news.

  def _find(self, step: int | None) -> int:
    self._collect(wait=True)
    if not self._steps:
      raise CheckpointError(f'there is no checkpoint in {self.folder}')
    if step is not None and step not in self._steps:
      there = ', '.join(map(str, self._steps))
      raise CheckpointError(f'there is no checkpoint of step {step} in {self.folder}; there are {there}')
    return max(self._steps) if step is None else step

  def _content(self, step: int) -> dict:
    content = self._read(step, meta=ocp.args.JsonRestore())['meta']
    if content.get('format') != FORMAT:
      raise CheckpointError(
        f'{self.folder / str(step)} has the format {content.get("format")!r}, and this version reads {FORMAT}; '
        'use the version of tvts_jax that wrote it'
      )
    return content

  def _arrays(self, step: int, wanted: dict) -> dict:
    args = ocp.args.PyTreeRestore(
      wanted, restore_args=ocp.checkpoint_utils.construct_restore_args(wanted), partial_restore=True
    )
    restored = self._read(step, state=args)['state']
    return {name: restored[name] for name in wanted}

  def _read(self, step: int, **items):
    try:
      return self._checkpointer.restore(self.folder / str(step), ocp.args.Composite(**items))
    except (*STORAGE_ERRORS, KeyError) as e:
      raise CheckpointError(f'{self.folder / str(step)} can not be read: {reason(e)}') from e


def restore_params(folder, abstract_params, part: str = 'params', step: int | None = None):
  """Parameters out of another run, to start a next stage from; the other run may be alive.

  Args:
    folder: its work directory, or the folder of its checkpoints.
    abstract_params: jax.ShapeDtypeStructs with shardings.
    part: 'params', or 'ema' for their running mean.
  """
  folder = epath.Path(folder)
  with Checkpoints(folder / FOLDER if (folder / FOLDER).exists() else folder, None) as checkpoints:
    return checkpoints.restore_part(part, abstract_params, step)


def differences(old: str, new: str) -> list[str]:
  """What changed between two config texts of lines 'key: value', as lines 'key: old → new'."""
  before, after = ({k: v for k, _, v in (line.partition(': ') for line in text.splitlines())} for text in (old, new))
  return [
    f'{key}: {before.get(key, "(absent)")} → {after.get(key, "(absent)")}'
    for key in sorted(before.keys() | after.keys())
    if before.get(key) != after.get(key)
  ]


def new_checkpointer() -> ocp.AsyncCheckpointer:
  return ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())


def remove(path: epath.Path) -> None:
  """A folder that stays does no harm but to the space it takes."""
  try:
    path.rmtree(missing_ok=True)
  except OSError as e:
    logging.warning('%s could not be removed: %s', path, reason(e))


def named(tree) -> dict:
  return {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def describe(array) -> dict:
  return {'shape': list(array.shape), 'dtype': str(array.dtype)}


def refuse_differing(held: dict, wanted: dict, where) -> None:
  """Raises CheckpointError if names, shapes or types differ: orbax itself would cast silently."""
  wanted = {name: describe(x) for name, x in wanted.items()}
  text = lambda array: f'{array["dtype"]} {array["shape"]}'
  found = []
  for name in sorted(held.keys() | wanted.keys(), key=lambda name: (not name.startswith('params/'), name)):
    if name not in held:
      found.append(f'{name} is missing there')
    elif name not in wanted:
      found.append(f'{name} is only there')
    elif held[name] != wanted[name]:
      found.append(f'{name} is {text(held[name])} there and {text(wanted[name])} here')
  if found:
    more = f' (and {len(found) - SHOWN} more)' if len(found) > SHOWN else ''
    raise CheckpointError(
      f'{where} is of another model: {"; ".join(found[:SHOWN])}{more}; '
      'take the configuration it was made with, or an empty work directory'
    )


def settle() -> None:
  """Waits for the threads of a failed save: they would write into the next try at the same step."""
  end = time.monotonic() + SETTLE
  for thread in threading.enumerate():
    if type(thread).__module__.startswith('orbax.'):
      threading.Thread.join(thread, max(0, end - time.monotonic()))  # Not their own join, which raises the error again.


def reason(error: Exception) -> str:
  """The part of an error of the storage libraries that a person needs."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  if found := re.search(r"os_error_code='(\d+)'", str(error)):
    return os.strerror(int(found[1]))
  first = str(error).strip().partition('\n')[0]
  return f'{type(error).__name__}: {first[:300]}'
