"""A study in miniature: it is stopped within a run and between runs, goes on, and its page has all of its numbers."""

import dataclasses
import errno
import fcntl
import html
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter

import pytest

from configs import ablations, demo
from tests.faults import small
from tests.support import folders, runs
from tvts_jax import evaluators, files, train
from tvts_jax.ablate import __main__ as ablate
from tvts_jax.ablate import claims
from tvts_jax.ablate import page as page_lib
from tvts_jax.ablate.claims import Claim
from tvts_jax.ablate.study import Study, Table, Variant, check
from tvts_jax.errors import UserError
from tvts_jax.input import vocab
from tvts_jax.run.stop import EXIT_CODE

STEPS = 4
SEEN = 'sorting/own/item'


def get_config(arg):
  """The smallest model, on square clips that are made by hand."""
  study, world, seed, *more = (item.partition('=')[2] for item in arg.split(','))
  config = demo.get_config(f'root={study}/{world},steps={STEPS},seed={seed}')
  config.model.video.update(width=16, depth=1, heads=2, image_size=16, frames=4)
  config.model.text.update(n_layers=1, dim=16, hidden_dim=32, n_heads=2)
  config.model.update(common=16, sort_depth=1)
  config.input.update(batch=8, decoder='cv')
  config.init.text = ''
  config.evals = {'sorting': {'split': 'train', 'batch': 8, 'every_steps': 2}}
  config.checkpoint.every_steps = 1
  config.log_every = 1
  return config


STUDY = Study(
  'A small <study>',
  get_config,
  commands=lambda study, world: [],
  variants=(Variant('own'), Variant('warm', settings={'objectives.contrastive.temperature': 0.5}, seeds=1)),
  tables=(Table('A table', 'of the paper', {'own': '68.5', 'warm': ''}),),
  claims=(Claim('Warmth harms.', 'Figure 3b', 'above', SEEN, ('own', 'warm')),),
  metrics={SEEN: ('placed right', 0.25)},
  curves=(SEEN,),
  drawn=('own', 'warm'),
  seeds=1,
)


def stop_and_go(out):
  """The study, stopped within its first run, then as the second begins, then left alone, and once more. Prints exit
  codes, which runs began at the second time, and what there was after the first."""
  codes, real, patch = [], train.train, pytest.MonkeyPatch()
  patch.setattr(ablate, 'read_study', lambda path: STUDY)
  call = lambda: codes.append(ablate.main(['study.py', '--out', str(out)]))
  begun = []

  def stop_within(watch, s, *rest, step=train.Watch.step):
    step(watch, s, *rest)
    if s == 1:
      os.kill(os.getpid(), signal.SIGTERM)

  def stop_between(config, workdir):
    begun.append(workdir.parts[-3])
    if len(begun) == 2:
      raise KeyboardInterrupt
    return real(config, workdir)

  with patch.context() as within:
    within.setattr(train.Watch, 'step', stop_within)
    call()
  first = (out / 'runs/own/0/result.json').exists(), small.steps(out / 'runs/own/0/run')
  with patch.context() as between:
    between.setattr(train, 'train', stop_between)
    call()
  call()
  with patch.context() as finished:
    finished.setattr(train, 'train', lambda *_: pytest.fail('a finished run is made again'))
    call()
  print(json.dumps([codes, begun, *first]))


@pytest.fixture(scope='module')
def out(tmp_path_factory):
  out = tmp_path_factory.mktemp('study')
  clips = lambda first, last: [folders.record(f'clip {i}', height=16, width=16) for i in range(first, last)]
  folders.write(out / 'plain/shards', {'train': [clips(0, 12), clips(12, 24)]}, sampling=small.SAMPLING)
  vocab.save(vocab.train(Counter(f'w{i}' for i in range(40)), 256), out / 'plain/text')
  return out


@pytest.fixture(scope='module')
def stopped(out):
  """What stop_and_go prints, of a process with one device, as the command has it."""
  code = f'import pathlib; from tests.ablate import test_ablate; test_ablate.stop_and_go(pathlib.Path({str(out)!r}))'
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=runs.ROOT,
    env={**os.environ, **runs.variables(out)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-3000:]
  return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.long
