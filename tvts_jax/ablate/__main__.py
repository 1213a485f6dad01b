"""Runs a study, which asks what of a paper holds: python -m tvts_jax.ablate configs/ablations.py

makes the worlds that the study needs, trains each of its variants with each seed, evaluates all alike, and writes
OUT/report.html: tables beside the paper's, learning curves, and for each claim of the paper whether it is reproduced,
decided by the rules that stand there. OUT/results.json holds all numbers, with the versions of what made them.

Start it as often as there are cores or devices to use (taskset -c 0 python -m ..., taskset -c 1 python -m ...): each
takes the next run that is neither finished nor under way. A run is an ordinary one, in OUT/runs/VARIANT/SEED/run; a
finished one is never made again, a stopped one goes on from its checkpoint.

Exit codes: 0 all runs are finished; 1 stopped by an error that one sentence names, or runs ended in such errors; 75
stopped by SIGTERM or Ctrl-C, or runs are under way elsewhere: the same command goes on.
"""

import dataclasses
import fnmatch
import json
import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
from absl import logging

from tvts_jax import command, machine, train
from tvts_jax import config as config_lib
from tvts_jax.ablate import claims, page
from tvts_jax.ablate.study import Study, Variant, read_study
from tvts_jax.errors import UserError
from tvts_jax.files import locked, read_rows, write_whole
from tvts_jax.human import Progress
from tvts_jax.run import clock
from tvts_jax.run.stop import EXIT_CODE

# Commands that write their --out whole, and refuse one that is there; the others go on where they stopped.
WHOLE = ('data.vocab', 'tvts_jax.warm_text')
INTERRUPTED = {KeyboardInterrupt: (EXIT_CODE, 'interrupted: the same command goes on')}
RESULT, FAILED, RESULTS, PAGE = 'result.json', 'failed.txt', 'results.json', 'report.html'


class Job(NamedTuple):
  variant: Variant
  seed: int
  folder: Path

  def __str__(self):
    return f'{self.variant.name}, seed {self.seed}'

  @property
  def result(self) -> Path:
    return self.folder / RESULT


def jobs_of(study: Study, out: Path, only: list[str], seeds: int | None) -> list[Job]:
  """All runs, in the order of the variants, so that a study that is cut short has some of them with all seeds."""
  chosen = [v for v in study.variants if not only or any(fnmatch.fnmatchcase(v.name, pattern) for pattern in only)]
  if not chosen:
    raise UserError(f'--only {" ".join(only)} names no variant; there are {", ".join(v.name for v in study.variants)}')
  return [
    Job(variant, seed, out / 'runs' / variant.name / str(seed))
    for variant in chosen
    for seed in range(seeds or variant.seeds or study.seeds)
  ]


def make_world(study: Study, out: Path, world: str):
  """Its data, once; another process that wants them waits."""
  folder = out / world
  with locked(folder, '.making', wait=True):
    if (folder / 'ready').exists():
      return
    for arguments in study.commands(str(out), world):
      options = dict(zip(arguments, arguments[1:])) | dict(a.split('=', 1) for a in arguments if '=' in a)
      if arguments[0] in WHOLE and Path(options['--out']).exists():
        continue
      print(f'$ python -m {" ".join(arguments)}', file=sys.stderr, flush=True)
      if subprocess.run([sys.executable, '-m', *arguments]).returncode:
        raise UserError(f'world {world!r} could not be made: python -m {arguments[0]} failed, as said above')
    write_whole(folder / 'ready', '')


def config_of(study: Study, out: Path, job: Job) -> config_lib.RunConfig:
  variant = job.variant
  arg = ','.join(filter(None, [f'study={out}', f'world={variant.world}', f'seed={job.seed}', variant.arg]))
  config = study.get_config(arg)
  for name, value in variant.settings.items():
    at, *path = config, *name.split('.')
    for part in path[:-1]:
      at = at[part]
    at[path[-1]] = value
  return config_lib.resolve(config)


def run(study: Study, out: Path, job: Job) -> bool:
  """Makes its result; False if it was asked to stop before."""
  config = config_of(study, out, job)
  workdir = job.folder / 'run'
  if not train.train(config, workdir):
    return False
  rows = {path.stem: read_rows(path)[0] for path in sorted((workdir / 'eval').glob('*.jsonl'))}
  plain = lambda row: {key: value for key, value in row.items() if key != 'step'}
  metrics = {f'{name}/{key}': value for name, points in rows.items() for key, value in plain(points[-1]).items()}
  if strange := [name for name, value in metrics.items() if not math.isfinite(value)]:
    raise UserError(f'{strange[0]} is no number')
  times = clock.read(workdir)
  result = {
    'variant': job.variant.name,
    'seed': job.seed,
    'world': job.variant.world,
    'steps': max(row['step'] for points in rows.values() for row in points),
    'seconds': round(sum(times['seconds'].values()), 1) if times else None,
    'metrics': metrics,
    'curves': {
      metric: [[row['step'], row[key]] for row in rows[name]]
      for metric in study.curves
      for name, _, key in [metric.partition('/')]
      if key in rows[name][-1]
    },
    'versions': machine.versions() | {'devices': machine.devices()},
    'config': config_lib.text(config),
  }
  write_whole(job.result, json.dumps(result, allow_nan=False) + '\n')
  return True


