"""How far a long loop is, on stderr."""

import sys
import time
from collections.abc import Iterator, Sequence

from tvts_jax.human import duration, number

EVERY_S = 10.0


def told(values: Sequence, what: str) -> Iterator:
  """The values, with a line of progress every now and then."""
  began = said = time.monotonic()
  for done, value in enumerate(values):
    if (now := time.monotonic()) - said > EVERY_S and done:
      said, left = now, (len(values) - done) * (now - began) / done
      print(f'{done}/{len(values)} {what}  {number(done / (now - began))}/s  ETA {duration(left)}', file=sys.stderr)
    yield value
