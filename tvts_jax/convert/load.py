"""Weights in: a whole model out of one file, or parts of a model that was just initialised."""

import dataclasses
import fnmatch
import os
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tvts_jax.convert import geometry, names
from tvts_jax.convert.load_report import ConvertError, Report
from tvts_jax.convert.read_weights import Source, build, is_image_model, open_source
from tvts_jax.convert.tensors import Tensor
from tvts_jax.models import tvts
from tvts_jax.models.tvts import TVTSConfig

PARTS = tuple(names.PREFIXES)

# The parts of our model that each kind of source has.
PROVIDES = {'tvts': PARTS, 'mae': ('video',), 'distilbert': ('text',), 'unknown': ()}


def load_part(
  params: Mapping,
  config: TVTSConfig,
  part: str,
  path: str | os.PathLike,
  *,
  allow_missing: Sequence[str] = (),
  allow_unexpected: Sequence[str] = (),
  cast: bool = False,
) -> tuple[dict, Report]:
  """`params` with one part taken from a file or folder, and the report of it; raises ConvertError.

  An image model (ImageMAE) is inflated: every frame of a tubelet gets a copy of its kernel, and time keeps its
  initial embedding. Positions of clips of another length or image size are resized. Leaves that are not loaded are
  returned as given, so that a caller may pass `jax.ShapeDtypeStruct`s for those that the file replaces. Loaded leaves
  are arrays on the host.

  Args:
    params: parameters of a model of `config`, nested by name.
    part: 'video', 'text', 'sorter', 'video_projection' or 'text_projection'.
    path: a PyTorch checkpoint, a safetensors file, or a folder of either beside its config.json.
    allow_missing: patterns ('video/time_position', 'video/blocks/*') of parameters that may keep their values. One
      that proves needless is no error, but one that fits no parameter is.
    allow_unexpected: patterns of names in the file that may stay unused.
    cast: weights of another floating-point type become that of the parameters.
  """
  if part not in PARTS:
    raise ConvertError(f'part={part!r} is unknown; known: {", ".join(PARTS)}')
  source = open_source(path)
  require(source, (part,))
  check_patterns(config, (part,), allow_missing)
  how = (source, (part,), allow_missing, allow_unexpected, cast)
  clips = geometry.clips(source, config.video) if part == 'video' else config.video
  if clips == config.video:
    return load(params, config, *how)
  theirs, flat = dataclasses.replace(config, video=clips), names.flatten(params)
  flat |= {path: leaf for path, leaf in names.spec(theirs).items() if leaf.shape != flat[path].shape}
  params, report = load(names.unflatten(flat), theirs, *how)
  return params | {'video': jax.device_get(config.video.resized(params['video'], clips))}, report


def import_tvts(
  path: str | os.PathLike,
  settings: Mapping | None = None,
  *,
  allow_missing: Sequence[str] = (),
  allow_unexpected: Sequence[str] = (),
  cast: bool = False,
) -> tuple[TVTSConfig, dict, Report]:
  """A whole TVTS model → (config, params, report). `settings` win over the geometry that the file shows."""
  source, settings = open_source(path), settings or {}
  require(source, PARTS)
  if source.config is not None:
    values = source.config.to_dict()
    for name, given in settings.items():
      values[name] = values[name] | given if name in ('video', 'text') else given
  else:
    values = geometry.whole(source, settings)
    for part, name in (('video', 'heads'), ('text', 'n_heads')):
      if name not in settings.get(part, {}):
        source.notes.append(f'{part}.{name}={values[part][name]} follows from the width, since no shape tells it')
  config = build(TVTSConfig.from_dict, values, source)
  check_patterns(config, PARTS, allow_missing)
  # Fresh values are needed only where some may be missing.
  params = initial(config, seed=0) if allow_missing else names.unflatten(names.spec(config))
  params, report = load(params, config, source, PARTS, allow_missing, allow_unexpected, cast)
  return config, params, report


def import_parts(
  paths: Mapping,
  settings: Mapping | None = None,
  *,
  size: str = '',
  seed: int = 0,
  allow_missing: Sequence[str] = (),
  allow_unexpected: Sequence[str] = (),
  cast: bool = False,
) -> tuple[TVTSConfig, dict, list[Report]]:
  """A new model around encoders that exist → (config, params, a report for each).

  `paths` are those of 'video', 'text' or both; what no file fills starts from the random numbers of `seed`.
  `size` and `settings` win over the geometry that the files show.
  """
  sources = {part: open_source(path) for part, path in paths.items()}
  values = dict(settings or {})
  for part, infer in (('video', geometry.video), ('text', geometry.text)):
    given = values.get(part, {})
    if part in sources:
      require(sources[part], (part,))
    if part == 'video' and size:
      values[part] = {'size': size} | given
    elif part in sources:
      values[part] = infer(sources[part], given)
    elif part == 'video' and not given:
      sizes = ', '.join(geometry.ViTConfig.SIZES)
      raise ConvertError(f'no file says how large the video encoder is; give its size: {sizes}')
  config = build(TVTSConfig.from_dict, values, 'the geometry asked for')
  check_patterns(config, sources, allow_missing)
  params, reports = initial(config, seed), []
  for part, source in sources.items():
    params, report = load(params, config, source, (part,), allow_missing, allow_unexpected, cast)
    reports.append(report)
  return config, params, reports


def initial(config: TVTSConfig, seed: int):
  """Fresh parameters, on the host."""
  spec = tvts.batch_spec(config, 1, config.video.slots, 1)
  return jax.device_get(jax.jit(lambda key: tvts.build(config).init(key, spec))(jax.random.key(seed)))


