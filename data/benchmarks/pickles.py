"""Captions that lie in pickles: dicts, lists, words and numbers, and nothing that a pickle could ask to be run."""

import os

from data.sources.items import SourceError
from tvts_jax.convert.load_report import ConvertError
from tvts_jax.convert.unpickle import Damaged, Machine, Name

MAX_BYTES = 256 << 20


class Plain(Machine):
  """Refuses even what a checkpoint may hold."""

  def __init__(self, path: str):
    super().__init__(path, check=None, load=None)

  def call(self, function, arguments):
    if function == Name('collections.defaultdict'):
      return {}
    if function == Name('collections.OrderedDict'):
      return super().call(function, arguments)
    raise self._refusal(f'a call of {function.name if isinstance(function, Name) else "an object of its own"}')

  def new(self, kind):
    raise self._refusal(f'an object of {kind.name if isinstance(kind, Name) else "no class"}')

  def storage(self, *_):
    raise self._refusal('a tensor')

  def _refusal(self, what):
    return SourceError(
      'bad_table', f'{self.path} asks for {what}, which captions have no need of; it was not done, the file is not read'
    )


def load(path: str) -> dict:
  """The dict that a pickle describes; nothing in it is ever run."""
  if (size := os.path.getsize(path)) > MAX_BYTES:
    raise SourceError('bad_table', f'{path} has {size} bytes, more than the {MAX_BYTES} of any list of captions')
  with open(path, 'rb') as file:
    try:
      content = Plain(path).run(file)
    except Damaged as error:
      raise SourceError('bad_table', f'{path} is damaged: {error}') from error
    except ConvertError as error:
      raise SourceError('bad_table', str(error)) from error
  if not isinstance(content, dict):
    raise SourceError('bad_table', f'{path} holds {type(content).__name__}, not a dict by video')
  return content
