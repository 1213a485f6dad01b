"""The whole model on one page: a video encoder, a text encoder, a common space and the sorter.

Shapes: B clips, N visible tubelets, P pixel values of a tubelet, K transcripts, L word pieces, D width of the
video tokens, E width of the text, C width of the common space.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange

from tvts_jax.errors import UserError
from tvts_jax.models import attention, layers
from tvts_jax.models.encoders.divided import DividedConfig
from tvts_jax.models.encoders.encoder import VideoConfig
from tvts_jax.models.encoders.frames import FramesConfig
from tvts_jax.models.encoders.timesformer import TimeSformerConfig
from tvts_jax.models.encoders.vit import ViTConfig
from tvts_jax.models.sorter import Sorter
from tvts_jax.models.texts.bert import BertConfig
from tvts_jax.models.texts.clip import ClipTextConfig
from tvts_jax.models.texts.distilbert import DistilBertConfig
from tvts_jax.models.texts.text import TextConfig
from tvts_jax.roles import setting

# Configs of the encoders by name; encoders/encoder.py and texts/text.py say all that is asked of one.
ENCODERS = {'vit': ViTConfig, 'divided': DividedConfig, 'timesformer': TimeSformerConfig, 'frames': FramesConfig}
TEXTS = {'distilbert': DistilBertConfig, 'bert': BertConfig, 'clip': ClipTextConfig}

# The first part of the paths of parameters that belong to an objective's head.
HEADS = 'heads_'

DTYPES = ('bfloat16', 'float16', 'float32', 'float64')

PROJECTIONS = {
  'relu_linear': 'transcripts pass ReLU and a linear layer before they are averaged, as in the published weights',
  'linear': 'the plain mean of the transcripts passes a linear layer, as the paper writes it',
  'clip': 'clips and transcripts pass a matrix each, and the sorter reads what comes out, as in CLIP and TVTSv2',
  'none': 'the encoders share one space already',
}


@dataclasses.dataclass(frozen=True)
class TVTSConfig:
  video: VideoConfig = ViTConfig.named('B/16')
  text: TextConfig = DistilBertConfig()
  encoder: str = 'vit'
  text_encoder: str = 'distilbert'
  transcripts: int = 4  # K.
  sort_depth: int = 2
  sort_heads: int | None = None  # As many as the video encoder has; behind projection='clip', one for 64 values.
  stop_gradient: bool = setting(True, 'loads')  # From the sort loss toward the text encoder.
  common: int = 256  # C.
  projection: str = 'relu_linear'
  start: str = setting('published', 'loads')  # How parameters start that no pretrained weights replace.
  dtype: str = setting('bfloat16', 'loads')  # Of the computation; parameters, norms, softmax and losses are float32.
  param_dtype: str = setting('float32', 'loads')
  scan: bool = setting(True, 'resume', 'loads')  # One compiled block, run in a loop; changes no number.
  remat: str = setting('none', 'resume', 'loads')  # What the backward pass recomputes; changes no number.
  attention: str = setting('auto', 'resume', 'loads')  # The kernel, one of attention.KERNELS; changes rounding alone.

  @classmethod
  def from_dict(cls, values) -> 'TVTSConfig':
    """From nested plain values; `video` may name a `size` and change what it likes of it."""
    values = dict(values)
    video, text = dict(values.pop('video', {'size': 'B/16'})), dict(values.pop('text', {}))
    encoder = ENCODERS[known('encoder', values.get('encoder', cls.encoder), ENCODERS)]
    text_encoder = TEXTS[known('text_encoder', values.get('text_encoder', cls.text_encoder), TEXTS)]
    video_maker = encoder.named if 'size' in video else encoder
    for part, maker, given in (('video', encoder, video), ('text', text_encoder, text), ('model', cls, values)):
      names = {field.name for field in dataclasses.fields(maker)} | ({'size'} if part == 'video' else set())
      if unknown := sorted(set(given) - names):
        raise UserError(f'{part} has no setting {unknown[0]!r}; it has {", ".join(sorted(names))}')
    return cls(video=video_maker(**video), text=text_encoder(**text), **values)

  def to_dict(self) -> dict:
    return dataclasses.asdict(self)

  @property
  def how(self) -> dict:
    """What each part is told of how to compute, and of how its parameters start."""
    types = dict(dtype=jnp.dtype(self.dtype), param_dtype=jnp.dtype(self.param_dtype))
    return dict(**types, scan=self.scan, remat=self.remat, start=layers.STARTS[self.start])

  @property
  def space(self) -> int:
    """C, the width of the common space."""
    return self.video.width if self.projection == 'none' else self.common

  @property
  def sort_width(self) -> int:
    return self.common if self.projection == 'clip' else self.video.width

  @property
  def sorter_heads(self) -> int:
    return self.sort_heads or (max(1, self.common // 64) if self.projection == 'clip' else self.video.heads)

  def __post_init__(self):
    tables = {'encoder': ENCODERS, 'text_encoder': TEXTS, 'projection': PROJECTIONS, 'start': layers.STARTS}
    tables |= {'remat': layers.REMAT_POLICIES, 'attention': attention.KERNELS, 'dtype': DTYPES, 'param_dtype': DTYPES}
    for name, table in tables.items():
      known(name, getattr(self, name), table)
    if self.projection == 'none' and self.video.width != self.text.dim:
      raise UserError(
        f'model.projection="none" needs encoders of one width, but video.width={self.video.width} and '
        f'text.dim={self.text.dim}; choose another projection'
      )
    if self.sort_width % self.sorter_heads:
      name = 'model.common' if self.projection == 'clip' else 'video.width'
      raise UserError(f'{name}={self.sort_width} is not a multiple of model.sort_heads={self.sorter_heads}')


def known(name: str, value: str, table):
  if value not in table:
    raise UserError(f'model.{name}={value!r} is unknown; known: {", ".join(table)}')
  return value


class TVTS(nn.Module):
  config: TVTSConfig
  made: tuple[tuple[str, Callable], ...] = ()  # Heads of objectives, by name, as functions of the config.

  def setup(self):
    config, how = self.config, self.config.how
    types = {name: how[name] for name in ('dtype', 'param_dtype')}
    self.video = config.video.module(**how)
    self.text = config.text.module(**how)
    self.sorter = Sorter(
      config.transcripts,
      config.sort_width,
      config.sorter_heads,
      config.sort_depth,
      stop_gradient=config.stop_gradient,
      **how,
    )
    if config.projection != 'none':
      linear = lambda: layers.Linear(config.common, layers.uniform_init, **types, biased=config.projection != 'clip')
      self.video_projection, self.text_projection = linear(), linear()
    self.heads = {name: make(config) for name, make in self.made}  # Their parameters are below HEADS + name.

  def __call__(self, batch, train: bool = False) -> dict[str, jax.Array]:
    video = self.encode_video(batch, train)
    text_BxKxE = self.encode_text(batch['tokens'], batch['token_mask'], train)
    sort_BxKxD = self.sorter.tokens(*self.sorted(video.pop('sorted'), text_BxKxE), train)
    outputs = {
      **video,
      'text_cls': text_BxKxE,
      'text_embed': self.embed_text(text_BxKxE),
      'transcript_embed': self.embed_transcripts(text_BxKxE),
      'sort_tokens': sort_BxKxD,
      'sort_logits': self.sorter.place(sort_BxKxD),
    }
    for head in self.heads.values():
      outputs |= head(outputs, batch, self.encode_part, train)
    return outputs

  def encode_video(self, batch, train: bool = False, slots: int | None = None) -> dict[str, jax.Array]:
    """Tokens [B, 1+N, D], that of the clip first, what the sorter reads of them, and the clip in the common space."""
    video_BxVxD, sorted_BxWxD = self.video(batch['patches'], batch['positions'], train, slots)
    return {
      'video_tokens': video_BxVxD,
      'video_embed': self.embed_video(video_BxVxD[:, 0]),
      'sorted': sorted_BxWxD,
    }

  def encode_part(self, patches_BxNxP, positions_BxN, train: bool, slots: int | None):
    """The same of tubelets that fill so many time slots; None: all of a clip's."""
    return self.encode_video({'patches': patches_BxNxP, 'positions': positions_BxN}, train, slots)

  def sorted(self, video_BxWxD, text_BxKxE):
    """The tokens of a clip and its transcripts as the sorter reads them."""
    if self.config.projection != 'clip':
      return video_BxWxD, text_BxKxE
    return self.video_projection(video_BxWxD), self.text_projection(text_BxKxE)

  def encode_text(self, tokens_BxKxL, mask_BxKxL, train: bool = False):
    """The vector of each transcript by itself, [B, K, E]."""
    flat = lambda x_BxKxL: rearrange(x_BxKxL, 'b k l -> (b k) l')
    text_RxE = self.text(flat(tokens_BxKxL), flat(mask_BxKxL), train)
    return rearrange(text_RxE, '(b k) e -> b k e', b=tokens_BxKxL.shape[0])

  def embed_video(self, cls_BxD):
    """A clip in the common space, [B, C], not normalised."""
    projected = cls_BxD if self.config.projection == 'none' else self.video_projection(cls_BxD)
    return projected.astype(layers.wide(projected.dtype))

  def embed_text(self, cls_BxKxE):
    """All K transcripts of a clip as one point of the common space, [B, C], not normalised."""
    cls_BxKxE = cls_BxKxE.astype(layers.wide(cls_BxKxE.dtype))
    if self.config.projection == 'relu_linear':
      # Averaging first is the same, since only a linear layer stands behind the average.
      cls_BxKxE = jax.nn.relu(cls_BxKxE)
    mean_BxE = cls_BxKxE.mean(axis=1)
    projected = mean_BxE if self.config.projection == 'none' else self.text_projection(mean_BxE)
    return projected.astype(mean_BxE.dtype)

  def embed_transcripts(self, cls_BxKxE):
    """Each transcript as a point of the common space, [B, K, C], not normalised."""
    each_BKxC = self.embed_text(rearrange(cls_BxKxE, 'b k e -> (b k) 1 e'))
    return rearrange(each_BKxC, '(b k) c -> b k c', b=cls_BxKxE.shape[0])


