"""What goes wrong with data while a run reads it: told at once, counted, and never passed over in silence.

A damaged example is skipped, and another stands in for it. Storage that fails is no example's fault: it is read again
(shards/patience.py), and the progress line counts the retries.
"""

import json
import threading

from absl import logging

from tvts_jax.errors import UserError
from tvts_jax.files import read_rows, write_whole
from tvts_jax.shards import storage

FOLDER = 'skipped'  # In a work directory: PROCESS.jsonl, a line for each example and step it was missed at.


class BadExample(UserError):
  """An example that cannot be made, by the shard it lies in, its number there, and its name for good."""

  def __init__(self, reason: str, shard: str, record: int, example_id: int):
    super().__init__(reason)
    self.shard, self.record, self.example_id = shard, record, example_id

  def __reduce__(self):
    return BadExample, (str(self), self.shard, self.record, self.example_id)


class Trouble:
  """Of one run, or of whatever else reads; thread-safe."""

  def __init__(self):
    self._lock = threading.Lock()
    self._skipped: dict[tuple[int, str, int], dict] = {}  # (step, shard, record) → a line of the file.
    self._path, self._earlier = None, []
    self._retries_before, self._replaced = storage.RETRIES.count, 0

  def __str__(self):
    """For the progress line; '' if nothing went wrong in this process."""
    with self._lock:
      skipped = len({key[1:] for key in self._skipped})
    counts = {
      'skipped as damaged': skipped,
      'reads retried': storage.RETRIES.count - self._retries_before,
      'input workers replaced': self._replaced,
    }
    return '  '.join(f'{name}: {count}' for name, count in counts.items() if count)

  def keep(self, workdir, process: int, first: int) -> None:
    """Also writes what is skipped into a work directory, whose run goes on from step `first`."""
    with self._lock:
      self._path = storage.path(workdir) / FOLDER / f'{process}.jsonl'
      # What an earlier process skipped later than that will be skipped again.
      self._earlier = [row for row in read_rows(self._path)[0] if row['step'] < first]
      if self._skipped or self._path.exists():
        self._write()

  def skip(self, step: int, bad: list[BadExample], stand_in: str) -> None:
    """Notes that `stand_in` is at the place of `bad` in the batch of a step."""
    with self._lock:
      for e in bad:
        key = step, e.shard, e.record
        if key in self._skipped:  # A batch may be made again.
          continue
        self._skipped[key] = {
          'step': step,
          'shard': e.shard,
          'record': e.record,
          'example_id': f'{e.example_id:016x}',
          'reason': str(e),
          'stand_in': stand_in,
        }
        logging.warning('step %d: %s: skipped, %s stands in for it', step, e, stand_in)
        if self._path is not None:
          self._write()

  def replaced(self, what: str) -> None:
    with self._lock:
      self._replaced += 1
      logging.warning('%s; another one goes on', what)

  def _write(self) -> None:
    try:
      self._path.parent.mkdir(parents=True, exist_ok=True)
      rows = [*self._earlier, *self._skipped.values()]
      write_whole(self._path, ''.join(json.dumps(row) + '\n' for row in rows))
    except storage.StorageError:
      raise
    except OSError as e:
      raise UserError(
        f'{self._path} cannot be written ({e.strerror or e}); put that right and run again: a run goes on from its '
        'last checkpoint'
      ) from e
