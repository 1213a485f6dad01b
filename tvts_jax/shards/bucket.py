"""Paths in buckets, with the methods of pathlib that we use. obstore does the work, without the GIL.

Credentials are those that obstore finds, as the tools of each cloud do. STORAGE_EMULATOR_HOST names another server than
Google's, AWS_ENDPOINT_URL another than Amazon's.
"""

import contextlib
import fnmatch
import functools
import io
import os
import pathlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import NamedTuple

from tvts_jax.errors import UserError
from tvts_jax.shards.hedge import Hedge
from tvts_jax.shards.patience import patiently

READ_AHEAD = 16 * 2**20  # Bytes of a request of a file that is read from its begin to its end.
SCHEMES = ('gs', 's3', 'az')
OPTIONS = {'connect_timeout': timedelta(seconds=10), 'timeout': timedelta(minutes=5)}
TOKEN = 'emulator'  # Which emulators do not look at.
# A blink is over before anybody needs to hear of it; what lasts longer is patience.py's.
RETRY = {
  'max_retries': 3,
  'retry_timeout': timedelta(seconds=10),
  'backoff': {'init_backoff': timedelta(milliseconds=100), 'max_backoff': timedelta(seconds=2), 'base': 2},
}


class Stat(NamedTuple):
  size: int  # Bytes.
  time: float  # When it was last written, in seconds since 1970, as its storage says.


def emulator() -> str | None:
  """The URL of a server that stands for Google's."""
  host = os.environ.get('STORAGE_EMULATOR_HOST')
  return host and (host if '://' in host else f'http://{host}')


@functools.cache
def pool() -> ThreadPoolExecutor:
  """For requests, which wait for a server: their number does not depend on cores."""
  return ThreadPoolExecutor(128, 'storage')


@functools.cache
def hedge() -> Hedge:
  return Hedge(pool())


@functools.cache
def open_store(scheme: str, bucket: str):
  from obstore import store

  if scheme == 'gs':
    options, config = dict(OPTIONS), {}
    if host := emulator():
      config = {'base_url': host, 'bearer_token': TOKEN}
      options['allow_http'] = True
    return store.GCSStore(bucket, config=config, client_options=options, retry_config=RETRY)
  if scheme == 's3':
    plain = os.environ.get('AWS_ENDPOINT_URL', '').startswith('http://')
    return store.S3Store(bucket, client_options={**OPTIONS, 'allow_http': plain}, retry_config=RETRY)
  return store.AzureStore(bucket, client_options=OPTIONS, retry_config=RETRY)


