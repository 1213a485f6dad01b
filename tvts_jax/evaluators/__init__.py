"""Evaluators by name. Each is built once as evaluator(run_config, settings, model, mesh) and called with parameters.

A call returns {metric: float}, and `result(params)` all that is known of it (results.Result); input_of(run_config,
settings) checks the settings and returns the input that it reads. What may differ from the model is in MAY_DIFFER.
`max_clips` bounds what an evaluator looks at, and its protocol says so.
One that has examples(params, count) gives the report of a run its clips: those of the first that has.
One file, and one line here.
"""

from tvts_jax.errors import UserError
from tvts_jax.evaluators import (
  attentive_probe,
  knn,
  linear_probe,
  multiple_choice,
  recognition,
  reversal,
  sorting,
  svo,
  text_retrieval,
  video_retrieval,
  zero_shot,
)

EVALUATORS = {
  'sorting': sorting.Sorting,
  'reversed': reversal.Reversed,
  'video_retrieval': video_retrieval.VideoRetrieval,
  'text_retrieval': text_retrieval.TextRetrieval,
  'zero_shot': zero_shot.ZeroShot,
  'multiple_choice': multiple_choice.MultipleChoice,
  'svo': svo.SVO,
  'knn': knn.KNN,
  'linear_probe': linear_probe.LinearProbe,
  'attentive_probe': attentive_probe.AttentiveProbe,
  'recognition': recognition.Recognition,
}


def check(config):
  """UserError if a setting of an evaluator makes no sense; opens nothing."""
  for name, settings in config.evals.items():
    kind, own = split(name, settings)
    for key, absent in (('every_steps', 'at the end'), ('max_clips', 'all clips')):
      value = settings.get(key, 1)
      if type(value) is not int or value < 1:
        raise UserError(f'evals.{name}.{key} is {value!r}; it must be a whole number above 0, or absent: {absent}')
    check_input(f'evals.{name}', kind.input_of(config, own), config.model)


def check_input(where: str, input, model) -> None:
  """UserError if an input shows an encoder what it cannot read."""
  if not model.video.SAME_PLACES:
    return
  if input.frames != model.video.frames:
    raise UserError(
      f'{where} asks for {input.frames} frames, and a model with encoder={model.encoder!r} reads all its '
      f'{model.video.frames} at once; set model.video.frames'
    )
  if input.mask != 'tube' and input.visible < input.grid:
    raise UserError(
      f'{where}.mask={input.mask!r} shows other places in each time slot, and model.encoder={model.encoder!r} needs '
      f"the same in all; set {where}.mask='tube'"
    )


def build(config, model, mesh) -> dict:
  """The evaluators of a run, by the names it gives them."""
  kinds = {name: split(name, settings) for name, settings in config.evals.items()}
  return {name: kind(config, own, model, mesh) for name, (kind, own) in kinds.items()}


def bound(name: str, settings) -> dict:
  """Those settings that the model has the last word on."""
  kind, own = split(name, settings)
  return {key: value for key, value in own.items() if key not in kind.MAY_DIFFER}


def split(name: str, settings) -> tuple[type, dict]:
  """An evaluator, and those of its settings that are its own."""
  kind = settings.get('type', name)
  if kind not in EVALUATORS:
    raise UserError(f'evals.{name} asks for {kind!r}, which is unknown; known: {", ".join(EVALUATORS)}')
  return EVALUATORS[kind], {key: value for key, value in settings.items() if key not in ('type', 'every_steps')}
