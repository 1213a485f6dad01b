import gzip
import json
import os

import pytest

from data import archives
from data.outcomes import ItemError
from tvts_jax.media import paths


def refused(code, call, *args, **kwargs):
  with pytest.raises(ItemError) as caught:
    call(*args, **kwargs)
  assert caught.value.code == code, caught.value
  return caught.value.detail


def test_files(tmp_path):
  path = tmp_path / 'x.mp4'
  path.write_bytes(b'0123456789')
  assert archives.open_bytes(str(path), 10) == b'0123456789'
  assert '10 bytes' in refused('oversized_video', archives.open_bytes, str(path), 9)
  refused('oversized_transcript', archives.open_bytes, str(path), 9, 'transcript')
  for missing in (tmp_path / 'y', tmp_path, '/dev/zero', '', 'a\0b'):
    refused('missing_video', archives.open_bytes, str(missing), 10)
  refused('missing_transcript', archives.open_bytes, str(tmp_path / 'y'), 10, 'transcript')
  os.mkfifo(tmp_path / 'pipe')  # must not wait for a writer
  refused('missing_video', archives.open_bytes, str(tmp_path / 'pipe'), 10)
  assert paths.exists(str(path)) and not paths.exists(str(tmp_path)) and not paths.exists('a\0b')


def test_inflate():
  assert archives.inflate(gzip.compress(b'x' * 100), 100, 'transcript') == b'x' * 100
  refused('oversized_transcript', archives.inflate, gzip.compress(b'x' * 101), 100, 'transcript')
  refused('bad_archive', archives.inflate, gzip.compress(b'x' * 100)[:-9], 100, 'transcript')


LINES = [json.dumps({'id': n, 'text': 'x' * (n * 37 % 900)}).encode() for n in range(400)]


def compressed_as(kind):
  text = b'\n'.join(LINES) + (b'' if kind == 'no_end' else b'\n')
  if kind == 'members':  # as bgzip and parallel gzips write
    return b''.join(gzip.compress(line + b'\n') for line in LINES)
  return gzip.compress(text, 1)


@pytest.mark.parametrize('kind', ['one', 'members', 'no_end'])
def test_lines_of_a_gzip_file_at_any_offset(tmp_path, monkeypatch, kind):
  monkeypatch.setattr(archives, 'MARK_BYTES', 5000)  # many marks
  monkeypatch.setattr(archives, 'READ_BYTES', 700)
  path = tmp_path / 'x.jsonl.gz'
  path.write_bytes(compressed_as(kind))
  found = list(archives.lines(str(path), 2000))
  assert [line for _, line in found] == LINES
  for offset, line in found[::17] + found[::-31] + [found[-1]] * 2:
    assert archives.open_bytes(f'{path}::{offset}', 2000, 'transcript').rstrip() == line
  end = sum(len(line) + 1 for line in LINES)
  refused('missing_transcript', archives.open_bytes, f'{path}::{end}', 2000, 'transcript')
  refused('missing_transcript', archives.open_bytes, f'{path}::first', 2000, 'transcript')
  refused('oversized_transcript', archives.open_bytes, f'{path}::{found[7][0]}', 100, 'transcript')


def test_reading_on_does_not_inflate_from_the_start(tmp_path, monkeypatch):
  monkeypatch.setattr(archives, 'MARK_BYTES', 5000)
  monkeypatch.setattr(archives, 'READ_BYTES', 700)
  path = tmp_path / 'x.jsonl.gz'
  path.write_bytes(compressed_as('one'))
  offset, line = list(archives.lines(str(path), 2000))[-1]
  archives.open_bytes(f'{path}::{offset}', 2000, 'transcript')
  chunks = []
  walk = archives.Gzip._chunks
  monkeypatch.setattr(archives.Gzip, '_chunks', lambda self, at: (chunks.append(c) or c for c in walk(self, at)))
  assert archives.open_bytes(f'{path}::{offset}', 2000, 'transcript').rstrip() == line
  assert 0 < sum(len(chunk) for _, chunk in chunks) < 7000


def test_lines_of_a_plain_file(tmp_path):
  path = tmp_path / 'x.jsonl'
  path.write_bytes(b'\r\n'.join(LINES))
  found = list(archives.lines(str(path), 2000))
  assert [line for _, line in found] == LINES
  for offset, line in found[::50]:
    assert archives.open_bytes(f'{path}::{offset}', 2000, 'transcript').rstrip() == line
  refused('oversized_transcript', list, archives.lines(str(path), 100))


def test_damaged_gzip_lines(tmp_path):
  whole = compressed_as('one')
  path = tmp_path / 'x.jsonl.gz'
  for damaged in (whole[:500] + bytes(60) + whole[560:], whole[: len(whole) // 2]):
    path.write_bytes(damaged)
    refused('bad_archive', list, archives.lines(str(path), 1 << 20))
  offset = sum(len(line) + 1 for line in LINES[:-3])
  refused('bad_archive', archives.open_bytes, f'{path}::{offset}', 1 << 20, 'transcript')
