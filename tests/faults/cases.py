"""Faults that come to a run at a known step: what reports each, after how long, with which exit code, and what is lost.

A chain is one run, to which one fault after the other comes: each while it is held a few steps after a checkpoint
(acting.py). What a fault has ended, the same command starts again. The run must end like one that nothing happened to.
test_cases.py plays the chains, and so does `python -m tests.faults --table`.
"""

import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable

from tests.faults import small
from tests.support import runs
from tvts_jax.files import write_whole

EVERY, AFTER = 5, 3  # Steps from one checkpoint to the next, and from a checkpoint to the place where a run is held.
SILENCE_S, PATIENCE_S, STORAGE_S = 30, 60, 20  # TVTS_HEARTBEAT_S, TVTS_PATIENCE_S and TVTS_STORAGE_PATIENCE_S.
MOST_S = 1800  # That a run may take to the next place.
MEMORY = pathlib.Path('/sys/fs/cgroup/memory')  # Of the first version of control groups.


class Missing(Exception):
  """What this machine lacks for a fault."""


@dataclasses.dataclass(frozen=True)
class Seen:
  fault: str
  processes: int
  seconds: float | None  # From the fault to the line that reports it, or where there is none, to the end of the run.
  line: str  # That line.
  code: int | None  # That the run left with, if it did: local_pod.py has it from the process that left first.
  lost: int  # Steps that were trained and had to be trained again.


@dataclasses.dataclass(frozen=True)
class Case:
  fault: Callable  # A context manager, given the Chain: on entry the fault comes, on exit it is over.
  line: str | None  # A pattern of the line that reports it; None: nothing does.
  codes: tuple  # That the run may leave with; None: it goes on.
  lost: int  # Steps at most.
  place: str = 'numbers'  # Of acting.py.
  stays: int | None = None  # The process that never goes on.


def place(case: Case, saved: int) -> int | str:
  """Where a fault comes, of which `saved` is the last checkpoint before it."""
  return {'numbers': saved + AFTER, 'report': 'report'}.get(case.place, saved + EVERY)


class Run:
  """One start of the command, and each of its lines with the time when it came."""

  def __init__(self, chain: 'Chain'):
    for path in chain.plan.glob('*.[0-9]'):
      path.unlink()  # An earlier start may have come to a later place before it ended.
    changed = {
      **{'TVTS_HEARTBEAT_S': SILENCE_S, 'TVTS_PATIENCE_S': PATIENCE_S, 'TVTS_STORAGE_PATIENCE_S': STORAGE_S},
      'PLAN': chain.plan,
    }
    self.process = small.start(
      *(chain.root, chain.name, *chain.settings),
      pod=chain.pod,
      program=('-m', 'tests.faults.acting'),
      changed={name: str(value) for name, value in changed.items()},
    )
    self.lines = []
    self._thread = threading.Thread(target=self._read, daemon=True)
    self._thread.start()

  def _read(self) -> None:
    for line in self.process.stdout:
      self.lines.append((time.monotonic(), line.rstrip()))

  @property
  def text(self) -> str:
    return '\n'.join(line for _, line in self.lines)

  def until(self, condition) -> bool:
    """False if the run ended first."""
    end = time.monotonic() + MOST_S
    while not condition():
      if self.process.poll() is not None:
        self._thread.join()
        return condition()
      assert time.monotonic() < end, f'nothing in {MOST_S} s:\n{self.text[-3000:]}'
      time.sleep(0.01)
    return True

  def wait(self) -> int:
    self.until(lambda: False)
    code = self.process.returncode
    return code if code >= 0 else 128 - code  # As a shell has it.

  def find(self, pattern: str, since: float = 0.0) -> tuple[float, re.Match] | None:
    """When the first line came that a pattern fits."""
    return next(((when, m) for when, line in self.lines if when > since and (m := re.search(pattern, line))), None)

  def step(self) -> int:
    """The last one whose numbers it has told."""
    return max((int(step) for step in re.findall(r'step (\d+)/\d+ ', self.text)), default=0)


