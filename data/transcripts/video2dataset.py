"""What video2dataset keeps of captions: lines without the times of words, so it is told apart and refused."""

from data.outcomes import ItemError
from data.transcripts.fields import first, has


def is_video2dataset(content) -> bool:
  return has(content, 'yt_meta_dict', dict) or bool(first(content, 'subtitles').keys() & {'lines', 'line'})


def refuse(content):
  raise ItemError(
    'video2dataset_transcript', 'video2dataset drops all word times; use the json3 or vtt file that it was made from'
  )
