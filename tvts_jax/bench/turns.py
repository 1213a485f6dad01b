"""What benchmarks share: contestants that take turns, and the load that others put on the machine.

A machine that is busy otherwise slows each contestant by another factor, so such numbers are void.
"""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from tvts_jax.human import Progress

QUIET_CORES = 0.2  # Other load above this voids a measurement.


class Load:
  """How many cores the rest of the machine kept busy between two moments; None where the system does not say."""

  def __init__(self):
    self._wall, self._own, self._all = time.monotonic(), self._own_seconds(), self._busy_seconds()

  def other_cores(self) -> float | None:
    busy = self._busy_seconds()
    if busy is None:
      return None
    own = self._own_seconds() - self._own
    return max(0.0, busy - self._all - own) / (time.monotonic() - self._wall)

  @staticmethod
  def _own_seconds() -> float:
    """Of this process and of those that it has started and seen end."""
    return sum(os.times()[:4])

  @staticmethod
  def _busy_seconds() -> float | None:
    try:
      with open('/proc/stat') as f:
        user, nice, system, _, _, irq, softirq, steal = map(int, f.readline().split()[1:9])
    except FileNotFoundError:
      return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf('SC_CLK_TCK')


def is_void(other_cores: float | None) -> bool:
  return other_cores is None or other_cores > QUIET_CORES


def quiet(load: Load) -> dict:
  """Of a result: what else the machine did since the load was first looked at, and whether that makes it void."""
  other = load.other_cores()
  return {'other_load_cores': other, 'void': is_void(other)}


def void_sentence(other_cores: float | None) -> str:
  busy = 'an unknown load' if other_cores is None else f'{other_cores:.2f} cores of other load'
  return f'VOID: there was {busy} on the machine; run again when it is quiet (below {QUIET_CORES}).'


def take_turns(contestants: Mapping[str, Callable], rounds: int) -> dict[str, list]:
  """What each returns, in the order A B B A, so that whatever drifts meets all alike; two turns a round."""
  taken = {name: [] for name in contestants}
  for _ in Progress.over(range(rounds), 'rounds'):
    for name in [*contestants, *reversed(contestants)]:
      taken[name].append(contestants[name]())
  return taken


class Turn(NamedTuple):
  """Seconds of one step, the median over a turn."""

  wall: float
  cpu: float


def turn(step: Callable, steps: int) -> Turn:
  """step() ends when its result is there. The first one, which finds caches and threads as others left them, is
  dropped."""
  times = []
  for _ in range(steps + 1):
    wall, cpu = time.perf_counter(), time.process_time()
    step()
    times.append(Turn(time.perf_counter() - wall, time.process_time() - cpu))
  return Turn(*map(statistics.median, zip(*times[1:])))


def spread(values: Sequence[float]) -> dict[str, float]:
  return {'median': statistics.median(values), 'min': min(values), 'max': max(values)}


def paired(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
  """How many times as fast we are as they, over the turns that were taken side by side."""
  return spread([a / b for a, b in zip(theirs, ours)])
