"""Timed words → transcript files, as common tools write them: what a made-up video needs to look real.

Each writer takes the utterances of a video (lists of Word, none empty, in order of time) and its length.
"""

import json

from data.transcripts.formats import Word


def json3(utterances: list[list[Word]], duration_ms: int) -> str:
  """YouTube's automatic captions: a line stays until the next one ends, a newline event moves it up."""
  events = [{'tStartMs': 0, 'dDurationMs': duration_ms, 'id': 1, 'wpWinPosId': 1, 'wsWinStyleId': 1}]
  for i, words in enumerate(utterances):
    start, end = words[0].start_ms, utterances[min(i + 1, len(utterances) - 1)][-1].end_ms
    if i:
      moved = utterances[i - 1][-1].end_ms
      newline = {'tStartMs': moved, 'dDurationMs': end - moved, 'wWinId': 1, 'aAppend': 1}
      events.append(newline | {'segs': [{'utf8': '\n'}]})
    segs = [{'utf8': words[0].text, 'acAsrConf': 0}]
    segs += [{'utf8': f' {w.text}', 'tOffsetMs': w.start_ms - start, 'acAsrConf': 0} for w in words[1:]]
    events.append({'tStartMs': start, 'dDurationMs': end - start, 'wWinId': 1, 'segs': segs})
  windows = {'pens': [{}], 'wsWinStyles': [{}], 'wpWinPositions': [{}]}
  return json.dumps({'wireMagic': 'pb3', **windows, 'events': events})


def vtt(utterances: list[list[Word]], duration_ms: int) -> str:
  """Rolling captions: each line is shown being spoken, word by word, then for 10 ms as settled text."""
  cues, above = ['WEBVTT\nKind: captions\nLanguage: en'], ' '
  for words in utterances:
    start, end, line = words[0].start_ms, words[-1].end_ms, ' '.join(w.text for w in words)
    tagged = words[0].text + ''.join(f'<{clock(w.start_ms)}><c> {w.text}</c>' for w in words[1:])
    cues.append(f'{clock(start)} --> {clock(end)} align:start position:0%\n{above}\n{tagged}')
    cues.append(f'{clock(end)} --> {clock(end + 10)} align:start position:0%\n{line}\n ')
    above = line
  return '\n\n'.join(cues) + '\n\n'


def whisper(utterances: list[list[Word]], duration_ms: int) -> str:
  """openai-whisper with word times: seconds, and words that begin with their space."""
  segments = []
  for i, words in enumerate(utterances):
    timed = [
      {'word': f' {w.text}', 'start': w.start_ms / 1000, 'end': w.end_ms / 1000, 'probability': 0.9} for w in words
    ]
    text = ''.join(w['word'] for w in timed)
    segments.append({'id': i, 'start': timed[0]['start'], 'end': timed[-1]['end'], 'text': text, 'words': timed})
  return json.dumps({'text': ''.join(s['text'] for s in segments), 'segments': segments, 'language': 'en'})


def whisper_cpp(utterances: list[list[Word]], duration_ms: int) -> str:
  """whisper.cpp, one word an item: milliseconds and clock times."""
  items = [whisper_cpp_item(w) for words in utterances for w in words]
  head = {'systeminfo': '', 'model': {}, 'params': {'language': 'en'}, 'result': {'language': 'en'}}
  return json.dumps(head | {'transcription': items})


WRITERS = {  # Ending of the file name → writer.
  'en.json3': json3,
  'en.vtt': vtt,
  'whisper.json': whisper,
  'cpp.json': whisper_cpp,
}


def whisper_cpp_item(w: Word) -> dict:
  times = {'from': clock(w.start_ms).replace('.', ','), 'to': clock(w.end_ms).replace('.', ',')}
  return {'timestamps': times, 'offsets': {'from': w.start_ms, 'to': w.end_ms}, 'text': f' {w.text}'}


def clock(ms: int) -> str:
  return f'{ms // 3600000:02d}:{ms // 60000 % 60:02d}:{ms // 1000 % 60:02d}.{ms % 1000:03d}'
