"""The soak runs where the README has set up the demo: without what the tests need."""

import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT
from tests.support.without import without

# Only the extra [test] brings these.
EXTRA = 'pytest', 'hypothesis', 'moto', 'torch'


@pytest.fixture
def plain(tmp_path):
  """The environment of processes that cannot import them."""
  (tmp_path / 'sitecustomize.py').write_text(without(*EXTRA))
  variables = {**os.environ, 'PYTHONPATH': str(tmp_path), 'TMPDIR': str(tmp_path)}
  for name in EXTRA:
    assert run(variables, '-c', f'import {name}').returncode == 1
  return variables


def run(variables, *arguments):
  return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=variables, capture_output=True, text=True)


def test_it_starts(plain):
  done = run(plain, '-m', 'tests.faults', '--help')
  assert done.returncode == 0 and '--soak MINUTES' in done.stdout, done.stderr


@pytest.mark.long
def test_it_plays_a_round(plain, tmp_path):
  done = run(plain, '-m', 'tests.faults', '--soak', '0.001', '--seed', '20', '--json', f'{tmp_path}/soak.json')
  assert done.returncode == 0 and '1 rounds in' in done.stdout, done.stdout + done.stderr
