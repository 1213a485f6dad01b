"""Builds shards with Apache Beam: the same work on a shard, on as many machines as the runner has.

Sources and folder must be where every machine sees them: on a bucket, or on a file system they share. Each
shard is one element; its items still run in a child process of the worker, so that a decoder that crashes
takes no worker with it.
"""

import glob
from collections.abc import Iterable

from data.builder import shard_plan
from data.builder.shard import build_shard
from data.builder.workers import Limits
from data.outcomes import BuildError
from data.sources.items import Item
from tvts_jax.shards import storage

try:
  import apache_beam
  from apache_beam.options.pipeline_options import PipelineOptions
except ImportError as e:
  raise BuildError("--runner needs Apache Beam: pip install 'tvts-jax[beam]'", 'request') from e


def make_pipeline(runner: str, options: list[str]) -> apache_beam.Pipeline:
  """BuildError for a runner or an option that Beam does not know: of the latter it only warns."""
  parsed = PipelineOptions(options)
  unknown = parsed.get_all_options(retain_unknown_options=True).keys() - parsed.get_all_options().keys()
  if unknown:
    raise BuildError(f'neither the builder nor Beam knows these options: {", ".join(sorted(unknown))}', 'request')
  try:
    return apache_beam.Pipeline(runner=runner, options=parsed)
  except ValueError as e:
    raise BuildError(f'--runner {runner}: {e}', 'request') from e


def build(pipeline: apache_beam.Pipeline, folder, plan_sha256: str, config, limits: Limits) -> None:
  """Builds the shards of the folder's items.jsonl that are not done."""

  def work(name: str, items: Iterable[Item]) -> None:
    planned = shard_plan.PlannedShard(name, tuple(sorted(items, key=shard_plan.place)))
    build_shard(storage.path(out), planned, plan_sha256, config, limits)

  out = str(folder)
  with pipeline:
    _ = (
      pipeline
      | apache_beam.io.ReadFromText(glob.escape(str(folder / shard_plan.ITEMS)))
      | apache_beam.Map(shard_plan.parse_line)
      | apache_beam.GroupByKey()
      | apache_beam.MapTuple(work)
    )
