"""Plays notebooks without Jupyter: the code of each cell in turn, and what it would show."""

import ast
import contextlib
import io
import json
from typing import NamedTuple

from tests.support.paths import ROOT


class Shown(NamedTuple):
  said: str
  jpeg: bytes | None  # If the last value of the cell is a picture.


def cells(path: str) -> list[dict]:
  """Those with code."""
  return [cell for cell in json.loads((ROOT / path).read_text())['cells'] if cell['cell_type'] == 'code']


def play(path: str) -> list[Shown]:
  """In this process and the current folder."""
  names, shown = {'__name__': '__main__'}, []
  for nth, cell in enumerate(cells(path), 1):
    tree = ast.parse(''.join(cell['source']))
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    where, value = f'cell {nth} of {path}', None
    with contextlib.redirect_stdout(io.StringIO()) as said:
      exec(compile(tree, where, 'exec'), names)
      if last:
        value = eval(compile(ast.Expression(last.value), where, 'eval'), names)  # noqa: S307
    shown.append(Shown(said.getvalue(), value._repr_jpeg_() if hasattr(value, '_repr_jpeg_') else None))
  return shown


def kept(cell: dict) -> tuple[bool, bool]:
  """Whether the outputs that are stored with a cell have text, and a picture."""
  outputs = cell['outputs']
  assert all(output['output_type'] in ('stream', 'execute_result') for output in outputs), outputs
  return tuple(any(output['output_type'] == kind for output in outputs) for kind in ('stream', 'execute_result'))
