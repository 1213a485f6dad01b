"""Every test sees eight virtual CPU devices and the strictest JAX."""

import os

# Models are tiny here, so that compiling is most of the work; processes that tests start do the same.
os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'

import jax

from tests.support.children import no_process_outlives_its_test  # noqa: F401 (every test uses it)
from tvts_jax import machine

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')


def pytest_xdist_auto_num_workers(config):
  """One more than there are cores: tests of several processes wait for much of their time."""
  return machine.cores() + 1
