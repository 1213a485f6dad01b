"""Pretrain video models from the speech that videos carry."""

__version__ = '0.1.0'


def load(folder):
  """The Embedder of a folder of weights or a work directory, whose embed_video and embed_text give features."""
  from tvts_jax.embed import Embedder  # JAX is for those who need it.

  return Embedder(folder)
