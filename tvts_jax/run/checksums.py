"""Numbers that change with any bit: of the files of a folder, and of arrays where they lie on their devices."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tvts_jax.files import sync, write_whole
from tvts_jax.shards import storage

LIST = 'checksums.sha256'  # In the folder itself, and as sha256sum writes it: `sha256sum -c` reads it, too.
BLOCK = 2**22  # Bytes.


def write(folder) -> None:
  """Lists all files of a folder, as the last one that comes into it."""
  found = digests(folder)
  if storage.is_local(folder):
    for name in found:  # Only then do they outlive a power cut, and only then do some storages tell that they are full.
      sync(folder / name)
  lines = ''.join(f'{digest}  {name}\n' for name, digest in found.items())
  write_whole(folder / LIST, lines + seal(lines.encode()))


def damage(folder) -> str | None:
  """None if a folder holds the files of its list as they were; otherwise what is wrong with which file."""
  if not (folder / LIST).exists():
    return f'{LIST} is missing'
  try:
    lines, mark, rest = (folder / LIST).read_bytes().rpartition(b'# ')
    found = digests(folder)
  except storage.StorageError:
    raise
  except OSError as e:
    return f'{e.filename} cannot be read: {e.strerror or e}'
  if (mark + rest).decode(errors='replace') != seal(lines):
    return f'{LIST} has changed'
  listed = {name: digest for digest, name in (line.split('  ', 1) for line in lines.decode().splitlines())}
  wrong = []
  for name in sorted(found.keys() | listed.keys()):
    if name not in found:
      wrong.append(f'{name} is missing')
    elif name not in listed:
      wrong.append(f'{name} does not belong there')
    elif found[name] != listed[name]:
      wrong.append(f'{name} has changed')
  more = f' (and {len(wrong) - 1} more)' if len(wrong) > 1 else ''
  return wrong[0] + more if wrong else None


def seal(lines: bytes) -> str:
  """The last line of a list, a comment to sha256sum: the list lies among what it guards."""
  return f'# {hashlib.sha256(lines).hexdigest()}\n'


def digests(folder) -> dict[str, str]:
  paths = [path for path in storage.files_below(folder) if path != folder / LIST]
  with ThreadPoolExecutor(8) as threads:
    return dict(zip((path.relative_to(folder).as_posix() for path in paths), threads.map(digest, paths)))


def digest(path) -> str:
  result = hashlib.sha256()
  try:
    with path.open('rb') as file:
      while block := file.read(BLOCK):
        result.update(block)
  except OSError as e:
    e.filename = str(path)  # Which an error of reading lacks.
    raise
  return result.hexdigest()


def fingerprints(arrays: dict) -> dict[str, int]:
  """32 bits for each array, of up to as many an element. Sums of integers know no order, so any mesh gives the same."""
  return {name: int(x) for name, x in jax.device_get(fingerprints_on_device(arrays)).items()}


@jax.jit  # All in one program: of many that sum over devices, virtual ones could wait for each other forever.
def fingerprints_on_device(arrays: dict) -> dict:
  return {name: fingerprint(x) for name, x in arrays.items()}


@jax.jit  # So that arrays of one shape are traced once.
def fingerprint(x):
  """Mixes each element with its place, one to one, as MurmurHash3 does, so that no change makes up for another."""
  bits = x if x.dtype == bool else lax.bitcast_convert_type(x, f'uint{8 * x.dtype.itemsize}')
  place, stride = jnp.zeros(x.shape, np.uint32), 1
  for axis in reversed(range(x.ndim)):
    place += lax.broadcasted_iota(np.uint32, x.shape, axis) * np.uint32(stride % 2**32)
    stride *= x.shape[axis]
  mixed = bits.astype(np.uint32) ^ place * np.uint32(0x9E3779B9)
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
    mixed = (mixed ^ mixed >> shift) * np.uint32(factor)
  return jnp.sum(mixed ^ mixed >> 16, dtype=np.uint32)
