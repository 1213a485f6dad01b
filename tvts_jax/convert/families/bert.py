"""DistilBERT and BERT in the layout of transformers."""

from tvts_jax.convert.families import family
from tvts_jax.convert.geometry import Shapes
from tvts_jax.convert.names import Row, heads, linear, merge, norm

MASKED = 'the head of masked language modelling'


def distilbert_rows(prefix: str = '') -> list[Row]:
  layer = f'{prefix}transformer.layer.{{}}'
  return [
    Row(f'{prefix}embeddings.word_embeddings.weight', {'text/word': 'v d -> v d'}),
    Row(f'{prefix}embeddings.position_embeddings.weight', {'text/position': 'v d -> v d'}),
    *norm(f'{prefix}embeddings.LayerNorm', 'text/norm'),
    *(row for name in 'qkv' for row in heads(f'{layer}.attention.{name}_lin', f'text/blocks/attn/{name}')),
    *merge(f'{layer}.attention.out_lin', 'text/blocks/attn/out'),
    *norm(f'{layer}.sa_layer_norm', 'text/blocks/norm1'),
    *linear(f'{layer}.ffn.lin1', 'text/blocks/mlp/up'),
    *linear(f'{layer}.ffn.lin2', 'text/blocks/mlp/down'),
    *norm(f'{layer}.output_layer_norm', 'text/blocks/norm2'),
  ]


def bert_rows(prefix: str = '') -> list[Row]:
  layer, asked = f'{prefix}encoder.layer.{{}}', {'q': 'query', 'k': 'key', 'v': 'value'}
  return [
    Row(f'{prefix}embeddings.word_embeddings.weight', {'text/word': 'v d -> v d'}),
    Row(f'{prefix}embeddings.position_embeddings.weight', {'text/position': 'v d -> v d'}),
    Row(f'{prefix}embeddings.token_type_embeddings.weight', {'text/type': 'v d -> v d'}),
    *norm(f'{prefix}embeddings.LayerNorm', 'text/norm'),
    *(row for q, name in asked.items() for row in heads(f'{layer}.attention.self.{name}', f'text/blocks/attn/{q}')),
    *merge(f'{layer}.attention.output.dense', 'text/blocks/attn/out'),
    *norm(f'{layer}.attention.output.LayerNorm', 'text/blocks/norm1'),
    *linear(f'{layer}.intermediate.dense', 'text/blocks/mlp/up'),
    *linear(f'{layer}.output.dense', 'text/blocks/mlp/down'),
    *norm(f'{layer}.output.LayerNorm', 'text/blocks/norm2'),
  ]


def settings(shape: Shapes, text_encoder: str, up: str, prefix: str = '') -> dict:
  if shape.source.text_config is not None:
    return dict(text_encoder=text_encoder, text=vars(shape.source.text_config))
  words, width = shape(f'{prefix}embeddings.word_embeddings.weight', 2)
  text = dict(
    vocab_size=words,
    max_position_embeddings=shape(f'{prefix}embeddings.position_embeddings.weight', 2)[0],
    dim=width,
    hidden_dim=shape(prefix + up.format(0), 2)[0],
    n_layers=shape.depth(prefix + up),
    n_heads=shape.heads(width, 'text.n_heads'),
  )
  return dict(text_encoder=text_encoder, text=text)


def distilbert(shape: Shapes, prefix: str = '') -> dict:
  return settings(shape, 'distilbert', 'transformer.layer.{}.ffn.lin1.weight', prefix)


def bert(shape: Shapes) -> dict:
  values = settings(shape, 'bert', 'encoder.layer.{}.intermediate.dense.weight')
  return {**values, 'text': {'types': shape('embeddings.token_type_embeddings.weight', 2)[0], **values['text']}}


DISTILBERT = family.Family(
  'a DistilBERT',
  family.TEXT,
  ('embeddings.word_embeddings.weight', 'transformer.layer.0.attention.q_lin.weight'),
  lambda config: distilbert_rows(),
  distilbert,
  {'vocab_*': MASKED, 'embeddings.position_ids': 'a counter, not a weight'},
  folder=('model.safetensors', lambda config: config.text.to_hf()),
)
BERT = family.Family(
  'a BERT',
  family.TEXT,
  ('embeddings.word_embeddings.weight', 'encoder.layer.0.attention.self.query.weight'),
  lambda config: bert_rows(),
  bert,
  {
    'cls.*': MASKED,
    'pooler.*': 'a layer that BERT classifies by',
    'embeddings.position_ids': 'a counter, not a weight',
  },
  folder=('model.safetensors', lambda config: config.text.to_hf()),
)
