import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import bucket, folders
from tvts_jax.errors import UserError
from tvts_jax.shards import index, layout, reader, records, storage, tfrecord
from tvts_jax.shards.head import Head


def make(folder):
  """41 records of different sizes in three shards."""
  made = [folders.record(f'v{i}', frames=1 + i % 5) for i in range(41)]
  folders.write(folder, {'train': [made[:10], made[10:33], made[33:]]})


@pytest.fixture(scope='module')
def opened(tmp_path_factory):
  folder = tmp_path_factory.mktemp('records')
  make(folder)
  manifest = index.load(folder, 'train')
  return manifest, index.load_index(manifest)


@pytest.fixture
def requests(monkeypatch):
  """(file, begin, bytes) of every range that is read."""
  seen, read = [], storage.read_ranges

  def note(file, ranges):
    parts = read(file, ranges)
    seen.extend((str(file), begin, len(part)) for (begin, _), part in zip(ranges, parts))
    return parts

  monkeypatch.setattr(storage, 'read_ranges', note)
  return seen


def far(opened):
  """Reads as from a bucket."""
  made = reader.Reader(*opened)
  made._local = False
  return made


KINDS = {'whole': (2**30, True), 'local': (0, True), 'far': (0, False)}


@pytest.mark.parametrize('kind', KINDS)
def test_parts_are_those_of_the_whole(opened, monkeypatch, requests, kind):
  whole_bytes, local = KINDS[kind]
  monkeypatch.setattr(reader, 'WHOLE_BYTES', whole_bytes)
  ours = reader.Reader(*opened) if local else far(opened)
  rng = np.random.default_rng(0)
  for row in rng.permutation(41).tolist():
    record = records.decode(index.read_record(*opened, row))
    numbers = rng.integers(len(record.frames), size=4).tolist()  # Some of them twice.
    requests.clear()
    head = Head(*ours.head(row))
    frames = ours.frames(row, head, numbers)
    assert frames == [record.frames[i] for i in numbers] and head.words[:] == record.words
    size = opened[1].place(row).size - tfrecord.HEADER - tfrecord.FOOTER
    first, last = min(numbers), max(numbers)
    behind = {
      'whole': [],
      'local': sorted(len(record.frames[i]) for i in set(numbers)),
      'far': [head.table[0][last] + len(record.frames[last]) - head.table[0][first]],
    }
    assert sorted(count for _, _, count in requests[1:]) == behind[kind]
    assert requests[0][2] == (size if kind == 'whole' else opened[1].head[row])


@pytest.mark.parametrize('kind', KINDS)
def test_damage_is_found_in_every_byte_that_is_used_and_nowhere_else(opened, monkeypatch, kind):
  monkeypatch.setattr(reader, 'WHOLE_BYTES', KINDS[kind][0])
  manifest, rows = opened
  row, used = 23, [3, 1]
  place, size = rows.place(row), int(rows.head[row])
  shard = bytearray(manifest.path(place.shard).read_bytes())
  monkeypatch.setattr(storage, 'read_local', lambda file, ranges: [bytes(shard[a : a + n]) for a, n in ranges])
  ours = reader.Reader(*opened) if KINDS[kind][1] else far(opened)
  whole = Head(*ours.head(row))
  frames = ours.frames(row, whole, used)
  begin = place.begin + tfrecord.HEADER
  offsets, lengths = list(whole.table[0]), list(whole.table[1])
  assert len(offsets) == 4
  inside = {at for i in used for at in range(size + offsets[i], size + offsets[i] + lengths[i])}
  for at in range(-tfrecord.HEADER, place.size - tfrecord.HEADER):
    if at > size and at % 7:  # Of the frames a part will do.
      continue
    shard[begin + at] ^= 1 << at % 8
    if 0 <= at < size or at in inside:
      with pytest.raises(index.DamagedRecord, match=f'record 13 at byte {place.begin} cannot be read: the checksum of'):
        ours.frames(row, Head(*ours.head(row)), used)
    else:
      assert ours.frames(row, Head(*ours.head(row)), used) == frames
    shard[begin + at] ^= 1 << at % 8


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.sampled_from(['frames/offset', 'frames/length']), st.integers(-(2**62), 2**62))
def test_a_table_that_leads_out_of_its_record_is_refused(opened, row, column, wrong):
  """Right checksums, wrong numbers: nothing is read of other records, and no memory is asked for."""
  record = records.decode(index.read_record(*opened, row))
  head = Head(*far(opened).head(row))
  offset, length = head.table[0][0], head.table[1][0]
  head.table = [list(values) for values in head.table]
  head.table[column == 'frames/length'][0] = wrong
  inside = wrong == (length if column == 'frames/length' else offset)
  room = opened[1].place(row).size - 16 - int(opened[1].head[row])
  end = offset + wrong if column == 'frames/length' else wrong + length
  says = 'leads out of the record' if wrong < 0 or end > room else 'cannot be read: the checksum of frame 0 is wrong'
  if inside:
    assert far(opened).frames(row, head, [0]) == record.frames[:1]
  else:
    with pytest.raises(UserError, match=says):
      far(opened).frames(row, head, [0])


def test_damage_names_shard_and_record_and_spares_the_others(tmp_path):
  make(tmp_path)
  manifest = index.load(tmp_path, 'train')
  rows = index.load_index(manifest)
  folders.flip(manifest.path(1), rows.place(12).begin + 40)
  ours = reader.Reader(manifest, rows)
  with pytest.raises(index.DamagedRecord, match='train-00001-of-00003.tfrecord: record 2 at byte'):
    ours.head(12)
  assert b''.join(ours.head(13)) == index.read_record(manifest, rows, 13)


def test_a_shard_that_is_gone_is_named(tmp_path):
  make(tmp_path)
  manifest = index.load(tmp_path, 'train')
  ours = reader.Reader(manifest, index.load_index(manifest))
  path = manifest.path(0)
  path.rename(path.with_suffix('.away'))
  with pytest.raises(index.FolderError, match='train-00000-of-00003.tfrecord is listed in the manifest but missing'):
    ours.head(3)
  path.with_suffix('.away').rename(path)
  assert layout.head_bytes(b''.join(ours.head(3))) == ours._index.head[3]


def test_a_bucket_costs_two_requests_to_open_and_two_a_clip(opened, monkeypatch):
  monkeypatch.setattr(reader, 'WHOLE_BYTES', 0)
  manifest, rows = opened
  with bucket.server() as server:
    folder = storage.path('gs://b/data')
    for file in manifest.folder.iterdir():
      (folder / file.name).write(file)
    server.zero()
    there = index.load(folder, 'train')
    theirs = index.load_index(there)
    assert server.counts()['counts'] == {'obstore get': 2} and there.sha256 == manifest.sha256
    for name in index.COLUMNS:
      np.testing.assert_array_equal(getattr(theirs, name), getattr(rows, name))
    server.zero()
    ours = reader.Reader(there, theirs)
    for row in range(41):
      assert ours.frames(row, Head(*ours.head(row)), [0]) == reader.Reader(*opened).frames(
        row, Head(*reader.Reader(*opened).head(row)), [0]
      )
    counts = server.counts()
    assert counts['counts'] == {'obstore get': 82}
    # What nobody has looked at is found to be another file when a checksum is wrong.
    path = there.path(1)
    path.write(path.read_bytes()[: rows.place(20).begin + 40])
    for row in (20, 21):
      with pytest.raises(index.FolderError, match='train-00001-of-00003.tfrecord was changed while it was in use'):
        ours.head(row)
    assert ours.head(19)
