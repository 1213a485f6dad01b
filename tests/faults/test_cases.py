"""Each chain of cases.py: its faults are reported, and cost no more than the steps since the last save."""

import pytest

from tests.faults import cases, small


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  return small.make(tmp_path_factory.mktemp('cases'))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize('name', cases.CHAINS)
def test_faults_are_reported_and_cost_the_steps_since_the_last_save(root, name):
  try:
    _, missing = cases.play(root, name)
  except cases.Missing as error:
    pytest.skip(f'this machine lacks {error}')
  if missing:
    pytest.skip(f'all that could be played passed; this machine lacks {missing}')
