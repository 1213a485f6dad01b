"""What a worker may be given: tasks for tests of data.builder.workers, light to import because each child does."""

import ctypes
import os
import time
from pathlib import Path

from data.outcomes import BuildError, ItemError


def act(job):
  """job: a word for what happens, or a path: dies the first time, answers the second."""
  if job == 'crash':
    ctypes.string_at(0)
  elif job == 'exit':
    os._exit(3)
  elif job == 'hang':
    time.sleep(1000)
  elif job == 'memory':
    return len(bytearray(1 << 31))
  elif job == 'item error':
    raise ItemError('too_few_words', 'two')
  elif job == 'bug':
    raise ZeroDivisionError('a bug')
  elif job == 'disk full':
    raise BuildError('no space left', 'output')
  elif job == 'pid':
    return os.getpid()
  elif os.sep in job:
    if Path(job).exists():
      return 'second'
    Path(job).touch()
    os._exit(1)
  return job.upper()
