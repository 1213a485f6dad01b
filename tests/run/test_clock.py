"""The clock, with a time that the tests turn."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvts_jax.run import clock as clock_lib
from tvts_jax.run.background import Background
from tvts_jax.run.clock import PARTS, Clock


class Time:
  """Monotonic and wall time of a machine that runs."""

  def __init__(self, wall=1_000_000.0):
    self.up, self.wall = 0.0, wall

  def sleep(self, seconds):
    self.up += seconds
    self.wall += seconds

  def clock(self, state=None):
    return Clock(state, monotonic=lambda: self.up, wall=lambda: self.wall)


def spend(time, clock, name, seconds):
  with clock.span(name):
    time.sleep(seconds)


def seconds(clock):
  return {name: s for name, s in clock.state()['seconds'].items() if s}


def test_every_second_has_one_part():
  time = Time()
  clock = time.clock()
  time.sleep(1)
  spend(time, clock, 'compile', 2)
  time.sleep(4)
  with clock.span('evaluate'):
    time.sleep(8)
    spend(time, clock, 'input', 16)
    time.sleep(32)
  time.sleep(64)
  assert seconds(clock) == {'start': 1, 'compile': 2, 'other': 68, 'evaluate': 40, 'input': 16}
  assert seconds(clock) == seconds(clock), 'to ask changes nothing'


def test_a_span_that_fails_ends():
  time = Time()
  clock = time.clock()
  with pytest.raises(KeyError), clock.span('save'):
    time.sleep(1)
    raise KeyError
  time.sleep(2)
  assert seconds(clock) == {'save': 1, 'other': 2}


def test_an_unknown_part_is_refused():
  with pytest.raises(ValueError, match=r"no part 'inputs'; it has start, compile, input, step"):
    with Time().clock().span('inputs'):
      pass


@given(st.lists(st.tuples(st.sampled_from([None, *PARTS]), st.floats(0, 1e4), st.booleans()), max_size=30))
@settings(max_examples=50, deadline=None)
def test_the_parts_add_up_to_the_whole_over_restarts(events):
  """Whatever the spans, and however often the process is killed: all time since the first save is in the sum."""
  time = Time()
  clock, saved, forgotten = time.clock(), None, 0.0
  for name, length, restart in events:
    if name is None:
      time.sleep(length)
    else:
      spend(time, clock, name, length)
    if restart:
      clock = time.clock(saved)
      forgotten = forgotten if saved else time.up  # Nothing was saved yet.
    else:
      saved = json.loads(json.dumps(clock.state()))
  assert sum(clock.state()['seconds'].values()) == pytest.approx(time.up - forgotten, abs=1e-6)


def test_what_a_restart_costs():
  time = Time()
  clock = time.clock()
  spend(time, clock, 'step', 100)
  saved = clock.state()
  spend(time, clock, 'step', 30)
  time.sleep(7)  # Killed; a launcher comes back.
  assert seconds(time.clock(saved)) == {'step': 100, 'restart': 37}
  assert time.clock(saved).state()['restarts'] == 1


def test_the_last_word_of_the_other_process_tells_lost_work_from_a_pause():
  time = Time()
  clock = time.clock()
  spend(time, clock, 'step', 100)
  saved = clock.state()
  spend(time, clock, 'step', 30)
  last = clock.state()
  time.sleep(7e5)
  for _ in range(2):  # The second time it dies before it saves again.
    clock = time.clock()
    time.sleep(5)
    clock.restore(saved, last)
    spend(time, clock, 'step', 10)
    last = clock.state()
    time.sleep(1000)
  state = last
  assert {n: s for n, s in state['seconds'].items() if s} == {'start': 5, 'step': 110, 'restart': 30 + 15}
  assert state['down'] == 7e5 + 1000 and state['restarts'] == 2
  assert sum(state['seconds'].values()) + state['down'] == time.up - 1000


def test_killed_before_the_first_checkpoint():
  time = Time()
  clock = time.clock()
  spend(time, clock, 'step', 30)
  last = clock.state()
  clock = time.clock()
  clock.restore(None, last)
  assert seconds(clock) == {'restart': 30}


def test_a_word_older_than_the_checkpoint_says_nothing():
  time = Time()
  clock = time.clock()
  spend(time, clock, 'step', 10)
  last = clock.state()
  spend(time, clock, 'step', 10)
  saved = clock.state()
  time.sleep(3)
  clock = time.clock()
  clock.restore(saved, last)
  assert seconds(clock) == {'step': 20, 'restart': 3}


def test_a_wall_clock_set_back_loses_nothing():
  time = Time()
  clock = time.clock()
  spend(time, clock, 'step', 10)
  saved = clock.state()
  time.wall -= 3600
  spend(time, clock, 'step', 10)
  assert seconds(clock) == {'step': 20}
  assert seconds(time.clock(saved)) == {'step': 10}


# Rates.


def loop(time, clock, steps, waited=0.1, trained=0.4):
  for _ in range(steps):
    spend(time, clock, 'input', waited)
    spend(time, clock, 'step', trained)


def test_rates():
  time = Time()
  clock = time.clock()
  spend(time, clock, 'compile', 100)
  assert clock.rates(10, 32) is None
  loop(time, clock, 1, waited=50)
  assert clock.rates(10, 32) is None
  loop(time, clock, 20)
  rates = clock.rates(10, 32)
  assert rates.steps_per_s == pytest.approx(2)
  assert rates.clips_per_s == pytest.approx(64)
  assert rates.waiting == pytest.approx(0.2)
  assert rates.eta_s == pytest.approx(5)
  assert clock.rates(0, 32).eta_s == 0


def test_evaluating_and_saving_slow_the_end_but_not_the_rate():
  time = Time()
  clock = time.clock()
  loop(time, clock, 20)
  spend(time, clock, 'evaluate', 8)
  spend(time, clock, 'save', 2)
  loop(time, clock, 20)
  rates = clock.rates(10, 32)
  assert rates.steps_per_s == pytest.approx(2)
  assert rates.eta_s == pytest.approx(5 * (20 + 10) / 20)


def test_rates_are_of_the_last_minute():
  time = Time()
  clock = time.clock()
  loop(time, clock, 1000)
  loop(time, clock, 10, waited=30, trained=10)
  rates = clock.rates(10, 32)
  assert rates.steps_per_s == pytest.approx(1 / 40) and rates.waiting == pytest.approx(3 / 4)


# The file.


def test_the_file(tmp_path, caplog):
  time = Time()
  clock = time.clock()
  spend(time, clock, 'save', 1.5)
  assert clock_lib.read(tmp_path) is None
  clock.write(tmp_path, Background())
  spend(time, clock, 'save', 1)
  clock.write(tmp_path, Background())
  assert clock_lib.read(tmp_path) == clock.state()
  assert [path.name for path in tmp_path.iterdir()] == ['clock.json'], 'nothing else is left'


@pytest.mark.parametrize('text', ['', '{', '[]', '{}', '{"seconds": [], "down": 0, "wall": 0, "restarts": 0}'])
def test_a_damaged_file_is_told_and_left_aside(tmp_path, caplog, text):
  (tmp_path / 'clock.json').write_text(text)
  assert clock_lib.read(tmp_path) is None
  assert 'clock.json is damaged' in caplog.text


def test_times_that_cannot_be_written_stop_no_run(tmp_path, caplog):
  (tmp_path / 'file').write_text('')
  Time().clock().write(tmp_path / 'file', Background())
  assert 'file/clock.json cannot be written: Not a directory' in caplog.text
