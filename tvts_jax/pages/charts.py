"""Pictures of numbers for pages: curves, bars and a divided bar, as HTML with inline SVG.

Drawings stretch with the page while their text, which is HTML, keeps its size: readable on a phone and on a wall.
Every `look` is a class of STYLE. Names and numbers are escaped here.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

from tvts_jax.human import number, percent
from tvts_jax.pages.kit import text

STYLE = """
:root { --own: #2f6fde; --blank: #8a6fc4; --other: #d97a1e; --calm: #2a9d8f; --plain: #7d8899; --bad: #d64550; }
@media (prefers-color-scheme: dark) { :root { --own: #77a7ff; --blank: #b79cf0; --other: #f2a65a; --calm: #5cc8ba;
  --plain: #8b95a7; --bad: #ff7b82; } }
.own { --c: var(--own); } .blank { --c: var(--blank); } .other { --c: var(--other); } .calm { --c: var(--calm); }
.plain { --c: var(--plain); } .bad { --c: var(--bad); } .faint { --c: var(--line); }
.sand { --c: #c9b26b; } .good { --c: var(--calm); } .mixed { --c: var(--other); } .none { --c: var(--plain); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 13px; margin: 2px 0 8px; color: var(--soft); }
.legend b { color: var(--ink); font-variant-numeric: tabular-nums; }
.key { display: inline-block; width: 14px; height: 4px; border-radius: 2px; background: var(--c); margin-right: 6px;
  vertical-align: middle; }
.key.level { height: 0; border-radius: 0; background: none; border-top: 2px dashed var(--soft); }
.field { position: relative; height: 170px; margin: 8px 8px 22px 46px; }
.tall .field { height: 250px; }
.field svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.field path { fill: none; stroke: var(--c); stroke-width: 2.2; stroke-linejoin: round; stroke-linecap: round;
  vector-effect: non-scaling-stroke; }
.field path.raw { stroke-width: 1; opacity: .35; }
.field path.dot { stroke-width: 6; }
.field line { stroke: var(--line); vector-effect: non-scaling-stroke; }
.field line.level { stroke: var(--soft); stroke-width: 1.6; stroke-dasharray: 6 5; }
.field .hit { fill: var(--ink); opacity: 0; } .field .hit:hover { opacity: .09; }
.field .y, .field .x { position: absolute; font-size: 11px; line-height: 1; color: var(--soft); white-space: nowrap; }
.field .y { right: calc(100% + 7px); transform: translateY(-50%); }
.field .x { top: calc(100% + 7px); transform: translateX(-50%); }
.field .x.last { transform: translateX(-100%); }
.bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: 12px 14px; align-items: center; }
.bars div.row { display: contents; } .bars b { font-variant-numeric: tabular-nums; text-align: right; font-size: 17px; }
.bars .row:first-child b { font-size: 26px; }
.track { position: relative; height: 22px; background: var(--ground); border-radius: 5px; }
.track .fill { height: 100%; min-width: 2px; background: var(--c); border-radius: 5px; }
.track .mark { position: absolute; top: -7px; bottom: -7px; border-left: 2px dashed var(--soft); }
.split { display: flex; height: 30px; border-radius: 8px; overflow: hidden; margin: 4px 0 12px; gap: 1px; }
.split div { background: var(--c); min-width: 1px; }
@media (max-width: 520px) { .bars { display: block; } .bars div.row { display: grid; align-items: baseline;
  grid-template-columns: 1fr max-content; gap: 4px; margin: 0 0 14px; }
  .bars .track { grid-row: 2; grid-column: 1 / 3; } }
"""

SIZE = 1000  # Units of a drawing, both ways; the page stretches them.
MARGIN = 14  # At both sides, so that dots stay whole.
DRAWN, HOVERED = 400, 100  # Points of a curve: neighbours share one where there are more.
SMOOTHED = 40  # Points from which a noisy curve gets its running mean.


@dataclasses.dataclass(frozen=True)
class Curve:
  name: str
  points: Sequence[tuple[int, float]]  # (step, value), steps rising; a value that is no finite number is a gap.
  look: str = 'own'


def curves(
  lines: Sequence[Curve],
  end: int,
  *,
  form: Callable[[float], str] = number,
  level: float | None = None,
  noisy: bool = False,
  unit: str = 'step',
) -> str:
  """Values over steps 0 to `end`, with a legend of the last ones. form: percent draws the whole range from 0 to 1.

  level: a dashed line, what chance gives; noisy: draw the running mean, and what it is the mean of behind it;
  unit: what counts along the axis, if not steps.
  """
  ends = (0.0, 1.0) if form is percent else scale(lines, level)
  low, high = ends
  x = lambda step: MARGIN + (SIZE - 2 * MARGIN) * step / end
  y = lambda value: SIZE * (high - value) / (high - low)
  marks = ticks(low, high)
  parts = [f'<line x1="0" x2="{SIZE}" y1="{y(mark):.1f}" y2="{y(mark):.1f}"/>' for mark in marks]
  labels = [
    f'<span class="y" style="top: {y(mark) / SIZE:.2%}">{f"{mark:.0%}" if form is percent else form(mark)}</span>'
    for mark in marks
  ]
  steps = [step for step in ticks(0, end) if step == 0 or step < 0.88 * end]
  labels += [f'<span class="x" style="left: {x(step) / SIZE:.2%}">{step:,.0f}</span>' for step in steps]
  labels.append(f'<span class="x last" style="left: 100%">{text(unit)} {end:,}</span>')
  if level is not None:
    parts.append(f'<line class="level" x1="0" x2="{SIZE}" y1="{y(level):.1f}" y2="{y(level):.1f}"/>')
  place = lambda points: [(x(step), y(value) if math.isfinite(value) else None) for step, value in points]
  for line in reversed(lines):  # The first one lies on top.
    points = thin(line.points, DRAWN)
    smooth = noisy and len(points) >= SMOOTHED
    parts += [path(place(points), f'{line.look} raw')] if smooth else []
    parts.append(path(place(running_mean(points) if smooth else points), line.look))
    if len(points) < SMOOTHED:
      parts.append(dots(place(points), line.look))
  parts.append(hover(lines, x, form, level, unit))
  body = f'<svg viewBox="0 0 {SIZE} {SIZE}" preserveAspectRatio="none" role="img">{"".join(parts)}</svg>'
  return f'{legend(lines, form, level)}<div class="field">{body}{"".join(labels)}</div>'


def legend(lines: Sequence[Curve], form, level: float | None) -> str:
  keys = [
    f'<span><i class="key {line.look}"></i>{text(line.name)} <b>{form(value)}</b></span>'
    for line in lines
    if (value := next((v for _, v in reversed(line.points) if math.isfinite(v)), None)) is not None
  ]
  if level is not None:
    keys.append(f'<span><i class="key level"></i>chance <b>{form(level)}</b></span>')
  return f'<div class="legend">{"".join(keys)}</div>'


def hover(lines: Sequence[Curve], x, form, level, unit: str) -> str:
  """A column for each step that has values, which names them when pointed at."""
  values: dict = {}
  for line in lines:
    for step, value in thin(line.points, HOVERED):
      values.setdefault(round(step), []).append(f'{line.name} {form(value)}')
  steps = sorted(values)
  edges = [0, *((x(a) + x(b)) / 2 for a, b in zip(steps, steps[1:])), SIZE]
  said = [] if level is None else [f'chance {form(level)}']
  return ''.join(
    f'<rect class="hit" x="{a:.1f}" width="{b - a:.1f}" y="0" height="{SIZE}"><title>'
    + '\n'.join(map(text, [f'{unit} {step:,}', *values[step], *said]))
    + '</title></rect>'
    for step, a, b in zip(steps, edges, edges[1:])
  )


def path(points: Sequence[tuple[float, float | None]], look: str) -> str:
  words, pen = [], 'M'
  for x, y in points:
    if y is not None:
      words.append(f'{pen}{x:.1f} {y:.1f}')
    pen = 'M' if y is None else 'L'
  return f'<path class="{look}" d="{"".join(words)}"/>'


def dots(points: Sequence[tuple[float, float | None]], look: str) -> str:
  """Lines of no length, whose round ends stay round however the drawing is stretched."""
  return f'<path class="{look} dot" d="{"".join(f"M{x:.1f} {y:.1f}h0" for x, y in points if y is not None)}"/>'


def thin(points: Sequence[tuple[int, float]], most: int) -> list[tuple[float, float]]:
  """At most `most` points, each the mean of its neighbours."""
  if len(points) <= most:
    return list(points)
  groups = [points[i * len(points) // most : (i + 1) * len(points) // most] for i in range(most)]
  return [tuple(sum(column) / len(group) for column in zip(*group)) for group in groups]


def running_mean(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
  """Over a twentieth of the curve, centred, shorter at the ends, without the highest and the lowest value."""
  reach = max(2, len(points) // 40)
  means = []
  for i, (step, _) in enumerate(points):
    k = min(i, len(points) - 1 - i, reach)
    near = sorted(value for _, value in points[i - k : i + k + 1] if math.isfinite(value))
    near = near[1:-1] if len(near) > 2 else near
    means.append((step, sum(near) / len(near) if near else math.nan))
  return means


def scale(lines: Sequence[Curve], level: float | None) -> tuple[float, float]:
  """Ends of the vertical axis; few extreme values do not flatten the rest."""
  values = sorted(v for line in lines for _, v in line.points if math.isfinite(v)) or [0.0]
  usual, high = values[int(0.98 * (len(values) - 1))], values[-1]
  if len(values) >= SMOOTHED and high > 4 * usual > 0:
    high = 1.5 * usual
  levels = [] if level is None else [level]
  low, high = min([values[0], *levels]), max([high, *levels])
  size = max(abs(low), abs(high))
  if 0 <= low < 0.6 * high and size > 1e-30:
    return 0.0, 1.06 * high
  margin = 0.06 * (high - low)
  if margin < 1e-6 * size or size <= 1e-30:  # All the same, as far as one can see.
    margin = 0.1 * size if size > 1e-30 else 1.0
  return low - margin, high + margin


def ticks(low: float, high: float) -> list[float]:
  """Three to six round numbers."""
  rough = (high - low) / 4
  power = 10 ** math.floor(math.log10(rough))
  step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= rough * 0.999)
  first = math.ceil(low / step - 1e-9)
  return [float(f'{n * step:.10g}') for n in range(first, math.floor(high / step + 1e-9) + 1)]


def bars(values: Mapping[str, tuple[float, str]], level: float | None) -> str:
  """Shares between 0 and 1 by name, each with its look, before a dashed mark at `level`."""
  mark = '' if level is None else f'<i class="mark" style="left: {min(max(level, 0), 1):.2%}"></i>'
  rows = [
    f'<div class="row"><span>{text(name)}</span><div class="track"><div class="fill {look}" '
    f'style="width: {min(max(share, 0), 1):.2%}"></div>{mark}</div><b>{percent(share)}</b></div>'
    for name, (share, look) in values.items()
  ]
  return f'<div class="bars">{"".join(rows)}</div>'


def split(parts: Mapping[str, tuple[float, str]], form: Callable[[float], str]) -> str:
  """A bar divided by what each part has of the whole, with a legend; parts by name, each with its look."""
  whole = sum(amount for amount, _ in parts.values()) or 1.0
  shown = {name: (amount, look) for name, (amount, look) in parts.items() if amount > 0}
  pieces = ''.join(
    f'<div class="{look}" style="flex: {amount / whole:.6f} 0 0" title="{text(name)}: {form(amount)}, '
    f'{percent(amount / whole)}"></div>'
    for name, (amount, look) in shown.items()
  )
  keys = ''.join(
    f'<span><i class="key {look}"></i>{text(name)} <b>{percent(amount / whole)}</b> {form(amount)}</span>'
    for name, (amount, look) in shown.items()
  )
  return f'<div class="split">{pieces}</div><div class="legend">{keys}</div>'
