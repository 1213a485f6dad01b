"""Decoding of visible blocks alone: with `input.splice`, what is masked is not even read out of the JPEGs.

Shards of data.build --restarts have a restart marker in front of every block of 16x16 pixels, so that each can be cut
out: it needs nothing that came before it. The blocks of all visible tubelets of a clip, put behind one another, are a
JPEG by themselves, 16 pixels wide, which is decoded in one go, straight into the order of a batch. Pixels are those of
the whole picture, bit for bit, as a decoder has them that repeats chroma; by default decoders blend it over
neighbours, so the batches of shards are a little others with `splice` and without.

Crops begin at multiples of 16 pixels.
"""

import functools

import numpy as np

from tvts_jax.errors import UserError
from tvts_jax.input import fields
from tvts_jax.input.examples import Examples
from tvts_jax.input.host_tf import tensorflow
from tvts_jax.input.settings import InputConfig
from tvts_jax.shards import records

BLOCK = 16  # Pixels: of brightness; of chroma, 8.
TALLEST = 65_500  # Pixels of a JPEG, by most decoders.
SIZE, SCAN, RESTARTS = 0xC0, 0xDA, 0xDD  # Markers: baseline frame, begin of the scan, restart interval.
AGAIN = [bytes([0xFF, 0xD0 + i]) for i in range(8)]  # Restart markers, which count from 0 to 7 over and over.


class SplicedExamples(Examples):
  """Examples whose `jpegs` are one for each array of pixels of a batch."""

  grain = BLOCK

  def __init__(self, config: InputConfig, tokenizer, trouble):
    if config.patch != BLOCK or config.resize is not None or config.crop == 'resized' or config.augmented:
      raise UserError(
        f'splice=True cuts out blocks of {BLOCK} pixels as they are stored: it needs patch={BLOCK}, and no resize and '
        'no change to pixels'
      )
    more = [shape[0] for name, (shape, _) in fields.spec(config).items() if name.endswith('patches')]
    tallest = max([config.tubelets, *more])
    if tallest * config.tubelet * BLOCK > TALLEST:
      raise UserError(f'splice=True takes clips of at most {TALLEST // BLOCK} blocks; use fewer or smaller frames')
    super().__init__(config, tokenizer, trouble)

  def pictures(self, row: int, stored, numbers_M: np.ndarray, crop: np.ndarray, positions: dict) -> list[bytes]:
    if crop[2] < self.config.image_size:
      raise UserError(f'splice=True cannot enlarge frames of {stored.height}x{stored.width}; leave splice out')
    frames = self.frames(row, stored, numbers_M)
    wide = -(-stored.width // BLOCK)
    segments = [
      segments_of(jpeg, wide * -(-stored.height // BLOCK), f'frame {i}') for i, jpeg in zip(numbers_M, frames)
    ]
    if any(head != segments[0][0] for head, _ in segments):
      raise UserError('its frames were not compressed alike, so their blocks fit no common picture')
    return [self._strip(segments, wide, crop, position_N) for position_N in positions.values()]

  def _strip(self, segments, wide: int, crop: np.ndarray, position_N: np.ndarray) -> bytes:
    """The blocks of tubelets, frame after frame of each, as one picture."""
    config, (top, left) = self.config, (crop[:2] // BLOCK).tolist()
    across, parts = config.image_size // BLOCK, []
    for position in position_N.tolist():
      slot, place = divmod(position, config.grid)
      block = (top + place // across) * wide + left + place % across
      for frame in range(slot * config.tubelet, (slot + 1) * config.tubelet):
        data, start = segments[frame][1]
        parts += [data[start[block] : start[block + 1] - 2], AGAIN[len(parts) // 2 % 8]]
    height = BLOCK * len(parts) // 2
    return b''.join([headed(segments[0][0], height), *parts[:-1], records.JPEG_END])


def decode(strip, shape):
  """A strip → uint8 [N, P], a tubelet a row."""
  tf = tensorflow()
  picture = tf.io.decode_jpeg(strip, channels=3, dct_method='INTEGER_ACCURATE', fancy_upscaling=False)
  return picture if shape is None else tf.reshape(picture, shape)


def segments_of(jpeg: bytes, blocks: int, name: str) -> tuple[bytes, tuple[bytes, list[int]]]:
  """(what stands before the scan, (the whole, where each block begins, and two bytes behind the end of the last))."""
  head, begin = head_of(jpeg)
  if head is None:
    raise UserError(
      f'{name} has no restart marker for each block; build with data.build --restarts, or leave out splice'
    )
  scan = np.frombuffer(jpeg, np.uint8, offset=begin)
  again = np.flatnonzero((scan[:-1] == 0xFF) & ((scan[1:] & 0xF8) == 0xD0))
  if len(again) != blocks - 1:
    raise UserError(f'{name} has {len(again)} restart markers between its {blocks} blocks')
  return head, (jpeg, [begin, *(again + begin + 2).tolist(), len(jpeg)])


def head_of(jpeg: bytes) -> tuple[bytes | None, int]:
  """What stands before the entropy-coded scan, if it restarts at every block, and where that begins."""
  at, restarts, length = 2, False, len(jpeg)
  while at + 4 <= length and jpeg[at] == 0xFF:
    marker, size = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4], 'big')
    if marker == RESTARTS:
      restarts = jpeg[at + 4 : at + 6] == b'\x00\x01'
    at += 2 + size
    if marker == SCAN:
      return (jpeg[:at] if restarts else None), at
  return None, 0


@functools.lru_cache(maxsize=64)
def headed(head: bytes, height: int) -> bytes:
  """The same head for a picture of one block across."""
  at = 2
  while head[at + 1] != SIZE:
    if head[at + 1] == SCAN:
      raise UserError('its frames are no baseline JPEGs')
    at += 2 + int.from_bytes(head[at + 2 : at + 4], 'big')
  return head[: at + 5] + height.to_bytes(2, 'big') + BLOCK.to_bytes(2, 'big') + head[at + 9 :]
