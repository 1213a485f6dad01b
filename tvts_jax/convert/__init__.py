"""Weights in and out. `python -m tvts_jax.convert --help` has the same from the command line."""

from tvts_jax.convert.folder import load_folder, save_folder
from tvts_jax.convert.load import import_parts, import_tvts, load_part
from tvts_jax.convert.report import ConvertError, LoadError, Report
from tvts_jax.convert.vivit import save_vivit

__all__ = [
  'ConvertError', 'LoadError', 'Report', 'import_parts', 'import_tvts', 'load_folder', 'load_part', 'save_folder',
  'save_vivit',
]  # fmt: skip
