"""The small files that orbax itself writes beside tensorstore's arrays: in a bucket they go through our own client."""

import io
import os

import fsspec
from etils import epath

from tvts_jax.shards.bucket import SCHEMES, TOKEN, BucketPath, emulator

# What tensorstore wants to know of an emulator.
TENSORSTORE = 'TENSORSTORE_GCS_HTTP_URL', 'TENSORSTORE_GCS_HTTP_VERSION', 'GOOGLE_AUTH_TOKEN_FOR_TESTING'


class BucketFiles(fsspec.AbstractFileSystem):
  """What etils, which orbax has its paths from, asks of a bucket. Its errors and retries are those of BucketPath."""

  cachable = False

  def _path(self, path: str) -> BucketPath:
    return BucketPath(f'{self.scheme}://{self._strip_protocol(path)}')

  def info(self, path: str, **_) -> dict:
    path = self._path(path)
    name = self._strip_protocol(str(path))
    try:
      return {'name': name, 'size': path.stat().size, 'type': 'file'}
    except FileNotFoundError:
      if not path.is_dir():
        raise
      return {'name': name, 'size': 0, 'type': 'directory'}

  def ls(self, path: str, detail: bool = True, **_) -> list:
    names = [self._strip_protocol(str(inner)) for inner in self._path(path).iterdir()]
    return [self.info(name) for name in names] if detail else names

  def _open(self, path: str, mode: str = 'rb', **_):
    return self._path(path).open() if mode == 'rb' else Upload(self._path(path))

  def rm_file(self, path: str) -> None:
    self._path(path).unlink()

  def cp_file(self, source: str, target: str, **_) -> None:
    self._path(target).write(self._path(source).read_bytes())


class Upload(io.BytesIO):
  """Written when it is closed."""

  def __init__(self, path: BucketPath):
    super().__init__()
    self._path = path

  def close(self) -> None:
    if not self.closed:
      self._path.write(self.getvalue())
    super().close()


def orbax_path(path) -> epath.Path:
  """The same path for orbax, which knows no others."""
  if host := emulator():
    os.environ.update(dict(zip(TENSORSTORE, (host, '1.1', TOKEN))))
  return epath.Path(os.fspath(path))


os.environ['EPATH_USE_TF'] = '0'  # Or etils takes TensorFlow's client, which reads 64 MiB at a time.
for scheme in SCHEMES:
  names = {'gs': ('gcs', 'gs')}.get(scheme, (scheme,))
  kind = type(f'BucketFiles_{scheme}', (BucketFiles,), {'scheme': scheme, 'protocol': names})
  for name in names:
    fsspec.register_implementation(name, kind, clobber=True)
