"""Weights in: a whole model out of the files that have its parts, or parts of a model that was just initialised."""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tvts_jax.convert import geometry, names
from tvts_jax.convert.families import FAMILIES
from tvts_jax.convert.load_report import ConvertError, Report
from tvts_jax.convert.names import PARTS, fits
from tvts_jax.convert.read_weights import build, open_source
from tvts_jax.convert.source import Source
from tvts_jax.convert.tensors import Tensor
from tvts_jax.models import tvts
from tvts_jax.models.tvts import TVTSConfig

UNSEEN = ('heads', 'n_heads', 'activation', 'eps', 'sorts')  # Settings of encoders that no shape tells.


def load_part(
  params: Mapping,
  config: TVTSConfig,
  part: str,
  path: str | os.PathLike,
  *,
  family: str = '',
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
    family: a key of FAMILIES, where the weights do not tell.
    allow_missing: patterns ('video/time_position', 'video/blocks/*') of parameters that may keep their values. One
      that proves needless is no error, but one that fits no parameter is.
    allow_unexpected: patterns of names in the file that may stay unused.
    cast: weights of a wider floating-point type become that of the parameters; narrower ones always do.
  """
  if part not in PARTS:
    raise ConvertError(f'part={part!r} is unknown; known: {", ".join(PARTS)}')
  source = open_source(path, family)
  require(source, (part,))
  check_patterns(config, (part,), allow_missing)
  how = (source, (part,), allow_missing, allow_unexpected, cast)
  rows = FAMILIES[source.family].rows(config)
  clips = geometry.clips(source, rows, config.video) if part == 'video' else config.video
  if clips == config.video:
    return load(params, config, *how)
  theirs, flat = dataclasses.replace(config, video=clips), names.flatten(params)
  flat |= {path: leaf for path, leaf in names.spec(theirs).items() if leaf.shape != flat[path].shape}
  params, report = load(names.unflatten(flat), theirs, *how)
  return params | {'video': jax.device_get(config.video.resized(params['video'], clips))}, report


def import_model(
  paths: str | os.PathLike | Sequence,
  settings: Mapping | None = None,
  *,
  family: str = '',
  size: str = '',
  seed: int = 0,
  allow_missing: Sequence[str] = (),
  allow_unexpected: Sequence[str] = (),
  cast: bool = False,
) -> tuple[TVTSConfig, dict, list[Report]]:
  """A model of all that is in some files → (config, params, a report for each).

  Args:
    paths: of a whole model, or of encoders. What no file has starts from the random numbers of `seed`.
    settings: of the model; they win over what the files show.
    family: a key of FAMILIES, where the files do not tell.
    size: of a new video encoder, by name, where no file has one.
    allow_missing, allow_unexpected, cast: as load_part.
  """
  if family and family not in FAMILIES:
    raise ConvertError(f'no layout is called {family!r}; known: {", ".join(FAMILIES)}')
  paths = [paths] if isinstance(paths, str | os.PathLike) else paths
  sources, settings = [open_source(path, family) for path in paths], settings or {}
  by_part, values = {}, {}
  for source in sources:
    for part in parts_of(source):
      if part in by_part:
        raise ConvertError(f'{by_part[part]} and {source} both have a {part} part; give one of them')
      by_part[part] = source
    values |= shown(source, settings)
  if size:
    values['video'] = {'size': size}
  elif 'video' not in by_part and not settings.get('video'):
    sizes = ', '.join(geometry.ViTConfig.SIZES)
    raise ConvertError(f'no file says how large the video encoder is; give its size: {sizes}')
  for name, given in settings.items():
    values[name] = values.get(name, {}) | given if name in ('video', 'text') else given
  config = build(TVTSConfig.from_dict, values, sources[0] if len(sources) == 1 else 'the geometry asked for')
  check_patterns(config, by_part, allow_missing)
  params, reports = names.unflatten(names.spec(config)), []
  if allow_missing:
    params = initial(config, seed, params)
  for source in sources:
    params, report = load(params, config, source, parts_of(source), allow_missing, allow_unexpected, cast)
    reports.append(report)
  return config, filled(params, config, seed), reports


def shown(source: Source, settings: Mapping) -> dict:
  """Settings of our model that a source shows."""
  if source.config is not None:
    return source.config.to_dict()
  given = {path.replace('/', '.'): value for path, value in names.flatten(settings).items()}
  require(source, ())
  return FAMILIES[source.family].settings(geometry.Shapes(source, given))


def filled(params: Mapping, config: TVTSConfig, seed: int) -> dict:
  """Parameters with fresh values for those that have none."""
  flat = names.flatten(params)
  hollow = {path for path, leaf in flat.items() if isinstance(leaf, jax.ShapeDtypeStruct)}
  if not hollow:
    return params
  fresh = names.flatten(initial(config, seed, set(map(names.part_of, hollow))))
  return names.unflatten({path: fresh[path] if path in hollow else leaf for path, leaf in flat.items()})


def initial(config: TVTSConfig, seed: int, parts: Iterable[str]):
  """Fresh parameters of some parts, on the host."""
  spec = tvts.batch_spec(config, 1, config.video.slots, 1)
  init = lambda key: {part: value for part, value in tvts.build(config).init(key, spec).items() if part in parts}
  return jax.device_get(jax.jit(init)(jax.random.key(seed)))


def parts_of(source: Source) -> tuple[str, ...]:
  """The parts of our model that a source has: all of its family but those of which it has no weight."""
  if not source.family:
    return ()
  family = FAMILIES[source.family]
  held = lambda part: any(name.startswith(family.optional.get(part, '')) for name in source.tensors)
  return tuple(filter(held, family.parts))


def has(path: str | os.PathLike, part: str) -> bool:
  """Whether a file or folder of weights has a part of our model."""
  return part in parts_of(open_source(path))


def require(source: Source, parts: Iterable[str]):
  lacking = [part for part in parts if part not in parts_of(source)]
  if lacking or not source.family:
    known = '' if source.family else f', such as {", ".join(list(source.tensors)[:3])}'
    has = f'has no {", ".join(lacking)} part for us' if lacking else 'is of no layout that is known'
    raise ConvertError(f'{source}{known} {has}; give another file')


def check_patterns(config: TVTSConfig, parts: Iterable[str], patterns: Iterable[str]):
  paths = [path for path in names.spec(config) if names.part_of(path) in parts]
  for pattern in patterns:
    if not any(fits(pattern, path) for path in paths):
      raise ConvertError(f'allow_missing={pattern!r} fits no parameter of {", ".join(parts)}')


def load(params, config, source: Source, parts, allow_missing, allow_unexpected, cast):
  """As load_part, for several parts at once and out of a source that is open."""
  family, params, spec = FAMILIES[source.family], names.flatten(params), names.spec(config)
  rows = [row for row in family.rows(config) if all(path in spec for path in row.ours)]
  others = {name for row in rows if row.part not in parts for _, name in names.layers(row, spec)}
  rows = [row for row in rows if row.part in parts]
  report = Report(str(source), unused=dict(source.unused), notes=list(source.notes))
  check_facts(config, source, parts, report)
  lacking = inflate(source, config, report)
  zeros = {}
  for path in sorted(spec.keys() - {path for row in rows for path in row.ours}):
    if names.part_of(path) not in parts:
      continue
    if any(fits(pattern, path) for pattern in family.zeros):
      zeros[path] = np.zeros(spec[path].shape, spec[path].dtype)
      report.notes.append(f'{path} is zero, as {family.title} has none')
    else:
      leave(report, path, path, family.new, allow_missing)
  widened = set()
  for row in rows:
    wanted, dtype = names.their_shape(row, params, config), params[next(iter(row.ours))].dtype
    for _, name in names.layers(row, params):
      if name not in source.tensors:
        leave(report, name, ', '.join(row.ours), family.new | lacking, allow_missing, *row.ours)
        continue
      tensor = source.tensors[name]
      reason = misfit(tensor, wanted, dtype, cast)
      ours = ', '.join(row.ours)
      place, text = (report.mismatched, f'({ours}) {reason}') if reason else (report.matched, ours)
      place[name] = text
      if tensor.dtype != dtype:
        widened.add(str(tensor.dtype))
  if widened and not report.mismatched:
    report.notes.append(f'weights of {", ".join(sorted(widened))} became those of the model')
  sort_leftovers(source, others, allow_unexpected, report)
  report.check()
  return names.unflatten(params | zeros | read(rows, source, params, config)), report


def leave(report: Report, name: str, ours: str, reasons: Mapping, allow_missing, *paths: str) -> None:
  """Says of a parameter that the source has not whether it may keep its value."""
  paths = paths or (name,)
  why = next((why for pattern, why in reasons.items() if fits(pattern, *paths)), None)
  allowed = next((pattern for pattern in allow_missing if fits(pattern, *paths)), None)
  if why is not None:
    report.kept[name] = f'{why}, so {ours} keeps its value'
  elif allowed is not None:
    report.kept[name] = f'missing as allowed by {allowed!r}, so {ours} keeps its value'
  else:
    report.missing[name] = f'({ours}) is missing'


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


def misfit(tensor: Tensor, shape: tuple[int, ...], dtype, cast: bool) -> str:
  """Why a tensor cannot be a parameter, or ''."""
  if tensor.shape != shape:
    return f'has shape {list(tensor.shape)} in the file, but {list(shape)} in the model'
  if tensor.dtype != dtype and not jnp.issubdtype(tensor.dtype, jnp.floating):
    return f'has type {tensor.dtype} in the file, which is no type of weights'
  if jnp.promote_types(tensor.dtype, dtype) != dtype and not cast:
    return f'has type {tensor.dtype} in the file, but {dtype} in the model, and is rounded only if cast is given'
  return ''


def sort_leftovers(source: Source, others: set[str], allow_unexpected, report: Report):
  """Says of every tensor in the file that no parameter wanted whether it may be there. others: those of other parts."""
  for name in source.tensors:
    allowed = [pattern for pattern in allow_unexpected if fits(pattern, name)]
    if name in report.matched or name in report.mismatched:
      continue
    if name in others:
      report.unused[name] = 'another part of the model'
    elif allowed:
      report.unused[name] = f'left out as allowed by {allowed[0]!r}'
    else:
      report.unexpected[name] = 'has no place in the model'


def check_facts(config: TVTSConfig, source: Source, parts, report: Report):
  """What no shape tells, such as another number of heads, spoils every number; it is compared where a file knows it."""
  facts = FAMILIES[source.family].facts(source)
  if source.config is not None:
    own = source.config
    facts = {part: {name: getattr(getattr(own, part), name, None) for name in UNSEEN} for part in ('video', 'text')}
    facts['sorter'] = {'sorter_heads': own.sorter_heads}
  elif source.text_config is not None:
    facts = {'text': {'n_heads': source.text_config.n_heads}}
  for part, values in facts.items():
    holder, prefix = (config, '') if part == 'sorter' else (getattr(config, part), f'{part}.')
    for name, theirs in values.items() if part in parts else ():
      if theirs is not None and theirs != (ours := getattr(holder, name, theirs)):
        report.mismatched[f'{prefix}{name}'] = f'is {theirs} in the file, but {ours} in the model'


def inflate(source: Source, config: TVTSConfig, report: Report) -> dict[str, str]:
  """Turns an image model into one of video; returns what of ours images do not have, and why."""
  name = 'patch_embed.proj.weight'
  image = source.tensors.get(name)
  if source.family != 'mae' or image is None or len(image.shape) != 4:
    return {}
  frames = config.video.tubelet
  width, *pixels = image.shape
  # Copied and not divided, as the paper's code does: an unmoving clip embeds to `frames` times what its image did.
  read = lambda: np.repeat(image.read()[:, :, None], frames, axis=2)
  source.tensors[name] = Tensor((width, pixels[0], frames, *pixels[1:]), image.dtype, read)
  report.notes.append(f'the kernel of images was copied into each of the {frames} frames of a tubelet')
  return {'video/time_position': 'images have no time'}
