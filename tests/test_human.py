"""Numbers as people read them, and how far long work is."""

import io

import pytest

from tvts_jax import human
from tvts_jax.human import Progress, duration, number, percent


@pytest.mark.parametrize(
  'seconds, text',
  [(0, '0 s'), (0.42, '0.4 s'), (9.96, '10 s'), (99, '99 s'), (100, '2 min'), (5969, '99 min'), (5971, '1 h 40 min')]
  + [(86400, '24 h 0 min'), (3 * 86400 + 7300, '3 d 2 h')],
)
def test_duration(seconds, text):
  assert duration(seconds) == text


@pytest.mark.parametrize(
  'share, text',
  [(0, '0%'), (4**-4, '0.39%'), (1 / 24, '4.2%'), (0.0999, '10.0%'), (0.25, '25.0%'), (1, '100.0%'), (-0.5, '-50.0%')],
)
def test_percent(share, text):
  assert percent(share) == text


@pytest.mark.parametrize(
  'value, text', [(0, '0'), (1.23456, '1.23'), (999, '999'), (1234.5, '1,234'), (1e7, '1e+07'), (1e-9, '1e-09')]
)
def test_number(value, text):
  assert number(value) == text


class Clock:
  """One second passes from one look to the next."""

  def __init__(self):
    self.now = 0.0

  def monotonic(self) -> float:
    self.now += 1
    return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch):
  clock = Clock()
  monkeypatch.setattr(human, 'time', clock)
  return clock


def test_progress_is_shown_every_ten_seconds_and_at_the_end(capsys):
  asked = []
  progress = Progress('clips', 25, before=5)
  for done in range(6, 26):
    progress.tell(done, lambda done=done: asked.append(done) or f'loss {done}')
  assert capsys.readouterr().err == '15/25 clips  1/s  ETA 10 s  loss 15\n25/25 clips  1/s  ETA 0 s  loss 25\n'
  assert asked == [15, 25]


def test_progress_of_short_work_is_shown_only_if_live(capsys):
  for live in (False, True):
    progress = Progress('items', 2, live=live)
    progress.tell(0)
    progress.tell(2)
  assert capsys.readouterr().err == '2/2 items  1/s  ETA 0 s\n'


def test_progress_that_has_not_begun(capsys, clock):
  progress = Progress('items', 2, before=1)
  progress.tell(1)
  clock.now += 60
  progress.tell(1)
  assert capsys.readouterr().err == '1/2 items  0/s  ETA unknown\n'


def test_live_progress_overwrites_its_line_on_a_terminal(monkeypatch):
  terminal = io.StringIO()
  terminal.isatty = lambda: True
  monkeypatch.setattr('sys.stderr', terminal)
  progress = Progress('items', 3, live=True)
  for done in (1, 2, 3):
    progress.tell(done)
  *lines, end = terminal.getvalue().split('\r')[1:]
  assert [line.rstrip(' ') for line in lines] == ['1/3 items  1/s  ETA 2.0 s', '2/3 items  1/s  ETA 1.0 s']
  assert end.startswith('3/3 items') and end.endswith(' \n')


def test_progress_over_values(capsys):
  assert list(Progress.over(range(0, 24, 2), 'times 2 frames')) == [*range(0, 24, 2)]
  assert capsys.readouterr().err == '9/12 times 2 frames  0.9/s  ETA 3.3 s\n'
