"""Every setting of the input pipeline and its default; nothing else has defaults for them."""

import dataclasses

from tvts_jax.errors import UserError
from tvts_jax.input import masks
from tvts_jax.roles import names, setting
from tvts_jax.shards.sampling import SamplingConfig

RESIZE = 256 / 224  # The short side, in crops, of the frames that the preprocessor of an export cuts a crop out of.
MODES = {
  'train': 'endless, epoch after epoch in random order',
  'eval': 'every example once in storage order, the middle draw and no random crop; the last batch is filled up',
}
EPOCHS = {
  'windows': 'every window of every video once',
  'videos': 'one window of every video, drawn anew in each epoch',
}
CROPS = {
  'random': 'one random place per clip',
  'resized': 'a part of random place, size and shape, the same of all frames, scaled to a square',
  'center': 'the middle',
  'left': 'the left end of a wide or square frame, the top of a high one',
  'right': 'the other end',
}
CAPTIONS = {
  'record': 'what the record says',
  'drawn': 'one of those that the annotations list for the clip, drawn at random',
}
DECODERS = {
  'auto': 'tf where TensorFlow is installed, else cv',
  'tf': 'TensorFlow',
  'cv': 'OpenCV, to the same pixels, or within rounding where frames are scaled',
}
MIXES = {
  'weight': 'every batch holds a fixed share of each source',
  'alternate': 'batch after batch from the next source',
}


RESAMPLES = {
  'linear': 'a triangle filter, without aliasing',
  'nearest': 'the nearest pixel, as TVTSv2 was made and measured; it aliases',
}


