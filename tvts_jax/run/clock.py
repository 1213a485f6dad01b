"""Where a run's wall time goes, kept over restarts.

The loop is always doing exactly one named thing, so the parts add up to the whole. What a device computes in the
meantime is not seen: 'input' is how long the loop waited for batches, the most that devices can have lost by it.
"""

import collections
import contextlib
import dataclasses
import json
import math
import time

from absl import logging

from tvts_jax.run.background import Background
from tvts_jax.shards import storage

# What time goes to. 'start' and 'other' are what is left over before and after the first span.
PARTS = {
  'start': 'starting',
  'compile': 'compiling',
  'input': 'waiting for input',
  'step': 'training',
  'evaluate': 'evaluating',
  'save': 'saving',
  'restart': 'lost to restarts',
  'other': 'everything else',
}
TRAINING = ('input', 'step', 'other')  # What a rate counts.
WINDOW_S = 60.0  # Of training, over which rates are taken.
FILE = 'clock.json'


@dataclasses.dataclass(frozen=True)
class Rates:
  steps_per_s: float  # While training: evaluating, saving and compiling don't count.
  clips_per_s: float
  waiting: float  # Share of that time that went to 'input'.
  eta_s: float  # To the end, with as much evaluating and saving as there was so far.


class Clock:
  """Starts with its making; `state` is what an earlier process's clock said when the checkpoint was saved."""

  def __init__(self, state: dict | None = None, *, monotonic=time.monotonic, wall=time.time):
    self._monotonic, self._wall = monotonic, wall
    self._seconds = dict.fromkeys(PARTS, 0.0)
    self._restarts, self._down = 0, 0.0
    self._began, self._since = wall(), monotonic()
    self._doing, self._turns = 'start', 0
    self._steps = collections.deque()  # After each step of the window: (seconds of training, of 'input').
    self.restore(state)

  def restore(self, saved: dict | None, last: dict | None = None):
    """Adds the time before this process.

    saved: what the clock said in the checkpoint, None if there was none. last: what it said last of all before the
    other process ended, where that is known: then work that has to be done again is told from time in which nothing
    ran, which is no one's loss. Otherwise all time since the checkpoint counts as lost.
    """
    if saved is not None and not is_state(saved):
      logging.warning('a checkpoint does not say how time was spent before it, so that time is not counted')
      saved = None
    saved = saved or {'seconds': {}, 'restarts': 0, 'down': 0.0, 'wall': None}
    for name, seconds in saved['seconds'].items():
      self._seconds[name] = self._seconds.get(name, 0.0) + seconds
    if last is not None and (saved['wall'] is None or last['wall'] >= saved['wall']):
      lost = sum(last['seconds'].values()) - sum(saved['seconds'].values())
      self._down += last['down'] + max(0.0, self._began - last['wall'])
      self._restarts += last['restarts'] + 1
    elif saved['wall'] is not None:
      lost = self._began - saved['wall']
      self._down += saved['down']
      self._restarts += saved['restarts'] + 1
    else:
      return
    self._seconds['restart'] += max(0.0, lost)  # Below zero only where someone set the time back.

  @contextlib.contextmanager
  def span(self, name: str):
    """What happens inside counts as `name`; the time of a span within a span is the inner one's alone."""
    if name not in PARTS:
      raise ValueError(f'time has no part {name!r}; it has {", ".join(PARTS)}')
    before = 'other' if self._doing == 'start' else self._doing
    self._turn(name)
    try:
      yield
    finally:
      self._turn(before)
      if name == 'step':
        self._count_step()

  def _turn(self, name: str):
    now = self._monotonic()
    self._seconds[self._doing] += now - self._since
    self._doing, self._since = name, now
    self._turns += 1

  def doing(self) -> tuple[int, str]:
    """What the loop is at: a part, behind a number that grows with each turn to another."""
    return self._turns, self._doing

  def _count_step(self):
    self._steps.append((self._training(), self._seconds['input']))
    while len(self._steps) > 2 and self._steps[-1][0] - self._steps[0][0] > WINDOW_S:
      self._steps.popleft()

  def _training(self) -> float:
    return sum(self._seconds[name] for name in TRAINING)

  def rates(self, remaining: int, clips: int) -> Rates | None:
    """Over the last minute of training; None before this process has ended two steps. clips: of one step."""
    if len(self._steps) < 2:
      return None
    (first, first_waited), (end, waited) = self._steps[0], self._steps[-1]
    seconds = max(end - first, 1e-9)
    steps_per_s = (len(self._steps) - 1) / seconds
    overhead = 1 + (self._seconds['evaluate'] + self._seconds['save']) / max(self._training(), 1e-9)
    return Rates(
      steps_per_s, steps_per_s * clips, (waited - first_waited) / seconds, remaining / steps_per_s * overhead
    )

  def state(self) -> dict:
    """All of it as JSON has it. seconds: by part; down: in which no process ran; wall: when this was."""
    self._turn(self._doing)
    return {'seconds': dict(self._seconds), 'down': self._down, 'restarts': self._restarts, 'wall': self._wall()}

  def write(self, workdir, background: Background):
    """No run stops because its times cannot be written: a disk may be full for a while."""
    path = storage.path(workdir) / FILE
    try:
      background.write(path, json.dumps(self.state(), indent=2) + '\n')
    except OSError as e:
      logging.warning('%s cannot be written: %s; nothing but the times that a report shows needs it', path, e.strerror)


def read(workdir) -> dict | None:
  """What a clock wrote last; None if none did, or if the file is damaged."""
  path = storage.path(workdir) / FILE
  if not path.exists():
    return None
  try:
    state = json.loads(path.read_bytes())
    if is_state(state):
      return state
  except (ValueError, RecursionError):
    pass
  logging.warning('%s is damaged, so time before this start is not counted in full; nothing else needs it', path)
  return None


def is_state(state) -> bool:
  """Whether this is what a clock says."""
  try:
    times = [state['down'], state['wall'], *state['seconds'].values()]
    return all(map(math.isfinite, times)) and isinstance(state['restarts'], int)
  except (TypeError, KeyError, AttributeError, OverflowError):
    return False
