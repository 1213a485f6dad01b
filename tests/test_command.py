"""What commands say before their work begins: flags that name no setting, in one sentence that names what there is."""

from unittest import mock

import pytest
from absl import app, flags
from ml_collections import config_flags

from tests.support.paths import ROOT
from tvts_jax import command
from tvts_jax.errors import UserError


def refused(given: str):
  """What reading this flag of a config raises."""
  values, argv = flags.FlagValues(), ['main', f'--config={ROOT}/configs/demo.py', given]
  config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=argv)
  with mock.patch.object(app, 'parse_flags_with_usage', values), pytest.raises(Exception) as error:
    command.read_flags(argv)
  return error.value


@pytest.mark.parametrize(
  'given, words',
  [
    ('--config.optim.lrr=3', ["no setting 'lrr'", '"lr"']),
    ('--config.optm.lr=3', ["no setting 'optm'", '"optim"']),
    ('--config.zzz=1', ["no setting 'zzz'"]),
  ],
)
def test_a_misspelt_setting_is_named_with_what_was_meant(given, words):
  error = refused(given)
  assert isinstance(error, UserError) and '\n' not in str(error)
  assert all(word in str(error) for word in [given, *words]), error


@pytest.mark.parametrize('own', [AttributeError('lrr'), KeyError('lrr'), AttributeError(KeyError('lrr'))])
def test_a_mistake_in_a_config_file_keeps_its_stack(own):
  with mock.patch.object(app, 'parse_flags_with_usage', side_effect=own), pytest.raises(type(own)) as error:
    command.read_flags(['main', '--config=lrr.py', '--workdir=runs/lrr'])
  assert error.value is own


def test_a_variation_that_a_config_refuses_is_one_sentence(capsys):
  with mock.patch.object(app, 'run', side_effect=UserError('no variation')), pytest.raises(SystemExit, match='1'):
    command.run(None)
  assert capsys.readouterr().err == 'error: no variation\n'


class Refused(UserError):
  exit = 7


@pytest.mark.parametrize(
  'error, code, said',
  [
    (None, 0, ''),
    (UserError('no {} today'), 1, 'error: no {} today\n'),
    (Refused('full'), 7, 'error: full\n'),
    (FileNotFoundError(2, 'No such file', 'a\nb'), 1, "error: [Errno 2] No such file: 'a\\nb'\n"),
    (KeyboardInterrupt(), 130, 'interrupted\n'),
  ],
)
def test_a_command_ends_with_the_code_and_the_sentence_of_what_ended_it(capsys, error, code, said):
  def work():
    if error:
      raise error

  left = []
  leave = lambda number, why: left.append((number, why)) or number
  assert (
    command.ending(
      work, {Refused: (None, 'error: {}'), KeyboardInterrupt: (130, 'interrupted'), **command.ERRORS}, leave
    )
    == code
  )
  assert capsys.readouterr().err == said and left == ([(code, error)] if error else [])


def test_a_command_ends_with_the_code_that_its_work_returns_and_a_bug_keeps_its_stack():
  assert command.ending(lambda: 3) == 3
  with pytest.raises(ZeroDivisionError):
    command.ending(lambda: 1 // 0)


def test_the_exit_code_of_an_error_counts_only_where_the_table_says_so():
  def work():
    raise Refused('full')

  assert command.ending(work) == 1