def test_a_study_goes_on_where_it_was_stopped(out, stopped):
  codes, begun, early, saved = stopped
  assert codes == [EXIT_CODE, EXIT_CODE, 0, 0] and begun == ['own', 'warm']
  assert not early and 0 < saved[-1] < STEPS
  results = json.loads((out / 'results.json').read_text())
  assert [(run['variant'], run['seed'], run['steps']) for run in results['runs']] == [('own', 0, 4), ('warm', 0, 4)]
  assert {'jax', 'python', 'tvts_jax'} <= set(results['versions']) and 'python -m tvts_jax.ablate' in results['command']
  own = [json.loads(line) for line in (out / 'runs/own/0/run/eval/sorting.jsonl').read_text().splitlines()]
  assert results['runs'][0]['metrics'] == {f'sorting/{k}': v for k, v in own[-1].items() if k != 'step'}
  assert results['runs'][0]['curves'] == {SEEN: [[row['step'], row['own/item']] for row in own]}
  assert [row['step'] for row in own] == [2, 4]
  steps = [row['step'] for row in runs.rows(out / 'runs/own/0/run') if 'loss' in row]
  assert steps == [1, 2, 3, 4]  # No step was made twice, and none left out.


@pytest.mark.long
def test_the_page_has_every_number(out, stopped):
  page = (out / 'report.html').read_text()
  results = json.loads((out / 'results.json').read_text())
  shown = html.unescape(re.sub('<[^>]*>', '\n', page))
  cells = Counter(shown.split('\n'))
  asked = Counter()
  for run in results['runs']:
    asked.update(
      '' if value is None else f'{value:.6g}' for value in [*run['metrics'].values(), run['seconds'], run['steps']]
    )
  assert not {number: count for number, count in asked.items() if cells[number] < count} and len(asked) > 5
  for claim in results['claims']:
    assert claim['says'] in shown and claim['sentence'] in shown and claims.VERDICTS[claim['holds']] in shown
  assert results['claims'][0]['holds'] == 'unfinished' and 'own has 1' in shown
  assert 'A small <study>' in shown and '<study>' not in page and '68.5' in shown and '<script' not in page
  assert claims.RULES['above'].says in shown


@pytest.mark.long
def test_another_config_is_no_result_of_this_study(out, stopped):
  other = dataclasses.replace(STUDY, variants=(Variant('own', settings={'ema': 0.5}),))
  (job,) = ablate.jobs_of(other, out, [], None)
  with pytest.raises(UserError, match='is of another config than own, seed 0 has now'):
    ablate.read_result(other, out, job)


@pytest.mark.long
def test_two_processes_share_the_runs(out, stopped, monkeypatch):
  """While another is at a run it is left alone, and the study is not finished."""
  jobs = ablate.jobs_of(STUDY, out / 'shared', [], None)
  done = []
  monkeypatch.setattr(ablate, 'run', lambda study, out, job: done.append(str(job)) or True)
  with files.locked(jobs[0].folder) as owner:
    assert owner is None
    assert ablate.work(STUDY, out / 'shared', jobs, lambda: None)
  assert done == ['warm, seed 0']


def test_a_study_goes_on_where_no_file_can_be_locked(tmp_path, monkeypatch, caplog):
  def refuse(file, how):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

  monkeypatch.setattr(fcntl, 'flock', refuse)
  ablate.make_world(STUDY, tmp_path, 'plain')
  with files.locked(tmp_path / 'run') as owner:
    assert owner is None
  assert (tmp_path / 'plain/ready').exists()
  for name, told in zip(('plain', 'run'), caplog.messages, strict=True):
    assert told.startswith(f'{tmp_path}/{name} is not guarded')


def test_a_run_that_fails_is_told_and_the_others_go_on(out, monkeypatch):
  jobs = ablate.jobs_of(STUDY, out / 'failing', [], None)

  def run(study, out, job):
    if job.variant.name == 'own':
      raise UserError('step 3 gave no number')
    return True

  monkeypatch.setattr(ablate, 'run', run)
  assert ablate.work(STUDY, out / 'failing', jobs, lambda: None)
  results = ablate.write(STUDY, out / 'failing', jobs, 'a command')
  assert (
    results['failed'] == {'own, seed 0': 'step 3 gave no number'}
    and 'own, seed 0 failed: step 3' in (out / 'failing/report.html').read_text()
  )


