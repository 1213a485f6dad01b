"""The one kind of error that a person is meant to read."""

import sys


class UserError(Exception):
  """One sentence that names what is wrong, where, and what to do about it; programs print it without a stack trace."""


def ending(work) -> int:
  """Does the work of a command → its exit code: 0, or 1 after one sentence on stderr."""
  try:
    work()
  except (UserError, OSError) as e:
    print(f'error: {e}', file=sys.stderr)
    return 1
  return 0
