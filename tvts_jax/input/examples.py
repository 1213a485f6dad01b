"""One example from its record, as far as numpy goes: which frames, which words, which crop, which tubelets."""

import dataclasses
import math

import numpy as np
from google.protobuf.message import DecodeError

from tvts_jax.errors import UserError
from tvts_jax.input import fields, masks
from tvts_jax.input.settings import InputConfig
from tvts_jax.input.skipped import BadExample
from tvts_jax.input.tokens import Tokenizer
from tvts_jax.shards import annotations, records
from tvts_jax.shards import index as shard_index
from tvts_jax.shards.head import Head
from tvts_jax.shards.reader import Reader
from tvts_jax.shards.rng import generator
from tvts_jax.shards.sampling import Draw, SamplingConfig, draw, shortfall

PROBES = 8  # Examples to try before a config is refused.
# Of a part of a frame that crop='resized' takes: share of the area, width over height, and how often to try.
PART_AREA, PART_ASPECT, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10
FEW = 5  # Damaged records that may be skipped, however few there are in all.


@dataclasses.dataclass(frozen=True)
class Example:
  """All of an example but the decoding: M frames, K transcripts of L pieces, T slices with V visible tubelets."""

  jpegs: list[bytes]  # [M].
  crop: np.ndarray  # int32 [4]: top, left, height, width in the stored frame.
  positions: np.ndarray  # int32 [T V].
  tokens: np.ndarray  # int32 [K, L].
  token_mask: np.ndarray  # bool [K, L].
  order: np.ndarray  # int32 [K].
  example_id: np.uint64
  more: dict[str, np.ndarray]  # What InputConfig.fields ask for, but for pixels.


