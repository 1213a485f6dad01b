"""Checkpoints of a run: saved while training goes on, restored on any mesh and by any number of processes.

FOLDER/STEP is one checkpoint (checkpoint_folder.py); it appears whole or not at all. Its files are compared with
their checksums before anything in them is used, and the arrays with the fingerprints that they had on the devices when
they were saved. A run that finds a checkpoint damaged renames it to FOLDER/STEP.damaged, where it never counts again,
and goes on from the one before. One that goes back to an earlier step renames the later ones to FOLDER/STEP.aside.

A save that fails is told and tried again soon; only several in a row stop the run, all processes at the same step.
"""

import errno
import json
import math
import secrets
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import jax
from absl import logging

from tvts_jax.errors import UserError
from tvts_jax.pod import messages
from tvts_jax.run import checkpoint_folder, checksums, save_times
from tvts_jax.run.checkpoint_folder import CheckpointError, describe, named
from tvts_jax.run.checkpoint_reader import FORMAT, CheckpointReader, DamagedError
from tvts_jax.shards import storage

UNFINISHED = '.unfinished'  # Ends the name of a checkpoint until it is complete.
DAMAGED, ASIDE = '.damaged', '.aside'  # End the names of those that count no more.
LAST_RETRIES = 2, 10, 30  # Seconds between the tries of a run's last save.


@dataclass(frozen=True)
class CheckpointConfig:
  every_steps: int | None = 1000
  every_minutes: float | None = 15.0
  keep: int = 3  # The newest good ones; an older one goes only after a newer one is complete.
  keep_every_steps: int | None = None  # Those of every so many steps are saved as well, and kept for good.
  failures: int = 3  # The run stops when so many saves in a row have failed.

  def __post_init__(self):
    for name, least in (('every_steps', 1), ('keep', 1), ('keep_every_steps', 1), ('failures', 1)):
      value = getattr(self, name)
      if value is not None and value < least:
        raise UserError(f'checkpoint.{name} is {value}; it must be at least {least}')
    if self.every_minutes is not None and not self.every_minutes > 0:
      raise UserError(f'checkpoint.every_minutes is {self.every_minutes}; it must be more than 0, or None for never')


