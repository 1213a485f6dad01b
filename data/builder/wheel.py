"""Our code as one wheel, for workers on other machines: the package tvts_jax and this one, as they are here.

It asks for the versions that are installed here of what the builder imports, since the bytes of a shard depend on who
decodes and encodes; and for nothing else that training needs.
"""

import base64
import hashlib
import importlib.metadata
import pathlib
import zipfile

import data
import tvts_jax

NAME = 'tvts_jax_builder'
# What data.builder.beam and its workers import of others, by the names of PyPI. Beam itself is there already.
NEEDED = ('absl-py', 'av', 'ftfy', 'google-crc32c', 'numpy', 'obstore', 'opencv-python-headless')


def write(folder) -> pathlib.Path:
  """Writes the wheel into a folder; returns its path."""
  info = f'{NAME}-{tvts_jax.__version__}.dist-info'
  needed = [f'Requires-Dist: {name}=={importlib.metadata.version(name)}' for name in NEEDED]
  metadata = ['Metadata-Version: 2.1', f'Name: {NAME}', f'Version: {tvts_jax.__version__}', *needed]
  content = {
    **modules(data),
    **modules(tvts_jax),
    f'{info}/METADATA': '\n'.join(metadata).encode(),
    f'{info}/WHEEL': b'Wheel-Version: 1.0\nGenerator: data.builder.wheel\nRoot-Is-Purelib: true\nTag: py3-none-any\n',
  }
  record = [f'{name},sha256={digest(part)},{len(part)}' for name, part in content.items()]
  content[f'{info}/RECORD'] = '\n'.join([*record, f'{info}/RECORD,,']).encode()
  path = pathlib.Path(folder, f'{NAME}-{tvts_jax.__version__}-py3-none-any.whl')
  with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as file:
    for name, part in content.items():
      file.writestr(name, part)
  return path


def modules(package) -> dict[str, bytes]:
  """Name in the wheel → content, of all files of a package."""
  root = pathlib.Path(package.__file__).parent
  files = (file for file in sorted(root.rglob('*')) if file.is_file() and '__pycache__' not in file.parts)
  return {file.relative_to(root.parent).as_posix(): file.read_bytes() for file in files}


def digest(content: bytes) -> str:
  return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b'=').decode()
