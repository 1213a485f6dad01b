"""Interprets the pickle of a PyTorch checkpoint opcode by opcode, without running anything that it asks for.

A pickle is a small program. Here it can build lists, dicts and descriptions of tensors. Objects of any class stay an
inert name, and a call of anything but the few functions that describe tensors is refused. The standard library's
Unpickler cannot stand in for this: seven bytes of a pickle make it fill the memory (a memo with a large number), and
fifty make it hash for ever (a key of tuples within tuples).
"""

import math
import pathlib
import pickletools
import sys
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from tvts_jax.convert.load_report import ConvertError
from tvts_jax.convert.tensors import Tensor

STORAGES = {
  'torch.DoubleStorage': np.dtype(np.float64),
  'torch.FloatStorage': np.dtype(np.float32),
  'torch.HalfStorage': np.dtype(np.float16),
  'torch.BFloat16Storage': np.dtype(ml_dtypes.bfloat16),
  'torch.LongStorage': np.dtype(np.int64),
  'torch.IntStorage': np.dtype(np.int32),
  'torch.ShortStorage': np.dtype(np.int16),
  'torch.CharStorage': np.dtype(np.int8),
  'torch.ByteStorage': np.dtype(np.uint8),
  'torch.BoolStorage': np.dtype(np.bool_),
}

# What training scripts put beside their weights. A call of one of these is noted down and not made.
INERT_CALLS = {
  f'{module}.{name}'
  for modules, names in {
    '__builtin__ builtins': 'bytearray frozenset set',
    '_codecs': 'encode',
    'argparse': 'Namespace',
    'collections': 'Counter defaultdict',
    'copyreg copy_reg': '_reconstructor',
    'datetime': 'date datetime timedelta',
    'numpy': 'dtype',
    'numpy._core.multiarray numpy.core.multiarray': '_reconstruct scalar',
    'pathlib': 'Path PosixPath PurePosixPath PureWindowsPath WindowsPath',
    'pathlib._local': 'PosixPath PurePosixPath',
    'torch': 'Size device',
  }.items()
  for module in modules.split()
  for name in names.split()
}


TORCHSCRIPT = '__torch__.'  # How the names of its classes begin.

# Operations that push the value they carry.
LITERALS = {
  *('INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4', 'FLOAT', 'BINFLOAT'),
  *('STRING', 'BINSTRING', 'SHORT_BINSTRING', 'UNICODE', 'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8'),
  *('BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8', 'BYTEARRAY8'),
}


# What the standard library raises on files that break their own rules.
BROKEN = (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OSError)


class Name(NamedTuple):
  """A class or function that the file mentions."""

  name: str


class Inert:
  """An object of a class that nobody imports: only the name of the class is known, and of a module of TorchScript what
  it holds, by name."""

  def __init__(self, name: str):
    self.name, self.held = name, {}


class Storage(NamedTuple):
  key: str
  dtype: np.dtype
  count: int


class Damaged(Exception):
  """The file does not follow its own format; the text says where."""


