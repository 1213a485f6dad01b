"""The two formats of PyTorch checkpoints: a pickle, which says what the tensors are, beside their numbers. A module of
TorchScript is in the newer one.

No number is read before its size is checked against that of the file, and a tensor's only when it is asked for.
"""

import io
import mmap
import os
import pathlib
import struct
import zipfile
from typing import Any, NamedTuple

from tvts_jax.convert.load_report import ConvertError
from tvts_jax.convert.unpickle import BROKEN, Damaged, Machine, Storage

# The first pickle of the format before PyTorch 1.6 is this number.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_START = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'
ZIP_START = b'PK\x03\x04'


class Contents(NamedTuple):
  root: Any  # Dicts, lists and values, with a Tensor wherever the file has one.
  inert: list[str]  # The classes of which objects were left alone.


def read(path: pathlib.Path) -> Contents:
  """The contents of a checkpoint of either format; raises ConvertError."""
  try:
    with path.open('rb') as file:
      start = file.read(len(LEGACY_START))
    return read_zip(path) if start.startswith(ZIP_START) else read_legacy(path)
  except (Damaged, *BROKEN) as error:
    raise ConvertError(f'{path} is damaged or no PyTorch checkpoint: {error}; get the file again') from error


# The format of PyTorch 1.6 and later: a zip archive with data.pkl and one member for each storage.


def read_zip(path: pathlib.Path) -> Contents:
  archive = zipfile.ZipFile(path)
  members = {member.filename: member for member in archive.infolist()}
  size = path.stat().st_size
  for member in members.values():
    if member.filename.split('/')[1:2] == ['code']:  # Of TorchScript, which compresses it. It is never unpacked.
      continue
    if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
      raise ConvertError(
        f'{path} has a compressed member {member.filename!r}, which would unfold to {member.file_size} bytes; '
        f'PyTorch never compresses a checkpoint, so the file is not read'
      )
  if len(members) < len(archive.infolist()) or sum(member.compress_size for member in members.values()) > size:
    raise ConvertError(
      f'{path} has members that share their bytes: they add up to more than the {size} bytes of the file, so it is '
      f'not read'
    )
  pickles = [name for name in members if name.split('/')[1:] == ['data.pkl']]
  if len(pickles) != 1:
    raise Damaged('the archive has no data.pkl')
  folder = pickles[0].removesuffix('data.pkl')
  byteorder = f'{folder}byteorder'
  if byteorder in members and archive.read(byteorder) != b'little':
    raise ConvertError(f'{path} holds big-endian numbers; save it again on a little-endian machine')

  def check(storage: Storage):
    member = members.get(f'{folder}data/{storage.key}')
    if member is None:
      raise Damaged(f'storage {storage.key!r} is missing')
    if member.file_size != storage.count * storage.dtype.itemsize:
      raise Damaged(
        f'storage {storage.key!r} should hold {storage.count} values of {storage.dtype}, but has '
        f'{member.file_size} bytes'
      )

  def load(storage: Storage) -> bytes:
    return archive.read(f'{folder}data/{storage.key}')

  machine = Machine(path, check, load)
  return Contents(machine.run(io.BytesIO(archive.read(pickles[0]))), machine.inert)


# The format before PyTorch 1.6: five pickles, then every storage as its count and its numbers.


def read_legacy(path: pathlib.Path) -> Contents:
  with path.open('rb') as file:
    if not os.fstat(file.fileno()).st_size:
      raise Damaged('it is empty')
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
  starts = {}

  def check(storage: Storage):
    if storage.count * storage.dtype.itemsize > len(data):
      raise Damaged(f'storage {storage.key!r} claims {storage.count} values of {storage.dtype}')

  def load(storage: Storage) -> bytes:
    start = starts[storage.key]
    return data[start : start + storage.count * storage.dtype.itemsize]

  machine = Machine(path, check, load)
  magic, _, system = (machine.run(data) for _ in range(3))
  if magic != LEGACY_MAGIC:
    raise Damaged('it starts like no known format')
  if not (isinstance(system, dict) and system.get('little_endian') is True):
    raise ConvertError(f'{path} holds big-endian numbers; save it again on a little-endian machine')
  root, keys = machine.run(data), machine.run(data)
  if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(machine.storages):
    raise Damaged('its list of storages is not that of its tensors')
  for key in map(str, keys):
    storage = machine.storages[key]
    header = data.read(8)
    if header != struct.pack('<q', storage.count):
      raise Damaged(f'storage {key!r} should hold {storage.count} values, but is cut short or says otherwise')
    starts[key] = data.tell()
    end = starts[key] + storage.count * storage.dtype.itemsize
    if end > len(data):
      raise Damaged(f'it ends within storage {key!r}')
    data.seek(end)
  return Contents(root, machine.inert)
