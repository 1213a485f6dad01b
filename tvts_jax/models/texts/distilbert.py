"""DistilBERT, the text encoder of the paper. Its first token, [CLS], stands for the text.

Shapes: as in text.py, and D width.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from tvts_jax.models import layers
from tvts_jax.models.texts import text
from tvts_jax.roles import setting


@dataclasses.dataclass(frozen=True)
class DistilBertConfig(text.TextConfig):
  vocab_size: int = 30522
  max_position_embeddings: int = 512
  dim: int = 768
  hidden_dim: int = 3072
  n_layers: int = 6
  n_heads: int = 12
  dropout: float = setting(0.1, 'loads')
  attention_dropout: float = setting(0.1, 'loads')

  TITLE: ClassVar[str] = 'DistilBERT'
  HF_SAYS: ClassVar[dict] = {'model_type': 'distilbert', 'activation': 'gelu', 'sinusoidal_pos_embds': False}

  def module(self, **how) -> nn.Module:
    return DistilBert(self, **how)

  def flops(self, length: int) -> float:
    return layers.flops_of_blocks(length, self.dim, self.hidden_dim, self.n_layers, read=1)


class DistilBert(layers.Module):
  config: DistilBertConfig
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32
  scan: bool = True
  remat: str = 'none'
  start: layers.Start = layers.Start()

  def setup(self):
    types = (self.dtype, self.param_dtype)
    text.tables(self)
    self.norm = layers.LayerNorm(1e-12, *types, name='norm')
    self.dropout = nn.Dropout(self.config.dropout)
    self.block = layers.PostNormBlock(*self.block_settings(), parent=None)
    self.blocks = self.param('blocks', layers.init_blocks, self.block, self.config.n_layers, self.config.dim)

  def block_settings(self) -> tuple:
    config, types = self.config, (self.dtype, self.param_dtype)
    dropouts = config.dropout, config.attention_dropout
    return config.n_heads, config.hidden_dim, self.start.blocks, *types, 1e-12, *dropouts

  def embed(self, tokens_RxL, train: bool = False):
    return self.dropout(self.norm(text.embed(self, tokens_RxL)), deterministic=not train)

  def states(self, tokens_RxL, mask_RxL, *, read: int | None = None, train: bool = False):
    """Hidden states of the first `read` word pieces (all by default), [R, read, D]."""
    return layers.apply_blocks(
      self.block,
      self.blocks,
      self.embed(tokens_RxL, train),
      mask_RxL,
      read=read,
      train=train,
      rng=self.make_rng('dropout') if train else None,
      scan=self.scan,
      remat=self.remat,
      initializing=self.is_initializing(),
    )

  def __call__(self, tokens_RxL, mask_RxL, train: bool = False):
    return self.states(tokens_RxL, mask_RxL, read=1, train=train)[:, 0]
