from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.support import folders
from tvts_jax.input.order import Order
from tvts_jax.input.skipped import Trouble
from tvts_jax.shards import index, reader


@pytest.fixture
def opened(tmp_path):
  """41 records of different sizes in three shards."""
  made = [folders.record(f'v{i}', frames=1 + i % 5) for i in range(41)]
  folders.write(tmp_path, {'train': [made[:10], made[10:33], made[33:]]})
  manifest = index.load(tmp_path, 'train')
  return manifest, index.load_index(manifest)


class Counting(reader.Reader):
  """Notes every request to storage."""

  def __init__(self, *args):
    super().__init__(*args, Trouble())
    self.requests = []

  def _fetch(self, first, stop):
    self.requests.append((first, stop))
    return super()._fetch(first, stop)


@pytest.mark.parametrize('block', [1, 4, 64])
def test_reads_what_the_index_reads(opened, block):
  counting = Counting(*opened, block)
  for row in np.random.default_rng(0).permutation(41).tolist() + [40, 0, 33, 32]:
    assert counting.read(row) == index.read_record(*opened, row)
  shard = opened[1].shard
  assert all(shard[first] == shard[stop - 1] and stop - first <= block for first, stop in counting.requests)
  assert len(counting.requests) == {1: 45, 4: 13, 64: 3}[block]  # blocks of 4 that cross a shard are read in two


def test_large_records_are_read_alone(opened, monkeypatch):
  monkeypatch.setattr(reader, 'BLOCK_BYTES', 1000)
  counting = Counting(*opened, 8)
  assert counting.read(5) == index.read_record(*opened, 5)
  assert counting.requests == [(5, 6)]


def test_an_epoch_reads_each_block_once_and_forgets_it(opened, monkeypatch):
  monkeypatch.setattr(reader, 'KEEP_BYTES', 4 * 4 * int(opened[1].length.max()))
  counting = Counting(*opened, 4)
  order = Order(opened[1].video, 4, seed=1, block_records=4, mix_blocks=3)
  for step in range(10):
    for row in order.ids(step).tolist():
      assert counting.read(row) == index.read_record(*opened, row)
  assert len(counting.requests) == len(set(counting.requests)) <= 13
  assert counting._held <= reader.KEEP_BYTES and len(counting._runs) < 8


def test_threads_share_a_request(opened):
  counting = Counting(*opened, 64)
  with ThreadPoolExecutor(8) as pool:
    rows = list(range(41)) * 5
    assert list(pool.map(counting.read, rows)) == [index.read_record(*opened, r) for r in rows]
  assert len(counting.requests) == 3


def test_damage_names_shard_and_record_and_spares_the_others(opened):
  manifest, rows = opened
  folders.flip(manifest.folder / manifest.shards[1].name, int(rows.offset[12]) + 40)
  opened_reader = reader.Reader(manifest, rows, 64, Trouble())
  with pytest.raises(index.DamagedRecord, match='train-00001-of-00003.tfrecord: record 2 at byte'):
    opened_reader.read(12)
  assert opened_reader.read(13) == index.read_record(manifest, rows, 13)


def test_storage_that_fails_once_is_asked_again(opened):
  manifest, rows = opened
  path = manifest.folder / manifest.shards[0].name
  counting = Counting(*opened, 64)
  path.rename(path.with_suffix('.away'))
  with pytest.raises(index.FolderError, match='missing'):
    counting.read(3)
  path.with_suffix('.away').rename(path)
  assert counting.read(3) == index.read_record(manifest, rows, 3)
