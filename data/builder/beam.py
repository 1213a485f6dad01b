"""Builds shards with Apache Beam: the same work on a shard, on as many machines as the runner has.

Sources and folder must be where every machine sees them: in a bucket, or on a file system they share. Our code travels
with the job, as a wheel that workers install. Each shard is one element; its items still run in a child process of the
worker, so that a decoder that crashes takes no worker with it.
"""

import tempfile
from collections.abc import Sequence

from data.builder import shard_plan, wheel
from data.builder.shard import build_shard
from data.builder.workers import Limits
from data.outcomes import BuildError
from tvts_jax.shards import storage

try:
  import apache_beam
  from apache_beam.options.pipeline_options import PipelineOptions, SetupOptions
except ImportError as e:
  raise BuildError("--runner needs Apache Beam: pip install 'tvts-jax[beam]'", 'request') from e


def make_pipeline(runner: str, options: list[str]) -> apache_beam.Pipeline:
  """BuildError for a runner or an option that Beam does not know."""
  parsed = parse_options(options)
  try:
    return apache_beam.Pipeline(runner=runner, options=parsed)
  except ValueError as e:
    raise BuildError(f'--runner {runner}: {e}', 'request') from e


def parse_options(options: list[str]) -> PipelineOptions:
  """BuildError for an option that Beam does not know: it only warns."""
  parsed = PipelineOptions(options)
  unknown = parsed.get_all_options(retain_unknown_options=True).keys() - parsed.get_all_options().keys()
  if unknown:
    raise BuildError(f'neither the builder nor Beam knows these options: {", ".join(sorted(unknown))}', 'request')
  return parsed


def build(
  pipeline: apache_beam.Pipeline, folder, places: Sequence[shard_plan.Place], plan_sha256: str, config, limits: Limits
) -> None:
  """Builds shards.

  Args:
    pipeline: an empty one, of `make_pipeline`; it has run when this returns.
    folder: with items.jsonl; where the shards go.
    places: in items.jsonl, of the shards to be built.
    plan_sha256, config, limits: as of `build_shard`.
  """

  def work(place: shard_plan.Place) -> None:
    there = storage.path(out)
    build_shard(there, shard_plan.read_shard(there, place), plan_sha256, config, limits)

  out, setup = str(folder), pipeline.options.view_as(SetupOptions)
  with tempfile.TemporaryDirectory() as name:
    setup.extra_packages = [*(setup.extra_packages or []), str(wheel.write(name))]
    with pipeline:
      _ = pipeline | apache_beam.Create(places) | apache_beam.Map(work)
