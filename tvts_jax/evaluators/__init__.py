"""Evaluators by name. Each is built once as evaluator(run_config, settings, model, mesh) and called with parameters.

A call returns {metric: float}. One file, and one line here.
"""

from tvts_jax.errors import UserError
from tvts_jax.evaluators import sorting

EVALUATORS = {
  'sorting': sorting.Sorting,
}


def build(config, model, mesh) -> dict:
  """The evaluators of a run, by the names it gives them."""
  built = {}
  for name, settings in config.evals.items():
    settings = dict(settings)
    kind = settings.pop('type', name)
    if kind not in EVALUATORS:
      raise UserError(f'evals.{name} asks for {kind!r}, which is unknown; known: {", ".join(EVALUATORS)}')
    settings.pop('every_steps', None)
    built[name] = EVALUATORS[kind](config, settings, model, mesh)
  return built
