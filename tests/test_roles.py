"""Roles of settings: what the documents promise of them, and what a role that is missing or unknown does."""

import dataclasses
import re

import pytest

from tests.support import saved
from tests.support.paths import ROOT
from tests.test_config import load
from tvts_jax import config as config_lib
from tvts_jax import preflight, roles
from tvts_jax.errors import UserError
from tvts_jax.input.settings import InputConfig


def promised() -> set[str]:
  """Settings that docs/resume_and_preemption.md lets a resume change."""
  page = (ROOT / 'docs/resume_and_preemption.md').read_text()
  (listed,) = re.findall('Between two starts may change(.*?)Any other change is refused', page, re.DOTALL)
  return set(re.findall('`([a-z_.]+)`', listed))


def test_the_resume_guide_lists_what_a_resume_may_change():
  assert promised() == set(roles.names(config_lib.RunConfig, 'resume'))


@pytest.mark.parametrize('file', ['demo', 'pretrain'])
def test_a_resume_may_change_what_the_guide_says_and_nothing_else(file, tmp_path):
  """Each line of a config in turn."""
  lines = config_lib.text(config_lib.resolve(load(file))).splitlines()
  identity = {**saved.META, 'config': '\n'.join(lines)}
  changed, refused = set(), set()
  for n, line in enumerate(lines):
    path = line.partition(': ')[0]
    changed.add(path)
    meta = {**identity, 'config': '\n'.join([*lines[:n], f"{path}: 'another'", *lines[n + 1 :]])}
    try:
      preflight.check_identity(meta, identity, tmp_path)
    except UserError as error:
      assert f"{path}: 'another' → " in str(error)
      refused.add(path)
  free = {path for path in changed if any(f'{path}.'.startswith(f'{name}.') for name in promised())}
  assert refused == changed - free and len(free) > 12 and len(refused) > 60


def check(old: dict, new: dict, workdir, may_change=()):
  """What a resume says of a run whose config text has some lines and then others."""
  text = lambda lines: ''.join(f'{name}: {value!r}\n' for name, value in lines.items())
  meta, identity = ({**saved.META, 'data': lines.pop('data', []), 'config': text(lines)} for lines in (old, new))
  preflight.check_identity(meta, identity, workdir, may_change)


def test_a_resume_may_change_what_the_command_line_names(tmp_path):
  old = lambda: {'optim.lr': 0.1, 'optim.clip': None, 'steps': 5, 'data': ['a']}
  new = lambda: {'optim.lr': 0.2, 'optim.clip': 1.0, 'steps': 9, 'data': ['b']}
  for names in (['optim', 'steps', 'data'], ['optim.lr', 'optim.clip', 'steps', 'data']):
    check(old(), new(), tmp_path, names)
    check(new(), new(), tmp_path, names)
  refused = {
    ('optim',): 'trained on other data; .*, or go on with the change by --resume_with_changes=optim,steps,data',
    ('data', 'optim.clip', 'steps'): r'\(optim.lr: 0.1 → 0.2\); .*_changes=data,optim.clip,steps,optim.lr',
    ('data', 'optim.l'): '--resume_with_changes=optim.l is no setting; name those that follow --config, or data',
  }
  for names, words in refused.items():
    with pytest.raises(UserError, match=words):
      check(old(), new(), tmp_path, names)


def test_a_setting_that_an_older_version_lacked_is_free_at_its_default(tmp_path):
  check({'steps': 5}, {'steps': 5, 'optim.weight_decay': config_lib.RunConfig().optim.weight_decay}, tmp_path)
  with pytest.raises(UserError, match=r'\(optim.weight_decay: \(absent\) → 0.5\)'):
    check({'steps': 5}, {'steps': 5, 'optim.weight_decay': 0.5}, tmp_path)
  usual = {f'objectives.{name}.weight': own['weight'] for name, own in config_lib.RunConfig().objectives.items()}
  with pytest.raises(UserError, match='objectives.sort.weight: '):  # The version had it, and the run did not.
    check({'objectives.contrastive.weight': 1.0}, usual, tmp_path)


def test_folders_of_sources_may_move(tmp_path):
  sources = lambda folder, **more: {'input.sources': ({'folder': 'a', 'weight': 2}, {'folder': folder, **more})}
  check(sources('b'), sources('c', max_bad=0.5), tmp_path)
  with pytest.raises(UserError, match='input.sources: .*weight'):
    check(sources('b'), sources('b', weight=3), tmp_path)


def test_settings_of_training_have_their_defaults_in_evaluation():
  changes = {'rand_augment': 2, 'magnitude': 3.0, 'flip': True, 'erase': 0.5, 'caption': 'drawn', 'order': 'identity'}
  assert set(changes) == set(roles.names(InputConfig, 'training'))
  asked = InputConfig(mode='eval', annotations='some.jsonl', transcripts=1, **changes)
  assert asked == InputConfig(mode='eval', annotations='some.jsonl', transcripts=1)


def test_roles_are_known_and_used():
  with pytest.raises(ValueError, match="role 'resmue' is unknown; known: resume, "):
    roles.setting(0, 'resmue')
  kinds = config_lib.RunConfig, InputConfig
  assert all(any(roles.names(kind, role) for kind in kinds) for role in roles.ROLES)


def test_a_part_with_a_role_has_it_whole():
  @dataclasses.dataclass(frozen=True)
  class Part:
    inner: int = roles.setting(1, 'training')
    other: int = 2

  @dataclasses.dataclass(frozen=True)
  class Whole:
    free: Part = roles.setting(Part(), 'resume')
    part: Part = Part()
    lists: dict = roles.setting({'a': [1]}, 'resume', follows='part.other')

  assert roles.names(Whole, 'resume', 'training') == ('free', 'part.inner', 'lists')
  assert roles.followers(Whole) == {'lists': 'part.other'}
  Whole().lists['a'].append(2)
  assert Whole().lists == {'a': [1]}