class Examples:
  """The records of one split of one folder, as examples."""

  def __init__(self, config: InputConfig, tokenizer: Tokenizer, opened: tuple | None = None):
    """`opened`: manifest and index, where another process has read them."""
    self.config, self.tokenizer = config, tokenizer
    self.manifest, self.index = opened or open_split(config.folder, config.split)
    if missing := self._missing():
      raise UserError(
        f'the records of {config.folder} cannot serve this sampling: {missing}; set it to what they '
        'hold, or build them again'
      )
    self._reader = Reader(self.manifest, self.index)
    self._known: dict[tuple[int, int], BadExample] = {}  # By row and epoch.
    self._bad: set[int] = set()  # Example ids,
    self._bad_in_all = 0  # And how many there are in all processes.
    self.advice = f'find all that is damaged with python -m data.validate --decode {config.folder}, and build it again'

  def __len__(self) -> int:
    return len(self.index)

  def _missing(self) -> str:
    """What the records lack for this sampling."""
    try:
      return shortfall(SamplingConfig(**self.manifest.sampling), self.config)
    except (TypeError, ValueError, OverflowError, UserError) as e:
      raise shard_index.damaged(self.manifest.folder, e) from e

  def name(self, row: int) -> tuple[str, int]:
    """(video id, window index)"""
    stored = self.stored(row)
    return stored.video_id, stored.window_index

  def place(self, row: int) -> str:
    """Shard and record, for people."""
    return '{}: record {}'.format(*self._place(row))

  def try_out(self) -> None:
    """BadExample if not one of a few examples can be made: that is not damage but a config that they cannot serve."""
    errors = []
    for row in range(0, len(self), -(-len(self) // PROBES)):
      try:
        self.load(row, 0)
        return
      except BadExample as e:
        errors.append(e)
    raise errors[0]

  def tolerate(self, error: BadExample) -> None:
    """Counts a bad example; UserError once there are more, in all processes, than config.max_bad lets pass."""
    from tvts_jax.pod import messages  # It needs JAX, without which others read examples.

    if error.example_id not in self._bad:
      self._bad.add(error.example_id)
      topic = f'damaged/{self.manifest.sha256}/{self.config.split}'
      self._bad_in_all = messages.tally(topic, error.example_id) or len(self._bad)
    share = self.config.max_bad
    if share == 0:
      raise error
    if self._bad_in_all > max(FEW, int(share * len(self))):
      raise UserError(
        f'{self._bad_in_all} of the {len(self)} records of {self.config.folder} cannot be used, more than '
        f'max_bad={share:g} allows, the last one because {error}: {self.advice}, or allow more by input.max_bad'
      ) from error

  def load(self, row: int, epoch: int) -> Example:
    """BadExample if the record is damaged or cannot serve the config."""
    if error := self._known.get((row, epoch)):
      raise error
    stored = self.stored(row)
    try:
      drawn, crop, positions = self.sample(stored, row, epoch)
      more = self._more(stored, positions, row, epoch)
      jpegs = self.frames(row, stored, drawn.frames)
    except (shard_index.FolderError, BadExample):
      raise
    except (UserError, UnicodeDecodeError) as e:
      raise self.bad(row, f' (video {stored.video_id!r}, window {stored.window_index}): {e}') from e
    tokens, token_mask = self.tokenizer(drawn.texts)
    return Example(jpegs, crop, positions, tokens, token_mask, drawn.order, self.index.example_id[row], more)

  def stored(self, row: int) -> Head:
    return self.parse(self.read(row), row)

  def frames(self, row: int, stored: Head, numbers: np.ndarray) -> list[bytes]:
    """JPEGs that may be decoded. A few bytes can claim a picture that fills the memory: none here does."""
    numbers = numbers.tolist()
    try:
      jpegs = self._reader.frames(row, stored, numbers)
    except shard_index.DamagedRecord as e:
      raise self._damaged(row, e) from e
    seen = None  # The last header. Those of a video are most often the same, byte for byte.
    for i, jpeg in zip(numbers, jpegs):
      if seen is None or not jpeg.startswith(seen):
        height, width = records.jpeg_size(jpeg)
        if (height, width) != (stored.height, stored.width):
          raise UserError(f'frame {i} says {height}x{width} in its header, the record {stored.height}x{stored.width}')
        seen = jpeg[: records.size_place(jpeg) + 4]
    return jpegs

  def read(self, row: int) -> tuple[bytes, bytes]:
    """The head of a record, and what was read behind it."""
    try:
      return self._reader.head(row)
    except shard_index.DamagedRecord as e:
      raise self._damaged(row, e) from e

  def _damaged(self, row: int, e: shard_index.DamagedRecord) -> BadExample:
    """Nothing in a record that cannot be read can be trusted, not even its name: the index's hash is all we know."""
    return BadExample(f'{e} (example {self._id(row):016x})', *self._place(row), self._id(row))

  def parse(self, data: tuple[bytes, bytes], row: int) -> Head:
    try:
      stored = Head(*data)
    except (UserError, DecodeError, UnicodeDecodeError) as e:
      raise self.bad(row, f' (example {self._id(row):016x}) is no record: {e}') from e
    if shard_index.example_hash(stored.video_id, stored.window_index) != self._id(row):
      raise shard_index.FolderError(
        f'{self.place(row)} is window {stored.window_index} of video {stored.video_id!r:.80}, and its index lists '
        f'another one: {shard_index.ADVICE}'
      )
    return stored

  def remember(self, row: int, epoch: int, error: BadExample) -> None:
    """What only who decodes an example can know: from now on `load` knows it as well."""
    self._known[row, epoch] = error

  def undecodable(self, row: int, what: str) -> BadExample:
    video, window = self.name(row)
    return self.bad(row, f' (video {video!r}, window {window}): {what}')

  def sample(self, stored: Head, row: int, epoch: int) -> tuple[Draw, np.ndarray, np.ndarray]:
    """Everything random, always drawn in this order: transcripts and frames, crop, positions, caption, those kept."""
    config = self.config
    rng = generator(config.seed, epoch=epoch, example=self._id(row))
    drawn = draw(stored, config, rng)
    crop = self._crop(stored.height, stored.width, rng)
    positions = masks.positions(rng, config.mask, config.slices, config.grid, config.visible)
    if config.caption == 'drawn':
      captions = annotations.captions_of(config.annotations).get(stored.video_id)
      if not captions:
        raise UserError(f'{config.annotations} has no captions for it')
      drawn = dataclasses.replace(drawn, texts=[rng.choice(captions)])
    if config.keep is not None:
      positions = np.sort(rng.choice(positions, config.keep, replace=False))
    return drawn, crop, positions

  def _more(self, stored: Head, positions: np.ndarray, row: int, epoch: int) -> dict[str, np.ndarray]:
    if not self.config.fields:
      return {}
    rng, made = generator(self.config.seed, epoch=epoch, example=self._id(row), stream=8), {}
    for name in self.config.fields:
      made |= fields.FIELDS[name].make(self.config, stored, positions, rng)
    return made

  def bad(self, row: int, what: str) -> BadExample:
    """One sentence that begins with shard and record, and goes on with `what`."""
    return BadExample(f'{self.place(row)}{what}', *self._place(row), self._id(row))

  def _place(self, row: int) -> tuple[str, int]:
    """Shard and number of a record."""
    place = self.index.place(row)
    return str(self.manifest.path(place.shard)), place.number

  def _id(self, row: int) -> int:
    return int(self.index.example_id[row])

  def _crop(self, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """int32 [4]: a part of the stored pixels, the same for all frames, that is scaled to image_size x image_size."""
    config, short = self.config, min(height, width)
    if config.crop == 'resized':
      return part(height, width, rng)
    resize = config.resize or (config.enlarged if short < config.image_size else short)
    side = round(config.image_size * short / resize)
    room = np.array([height - side, width - side])
    offset = rng.integers(room + 1) if config.crop == 'random' else room // 2
    if config.crop in ('left', 'right'):
      long = 0 if height > width else 1
      offset[long] = 0 if config.crop == 'left' else room[long]
    return np.array([*offset, side, side], np.int32)


def open_split(folder: str, split: str) -> tuple[shard_index.Manifest, shard_index.Index]:
  manifest = shard_index.load(folder, split)
  return manifest, shard_index.load_index(manifest)


def part(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
  """int32 [4]: of random area, shape and place, as torchvision's RandomResizedCrop."""
  for _ in range(TRIES):
    area, aspect = rng.uniform(*PART_AREA) * height * width, math.exp(rng.uniform(*map(math.log, PART_ASPECT)))
    h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
    if 0 < h <= height and 0 < w <= width:
      return np.array([rng.integers(height - h + 1), rng.integers(width - w + 1), h, w], np.int32)
  # Frames of an odd shape: the middle, and as much of it as may be.
  narrow, wide = PART_ASPECT
  h, w = min(height, round(width / narrow)), min(width, round(height * wide))
  return np.array([(height - h) // 2, (width - w) // 2, h, w], np.int32)
