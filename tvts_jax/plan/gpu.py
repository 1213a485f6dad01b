"""GPUs that are not here, for XLA's compiler of GPUs: it needs one wheel, pip install -e '.[plan-gpu]', and no driver.

What it cannot know without one it is told: the chip, and the release of cuDNN. Matmuls are calls of cuBLAS, as its own
kernels would have to be timed on the chip.
"""

import importlib.util
import logging
import math
import types
from typing import NamedTuple

import jax
from jax.experimental import topologies

from tvts_jax.machine import Chip

PLUGIN = 'jax_plugins.xla_cuda13'
CUDNN = 91000
WORKSPACE = 4 << 20  # Bytes that it sets aside for cuBLAS.
ENVIRONMENT = {
  'CUDA_VISIBLE_DEVICES': '-1',
  'XLA_FLAGS': '--xla_gpu_enable_triton_gemm=false --xla_gpu_collect_cost_model_stats=true',
}


class Silicon(NamedTuple):
  """What the compiler asks of a chip beyond its memory, as NVIDIA's data sheets and CUDA's tables have it."""

  capability: tuple[int, int]
  cores: int  # Streaming multiprocessors.
  units: int  # For float32, of one of them.
  clock_ghz: float
  cache: int  # Bytes, L2.
  shared: int  # Bytes of one core; a block can have all but 1 KiB.


HOPPER = Silicon((9, 0), 132, 128, 1.98, 50 * 2**20, 228 * 2**10)
SILICON = {'NVIDIA A100': Silicon((8, 0), 108, 64, 1.41, 40 * 2**20, 164 * 2**10)}
SILICON |= {'NVIDIA H100': HOPPER, 'NVIDIA H200': HOPPER}


def has_compiler() -> bool:
  return importlib.util.find_spec('jax_plugins') is not None and importlib.util.find_spec(PLUGIN) is not None


def target(chip: Chip) -> str:
  """The chip as a GpuTargetConfigProto."""
  name = chip.kinds[0]
  its = SILICON[name]
  major, minor = its.capability
  return f"""
    gpu_device_info {{
      name: "{name}" device_vendor: "NVIDIA Corporation"
      cuda_compute_capability {{ major: {major} minor: {minor} }}
      core_count: {its.cores} fpus_per_core: {its.units} clock_rate_ghz: {its.clock_ghz}
      device_memory_size: {chip.memory:.0f} memory_bandwidth: {chip.memory_speed:.0f} l2_cache_size: {its.cache}
      shared_memory_per_core: {its.shared} shared_memory_per_block_optin: {its.shared - 1024}
      shared_memory_per_block: 49152 registers_per_core_limit: 65536 registers_per_block_limit: 65536
      threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
      thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
      block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
      device_address_bits: 64 ecc_enabled: true
      driver_version: "13.0.0" runtime_version: "13.0.0" compile_time_toolkit_version: "13.0.0"
    }}
    platform_name: "CUDA" device_description_str: "{name}"
    dnn_version_info {{ major: {CUDNN // 10000} minor: {CUDNN // 100 % 100} patch: {CUDNN % 100} }}
  """


def devices(chip: Chip, count: int) -> list[jax.Device]:
  """So many of them, in boxes of at most `chip.together`."""
  logging.getLogger(PLUGIN).setLevel(logging.ERROR)  # It tells that it has no driver.
  each = count if count <= chip.together else math.gcd(count, chip.together)
  how = {'topology': f'1x{count // each}x{each}', 'target_config': target(chip)}
  found = topologies.get_topology_desc(topology_name='', platform='cuda', **how).devices
  # JAX asks the cuDNN that is installed for its release. There is none here.
  from jax._src.cudnn import fused_attention_stablehlo

  fused_attention_stablehlo.cuda_versions = types.SimpleNamespace(cudnn_get_version=lambda: CUDNN)
  return list(found)
