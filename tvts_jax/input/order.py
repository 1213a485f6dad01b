"""Which examples the batch of step s holds: a pure function of (index, seed, s), the same cost at any s.

An epoch deals cards: every window once, or, with epoch='videos', every video once, each time as one random window of
it. Epoch after epoch the cards form one endless stream, and batch s takes places [s B, (s+1) B). Within an epoch:

  head | superblock 0 | superblock 1 | ... | tail

A keyed bijection shuffles the cards of an epoch, each as far as any other, and takes no memory. Its stream is cut into
superblocks of whole batches. A superblock puts the windows of a video side by side in a random order of its videos, and
deals them to its batches: two windows of a video meet in a batch only if it has more windows than the superblock has
batches, and a superblock always has enough. Where B does not divide the epoch, one batch is the tail of an epoch and
the head of the next. Videos belong for good to one of two classes; tails take single cards of the first, heads of the
second, so neither needs to know what the other took.

For a damaged example another stands in: a window of a video that is not in the batch. Every place of a batch has
videos of its own to choose from, so no place, and no process, needs to know which others are damaged, and the choice is
again a function of (index, seed, s). That window is then seen once more in the epoch.

Shapes: N examples, V videos, B examples of a batch.
"""

import functools
import math
from collections.abc import Iterator

import numpy as np

from tvts_jax.errors import UserError
from tvts_jax.shards.rng import Bijection, generator, mix

# Random streams; 0, 7 and 8 belong to the examples.
CLASSES, SHUFFLE, TAIL, HEAD, DEAL, STAND_IN, WINDOW = *range(1, 7), 9
STAND_INS = 8  # To try for one place.
CHUNK = 1 << 20  # Rows that are looked at together.


