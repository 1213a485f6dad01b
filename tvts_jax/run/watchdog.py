"""Ends a process that stands still, so that it can be started again.

A step of the training may take TVTS_PATIENCE_S seconds (by default 300) or 20 times what steps took lately, whichever
is more; any other thing that the loop does, such as compiling, evaluating or saving, 12 times TVTS_PATIENCE_S without a
`beat`. After that the watchdog prints where each thread stands and leaves with distributed.RESTART, and so do the other
processes.
"""

import faulthandler
import sys
import threading
from typing import NoReturn

from tvts_jax.pod import distributed
from tvts_jax.run.clock import PARTS
from tvts_jax.shards import storage

PATIENCE, PATIENCE_S = 'TVTS_PATIENCE_S', 300
USUAL = 20  # How many times the usual step a step may take.
LONG = 12  # How many times as patient to be with what is no step.
TICK = 0.5  # Seconds from one look to the next.


def beat() -> None:
  """What takes long within one part of the loop calls this as it goes on."""
  Watchdog.beats += 1


class Watchdog:
  """Looks at a Clock while it is entered."""

  beats = 0  # Of this process.

  def __init__(self, clock):
    self._clock, self._patience_s = clock, distributed.seconds(PATIENCE, PATIENCE_S)
    self._stop = threading.Event()

  def __enter__(self):
    threading.Thread(target=self._watch, name='watchdog', daemon=True).start()
    return self

  def __exit__(self, kind, error, traceback) -> None:
    self._stop.set()

  def _watch(self) -> None:
    before, still = None, 0.0
    # Time is counted in looks, because a machine that slept, or a process that was paused, does not hang.
    while not self._stop.wait(TICK):
      now = *self._clock.doing(), self.beats, storage.RETRIES.count  # What waits for storage has patience of its own.
      still = still + TICK if now == before else 0.0
      before = now
      if still >= self.limit_s(now[1]):
        self._end(now[1], still)

  def limit_s(self, part: str) -> float:
    if part not in ('input', 'step'):
      return LONG * self._patience_s
    rates = self._clock.rates(0, 0)
    return max(self._patience_s, USUAL / rates.steps_per_s if rates else 0.0)

  def _end(self, part: str, still: float) -> NoReturn:
    what = f'stood still for {still:.0f} s, {PARTS[part]}'
    print(
      f'tvts_jax: this process {what}, so it leaves with {distributed.RESTART}; if it was only slow, set {PATIENCE} '
      f'above {self._patience_s}; here is where each thread stands:',
      file=sys.stderr,
      flush=True,
    )
    faulthandler.dump_traceback(sys.__stderr__)
    distributed.give_up(what)
