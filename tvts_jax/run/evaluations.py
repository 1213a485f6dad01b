"""What a run has evaluated: WORKDIR/eval/NAME.jsonl, a line {"step": s, metric: value, ...} for each time.

The line is the last that is written of an evaluation. Where it is missing, the evaluation died or was stopped, and the
run that goes on from that step does it again.
"""

import json
from collections.abc import Mapping

import jax

from tvts_jax.files import read_rows, sweep
from tvts_jax.pod import messages
from tvts_jax.run.background import Background
from tvts_jax.shards import storage

FOLDER = 'eval'


class Evaluations:
  """Of a run that goes on after `first` steps of `total`. Lines of later steps, which are done again, are dropped.

  Args:
    evals: settings of the evaluators, by name; each is due every `every_steps` and at the end.
  """

  def __init__(self, workdir, evals: Mapping[str, Mapping], first: int, total: int, background: Background):
    self._folder, self._total, self._background = storage.path(workdir) / FOLDER, total, background
    self._every = {name: settings.get('every_steps', total) for name, settings in evals.items()}
    self._rows, done = {}, {}
    if jax.process_index() == 0:
      sweep(self._folder)
      for name in evals:
        rows, broken = read_rows(self._folder / f'{name}.jsonl')
        self._rows[name] = [row for row in rows if row['step'] <= first and first]
        if broken or len(self._rows[name]) < len(rows):
          self._publish(name)
        done[name] = [row['step'] for row in self._rows[name]]
    self._done = messages.share(done, messages.number())

  def due(self, s: int) -> list[str]:
    """Evaluators of the state before step s, as far as they have not seen it."""
    at = lambda name: s == self._total or s > 0 and s % self._every[name] == 0
    return [name for name in self._every if at(name) and s not in self._done[name]]

  def write(self, s: int, name: str, values: Mapping[str, float]) -> None:
    if jax.process_index() == 0:
      self._rows[name].append({'step': s, **values})
      self._publish(name)

  def _publish(self, name: str) -> None:
    self._folder.mkdir(exist_ok=True)
    lines = ''.join(json.dumps(row) + '\n' for row in self._rows[name])
    self._background.write(self._folder / f'{name}.jsonl', lines)
