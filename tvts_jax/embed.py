"""Features of anyone's videos, images and texts, from trained weights:

  python -m tvts_jax.embed WEIGHTS VIDEO_OR_FOLDER ... --out features.npz
  python -m tvts_jax.embed WEIGHTS --texts queries.txt --out queries.npz

WEIGHTS is a folder of python -m tvts_jax.convert or the work directory of a run. A file of features holds `ids`, the
paths as given or the lines of the text file, and a row for each in

  cls     float32 [N, D]  what the video encoder says of the whole clip; texts have none
  embed   float32 [N, C]  the space that videos and texts share, of length one: a dot product says how alike two are

--out x.parquet writes the same as a table, a list in each cell. Frames are those that data.build keeps of a video with
a caption, before they are compressed: on screen in the middles of equal parts, by real time. Those with a short side
below 256/224 of the model's are enlarged to that, as the preprocessor of an export does. In Python the same is

  model = tvts_jax.load('WEIGHTS')
  clip, text = model.embed_video('clip.mp4'), model.embed_text('a cat jumps')
  print(clip['embed'] @ text)

Exit codes: 0 all is written, 1 nothing is, 2 the command line is wrong, 3 some videos could not be read: each is named,
and all others are written.
"""

import itertools
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import jax
import numpy as np

from tvts_jax import command, convert, sharding
from tvts_jax.convert import workdir
from tvts_jax.errors import UserError
from tvts_jax.evaluators.ranks import unit
from tvts_jax.files import publish
from tvts_jax.human import Progress
from tvts_jax.input.settings import RESIZE
from tvts_jax.input.tokens import Tokenizer
from tvts_jax.media import paths, uniform
from tvts_jax.media.errors import MediaError
from tvts_jax.models import tvts
from tvts_jax.models.encoders.encoder import patchify
from tvts_jax.shards.records import Record
from tvts_jax.shards.sampling import SamplingConfig, choose_frames

BATCH = 8  # Clips or texts that pass the model at a time.
UNREAD = 3  # The exit code where some could not be read.
SUFFIXES = ('.npz', '.parquet')