@functools.total_ordering
class BucketPath(os.PathLike):
  """SCHEME://BUCKET/KEY. There are no folders: what begins with KEY/ is in it."""

  def __init__(self, url: str):
    self.scheme, _, rest = os.fspath(url).partition('://')
    if self.scheme not in SCHEMES:
      raise UserError(f'{url} is of an unknown kind; known: {", ".join(f"{known}://" for known in SCHEMES)}')
    self.bucket, _, key = rest.partition('/')
    self.key = '/'.join(part for part in key.split('/') if part not in ('', '.'))

  def __fspath__(self) -> str:
    return f'{self.scheme}://{self.bucket}/{self.key}'.rstrip('/')

  __str__ = __fspath__

  def __repr__(self) -> str:
    return f'BucketPath({str(self)!r})'

  def __eq__(self, other) -> bool:
    return isinstance(other, BucketPath) and str(self) == str(other)

  def __lt__(self, other) -> bool:
    return str(self) < str(other)

  def __hash__(self) -> int:
    return hash(str(self))

  def __truediv__(self, more) -> 'BucketPath':
    return BucketPath(f'{self}/{os.fspath(more)}')

  @property
  def pure(self) -> pathlib.PurePosixPath:
    return pathlib.PurePosixPath(self.key)

  name = property(lambda self: self.pure.name)
  stem = property(lambda self: self.pure.stem)
  suffix = property(lambda self: self.pure.suffix)

  @property
  def parent(self) -> 'BucketPath':
    return self.root / self.pure.parent

  @property
  def root(self) -> 'BucketPath':
    return BucketPath(f'{self.scheme}://{self.bucket}')

  def with_name(self, name: str) -> 'BucketPath':
    return self.root / self.pure.with_name(name)

  def with_suffix(self, suffix: str) -> 'BucketPath':
    return self.root / self.pure.with_suffix(suffix)

  def relative_to(self, folder) -> pathlib.PurePosixPath:
    return self.pure.relative_to(folder.pure)

  def resolve(self) -> 'BucketPath':
    return self

  @property
  def store(self):
    return open_store(self.scheme, self.bucket)

  # Reading.

  def stat(self) -> Stat:
    meta = patiently(self, lambda: self.store.head(self.key))
    return Stat(meta['size'], meta['last_modified'].timestamp())

  def is_file(self) -> bool:
    try:
      return bool(self.key) and self.stat() is not None
    except FileNotFoundError:
      return False

  def is_dir(self) -> bool:
    first = lambda: next(iter(self.store.list(self.key or None, chunk_size=1)), None)
    return bool(patiently(self, first))

  def exists(self) -> bool:
    return self.is_file() or self.is_dir()

  def iterdir(self) -> Iterator['BucketPath']:
    listed = patiently(self, lambda: self.store.list_with_delimiter(self.key or None))
    yield from sorted(self.root / key for key in [*listed['common_prefixes'], *(o['path'] for o in listed['objects'])])

  def glob(self, pattern: str) -> Iterator['BucketPath']:
    """Of its own files and folders, not of theirs."""
    return (path for path in self.iterdir() if fnmatch.fnmatchcase(path.name, pattern))

  def below(self) -> list['BucketPath']:
    """All files, however deep."""
    listed = patiently(self, lambda: list(self.store.list(self.key or None).collect()))
    return sorted(self.root / meta['path'] for meta in listed)

  def read_bytes(self) -> bytes:
    return patiently(self, lambda: bytes(self.store.get(self.key).bytes()))

  def read_text(self) -> str:
    return self.read_bytes().decode()

  def read_range(self, begin: int, count: int) -> bytes:
    """Fewer bytes only if there are no more."""

    def read():
      try:
        return bytes(self.store.get_range(self.key, start=begin, length=count))
      except Exception as e:
        if 'status code: 416' not in str(e):
          raise
        return b''  # The object ends before the range begins.

    return patiently(self, lambda: hedge().read(read))

  def read_version(self) -> tuple[bytes, dict]:
    """The bytes, and what `replace` wants to know of them."""

    def read():
      result = self.store.get(self.key)
      return bytes(result.bytes()), version(result.meta)

    return patiently(self, read)

  def open(self, mode: str = 'rb', buffering: int = READ_AHEAD) -> io.BufferedIOBase | io.RawIOBase:
    """buffering: bytes of a request, of a file that is read on; 0: each read is a request."""
    if mode != 'rb':
      raise ValueError(f'an object in a bucket is written whole, so mode={mode!r} is not offered')
    file = BucketFile(self)
    return io.BufferedReader(file, buffering) if buffering else file

  # Writing.

  def write(self, data) -> None:
    """Whole or not at all. data: bytes, a local path, or an open file."""

    def put():
      if hasattr(data, 'seek'):
        data.seek(0)
      self.store.put(self.key, data)

    patiently(self, put)

  def create(self, data: bytes) -> dict:
    """FileExistsError if there is one. → its version."""
    return self._write_if('create', data)

  def replace_version(self, data: bytes, seen: dict) -> dict:
    """FileExistsError if the object is no longer of the version that was seen. → the new version."""
    return self._write_if(seen, data)

  def _write_if(self, mode, data: bytes) -> dict:
    def put():
      try:
        return version(self.store.put(self.key, data, mode=mode))
      except Exception:
        # The answer to this try or an earlier one may have been lost.
        with contextlib.suppress(FileNotFoundError):
          content, now = self.read_version()
          if content == data:
            return now
        raise

    return patiently(self, put)

  def mkdir(self, parents: bool = True, exist_ok: bool = True) -> None:
    """Nothing: there are no folders."""

  def unlink(self, missing_ok: bool = False) -> None:
    try:
      patiently(self, lambda: self.store.delete(self.key))
    except FileNotFoundError:
      if not missing_ok:
        raise

  def remove_tree(self) -> None:
    self._remove(self.below())

  def rename(self, target: 'BucketPath') -> None:
    """A file or what is below a folder, one by one: who reads meanwhile sees a part of it in both places."""
    files = self.below() or [self]
    for file in files:
      to = target / file.relative_to(self) if file != self else target
      patiently(file, lambda file=file, to=to: self.store.copy(file.key, to.key))
    self._remove(files)

  def _remove(self, files: list['BucketPath']) -> None:
    try:
      if files:
        patiently(self, lambda: self.store.delete([file.key for file in files]))
    except FileNotFoundError:  # An earlier try removed some, and its answer was lost.
      for file in files:
        file.unlink(missing_ok=True)


class BucketFile(io.RawIOBase):
  """An object to read from, at any place."""

  def __init__(self, path: BucketPath):
    self._path, self._size, self._at = path, path.stat().size, 0

  def readable(self) -> bool:
    return True

  def seekable(self) -> bool:
    return True

  def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
    self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
    return self._at

  def tell(self) -> int:
    return self._at

  def readinto(self, buffer) -> int:
    count = max(0, min(len(buffer), self._size - self._at))
    if count:
      buffer[:count] = self._path.read_range(self._at, count)
      self._at += count
    return count


def version(meta) -> dict:
  return {name: meta[name] for name in ('e_tag', 'version') if meta[name] is not None}
