import hashlib
import json
import mmap

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import folders
from tvts_jax.input.host_tf import tensorflow
from tvts_jax.shards import index, records, tfrecord


@pytest.fixture
def folder(tmp_path):
  content = {
    'train': [
      [folders.record('a', 0), folders.record('a', 1), folders.record('b')],
      [],
      [folders.record('c', frames=2)],
    ],
    'val': [[folders.record('z')]],
  }
  return folders.write(tmp_path / 'data', content)


def test_every_record_is_found(folder):
  manifest = index.load(folder, 'train')
  ids = index.load_index(manifest)
  assert manifest.count == len(ids) == 4 and index.splits(folder) == ['train', 'val']
  found = [records.decode(index.read_record(manifest, ids, i)) for i in (3, 0, 2, 1)]
  assert [(r.video_id, r.window_index) for r in found] == [('c', 0), ('a', 0), ('b', 0), ('a', 1)]
  places = [ids.place(i) for i in range(4)]
  assert [(place.shard, place.number) for place in places] == [(0, 0), (0, 1), (0, 2), (2, 0)]
  ends = [(place.shard, place.begin + place.size) for place in places]
  assert [(place.shard, place.begin) for place in places] == [(0, 0), *ends[:2], (2, 0)]
  assert [manifest.shards[shard].bytes for shard, _ in (ends[2], ends[3])] == [ends[2][1], ends[3][1]]
  assert ids.video[0] == ids.video[1] == index.video_hash('a') and len(set(ids.video.tolist())) == 3
  assert ids.example_id.tolist() == [index.example_hash(*k) for k in [('a', 0), ('a', 1), ('b', 0), ('c', 0)]]


def test_an_index_is_one_mapped_file_of_28_bytes_a_record(folder):
  manifest = index.load(folder, 'train')
  ids = index.load_index(manifest)
  assert not list(folder.glob('*-of-*.idx')) and (folder / 'train.idx').stat().st_size == manifest.index.bytes
  assert manifest.index.bytes == 16 + 28 * len(ids)
  for column in (ids.offset, ids.video, ids.example_id, ids.head):
    while isinstance(column.base, np.ndarray):
      column = column.base
    assert isinstance(column.base.obj, mmap.mmap)


def test_hashes_are_fixed():
  # Orders and random draws hang on these: data built before would be drawn differently after a change.
  assert index.video_hash('a') == 0xCABD1BCA128197CA
  assert index.example_hash('a', 12) == int.from_bytes(hashlib.sha256(b'a\x0012').digest()[:8], 'little')


def test_tensorflow_reads_the_shards(folder):
  tf = tensorflow()

  manifest = index.load(folder, 'train')
  ids = index.load_index(manifest)
  theirs = [r.numpy() for s in manifest.shards for r in tf.data.TFRecordDataset(str(folder / s.name))]
  assert theirs == [index.read_record(manifest, ids, i) for i in range(len(ids))]


def test_tensorflow_writes_the_same_framing(tmp_path):
  tf = tensorflow()

  payloads = [b'', b'x', bytes(range(256)) * 300]
  with tf.io.TFRecordWriter(str(tmp_path / 'theirs')) as w:
    for p in payloads:
      w.write(p)
  assert (tmp_path / 'theirs').read_bytes() == b''.join(tfrecord.frame(p) for p in payloads)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=100), st.data())
def test_any_wrong_bit_is_seen(payload, data):
  framed = tfrecord.frame(payload)
  assert tfrecord.unframe(framed) == payload
  at = data.draw(st.integers(0, len(framed) * 8 - 1))
  flipped = bytearray(framed)
  flipped[at // 8] ^= 1 << at % 8
  for damaged in (bytes(flipped), framed[: at // 8], framed + b'\0'):
    with pytest.raises(ValueError):
      tfrecord.unframe(damaged)


def test_a_flipped_bit_costs_one_record(folder):
  manifest = index.load(folder, 'train')
  ids = index.load_index(manifest)
  path = folder / manifest.shards[0].name
  begin = ids.place(1).begin
  data = bytearray(path.read_bytes())
  data[begin + 100] ^= 4
  path.write_bytes(bytes(data))
  assert len(index.load_index(manifest)) == 4  # sizes agree
  with pytest.raises(index.DamagedRecord) as e:
    index.read_record(manifest, ids, 1)
  assert str(path) in str(e.value) and f'record 1 at byte {begin}' in str(e.value)
  for i in (0, 2, 3):
    records.decode(index.read_record(manifest, ids, i))


def test_manifest_hash_is_of_the_content(folder, tmp_path):
  manifest = index.load(folder, 'train')
  moved = folder.rename(tmp_path / 'elsewhere')
  assert index.load(moved, 'train').sha256 == manifest.sha256
  assert index.load(moved, 'val').sha256 != manifest.sha256
  content = json.loads((moved / 'manifest.json').read_text())
  content['splits']['train']['shards'][2]['sha256'] = '0' * 64
  (moved / 'manifest.json').write_text(json.dumps(content))
  assert index.load(moved, 'train').sha256 != manifest.sha256


def cut(path):
  path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
  'damage, says',
  [
    (lambda d: (d / 'train-00000-of-00003.tfrecord').unlink(), 'is listed in the manifest but missing'),
    (lambda d: (d / 'train.idx').unlink(), 'train.idx is missing'),
    (lambda d: cut(d / 'train-00000-of-00003.tfrecord'), 'the manifest says'),
    (lambda d: (d / 'train-00000-of-00003.tfrecord').write_bytes(b''), 'has 0 bytes, the manifest says'),
    (lambda d: cut(d / 'train.idx'), 'is not the index that the manifest lists'),
    (lambda d: (d / 'train.idx').write_bytes(b''), 'is not the index that the manifest lists'),
    (lambda d: (d / 'val.idx').replace(d / 'train.idx'), 'is not the index that the manifest lists'),
  ],
)
def test_a_changed_folder_is_refused(folder, damage, says):
  manifest = index.load(folder, 'train')
  damage(folder)
  with pytest.raises(index.FolderError, match=says):
    index.load_index(manifest)


def edit(**changes):
  return lambda path: path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
  'damage, says',
  [
    (lambda p: p.unlink(), 'is not a finished data set'),
    (lambda p: p.write_text('{"sche'), 'is damaged'),
    (lambda p: p.write_text('[]'), 'is damaged'),
    (edit(schema_version=1), 'has schema_version 1, this code reads 2; build the data again with python -m data.build'),
    (edit(splits={'val': {}}), "no split 'train'; it has: val"),
    (edit(splits={'train': {'shards': [{'name': 'x'}], 'outcomes': {}}}), 'is damaged'),
  ],
)
def test_a_bad_manifest_is_refused(folder, damage, says):
  damage(folder / 'manifest.json')
  with pytest.raises(index.FolderError, match=says):
    index.load(folder, 'train')


@pytest.mark.parametrize('name, other', [('val-00000-of-00001.tfrecord', '../x.tfrecord'), ('val.idx', '/etc/x.idx')])
def test_a_manifest_cannot_point_out_of_its_folder(folder, name, other):
  path = folder / 'manifest.json'
  path.write_text(path.read_text().replace(name, other))
  with pytest.raises(index.FolderError, match='names no file of its own folder'):
    index.load(folder, 'val')
