import csv
import dataclasses
import gzip
import io
import json
import os
import shutil
import tarfile

import pytest

from data import archives
from data.builder import windows
from data.outcomes import BuildError, ItemError
from data.sources import find
from data.sources.items import SOURCE_CODES, Item, SourceError
from data.transcripts import formats
from tests.support import folders
from tests.support.paths import GOLDEN
from tvts_jax.media import paths

RECORD = json.loads((GOLDEN / 'WAaKRUoY6Io.grover.json').read_text())
JSON3 = json.dumps({'events': [{'tStartMs': 0, 'segs': [{'utf8': 'hello'}, {'utf8': ' you', 'tOffsetMs': 400}]}]})
VTT = 'WEBVTT\n\n00:00.000 --> 00:02.000\nhello you\n'
WHISPER = {'segments': [{'text': 'a', 'words': [{'word': ' a', 'start': 0, 'end': 1}]}]}


def write(root, files):
  """Files under a folder, from {path: text, bytes or something that becomes JSON}."""
  for path, content in files.items():
    at = root / path
    at.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes | str):
      content = json.dumps(content)
    at.write_bytes(content if isinstance(content, bytes) else content.encode())
  return root


def refused(code, *args, **kwargs):
  with pytest.raises(SourceError) as caught:
    find.find(*map(str, args), **kwargs)
  assert caught.value.code == code, caught.value
  assert '\n' not in str(caught.value)
  return str(caught.value)


def jsonl(*rows):
  return ''.join(json.dumps(row) + '\n' for row in rows)


def row(id='a', **more):
  return {'id': id, 'video': 'a.mp4', 'transcript': 'a.json3'} | more


def folder(root):
  return write(root, {'a.mp4': b'video', 'a.json3': JSON3})


# Index files.


def test_an_index_in_three_forms(tmp_path):
  write(tmp_path, {'media/a.mp4': b'v', 'media/a.json3': JSON3, 'b.tar': b''})
  rows = [
    {'id': 'b', 'video': 'b.tar::b.mp4', 'transcript': 'b.tar::b.vtt', 'transcript_format': 'vtt', 'split': 'val'},
    {'id': 'a', 'video': 'media/a.mp4', 'transcript': 'media/a.json3', 'lang': 'en', 'split': 'train'},
    {'id': 'C, "c"', 'video': '/abs/c.mp4', 'caption': 'a dog, a cat', 'split': 'train'},
  ]
  at = lambda path: str(tmp_path / path)
  expected = [
    Item('C, "c"', '/abs/c.mp4', None, None, '', 'train', 'a dog, a cat'),
    Item('a', at('media/a.mp4'), at('media/a.json3'), None, 'en', 'train', None),
    Item('b', at('b.tar') + '::b.mp4', at('b.tar') + '::b.vtt', 'vtt', '', 'val', None),
  ]
  columns = ['id', 'video', 'transcript', 'transcript_format', 'lang', 'split', 'caption', 'notes']
  (tmp_path / 'x.jsonl').write_text('\ufeff' + jsonl(*rows) + '\n')
  (tmp_path / 'x.jsonl.gz').write_bytes(gzip.compress(jsonl(*rows).encode()))
  with open(tmp_path / 'x.csv', 'w', newline='') as file:
    writer = csv.DictWriter(file, columns, restval='')
    writer.writeheader()
    writer.writerows(rows)
  lines = ['\t'.join(columns), *('\t'.join(r.get(c, '') for c in columns) for r in rows)]
  (tmp_path / 'x.tsv').write_text('\n'.join(lines) + '\n')
  for name in ('x.jsonl', 'x.jsonl.gz', 'x.csv', 'x.tsv'):
    assert find.detect(at(name)) == 'index'
    assert find.find(at(name)) == expected, name


def test_paths_are_relative_to_the_index_not_to_here(tmp_path, monkeypatch):
  folder(tmp_path / 'data')
  write(tmp_path, {'lists/x.jsonl': jsonl(row(video='../data/a.mp4', transcript='../data/a.json3'))})
  monkeypatch.chdir(tmp_path)
  (item,) = find.find('lists/x.jsonl')
  assert os.path.isabs(item.video) and os.path.samefile(item.video, tmp_path / 'data/a.mp4')
  assert formats.read(item.transcript).source == 'json3'
  (item,) = find.find('lists/x.jsonl', media='data')
  assert os.path.normpath(item.video) == str(tmp_path / 'data/a.mp4')


