"""What a study is: variants to train, tables to fill beside the paper's, claims to decide. A config file has one."""

import dataclasses
import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tvts_jax.ablate.claims import Claim
from tvts_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Variant:
  """One thing to train, with several seeds."""

  name: str
  arg: str = ''  # Variations for get_config, such as 'objective=base'.
  settings: Mapping = dataclasses.field(default_factory=dict)  # More settings of the run, by dotted name.
  world: str = 'plain'
  seeds: int | None = None  # As many as the study has.


class Table(NamedTuple):
  """Variants beside each other, with what the paper has for each."""

  title: str
  paper: str  # What the paper's numbers are.
  rows: Mapping[str, str]  # The paper's number, by variant.


@dataclasses.dataclass(frozen=True)
class Study:
  title: str
  get_config: Callable  # As in every config file; knows the variations study, world and seed.
  commands: Callable  # (folder of the study, world) → arguments of `python -m`, in order, that make the world's data.
  variants: tuple[Variant, ...]
  tables: tuple[Table, ...]
  claims: tuple[Claim, ...]
  metrics: Mapping[str, tuple[str, float | None]]  # (Name, what knowing nothing gives), by 'evaluator/metric'.
  curves: tuple[str, ...] = ()  # Metrics that are drawn over the steps,
  drawn: tuple[str, ...] = ()  # Of these variants, at most six.
  seeds: int = 3


def read_study(path: str) -> Study:
  """STUDY of a config file."""
  spec = importlib.util.spec_from_file_location('study', path) if Path(path).is_file() else None
  if spec is None:
    raise UserError(f'{path} is no Python file; name one such as configs/ablations.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  study = getattr(module, 'STUDY', None)
  if study is None:
    raise UserError(f'{path} has no STUDY; configs/ablations.py shows one')
  check(study)
  return study


def check(study: Study):
  names = [variant.name for variant in study.variants]
  if len(set(names)) < len(names):
    raise UserError(f'two variants of the study are called {max(names, key=names.count)!r}; rename one')
  asked = [name for table in study.tables for name in table.rows] + [n for claim in study.claims for n in claim.of]
  if unknown := sorted(set(asked) - set(names)):
    raise UserError(f'a table or claim of the study names {unknown[0]!r}, which is no variant of {", ".join(names)}')
