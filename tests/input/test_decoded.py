"""Frames that are held decoded give the very batches that TensorFlow makes of the JPEGs."""

import dataclasses
import itertools
import os
import subprocess
import sys
from collections import Counter

import cv2
import numpy as np
import pytest

from tests.support import folders
from tvts_jax.errors import UserError
from tvts_jax.input import decoded, pipeline, vocab
from tvts_jax.input.settings import InputConfig

WIDTH, HEIGHT = 32, 52  # Taller than wide: there is room for a random crop.
WORDS = [f'w{chr(97 + i)}{chr(97 + j)}' for i in range(6) for j in range(20)]


def jpeg(rng, width=WIDTH) -> bytes:
  """Colours that change from pixel to pixel, stored at half their size: what decoders differ in, if in anything."""
  image = cv2.resize(rng.integers(0, 256, (9, 7, 3), np.uint8), (width, HEIGHT), interpolation=cv2.INTER_CUBIC)
  image = (image.astype(int) + rng.integers(-20, 20, image.shape)).clip(0, 255).astype(np.uint8)
  options = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
  return cv2.imencode('.jpg', image, options)[1].tobytes()


def talk(video: int, width=WIDTH):
  rng = np.random.default_rng([video, width])
  frames, starts = int(rng.integers(60, 80)), np.sort(rng.integers(0, 30_000, 100)).tolist()
  made = folders.record(f'video {video}', frames=1, words=100, height=HEIGHT, width=width)
  return dataclasses.replace(
    made,
    frames=[jpeg(rng, width) for _ in range(frames)],
    frame_times_ms=[i * 30_000 // frames for i in range(frames)],
    words=rng.choice(WORDS, 100).tolist(),
    word_starts_ms=starts,
    word_ends_ms=[min(start + 150, 30_000) for start in starts],
  )


@pytest.fixture(scope='module')
def config(tmp_path_factory):
  root = tmp_path_factory.mktemp('held')
  talks, low = [talk(video) for video in range(11)], folders.record('low', height=24, width=WIDTH)
  folders.write(root / 'shards', {'train': [talks[:4], talks[4:]], 'wide': [[talk(0, 40)]], 'low': [[low]]})
  folders.write(root / 'more', {'train': [[talk(video) for video in range(20, 26)]]})
  vocab.save(vocab.train(Counter(WORDS), 300), root / 'pieces')
  return InputConfig(
    folder=f'{root}/shards', tokenizer=f'{root}/pieces', batch=4, image_size=WIDTH, patch=8, frames=8, max_tokens=24
  )


@pytest.mark.parametrize(
  'changes',
  [
    {},
    {'mask': 'tube', 'mask_ratio': 0.5, 'seed': 3, 'crop': 'center', 'threads': 1, 'keep': 21},
    {'mode': 'eval', 'mask_ratio': 0.0, 'tubelet': 4, 'crop': 'right'},
  ],
  ids=str,
)
def test_batches_are_those_of_tensorflow(config, tmp_path, changes):
  usual = dataclasses.replace(config, **changes)
  ours, theirs = pipeline.open(dataclasses.replace(usual, decoded=str(tmp_path))), pipeline.open(usual)
  assert ours.spec == theirs.spec and ours.steps_per_epoch == theirs.steps_per_epoch
  stop = None if usual.mode == 'eval' else 9  # Past the end of three epochs.
  seen = 0
  for mine, other in zip(ours.batches(0, stop_step=stop), theirs.batches(0, stop_step=stop), strict=True):
    assert mine.keys() == other.keys()
    for name, value in mine.items():
      assert value.dtype == other[name].dtype
      np.testing.assert_array_equal(value, other[name], err_msg=name)
    seen += 1
  assert seen == (stop or 3)
  for rows in ([0, 1], [1, 3]):
    np.testing.assert_array_equal(ours.batch(2, rows)['patches'], theirs.batch(2, rows)['patches'])


def test_several_folders_share_a_batch(config, tmp_path):
  both = ({'folder': config.folder}, {'folder': config.folder.replace('shards', 'more'), 'weight': 1.0})
  usual = dataclasses.replace(config, sources=both)
  ours, theirs = pipeline.open(dataclasses.replace(usual, decoded=str(tmp_path))), pipeline.open(usual)
  for name, value in ours.batch(5).items():
    np.testing.assert_array_equal(value, theirs.batch(5)[name], err_msg=name)
  assert len(list(tmp_path.iterdir())) == 2


def test_the_file_is_made_once_and_again_if_it_is_cut(config, tmp_path):
  mine = dataclasses.replace(config, decoded=str(tmp_path))
  first = pipeline.open(mine).batch(0)['patches']
  (path,) = tmp_path.iterdir()
  before = os.stat(path)
  pipeline.open(mine)
  assert os.stat(path).st_mtime_ns == before.st_mtime_ns
  path.write_bytes(path.read_bytes()[:-1])
  np.testing.assert_array_equal(pipeline.open(mine).batch(0)['patches'], first)
  assert os.stat(path).st_size == before.st_size and list(tmp_path.iterdir()) == [path]


def test_a_death_while_it_is_made_leaves_no_file_that_counts(config, tmp_path, monkeypatch):
  calls = []

  def dies(*args):
    calls.append(args)
    raise KeyboardInterrupt

  monkeypatch.setattr(decoded, 'pictures', dies)
  with pytest.raises(KeyboardInterrupt):
    pipeline.open(dataclasses.replace(config, decoded=str(tmp_path)))
  assert calls and not list(tmp_path.iterdir())


def test_draws_are_made_once_for_all_runs_and_held_up_to_so_many_bytes(config, tmp_path, monkeypatch):
  mine = dataclasses.replace(config, decoded=str(tmp_path))
  monkeypatch.setattr(decoded, 'DRAWN', decoded.Bounded(2**20))
  first, again = (pipeline.open(mine).batch(0)['positions'] for _ in range(2))
  assert first is again
  (drawn,) = decoded.DRAWN.values()
  size = sum(value.nbytes for value in drawn.values())
  monkeypatch.setattr(decoded, 'DRAWN', decoded.Bounded(3 * size))
  for count, batch in enumerate(itertools.islice(pipeline.open(mine).batches(0), 8)):
    assert len(decoded.DRAWN) == count % 3 + 1
    taken = [value for drawn in decoded.DRAWN.values() for value in drawn.values()]
    assert sum(value.nbytes for value in taken) <= 3 * size and any(value is batch['positions'] for value in taken)


def test_what_would_not_be_equal_is_refused(config, tmp_path):
  own = str(tmp_path)
  for changes in ({'image_size': 24}, {'resize': 32}, {'split': 'wide', 'batch': 1}, {'split': 'low', 'batch': 1}):
    with pytest.raises(UserError, match='takes frames of one size, as wide as image_size='):
      pipeline.open(dataclasses.replace(config, decoded=own, **changes))


def test_a_picture_that_is_none_is_named(config, tmp_path):
  made = talk(1)
  broken = made.frames[5][:180] + b'\xff\xd9'  # A header and no picture.
  frames = [*made.frames[:5], broken, *made.frames[6:]]
  folders.write(tmp_path / 'shards', {'train': [[dataclasses.replace(made, frames=frames)]]})
  bad = dataclasses.replace(config, folder=str(tmp_path / 'shards'), batch=1, decoded=str(tmp_path / 'held'))
  with pytest.raises(UserError, match=r"record 0 \(video 'video 1'\): frame 5 is a damaged JPEG; find all"):
    pipeline.open(bad)


def test_tensorflow_is_not_needed(config, tmp_path):
  code = f"""
import sys
sys.modules['tensorflow'] = None
from tvts_jax.input import pipeline
from tvts_jax.input.settings import InputConfig
config = InputConfig(**{dataclasses.asdict(dataclasses.replace(config, decoded=str(tmp_path)))!r})
print(next(pipeline.open(config).batches(3))['patches'].sum())
"""
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert int(done.stdout) == pipeline.open(config).batch(3)['patches'].sum()
