"""Checkpoints of a run: saved while training goes on, restored on any mesh and by any number of processes.

A thin room around orbax's CheckpointManager. FOLDER/STEP is one checkpoint; it appears whole or not at all. Its item
'state' holds the arrays of a train state under flat names ('params/video/embed/kernel', 'opt_state/1/0/count'), so
that no class of another library is part of the format; its item 'meta' is JSON: what the caller gave, and a table of
all arrays, against which a restore is checked before any array is read.
"""

import os
import re
import threading
import time
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
SETTLE = 60  # Seconds left to the other threads of a save that failed.
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


class Manager(ocp.CheckpointManager):
  def reached_preemption(self, step: int) -> bool:
    """No: tvts_jax.preemption alone asks JAX. Orbax would ask again later, about older steps, and so move the step
    that the processes agree on into the past."""
    del step
    return False


class Checkpoints:
  """All processes of a run make the same calls in the same order."""

  def __init__(self, folder, config: CheckpointConfig | None):
    """With config None the folder is only read: nothing in it is created, cleaned up or deleted."""
    self.folder, self.config = epath.Path(folder), config
    try:
      self._manager = self._open(config is not None)
    except OSError as e:
      raise CheckpointError(f'{self.folder} can not hold checkpoints: {reason(e)}') from e
    self._newest = None  # The last step that this object saved or restored.
    self._running = None  # The step of a save that may still be running.
    self._saved_at = self._asked_at = time.monotonic()
    self._asked_step, self._ask_step = None, 0

  def _open(self, prepare: bool) -> Manager:
    # Neither of the other options makes the processes wait for each other, so one may open it anew on its own.
    return Manager(
      self.folder,
      options=ocp.CheckpointManagerOptions(
        preservation_policy=ocp.checkpoint_managers.LatestN(self.config.keep if self.config else None),
        create=prepare,
        cleanup_tmp_directories=prepare,
        save_root_metadata=False,
      ),
    )

  def latest(self) -> int | None:
    """The newest complete step; waits for a save that is running."""
    self._wait()
    return self._manager.latest_step()

  def due(self, step: int) -> bool:
    """Whether to save before step `step`. Ask once per step."""
    if step == 0 or step == self._newest:
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
    self._wait()
    self._newest, self._saved_at = step, time.monotonic()
    if step in self._manager.all_steps():
      return
    arrays = named(state)
    content = {'format': FORMAT, 'arrays': {name: describe(x) for name, x in arrays.items()}, 'meta': meta}
    self._running = step
    try:
      self._manager.save(
        step, args=ocp.args.Composite(state=ocp.args.PyTreeSave(arrays), meta=ocp.args.JsonSave(content)), force=True
      )
    except (OSError, ValueError, RuntimeError) as e:
      raise self._failed(e) from e

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
    self._newest = step
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
    self._wait()
    self._manager.close()

  def __enter__(self):
    return self

  def __exit__(self, kind, error, traceback) -> None:
    try:
      self.close()
    except CheckpointError as e:
      if error is None:
        raise
      logging.error('%s', e)  # What stopped the run is the news.

  def _wait(self) -> None:
    try:
      self._manager.wait_until_finished()
    except (OSError, ValueError, RuntimeError) as e:
      raise self._failed(e) from e
    self._running = None

  def _failed(self, error) -> CheckpointError:
    step, self._running = self._running, None
    settle()
    self._discard(step)
    # The old manager has forgotten those that the failed one was to replace, and may raise more errors of this save.
    self._manager = self._open(False)
    steps = self._manager.all_steps()
    left = f'the newest complete one is {max(steps)}' if steps else 'there is no earlier one'
    return CheckpointError(f'step {step} could not be saved in {self.folder}: {reason(error)}; {left}')

  def _discard(self, step: int) -> None:
    """Removes what a failed save left, which may be what fills the disk."""
    if jax.process_index() == 0:
      left = self.folder / f'{step}.orbax-checkpoint-tmp'
      try:
        left.rmtree(missing_ok=True)
      except OSError as e:
        logging.warning('%s stays until the next start: %s', left, reason(e))

  def _find(self, step: int | None) -> int:
    self._wait()
    steps = self._manager.all_steps()
    if not steps:
      raise CheckpointError(f'there is no checkpoint in {self.folder}')
    if step is not None and step not in steps:
      raise CheckpointError(f'there is no checkpoint of step {step} in {self.folder}; there are {numbers(steps)}')
    return max(steps) if step is None else step

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
      return self._manager.restore(step, args=ocp.args.Composite(**items))
    except (OSError, ValueError, RuntimeError, KeyError) as e:
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


def numbers(steps) -> str:
  return ', '.join(str(step) for step in sorted(steps))


def reason(error: Exception) -> str:
  """The part of an error of the storage libraries that a person needs."""
  if isinstance(error, OSError) and error.strerror:
    return error.strerror
  if found := re.search(r"os_error_code='(\d+)'", str(error)):
    return os.strerror(int(found[1]))
  first = str(error).strip().partition('\n')[0]
  return f'{type(error).__name__}: {first[:300]}'
