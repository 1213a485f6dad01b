"""What is done to the pixels of clips: each operation as Pillow has it, alike in all frames, the same every time."""

import dataclasses
import types

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from tests.support import clips
from tvts_jax.errors import UserError
from tvts_jax.input import augment, examples, pipeline
from tvts_jax.input.settings import InputConfig
from tvts_jax.shards.index import example_hash

LEVEL, (HEIGHT, WIDTH) = 0.7, (64, 96)
MOVING = ('rotate', 'shear_x', 'shear_y', 'translate_x', 'translate_y')


def pictures(count: int, seed: int = 0):
  """Smooth ones, so that resampling hardly matters, that differ in brightness."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(10, 240, (count, 6, 8, 3)).astype(np.float32)
  made = np.stack([cv2.resize(picture, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for picture in coarse])
  return (made * np.linspace(0.6, 1, count)[:, None, None, None]).clip(0, 255).astype(np.uint8)


def by_pillow(name: str, picture: np.ndarray, level: float) -> np.ndarray:
  """The same operation at the same level, as timm calls Pillow for it."""
  image = Image.fromarray(picture)
  affine = lambda *m: image.transform(image.size, Image.AFFINE, m, Image.BICUBIC, fillcolor=(128,) * 3)
  enhanced = lambda kind: kind(image).enhance(1 + 0.9 * level)
  made = {
    'auto_contrast': lambda: ImageOps.autocontrast(image),
    'equalize': lambda: ImageOps.equalize(image),
    'invert': lambda: ImageOps.invert(image),
    'rotate': lambda: image.rotate(30 * level, Image.BICUBIC, fillcolor=(128,) * 3),
    'posterize': lambda: ImageOps.posterize(image, 4 - int(4 * level)),
    'solarize': lambda: ImageOps.solarize(image, 256 - int(256 * level)),
    'solarize_add': lambda: image.point([min(255, i + int(110 * level)) if i < 128 else i for i in range(256)] * 3),
    'colour': lambda: enhanced(ImageEnhance.Color),
    'contrast': lambda: enhanced(ImageEnhance.Contrast),
    'brightness': lambda: enhanced(ImageEnhance.Brightness),
    'sharpness': lambda: enhanced(ImageEnhance.Sharpness),
    'shear_x': lambda: affine(1, 0.3 * level, 0, 0, 1, 0),
    'shear_y': lambda: affine(1, 0, 0, 0.3 * level, 1, 0),
    'translate_x': lambda: affine(1, 0, 0.45 * level * WIDTH, 0, 1, 0),
    'translate_y': lambda: affine(1, 0, 0, 0, 1, 0.45 * level * HEIGHT),
  }[name]()
  return np.asarray(made)


@pytest.mark.parametrize('name', augment.OPERATIONS)
def test_an_operation_is_that_of_pillow(name):
  clip = pictures(1)
  found, expected = augment.OPERATIONS[name](clip, LEVEL)[0].astype(int), by_pillow(name, clip[0], LEVEL).astype(int)
  away = np.abs(found - expected)[1:-1, 1:-1]  # Pillow leaves the rim as it is where it smooths.
  if name in MOVING:
    # Two ways to resample differ where a picture ends, and by little inside.
    assert np.percentile(away, 90) <= 3 and np.abs(expected - clip[0])[1:-1, 1:-1].mean() > 20 * np.median(away)
  else:
    assert away.max() <= 2, f'{name} is off by up to {away.max()}'


@pytest.mark.parametrize('name', augment.OPERATIONS)
def test_an_operation_does_the_same_to_all_frames_and_nothing_to_its_input(name):
  clip = pictures(3)
  clip[2] = clip[0]
  before = clip.copy()
  found = augment.OPERATIONS[name](clip, -LEVEL)
  np.testing.assert_array_equal(clip, before)
  assert found.shape == clip.shape and found.dtype == np.uint8
  np.testing.assert_array_equal(found[0], found[2])
  assert (found[0] != found[1]).any()
  if name not in (*MOVING, 'colour', 'sharpness'):
    # What becomes of a value is one table for all frames.
    for colour in range(3):
      table = np.full(256, -1)
      table[clip[..., colour]] = found[..., colour]
      np.testing.assert_array_equal(table[clip[..., colour]], found[..., colour])


def config(**changes):
  values = {'seed': 3, 'rand_augment': 0, 'magnitude': 7.0, 'flip': False, 'erase': 0.0}
  return types.SimpleNamespace(**values | changes)


def test_what_is_drawn_depends_on_seed_epoch_and_example_alone():
  clip, given = pictures(2), config(rand_augment=4, flip=True, erase=0.5)
  made = {key: augment.augment(clip, given, *key) for key in [(0, 1), (0, 1), (1, 1), (0, 2)]}
  np.testing.assert_array_equal(made[0, 1], augment.augment(clip, given, 0, 1))
  assert len({value.tobytes() for value in made.values()}) == 3
  np.testing.assert_array_equal(augment.augment(clip, config(), 0, 1), clip)


def test_half_of_the_clips_are_mirrored():
  clip = pictures(2)
  made = [augment.augment(clip, config(flip=True), 0, example) for example in range(200)]
  mirrored = sum(np.array_equal(found, clip[:, :, ::-1]) for found in made)
  assert 70 < mirrored < 130 and mirrored + sum(np.array_equal(found, clip) for found in made) == 200


def test_operations_are_left_out_half_of_the_time(monkeypatch):
  """And their levels are about magnitude / 10, of both signs."""
  levels = []
  monkeypatch.setattr(augment, 'OPERATIONS', {'seen': lambda clip, level: levels.append(level) or clip})
  for example in range(300):
    augment.rand_augment(None, 4, 7.0, np.random.default_rng(example))
  assert 500 < len(levels) < 700
  size = np.abs(levels)
  assert abs(size.mean() - 0.7) < 0.01 and abs(size.std() - 0.05) < 0.01 and abs(np.sign(levels).mean()) < 0.15


def test_an_erased_box_is_one_of_the_right_size_in_all_frames():
  clip, areas = np.zeros((3, HEIGHT, WIDTH, 3), np.uint8), []
  for example in range(100):
    gone = (augment.erase(clip, np.random.default_rng(example)) != 0).any(axis=-1).any(axis=0)
    rows, columns = np.flatnonzero(gone.any(axis=1)), np.flatnonzero(gone.any(axis=0))
    h, w = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    assert gone.sum() > 0.95 * h * w, 'one box'
    areas.append(h * w / gone.size)
  assert min(areas) > 0.015 and max(areas) < 0.35 and 0.13 < np.mean(areas) < 0.22
  erased = [(augment.augment(clip, config(erase=0.25), 0, example) != 0).any() for example in range(400)]
  assert 70 < sum(erased) < 130


@pytest.mark.parametrize('height, width', [(240, 320), (100, 1000)])
def test_a_resized_crop_lies_inside_and_has_the_right_area_and_shape(height, width):
  made = np.array([examples.part(height, width, np.random.default_rng(n)) for n in range(300)])
  top, left, h, w = made.T
  assert (top >= 0).all() and (left >= 0).all() and (top + h <= height).all() and (left + w <= width).all()
  assert (w / h > 0.74).all() and (w / h < 1.35).all()
  share = h * w / (height * width)
  assert (share > 0.078).all() and (share <= 1.0).all()
  if height == 240:
    assert share.max() > 0.9 and 0.45 < share.mean() < 0.6


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp('augmented')
  clips.make(root)
  return root


def input_of(root, **changes):
  values = dict(transcripts=1, frames=4, batch=8, image_size=16, patch=8, mask_ratio=0.0, max_tokens=8, seed=1)
  return InputConfig(folder=f'{root}/shards', tokenizer=f'{root}/pieces', **values | changes)


def test_batches_hold_what_augment_makes_of_the_plain_ones(root):
  plain = pipeline.open(input_of(root))
  changes = dict(rand_augment=4, flip=True, erase=0.5)
  changed = pipeline.open(input_of(root, **changes))
  before, after = plain.batch(5), changed.batch(5)  # Of the second epoch.
  for name in before.keys() - {'patches'}:
    np.testing.assert_array_equal(before[name], after[name])
  cut = lambda batch: batch['patches'].reshape(8, 2, 2, 2, 2, 8, 8, 3)
  join = lambda batch: cut(batch).transpose(0, 1, 4, 2, 5, 3, 6, 7).reshape(8, 4, 16, 16, 3)
  config = changed.config
  for (_, _, epoch), id_, clip, found in zip(changed.clips(5), before['example_id'], join(before), join(after)):
    np.testing.assert_array_equal(augment.augment(clip, config, epoch, int(id_)), found)
  assert (before['patches'] != after['patches']).any(axis=(1, 2)).sum() > 4
  np.testing.assert_array_equal(pipeline.open(input_of(root, **changes)).batch(5)['patches'], after['patches'])


def test_nothing_is_augmented_in_evaluation(root):
  config = input_of(root, rand_augment=4, flip=True, erase=1.0, crop='resized', mode='eval', split='train')
  assert not config.augmented and config.crop == 'center'


def test_a_resized_crop_shows_the_part_it_has_drawn(root):
  """In a clip whose columns are stripes of known greys, the width of what is seen follows from the colours."""
  source = pipeline.open(input_of(root, crop='resized'))
  batch = source.batch(0)
  for (part, row, epoch), patches in zip(source.clips(0), batch['patches']):
    drawn, (top, left, h, w), _ = part.sample(part.parse(part.read(row), row), row, epoch)
    jpeg = part.load(row, epoch).jpegs[0]
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[top : top + h, left : left + w, 0]
    shown = patches.reshape(2, 2, 2, 2, 8, 8, 3)[0, :, :, 0, :, :, 0].transpose(0, 2, 1, 3).reshape(16, 16)
    assert abs(float(picture.mean()) - float(shown.mean())) < 4, (top, left, h, w)


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'crop': 'resized', 'resize': 32}, 'leave out resize=32'),
    ({'magnitude': 11.0}, 'magnitude=11.0'),
    ({'erase': 1.5}, 'erase=1.5'),
    ({'rand_augment': -1}, 'rand_augment=-1'),
    ({'fields': ('label',)}, 'annotations is not set'),
    ({'caption': 'drawn', 'annotations': 'a', 'transcripts': 4}, 'transcripts=4'),
  ],
)
def test_what_is_refused(changes, words):
  with pytest.raises(UserError, match=words):
    input_of('nowhere', **changes)


def test_labels_and_captions_are_those_of_the_annotations(root):
  config = input_of(root, fields=('label',), annotations=f'{root}/annotations.jsonl', caption='drawn')
  rows = {row['id']: row for row in clips.make(root / 'again')[0]}
  source = pipeline.open(config)
  seen = set()
  for step in range(6):
    batch = source.batch(step)
    for (video, _), label, tokens, mask in zip(
      source.examples(step), batch['label'], batch['tokens'], batch['token_mask']
    ):
      assert label == rows[video]['label']
      (text,) = source.decode_tokens(tokens, mask)
      assert text in rows[video]['captions'], 'one of its own captions'
      seen.add((video, text))
  assert batch['label'].dtype == np.int32
  assert len(seen) > len({video for video, _ in seen}), 'not always the same one'


def test_a_clip_without_a_label_is_skipped_by_name(root, tmp_path):
  """And many of them end the run: nobody trains on a label that is not known."""
  lines = (root / 'annotations.jsonl').read_text().splitlines(keepends=True)
  few, none = tmp_path / 'few.jsonl', tmp_path / 'none.jsonl'
  few.write_text(''.join(line for line in lines if '"train 7"' not in line))
  source = pipeline.open(input_of(root, fields=('label',), annotations=str(few)))
  batches = [source.batch(step) for step in range(4)]
  given = {id_ for batch in batches for id_ in batch['example_id'].tolist()}
  assert example_hash('train 7', 0) not in given and len(given) == 29
  assert str(source.trouble) == 'skipped as damaged: 1'
  none.write_text(''.join(line for line in lines if '"test' in line or '"train 0"' in line))
  with pytest.raises(UserError, match="video 'train .*does not list it in split 'train', so it has no label"):
    pipeline.open(dataclasses.replace(source.config, annotations=str(none), max_bad=0.0)).batch(0)
