"""What was built, in numbers: report.json and the same as text. A function of the data, not of the run."""

import json
from collections import Counter, defaultdict

from data.builder.shard_plan import Plan
from data.outcomes import CODES, status
from tvts_jax.files import write_whole
from tvts_jax.shards.index import REPORT


def write(folder, plan: Plan, done: dict[str, dict]) -> str:
  """done: name of each planned shard → content of its shard.json. Writes DIR/report.json; returns it as text."""
  splits, outcomes, totals, measures = defaultdict(Counter), Counter(), Counter(), defaultdict(list)
  short_sides = defaultdict(Counter)  # By split: records, by the short side of their frames.
  for planned in plan.shards:
    content = done[planned.name]
    shard = content['shard']
    splits[planned.split].update(items=len(planned.items), records=shard['count'], bytes=shard['bytes'])
    outcomes.update(content['outcomes'])
    totals.update(content['totals'])
    short_sides[planned.split].update({int(side): n for side, n in content['short_sides'].items()})
    for name, pair in content['measures'].items():
      measures[name].append(pair)
  content = {
    'splits': {
      split: {**counts, 'short_sides': dict(sorted(short_sides[split].items()))} for split, counts in splits.items()
    },
    'outcomes': dict(sorted(outcomes.items())),
    'hours_of_video': totals['video_ms'] / 3.6e6,
    'hours_in_windows': totals['window_ms'] / 3.6e6,
    'words_per_second': totals['words'] / max(totals['window_ms'] / 1000, 1e-9),
    'frames': totals['frames'],
    'bytes_per_frame': totals['jpeg_bytes'] / max(totals['frames'], 1),
    'item_means': {
      name: sum(s for s, _ in pairs) / sum(n for _, n in pairs) for name, pairs in sorted(measures.items())
    },
  }
  write_whole(folder / REPORT, json.dumps(content, indent=2))
  return text(content)


def text(content: dict) -> str:
  lines = [
    f'{split}: {c["records"]} records from {c["items"]} items, {c["bytes"] / 1e6:.1f} MB'
    for split, c in content['splits'].items()
  ]
  lines += [
    f'{content["hours_in_windows"]:.2f} h in windows, out of {content["hours_of_video"]:.2f} h of video',
    f'{content["words_per_second"]:.2f} words/s, {content["frames"]} frames of {content["bytes_per_frame"]:.0f} bytes',
  ]
  sides = sorted(sum((Counter(c['short_sides']) for c in content['splits'].values()), Counter()).elements())
  if sides:
    lines.append(f'short sides of the frames: {sides[0]} to {sides[-1]} pixels, median {sides[len(sides) // 2]}')
  means = ', '.join(f'{name} {mean:.3g}' for name, mean in content['item_means'].items())
  lines.append(f'means over items: {means}')
  for code, n in sorted(content['outcomes'].items(), key=lambda x: -x[1]):
    lines.append(f'{n} items ok' if code == 'ok' else f'{n} items {status(code)}, {code}: {CODES[code]}')
  return '\n'.join(lines)
