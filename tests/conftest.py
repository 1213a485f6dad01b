"""What every test sees: the CPU, one device unless its file asks for more, and the strictest JAX.

  pytest          the tests that every change must pass
  pytest --all    these and the long battery: what is marked with @pytest.mark.long

A file that sets DEVICES = 8 gets eight virtual devices.
"""

import fcntl
import gc
import os

# Models are tiny here, so that compiling is most of the work; processes that tests start do the same.
os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'

import jax
import pytest
from jax.extend import backend

from tests.support.children import no_process_outlives_its_test  # noqa: F401 (every test uses it)
from tvts_jax import machine

# Tracing makes millions of objects that live on, and the collector would go through them again and again.
gc.set_threshold(100_000, 50, 100)
jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 1)
jax.config.update('jax_numpy_rank_promotion', 'raise')


# Files that take longest begin, or two workers would wait for the last one.
FIRST = ('tests/faults/', 'tests/test_train.py', 'tests/test_step.py', 'tests/models/', 'tests/doctor/')


def pytest_addoption(parser):
  parser.addoption('--all', action='store_true', help='run the long battery as well')


def pytest_configure(config):
  config.addinivalue_line('markers', 'long: part of the long battery, which only --all runs')


def pytest_collection_modifyitems(config, items):
  if not config.getoption('--all'):
    long = [item for item in items if item.get_closest_marker('long')]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if not item.get_closest_marker('long')]
  items.sort(key=lambda item: not item.nodeid.startswith(FIRST))


@pytest.fixture(scope='module', autouse=True)
def as_many_devices_as_the_file_asks_for(request):
  wanted = getattr(request.module, 'DEVICES', 1)
  if jax.config.jax_num_cpu_devices != wanted:
    jax.clear_caches()
    backend.clear_backends()
    jax.config.update('jax_num_cpu_devices', wanted)


def pytest_xdist_auto_num_workers(config):
  """Two more than there are cores, since tests of several processes wait for much of their time; 2 GiB for each."""
  memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
  return max(1, min(machine.cores() + 2, memory // 2**31))


@pytest.fixture(scope='module')
def demo(tmp_path_factory, worker_id):
  """A folder for the runs of a test file, with a world of a few clips and all that the demo makes of it."""
  from tests.support import runs  # Which imports orbax.

  common = tmp_path_factory.getbasetemp() if worker_id == 'master' else tmp_path_factory.getbasetemp().parent
  made = common / 'made'
  with open(common / 'made.lock', 'w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)  # The first of all workers makes it.
    if not made.exists():
      runs.make(made.with_name('making'))
      made.with_name('making').rename(made)
  root = tmp_path_factory.mktemp('demo')
  for part in ('world', 'shards', 'vocab', 'text', 'compiled'):
    (root / part).symlink_to(made / part)
  return root
