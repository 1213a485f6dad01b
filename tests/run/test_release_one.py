"""What holds of a run that release one began: its checkpoint of step 6 of 12 lies in tests/golden/release_one.

Shards are built again for this release, so the batches are others and it does not go on as the same run unless it is
told that its data may change; its weights are read as they were.
"""

import json
import shutil

import pytest

from tests.faults import small
from tests.support.paths import GOLDEN
from tests.support.runs import finish, rows

OLD = GOLDEN / 'release_one'


def test_it_does_not_go_on_with_other_data_and_says_how_it_can(tmp_path):
  folder = small.make(tmp_path) / 'run'
  shutil.copytree(OLD, folder)
  *_, last = finish(small.fork(tmp_path, 'run'), code=1).splitlines()
  assert f'{folder} was trained on other data; bring the old data back, or start from its weights' in last
  assert f'--config.init.run={folder}' in last and small.steps(folder) == [6]


@pytest.mark.long
def test_it_goes_on_with_other_data_where_that_is_allowed(tmp_path):
  folder = small.make(tmp_path) / 'run'
  shutil.copytree(OLD, folder)
  finish(small.fork(tmp_path, 'run', '--resume_with_changes=data'))
  (row,) = map(json.loads, (folder / 'changes.jsonl').read_text().splitlines())
  assert row['step'] == 6 and [line.partition(':')[0] for line in row['changed']] == ['data']
  assert small.steps(folder)[-1] == small.STEPS and [row['step'] for row in rows(folder)][-6:] == [*range(7, 13)]


@pytest.mark.long
def test_a_new_run_starts_from_its_weights(tmp_path):
  """At a rate of zero they are also those it ends with, bit for bit."""
  small.make(tmp_path)
  settings = f'--config.init.run={OLD}', '--config.optim.lr=0.0', '--config.steps=1'
  finish(small.fork(tmp_path, 'run', *settings))
  params = lambda folder, step: {
    name: value for name, value in small.fingerprints(folder, step).items() if name.startswith('params/')
  }
  assert params(tmp_path / 'run', 1) == params(OLD, 6) and len(params(OLD, 6)) > 20
  assert [row['step'] for row in rows(tmp_path / 'run')] == [1]
