"""Opens any file or folder that may hold weights for us, and says what it is.

Files are told apart by their contents, never by their names.
"""

import fnmatch
import json
import pathlib
from collections.abc import Iterator

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from tvts_jax.convert import names, pth
from tvts_jax.convert.families import FAMILIES
from tvts_jax.convert.load_report import ConvertError
from tvts_jax.convert.source import Source
from tvts_jax.convert.tensors import Tensor
from tvts_jax.convert.unpickle import Inert
from tvts_jax.errors import UserError
from tvts_jax.files import local
from tvts_jax.models.tvts import TEXTS, TVTSConfig

FORMAT_VERSION = 1
# Weights of a folder, and the config that says what they are.
WEIGHT_FILES = {
  'model.safetensors': 'config.json',
  'pytorch_model.bin': 'config.json',
  'open_clip_model.safetensors': 'open_clip_config.json',
  'open_clip_pytorch_model.bin': 'open_clip_config.json',
}

# Where checkpoints keep their weights, among optimizer states and other things.
STATE_KEYS = ('state_dict', 'teacher', 'model', 'module')

# Our own config beside the weights, in files that are not a folder: they know their heads, which no shape tells.
CONFIG_KEY = 'tvts_config'
LAYOUT = 'layout'  # In it, the family whose names the weights have.

SAFETENSORS_TYPES = {
  **{'F64': np.float64, 'F32': np.float32, 'F16': np.float16, 'BF16': ml_dtypes.bfloat16, 'BOOL': np.bool_},
  **{'I64': np.int64, 'I32': np.int32, 'I16': np.int16, 'I8': np.int8},
  **{'U64': np.uint64, 'U32': np.uint32, 'U16': np.uint16, 'U8': np.uint8},
}

# What models within others, and within DistributedDataParallel, put before the names of their weights.
WRAPPERS = ('module.', 'backbone.', 'distilbert.', 'bert.')


def open_source(path, family: str = '') -> Source:
  """family: a key of FAMILIES, where the weights do not tell."""
  path = local(path)
  return open_folder(path, family) if path.is_dir() else open_file(path, family)


def open_folder(folder: pathlib.Path, family: str = '') -> Source:
  found = [folder / name for name in WEIGHT_FILES if (folder / name).is_file()]
  if not folder.exists():
    raise ConvertError(f'{folder} is not there; name a folder of weights, or the work directory of a run')
  if not found:
    raise ConvertError(f'{folder} has no weights; a folder of weights holds {" or ".join(WEIGHT_FILES)}')
  path = folder / WEIGHT_FILES[found[0].name]
  if not path.exists():
    raise ConvertError(f'{folder} has no {path.name}, which says what its weights are')
  config = read_json(path)
  ours = config.get('model_type') == 'tvts'
  if path.name == 'open_clip_config.json':
    family = family or 'openclip'
  source = open_file(found[0], family, layout='tvts' if ours else '')
  source.path = folder
  if ours:
    source.config = our_config(config, path)
  elif maker := next((each for each in TEXTS.values() if each.HF_SAYS['model_type'] == config.get('model_type')), None):
    source.text_config = build(maker.from_hf, config, path)
  else:
    source.beside = config
  return source


def read_json(path: pathlib.Path) -> dict:
  try:
    values = json.loads(path.read_text('utf-8'))
  except (ValueError, RecursionError) as error:
    raise ConvertError(f'{path} is damaged: {error}; get the file again') from error
  if not isinstance(values, dict):
    raise ConvertError(f'{path} holds no settings, but a {type(values).__name__}')
  return values


def our_config(values: dict, where) -> TVTSConfig:
  values = {key: value for key, value in values.items() if key not in ('model_type', LAYOUT)}
  version = values.pop('format_version', None)
  if version != FORMAT_VERSION:
    raise ConvertError(
      f'{where} has format_version={version!r}, but this code reads {FORMAT_VERSION}; use the release that wrote it'
    )
  config = build(TVTSConfig.from_dict, values, where)
  build(names.spec, config, where)  # Finds sizes that no model can have.
  return config


def build(maker, values, where):
  """A config out of values from outside, whose every fault is the fault of `where`."""
  try:
    return maker(values)
  except (UserError, ValueError, TypeError, ArithmeticError, AttributeError) as error:
    raise ConvertError(f'{where} does not describe a model: {error}') from error


