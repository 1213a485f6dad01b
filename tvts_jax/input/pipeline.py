"""From shards to batches: the batch of step s is a pure function of (manifests, config, s, process).

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
  valid       bool   [B]        only in mode 'eval': False where the last batch is filled up
"""

import functools
import os

import numpy as np

from tvts_jax.input import patches
from tvts_jax.input.batches import Batches, Turns
from tvts_jax.input.config import InputConfig
from tvts_jax.input.errors import InputError
from tvts_jax.input.examples import Examples
from tvts_jax.input.host_tf import tensorflow
from tvts_jax.input.order import InOrder, Order, interleave, process_slice, shares
from tvts_jax.input.tokens import Tokenizer

_PREFETCH = 2  # batches made ahead
_ENDLESS = 2**62
# What gives an example its shape; sources that share a batch agree on it.
_ALIKE = ('frames', 'transcripts', 'image_size', 'patch', 'tubelet', 'resize', 'visible', 'max_tokens')


def open(config: InputConfig) -> 'Source | Alternating':
  """Reads manifests, indices and the tokenizer, and makes one example, so that most errors show here."""
  configs, weights = config.parts()
  if config.mode == 'eval' and len(configs) > 1:
    raise InputError("mode='eval' reads one folder: open a source for each")
  if config.mix == 'alternate':
    return Alternating([Source([c], [c.batch]) for c in configs])
  return Source(configs, shares(weights, config.batch))


