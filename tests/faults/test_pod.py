"""Runs of two processes, through all that ends one of them: they are started again, and no bit differs."""

import os
import re
import signal

import numpy as np
import pytest

from tests.faults import small
from tests.support import runs
from tests.support.paths import ROOT
from tests.support.runs import finish, rows

STEPS = 30  # Enough to agree on one at which to stop.
LONG = f'--config.steps={STEPS}', '--config.checkpoint.every_steps=5', '--config.spike_sigmas=6'

# In the place of tvts_jax.main: a run in which process 1 hangs for good at step 8, once.
HANGING = """
import pathlib, threading
import jax
from absl import app
from tvts_jax import main
from tvts_jax.run import metrics

def hang_once(self, step, values, write=metrics.Writers.write):
  once = pathlib.Path('{once}')
  if step == 8 and jax.process_index() == 1 and not once.exists():
    once.touch()
    threading.Event().wait()
  write(self, step, values)

metrics.Writers.write = hang_once
app.run(main.main)
"""


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  return small.make(tmp_path_factory.mktemp('pods'))


@pytest.fixture(scope='module')
def undisturbed(root):
  finish(start(root, 'undisturbed'))
  return root / 'undisturbed'


def start(root, name, *options, **more):
  return small.start(root, name, *LONG, pod=[*small.POD, *options, '--'], **more)


@pytest.mark.long
def test_two_processes_train_like_one(root, undisturbed):
  # Of two devices, so that the mesh is the same, and only the order of sums may differ.
  finish(small.start(root, 'alone', *LONG, changed=small.TWO_DEVICES))
  alone, together = ([row['loss'] for row in rows(run) if 'loss' in row] for run in (root / 'alone', undisturbed))
  assert len(alone) == STEPS
  np.testing.assert_allclose(together[:12], alone[:12], rtol=2e-4)


@pytest.mark.long
def test_a_pod_with_a_hang_a_death_and_a_request_to_stop_ends_like_an_undisturbed_one(root, undisturbed):
  """A process that is stopped from outside is one of tests/pod/test_peers.py."""
  folder = root / 'faults'
  program = folder.with_suffix('.py')
  program.write_text(HANGING.format(once=folder.with_suffix('.once')))
  # A program by its path has no folder of configs beside it, unlike one that python -m runs here.
  short = {'TVTS_PATIENCE_S': '20', 'TVTS_HEARTBEAT_S': '120', 'PYTHONPATH': str(ROOT)}
  run = start(root, 'faults', '--restarts', '3', '--grace', '2', program=[program], changed=short)
  said, resumed = '', 0
  for line in run.stdout:
    said += line
    if 'resuming' in line and '[0]' in line:
      resumed += 1
      if resumed == 1:
        os.kill(small.processes(run)[0], signal.SIGKILL)
      if resumed == 2:
        os.kill(small.processes(run)[1], signal.SIGTERM)
  assert run.wait() == 75 and resumed == 2, said
  assert re.search(r'stood still for 20 s, training', said) and 'in hang_once' in said, said
  (_, hung), *others = re.findall(r'local_pod: process (\d) left with (\d+)\n', said)
  assert hung == '76' and others[0] == ('0', '137') and {code for _, code in others[1:]} == {'75'}, said
  assert said.count('starting all again') == 2, said
  finish(start(root, 'faults'))
  runs.assert_equal_ends(undisturbed, folder, STEPS)
