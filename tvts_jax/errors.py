"""The one kind of error that a person is meant to read."""


class UserError(Exception):
  """One sentence that names what is wrong, where, and what to do about it; programs print it without a stack trace."""
