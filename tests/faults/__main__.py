"""Disturbs the smallest whole training in every way there is, over and over, and counts what it survives.

  python -m tests.faults --soak 15                             for 15 minutes
  python -m tests.faults --soak 600 --seed 7 --json soak.json
  python -m tests.faults --table --json faults.json            each fault of cases.py once

--table prints what reported each fault, after how long, with which exit code, and how many steps were lost.

A round is one run, of one process or of two. At a random moment something happens to it; the same command starts it
again, something else happens, and in the end it is left alone. It has survived if all numbers that it told and each
bit of its last state are those of a run that nobody disturbed; otherwise the round is lost, with all that happened in
it, and its folder stays. Ctrl-C ends the last round early and prints the table so far.

Exit codes: 0 nothing was lost, 1 something was, 2 the command line is wrong.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter

# What is compared is on the host, whatever this machine has.
os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['JAX_DISABLE_MOST_OPTIMIZATIONS'] = '1'  # To compile is most of the work.

from absl import logging

from tests.faults import cases, small
from tests.support import runs
from tvts_jax import machine
from tvts_jax.human import duration

SILENCE_S = 20  # Until a process that stands still is given up by the other.
MOST_S = 1800  # That a run may take from its start to its end.
MOST_FAULTS = 3  # In a round.
SHOWN = 3000  # Characters of what a lost run said.
ALONE, PAIR = 'one process', 'two processes'


class Round:
  """A run while it lives, and what can happen to it. Each fault tells whether it could be done."""

  def __init__(self, root, kind: str, name: str, rng):
    self.root, self.kind, self.name, self.rng = root, kind, name, rng
    self.folder = root / name
    self.faults = []  # Those that were done.

  def start(self):
    pod = [*small.POD, '--grace', '1', '--'] if self.kind == PAIR else ()
    # In a session of its own, or Ctrl-C would be one more fault.
    self.run = small.start(
      self.root, self.name, pod=pod, changed={'TVTS_HEARTBEAT_S': str(SILENCE_S)}, start_new_session=True
    )

  def disturb(self, fault: str) -> tuple[int, str]:
    """Starts the run, lets the fault come to it → its exit code and what it said."""
    newest, left = small.steps(self.folder)[-1:], small.unfinished(self.folder)
    self.start()
    small.await_moment(self.run, self.folder, self.rng.choice(list(small.MOMENTS)), self.rng, newest, left)
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # It was about to end by itself.
      if self.run.poll() is None and FAULTS[fault][0](self):
        self.faults.append(fault)
    return self.end()

  def end(self) -> tuple[int, str]:
    said = self.run.communicate(timeout=MOST_S)[0]
    return self.run.returncode, said

  def give_up(self):
    """Ends what still runs."""
    self.run.kill()
    self.run.wait()

  def victims(self) -> list[int]:
    return [self.run.pid] if self.kind == ALONE else small.processes(self.run)

  def send(self, *numbers: int) -> bool:
    """To one of the processes, with a pause between them; False if there is none yet."""
    victims = self.victims()
    if victims:
      victim = self.rng.choice(victims)
      for number in numbers[:-1]:
        os.kill(victim, number)
        time.sleep(self.rng.uniform(0.1, SILENCE_S / 4))
      os.kill(victim, numbers[-1])
    return bool(victims)

  def kill(self) -> bool:
    return self.send(signal.SIGKILL)

  def ask(self) -> bool:
    return self.send(signal.SIGTERM)

  def pause(self) -> bool:
    return self.send(signal.SIGSTOP, signal.SIGCONT)

  def stop(self) -> bool:
    return self.joined() and self.send(signal.SIGSTOP)

  def joined(self) -> bool:
    """Whether the processes have met: who never comes is another matter, of minutes."""
    first, lock = self.victims()[:1], self.folder / '.lock'
    return lock.exists() and lock.read_text().startswith(f'process {first[0] if first else None} ')

  def kill_launcher(self) -> bool:
    victims = self.victims()
    self.run.kill()
    while any(os.path.exists(f'/proc/{victim}') for victim in victims):  # They die with it, but not at once.
      time.sleep(0.01)
    return True

  def fill_disk(self) -> bool:
    victims = self.victims()
    if victims:
      victim = self.rng.choice(victims)
      small.limit_files(victim, self.rng.choice([0, small.ROOM]))
      time.sleep(self.rng.uniform(0.05, 2))
      with contextlib.suppress(ProcessLookupError):  # It may have stopped for that already.
        small.limit_files(victim, None)
    return bool(victims)

  def damage(self, change) -> bool:
    """A death, after which a file of the newest checkpoint is not what it was. Of the only one, nobody could go on."""
    if not self.kill() or self.run.wait(MOST_S) == 0:
      return False
    saved = small.steps(self.folder)
    if len(saved) < 2:
      self.faults.append('kill -9')
      return False
    files = [path for path in (self.folder / 'checkpoints' / str(saved[-1])).rglob('*') if path.is_file()]
    path = self.rng.choice(sorted(files))
    path.write_bytes(change(bytearray(path.read_bytes())))
    return True

  def flip(self) -> bool:
    def change(data):
      data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
      return data

    return self.damage(change)

  def cut(self) -> bool:
    return self.damage(lambda data: data[: self.rng.randrange(len(data))])


# What is done, and the exit codes that it explains; 0 is fine after everything. Of a pod, the launcher tells the code
# of the process that left first.
DIED = (-signal.SIGKILL, 128 + signal.SIGKILL, os.EX_PROTOCOL)
FAULTS = {
  'kill -9': (Round.kill, DIED),
  'launcher killed': (Round.kill_launcher, DIED),
  # Who hears it before the run listens is ended by it.
  'SIGTERM': (Round.ask, (os.EX_TEMPFAIL, -signal.SIGTERM, 128 + signal.SIGTERM, os.EX_PROTOCOL)),
  'SIGSTOP, SIGCONT': (Round.pause, ()),
  'SIGSTOP for good': (Round.stop, (os.EX_PROTOCOL,)),
  'full disk for a while': (Round.fill_disk, (1,)),
  'a bit flipped': (Round.flip, DIED),
  'a file cut': (Round.cut, DIED),
}
OF_PAIRS = ('launcher killed', 'SIGSTOP for good')  # A process alone has no launcher, and nobody who would notice.


def play(round: Round) -> str | None:
  """→ None, or what it did not survive."""
  try:
    for _ in range(round.rng.randint(1, MOST_FAULTS)):
      fault = round.rng.choice([fault for fault in FAULTS if round.kind == PAIR or fault not in OF_PAIRS])
      code, said = round.disturb(fault)
      if code == 0:
        break
      if code not in FAULTS[fault][1]:
        return f'it left with {code} after {fault}:\n{said[-SHOWN:]}'
    else:
      round.start()
      code, said = round.end()
      if code != 0:
        return f'left alone, it left with {code}:\n{said[-SHOWN:]}'
    runs.assert_equal_ends(round.root / round.kind, round.folder)
  except subprocess.TimeoutExpired:
    round.give_up()
    return f'it did not end in {MOST_S} s after {", ".join(round.faults) or "nothing"}'
  except AssertionError as error:
    return f'it ended otherwise than the undisturbed run: {error}'
  return None


def soak(root, minutes: float, seed: int) -> dict:
  """→ what is to be told, as JSON has it."""
  rng, counts, lost, rounds = random.Random(seed), Counter(), [], 0
  small.make(root)
  began = time.monotonic()
  try:
    print('first the undisturbed runs', flush=True)
    for kind in (ALONE, PAIR):
      round = Round(root, kind, kind, rng)
      round.start()
      code, said = round.end()
      if code != 0:
        sys.exit(f'tests.faults: not even undisturbed does {kind} come to an end:\n{said[-SHOWN:]}')
    began = time.monotonic()
    while time.monotonic() - began < minutes * 60:
      start = time.monotonic()
      round = Round(root, (ALONE, PAIR)[rounds % 2], f'round {rounds + 1}', rng)
      why = play(round)
      rounds += 1
      counts.update((round.kind, fault, 'lost' if why else 'survived') for fault in round.faults)
      if why:
        lost.append({'round': rounds, 'kind': round.kind, 'faults': round.faults, 'why': why})
      else:
        shutil.rmtree(round.folder)
      what, became = ', '.join(round.faults) or 'nothing', f'LOST: {why}' if why else 'survived'
      seconds = time.monotonic() - start
      print(f'{time.strftime("%H:%M:%S")}  {round.name}, {round.kind}, {seconds:.0f} s: {what}: {became}', flush=True)
  except KeyboardInterrupt:
    print('stopped', flush=True)
    round.give_up()
  faults = [
    {'processes': kind, 'fault': fault} | {became: counts[kind, fault, became] for became in ('survived', 'lost')}
    for kind, fault in sorted({key[:2] for key in counts})
  ]
  return {'seed': seed, 'seconds': time.monotonic() - began, 'rounds': rounds, 'faults': faults, 'lost': lost}


def table(found: dict) -> str:
  lines = [f'{"":<13}  {"fault":<21}  injected  survived  lost']
  for row in found['faults']:
    survived, lost = row['survived'], row['lost']
    lines.append(f'{row["processes"]:<13}  {row["fault"]:<21}  {survived + lost:>8}  {survived:>8}  {lost:>4}')
  survived, lost = (sum(row[became] for row in found['faults']) for became in ('survived', 'lost'))
  lines.append(f'{"all":<13}  {"":<21}  {survived + lost:>8}  {survived:>8}  {lost:>4}')
  return '\n'.join([*lines, f'{found["rounds"]} rounds in {duration(found["seconds"])}, seed {found["seed"]}'])


def play_chains(root, names) -> dict:
  """→ what is to be told, as JSON has it."""
  rows, missing = [], {}

  def tell(seen):
    rows.append({**dataclasses.asdict(seen), 'load': round(os.getloadavg()[0], 1)})
    print(rows[-1], flush=True)

  small.make(root)
  for name in names:
    try:
      missing |= cases.play(root, name, tell)[1]
      print(f'{name}: ended like a run that nothing happened to', flush=True)
    except cases.Missing as error:
      missing[name] = str(error)
  return {'cores': machine.cores(), 'faults': rows, 'missing': missing}


def table_of_faults(found: dict) -> str:
  lines = ['| fault | processes | reported after | exit code | steps lost |', '|---|--:|--:|--:|--:|']
  for row in found['faults']:
    seconds = '' if row['seconds'] is None else f'{row["seconds"]:.1f} s'
    code = 'none, it went on' if row['code'] is None else row['code']
    lines.append(f'| {row["fault"]} | {row["processes"]} | {seconds} | {code} | {row["lost"]} |')
  loads = [row['load'] for row in found['faults']]
  lines += ['', *(f'Not played, for this machine lacks {lack}: {name}.' for name, lack in found['missing'].items())]
  return '\n'.join([*lines, f'On {found["cores"]} cores, with a load of {min(loads)} to {max(loads)}.'])


def main(argv=None) -> int:
  parser = argparse.ArgumentParser(
    prog='python -m tests.faults', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  what = parser.add_mutually_exclusive_group(required=True)
  what.add_argument('--soak', type=float, metavar='MINUTES', help='how long; the last round is ended')
  what.add_argument(
    '--table', nargs='*', choices=cases.CHAINS, metavar='CHAIN', help='play each fault once; chains of cases.py, or all'
  )
  parser.add_argument('--seed', type=int, default=secrets.randbelow(10**6), help='of what happens, but not of when')
  parser.add_argument('--json', type=pathlib.Path, metavar='FILE', help='for what was found')
  args = parser.parse_args(argv)
  logging.set_verbosity(logging.ERROR)  # Orbax misses something in our checkpoints that they need not have.
  root = pathlib.Path(tempfile.mkdtemp(prefix='faults-'))
  if args.table is not None:
    found, lost = play_chains(root, args.table or cases.CHAINS), []
    text = table_of_faults(found)
  else:
    print(f'seed {args.seed}, in {root}', flush=True)
    found = soak(root, args.soak, args.seed)
    lost, text = found['lost'], table(found)
  print(text, flush=True)
  if args.json:
    args.json.write_text(json.dumps(found, indent=2) + '\n')
  if not lost:
    shutil.rmtree(root)
  return 1 if lost else 0


if __name__ == '__main__':
  sys.exit(main())
