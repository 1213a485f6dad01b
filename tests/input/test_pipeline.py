import dataclasses
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections import Counter

import cv2
import numpy as np
import pytest

from tests.support import folders, media
from tvts_jax.errors import UserError
from tvts_jax.input import host_tf, pipeline, vocab
from tvts_jax.input.batches import FIRST
from tvts_jax.input.settings import InputConfig
from tvts_jax.shards import index
from tvts_jax.shards.reader import Reader

SIDE, PATCH, FRAMES = 64, 16, 8
WORDS = [f'w{chr(97 + i)}{chr(97 + j)}' for i in range(20) for j in range(20)]  # unlike pieces of one another


def jpeg(image):
  ok, data = cv2.imencode('.jpg', image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
  assert ok
  return data.tobytes()


def make(video_id, window=0, **fields):
  return dataclasses.replace(folders.record(video_id, window, frames=1), **fields)


def talk(video, window=0, width=SIDE, **changes):
  """A record of 40 s whose frame i shows the code 200 * video + i, at uneven times with a still stretch."""
  rng = np.random.default_rng([video, window])
  start = 3_000_000 * window + 10_000
  times = np.unique(np.r_[start - 20, start + np.sort(rng.choice(40_000, 110, replace=False))])
  times = times[(times < start + 14_000) | (times > start + 19_000)].tolist()
  starts = np.sort(rng.integers(start, start + 40_000, 110)).tolist()
  values = {
    'start_ms': start, 'end_ms': start + 40_000, 'duration_ms': start + 50_000, 'height': SIDE, 'width': width,
    'frames': [jpeg(media.draw_index(200 * video + i, (width, SIDE))) for i in range(len(times))],
    'frame_times_ms': times, 'words': rng.choice(WORDS, 110, replace=False).tolist(), 'word_starts_ms': starts,
    'word_ends_ms': [min(s + 150, start + 40_000) for s in starts],
  }  # fmt: skip
  return make(f'video {video}', window, **{**values, **changes})


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
  folder = tmp_path_factory.mktemp('vocab') / 'pieces'
  vocab.save(vocab.train(Counter(WORDS), 1000), folder)
  return str(folder)


@pytest.fixture(scope='module')
def talks():
  """13 records of 10 videos, by (video id, window)."""
  made = [talk(v, w) for v in range(10) for w in range(2 if v in (2, 5, 7) else 1)]
  return {(r.video_id, r.window_index): r for r in made}


@pytest.fixture(scope='module')
def folder(talks, tmp_path_factory):
  made = list(talks.values())
  return str(folders.write(tmp_path_factory.mktemp('talks'), {'train': [made[:6], made[6:]]}))


@pytest.fixture(scope='module')
def config(folder, tokenizer):
  return InputConfig(
    folder=folder, tokenizer=tokenizer, batch=4, image_size=SIDE, patch=PATCH, frames=FRAMES, max_tokens=48, seed=1,
    workers=0, decoder='cv',
  )  # fmt: skip


@pytest.fixture(scope='module')
def source(config):
  return pipeline.open(config)


def pictures(batch, config, side=SIDE):
  """uint8 [B, M, H, W, 3] back from all tubelets, by the contract's words and nothing else."""
  b, n, _ = batch['patches'].shape
  g, p, t = side // config.patch, config.patch, config.tubelet
  assert n == config.frames // t * g * g
  video = np.zeros((b, config.frames, side, side, 3), np.uint8)
  for i in range(b):
    for place, bits in zip(batch['positions'][i], batch['patches'][i]):
      slice_, s = divmod(int(place), g * g)
      y, x = divmod(s, g)
      cube = bits.reshape(t, p, p, 3)
      video[i, slice_ * t : slice_ * t + t, y * p : y * p + p, x * p : x * p + p] = cube
  return video


def explains(record, texts, shown, config):
  """Is there a length and a begin for which eq. (1) gives these words, and TSN these frames? texts: true order."""
  k, m = config.transcripts, config.frames
  for seconds in config.seconds:
    l = int(seconds * 1000)
    for begin in range(record.start_ms, record.end_ms - k * l - (k - 1) * 1000 + 1):
      windows = [(begin + i * (l + 1000), begin + i * (l + 1000) + l) for i in range(k)]
      first = {w for w, t in zip(record.words, record.word_starts_ms) if windows[0][0] <= t <= windows[0][1]}
      if first != set(texts[0]):
        continue
      heard = [[w for w, t in zip(record.words, record.word_starts_ms) if s <= t <= e] for s, e in windows]
      if heard != texts:
        continue
      span, right = windows[-1][1] - begin, True
      for i, frame in enumerate(shown):
        lo, hi = begin + span * i / m, begin + span * (i + 1) / m
        inside = [j for j, t in enumerate(record.frame_times_ms) if lo <= t < hi or (t == hi and i == m - 1)]
        before = [j for j, t in enumerate(record.frame_times_ms) if t < lo]
        right = right and frame in (inside or before[-1:])
      if right:
        return True
  return False


def test_frames_and_words_of_a_batch_are_the_right_ones(config, talks):
  """Shards → batch → pictures and texts again → held against the paper's definition, found by search."""
  config = dataclasses.replace(config, mask_ratio=0.0)
  source = pipeline.open(config)
  for step in range(3):
    batch = source.batch(step)
    video = pictures(batch, config)
    for i, name in enumerate(source.examples(step)):
      record = talks[name]
      shown = [media.read_index(frame) - 200 * int(name[0].split()[1]) for frame in video[i]]
      texts = [t.split() for t in source.decode_tokens(batch['tokens'][i], batch['token_mask'][i])]
      assert sorted(batch['order'][i].tolist()) == [0, 1, 2, 3]
      in_order = [texts[np.flatnonzero(batch['order'][i] == k)[0]] for k in range(4)]
      assert all(len(t) >= 3 for t in texts)
      assert explains(record, in_order, shown, config), f'{name} at step {step}'
      # The oracle can fail: another frame, or two transcripts the wrong way round, is not explained.
      if step == 0:
        assert not explains(record, in_order[::-1], shown, config)
        assert not explains(record, in_order, [shown[1], *shown[1:]], config) or shown[0] == shown[1]


def test_spec_says_what_batches_are(source):
  assert source.steps_per_epoch == 3 and source.num_examples == 13
  batch = source.batch(5)
  assert {k: (v.shape, v.dtype) for k, v in batch.items()} == source.spec
  assert source.spec['patches'] == ((4, FRAMES // 2 * 4, 2 * PATCH * PATCH * 3), np.uint8)


def same(a, b):
  assert a.keys() == b.keys()
  for name in a:
    np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_a_batch_is_a_function_of_the_step(config, source):
  steps = [source.batch(s) for s in range(8)]
  for reads, start in ((1, 0), (5, 3)):
    other = pipeline.open(dataclasses.replace(config, reads=reads))
    with other.batches(start) as batches:
      for s in range(start, 8):
        same(next(batches), steps[s])
  assert (steps[0]['patches'] != steps[1]['patches']).any()


def test_a_far_step_reads_what_the_first_reads(config, monkeypatch):
  """A resume finds its place in the order by arithmetic: nothing before it is read or walked through."""
  read, rows = Reader.head, []
  monkeypatch.setattr(Reader, 'head', lambda self, row: rows.append(row) or read(self, row))
  counts = []
  for step in (0, 10**6):
    source = pipeline.open(config)
    rows.clear()
    with source.batches(step) as batches:
      batch = next(batches)
    counts.append(len(rows))
    same(batch, source.batch(step))
  ahead = FIRST + 1  # Batches that are begun when the first one has been taken.
  assert all(config.batch <= count <= ahead * config.batch for count in counts)


def test_an_epoch_holds_everything_once_and_no_video_twice_in_a_batch(source, talks):
  with source.batches() as batches:
    ids = np.concatenate([next(batches)['example_id'] for _ in range(13)])
  for epoch in range(4):
    assert len(set(ids[13 * epoch : 13 * epoch + 13].tolist())) == 13
  for step in range(13):
    names = source.examples(step)
    assert len({video for video, _ in names}) == 4
    assert [index.example_hash(*n) for n in names] == ids[4 * step : 4 * step + 4].tolist()


def test_an_epoch_may_be_of_videos(config, talks):
  source = pipeline.open(dataclasses.replace(config, epoch='videos'))
  assert source.steps_per_epoch == 2 and source.num_examples == 13
  names = [name for step in range(25) for name in source.examples(step)]
  for epoch in range(10):
    assert len({video for video, _ in names[10 * epoch : 10 * epoch + 10]}) == 10
  assert set(names) == set(talks)
  assert source.batch(3)['example_id'].tolist() == [index.example_hash(*name) for name in names[12:16]]


def test_a_process_makes_the_rows_that_it_holds(source):
  for step in (0, 3):
    whole = source.batch(step)
    for rows in ([0, 1], [2, 3], [0, 3], [1]):
      same(source.batch(step, rows), {name: value[rows] for name, value in whole.items()})
  with source.batches(2, rows=[1, 3]) as batches:
    same(next(batches), source.batch(2, [1, 3]))


@pytest.mark.parametrize('kind', ['random', 'tube'])
def test_masks_keep_the_same_tubelets_that_all_would_show(config, kind):
  masked = pipeline.open(dataclasses.replace(config, mask=kind)).batch(1)
  whole = pipeline.open(dataclasses.replace(config, mask_ratio=0.0)).batch(1)
  assert whole['positions'].tolist() == [list(range(64))] * 4
  assert masked['patches'].shape[1] == 16
  for i in range(4):
    places = masked['positions'][i]
    np.testing.assert_array_equal(masked['patches'][i], whole['patches'][i][places])
    assert (np.diff(places) > 0).all() and np.bincount(places // 16).tolist() == [4] * 4
    per_slice = {tuple(row) for row in (places % 16).reshape(4, 4).tolist()}
    assert len(per_slice) == 1 if kind == 'tube' else len(per_slice) > 1


@pytest.mark.parametrize('keep', [1, 13, 16])
def test_some_of_the_visible_tubelets_may_be_left_out(config, keep):
  """An odd number, so that time slices have unequal ones; all draws but those of what is kept stay as they are."""
  kept = pipeline.open(dataclasses.replace(config, keep=keep)).batch(1)
  visible = pipeline.open(config).batch(1)
  whole = pipeline.open(dataclasses.replace(config, mask_ratio=0.0)).batch(1)
  assert kept['patches'].shape[1] == keep and len({tuple(places) for places in kept['positions']}) > (keep != 16)
  for i, places in enumerate(kept['positions']):
    assert (np.diff(places) > 0).all() and set(places) <= set(visible['positions'][i])
    np.testing.assert_array_equal(kept['patches'][i], whole['patches'][i][places])
  np.testing.assert_array_equal(kept['tokens'], visible['tokens'])
  with pytest.raises(UserError, match='keep=17 must be from 1 to 16'):
    dataclasses.replace(config, keep=17)


def noise(seed, height, width):
  """Grey, so that the colour planes of a JPEG say nothing about the crop."""
  small = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4), dtype=np.uint8)
  return np.repeat(cv2.resize(small, (width, height))[..., None], 3, -1)


@pytest.mark.parametrize('crop', ['random', 'center'])
def test_a_crop_is_one_place_for_all_frames_of_a_clip(config, tmp_path, crop):
  height, width, side = 80, 112, 48
  made = {}
  for v in range(4):
    frames = [jpeg(noise(100 * v + i, height, width)) for i in range(12)]
    times = [i * 2500 for i in range(12)]
    made[f'v{v}'] = make(f'v{v}', height=height, width=width, frames=frames, frame_times_ms=times)
  folder = str(folders.write(tmp_path, {'train': [list(made.values())]}))
  config = dataclasses.replace(config, folder=folder, crop=crop, image_size=side, mask_ratio=0.0)
  source = pipeline.open(config)
  offsets = set()
  for step in range(2):
    for name, video in zip(source.examples(step), pictures(source.batch(step), config, side)):
      whole = [cv2.imdecode(np.frombuffer(f, np.uint8), cv2.IMREAD_COLOR) for f in made[name[0]].frames]
      found = {
        (y, x) for y in range(height - side + 1) for x in range(width - side + 1)
        if all(any((frame[::9, ::9] == w[y : y + side : 9, x : x + side : 9]).all() for w in whole) for frame in video)
      }  # fmt: skip
      assert len(found) == 1, 'the frames of one clip are cropped at one place'
      ((y, x),) = found
      for frame in video:
        assert any(np.abs(frame.astype(int) - w[y : y + side, x : x + side]).max() <= 3 for w in whole)
      offsets |= found
  assert offsets == {(16, 32)} if crop == 'center' else len(offsets) > 4


def test_resize_scales_the_short_side(config, tmp_path):
  folder = str(folders.write(tmp_path, {'val': [[talk(3)], [talk(4, width=96)]]}))
  config = dataclasses.replace(config, folder=folder, split='val', mode='eval', mask_ratio=0.0, batch=2)
  small = dataclasses.replace(config, image_size=32, resize=32)
  large, scaled = pictures(pipeline.open(config).batch(0), config), pictures(pipeline.open(small).batch(0), small, 32)
  assert [media.read_index(f) for f in scaled[0]] == [media.read_index(f) for f in large[0]]
  # Of the wide one the centre is left; a mean over 2x2 pixels is nearly what the scaling does.
  for wanted, found in zip(large[1].astype(float), scaled[1]):
    assert np.abs(wanted.reshape(32, 2, 32, 2, 3).mean((1, 3)) - found).mean() < 8


def test_frames_too_small_for_the_crop_are_enlarged_as_the_preprocessor_of_an_export_does(config, tmp_path):
  image = pytest.importorskip('PIL.Image')
  records = [talk(3), talk(4, width=96)]
  folder = str(folders.write(tmp_path, {'val': [[record] for record in records]}))
  config = dataclasses.replace(config, folder=folder, split='val', mode='eval', mask_ratio=0.0, batch=2)
  large = dataclasses.replace(config, image_size=128)
  stored, enlarged = (
    pictures(pipeline.open(config).batch(0), config),
    pictures(pipeline.open(large).batch(0), large, 128),
  )
  shown = [media.read_index(frame) - 600 for frame in stored[0]]
  for number, found in zip(shown, enlarged[0]):
    whole = cv2.imdecode(np.frombuffer(records[0].frames[number], np.uint8), cv2.IMREAD_COLOR_RGB)
    expected = np.asarray(image.fromarray(whole).resize((146, 146), image.BILINEAR))[9:137, 9:137]
    assert np.abs(expected.astype(int) - found).mean() < 1
  # Of the wide one the centre is left, at the same scale.
  assert enlarged[1].std() > 50 and np.abs(enlarged[1][:, :, 1:].astype(int) - enlarged[1][:, :, :-1]).max() < 150
  train = pipeline.open(dataclasses.replace(large, mode='train', crop='random', split='val', batch=1))
  assert train.batch(0)['patches'].dtype == np.uint8


def test_evaluation_goes_once_in_order_and_marks_the_padding(config, talks):
  source = pipeline.open(dataclasses.replace(config, mode='eval', mask_ratio=0.0))
  assert source.steps_per_epoch == 4
  batches = list(source.batches())
  assert len(batches) == 4 and {k: (v.shape, v.dtype) for k, v in batches[0].items()} == source.spec
  ids, valid = (np.concatenate([b[k] for b in batches]) for k in ('example_id', 'valid'))
  assert ids[valid].tolist() == [index.example_hash(*name) for name in talks] and (~valid).sum() == 3
  again = pipeline.open(dataclasses.replace(config, mode='eval', mask_ratio=0.0))
  same(again.batch(2), batches[2])
  with pytest.raises(UserError, match='not among'):
    source.batch(4)
  # The first record by hand: 4 s transcripts, the middle valid begin, the frames on screen at the centres.
  record = list(talks.values())[0]
  begins = np.arange(record.start_ms, record.end_ms - 19_000 + 1)
  for k in range(4):
    s = begins[:, None] + 5000 * k
    heard = (np.array(record.word_starts_ms) >= s) & (np.array(record.word_starts_ms) <= s + 4000)
    begins = begins[heard.sum(1) >= 3]
  centres = begins[len(begins) // 2] + 19_000 * (np.arange(FRAMES) + 0.5) / FRAMES
  shown = [int(np.flatnonzero(np.array(record.frame_times_ms) <= c)[-1]) for c in centres]
  assert [media.read_index(f) for f in pictures(batches[0], source.config)[0]] == shown


def test_sources_mix_by_weight_or_take_turns(config, folder, talks, tmp_path, tokenizer):
  captions = [
    make(
      f'image {i}', frames=[jpeg(media.draw_index(i, (SIDE, SIDE)))], height=SIDE, width=SIDE, frame_times_ms=[0],
      words=['a', 'red', f'ball{i}'], word_starts_ms=[0] * 3, word_ends_ms=[30_000] * 3, transcript_timing='caption',
    ) for i in range(6)
  ]  # fmt: skip
  captions = str(
    folders.write(
      tmp_path / 'captions',
      {'train': [captions]},
      sampling={'transcripts': 1, 'seconds': [3, 4, 5], 'gap_s': 1.0, 'min_words': 3},
    )
  )
  other = [talk(v) for v in range(20, 30)]
  others = str(folders.write(tmp_path / 'others', {'train': [other]}))

  mixed = pipeline.open(
    dataclasses.replace(config, sources=({'folder': folder, 'weight': 3}, {'folder': others, 'weight': 1}))
  )
  for step in range(4):
    names = [video for video, _ in mixed.examples(step)]
    assert [int(n.split()[1]) >= 20 for n in names].count(True) == 1 and len(set(names)) == 4
    assert mixed.batch(step)['example_id'].tolist() == [index.example_hash(*n) for n in mixed.examples(step)]
  assert mixed.spec['patches'][0][0] == 4 and mixed.num_examples == 23 and mixed.steps_per_epoch == 10

  changes = {'folder': captions, 'transcripts': 1, 'frames': 2, 'mask_ratio': 0.0}
  turns = pipeline.open(dataclasses.replace(config, sources=({'folder': folder}, changes), mix='alternate'))
  alone = pipeline.open(config)
  with turns.batches(3) as batches:
    three, four, five = (next(batches) for _ in range(3))
  same(four, alone.batch(2))
  same(three, turns.batch(3))
  same(five, turns.batch(5))
  assert three['tokens'].shape == (4, 1, 48) and three['patches'].shape[1] == 16
  assert {k: (v.shape, v.dtype) for k, v in three.items()} == turns.specs[1]
  video = pictures(three, dataclasses.replace(config, **changes))
  np.testing.assert_array_equal(video[:, 0], video[:, 1])
  assert all(name.startswith('image') for name, _ in turns.examples(3))
  with pytest.raises(UserError, match='differ in frames, transcripts, visible'):
    pipeline.open(dataclasses.replace(config, sources=({'folder': folder}, changes)))
  with pytest.raises(UserError, match='a source cannot set sead'):
    pipeline.open(dataclasses.replace(config, sources=({'sead': 3},)))


@pytest.mark.long
def test_another_process_makes_the_same_batch_and_ends_with_its_threads(config, source):
  """It leaves an endless iterator of tf.data open whose threads are amid slow Python, and must not hang on it."""
  given = dataclasses.asdict(config) | {'decoder': 'tf'}
  program = (
    'import hashlib, time; from tvts_jax.input import examples, pipeline\n'
    'load = examples.Examples.load\n'
    'examples.Examples.load = lambda *a: (time.sleep(0.1), load(*a))[1]\n'
    f'source = pipeline.open(pipeline.InputConfig(**{given!r}))\n'
    'batches = source.batches(7)\n'
    'batch = next(batches)\n'
    "print(hashlib.sha256(b''.join(batch[k].tobytes() for k in sorted(batch))).hexdigest())\n"
  )
  env = {**os.environ, 'PYTHONHASHSEED': '3', 'CUDA_VISIBLE_DEVICES': ''}
  done = subprocess.run([sys.executable, '-c', program], env=env, capture_output=True, text=True, timeout=120)
  batch = source.batch(7)
  expected = hashlib.sha256(b''.join(batch[k].tobytes() for k in sorted(batch))).hexdigest()
  assert done.returncode == 0 and done.stdout.strip() == expected, done.stderr[-2000:]


@pytest.mark.skipif(not importlib.util.find_spec('triton'), reason='no PyTorch with triton is installed')
def test_tensorflow_and_triton_live_in_one_process():
  code = 'from tvts_jax.input.host_tf import tensorflow; tensorflow(); import triton'
  subprocess.run([sys.executable, '-c', code], check=True, timeout=300)


def test_tensorflow_sees_no_accelerator():
  tf = host_tf.tensorflow()
  assert not tf.config.get_visible_devices('GPU') and not tf.config.get_visible_devices('TPU')


def broken(config, tmp_path, bad):
  """A source over four records, of which the third is bad, that stops at it."""
  made = [talk(v) for v in range(3)]
  folder = str(folders.write(tmp_path, {'train': [[made[0], made[1]], [bad, made[2]]]}))
  return pipeline.open(dataclasses.replace(config, folder=folder, max_bad=0.0))


def test_a_damaged_frame_names_shard_record_and_video(config, tmp_path):
  whole = talk(9)
  cut = dataclasses.replace(whole, frames=[f[: len(f) // 2] + f[-2:] for f in whole.frames])
  source = broken(config, tmp_path, cut)
  with pytest.raises(UserError, match=r'train-00001-of-00002.tfrecord: record 0 \(video .video 9., window 0\).*JPEG'):
    source.batch(0)
  batches = source.batches(0)
  with pytest.raises(UserError, match='video 9'):
    next(batches)


def test_a_header_that_lies_is_refused_before_decoding(config, tmp_path):
  whole = talk(9)
  huge = jpeg(np.zeros((8, 1024, 3), np.uint8))
  at = huge.index(b'\xff\xc0') + 5
  lying = [huge[:at] + b'\xff\xff' + huge[at + 2 :]] * len(whole.frames)
  source = broken(config, tmp_path, (folders.example(whole, {'frames/jpeg': lying}), 'video 9', 0))
  with pytest.raises(UserError, match=r'video 9.*says 65535x1024 in its header'):
    source.batch(0)


def test_what_is_no_example_is_named(config, tmp_path):
  with pytest.raises(UserError, match='train-00001-of-00002.tfrecord: record 0 .* is no record'):
    broken(config, tmp_path, (folders.junk(), 'video 9', 0)).batch(0)


def test_a_flipped_bit_names_shard_and_record(config, tmp_path):
  source = broken(config, tmp_path, talk(9))
  folders.flip(tmp_path / 'train-00001-of-00002.tfrecord', 500)
  with pytest.raises(UserError, match='train-00001-of-00002.tfrecord: record 0 .*cannot be read'):
    source.batch(0)


def test_a_shard_that_vanishes_while_training_is_named(config, tmp_path):
  source = broken(config, tmp_path, talk(9))
  (tmp_path / 'train-00001-of-00002.tfrecord').unlink()
  with pytest.raises(UserError, match='train-00001-of-00002.tfrecord is listed in the manifest but missing'):
    source.batch(0)


@pytest.mark.parametrize(
  'change, says',
  [
    ({'seconds': (3, 9)}, 'cannot serve this sampling.*seconds has 9; set it to what they hold'),
    ({'batch': 9}, 'a batch of at most'),
    ({'split': 'test'}, "no split 'test'"),
    ({'folder': 'nowhere'}, 'nowhere'),
    ({'tokenizer': ''}, 'no tokenizer is set'),
    ({'mode': 'eval', 'sources': ({'seed': 1},)}, 'cannot set seed'),
    ({'mode': 'eval', 'sources': ({}, {})}, 'reads one folder'),
  ],
)
def test_what_opening_refuses(config, change, says):
  with pytest.raises(UserError, match=says):
    pipeline.open(dataclasses.replace(config, **change))


@pytest.mark.parametrize(
  'change, says',
  [
    ({'mode': 'test'}, 'known: train, eval'), ({'epoch': 'clips'}, 'known: windows, videos'),
    ({'crop': 'top'}, 'known: random, resized, center, left, right'),
    ({'mask': 'block'}, 'known: random, tube'), ({'mix': 'sum'}, 'known: weight, alternate'),
    ({'batch': 0}, 'at least 1'), ({'patch': 15}, 'multiple'), ({'tubelet': 3}, 'multiple'),
    ({'resize': 32}, 'smaller than the crop'), ({'mask_ratio': 1.0}, 'leaves nothing'),
    ({'mask_ratio': 0.97}, 'leaves nothing'), ({'mask_ratio': -0.1}, 'leaves nothing'),
    ({'clips': 2}, "needs pick='center'"), ({'clip': 1}, 'below clips=1'), ({'spread': 'x'}, 'interleaved, parts'),
    ({'max_bad': -0.1}, 'from 0 to 1'), ({'max_bad': 3}, 'from 0 to 1'),
  ],
)  # fmt: skip
def test_what_a_config_refuses(config, change, says):
  with pytest.raises(UserError, match=says):
    dataclasses.replace(config, **change)


def test_a_caption_needs_one_transcript(config, tmp_path):
  caption = folders.record('c', frames=2, transcript_timing='caption', height=SIDE, width=SIDE)
  folder = str(folders.write(tmp_path, {'train': [[caption]]}))
  with pytest.raises(UserError, match='set transcripts=1'):
    pipeline.open(dataclasses.replace(config, folder=folder, batch=1))


def test_defaults_are_the_papers():
  config = InputConfig()
  assert (config.transcripts, config.seconds, config.gap_s, config.frames) == (4, (3, 4, 5), 1.0, 16)
  assert (config.slices, config.grid, config.visible) == (8, 196, 49)


def test_decoded_ratio_of_masks_is_exact():
  for ratio, kept in ((0.9, 19), (0.75, 49), (0.5, 98), (0.0, 196)):
    assert InputConfig(mask_ratio=ratio).visible == kept
  assert InputConfig(image_size=160, mask_ratio=0.9).visible == 10  # 1 - .9 is a little less than .1


def test_reading_back_the_shards_needs_no_copy_left_behind(tmp_path, config, folder):
  """The folder may be moved between sessions: nothing but the manifest's content counts."""
  moved = tmp_path / 'moved'
  shutil.copytree(folder, moved)
  a, b = pipeline.open(config), pipeline.open(dataclasses.replace(config, folder=str(moved)))
  assert a.manifests[0].sha256 == b.manifests[0].sha256
  same(a.batch(2), b.batch(2))