def test_what_a_study_names_must_be_there(tmp_path, out):
  twice = dataclasses.replace(STUDY, variants=(Variant('own'), Variant('own')))
  with pytest.raises(UserError, match="two variants of the study are called 'own'"):
    check(twice)
  with pytest.raises(UserError, match="names 'warm', which is no variant of own"):
    check(dataclasses.replace(STUDY, variants=(Variant('own'),)))
  with pytest.raises(UserError, match='--only x names no variant; there are own, warm'):
    ablate.jobs_of(STUDY, out, ['x'], None)
  (tmp_path / 'empty.py').write_text('')
  with pytest.raises(UserError, match='has no STUDY'):
    ablate.read_study(str(tmp_path / 'empty.py'))
  failing = dataclasses.replace(STUDY, commands=lambda study, world: [('no_such_module',)])
  with pytest.raises(UserError, match="world 'plain' could not be made: python -m no_such_module failed"):
    ablate.make_world(failing, tmp_path, 'plain')
  assert not (tmp_path / 'plain/ready').exists()


COLUMNS = ('order_probe/top1', 'motion_probe/top1', 'video_retrieval/r1', 'sorting/own/assigned')


@pytest.mark.parametrize(
  'name, page, variants',
  [('ablations', 'README.md', {'tvts', 'base', 'random'}), ('encoders', 'docs/other_models.md', {'vit', 'divided'})],
)
def test_pages_quote_the_study_that_is_kept(name, page, variants):
  kept, numbers = json.loads((runs.ROOT / f'docs/{name}.json').read_text()), {}
  for run in kept['runs']:
    numbers.setdefault(run['variant'], {})[run['seed']] = run['metrics']
  text = (runs.ROOT / page).read_text()
  table = text[text.index('| %, mean') :].partition('\n\n')[0]
  quoted = dict(re.findall(r'^\| `([\w.]+)` \| (.*) \|$', table, re.MULTILINE))
  for variant, cells in quoted.items():
    assert len(numbers[variant]) >= claims.SEEDS or f'`{variant}` has {len(numbers[variant])} seeds' in text
    means = [claims.mean(numbers, variant, column) for column in COLUMNS]
    assert [f'{cell} %' for cell in cells.split(' | ')] == list(map(str, means)), variant
  assert variants <= quoted.keys() and kept['command'] in text
  found = [claims.decide(claim, numbers) for claim in ablate.read_study(f'configs/{name}.py').claims]
  assert [(verdict.holds, verdict.sentence) for verdict in found] == [
    (c['holds'], c['sentence']) for c in kept['claims']
  ]


@pytest.mark.parametrize('name', ['ablations', 'encoders'])
def test_a_study_is_sound(tmp_path, name):
  """Every variant is a config that resolves, and all that is claimed or shown is measured in all of them."""
  study = ablate.read_study(f'configs/{name}.py')
  assert [job.seed for job in ablate.jobs_of(study, tmp_path, [study.variants[0].name], None)] == [0, 1, 2]
  for job in ablate.jobs_of(study, tmp_path, [], 1):
    config = ablate.config_of(study, tmp_path, job)
    assert {metric.partition('/')[0] for metric in study.metrics} <= set(config.evals)
    assert config.seed == config.input.seed == job.seed and config.input.decoder == 'cv'
    evaluators.check(config)
  assert {claim.metric for claim in study.claims} <= {'', *study.metrics}
  assert all(claim.clips for claim in study.claims if claim.rule in ('chance', 'over chance'))
  assert set(study.drawn) <= {variant.name for variant in study.variants} and len(study.drawn) <= len(page_lib.LOOKS)


def test_a_world_is_trained_on_and_the_plain_one_asks():
  plain, cued = (ablations.get_config(f'study=S,world={world}') for world in ('plain', 'hidden_cues'))
  assert cued.input.folder == 'S/hidden_cues/shards' and cued.evals.order_probe.folder == 'S/plain/shards'
  assert plain.evals == cued.evals or plain.evals.text_retrieval != cued.evals.text_retrieval
