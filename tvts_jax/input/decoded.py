"""Frames that are decoded once and held: batches by numpy alone, byte for byte those that pipeline.py makes of JPEGs.

For small models on small data, where decoding would be much of the work: with `input.decoded` set to a folder, the
frames of a split lie there in one file, which is mapped into memory, and no TensorFlow is needed. It takes frames of
one size, as wide as the crop: where a crop ends inside a frame, decoders of JPEGs blend the colours of its last column
in other ways. Nothing that is damaged is taken.

Shapes: B clips, M frames, F frames of all records, N visible tubelets of P bytes.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from tvts_jax import roles
from tvts_jax.errors import UserError
from tvts_jax.files import publish
from tvts_jax.input.batches import Stream
from tvts_jax.input.examples import Examples
from tvts_jax.input.settings import InputConfig
from tvts_jax.input.source import Source


class HeldExamples(Examples):
  """Examples whose `jpegs` are numbers of frames in `frames` [F, H, W, 3]."""

  def __init__(self, config: InputConfig, tokenizer, trouble):
    super().__init__(config, tokenizer, trouble)
    self._stored = stored_examples(config.folder, config.split, self.manifest.sha256, self)
    self._first_N = np.cumsum([0, *(len(stored.frame_times_ms) for stored in self._stored)])
    sizes = {(stored.height, stored.width) for stored in self._stored}
    height, width = sizes.pop() if sizes else (config.image_size,) * 2  # Of no records the order of batches complains.
    if sizes or width != config.image_size or height < width or config.resize is not None:
      raise UserError(
        f'decoded={config.decoded!r} takes frames of one size, as wide as image_size={config.image_size} and no lower, '
        f'without resize, and {config.folder} has some of {height}x{width}; set decoded to nothing'
      )
    self.frames = decoded_frames(config.decoded, self.manifest.sha256, (int(self._first_N[-1]), height, width, 3), self)

  def key(self) -> tuple:
    """All that decides what is drawn: what a resume may not change, and the hashes of the rest."""
    free = {name: getattr(InputConfig, name) for name in roles.names(InputConfig, 'resume')}
    return dataclasses.replace(self.config, **free), self.manifest.sha256, self.tokenizer.fingerprint

  def stored(self, row: int):
    return self._stored[row]

  def pictures(self, row: int, stored, numbers_M: np.ndarray, crop, positions) -> np.ndarray:
    return self._first_N[row] + numbers_M


class Bounded(dict):
  """Batches by a key; it forgets all before they would take more than `most` bytes."""

  def __init__(self, most: int):
    self._most, self._taken = most, 0

  def __setitem__(self, key, batch: dict[str, np.ndarray]):
    size = sum(value.nbytes for value in batch.values())
    if self._taken + size > self._most:
      self.clear()
      self._taken = 0
    self._taken += size
    super().__setitem__(key, batch)


# Batches but for their pixels, by all that they depend on: runs that learn from the same draws make them once.
DRAWN = Bounded(256 * 2**20)


class HeldBatches(Stream):
  """make(step): the batch of a step; those of steps start, start + 1, ... before stop, where there is one."""

  def __init__(self, make, start: int, stop: int | None):
    self._make, self._step, self._stop = make, start, stop

  def __next__(self) -> dict[str, np.ndarray]:
    if self._step == self._stop:
      raise StopIteration
    self._step += 1
    return self._make(self._step - 1)

  def close(self) -> None:
    self._stop = self._step


class DecodedSource(Source):
  def __init__(self, configs: list[InputConfig], counts: list[int], *rest):
    super().__init__(configs, counts, *rest)
    self._key = tuple(counts), *(part.key() for part in self._parts)

  def _kind(self) -> type[Examples]:
    return HeldExamples

  def _iterate(self, start: int, stop: int | None, rows: Sequence[int] | None) -> Stream:
    mine = np.arange(self.config.batch) if rows is None else np.asarray(rows)
    return HeldBatches(lambda step: self._gather(step, mine), start, stop)

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
        batch[name][own_B] = patches(part.frames, frame_BxM, crop_Bx4, position_BxN[own_B], self.config)
    return batch

  def _drawn(self, step: int, mine: np.ndarray) -> dict[str, np.ndarray]:
    """All of a batch but pixels, with `jpegs` [B, M] and `crop` [B, 4]; made once for all who would draw the same."""
    key = *self._key, step, mine.tobytes()
    if key in DRAWN:
      return DRAWN[key]
    taken = [self._take(step, place) for place in mine.tolist()]
    values = [{**vars(example), **example.more, 'valid': np.bool_(valid)} for _, _, example, valid in taken]
    names = [name for name in self.spec if not name.endswith('patches')]
    drawn = {name: np.stack([value[name] for value in values]) for name in (*names, 'crop', 'jpegs')}
    # A stand-in has to be told of in every run.
    places = self._places(step)
    if all(row == places[place].row for (_, row, _, _), place in zip(taken, mine.tolist())):
      DRAWN[key] = drawn
    return drawn


def patches(frames_FxHxWx3, frame_BxM, crop_Bx4, position_BxN, config: InputConfig) -> np.ndarray:
  """uint8 [B, N, P]: the visible tubelets, and no other pixel is touched."""
  p, wide = config.patch, config.image_size // config.patch
  slice_BxN, place_BxN = np.divmod(position_BxN, config.grid)
  frame_BxNxt = np.take_along_axis(
    frame_BxM.reshape(len(frame_BxM), config.slices, config.tubelet), slice_BxN[..., None], axis=1
  )
  top_BxN = crop_Bx4[:, :1] + place_BxN // wide * p
  left_BxN = crop_Bx4[:, 1:2] + place_BxN % wide * p
  row_BxNxp = top_BxN[..., None] + np.arange(p)
  # A row of a patch is a run of 3 p bytes, whichever column it begins in.
  runs = np.lib.stride_tricks.sliding_window_view(frames_FxHxWx3.reshape(*frames_FxHxWx3.shape[:2], -1), 3 * p, axis=2)
  taken = runs[:, :, ::3][frame_BxNxt[..., None], row_BxNxp[:, :, None], left_BxN[..., None, None]]
  return taken.reshape(*position_BxN.shape, -1)


HELD: dict[str, list] = {}  # By the hash of the manifest: records without their JPEGs, for all who open the split.


def stored_examples(folder: str, split: str, sha256: str, examples: Examples) -> list:
  if sha256 not in HELD:
    HELD[sha256] = [examples.parse((examples.read(row)[0], b''), row) for row in range(len(examples))]
  return HELD[sha256]


@functools.lru_cache(maxsize=16)
def mapped(path: str, changed: int) -> np.ndarray:
  return np.load(path, mmap_mode='r').view(np.ndarray)


def decoded_frames(folder: str, sha256: str, shape: tuple[int, ...], examples: Examples) -> np.ndarray:
  """uint8 [F, H, W, 3] out of a file of the folder, which is made if it is not there or is no such file."""
  path = Path(folder, f'{sha256[:16]}.npy')
  try:
    frames = mapped(str(path), os.stat(path).st_mtime_ns)
    if frames.shape == shape and frames.dtype == np.uint8:
      return frames
  except (FileNotFoundError, ValueError):
    pass
  path.parent.mkdir(parents=True, exist_ok=True)
  with publish(path) as file:
    np.lib.format.write_array_header_1_0(file, {'descr': '|u1', 'fortran_order': False, 'shape': shape})
    for picture in pictures(examples, shape[1:]):
      file.write(picture)
  return mapped(str(path), os.stat(path).st_mtime_ns)


def pictures(examples: Examples, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
  """uint8 [H, W, 3] of each frame."""
  for row in range(len(examples)):
    stored = examples.stored(row)
    for number, jpeg in enumerate(examples.frames(row, stored, np.arange(len(stored.frame_times_ms)))):
      picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
      if picture is None or picture.shape != shape:
        raise examples.bad(row, f' (video {stored.video_id!r}): frame {number} is a damaged JPEG; {examples.advice}')
      yield picture
