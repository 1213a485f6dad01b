"""The text encoder: DistilBERT.

Shapes: R texts, L word pieces, D width.
"""

import dataclasses

import flax.linen as nn
import jax.numpy as jnp

from tvts_jax.errors import UserError
from tvts_jax.models import layers
from tvts_jax.roles import setting


@dataclasses.dataclass(frozen=True)
class TextConfig:
  """The fields of transformers' DistilBertConfig that shape the encoder, under the names they have there."""

  vocab_size: int = 30522
  max_position_embeddings: int = 512
  dim: int = 768
  hidden_dim: int = 3072
  n_layers: int = 6
  n_heads: int = 12
  dropout: float = setting(0.1, 'loads')
  attention_dropout: float = setting(0.1, 'loads')

  @classmethod
  def from_hf(cls, config) -> 'TextConfig':
    """From a transformers DistilBertConfig, or the dict that its config.json holds."""
    values = config if isinstance(config, dict) else config.to_dict()
    for key, ours in (('model_type', 'distilbert'), ('activation', 'gelu'), ('sinusoidal_pos_embds', False)):
      if values.get(key, ours) != ours:
        raise UserError(f'the text config has {key}={values[key]!r}; this encoder is DistilBERT with {key}={ours!r}')
    return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values})

  def __post_init__(self):
    if self.dim % self.n_heads:
      raise UserError(f'text.dim={self.dim} is not a multiple of text.n_heads={self.n_heads}; change one of the two')


class TextEncoder(layers.Module):
  config: TextConfig
  dtype: jnp.dtype = jnp.float32
  param_dtype: jnp.dtype = jnp.float32
  scan: bool = True
  remat: str = 'none'
  start: layers.Start = layers.Start()

  def setup(self):
    config = self.config
    types = (self.dtype, self.param_dtype)
    table = lambda name, rows: self.param(
      name, nn.initializers.normal(self.start.word), (rows, config.dim), self.param_dtype
    )
    self.word = table('word', config.vocab_size)
    self.position = table('position', config.max_position_embeddings)
    self.norm = layers.layer_norm(1e-12, *types, name='norm')
    self.dropout = nn.Dropout(config.dropout)
    self.block = layers.PostNormBlock(
      config.n_heads,
      config.hidden_dim,
      self.start.blocks,
      *types,
      dropout=config.dropout,
      attention_dropout=config.attention_dropout,
      parent=None,
    )
    self.blocks = self.param('blocks', layers.init_blocks, self.block, config.n_layers, config.dim)

  def embed(self, tokens_RxL, train: bool = False):
    L = tokens_RxL.shape[1]
    if self.config.max_position_embeddings < L:
      raise UserError(f'texts of {L} word pieces exceed the {self.config.max_position_embeddings} the encoder knows')
    # An id outside the vocabulary reads NaN, which the loss shows at once.
    x_RxLxD = jnp.take(self.word, tokens_RxL, axis=0, mode='fill') + self.position[None, :L]
    return self.dropout(self.norm(x_RxLxD), deterministic=not train)

  def __call__(self, tokens_RxL, mask_RxL, *, read: int | None = None, train: bool = False):
    """Hidden states of the first `read` word pieces (all by default), [R, read, D]; [CLS] is the first."""
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
