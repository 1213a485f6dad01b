"""Our parameter paths and the names of published PyTorch weights, as tables that are read both ways.

A row says which of our parameters make up one of theirs. Each pattern turns ours into theirs, and backwards theirs
into ours; where several of ours make up one of theirs they lie one after the other along `axis`. `{}` in a name is
the layer, which is the leading axis of our parameters.

Letters: d width, h heads, c width of one head, i inputs, o outputs, v rows of a table, u·y·x frames and pixels of a
tubelet, r colours.
"""

import dataclasses
import fnmatch
import functools
from collections.abc import Mapping

import jax
import numpy as np
from einops import rearrange
from flax.traverse_util import flatten_dict, unflatten_dict

from tvts_jax.convert.load_report import ConvertError
from tvts_jax.models import tvts

PARTS = ('text', 'video', 'text_projection', 'video_projection', 'sorter')  # Of our model.

# A damaged config may ask for more than fits into memory.
MOST_LAYERS = 1000
MOST_VALUES = 2**40


def part_of(path: str) -> str:
  """The part of our model, one of PARTS, that a parameter is of."""
  return path.split('/')[0]


@dataclasses.dataclass(frozen=True)
class Row:
  theirs: str
  ours: Mapping[str, str]
  axis: int = 0

  @property
  def part(self) -> str:
    return part_of(next(iter(self.ours)))

  @property
  def layered(self) -> bool:
    return '{}' in self.theirs


def linear(theirs: str, ours: str, kernel: str = 'i o -> o i', bias: str = 'o -> o') -> list[Row]:
  return [Row(f'{theirs}.weight', {f'{ours}/kernel': kernel}), Row(f'{theirs}.bias', {f'{ours}/bias': bias})]


def heads(theirs: str, ours: str) -> list[Row]:
  return linear(theirs, ours, 'd h c -> (h c) d', 'h c -> (h c)')


def merge(theirs: str, ours: str) -> list[Row]:
  return linear(theirs, ours, 'h c d -> d (h c)')


def norm(theirs: str, ours: str) -> list[Row]:
  return [Row(f'{theirs}.weight', {f'{ours}/scale': 'd -> d'}), Row(f'{theirs}.bias', {f'{ours}/bias': 'd -> d'})]


@functools.cache
def spec(config: tvts.TVTSConfig) -> Mapping[str, jax.ShapeDtypeStruct]:
  """Shape and type of every parameter, by path."""
  batch = tvts.batch_spec(config, 1, config.video.slots, 1)
  shapes = flatten(jax.eval_shape(tvts.build(config).init, jax.random.key(0), batch))
  for path, leaf in shapes.items():
    if leaf.size > MOST_VALUES:
      raise ConvertError(f'parameter {path} would have {leaf.size} values; {MOST_VALUES} are the most')
  return shapes


def flatten(params) -> dict:
  return flatten_dict(params, sep='/')


def unflatten(flat: Mapping) -> dict:
  return unflatten_dict(flat, sep='/')


def fits(pattern: str, *candidates: str) -> bool:
  return any(fnmatch.fnmatchcase(candidate, pattern) for candidate in candidates)


def layer_shape(row: Row, path: str, shapes: Mapping) -> tuple[int, ...]:
  return tuple(shapes[path].shape[row.layered :])


def piece_shapes(row: Row, shapes: Mapping, config: tvts.TVTSConfig) -> list[tuple[int, ...]]:
  """The shape that each of our parameters has within theirs."""
  result = []
  for path, pattern in row.ours.items():
    # A view of one number: nothing of this size is ever in memory.
    blank = np.broadcast_to(np.zeros((), np.int8), layer_shape(row, path, shapes))
    result.append(rearrange(blank, pattern, **lengths(pattern, blank.shape, config)).shape)
  return result


def lengths(pattern: str, shape: tuple[int, ...], config: tvts.TVTSConfig) -> dict[str, int]:
  """The length of each letter of a pattern, for an array of ours with this shape."""
  ours = pattern.split(' -> ')[0]
  if '(' in ours:
    sizes = dict(u=config.video.tubelet, y=config.video.patch, x=config.video.patch, r=3)
    return {letter: size for letter, size in sizes.items() if letter in ours}
  return dict(zip(ours.split(), shape, strict=True))


def their_shape(row: Row, shapes: Mapping, config: tvts.TVTSConfig) -> tuple[int, ...]:
  pieces = piece_shapes(row, shapes, config)
  shape = list(pieces[0])
  shape[row.axis] = sum(piece[row.axis] for piece in pieces)
  return tuple(shape)


def to_theirs(row: Row, arrays: list[np.ndarray], config: tvts.TVTSConfig) -> np.ndarray:
  """Our parameters of one layer → theirs."""
  pieces = [
    rearrange(array, pattern, **lengths(pattern, array.shape, config))
    for array, pattern in zip(arrays, row.ours.values(), strict=True)
  ]
  # Contiguous, because safetensors writes the memory of an array as it lies.
  return np.ascontiguousarray(np.concatenate(pieces, row.axis) if len(pieces) > 1 else pieces[0])


def to_ours(row: Row, array: np.ndarray, shapes: Mapping, config: tvts.TVTSConfig) -> dict[str, np.ndarray]:
  """Their parameter → ours of one layer, by path."""
  ends = np.cumsum([shape[row.axis] for shape in piece_shapes(row, shapes, config)])
  result = {}
  for (path, pattern), piece in zip(row.ours.items(), np.split(array, ends[:-1], row.axis), strict=True):
    ours, theirs = pattern.split(' -> ')
    sizes = lengths(pattern, layer_shape(row, path, shapes), config)
    result[path] = rearrange(piece, f'{theirs} -> {ours}', **sizes)
  return result


def layers(row: Row, shapes: Mapping) -> list[tuple[tuple[int, ...], str]]:
  """The index of each layer into our parameters, and its name of theirs."""
  if not row.layered:
    return [((), row.theirs)]
  depth = shapes[next(iter(row.ours))].shape[0]
  if depth > MOST_LAYERS:
    raise ConvertError(f'a model of {depth} layers ({row.theirs}) is not converted; {MOST_LAYERS} are the most')
  return [((layer,), row.theirs.format(layer)) for layer in range(depth)]


def apply_table(rows: list[Row], config: tvts.TVTSConfig, flat: Mapping) -> dict[str, np.ndarray]:
  return {
    name: to_theirs(row, [flat[path][index] for path in row.ours], config)
    for row in rows
    for index, name in layers(row, flat)
  }


def check_params(config: tvts.TVTSConfig, params) -> dict[str, np.ndarray]:
  """Parameters by path, on the host, if they are those of `config`."""
  flat, wanted = flatten(params), spec(config)
  for path in sorted(set(flat) | set(wanted)):
    if path not in flat or path not in wanted:
      raise ConvertError(f'parameter {path} is {"missing" if path in wanted else "unknown to this model config"}')
    ours, theirs = flat[path], wanted[path]
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
      raise ConvertError(
        f'parameter {path} is {ours.dtype}{list(ours.shape)}, but the model config makes it '
        f'{theirs.dtype}{list(theirs.shape)}'
      )
  return {path: np.asarray(leaf) for path, leaf in flat.items()}
