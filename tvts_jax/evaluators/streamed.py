"""What evaluators have in common that look at clips as training does, with their own transcripts: no annotations."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import numpy as np

from tvts_jax import sharding
from tvts_jax.errors import UserError
from tvts_jax.input import pipeline
from tvts_jax.run import stop


class Streamed:
  MAY_DIFFER = ()
  NAME: ClassVar[str]  # For messages.
  DEFAULTS: ClassVar[dict] = {}  # Settings of the input that differ from those of the run.

  @classmethod
  def input_of(cls, config, settings):
    known = [field.name for field in dataclasses.fields(config.input)]
    own = {name: value for name, value in settings.items() if name != 'max_clips'}
    if unknown := sorted(set(own) - set(known)):
      raise UserError(f'{cls.NAME} has no setting {unknown[0]!r}; it has every_steps, max_clips, {", ".join(known)}')
    return dataclasses.replace(config.input, **{'split': 'val', 'mode': 'eval', **cls.DEFAULTS, **own})

  def __init__(self, config, settings, model, mesh):
    self.input, self.model, self.mesh = self.input_of(config, settings), model, mesh
    sharding.check_batch(self.input.batch, 1, mesh, 'batch')
    self.source = pipeline.open(self.input)
    # In storage order, which is that of a hash.
    self.clips = min(self.source.num_examples, settings.get('max_clips', self.source.num_examples))

  def __call__(self, params) -> dict[str, float]:
    return self.result(params).numbers()

  def collect(self, look: Callable, params) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What look(params, batch) → {name: [B]} finds of all clips, {name: [N]}; and which of them are sound, bool [N]."""
    found = {}
    rows, stop_step = sharding.rows(self.input.batch, self.mesh), -(-self.clips // self.input.batch)
    with self.source.batches(0, rows, stop_step=stop_step) as batches:
      for batch in batches:
        batch.pop('example_id')
        batch = sharding.put(batch, self.mesh)
        for name, value_B in jax.device_get(look(params, batch)).items():
          found.setdefault(name, []).append(value_B)
        stop.between_batches()
    found = {name: np.concatenate(values)[: self.clips] for name, values in found.items()}
    valid_N = found.pop('valid')
    return {name: value_N * valid_N for name, value_N in found.items()}, valid_N

  def items(self, found: dict[str, np.ndarray], valid_N: np.ndarray) -> list[dict]:
    """Of each sound clip what was found."""
    return [
      {'example': f'{id_:016x}', **{name: float(value_N[n]) for name, value_N in found.items()}}
      for n, id_ in enumerate(self.source.example_ids[: self.clips].tolist())
      if valid_N[n]
    ]

  def asked(self) -> str:
    """For the protocol."""
    total = self.source.num_examples
    few = f' (of {total} clips the first {self.clips} in storage)' if self.clips < total else ''
    return f'{self.clips} clips of {self.input.folder}, split {self.input.split!r}{few}'

  def heard(self) -> str:
    """For the protocol."""
    seconds = ', '.join(f'{s:g}' for s in self.input.seconds)
    return f'{self.input.transcripts} transcripts of {seconds} s; {self.input.frames} frames'
