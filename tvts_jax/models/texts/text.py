"""What all text encoders share, and all that the code above asks of one: it never tests for a name.

A new encoder is a file beside this one and a line in TEXTS of models/tvts.py. The file has a TextConfig, whose `module`
is called with (tokens [R, L], mask [R, L], train) and gives one vector for each text, [R, E]. Its blocks are stacked in
`blocks`.

Shapes: R texts, L word pieces, E width.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn
import jax.numpy as jnp

from tvts_jax.errors import UserError
from tvts_jax.models import layers


@dataclasses.dataclass(frozen=True)
class TextConfig:
  """Named as in transformers' DistilBertConfig."""

  vocab_size: int
  max_position_embeddings: int
  dim: int
  hidden_dim: int
  n_layers: int
  n_heads: int

  TITLE: ClassVar[str] = ''
  # How a config.json of transformers says that it is of this encoder, and its names for our settings.
  HF_SAYS: ClassVar[dict] = {}
  HF_NAMES: ClassVar[dict[str, str]] = {}

  @classmethod
  def from_hf(cls, config) -> 'TextConfig':
    """From a config of transformers, or the dict that its config.json holds."""
    values = config if isinstance(config, dict) else config.to_dict()
    for key, ours in cls.HF_SAYS.items():
      if values.get(key, ours) != ours:
        raise UserError(f'the text config has {key}={values[key]!r}; this encoder is {cls.TITLE} with {key}={ours!r}')
    theirs = {field.name: cls.HF_NAMES.get(field.name, field.name) for field in dataclasses.fields(cls)}
    return cls(**{ours: values[name] for ours, name in theirs.items() if name in values})

  def to_hf(self) -> dict:
    """What config.json of transformers holds of this encoder."""
    return self.HF_SAYS | {self.HF_NAMES.get(name, name): value for name, value in dataclasses.asdict(self).items()}

  def __post_init__(self):
    if self.dim % self.n_heads:
      raise UserError(f'text.dim={self.dim} is not a multiple of text.n_heads={self.n_heads}; change one of the two')

  def module(self, **how) -> nn.Module:
    """The Flax module. how: as TVTSConfig.how."""
    raise NotImplementedError

  def flops(self, length: int) -> float:
    """Forward FLOPs of a text."""
    raise NotImplementedError


def embed(module: nn.Module, tokens_RxL):
  """Word pieces with their positions, [R, L, E]."""
  L, longest = tokens_RxL.shape[1], module.config.max_position_embeddings
  if longest < L:
    raise UserError(f'texts of {L} word pieces exceed the {longest} the encoder knows')
  # An id outside the vocabulary reads NaN, which the loss shows at once.
  return jnp.take(module.word, tokens_RxL, axis=0, mode='fill') + module.position[None, :L]


def tables(module: layers.Module) -> None:
  """Parameters of word pieces and positions."""
  normal = nn.initializers.normal(module.start.word)
  for name, rows in (('word', module.config.vocab_size), ('position', module.config.max_position_embeddings)):
    setattr(module, name, module.param(name, normal, (rows, module.config.dim), module.param_dtype))
