"""What the input of a host has to give, so that its chips do not wait: bytes, cores, and the time of one process."""

import statistics

from tvts_jax.machine import Chip
from tvts_jax.shards import index, storage

# What python -m tvts_jax.bench.input measures: clips of 16 frames that a core makes in a second, and the seconds that
# the training process spends on one that workers have made.
CLIPS_PER_CORE, SERIAL_S = 300, 0.03e-3
FRAME_BYTES = 13_300  # A stored frame of 256 pixels, where there are no shards to look at.
HEAD_BYTES = 5_000  # Words, times and the frame table of a record.
FPS = 3.0  # The default of data.build.


def bytes_a_clip(config) -> dict[str, float]:
  """From a bucket, where the span of a clip is one request, and from a disk, where frames are read one by one."""
  given, fps, frame = config.input, FPS, FRAME_BYTES
  if manifest := manifest_of(given):
    record = sum(shard.bytes for shard in manifest.shards) / max(1, manifest.count)
    try:
      fps = float(manifest.config['fps'])
      frame = max(0.0, record - HEAD_BYTES) / (manifest.config['window_s'] * fps)
    except (KeyError, TypeError, ValueError, ArithmeticError) as e:
      raise index.damaged(manifest.folder, e) from e
  seconds = given.transcripts * (statistics.mean(given.seconds) + given.gap_s) - given.gap_s
  return {
    'bucket': HEAD_BYTES + max(given.frames, seconds * fps) * frame,
    'disk': HEAD_BYTES + given.frames * frame,
  }


def manifest_of(given) -> index.Manifest | None:
  if not given.folder:
    return None
  try:
    return index.load(given.folder, given.split)
  except index.FolderError:
    return None


def host(config, chip: Chip, devices: int, clips_per_s: float) -> dict[str, float]:
  """What a host needs to take `clips_per_s`, and what it has."""
  read = bytes_a_clip(config)
  where = 'disk' if config.input.folder and storage.is_local(config.input.folder) else 'bucket'
  chips = min(chip.together, devices)
  return {
    'clips_per_s': clips_per_s,
    'cores': clips_per_s * config.input.frames / 16 / CLIPS_PER_CORE,
    'cores_there': chip.cores * chips,
    'process': clips_per_s * SERIAL_S,
    'read_bytes_per_s': clips_per_s * read[where],
    'network_there': chip.network * chips,
    'to_device_bytes_per_s': clips_per_s * config.input.tubelets * config.model.video.pixels,
  }