class Checkpoints(CheckpointReader):
  """Those of a run that owns their folder. All processes make the same calls in the same order."""

  def __init__(self, folder, config: CheckpointConfig, before: Callable[[], None] = lambda: None):
    """before: called in the background before a checkpoint counts: what is known of its steps must be written."""
    super().__init__(folder)
    self.config, self._before = config, before
    self._token = messages.share(secrets.token_hex(4), messages.number())
    self._background = ThreadPoolExecutor(1, 'checkpoints')
    self._saving = None  # (step, future) of a save that may still be running.
    self._failed = None  # What the last save failed of,
    self._failures = 0  # And how many did in a row.
    self._stale: set[int] = set()  # Steps whose name may hold files of one set aside or of a save that failed.
    self._passed_over: dict[int, str] = {}  # Steps that the next resume sets aside, and why.
    self._times = save_times.SaveTimes((config.every_steps, config.keep_every_steps), config.every_minutes)

  def _clear(self, paths: list) -> None:
    self.folder.mkdir(parents=True, exist_ok=True)
    for path in paths:
      if path.name.isdecimal() or path.name.endswith(UNFINISHED):
        logging.info('removing %s, which was never completed', path)
        storage.remove_tree(path)

  def latest(self) -> int | None:
    """The newest complete step; waits for a save that is running."""
    self._collect(wait=True)
    return super().latest()

  def _open(self, step: int | None) -> tuple[int, dict]:
    self._collect(wait=True)
    return super()._open(step)

  def _instead(self, step: int) -> str:
    return ''  # The owner sets it aside.

  def due(self, step: int) -> bool:
    """Whether to save before step `step`. Ask once per step."""
    self._collect(wait=False)
    if step in (0, self._last):
      return False
    longest = math.inf
    if self._failures and self._saving is None:
      longest = 0 if self._failures >= self.config.failures else save_times.RETRY
    return self._times.due(step, longest)

  def save(self, step: int, state, meta: dict) -> None:
    """Starts to save; a step that is there already is left as it is. The caller may go on, and donate the state, at
    once. If it fails, the checkpoints from before stay and due() soon asks again; only the failure of
    `config.failures` saves in a row is raised, here."""
    self._collect(wait=True)
    if self._failures >= self.config.failures:
      raise self._failure(
        f'{self._failed}; saves that failed in a row: {self._failures}, so the run stops; make room or mend it there, '
        'then run the same command again'
      )
    self._last = step
    self._times.saved()
    if step in self._steps:
      return
    arrays = named(state)
    content = {
      'format': FORMAT,
      'arrays': {name: describe(x) for name, x in arrays.items()},
      'fingerprints': checksums.fingerprints(arrays),
      'meta': meta,
    }
    number = messages.number()
    # A name that no try had before, whose processes may still write. A bucket, which cannot rename, has but one.
    name = f'{step}-{number}-{self._token}{UNFINISHED}' if storage.is_local(self.folder) else str(step)
    path = self.folder / name
    text = json.dumps(content)
    why = self._make_way(step) if step in self._stale else None
    writes = [checkpoint_folder.failed(OSError(errno.EIO, why))] if why else checkpoint_folder.begin(path, arrays)
    self._saving = step, self._background.submit(self._finish, step, path, text, writes, number)

  def save_last(self, step: int, state, meta: dict) -> None:
    """Saves and waits until it is done: for the end of a run, when no later save could make up for a failure."""
    for pause in (*LAST_RETRIES, None):
      self._collect(wait=True)
      self._failures = 0
      self.save(step, state, meta)
      self._collect(wait=True)
      if step in self._steps:
        return
      if pause is not None:
        time.sleep(pause)
    raise self._failure(
      f'{self._failed}; it was tried {len(LAST_RETRIES) + 1} times, and what was trained since is lost; make room or '
      'mend it there, then run the same command again'
    )

  def _finish(self, step: int, path, content: str, writes: list, number: int) -> tuple[str | None, list[int]]:
    """In the background: (why the step could not be saved, the same in all processes, or None; the steps there)."""
    why = messages.gather(checkpoint_folder.wait(writes), number)
    if jax.process_index() == 0:
      why = why or checkpoint_folder.complete(path, content, self.folder / str(step), self._before)
      if why:
        checkpoint_folder.remove(path)  # It may be what fills the disk.
      else:
        self._sound.add(step)
    why = messages.share(why, number)
    return why, self._steps if why else self._retain([*self._steps, step])

  def _make_way(self, step: int) -> str | None:
    """Removes what a step's name holds, before any process writes there. → why it cannot, the same in all processes."""
    why = checkpoint_folder.remove(self.folder / str(step)) if jax.process_index() == 0 else None
    return messages.share(why, messages.number())

  def _retain(self, steps: list[int]) -> list[int]:
    """Removes what is older than the newest good ones, but for what is kept for good. In the background; → those that
    stay."""
    every, keep = self.config.keep_every_steps, self.config.keep
    for_good = [step for step in steps if every is not None and step % every == 0]
    if jax.process_index() != 0:
      return sorted({*for_good, *steps[-keep:]})
    kept, good = [], 0
    for step in reversed(steps):
      if good == keep and step not in for_good:
        checkpoint_folder.remove(self.folder / str(step))
      elif good < keep and (damage := self._look(step)):
        self._set_aside(step, damage, DAMAGED)
      else:
        kept.insert(0, step)
        good = min(good + 1, keep)
    return kept

  def _collect(self, wait: bool) -> None:
    """Takes note of a save that is finished, one way or the other."""
    if self._saving is None or not (wait or self._saving[1].done()):
      return
    (step, future), self._saving = self._saving, None
    why, self._steps = future.result()
    if why is None:
      self._failed, self._failures = None, 0
      return
    self._stale.add(step)
    left = f'the newest complete one is {max(self._steps)}' if self._steps else 'there is no earlier one'
    self._failed, self._failures = f'step {step} could not be saved in {self.folder}: {why}; {left}', self._failures + 1
    logging.warning('%s', self._failed)

  def go_back(self, step: int, followed: Callable[[dict], bool]) -> None:
    """The next resume takes this step as the newest, and sets newer ones aside.

    Args:
      followed: of the meta of a newer checkpoint, whether it is of a run that has gone back so; then all stay, or
        each restart would go back again.
    """
    self._collect(wait=True)
    newer = [s for s in self._steps if s > step]
    for newest in reversed(newer):
      try:
        if followed(self.read_meta(newest)):
          return
        break
      except DamagedError:
        continue
    self.read_meta(step)  # Raises if it is not there, or damaged.
    why = f'is newer than step {step}, to which the run goes back'
    self._passed_over = {s: f'{self.folder / str(s)} {why}' for s in newer}

  def resume(self, abstract_state, check, optional: Collection[str] = ()) -> tuple | None:
    """(step, state, meta) of the newest good checkpoint, or None if there is none at all. Newer ones that are damaged
    are named and set aside; if all are, that is an error and they stay, or the next start would begin anew.

    Args:
      abstract_state: jax.ShapeDtypeStructs with the shardings that the arrays shall have, as a tree.
      check: given the meta before any array is read; may raise.
      optional: fields of the state that are None where the checkpoint has none, and left there if only it has them.
    """
    self._collect(wait=True)
    damaged = {}
    for step in reversed([step for step in self._steps if step not in self._passed_over]):
      try:
        _, content = self._open(step)
        check(content['meta'])
        state = self._state(step, content, abstract_state, optional)
      except DamagedError as e:
        damaged[step] = str(e)
        continue
      self._set_all_aside(damaged, DAMAGED)
      self._set_all_aside(self._passed_over, ASIDE)
      return step, state, content['meta']
    if damaged:
      raise CheckpointError(
        f'no checkpoint is as it was saved: {"; ".join(damaged.values())}; bring one back, or give another '
        'work directory to start anew'
      )
    return None

  def close(self, error: BaseException | None = None) -> None:
    """Waits for a running save, and raises what it failed of, unless another `error` is the news."""
    self._collect(wait=True)
    self._background.shutdown()
    if error is None and self._failed is not None:
      raise self._failure(self._failed)

  def __enter__(self):
    return self

  def __exit__(self, kind, error, traceback) -> None:
    self.close(error)

  def _set_all_aside(self, why: dict[int, str], end: str) -> None:
    """In all processes: those of some steps, with the reason for each."""
    if jax.process_index() == 0:
      for step in why:
        self._set_aside(step, why[step], end)
    self._stale |= why.keys()  # They may not have let themselves be renamed.
    self._steps = [step for step in self._steps if step not in why]

  def _set_aside(self, step: int, why: str, end: str) -> None:
    path = self.folder / str(step)
    aside = self.folder / f'{step}{end}'
    checkpoint_folder.remove(aside)
    try:
      path.rename(aside)
      logging.warning('%s; it is kept aside as %s', why, aside.name)
    except OSError as e:
      logging.warning('%s; it could not be renamed to %s: %s', why, aside.name, checkpoint_folder.reason(e))