class Disk:
  """A file system of a few MiB at a folder, for whoever enters its namespace."""

  def __init__(self, folder):
    folder.mkdir()
    script = 'mount -t tmpfs -o size=8m tmpfs "$0" && echo mounted && exec sleep 7200'
    self._holder = subprocess.Popen(
      ['unshare', '--map-root-user', '--mount', 'sh', '-c', script, folder],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    if self._holder.stdout.readline() != 'mounted\n':
      raise Missing(f'a namespace to mount in ({self._holder.communicate()[1].strip()})')
    pid = self._holder.pid
    self.folder, self.seen = folder, pathlib.Path(f'/proc/{pid}/root{folder}')
    self.enter = 'nsenter', f'--target={pid}', '--user', '--preserve-credentials', '--mount', f'--wd={runs.ROOT}'

  def run(self, script: str) -> None:
    subprocess.run([*self.enter, 'sh', '-c', script, self.folder], check=True, capture_output=True)

  def close(self) -> None:
    self._holder.kill()
    self._holder.communicate()


class Chain:
  """A run, and what happens to it."""

  def __init__(self, root, name: str):
    self.root, self.name, (self.processes, self.wrap, self.cases) = root, name, CHAINS[name]
    self.plan = root / f'{name}.plan'
    self.plan.mkdir()
    # All of it at once: a run that goes on after a fault may be fast.
    for number, case in enumerate(self.cases.values(), 1):
      step = place(case, EVERY * number)
      (self.plan / f'{step}').write_text(case.place)
      if case.stays is not None:
        (self.plan / f'{step}.{case.stays}.stays').touch()
    steps = EVERY * (len(self.cases) + 2)
    self.settings = f'--config.steps={steps}', f'--config.checkpoint.every_steps={EVERY}', '--config.input.prefetch_s=0'
    self.folder, self._over = root / name, contextlib.ExitStack()

  def __enter__(self):
    self.pod = [*small.POD, '--grace', '5', '--'] if self.processes > 1 else []
    self.pod += self.wrap(self, self._over)
    return self

  def __exit__(self, *error) -> None:
    self.run.process.kill()
    self.run.process.wait()
    self._over.close()

  def pids(self) -> list[int]:
    """Ids of the processes of the run."""
    return [self.run.process.pid] if self.processes == 1 else small.processes(self.run.process)

  def play(self, tell=lambda seen: None) -> tuple[list[Seen], dict[str, str]]:
    """(what was seen of each fault, what this machine lacks for the others)."""
    seen, missing = [], {}
    self.run = Run(self)
    for number, (name, case) in enumerate(self.cases.items(), 1):
      try:
        seen.append(self._meet(name, case, EVERY * number))
        tell(seen[-1])
      except Missing as error:
        missing[name] = str(error)
    assert self.run.wait() == 0, self.run.text[-3000:]
    self._compare()
    return seen, missing

  def _meet(self, name: str, case: Case, saved: int) -> Seen:
    step = place(case, saved)
    go, run = self.plan / f'{step}.go', self.run
    if case.place in ('numbers', 'report'):
      waiting = [self.plan / f'{step}.{index}' for index in range(self.processes)]
      ready = lambda: all(path.exists() for path in waiting) and saved in small.steps(self.folder)
      assert run.until(ready), run.text[-3000:]
    try:
      with case.fault(self):
        began = time.monotonic()
        if case.place in ('numbers', 'report'):
          go.touch()
        code = None
        if case.codes != (None,):
          code = run.wait()
        elif case.line:
          assert run.until(lambda: run.find(case.line, began)), run.text[-3000:]
        else:
          assert run.until(lambda: saved + EVERY in small.steps(self.folder)), run.text[-3000:]
    finally:
      go.touch()
    over = time.monotonic()
    began = float(go.read_text() or began)
    found = run.find(case.line, began) if case.line else None
    assert bool(found) == bool(case.line) and code in case.codes, f'{name}: {code}\n{run.text[-3000:]}'
    lost = 0
    if code is not None:
      self.run = Run(self)
      resumed = lambda: self.run.find(r'resuming .* at step (\d+) of')
      assert self.run.until(resumed), self.run.text[-3000:]
      lost = run.step() - int(resumed()[1][1])
    assert 0 <= lost <= case.lost, f'{name}: {lost} steps lost\n{run.text[-3000:]}'
    when, line = (found[0], found[1].string) if found else (over, '')
    return Seen(name, self.processes, when - began if found or code is not None else None, line, code, lost)

  def _compare(self) -> None:
    """With the run that nothing happens to."""
    name = f'{self.name}, undisturbed'
    pod = [*small.POD, '--'] if self.processes > 1 else ()
    run = small.start(self.root, name, *self.settings, pod=pod)
    said = run.communicate(timeout=MOST_S)[0]
    assert run.returncode == 0, said[-3000:]
    runs.assert_equal_ends(self.root / name, self.folder, EVERY * (len(self.cases) + 2))


def play(root, name: str, tell=lambda seen: None) -> tuple[list[Seen], dict[str, str]]:
  with Chain(root, name) as chain:
    return chain.play(tell)


# The faults.


@contextlib.contextmanager
def nothing(chain):
  yield


def killed(index: int):
  @contextlib.contextmanager
  def fault(chain):
    os.kill(chain.pids()[index], signal.SIGKILL)
    yield

  return fault


@contextlib.contextmanager
def ten_times_slower(chain):
  """It has the processor for 20 of 200 ms."""
  over, pid = threading.Event(), chain.pids()[1]

  def brake():
    with contextlib.suppress(ProcessLookupError):
      while not over.is_set():
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.18)
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.02)

  thread = threading.Thread(target=brake)
  thread.start()
  try:
    yield
  finally:
    over.set()
    thread.join()


