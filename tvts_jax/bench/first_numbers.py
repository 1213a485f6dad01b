"""One JSON and one table of what launch/first_numbers.sh has measured."""

import json
import re
import sys
from pathlib import Path

from tvts_jax import command, machine
from tvts_jax.files import write_whole
from tvts_jax.human import columns, number, percent, size
from tvts_jax.run import clock

FILE, FAILED = 'first_numbers.json', 'failed'


def collect(folder: Path) -> dict:
  """What each part has left, by its name; None of one that has failed."""
  read = lambda path: json.loads(path.read_text()) if path.exists() else None
  parts = sorted(log.stem for log in folder.glob('*.log'))
  found = {name: read(folder / f'{name}.json') for name in parts if name.startswith(('step_', 'plan_', 'torch'))}
  doctor = (folder / 'doctor.log').read_text().splitlines()
  found['doctor'] = {
    'ok': [line for line in doctor if line.startswith('ok')],
    'not': [line for line in doctor if line.startswith('!!')],
  }
  resumed = (folder / 'run_200.log').read_text() if 'run_200' in parts else ''
  times = read(folder / 'run' / clock.FILE)
  found['run'] = times and times['seconds'] | {'resumed_at': at(resumed)}
  return found | {'devices': machine.devices(), 'host': machine.host(), 'versions': machine.versions()}


def at(log: str) -> int | None:
  found = re.search(r'resuming .* at step (\d+)', log)
  return found and int(found[1])


def table(found: dict) -> list[tuple[str, str]]:
  steps = [name for name in found if name.startswith('step_')]
  name_of = lambda name: found[name]['model'] if found[name] else name
  return [
    ('measure', found['devices']),
    *((name_of(name), step_text(found[name], found.get(name.replace('step_', 'plan_')))) for name in steps),
    ('our step beside PyTorch', race_text(found.get('torch'))),
    ('a run that reads shards', fed_text(found['run'])),
    ('save and resume', saved_text(found['run'])),
    ('doctor', '; '.join(found['doctor']['not']) or f'{len(found["doctor"]["ok"])} checks, all in order'),
  ]


def race_text(race: dict | None) -> str:
  if race is None:
    return FAILED
  ratio, void = race['ratio']['wall'], ' (void: the machine was busy)' if race['void'] else ''
  spread = f'{ratio["median"]:.2f} [{ratio["min"]:.2f} to {ratio["max"]:.2f}]'
  return f'{spread} times as fast as {race["against"]}{void}'


def fed_text(run: dict | None) -> str:
  return f'{percent(run["input"] / (run["input"] + run["step"]))} of training waited for data' if run else FAILED


def saved_text(run: dict | None) -> str:
  if run is None or run['resumed_at'] is None:
    return FAILED
  return f'saved in {run["save"]:.1f} s, resumed at step {run["resumed_at"]}'


def step_text(result: dict | None, plan: dict | None) -> str:
  if result is None:
    return FAILED
  said = [f'{number(result["clips_per_s"])} clips/s', f'attention by {result["attention"]}']
  if result['mfu'] is not None:
    said.append(f'{percent(result["mfu"])} of the peak')
  if result['peak_bytes']:
    said.append(f'{size(result["peak_bytes"])} of memory')
  if plan:
    said.append(f'plan says {size(plan["bills"][0]["peak_bytes"])}')
  return ', '.join(said)


def main(argv: list[str] | None = None) -> int:
  parser = command.parser('tvts_jax.bench.first_numbers', __doc__)
  parser.add_argument('folder', nargs='?', type=Path, help='what the script has filled')
  parser.add_argument('--chip', action='store_true', help='print the name that plan has for this device')
  args = parser.parse_args(argv)
  if args.chip:
    import jax

    print(machine.chip(jax.devices()[0].device_kind) or '')
    return 0
  found = collect(args.folder)
  write_whole(args.folder / FILE, json.dumps(found, indent=1) + '\n')
  print(columns(table(found)))
  return 1 if any(text == FAILED for _, text in table(found)) else 0


if __name__ == '__main__':
  sys.exit(main())