def require(source: Source, parts: Iterable[str]):
  lacking = [part for part in parts if part not in PROVIDES[source.kind]]
  if lacking:
    known = f', such as {", ".join(list(source.tensors)[:3])}' if source.kind == 'unknown' else ''
    raise ConvertError(f'{source}{known} has no {", ".join(lacking)} part for us; give another file')


def check_patterns(config: TVTSConfig, parts: Iterable[str], patterns: Iterable[str]):
  for pattern in patterns:
    if not any(fits(pattern, row.theirs, *row.ours) for row in names.table(config, parts)):
      raise ConvertError(f'allow_missing={pattern!r} fits no parameter of {", ".join(parts)}')


def load(params, config, source: Source, parts, allow_missing, allow_unexpected, cast):
  """As load_part, for several parts at once and out of a source that is open."""
  params, rows = names.flatten(params), names.table(config, parts)
  report = Report(str(source), unused=dict(source.unused), notes=list(source.notes))
  check_heads(config, source, parts, report)
  absent = inflate(source, config, report)
  for row in rows:
    wanted, dtype = names.their_shape(row, params, config), params[next(iter(row.ours))].dtype
    layers, ours = names.layers(row, params), ', '.join(row.ours)
    for _, name in layers:
      allowed = [pattern for pattern in allow_missing if fits(pattern, name, row.theirs, *row.ours)]
      if name in source.tensors:
        reason = misfit(source.tensors[name], wanted, dtype, cast)
        place, text = (report.mismatched, f'({ours}) {reason}') if reason else (report.matched, ours)
      elif row.theirs in absent:
        place, text = report.kept, f'{absent[row.theirs]}, so {ours} keeps its value'
      elif allowed:
        place, text = report.kept, f'missing as allowed by {allowed[0]!r}, so {ours} keeps its value'
      else:
        place, text = report.missing, f'({ours}) is missing'
      place[name] = text
  sort_leftovers(source, parts, allow_unexpected, report)
  report.check()
  return names.unflatten(params | read(rows, source, params, config)), report


def read(rows, source: Source, params, config) -> dict[str, np.ndarray]:
  """All that the source has of these rows, by path."""
  loaded = {}
  for row in rows:
    layers = names.layers(row, params)
    present = [(index, name) for index, name in layers if name in source.tensors]
    for path in row.ours if present else ():
      # Layers that are missing keep their values; if there are none, the array need not exist yet.
      complete = len(present) == len(layers)
      loaded[path] = np.empty(params[path].shape, params[path].dtype) if complete else np.array(params[path])
    for index, name in present:
      for path, piece in names.to_ours(row, source.tensors[name].read(), params, config).items():
        loaded[path][index] = piece
  return loaded


def fits(pattern: str, *candidates: str) -> bool:
  return any(fnmatch.fnmatchcase(candidate, pattern) for candidate in candidates)


def misfit(tensor: Tensor, shape: tuple[int, ...], dtype, cast: bool) -> str:
  """Why a tensor cannot be a parameter, or ''."""
  if tensor.shape != shape:
    return f'has shape {list(tensor.shape)} in the file, but {list(shape)} in the model'
  if tensor.dtype != dtype and not jnp.issubdtype(tensor.dtype, jnp.floating):
    return f'has type {tensor.dtype} in the file, which is no type of weights'
  if tensor.dtype != dtype and not cast:
    return f'has type {tensor.dtype} in the file, but {dtype} in the model, and is converted only if cast is given'
  return ''


def sort_leftovers(source: Source, parts, allow_unexpected, report: Report):
  """Says of every tensor in the file that no parameter wanted whether it may be there."""
  others = tuple(prefix for part, prefix in names.PREFIXES.items() if part not in parts)
  for name in source.tensors:
    allowed = [pattern for pattern in allow_unexpected if fits(pattern, name)]
    if name in report.matched or name in report.mismatched:
      continue
    if name.startswith(others):
      report.unused[name] = 'another part of the model'
    elif allowed:
      report.unused[name] = f'left out as allowed by {allowed[0]!r}'
    else:
      report.unexpected[name] = 'has no place in the model'


def check_heads(config: TVTSConfig, source: Source, parts, report: Report):
  """Another number of heads fits every shape and spoils every number, so it is compared where a file knows it."""
  pairs = []
  if source.config is not None:
    sorting, own_sorting = (each.sort_heads or each.video.heads for each in (source.config, config))
    pairs += [('video', 'video.heads', source.config.video.heads, config.video.heads)]
    pairs += [('sorter', 'sort_heads', sorting, own_sorting)]
  text_config = source.config.text if source.config is not None else source.text_config
  if text_config is not None:
    pairs += [('text', 'text.n_heads', text_config.n_heads, config.text.n_heads)]
  for part, setting, theirs, ours in pairs:
    if part in parts and theirs != ours:
      report.mismatched[setting] = f'is {theirs} in the file, but {ours} in the model'


def inflate(source: Source, config: TVTSConfig, report: Report) -> dict[str, str]:
  """Turns an image model into one of video; returns what of the published model images do not have, and why."""
  if source.kind != 'mae' or not is_image_model(source):
    return {}
  name = names.PREFIXES['video'] + 'patch_embed.proj.weight'
  image, frames = source.tensors[name], config.video.tubelet
  width, *pixels = image.shape
  # Copied and not divided, as the paper's code does: an unmoving clip embeds to `frames` times what its image did.
  read = lambda: np.repeat(image.read()[:, :, None], frames, axis=2)
  source.tensors[name] = Tensor((width, pixels[0], frames, *pixels[1:]), image.dtype, read)
  report.notes.append(f'the kernel of images was copied into each of the {frames} frames of a tubelet')
  return {names.PREFIXES['video'] + 'temporal_embed': 'images have no time'}
