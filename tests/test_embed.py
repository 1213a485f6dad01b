"""Features of videos and texts: those that the model gives on shards of the same videos, for files of any kind."""

import tarfile
from collections import Counter

import cv2
import numpy as np
import pytest
from pyarrow import parquet

import tvts_jax
from data import build
from tests.support import media, weights
from tvts_jax import convert, embed
from tvts_jax.errors import UserError
from tvts_jax.input import pipeline, vocab
from tvts_jax.input.settings import InputConfig
from tvts_jax.media import pictures

CONFIG = weights.config_of(transcripts=1, video={'image_size': 16})
PARAMS = weights.random_params(CONFIG)
TEXTS = ['red falls', 'blue', 'red red red red red red red red red red red red']


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """Weights with a tokenizer, three videos of which one is wide and one is short, and an image."""
  root = tmp_path_factory.mktemp('embed')
  vocab.save(vocab.train(Counter(' '.join(TEXTS).split()), 40), root / 'pieces')
  convert.save_folder(root / 'weights', CONFIG, PARAMS, tokenizer=root / 'pieces')
  (root / 'videos/deep').mkdir(parents=True)
  media.make_video(root / 'videos/a.mp4', times_ms=range(0, 2000, 100))
  media.make_video(root / 'videos/deep/b.mkv', times_ms=[0, 70, 900], size=(64, 96))
  image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
  cv2.imwrite(str(root / 'videos/c.png'), image)
  (root / 'texts.txt').write_text('\n'.join(TEXTS) + '\n\n')
  return root


@pytest.fixture(scope='module')
def model(root):
  return tvts_jax.load(root / 'weights')


@pytest.fixture(scope='module')
def found(root):
  assert embed.main([str(root / 'weights'), str(root / 'videos'), '--out', str(root / 'videos.npz')]) == 0
  with np.load(root / 'videos.npz') as file:
    return dict(file)


def names(found, root):
  return [str(id_).removeprefix(f'{root}/videos/') for id_ in found['ids']]


def through_jpeg(image_bgr):
  jpeg = pictures.encode(image_bgr, 0, quality=75).jpeg
  return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)


def test_features_are_those_of_the_same_videos_in_shards(root, model, found, monkeypatch):
  rows = [f'{name},{root}/videos/{name},{text}' for name, text in zip(names(found, root), TEXTS)]
  (root / 'index.csv').write_text('\n'.join(['id,video,caption', *rows]) + '\n')
  shape = ['--caption-frames', '4', '--short-side', '18', '--workers', '1']
  assert build.main([str(root / 'index.csv'), '--out', str(root / 'shards'), *shape]) == 0
  given = {'frames': 4, 'image_size': 16, 'patch': 4, 'transcripts': 1, 'max_tokens': 10, 'mask_ratio': 0.0}
  source = pipeline.open(
    InputConfig(folder=str(root / 'shards'), tokenizer=str(root / 'pieces'), mode='eval', batch=3, **given)
  )
  batch = source.batch(0)
  kept = {name: batch[name] for name in ('patches', 'positions', 'tokens', 'token_mask')}
  expected = weights.outputs(CONFIG, PARAMS, kept)
  # Shards hold JPEGs: with frames that were JPEGs as well, the features are the same.
  monkeypatch.setattr(embed, 'as_rgb', lambda image, time_ms: (time_ms, through_jpeg(image)))
  clips = [model.embed_video(f'{root}/videos/{video}') for video, _ in source.examples(0)]
  weights.close(np.stack([clip['cls'] for clip in clips]), expected['video_tokens'][:, 0], 1e-5)
  unit = lambda x_BxC: x_BxC / np.linalg.norm(x_BxC, axis=1, keepdims=True)
  weights.close(np.stack([clip['embed'] for clip in clips]), unit(expected['video_embed']), 1e-5)
  order = [names(found, root).index(video) for video, _ in source.examples(0)]
  out = root / 'texts.npz'
  assert embed.main([str(root / 'weights'), '--texts', str(root / 'texts.txt'), '--out', str(out)]) == 0
  with np.load(out) as texts:
    assert texts['ids'].tolist() == TEXTS
    weights.close(texts['embed'][order], unit(expected['text_embed']), 1e-5)


def test_three_lines_of_python_give_the_same(root, found):
  model = tvts_jax.load(root / 'weights')
  for row, video in enumerate(found['ids']):
    clip, text = model.embed_video(video), model.embed_text(TEXTS[0])
    for name in ('cls', 'embed'):
      np.testing.assert_array_equal(clip[name], found[name][row])
  assert -1 <= clip['embed'] @ text <= 1 and np.linalg.norm(text) == pytest.approx(1)


