"""Weights in and out. `python -m tvts_jax.convert --help` has the same from the command line."""

import importlib

from tvts_jax.convert.report import ConvertError, LoadError, Report

__all__ = [
  'ConvertError', 'LoadError', 'Report', 'import_parts', 'import_tvts', 'load_folder', 'load_part', 'save_folder',
  'save_vivit',
]  # fmt: skip

# Imported when they are first used, for they need JAX: what only reads pickles does without.
HOMES = {
  'import_parts': 'load',
  'import_tvts': 'load',
  'load_folder': 'folder',
  'load_part': 'load',
  'save_folder': 'folder',
  'save_vivit': 'vivit',
}


def __getattr__(name: str):
  if name not in HOMES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  return getattr(importlib.import_module(f'{__name__}.{HOMES[name]}'), name)
