"""Resuming late: what is measured is the real input, and what is said follows from what was measured."""

import json

import pytest

from tvts_jax.bench import resume
from tvts_jax.errors import UserError
from tvts_jax.pages import results


@pytest.fixture(scope='module')
def found(tmp_path_factory):
  """Of real shards, but read in this process."""
  out, calls = tmp_path_factory.mktemp('bench') / 'resume.json', []
  patch = pytest.MonkeyPatch()
  patch.setattr('tvts_jax.bench.synthetic.SECONDS', 30)
  patch.setattr(resume, 'BATCHES', 1)
  patch.setattr(resume, 'apart', lambda *args: calls.append(args) or resume.read(*args))
  args = ['--records', '4', '--sizes', '2', '--batch', '2', '--rounds', '1', '--out', str(out)]
  try:
    assert resume.main(args) == 0
  finally:
    patch.undo()
  return json.loads(out.read_text()), calls, out


def test_turns_and_sizes_are_those_asked_for(found):
  result, calls, out = found
  assert [step for _, _, step, _ in calls] == [0, 10**6, 10**6, 0, 10**6, 10**6]
  assert [folder.split('/')[-1] for folder, *_ in calls] == ['4'] * 5 + ['16']
  assert list(result['peak_bytes']) == ['4', '16'] and min(result['peak_bytes'].values()) > 2**20
  for taken in result['seconds_to_first_batch'].values():
    assert len(taken) == 2 and min(taken) > 0
  html = out.with_suffix('.html').read_text()
  assert 'step 1,000,000' in html and 'turn 2' in html and 'record 16' in html


def test_what_is_said_follows_from_what_was_measured(found):
  result = dict(found[0])
  result |= {'seconds_to_first_batch': {'start': [2.0, 2.0], 'late': [3.0, 5.0]}, 'void': True}
  result |= {'late_in_times_of_start': {'median': 2.0, 'min': 1.5, 'max': 2.5}, 'bytes_a_record': 48.0}
  said = '\n'.join(resume.lines(result | {'peak_bytes': {100: 2**20, 400: 2**21}}))
  assert '2.0 s from step 0, 4.0 s from step 1,000,000' in said and '2.00 times as long [1.50 to 2.50]' in said
  assert '400 records: 2.0 MiB at most' in said and 'adds 48 bytes' in said and 'VOID' in said
  assert 'VOID' in results.build('', result, [])


def test_what_goes_wrong_is_one_sentence(tmp_path, capsys):
  with pytest.raises(UserError, match='nowhere.*step 3'):
    resume.apart(str(tmp_path / 'nowhere'), str(tmp_path / 'none'), 3, 2)
  assert resume.main(['--rounds', '0']) == 2
  assert capsys.readouterr().err.startswith('error: --step')
