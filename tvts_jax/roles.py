"""Roles of settings: declared where a setting is defined, and read there by whoever must know.

Without roles a setting is treated strictly: a resume may not change it, features depend on it, evaluators take it, and
weights that were trained with another value are of another model.
"""

import copy
import dataclasses

ROLES = {
  'resume': 'a resume may change it: it changes what is computed by rounding at most, or what it names is compared by '
  'hash or not read any more',
  'loads': 'weights that were trained with another value mean the same',
  'training': 'evaluation has the default',
  'unseen': 'encoders see the same of a clip whatever it is, as they do whatever a resume may change',
  'views': 'evaluators on frozen features decide it themselves',
  'run': 'all sources of a run have the same',
  'alike': 'sources that share a batch have the same: one graph decodes for all of them',
}


def setting(default, *roles: str, follows: str = ''):
  """A field of a config. follows: the path of what decides it in a run, such as 'model.transcripts'."""
  if unknown := set(roles) - set(ROLES):
    raise ValueError(f'role {unknown.pop()!r} is unknown; known: {", ".join(ROLES)}')
  metadata = {'roles': roles, 'follows': follows}
  if isinstance(default, dict):
    return dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
  return dataclasses.field(default=default, metadata=metadata)


def names(kind: type, *roles: str) -> tuple[str, ...]:
  """Paths of the settings of a config that have one of these roles; what a part has holds for all that is in it."""
  found = []
  for field in dataclasses.fields(kind):
    if set(roles) & set(field.metadata.get('roles', ())):
      found.append(field.name)
    elif dataclasses.is_dataclass(field.type):
      found += [f'{field.name}.{path}' for path in names(field.type, *roles)]
  return tuple(found)


def lines(kind: type, *roles: str) -> tuple[str, ...]:
  """What the lines of these settings begin with in the text of a config."""
  return tuple(f'{path}{end}' for path in names(kind, *roles) for end in '.:')


def followers(kind: type) -> dict[str, str]:
  """Settings that follow from others of a run → the paths of those."""
  return {field.name: field.metadata['follows'] for field in dataclasses.fields(kind) if field.metadata.get('follows')}
