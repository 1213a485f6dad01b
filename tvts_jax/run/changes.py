"""How a run was steered: which settings a resume has changed, and at which step.

WORKDIR/changes.jsonl has a line {"step": s, "changed": ['setting: old → new', ...]} for each resume that changed
something, and so has each checkpoint from then on. A resume that went back to step s has "back": true.
"""

import json
from collections.abc import Mapping

from tvts_jax.files import write_whole
from tvts_jax.shards import storage

FILE = 'changes.jsonl'


def record(meta: Mapping, changed: list[str], first: int, back_to: int | None) -> list[dict]:
  """All changes of a run that goes on at step `first` from a checkpoint with this meta, {} for none."""
  back = {'back': True} if first == back_to else {}
  return meta.get('changes', []) + ([{'step': first, 'changed': changed} | back] if changed or back else [])


def has_gone_back(meta: Mapping, step: int) -> bool:
  return any(row['step'] == step and row.get('back') for row in meta.get('changes', []))


def write(workdir, rows: list[dict]) -> None:
  path = storage.path(workdir) / FILE
  if rows or path.exists():
    write_whole(path, ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows))


def told(row: Mapping) -> str:
  """A row in a line."""
  changed = row.get('changed')
  lines = [str(line) for line in changed] if isinstance(changed, list) else []
  return f'step {row["step"]}: ' + '; '.join((['went back to this step'] if row.get('back') else []) + lines)
