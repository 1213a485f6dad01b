"""A folder of small videos and large ones, from the files to a trained run and to features in PyTorch."""

import importlib.util
import json
from collections import Counter

import av
import numpy as np
import pytest

import tvts_jax
from data import build
from tests.support import clips, media
from tvts_jax import config as config_lib
from tvts_jax import convert, embed, train
from tvts_jax.doctor import inputs
from tvts_jax.input import vocab
from tvts_jax.models import tvts
from tvts_jax.shards import index

SIZES = {'small': (200, 200), 'large': (640, 360)}
FPS, FRAMES = 5, 30
MODEL = {
  **clips.MODEL,
  'video': {'width': 16, 'depth': 1, 'heads': 2, 'patch': 32, 'image_size': 224, 'frames': 4},
  'transcripts': 4,
}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """Videos with whisper's words beside them, shards, word pieces, and weights of an export."""
  root = tmp_path_factory.mktemp('small frames')
  (root / 'videos').mkdir()
  words = [{'word': f'w{i}', 'start': i * 0.25, 'end': i * 0.25 + 0.2} for i in range(4 * FRAMES // FPS)]
  for name, size in SIZES.items():
    for n in range(7):
      path = root / 'videos' / f'{name} {n}.mp4'
      media.make_video(path, FRAMES, FPS, size=size, noise=20, first_index=500 * n + len(name))
      path.with_suffix('.json').write_text(json.dumps({'segments': [{'words': words}], 'language': 'en'}))
  shape = ['--seconds', '1', '--gap-s', '0.2', '--min-words', '1', '--fps', '2', '--workers', '1']
  assert build.main([str(root / 'videos'), '--out', str(root / 'shards'), *shape]) == 0
  vocab.save(vocab.train(Counter(word['word'] for word in words), 100), root / 'pieces')
  model = config_lib.resolve(values(root)).model
  convert.save_folder(root / 'weights', model, clips.random_parameters(tvts.build(model)), tokenizer=root / 'pieces')
  return root


def values(root) -> dict:
  given = {'folder': f'{root}/shards', 'tokenizer': f'{root}/pieces', 'batch': 7, 'max_tokens': 8, 'max_bad': 0.0}
  return {
    'model': MODEL,
    'input': {**given, 'seconds': (1.0,), 'gap_s': 0.2, 'min_words': 1},
    'evals': {'sorting': {'split': 'train', 'batch': 7}},
    'steps': 2,
  }


def test_the_builder_and_the_doctor_tell_of_them(root):
  report = json.loads((root / 'shards' / index.REPORT).read_text())
  assert report['splits']['train']['short_sides'] == {'200': 7, '256': 7}
  assert inputs.enlarged(config_lib.resolve(values(root)).input) == 7


@pytest.mark.long
def test_a_run_skips_none_and_embeds_all(root):
  """In one epoch; max_bad=0 stops it at the first record that cannot be used."""
  assert train.train(config_lib.resolve(values(root)), root / 'run')
  (row,) = map(json.loads, (root / 'run/eval/sorting.jsonl').read_text().splitlines())
  assert (row['step'], row['clips'], row['missing']) == (2, 14, 0) and not (root / 'run/skipped').exists()
  assert embed.main([str(root / 'run'), str(root / 'videos'), '--out', str(root / 'features.npz')]) == 0
  with np.load(root / 'features.npz') as found:
    assert found['embed'].shape == (14, 8) and np.isfinite(found['cls']).all()


def test_features_are_those_of_the_exported_preprocessor_and_module(root):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  spec = importlib.util.spec_from_file_location('modeling_tvts', root / 'weights/modeling_tvts.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  theirs, images = (
    module.TVTS.from_folder(root / 'weights'),
    transformers.AutoImageProcessor.from_pretrained(root / 'weights'),
  )
  ours, found = tvts_jax.load(root / 'weights'), {}
  for name in SIZES:
    for n in (0, 1):
      path = root / 'videos' / f'{name} {n}.mp4'
      with av.open(str(path)) as video:
        frames = [frame.to_ndarray(format='rgb24') for frame in video.decode(video=0)]
      shown = [frames[FRAMES * (2 * m + 1) // 8] for m in range(4)]
      with torch.no_grad():
        expected = theirs.encode_video(images(shown, return_tensors='pt')['pixel_values'])[0].numpy()
      found[name, n] = ours.embed_video(path)['embed']
      assert cosine(found[name, n], expected) > 1 - 1e-3, (name, n)
  # Not so alike that any frames would do.
  assert cosine(found['small', 0], found['small', 1]) < 0.99


def cosine(a, b) -> float:
  return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
