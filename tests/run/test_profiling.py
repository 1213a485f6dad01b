"""Traces on request: which steps they hold, and that they never stop a run."""

import contextlib
import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from tvts_jax.run import profiling
from tvts_jax.run.background import Background


def loop(workdir, steps, at=0, every=2, ask_at=None):
  """A run in miniature, of which someone asks for a trace while step `ask_at` is computed."""
  step_fn, state = jax.jit(lambda x: x @ x), jnp.eye(8)
  with profiling.Profile(workdir, at, every, Background()) as profile:
    for s in range(steps):
      profile.before(s, state)
      with jax.profiler.StepTraceAnnotation('train', step_num=s):
        state = step_fn(state)
      if s == ask_at:
        (workdir / profiling.FILE).touch()


def traced(workdir) -> list[list[int]]:
  """The steps in each trace."""
  found = []
  for path in sorted((workdir / 'tensorboard' / 'plugins' / 'profile').glob('*/*.trace.json.gz')):
    events = json.loads(gzip.decompress(path.read_bytes()))['traceEvents']
    found.append([int(event['args']['step_num']) for event in events if event.get('name') == 'train'])
    assert path.with_name(path.name.replace('.trace.json.gz', '.xplane.pb')).stat().st_size > 0
  return found


@pytest.mark.parametrize(
  'asked, steps',
  [
    (dict(at=3), [3, 4, 5, 6, 7]),
    (dict(ask_at=2), [4, 5, 6, 7, 8]),  # Between two looks.
    (dict(ask_at=10), [12]),  # The run ends before the trace does.
  ],
)
def test_a_trace_holds_five_whole_steps(tmp_path, asked, steps):
  loop(tmp_path, 13, **asked)
  assert traced(tmp_path) == [steps]
  assert not (tmp_path / profiling.FILE).exists()


def test_nobody_asks_and_nothing_is_traced(tmp_path):
  loop(tmp_path, 13)
  assert not list(tmp_path.iterdir())


def test_a_trace_that_can_not_be_written_stops_no_run(tmp_path, caplog):
  (tmp_path / 'tensorboard').write_text('in the way')
  loop(tmp_path, 13, at=3)
  assert 'no trace: ' in caplog.text
  (tmp_path / 'tensorboard').unlink()
  with contextlib.suppress(RuntimeError):  # JAX 0.12 has stopped it by itself.
    jax.profiler.stop_trace()  # For the tests that follow.
