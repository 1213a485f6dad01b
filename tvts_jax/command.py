"""What commands share: help out of their module's docstring, and one sentence where something is wrong."""

import argparse
import sys

from tvts_jax.errors import UserError


def parser(module: str, doc: str) -> argparse.ArgumentParser:
  """Of `python -m module`: options stand between the first paragraph of its docstring and the rest."""
  about, _, rest = doc.partition('\n\n')
  return argparse.ArgumentParser(
    prog=f'python -m {module}',
    description=about,
    epilog=rest,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )


def ending(work) -> int:
  """Does the work of a command → its exit code: 0, or 1 after one sentence on stderr."""
  try:
    work()
  except (UserError, OSError) as e:
    print(f'error: {e}', file=sys.stderr)
    return 1
  return 0
