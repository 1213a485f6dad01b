"""Every way an item or a command can end, by name: one list for the builder, its log and its tests."""

import concurrent.futures

from tvts_jax.errors import UserError
from tvts_jax.media.errors import MEDIA_CODES, MediaError

CODES = MEDIA_CODES | {
  'too_few_words': 'no window holds enough words in every transcript',
  'crashed': 'the process that worked on it died, twice',
  'timeout': 'it took longer than one item may, twice',
  'out_of_memory': 'it needed more memory than one item may have, twice',
  'unexpected_error': 'an exception nobody has named yet: its traceback is in the outcome line, please report it',
  'missing_transcript': 'there is no transcript, or an empty file where a fetch failed: not the same as no speech',
  'too_short': 'the video is shorter than the transcripts of one sample',
  'oversized_transcript': 'the transcript, or what it inflates to, is larger than the limit',
  'oversized_word': 'one word of the transcript is longer than any word is',
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


class ItemError(MediaError):
  """An item that cannot become records. Whoever catches a MediaError catches this as well."""

  codes = CODES


# How a command of this package can end → its exit code and what it means.
ENDS = {
  'done': (0, 'every shard is there'),
  'request': (2, 'the command, the source or the configuration makes no sense'),
  'busy': (3, 'another builder is at work on the folder'),
  'plan': (4, 'the folder was begun with another plan'),
  'failures': (5, 'more items failed than --max-failed-fraction allows, or a split is left without a record'),
  'output': (6, 'the folder cannot be written, or the disk is full'),
  'worker': (7, 'a process that does the work cannot start, or died'),
  'interrupted': (130, 'SIGINT or SIGTERM; the same command goes on from there'),
}
EXITS = {end: code for end, (code, _) in ENDS.items()}


class BuildError(UserError):
  """What ends the whole build, not one item: one sentence for the user, and a key of EXITS."""

  def __init__(self, sentence: str, end: str):
    super().__init__(sentence)
    self.end, self.exit = end, EXITS[end]

  def __reduce__(self):
    return BuildError, (str(self), self.end)


# As tvts_jax.command.ERRORS, for commands of this package.
ERRORS = {
  KeyboardInterrupt: (EXITS['interrupted'], 'interrupted; give the same command again'),
  BuildError: (None, 'error: {}'),
  UserError: (EXITS['request'], 'error: {}'),
  OSError: (EXITS['output'], 'error: {}; put that right and give the same command again'),
  concurrent.futures.BrokenExecutor: (EXITS['worker'], 'error: {} Give the same command again'),
}