def test_numbers_are_fine_as_ids(tmp_path):
  folder(tmp_path)
  write(tmp_path, {'x.jsonl': jsonl(row(17))})
  assert find.find(str(tmp_path / 'x.jsonl'))[0].id == '17'


HARMLESS = ['../../etc/passwd', '/abs', '-rf', 'a b', 'ünï', 'Abc', 'abC', 'a' * 255, '~', '*', '😀', '.', 'con']
HARMFUL = ['', '  ', 'a\nb', 'a\0b', 'a\tb', 'a\u2028b', 'a' * 300, '\ud800']


def test_ids_are_data(tmp_path):
  folder(tmp_path)
  write(tmp_path, {'x.jsonl': jsonl(*(row(id) for id in HARMLESS))})
  assert [item.id for item in find.find(str(tmp_path / 'x.jsonl'))] == sorted(HARMLESS)


@pytest.mark.parametrize('id', HARMFUL)
def test_ids_that_break_things_are_refused_with_their_line(tmp_path, id):
  folder(tmp_path)
  write(tmp_path, {'x.jsonl': jsonl(row('first'), row(id))})
  assert 'line 2' in refused('bad_id' if id else 'bad_table', tmp_path / 'x.jsonl')


def test_duplicate_ids_name_both_places(tmp_path):
  folder(tmp_path)
  write(tmp_path, {'x.jsonl': jsonl(row('a'), row('b'), row('a'))})
  sentence = refused('duplicate_id', tmp_path / 'x.jsonl')
  assert 'line 3' in sentence and 'line 1' in sentence
  write(tmp_path, {'y.csv': 'id,video,transcript\n1,a.mp4,a.json3\n"x\ny",a.mp4,a.json3\n'})
  assert 'line 4' in refused('bad_id', tmp_path / 'y.csv')


BAD_TABLES = {
  'no_json.jsonl': jsonl(row('a')) + '{"id": \n',
  'list.jsonl': jsonl(row('a')) + '[1]\n',
  'deep.jsonl': jsonl(row('a')) + '[' * 100_000 + '\n',
  'no_video.jsonl': jsonl(row('a'), row('b', video='')),
  'no_id.jsonl': jsonl(row('a'), row(None)),
  'type.jsonl': jsonl(row('a'), row('b', video=['x'])),
  'bool.jsonl': jsonl(row('a'), row(True)),
  'both.jsonl': jsonl(row('a'), row('b', caption='x')),
  'format.jsonl': jsonl(row('a'), row('b', transcript_format='docx')),
  'address.jsonl': jsonl(row('a'), row('b', video='https://example.com/a.mp4')),
  'address.csv': 'id,video,transcript\na,a.mp4,a.json3\nb,a.mp4,hdfs://host/a.json3\n',
  'nul.jsonl': jsonl(row('a'), row('b', video='a\0.mp4')),
  'fields.csv': 'id,video,transcript\na,a.mp4,a.json3\nb,b.mp4\n',
  'twice.csv': 'id,video,transcript,id\na,a.mp4,a.json3,a\n',
  'quote.csv': 'id,video,transcript\na,a.mp4,a.json3\nb,"b.mp4"x,c\n',
  'latin.tsv': b'id\tvideo\ttranscript\na\ta.mp4\ta.json3\n\xe9\tb.mp4\tb.json3\n',
  'huge.csv': 'id,video,transcript\na,a.mp4,a.json3\n' + 'b' * 200_000 + ',b.mp4,b\n',
}


@pytest.mark.parametrize('name', BAD_TABLES)
def test_a_bad_line_is_named(tmp_path, name):
  folder(tmp_path)
  write(tmp_path, {name: BAD_TABLES[name]})
  sentence = refused('bad_table', tmp_path / name)
  assert str(tmp_path / name) in sentence and 'line' in sentence


def test_missing_files_are_left_to_the_items_unless_all_are_missing(tmp_path):
  folder(tmp_path)
  write(tmp_path, {'x.jsonl': jsonl(row('a'), row('b', video='b.mp4'), row('c', transcript=None))})
  missing = {item.id: item for item in find.find(str(tmp_path / 'x.jsonl'))}
  with pytest.raises(ItemError, match='missing_video'):
    archives.open_bytes(missing['b'].video, 100)
  assert missing['c'].transcript is None
  (tmp_path / 'a.json3').unlink()
  assert 'a.json3' in refused('nothing_found', tmp_path / 'x.jsonl')
  (tmp_path / 'a.mp4').unlink()
  assert 'a.mp4' in refused('nothing_found', tmp_path / 'x.jsonl')
  write(tmp_path, {'y.csv': 'id,video,transcript\n'})
  refused('nothing_found', tmp_path / 'y.csv')


