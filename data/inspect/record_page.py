"""One record as HTML: its frames on a time line, the words under them, and what a draw takes of both."""

import math

from tvts_jax.pages import kit
from tvts_jax.shards.records import Record
from tvts_jax.shards.sampling import Draw

ROW_MS, MAX_ROWS = 8000, 16  # Of the time line; windows too long for that many rows get longer ones.
WIDTH, FRAME_H = 1120, 62  # Of a row and of its frames, in SVG units.
LANES, LANE_H = 4, 18  # Words that would overlap go to the next lane.
FRAMES_Y = 18
TICKS_Y = FRAMES_Y + FRAME_H + 8
WORDS_Y = TICKS_Y + 12

STYLE = """
.row { min-width: 720px; margin-top: 16px; }
.frame { outline: none; image-rendering: auto; } .small { image-rendering: pixelated; }
.none { fill: none; stroke: var(--line); stroke-dasharray: 4 3; }
.drawn { fill: none; stroke: var(--accent); stroke-width: 2.5; }
.tick { stroke: var(--soft); } .tick.taken { stroke: var(--accent); stroke-width: 3; }
.said { stroke: var(--soft); stroke-width: 1.5; opacity: .7; }
.given { display: flex; gap: 10px; align-items: baseline; margin: 5px 0; }
.given .words { overflow-wrap: anywhere; }
.chip { flex: none; border-radius: 999px; padding: 1px 10px; font-size: 12px; font-weight: 600; color: #fff; }
.strip { display: flex; flex-wrap: wrap; gap: 6px; }
.strip figure { margin: 0; text-align: center; font-size: 11px; color: var(--soft); }
.strip img { display: block; height: 56px; border-radius: 4px; min-width: 24px; background: var(--line); }
.warn { color: var(--warn); }
table { font-size: 13px; width: 100%; } tr + tr td { border: 0; }
td { padding: 2px 8px 2px 0; text-align: left; white-space: normal; overflow-wrap: anywhere; }
"""


def card(record: Record, sample: Draw | str, note: str) -> str:
  """HTML. `sample` is a reason where nothing could be drawn."""
  pictures = Pictures(record)
  facts = [
    f'window {record.window_index}: {seconds(record.start_ms)} to {seconds(record.end_ms)} of '
    f'{seconds(record.duration_ms)}',
    f'{len(record.frames)} frames of {record.height}\u00d7{record.width}',
    f'{len(record.words)} words',
    ' '.join(kit.text(v, 40) for v in (record.lang, record.transcript_source, record.transcript_timing) if v),
    note,
    f'source {record.source_sha256[:12]}',
  ]
  facts = ' \u00b7 '.join(facts)
  parts = [f'<h3><bdi>{kit.text(record.video_id, 120)}</bdi></h3><p class="soft">{facts}</p>']
  if isinstance(sample, Draw):
    parts.append(given(sample))
    parts.append(f'<h4>{len(sample.frames)} frames drawn</h4><div class="strip">{strip(sample, pictures)}</div>')
  else:
    parts.append(f'<p class="warn">Nothing can be drawn: {kit.text(sample, 400)}</p>')
  rows = ''.join(f'<div class="row">{row}</div>' for row in timeline_rows(record, sample, pictures))
  parts.append(f'<h4>Time line</h4><div class="scroll">{rows}</div>')
  return f'<section class="card">{"".join(parts)}</section>'


def given(sample: Draw) -> str:
  lines = ''.join(
    f'<div class="given"><span class="chip" style="background: {hue(place, 45)}">{place + 1}</span>'
    f'<bdi class="words">{kit.text(words, 2000) or "<i>no word</i>"}</bdi></div>'
    for words, place in zip(sample.texts, sample.order.tolist())
  )
  return f'<h4>{len(sample.texts)} transcripts as given, with their true places</h4>{lines}'


def strip(sample: Draw, pictures: 'Pictures') -> str:
  return ''.join(
    f'<figure><img class="{pictures.look}" src="{pictures[i] or ""}" alt="frame {i}">{seconds(pictures.times[i])}'
    '</figure>'
    for i in sample.frames.tolist()
  )


