"""Only storage opens a bucket: other clients, and other ways to a path that may be in one, are found."""

import ast
import importlib

import pytest

from tests.support.paths import ROOT

# Module → who may import it. TensorFlow's and etils' clients would read 64 MiB for a frame.
CLIENTS = {
  'obstore': {'tvts_jax/shards/bucket.py'},
  'etils': {'tvts_jax/run/orbax_files.py'},
  'fsspec': {'tvts_jax/run/orbax_files.py'},
  'gcsfs': set(),
  's3fs': set(),
  'google.cloud': set(),
  'boto3': set(),
}
GFILE = ('gfile', 'TFRecordDataset', 'TFRecordWriter', 'read_file', 'write_file')  # Of TensorFlow.
# Settings and arguments that may name something in a bucket: pathlib would make a local folder `gs:` of them.
PLACES = ('workdir', 'checkpoint', 'folder', 'tokenizer', 'annotations')


def ways(text: str, path: str) -> list[str]:
  found = []
  for node in ast.walk(ast.parse(text)):
    names = []
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      names = [node.module, *(f'{node.module}.{alias.name}' for alias in node.names)]
    found += [
      f'{path}: imports {client}'
      for client, allowed in CLIENTS.items()
      if path not in allowed and any(name == client or name.startswith(f'{client}.') for name in names)
    ]
    if isinstance(node, ast.Attribute) and node.attr in GFILE:
      found.append(f'{path}: line {node.lineno} uses {node.attr}')
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ('Path', 'pathlib.Path', 'open', 'os.path.exists'):
      last = node.args and ast.unparse(node.args[0]).split('.')[-1]
      if last in PLACES and '.' in ast.unparse(node.args[0]):
        found.append(f'{path}: line {node.lineno} opens {ast.unparse(node)}')
  return found


def test_no_other_client():
  files = [path for package in ('tvts_jax', 'data') for path in (ROOT / package).rglob('*.py')]
  found = [way for path in files for way in ways(path.read_text(), path.relative_to(ROOT).as_posix())]
  assert not found, '\n'.join(found)


@pytest.mark.parametrize(
  'text',
  [
    'from etils import epath',
    'def f():\n  import gcsfs',
    'import tensorflow as tf\ntf.io.gfile.exists("x")',
    'import pathlib\npathlib.Path(args.workdir)',
    'open(config.input.folder)',
  ],
)
def test_another_way_is_found(text):
  assert len(ways(text, 'tvts_jax/x.py')) >= 1


@pytest.mark.parametrize('module', ['data.world.__main__', 'data.check', 'tvts_jax.ablate.__main__'])
def test_a_command_that_cannot_write_to_a_bucket_refuses_one(module, capsys):
  given = ['table', 'x'] if module == 'data.check' else ['x'] if 'ablate' in module else []
  with pytest.raises(SystemExit) as left:
    importlib.import_module(module).main([*given, '--out', 'gs://b/x'])
  assert left.value.code == 2
  assert 'gs://b/x is in a bucket, where this command cannot write; name a local path' in capsys.readouterr().err
