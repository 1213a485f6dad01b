import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tvts_jax.errors import UserError
from tvts_jax.input.order import InOrder, Order, interleave, shares


def videos_of(windows):
  """Hashes of the videos of a data set in which video v has windows[v] windows, side by side as stored."""
  hashes = np.random.default_rng(0).integers(2**64 - 1, size=len(windows), dtype=np.uint64)
  return np.repeat(hashes, windows)


def check_epochs(video, batch, seed, epochs=3, **kw):
  """Reads the stream of `epochs` epochs, and a last batch, and checks all that an order promises."""
  order = Order(video, batch, seed, **kw)
  n = len(video)
  steps = -(-epochs * n // batch)
  batches = [order.ids(s) for s in range(steps)]
  for s, ids in enumerate(batches):
    assert ids.shape == (batch,) and ids.dtype == np.int64
    assert len(set(video[ids].tolist())) == batch, f'a video twice in batch {s}'
    assert order.epochs(s).tolist() == [(s * batch + i) // n for i in range(batch)]
  stream = np.concatenate(batches)
  for e in range(epochs):
    assert sorted(stream[e * n : (e + 1) * n].tolist()) == list(range(n)), f'epoch {e} is no bijection'
  return batches


@settings(max_examples=150, deadline=None)
@given(
  windows=st.lists(st.integers(1, 9), min_size=1, max_size=60),
  batch=st.integers(1, 16),
  seed=st.integers(0, 2**32),
  block=st.integers(1, 9),
  mix=st.integers(1, 4),
)
def test_epochs_are_bijections_without_a_video_twice_in_a_batch(windows, batch, seed, block, mix):
  video = videos_of(windows)
  try:
    Order(video, batch, seed)
  except UserError:
    # It may refuse only what is hard: few videos for the batch, or few batches for the longest video.
    assert len(windows) < 2 * batch or len(video) < batch * (max(windows) + 2)
    assume(False)
  batches = check_epochs(video, batch, seed, block_records=block, mix_blocks=mix)
  # A fresh object asked for one step alone, as after a restart, agrees; so does a jump backwards.
  order = Order(video, batch, seed, block_records=block, mix_blocks=mix)
  for step in {len(batches) - 1, seed % len(batches), 0}:
    np.testing.assert_array_equal(order.ids(step), batches[step])


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


def test_epochs_and_seeds_differ_and_batches_mix_blocks():
  video = np.arange(64 * 64, dtype=np.uint64)
  a, b = Order(video, 64, seed=1), Order(video, 64, seed=2)
  first = np.concatenate([a.ids(s) for s in range(64)])
  second = np.concatenate([a.ids(s) for s in range(64, 128)])
  assert (first != second).mean() > 0.9 and (first != np.concatenate([b.ids(s) for s in range(64)])).mean() > 0.9
  blocks_a_batch = [len(set((a.ids(s) // 64).tolist())) for s in range(64)]
  assert min(blocks_a_batch) > 16  # of 64 records out of 32 mixed blocks, about 28 different ones
  # Every pair of examples can meet: the batch mates of example 0 change from epoch to epoch.
  mates = [set(next(i for i in map(a.ids, range(64 * e, 64 * e + 64)) if 0 in i).tolist()) for e in range(6)]
  assert len(set.union(*mates)) > 6 * 50


def test_a_batch_reads_whole_blocks_in_storage_order():
  order = Order(np.arange(64 * 640, dtype=np.uint64), 1024, seed=1)
  superblock = np.concatenate([order.ids(s) for s in range(2)])
  blocks, counts = np.unique(superblock // 64, return_counts=True)
  assert len(blocks) == 32 and set(counts.tolist()) == {64}
  nth = superblock[:1024] // 64
  assert (np.diff(nth) != 0).sum() == 31, 'records of one block should stand together in a batch'


class CountingOrder(Order):
  """Counts the records that go through the two expensive places."""

  work = 0

  def _plan_epoch(self, epoch):
    self.work += self.size // self.block
    return super()._plan_epoch(epoch)

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
