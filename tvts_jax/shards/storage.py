"""Bytes on local disks and in buckets (gs://, s3://, az://) behind the same few calls. Nothing else opens a bucket.

`path` gives a pathlib.Path, or for what lies in a bucket a BucketPath, which has the same methods. An object in a
bucket is written whole or not at all; files.py does the same for local files. Every error is an OSError with path and
reason (patience.py), whichever library raised it.
"""

import io
import os
import pathlib
import shutil
from collections.abc import Sequence

from tvts_jax.shards.bucket import BucketPath, Stat, pool
from tvts_jax.shards.patience import RETRIES, StorageError, patiently

__all__ = ['RETRIES', 'BucketPath', 'Stat', 'StorageError', 'patiently']


Path = pathlib.Path | BucketPath


def is_local(path) -> bool:
  return '://' not in os.fspath(path)


def path(where) -> Path:
  if isinstance(where, Path):
    return where
  return pathlib.Path(where) if is_local(where) else BucketPath(where)


def read_range(file, begin: int, count: int) -> bytes:
  """Fewer bytes only if the file has no more."""
  return read_ranges(file, [(begin, count)])[0]


def read_ranges(file, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
  """Several (begin, count) of a file; in a bucket a request each, all at once."""
  file = path(file)
  if isinstance(file, pathlib.Path):
    return patiently(file, lambda: read_local(file, ranges))
  if len(ranges) == 1:
    return [file.read_range(*ranges[0])]
  return list(pool().map(lambda place: file.read_range(*place), ranges))


def read_local(file: pathlib.Path, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
  handle = os.open(file, os.O_RDONLY)
  try:
    return [os.pread(handle, count, begin) for begin, count in ranges]
  finally:
    os.close(handle)


def open_local(file: pathlib.Path) -> io.BufferedReader:
  """To read. A FIFO opens at once and is empty, where others wait for somebody to write."""
  return open(file, 'rb', opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


def read_bytes(file) -> bytes:
  file = path(file)
  if isinstance(file, BucketPath):
    return file.read_bytes()

  def read():
    with open_local(file) as opened:
      return opened.read()

  return patiently(file, read)


def stat(file) -> Stat:
  file = path(file)
  if isinstance(file, BucketPath):
    return file.stat()
  status = patiently(file, lambda: os.stat(file))
  return Stat(status.st_size, status.st_mtime)


def files_below(folder) -> list:
  """All files, however deep, sorted."""
  folder = path(folder)
  if isinstance(folder, BucketPath):
    return folder.below()
  return sorted(pathlib.Path(root, name) for root, _, names in os.walk(folder) for name in names)


def remove_tree(folder) -> None:
  """A folder with all that is in it, if it is there."""
  folder = path(folder)
  if isinstance(folder, BucketPath):
    folder.remove_tree()
  elif folder.exists():
    shutil.rmtree(folder)
