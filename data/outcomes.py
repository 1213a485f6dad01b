"""Every way an item or a command can end, by name: one list for the builder, its log and its tests."""

import concurrent.futures
import sys

from tvts_jax.errors import UserError

CODES = {
  'too_few_words': 'no window holds enough words in every transcript',
  'crashed': 'the process that worked on it died, twice',
  'timeout': 'it took longer than one item may, twice',
  'out_of_memory': 'it needed more memory than one item may have, twice',
  'unexpected_error': 'an exception nobody has named yet: its traceback is in the outcome line, please report it',
  'missing_video': 'the video is not where the source says, or is no plain file',
  'missing_transcript': 'there is no transcript, or an empty file where a fetch failed: not the same as no speech',
  'not_a_video': 'the file is empty, a web page, or in no container that is known',
  'no_video_stream': 'the file holds sound only',
  'unknown_codec': 'there is no decoder for the pictures',
  'truncated_video': 'the video ends before its header says, or its index is cut off',
  'corrupt_video': 'the decoder finds damage in the pictures that are needed, or in the header',
  'bad_timestamps': 'the pictures have no times that make sense',
  'no_frames': 'there is no picture where one is needed',
  'too_short': 'the video is shorter than the transcripts of one sample',
  'too_long': 'the video is longer than any real one',
  'too_small': 'the pictures are too small to show anything',
  'too_large': 'the pictures are larger than any real ones',
  'not_an_image': 'the file is no JPEG, PNG or WebP',
  'corrupt_image': 'the image is damaged, cut short, or says another size than it has',
  'oversized_video': 'the video is larger than the limit',
  'oversized_transcript': 'the transcript, or what it inflates to, is larger than the limit',
  'oversized_word': 'one word of the transcript is longer than any word is',
  'bad_archive': 'the tar or gzip file is damaged, cut short, or holds links or paths out of it',
  'bad_encoding': 'the transcript is not UTF-8',
  'bad_json': 'the transcript is broken or hostile JSON',
  'html_transcript': 'the transcript is a web page, an error page most likely',
  'unknown_format': 'the transcript is in no known format',
  'bad_transcript': 'the transcript lacks what its format must have',
  'video2dataset_transcript': 'the transcript is from video2dataset, which drops word times',
  'no_words': 'the transcript holds no words',
  'no_word_times': 'the transcript times lines, not words, and interpolation was not asked for',
  'bad_times': 'a time in the transcript is not a number, or absurd',
  'negative_times': 'a time in the transcript lies well before the start of the video',
  'times_beyond_duration': 'the transcript goes on after the end of the video: another cut of it, most likely',
  'unsorted_times': 'the words of the transcript are far from being in order of time',
  'end_before_start': 'a word of the transcript ends well before it starts',
}

# Left out by choice rather than by damage: these say nothing against the run and don't count as failed.
SKIPS = frozenset({'too_few_words', 'too_short', 'no_words', 'no_word_times'})


def status(code: str) -> str:
  """ok, skipped or failed."""
  return 'ok' if code == 'ok' else 'skipped' if code in SKIPS else 'failed'


class ItemError(Exception):
  """An item that can't become records, with a code out of CODES and a detail for the log."""

  def __init__(self, code: str, detail: str):
    if code not in CODES:
      raise KeyError(f'{code!r} is no outcome code; known: {", ".join(sorted(CODES))}')
    super().__init__(f'{code}: {detail}')
    self.code, self.detail = code, detail

  def __reduce__(self):
    return ItemError, (self.code, self.detail)


# How a command of this package can end -> its exit code and what it means.
ENDS = {
  'done': (0, 'every shard is there'),
  'request': (2, 'the command, the source or the configuration makes no sense'),
  'busy': (3, 'another builder is at work on the folder'),
  'plan': (4, 'the folder was begun with another plan'),
  'failures': (5, 'more items failed than --max-failed-fraction allows, or a split is left without a record'),
  'output': (6, 'the folder can not be written, or the disk is full'),
  'worker': (7, 'a process that does the work can not start, or died'),
  'interrupted': (130, 'SIGINT or SIGTERM; the same command goes on from there'),
}
EXITS = {end: code for end, (code, _) in ENDS.items()}


class BuildError(Exception):
  """What ends the whole build, not one item: one sentence for the user, and a key of EXITS."""

  def __init__(self, sentence: str, end: str):
    super().__init__(sentence)
    self.end, self.exit = end, EXITS[end]

  def __reduce__(self):
    return BuildError, (str(self), self.end)


def ending(work) -> int:
  """Does the work of a command → its exit code, after a sentence if it ended early."""
  try:
    work()
  except KeyboardInterrupt:
    sentence, end = 'interrupted: give the same command again', 'interrupted'
  except BuildError as e:
    sentence, end = f'error: {e}', e.end
  except (ItemError, UserError) as e:
    sentence, end = f'error: {e}', 'request'
  except OSError as e:
    sentence, end = f'error: {e}; put that right and give the same command again', 'output'
  except concurrent.futures.BrokenExecutor as e:
    sentence, end = f'error: {e} Give the same command again', 'worker'
  else:
    return EXITS['done']
  # On a terminal the sentence must not overwrite the line of progress.
  print('\n' * sys.stderr.isatty() + sentence, file=sys.stderr)
  return EXITS[end]
