"""CLIP's text encoder: each token sees those before it, and the last one, the end of the text, stands for it.

Shapes: as in text.py, and D width.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from tvts_jax.errors import UserError
from tvts_jax.models import layers
from tvts_jax.models.texts import text


@dataclasses.dataclass(frozen=True)
class ClipTextConfig(text.TextConfig):
  vocab_size: int = 49408
  max_position_embeddings: int = 77
  dim: int = 512
  hidden_dim: int = 2048
  n_layers: int = 12
  n_heads: int = 8
  activation: str = 'quick_gelu'
  eps: float = 1e-5

  TITLE: ClassVar[str] = "CLIP's text encoder"
  HF_SAYS: ClassVar[dict] = {'model_type': 'clip_text_model'}
  HF_NAMES: ClassVar[dict[str, str]] = {
    **{'dim': 'hidden_size', 'hidden_dim': 'intermediate_size', 'n_layers': 'num_hidden_layers'},
    **{'n_heads': 'num_attention_heads', 'activation': 'hidden_act', 'eps': 'layer_norm_eps'},
  }

  def __post_init__(self):
    super().__post_init__()
    if self.activation not in layers.ACTIVATIONS:
      raise UserError(f'text.activation={self.activation!r} is unknown; known: {", ".join(layers.ACTIVATIONS)}')

  def module(self, **how) -> nn.Module:
    return ClipText(self, **how)

  def flops(self, length: int) -> float:
    return layers.flops_of_blocks(length, self.dim, self.hidden_dim, self.n_layers)


class ClipText(layers.Module):
  config: ClipTextConfig
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32
  scan: bool = True
  remat: str = 'none'
  start: layers.Start = layers.Start()

  def setup(self):
    config, types = self.config, (self.dtype, self.param_dtype)
    text.tables(self)
    own = config.n_heads, config.hidden_dim, self.start.blocks, *types, config.eps, config.activation
    self.block = layers.PreNormBlock(*own, causal=True, parent=None)
    self.blocks = self.param('blocks', layers.init_blocks, self.block, config.n_layers, config.dim)
    self.norm = layers.LayerNorm(config.eps, *types, name='norm')

  def states(self, tokens_RxL, mask_RxL, train: bool = False):
    """Hidden states of all word pieces before the last norm, [R, L, D]. Padding stands last, so no word sees it."""
    del mask_RxL
    x_RxLxD = text.embed(self, tokens_RxL).astype(self.dtype)
    how = dict(train=train, scan=self.scan, remat=self.remat, initializing=self.is_initializing())
    return layers.apply_blocks(self.block, self.blocks, x_RxLxD, **how)

  def __call__(self, tokens_RxL, mask_RxL, train: bool = False):
    x_RxLxD = self.states(tokens_RxL, mask_RxL, train)
    end_R = jnp.maximum(mask_RxL.sum(axis=1) - 1, 0)
    return self.norm(jnp.take_along_axis(x_RxLxD, end_R[:, None, None], axis=1)[:, 0])
