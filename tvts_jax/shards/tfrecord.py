"""TFRecord framing: length, its checksum, payload, its checksum. Twelve lines are cheaper than TensorFlow."""

import struct

import google_crc32c

HEADER, FOOTER = 12, 4  # Bytes before and after the payload.


def frame(payload: bytes) -> bytes:
  """The payload as it stands in a TFRecord file."""
  length = struct.pack('<Q', len(payload))
  return b''.join([length, masked_crc(length), payload, masked_crc(payload)])


def unframe(framed: bytes) -> bytes:
  """The payload of exactly one framed record; ValueError if a byte of it is wrong."""
  if len(framed) < HEADER + FOOTER:
    raise ValueError(f'{len(framed)} bytes are too few for a record')
  length, crc = framed[:8], framed[8:HEADER]
  if masked_crc(length) != crc:
    raise ValueError('the checksum of the record length is wrong')
  (n,) = struct.unpack('<Q', length)
  if n + HEADER + FOOTER != len(framed):
    raise ValueError(f'the record is {n} bytes long where {len(framed) - HEADER - FOOTER} were expected')
  payload = framed[HEADER : HEADER + n]
  if masked_crc(payload) != framed[HEADER + n :]:
    raise ValueError('the checksum of the record is wrong')
  return payload


def masked_crc(data: bytes) -> bytes:
  crc = google_crc32c.value(data)
  return struct.pack('<I', ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
