"""A run that release one began goes on: its checkpoint of step 6 of 12 lies in tests/golden/release_one."""

import shutil

import numpy as np

from tests.faults import small
from tests.support.paths import GOLDEN
from tests.support.runs import finish, rows


def test_a_run_of_release_one_goes_on(tmp_path):
  """On the machine that wrote it bit for bit, as the two sides were compared once; elsewhere sums may be rounded."""
  old, folder = GOLDEN / 'release_one', small.make(tmp_path) / 'run'
  shutil.copytree(old, folder)
  output = finish(small.fork(tmp_path, 'run', '--config.checkpoint.keep=100'))
  assert f'resuming {folder} at step 6 of {small.STEPS}' in output
  before, after = rows(old), rows(folder)
  assert [row.keys() for row in after] == [row.keys() for row in before] and len(after) == small.STEPS
  for then, now in zip(before, after):
    for name, value in then.items():
      np.testing.assert_allclose(now[name], value, rtol=1e-4, err_msg=name)
