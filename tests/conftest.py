"""Every test sees eight virtual CPU devices and the strictest JAX."""

import os
import pathlib

# Tests spend their time compiling tiny programs, and optimising those costs more than it saves; what one process has
# compiled, others of this and of later test runs take from a folder.
FLAGS = (
  '--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1'
)
COMPILED = pathlib.Path(__file__).parents[1] / '.pytest_cache' / 'compiled'
os.environ.setdefault('XLA_FLAGS', FLAGS)
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(COMPILED))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')

import jax  # noqa: E402 - which reads them when it is imported

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')
