"""Is a video of a downstream set in a pre-training set, too? A page with the closest pairs as pictures.

  python -m data.leakage PRETRAIN DOWNSTREAM --out leakage.html

PRETRAIN is a folder of data.build; DOWNSTREAM is one, too, or a folder of videos. Records of one name or of one source
file (by its sha256) are found at once; names that are plain numbers are equal by accident and don't count. All others
are compared by their pictures: of a downstream record 16 frames, of one for pre-training all that it has.

A frame is told by 143 bits: the signs of the lowest frequencies of its grey picture, which another size, codec or
quality hardly changes. Mirror images and middle squares, as others crop them, are looked for as well. The distance of
two records is the number of bits in which they differ, in that quarter of the downstream frames that fits best: so a
trimmed video is found, and one of which a quarter is in the other. Frames that show nothing, such as black ones, are
not compared.

Why 20 bits: smaller, blurred, dimmed, squeezed, mirrored, squared and trimmed copies of 30 clips were at most 16 bits
away (22 where only 32 pixels were left), and most less than 10. Of 912 clips of the narrated world, whose few shapes on
dark ground look much alike, none came nearer than 24 to any of up to 3072 others, and of 150 camera moves none nearer
than 39 to 300 others. What is missed: crops elsewhere (cut by a tenth, copies are 20 to 30 away), and records for
pre-training with so few frames that none was taken near a downstream one (of clips that move, 4 frames give 10 to 45
bits).

Every pair of frames is compared, by their 63 coarse bits first, of which at most 10 may differ: 10 to 14 s for 1e9
pairs on a core, so half an hour at most for 1e6 by 1e5 frames. Reading takes 0.4 ms a frame of 256x456. Of each frame
for pre-training 52 bytes are in memory.

--weights adds the records that are nearest by features of frames: other pictures of one scene, too. What cosine means
that two videos are one differs between models, so these are shown and never counted.

Exit codes: 0 no video is in both, 1 an error that one sentence names, 2 wrong arguments, 3 some are. Where none was
found but some could not be read, the code is 1 as well: nobody knows about them.
"""

import argparse
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from data import items, windows
from data.items import Item
from data.outcomes import ItemError
from tvts_jax import page
from tvts_jax.errors import UserError, ending
from tvts_jax.files import write_whole
from tvts_jax.input import index, records
from tvts_jax.input.errors import InputError
from tvts_jax.input.records import Record
from tvts_jax.progress import told

THRESHOLD = 20  # bits
SCREEN = 10  # Of the coarse bits so many may differ in what is compared by all.
FOUND = 3  # The exit code where a video is in both.
FRAMES = 16  # of a downstream record
FITTING = FRAMES // 4  # of them, by which records are told to be the same
SIDE = 32  # of the picture that is hashed
# The frequencies that are kept of it, each way: the coarse ones fill the first word of a hash, all are in its WORDS.
COARSE, LOW, WORDS = 8, 12, 3
BITS = LOW * LOW - 1  # Without the mean, which is brightness.
EMPTY_LEVELS = 4.0  # A frame whose grey levels deviate less shows nothing.
# Sizes are divided while decoding, which is far cheaper than after it.
REDUCED = {8: cv2.IMREAD_REDUCED_GRAYSCALE_8, 4: cv2.IMREAD_REDUCED_GRAYSCALE_4, 2: cv2.IMREAD_REDUCED_GRAYSCALE_2}
SQUARE = 1.15  # Frames of less extreme sides are cropped to MIDDLE of them, others to their middle square.
MIDDLE = 7 / 8
CHUNK = 4096  # Frames for pre-training that are compared at a time, so that what is counted stays in the cache.
READ = 64  # Records that are read at a time.
STILLS = 4  # Frames of a record that features are taken of.
SHOWN, STRIP, HEIGHT = 40, 4, 96  # Pairs on the page, frames of each, and how high they are, in pixels.

# How two records were found to be the same -> what the page says of them.
SAME = {
  'source': 'are made of the same file',
  'id': 'have the same id',
  'pictures': 'show the same pictures',
}

