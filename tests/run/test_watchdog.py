"""Who stands still is ended, and shows where; who only is slow, or was paused, is not."""

import re
import signal
import threading
import time

import pytest

from tests.support import adders
from tvts_jax.errors import UserError
from tvts_jax.evaluators.features import advance
from tvts_jax.human import Progress
from tvts_jax.pod.peers import RESTART
from tvts_jax.run import watchdog
from tvts_jax.run.clock import Clock
from tvts_jax.run.watchdog import Watchdog


@pytest.mark.parametrize('what, where', [('hang', 'sleep_in_python'), ('stuck', 'wait_in_c')])
def test_a_process_that_hangs_and_one_that_waits_for_it_in_a_collective(what, where):
  processes = adders.start(what, 2, TVTS_PATIENCE_S='10')
  try:
    waiting, hanging = (process.communicate(timeout=240)[1] for process in processes)
  finally:
    adders.end(processes)
  assert [process.returncode for process in processes] == [RESTART, RESTART], waiting + hanging
  # Which of them notices first is chance, and tells the other.
  assert re.search(r'process .*stood still for 10 s, waiting for input', waiting + hanging), waiting + hanging
  for said, function in ((waiting, 'run'), (hanging, where)):
    main = said.rpartition('Thread 0x')[2]
    assert re.search(rf'File ".*/tests/support/adders.py", line \d+ in {function}\n', main), said
  assert where not in waiting


def test_a_paused_process_goes_on_and_one_alone_that_hangs_does_not():
  (process,) = adders.start('hang', 1, TVTS_PATIENCE_S='3')
  try:
    process.send_signal(signal.SIGSTOP)
    time.sleep(5)
    process.send_signal(signal.SIGCONT)
    adders.wait_for_word(process, 'running')
    said = process.communicate(timeout=240)[1]
    assert process.returncode == RESTART and 'sleep_in_python' in said, said
    assert (
      'stood still for 3 s, waiting for input, so it leaves with 76; if it was only slow, set TVTS_PATIENCE_S' in said
    )
  finally:
    adders.end([process])


def test_what_takes_long_and_says_that_it_goes_on_is_not_ended(monkeypatch):
  ended, clock = threading.Event(), Clock()
  monkeypatch.setenv('TVTS_PATIENCE_S', '1')
  monkeypatch.setattr(watchdog, 'LONG', 1)
  monkeypatch.setattr(Watchdog, '_end', lambda *_: ended.set())
  with Watchdog(clock), clock.span('evaluate'):
    progress = Progress('clips', 100)
    for done in range(1, 21):
      advance(progress, done)
      assert not ended.wait(0.1)
    assert ended.wait(10)


def test_patience_grows_with_the_usual_step(monkeypatch):
  now = 0.0
  clock = Clock(monotonic=lambda: now)
  patient = Watchdog(clock)
  assert [patient.limit_s(part) for part in ('start', 'input', 'step', 'evaluate')] == [3600, 300, 300, 3600]
  for _ in range(3):
    with clock.span('input'):
      now += 10
    with clock.span('step'):
      now += 30
  with clock.span('evaluate'):
    now += 1000
  assert [patient.limit_s(part) for part in ('input', 'step', 'save')] == [800, 800, 3600]
  monkeypatch.setenv('TVTS_PATIENCE_S', '1000')
  assert [Watchdog(clock).limit_s(part) for part in ('step', 'save')] == [1000, 12000]
  monkeypatch.setenv('TVTS_PATIENCE_S', 'long')
  with pytest.raises(UserError, match='TVTS_PATIENCE_S=long should be a number of seconds'):
    Watchdog(clock)
