"""Which examples the batch of step s holds: a pure function of (index, seed, s), the same cost at any s.

Examples form one endless stream, epoch after epoch; batch s takes places [s B, (s+1) B). Within an epoch:

  head | superblock 0 | superblock 1 | ... | tail

Blocks of neighbouring records are permuted, so that storage sees large reads, and cut into superblocks of whole
batches. A superblock puts the windows of a video side by side in a random order of its videos, and deals the
records to its batches like cards: two windows of a video meet in a batch only if it has more windows than the
superblock has batches, and a superblock always has enough. Where B does not divide the epoch, one batch is the
tail of an epoch and the head of the next. Videos belong for good to one of two classes; tails take single windows
of the first, heads of the second, so neither needs to know what the other took.

For a damaged example another stands in: a window of a video that is not in the batch. Every place of a batch has
videos of its own to choose from, so no place, and no process, needs to know which others are damaged, and the choice is
again a function of (index, seed, s). That window is then seen once more in the epoch.
"""

import functools
import math
from collections.abc import Iterator

import numpy as np

from tvts_jax.errors import UserError
from tvts_jax.shards.rng import generator, mix

BLOCK_RECORDS = 64  # Neighbours in storage that stay together when an epoch is permuted.

CLASSES, BLOCKS, TAIL, HEAD, DEAL, STAND_IN = range(1, 7)  # Random streams; 0, 7 and 8 belong to the examples.
STAND_INS = 8  # To try for one place.


