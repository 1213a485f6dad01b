"""Weights in and out. `python -m tvts_jax.convert --help` has the same from the command line."""

import importlib

from tvts_jax.convert.load_report import ConvertError, LoadError, Report

# Function → its module, imported when it is first used: all of these need JAX, and reading a pickle does not.
HOMES = {
  'has': 'load',
  'import_model': 'load',
  'load_folder': 'folder',
  'load_part': 'load',
  'save_folder': 'folder',
  'save_vivit': 'vivit',
}
__all__ = ['ConvertError', 'LoadError', 'Report'] + list(HOMES)


def __getattr__(name: str):
  if name not in HOMES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{HOMES[name]}'), name)
