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
import sys
from collections.abc import Iterator
from dataclasses import asdict

import cv2
import numpy as np

from data.leakage.hashes import BITS, FRAMES
from data.leakage.match import Hashed, Pair, Shards, opened, pairs, read
from data.leakage.page import page_of
from tvts_jax import command
from tvts_jax.errors import UserError
from tvts_jax.files import write_whole
from tvts_jax.human import Progress
from tvts_jax.media.uniform import spread

THRESHOLD = 20  # Bits.
FOUND = 3  # The exit code where a video is in both.
STILLS = 4  # Frames of a record that features are taken of.


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
    for n in Progress.over(hashed.row_R, f'records of {hashed.source.name} embedded'):
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
  return command.ending(lambda: look(args))


def arguments(argv) -> argparse.Namespace:
  parser = command.parser('data.leakage', __doc__)
  add = parser.add_argument
  add('pretrain', metavar='PRETRAIN', type=command.local_place, help='folder of shards')
  add('downstream', metavar='DOWNSTREAM', type=command.local_place, help='folder of shards, or of videos')
  add('--out', type=command.place, default='leakage.html', metavar='PAGE', help='the page (%(default)s)')
  add('--json', type=command.place, metavar='FILE', help='a list of all pairs')
  add('--threshold', type=int, default=THRESHOLD, metavar='BITS', help='at most so far apart is the same (%(default)s)')
  add('--weights', type=command.local_place, metavar='FOLDER', help='to look for near features as well')
  args = parser.parse_args(argv)
  if not 0 <= args.threshold < BITS:
    parser.error(f'--threshold must be 0 to {BITS - 1}')
  return args


if __name__ == '__main__':
  sys.exit(main())