class Machine:
  """Interprets the pickles of one file."""

  def __init__(self, path: pathlib.Path, check: Callable, load: Callable):
    self.path, self.check, self.load = path, check, load
    self.storages: dict[str, Storage] = {}
    self.inert: list[str] = []
    self.latest: tuple[str, bytes] | None = None  # The storage read last: its neighbours are often read next.

  def run(self, file) -> Any:
    """The object that the pickle at the file's position describes."""
    try:
      return self.interpret(file)
    except (ValueError, TypeError, LookupError, OverflowError, MemoryError) as error:
      raise Damaged(f'its pickle is broken ({type(error).__name__}: {error})') from error

  def interpret(self, file) -> Any:
    stack, marks, memo = [], [], {}

    def pop_mark() -> list:
      start = marks.pop()
      items = stack[start:]
      del stack[start:]
      return items

    for opcode, argument, _ in pickletools.genops(file):
      match opcode.name:
        case 'PROTO' | 'FRAME':
          pass
        case 'STOP':
          return stack.pop()
        case 'MARK':
          marks.append(len(stack))
        case 'POP':
          stack.pop()
        case 'POP_MARK':
          pop_mark()
        case 'DUP':
          stack.append(stack[-1])
        case 'NONE' | 'NEWTRUE' | 'NEWFALSE':
          stack.append({'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False}[opcode.name])
        case name if name in LITERALS:
          stack.append(argument)
        case 'EMPTY_LIST' | 'EMPTY_SET' | 'EMPTY_TUPLE' | 'EMPTY_DICT':
          stack.append({'EMPTY_TUPLE': (), 'EMPTY_DICT': {}}.get(opcode.name, []))
        case 'LIST' | 'FROZENSET':
          stack.append(pop_mark())
        case 'TUPLE':
          stack.append(tuple(pop_mark()))
        case 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
          count = int(opcode.name[-1])
          items = tuple(stack[-count:])
          del stack[-count:]
          stack.append(items)
        case 'DICT':
          stack.append(fill({}, pop_mark()))
        case 'APPEND':
          item = stack.pop()
          extend(stack[-1], [item])
        case 'APPENDS' | 'ADDITEMS':
          items = pop_mark()
          extend(stack[-1], items)
        case 'SETITEM':
          value, key = stack.pop(), stack.pop()
          fill(stack[-1], [key, value])
        case 'SETITEMS':
          items = pop_mark()
          fill(stack[-1], items)
        case 'PUT' | 'BINPUT' | 'LONG_BINPUT':
          memo[argument] = stack[-1]
        case 'MEMOIZE':
          memo[len(memo)] = stack[-1]
        case 'GET' | 'BINGET' | 'LONG_BINGET':
          stack.append(memo[argument])
        case 'GLOBAL':
          stack.append(Name(argument.replace(' ', '.', 1)))
        case 'STACK_GLOBAL':
          name, module = stack.pop(), stack.pop()
          stack.append(Name(f'{module:s}.{name:s}'))
        case 'NEWOBJ':
          _, kind = stack.pop(), stack.pop()
          stack.append(self.new(kind))
        case 'NEWOBJ_EX':
          _, _, kind = stack.pop(), stack.pop(), stack.pop()
          stack.append(self.new(kind))
        case 'REDUCE':
          arguments, function = stack.pop(), stack.pop()
          stack.append(self.call(function, arguments))
        case 'BUILD':
          state = stack.pop()  # The attributes of an object: only those of modules are read.
          if isinstance(stack[-1], Inert) and stack[-1].name.startswith(TORCHSCRIPT) and isinstance(state, dict):
            stack[-1].held = state
        case 'BINPERSID':
          stack.append(self.storage(*stack.pop()))
        case _:
          raise ConvertError(
            f'{self.path} uses the pickle operation {opcode.name}, which no PyTorch checkpoint needs; '
            f'it was not carried out, and the file is not read'
          )
    raise ValueError('no end')

  def new(self, kind) -> Inert:
    if not isinstance(kind, Name):
      raise TypeError('an object of no class')
    if kind.name not in self.inert:
      self.inert.append(kind.name)
    return Inert(kind.name)

  def call(self, function, arguments: tuple) -> Any:
    match function:
      case Name('collections.OrderedDict'):
        pairs = arguments[0] if arguments else []
        return fill({}, [item for pair in pairs for item in pair])
      case Name('torch._utils._rebuild_tensor_v2' | 'torch._utils._rebuild_tensor'):
        return self.tensor(*arguments[:4])
      case Name('torch._utils._rebuild_parameter'):
        return arguments[0]
      case Name(name) if name in INERT_CALLS:
        return Inert(name)
    called = function.name if isinstance(function, Name) else 'an object of its own'
    raise ConvertError(
      f'{self.path} asks to call {called}, which no checkpoint needs; it was not called, and the file is not read'
    )

  def storage(self, kind, type_name, key, location, count, view=None) -> Storage:
    del location
    if kind != 'storage' or not isinstance(type_name, Name) or not isinstance(key, str) or view is not None:
      raise ValueError('an unknown kind of storage')
    if type_name.name not in STORAGES:
      raise ConvertError(f'{self.path} holds {type_name.name}; only these can be read: {", ".join(sorted(STORAGES))}')
    storage = Storage(key, STORAGES[type_name.name], whole(count))
    if self.storages.setdefault(key, storage) != storage:
      raise ValueError(f'storage {key!r} has two sizes')
    self.check(storage)
    return storage

  def tensor(self, storage: Storage, offset, shape, strides) -> Tensor:
    """A description; its numbers are read when asked for."""
    if not isinstance(storage, Storage) or not len(shape) == len(strides) < 9:
      raise ValueError('a tensor without a storage or a shape')
    offset, shape, strides = whole(offset), tuple(map(whole, shape)), tuple(map(whole, strides))
    size = math.prod(shape)
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides))
    if size and (size > storage.count or last >= storage.count):
      raise Damaged(
        f'a tensor claims {size} values up to place {last} of storage {storage.key!r}, which has {storage.count}'
      )

    def read() -> np.ndarray:
      flat = np.frombuffer(self.numbers(storage), storage.dtype)
      steps = [stride * storage.dtype.itemsize for stride in strides]
      view = np.lib.stride_tricks.as_strided(flat[offset:], shape, steps, writeable=False)
      return np.array(view, order='C')

    return Tensor(shape, storage.dtype, read)

  def numbers(self, storage: Storage) -> bytes:
    if self.latest is None or self.latest[0] != storage.key:
      try:
        self.latest = storage.key, self.load(storage)
      except BROKEN as error:
        raise ConvertError(f'{self.path} is damaged: {error}; get the file again') from error
    return self.latest[1]


def whole(number) -> int:
  """A size, offset or stride."""
  if type(number) is not int or not 0 <= number <= sys.maxsize:
    raise ValueError(f'{number!r} is no size')
  return number


def extend(target, items: list):
  """Appends, unless the target is an object that is left alone."""
  if isinstance(target, list):
    target.extend(items)
  elif not isinstance(target, Inert):
    raise TypeError('items for something that is no list')


def fill(target, items: list):
  """Sets keys and values, one after the other, unless the target is an object that is left alone."""
  if isinstance(target, dict):
    for key, value in zip(items[::2], items[1::2], strict=True):
      # Tuples within tuples could take for ever to hash.
      parts = key if isinstance(key, tuple) else (key,)
      if any(not isinstance(part, str | bytes | int | float | None) for part in parts):
        raise TypeError('a key that is neither a word nor a number')
      target[key] = value
  elif not isinstance(target, Inert):
    raise TypeError('keys for something that is no dict')
  return target
