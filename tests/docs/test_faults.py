"""docs/faults.md shows what docs/faults.json and docs/soak.json hold."""

import json
import os
from unittest import mock

from tests.support.paths import ROOT


def test_the_page_shows_what_is_kept():
  with mock.patch.dict(os.environ):  # It runs on CPUs, and says so where it is imported.
    from tests.faults import __main__ as battery
  page = (ROOT / 'docs/faults.md').read_text()
  table, soak = (json.loads((ROOT / f'docs/{name}.json').read_text()) for name in ('faults', 'soak'))
  assert battery.table_of_faults(table) in page
  rows = [f'| {r["processes"]} | {r["fault"]} | {r["survived"] + r["lost"]} | {r["lost"]} |' for r in soak['faults']]
  assert '\n'.join(rows) in page and f'--seed {soak["seed"]} ' in page
  injected = sum(r['survived'] + r['lost'] for r in soak['faults'])
  assert f'In {soak["rounds"]} rounds' in page and f'{injected} faults' in page and not soak['lost']
