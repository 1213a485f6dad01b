"""The bytes of a record: a serialized tf.train.Example of which a part can be read.

  tag, length | a feature | ... | head/crc32c | frames/jpeg
  ------------------- head ------------------   JPEGs, by time

A map of protobuf is a list of entries, in whatever order. Here all small features come first, then a checksum of all
bytes before it, which ends the head, and then the JPEGs. Three of the features are a table of the frames: where each
begins, counted from the end of the head, its length in bytes, and its crc32c.
"""

import functools
from collections.abc import Mapping, Sequence

import google_crc32c
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FRAMES = 'frames/jpeg'
OFFSET, LENGTH, CRC = 'frames/offset', 'frames/length', 'frames/crc32c'  # The table.
HEAD_CRC = 'head/crc32c'
TAG = b'\n'  # Field 1 of a message, and its length follows.
CRC_DIGITS = 8
VARINT_BITS = 63  # Of the last byte of the longest number: protobuf has none beyond ten bytes.


def serialize(features: Mapping[str, Sequence]) -> bytes:
  """A record with these features, one of them the JPEGs; the table of frames is made unless it is given."""
  frames = features[FRAMES]
  jpegs = entry(FRAMES, frames)
  table = {OFFSET: [], LENGTH: [len(jpeg) for jpeg in frames], CRC: [google_crc32c.value(jpeg) for jpeg in frames]}
  at = len(jpegs)
  for length in reversed(table[LENGTH]):
    table[OFFSET].insert(0, at - length)
    at -= length + len(TAG) + len(varint(length))
  small = b''.join(entry(name, values) for name, values in {**table, **features}.items() if name != FRAMES)
  size = len(small) + len(head_crc(b'')) + len(jpegs)
  head = TAG + varint(size) + small
  return head + head_crc(head) + jpegs


def entry(name: str, values: Sequence) -> bytes:
  """One feature as a map has it; its values are bytes, int or float, all of one type."""
  lists = {bytes: 'bytes_list', int: 'int64_list', float: 'float_list'}
  features = message_class('Features')()
  getattr(features.feature[name], lists[type(values[0])]).value.extend(values)
  return features.SerializeToString()


def head_crc(before: bytes) -> bytes:
  """The last feature of a head, always as long."""
  return CRC_ENTRY + b'%0*x' % (CRC_DIGITS, google_crc32c.value(before))


def head_bytes(record: bytes) -> int:
  """Where the head ends, and the JPEGs begin; ValueError if that cannot be told."""
  name = len(FRAMES).to_bytes(1, 'little') + FRAMES.encode()
  try:
    _, at = read_varint(record, len(TAG))
    while True:
      size, content = read_varint(record, at + len(TAG))
      if record.startswith(TAG + name, content):
        return at
      at = content + size
  except IndexError:
    raise ValueError(f'{FRAMES} is missing') from None


def check_head(head: bytes) -> None:
  """ValueError if a byte of it is wrong."""
  end = len(head) - len(CRC_ENTRY) - CRC_DIGITS
  if end < 0 or head[end:] != head_crc(head[:end]):
    raise ValueError('the checksum of its head is wrong')


def features_of(head: bytes):
  """name → Feature, of all but the JPEGs."""
  return message_class('Features').FromString(head[read_varint(head, len(TAG))[1] :]).feature


def varint(number: int) -> bytes:
  digits = bytearray()
  while number > 0x7F:
    digits.append(number & 0x7F | 0x80)
    number >>= 7
  return bytes([*digits, number])


def read_varint(data: bytes, at: int) -> tuple[int, int]:
  """(The number that begins at a byte, where what follows begins.)"""
  number, shift = 0, 0
  while data[at] > 0x7F and shift < VARINT_BITS:
    number |= (data[at] & 0x7F) << shift
    at, shift = at + 1, shift + 7
  return number | data[at] << shift, at + 1


@functools.cache
def message_class(name: str):
  """tf.train.Example or tf.train.Features by public definition: TensorFlow's own cost importing TensorFlow."""
  return message_factory.GetMessageClass(pool().FindMessageTypeByName(f'tensorflow.{name}'))


@functools.cache
def pool() -> descriptor_pool.DescriptorPool:
  field = descriptor_pb2.FieldDescriptorProto
  file = descriptor_pb2.FileDescriptorProto(name='example.proto', package='tensorflow', syntax='proto3')

  def add(owner, name, number, kind, label=field.LABEL_OPTIONAL, **kwargs):
    owner.field.add(name=name, number=number, type=kind, label=label, **kwargs)

  lists = {'bytes_list': field.TYPE_BYTES, 'float_list': field.TYPE_FLOAT, 'int64_list': field.TYPE_INT64}
  feature = descriptor_pb2.DescriptorProto(name='Feature')
  feature.oneof_decl.add(name='kind')
  for number, (name, kind) in enumerate(lists.items(), 1):
    values = file.message_type.add(name=name.title().replace('_', ''))
    add(values, 'value', 1, kind, field.LABEL_REPEATED)
    add(feature, name, number, field.TYPE_MESSAGE, type_name=f'.tensorflow.{values.name}', oneof_index=0)
  file.message_type.append(feature)
  features = file.message_type.add(name='Features')
  entry = features.nested_type.add(name='FeatureEntry', options={'map_entry': True})
  add(entry, 'key', 1, field.TYPE_STRING)
  add(entry, 'value', 2, field.TYPE_MESSAGE, type_name='.tensorflow.Feature')
  add(features, 'feature', 1, field.TYPE_MESSAGE, field.LABEL_REPEATED, type_name='.tensorflow.Features.FeatureEntry')
  add(file.message_type.add(name='Example'), 'features', 1, field.TYPE_MESSAGE, type_name='.tensorflow.Features')
  made = descriptor_pool.DescriptorPool()
  made.Add(file)
  return made


CRC_ENTRY = entry(HEAD_CRC, [bytes(CRC_DIGITS)])[:-CRC_DIGITS]
