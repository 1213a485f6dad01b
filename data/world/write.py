"""A world as files: each clip as mp4 with a transcript beside it, and the index and labels of all."""

import concurrent.futures
import contextlib
import io
import json
import multiprocessing
import signal
import threading
from pathlib import Path

import av
import cv2
import numpy as np

from data.builder.workers import die_with_parent
from data.outcomes import BuildError
from data.transcripts.dialects import WRITERS
from data.world.scene import DURATION_MS, FPS, SPLITS, WORLDS, World, labels_of, pairs_of, render, write_script
from tvts_jax import files
from tvts_jax.files import write_whole
from tvts_jax.human import Progress

VERSION = 2  # Part of a folder's settings: raise it when the same seed gives other clips.


def encode_mp4(frames: np.ndarray, *, fps: int = FPS) -> bytes:
  """H.264 in mp4, one thread and no dates or muxer versions: the same frames give the same bytes."""
  buffer = io.BytesIO()
  with av.open(buffer, 'w', format='mp4', options={'fflags': '+bitexact'}) as container:
    stream = container.add_stream('libx264', rate=fps, options={'preset': 'superfast', 'crf': '26'})
    stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], 'yuv420p'
    stream.codec_context.thread_count = 1
    for frame in frames:
      # OpenCV's conversion is the faster one and keeps small bright shapes a little purer.
      planes = cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420)
      container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format='yuv420p')))
    container.mux(stream.encode())
  return buffer.getvalue()


def clip_files(split: str, index: int) -> tuple[str, str, str]:
  """-> (id, video, transcript), the two as paths below the world's folder."""
  name = f'{split}-{index:06d}'
  return name, f'{split}/{name}.mp4', f'{split}/{name}.{list(WRITERS)[index % len(WRITERS)]}'


def write_clip(folder: Path, seed: int, split: str, index: int, world: World = WORLDS['plain']) -> None:
  _, video, transcript = (Path(folder, name) for name in clip_files(split, index))
  if all(path.is_file() and path.stat().st_size for path in (video, transcript)):
    return
  frames, words, labels = render(seed, index, split, world=world)
  ends = np.cumsum([0] + [len(text.split()) for text in labels['narration']])
  utterances = [list(words[a:b]) for a, b in zip(ends, ends[1:])]
  writer = list(WRITERS.values())[index % len(WRITERS)]
  # Waiting for the disk each time would take longer than making a clip; an empty file is made again.
  write_whole(transcript, writer(utterances, DURATION_MS), durable=False)
  write_whole(video, encode_mp4(frames), durable=False)


def write_clips(folder: Path, seed: int, world: World, split: str, indices: range) -> int:
  for index in indices:
    write_clip(folder, seed, split, index, world)
  return len(indices)


def begin_worker() -> None:
  """One core a worker, and none that outlives the run it works for."""
  cv2.setNumThreads(1)
  signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides.
  threading.Thread(target=die_with_parent, daemon=True).start()


def write_world(folder: Path, seed: int, world: World, counts: dict[str, int], workers: int) -> None:
  """Writes what is missing, the index last. The folder is claimed: see `claim`."""
  chunks = []
  for split, count in counts.items():
    if count:
      (folder / split).mkdir(exist_ok=True)
      files.sweep(folder / split)
    chunks += [(split, range(i, min(i + 32, count))) for i in range(0, count, 32)]
  done, progress = 0, Progress('clips', sum(counts.values()))
  context = multiprocessing.get_context('spawn')  # A fork would keep the lock of a killed run.
  with concurrent.futures.ProcessPoolExecutor(workers, context, begin_worker) as pool:
    waiting = [pool.submit(write_clips, folder, seed, world, *chunk) for chunk in chunks]
    try:
      for future in concurrent.futures.as_completed(waiting):
        done += future.result()
        progress.tell(done)
    except BaseException:
      pool.shutdown(cancel_futures=True)
      raise

  index, labels = [], []
  for split, count in counts.items():
    scripts = {}
    for i in range(count):
      name, video, transcript = clip_files(split, i)
      scripts[name] = write_script(seed, i, split, world)
      index.append({'id': name, 'video': video, 'transcript': transcript, 'lang': 'en', 'split': split})
    pairs = pairs_of(scripts) if SPLITS[split][0] == 'motion' else {}
    for name, script in scripts.items():
      row = {'id': name, 'split': split} | labels_of(script)
      labels.append(row | {'pairs': pairs[name]} if pairs else row)
  for name, rows in (('labels.jsonl', labels), ('index.jsonl', index)):
    write_whole(folder / name, ''.join(json.dumps(row) + '\n' for row in rows))


@contextlib.contextmanager
def claim(folder: Path, settings: dict):
  """Holds a folder that is new or has the beginnings of the same world. BuildError for any other."""
  if folder.exists() and not folder.is_dir():
    raise BuildError(f'{folder} is no folder; name a new or an empty one', 'request')
  folder.mkdir(parents=True, exist_ok=True)
  known = folder / 'world.json'
  if not known.exists() and any(not path.name.startswith('.') for path in folder.iterdir()):
    raise BuildError(f'{folder} holds other files and no world.json; name a new or an empty folder', 'request')
  with files.locked(folder) as owner:
    if owner:
      raise BuildError(f'{folder} is being written by {owner}; wait for it, or name another folder', 'busy')
    files.sweep(folder)
    if not known.exists():
      write_whole(known, json.dumps(settings, indent=2) + '\n')
    try:
      there = {'world': 'plain'} | json.loads(known.read_text())  # Which those from before there were others don't say.
      changed = [f'{k} was {there[k]}, is {v}' for k, v in settings.items() if there[k] != v]
    except (ValueError, KeyError, TypeError) as e:
      raise BuildError(f'{known} cannot be read ({e!r}); name another folder', 'plan') from e
    if changed:
      raise BuildError(f'{folder} holds another world: {"; ".join(changed)}; name another folder', 'plan')
    yield
