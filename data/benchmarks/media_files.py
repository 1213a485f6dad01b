"""The videos of a benchmark on somebody's disk: which file is which clip's, and whether it can be opened."""

import os
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

from data import archives
from data.benchmarks.clips import Benchmark, Clip, stem
from data.builder.windows import IMAGE_BYTES
from data.outcomes import ItemError
from data.sources import items
from tvts_jax.media import container, pictures, video

_PAGE = re.compile(rb'(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body|\?xml)', re.IGNORECASE)


@dataclass(frozen=True)
class Look:
  """A file to look at. decode: at all of its pictures instead of its header."""

  path: str
  is_image: bool
  decode: bool


class Found(NamedTuple):
  paths: dict[str, str]  # id -> file
  several: dict[str, list[str]]  # id -> the file that was taken, and those that would have done as well


def locate(clips: list[Clip], benchmark: Benchmark, media: str) -> Found:
  """The files below a folder, each for one clip at most but where several clips name the same.

  A file that lies where the lists say is taken first. Otherwise it is one of the same name, whatever its ending, in
  whichever folder, unless that is the folder of another class; a blank in a folder's name is as good as an underscore.
  """
  files = defaultdict(list)
  for path in items.videos_under(media, benchmark.endings):
    files[stem(path)].append(path)
  folders = {_folder(clip.video) for clip in clips} - {''}
  paths, several = {}, {}
  for clip in clips:
    if path := _listed(os.path.join(media, clip.video), files):
      paths[clip.id] = path
  taken = set(paths.values())
  for clip in clips:
    if clip.id in paths:
      continue
    own = _folder(clip.video)
    fits = [p for p in files[stem(clip.video)] if p not in taken and (_folder(p) == own or _folder(p) not in folders)]
    if fits:
      fits.sort(key=lambda p: (_folder(p) != own, p))
      paths[clip.id] = fits[0]
      taken.add(fits[0])
    if len(fits) > 1:
      several[clip.id] = fits
  return Found(paths, several)


def _listed(path, files):
  """The file, or tar member, just where a list has it, whatever its ending."""
  if archives.split_ref(path)[1] is not None:
    return path if archives.exists(path) else None
  folder = os.path.dirname(path)
  here = [p for p in files.get(stem(path), ()) if os.path.dirname(p) == folder]
  return path if path in here else next(iter(here), None)


def _folder(path):
  return os.path.basename(os.path.dirname(path)).replace('_', ' ').casefold()


def look(job: Look) -> None:
  """ItemError if the file is no video or image, or damaged."""
  if job.is_image:
    return _look_at_image(job)
  with archives.open_media(job.path) as file:
    if _PAGE.match(file.read(512)):
      raise ItemError('not_a_video', 'a web page, an error page most likely')
    if not job.decode:
      with container.opened(file):
        return
    video.probe(file)
    with container.opened(file) as media:
      for _ in container.decode(media):
        pass


def _look_at_image(job):
  data = archives.open_bytes(job.path, IMAGE_BYTES)
  if _PAGE.match(data):
    raise ItemError('not_an_image', 'a web page, an error page most likely')
  if pictures.image_codec(data[:16]) is None:
    raise ItemError('not_an_image', f'neither JPEG, PNG nor WebP begins with {data[:16]!r}' if data else '0 bytes')
  if job.decode:
    pictures.read_image(data, short_side=pictures.MIN_SIDE, quality=75)
