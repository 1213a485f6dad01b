"""Roles of settings: what the documents promise of them, and what a role that is missing or unknown does."""

import dataclasses
import re

import pytest

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
  identity = {'data': [], 'vocabulary': '', 'config': '\n'.join(lines)}
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
