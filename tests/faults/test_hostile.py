"""Files that ask for more than they are: nothing of them is run, and nothing is read before its size was looked at.

What else strangers may send is in test_pth.py, test_paths.py, test_archives.py, test_transcripts.py, test_video.py and
test_data.py.
"""

import copy
import hashlib
import json
import os
import pathlib
import resource
import shutil
import tarfile
from collections import Counter

import numpy as np
import pytest

from tests.media.test_paths import tar
from tests.support import folders
from tvts_jax import config
from tvts_jax.convert import workdir
from tvts_jax.errors import UserError
from tvts_jax.input import tokens, vocab
from tvts_jax.input.examples import Examples
from tvts_jax.input.settings import InputConfig
from tvts_jax.media import paths
from tvts_jax.media.errors import MediaError
from tvts_jax.run import checkpoint_reader, checksums, clock
from tvts_jax.run.checkpoint import CheckpointConfig, Checkpoints
from tvts_jax.shards import index, layout
from tvts_jax.shards.index import FolderError


@pytest.mark.parametrize('kind', [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
@pytest.mark.parametrize('place', ['first', 'second'])
def test_a_header_of_a_tar_takes_no_more_memory_than_a_name_needs(tmp_path, kind, place):
  """The file has the size that the header claims, but next to nothing on the disk."""
  size = 1 << 28
  header = tarfile.TarInfo('bomb')
  header.type, header.size = kind, size
  path = tar(tmp_path / 'a.tar', ('a', b'x'))
  with open(path, 'r+b') as file:
    file.seek(0 if place == 'first' else 1024)
    file.write(header.tobuf(tarfile.GNU_FORMAT))
    file.truncate(file.tell() + size + 1024)
  most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  with pytest.raises(MediaError, match=f'a header claims to have {size} bytes') as error:
    paths.members(path)
  assert error.value.code == 'bad_archive'
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < most + 2**16  # KiB


def test_long_names_in_a_tar_are_fine(tmp_path):
  name = '/'.join(['x' * 200] * 20)
  for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
    assert list(paths.members(tar(tmp_path / f'{form}.tar', (name, b'x'), form=form))) == [name]


@pytest.mark.parametrize(
  'text',
  [
    b'input.batch: __import__("os").mkdir("made")',
    b'input.batch: [].append(open("made", "w"))',
    b'input.batch: 10 ** 10 ** 10',
    b'input.folder: "a" * 10 ** 12',
    b'input.batch: ' + b'9' * 10**5,
    b'input.batch: ' + b'(' * 10**5,
    b'input.batch: ' + b'-' * 10**6 + b'1',
    b'input.batch: ' + b'1+' * 10**5 + b'1',
    b'input.batch: ' + b'{1: ' * 10**4,
    b'input.batch: "\xff\xfe"',
    b'input.batch: \x00',
    b'input.batch: None',
    b'input.seconds: 3',
    b'input.mode: {}',
  ],
)
def test_the_config_of_a_work_directory_is_text(tmp_path, monkeypatch, text):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'config.txt').write_bytes(text)
  with pytest.raises(UserError, match='config.txt is damaged at ') as error:
    config.read_input(tmp_path)
  assert len(str(error.value)) < 400 and str(error.value).isprintable()
  assert [path.name for path in tmp_path.iterdir()] == ['config.txt']


# What stands where a field of JSON should be.
ODD = None, True, -1, 10**9, 1e400, 'x', '1\n2', [], [1], {}, {'a': 1}
DEEP = '[' * 10**5 + ']' * 10**5


def one_sentence(error) -> None:
  text = str(error.value)
  assert '\n' not in text and len(text) < 700 and text.isprintable(), text


@pytest.fixture(scope='module')
def shards(tmp_path_factory):
  made = [folders.record(f'v{i}', height=16) for i in range(3)]
  return folders.write(tmp_path_factory.mktemp('hostile') / 'shards', {'train': [made[:2], made[2:]]})


@pytest.fixture
def folder(shards, tmp_path):
  return pathlib.Path(shutil.copytree(shards, tmp_path / 'shards'))


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
  folder = tmp_path_factory.mktemp('words') / 'pieces'
  vocab.save(vocab.train(Counter(f'w{i}' for i in range(40)), 300), folder)
  return folder


def fields(value, path=()):
  """The path of each field of JSON, however deep."""
  inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
  for key, below in inside:
    yield (*path, key)
    yield from fields(below, (*path, key))


def changed(value, path, new):
  """A copy with another value in one place."""
  value = copy.copy(value)
  value[path[0]] = changed(value[path[0]], path[1:], new) if path[1:] else new
  return value


def test_whatever_a_manifest_says_is_used_or_refused_in_one_sentence(folder, tokenizer):
  """No field of it is believed where the data says otherwise."""
  path, words = folder / 'manifest.json', tokens.Tokenizer(str(tokenizer), 8)
  settings = InputConfig(folder=str(folder), batch=1, image_size=16, patch=8, frames=4, max_tokens=8)
  content, refused = json.loads(path.read_text()), 0
  for place in fields(content):
    for value in ODD:
      path.write_text(json.dumps(changed(content, place, value)))
      try:
        for row in range(len(examples := Examples(settings, words))):
          examples.stored(row)
      except UserError as error:
        assert '\n' not in str(error) and len(str(error)) < 700, (place, value)
        refused += 1
  assert refused > 200
  path.write_text(json.dumps(content))
  assert len(Examples(settings, words)) == 3


@pytest.mark.parametrize('text', [DEEP, '{"a":' * 10**5, '9' * 5000, '', '\0', '{}', 'null'])
def test_a_manifest_of_other_text_is_damaged(folder, text):
  (folder / 'manifest.json').write_text(text)
  with pytest.raises(FolderError, match='manifest.json is damaged') as error:
    index.load(folder, 'train')
  one_sentence(error)


@pytest.mark.parametrize('name, says', [('manifest.json', 'is damaged'), ('train.idx', 'is not the index')])
def test_nobody_waits_for_a_fifo(folder, name, says):
  (folder / name).unlink()
  os.mkfifo(folder / name)
  with pytest.raises(FolderError, match=f'{name} {says}'):
    index.load_index(index.load(folder, 'train'))


def test_an_index_of_another_size_is_not_read(folder):
  os.truncate(folder / 'train.idx', 1 << 40)
  with pytest.raises(FolderError, match='train.idx is not the index'):
    index.load_index(index.load(folder, 'train'))


# Of three records in two shards: what an index says of places, and heads.
ORDERS = {
  'a place beyond its shard': lambda offset, head: (offset + [0, 0, 0, 8], head),
  'places that go back': lambda offset, head: (offset[[0, 2, 1, 3]], head),
  'a record without room': lambda offset, head: ([0, 8, *offset[2:]], head),
  'the border of two shards elsewhere': lambda offset, head: (offset + [0, 0, 8, 0], head),
  'a head as large as its record': lambda offset, head: (offset, np.diff(offset)),
  'huge': lambda offset, head: ([0, 2**63, 2**64 - 1, offset[3]], head),
}


@pytest.mark.parametrize('order', ORDERS)
def test_an_index_must_fit_its_shards_whatever_its_checksum_says(folder, order):
  manifest = index.load(folder, 'train')
  columns = index.read_columns(manifest)
  columns['offset'], columns['head'] = ORDERS[order](columns['offset'].astype(np.int64), columns['head'])
  parts = [np.array(columns[name], np.uint64).astype(dtype).tobytes() for name, (dtype, _) in index.COLUMNS.items()]
  data = b''.join([index.INDEX_MAGIC, *parts])
  (folder / 'train.idx').write_bytes(data)
  content = json.loads((folder / 'manifest.json').read_text())
  content['splits']['train']['index'] |= {'bytes': len(data), 'sha256': hashlib.sha256(data).hexdigest()}
  (folder / 'manifest.json').write_text(json.dumps(content))
  with pytest.raises(FolderError, match='names places that the shards of the manifest do not have') as error:
    index.load_index(index.load(folder, 'train'))
  one_sentence(error)


def test_a_number_in_a_record_ends():
  with pytest.raises(ValueError, match='frames/jpeg is missing'):
    layout.head_bytes(layout.TAG + b'\xff' * 2**20)


def edit_json(path, **changes):
  path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


SPLIT_BY_REGEX = {'type': 'Split', 'pattern': {'Regex': '(a+)+$'}, 'behavior': 'Isolated', 'invert': False}
TOKENIZERS = {
  'deep JSON': lambda folder: (folder / 'tokenizer.json').write_text(DEEP),
  'a deep config': lambda folder: (folder / 'tokenizer_config.json').write_text(DEEP),
  'a config that is a list': lambda folder: (folder / 'tokenizer_config.json').write_text('[1]'),
  'another model': lambda folder: edit_json(folder / 'tokenizer.json', model={'type': 'WordPiece', 'vocab': 5}),
  'no model': lambda folder: edit_json(folder / 'tokenizer.json', model=None),
  'a padding of no type': lambda folder: edit_json(folder / 'tokenizer_config.json', pad_token=[5]),
  'a broken regex': lambda folder: edit_json(
    folder / 'tokenizer.json', pre_tokenizer={**SPLIT_BY_REGEX, 'pattern': {'Regex': '(a+'}}
  ),
  'a regex without end': lambda folder: edit_json(folder / 'tokenizer.json', pre_tokenizer=SPLIT_BY_REGEX),
}


@pytest.mark.parametrize('kind', TOKENIZERS)
def test_a_hostile_tokenizer_is_refused_in_one_sentence(tokenizer, tmp_path, kind):
  folder = pathlib.Path(shutil.copytree(tokenizer, tmp_path / 'pieces'))
  TOKENIZERS[kind](folder)
  with pytest.raises(UserError, match=f'tokenizer .*{folder}') as error:
    tokens.Tokenizer(str(folder), 8)(['a' * 60 + '!'])
  one_sentence(error)


MODEL = {
  **{'video': {'image_size': 16, 'frames': 4, 'depth': 1, 'width': 16, 'heads': 2}, 'sort_depth': 1, 'common': 16},
  'text': {'n_layers': 1, 'dim': 16, 'hidden_dim': 32, 'n_heads': 2},
}


@pytest.fixture(scope='module')
def saved_run(tmp_path_factory):
  """A checkpoint as the trainer describes it, of an array that nobody restores."""
  root = tmp_path_factory.mktemp('run')
  meta = {
    'config': 'seed: 0\n',
    'version': '1',
    'model': MODEL,
    'tokenizer': 'none',
    'ema': False,
  }
  meta |= {'data': ['x'], 'vocabulary': 'y', 'clock': {'seconds': {}, 'restarts': 0, 'down': 0.0, 'wall': 0.0}}
  with Checkpoints(root / 'checkpoints', CheckpointConfig()) as checkpoints:
    checkpoints.save(1, {'params': {'x': np.zeros(3, np.float32)}}, meta)
  return root


def rewrite(folder, text):
  """meta.json with other text, and the checksums made to fit."""
  (folder / 'meta.json').write_text(text)
  checksums.write(folder)


def test_whatever_meta_json_says_is_used_or_refused_in_one_sentence(saved_run, tmp_path, monkeypatch):
  monkeypatch.setattr(checksums, 'damage', lambda folder: None)  # Whoever writes meta.json can write their list.
  run = pathlib.Path(shutil.copytree(saved_run, tmp_path / 'run'))
  folder = run / 'checkpoints' / '1'
  content, refused = json.loads((folder / 'meta.json').read_text()), 0
  texts = [json.dumps(changed(content, place, value)) for place in fields(content) for value in ODD]
  texts += [json.dumps({k: v for k, v in content.items() if k != name}) for name in content]
  for text in [*texts, DEEP, '[]', '']:
    (folder / 'meta.json').write_text(text)
    try:
      meta = checkpoint_reader.of_run(run).read_run()
      clock.Clock().restore(meta['clock'])
    except UserError as error:
      assert '\n' not in str(error) and len(str(error)) < 700, text
      refused += 1
  assert refused > 100


@pytest.mark.parametrize(
  'name, value', [('model', [1]), ('model', {'video': 5}), ('config', 'x\ny'), ('tokenizer', None)]
)
def test_a_run_whose_meta_json_lies_is_no_model(saved_run, tmp_path, name, value):
  run = pathlib.Path(shutil.copytree(saved_run, tmp_path / 'run'))
  content = json.loads((run / 'checkpoints/1/meta.json').read_text())
  rewrite(run / 'checkpoints/1', json.dumps(changed(content, ('meta', name), value)))
  with pytest.raises(UserError, match=str(run)) as error:
    workdir.load_workdir(run)
  one_sentence(error)
