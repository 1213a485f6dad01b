"""What every test sees: the CPU, one device unless its file asks for more, and the strictest JAX.

  pytest          the tests that every change must pass
  pytest --all    these and the long battery: what is marked with @pytest.mark.long

A file that sets DEVICES = 8 gets eight virtual devices.
"""

import contextlib
import fcntl
import gc
import importlib
import os

# Models are tiny here, so that compiling is most of the work; processes that tests start do the same.
os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jax.extend import backend

from tests.support.children import no_process_outlives_its_test  # noqa: F401 (every test uses it)
from tvts_jax import machine

# Tracing makes millions of objects that live on, and the collector would go through them again and again.
gc.set_threshold(100_000, 50, 100)
jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 1)
jax.config.update('jax_numpy_rank_promotion', 'raise')


# Files that take longest begin, or three workers would wait for the last one.
FIRST = (
  *('tests/test_train.py', 'tests/faults/', 'tests/test_step.py', 'tests/models/', 'tests/configs/', 'tests/convert/'),
  *('tests/test_small_frames.py', 'tests/doctor/', 'tests/docs/', 'tests/bench/'),
)


def pytest_addoption(parser):
  parser.addoption('--all', action='store_true', help='run the long battery as well')


def pytest_configure(config):
  config.addinivalue_line('markers', 'long: part of the long battery, which only --all runs')


def pytest_sessionstart(session):
  """Workers that collect everything import it in different orders, so that each finds rewritten what the others have
  rewritten before, where all would else rewrite each file at the same time."""
  config = session.config
  if hasattr(config, 'workerinput') and config.args_source is config.ArgsSource.TESTPATHS:
    files = sorted((config.rootpath / 'tests').rglob('test_*.py'))
    nth, count = int(config.workerinput['workerid'].removeprefix('gw')), config.workerinput['workercount']
    first = len(files) * nth // count
    for file in files[first:] + files[:first]:
      with contextlib.suppress(pytest.skip.Exception):  # Told when it is collected.
        importlib.import_module('.'.join(file.relative_to(config.rootpath).with_suffix('').parts))


def pytest_collection_modifyitems(config, items):
  if not config.getoption('--all'):
    long = [item for item in items if item.get_closest_marker('long')]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if not item.get_closest_marker('long')]
  first = lambda item: next((i for i, begin in enumerate(FIRST) if item.nodeid.startswith(begin)), len(FIRST))
  items.sort(key=first)


def made_by_all(tmp_path_factory, worker_id):
  """The folder of what all workers share."""
  own = tmp_path_factory.getbasetemp()
  return own if worker_id == 'master' else own.parent


@pytest.fixture(scope='session', autouse=True)
def what_one_worker_has_compiled_serves_for_all(tmp_path_factory, worker_id):
  jax.config.update('jax_compilation_cache_dir', str(made_by_all(tmp_path_factory, worker_id) / 'compiled'))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)


@pytest.fixture(scope='module', autouse=True)
def as_many_devices_as_the_file_asks_for(request):
  wanted = getattr(request.module, 'DEVICES', 1)
  if jax.config.jax_num_cpu_devices != wanted:
    jax.clear_caches()
    backend.clear_backends()
    jax.config.update('jax_num_cpu_devices', wanted)
    jax.config.update('jax_enable_compilation_cache', wanted == 1)  # Programs of several that come out of it may hang.
    compilation_cache.reset_cache()


def pytest_xdist_auto_num_workers(config):
  """One more than there are cores, since tests of several processes wait for much of their time; 2 GiB for each."""
  memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  return max(1, min(machine.cores() + 1, memory // 2**31))


@pytest.fixture(scope='module')
def demo(tmp_path_factory, worker_id):
  """A folder for the runs of a test file, with a world of a few clips and all that the demo makes of it."""
  from tests.support import runs  # Which imports orbax.

  made = made_by_all(tmp_path_factory, worker_id) / 'made'
  with open(made.with_name('made.lock'), 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)  # The first of all workers makes it.
    if not made.exists():
      runs.make(made.with_name('making'))
      made.with_name('making').rename(made)
  root = tmp_path_factory.mktemp('demo')
  for part in ('world', 'shards', 'vocab', 'text', 'compiled'):
    (root / part).symlink_to(made / part)
  return root
