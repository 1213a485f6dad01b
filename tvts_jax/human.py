"""Numbers as people read them."""

import math
from collections.abc import Sequence


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
