"""A run of two processes through all that ends one of them: its launcher starts it again, and no bit differs."""

import os
import pathlib
import re
import signal
import sys

from tests.runs import assert_equal_runs, demo, finish, start

__all__ = ['demo']  # A fixture.

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


def test_a_pod_with_a_hang_and_two_deaths_ends_like_an_undisturbed_one(demo):
  pod = [sys.executable, 'launch/local_pod.py', '--processes', '2', '--devices', '1']
  finish(start(demo, 'pod', pod=[*pod, '--']))

  folder = demo / 'faults'
  program = folder.with_suffix('.py')
  program.write_text(HANGING.format(once=folder.with_suffix('.once')))
  run = start(
    demo, 'faults', pod=[*pod, '--restarts', '3', '--'], program=[program], variables={'TVTS_PATIENCE_S': '20'}
  )
  said, resumed = '', 0
  for line in run.stdout:
    said += line
    if 'resuming' in line and '[0]' in line:
      resumed += 1
      if resumed <= 2:
        children = pathlib.Path(f'/proc/{run.pid}/task/{run.pid}/children').read_text().split()
        os.kill(int(children[resumed - 1]), signal.SIGKILL)
  assert run.wait() == 0 and resumed == 3, said
  assert re.search(r'stood still for 20 s, training', said) and 'in hang_once' in said, said
  (_, hung), *killed = re.findall(r'local_pod: process (\d) left with (\d+)\n', said)
  assert hung == '76' and killed == [('0', '137'), ('1', '137')] and said.count('starting all again') == 3, said
  assert_equal_runs(demo / 'pod', folder)
