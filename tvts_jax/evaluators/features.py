"""What the frozen encoders make of the clips of a split, and of texts.

Every clip is seen under V views (temporal clips x crops). Features are computed on all devices of all processes,
whole batches at a time, once for each set of parameters: evaluators that ask for the same share them (`STORE`).

Shapes: N clips, V views, D width of the video tokens, C width of the common space, R texts.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
from collections.abc import Callable, Collection, Iterator

import jax
import numpy as np
from absl import logging

from tvts_jax import roles, sharding
from tvts_jax.errors import UserError
from tvts_jax.evaluators.ranks import unit
from tvts_jax.files import publish
from tvts_jax.human import Progress, percent
from tvts_jax.input import pipeline
from tvts_jax.input.settings import InputConfig
from tvts_jax.input.tokens import Tokenizer
from tvts_jax.models import layers
from tvts_jax.pod import messages
from tvts_jax.run import checksums, stop
from tvts_jax.shards import storage
from tvts_jax.shards.index import video_hash

FEATURES = {
  'cls': 'the [CLS] of the video encoder after its last norm',
  'embed': 'the clip in the space that it shares with texts',
}
CROPS = {1: ('center',), 3: ('left', 'center', 'right')}


@dataclasses.dataclass(frozen=True)
class Views:
  """Each clip is seen input.clips x crops times."""

  input: InputConfig
  crops: int = 1

  def __post_init__(self):
    if self.crops not in CROPS:
      raise UserError(f'crops={self.crops!r} is unknown; known: {", ".join(map(str, CROPS))}')

  @property
  def inputs(self) -> list[InputConfig]:
    clips, crops = range(self.input.clips), CROPS[self.crops]
    return [dataclasses.replace(self.input, clip=clip, crop=crop) for clip in clips for crop in crops]

  def __str__(self):
    size, clips = self.input.image_size, self.input.clips
    how = f' {self.input.spread}' if clips > 1 else ''
    resized = f' out of short side {self.input.resize}' if self.input.resize else ''
    return (
      f'{clips}{how} clip{"s" if clips > 1 else ""} x {self.crops} crop{"s" if self.crops > 1 else ""} '
      f'({", ".join(CROPS[self.crops])}) of {self.input.frames} centre frames of {size}x{size}{resized}, '
      f'{percent(self.input.mask_ratio)} masked'
    )


def everywhere(mesh) -> jax.NamedSharding:
  return jax.NamedSharding(mesh, jax.P())


def advance(progress: Progress, done: int, detail: Callable[[], str] = str) -> None:
  """Between two batches: shows the progress of process 0. Stopped if a run that evaluates is asked to stop."""
  stop.between_batches()
  if jax.process_index() == 0:
    progress.tell(done, detail)


class Clips:
  """The clips of a split under views; `videos` [N] names them by index.video_hash.

  With `ids`, none that lies in storage behind the last of these videos.
  """

  def __init__(self, views: Views, model, mesh, ids: Collection[str] | None = None):
    self.views, self.model, self.mesh = views, model, mesh
    sharding.check_batch(views.input.batch, 1, mesh, 'batch')
    self.sources = [pipeline.open(config) for config in views.inputs]
    self.videos = self.sources[0].videos
    if len(np.unique(self.videos)) < len(self.videos):
      raise UserError(
        f'{views.input.folder}, split {views.input.split!r}, has several windows of one video, and evaluators look at '
        'one; build it with --windows-per-video 1'
      )
    if ids is not None:
      (asked,) = np.isin(self.videos, np.array([video_hash(id_) for id_ in ids], np.uint64)).nonzero()
      self.videos = self.videos[: asked.max(initial=0) + 1]

  def __len__(self):
    return len(self.videos)

  def __str__(self):
    return f'{self.views.input.folder}, split {self.views.input.split!r}'

  def key(self) -> dict:
    """All that features depend on but the parameters."""
    seen, unseen = dataclasses.asdict(self.views.input), roles.names(InputConfig, 'resume', 'unseen')
    return {
      'input': {name: value for name, value in seen.items() if name not in unseen},
      'crops': self.views.crops,
      'clips': len(self),
      'data': [manifest.sha256 for manifest in self.sources[0].manifests],
      'model': self.model.config.to_dict(),
    }

  def features(self, params) -> dict[str, np.ndarray]:
    """'cls' [N, V, D] and 'embed' [N, V, C], float32, and 'valid' [N, V]: False where a record is damaged."""
    return self.see(video_encoder(self.model, self.mesh), params, 'features')

  def see(self, encode, params, what: str) -> dict[str, np.ndarray]:
    """What encode(params, batch) → {name: [B, ...], copied everywhere} finds in all clips, {name: [N, V, ...]}."""
    found, N, V = {}, len(self), len(self.sources)
    mine, stop_step = sharding.rows(self.views.input.batch, self.mesh), -(-N // self.views.input.batch)
    progress = Progress(f'clips seen for {what} of {self}', N * V)
    for nth, source in enumerate(self.sources):
      with source.batches(0, mine, stop_step=stop_step) as batches:
        for step, batch in enumerate(batches):
          batch = {name: batch[name] for name in ('patches', 'positions', 'valid')}
          values = encode(params, sharding.put(batch, self.mesh))
          first = step * self.views.input.batch
          for name, value_BxX in jax.device_get(values).items():
            if name not in found:
              found[name] = np.empty((N, V, *value_BxX.shape[1:]), value_BxX.dtype)
            found[name][first : first + len(value_BxX), nth] = value_BxX[: N - first]
          advance(progress, nth * N + min(N, first + self.views.input.batch))
    return found


@functools.lru_cache(maxsize=8)
def video_encoder(model, mesh):
  """Compiled once for all that look at clips of one shape."""

  def encode(params, batch):
    seen = model.embed_video(params, batch)
    cls_BxD = seen['video_tokens'][:, 0]
    return {'cls': cls_BxD.astype(layers.wide(cls_BxD.dtype)), 'embed': seen['video_embed'], 'valid': batch['valid']}

  return jax.jit(encode, out_shardings=everywhere(mesh))


@functools.lru_cache(maxsize=8)
def text_encoder(model, mesh):
  # Each text by itself: as if it were the only transcript of a clip.
  embed = lambda params, tokens_BxL, mask_BxL: model.embed_text(params, tokens_BxL[:, None], mask_BxL[:, None])
  return jax.jit(embed, out_shardings=everywhere(mesh))


class Texts:
  """Embeds texts, all processes the same ones."""

  def __init__(self, config: InputConfig, model, mesh):
    sharding.check_batch(config.batch, 1, mesh, 'batch')
    most = model.config.text.max_position_embeddings
    if config.max_tokens > most:
      raise UserError(
        f'max_tokens={config.max_tokens} is more than the {most} that the text encoder knows; ask for fewer'
      )
    self.batch, self.mesh, self.encode = config.batch, mesh, text_encoder(model, mesh)
    self.tokenizer = Tokenizer(config.tokenizer, config.max_tokens)
    if self.tokenizer.vocab_size > model.config.text.vocab_size:
      raise UserError(
        f'the tokenizer {config.tokenizer!r} has {self.tokenizer.vocab_size} word pieces, but the text encoder knows '
        f'{model.config.text.vocab_size}; take the tokenizer that it was trained with'
      )

  def __call__(self, params, texts: list[str]) -> np.ndarray:
    """float32 [R, C], not normalised."""
    tokens_RxL, mask_RxL = self.tokenizer(texts)
    mine, parts = sharding.rows(self.batch, self.mesh), []
    for first in range(0, len(texts), self.batch):
      # The last batch is filled up with the last text.
      rows_B = np.minimum(first + np.arange(self.batch), len(texts) - 1)[mine]
      put = sharding.put({'tokens': tokens_RxL[rows_B], 'mask': mask_RxL[rows_B]}, self.mesh)
      parts.append(jax.device_get(self.encode(params, put['tokens'], put['mask'])))
      stop.between_batches()
    return np.concatenate(parts)[: len(texts)]

  def says(self, texts: list[str]) -> str:
    """For a protocol."""
    return f'{len(texts)} texts of up to {self.tokenizer.length} word pieces, {self.tokenizer.cut(texts)} of them cut'


class Store:
  """Features of the parameters that are evaluated: in memory, and in `folder` if there is one."""

  def __init__(self):
    self.folder = None
    self._of, self._held = None, {}

  @contextlib.contextmanager
  def kept_in(self, folder) -> Iterator[None]:
    """Until the end of the block, features are read from a folder and written there."""
    before, self.folder = self.folder, folder
    try:
      yield
    finally:
      self.folder = before

  def features(self, clips: Clips, params) -> dict[str, np.ndarray]:
    of = identity(params)
    if of != self._of:
      self._of, self._held = of, {}  # What the last parameters made is of no more use.
    key = json.dumps({'parameters': of, **clips.key()}, sort_keys=True)
    if key not in self._held:
      self._held[key] = self._read(clips, key) or self._make(clips, key, params)
    return self._held[key]

  def _path(self, key: str):
    return storage.path(self.folder) / f'{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz'

  def _read(self, clips: Clips, key: str) -> dict | None:
    """What is on disk, if all processes can read it; a damaged file is made anew."""
    if self.folder is None:
      return None
    path, found, why = self._path(key), None, None
    try:
      with np.load(io.BytesIO(storage.read_bytes(path)), allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files}  # Each has a checksum in the file.
      if str(found.pop('key')) != key or any(len(value) != len(clips) for value in found.values()):
        why = 'it holds something else'
    except FileNotFoundError:
      why = ''
    except Exception as e:  # noqa: BLE001 — a damaged archive shows in as many ways as it has parts.
      why = f'it is damaged ({e})'
    if (said := messages.ask_all(why)) is None:
      logging.info('features of %s are read from %s', clips, path)
      return found
    if said.partition(' (process')[0]:
      logging.warning('%s is not used, since %s; it is made anew', path, said)
    return None

  def _make(self, clips: Clips, key: str, params) -> dict:
    found = clips.features(params)
    # What is damaged may be mended, and only a new look would tell.
    if self.folder is not None and jax.process_index() == 0 and found['valid'].all():
      path = self._path(key)
      try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with publish(path) as file:
          np.savez(file, key=np.array(key), **found)
      except OSError as e:
        logging.warning('%s cannot be written (%s); this evaluation goes on, and another one makes it anew', path, e)
    return found


STORE = Store()  # Of this process: an evaluation has one set of parameters at a time.


def identity(params) -> str:
  """A hash of all parameters, the same on any mesh."""
  named = {sharding.path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(params)}
  prints = {name: [value, list(named[name].shape)] for name, value in checksums.fingerprints(named).items()}
  return hashlib.sha256(json.dumps(prints, sort_keys=True).encode()).hexdigest()


def pooled(features_NxVxD: np.ndarray) -> np.ndarray:
  """One direction a clip, [N, D]: the mean of those of its views."""
  return unit(features_NxVxD).mean(axis=1)
