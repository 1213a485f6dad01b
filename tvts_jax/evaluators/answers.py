"""Where in the features the clips are that the annotations list."""

import hashlib
from typing import NamedTuple

import numpy as np

from tvts_jax.errors import UserError
from tvts_jax.evaluators.features import STORE, Clips
from tvts_jax.shards.index import video_hash


def first(rows: list[dict], count: int | None) -> list[dict]:
  """As many rows, in their order, chosen by a hash of their ids; all if there is no count.

  Shards hold their records in the order of this hash, so those of the chosen rows lie side by side.
  """
  chosen = {row['id'] for row in sorted(rows, key=lambda row: hashlib.sha256(row['id'].encode()).digest())[:count]}
  return [row for row in rows if row['id'] in chosen]


def where(ids: list[str], clips: Clips, valid_N: np.ndarray) -> np.ndarray:
  """int64 [R]: which of the clips each id is, -1 where it is missing or damaged."""
  place = {video: n for n, video in enumerate(clips.videos.tolist()) if valid_N[n]}
  found_R = np.array([place.get(video_hash(id_), -1) for id_ in ids], np.int64)
  if (found_R < 0).all():
    raise UserError(f'not one of {len(ids)} clips that are asked for, such as {ids[0]!r}, is in {clips}')
  return found_R


class Seen(NamedTuple):
  """Rows of a split whose clips could be seen, with their features, and the rows of the others."""

  rows: list[dict]
  features: dict[str, np.ndarray]  # [R, V, ...], such as 'cls' and 'embed'.
  missing: list[dict]


def look(clips: Clips, rows: list[dict], params) -> Seen:
  return pick(STORE.features(clips, params), clips, rows)


def pick(found: dict[str, np.ndarray], clips: Clips, rows: list[dict]) -> Seen:
  """`found` as Clips.see has it."""
  place_R = where([row['id'] for row in rows], clips, found['valid'].all(axis=1))
  seen_R = place_R[place_R >= 0]
  return Seen(
    [row for row, place in zip(rows, place_R) if place >= 0],
    {name: value[seen_R] for name, value in found.items() if name != 'valid'},
    [row for row, place in zip(rows, place_R) if place < 0],
  )
