"""Files from strangers: what a PyTorch checkpoint may hold, and what it may not do to us."""

import argparse
import collections
import io
import os
import pathlib
import pickle
import random
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.support.paths import GOLDEN, ROOT
from tvts_jax.convert import ConvertError, pth, read_weights
from tvts_jax.convert.__main__ import main
from tvts_jax.convert.tensors import Tensor

torch = pytest.importorskip('torch')

PLAIN = GOLDEN / 'tvts_v1_tiny_state_dict.pth'
FORMATS = {'zip': True, 'legacy': False}


def save(value, path, form='zip'):
  torch.save(value, path, _use_new_zipfile_serialization=FORMATS[form])
  return path


@pytest.mark.parametrize('form', FORMATS)
def test_every_tensor_is_read_as_torch_reads_it(tmp_path, form):
  base = torch.arange(24.0)
  types = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
  types += [torch.int8, torch.uint8, torch.bool]
  state = {str(dtype): base.to(dtype) for dtype in types}
  state |= {
    'view': base.view(4, 6)[1:, ::2],
    'transposed': base.view(4, 6).t(),
    'shared': base,
    'scalar': torch.tensor(7.0),
    'empty': torch.zeros(0, 3),
    'parameter': torch.nn.Parameter(base.view(2, 12)),
  }
  read = pth.read(
    save({'state_dict': collections.OrderedDict(state), 'n': [1, (2.5, None, True)]}, tmp_path / 'x', form)
  )
  assert read.root['n'] == [1, (2.5, None, True)]
  for name, tensor in state.items():
    ours = read.root['state_dict'][name].read()
    assert ours.shape == tuple(tensor.shape) and ours.flags.c_contiguous
    assert ours.tobytes() == tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes(), name


@pytest.mark.parametrize('form', FORMATS)
def test_what_scripts_put_beside_their_weights_is_left_alone(tmp_path, form):
  class Config(dict):
    pass

  globals()['Config'] = Config
  Config.__qualname__, Config.__module__ = 'Config', __name__
  beside = {
    'args': argparse.Namespace(out=pathlib.PurePosixPath('/x'), rates={1, 2}),
    'best': np.float64(0.5),
    'curve': np.arange(3),
    'config': Config(a=1),
    'counts': collections.defaultdict(list, {1: [2]}),
    'device': torch.device('cpu'),
    'type': torch.float16,
    'bytes': b'\x00\xff',
    ('a', 1): torch.Size([1]),
  }
  read = pth.read(save({'w': torch.ones(2), **beside}, tmp_path / 'x', form))
  assert read.root['w'].read().tolist() == [1, 1]
  assert set(read.root) == {'w', *beside}
  assert set(read.inert) >= {'argparse.Namespace', f'{__name__}.Config'}
  assert not any(isinstance(value, np.generic | argparse.Namespace) for value in read.root.values())


class Call:
  """Pickles as a call of whatever function is given."""

  def __init__(self, function, *arguments):
    self.function, self.arguments = function, arguments

  def __reduce__(self):
    return self.function, self.arguments


def rewrite(source, target, change, compression=zipfile.ZIP_STORED):
  """A copy of a zip file with members changed, (name, data) → data or None to leave it out."""
  with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, 'w', compression) as new:
    for name in old.namelist():
      data = change(name, old.read(name))
      if data is not None:
        new.writestr(name, data)
  return target


def pickled(path, data):
  """A checkpoint whose pickle is `data`."""
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('x/data.pkl', data)
    archive.writestr('x/byteorder', 'little')
    archive.writestr('x/data/0', np.arange(4, dtype=np.float32).tobytes())
  return path


def storage(count=4, key='0', kind='FloatStorage'):
  """Opcodes of a storage."""
  number = b'\x8a\x08' + struct.pack('<q', count)
  return b'(U\x07storagectorch\n' + kind.encode() + b'\nU\x01' + key.encode() + b'U\x03cpu' + number + b'tQ'