_STYLE = """
.pair .head { display: flex; flex-wrap: wrap; gap: 4px 12px; align-items: baseline; }
.badge { border-radius: 999px; padding: 1px 11px; font-size: 13px; font-weight: 600; border: 1.5px solid var(--soft);
  color: var(--soft); }
.found .badge { border-color: var(--warn); color: var(--warn); }
.frames { display: flex; gap: 8px; overflow-x: auto; margin: 10px 0 0; }
.frames figure { margin: 0; text-align: center; font-size: 11px; color: var(--soft); }
.frames img { display: block; height: 96px; border-radius: 4px; background: var(--line); margin-bottom: 4px; }
.line { display: flex; gap: 12px; align-items: center; margin: 26px 0; color: var(--warn); font-size: 13px; }
.line::before, .line::after { content: ''; flex: 1; border-top: 2px dashed var(--warn); }
"""


class Shards:
  """All records of all splits of a folder of shards."""

  def __init__(self, folder):
    self.name, self._parts = str(folder), []
    for split in index.splits(folder):
      manifest = index.load(folder, split)
      self._parts.append((manifest, index.load_index(manifest)))
    self._starts = np.cumsum([0] + [len(ids) for _, ids in self._parts])

  def __len__(self) -> int:
    return int(self._starts[-1])

  def place(self, n: int) -> str:
    manifest, ids, row = self._at(n)
    return f'{manifest.folder / manifest.shards[ids.shard[row]].name}: record {ids.number(row)}'

  def read(self, n: int) -> Record:
    manifest, ids, row = self._at(n)
    return records.decode(index.read_record(manifest, ids, row))

  def _at(self, n: int):
    part = int(np.searchsorted(self._starts, n, 'right')) - 1
    return *self._parts[part], n - int(self._starts[part])


class Videos:
  """All videos and images below a folder, each as a record of FRAMES frames that are spread over it."""

  _kept = windows.WindowConfig(short_side=2 * HEIGHT, caption_frames=FRAMES)

  def __init__(self, folder):
    self.name = str(folder)
    self._paths = list(items.videos_under(self.name, (*items.VIDEOS, *items.IMAGES)))
    if not self._paths:
      raise UserError(f'{folder} is no folder of shards, and holds no video whose name ends like mp4 or webm')

  def __len__(self) -> int:
    return len(self._paths)

  def place(self, n: int) -> str:
    return self._paths[n]

  def read(self, n: int) -> Record:
    # A caption tells the builder to spread the frames over the whole video; its words are not looked at. The name of a
    # video, as data.build gives it, is its file's without the ending.
    path = self._paths[n]
    item = Item(Path(path).stem, path, transcript=None, fmt=None, lang='', split='', caption='-')
    return windows.records(item, self._kept)[0][0]


class Hashed(NamedTuple):
  """What is kept of the R records of a folder, and of the N frames in them that show something."""

  source: Shards | Videos
  row_R: list[int]  # in the source, of the records that could be read
  names: list[tuple[str, int]]  # (video id, window)
  sha256: list[str]
  start: np.ndarray  # int64 [R + 1]: row r has frames start[r] to start[r + 1]
  frame_N: np.ndarray  # int32, number of the frame in its record
  hash_VxWxN: np.ndarray  # uint64, the words of each of the views
  unread: list[str]

  def frames(self, r: int) -> slice:
    return slice(int(self.start[r]), int(self.start[r + 1]))


@dataclass
class Pair:
  """A downstream record and the one for pre-training that is most likely the same."""

  video: str
  window: int
  pretrain_video: str
  pretrain_window: int
  same: str  # key of SAME
  distance: int | None  # bits of the quarter of frames that fits best; None: there is no picture to compare
  found: bool
  rows: tuple[int, int]  # of the two, in their Hashed


def grey(jpeg: bytes) -> np.ndarray | None:
  """[Y, X], large enough to be hashed; None if it can not be decoded."""
  short = min(records.jpeg_size(jpeg))
  flags = next((flags for by, flags in REDUCED.items() if short >= by * 2 * SIDE), cv2.IMREAD_GRAYSCALE)
  return cv2.imdecode(np.frombuffer(jpeg, np.uint8), flags)


def middle(image: np.ndarray) -> np.ndarray:
  """What is left of [Y, X, ...] where others crop it."""
  high, wide = image.shape[:2]
  side = min(high, wide)
  if max(high, wide) < SQUARE * side:
    high_, wide_ = round(MIDDLE * high), round(MIDDLE * wide)
  else:
    high_ = wide_ = side
  top, left = (high - high_) // 2, (wide - wide_) // 2
  return image[top : top + high_, left : left + wide_]


