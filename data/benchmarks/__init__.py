"""Benchmarks by name. What each makes of its own files is the same for all: see `Clip`, and for annotations.jsonl
tvts_jax/shards/annotations.py. One file, and one line here.
"""

import dataclasses
import os
from collections import defaultdict

from data.benchmarks import didemo, hmdb51, k400, lsmdc, msrvtt, msvd, ssv2, svo, table, ucf101
from data.benchmarks.clips import Clip, Files
from data.sources import find, items
from data.sources.items import SourceError
from tvts_jax.media import paths

BENCHMARKS = {
  'ssv2': ssv2.BENCHMARK,
  'k400': k400.BENCHMARK,
  'ucf101': ucf101.BENCHMARK,
  'hmdb51': hmdb51.BENCHMARK,
  'msrvtt': msrvtt.BENCHMARK,
  'didemo': didemo.BENCHMARK,
  'msvd': msvd.BENCHMARK,
  'lsmdc': lsmdc.BENCHMARK,
  'svo': svo.BENCHMARK,
  'table': table.BENCHMARK,
}


def read(name: str, path: str, media: str, number: int = 1) -> list[Clip]:
  """All clips that the files at a path list, by id; SourceError, in one sentence, where they make no sense.

  media: the folder that the videos must lie in.
  number: which of the splits, where a benchmark has several.
  """
  clips = find.collect(media_inside(BENCHMARKS[name].read(Files(path), number), media))
  if not clips:
    raise SourceError('nothing_found', f'{path}, as {name}, lists not one clip')
  check_labels(clips, path)
  return sorted(clips, key=lambda clip: clip.id)


def media_inside(found, media):
  """Clips with their videos relative to the folder of the media, none of them out of it."""
  for where, clip in found:
    if not clip.video:
      raise SourceError('bad_table', f'{where}: the clip {clip.id!r} has no video')
    at, inside = paths.split_ref(items.resolve(media, clip.video, where))
    video = os.path.relpath(at, media)
    if video.split(os.sep)[0] in (os.pardir, os.curdir):
      raise SourceError('bad_table', f'{where}: {clip.video[:200]!r} is not below {media}, where the videos must be')
    yield where, dataclasses.replace(clip, video=video if inside is None else f'{video}::{inside}')


def check_labels(clips, path):
  names = defaultdict(set)
  for clip in clips:
    if clip.label is not None:
      names[clip.label].add(clip.name)
  if holes := [label for label in range(max(names, default=-1) + 1) if label not in names]:
    raise SourceError(
      'bad_table',
      f'{path}: labels go up to {max(names)}, but {len(holes)} of them, {holes[0]} the first, have no clip: labels '
      f'count from 0 without holes',
    )
  if several := [label for label, of_label in sorted(names.items()) if len(of_label) > 1]:
    raise SourceError('bad_table', f'{path}: label {several[0]} has several names: {sorted(names[several[0]])}')
