"""Pretrain video models from the speech that videos carry."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from tvts_jax.embed import Embedder

__version__ = '0.1.0'


def load(folder: str | os.PathLike) -> Embedder:
  """The Embedder of a folder of weights or a work directory, whose embed_video and embed_text give features."""
  from tvts_jax.embed import Embedder  # JAX is for those who need it.

  return Embedder(folder)