def views(image: np.ndarray, mirrored: bool) -> list[np.ndarray]:
  """The whole, its middle, and the mirror images of both."""
  both = [image, middle(image)]
  return both + [view[:, ::-1] for view in both] if mirrored else both


# The pairs of views, downstream and for pre-training, that are compared: all but the middles of both.
COMPARED = ((0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (2, 1))


def _bit_places() -> list[np.ndarray]:
  """For each word of a hash the flat places in [LOW, LOW] of the frequencies that it tells of."""
  y, x = np.divmod(np.arange(1, LOW * LOW), LOW)
  coarse = np.maximum(y, x) < COARSE
  fine = np.flatnonzero(~coarse) + 1
  return [np.flatnonzero(coarse) + 1, *np.array_split(fine, WORDS - 1)]


PLACES = _bit_places()


def hashes(pictures_NxYxX: np.ndarray) -> np.ndarray:
  """uint64 [WORDS, N] of pictures [N, SIDE, SIDE]: the signs of their lowest waves, by a discrete cosine transform."""
  waves_LxS = np.cos(np.pi / SIDE * np.outer(np.arange(LOW), np.arange(SIDE) + 0.5)).astype(np.float32)
  low_NxLxL = waves_LxS @ pictures_NxYxX.astype(np.float32) @ waves_LxS.T
  sign_NxC = low_NxLxL.reshape(len(low_NxLxL), -1) > 0
  word = lambda places: (sign_NxC[:, places] * (np.uint64(1) << np.arange(len(places), dtype=np.uint64))[None]).sum(1)
  return np.stack([word(places) for places in PLACES]).astype(np.uint64)


def hash_frames(frames: list[bytes], numbers: Iterable[int], mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
  """(number [n], hash [V, WORDS, n]) of those frames that show something; InputError if one does not decode."""
  kept, pictures = [], []
  for i in numbers:
    image = grey(frames[i])
    if image is None:
      raise InputError(f'frame {i} can not be decoded')
    small = [cv2.resize(view, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for view in views(image, mirrored)]
    if small[0].std() >= EMPTY_LEVELS:
      kept.append(i)
      pictures += small
  hash_WxM = hashes(np.stack(pictures)) if kept else np.zeros((WORDS, 0), np.uint64)
  hash_VxWxN = hash_WxM.reshape(WORDS, len(kept), 4 if mirrored else 2).transpose(2, 0, 1)
  return np.array(kept, np.int32), hash_VxWxN


def spread(count: int, wanted: int) -> list[int]:
  """`wanted` of `count` numbers, evenly apart; repeated where there are fewer."""
  return [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]


def read(source: Shards | Videos, downstream: bool) -> Hashed:
  """Every record of a folder; of a downstream one FRAMES frames."""
  rows, names, sha256, unread = [], [], [], []
  counts, numbers, found = [0], [np.zeros(0, np.int32)], [np.zeros((4 if downstream else 2, WORDS, 0), np.uint64)]

  def one(n):
    try:
      record = source.read(n)
      wanted = sorted({*spread(len(record.frames), FRAMES)}) if downstream else range(len(record.frames))
      name = record.video_id, record.window_index
      return name, record.source_sha256, *hash_frames(record.frames, wanted, downstream)
    except (InputError, ItemError) as e:
      return f'{source.place(n)}: {e}'

  with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
    for first in told(range(0, len(source), READ), f'times {READ} records of {source.name} read'):
      for n, what in enumerate(pool.map(one, range(first, min(first + READ, len(source)))), first):
        if isinstance(what, str):
          unread.append(what)
          print(f'left out: {what}', file=sys.stderr)
          continue
        name, sha, frame_N, hash_VxWxN = what
        rows.append(n), names.append(name), sha256.append(sha), counts.append(len(frame_N))
        numbers.append(frame_N), found.append(hash_VxWxN)
  start = np.cumsum(counts)
  return Hashed(source, rows, names, sha256, start, np.concatenate(numbers), np.concatenate(found, axis=2), unread)


def frame_distances(down_VxWxF: np.ndarray, pre_VxWxN: np.ndarray) -> np.ndarray:
  """uint8 [F, N]: the bits in which frames differ, in those views that are most alike."""
  shape = down_VxWxF.shape[2], pre_VxWxN.shape[2]
  best_FxN, sum_FxN, count_FxN = np.full(shape, 255, np.uint8), np.empty(shape, np.uint8), np.empty(shape, np.uint8)
  differ_FxN = np.empty(shape, np.uint64)
  for theirs, ours in COMPARED:
    sum_FxN[:] = 0
    for theirs_F, ours_N in zip(down_VxWxF[theirs], pre_VxWxN[ours]):
      np.bitwise_xor(theirs_F[:, None], ours_N[None], out=differ_FxN)
      sum_FxN += np.bitwise_count(differ_FxN, out=count_FxN)
    np.minimum(best_FxN, sum_FxN, out=best_FxN)
  return best_FxN


def fitting(hash_VxWxN: np.ndarray) -> np.ndarray:
  """[V, W, FRAMES] of how ever many frames there are."""
  return hash_VxWxN[..., spread(hash_VxWxN.shape[2], FRAMES)]


def distance(down: Hashed, d: int, pre: Hashed, p: int) -> int | None:
  """Of two records; None if one has no frame that shows something."""
  theirs_VxWxN, ours_VxWxN = down.hash_VxWxN[..., down.frames(d)], pre.hash_VxWxN[..., pre.frames(p)]
  if not theirs_VxWxN.size or not ours_VxWxN.size:
    return None
  return int(np.sort(frame_distances(fitting(theirs_VxWxN), ours_VxWxN).min(axis=1))[FITTING - 1])


def nearest(down: Hashed, pre: Hashed) -> list[tuple[int, int] | None]:
  """(distance, row) of the record for pre-training next to each downstream one; None where coarse bits rule out all."""
  best: list[tuple[int, int] | None] = [None] * len(down.names)
  asked = [d for d in range(len(best)) if down.start[d] < down.start[d + 1]]
  coarse = {d: fitting(down.hash_VxWxN[:, :1, down.frames(d)]) for d in asked}
  full_P = np.flatnonzero(np.diff(pre.start))
  # Records stay whole: a chunk has about CHUNK frames, or those of one record.
  edges = np.searchsorted(pre.start[full_P], np.arange(0, pre.start[-1], CHUNK))
  chunks = [full_P[a:b] for a, b in itertools.pairwise(np.unique([*edges, len(full_P)]))]
  for rows in told(chunks, f'times {CHUNK} frames compared'):
    first = pre.start[rows[0]]
    ours_Vx1xN = pre.hash_VxWxN[:, :1, first : pre.start[rows[-1] + 1]]
    for d, theirs_Vx1xF in coarse.items():
      least_FxP = np.minimum.reduceat(frame_distances(theirs_Vx1xF, ours_Vx1xN), pre.start[rows] - first, axis=1)
      for p in rows[(least_FxP <= SCREEN).sum(axis=0) >= FITTING].tolist():
        now = distance(down, d, pre, p), p
        best[d] = min(best[d] or now, now)
  return best


def pairs(down: Hashed, pre: Hashed, threshold: int) -> list[Pair]:
  """One for each downstream record that is anywhere near one for pre-training; the closest first."""
  by_sha = {sha: p for p, sha in reversed([*enumerate(pre.sha256)])}
  by_id = {video: p for p, (video, _) in reversed([*enumerate(pre.names)])}
  by_window = {name: p for p, name in enumerate(pre.names)}
  found = []
  for d, (name, sha, next_) in enumerate(zip(down.names, down.sha256, nearest(down, pre))):
    p = by_window.get(name, by_id.get(name[0]))
    if sha in by_sha:
      same, p = 'source', by_sha[sha]
    elif p is not None and not name[0].isdecimal():
      same = 'id'
    elif next_ is not None:
      same, p = 'pictures', next_[1]
    else:
      continue
    bits = distance(down, d, pre, p)
    found.append(Pair(*name, *pre.names[p], same, bits, same != 'pictures' or bits <= threshold, (d, p)))
  return sorted(found, key=lambda pair: (not pair.found, BITS if pair.distance is None else pair.distance))


def by_features(weights, down: Hashed, pre: Hashed) -> list[tuple[float, int, int]]:
  """(cosine, downstream row, row for pre-training) of the record with the nearest frame, the nearest pair first."""
  from tvts_jax.embed import Embedder
  from tvts_jax.evaluators.ranks import unit

  model = Embedder(weights)
  theirs_QxC = unit(np.concatenate([*features(model, down)]))
  best_R, row_R = np.full(len(down.names), -np.inf), np.zeros(len(down.names), int)
  for p, ours_SxC in enumerate(features(model, pre)):
    cosine_R = (theirs_QxC @ unit(ours_SxC).T).reshape(len(best_R), -1).max(axis=1)
    closer_R = cosine_R > best_R
    best_R[closer_R], row_R[closer_R] = cosine_R[closer_R], p
  return sorted(zip(best_R.tolist(), range(len(best_R)), row_R.tolist()), reverse=True)


def features(model, hashed: Hashed) -> Iterator[np.ndarray]:
  """[STILLS, C] of each record. A frame by itself is as many equal ones as the model takes together."""
  clips = model.config.video

  def stills():
    for n in told(hashed.row_R, f'records of {hashed.source.name} embedded'):
      record = hashed.source.read(n)
      # Of those that were hashed, so that they decode.
      for i in spread(len(record.frames), FRAMES)[STILLS // 2 :: FRAMES // STILLS]:
        image = cv2.imdecode(np.frombuffer(record.frames[i], np.uint8), cv2.IMREAD_COLOR_RGB)
        (high, wide), side = image.shape[:2], min(image.shape[:2])
        top, left = (high - side) // 2, (wide - side) // 2
        square = cv2.resize(image[top : top + side, left : left + side], (clips.image_size,) * 2)
        yield np.stack([square] * clips.tubelet)

  found = model.videos(stills())
  while rows := [row['embed'] for row in itertools.islice(found, STILLS)]:
    yield np.stack(rows)


def page_of(args, down: Hashed, pre: Hashed, listed: list[Pair], alike: list[tuple[float, int, int]]) -> str:
  found = [pair for pair in listed if pair.found]
  others = [pair for pair in listed if not pair.found]
  counts = [(len(found), f'of {len(down.names):,} downstream records are in both')]
  counts += [(sum(p.same == same for p in found), said) for same, said in SAME.items()]
  tiles = ''.join(f'<div class="card"><div class="big">{n:,}</div>{said}</div>' for n, said in counts)
  bare = sum(not np.ptp(hashed.start[r : r + 2]) for hashed in (down, pre) for r in range(len(hashed.names)))
  facts = [f'{len(h.names):,} records, {len(h.frame_N):,} frames of {page.text(h.source.name)}' for h in (pre, down)]
  facts.append(f'{bare:,} records show nothing that could be compared')
  parts = [
    '<h1>Is a downstream video in pre-training?</h1>',
    *(f'<p class="soft">{fact}</p>' for fact in facts),
    f'<h2>Found <span class="soft">at up to {args.threshold} of {BITS} bits</span></h2><div class="grid">{tiles}</div>',
    '<h2>Closest pairs <span class="soft">downstream above, pre-training below</span></h2>',
    *(card(pair, down, pre) for pair in found[:SHOWN]),
    more(found),
    f'<p class="line">threshold: {args.threshold} bits</p>',
    *(card(pair, down, pre) for pair in others[:SHOWN]),
    more(others),
  ]
  if args.weights:
    parts.append(f'<h2>Nearest by features <span class="soft">of {page.text(args.weights)}; not counted</span></h2>')
    parts += [strip(f'cosine {cosine:.3f}', down, d, pre, p, 'pair') for cosine, d, p in alike[:SHOWN]]
  if unread := down.unread + pre.unread:
    parts.append(f'<h2>Could not be read <span class="soft">{len(unread):,}</span></h2>')
    parts += [f'<p class="soft">{page.text(line, 400)}</p>' for line in unread[:SHOWN]] + [more(unread)]
  return page.document('Leakage', _STYLE, '\n'.join(parts))


def more(values: list) -> str:
  return f'<p class="soft">and {len(values) - SHOWN:,} more</p>' if len(values) > SHOWN else ''


def card(pair: Pair, down: Hashed, pre: Hashed) -> str:
  bits = 'nothing to compare' if pair.distance is None else f'{pair.distance} bits'
  badge = bits if pair.same == 'pictures' else f'same {pair.same}, {bits}'
  return strip(badge, down, pair.rows[0], pre, pair.rows[1], 'pair found' if pair.found else 'pair')


def strip(badge: str, down: Hashed, d: int, pre: Hashed, p: int, look: str) -> str:
  """The frames of two records that are most alike, in order of time."""
  theirs, ours = down.frames(d), pre.frames(p)
  figures = []
  if len(down.frame_N[theirs]) and len(pre.frame_N[ours]):
    bits_FxN = frame_distances(down.hash_VxWxN[..., theirs], pre.hash_VxWxN[..., ours])
    records_ = down.source.read(down.row_R[d]), pre.source.read(pre.row_R[p])
    for f in sorted(np.argsort(bits_FxN.min(axis=1), kind='stable')[:STRIP].tolist()):
      n = int(bits_FxN[f].argmin())
      both = zip(records_, (int(down.frame_N[theirs][f]), int(pre.frame_N[ours][n])))
      shown = ''.join(f'<img src="{picture(record, i)}" alt="frame {i}">' for record, i in both)
      figures.append(f'<figure>{shown}{bits_FxN[f, n]} bits</figure>')
  name = lambda hashed, r: f'<bdi>{page.text(hashed.names[r][0], 120)}</bdi> #{hashed.names[r][1]}'
  return (
    f'<section class="card {look}"><div class="head"><h3>{name(down, d)}</h3><span class="badge">{badge}</span>'
    f'<span class="soft">{name(pre, p)}</span></div><div class="frames">{"".join(figures)}</div></section>'
  )


def picture(record: Record, i: int) -> str:
  return page.picture(record.frames[i], record.height * record.width, 2 * HEIGHT) or ''


def opened(folder: Path) -> Shards | Videos:
  if not folder.is_dir():
    raise UserError(f'{folder} is no folder; give one of shards (python -m data.build makes them) or of videos')
  return Shards(folder) if (folder / index.MANIFEST).exists() else Videos(folder)


def look(args) -> int:
  """Writes what it finds → the exit code."""
  pre, down = Shards(args.pretrain), opened(args.downstream)
  pre, down = read(pre, downstream=False), read(down, downstream=True)
  unread = len(pre.unread) + len(down.unread)
  if not down.names or not pre.names:
    raise UserError(f'not one record of {(pre if down.names else down).source.name} could be read')
  listed = pairs(down, pre, args.threshold)
  alike = by_features(args.weights, down, pre) if args.weights else []
  for path in filter(None, (args.out, args.json)):
    path.parent.mkdir(parents=True, exist_ok=True)
  write_whole(args.out, page_of(args, down, pre, listed, alike))
  if args.json:
    write_whole(args.json, json.dumps(as_json(args, down, pre, listed, alike), indent=1))
  found = sum(pair.found for pair in listed)
  print(f'{found} of {len(down.names)} downstream records are in {args.pretrain}, too; {args.out} shows them')
  if unread and not found:
    raise UserError(f'{unread} records could not be read, so nobody knows whether they are in both')
  return FOUND if found else 0


def as_json(args, down: Hashed, pre: Hashed, listed: list[Pair], alike: list[tuple[float, int, int]]) -> dict:
  plain = [{key: value for key, value in asdict(pair).items() if key != 'rows'} for pair in listed]
  near = [{'video': down.names[d][0], 'pretrain_video': pre.names[p][0], 'cosine': c} for c, d, p in alike]
  return {
    'threshold': args.threshold,
    'records': {'pretrain': len(pre.names), 'downstream': len(down.names)},
    'unread': pre.unread + down.unread,
    'pairs': plain,
    **({'features': near} if args.weights else {}),
  }


def main(argv: list[str] | None = None) -> int:
  args = arguments(argv)
  codes = []
  return ending(lambda: codes.append(look(args))) or codes[0]


def arguments(argv) -> argparse.Namespace:
  about, _, rest = __doc__.partition('\n\n')
  parser = argparse.ArgumentParser(
    prog='python -m data.leakage',
    description=about,
    epilog=rest,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  add = parser.add_argument
  add('pretrain', metavar='PRETRAIN', type=Path, help='folder of shards')
  add('downstream', metavar='DOWNSTREAM', type=Path, help='folder of shards, or of videos')
  add('--out', type=Path, default=Path('leakage.html'), metavar='PAGE', help='the page (%(default)s)')
  add('--json', type=Path, metavar='FILE', help='a list of all pairs')
  add('--threshold', type=int, default=THRESHOLD, metavar='BITS', help='at most so far apart is the same (%(default)s)')
  add('--weights', type=Path, metavar='FOLDER', help='weights or a work directory, to look for near features, too')
  args = parser.parse_args(argv)
  if not 0 <= args.threshold < BITS:
    parser.error(f'--threshold must be 0 to {BITS - 1}')
  return args


if __name__ == '__main__':
  sys.exit(main())