def clock_jumps(index: int, seconds: float):
  """There, and back when it is over."""

  @contextlib.contextmanager
  def fault(chain):
    jump = chain.plan / f'{chain.pids()[index]}.clock'
    write_whole(jump, str(seconds))
    yield
    jump.unlink()

  return fault


def out_of_memory(index: int):
  @contextlib.contextmanager
  def fault(chain):
    group = MEMORY / f'tvts-{os.getpid()}'
    if not os.access(MEMORY / 'cgroup.procs', os.W_OK):
      raise Missing(f'a control group of memory at {MEMORY} that may be written to')
    group.mkdir()
    try:
      (group / 'cgroup.procs').write_text(str(chain.pids()[index]))
      (group / 'memory.limit_in_bytes').write_text(str(64 * 1024))
      yield
    finally:
      while (group / 'cgroup.procs').read_text():
        time.sleep(0.01)
      group.rmdir()

  return fault


@contextlib.contextmanager
def full(chain):
  if chain.disk is None:
    raise chain.lack
  filler = chain.folder / 'filler'
  with contextlib.suppress(OSError), filler.open('wb', 0) as file:
    while file.write(bytes(4096)):
      pass
  yield
  filler.unlink()


@contextlib.contextmanager
def read_only(chain):
  if chain.disk is None:
    raise chain.lack
  chain.disk.run('mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"')
  yield
  chain.disk.run('umount "$0"')


def stale(paths: Callable, calls: str):
  """These system calls answer ESTALE for these paths."""

  @contextlib.contextmanager
  def fault(chain):
    if not shutil.which('strace'):
      raise Missing('strace')
    command = ['strace', '--follow-forks', f'--attach={chain.pids()[0]}', '--output=/dev/null']
    command += [f'--trace-path={path}' for path in paths(chain)]
    command += [f'--trace={calls}', f'--inject={calls}:error=ESTALE']
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    first = tracer.stderr.readline()
    if 'attached' not in first:
      raise Missing(f'a process that strace may follow: {first.strip()}')
    try:
      yield
    finally:
      tracer.terminate()
      tracer.communicate()

  return fault