def tensor_pickle(shape, strides, offset=0, **of_storage):
  """Opcodes of {'w': tensor}."""
  number = lambda n: b'\x8a\x09' + n.to_bytes(9, 'little', signed=True)
  many = lambda numbers: b'(' + b''.join(map(number, numbers)) + b't'
  start = b'\x80\x02}U\x01wctorch._utils\n_rebuild_tensor_v2\n('
  return start + storage(**of_storage) + number(offset) + many(shape) + many(strides) + b'\x89}tRs.'


def test_the_pickles_made_here_are_right_where_they_are_meant_to_be(tmp_path):
  whole = pth.read(pickled(tmp_path / 'x', tensor_pickle([4], [1]))).root['w'].read()
  part = pth.read(pickled(tmp_path / 'x', tensor_pickle([1, 2], [7, 1], offset=2))).root['w'].read()
  assert whole.tolist() == [0, 1, 2, 3] and part.tolist() == [[2, 3]]


def with_exploit(call):
  """The published layout with a call in place of a value, in either protocol and format."""
  state = torch.load(PLAIN, weights_only=False)['state_dict']
  return {'state_dict': state, 'config': call}


def hostile(folder):
  """What is refused: a file, and words of the one sentence that says why."""
  marker = folder / 'marker'
  system = Call(os.system, f'touch {marker}')
  for form in FORMATS:
    yield save(with_exploit(system), folder / f'system-{form}', form), 'asks to call posix.system'
  evil = f'open({str(marker)!r}, "w")'
  yield save(with_exploit(Call(eval, evil)), folder / 'eval'), 'asks to call __builtin__.eval'
  yield save(with_exploit(Call(exec, evil)), folder / 'exec'), '__builtin__.exec'
  stream = io.BytesIO()
  pickle.Pickler(stream, 4).dump({'state_dict': {}, 'x': system})
  yield pickled(folder / 'protocol4', stream.getvalue()), 'asks to call posix.system'
  yield pickled(folder / 'inst', b"(S'true'\nios\nsystem\n."), 'the pickle operation INST'
  yield pickled(folder / 'obj', b"(cos\nsystem\nS'true'\no."), 'the pickle operation OBJ'
  yield pickled(folder / 'called', b'cos\nsystem\n)R)R.'), 'asks to call os.system'
  yield pickled(folder / 'escape', b'\x80\x04\x8c\x05\x1b[2Jx\x8c\x03y\nz\x93)R.'), r'asks to call \x1b[2Jx.y\nz'

  yield pickled(folder / 'long name', b'c' + b'x' * 10**5 + b'\ny\n)R.'), 'asks to call xxx'
  change = lambda name, data: data
  yield rewrite(PLAIN, folder / 'deflated', change, zipfile.ZIP_DEFLATED), 'has a compressed member'
  bomb = lambda name, data: bytes(4 * 10**6) if name.endswith('/data/0') else data
  yield rewrite(PLAIN, folder / 'bomb', bomb, zipfile.ZIP_DEFLATED), 'would unfold to'
  inner = io.BytesIO()
  with zipfile.ZipFile(inner, 'w', zipfile.ZIP_DEFLATED) as archive:
    archive.writestr('zeros', bytes(10**6))
  yield rewrite(PLAIN, folder / 'nested', lambda n, d: inner.getvalue() if n.endswith('/data/0') else d), 'should hold'
  yield overlapping(folder / 'overlapping'), 'share their bytes'
  yield lies_about_size(folder / 'lies'), 'would unfold to'

  for name, data, words in (
    ('more', tensor_pickle([5], [1]), 'claims 5 values up to place 4'),
    ('offset', tensor_pickle([2], [1], offset=3), 'claims 2 values up to place 4'),
    ('stride', tensor_pickle([2], [4]), 'claims 2 values up to place 4'),
    ('expanded', tensor_pickle([10**12], [0]), 'claims 1000000000000 values up to place 0'),
    ('overlap', tensor_pickle([3, 3], [1, 0]), 'claims 9 values up to place 2'),
    ('backwards', tensor_pickle([2], [-1], offset=3), '-1 is no size'),
    ('negative', tensor_pickle([-1], [1]), '-1 is no size'),
    ('huge', tensor_pickle([2**60, 2**60], [1, 1]), 'values up to place'),
    ('dimensions', tensor_pickle([1] * 40, [1] * 40), 'without a storage or a shape'),
    ('storage', tensor_pickle([4], [1], count=400), 'should hold 400 values of float32, but has 16 bytes'),
    ('no storage', tensor_pickle([4], [1], key='7'), "storage '7' is missing"),
    ('no type', tensor_pickle([4], [1], kind='ComplexFloatStorage'), 'torch.ComplexFloatStorage; only these'),
    ('long memo', b'\x80\x02Nr\xff\xff\xff\xff0j\xff\xff\xff\xfe.', 'is damaged'),
    ('long bytes', b'\x80\x05\x96' + struct.pack('<Q', 2**62) + b'x.', 'is damaged'),
    ('deep key', b'\x80\x02})' + b'\x85' * 60 + b'Ns.', 'a key that is neither a word nor a number'),
    ('endless', b'\x80\x02}', 'is damaged'),
    ('underflow', b'\x80\x02R.', 'is damaged'),
    ('empty', b'', 'is damaged'),
  ):
    yield pickled(folder / name, data), words

  whole, state = PLAIN.read_bytes(), torch.load(PLAIN, weights_only=False)['state_dict']
  legacy = save(state, folder / 'legacy', 'legacy').read_bytes()
  for name, data in (('zip', whole), ('legacy', legacy)):
    for share in (0.001, 0.3, 0.7, 0.999):
      path = folder / f'cut-{name}-{share}'
      path.write_bytes(data[: int(share * len(data))])
      yield path, 'is damaged'
  spoiled = folder / 'crc'
  place = whole.index(state['video_model.cls_token'].numpy().tobytes())
  spoiled.write_bytes(whole[: place + 1] + bytes([whole[place + 1] ^ 1]) + whole[place + 2 :])
  yield spoiled, 'Bad CRC-32'
  yield rewrite(PLAIN, folder / 'big', lambda n, d: b'big' if n.endswith('byteorder') else d), 'big-endian'
  yield rewrite(PLAIN, folder / 'no pickle', lambda n, d: None if n.endswith('data.pkl') else d), 'no data.pkl'

  for name, data, words in (
    ('nothing', b'', 'neither a PyTorch checkpoint nor safetensors'),
    ('text', b'hello, I am no checkpoint', 'neither a PyTorch checkpoint nor safetensors'),
    ('pickle', pickle.dumps({'a': 1}), 'neither a PyTorch checkpoint nor safetensors'),
    ('header', struct.pack('<Q', 2**40) + b'{}', 'neither a PyTorch checkpoint nor safetensors'),
    ('json', struct.pack('<Q', 4) + b'{"a"', 'neither a PyTorch checkpoint nor safetensors'),
  ):
    (folder / name).write_bytes(data)
    yield folder / name, words
  tensors = folder / 'cut.safetensors'
  save_file({'a': np.ones(5, np.float32)}, tensors)
  tensors.write_bytes(tensors.read_bytes()[:-1])
  yield tensors, 'neither a PyTorch checkpoint nor safetensors'
  eights = struct.pack('<Q', 56) + b'{"a":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}'[:56].ljust(56)
  (folder / 'eights').write_bytes(eights.replace(b']}  ', b']}} ') + b'ab')
  yield folder / 'eights', 'safetensors'
  yield save({}, folder / 'dict'), 'holds no weights'
  yield save({'state_dict': {}, 'epoch': 1}, folder / 'state'), 'holds no weights'
  yield save([torch.ones(2)], folder / 'list'), 'holds a list, not weights by name'
  yield save({'model': torch.nn.Linear(2, 2)}, folder / 'module'), 'an object of torch.nn.modules.linear.Linear'
  yield save({'a': torch.ones(2)}, folder / 'unknown'), 'weights of an unknown model'
  yield GOLDEN / 'tvts_v1_tiny_f64.npz', 'no data.pkl'
  yield folder / 'absent', 'cannot be read: No such file'


