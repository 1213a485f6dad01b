import dataclasses
import json

import pytest

from data.benchmarks.clips import Clip
from tvts_jax.errors import UserError
from tvts_jax.shards import annotations


def write(path, *rows):
  path.write_text(''.join((row if isinstance(row, str) else json.dumps(row)) + '\n' for row in rows))
  return path


def row(id='a', split='test', **more):
  return {'id': id, 'split': split} | more


def refused(path, *rows, split=None):
  with pytest.raises(UserError) as caught:
    annotations.read(write(path, *rows), split)
  assert '\n' not in str(caught.value) and str(path) in str(caught.value)
  return str(caught.value)


def test_rows_of_a_split_and_the_classes_of_all(tmp_path):
  path = write(
    tmp_path / 'annotations.jsonl',
    row('b', 'train', label=1, **{'class': 'run'}),
    '',
    row('a', label=0, captions=['a walk', 'walking'], **{'class': 'walk'}),
    row('é/"x"', label=1, **{'class': 'run'}),
    row('bare', 'val', colour='red'),
  )
  rows, classes = annotations.read(path, 'test')
  assert [(r['id'], r['label'], r['captions']) for r in rows] == [('a', 0, ['a walk', 'walking']), ('é/"x"', 1, [])]
  assert classes == ['walk', 'run'] == annotations.read(str(path)).classes
  rows = annotations.read(path).rows
  assert [r['id'] for r in rows] == ['b', 'a', 'é/"x"', 'bare']
  assert 'label' not in rows[3] and rows[3]['colour'] == 'red'


def test_what_is_written_is_what_is_read(tmp_path):
  pair = {'sentence': 'a man sits', 'negative': 'b', 'negated': ['verb', 'obj']}
  clips = [
    Clip('a', 'train', 'a.mp4', label=1, name='run', captions=('he runs', 'é'), pairs=(pair,)),
    Clip('b', 'test', 'b.mp4', label=0, name='sit'),
    Clip('c', 'val', 'c.mp4'),
  ]
  rows = [annotations.row_of(clip) for clip in clips]
  assert [list(row) for row in rows] == [
    ['id', 'split', 'label', 'class', 'captions', 'pairs'],
    ['id', 'split', 'label', 'class', 'captions'],
    ['id', 'split', 'captions'],
  ]
  again, classes = annotations.read(write(tmp_path / 'a.jsonl', *rows))
  assert again == rows and classes == ['sit', 'run']
  written = {field.name for field in dataclasses.fields(Clip)} - {'video', 'name'} | {'class'}
  assert written == {*rows[0]} == {*annotations.FIELDS}


@pytest.mark.parametrize(
  'clip, says',
  [
    (Clip('', 'test', 'a.mp4'), "clip '': id must be text"),
    (Clip('a', 'test', 'a.mp4', label=-1), "clip 'a': label must be a number from 0"),
    (Clip('a', 'test', 'a.mp4', captions=(7,)), 'captions must be a list of texts'),
    (Clip('a', 'test', 'a.mp4', pairs=({'sentence': 'x'},)), 'pairs must be a list of objects with sentence, negative'),
  ],
)
def test_what_could_not_be_read_is_not_written(clip, says):
  with pytest.raises(UserError, match=says):
    annotations.row_of(clip)


def test_classes_without_names_and_names_without_numbers(tmp_path):
  path = write(tmp_path / 'a.jsonl', row('a', label=1), row('b', label=0))
  assert annotations.read(path).classes == [None, None]
  named = write(tmp_path / 'b.jsonl', row('a', label='up'), row('b', label='down'), row('c', 'val', label=''))
  rows, classes = annotations.read(named)
  assert classes == ['down', 'up'] and [r.get('label') for r in rows] == [1, 0, None]
  assert annotations.read(write(tmp_path / 'c.jsonl', row('a'))).classes == []


def test_pairs_name_images_of_the_file(tmp_path):
  pair = {'sentence': 'a man sits', 'negative': '2', 'negated': ['verb']}
  path = write(tmp_path / 'a.jsonl', row('1', pairs=[pair]), row('2'))
  assert annotations.read(path).rows[0]['pairs'] == [pair]
  assert "the negative of '1', has no line" in refused(tmp_path / 'b.jsonl', row('1', pairs=[pair]))
  for bad in ({'sentence': 'x'}, pair | {'negated': ['verbs']}, pair | {'negative': 2}, 7):
    assert 'line 1: pairs must be' in refused(tmp_path / 'b.jsonl', row('1', pairs=[bad]), row('2'))


@pytest.mark.parametrize(
  'rows, says',
  [
    (['{"id": "a"'], 'line 1 is no readable JSON'),
    (['[1]'], 'line 1 holds no object'),
    ([row(), row(split='val')], "line 2: the clip 'a' was listed before, in line 1"),
    ([row(id=7)], "line 1: id must be text, not '7'"),
    ([{'id': 'a'}], 'line 1: split must be text'),
    ([row(label=-1)], 'line 1: label must be a number from 0'),
    ([row(label=1.0)], 'line 1: label must be a number from 0'),
    ([row(label=True)], 'line 1: label must be a number from 0'),
    ([row(captions='a man')], 'line 1: captions must be a list of texts'),
    ([row('a', label=0), row('b')], "'b' has no label, and other clips of split 'test' have one"),
    ([row('a', label=0), row('b', label=2)], 'labels go up to 2, but 1 of them, 1 the first, have no clip'),
    ([row('a', label=1)], 'labels go up to 1, but 1 of them, 0 the first'),
    ([row('a', label=0), row('b', label='run')], "the label of 'b' is a name, and others are numbers"),
    ([row('a', label=0, **{'class': 'x'}), row('b', label=0, **{'class': 'y'})], 'label 0 has several names: x, y'),
    ([row('a', label=0, **{'class': 'x'}), row('b', label=1, **{'class': 'x'})], "several labels have the name 'x'"),
  ],
)
def test_what_is_wrong_is_one_sentence(tmp_path, rows, says):
  assert says in refused(tmp_path / 'annotations.jsonl', *rows)


def test_a_file_or_a_split_that_is_not_there(tmp_path):
  with pytest.raises(UserError, match='none.jsonl is not there; python -m data.check NAME PATH --out DIR makes one'):
    annotations.read(tmp_path / 'none.jsonl')
  assert "no clip of split 'val'; its splits: test, train" in refused(
    tmp_path / 'a.jsonl', row('a'), row('b', 'train'), split='val'
  )
