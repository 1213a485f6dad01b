"""Parts of a self-contained HTML page: no scripts, no links, nothing fetched; light or dark as the reader is.

Whatever comes from data goes through `text` or `picture`. The page's own policy forbids the browser to run or
fetch anything, so that even a mistake here stays harmless.
"""

import base64
import html
import unicodedata
from collections.abc import Mapping, Sequence

import cv2
import numpy as np

MAX_PIXELS = 50_000_000  # Of a picture that is decoded; larger ones are named, not shown.

STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #667085; --line: #d8dee8; --card: #fff; --ground: #f4f6fa;
  --accent: #3866d6; --bar: #7c9cec; --warn: #b54708; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9f0; --soft: #97a1b5; --line: #333b4d; --card: #1b212d;
  --ground: #11151d; --accent: #8fb0ff; --bar: #5878c8; --warn: #f5b26b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 24px; margin: 0 0 2px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 34px 0 10px; }
h3 { font-size: 16px; margin: 0; overflow-wrap: anywhere; }
h4 { font-size: 12px; margin: 18px 0 6px; color: var(--soft); text-transform: uppercase; letter-spacing: .06em; }
.soft { color: var(--soft); font-size: 13px; margin: 2px 0; overflow-wrap: anywhere; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 16px 18px;
  margin: 0 0 18px; }
.grid { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)); }
.grid .card { margin: 0; }
.big { font-size: 22px; font-weight: 600; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
svg { display: block; max-width: 100%; } .plot { max-width: 300px; }
svg text { fill: var(--ink); font: 12px system-ui, 'DejaVu Sans', sans-serif; }
svg text.soft { fill: var(--soft); font-size: 11px; }
svg .bar { fill: var(--bar); } svg .axis { stroke: var(--line); }
bdi { unicode-bidi: isolate; }
.chips { display: flex; flex-wrap: wrap; gap: 6px; margin: 10px 0 18px; padding: 0; }
.chips span { border: 1px solid var(--line); background: var(--card); border-radius: 999px; padding: 2px 11px;
  font-size: 13px; } .chips b { font-weight: 600; font-variant-numeric: tabular-nums; }
.grid.wide { grid-template-columns: repeat(auto-fill, minmax(min(330px, 100%), 1fr)); }
.grid.wide .card { display: flex; flex-direction: column; } .grid.wide .field { margin-top: auto; }
.soft + .card { margin-top: 12px; }
.missing { border: 1px dashed var(--line); border-radius: 12px; padding: 12px 16px; color: var(--soft); }
table { border-collapse: collapse; font-size: 14px; } th { font-weight: 500; color: var(--soft); font-size: 13px; }
th, td { padding: 6px 0 6px 12px; text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
tr + tr td { border-top: 1px solid var(--line); }
details { margin: 10px 0; } summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; font: 12px/1.5 ui-monospace, 'DejaVu Sans Mono', monospace; margin: 10px 0 0; }
.badge { border-radius: 999px; padding: 1px 11px; font-size: 13px; font-weight: 600; white-space: nowrap;
  color: var(--c, var(--soft)); border: 1.5px solid; }
"""


def text(value, limit: int = 200) -> str:
  """Any value as harmless HTML: escaped, cut at `limit`, control and direction marks made visible."""
  value = str(value)
  value = value if len(value) <= limit else value[: limit - 1] + '\u2026'
  return html.escape(''.join('\ufffd' if hidden(c) else c for c in value), quote=True)


def hidden(c: str) -> bool:
  """Control characters, halves of characters, and marks that would turn the text around them."""
  turns = unicodedata.bidirectional(c) in ('LRE', 'RLE', 'LRO', 'RLO', 'PDF', 'LRI', 'RLI', 'FSI', 'PDI')
  return turns or unicodedata.category(c) in ('Cc', 'Cs', 'Co')


def document(title: str, style: str, body: str) -> str:
  """A whole page; `style` and `body` are trusted HTML made with the helpers here."""
  policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
  return (
    '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
    f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    f'<title>{text(title)}</title><style>{STYLE}{style}</style></head>\n<body><main>\n{body}\n</main></body></html>\n'
  )


def header(title: str, note: str, facts: Mapping) -> str:
  """The top of a page, with its facts by name."""
  chips = ''.join(f'<span>{text(name)} <b>{text(value)}</b></span>' for name, value in facts.items())
  return f'<h1>{text(title)}</h1><p class="soft">{text(note)}</p><div class="chips">{chips}</div>'


def missing(sentence: str) -> str:
  """What is not there, or does not count."""
  return f'<p class="missing">{text(sentence, 500)}</p>'


def table(head: Sequence, *rows: Sequence) -> str:
  line = lambda kind, values: '<tr>' + ''.join(f'<{kind}>{text(value)}</{kind}>' for value in values) + '</tr>'
  return f'<table>{line("th", head)}{"".join(line("td", row) for row in rows)}</table>'


def picture(jpeg: bytes, pixels: int, height: int) -> str | None:
  """A JPEG, `pixels` large as its record says, as a data URI at most `height` high; None if it cannot be shown.

  It is decoded and encoded again: what the page holds is a small picture whatever the bytes were.
  """
  image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) if jpeg and pixels <= MAX_PIXELS else None
  if image is None:
    return None
  h, w = image.shape[:2]
  if h > height:
    image = cv2.resize(image, (max(1, round(w * height / h)), height), interpolation=cv2.INTER_AREA)
  ok, small = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 80])
  return 'data:image/jpeg;base64,' + base64.b64encode(small).decode() if ok else None


def histogram(values: Sequence[float], unit: str, ends: tuple[float, float] | None = None) -> str:
  """An SVG of how often values occur, with the ends of its axis and a mark at the median."""
  values = np.asarray(values, float)
  low, high = ends or (float(values.min()), float(values.max()))
  low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
  width, tall, bins, step = 240, 64, 24, 10
  counts, _ = np.histogram(values, bins, (low, high))
  bars = ''.join(
    f'<rect class="bar" x="{i * step:.1f}" y="{tall - n / counts.max() * (tall - 4):.1f}" width="{step - 1:.1f}" '
    f'height="{n / counts.max() * (tall - 4):.1f}" rx="1"><title>{low + i * (high - low) / bins:.4g} to '
    f'{low + (i + 1) * (high - low) / bins:.4g} {text(unit)}: {n}</title></rect>'
    for i, n in enumerate(counts)
    if n
  )
  at = (float(np.median(values)) - low) / (high - low) * width
  return (
    f'<svg class="plot" viewBox="0 0 {width} {tall + 18}" width="100%" role="img">{bars}'
    f'<line class="axis" x1="0" x2="{width}" y1="{tall}" y2="{tall}"/>'
    f'<line x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{tall}" style="stroke: var(--accent); stroke-dasharray: 3 3"/>'
    f'<text class="soft" x="0" y="{tall + 14}">{low:.4g}</text>'
    f'<text class="soft" x="{width}" y="{tall + 14}" text-anchor="end">{high:.4g} {text(unit)}</text></svg>'
  )
