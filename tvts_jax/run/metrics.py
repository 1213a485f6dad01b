"""What a run says about itself: metrics.jsonl, TensorBoard, and the progress line.

A line of metrics.jsonl is {"step": s, "time": seconds since 1970, name: value, ...}: the numbers of the state after s
steps. Only "time" differs between a run and the same run interrupted anywhere.
"""

import contextlib
import importlib.util
import itertools
import json
import math
import time
from collections.abc import Mapping, Sequence

from absl import logging
from clu import asynclib

from tvts_jax import machine, objectives
from tvts_jax.errors import UserError
from tvts_jax.files import read_rows
from tvts_jax.human import duration, number, percent
from tvts_jax.input import host_tf
from tvts_jax.run.background import Background
from tvts_jax.run.clock import Rates
from tvts_jax.shards import storage

FILE = 'metrics.jsonl'
TENSORBOARD = 'tensorboard'  # The folder for `tensorboard --logdir`.


class Writers:
  """Writes the scalars of a run that goes on after `first` steps; on all processes but the first it does nothing.

  What an earlier process wrote for later steps is dropped, since these steps are done again, and so is half a line
  that it left. A checkpoint must be saved only after the numbers of all its steps are written.
  """

  def __init__(self, workdir, process_index: int, first: int, background: Background):
    self._background = background
    self._active = process_index == 0
    if not self._active:
      return
    self._path = storage.path(workdir) / FILE
    rows, broken = read_rows(self._path)
    if broken:
      logging.warning('%s: dropped what is unreadable, lines %s', self._path, ', '.join(map(str, broken)))
    rows = [row for row in rows if row['step'] <= first] if first else []
    self._text = ''.join(json.dumps(row) + '\n' for row in rows)
    # What was evaluated before the checkpoint may be evaluated again after it.
    self._written = {(row['step'], frozenset(row) - {'step', 'time'}) for row in rows}
    with telling(self._path):
      self._path.parent.mkdir(parents=True, exist_ok=True)
      background.write(self._path, self._text)
      self._board = open_board(background.local(storage.path(workdir) / TENSORBOARD))

  def write(self, step: int, scalars: Mapping[str, float]):
    """On a local disk on return, so that a killed process loses nothing; in a bucket soon."""
    if taken := {'step', 'time'} & set(scalars):
      raise ValueError(f'no metric can be called {taken.pop()!r}: each line of {FILE} has a field of that name')
    if not self._active or (step, frozenset(scalars)) in self._written:
      return
    scalars = {name: float(value) for name, value in scalars.items()}
    values = {name: value if math.isfinite(value) else None for name, value in scalars.items()}  # JSON has no NaN.
    line = json.dumps({'step': step, 'time': round(time.time(), 3), **values}) + '\n'
    with telling(self._path):
      if storage.is_local(self._path):
        self._append(line.encode())
      else:  # What lies in a bucket cannot grow.
        self._text += line
        self._background.write(self._path, self._text)
      if self._board:
        self._board.write_scalars(step, scalars)

  def _append(self, line: bytes) -> None:
    starts = itertools.chain([b''], itertools.repeat(b'\n'))  # A try that failed may have left half a line.

    def append():
      with self._path.open('ab') as file:
        file.write(next(starts) + line)

    storage.patiently(self._path, append)

  def close(self):
    if self._active and self._board:
      with telling(self._path):
        self._board.close()


@contextlib.contextmanager
def telling(path):
  """A full disk in one sentence."""
  try:
    yield
  except storage.StorageError:
    raise
  except (OSError, asynclib.AsyncError) as error:
    raise UserError(
      f'metrics cannot be written to {path.parent} ({getattr(error, "strerror", None) or error}); put that right and '
      'run again: the run goes on from its last checkpoint'
    ) from error


def open_board(folder):
  """Something with write_scalars(step, scalars) and close() that works in the background; None without TensorBoard."""
  if not importlib.util.find_spec('tensorboard'):
    logging.info('TensorBoard is not installed, so there is no %s; %s has all the numbers', folder, FILE)
    return None
  if not importlib.util.find_spec('tensorflow'):
    return EventWriter(folder)
  host_tf.tensorflow()  # Clu imports TensorFlow, which must have been kept from the accelerators by then.
  from clu import metric_writers

  return metric_writers.AsyncWriter(metric_writers.SummaryWriter(str(folder)))


class EventWriter:
  """TensorBoard's own writer, for machines without TensorFlow."""

  def __init__(self, folder):
    from tensorboard.summary.writer import event_file_writer

    self._file = event_file_writer.EventFileWriter(str(folder))

  def write_scalars(self, step: int, scalars: Mapping[str, float]):
    from tensorboard.compat.proto import event_pb2, summary_pb2

    values = [summary_pb2.Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
    summary = summary_pb2.Summary(value=values)
    self._file.add_event(event_pb2.Event(wall_time=time.time(), step=step, summary=summary))

  def close(self):
    self._file.close()


def mfu(clips_per_s: float, clip_flops: float, devices: Sequence) -> float | None:
  """Model FLOPs utilisation: the model's own arithmetic as a share of the devices' peak, where that is known."""
  peaks = [machine.peak(device.device_kind) for device in devices]
  return None if None in peaks else clips_per_s * clip_flops / sum(peaks)


def progress_line(
  step: int,
  total: int,
  values: Mapping[str, float],
  rates: Rates | None,
  *,
  transcripts: int,
  batch: int,
  mfu: float | None = None,
) -> str:
  """One line. values: metrics by name, of which those with a known chance level are shown beside it.

  transcripts: of a clip; batch: clips among which contrastive retrieval searches.
  """

  def chance(metric: str) -> str:
    level = objectives.chance(metric, transcripts, batch)
    return '' if level is None else f' (chance {percent(level)})'

  parts = [f'step {step}/{total}']
  if 'loss' in values:
    parts.append(f'loss {values["loss"]:.4f}')
  for objective in dict.fromkeys(name.split('/')[0] for name in values):
    scores = [
      f'{score} {percent(values[name])}{chance(name)}'
      for score in ('item', 'exact', 'assigned')
      if (name := f'{objective}/{score}') in values
    ]
    recalls = [
      f'{way} {percent(values[name])}' for way in ('v2t', 't2v') if (name := f'{objective}/{way}_r1') in values
    ]
    if scores:
      parts.append(' '.join([objective, *scores]))
    if recalls:
      parts.append(f'R@1 {" ".join(recalls)}{chance(f"{objective}/v2t_r1")}')
  if rates is not None:
    parts.append(f'{number(rates.clips_per_s)} clips/s')
    if mfu is not None:
      parts.append(f'MFU {percent(mfu)}')
    parts += [f'waiting for data {percent(rates.waiting)}', f'ETA {duration(rates.eta_s)}']
  return '  '.join(parts)