# What a chain runs in: called with the chain and a stack for what ends with it → a command before that of each process.


def plain(chain, over) -> list[str]:
  return []


def on_a_disk_of_its_own(chain, over) -> list[str]:
  try:
    chain.disk = Disk(chain.folder)
  except Missing as error:
    chain.disk, chain.lack = None, error
    return []
  over.callback(chain.disk.close)
  chain.folder = chain.disk.seen
  return [*chain.disk.enter]


GONE, STILL = 'tvts_jax: process .* died', 'stood still for'
STALE, GIVEN_UP = 'Stale file handle; trying again', 'error: .*Stale file handle'
METRICS, REPORT = 'error: metrics cannot be written', 'error: the report cannot be written'
DIED, GOES_ON = (128 + signal.SIGKILL,), (None,)
shards = lambda chain: sorted((chain.root / 'shards').glob('*.tfrecord'))
metrics = lambda chain: [chain.root / chain.name / 'metrics.jsonl']

# Name → (processes, what they run in, the faults in their order).
CHAINS = {
  'two processes': (
    2,
    plain,
    {
      'process 1 ten times slower': Case(ten_times_slower, None, GOES_ON, 0),
      'the clock of process 0 an hour back': Case(clock_jumps(0, -3600), None, GOES_ON, 0),
      'the clock of process 1 an hour ahead': Case(clock_jumps(1, 3600), None, GOES_ON, 0),
      'process 0 killed': Case(killed(0), GONE, (137,), AFTER + 1),
      'process 1 killed': Case(killed(1), GONE, (137,), AFTER + 1),
      'process 1 out of memory': Case(out_of_memory(1), GONE, (137,), EVERY),
      'a collective that process 0 never enters': Case(nothing, STILL, (76,), AFTER + 1, stays=0),
      'a collective that process 1 never enters': Case(nothing, STILL, (76,), AFTER + 1, stays=1),
    },
  ),
  'one process': (
    1,
    plain,
    {
      'out of memory': Case(out_of_memory(0), None, DIED, EVERY),
      'killed while files are read for checksums': Case(nothing, None, DIED, 2 * EVERY, place='checksums'),
      'killed while checksums are written': Case(nothing, None, DIED, 2 * EVERY, place='half a list'),
      'killed between checksums and rename': Case(nothing, None, DIED, 2 * EVERY, place='list'),
      'killed between rename and the list of what to keep': Case(nothing, None, DIED, EVERY, place='rename'),
    },
  ),
  'one process and its files': (
    1,
    on_a_disk_of_its_own,
    {
      # The last block of metrics.jsonl may have room for some steps more, but the next checkpoint finds none.
      'a full disk under metrics': Case(full, METRICS, (1,), 2 * EVERY),
      'a read-only folder under metrics': Case(read_only, METRICS, (1,), AFTER + 1),
      'stale shards for a while': Case(stale(shards, 'openat'), STALE, GOES_ON, 0),
      'stale shards for good': Case(stale(shards, 'openat'), GIVEN_UP, (76,), AFTER + 1),
      'stale metrics for a while': Case(stale(metrics, 'openat'), STALE, GOES_ON, 0),
      'stale metrics for good': Case(stale(metrics, 'openat'), GIVEN_UP, (76,), AFTER + 1),
      'a full disk under the report': Case(full, REPORT, (1,), 0, place='report'),
    },
  ),
  'one process and its report': (
    1,
    on_a_disk_of_its_own,
    {'a read-only folder under the report': Case(read_only, REPORT, (1,), 0, place='report')},
  ),
}