class Order:
  """Every card once an epoch, shuffled, no two of one video in a batch. 8 bytes of memory an example."""

  def __init__(self, video_N, batch: int, seed: int, epoch: str = 'windows'):
    """`video_N`: a hash of each example's video, in storage order; `epoch`: a key of settings.EPOCHS."""
    self.video_N, self.batch, self.seed = np.asarray(video_N, np.uint64), batch, seed
    if not len(self.video_N):
      raise UserError('there are no examples to put in order')
    if batch < 1:
      raise UserError(f'batch={batch} must be at least 1')
    # Rows by video: those of video v are by_video[first[v] : first[v + 1]].
    self._by_video_N, self._first_V1 = grouped(self.video_N)
    self._videos, self._of_windows = len(self._first_V1) - 1, epoch == 'windows'
    self.size = len(self.video_N) if self._of_windows else self._videos  # Cards of an epoch.
    self._most = int(np.diff(self._first_V1).max()) if self._of_windows else 1  # Cards of a video.
    self._check_room()
    self._classes = Bijection(self._videos, generator(seed, stream=CLASSES))
    self._epoch = functools.lru_cache(maxsize=4)(self._plan_epoch)
    self._superblock = functools.lru_cache(maxsize=4)(self._deal_superblock)

  def _check_room(self):
    """Refuses what no order could satisfy, and the little more that the closed form needs."""
    split = self.batch - math.gcd(self.size, self.batch)  # The longest head or tail: epochs begin at multiples of that.
    full_batches = (self.size - split) // self.batch
    if full_batches < self._most or self._videos < 2 * split:
      fits = max(1, min(self.size // (self._most + 1), self._videos // 2))
      raise UserError(
        f'{self.size} examples of {self._videos} videos, up to {self._most} of one video, cannot be cut into batches '
        f'of {self.batch} without two of one video in a batch: a batch of at most {fits} always works'
      )

  def ids(self, step: int) -> np.ndarray:
    """int64 [B]: the examples of the global batch of `step`."""
    epoch, place = divmod(step * self.batch, self.size)
    plan = self._epoch(epoch)
    if place + self.batch > self.size:
      head = self._epoch(epoch + 1).head
      return np.concatenate([self._rows(plan.tail, epoch), self._rows(head, epoch + 1)])
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
    taken_B = np.sort(self._video_of(self.ids(step)))
    rng = generator(self.seed, epoch=step, example=place, stream=STAND_IN)
    # The videos that are not taken are counted through, and every batch-th is this place's own.
    own = rng.permutation(np.arange(place, self._videos - self.batch, self.batch))[:STAND_INS]
    videos = own + np.searchsorted(taken_B - np.arange(self.batch), own, 'right')
    yield from self._windows(videos, rng.integers(2**63, size=len(videos), dtype=np.uint64)).tolist()

  def _windows(self, videos: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """int64: the rows of one window of each video, which `drawn`, uint64, decides."""
    first, stop = self._first_V1[videos].astype(np.uint64), self._first_V1[videos + 1]
    return self._by_video_N[first + drawn % (stop - first)].astype(np.int64)

  def _video_of(self, rows: np.ndarray) -> np.ndarray:
    """int64: numbers of the videos of some rows, by bisection, for no list of the hashes is kept."""
    hashes, low, high = self.video_N[rows], np.zeros(len(rows), np.int64), np.full(len(rows), self._videos - 1)
    for _ in range(self._videos.bit_length()):
      middle = (low + high) // 2
      beyond = self.video_N[self._by_video_N[self._first_V1[middle]]] < hashes
      low, high = np.where(beyond, middle + 1, low), np.where(beyond, high, middle)
    return low

  def _rows(self, cards: np.ndarray, epoch: int) -> np.ndarray:
    """int64: a card is a row, or a video of which the epoch decides the window."""
    if self._of_windows:
      return cards
    (key,) = generator(self.seed, epoch=epoch, stream=WINDOW).integers(2**63, size=1).tolist()
    return self._windows(cards, mix(cards, key))

  def _plan_epoch(self, epoch: int) -> 'Epoch':
    head = -epoch * self.size % self.batch
    tail = (self.size - head) % self.batch
    return Epoch(
      shuffle=Bijection(self.size, generator(self.seed, epoch=epoch, stream=SHUFFLE)),
      deck=self._most,
      batch=self.batch,
      head=self._single_cards(slice(-(-self._videos // 2), self._videos), head, epoch, HEAD),
      tail=self._single_cards(slice(0, -(-self._videos // 2)), tail, epoch, TAIL),
    )

  def _single_cards(self, half: slice, count: int, epoch: int, stream: int) -> np.ndarray:
    """int64 [count]: one random card from each of `count` random videos of a class."""
    rng = generator(self.seed, epoch=epoch, stream=stream)
    videos = self._classes(half.start + Bijection(half.stop - half.start, rng)(np.arange(count)))
    return self._windows(videos, rng.integers(2**63, size=count, dtype=np.uint64)) if self._of_windows else videos

  def _deal_superblock(self, epoch: int, number: int) -> np.ndarray:
    """int64 [batches, B]: the superblock's rows, dealt."""
    cards = self._epoch(epoch).superblock(number)
    keys = generator(self.seed, epoch=epoch, example=number, stream=DEAL).integers(2**63, size=2).tolist()
    # mix is a bijection: each video has one rank of its own, so its cards stand side by side.
    videos = self.video_N[cards] if self._of_windows else cards
    dealt = cards[np.lexsort((mix(cards, keys[0]), mix(videos, keys[1])))]
    return self._rows(dealt.reshape(self.batch, -1).T, epoch)


class Epoch:
  """Where everything is in one epoch: shuffled cards, less what head and tail took, cut into superblocks."""

  def __init__(self, *, shuffle: Bijection, deck: int, batch: int, head: np.ndarray, tail: np.ndarray):
    self.head, self.tail, self._shuffle, self._batch = head, tail, shuffle, batch
    gone = np.sort(shuffle.inverse(np.concatenate([head, tail])))
    self._skips = gone - np.arange(len(gone))
    self._batches = (shuffle.size - len(gone)) // batch
    self._superblocks = max(1, self._batches // deck)  # Each of `deck` batches or more, never fewer.

  def superblock_of(self, nth: int) -> tuple[int, int]:
    """The superblock that holds the epoch's nth whole batch, and the number of its first batch."""
    number = ((nth + 1) * self._superblocks - 1) // self._batches
    return number, self._first_batch(number)

  def superblock(self, number: int) -> np.ndarray:
    """int64: its cards."""
    rest = np.arange(self._first_batch(number) * self._batch, self._first_batch(number + 1) * self._batch)
    return self._shuffle(rest + np.searchsorted(self._skips, rest, 'right'))

  def _first_batch(self, number: int) -> int:
    return self._batches * number // self._superblocks


def grouped(video_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(The rows of each video, video after video, [N], and where those of each begin, [V + 1])."""
  N = len(video_N)
  kind = np.uint32 if N < 2**32 else np.int64
  by_video_N = np.argsort(video_N, kind='stable').astype(kind)
  first = [np.zeros(1, kind)]
  for at in range(1, N, CHUNK):  # So that no copy of all hashes is made.
    sorted_C = video_N[by_video_N[at - 1 : at + CHUNK]]
    first.append((at + np.flatnonzero(sorted_C[1:] != sorted_C[:-1])).astype(kind))
  return by_video_N, np.concatenate([*first, np.array([N], kind)])


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
