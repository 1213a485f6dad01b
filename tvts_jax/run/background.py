"""What a run writes about itself, while devices wait for nobody: on a local disk at once, in a bucket by a thread."""

import atexit
import pathlib
import shutil
import tempfile
import threading
import time

from absl import logging

from tvts_jax.files import write_whole
from tvts_jax.shards import storage

EVERY_S, FOLDER_EVERY_S = 10.0, 60.0  # Between two writes of a file, or of a folder, to a bucket.


class Background:
  """Writes the newest content of each file, in the order in which the files came. A write that fails is a warning, and
  the content is kept for the next turn; one that storage.patiently has given up is raised by the next call."""

  def __init__(self):
    self._lock, self._turn = threading.Lock(), threading.Lock()
    self._waiting: dict[storage.BucketPath, str | bytes] = {}
    self._mirrors: dict[storage.BucketPath, pathlib.Path] = {}  # Folder → where its files are written.
    self._copied: dict[pathlib.Path, tuple] = {}  # File of a mirror → its size and time when it was copied.
    self._looked: dict[storage.BucketPath, bool] = {}
    self._failed: storage.StorageError | None = None
    self._done, self._thread = threading.Event(), None

  def write(self, path, content: str | bytes, durable: bool = True) -> None:
    path = storage.path(path)
    if isinstance(path, pathlib.Path):
      write_whole(path, content, durable)
      return
    self._start()
    with self._lock:
      self._waiting[path] = content

  def local(self, folder) -> pathlib.Path:
    """Where to write the files of a folder that must be on a disk; if it is in a bucket, they are copied there."""
    folder = storage.path(folder)
    if isinstance(folder, pathlib.Path):
      return folder
    self._start()
    if folder not in self._mirrors:
      self._mirrors[folder] = pathlib.Path(tempfile.mkdtemp(prefix='tvts_jax-'))
      atexit.register(shutil.rmtree, self._mirrors[folder], ignore_errors=True)
    return self._mirrors[folder]

  def seen(self, path) -> bool:
    """Whether a file is there; in a bucket, whether it was when the thread looked last."""
    path = storage.path(path)
    if isinstance(path, pathlib.Path):
      return path.exists()
    self._start()
    return self._looked.setdefault(path, False)

  def flush(self) -> None:
    """Returns when all that was given is written, by whichever thread calls."""
    self._take_turn(folders=True)

  def __enter__(self):
    return self

  def __exit__(self, kind, error, traceback) -> None:
    self._done.set()
    if self._thread:
      self._thread.join()
      if error is None:
        self.flush()

  def _start(self) -> None:
    if self._failed:
      raise self._failed
    if self._thread is None:
      self._thread = threading.Thread(target=self._run, name='background', daemon=True)
      self._thread.start()

  def _run(self) -> None:
    last = time.monotonic()
    while not self._done.wait(EVERY_S):
      late = time.monotonic() - last >= FOLDER_EVERY_S
      last = time.monotonic() if late else last
      try:
        self._take_turn(folders=late)
        for path in list(self._looked):
          self._looked[path] = path.is_file()
      except storage.StorageError as e:
        self._failed = e
        return
      except OSError as e:
        logging.warning('%s cannot be written: %s; it is tried again', e.filename, e.strerror)

  def _take_turn(self, folders: bool) -> None:
    with self._turn:
      with self._lock:
        files, self._waiting = self._waiting, {}
      while files:
        path = next(iter(files))
        content = files.pop(path)
        try:
          write_whole(path, content)
        except OSError:
          with self._lock:
            self._waiting = {path: content, **files, **self._waiting}
          raise
      if folders:
        for target, folder in self._mirrors.items():
          self._copy(folder, target)

  def _copy(self, folder: pathlib.Path, target: storage.BucketPath) -> None:
    for file in storage.files_below(folder):
      now = storage.stat(file)
      if self._copied.get(file) != now:
        (target / file.relative_to(folder)).write(file)
        self._copied[file] = now
