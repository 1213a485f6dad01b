"""The videos of a benchmark on somebody's disk: which file is which clip's, and whether it can be opened."""

import os
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

from data.benchmarks.clips import Benchmark, Clip, stem
from tvts_jax.media import container, paths, pictures, video
from tvts_jax.media.errors import MediaError

PAGE = re.compile(rb'(\xef\xbb\xbf)?\s*<(!doctype html|html|head|body|\?xml)', re.IGNORECASE)


@dataclass(frozen=True)
class Look:
  """A file to look at. decode: at all of its pictures instead of its header."""

  path: str
  is_image: bool
  decode: bool


class Found(NamedTuple):
  paths: dict[str, str]  # Name of a clip → file.
  several: dict[str, list[str]]  # Name of a clip → the file that was taken, and those that would have done as well.


def locate(clips: list[Clip], benchmark: Benchmark, media: str) -> Found:
  """The files below a folder, each for one clip at most but where several clips name the same.

  A file that lies where the lists say is taken first. Otherwise it is one of the same name, whatever its ending, in
  whichever folder, unless that is the folder of another class; a blank in a folder's name is as good as an underscore.
  """
  files = defaultdict(list)
  for path in paths.videos_under(media, benchmark.endings):
    files[stem(path)].append(path)
  folders = {folder_of(clip.video) for clip in clips} - {''}
  chosen, several = {}, {}
  for clip in clips:
    if path := listed(os.path.join(media, clip.video), files):
      chosen[clip.id] = path
  taken = set(chosen.values())
  for clip in clips:
    if clip.id in chosen:
      continue
    own = folder_of(clip.video)
    fits = [
      p for p in files[stem(clip.video)] if p not in taken and (folder_of(p) == own or folder_of(p) not in folders)
    ]
    if fits:
      fits.sort(key=lambda p: (folder_of(p) != own, p))
      chosen[clip.id] = fits[0]
      taken.add(fits[0])
    if len(fits) > 1:
      several[clip.id] = fits
  return Found(chosen, several)


def listed(path, files):
  """The file, or tar member, just where a list has it, whatever its ending."""
  if paths.split_ref(path)[1] is not None:
    return path if paths.exists(path) else None
  folder = os.path.dirname(path)
  here = [p for p in files.get(stem(path), ()) if os.path.dirname(p) == folder]
  return path if path in here else next(iter(here), None)


def folder_of(path):
  return os.path.basename(os.path.dirname(path)).replace('_', ' ').casefold()


def look(job: Look) -> None:
  """MediaError if the file is no video or image, or damaged."""
  with paths.open_media(job.path) as file:
    head = file.read(512)
    if PAGE.match(head):
      raise MediaError('not_an_image' if job.is_image else 'not_a_video', 'a web page, an error page most likely')
    if job.is_image and job.decode:
      pictures.read_image(file, short_side=pictures.MIN_SIDE)
    elif job.is_image:
      pictures.image_file(file)
    else:
      if job.decode:
        video.probe(file)
      with container.opened(file) as media:
        for _ in container.decode(media) if job.decode else ():
          pass
