"""What accelerators can do, as their vendors say it: for shares of the peak, and for plans of runs on hardware that
nobody here has.

Bandwidths are those of one chip in one direction. `link` joins the chips of a slice, or the GPUs of a box; `network`
joins slices, or boxes.
"""

from typing import NamedTuple

GB = 1e9


class Chip(NamedTuple):
  kinds: tuple[str, ...]  # What JAX's names for the device begin with.
  flops: float  # dense bfloat16 FLOP/s
  memory: float  # bytes
  memory_speed: float  # bytes/s
  link: float  # bytes/s
  network: float  # bytes/s
  cores: int  # of the host, for each chip
  together: int  # chips that a host has


CHIPS = {
  'v4': Chip(('TPU v4',), 275e12, 32 * 2**30, 1228 * GB, 300 * GB, 6.25 * GB, 60, 4),
  'v5e': Chip(('TPU v5 lite', 'TPU v5e'), 197e12, 16 * 2**30, 819 * GB, 200 * GB, 3.1 * GB, 28, 4),
  'v5p': Chip(('TPU v5', 'TPU v5p'), 459e12, 95 * 2**30, 2765 * GB, 600 * GB, 6.25 * GB, 52, 4),
  'v6e': Chip(('TPU v6 lite', 'TPU v6e'), 918e12, 32 * 2**30, 1640 * GB, 400 * GB, 12.5 * GB, 45, 4),
  'a100': Chip(('NVIDIA A100',), 312e12, 80 * GB, 2039 * GB, 300 * GB, 25 * GB, 12, 8),
  'h100': Chip(('NVIDIA H100',), 989e12, 80 * GB, 3350 * GB, 450 * GB, 50 * GB, 26, 8),
  'h200': Chip(('NVIDIA H200',), 989e12, 141 * GB, 4800 * GB, 450 * GB, 50 * GB, 28, 8),
}


def peak(device_kind: str) -> float | None:
  """Of the longest name that the device's begins with; None for one that is not listed, such as a CPU."""
  fits = {kind: chip for chip in CHIPS.values() for kind in chip.kinds if device_kind.startswith(kind)}
  return fits[max(fits, key=len)].flops if fits else None
