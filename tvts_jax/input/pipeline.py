"""From shards to batches: the batch of step s is a pure function of (manifests, config, s); a process makes its rows.

Python decides and TensorFlow toils: per example, numpy reads the record and draws everything random, then a TF
graph decodes the chosen frames where the crop is and keeps the visible tubelets. Pixels stay uint8.

  source = pipeline.open(InputConfig(folder=..., tokenizer=...))
  for batch in source.batches(start_step=1000): ...

A batch is a dict (B examples, K transcripts of L pieces, N visible tubelets of P = tubelet * patch * patch * 3 bytes):

  patches     uint8  [B, N, P]  in order (frame, row, column, channel)
  positions   int32  [B, N]     t * S + s, rising; s row by row over the S tubelets of time slice t
  tokens      int32  [B, K, L]
  token_mask  bool   [B, K, L]  True where a piece is real
  order       int32  [B, K]     the true place of each transcript
  example_id  uint64 [B]
  (more)                        what InputConfig.fields ask for: see fields.py
  valid       bool   [B]        only in mode 'eval': False where the last batch is filled up, or the record is damaged

An example that cannot be made keeps its place: in training another stands in for it (see order.py), in evaluation its
place is not valid. What is damaged is damaged whenever it is read, so the batch of a step is still the same function,
as long as the shards stay as they are.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tvts_jax import roles
from tvts_jax.input import augment, decoded, fields, masks, spliced
from tvts_jax.input import graph as graph_lib
from tvts_jax.input.batches import Batches, Stream, Turns
from tvts_jax.input.errors import InputError
from tvts_jax.input.examples import Example, Examples
from tvts_jax.input.host_tf import tensorflow
from tvts_jax.input.order import InOrder, Order, interleave, shares
from tvts_jax.input.settings import InputConfig
from tvts_jax.input.skipped import BadExample, Trouble
from tvts_jax.input.tokens import Tokenizer
from tvts_jax.machine import cores

_PREFETCH = 2  # batches made ahead
_ENDLESS = 2**62


def open(config: InputConfig) -> 'Source | Alternating':
  """Reads manifests, indices and the tokenizer, and makes one example, so that most errors show here."""
  configs, weights = config.parts()
  if config.mode == 'eval' and len(configs) > 1:
    raise InputError("mode='eval' reads one folder: open a source for each")
  trouble = Trouble()
  if config.mix == 'alternate':
    return Alternating([Source([c], [c.batch], trouble, turn=(k, len(configs))) for k, c in enumerate(configs)])
  return Source(configs, shares(weights, config.batch), trouble)


class Place(NamedTuple):
  """What the order puts at a place of a batch."""

  part: Examples
  order: Order | InOrder  # of the part
  nth: int  # among the places of the part
  row: int
  epoch: int
  valid: bool


class Source:
  """Batches from one folder, or from several with a fixed number of places in every batch for each."""

  def __init__(self, configs: list[InputConfig], counts: list[int], trouble: Trouble, turn: tuple[int, int] = (0, 1)):
    """`turn`: (k, n) if this source's batch s is the run's batch s n + k."""
    self.config, self.trouble, self._turn = configs[0], trouble, turn
    self._held = bool(self.config.decoded)
    kind = decoded.HeldExamples if self._held else spliced.SplicedExamples if self.config.splice else Examples
    self._parts = [kind(c, Tokenizer(c.tokenizer, c.max_tokens), trouble) for c in configs]
    self._orders = [_order(part, n) for part, n in zip(self._parts, counts)]
    self._part_of_B = interleave(counts)
    self._places = functools.lru_cache(maxsize=8)(self._fill)
    self._failures: dict[int, InputError] = {}  # by step
    self._check_alike(configs)
    for part in self._parts:
      part.try_out()
    self._graph = None if self._held else self._make_graph()
    self._key = (tuple(counts), *(part.key() for part in self._parts)) if self._held else ()

  @property
  def manifests(self) -> list:
    """One for each folder."""
    return [part.manifest for part in self._parts]

  @property
  def fingerprint(self) -> str:
    """Of the vocabulary: ids of another one mean nothing to a model trained on this one."""
    return self._parts[0].tokenizer.fingerprint

  @property
  def vocab_size(self) -> int:
    return self._parts[0].tokenizer.vocab_size

  @property
  def videos(self) -> np.ndarray:
    """uint64 [N]: index.video_hash of each example's video, in storage order, folder after folder."""
    return np.concatenate([part.index.video for part in self._parts])

  @property
  def example_ids(self) -> np.ndarray:
    """uint64 [N], in the same order."""
    return np.concatenate([part.index.example_id for part in self._parts])

  @property
  def num_examples(self) -> int:
    return sum(len(part) for part in self._parts)

  @property
  def steps_per_epoch(self) -> int:
    """Until the slowest folder has been through once; in training its last partial batch counts to the next epoch."""
    if self.config.mode == 'eval':
      return self._orders[0].steps
    return max(order.size // order.batch for order in self._orders)

  @property
  def spec(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of each array of the global batch."""
    b = self.config.batch
    return {name: ((b, *shape), dtype) for name, (shape, dtype) in _example_spec(self.config).items()}

  @property
  def specs(self) -> list:
    """As of Alternating: all steps are alike."""
    return [self.spec]

  def batch(self, step: int, rows: Sequence[int] | None = None) -> dict[str, np.ndarray]:
    """The batch of one step, or those of its rows that a process holds (sharding.rows)."""
    self._places(step)  # an evaluation ends somewhere
    with self._iterate(step, step + 1, rows) as batches:
      return next(batches)

  def batches(self, start_step: int = 0, rows: Sequence[int] | None = None, *, stop_step: int | None = None) -> Stream:
    """Iterates over `batch(s)` for s = start_step, ... : in evaluation to the last one, in training without end."""
    if stop_step is None and self.config.mode == 'eval':
      stop_step = self._orders[0].steps
    return self._iterate(start_step, stop_step, rows)

  def clips(self, step: int, count: int | None = None) -> list[tuple[Examples, int, int]]:
    """(part, row, epoch) of each place of the global batch, or of the first `count`; reads their records.

    Frames are not decoded: where one is damaged, only who made the batch can name the stand-in.
    """
    places = self._places(step)[:count]
    taken = [self._take(step, place) for place in range(len(places))]
    return [(part, row, place.epoch) for (part, row, _, _), place in zip(taken, places)]

  def examples(self, step: int, count: int | None = None) -> list[tuple[str, int]]:
    """(video id, window index) of each place, as `clips` knows them."""
    return [part.name(row) for part, row, _ in self.clips(step, count)]

  def decode_tokens(self, ids_KxL: np.ndarray, mask_KxL: np.ndarray) -> list[str]:
    """K texts as the model gets to see them: normalised, cut to length, without special pieces."""
    return self._parts[0].tokenizer.decode(ids_KxL, mask_KxL)

  def _fill(self, step: int) -> list[Place]:
    """All places of the global batch."""
    places = []
    for part, order in zip(self._parts, self._orders):
      columns = order.ids(step).tolist(), order.epochs(step).tolist(), order.valid(step).tolist()
      places.append(iter([Place(part, order, nth, *values) for nth, values in enumerate(zip(*columns))]))
    return [next(places[p]) for p in self._part_of_B]

  def _take(self, step: int, place: int) -> tuple[Examples, int, Example, bool]:
    """(part, row, example, valid) of a place of the global batch, with a stand-in for an example that is damaged."""
    part, order, nth, given, epoch, valid = self._places(step)[place]
    bad = []
    for row in itertools.chain([given], order.stand_ins(step, nth)):
      try:
        example = part.load(row, epoch)
      except BadExample as e:
        part.tolerate(e)
        bad.append(e)
        continue
      if bad:
        k, n = self._turn
        self.trouble.skip(step * n + k, bad, part.place(row))
      return part, row, example, valid and not bad
    raise InputError(f'{bad[0]}; nor can any of {len(bad) - 1} others stand in for it: {part.advice}')

  def _iterate(self, start: int, stop: int | None, rows: Sequence[int] | None) -> Stream:
    mine = np.arange(self.config.batch) if rows is None else np.asarray(rows)
    if self._held:
      return decoded.HeldBatches(lambda step: self._gather(step, mine), start, stop)
    tf = tensorflow()
    size = len(mine)
    threads = self.config.threads or cores()

    def make(first):
      data = tf.data.Dataset.range(first * size, _ENDLESS if stop is None else stop * size)
      data = data.map(lambda i: (i // size, tf.gather(mine, i % size)))
      data = data.map(self._graph, num_parallel_calls=threads, deterministic=True)
      data = data.batch(size, drop_remainder=True)
      if stop != start + 1:
        data = data.prefetch(_PREFETCH)
      options = tf.data.Options()
      options.threading.private_threadpool_size = threads
      return data.with_options(options)

    return Batches(make, start, lambda step, message: self._repair(step, mine, message))

  def _gather(self, step: int, mine: np.ndarray) -> dict[str, np.ndarray]:
    """The batch of a step out of frames that are held decoded."""
    drawn, part_B = self._drawn(step, mine), self._part_of_B[mine]
    batch = {name: drawn[name] for name in self.spec if name in drawn}
    for name in self.spec.keys() - batch.keys():
      position_BxN = drawn[name.removesuffix('patches') + 'positions']
      batch[name] = np.empty((*position_BxN.shape, self.spec[name][0][-1]), np.uint8)
      for number, part in enumerate(self._parts):
        own_B = part_B == number
        frame_BxM, crop_Bx4 = drawn['jpegs'][own_B], drawn['crop'][own_B]
        batch[name][own_B] = decoded.patches(part.frames, frame_BxM, crop_Bx4, position_BxN[own_B], self.config)
    return batch

  def _drawn(self, step: int, mine: np.ndarray) -> dict[str, np.ndarray]:
    """All of a batch but pixels, with `jpegs` [B, M] and `crop` [B, 4]; made once for all who would draw the same."""
    key = *self._key, step, mine.tobytes()
    if key in decoded.DRAWN:
      return decoded.DRAWN[key]
    taken = [self._take(step, place) for place in mine.tolist()]
    values = [{**vars(example), **example.more, 'valid': np.bool_(valid)} for _, _, example, valid in taken]
    names = [name for name in self.spec if not name.endswith('patches')]
    drawn = {name: np.stack([value[name] for value in values]) for name in (*names, 'crop', 'jpegs')}
    # A stand-in has to be told of in every run.
    places = self._places(step)
    if all(row == places[place].row for (_, row, _, _), place in zip(taken, mine.tolist())):
      decoded.DRAWN[key] = drawn
    return drawn

  def _repair(self, step: int, mine: np.ndarray, message: str) -> None:
    """Makes the examples of a failed batch again, one by one, to find one whose frames do not decode.

    Nowhere else are frames tried before they are used, which would double the work.
    """
    if step in self._failures:
      raise self._failures.pop(step)
    for place in mine.tolist():
      part, row, example, _ = self._take(step, place)
      if not part.decodes(example, row, self._places(step)[place].epoch):
        return
    raise InputError(f'the batch of step {step} failed, and did not fail again: {message}')

  def _make_graph(self):
    """A traced (step, place) -> example, of which every pipeline of this source is made."""
    tf = tensorflow()
    config, spec = self.config, _example_spec(self.config)
    numpy_names = [name for name in spec if not name.endswith('patches')]

    def load(step, place):
      try:
        _, _, example, valid = self._take(int(step), int(place))
      except InputError as e:  # of which TensorFlow would leave no more than its text
        self._failures[int(step)] = e
        raise
      values = {**vars(example), **example.more, 'valid': np.bool_(valid)}
      epoch = self._places(int(step))[int(place)].epoch
      return [np.array(example.jpegs, object), example.crop, np.int64(epoch), *(values[name] for name in numpy_names)]

    def evened(positions_N):
      return masks.evened(positions_N, config.slices, config.grid, config.visible)

    def augmented(clip, epoch, example_id):
      return augment.augment(clip, config, int(epoch), int(example_id))

    @tf.function(input_signature=[tf.TensorSpec([], tf.int64)] * 2)
    def graph(step, place):
      dtypes = [tf.string, tf.int32, tf.int64, *(tf.as_dtype(spec[name][1]) for name in numpy_names)]
      jpegs, crop, epoch, *values = tf.numpy_function(load, [step, place], dtypes)
      made = {name: tf.ensure_shape(v, spec[name][0]) for name, v in zip(numpy_names, values)}
      pixels = {name: made[name.removesuffix('patches') + 'positions'] for name in spec if name not in made}
      if config.splice:
        jpegs = tf.unstack(jpegs, len(pixels))
        return {name: spliced.decode(jpeg, spec[name][0]) for name, jpeg in zip(pixels, jpegs)} | made
      jpegs, crop = tf.ensure_shape(jpegs, [config.frames]), tf.ensure_shape(crop, [4])
      change = lambda clip: tf.numpy_function(augmented, [clip, epoch, made['example_id']], tf.uint8)
      change = change if config.augmented else None
      if config.keep is None:
        return dict(zip(pixels, graph_lib.visible(jpegs, crop, list(pixels.values()), config, change))) | made
      # Pictures are looked up as many times in each slice; what was repeated for that is left out again.
      even = tf.ensure_shape(tf.numpy_function(evened, [made['positions']], tf.int32), [config.slices * config.visible])
      (found,) = graph_lib.visible(jpegs, crop, [even], config, change)
      return {'patches': tf.gather(found, tf.searchsorted(even, made['positions']))} | made

    return graph

  def _check_alike(self, configs: list[InputConfig]) -> None:
    """One graph decodes for all sources, so they must ask the same of it."""
    for part, config in zip(self._parts, configs):
      # Of the mask ratio it matters how many tubelets are visible.
      alike = *roles.names(InputConfig, 'alike'), 'visible'
      differ = [n for n in alike if getattr(config, n) != getattr(self.config, n)]
      if differ:
        raise InputError(
          f'{config.folder} and {self.config.folder} cannot share a batch, they differ in {", ".join(differ)}: '
          "make these the same or use mix='alternate'"
        )
      if part.tokenizer.fingerprint != self.fingerprint:
        raise InputError(f'{config.tokenizer} and {self.config.tokenizer} are different vocabularies: use one')


class Alternating:
  """Batch s comes from source s mod n, as its batch s div n; shapes may differ between sources."""

  def __init__(self, sources: list[Source]):
    self.sources = sources
    if len({s.fingerprint for s in sources}) > 1:
      raise InputError('the sources have different vocabularies: use one tokenizer for all')
    self.config, self.trouble = sources[0].config, sources[0].trouble
    self.fingerprint, self.vocab_size = sources[0].fingerprint, sources[0].vocab_size
    self.manifests = [m for s in sources for m in s.manifests]
    self.num_examples = sum(s.num_examples for s in sources)
    self.steps_per_epoch = len(sources) * max(s.steps_per_epoch for s in sources)
    self.specs = [s.spec for s in sources]  # of steps 0, 1, ...

  @property
  def spec(self):
    """As Source.spec, of step 0; the others are in `specs`."""
    return self.specs[0]

  def batch(self, step: int, rows: Sequence[int] | None = None):
    source, nth = self._at(step)
    return source.batch(nth, rows)

  def clips(self, step: int, count: int | None = None):
    source, nth = self._at(step)
    return source.clips(nth, count)

  def examples(self, step: int, count: int | None = None):
    source, nth = self._at(step)
    return source.examples(nth, count)

  def batches(self, start_step: int = 0, rows: Sequence[int] | None = None) -> Turns:
    n = len(self.sources)
    # Source k gives its first batch at the first step s >= start with s mod n = k.
    streams = [s.batches((start_step - k + n - 1) // n, rows) for k, s in enumerate(self.sources)]
    return Turns(streams, start_step % n)

  def _at(self, step: int) -> tuple[Source, int]:
    return self.sources[step % len(self.sources)], step // len(self.sources)


def _order(part: Examples, batch: int) -> Order | InOrder:
  try:
    if part.config.mode == 'eval':
      return InOrder(len(part), batch)
    return Order(part.index.video, batch, part.config.seed)
  except InputError as e:
    raise InputError(f'{part.config.folder}, split {part.config.split!r}: {e}') from e


def _example_spec(config: InputConfig):
  n, k, l = config.tubelets, config.transcripts, config.max_tokens
  spec = {
    'patches': ((n, config.tubelet * config.patch**2 * 3), np.uint8),
    'positions': ((n,), np.int32),
    'tokens': ((k, l), np.int32),
    'token_mask': ((k, l), np.bool_),
    'order': ((k,), np.int32),
    'example_id': ((), np.uint64),
    **fields.spec(config),
  }
  if config.mode == 'eval':
    spec['valid'] = ((), np.bool_)
  return {name: (shape, np.dtype(dtype)) for name, (shape, dtype) in spec.items()}
