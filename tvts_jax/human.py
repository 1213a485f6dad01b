"""Numbers as people read them, and how far long work is."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence

EVERY_S = 10.0  # Between two lines of progress.


def duration(seconds: float) -> str:
  """45 s, 12 min, 3 h 20 min, 2 d 4 h."""
  if seconds < 99.5:
    return f'{seconds:.0f} s' if seconds >= 9.95 or seconds < 0.05 else f'{seconds:.1f} s'
  minutes = round(seconds / 60)
  if minutes < 100:
    return f'{minutes} min'
  hours, minutes = divmod(minutes, 60)
  if hours < 48:
    return f'{hours} h {minutes} min'
  return f'{hours // 24} d {hours % 24} h'


def percent(share: float) -> str:
  """Two digits below a tenth, where chance levels lie."""
  return f'{100 * share:.2g}%' if abs(share) < 0.0995 else f'{100 * share:.1f}%'


def number(value: float) -> str:
  return f'{value:,.0f}' if 1000 <= abs(value) < 1e7 else f'{value:.3g}'


def columns(rows: Sequence[Sequence[str]]) -> str:
  """Rows of cells as lines in which columns stand below each other."""
  widths = [max(map(len, column)) for column in zip(*rows)]
  return '\n'.join('  '.join(map(str.ljust, row, widths)).rstrip() for row in rows)


def size(count: float) -> str:
  """Bytes: 512.0 bytes, 1.5 GiB."""
  power = min(4, int(math.log2(max(1, count)) / 10))
  return f'{count / 1024**power:,.1f} {("bytes", "KiB", "MiB", "GiB", "TiB")[power]}'


class Progress:
  """How far long work is, on stderr, every EVERY_S seconds: how much is done, how fast, and when all of it will be.

  Args:
    what: what is counted, in the plural.
    total: how many there are.
    before: how many were done before this began; they say nothing about the speed.
    live: says so at the end even of short work, and on a terminal every second, in a line that is written over.
  """

  def __init__(self, what: str, total: int, before: int = 0, live: bool = False):
    self.what, self.total, self.before, self.live = what, total, before, live
    self._rewritten = live and sys.stderr.isatty()
    self._begin = self._shown = time.monotonic()

  @classmethod
  def over(cls, values: Sequence, what: str) -> Iterator:
    """The values one by one, with the progress of whoever takes them."""
    progress = cls(what, len(values))
    for done, value in enumerate(values):
      progress.tell(done)
      yield value

  def tell(self, done: int, detail: Callable[[], str] = str) -> None:
    """detail: what else to show, called only if there is a line to write."""
    now = time.monotonic()
    last = done == self.total and (self.live or self._shown > self._begin)
    if not last and now - self._shown < (1 if self._rewritten else EVERY_S):
      return
    self._shown = now
    rate = (done - self.before) / max(now - self._begin, 1e-3)
    eta = duration((self.total - done) / rate) if rate else 'unknown'
    line = f'{done}/{self.total} {self.what}  {number(rate)}/s  ETA {eta}  {detail()}'.rstrip()
    if self._rewritten:
      print(f'\r{line:<100.160}', end='\n' * last, file=sys.stderr, flush=True)
    else:
      print(line, file=sys.stderr, flush=True)
