"""What is known of each layout of published weights.

A new one is a file beside this one and a line in FAMILIES. Rows are read both ways, so what can be imported can be
exported.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping

from tvts_jax.convert.geometry import Shapes
from tvts_jax.convert.names import Row, linear, norm
from tvts_jax.convert.source import Source
from tvts_jax.models.tvts import TVTSConfig

VIDEO, TEXT, SORTER = ('video',), ('text',), ('sorter',)
ENCODERS = (*VIDEO, *TEXT, 'video_projection', 'text_projection')
WHOLE = (*ENCODERS, *SORTER)


@dataclasses.dataclass(frozen=True)
class Family:
  title: str
  parts: tuple[str, ...]  # Of our model, that it has.
  landmarks: tuple[str, ...]  # Tensors by which it is known; () where only the user can tell, ...
  rows: Callable[[TVTSConfig], list[Row]]
  settings: Callable[[Shapes], dict]  # Of our model, as far as a file tells them or all of its family share them.
  unused: Mapping[str, str] = dataclasses.field(default_factory=dict)  # What it holds beside → why it may stay there.
  # Settings of its parts, as `settings` has them, that fit any shape and spoil every number where they are others.
  facts: Callable[[Source], dict] = lambda source: {}
  zeros: tuple[str, ...] = ()  # Patterns of our parameters that it has not because they are zero.
  new: Mapping[str, str] = dataclasses.field(default_factory=dict)  # Those that keep their start → why it lacks them.
  optional: Mapping[str, str] = dataclasses.field(default_factory=dict)  # Parts that a file may lack → their prefix.
  like: str = ''  # ... and then the family that has the same names.
  wrap: str = ''  # The key under which a file holds the weights.
  prefix: str = ''  # What a file puts before their names.
  extra: Mapping[str, float] = dataclasses.field(default_factory=dict)  # Numbers that a file of it needs besides.
  # For families that are folders: the file of the weights, and what the config beside it holds.
  folder: tuple[str, Callable[[TVTSConfig], dict]] | None = None


def fused(theirs: str, ours: str, weight: str = 'qkv.weight', bias: str = 'qkv.bias', out: str = 'proj') -> list[Row]:
  """An attention whose queries, keys and values are one matrix."""
  return [
    Row(f'{theirs}.{weight}', {f'{ours}/{name}/kernel': 'd h c -> (h c) d' for name in 'qkv'}),
    Row(f'{theirs}.{bias}', {f'{ours}/{name}/bias': 'h c -> (h c)' for name in 'qkv'}),
    *linear(f'{theirs}.{out}', f'{ours}/out', 'h c d -> d (h c)'),
  ]


def block(theirs: str, ours: str, norms: Iterable[str], mlp: Iterable[str], attention: list[Row]) -> list[Row]:
  (norm1, norm2), (up, down) = norms, mlp
  return [
    *norm(f'{theirs}.{norm1}', f'{ours}/norm1'),
    *attention,
    *norm(f'{theirs}.{norm2}', f'{ours}/norm2'),
    *linear(f'{theirs}.{up}', f'{ours}/mlp/up'),
    *linear(f'{theirs}.{down}', f'{ours}/mlp/down'),
  ]


def timm_block(theirs: str, ours: str) -> list[Row]:
  return block(theirs, ours, ('norm1', 'norm2'), ('mlp.fc1', 'mlp.fc2'), fused(f'{theirs}.attn', f'{ours}/attn'))


def clip_block(theirs: str, ours: str, **how) -> list[Row]:
  """That of OpenAI's CLIP; how: as fused, where the attention is another."""
  how = how or dict(weight='in_proj_weight', bias='in_proj_bias', out='out_proj')
  attention = fused(f'{theirs}.attn', f'{ours}/attn', **how)
  return block(theirs, ours, ('ln_1', 'ln_2'), ('mlp.c_fc', 'mlp.c_proj'), attention)


def image_patches(theirs: str, biased: bool = True) -> list[Row]:
  """A kernel without time, which is ours of a tubelet of one frame."""
  return linear(theirs, 'video/embed', '(y x r) d -> d r y x')[: 1 + biased]
