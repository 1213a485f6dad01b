"""Runs of two processes, through all that ends one of them: they are started again, and no bit differs."""

import os
import pathlib
import re
import signal
import sys
import time

import numpy as np
import pytest

from tests.runs import assert_equal_runs, demo, finish, rows, start, wait_for

__all__ = ['demo']  # A fixture.
POD = [sys.executable, 'launch/local_pod.py', '--processes', '2', '--devices', '1']

# In the place of tvts_jax.main: a run in which process 1 hangs for good at step 8, once.
HANGING = """
import pathlib, threading
import jax
from absl import app
from tvts_jax import main, metrics

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
def undisturbed(demo):
  finish(start(demo, 'pod', pod=[*POD, '--']))
  return demo / 'pod'


def child(pod, index: int) -> int:
  """The process id of one of a pod's two."""
  return int(pathlib.Path(f'/proc/{pod.pid}/task/{pod.pid}/children').read_text().split()[index])


def test_two_processes_train_like_one(demo, undisturbed):
  finish(start(demo, 'alone'))
  # The mesh is that of the single process, so only the order of sums may differ.
  alone, together = ([row['loss'] for row in rows(run) if 'loss' in row] for run in (demo / 'alone', undisturbed))
  np.testing.assert_allclose(together, alone, rtol=2e-4)


def test_with_one_asked_to_stop_both_save_and_go_on(demo, undisturbed):
  folder = demo / 'stopped'
  run = start(demo, 'stopped', pod=[*POD, '--'])
  wait_for(run, lambda: (folder / 'metrics.jsonl').exists() and len(rows(folder)) > 2)
  os.kill(child(run, 1), signal.SIGTERM)
  finish(run, code=75)
  finish(start(demo, 'stopped', pod=[*POD, '--']))
  assert_equal_runs(undisturbed, folder)


def test_a_pod_with_a_hang_a_death_and_a_stop_ends_like_an_undisturbed_one(demo, undisturbed):
  folder = demo / 'faults'
  program = folder.with_suffix('.py')
  program.write_text(HANGING.format(once=folder.with_suffix('.once')))
  run = start(
    *(demo, 'faults'),
    pod=[*POD, '--restarts', '3', '--grace', '2', '--'],
    program=[program],
    variables={'TVTS_PATIENCE_S': '20', 'TVTS_HEARTBEAT_S': '15'},
  )
  said, resumed, named = '', 0, None
  for line in run.stdout:
    said += line
    if 'resuming' in line and '[0]' in line:
      resumed += 1
      if resumed == 1:
        os.kill(child(run, 0), signal.SIGKILL)
      if resumed == 2:
        stopped, began = child(run, 1), time.monotonic()
        os.kill(stopped, signal.SIGSTOP)
    if resumed == 2 and 'sign of life' in line:
      named = line, time.monotonic() - began
  assert run.wait() == 0 and resumed == 3, said
  assert re.search(r'stood still for 20 s, training', said) and 'in hang_once' in said, said
  line, seconds = named
  assert f'process 1 (pid {stopped} on ' in line and 'no sign of life for 15 s' in line and 10 < seconds < 30, said
  (_, hung), *others = re.findall(r'local_pod: process (\d) left with (\d+)\n', said)
  assert hung == '76' and others == [('0', '137'), ('0', '76')] and said.count('starting all again') == 3, said
  assert_equal_runs(undisturbed, folder)
