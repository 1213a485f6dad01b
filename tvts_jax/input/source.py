"""Which examples a batch holds, with a stand-in for each that is damaged; what a batch is says pipeline.py."""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tvts_jax import roles
from tvts_jax.errors import UserError
from tvts_jax.input import fields, workers
from tvts_jax.input.batches import Batches, Local, Making, Turns
from tvts_jax.input.examples import Examples
from tvts_jax.input.order import InOrder, Order, interleave
from tvts_jax.input.settings import InputConfig
from tvts_jax.input.skipped import BadExample, Trouble
from tvts_jax.input.tokens import Tokenizer


class Places(NamedTuple):
  """What the order puts at the places of a global batch."""

  part: np.ndarray  # int [B].
  nth: np.ndarray  # int [B]: among the places of its part.
  row: np.ndarray  # int64 [B].
  epoch: np.ndarray  # int64 [B].
  valid: np.ndarray  # bool [B].


class Source:
  """Batches from one folder, or from several with a fixed number of places in every batch for each."""

  def __init__(self, configs: list[InputConfig], counts: list[int], trouble: Trouble, turn: tuple[int, int] = (0, 1)):
    """`turn`: (k, n) if this source's batch s is the run's batch s n + k."""
    self.config, self.trouble, self._turn = configs[0], trouble, turn
    self.parts = [Examples(c, Tokenizer(c.tokenizer, c.max_tokens)) for c in configs]
    self._orders = [order_of(part, n) for part, n in zip(self.parts, counts)]
    self._part_of_B = interleave(counts)
    self._places_of = [np.flatnonzero(self._part_of_B == number) for number in range(len(counts))]
    self.places = functools.lru_cache(maxsize=8)(self._fill)
    self._check_alike(configs)
    self.row_spec = example_spec(self.config)  # Shape and dtype of each array of one row.
    for part in self.parts:
      part.try_out()

  @property
  def manifests(self) -> list:
    """One for each folder."""
    return [part.manifest for part in self.parts]

  @property
  def fingerprint(self) -> str:
    """Of the vocabulary: ids of another one mean nothing to a model trained on this one."""
    return self.parts[0].tokenizer.fingerprint

  @property
  def vocab_size(self) -> int:
    return self.parts[0].tokenizer.vocab_size

  @property
  def videos(self) -> np.ndarray:
    """uint64 [N]: index.video_hash of each example's video, in storage order, folder after folder."""
    return np.concatenate([part.index.video for part in self.parts])

  @property
  def example_ids(self) -> np.ndarray:
    """uint64 [N], in the same order."""
    return np.concatenate([part.index.example_id for part in self.parts])

  @property
  def num_examples(self) -> int:
    return sum(len(part) for part in self.parts)

  @property
  def steps_per_epoch(self) -> int:
    """Until the slowest folder has been through once; in training its last partial batch counts to the next epoch."""
    if self.config.mode == 'eval':
      return self._orders[0].steps
    return max(order.size // order.batch for order in self._orders)

  @property
  def spec(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Shape and dtype of each array of the global batch."""
    return {name: ((self.config.batch, *shape), dtype) for name, (shape, dtype) in self.row_spec.items()}

  @property
  def specs(self) -> list:
    """As of Alternating: all steps are alike."""
    return [self.spec]

  def batch(self, step: int, rows: Sequence[int] | None = None) -> dict[str, np.ndarray]:
    """The batch of one step, or those of its rows that a process holds (sharding.rows), made in this process."""
    with self._iterate(step, step + 1, rows, 0) as batches:
      return next(batches)

  def batches(self, start_step: int = 0, rows: Sequence[int] | None = None, *, stop_step: int | None = None) -> Batches:
    """Iterates over `batch(s)` for s = start_step, ... : in evaluation to the last one, in training without end."""
    if stop_step is None and self.config.mode == 'eval':
      stop_step = self._orders[0].steps
    return self._iterate(start_step, stop_step, rows, workers.count(self.config.workers))

  def _iterate(self, start: int, stop: int | None, rows: Sequence[int] | None, processes: int) -> Batches:
    mine = np.arange(self.config.batch) if rows is None else np.asarray(rows)
    crew = workers.Workers(self, len(mine), processes) if processes else Local(self, len(mine))
    return Batches(self, crew, start, stop, mine)

  def clips(self, step: int, places: Sequence[int] | None = None) -> list[tuple[Examples, int, int]]:
    """(part, row, epoch) of each place of the global batch, or of some places; reads their records.

    Frames are not decoded: where one is damaged, only who made the batch can name the stand-in.
    """
    epoch_B = self.places(step).epoch.tolist()
    places = range(len(epoch_B)) if places is None else places
    return [(*self._find(step, place), epoch_B[place]) for place in places]

  def examples(self, step: int, places: Sequence[int] | None = None) -> list[tuple[str, int]]:
    """(video id, window index) of each place, as `clips` knows them."""
    return [part.name(row) for part, row, _ in self.clips(step, places)]

  def decode_tokens(self, ids_KxL: np.ndarray, mask_KxL: np.ndarray) -> list[str]:
    """K texts as the model gets to see them: normalised, cut to length, without special pieces."""
    return self.parts[0].tokenizer.decode(ids_KxL, mask_KxL)

  def stand_ins(self, step: int, place: int) -> Iterator[int]:
    """What to take instead of the row at a place of the global batch, in the order to try."""
    places = self.places(step)
    return self._orders[places.part[place]].stand_ins(step, int(places.nth[place]))

  def exhausted(self, part: Examples, bad: list[BadExample]) -> UserError:
    return UserError(f'{bad[0]}; nor can any of {len(bad) - 1} others stand in for it: {part.advice}')

  def settle(self, batch: Making) -> None:
    """Counts and reports what was skipped in a batch, in the order of its places; raises what cannot be passed."""
    for place in sorted(batch.bad.keys() | batch.errors.keys()):
      part, row = self.parts[batch.tasks['part'][place]], int(batch.tasks['row'][place])
      self._skip(batch.step, part, batch.bad.get(place, []), row, batch.errors.get(place))

  def _skip(self, step: int, part: Examples, bad: list[BadExample], row: int, error: Exception | None = None) -> None:
    """`row` stands in for those that are bad, unless an error says why nothing can."""
    for e in bad:
      part.tolerate(e)
    if error is not None:
      raise error
    k, n = self._turn
    self.trouble.skip(step * n + k, bad, part.place(row))

  def _fill(self, step: int) -> Places:
    columns = {name: np.zeros(self.config.batch, np.int64) for name in ('nth', 'row', 'epoch', 'valid')}
    for order, places in zip(self._orders, self._places_of):
      values = np.arange(len(places)), order.ids(step), order.epochs(step), order.valid(step)
      for column, value in zip(columns.values(), values):
        column[places] = value
    return Places(self._part_of_B, **columns)

  def _find(self, step: int, place: int) -> tuple[Examples, int]:
    """(part, row) at a place of the global batch, whose record is read, or that of its stand-in."""
    places = self.places(step)
    part, bad = self.parts[places.part[place]], []
    for row in itertools.chain([int(places.row[place])], self.stand_ins(step, place)):
      try:
        part.load(row, int(places.epoch[place]))
        break
      except BadExample as e:
        bad.append(e)
    else:
      self._skip(step, part, bad, row, self.exhausted(part, bad))
    self._skip(step, part, bad, row)
    return part, row

  def _check_alike(self, configs: list[InputConfig]) -> None:
    """What decodes does so for all sources, so they must ask the same of it."""
    for part, config in zip(self.parts, configs):
      # Of the mask ratio it matters how many tubelets are visible.
      alike = sorted([*roles.names(InputConfig, 'alike'), 'visible'])
      differ = [n for n in alike if getattr(config, n) != getattr(self.config, n)]
      if differ:
        raise UserError(
          f'{config.folder} and {self.config.folder} cannot share a batch, they differ in {", ".join(differ)}: '
          "make these the same or use mix='alternate'"
        )
      if part.tokenizer.fingerprint != self.fingerprint:
        raise UserError(f'{config.tokenizer} and {self.config.tokenizer} are different vocabularies; use one')


class Alternating:
  """Batch s comes from source s mod n, as its batch s div n; shapes may differ between sources."""

  def __init__(self, sources: list[Source]):
    self.sources = sources
    if len({s.fingerprint for s in sources}) > 1:
      raise UserError('the sources have different vocabularies; use one tokenizer for all')
    self.config, self.trouble = sources[0].config, sources[0].trouble
    self.fingerprint, self.vocab_size = sources[0].fingerprint, sources[0].vocab_size
    self.manifests = [m for s in sources for m in s.manifests]
    self.num_examples = sum(s.num_examples for s in sources)
    self.steps_per_epoch = len(sources) * max(s.steps_per_epoch for s in sources)
    self.specs = [s.spec for s in sources]  # Of steps 0, 1, ...

  @property
  def spec(self):
    """As Source.spec, of step 0; the others are in `specs`."""
    return self.specs[0]

  def batch(self, step: int, rows: Sequence[int] | None = None):
    source, nth = self._at(step)
    return source.batch(nth, rows)

  def clips(self, step: int, places: Sequence[int] | None = None):
    source, nth = self._at(step)
    return source.clips(nth, places)

  def examples(self, step: int, places: Sequence[int] | None = None):
    source, nth = self._at(step)
    return source.examples(nth, places)

  def batches(self, start_step: int = 0, rows: Sequence[int] | None = None) -> Turns:
    n = len(self.sources)
    # Source k gives its first batch at the first step s >= start with s mod n = k.
    streams = [s.batches((start_step - k + n - 1) // n, rows) for k, s in enumerate(self.sources)]
    return Turns(streams, start_step % n)

  def _at(self, step: int) -> tuple[Source, int]:
    return self.sources[step % len(self.sources)], step // len(self.sources)


def order_of(part: Examples, batch: int) -> Order | InOrder:
  try:
    if part.config.mode == 'eval':
      return InOrder(len(part), batch)
    return Order(part.index.video, batch, part.config.seed, part.config.epoch)
  except UserError as e:
    raise UserError(f'{part.config.folder}, split {part.config.split!r}: {e}') from e


def example_spec(config: InputConfig):
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