def timeline_rows(record: Record, sample: Draw | str, pictures: 'Pictures'):
  """An SVG for each stretch of the window."""
  count = max(1, min(MAX_ROWS, math.ceil((record.end_ms - record.start_ms) / ROW_MS)))
  edges = [record.start_ms + i * (record.end_ms - record.start_ms) // count for i in range(count + 1)]
  taken = set(sample.frames.tolist()) if isinstance(sample, Draw) else set()
  windows = sample.windows_ms if isinstance(sample, Draw) else []
  spoken = list(zip(record.words, record.word_starts_ms, record.word_ends_ms))
  # The first row also shows what began before the window; the last one includes its end.
  for begin, end, low, high in zip(edges, edges[1:], [-math.inf, *edges[1:]], [*edges[1:-1], math.inf]):
    row = Row(begin, end)
    words, height = row.words([w for w in spoken if low <= w[1] < high])
    frames = [j for j, t in enumerate(record.frame_times_ms) if low <= t < high]
    parts = [row.bands(windows, height), row.clock(), row.frames(frames, taken, pictures), words]
    yield f'<svg viewBox="0 0 {WIDTH} {height}" width="100%" role="img">{"".join(parts)}</svg>'


class Row:
  """[begin, end] ms over WIDTH units."""

  def __init__(self, begin: int, end: int):
    self.begin, self.end = begin, end

  def x(self, ms: int) -> float:
    return min(max(ms - self.begin, 0) / (self.end - self.begin), 1) * WIDTH

  def clock(self) -> str:
    step = next(s for s in (1, 2, 5, 10, 30, 60, 300, 1800, 36000, 1e9) if s * 24000 >= self.end - self.begin)
    first = math.ceil(self.begin / 1000 / step)
    marks = [n * step for n in range(first, math.floor(self.end / 1000 / step) + 1)]
    labels = ''.join(
      f'<text class="soft" x="{self.x(s * 1000):.1f}" y="12" '
      f'text-anchor="{"end" if self.x(s * 1000) > WIDTH - 20 else "start"}">{s:g} s</text>'
      for s in marks
    )
    return labels + f'<line class="axis" x1="0" x2="{WIDTH}" y1="{TICKS_Y}" y2="{TICKS_Y}"/>'

  def bands(self, windows: list[tuple[int, int]], height: int) -> str:
    """The transcripts' windows, where this row has a part of them."""
    shown = [(k, s, e) for k, (s, e) in enumerate(windows) if s < self.end and e > self.begin]
    return ''.join(
      f'<rect x="{self.x(s):.1f}" y="{TICKS_Y}" width="{self.x(e) - self.x(s):.1f}" height="{height - TICKS_Y}" '
      f'rx="5" style="fill: {hue(k, 50)}; opacity: .22"><title>window {k + 1}: {seconds(s)} to {seconds(e)}</title>'
      f'</rect><text class="soft" x="{self.x(s) + 5:.1f}" y="{height - 5}">{k + 1}</text>'
      for k, s, e in shown
    )

  def frames(self, shown: list[int], taken: set[int], pictures: 'Pictures') -> str:
    """A tick for each frame, and pictures where there is room, those that the draw takes first."""
    parts, free = [], Free(WIDTH)
    for i in sorted(shown, key=lambda i: (i not in taken, i)):
      at, mark = self.x(pictures.times[i]), ' taken' if i in taken else ''
      parts.append(f'<line class="tick{mark}" x1="{at:.1f}" x2="{at:.1f}" y1="{TICKS_Y - 4}" y2="{TICKS_Y + 4}"/>')
      left = min(at, WIDTH - pictures.width)
      if not free.take(left, left + pictures.width):
        continue
      box = f'x="{left:.1f}" y="{FRAMES_Y}" width="{pictures.width:.1f}" height="{FRAME_H}"'
      title = f'<title>frame {i} at {seconds(pictures.times[i])}</title>'
      if (uri := pictures[i]) is None:
        parts.append(f'<rect class="none" {box}>{title}</rect>')
      else:
        parts.append(f'<image class="{pictures.look}" {box} preserveAspectRatio="none" href="{uri}">{title}</image>')
      if i in taken:
        parts.append(f'<rect class="drawn" {box}/>')
    return ''.join(parts)

  def words(self, said: list[tuple[str, int, int]]) -> tuple[str, int]:
    """-> (SVG, height of the row)."""
    lanes, parts = [-math.inf] * LANES, []
    used = 1
    for word, start, end in said:
      at, width = self.x(start), 7 * min(len(word), 24) + 6
      lane = next((i for i, free in enumerate(lanes) if free <= at), lanes.index(min(lanes)))
      lanes[lane], used = at + width, max(used, lane + 1)
      y = WORDS_Y + lane * LANE_H + 10
      anchor = ' text-anchor="end"' if at + width > WIDTH else ''
      parts.append(
        f'<text x="{WIDTH if anchor else at:.1f}" y="{y}"{anchor}>{kit.text(word, 24)}<title>{seconds(start)} to '
        f'{seconds(end)}</title></text><line class="said" x1="{at:.1f}" x2="{self.x(end):.1f}" y1="{y + 4}" '
        f'y2="{y + 4}"/>'
      )
    return ''.join(parts), WORDS_Y + used * LANE_H + 12


class Free:
  """Which parts of a row hold no picture yet."""

  def __init__(self, width: float):
    self.gaps = [(0.0, width)]

  def take(self, left: float, right: float) -> bool:
    for i, (a, b) in enumerate(self.gaps):
      if a <= left and right <= b:
        self.gaps[i : i + 1] = [(a, left), (right, b)]
        return True
    return False


class Pictures:
  """Data URIs of a record's frames, made when asked for; None for a frame that cannot be shown."""

  def __init__(self, record: Record):
    self.times, self._record, self._made = record.frame_times_ms, record, {}
    self.width = min(FRAME_H * record.width / record.height, WIDTH)
    self.look = 'small' if record.height <= FRAME_H else 'frame'

  def __getitem__(self, i: int) -> str | None:
    if i not in self._made:
      pixels = self._record.height * self._record.width
      self._made[i] = kit.picture(self._record.frames[i], pixels, 2 * FRAME_H)
    return self._made[i]


def hue(place: int, light: int) -> str:
  """A colour for each transcript, neighbours far apart."""
  return f'hsl({(210 + 137 * place) % 360} 65% {light}%)'


def seconds(ms: int) -> str:
  return f'{ms / 1000:.2f} s'
