"""YouTube's own captions, as yt-dlp saves them with --sub-format json3."""

from data.transcripts.fields import items, text, time
from data.transcripts.spans import Parsed, Span, join


def json3(content) -> Parsed:
  """A word is at tStartMs + tOffsetMs. Lines overlap (they scroll), so durations end no word."""
  groups = []
  for event in items(content['events'], 'events'):
    segs = items(event.get('segs', []), 'segs')
    said = [seg for seg in segs if text(seg, 'utf8').strip()]
    if not said:  # A window's definition, or a line feed.
      continue
    start = time(event.get('tStartMs', 0), 1)
    # Blank ones are kept, for they part the words on either side.
    if all('tOffsetMs' in seg for seg in said[1:]) and (len(said) > 1 or len(said[0]['utf8'].split()) == 1):
      groups.append([Span(seg['utf8'], start + time(seg.get('tOffsetMs', 0), 1), None) for seg in segs])
    else:
      line = ''.join(seg['utf8'] for seg in segs)
      shown = time(event.get('dDurationMs'), 1)
      groups.append([Span(line, start, None if shown is None else start + shown)])
  return Parsed(join(groups))