def overlapping(path):
  """Two entries of the directory that point to the same bytes."""
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('x/data.pkl', tensor_pickle([4], [1]))
    archive.writestr('x/data/0', bytes(10**5))
    info = archive.getinfo('x/data/0')
    for i in range(1, 50):
      other = zipfile.ZipInfo(f'x/data/{i}')
      other.header_offset, other.CRC = info.header_offset, info.CRC
      other.file_size = other.compress_size = info.file_size
      archive.filelist.append(other)
      archive.NameToInfo[other.filename] = other
  return path


def lies_about_size(path):
  """A member that says it is larger than what is stored of it."""
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('x/data.pkl', tensor_pickle([10**9], [1], count=10**9))
    archive.writestr('x/data/0', b'abcd')
    archive.getinfo('x/data/0').file_size = 4 * 10**9
  return path


def test_hostile_and_broken_files_are_refused_in_one_sentence(tmp_path, capsys):
  folder = tmp_path / 'bad'
  folder.mkdir()
  count = 0
  for path, words in hostile(folder):
    code = main(['import', str(path), '--out', str(tmp_path / 'out' / 'model')])
    _, err = capsys.readouterr()
    assert code == 1, path.name
    assert err.startswith('error: ') and len(err) < 1100 and err.count('\n') == 1 and err.strip().isprintable(), (
      path.name,
      err,
    )
    assert words in err, (path.name, err)
    count += 1
  assert count > 50
  assert not (folder / 'marker').exists()
  assert [path.name for path in tmp_path.iterdir()] == ['bad']