class Order:
  """Every example once an epoch, shuffled, no two of one video in a batch."""

  def __init__(self, video_N, batch: int, seed: int, *, block_records: int = BLOCK_RECORDS, mix_blocks: int = 32):
    """`video_N`: a hash of each example's video, in storage order; `mix_blocks`: blocks a superblock mixes."""
    self.video_N = np.asarray(video_N, np.uint64)
    self.size, self.batch, self.seed, self.block = len(self.video_N), batch, seed, block_records
    if not self.size:
      raise UserError('there are no examples to put in order')
    if batch < 1 or block_records < 1:
      raise UserError(f'batch={batch} and block_records={block_records} must be at least 1')
    # Examples grouped by video: video v's are by_video[first[v] : first[v] + count[v]].
    self._by_video_N = np.argsort(self.video_N, kind='stable')
    sorted_N = self.video_N[self._by_video_N]
    self._first_V = np.flatnonzero(np.r_[True, sorted_N[1:] != sorted_N[:-1]])
    self._count_V = np.diff(self._first_V, append=self.size)
    self._check_room()
    self._deck = max(int(self._count_V.max()), math.ceil(mix_blocks * block_records / batch))
    videos_V = generator(seed, stream=CLASSES).permutation(len(self._first_V))
    self._tail_videos, self._head_videos = np.array_split(videos_V, 2)
    self._epoch = functools.lru_cache(maxsize=4)(self._plan_epoch)
    self._superblock = functools.lru_cache(maxsize=4)(self._deal_superblock)

  def _check_room(self):
    """Refuses what no order could satisfy, and the little more that the closed form needs."""
    videos, most = len(self._count_V), int(self._count_V.max())
    shift = math.gcd(self.size, self.batch)
    split = self.batch - shift  # The longest head or tail: epochs start at multiples of `shift` inside a batch.
    full_batches = (self.size - split) // self.batch
    if full_batches < most or videos < 2 * split:
      fits = max(1, min(self.size // (most + 1), videos // 2))
      raise UserError(
        f'{self.size} examples of {videos} videos, up to {most} of one video, cannot be cut into batches of '
        f'{self.batch} without two of one video in a batch: a batch of at most {fits} always works'
      )

  def ids(self, step: int) -> np.ndarray:
    """int64 [B]: the examples of the global batch of `step`, in storage order where a batch has one epoch."""
    epoch, place = divmod(step * self.batch, self.size)
    if place + self.batch > self.size:
      return np.concatenate([self._epoch(epoch).tail, self._epoch(epoch + 1).head])
    plan = self._epoch(epoch)
    nth = (place - len(plan.head)) // self.batch
    block, first = plan.superblock_of(nth)
    return self._superblock(epoch, block)[nth - first]

  def epochs(self, step: int) -> np.ndarray:
    """int64 [B]: the epoch each of `ids(step)` belongs to."""
    return (step * self.batch + np.arange(self.batch)) // self.size

  def valid(self, step: int) -> np.ndarray:
    """bool [B]: all True, as training never fills up."""
    return np.ones(self.batch, bool)

  def stand_ins(self, step: int, place: int) -> Iterator[int]:
    """What to take instead of `ids(step)[place]`, in the order to try."""
    taken_B = np.sort(np.searchsorted(self._video_V, self.video_N[self.ids(step)]))
    rng = generator(self.seed, epoch=step, example=place, stream=STAND_IN)
    # The videos that are not taken are counted through, and every batch-th is this place's own.
    own = rng.permutation(np.arange(place, len(self._video_V) - self.batch, self.batch))[:STAND_INS]
    videos = own + np.searchsorted(taken_B - np.arange(self.batch), own, 'right')
    yield from self._by_video_N[self._first_V[videos] + rng.integers(self._count_V[videos])].tolist()

  @functools.cached_property
  def _video_V(self) -> np.ndarray:
    """Hashes of all videos, rising."""
    return self.video_N[self._by_video_N[self._first_V]]

  def _plan_epoch(self, epoch: int) -> 'Epoch':
    head = -epoch * self.size % self.batch
    tail = (self.size - head) % self.batch
    return Epoch(
      size=self.size,
      block=self.block,
      deck=self._deck,
      batch=self.batch,
      blocks=generator(self.seed, epoch=epoch, stream=BLOCKS).permutation(-(-self.size // self.block)),
      head=self._single_windows(self._head_videos, head, epoch, HEAD),
      tail=self._single_windows(self._tail_videos, tail, epoch, TAIL),
    )

  def _single_windows(self, videos: np.ndarray, count: int, epoch: int, stream: int) -> np.ndarray:
    """int64 [count]: one random window from each of `count` random videos."""
    rng = generator(self.seed, epoch=epoch, stream=stream)
    chosen = rng.choice(videos, count, replace=False)
    return self._by_video_N[self._first_V[chosen] + rng.integers(self._count_V[chosen])]

  def _deal_superblock(self, epoch: int, number: int) -> np.ndarray:
    """int64 [batches, B]: the superblock's records, dealt."""
    ids_R = self._epoch(epoch).superblock(number)
    keys = generator(self.seed, epoch=epoch, example=number, stream=DEAL).integers(2**63, size=2).tolist()
    # mix is a bijection: each video has one rank of its own, so its records stand side by side.
    dealt_R = np.lexsort((mix(ids_R, keys[0]), mix(self.video_N[ids_R], keys[1])))
    batches = len(ids_R) // self.batch
    # Storage order inside a batch, so that the rows of one process lie in few blocks.
    return ids_R[np.sort(dealt_R.reshape(self.batch, batches).T, axis=1)]


class Epoch:
  """Where everything is in one epoch: permuted blocks, less what head and tail took, cut into superblocks."""

  def __init__(self, *, size, block, deck, batch, blocks, head, tail):
    self.head, self.tail, self._block, self._batch, self._blocks = head, tail, block, batch, blocks
    sizes = np.minimum(block, size - blocks * block)  # The last block may be short.
    self._starts = np.cumsum(sizes) - sizes
    start_of_block = np.empty_like(self._starts)
    start_of_block[blocks] = self._starts
    gone = np.concatenate([head, tail])
    gone = np.sort(start_of_block[gone // block] + gone % block)
    self._skips = gone - np.arange(len(gone))
    self._batches = (size - len(gone)) // batch
    self._superblocks = max(1, self._batches // deck)  # Each of `deck` batches or more, never fewer.

  def superblock_of(self, nth: int) -> tuple[int, int]:
    """The superblock that holds the epoch's nth whole batch, and the number of its first batch."""
    number = ((nth + 1) * self._superblocks - 1) // self._batches
    return number, self._first_batch(number)

  def superblock(self, number: int) -> np.ndarray:
    """int64: the ids of its records, in permuted storage order."""
    rest = np.arange(self._first_batch(number) * self._batch, self._first_batch(number + 1) * self._batch)
    place = rest + np.searchsorted(self._skips, rest, 'right')
    nth_block = np.searchsorted(self._starts, place, 'right') - 1
    return self._blocks[nth_block] * self._block + place - self._starts[nth_block]

  def _first_batch(self, number: int) -> int:
    return self._batches * number // self._superblocks


class InOrder:
  """Every example once, in storage order; the last batch is filled up with the first ones, which are not `valid`."""

  def __init__(self, size: int, batch: int):
    if size < 1 or batch < 1:
      raise UserError(f'{size} examples cannot be cut into batches of {batch}')
    self.size, self.batch = size, batch
    self.steps = -(-size // batch)

  def ids(self, step: int) -> np.ndarray:
    """int64 [B]"""
    if not 0 <= step < self.steps:
      raise UserError(f'step {step} is not among the {self.steps} batches of {self.size} examples')
    return self._places(step) % self.size

  def valid(self, step: int) -> np.ndarray:
    """bool [B]"""
    return self._places(step) < self.size

  def epochs(self, step: int) -> np.ndarray:
    """int64 [B]: always 0, so that an evaluation never changes."""
    return np.zeros(self.batch, np.int64)

  def stand_ins(self, step: int, place: int) -> Iterator[int]:
    """What fills the place of `ids(step)[place]`, in the order to try: whatever it is, it is not valid."""
    row = int(self.ids(step)[place])
    yield from ((row + i) % self.size for i in range(1, min(self.size, STAND_INS + 1)))

  def _places(self, step: int) -> np.ndarray:
    return step * self.batch + np.arange(self.batch)


def shares(weights, batch: int) -> list[int]:
  """Whole examples per batch for each weight, by largest remainder; their sum is the batch."""
  if not weights or min(weights) <= 0:
    raise UserError(f'weights {list(weights)} must be positive')
  exact = np.asarray(weights, float) * batch / sum(weights)
  counts = np.floor(exact).astype(int)
  counts[np.argsort(counts - exact, kind='stable')[: batch - counts.sum()]] += 1
  if not counts.all():
    raise UserError(f'weights {list(weights)} leave a source without a place in a batch of {batch}')
  return counts.tolist()


def interleave(counts) -> np.ndarray:
  """int64 [sum(counts)]: which source fills each place, spread evenly so that all processes get all sources."""
  place = np.concatenate([(np.arange(n) + 0.5) / n for n in counts])
  return np.repeat(np.arange(len(counts)), counts)[np.argsort(place, kind='stable')]
