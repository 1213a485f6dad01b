"""Builds shards with processes of this machine, one per core."""

import signal
import sys
import tempfile
from collections import Counter, deque
from concurrent.futures import FIRST_COMPLETED, wait
from pathlib import Path

from data import outcomes
from data.builder.manifest import describe
from data.builder.shard import Job, finish_shard, make_item
from data.builder.shard_plan import PlannedShard
from data.builder.windows import WindowConfig
from data.builder.workers import Limits, Pool, held_back
from data.outcomes import BuildError
from tvts_jax.files import scratch
from tvts_jax.human import Progress
from tvts_jax.shards import storage

JUDGED_FROM = 20  # Outcomes; fewer say little about a run as a whole.


class Tally:
  """Items by outcome, over this run and the shards that earlier runs finished."""

  def __init__(self, total: int, before: Counter, max_failed_fraction: float, config: WindowConfig):
    self.counts, self._max_failed, self._config = before, max_failed_fraction, config
    self._total, self._advised = total, False
    self._progress = Progress('items', total, before=before.total(), live=True)

  def add(self, code: str) -> None:
    self.counts[code] += 1
    if self.counts.total() >= JUDGED_FROM:
      self.judge()
    elif self.counts['too_short'] > self._total / 2:
      self.advise()

  def advise(self) -> None:
    """Says once that most videos are too short, and what to do about that."""
    if not self._advised:
      seen, self._advised = self.counts.total(), True
      print(f'{self.counts["too_short"]} of {seen} items are too_short; {self._config.for_shorter}', file=sys.stderr)

  def judge(self) -> None:
    """BuildError if more than the allowed fraction of the items seen so far have failed."""
    if self.counts['too_short'] > self.counts.total() / 2:
      self.advise()
    failed = {c: n for c, n in self.counts.items() if outcomes.status(c) == 'failed'}
    if sum(failed.values()) > self._max_failed * self.counts.total():
      raise BuildError(
        f'{sum(failed.values())} of {self.counts.total()} items failed ({describe(failed)}), more than '
        f'--max-failed-fraction {self._max_failed:g} allows: outcomes/*.jsonl say why; mend the source or allow more',
        'failures',
      )

  def show(self) -> None:
    self._progress.tell(self.counts.total(), lambda: describe(self.counts) or 'none left out')


def build(folder, todo: list[PlannedShard], plan_sha256, config, limits: Limits, workers: int, tally: Tally) -> dict:
  """Builds the shards in todo; returns shard name → content of its shard.json."""
  finished, waiting, opened, running = {}, deque(todo), {}, set()
  beside = Path(folder if storage.is_local(folder) else tempfile.gettempdir(), 'parts')
  with (
    held_back(signal.SIGINT, signal.SIGTERM) as check_signals,
    scratch(beside) as parts,
    Pool(workers, make_item, limits) as pool,
  ):
    while waiting or running:
      check_signals()
      while waiting and len(running) < 2 * workers:  # So that nobody idles while a shard ends.
        planned = waiting.popleft()
        jobs = [Job(item, config, str(parts / f'{planned.name}.{i}')) for i, item in enumerate(planned.items)]
        opened[planned] = {pool.submit(job): job for job in jobs}
        running.update(opened[planned])
      tally.show()
      ended, running = wait(running, timeout=1, return_when=FIRST_COMPLETED)
      for future in ended:
        tally.add(future.result().code)
      for planned in [p for p, jobs in opened.items() if running.isdisjoint(jobs)]:
        done = [(job, future.result()) for future, job in opened.pop(planned).items()]
        finished[planned.name] = finish_shard(folder, planned, plan_sha256, done)
  tally.show()
  return finished
