"""Blocks cut out of JPEGs: their pixels are those of whole pictures, and what cannot be cut is refused by name."""

import dataclasses
from collections import Counter

import cv2
import numpy as np
import pytest

from tests.support import folders
from tvts_jax.errors import UserError
from tvts_jax.input import pipeline, vocab
from tvts_jax.input.host_tf import tensorflow
from tvts_jax.input.settings import InputConfig
from tvts_jax.media import pictures

HEIGHT, WIDTH, SIDE = 72, 106, 32  # Neither is a multiple of a block.


def photo(rng):
  """Colours that change within a block, so that a wrong place or table shows."""
  small = rng.integers(0, 256, (HEIGHT // 4, WIDTH // 4, 3), np.uint8)
  return cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def talk(name, restarts=True, quality=75):
  rng = np.random.default_rng(len(name))
  frames = [pictures.encode(photo(rng), 0, quality, restarts).jpeg for _ in range(8)]
  return dataclasses.replace(folders.record(name, height=HEIGHT, width=WIDTH, frames=8, seconds=30), frames=frames)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp('spliced')
  vocab.save(vocab.train(Counter(f'w{i}' for i in range(40)), 100), root / 'pieces')
  made = [dataclasses.replace(talk('x' * n), video_id=f'talk {n}') for n in range(1, 9)]
  folders.write(root / 'shards', {'train': [made[:4], made[4:]]})
  return root


def config(root, folder='shards', **settings):
  given = dict(batch=4, image_size=SIDE, patch=16, frames=4, max_tokens=8, seed=2, splice=True, mask_ratio=0.5)
  return InputConfig(folder=f'{root}/{folder}', tokenizer=f'{root}/pieces', **{**given, **settings})


def whole(jpeg):
  """Decoded as a whole, with repeated chroma."""
  tf = tensorflow()

  return tf.io.decode_jpeg(jpeg, channels=3, dct_method='INTEGER_ACCURATE', fancy_upscaling=False).numpy()


@pytest.mark.parametrize(
  'settings',
  [{}, {'mode': 'eval', 'mask_ratio': 0.0}, {'crop': 'right', 'mask': 'tube'}, {'fields': ('masked',)}, {'keep': 3}],
)
def test_pixels_are_those_of_whole_pictures(root, settings):
  given = config(root, **settings)
  source = pipeline.open(given)
  batch = source.batch(0)
  part = source._parts[0]
  names = ['patches', 'masked_patches'] if given.fields else ['patches']
  for b, (_, row, epoch) in enumerate(source.clips(0)):
    stored = part.stored(row)
    drawn, (top, left, side, _), _ = part.sample(stored, row, epoch)[:3]
    assert top % 16 == left % 16 == 0 and top + side <= HEIGHT and left + side <= WIDTH
    clip = np.stack(
      [whole(jpeg)[top : top + side, left : left + side] for jpeg in part.frames(row, stored, drawn.frames)]
    )
    for name in names:
      for position, got in zip(batch[name.replace('patches', 'positions')][b], batch[name][b]):
        slot, place = divmod(int(position), given.grid)
        y, x = place // 2 * 16, place % 2 * 16
        cube = clip[slot * 2 : slot * 2 + 2, y : y + 16, x : x + 16]
        np.testing.assert_array_equal(got, cube.ravel())


def test_random_crops_reach_every_block(root):
  source = pipeline.open(config(root))
  part = source._parts[0]
  crops = {tuple(part.sample(part.stored(row), row, epoch)[1][:2].tolist()) for row in range(8) for epoch in range(40)}
  assert {top for top, _ in crops} == {0, 16, 32} and {left for _, left in crops} == {0, 16, 32, 48, 64}


def test_without_splice_the_same_shards_serve_as_any(root):
  """Nearly the same pixels: of chroma that is blended over neighbours."""
  centre = dict(mode='eval', mask_ratio=0.0, image_size=64)
  ours, theirs = (pipeline.open(config(root, splice=splice, **centre)).batch(0) for splice in (True, False))
  assert ours['patches'].shape == theirs['patches'].shape
  # 72 - 64 leaves no multiple of 16, so that the crop of one begins at 0 and of the other at 4.
  assert not np.array_equal(ours['patches'], theirs['patches'])
  np.testing.assert_array_equal(ours['positions'], theirs['positions'])


@pytest.mark.parametrize(
  'settings, words',
  [({'patch': 8}, 'needs patch=16'), ({'resize': 64}, 'no resize'), ({'flip': True}, 'no change to pixels'),
   ({'decoded': 'x'}, 'two ways to decode')],
)  # fmt: skip
def test_settings_that_it_cannot_serve(root, settings, words):
  with pytest.raises(UserError, match=words):
    pipeline.open(config(root, **settings))


def test_shards_that_it_cannot_serve(root):
  with pytest.raises(UserError, match='splice=True cannot enlarge frames of .*; leave splice out'):
    pipeline.open(config(root, image_size=160))
  folders.write(root / 'plain', {'train': [[talk(f'plain {i}', restarts=False) for i in range(8)]]})
  with pytest.raises(
    UserError, match='has no restart marker for each block; build with data.build --restarts, or leave out splice'
  ):
    pipeline.open(config(root, 'plain'))
  mixed = talk('mixed')
  mixed = dataclasses.replace(mixed, frames=[*mixed.frames[:4], *talk('mixed', quality=50).frames[4:]])
  folders.write(root / 'mixed', {'train': [[dataclasses.replace(mixed, video_id=f'm {i}') for i in range(8)]]})
  with pytest.raises(UserError, match='not compressed alike'):
    pipeline.open(config(root, 'mixed'))


def test_a_damaged_frame_is_skipped_and_named(root, caplog):
  """A block without its marker, in a record whose checksum is right."""

  def damage(record):
    frame = record.frames[3]
    at = frame.rindex(b'\xff\xd2')
    return dataclasses.replace(record, frames=[frame[:at] + b'\x00\x00' + frame[at + 2 :]] * 8)

  made = [dataclasses.replace(talk('y' * n), video_id=f'clip {n}') for n in range(1, 13)]
  folders.write(root / 'damaged', {'train': [[damage(made[0]), *made[1:]]]})
  source = pipeline.open(config(root, 'damaged'))
  for step in range(4):
    source.batch(step)
  assert "video 'clip 1'" in caplog.text and 'restart markers between its 35 blocks' in caplog.text