class Source:
  """Batches from one folder, or from several with a fixed number of places in every batch for each."""

  def __init__(self, configs: list[InputConfig], counts: list[int]):
    self.config = configs[0]
    self._parts = [Examples(c, Tokenizer(c.tokenizer, c.max_tokens)) for c in configs]
    self._orders = [_order(part, n) for part, n in zip(self._parts, counts)]
    self._part_of_B = interleave(counts).tolist()
    self._places = functools.lru_cache(maxsize=8)(self._fill)
    self._check_alike(configs)
    for part in self._parts:
      part.load(0, 0)
    self._graph = self._make_graph()

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

  def batch(self, step: int, process: int = 0, processes: int = 1) -> dict[str, np.ndarray]:
    """This process's slice of the batch of one step."""
    self._places(step)  # an evaluation ends somewhere
    with self._iterate(step, step + 1, process, processes) as batches:
      return next(batches)

  def batches(
    self, start_step: int = 0, process: int = 0, processes: int = 1, *, stop_step: int | None = None
  ) -> Batches:
    """Iterates over `batch(s)` for s = start_step, ... : in evaluation to the last one, in training without end."""
    if stop_step is None and self.config.mode == 'eval':
      stop_step = self._orders[0].steps
    return self._iterate(start_step, stop_step, process, processes)

  def examples(self, step: int) -> list[tuple[str, int]]:
    """(video id, window index) of each place of the global batch; reads their records."""
    return [part.name(row) for part, row, _, _ in self._places(step)]

  def decode_tokens(self, ids_KxL: np.ndarray, mask_KxL: np.ndarray) -> list[str]:
    """K texts as the model gets to see them: normalised, cut to length, without special pieces."""
    return self._parts[0].tokenizer.decode(ids_KxL, mask_KxL)

  def _fill(self, step: int) -> list[tuple[Examples, int, int, bool]]:
    """The examples, row, epoch, and whether it is valid, that fill each place of the global batch."""
    rows = [iter(order.ids(step).tolist()) for order in self._orders]
    epochs = [iter(order.epochs(step).tolist()) for order in self._orders]
    valid = [iter(order.valid(step).tolist()) for order in self._orders]
    return [(self._parts[p], next(rows[p]), next(epochs[p]), next(valid[p])) for p in self._part_of_B]

  def _iterate(self, start: int, stop: int | None, process: int, processes: int) -> Batches:
    tf = tensorflow()
    mine = process_slice(self.config.batch, process, processes)
    size = mine.stop - mine.start
    threads = self.config.threads or _cores()
    data = tf.data.Dataset.range(start * size, _ENDLESS if stop is None else stop * size)
    data = data.map(lambda i: (i // size, mine.start + i % size))
    data = data.map(self._graph, num_parallel_calls=threads, deterministic=True)
    data = data.batch(size, drop_remainder=True)
    if stop != start + 1:
      data = data.prefetch(_PREFETCH)
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    return Batches(data.with_options(options), start, lambda step, error: self._explain(step, mine, error))

  def _explain(self, step: int, mine: slice, error) -> InputError:
    """Makes the examples of a failed batch again, one by one, to say which of them is at fault."""
    tf = tensorflow()
    for part, row, epoch, _ in self._places(step)[mine]:
      try:
        example = part.load(row, epoch)
      except InputError as e:
        return e
      for i, jpeg in enumerate(example.jpegs):
        try:
          patches.decode(jpeg, example.crop, part.config)
        except tf.errors.InvalidArgumentError as e:
          video, window = part.name(row)
          what = f'frame {i} of the {len(example.jpegs)} drawn is a damaged JPEG'
          return part.bad(row, f' (video {video!r}, window {window}): {what} ({e.message})')
    return InputError(f'the batch of step {step} failed, and did not fail again: {error.message}')

  def _make_graph(self):
    """A traced (step, place) -> example, of which every pipeline of this source is made."""
    tf = tensorflow()
    config, spec = self.config, _example_spec(self.config)
    numpy_names = [name for name in spec if name != 'patches']

    def load(step, place):
      part, row, epoch, valid = self._places(int(step))[int(place)]
      example = part.load(row, epoch)
      values = {**vars(example), 'valid': np.bool_(valid)}
      return [np.array(example.jpegs, object), example.crop, *(values[name] for name in numpy_names)]

    @tf.function(input_signature=[tf.TensorSpec([], tf.int64)] * 2)
    def graph(step, place):
      dtypes = [tf.string, tf.int32, *(tf.as_dtype(spec[name][1]) for name in numpy_names)]
      jpegs, crop, *values = tf.numpy_function(load, [step, place], dtypes)
      made = {name: tf.ensure_shape(v, spec[name][0]) for name, v in zip(numpy_names, values)}
      jpegs, crop = tf.ensure_shape(jpegs, [config.frames]), tf.ensure_shape(crop, [4])
      return {'patches': patches.visible(jpegs, crop, made['positions'], config), **made}

    return graph

  def _check_alike(self, configs: list[InputConfig]) -> None:
    """One graph decodes for all sources, so they must ask the same of it."""
    for part, config in zip(self._parts, configs):
      differ = [n for n in _ALIKE if getattr(config, n) != getattr(self.config, n)]
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
    self.config, self.fingerprint, self.vocab_size = sources[0].config, sources[0].fingerprint, sources[0].vocab_size
    self.manifests = [m for s in sources for m in s.manifests]
    self.num_examples = sum(s.num_examples for s in sources)
    self.steps_per_epoch = len(sources) * max(s.steps_per_epoch for s in sources)
    self.specs = [s.spec for s in sources]  # of steps 0, 1, ...

  @property
  def spec(self):
    """As Source.spec, of step 0; the others are in `specs`."""
    return self.specs[0]

  def batch(self, step: int, process: int = 0, processes: int = 1):
    source, nth = self._at(step)
    return source.batch(nth, process, processes)

  def examples(self, step: int):
    source, nth = self._at(step)
    return source.examples(nth)

  def batches(self, start_step: int = 0, process: int = 0, processes: int = 1) -> Turns:
    n = len(self.sources)
    # Source k gives its first batch at the first step s >= start with s mod n = k.
    streams = [s.batches((start_step - k + n - 1) // n, process, processes) for k, s in enumerate(self.sources)]
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


def _cores() -> int:
  """Those this process may use, where the system can say."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


def _example_spec(config: InputConfig):
  n, k, l = config.slices * config.visible, config.transcripts, config.max_tokens
  spec = {
    'patches': ((n, config.tubelet * config.patch**2 * 3), np.uint8),
    'positions': ((n,), np.int32),
    'tokens': ((k, l), np.int32),
    'token_mask': ((k, l), np.bool_),
    'order': ((k,), np.int32),
    'example_id': ((), np.uint64),
  }
  if config.mode == 'eval':
    spec['valid'] = ((), np.bool_)
  return {name: (shape, np.dtype(dtype)) for name, (shape, dtype) in spec.items()}
