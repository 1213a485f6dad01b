"""Opens any file or folder that may hold weights for us, and says what it is.

Files are told apart by their contents, never by their names.
"""

import dataclasses
import fnmatch
import json
import pathlib

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from tvts_jax.convert import names, pth
from tvts_jax.convert.load_report import ConvertError
from tvts_jax.convert.tensors import Tensor
from tvts_jax.convert.unpickle import Inert
from tvts_jax.errors import UserError
from tvts_jax.files import local
from tvts_jax.models.texts.distilbert import TextConfig
from tvts_jax.models.tvts import TVTSConfig

FORMAT_VERSION = 1
WEIGHT_FILES = ('model.safetensors', 'pytorch_model.bin')

# Where checkpoints keep their weights, among optimizer states and other things.
STATE_KEYS = ('state_dict', 'model')

# Our own config beside the weights, in files that are not a folder: they know their heads, which no shape tells.
CONFIG_KEY = 'tvts_config'

SAFETENSORS_TYPES = {
  **{'F64': np.float64, 'F32': np.float32, 'F16': np.float16, 'BF16': ml_dtypes.bfloat16, 'BOOL': np.bool_},
  **{'I64': np.int64, 'I32': np.int32, 'I16': np.int16, 'I8': np.int8},
  **{'U64': np.uint64, 'U32': np.uint32, 'U16': np.uint16, 'U8': np.uint8},
}

# A weight by which each kind is known, and how its names become those of the published TVTS model.
KINDS = {
  'tvts': ('video_model.patch_embed.proj.weight', ''),
  'mae': ('patch_embed.proj.weight', 'video_model.'),
  'distilbert': ('embeddings.word_embeddings.weight', 'text_model.'),
}
TITLES = {
  'tvts': 'a TVTS v1 model',
  'mae': 'an image or video encoder in the layout of MAE',
  'distilbert': 'a DistilBERT',
  'unknown': 'weights of an unknown model',
}

# What files hold beyond the encoder that we want, and why it may stay behind. The names are those in the file.
UNUSED = {
  'mae': {'decoder_*': 'the decoder of the masked autoencoder', 'mask_token': 'the decoder of the masked autoencoder'},
  'distilbert': {
    'vocab_*': 'the head of masked language modelling',
    'embeddings.position_ids': 'a counter, not a weight',
  },
  'tvts': {'text_model.embeddings.position_ids': 'a counter, not a weight'},
}


@dataclasses.dataclass
class Source:
  path: pathlib.Path
  kind: str  # A key of TITLES.
  tensors: dict[str, Tensor]  # By their names in the published TVTS model, if the kind is known.
  unused: dict[str, str]
  config: TVTSConfig | None = None
  text_config: TextConfig | None = None
  notes: list[str] = dataclasses.field(default_factory=list)

  def __str__(self):
    return f'{self.path} ({TITLES[self.kind]})'


def open_source(path) -> Source:
  path = local(path)
  return open_folder(path) if path.is_dir() else open_file(path)


def open_folder(folder: pathlib.Path) -> Source:
  found = [folder / name for name in WEIGHT_FILES if (folder / name).is_file()]
  if not folder.exists():
    raise ConvertError(f'{folder} is not there; name a folder of weights, or the work directory of a run')
  if not found:
    raise ConvertError(f'{folder} has no weights; a folder of weights holds {" or ".join(WEIGHT_FILES)}')
  path = folder / 'config.json'
  if not path.exists():
    raise ConvertError(f'{folder} has no config.json, which says what its weights are')
  config, source = read_json(path), open_file(found[0])
  source.path = folder
  if config.get('model_type') == 'tvts':
    source.config = our_config(config, path)
  elif config.get('model_type') == 'distilbert':
    source.text_config = build(TextConfig.from_hf, config, path)
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
  values = {key: value for key, value in values.items() if key != 'model_type'}
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


def open_file(path: pathlib.Path) -> Source:
  try:
    with path.open('rb') as file:
      start = file.read(16)
  except OSError as error:
    raise ConvertError(f'{path} cannot be read: {error.strerror}') from error
  reader = read_pth if start.startswith((pth.ZIP_START, pth.LEGACY_START)) else read_safetensors
  tensors, config, unused, notes = reader(path)
  if not tensors:
    raise ConvertError(f'{path} holds no weights')
  # Tied weights appear twice and are stored once; what claims more than that unfolds on purpose.
  claimed, size = sum(tensor.bytes for tensor in tensors.values()), path.stat().st_size
  if claimed > 2 * size:
    raise ConvertError(
      f'{path} has {size} bytes, but its weights claim {claimed}, each byte many times over, so it is not read'
    )
  if config is not None:
    config = our_config(config, f'{CONFIG_KEY} in {path}')
  kind, tensors, more = recognise(tensors)
  return Source(path, kind, tensors, unused | more, config, None, notes)


def read_pth(path):
  contents = pth.read(path)
  notes = [f'objects of {", ".join(contents.inert)} were left unread'] if contents.inert else []
  root = contents.root
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
  return tensors, config, unused, notes


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
  return tensors, config, {}, []


def recognise(tensors: dict[str, Tensor]) -> tuple[str, dict[str, Tensor], dict[str, str]]:
  """The kind, the weights under the names of the published model, and those that nobody needs."""
  if all(name.startswith('module.') for name in tensors):  # Saved from within a DistributedDataParallel.
    tensors = {name.removeprefix('module.'): tensor for name, tensor in tensors.items()}
  if any(name.startswith('distilbert.') for name in tensors):  # Saved from within a model with a head.
    tensors = {name.removeprefix('distilbert.'): tensor for name, tensor in tensors.items()}
  kinds = [kind for kind, (landmark, _) in KINDS.items() if landmark in tensors]
  if not kinds:
    return 'unknown', tensors, {}
  kind, prefix = kinds[0], KINDS[kinds[0]][1]
  unused, used = {}, {}
  for name, tensor in tensors.items():
    reasons = [reason for pattern, reason in UNUSED[kind].items() if fnmatch.fnmatchcase(name, pattern)]
    if reasons:
      unused[name] = reasons[0]
    else:
      used[prefix + name] = tensor
  return kind, used, unused


def is_image_model(source: Source) -> bool:
  """An encoder of single images: its kernel has no time, and neither have its positions."""
  return len(source.tensors[names.PREFIXES['video'] + 'patch_embed.proj.weight'].shape) == 4
