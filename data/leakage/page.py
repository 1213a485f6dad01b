"""The page of data.leakage: the closest pairs of records, as pictures."""

import numpy as np

from data.leakage.hashes import BITS, frame_distances
from data.leakage.match import HEIGHT, SAME, Hashed, Pair, Video
from tvts_jax.pages import kit
from tvts_jax.shards.records import Record

SHOWN, STRIP = 40, 4  # Pairs on the page, and frames of each.

STYLE = """
.pair .head { display: flex; flex-wrap: wrap; gap: 4px 12px; align-items: baseline; }
.found { --c: var(--warn); }
.frames { display: flex; gap: 8px; overflow-x: auto; margin: 10px 0 0; }
.frames figure { margin: 0; text-align: center; font-size: 11px; color: var(--soft); }
.frames img { display: block; height: 96px; border-radius: 4px; background: var(--line); margin-bottom: 4px; }
.line { display: flex; gap: 12px; align-items: center; margin: 26px 0; color: var(--warn); font-size: 13px; }
.line::before, .line::after { content: ''; flex: 1; border-top: 2px dashed var(--warn); }
"""


def page_of(args, down: Hashed, pre: Hashed, listed: list[Pair], alike: list[tuple[float, int, int]]) -> str:
  found = [pair for pair in listed if pair.found]
  others = [pair for pair in listed if not pair.found]
  counts = [(len(found), f'of {len(down.names):,} downstream records are in both')]
  counts += [(sum(p.same == same for p in found), said) for same, said in SAME.items()]
  tiles = ''.join(f'<div class="card"><div class="big">{n:,}</div>{said}</div>' for n, said in counts)
  bare = sum(not np.ptp(hashed.start[r : r + 2]) for hashed in (down, pre) for r in range(len(hashed.names)))
  facts = [f'{len(h.names):,} records, {len(h.frame_N):,} frames of {kit.text(h.source.name)}' for h in (pre, down)]
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
    parts.append(f'<h2>Nearest by features <span class="soft">of {kit.text(args.weights)}; not counted</span></h2>')
    parts += [strip(f'cosine {cosine:.3f}', down, d, pre, p, 'pair') for cosine, d, p in alike[:SHOWN]]
  if unread := down.unread + pre.unread:
    parts.append(f'<h2>Could not be read <span class="soft">{len(unread):,}</span></h2>')
    parts += [f'<p class="soft">{kit.text(line, 400)}</p>' for line in unread[:SHOWN]] + [more(unread)]
  return kit.document('Leakage', STYLE, '\n'.join(parts))


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
  name = lambda hashed, r: f'<bdi>{kit.text(hashed.names[r][0], 120)}</bdi> #{hashed.names[r][1]}'
  return (
    f'<section class="card {look}"><div class="head"><h3>{name(down, d)}</h3><span class="badge">{badge}</span>'
    f'<span class="soft">{name(pre, p)}</span></div><div class="frames">{"".join(figures)}</div></section>'
  )


def picture(record: Record | Video, i: int) -> str:
  return kit.picture(record.frames[i], record.height * record.width, 2 * HEIGHT) or ''