def test_frames_of_a_video_are_not_compressed_again(root, model):
  """The frame of a lossless image, cropped to its middle, is that of its file."""
  grey = np.repeat(np.random.default_rng(1).integers(0, 256, (18, 22, 1), np.uint8), 3, axis=2)
  grey[..., 2] //= 2  # Red, the last one as OpenCV counts.
  cv2.imwrite(str(root / 'exact.png'), grey)
  frames = model.read(root / 'exact.png')
  np.testing.assert_array_equal(frames, np.stack([grey[1:17, 3:19, ::-1]] * CONFIG.video.frames))


def test_videos_in_tars_are_read_where_they_are(root, model, found, tmp_path):
  with tarfile.open(tmp_path / 'videos.tar', 'w') as tar:
    tar.add(root / 'videos/a.mp4', 'deep/a.mp4')
  clip = model.embed_video(f'{tmp_path}/videos.tar::deep/a.mp4')
  np.testing.assert_array_equal(clip['embed'], found['embed'][names(found, root).index('a.mp4')])


def test_a_video_that_cannot_be_read_is_an_error_for_people(root, model, tmp_path):
  whole = (root / 'videos/a.mp4').read_bytes()
  broken = {
    'empty.mp4': (b'', 'not_a_video'),
    'cut.mp4': (whole[: len(whole) // 2], 'truncated_video'),
    'page.mp4': (b'<!DOCTYPE html><html>404</html>', 'not_a_video'),
    'words.mp4': (b'not a video\n' * 100, 'not_a_video'),
    'cut.png': ((root / 'videos/c.png').read_bytes()[:200], 'corrupt_image'),
    'gone.mp4': (None, 'missing_video'),
  }
  for name, (data, code) in broken.items():
    if data is not None:
      (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as caught:
      model.embed_video(tmp_path / name)
    sentence = str(caught.value)
    assert sentence.startswith(f'{code}: ') and sentence.count(str(tmp_path / name)) == 1 and '\n' not in sentence


def test_the_n_th_feature_is_of_the_n_th_thing_however_many_there_are():
  for count in (0, 1, embed.BATCH, 2 * embed.BATCH + 3):
    given = [np.full(2, n) for n in range(count)]
    got = [row for rows, counting in embed.batches(given) for row in rows[:counting]]
    np.testing.assert_array_equal(got, given)
    assert {len(rows) for rows, _ in embed.batches(given)} <= {embed.BATCH}


def test_what_cannot_be_read_is_named_and_nothing_takes_its_place(root, found, tmp_path, capsys):
  broken = tmp_path / 'broken.mp4'
  broken.write_text('<html>404</html>')
  out, gone = tmp_path / 'x.parquet', str(tmp_path / 'gone.mp4')
  places = [str(broken), str(root / 'videos'), gone]
  assert embed.main([str(root / 'weights'), *places, '--out', str(out)]) == 3
  said = capsys.readouterr()
  assert '3 in ' in said.out and '2 could not be read' in said.out
  assert f'{broken} is left out: not_a_video' in said.err
  assert f'{gone} is left out: missing_video' in said.err
  table = parquet.read_table(out).to_pydict()
  assert table['ids'] == found['ids'].tolist()
  np.testing.assert_array_equal(np.array(table['cls'], np.float32), found['cls'])


def test_wrong_turns(root, tmp_path, capsys):
  def says(words, *arguments, code=1):
    assert embed.main([*map(str, arguments)]) == code
    error = capsys.readouterr().err
    assert words in error and 'Traceback' not in error

  out = ['--out', tmp_path / 'x.npz']
  says('there is no video in', root / 'weights', tmp_path, *out)
  says('is not there; name a folder of weights, or the work', tmp_path / 'gone', root / 'videos', *out)
  says('has no weights', tmp_path, root / 'videos', *out)
  says('nothing could be read', root / 'weights', tmp_path / 'gone.mp4', *out)
  (tmp_path / 'empty.txt').write_text('\n')
  says('holds no text', root / 'weights', '--texts', tmp_path / 'empty.txt', *out)
  (tmp_path / 'latin.txt').write_text('a café\nred\n', encoding='latin-1')
  says(f'{tmp_path}/latin.txt is not UTF-8', root / 'weights', '--texts', tmp_path / 'latin.txt', *out)
  (tmp_path / 'x.npz').write_text('mine')
  says('is there already', root / 'weights', root / 'videos', *out)
  assert (tmp_path / 'x.npz').read_text() == 'mine'
  for wrong in ([], ['--out', 'x.txt', 'video']):
    with pytest.raises(SystemExit, match='2'):
      embed.main([str(root / 'weights'), *wrong])
  convert.save_folder(tmp_path / 'mute', CONFIG, PARAMS)
  with pytest.raises(UserError, match='tokenizer'):
    tvts_jax.load(tmp_path / 'mute').embed_text('red')
