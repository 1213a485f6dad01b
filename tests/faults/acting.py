"""tvts_jax.main, which follows a plan: python -m tests.faults.acting FLAGS, with the folder of the plan in PLAN.

PLAN/STEP names a place of the code. At 'numbers', where the numbers of that step are to be written,
and at 'report' each process makes PLAN/STEP.INDEX and goes on once PLAN/STEP.go is there; one for which there is
PLAN/STEP.INDEX.stays never does. At the other places, which lie on the way of the save of that step, the process ends
itself by SIGKILL, once, and leaves the time in PLAN/STEP.go.

PLAN/PID.clock holds the seconds by which the wall clock of a process has jumped, as far as Python reads it. (To set
the clock of the kernel would set that of the whole machine.)
"""

import os
import pathlib
import re
import signal
import threading
import time

import jax
from absl import app

from tvts_jax import main, report
from tvts_jax.files import half
from tvts_jax.run import checksums, metrics
from tvts_jax.run.checkpoint import Checkpoints

PLAN = pathlib.Path(os.environ['PLAN'])
SAVING = re.compile(r'/(\d+)-[^/]*\.unfinished')  # A checkpoint that is being written.


def planned(step: int | str, place: str) -> bool:
  file = PLAN / f'{step}'
  return file.exists() and file.read_text() == place and not (PLAN / f'{step}.go').exists()


def saved(path) -> str:
  """The step whose save writes this file."""
  found = SAVING.search(str(path))
  return found[1] if found else 'none'


def wait(step) -> None:
  index = jax.process_index()
  (PLAN / f'{step}.{index}').touch()
  if (PLAN / f'{step}.{index}.stays').exists():
    threading.Event().wait()
  while not (PLAN / f'{step}.go').exists():
    time.sleep(0.01)


def end(step) -> None:
  (PLAN / f'{step}.go').write_text(str(time.monotonic()))
  os.kill(os.getpid(), signal.SIGKILL)


def write_numbers(self, step, values, call=metrics.Writers.write):
  if planned(step, 'numbers'):
    wait(step)
  call(self, step, values)


def write_report(workdir, call=report.write):
  if planned('report', 'report'):
    wait('report')
  return call(workdir)


def digest(path, call=checksums.digest):
  if planned(saved(path), 'checksums'):
    end(saved(path))
  return call(path)


def write_list(path, text, call=checksums.write_whole):
  if planned(saved(path), 'half a list'):
    half(path).write_text(text[: len(text) // 2])
    end(saved(path))
  call(path, text)


def write(folder, call=checksums.write):
  call(folder)
  if planned(saved(folder), 'list'):
    end(saved(folder))


def retain(self, steps, call=Checkpoints._retain):
  if planned(steps[-1], 'rename'):
    end(steps[-1])
  return call(self, steps)


def now(call=time.time):
  jump = PLAN / f'{os.getpid()}.clock'
  return call() + (float(jump.read_text()) if jump.exists() else 0.0)


time.time = now
metrics.Writers.write, report.write, Checkpoints._retain = write_numbers, write_report, retain
checksums.digest, checksums.write_whole, checksums.write = digest, write_list, write

if __name__ == '__main__':
  app.run(main.main)
