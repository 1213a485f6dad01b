"""Which evaluations are due, and what a run that goes on makes of those that an earlier process has done."""

import json

from tvts_jax.run.background import Background
from tvts_jax.run.evaluations import Evaluations

EVALS = {'often': {'every_steps': 4}, 'late': {}}


def steps(folder, name) -> list[int]:
  return [json.loads(line)['step'] for line in (folder / 'eval' / f'{name}.jsonl').read_text().splitlines()]


def test_each_evaluator_is_due_at_its_steps_and_at_the_end(tmp_path):
  evaluations = Evaluations(tmp_path, EVALS, 0, 10, Background())
  assert {s: names for s in range(11) if (names := evaluations.due(s))} == {
    4: ['often'],
    8: ['often'],
    10: ['often', 'late'],
  }
  assert Evaluations(tmp_path, EVALS, 0, 0, Background()).due(0) == ['often', 'late']


def test_a_resume_does_what_was_not_done_and_again_what_came_later(tmp_path):
  before = Evaluations(tmp_path, EVALS, 0, 10, Background())
  for s in (4, 8):
    before.write(s, 'often', {'top1': s / 10})
  assert Evaluations(tmp_path, EVALS, 8, 10, Background()).due(8) == []
  # From a step before: it may die before it comes to 8 again, and must not leave the old line.
  again = Evaluations(tmp_path, EVALS, 5, 10, Background())
  assert steps(tmp_path, 'often') == [4] and again.due(8) == ['often']
  # The process died in the evaluation of step 8, whose state it had saved.
  last = Evaluations(tmp_path, EVALS, 8, 10, Background())
  assert last.due(8) == ['often']
  last.write(8, 'often', {'top1': 0.8})
  last.write(10, 'often', {'top1': 1.0})
  assert steps(tmp_path, 'often') == [4, 8, 10] and Evaluations(tmp_path, EVALS, 10, 10, Background()).due(10) == [
    'late'
  ]
  # What no checkpoint has seen is begun anew.
  Evaluations(tmp_path, EVALS, 0, 10, Background())
  assert steps(tmp_path, 'often') == []


def test_half_a_line_counts_as_no_evaluation(tmp_path):
  Evaluations(tmp_path, EVALS, 0, 10, Background()).write(4, 'often', {'top1': 0.5})
  with open(tmp_path / 'eval' / 'often.jsonl', 'a') as file:
    file.write('{"step": 8, "to')
  assert Evaluations(tmp_path, EVALS, 8, 10, Background()).due(8) == ['often'] and steps(tmp_path, 'often') == [4]