class Model(NamedTuple):
  """What a trainer needs to know of a model; that it is written in Flax it need not."""

  config: TVTSConfig
  init: Callable  # (rng, spec) → params, a plain nested dict; spec: the shapes and types of a batch.
  apply: Callable  # (params, batch, rng, train) → outputs, as TVTS.__call__ documents them.
  embed_video: Callable  # (params, batch) → {'video_tokens': [B, 1+N, D], 'video_embed': [B, C]}; reads no text.
  embed_text: Callable  # (params, tokens [B, K, L], mask) → [B, C], the K texts as one point; reads no video.


def batch_spec(config: TVTSConfig, batch: int, visible: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes and types of the part of a batch that the model reads; `length` in word pieces."""
  shape = jax.ShapeDtypeStruct
  texts = (batch, config.transcripts, length)
  return {
    'patches': shape((batch, visible, config.video.pixels), jnp.uint8),
    'positions': shape((batch, visible), jnp.int32),
    'tokens': shape(texts, jnp.int32),
    'token_mask': shape(texts, jnp.bool_),
    'order': shape(texts[:2], jnp.int32),
  }


def build(config: TVTSConfig, heads: Mapping[str, Callable] | None = None) -> Model:
  """`heads`: of the objectives that have parameters of their own, objectives.build(...).heads."""
  module = TVTS(config, tuple((heads or {}).items()))

  def init(rng, spec):
    batch = {name: jnp.zeros((1, *x.shape[1:]), x.dtype) for name, x in spec.items()}
    return module.init(rng, batch)['params']

  def apply(params, batch, rng=None, train=False):
    return module.apply({'params': params}, batch, train, rngs=None if rng is None else {'dropout': rng})

  def embed_video(params, batch):
    video = module.apply({'params': params}, batch, method='encode_video')
    return {name: video[name] for name in ('video_tokens', 'video_embed')}

  def embed_text(params, tokens_BxKxL, mask_BxKxL):
    embed = lambda module: module.embed_text(module.encode_text(tokens_BxKxL, mask_BxKxL))
    return module.apply({'params': params}, method=embed)

  return Model(config, init, *(as_set(config, function) for function in (apply, embed_video, embed_text)))


def as_set(config: TVTSConfig, function: Callable) -> Callable:
  """The function, and backward passes that it traces, with the attention that the config names. With dtype='float32'
  matmuls multiply in full float32, where accelerators would round to bfloat16 or TF32."""
  function = attention.using(config.attention)(function)
  return jax.default_matmul_precision('highest')(function) if config.dtype == 'float32' else function
