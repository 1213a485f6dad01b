"""When a run saves: every so many steps, and by the clock of process 0."""

import math
import time
from collections.abc import Collection

import jax
import numpy as np
from jax.experimental import multihost_utils

RETRY = 60  # Seconds from a save that failed to the next, if none is due before.


class SaveTimes:
  def __init__(self, every_steps: Collection[int | None], every_minutes: float | None):
    """Each may be None: never."""
    self._every_steps = [steps for steps in every_steps if steps is not None]
    self._every_s = math.inf if every_minutes is None else 60 * every_minutes
    self._saved_at = self._asked_at = time.monotonic()
    self._asked_step, self._ask_step = None, 0

  def saved(self) -> None:
    self._saved_at = time.monotonic()

  def due(self, step: int, longest: float = math.inf) -> bool:
    """Whether to save before `step`, or since the last save `longest` seconds have passed. All processes agree.

    Process 0 decides by its clock. To avoid a broadcast at every step, the processes agree on the next step at which
    to ask: half the way to the deadline, at the pace since they last asked, so a save is late by a few steps at most.
    """
    if any(step % steps == 0 for steps in self._every_steps):
      return True
    now = time.monotonic()
    wait = min(self._every_s, longest) - (now - self._saved_at)
    if jax.process_count() == 1:
      return wait <= 0
    if step < self._ask_step:
      return False
    steps = 1
    if self._asked_step is not None and step > self._asked_step:
      pace = (now - self._asked_at) / (step - self._asked_step)  # Seconds a step.
      steps = max(1, int(min(min(wait, RETRY) / max(pace, 1e-6) / 2, 1e6)))
    steps = int(multihost_utils.broadcast_one_to_all(np.int32(0 if wait <= 0 else steps)))
    self._asked_at, self._asked_step, self._ask_step = now, step, step + steps
    return steps == 0
