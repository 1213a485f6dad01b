"""The page of a benchmark, and the JSON that it is made of: what was measured, on what, and whether it counts."""

import json
from collections.abc import Mapping, Sequence

from tvts_jax.bench import turns
from tvts_jax.files import write_whole
from tvts_jax.pages import charts, kit
from tvts_jax.pages.kit import text
from tvts_jax.shards import storage


def save(out: str, title: str, result: Mapping, parts: Sequence[str]) -> storage.Path:
  """Writes `out`, a JSON file, and beside it a page of `parts`, which are trusted HTML; returns the page's path.

  result: must have 'host' and 'versions'; where it has 'void', it says what else the machine was busy with.
  """
  path = storage.path(out)
  path.parent.mkdir(parents=True, exist_ok=True)
  write_whole(path, json.dumps(result, indent=2) + '\n')
  write_whole(where := path.with_suffix('.html'), build(title, result, parts))
  return where


def build(title: str, result: Mapping, parts: Sequence[str]) -> str:
  host = result['host']
  facts = {'CPU': host['cpu'], 'cores': host['cores'], **host['environment'], **result['versions']}
  numbers = '\n'.join(text(line, 1000) for line in json.dumps(result, indent=2).splitlines())
  body = [
    kit.header(title, host['system'], facts),
    kit.missing(turns.void_sentence(result['other_load_cores'])) if result.get('void') else '',
    *parts,
    f'<details class="card"><summary>Every number</summary><pre>{numbers}</pre></details>',
  ]
  return kit.document(title, charts.STYLE, '\n'.join(body))


def card(title: str, says: str, drawing: str) -> str:
  return f'<section class="card tall"><h4>{text(title)}</h4><p class="soft">{text(says, 1000)}</p>{drawing}</section>'


def table(head: Sequence[str], rows: Sequence[Sequence]) -> str:
  return f'<div class="card scroll">{kit.table(head, *rows)}</div>'
