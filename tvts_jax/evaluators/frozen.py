"""What evaluators on frozen features have in common: settings, clips, answers."""

import dataclasses
from collections.abc import Collection
from typing import ClassVar

import jax
import numpy as np

from tvts_jax import roles
from tvts_jax.errors import UserError
from tvts_jax.evaluators import answers, quoted, ranks
from tvts_jax.evaluators.features import Clips, Texts, Views, everywhere
from tvts_jax.evaluators.results import Result
from tvts_jax.input.settings import InputConfig
from tvts_jax.shards import annotations

COMMON = {
  'annotations': '',  # A file with what is right about each clip: input/annotations.py says which.
  'label': '',  # The fields of it to read, where it is no annotations.jsonl.
  'captions': '',
  'crops': 1,  # 1 or 3; `clips` and `spread` of the input say how many temporal clips there are, and which.
  'quoted': '',  # A table of quoted.py that stands beside the result, such as 'SSV2, linear probe'.
  'max_clips': None,  # Of the split that counts; the one that a probe learns from is always whole.
}
BEST = 5  # Classes that the result of a clip lists.


class Frozen:
  """Each has `result(params)`. Settings are those of the input, COMMON and OWN; mask_ratio is 0 unless it is set."""

  OWN: ClassVar[dict] = {}  # Settings and their defaults.
  CHOICES: ClassVar[dict] = {}  # What some of them may be, by name.
  TRAIN_MIDDLE: ClassVar[bool] = False  # Clips of the `train_split` have one view, whatever the others have.
  EMBEDS_TEXTS: ClassVar[bool] = False  # Whether it embeds texts.
  MAY_DIFFER: ClassVar[tuple] = ('frames', 'transcripts')  # From the model.

  @classmethod
  def settings_of(cls, config, settings) -> tuple[dict, InputConfig]:
    """Its own settings and those of the input. UserError if one makes no sense."""
    own = COMMON | cls.OWN
    fixed = {*roles.names(InputConfig, 'views', 'training'), *COMMON}
    known = [field.name for field in dataclasses.fields(InputConfig) if field.name not in fixed]
    kind = f'the evaluator {cls.__name__}'
    if unknown := sorted(set(settings) - set(known) - set(own)):
      raise UserError(f'{kind} has no setting {unknown[0]!r}; it has every_steps, {", ".join([*own, *known])}')
    values = own | {name: value for name, value in settings.items() if name in own}
    for name, choices in cls.CHOICES.items():
      if values[name] not in choices:
        raise UserError(f'{name}={values[name]!r} is unknown to {kind}; known: {", ".join(choices)}')
    if values['quoted'] and values['quoted'] not in (known_tables := quoted.keys()):
      raise UserError(f'quoted={values["quoted"]!r} is no table of {kind}; known: {"; ".join(known_tables)}')
    if not values['annotations']:
      raise UserError(f'{kind} needs annotations=..., a file with what is right about each clip')
    given = {name: value for name, value in settings.items() if name in known}
    base = {'split': 'val', 'mode': 'eval', 'mask_ratio': 0.0, 'keep': None, 'crop': 'center'}
    base |= {'sources': (), 'mix': 'weight', 'fields': ()}  # Encoders need no more than the usual.
    input = dataclasses.replace(config.input, **{**base, **given})
    if input.frames > config.model.video.frames:
      raise UserError(
        f'{kind} asks for {input.frames} frames, and the model knows {config.model.video.frames}; start a run of more '
        'frames from it (init.run)'
      )
    Views(input, values['crops'])
    return values, input

  @classmethod
  def input_of(cls, config, settings) -> InputConfig:
    return cls.settings_of(config, settings)[1]

  def __init__(self, config, settings, model, mesh):
    self.settings, self.input = self.settings_of(config, settings)
    self.model, self.mesh = model, mesh
    train_split = (self.settings['train_split'],) if 'train_split' in self.settings else ()
    self.answers = self.read((*train_split, self.input.split))
    self.clips = self.open(self.input.split, self.ids if self.bounded else None)
    if train_split:
      self.train_clips = self.open(*train_split, middle=self.TRAIN_MIDDLE)
    self.embed = Texts(self.input, model, mesh) if self.EMBEDS_TEXTS else None

  def read(self, splits: tuple[str, ...]) -> annotations.Answers:
    """Of all splits that it looks at; the last is the one that counts."""
    own = self.settings
    found = annotations.answers(own['annotations'], splits, own['label'], own['captions'])
    rows = found.rows[splits[-1]]
    self.listed = len(rows)
    return found._replace(rows={**found.rows, splits[-1]: answers.first(rows, own['max_clips'])})

  def open(self, split: str, ids: Collection[str] | None = None, middle: bool = False) -> Clips:
    """`ids`: as in Clips. `middle`: under one view, and not those that the settings ask for."""
    input = dataclasses.replace(self.input, split=split)
    views = Views(dataclasses.replace(input, clips=1)) if middle else Views(input, self.settings['crops'])
    return Clips(views, self.model, self.mesh, ids)

  @property
  def rows(self) -> list[dict]:
    """Of the split that counts."""
    return self.answers.rows[self.input.split]

  @property
  def ids(self) -> Collection[str]:
    """Only the clips that are asked for."""
    return [row['id'] for row in self.rows]

  @property
  def bounded(self) -> str:
    """For a protocol: what max_clips has left out, or nothing."""
    few = len(self.rows) < self.listed
    return f' (of {self.listed} clips the first {len(self.rows)} by a hash of their ids)' if few else ''

  def look(self, params) -> answers.Seen:
    return answers.look(self.clips, self.rows, params)

  def __call__(self, params) -> dict[str, float]:
    return self.result(params).numbers()

  def make(self, metrics: dict, seen: answers.Seen, protocol: list[str], items: list[dict]) -> Result:
    """`protocol`: parts of it that are the evaluator's own."""
    missing = tuple(row['id'] for row in seen.missing)
    parts = [type(self).__name__, f'{len(self.rows)} clips of {self.clips}{self.bounded}']
    parts += [*protocol, f'video encoder {self.model.config.encoder}', str(self.clips.views)]
    if missing:
      parts.append(f'{len(missing)} clips are missing')
    return Result(metrics, len(self.rows), len(seen.rows), '; '.join(parts), items, missing)


def classified(
  scores_RxK, known: annotations.Answers, seen: answers.Seen, offered: dict[str, list[str]] | None = None
) -> tuple[dict, list[dict]]:
  """Accuracies, with missing clips as wrong, and what each clip was taken for: the classes with the highest scores.

  offered: texts in the place of classes, by the clip's id; scores beyond them are -inf.
  """
  label_R, missing_label = known.labels(seen.rows), known.labels(seen.missing)
  found = ranks.of_classes(scores_RxK, label_R)
  all_labels = np.concatenate([label_R, missing_label])
  items, numbered = [], [name or str(k) for k, name in enumerate(known.classes)]
  for row, label, scores_K, hit in zip(seen.rows, label_R.tolist(), scores_RxK, found.hits(1)):
    names = numbered if offered is None else offered[row['id']]
    best = [(names[k], float(scores_K[k])) for k in np.argsort(-scores_K, kind='stable')[: min(BEST, len(names))]]
    items.append({'id': row['id'], 'label': label, 'class': names[label], 'right': float(hit), 'best': best})
  return ranks.accuracies(found.with_missing(len(missing_label)), all_labels), items


def put_everywhere(tree, mesh):
  """What all processes hold alike, as arrays that all devices hold."""
  place = everywhere(mesh)
  return jax.tree.map(lambda x: jax.make_array_from_process_local_data(place, np.asarray(x)), tree)