def test_views_of_one_storage_cannot_claim_more_than_the_file_has(tmp_path):
  ones = torch.ones(10**5)
  path = save({f'{i}': ones[i:] for i in range(50)}, tmp_path / 'x')
  with pytest.raises(ConvertError, match='each byte many times over'):
    read_weights.open_source(path)


@pytest.mark.parametrize('form', FORMATS)
def test_random_damage_never_gets_past_the_reader(tmp_path, form):
  """Whatever a byte becomes: weights of the right sizes, or one sentence."""
  state = {f'layer.{i}.weight': torch.randn(3, 2) for i in range(4)}
  good = save({'state_dict': state, 'args': argparse.Namespace(a=1)}, tmp_path / 'good', form).read_bytes()
  rng, path, outcomes = random.Random(0), tmp_path / 'x', collections.Counter()
  for _ in range(300):
    data = bytearray(good)
    for _ in range(rng.choice([1, 1, 3, 20])):
      data[rng.randrange(len(data))] = rng.randrange(256)
    path.write_bytes(data)
    try:
      source = read_weights.open_source(path)
      for tensor in source.tensors.values():
        assert isinstance(tensor, Tensor) and tensor.read().shape == tensor.shape
      outcomes['read'] += 1
    except ConvertError as error:
      assert str(error).isprintable()
      outcomes['refused'] += 1
  assert min(outcomes.values()) > 20, outcomes


def test_a_process_of_its_own_exits_with_one_and_says_why(tmp_path):
  marker = tmp_path / 'marker'
  path = save(with_exploit(Call(os.system, f'touch {marker}')), tmp_path / 'evil.pth')
  done = subprocess.run(
    [sys.executable, '-m', 'tvts_jax.convert', 'import', path, '--out', tmp_path / 'out'],
    cwd=ROOT, capture_output=True, text=True,
  )  # fmt: skip
  assert done.returncode == 1 and done.stdout == ''
  assert done.stderr == (
    f'error: {path} asks to call posix.system, which no checkpoint needs; it was not called, and the file is not read\n'
  )
  assert sorted(p.name for p in tmp_path.iterdir()) == ['evil.pth']
