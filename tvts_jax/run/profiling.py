"""A trace of a few steps, for TensorBoard or Perfetto, taken while the run goes on and only when someone asks for it.

A file WORKDIR/profile asks for one at once (it is removed), the setting `profile_at` for one at that step. Process 0
alone looks, and traces what it and its devices do, into WORKDIR/tensorboard/plugins/profile.
"""

import contextlib

import jax
from absl import logging

from tvts_jax.run.background import Background
from tvts_jax.shards import storage

FILE = 'profile'
STEPS = 5


class Profile:
  """Entered around the loop; what is being traced when it is left is written all the same."""

  def __init__(self, workdir, at: int, every: int, background: Background):
    """at: a step to begin with, or 0; every: steps between two looks for the file."""
    workdir = storage.path(workdir)
    self._asked, self._folder = workdir / FILE, workdir / 'tensorboard'
    self._at, self._every, self._background = at, every, background
    self._end = None  # The step before which the trace ends that is being taken.

  def __enter__(self):
    return self

  def __exit__(self, kind, error, traceback) -> None:
    self.close()

  def before(self, step: int, state) -> None:
    """Begins or ends a trace if it is time. state: what the step before gives, since a trace holds whole steps."""
    if jax.process_index() != 0:
      return
    if step == self._end:
      jax.block_until_ready(state)
      self.close()
    if self._end is None:
      with no_reason_to_stop():
        if step == self._at > 0 or self._file_asks(step):
          options = jax.profiler.ProfileOptions()
          options.python_tracer_level = 0  # Each call in each thread that reads data would fill most of the trace.
          jax.profiler.start_trace(self._background.local(self._folder), profiler_options=options)
          self._end = step + STEPS

  def _file_asks(self, step: int) -> bool:
    if step % self._every or not self._background.seen(self._asked):
      return False
    self._asked.unlink(missing_ok=True)
    return True

  def close(self) -> None:
    """Writes the trace that is being taken, if one is."""
    if self._end is None:
      return
    begin, self._end = self._end - STEPS, None
    with no_reason_to_stop():
      jax.profiler.stop_trace()
      logging.info('the trace that begins with step %d is in %s', begin, self._folder / 'plugins' / 'profile')


@contextlib.contextmanager
def no_reason_to_stop():
  """A full disk is one for checkpoints; here it is only told."""
  try:
    yield
  except (OSError, RuntimeError) as e:
    logging.warning('no trace: %s', str(e).partition('\n')[0])
