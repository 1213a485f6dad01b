"""What there is to compute with: this machine, its software, and what accelerators can do as their vendors say it."""

import importlib.metadata
import os
import platform
from typing import NamedTuple

from tvts_jax import __version__

# What numbers and speed depend on.
PACKAGES = (
  'jax', 'jaxlib', 'flax', 'numpy', 'tensorflow', 'tensorflow-cpu', 'tokenizers', 'opencv-python-headless', 'torch',
)  # fmt: skip
# What changes speed from outside.
VARIABLES = ('XLA_FLAGS', 'GLIBC_TUNABLES', 'OMP_NUM_THREADS', 'LIBTPU_INIT_ARGS')
GB = 1e9


class Chip(NamedTuple):
  """Bandwidths are those of one chip in one direction."""

  kinds: tuple[str, ...]  # What JAX's names for the device begin with.
  flops: float  # Dense bfloat16 FLOP/s.
  memory: float  # Bytes.
  memory_speed: float  # bytes/s.
  link: float  # bytes/s between the chips of a slice, or the GPUs of a box.
  network: float  # bytes/s between slices, or boxes.
  cores: int  # Of the host, for each chip.
  together: int  # Chips that a host has.


CHIPS = {
  'v4': Chip(('TPU v4',), 275e12, 32 * 2**30, 1228 * GB, 300 * GB, 6.25 * GB, 60, 4),
  'v5e': Chip(('TPU v5 lite', 'TPU v5e'), 197e12, 16 * 2**30, 819 * GB, 200 * GB, 3.1 * GB, 28, 4),
  'v5p': Chip(('TPU v5', 'TPU v5p'), 459e12, 95 * 2**30, 2765 * GB, 600 * GB, 6.25 * GB, 52, 4),
  'v6e': Chip(('TPU v6 lite', 'TPU v6e'), 918e12, 32 * 2**30, 1640 * GB, 400 * GB, 12.5 * GB, 45, 4),
  'a100': Chip(('NVIDIA A100',), 312e12, 80 * GB, 2039 * GB, 300 * GB, 25 * GB, 12, 8),
  'h100': Chip(('NVIDIA H100',), 989e12, 80 * GB, 3350 * GB, 450 * GB, 50 * GB, 26, 8),
  'h200': Chip(('NVIDIA H200',), 989e12, 141 * GB, 4800 * GB, 450 * GB, 50 * GB, 28, 8),
}


def chip(device_kind: str) -> str | None:
  """The chip, of CHIPS, with the longest name that the device's begins with; None for others, such as a CPU."""
  fits = {kind: name for name, chip in CHIPS.items() for kind in chip.kinds if device_kind.startswith(kind)}
  return fits[max(fits, key=len)] if fits else None


def peak(device_kind: str) -> float | None:
  """Its FLOP/s."""
  name = chip(device_kind)
  return CHIPS[name].flops if name else None


def cores() -> int:
  """Those that this process may use, where the system says."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


def cpu() -> str:
  try:
    with open('/proc/cpuinfo') as f:
      return next(line.split(':')[1].strip() for line in f if line.startswith('model name'))
  except (FileNotFoundError, StopIteration):
    return platform.processor() or platform.machine()


def host() -> dict:
  flags = {name: os.environ[name] for name in VARIABLES if name in os.environ}
  return {'cpu': cpu(), 'cores': cores(), 'system': platform.platform(), 'environment': flags}


def devices() -> str:
  import jax  # Not for those who only count cores.

  return f'{jax.device_count()} x {jax.devices()[0].device_kind}'


def versions() -> dict[str, str]:
  """Of Python, of this package, and of those of PACKAGES that are installed."""
  found = {'tvts_jax': __version__, 'python': platform.python_version()}
  for package in PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found
