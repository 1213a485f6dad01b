"""What an objective is to all who ask for it by name."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import NamedTuple

import flax.linen as nn


class Objective(NamedTuple):
  """`head` is a module with parameters of its own: built as head(model config, **settings), and called as
  head(outputs, batch, encode_video, train) → {name: array}, which join the outputs. encode_video(patches, positions,
  train, slots) → {'video_tokens': [B, 1+N, D], 'video_embed': [B, C]} is the model's video encoder, for those that look
  at a clip in a way of their own; slots: how many time slots the tubelets fill, None for all.
  """

  loss: Callable  # A pure function (outputs, batch, **settings) → (loss, metrics).
  reads: tuple[str, ...]  # Outputs that it needs: what an accumulated step keeps of every micro-batch, so small ones.
  fields: tuple[str, ...] = ()  # Of tvts_jax/input/fields.py: what the batch must hold beyond the usual.
  head: type[nn.Module] | None = None
  # Outputs that it learns from a teacher, the running mean of the parameters: the batch has what that gives of each as
  # 'teacher/NAME', less the running mean over clips.
  taught: tuple[str, ...] = ()
  even: bool = False  # Whether it needs as many tubelets of each time slot, which input.keep does not leave.
  order: Callable | None = None  # How it sorts transcripts: outputs → places [B, K], each place once.
  logits: Callable | None = None  # Where it gives each transcript a place by itself: outputs → logits [B, K, K].
  chance: Mapping[str, Callable] = {}  # Metrics → what knowing nothing gives, of K transcripts a clip and B clips.
  check: Callable = lambda settings: None  # All its settings → 'setting=value ...', what is wrong; None if nothing is.

  def settings(self) -> tuple[dict, dict]:
    """Those of the loss and those of the head, with their defaults."""
    own = list(inspect.signature(self.loss).parameters.values())[2:]
    fields = dataclasses.fields(self.head) if self.head else ()
    # Linen adds the fields `parent` and `name` to every module.
    of_head = {field.name: field.default for field in fields if field.name not in ('config', 'parent', 'name')}
    return {parameter.name: parameter.default for parameter in own}, of_head
