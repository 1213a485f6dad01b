"""A test that hangs fails, and what a test leaves behind is killed and named."""

import subprocess
import sys
import time

import pytest

from tests.support.children import PROC
from tests.support.paths import ROOT

TESTS = """
import os, pathlib, subprocess, time
import pytest
from tests.support import children
children.GRACE_S = 0.3
def start(seconds):
  with open('{numbers}', 'a') as file:
    process = subprocess.Popen(['sleep', str(seconds)])
    print(process.pid, file=file)
  return process
@pytest.fixture(scope='module')
def server():
  process = start(1001)
  yield process
  process.kill()
def test_leaves_a_child():
  start(1002)
def test_leaves_a_child_of_a_dead_parent():
  subprocess.run(['sh', '-c', 'sleep 1003 & echo $! >> {numbers}'])
def test_leaves_a_fork():
  if not os.fork():
    time.sleep(1004)
def test_hangs_with_a_child():
  start(1005).wait()
def test_uses_the_server_of_the_file(server):
  assert server.poll() is None
def test_ends_its_child(server):
  start(1006).kill()
"""
DEAF = """
import signal, time
def test_hangs_where_python_is_not_asked():
  signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
  time.sleep(1007)
"""


def run(folder, text, *options) -> subprocess.CompletedProcess:
  (folder / 'test_small.py').write_text(text.replace('{numbers}', str(folder / 'numbers')))
  command = [sys.executable, '-m', 'pytest', '-n0', '-rA', '-p', 'tests.support.children', '-c', 'pyproject.toml']
  return subprocess.run([*command, *options, str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.skipif(not PROC.is_dir(), reason='needs /proc')
def test_what_a_test_leaves_behind_is_killed_and_named(tmp_path):
  output = run(tmp_path, TESTS, '--timeout=2').stdout
  # Each test passes unless it hangs; an error is that of its end.
  words = [line.partition(' - ')[0].split(' test_small.py::test_') for line in output.splitlines() if '.py::' in line]
  of = lambda word: {words[1] for words in words if words[0] == word}
  left = {'leaves_a_child', 'leaves_a_child_of_a_dead_parent', 'leaves_a_fork', 'hangs_with_a_child'}
  assert of('ERROR') == left and of('FAILED') == {'hangs_with_a_child'}, output
  assert of('PASSED') >= {'uses_the_server_of_the_file', 'ends_its_child'}, output
  for seconds in (1002, 1003, 1005):
    assert f"left behind, and killed now: ['sleep {seconds}']" in output
  assert 'Timeout (>2.0s)' in output
  pids = (tmp_path / 'numbers').read_text().split()
  end = time.monotonic() + 10
  while (alive := [pid for pid in pids if (PROC / pid).exists()]) and time.monotonic() < end:
    time.sleep(0.02)
  assert len(pids) == 5 and not alive


def test_a_test_that_hangs_outside_python_ends_its_worker(tmp_path):
  done = run(tmp_path, DEAF, '--timeout=1', '-o', 'faulthandler_timeout=2')
  assert done.returncode == 1 and 'Timeout (0:00:02)!' in done.stderr and 'in test_hangs_where' in done.stderr
