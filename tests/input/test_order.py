import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tvts_jax.errors import UserError
from tvts_jax.input.order import InOrder, Order, interleave, shares
from tvts_jax.input.settings import EPOCHS
from tvts_jax.shards import index, writer
from tvts_jax.shards.rng import Bijection, generator


def videos_of(windows):
  """Hashes of the videos of a data set in which video v has windows[v] windows, side by side as stored."""
  hashes = np.random.default_rng(0).integers(2**64 - 1, size=len(windows), dtype=np.uint64)
  return np.repeat(hashes, windows)


def check_epochs(video, batch, seed, epochs=3, epoch='windows'):
  """Reads the stream of `epochs` epochs, and a last batch, and checks all that an order promises."""
  order = Order(video, batch, seed, epoch)
  n = len(video) if epoch == 'windows' else len(set(video.tolist()))
  assert order.size == n
  steps = -(-epochs * n // batch)
  batches = [order.ids(s) for s in range(steps)]
  for s, ids in enumerate(batches):
    assert ids.shape == (batch,) and ids.dtype == np.int64
    assert len(set(video[ids].tolist())) == batch, f'a video twice in batch {s}'
    assert order.epochs(s).tolist() == [(s * batch + i) // n for i in range(batch)]
  stream = np.concatenate(batches)
  dealt, all_of_it = (stream, np.arange(n)) if epoch == 'windows' else (video[stream], np.unique(video))
  for e in range(epochs):
    assert sorted(dealt[e * n : (e + 1) * n].tolist()) == all_of_it.tolist(), f'epoch {e} is no bijection'
  return batches


@settings(max_examples=100, deadline=None)
@given(
  windows=st.lists(st.integers(1, 9), min_size=1, max_size=60),
  batch=st.integers(1, 16),
  seed=st.integers(0, 2**32),
  epoch=st.sampled_from(list(EPOCHS)),
)
def test_epochs_are_bijections_without_a_video_twice_in_a_batch(windows, batch, seed, epoch):
  video = videos_of(windows)
  try:
    Order(video, batch, seed, epoch)
  except UserError:
    # It may refuse only what is hard: few videos for the batch, or few batches for the longest video.
    assert len(windows) < 2 * batch or epoch == 'windows' and len(video) < batch * (max(windows) + 2)
    assume(False)
  batches = check_epochs(video, batch, seed, epoch=epoch)
  # A fresh object asked for one step alone, as after a restart, agrees; so does a jump backwards.
  order = Order(video, batch, seed, epoch)
  for step in {len(batches) - 1, seed % len(batches), 0}:
    np.testing.assert_array_equal(order.ids(step), batches[step])


@settings(max_examples=200, deadline=None)
@given(size=st.integers(1, 3000), seed=st.integers(0, 2**32))
def test_a_bijection_is_one_and_knows_its_inverse(size, seed):
  shuffle = Bijection(size, generator(seed))
  places = np.arange(size)
  values = shuffle(places)
  assert sorted(values.tolist()) == places.tolist() and values.dtype == np.int64
  np.testing.assert_array_equal(shuffle.inverse(values), places)
  some = np.random.default_rng(seed).integers(size, size=(2, 5))
  np.testing.assert_array_equal(shuffle(some), values[some])


@pytest.mark.parametrize('size', [2, 3, 5, 12])
def test_bijections_take_each_place_to_each_value_equally_often(size):
  keys = 1500
  counts = np.zeros((size, size))
  for key in range(keys):
    counts[np.arange(size), Bijection(size, generator(key))(np.arange(size))] += 1
  expected = keys / size
  chi2 = ((counts - expected) ** 2 / expected).sum()
  freedom = (size - 1) ** 2
  assert abs(chi2 - freedom) < 5 * np.sqrt(2 * freedom) + 3


def test_many_windows_a_video_and_a_batch_that_does_not_divide():
  windows = np.random.default_rng(1).integers(1, 40, 300)
  video = videos_of(windows)
  assert len(video) % 48 != 0
  check_epochs(video, 48, seed=3, epochs=4)


@pytest.mark.parametrize('n, batch', [(1, 1), (2, 1), (2, 2), (3, 1), (4, 2), (6, 2), (5, 2), (7, 4), (64, 64)])
def test_tiny_data(n, batch):
  check_epochs(np.arange(n, dtype=np.uint64), batch, seed=0, epochs=5)


@pytest.mark.parametrize(
  'windows, batch', [([1, 1, 1], 4), ([9, 1, 1, 1], 4), ([2, 2, 2], 4), ([1] * 7, 5), ([3] * 21, 16)]
)
def test_impossible_batches_are_refused_with_one_that_fits(windows, batch):
  with pytest.raises(UserError, match='a batch of at most') as error:
    Order(videos_of(windows), batch, 0)
  fits = int(str(error.value).split('at most ')[1].split(' ')[0].rstrip('.'))
  check_epochs(videos_of(windows), fits, 0)


@settings(max_examples=30, deadline=None)
@given(windows=st.lists(st.integers(1, 12), min_size=1, max_size=40), batch=st.integers(2, 40), seed=st.integers(0, 9))
def test_the_batch_an_error_offers_works(windows, batch, seed):
  video = videos_of(windows)
  try:
    Order(video, batch, seed)
  except UserError as e:
    check_epochs(video, int(str(e).split('at most ')[1].split(' ')[0].rstrip('.')), seed)


def test_no_examples_at_all():
  with pytest.raises(UserError, match='no examples'):
    Order([], 4, 0)


def test_epochs_and_seeds_differ():
  video = np.arange(64 * 64, dtype=np.uint64)
  a, b = Order(video, 64, seed=1), Order(video, 64, seed=2)
  first = np.concatenate([a.ids(s) for s in range(64)])
  second = np.concatenate([a.ids(s) for s in range(64, 128)])
  assert (first != second).mean() > 0.9 and (first != np.concatenate([b.ids(s) for s in range(64)])).mean() > 0.9


def places_of(order, epoch, n) -> np.ndarray:
  """[N] in which place of an epoch of whole batches each example is."""
  steps = n // order.batch
  place_N = np.empty(n, int)
  place_N[np.concatenate([order.ids(epoch * steps + s) for s in range(steps)])] = np.arange(n)
  return place_N


@pytest.mark.parametrize('windows', [1, 4])
def test_companions_in_a_batch_are_uniform(windows):
  """Those who share a batch in one epoch meet again in the next as often as chance has it, as do neighbours in storage.

  A million of clips in batches of 1,024 would meet 1.05 of their 1,023 companions again.
  """
  n, batch = 2**16, 256
  order = Order(videos_of([windows] * (n // windows)), batch, seed=3)
  batch_of = [places_of(order, epoch, n) // batch for epoch in range(3)]
  together = n * (batch - 1) / 2
  for one, other in ((0, 1), (1, 2), (0, 2)):
    _, counts = np.unique(batch_of[one] * n + batch_of[other], return_counts=True)
    again, expected = (counts * (counts - 1) // 2).sum(), together * (batch - 1) / (n - 1)
    assert abs(again - expected) < 4.5 * np.sqrt(expected), (again, expected)
  for place_N in batch_of:
    apart = 1 if windows == 1 else windows  # Windows of one video never meet.
    met, expected = (place_N[apart:] == place_N[:-apart]).sum(), n * batch / n
    assert abs(met - expected) < 4.5 * np.sqrt(expected), (met, expected)


def test_who_stands_beside_a_clip_in_its_batch_is_another_one_each_time():
  """Which objectives/classify.py relies on: it mixes each clip with the one before it in the batch."""
  n, batch, epochs = 3840, 384, 20
  order = Order(np.arange(n, dtype=np.uint64), batch, seed=1)
  before = np.empty((epochs, n), int)
  for epoch in range(epochs):
    for s in range(n // batch):
      ids = order.ids(epoch * n // batch + s)
      before[epoch, ids] = np.roll(ids, 1)
  different = np.mean([len(set(column)) for column in before.T.tolist()])
  assert different > 19.9  # 19.95 of 20, were they drawn; a clip has 3839 to meet.
  distance = np.abs(before - np.arange(n)).mean()
  assert abs(distance / (n / 3) - 1) < 0.02  # Of two random places.


def test_an_epoch_of_videos_draws_their_windows_anew():
  windows = [1, 2, 3, 10] * 64
  video, epochs = videos_of(windows), 200
  order = Order(video, 64, 5, 'videos')
  seen = np.zeros(len(video), int)
  for s in range(epochs * 4):
    seen[order.ids(s)] += 1
  share = seen / epochs * np.repeat(windows, windows)
  assert (np.bincount(np.repeat(np.arange(256), windows), seen) == epochs).all()
  assert abs(share.mean() - 1) < 1e-9 and share[np.repeat(windows, windows) == 1].tolist() == [1] * 64
  assert np.sqrt(((share - 1) ** 2).mean()) < 2 * np.sqrt(10 / epochs) and share.max() < 2.2


def test_index_and_order_take_40_bytes_an_example(tmp_path):
  rows = np.zeros(100_000, writer.ROW)
  rows['video'], rows['size'] = np.random.default_rng(0).integers(2**63, size=len(rows)), 20
  written = writer.write_index(tmp_path / 'x.idx', [rows])
  order = Order(rows['video'], 64, 0)
  order.ids(3)
  own = sum(
    value.nbytes for value in vars(order).values() if isinstance(value, np.ndarray) and value is not order.video_N
  )
  assert own <= 8 * len(rows) + 16 and own + written.bytes <= 40 * len(rows)


def test_the_peak_of_memory_while_an_order_is_made(tmp_path):
  """30 bytes an example: 0.3 GB for ten millions."""
  count = 2_000_000
  rows = np.zeros(count, writer.ROW)
  rows['video'], rows['size'] = np.random.default_rng(0).integers(2**63, size=count), 20
  shard = index.Shard('train-00000-of-00001.tfrecord', count, 20 * count, '')
  with open(tmp_path / shard.name, 'wb') as file:
    file.truncate(shard.bytes)
  writer.write_manifest(tmp_path, {}, {}, {'train': ([shard], [rows], {})})
  program = (
    'import re, sys; from tvts_jax.input.order import Order; from tvts_jax.shards import index\n'
    "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) * 1024\n"
    f'Order(list(range(99)), 4, 0).ids(0); manifest = index.load({str(tmp_path)!r}, "train"); before = peak()\n'
    'order = Order(index.load_index(manifest).video, 1024, 0); order.ids(0); print(peak() - before)'
  )
  done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
  assert 8 * count < int(done.stdout) < 30 * count, done.stdout


class CountingOrder(Order):
  """Counts the records that are dealt."""

  work = 0

  def _deal_superblock(self, epoch, number):
    dealt = super()._deal_superblock(epoch, number)
    self.work += dealt.size
    return dealt


def test_a_far_step_costs_what_the_first_costs():
  video = videos_of([3] * 10_001)
  work, seconds = {}, {}
  for step in (0, 10**6, 10**12):
    best = np.inf
    for _ in range(3):
      order = CountingOrder(video, 64, 0)
      began = time.process_time()
      order.ids(step)
      best = min(best, time.process_time() - began)
    work[step], seconds[step] = order.work, best
  assert max(work.values()) <= 2 * work[0] and max(work.values()) < 3 * len(video) / 10
  assert max(seconds.values()) < 10 * seconds[0] + 0.01


def test_in_order_gives_everything_once_and_marks_the_padding():
  order = InOrder(10, 4)
  assert order.steps == 3
  seen = np.concatenate([order.ids(s)[order.valid(s)] for s in range(3)])
  assert seen.tolist() == list(range(10))
  assert order.valid(2).tolist() == [True, True, False, False] and order.ids(2).tolist() == [8, 9, 0, 1]
  with pytest.raises(UserError, match='not among'):
    order.ids(3)


@settings(max_examples=60, deadline=None)
@given(weights=st.lists(st.floats(0.2, 5), min_size=1, max_size=6), batch=st.integers(60, 500))
def test_shares_are_the_nearest_whole_numbers_and_interleave_evenly(weights, batch):
  counts = shares(weights, batch)
  assert sum(counts) == batch
  for n, w in zip(counts, weights):
    assert abs(n - w * batch / sum(weights)) < 1
  places = interleave(counts)
  assert np.bincount(places).tolist() == counts
  for i, n in enumerate(counts):
    half = (places[: batch // 2] == i).sum()
    assert abs(half - n / 2) <= 1


def test_shares_refuse_a_source_that_would_never_come():
  with pytest.raises(UserError, match='without a place'):
    shares([1000, 1], 8)
  with pytest.raises(UserError, match='positive'):
    shares([1, 0], 8)
