"""YT-Temporal and TVTS: starts only, and a corrected text that has to be carried onto them."""

import ftfy

from data.transcripts.align import align, clean_word
from data.transcripts.fields import items, text, time
from data.transcripts.spans import Parsed, Span, split


def merlot(content) -> Parsed:
  raw = [(clean_word(text(item, 'word')), time(item.get('time'))) for item in items(content['subtitles'], 'subtitles')]
  raw = [(word, start) for word, start in raw if word]
  corrected = []
  for part in items(content.get('denoised') or [], 'denoised'):
    corrected += ftfy.fix_text(text(part, 'cleanasr')).split(' ')
  if not raw or not any(corrected):
    return Parsed([Span(word, start, None) for word, start in raw], variant='_raw')
  for token in [word for word, _ in raw] + corrected:
    split(token)  # Refuses what is too long to align.
  texts = align([word for word, _ in raw], corrected)
  # Tokens that share a word share its time: none of them is known any better.
  return Parsed([Span(token, start, None) for tokens, (_, start) in zip(texts, raw) for token in tokens.split()])