class Embedder:
  """A model with its weights. embed_video and embed_text take one; videos and texts take many and are faster."""

  def __init__(self, folder: str | os.PathLike):
    sharding.find_devices()
    if workdir.is_workdir(folder):
      self.config, params, found = workdir.load_workdir(folder)
      tokenizer = found['tokenizer']
    else:
      self.config, params, _ = convert.load_folder(folder)
      tokenizer = folder
    self._folder, self._tokenizer, self._words = folder, tokenizer, None
    model, self._params = tvts.build(self.config), jax.device_put(params)
    self._video, self._text = jax.jit(model.embed_video), jax.jit(model.embed_text)
    self._frames = SamplingConfig(frames=self.config.video.frames, pick='center')
    self._short_side = round(self.config.video.image_size * RESIZE)

  def embed_video(self, path: str | os.PathLike) -> dict[str, np.ndarray]:
    """{'cls': [D], 'embed': [C]} of a video or an image; a UserError that names the file if it cannot be read."""
    try:
      return next(self.videos([self.read(path)]))
    except MediaError as e:
      named = os.fspath(path) in e.detail
      raise MediaError(e.code, e.detail if named else f'{os.fspath(path)}: {e.detail}') from e

  def embed_text(self, text: str) -> np.ndarray:
    """[C]"""
    return next(self.texts([text]))

  def read(self, path: str | os.PathLike) -> np.ndarray:
    """The frames that the model looks at, uint8 [frames, Y, X, 3]; MediaError if the file cannot be read."""
    path, count = os.fspath(path), self._frames.frames
    with paths.open_media(path) as file:
      duration_ms, frames = uniform.read(file, count, short_side=self._short_side, keep=as_rgb)
    times_ms, pictures = zip(*frames)
    shown = choose_frames(times_ms, 0, duration_ms, self._frames, rng=None)
    return self._crop([pictures[n] for n in shown], self._short_side)

  def frames(self, record: Record, name: str) -> np.ndarray:
    """Those of a record, as a run looks at them; MediaError, with a name for people, if one is damaged."""
    shown = choose_frames(record.frame_times_ms, record.start_ms, record.end_ms, self._frames, rng=None)
    pictures = {n: cv2.imdecode(np.frombuffer(record.frames[n], np.uint8), cv2.IMREAD_COLOR_RGB) for n in set(shown)}
    if damaged := sorted(n for n, picture in pictures.items() if picture is None):
      raise MediaError('corrupt_image', f'frame {damaged[0]} of {name} cannot be decoded')
    return self._crop([pictures[n] for n in shown], self.config.video.image_size)

  def _crop(self, pictures: list[np.ndarray], least: int) -> np.ndarray:
    """The middles of some pictures of one size, as large as the model looks at.

    Args:
      least: pictures whose short side is below that are enlarged, as preprocessor_config.json of an export says.
    """
    side, (high, wide, _) = self.config.video.image_size, pictures[0].shape
    if (short := min(high, wide)) < least:
      high, wide = (self._short_side * pixels // short for pixels in (high, wide))
      pictures = [cv2.resize(picture, (wide, high), interpolation=cv2.INTER_LINEAR) for picture in pictures]
    top, left = (high - side) // 2, (wide - side) // 2
    return np.stack([picture[top : top + side, left : left + side] for picture in pictures])

  def videos(self, clips_FxYxXx3: Iterable[np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """Of the frames of each clip, as `read` gives them."""
    for clips, count in batches(clips_FxYxXx3):
      patches_BxNxP = np.asarray(patchify(clips, self.config.video))
      positions_BxN = np.broadcast_to(np.arange(patches_BxNxP.shape[1], dtype=np.int32), patches_BxNxP.shape[:2])
      found = self._video(self._params, {'patches': patches_BxNxP, 'positions': positions_BxN})
      cls_BxD = np.asarray(found['video_tokens'][:, 0], np.float32)
      embed_BxC = unit(found['video_embed']).astype(np.float32)
      yield from ({'cls': cls_BxD[n], 'embed': embed_BxC[n]} for n in range(count))

  def texts(self, texts: Iterable[str]) -> Iterator[np.ndarray]:
    if self._words is None:
      if self._tokenizer is None:
        raise UserError(f'{self._folder} has no tokenizer, so it can embed no texts; export it with one')
      self._words = Tokenizer(os.fspath(self._tokenizer), self.config.text.max_position_embeddings)
    for lines, count in batches(texts):
      tokens_BxL, mask_BxL = self._words(list(lines))
      embed_BxC = self._text(self._params, tokens_BxL[:, None], mask_BxL[:, None])
      yield from unit(embed_BxC).astype(np.float32)[:count]


def as_rgb(image_bgr: np.ndarray, time_ms: int) -> tuple[int, np.ndarray]:
  return time_ms, image_bgr[..., ::-1]


def batches(values: Iterable) -> Iterator[tuple[np.ndarray, int]]:
  """([BATCH, ...], how many of them count): the last one is filled up, so that nothing is compiled twice."""
  values = iter(values)
  while batch := list(itertools.islice(values, BATCH)):
    yield np.stack(batch + batch[-1:] * (BATCH - len(batch))), len(batch)


def main(argv=None) -> int:
  args = arguments(argv)
  return command.ending(lambda: UNREAD if embed(args) else 0)


def embed(args) -> list[str]:
  """Writes the features → what could not be read."""
  if args.out.exists():
    raise UserError(f'{args.out} is there already; remove it or give another --out')
  ids, unread = (lines_of(args.texts), []) if args.texts else (find(args.videos), [])
  model = Embedder(args.weights)
  if args.texts:
    rows = [{'embed': embed_C} for embed_C in model.texts(ids)]
  else:
    rows = list(model.videos(read_all(model, ids, unread)))
    lost = set(unread)
    ids = [path for path in ids if path not in lost]
  if not rows:
    raise UserError('nothing could be read, so nothing is written')
  columns = {'ids': np.array(ids), **{name: np.stack([row[name] for row in rows]) for name in rows[0]}}
  write(args.out, columns)
  print(f'{len(ids)} in {args.out}{f", {len(unread)} could not be read" if unread else ""}')
  return unread


def read_all(model: Embedder, paths: list[str], unread: list[str]) -> Iterator[np.ndarray]:
  """Frames of all videos that can be read; the others are told and appended to `unread`."""
  for path in Progress.over(paths, 'videos'):
    try:
      yield model.read(path)
    except MediaError as e:
      unread.append(path)
      print(f'{path} is left out: {e.code}, {e.detail}', file=sys.stderr)


def lines_of(path: Path) -> list[str]:
  try:
    lines = path.read_text(encoding='utf-8-sig').splitlines()
  except UnicodeDecodeError as e:
    raise UserError(f'{path} is not UTF-8 ({e.reason} at byte {e.start}); convert it, e.g. with iconv') from e
  found = [line.strip() for line in lines if line.strip()]
  if not found:
    raise UserError(f'{path} holds no text; give a file with one text a line')
  return found


def find(places: list[str]) -> list[str]:
  """Files as they are, and all videos and images below folders."""
  found = []
  for place in places:
    below = list(paths.videos_under(place, (*paths.VIDEOS, *paths.IMAGES))) if os.path.isdir(place) else [place]
    if not below:
      raise UserError(f'there is no video in {place}; its name should end like {", ".join(paths.VIDEOS[:4])}')
    found += below
  return list(dict.fromkeys(found))


def write(path: Path, columns: dict[str, np.ndarray]) -> None:
  path.parent.mkdir(parents=True, exist_ok=True)
  with publish(path) as file:
    if path.suffix == '.npz':
      np.savez(file, **columns)
    else:
      import pyarrow as pa
      from pyarrow import parquet

      parquet.write_table(pa.table({name: list(rows) for name, rows in columns.items()}), file)


def arguments(argv):
  parser = command.parser('tvts_jax.embed', __doc__)
  add = parser.add_argument
  add('weights', metavar='WEIGHTS', help='a folder of weights or a work directory')
  add('videos', nargs='*', metavar='VIDEO_OR_FOLDER')
  add('--texts', type=command.place, metavar='FILE', help='one text a line, in the place of videos')
  add('--out', type=command.place, required=True, metavar='FILE', help='features.npz or features.parquet')
  args = parser.parse_args(argv)
  if bool(args.videos) == bool(args.texts):
    parser.error('give videos or --texts FILE, and not both')
  if args.out.suffix not in SUFFIXES:
    parser.error(f'--out {args.out} should end with {" or ".join(SUFFIXES)}')
  return args


if __name__ == '__main__':
  sys.exit(main())
