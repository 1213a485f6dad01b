"""Every test sees eight virtual CPU devices and the strictest JAX."""

import os

# Tests spend their time compiling tiny programs, and optimising those costs more than it saves.
os.environ.setdefault('XLA_FLAGS', '--xla_backend_optimization_level=0')

import jax

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_numpy_rank_promotion', 'raise')
