"""When one process of a run is gone, the others say which, and leave."""

import signal
import socket
import time

import pytest

from tests.support import adders
from tvts_jax.errors import UserError
from tvts_jax.pod import distributed
from tvts_jax.pod.peers import RESTART

HOST = socket.gethostname()


@pytest.mark.parametrize('which', [0, pytest.param(2, marks=pytest.mark.long)])
def test_a_killed_process_is_named_at_once(which):
  processes = adders.start('run', 3, TVTS_HEARTBEAT_S='600')
  try:
    for process in processes:
      adders.wait_for_word(process, 'running')
    processes[which].kill()
    for process in set(processes) - {processes[which]}:
      said = process.communicate(timeout=240)[1]
      name = f'process {which} (pid {processes[which].pid} on {HOST})'
      assert f'tvts_jax: {name} died, so this process leaves with 76\n' in said, said
      assert process.returncode == RESTART
  finally:
    adders.end(processes)


@pytest.mark.parametrize('which', [0, pytest.param(1, marks=pytest.mark.long)])
def test_a_stopped_process_is_named_in_the_time_said(which):
  processes = adders.start('run', 2, TVTS_HEARTBEAT_S='10')
  try:
    for process in processes:
      adders.wait_for_word(process, 'running')
    began = time.monotonic()
    processes[which].send_signal(signal.SIGSTOP)
    said = processes[1 - which].communicate(timeout=240)[1]
    name = f'process {which} (pid {processes[which].pid} on {HOST})'
    sentence = f'tvts_jax: {name} has given no sign of life for 10 s, so this process leaves with 76\n'
    assert sentence in said, said
    assert processes[1 - which].returncode == RESTART and time.monotonic() - began > 5
    processes[which].send_signal(signal.SIGCONT)
    said = processes[which].communicate(timeout=240)[1]
    assert processes[which].returncode == RESTART and sentence in said, said  # It learns that it was given up.
  finally:
    adders.end(processes)


def test_a_bug_in_one_process_ends_all_with_its_code():
  processes = adders.start('bug', 2, TVTS_HEARTBEAT_S='600')
  try:
    other, failed = (process.communicate(timeout=240)[1] for process in processes)
    assert [process.returncode for process in processes] == [1, 1]
    assert "KeyError: 'key'" in failed and 'KeyError' not in other
    name = f'process 1 (pid {processes[1].pid} on {HOST})'
    assert f'tvts_jax: {name} left with 1 for what it printed, so this process leaves with 1\n' in other
  finally:
    adders.end(processes)


@pytest.mark.long
def test_strangers_are_not_heard_and_who_is_done_waits_in_silence():
  processes = adders.start('strangers', 3)
  try:
    said = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0] and 'tvts_jax:' not in ''.join(said), said
  finally:
    adders.end(processes)


def test_a_death_is_named_to_one_that_is_done_and_waits():
  processes = adders.start('end', 2, TVTS_HEARTBEAT_S='600')
  try:
    for process in processes:
      adders.wait_for_word(process, 'running')
    time.sleep(1)
    processes[0].kill()
    said = processes[1].communicate(timeout=240)[1]
    assert processes[1].returncode == RESTART and f'process 0 (pid {processes[0].pid} on' in said, said
  finally:
    adders.end(processes)


def test_errors_that_may_come_of_a_loss():
  def error(*chain):
    """Each the cause of the one before it."""
    for cause, effect in zip(chain[:0:-1], chain[-2::-1]):
      effect.__cause__ = cause
    return chain[0]

  lost = ValueError('UNKNOWN: Gloo all-reduce failed: Connection closed by peer')
  assert distributed.is_loss(lost)
  assert distributed.is_loss(error(UserError('step 5 could not be saved'), RuntimeError('reading'), lost))
  for other in (KeyError('UNKNOWN'), ValueError('RESOURCE_EXHAUSTED: Out of memory'), OSError(28, 'No space left')):
    assert not distributed.is_loss(error(UserError('step 5 could not be saved'), other))
  assert not distributed.is_loss(None)


@pytest.mark.parametrize('text', ['0', '-1', '1.5', 'long'])
def test_seconds_that_are_none(monkeypatch, text):
  monkeypatch.setenv('TVTS_HEARTBEAT_S', text)
  with pytest.raises(UserError, match=f'TVTS_HEARTBEAT_S={text} should be a number of seconds'):
    distributed.initialize()
