"""BERT, and whatever has its layout, such as MiniLM. Its first token, [CLS], stands for the text.

Shapes: as in text.py.
"""

import dataclasses
from typing import ClassVar

import flax.linen as nn

from tvts_jax.models.texts import distilbert, text


@dataclasses.dataclass(frozen=True)
class BertConfig(distilbert.DistilBertConfig):
  n_layers: int = 12
  types: int = 2  # Of segments; all word pieces are of the first.

  TITLE: ClassVar[str] = 'BERT'
  HF_SAYS: ClassVar[dict] = {
    **{'model_type': 'bert', 'hidden_act': 'gelu', 'position_embedding_type': 'absolute'},
    **{'is_decoder': False, 'layer_norm_eps': 1e-12},
  }
  HF_NAMES: ClassVar[dict[str, str]] = {
    **{'dim': 'hidden_size', 'hidden_dim': 'intermediate_size', 'n_layers': 'num_hidden_layers'},
    **{'n_heads': 'num_attention_heads', 'types': 'type_vocab_size'},
    **{'dropout': 'hidden_dropout_prob', 'attention_dropout': 'attention_probs_dropout_prob'},
  }

  def module(self, **how) -> nn.Module:
    return Bert(self, **how)


class Bert(distilbert.DistilBert):
  config: BertConfig

  def setup(self):
    super().setup()
    normal = nn.initializers.normal(self.start.word)
    self.type = self.param('type', normal, (self.config.types, self.config.dim), self.param_dtype)

  def block_settings(self) -> tuple:
    return *super().block_settings(), self.config.dropout

  def embed(self, tokens_RxL, train: bool = False):
    x_RxLxD = self.norm(text.embed(self, tokens_RxL) + self.type[None, :1])
    return self.dropout(x_RxLxD, deterministic=not train)