@dataclasses.dataclass(frozen=True)
class InputConfig(SamplingConfig):
  """From a folder of shards to batches; sizes in pixels. How transcripts and frames are drawn is inherited."""

  folder: str = setting('', 'resume')
  split: str = 'train'
  mode: str = setting('train', 'views', 'run')
  batch: int = setting(1024, 'unseen', 'run')  # Examples in the global batch of all processes.
  seed: int = setting(0, 'run')
  epoch: str = setting('windows', 'unseen', 'run')
  image_size: int = setting(224, 'alike', follows='model.video.image_size')
  patch: int = setting(16, 'alike', follows='model.video.patch')
  tubelet: int = setting(2, 'alike', follows='model.video.tubelet')  # Frames.
  crop: str = setting('random', 'views', 'alike')
  # Scale frames to this short side before the crop, which costs host time; None: only those too small for the crop.
  resize: int | None = setting(None, 'alike')
  resample: str = setting('linear', 'alike')  # How frames are scaled.
  # Changes to the pixels of a clip, alike in all frames (augment.py).
  rand_augment: int = setting(0, 'training', 'alike')  # Operations of RandAugment.
  magnitude: float = setting(7.0, 'training', 'unseen', 'alike')  # Of each, from 0 to 10.
  flip: bool = setting(False, 'training', 'alike')  # Mirror one of two clips: not where left and right mean something.
  erase: float = setting(0.0, 'training', 'alike')  # Share of the clips that lose a box.
  mask: str = 'random'
  mask_ratio: float = 0.75
  # So many of the visible tubelets are given, drawn anew for each clip; None: all. With 383 of 392 the encoder sees 384
  # tokens, a multiple of 128, for which TPUs have faster attention.
  keep: int | None = setting(None, 'alike')
  tokenizer: str = setting('', 'resume')  # A local folder or a hub name.
  max_tokens: int = setting(32, 'unseen', 'alike')
  annotations: str = setting('', 'unseen')  # A file (annotations.py), for what a batch holds of it.
  # The field of it with the class of each clip, where that is another one than `label`.
  label: str = setting('', 'unseen')
  caption: str = setting('record', 'training')  # Of a clip that has a caption, with transcripts=1.
  # More that a batch holds: what the objectives of a run ask for.
  fields: tuple[str, ...] = setting((), 'views', 'alike', follows='objectives.fields')
  # Several folders: settings that differ from the ones above, and 'weight' (1 unless given), for each.
  sources: tuple[dict, ...] = setting((), 'views', 'run')
  mix: str = setting('weight', 'views', 'run')
  # Processes that make rows: None: one for each core but one, where there are more than three; 0: threads of this one.
  workers: int | None = setting(None, 'resume', 'run')
  reads: int = setting(32, 'resume', 'run')  # In flight at a time, of each worker.
  prefetch_s: float = setting(5.0, 'resume', 'run')  # So many seconds ahead batches are made,
  prefetch_bytes: int = setting(2 * 2**30, 'resume', 'run')  # but not more of them than this.
  decoder: str = setting('auto', 'resume', 'alike')
  # The share of a folder's records that may be damaged, and always a few: so many are skipped, by all processes
  # together, before the run stops. 0 stops at the first.
  max_bad: float = setting(0.001, 'resume')

  def __post_init__(self):
    if self.mode == 'eval':
      object.__setattr__(self, 'pick', 'center')
      if self.crop in ('random', 'resized'):
        object.__setattr__(self, 'crop', 'center')
      for name in names(InputConfig, 'training'):
        object.__setattr__(self, name, getattr(InputConfig, name))
    super().__post_init__()
    object.__setattr__(self, 'sources', tuple(self.sources))
    object.__setattr__(self, 'fields', tuple(self.fields))
    tables = {'mode': MODES, 'epoch': EPOCHS, 'crop': CROPS, 'mask': masks.MASKS, 'mix': MIXES, 'caption': CAPTIONS}
    tables['resample'] = RESAMPLES
    for name, table in {**tables, 'decoder': DECODERS}.items():
      if getattr(self, name) not in table:
        raise UserError(f'{name}={getattr(self, name)!r} is unknown; known: {", ".join(table)}')
    if not self.annotations and (self.caption != 'record' or 'label' in self.fields):
      raise UserError('input.annotations is not set; name the annotations.jsonl that data.check has written')
    if self.caption == 'drawn' and self.transcripts != 1:
      raise UserError(f"caption='drawn' gives one text a clip, not transcripts={self.transcripts}; set transcripts=1")
    for name in ('batch', 'image_size', 'patch', 'tubelet', 'max_tokens'):
      if getattr(self, name) < 1:
        raise UserError(f'{name}={getattr(self, name)} must be at least 1')
    if self.image_size % self.patch or self.frames % self.tubelet:
      raise UserError(
        f'image_size={self.image_size} must be a multiple of patch={self.patch}, and frames={self.frames} of '
        f'tubelet={self.tubelet}'
      )
    if self.resize is not None and self.resize < self.image_size:
      raise UserError(f'resize={self.resize} is smaller than the crop, image_size={self.image_size}')
    if self.crop == 'resized' and self.resize is not None:
      raise UserError(f"crop='resized' takes its part of the whole frame; leave out resize={self.resize}")
    for name, most in (('magnitude', 10), ('erase', 1)):
      if not 0 <= getattr(self, name) <= most:
        raise UserError(f'{name}={getattr(self, name)} must be from 0 to {most}')
    if self.rand_augment < 0:
      raise UserError(f'rand_augment={self.rand_augment} is a number of operations: at least 0')
    for name, least in (('reads', 1), ('workers', 0), ('prefetch_s', 0), ('prefetch_bytes', 0)):
      if (value := getattr(self, name)) is not None and value < least:
        raise UserError(f'{name}={value} must be at least {least}')
    if not 0 <= self.max_bad <= 1:
      raise UserError(f'max_bad={self.max_bad} is a share: from 0 to 1')
    visible = self.slices * masks.visible_per_slice(self.grid, self.mask_ratio)
    if self.keep is not None and not 1 <= self.keep <= visible:
      raise UserError(
        f'keep={self.keep} must be from 1 to {visible}, the tubelets that mask_ratio={self.mask_ratio} leaves'
      )

  @property
  def enlarged(self) -> int:
    """The short side to which frames are scaled that are too small for the crop."""
    return round(self.image_size * RESIZE)

  @property
  def augmented(self) -> bool:
    return bool(self.rand_augment or self.flip or self.erase)

  @property
  def slices(self) -> int:
    """T: time slices of a clip, each a row of tubelets."""
    return self.frames // self.tubelet

  @property
  def grid(self) -> int:
    """S: tubelets of one time slice."""
    return (self.image_size // self.patch) ** 2

  @property
  def visible(self) -> int:
    """V: tubelets of one time slice that are not masked."""
    return masks.visible_per_slice(self.grid, self.mask_ratio)

  @property
  def tubelets(self) -> int:
    """N: those of a clip that are given."""
    return self.slices * self.visible if self.keep is None else self.keep

  def parts(self) -> tuple[list['InputConfig'], list[float]]:
    """One config for each source, and their weights."""
    if not self.sources:
      return [self], [1.0]
    fields = {f.name for f in dataclasses.fields(self)} - set(names(InputConfig, 'run'))
    configs, weights = [], []
    for source in self.sources:
      changes = dict(source)
      weights.append(changes.pop('weight', 1.0))
      unknown = sorted(set(changes) - fields)
      if unknown:
        raise UserError(f'a source cannot set {", ".join(unknown)}; it can set: weight, {", ".join(sorted(fields))}')
      configs.append(dataclasses.replace(self, sources=(), **changes))
    return configs, weights