def test_a_damaged_compressed_index(tmp_path):
  folder(tmp_path)
  write(tmp_path, {'x.jsonl.gz': gzip.compress(jsonl(row('a'), row('b')).encode())[:-9]})
  refused('bad_archive', tmp_path / 'x.jsonl.gz')


def test_splits(tmp_path):
  folder(tmp_path)
  rows = [row(f'id{n}') for n in range(400)]
  write(tmp_path, {'x.jsonl': jsonl(*rows), 'y.jsonl': jsonl(*reversed(rows[:200]))})
  assert {item.split for item in find.find(str(tmp_path / 'x.jsonl'))} == {'train'}
  drawn = {item.id: item.split for item in find.find(str(tmp_path / 'x.jsonl'), val_fraction=0.1)}
  assert 20 <= sum(split == 'val' for split in drawn.values()) <= 60
  # An item's split hangs on its id alone, and grows with the fraction.
  for item in find.find(str(tmp_path / 'y.jsonl'), val_fraction=0.1):
    assert drawn[item.id] == item.split
  for item in find.find(str(tmp_path / 'x.jsonl'), val_fraction=0.2):
    assert item.split == 'val' or drawn[item.id] == 'train'
  write(tmp_path, {'z.jsonl': jsonl(row('a', split='val'), row('b'))})
  assert [item.split for item in find.find(str(tmp_path / 'z.jsonl'))] == ['val', 'train']
  refused('bad_table', tmp_path / 'z.jsonl', val_fraction=0.1)
  with pytest.raises(ValueError, match='val_fraction'):
    find.find(str(tmp_path / 'x.jsonl'), val_fraction=1.0)


# Which kind.


def test_kinds_that_cannot_be_told_are_listed(tmp_path):
  write(tmp_path, {'x.csv': 'foo,bar,baz\n1,2,3\n', 'empty.csv': '', 'y.txt': 'x', 'only/notes.txt': 'x'})
  for path in ('x.csv', 'empty.csv', 'y.txt', 'only'):
    sentence = refused('ambiguous_kind', tmp_path / path)
    assert '--kind' in sentence and all(kind in sentence for kind in find.KINDS)
  write(tmp_path, {'both/a.mp4': b'v', 'both/a.json3': JSON3})
  with tarfile.open(tmp_path / 'both/x.tar', 'w'):
    pass
  sentence = refused('ambiguous_kind', tmp_path / 'both')
  assert 'tree:' in sentence and 'webdataset:' in sentence and 'cc3m:' not in sentence
  assert [item.id for item in find.find(str(tmp_path / 'both'), 'tree')] == ['a']


def test_unknown_kinds_and_paths(tmp_path):
  folder(tmp_path)
  assert 'webvid' in refused('unknown_kind', tmp_path, 'webvids')
  assert 'index' in refused('unknown_kind', tmp_path, 'index')
  refused('no_source', tmp_path / 'nowhere')
  refused('no_source', tmp_path / 'nowhere', 'tree')
  refused('no_source', tmp_path, media=str(tmp_path / 'nowhere'))


def test_a_source_error_ends_a_build_as_a_bad_request():
  error = SourceError('bad_id', 'a sentence')
  assert isinstance(error, BuildError) and error.exit == 2
  with pytest.raises(KeyError):
    SourceError('foo', 'a sentence')
  assert len(SOURCE_CODES) == 9


# Folders.


