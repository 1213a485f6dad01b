"""Signals ask once and insist the second time. What processes agree on among each other is shown in
test_checkpoint.py."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support.paths import ROOT
from tvts_jax.run.stop import SIGNALS, Stop

# Asked once, it goes on for good, in a call that never comes back to Python.
STUBBORN = """
import time
import jax
from tvts_jax.run.stop import Stop
with Stop() as stop:
  print('ready', flush=True)
  while not stop.requested():
    time.sleep(0.01)
  print('asked', flush=True)
  jax.block_until_ready(jax.jit(lambda x: jax.lax.while_loop(lambda x: x < 2, lambda x: x * 0.5, x))(1.0))
"""
# Sends a signal to a forked child. asyncio resets the wakeup descriptor in a child since Python 3.12; here always.
PARENT = """
import os, signal, sys, time
os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))
from tvts_jax.run.stop import Stop
with Stop() as stop:
  read, write = os.pipe()
  child = os.fork()
  if not child:
    os.write(write, b'1')
    time.sleep(5)
    os._exit(0)
  os.read(read, 1)
  os.kill(child, int(sys.argv[1]))
  print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), stop.requested())
"""


@pytest.mark.parametrize('number', SIGNALS)
def test_a_signal_asks_and_the_old_handlers_return(number):
  heard = []
  old = signal.signal(number, lambda *_: heard.append(True))
  try:
    with Stop() as stop:
      assert not stop.requested()
      os.kill(os.getpid(), number)
      end = time.monotonic() + 10
      while not stop.requested():
        assert time.monotonic() < end
        time.sleep(0.001)
      assert stop.requested() and not heard
    os.kill(os.getpid(), number)
    time.sleep(0.01)
    assert heard == [True]
  finally:
    signal.signal(number, old)


def test_an_error_inside_goes_through_and_other_signals_stay():
  old = signal.signal(signal.SIGUSR1, lambda *_: None)
  try:
    with pytest.raises(KeyError), Stop() as stop:
      os.kill(os.getpid(), signal.SIGUSR1)
      time.sleep(0.05)
      assert not stop.requested()
      raise KeyError
  finally:
    signal.signal(signal.SIGUSR1, old)


@pytest.mark.parametrize('number', SIGNALS)
def test_the_second_signal_ends_even_a_process_that_hangs(number):
  with subprocess.Popen(
    [sys.executable, '-c', STUBBORN], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
  ) as child:
    try:
      assert child.stdout.readline() == 'ready\n'
      child.send_signal(number)
      assert child.stdout.readline() == 'asked\n'
      time.sleep(0.5)
      assert child.poll() is None
      start = time.monotonic()
      child.send_signal(number)
      assert child.wait(20) == 128 + number and time.monotonic() - start < 10
      assert child.stderr.read().endswith(f'{number.name} again: leaving at once\n')
    finally:
      child.kill()


@pytest.mark.parametrize('number', SIGNALS)
def test_a_forked_child_of_a_run_dies_of_a_signal(number):
  done = subprocess.run(
    [sys.executable, '-c', PARENT, str(int(number))], cwd=ROOT, capture_output=True, text=True, timeout=60
  )
  assert done.stdout == f'{-number} False\n', done.stderr
