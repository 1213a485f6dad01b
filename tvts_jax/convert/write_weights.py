"""Writes the files of exported models, and reads weights back before anyone else does."""

import json
import pathlib
import shutil
from collections.abc import Iterable, Mapping

import numpy as np
from safetensors.numpy import save_file

from tvts_jax.convert import read_weights
from tvts_jax.convert.load_report import ConvertError
from tvts_jax.convert.tensors import Tensor
from tvts_jax.files import appear


def write_folder(
  folder,
  state: Mapping[str, np.ndarray],
  settings: Mapping[str, Mapping],
  readme: str = '',
  files: Iterable = (),
  weights: str = 'model.safetensors',
) -> None:
  """Weights, settings by the names of their JSON files, and copies of `files`: a whole folder, or nothing."""
  with appear(folder) as temporary:
    temporary.mkdir()
    write_safetensors(temporary / weights, state)
    for name, values in settings.items():
      write_json(temporary / name, values)
    if readme:
      (temporary / 'README.md').write_text(readme, 'utf-8')
    for file in files:
      shutil.copyfile(file, temporary / file.name)


def write_json(path: pathlib.Path, values: Mapping):
  path.write_text(json.dumps(values, indent=2, default=str) + '\n', 'utf-8')


def write_safetensors(path: pathlib.Path, state: Mapping[str, np.ndarray], **metadata: str):
  path.touch()
  mode = path.stat().st_mode
  # transformers refuses files that do not say which framework's conventions they follow.
  save_file(dict(state), path, metadata={'format': 'pt'} | metadata)
  path.chmod(mode)  # The library makes files that no other user may read.
  compare(path, state, read_weights.read_safetensors(path)[0])


def write_pth(path: pathlib.Path, state: Mapping[str, np.ndarray], config: dict, wrap: str = 'state_dict'):
  """A checkpoint as PyTorch saves it, with the weights under `wrap` and `config` beside them; or bare weights."""
  try:
    import torch
  except ImportError:
    raise ConvertError(
      'a .pth file is written by PyTorch, which is not installed; install it or choose another format'
    ) from None
  halves = lambda array: torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)  # Not known to torch.from_numpy.
  weights = {name: halves(x) if x.dtype.name == 'bfloat16' else torch.from_numpy(x) for name, x in state.items()}
  torch.save({wrap: weights, read_weights.CONFIG_KEY: config} if wrap else weights, path)
  compare(path, state, read_weights.read_pth(path)[0])


def compare(path: pathlib.Path, state: Mapping[str, np.ndarray], written: Mapping[str, Tensor]):
  """Fails unless a file gives back every weight, bit for bit."""
  for name, array in state.items():
    tensor = written.get(name)
    back = None if tensor is None else tensor.read()
    if back is None or back.dtype != array.dtype or back.shape != array.shape or back.tobytes() != array.tobytes():
      raise ConvertError(f'{path} does not give back {name} as it was written; check the disk and try again')
