"""What commands share: help out of their module's docstring, and one sentence where something is wrong."""

import argparse
import logging as stdlib_logging
import os
import pathlib
import sys
from collections.abc import Callable, Mapping

from absl import app, logging

from tvts_jax.errors import RESTART, UserError
from tvts_jax.shards import storage
from tvts_jax.shards.storage import StorageError

# The errors that end a command with one sentence, without a stack trace: exit code and sentence of each.
ERRORS = {UserError: (1, 'error: {}'), StorageError: (RESTART, 'error: {}'), OSError: (1, 'error: {}')}


def parser(module: str, doc: str) -> argparse.ArgumentParser:
  """Of `python -m module`, or of a script by its path: options stand between the first paragraph of its docstring and
  the rest."""
  about, _, rest = doc.partition('\n\n')
  return argparse.ArgumentParser(
    prog=f'python {module}' if module.endswith('.py') else f'python -m {module}',
    description=about,
    epilog=rest,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )


def place(text: str) -> storage.Path:
  """An argument that names a file or folder, here or in a bucket."""
  try:
    return storage.path(text)
  except UserError as e:
    raise argparse.ArgumentTypeError(str(e)) from e


def local_place(text: str) -> pathlib.Path:
  """An argument that can only be on a disk."""
  if not storage.is_local(text):
    raise argparse.ArgumentTypeError(f'{text} is in a bucket, where this command cannot write; name a local path')
  return pathlib.Path(text)


def tell_own() -> None:
  """Logs what this package says, and of the libraries that log through absl as well only warnings: not at length what
  they do, nor with a trace what they raise."""
  logging.set_verbosity(logging.INFO)
  # The place of the package, and not its name, which is likely to be that of the folder that everything lies in, too.
  package = os.path.dirname(__file__) + os.sep
  wanted = lambda record: record.levelno > stdlib_logging.INFO and not record.exc_info
  logging.get_absl_handler().addFilter(lambda record: record.pathname.startswith(package) or wanted(record))


def run(main) -> None:
  """absl's app.run, for which a config that is refused while flags are read is one sentence."""
  sys.exit(ending(lambda: app.run(main, flags_parser=read_flags)))


def read_flags(argv: list[str]) -> list[str]:
  try:
    return app.parse_flags_with_usage(argv)
  except (AttributeError, KeyError) as e:
    # So ml_collections says that there is no setting of a name; but the config file itself may have asked for it.
    missing = e if isinstance(e, KeyError) else next(iter(e.args), None)
    if not isinstance(missing, KeyError):
      raise
    name, _, hint = str(*missing.args[:1]).partition('\n')
    given = next((word for word in argv if name.strip("'") in word.partition('=')[0].split('.')[1:]), None)
    if given is None:
      raise
    raise UserError(f'{given} sets nothing, for the config has no setting {name}. {hint}'.strip()) from e


def ending(work: Callable[[], int | None], errors: Mapping = ERRORS, leave: Callable = lambda code, error: code) -> int:
  """Does the work of a command → its exit code, after a sentence on stderr if an error ended it.

  Args:
    work: its result is the exit code, where None means 0.
    errors: as ERRORS; a code of None is that of the error itself, its attribute `exit`.
    leave: called with the exit code and the error.
  """
  try:
    return work() or 0
  except tuple(errors) as e:
    code, sentence = next(end for kind, end in errors.items() if isinstance(e, kind))
    # On a terminal the sentence must not overwrite a line of progress.
    print('\n' * sys.stderr.isatty() + sentence.format(e), file=sys.stderr, flush=True)
    return leave(e.exit if code is None else code, e)
