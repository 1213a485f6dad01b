"""What a work directory says of its run, whatever is missing or damaged in it."""

import dataclasses
import json

from tvts_jax.errors import UserError
from tvts_jax.files import read_rows
from tvts_jax.input.skipped import FOLDER as SKIPPED
from tvts_jax.run import clock
from tvts_jax.run.changes import FILE as CHANGES
from tvts_jax.shards import storage

SOURCES = ('metrics.jsonl', 'config.txt', 'clock.json', 'eval')


@dataclasses.dataclass(frozen=True)
class Run:
  """What a work directory says; what it doesn't say is empty or None."""

  name: str
  config_text: str
  parameters_text: str
  rows: list[dict]  # Of metrics.jsonl, without evaluations.
  evals: dict[str, dict[int, dict]]  # By name, then by step.
  clock: dict | None
  examples: list | None
  skipped: list[dict]  # Examples that could not be used, by step.
  changes: list[dict]  # Of settings, by resumes (changes.py).
  notes: list[str]  # What was found damaged.

  @property
  def config(self) -> dict[str, str]:
    return dict(line.split(': ', 1) for line in self.config_text.splitlines() if ': ' in line)

  def setting(self, name: str) -> int | None:
    value = self.config.get(name, '')
    return int(value) if value.isdecimal() and int(value) > 0 else None

  @property
  def step(self) -> int:
    """The last one that anything is known of."""
    return max([row['step'] for row in self.rows] + [step for points in self.evals.values() for step in points] + [0])


def read(workdir) -> Run:
  workdir = storage.path(workdir)
  if not any((workdir / source).exists() for source in SOURCES):
    raise UserError(f'{workdir} is no work directory of a run: it has none of {", ".join(SOURCES)}')
  notes = []
  is_number = lambda value: isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30

  def rows_of(path):
    rows, broken = read_rows(path)
    if broken:
      lines = 'line is' if len(broken) == 1 else 'lines are'
      notes.append(f'{path.name}: {len(broken)} unreadable {lines} left out, the first is line {broken[0]}.')
    rows = [{name: value for name, value in row.items() if is_number(value)} for row in rows]
    return sorted(rows, key=lambda row: row['step'])

  folder = workdir / 'eval'
  # A resumed run may have evaluated a step again.
  evals = {path.stem: {row['step']: row for row in rows_of(path)} for path in sorted(folder.glob('*.jsonl'))}
  evals = {name: points for name, points in evals.items() if points}
  examples, path = None, folder / 'examples.json'
  if path.exists():
    try:
      examples = json.loads(path.read_bytes())
      if not isinstance(examples, list):
        raise ValueError('it is no list')
    except (ValueError, RecursionError) as error:
      examples = None
      notes.append(f'eval/examples.json cannot be read ({error}).')
  saved = clock.read(workdir)
  if saved is None and (workdir / clock.FILE).exists():
    notes.append(f'{clock.FILE} is damaged.')
  plain = lambda path: path.read_bytes().decode(errors='replace') if path.exists() else ''
  evaluated = {f'{name}/{score}' for name, points in evals.items() for row in points.values() for score in row}
  rows = [
    {name: value for name, value in row.items() if name not in evaluated} for row in rows_of(workdir / 'metrics.jsonl')
  ]
  skipped = [row for path in sorted((workdir / SKIPPED).glob('*.jsonl')) for row in read_rows(path)[0]]
  return Run(
    name=workdir.resolve().name or str(workdir),
    config_text=plain(workdir / 'config.txt'),
    parameters_text=plain(workdir / 'parameters.txt'),
    rows=[row for row in rows if set(row) - {'step', 'time'}],
    evals=evals,
    clock=saved,
    examples=examples,
    skipped=sorted(skipped, key=lambda row: row['step']),
    changes=read_rows(workdir / CHANGES)[0],
    notes=notes,
  )