def test_a_tree_of_videos_with_captions_beside_them(tmp_path):
  write(
    tmp_path,
    {
      'a.mp4': b'v',
      'a.en.json3': JSON3,
      'a.en.vtt': 'x',
      'a.info.json': {},
      'a.live_chat.json': {},
      'sub/my.talk [id].MKV': b'v',
      'sub/my.talk [id].en-orig.vtt': 'x',
      'sub/my.talk [id].en.json3': JSON3,
      'sub/my.talk [id].de.json3': JSON3,
      'sub/whispered.webm': b'v',
      'sub/whispered.json': WHISPER,
      'sub/whispered.srt': 'x',
      'sub/whispered.vtt': 'x',
      'sub/zipped.mov': b'v',
      'sub/zipped.vtt.gz': b'x',
      'sub/zipped.odd.json': {},
      'sub/silent.mp4': b'v',
      'sub/cover.jpg': b'i',
    },
  )
  assert find.detect(str(tmp_path)) == 'tree'
  found = {item.id: item for item in find.find(str(tmp_path))}
  names = {id: item.transcript and os.path.relpath(item.transcript, tmp_path) for id, item in found.items()}
  assert names == {
    'a': 'a.en.json3',
    'sub/my.talk [id]': 'sub/my.talk [id].en-orig.vtt',
    'sub/silent': None,
    'sub/whispered': 'sub/whispered.json',
    'sub/zipped': 'sub/zipped.vtt.gz',
  }
  assert {id: item.lang for id, item in found.items()} == dict.fromkeys(found, '') | {
    'a': 'en',
    'sub/my.talk [id]': 'en',
  }
  german = {item.id: item for item in find.find(str(tmp_path), lang='de')}
  assert german['sub/my.talk [id]'].transcript.endswith('.de.json3') and german['a'].transcript is None


def test_captions_in_several_languages_need_a_choice(tmp_path):
  write(tmp_path, {'a.mp4': b'v', 'a.de.vtt': 'x', 'a.en.vtt': 'x', 'a.en-GB.vtt': 'x'})
  sentence = refused('ambiguous_lang', tmp_path)
  assert 'de, en' in sentence and '--lang' in sentence
  (item,) = find.find(str(tmp_path), lang='en')
  assert item.transcript.endswith('a.en.vtt') and item.lang == 'en'
  (item,) = find.find(str(tmp_path), lang='en-GB')
  assert item.transcript.endswith('a.en-GB.vtt')


def test_languages_of_three_letters(tmp_path):
  write(tmp_path, {'a.mp4': b'v', 'a.ceb.json3': JSON3, 'a.en-US.json3': JSON3})
  assert 'ceb, en' in refused('ambiguous_lang', tmp_path)
  for lang, name in (('ceb', 'a.ceb.json3'), ('en', 'a.en-US.json3')):
    (item,) = find.find(str(tmp_path), lang=lang)
    assert os.path.basename(item.transcript) == name and item.lang == name.split('.')[1]


@pytest.mark.parametrize('tag', ['asr', 'cpp', 'whisper'])
def test_a_tag_that_names_a_transcriber_is_no_language(tmp_path, tag):
  write(tmp_path, {'a.mp4': b'v', f'a.{tag}.json': WHISPER})
  for lang in (None, 'en'):
    (item,) = find.find(str(tmp_path), lang=lang)
    assert item.transcript.endswith(f'.{tag}.json') and item.lang == (lang or '')


@pytest.mark.parametrize('name', ['a.wav.json', 'a.raw.json', 'a.sdh.srt', 'a.new.vtt', 'a.web-dl.srt'])
def test_a_tag_of_three_letters_that_is_no_language(tmp_path, name):
  write(tmp_path, {'a.mp4': b'v', name: WHISPER})
  for lang in (None, 'en'):
    (item,) = find.find(str(tmp_path), lang=lang)
    assert os.path.basename(item.transcript) == name and item.lang == (lang or '')
  write(tmp_path, {'a.en.json3': JSON3})
  (item,) = find.find(str(tmp_path))
  assert os.path.basename(item.transcript) == 'a.en.json3' and item.lang == 'en'


OTHER_JSON = {
  'metadata': {'title': 'a talk'},
  'video2dataset': {'yt_meta_dict': {'subtitles': [{'lines': ['a']}]}},
  'broken': '{"a',
  'gzipped': gzip.compress(b'{}'),
}


@pytest.mark.parametrize('content', OTHER_JSON.values(), ids=list(OTHER_JSON))
def test_json_of_another_kind_gives_way_to_captions(tmp_path, content):
  ending = '.json.gz' if isinstance(content, bytes) else '.json'
  write(tmp_path, {'a.mp4': b'v', f'a{ending}': content, 'a.en.vtt': 'x', 'alone.mp4': b'v', f'alone{ending}': content})
  found = {item.id: os.path.basename(item.transcript) for item in find.find(str(tmp_path))}
  assert found == {'a': 'a.en.vtt', 'alone': f'alone{ending}'}


