"""Made-up media for the input benchmark: textured pictures that move, as shards and as an mp4."""

import dataclasses

import av
import cv2
import numpy as np

from tvts_jax.shards import records, storage, writer

FPS, SECONDS, SIZE, QUALITY = 3, 64, (456, 256), 75  # Of a record; SIZE is (width, height).
MP4_FPS, MP4_SIZE, MP4_GOP = 25, (640, 360), 250


def still(rng: np.random.Generator, width: int, height: int) -> np.ndarray:
  """uint8 [height, width, 3] with the spectrum and the edges of a photograph: octaves of noise, and shapes."""
  image = np.zeros((height, width, 3), np.float32)
  for octave in range(7):
    n = 2 ** (octave + 1)
    coarse = rng.standard_normal((n * height // width + 2, n + 2, 3)).astype(np.float32)
    image += 0.66**octave * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
  image = np.clip(128 + 50 * image, 0, 255).astype(np.uint8)
  for _ in range(40):
    colour, reach = rng.integers(0, 256, 3).tolist(), int(rng.integers(8, width // 12))
    x, y = int(rng.integers(width)), int(rng.integers(height))
    if rng.random() < 0.5:
      cv2.ellipse(image, (x, y), (reach, reach // 2), int(rng.integers(180)), 0, 360, colour, -1, cv2.LINE_AA)
    else:
      cv2.line(image, (x, y), (x + 3 * reach, y + reach), colour, 3, cv2.LINE_AA)
  return image


def pictures(rng: np.random.Generator, size: tuple[int, int], times_s):
  """Yields a uint8 [height, width, 3] for each time: a camera that wanders over a still, with sensor noise."""
  width, height = size
  scene, phase = still(rng, 3 * width, 3 * height), rng.uniform(0, 6.3)
  for t in times_s:
    zoom = 1.5 + 0.5 * np.sin(t / 9 + phase)
    x, y = width * (1.5 + 0.6 * np.sin(t / 7 + phase)), height * (1.5 + 0.6 * np.cos(t / 8))
    view = np.array([[1 / zoom, 0, width / 2 - x / zoom], [0, 1 / zoom, height / 2 - y / zoom]])
    noise = rng.normal(0, 2, (height, width, 1)).astype(np.int16)
    yield np.clip(cv2.warpAffine(scene, view, size) + noise, 0, 255).astype(np.uint8)


def make_record(number: int) -> records.Record:
  """64 s at 3 frames/s with some 2.5 words/s."""
  options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
  rng = np.random.default_rng(number)
  times = [i * 1000 // FPS for i in range(SECONDS * FPS)]
  frames = [
    cv2.imencode('.jpg', image, options)[1].tobytes() for image in pictures(rng, SIZE, [t / 1000 for t in times])
  ]
  starts = sorted(rng.integers(0, SECONDS * 1000, int(2.5 * SECONDS)).tolist())
  lexicon = [''.join(map(chr, rng.integers(97, 123, rng.integers(2, 9)))) for _ in range(60)]
  return records.Record(
    video_id=f'bench {number}',
    window_index=0,
    start_ms=0,
    end_ms=SECONDS * 1000,
    duration_ms=SECONDS * 1000,
    frames=frames,
    frame_times_ms=times,
    height=SIZE[1],
    width=SIZE[0],
    words=rng.choice(lexicon, len(starts)).tolist(),
    word_starts_ms=starts,
    word_ends_ms=starts,
    lang='',
    transcript_source='made up',
    transcript_timing='word',
    source_sha256='0' * 64,
  )


def make_folder(folder: str, count: int, copies: int = 1) -> None:
  """A finished folder with `count` records in one shard, each as often as there are copies, under another name."""
  path = storage.path(folder)
  path.mkdir(parents=True)
  made = (
    dataclasses.replace(record, video_id=f'{record.video_id}, copy {copy}')
    for record in map(make_record, range(count))
    for copy in range(copies)
  )
  encoded = ((records.encode(r), r) for r in made)
  content = ((payload, writer.row_of(payload, r.video_id, r.window_index)) for payload, r in encoded)
  shard, rows = writer.write_shard(path / 'train-00000-of-00001.tfrecord', content)
  sampling = {'transcripts': 4, 'seconds': [3, 4, 5], 'gap_s': 1.0, 'min_words': 1}
  split = [shard], [rows], {'ok': count * copies}
  writer.write_manifest(path, {'fps': FPS, 'quality': QUALITY}, sampling, {'train': split})


def make_mp4(path: str, seconds: int) -> None:
  """The same kind of pictures as people have them: H.264 with a key frame every ten seconds."""
  with av.open(path, 'w') as out:
    stream = out.add_stream('libx264', rate=MP4_FPS, options={'preset': 'veryfast', 'crf': '23'})
    stream.width, stream.height = MP4_SIZE
    stream.pix_fmt, stream.codec_context.gop_size = 'yuv420p', MP4_GOP
    times = np.arange(seconds * MP4_FPS) / MP4_FPS
    for image in pictures(np.random.default_rng(0), MP4_SIZE, times):
      out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format='bgr24')))
    out.mux(stream.encode(None))
