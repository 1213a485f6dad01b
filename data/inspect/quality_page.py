"""How good a set of records is, in small plots."""

import collections

import numpy as np

from data.builder.quality import Measures
from tvts_jax.pages import kit
from tvts_jax.shards.index import Manifest
from tvts_jax.shards.sampling import SamplingConfig

# Field → (title, unit, factor, what it says).
PLOTS = {
  'video_s': ('Duration', 's', 1, 'whole videos, not windows'),
  'words_per_s': ('Speech', 'words/s', 1, 'words that start in the window, by its length'),
  'silence': ('Silence', '%', 100, 'of the window without a word being said'),
  'pause_s': ('Longest pause', 's', 1, 'in each window'),
  'heard': ('Windows with enough words', '%', 100, 'one transcript placed anywhere in the window'),
  'usable': ('Usable begins', '%', 100, 'all K transcripts have enough words; training draws among these'),
  'stills': ('Stills', '%', 100, 'of neighbouring frames show the same picture'),
  'short_side': (
    'Short side',
    'pixels',
    1,
    'of the frames; those too small for a model are enlarged when it reads them',
  ),
  'frame_kb': ('Bytes of a frame', 'kB', 1, 'JPEG bytes, mean of a record'),
}


def report(measures: list[Measures], manifest: Manifest, config: SamplingConfig) -> str:
  """HTML."""
  cards = []
  for field, (title, unit, factor, meaning) in PLOTS.items():
    values = [v * factor for m in measures if (v := getattr(m, field)) is not None]
    if values:
      ends = (0, 100) if unit == '%' else None
      cards.append(
        f'<div class="card"><h4 style="margin-top: 0">{title}</h4><div class="big">{np.median(values):.3g} '
        f'{unit}</div><p class="soft">median; {meaning}</p>{kit.histogram(values, unit, ends)}</div>'
      )
  seconds = ', '.join(f'{s:g}' for s in config.seconds)
  kinds = collections.Counter(' \u00b7 '.join(k or '?' for k in m.kind) for m in measures)
  cards.append(table('Transcripts', 'format \u00b7 timing \u00b7 language', kinds))
  cards.append(table('Items', 'what became of each when the data was built', manifest.outcomes))
  asked = (
    f'{config.transcripts} transcripts of {seconds} s, {config.gap_s:g} s apart, each with {config.min_words} words '
    f'or more; {config.frames} frames'
  )
  return f'<p class="soft">Sampling: {asked}</p><div class="grid">{"".join(cards)}</div>'


def table(title: str, meaning: str, counts: dict[str, int]) -> str:
  total = max(1, sum(counts.values()))
  rows = ''.join(
    f'<tr><td>{kit.text(name, 60)}</td><td>{n}</td><td>{n / total:.1%}</td></tr>'
    for name, n in sorted(counts.items(), key=lambda item: -item[1])[:12]
  )
  return (
    f'<div class="card"><h4 style="margin-top: 0">{title}</h4><p class="soft">{meaning}</p><table>{rows}</table></div>'
  )
