"""The one kind of error that a person is meant to read, and the exit code of what passes by itself."""

import os

RESTART = os.EX_PROTOCOL  # 76: a process died or stood still, or storage failed for long; the same command goes on.


class UserError(Exception):
  """One sentence that names what is wrong, where, and what to do about it; programs print it without a stack trace."""