def test_only_json_that_would_be_taken_is_looked_into(tmp_path, monkeypatch):
  looked = []
  opened = archives.open_bytes
  monkeypatch.setattr(archives, 'open_bytes', lambda path, *args: looked.append(path) or opened(path, *args))
  write(tmp_path, {'a.mp4': b'v', 'a.en.json3': JSON3, 'a.json': {}})
  write(tmp_path, {'b.mp4': b'v', 'b.json': {}, 'b.odd.json': {}, 'b.srt': 'x'})
  write(tmp_path, {'c.mp4': b'v', 'c.json': {}, 'c.de.vtt': 'x'})
  found = {item.id: os.path.basename(item.transcript) for item in find.find(str(tmp_path), lang='en')}
  assert found == {'a': 'a.en.json3', 'b': 'b.srt', 'c': 'c.json'}
  assert [os.path.basename(path) for path in looked] == ['b.json', 'c.json']


def test_what_macos_leaves_beside_files_is_no_item(tmp_path):
  write(folder(tmp_path / 'tree'), {'._a.mp4': b'x', '._a.json3': 'x'})
  assert [item.id for item in find.find(str(tmp_path / 'tree'))] == ['a']
  tar(tmp_path / 'x.tar', {'._a.mp4': b'x', 'a.mp4': b'v', '._a.json3': 'x', 'a.json3': JSON3})
  assert [item.id for item in find.find(str(tmp_path / 'x.tar'))] == ['x/a']


def test_hostile_names_in_a_tree(tmp_path):
  folder(tmp_path)
  write(tmp_path, {'a.webm': b'v'})
  refused('duplicate_id', tmp_path)
  (tmp_path / 'a.webm').rename(tmp_path / 'b\nc.webm')
  refused('bad_id', tmp_path)
  (tmp_path / 'b\nc.webm').rename(tmp_path / os.fsdecode(b'b\xff.webm'))
  refused('bad_id', tmp_path)
  (tmp_path / os.fsdecode(b'b\xff.webm')).rename(tmp_path / '-rf.webm')
  assert [item.id for item in find.find(str(tmp_path))] == ['-rf', 'a']


def test_a_tree_without_one_transcript(tmp_path):
  write(tmp_path, {'a.mp4': b'v', 'b.mp4': b'v'})
  refused('nothing_found', tmp_path)


# Published layouts.


def tvts(root, videos='data/YTTemporal/videos'):
  for id in ('x-1', '_y2'):
    write(root, {f'{videos}/subset_8/data/{id}.mp4': b'v', f'{videos}/subset_8/annotations/{id}.json': RECORD})
  return write(
    root,
    {
      'meta_data/yttemporal_train.csv': 'Name\nsubset_8/data/x-1.mp4\nsubset_8/data/gone.mp4\n',
      'meta_data/yttemporal_val.csv': 'Name\tlength\nsubset_8/data/_y2.mp4\t3\n',
    },
  )


def test_the_tvts_tree(tmp_path):
  tvts(tmp_path)
  assert find.detect(str(tmp_path)) == 'tvts'
  items = find.find(str(tmp_path))
  assert [(item.id, item.split) for item in items] == [('_y2', 'val'), ('gone', 'train'), ('x-1', 'train')]
  assert all(paths.exists(item.video) == (item.id != 'gone') for item in items)
  assert formats.read(items[0].transcript, fmt=items[0].fmt).source == 'merlot'
  table = str(tmp_path / 'meta_data/yttemporal_train.csv')
  assert find.detect(table) == 'tvts' and len(find.find(table)) == 2


def test_the_tvts_tree_with_its_media_elsewhere(tmp_path):
  tvts(tmp_path, videos='../elsewhere/videos')
  assert '--media' in refused('no_source', tmp_path)
  for media in ('elsewhere', 'elsewhere/videos'):
    items = find.find(str(tmp_path), media=str(tmp_path.parent / media))
    assert paths.exists(items[0].video) and paths.exists(items[0].transcript)
  shutil.rmtree(tmp_path.parent / 'elsewhere')


@pytest.mark.parametrize('name', ['', 'a.mp4', '../data/a.mp4', '/a/b/c.mp4', 'a/b/c/d.mp4', 'a//c.mp4'])
def test_odd_names_in_the_tvts_csv(tmp_path, name):
  tvts(tmp_path)
  write(tmp_path, {'meta_data/yttemporal_train.csv': f'Name\tn\n{name}\t1\n'})
  assert 'line 2' in refused('bad_table', tmp_path)