def open_file(path: pathlib.Path, family: str = '', layout: str = '') -> Source:
  """layout: the family of which we wrote it, which its names need not tell."""
  try:
    with path.open('rb') as file:
      start = file.read(16)
  except OSError as error:
    raise ConvertError(f'{path} cannot be read: {error.strerror}') from error
  reader = read_pth if start.startswith((pth.ZIP_START, pth.LEGACY_START)) else read_safetensors
  tensors, config, unused, notes, trainer = reader(path)
  if not tensors:
    raise ConvertError(f'{path} holds no weights')
  # Tied weights appear twice and are stored once; what claims more than that unfolds on purpose.
  claimed, size = sum(tensor.bytes for tensor in tensors.values()), path.stat().st_size
  if claimed > 2 * size:
    raise ConvertError(
      f'{path} has {size} bytes, but its weights claim {claimed}, each byte many times over, so it is not read'
    )
  if config is not None:
    layout = config.get(LAYOUT, '')
    config = our_config(config, f'{CONFIG_KEY} in {path}')
  tensors = unwrapped(tensors)
  seen = layout if layout in FAMILIES else recognised(tensors)
  if family and seen not in (family, FAMILIES[family].like):
    what = FAMILIES[seen].title if seen else 'of no layout that is known'
    raise ConvertError(f'{path} is {what}, not {FAMILIES[family].title}; leave out --as, or give another file')
  family = family or ('openclip' if seen == 'clip' and trainer else seen)
  title = FAMILIES[family].title if family else 'weights of an unknown model'
  held = FAMILIES[family].unused if family else {}
  for name in list(tensors):
    if reason := next((reason for pattern, reason in held.items() if fnmatch.fnmatchcase(name, pattern)), None):
      unused[name] = reason
      del tensors[name]
  return Source(path, family, title, tensors, unused, config, notes=notes)


def read_pth(path):
  contents = pth.read(path)
  notes = [f'objects of {", ".join(contents.inert)} were left unread'] if contents.inert else []
  root = contents.root
  if isinstance(root, Inert) and root.held:
    root = dict(held(root))
    notes = ['a module of TorchScript, of which the weights were read and the code was not']
  if not isinstance(root, dict):
    raise ConvertError(f'{path} holds {describe(root)}, not weights by name; save the state_dict of the model')
  where = next((key for key in STATE_KEYS if key in root), None)
  state = root[where] if where else root
  if not isinstance(state, dict):
    raise ConvertError(f'{path} holds {describe(state)} as {where!r}, not weights by name; save the state_dict')
  tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
  unused = {str(name): 'not a tensor' for name, value in state.items() if not isinstance(value, Tensor)}
  if where:
    others = [str(name) for name in root if name not in (where, CONFIG_KEY)]
    notes += [f'weights are under {where!r}; beside them, unread: {", ".join(others)}'] if others else []
  config = root.get(CONFIG_KEY) if where else None
  if config is not None and not isinstance(config, dict):
    raise ConvertError(f'{path} holds {describe(config)} as {CONFIG_KEY!r}, not settings')
  return tensors, config, unused, notes, bool(where)


def held(module: Inert, prefix: str = '') -> Iterator[tuple[str, Tensor]]:
  """The tensors of a module of TorchScript by name, those within others included."""
  for name, value in module.held.items():
    if isinstance(value, Tensor):
      yield f'{prefix}{name}', value
    elif isinstance(value, Inert):
      yield from held(value, f'{prefix}{name}.')


def describe(value) -> str:
  return f'an object of {value.name}' if isinstance(value, Inert) else f'a {type(value).__name__}'


def read_safetensors(path):
  try:
    file = safe_open(path, 'numpy')
    metadata = file.metadata() or {}
    tensors = {}
    for name in file.keys():  # noqa: SIM118
      view = file.get_slice(name)
      if view.get_dtype() not in SAFETENSORS_TYPES:
        raise ConvertError(
          f'{path} holds {name} as {view.get_dtype()}; only these can be read: {", ".join(SAFETENSORS_TYPES)}'
        )
      read = lambda file=file, name=name: file.get_tensor(name)
      tensors[name] = Tensor(tuple(view.get_shape()), np.dtype(SAFETENSORS_TYPES[view.get_dtype()]), read)
    config = json.loads(metadata[CONFIG_KEY]) if CONFIG_KEY in metadata else None
  except (SafetensorError, OSError, ValueError, RecursionError) as error:
    raise ConvertError(
      f'{path} is neither a PyTorch checkpoint nor safetensors ({error}); give one of the two, undamaged'
    ) from error
  return tensors, config, {}, [], False


def unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
  for wrapper in WRAPPERS:
    if any(name.startswith(wrapper) for name in tensors):
      tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
  return tensors


def recognised(tensors: dict[str, Tensor]) -> str:
  """The first family whose landmarks are there, or ''."""
  families = [(name, family.landmarks) for name, family in FAMILIES.items() if family.landmarks]
  return next((name for name, landmarks in families if all(each in tensors for each in landmarks)), '')