def read_result(study: Study, out: Path, job: Job) -> dict | None:
  """None if the run is not finished. UserError if it is one of another study.

  A setting that it does not know came later, and had its default.
  """
  if not job.result.exists():
    return None
  result = json.loads(job.result.read_bytes())
  lines = set(config_lib.text(config_of(study, out, job)).splitlines())
  if not set(result['config'].splitlines()) <= lines:
    raise UserError(f'{job.result} is of another config than {job} has now; give another --out, or remove {job.folder}')
  return result


def work(study: Study, out: Path, jobs: list[Job], report: Callable) -> bool:
  """Runs what nobody else is at; False if it was asked to stop before the end."""
  progress = Progress('runs', len(jobs), before=sum(read_result(study, out, job) is not None for job in jobs))
  for job in jobs:
    if job.result.exists():
      continue
    make_world(study, out, job.variant.world)
    with locked(job.folder) as owner:
      if owner or job.result.exists():
        continue  # Somebody else is at it, or was.
      print(f'{job} begins', file=sys.stderr, flush=True)
      try:
        (job.folder / FAILED).unlink(missing_ok=True)
        if not run(study, out, job):
          return False
      except UserError as error:
        write_whole(job.folder / FAILED, str(error))
        print(f'{job} failed: {error}', file=sys.stderr, flush=True)
      jax.clear_caches()  # What others need of what it compiled they find on the disk.
    report()
    progress.tell(sum(job.result.exists() for job in jobs))  # At the pace of all who are at work.
  return True


def write(study: Study, out: Path, jobs: list[Job], line: str) -> dict:
  """results.json and the page, out of all runs that are finished."""
  runs = [result for job in jobs if (result := read_result(study, out, job))]
  numbers = {}
  for result in runs:
    numbers.setdefault(result['variant'], {})[result['seed']] = result['metrics']
  found = [claims.decide(claim, numbers) for claim in study.claims]
  results = {
    'title': study.title,
    'command': line,
    'date': time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime()),
    'versions': machine.versions() | {'devices': machine.devices()},
    'planned': len(jobs),
    'runs': [{key: value for key, value in result.items() if key != 'config'} for result in runs],
    'failed': {str(job): (job.folder / FAILED).read_text() for job in jobs if (job.folder / FAILED).exists()},
    'claims': [dataclasses.asdict(claim) | verdict._asdict() for claim, verdict in zip(study.claims, found)],
  }
  write_whole(out / RESULTS, json.dumps(results, indent=1) + '\n')
  write_whole(out / PAGE, page.build(study, results, numbers, found))
  return results


def main(argv: list[str] | None = None) -> int:
  parser = command.parser('tvts_jax.ablate', __doc__)
  add = parser.add_argument
  add('study', metavar='FILE', help='a config file with a STUDY')
  add('--out', type=command.local_place, default=Path('runs/ablations'), help='where all of it goes (%(default)s)')
  add('--only', nargs='+', default=[], metavar='NAME', help='variants, or patterns such as "mask*"')
  add('--seeds', type=int, help='of each variant; by default as many as the study says')
  args = parser.parse_args(argv)
  if args.seeds is not None and args.seeds < 1:
    parser.error(f'--seeds {args.seeds} must be at least 1')
  logging.use_absl_handler()
  command.tell_own()
  line = ' '.join(['python -m tvts_jax.ablate', *(sys.argv[1:] if argv is None else argv)])
  signal.signal(signal.SIGTERM, signal.default_int_handler)  # A run has a handler of its own.
  return command.ending(lambda: ablate(args, line), command.ERRORS | INTERRUPTED)


def ablate(args, line: str) -> int:
  study = read_study(args.study)
  jobs, planned = (jobs_of(study, args.out, only, args.seeds) for only in (args.only, []))
  if jax.device_count() == 1:  # Programs of several CPU devices that come out of JAX's cache may hang.
    jax.config.update('jax_compilation_cache_dir', str(args.out / 'compiled'))  # Seeds of a variant compile the same.
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.3)
  report = lambda: write(study, args.out, planned, line)
  ended = work(study, args.out, jobs, report)
  results = report()
  print(f'{args.out / PAGE}: {len(results["runs"])} of {len(planned)} runs; open it in a browser')
  if failed := results['failed']:
    print(f'{len(failed)} runs failed: {"; ".join(failed)}', file=sys.stderr)
    return 1
  return 0 if ended and all(job.result.exists() for job in jobs) else EXIT_CODE


if __name__ == '__main__':
  sys.exit(main())