def record(id):
  return RECORD | {'info': {'id': id, 'title': 'Ünicode \u2028', 'duration': 255}}


@pytest.mark.parametrize('ending', ['.jsonl', '.jsonl.gz'])
def test_merlot_lines_and_a_folder_of_videos(tmp_path, ending):
  pack = gzip.compress if ending.endswith('.gz') else bytes
  parts = [['a', 'b'], ['c', 'd']]
  for n, ids in enumerate(parts):
    write(tmp_path, {f'yttemporal180m_{n:03d}of100{ending}': pack(jsonl(*map(record, ids)).encode())})
  write(tmp_path, {'videos/a.mp4': b'v', 'videos/deep/d.webm': b'v', 'videos/unlisted.mp4': b'v'})
  assert find.detect(str(tmp_path)) == 'merlot'
  items = find.find(str(tmp_path))
  assert [item.id for item in items] == ['a', 'd', 'unlisted']
  assert items[2].transcript is None
  expected = formats.read(GOLDEN / 'WAaKRUoY6Io.grover.json')
  for item in items[:2]:
    assert formats.read(item.transcript, fmt=item.fmt) == expected
    line = archives.open_bytes(item.transcript, 1 << 20, 'transcript')
    assert json.loads(line)['info']['id'] == item.id
  one = str(tmp_path / f'yttemporal180m_000of100{ending}')
  assert find.detect(one) == 'merlot'
  assert [item.id for item in find.find(one, media=str(tmp_path / 'videos')) if item.transcript] == ['a']


def test_broken_merlot_lines_are_named(tmp_path):
  write(tmp_path, {'a.mp4': b'v', 'yttemporal180m_000of100.jsonl': jsonl(record('a')) + '{"info"\n'})
  assert 'byte ' in refused('bad_table', tmp_path)
  write(tmp_path, {'yttemporal180m_000of100.jsonl': jsonl(record('a'), {'info': {}, 'subtitles': []})})
  assert 'info.id' in refused('bad_table', tmp_path)
  write(tmp_path, {'yttemporal180m_000of100.jsonl': jsonl(record('a'), record('a'))})
  refused('duplicate_id', tmp_path)
  write(tmp_path, {'yttemporal180m_000of100.jsonl': jsonl(record('a')), 'b/a.mkv': b'v'})
  refused('duplicate_id', tmp_path)


def test_cc3m_and_webvid_tables(tmp_path):
  write(tmp_path, {'m/1.jpg': b'i', 'm/00/2.mp4': b'v'})
  media = str(tmp_path / 'm')
  files = {
    'cc3m_train.tsv': 'a "quoted dog\t1.jpg\nit\'s a cat\t2.jpg\n',
    'images.csv': 'path,caption\n1.jpg,"a dog, running"\n',
    'webvid_val.tsv': 'caption\tpath\na dog\t00/2\n',
    'clips.jsonl': jsonl({'caption': 'a dog', 'video': '00/2.mp4'}),
    'results_2M_train.csv': 'videoid,contentUrl,duration,page_dir,name\n2,https://x/2.mp4,PT1S,00,"a dog, a cat"\n',
  }
  write(tmp_path, files)
  kinds = {name: find.detect(str(tmp_path / name)) for name in files}
  assert kinds == dict(zip(files, ['cc3m', 'cc3m', 'webvid', 'webvid', 'webvid']))
  found = {name: find.find(str(tmp_path / name), media=media) for name in files}
  said = {name: [(i.id, os.path.relpath(i.video, media), i.split, i.caption) for i in found[name]] for name in files}
  assert said == {
    'cc3m_train.tsv': [('1', '1.jpg', 'train', 'a "quoted dog'), ('2', '2.jpg', 'train', "it's a cat")],
    'images.csv': [('1', '1.jpg', 'train', 'a dog, running')],
    'webvid_val.tsv': [('00/2', '00/2.mp4', 'val', 'a dog')],
    'clips.jsonl': [('00/2', '00/2.mp4', 'train', 'a dog')],
    'results_2M_train.csv': [('2', '00/2.mp4', 'train', 'a dog, a cat')],
  }
  assert all(item.transcript is None for items in found.values() for item in items)


