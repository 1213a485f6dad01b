"""The same storage on S3, as moto's server has it: files, ranges, conditions."""

import subprocess
import sys
import urllib.request

import pytest

from tvts_jax.run.checkpoint import CheckpointConfig, Checkpoints
from tvts_jax.run.checkpoint_folder import CheckpointError
from tvts_jax.shards import bucket, lease, storage


@pytest.fixture(scope='module')
def folder():
  process = subprocess.Popen(
    [sys.executable, '-u', '-m', 'moto.server', '-p', '0'], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
  )
  url = next(line.split()[-1] for line in process.stdout if 'Running on http' in line)
  with pytest.MonkeyPatch.context() as patch:
    for name, value in (
      ('AWS_ENDPOINT_URL', url),
      ('AWS_ACCESS_KEY_ID', 'test'),
      ('AWS_SECRET_ACCESS_KEY', 'test'),
      ('AWS_REGION', 'us-east-1'),
    ):
      patch.setenv(name, value)
    urllib.request.urlopen(urllib.request.Request(f'{url}/tvts-bucket', method='PUT')).close()
    yield storage.path('s3://tvts-bucket/run')
  process.kill()
  process.wait()
  bucket.open_store.cache_clear()


def test_files_ranges_and_conditions(folder):
  data = bytes(range(256)) * 50_000  # Of several parts.
  (folder / 'deep/big').write(data)
  assert storage.read_ranges(folder / 'deep/big', [(5, 10), (1_000_000, 7)]) == [data[5:15], data[1_000_000:1_000_007]]
  assert storage.read_bytes(folder / 'deep/big') == data and (folder / 'deep/big').stat().size == len(data)
  assert [path.name for path in folder.iterdir()] == ['deep'] and folder.is_dir() and not folder.is_file()
  seen = (folder / 'owner').create(b'1')
  with pytest.raises(FileExistsError):
    (folder / 'owner').create(b'2')
  (folder / 'owner').replace_version(b'3', seen)
  with pytest.raises(FileExistsError):
    (folder / 'owner').replace_version(b'4', seen)
  with lease.held(folder) as owner:
    assert owner is None
  folder.rename(folder.parent / 'moved')
  assert storage.read_bytes(folder.parent / 'moved/owner') == b'3' and not folder.exists()
  with pytest.raises(FileNotFoundError, match='s3://tvts-bucket/run/none'):
    storage.read_bytes(folder / 'none')


def test_checkpoints_are_refused_in_a_sentence(folder):
  with pytest.raises(
    CheckpointError, match='s3://.* cannot hold checkpoints: orbax writes to disks and to gs:// alone'
  ):
    Checkpoints(folder / 'checkpoints', CheckpointConfig())
