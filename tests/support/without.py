"""A process without some packages that are installed here."""

PROGRAM = """
import sys

class Without:
  def __init__(self, finder):
    self.finder = finder

  def __getattr__(self, name):
    return getattr(self.finder, name)

  def find_spec(self, name, *rest):
    return None if name in {names!r} else self.finder.find_spec(name, *rest)

sys.meta_path[:] = map(Without, sys.meta_path)
"""


def without(*names: str) -> str:
  """The lines that a program begins with so that it cannot import them. None in sys.modules is something else: whether
  a name is there is how einops asks for what it need not support."""
  return PROGRAM.format(names=names)