def test_caption_tables_that_do_not_do(tmp_path):
  write(tmp_path, {'m/x.mp4': b'v', 'pairs.tsv': 'a dog\tx\n', 'gcc-training.tsv': 'a dog\thttps://x/1.jpg?a=b\n'})
  sentence = refused('ambiguous_kind', tmp_path / 'pairs.tsv')
  assert 'cc3m:' in sentence and 'webvid:' in sentence and 'index:' not in sentence
  (item,) = find.find(str(tmp_path / 'pairs.tsv'), 'webvid', media=str(tmp_path / 'm'))
  assert paths.exists(item.video)
  assert 'download' in refused('bad_table', tmp_path / 'gcc-training.tsv')
  write(tmp_path, {'cc3m.tsv': 'caption\tpath\na dog\tx.jpg\n\tx.jpg\n'})
  assert 'line 3' in refused('bad_table', tmp_path / 'cc3m.tsv')


def tar(path, members):
  with tarfile.open(path, 'w') as file:
    for name, content in members.items():
      content = content if isinstance(content, bytes | str) else json.dumps(content)
      content = content if isinstance(content, bytes) else content.encode()
      info = tarfile.TarInfo(name)
      info.size = len(content)
      file.addfile(info, io.BytesIO(content))
  return str(path)


def test_webdataset_tars(tmp_path):
  tar(
    tmp_path / '00000.tar',
    {
      '0.jpg': b'i0',
      '0.txt': 'a dog',
      '0.json': {'caption': 'not this'},
      '1.jpg': b'i1',
      '1.json': {'caption': 'a cat', 'key': '1'},
      'gone.txt': 'a bird',
    },
  )
  talks = {'t/0.mp4': b'v0', 't/0.en.vtt': 'x', 't/0.txt': 'a title', 't/1.MP4': b'v1', 't/1.json': json.loads(JSON3)}
  tar(tmp_path / '00001.tar', talks | {'t/2.mp4': b'v2', 't/3.mp4': b'', 't/3.json': '[' * 99_999})
  assert find.detect(str(tmp_path)) == 'webdataset'
  items = {item.id: item for item in find.find(str(tmp_path))}
  assert {id: item.caption for id, item in items.items() if item.caption} == {
    '00000/0': 'a dog',
    '00000/1': 'a cat',
    '00000/gone': 'a bird',
  }
  inside = {id: item.transcript and item.transcript.split('::')[1] for id, item in items.items()}
  assert inside == dict.fromkeys(items) | {'00001/t/0': 't/0.en.vtt', '00001/t/1': 't/1.json', '00001/t/3': 't/3.json'}
  assert archives.open_bytes(items['00001/t/1'].video, 10) == b'v1'
  assert formats.read(items['00001/t/1'].transcript).source == 'json3'
  with pytest.raises(ItemError, match='bad_json'):
    formats.read(items['00001/t/3'].transcript)
  with pytest.raises(ItemError, match='missing_video'):
    archives.open_bytes(items['00000/gone'].video, 10)
  assert len(find.find(str(tmp_path / '00000.tar'))) == 3


def test_captions_that_are_none_are_left_to_their_items(tmp_path):
  texts = {'a.txt': 'café'.encode('latin-1'), 'b.txt': 'x' * ((1 << 20) + 1), 'c.txt': 'a café'}
  texts |= {'d.txt': texts['a.txt'], 'd.json': {'caption': 'a good one'}, 'e.vtt': VTT}
  tar(tmp_path / 'x.tar', {f'{key}.jpg': folders.jpeg(16, 24) for key in 'abcde'} | texts)
  a, b, c, d, e = find.find(str(tmp_path / 'x.tar'))
  assert [item.caption for item in (a, b, c, d, e)] == [None, None, 'a café', 'a good one', None]
  for item, says in ((a, 'bad_encoding: .*a.txt: is not UTF-8'), (b, 'unknown_format'), (e, 'missing_.*e.vtt is none')):
    with pytest.raises(ItemError, match=says):
      windows.records(item, windows.WindowConfig())


def test_hostile_tars(tmp_path):
  assert "'../x.mp4'" in refused('bad_archive', tar(tmp_path / 'a.tar', {'a.mp4': b'v', '../x.mp4': b'v'}))
  (tmp_path / 'a.tar').write_bytes(b'<html>' * 1000)
  refused('bad_archive', tmp_path / 'a.tar')


def test_finding_is_deterministic(tmp_path):
  tvts(tmp_path)
  first = find.find(str(tmp_path))
  assert first == find.find(str(tmp_path)) == sorted(first, key=lambda item: item.id)
  assert json.dumps([dataclasses.asdict(item) for item in first])
