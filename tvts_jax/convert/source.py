"""Weights of somebody, opened: what they are and what is known of them."""

import dataclasses
import pathlib

from tvts_jax.convert.tensors import Tensor
from tvts_jax.models.texts.text import TextConfig
from tvts_jax.models.tvts import TVTSConfig


@dataclasses.dataclass
class Source:
  path: pathlib.Path
  family: str  # A key of FAMILIES, or ''.
  title: str
  tensors: dict[str, Tensor]
  unused: dict[str, str]
  config: TVTSConfig | None = None  # Ours, where it lies beside the weights.
  text_config: TextConfig | None = None  # Out of the config.json of a text encoder.
  beside: dict = dataclasses.field(default_factory=dict)  # Any other config beside the weights.
  notes: list[str] = dataclasses.field(default_factory=list)

  def __str__(self):
    return f'{self.path} ({self.title})'
