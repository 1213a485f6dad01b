"""The builder as a user meets it: a real process over real files, killed, resumed, and given bad input."""

import contextlib
import json
import os
import pwd
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data import build as builder
from data import outcomes, validate
from data.builder import local, shard_plan, workers
from data.builder import manifest as manifest_lib
from data.builder import shard as shard_lib
from data.builder.windows import WindowConfig
from data.outcomes import EXITS, BuildError
from data.sources.items import Item
from tests.support import leases, media, tasks
from tests.support.paths import ROOT
from tvts_jax.files import HALF
from tvts_jax.shards import index, records

# Windows of 4 s that hold two transcripts of a second each: the smallest that is like the real thing.
SMALL = '--window-s 4 --fps 2 --short-side 32 --transcripts 2 --seconds 1 --gap-s 0.5 --min-words 2 --items-per-shard 2'


def words(count=16, ms=4000):
  return [{'utf8': f' w{i}', 'tOffsetMs': i * ms // count} for i in range(count)]


def json3(segments):
  return json.dumps({'wireMagic': 'pb3', 'events': [{'tStartMs': 0, 'dDurationMs': 4000, 'segs': segments}]})


def add_item(source, name, split='train', transcript=None, video=True):
  """One line of an index, with the files it names."""
  if video:
    media.make_video(source / f'{name}.mp4', frames=20, fps=5, size=(48, 32), first_index=hash_of(name))
  (source / f'{name}.json3').write_text(transcript if transcript is not None else json3(words()))
  with open(source / 'index.jsonl', 'a') as f:
    row = {'id': name, 'video': f'{name}.mp4', 'transcript': f'{name}.json3', 'split': split}
    f.write(json.dumps(row) + '\n')


def hash_of(name):
  return sum(name.encode()) % 1000


@pytest.fixture(scope='session')
def source(tmp_path_factory):
  """Ten good items, two of them in split val."""
  folder = tmp_path_factory.mktemp('source')
  for i in range(10):
    add_item(folder, f'v{i}', 'val' if i > 7 else 'train')
  return folder


def command(source, out, *options, small=SMALL):
  return [sys.executable, '-m', 'data.build', str(source / 'index.jsonl'), '--out', str(out), *small.split(), *options]


def build(source, out, *options, **kwargs):
  return subprocess.run(command(source, out, *options), cwd=ROOT, capture_output=True, text=True, **kwargs)


def content(out):
  """What a build has made: name → bytes of every file but the log of outcomes."""
  return {
    str(p.relative_to(out)): p.read_bytes()
    for p in sorted(out.rglob('*'))
    if p.is_file() and p.parent.name != 'outcomes'
  }


def outcome_lines(out):
  return {o['id']: o for p in out.glob('outcomes/*.jsonl') for o in map(json.loads, p.read_text().splitlines())}


@pytest.fixture(scope='session')
def undisturbed(source, tmp_path_factory):
  out = tmp_path_factory.mktemp('built') / 'data'
  result = build(source, out, '--workers', '1')
  assert result.returncode == 0, result.stderr
  assert 'short sides of the frames: 32 to 32 pixels, median 32' in result.stdout
  assert 'train: 8 records from 8 items' in result.stdout and 'ETA' in result.stderr
  return out


def test_what_is_built_can_be_read(undisturbed, source):
  seen = {}
  for split in ('train', 'val'):
    manifest = index.load(undisturbed, split)
    ids = index.load_index(manifest)
    for i in range(len(ids)):
      record = records.decode(index.read_record(manifest, ids, i))
      seen[record.video_id] = split
      assert record.words == [f'w{k}' for k in range(16)] and record.word_starts_ms == [250 * k for k in range(16)]
      assert (record.height, record.width, record.duration_ms) == (32, 48, 4000)
      assert record.frame_times_ms == [200 * round(k * 2.5 - 0.25) for k in range(8)]
  assert seen == {f'v{i}': 'val' if i > 7 else 'train' for i in range(10)}
  manifest = index.load(undisturbed, 'train')
  assert manifest.sampling == {'transcripts': 2, 'seconds': [1], 'gap_s': 0.5, 'min_words': 2}
  assert manifest.outcomes == {'ok': 8}
  assert {o['status'] for o in outcome_lines(undisturbed).values()} == {'ok'}
  report = json.loads((undisturbed / 'report.json').read_text())
  assert report['splits']['val']['short_sides'] == {'32': 2}
  assert report['words_per_second'] == 4 and report['hours_in_windows'] == pytest.approx(40 / 3600)


def tfds_examples(out, split):
  import tensorflow_datasets as tfds

  return list(tfds.builder_from_directory(str(out)).as_dataset(split=split).as_numpy_iterator())


def test_tfds_opens_it(undisturbed):
  assert len(tfds_examples(undisturbed, 'train')) == 8 and len(tfds_examples(undisturbed, 'val')) == 2
  examples = tfds_examples(undisturbed, 'train[2:5]')
  manifest = index.load(undisturbed, 'train')
  ids = index.load_index(manifest)
  for example, i in zip(examples, (2, 3, 4), strict=True):
    record = records.decode(index.read_record(manifest, ids, i))
    assert example['video']['id'].decode() == record.video_id
    assert example['frames']['jpeg'].shape == (len(record.frames), 32, 48, 3)
    assert example['frames']['time_ms'].tolist() == record.frame_times_ms
    assert [w.decode() for w in example['words']['text']] == record.words


def test_bytes_do_not_depend_on_workers(undisturbed, source, tmp_path):
  assert build(source, tmp_path / 'data', '--workers', '3').returncode == 0
  assert content(tmp_path / 'data') == content(undisturbed)


def test_a_finished_build_is_left_as_it_is(undisturbed, source):
  before, stamp = content(undisturbed), os.stat(undisturbed / 'train-00000-of-00004.tfrecord').st_mtime_ns
  result = build(source, undisturbed, '--workers', '2')
  assert result.returncode == 0 and '5 of them done before' in result.stderr
  assert content(undisturbed) == before
  assert os.stat(undisturbed / 'train-00000-of-00004.tfrecord').st_mtime_ns == stamp


def names_in(folder):
  with contextlib.suppress(FileNotFoundError):
    for entry in os.scandir(folder):
      yield entry.name
      if entry.name.startswith('.parts-'):
        yield from names_in(entry)


def start(source, out, *options, **kwargs):
  return subprocess.Popen(command(source, out, *options), cwd=ROOT, stderr=subprocess.PIPE, text=True, **kwargs)


def wait_for_files(process, out, count):
  """Returns once the folder has shown that many different names, or the process has ended."""
  seen = set()
  while process.poll() is None and len(seen) < count:
    seen.update(names_in(out))
    time.sleep(0.002)


def children(pid):
  found = []
  for stat in Path('/proc').glob('[0-9]*/stat'):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
      if int(stat.read_text().rpartition(')')[2].split()[1]) == pid:
        found.append(int(stat.parent.name))
  return found


def is_running(pid):
  try:
    return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
  except (FileNotFoundError, ProcessLookupError):
    return False


def test_killed_at_any_moment_and_restarted(undisturbed, source, tmp_path):
  seed = time.time_ns()
  out, rng, orphans = tmp_path / 'data', random.Random(seed), []
  for attempt in range(5):
    process = start(source, out, '--workers', str(1 + attempt % 2))
    wait_for_files(process, out, rng.randint(1, 30))
    time.sleep(rng.uniform(0, 0.1))
    orphans += children(process.pid)
    process.kill()
    process.communicate()
  assert build(source, out, '--workers', '2').returncode == 0, seed
  assert content(out) == content(undisturbed), seed
  deadline = time.monotonic() + 5
  while (left := [p for p in orphans if is_running(p)]) and time.monotonic() < deadline:
    time.sleep(0.05)
  assert orphans and not left


def test_interrupted_cleanly(source, tmp_path):
  out = tmp_path / 'data'
  with leases.held(source / 'v9.mp4'):  # The build cannot end before it is interrupted.
    # Who runs the tests in the background lets them ignore SIGINT.
    hear = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
    process = start(source, out, '--workers', '1', start_new_session=True, preexec_fn=hear)
    wait_for_files(process, out, 5)
    os.killpg(process.pid, signal.SIGINT)  # As a terminal does: the children get it as well.
    _, stderr = process.communicate(timeout=60)
  assert process.returncode == EXITS['interrupted'], stderr
  assert 'give the same command again' in stderr and 'Traceback' not in stderr
  assert not [n for n in names_in(out) if HALF.fullmatch(n)]


def test_two_builders(undisturbed, source, tmp_path):
  out = tmp_path / 'data'
  first = start(source, out)
  wait_for_files(first, out, 5)
  first.send_signal(signal.SIGSTOP)  # in the middle of its work, for as long as the second needs
  second = build(source, out)
  first.send_signal(signal.SIGCONT)
  assert second.returncode == EXITS['busy'] and f'is being built by process {first.pid} on ' in second.stderr
  assert second.stderr.count('\n') <= 2
  first.communicate(timeout=30)
  assert first.returncode == 0 and content(out) == content(undisturbed)


def test_another_plan_is_refused(undisturbed, source):
  before = content(undisturbed)
  result = build(source, undisturbed, '--fps', '3', '--seconds', '1', '1.5')
  assert result.returncode == EXITS['plan'] and 'Traceback' not in result.stderr
  assert 'config.fps was 2.0, is 3.0; config.seconds was [1], is [1, 1.5];' in result.stderr
  rows = (source / 'index.jsonl').read_text().splitlines()
  changed = json.loads(rows[1]) | {'lang': 'fr'}
  (source / 'index2.jsonl').write_text('\n'.join([json.dumps(changed), *rows[2:]]))
  other = command(source, undisturbed)
  other[3] = str(source / 'index2.jsonl')
  result = subprocess.run(other, cwd=ROOT, capture_output=True, text=True)
  assert result.returncode == EXITS['plan']
  assert "items.train was 8, is 7; 1 items are gone ('v0'); 1 items are changed ('v1')" in result.stderr
  assert content(undisturbed) == before


def test_what_is_damaged_is_built_again(undisturbed, source, tmp_path):
  out = tmp_path / 'data'
  shutil.copytree(undisturbed, out)
  shard = out / 'train-00000-of-00004.tfrecord'
  shard.write_bytes(shard.read_bytes()[:-5])
  (out / 'train.idx').unlink()
  done = out / 'train-00001-of-00004.shard.json'
  done.write_text(json.dumps(json.loads(done.read_text()) | {'rows': ''}))
  (out / 'train-00002-of-00004.shard.json').write_text('{"coun')
  (out / 'outcomes/train-00003-of-00004.jsonl').unlink()
  (out / '.val-00000-of-00001.idx-0123abcd').write_text('left by a dead process')
  (out / '.parts-0123abcd').mkdir()
  result = build(source, out)
  assert result.returncode == 0 and '1 of them done before' in result.stderr
  assert content(out) == content(undisturbed)


def test_a_shard_is_done_whoever_owns_it(tmp_path, monkeypatch):
  def unknown(uid):
    raise KeyError(f'getpwuid(): uid not found: {uid}')

  monkeypatch.setattr(pwd, 'getpwuid', unknown)
  folder, planned = tmp_path, shard_plan.PlannedShard('train-00000-of-00001', ())
  content = shard_lib.finish_shard(folder, planned, 'plan', [])
  assert shard_lib.read_done(folder, [planned], 'plan') == {planned.name: content}


def test_what_was_left_is_removed_whatever_the_folder_is_called(tmp_path):
  folder = tmp_path / 'run[1]'
  for name in ('outcomes/.a.jsonl-0123abcd', '.a.idx-0123abcd', '.parts-0123abcd/0'):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text('')
  builder.sweep(folder)
  assert os.listdir(folder) == ['outcomes'] and os.listdir(folder / 'outcomes') == []


def limit_file_size():
  resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))


def test_full_disk(undisturbed, source, tmp_path):
  out = tmp_path / 'data'
  result = build(source, out, preexec_fn=limit_file_size)
  assert result.returncode == EXITS['output'], result.stderr
  assert 'error: ' in result.stderr and 'large' in result.stderr and 'Traceback' not in result.stderr
  assert not [n for n in names_in(out) if HALF.fullmatch(n)]
  assert build(source, out).returncode == 0
  assert content(out) == content(undisturbed)


def test_output_that_can_not_be_written(source, tmp_path):
  (tmp_path / 'file').write_text('')
  result = build(source, tmp_path / 'file' / 'data')
  assert result.returncode == EXITS['output'] and str(tmp_path / 'file') in result.stderr
  assert 'Traceback' not in result.stderr


def test_a_folder_with_other_things_is_refused(tmp_path):
  (tmp_path / 'thesis.txt').write_text('')
  with pytest.raises(BuildError, match='holds other things .thesis.txt.'), builder.lock(tmp_path):
    pass
  assert os.listdir(tmp_path) == ['thesis.txt']


def video(**kwargs):
  return lambda p: media.make_video(p.with_suffix('.mp4'), **{'frames': 20, 'fps': 5, 'size': (48, 32), **kwargs})


def both(*damages):
  return lambda p: [damage(p) for damage in damages]


def overwrite(suffix, data):
  return lambda p: p.with_suffix(suffix).write_bytes(data if isinstance(data, bytes) else data.encode())


def words_at(*times_ms):
  return overwrite('.json3', json3([{'utf8': f' w{i}', 'tOffsetMs': t} for i, t in enumerate(times_ms)]))


HTML = '<!DOCTYPE html><html><body>Sign in to confirm that you are not a bot</body></html>'
SRT = '1\n00:00:00,000 --> 00:00:04,000\none line of words without times of their own\n\n'
WHISPER = {
  'text': 'a',
  'segments': [{'start': 0.0, 'end': 4.0, 'text': 'a', 'words': [{'word': ' a', 'start': 0.0, 'end': 1.0}]}],
}


def whisper(start, end):
  bad = json.loads(json.dumps(WHISPER))
  bad['segments'][0]['words'] = [{'word': f' w{i}', 'start': start(i), 'end': end(i)} for i in range(16)]
  return overwrite('.json3', json.dumps(bad))


# What is done to a good item → the code that it must come to.
BAD = {
  'gone': (lambda p: p.with_suffix('.mp4').unlink(), 'missing_video'),
  'html': (overwrite('.mp4', HTML), 'not_a_video'),
  'json': (overwrite('.mp4', '{"error": "video unavailable"}'), 'not_a_video'),
  'empty': (overwrite('.mp4', b''), 'not_a_video'),
  'cut': (lambda p: media.truncate(p.with_suffix('.mp4'), 0.3), 'truncated_video'),
  'rotten': (
    both(video(noise=30, size=(192, 128)), lambda p: media.rot(p.with_suffix('.mp4'), 0.1, 0.6)),
    'corrupt_video',
  ),
  'sound': (video(frames=0, audio=True, audio_ms=4000), 'no_video_stream'),
  'brief': (both(video(frames=10), words_at(0, 500, 1000)), 'too_short'),
  'hours': (video(times_ms=[0, 25 * 3600_000], end_ms=25 * 3600_000 + 1000), 'too_long'),
  'tiny': (video(size=(2, 2), codec='mpeg4'), 'too_small'),
  'no transcript': (lambda p: p.with_suffix('.json3').unlink(), 'missing_transcript'),
  'no bytes': (overwrite('.json3', b''), 'missing_transcript'),
  'blocked': (overwrite('.json3', HTML), 'html_transcript'),
  'binary': (overwrite('.json3', json3(words()).encode().replace(b' w', b' \xff')), 'bad_encoding'),
  'half': (overwrite('.json3', json3(words())[:-40]), 'bad_json'),
  'unknown': (overwrite('.json3', '{"lines": []}'), 'unknown_format'),
  'no shape': (overwrite('.json3', '{"wireMagic": "pb3", "events": [7]}'), 'bad_transcript'),
  'silent': (overwrite('.json3', json3([])), 'no_words'),
  'lines': (overwrite('.json3', SRT), 'no_word_times'),
  'sparse': (words_at(0, 3900), 'too_few_words'),
  'nan': (whisper(lambda i: float('nan'), lambda i: i + 1.0), 'bad_times'),
  'early': (whisper(lambda i: i - 60, lambda i: i - 59.5), 'negative_times'),
  'late': (whisper(lambda i: i * 9.0, lambda i: i * 9.0 + 1), 'times_beyond_duration'),
  'backwards': (both(video(frames=80), whisper(lambda i: 15.5 - i, lambda i: 16 - i)), 'unsorted_times'),
  'reversed': (whisper(lambda i: 3.0, lambda i: 0.5), 'end_before_start'),
  'endless': (overwrite('.json3', json3([{'utf8': 'x' * 100_000}])), 'oversized_word'),
}
HOSTILE_IDS = ['../../etc/passwd', '-rf', 'a/b', 'Ünïcode 漢字', 'x' * 200, 'GOOD', "'; DROP", '%s{0}', 'con.mp4']


def test_bad_items_each_with_its_code(tmp_path):
  """One build over all of them: no bad item costs another one, none is lost, none becomes a record."""
  for name, (damage, _) in BAD.items():
    add_item(tmp_path, name)
    damage(tmp_path / name)
  add_item(tmp_path, 'good')
  with open(tmp_path / 'index.jsonl', 'a') as f:
    for name in HOSTILE_IDS:
      f.write(json.dumps({'id': name, 'video': 'good.mp4', 'transcript': 'good.json3', 'split': 'train'}) + '\n')
  out = tmp_path / 'out'
  result = build(tmp_path, out, '--max-failed-fraction', '1')
  assert result.returncode == 0, result.stderr
  good = {'good', *HOSTILE_IDS}
  lines = outcome_lines(out)
  assert {name: o['code'] for name, o in lines.items()} == {n: code for n, (_, code) in BAD.items()} | dict.fromkeys(
    good, 'ok'
  )
  for o in lines.values():
    assert o['status'] == outcomes.status(o['code']) and bool(o['detail']) == (o['code'] != 'ok')
    assert o['windows'] == (o['code'] == 'ok') and o['seconds'] >= 0
  manifest = index.load(out, 'train')
  ids = index.load_index(manifest)
  assert {records.decode(index.read_record(manifest, ids, i)).video_id for i in range(len(ids))} == good
  assert sum(manifest.outcomes.values()) == len(lines) and validate.check(out) == []
  report = json.loads((out / 'report.json').read_text())
  assert report['outcomes'] == manifest.outcomes and report['outcomes']['missing_transcript'] == 2
  assert not list(tmp_path.parent.rglob('*passwd*'))
  assert 0 in {s.count for s in manifest.shards}  # nothing but bad items in one: TFDS must pass over it, too
  assert {e['video']['id'].decode() for e in tfds_examples(out, 'train')} == good


def test_a_run_that_is_broken_as_a_whole_stops(tmp_path):
  for i in range(3):
    add_item(tmp_path, f'bad{i}', video=False)
  add_item(tmp_path, 'good')
  result = build(tmp_path, tmp_path / 'out')
  assert result.returncode == EXITS['failures']
  assert '3 of 4 items failed (missing_video 3), more than --max-failed-fraction 0.5 allows' in result.stderr
  assert not (tmp_path / 'out' / index.MANIFEST).exists()
  # Allowing it needs no work done again.
  result = build(tmp_path, tmp_path / 'out', '--max-failed-fraction', '0.8')
  assert result.returncode == 0 and '2 shards, 2 of them done before' in result.stderr
  assert index.load(tmp_path / 'out', 'train').outcomes == {'missing_video': 3, 'ok': 1}


def test_a_broken_run_stops_before_its_end():
  tally = local.Tally(1000, Counter(ok=1), 0.5, WindowConfig())
  for _ in range(10):
    tally.add('too_few_words')  # skipped, not failed
  with pytest.raises(BuildError, match='12 of 23 items failed .crashed 12.'):
    for _ in range(1000):
      tally.add('crashed')


@pytest.mark.parametrize('total, short, said_after', [(1000, 11, 20), (10, 6, 7)])
def test_videos_that_are_mostly_too_short_are_told_as_soon_as_that_is_known(total, short, said_after, capsys):
  tally, advice = local.Tally(total, Counter(), 1.0, WindowConfig(gap_s=0.5)), []
  for code in ['ok'] + ['too_short'] * short + ['ok'] * 9:
    tally.add(code)
    advice.append(capsys.readouterr().err)
  assert next(n for n, text in enumerate(advice, 1) if text) == said_after
  (said,) = filter(None, advice)
  assert f'of {said_after} items are too_short; a sample spans 21.5 s: 4 transcripts of up to 5 s with gaps of' in said
  assert '--seconds' in said and 'input.gap_s' in said


def test_a_split_of_nothing_but_short_videos_says_what_helps(tmp_path):
  plan = shard_plan.make([item('brief', 'val')], WindowConfig(), 10)
  done = {'shard': {'name': '', 'count': 0, 'bytes': 0, 'sha256': ''}, 'rows': ''}
  with pytest.raises(BuildError, match="split 'val' has no record.* a sample spans 23 s.* shorter --seconds"):
    manifest_lib.write(tmp_path, plan, {'val-00000-of-00001': {**done, 'outcomes': {'too_short': 3, 'no_words': 1}}})


def test_a_split_without_records_is_refused(tmp_path):
  add_item(tmp_path, 'good')
  add_item(tmp_path, 'mute', split='val', transcript=json3(words(1)))
  result = build(tmp_path, tmp_path / 'out')
  assert result.returncode == EXITS['failures'] and "split 'val' has no record" in result.stderr
  assert 'too_few_words 1' in result.stderr and not (tmp_path / 'out' / index.MANIFEST).exists()


@pytest.mark.parametrize(
  'options, says',
  [
    (['--workerz', '3'], 'unknown options: --workerz 3'),
    (['--workers', '0'], '0 is not above 0'),
    (['--max-failed-fraction', '2'], '2 is not between 0 and 1'),
    (['--val-fraction', '1'], '1 leaves no item to train on'),
    (['--kind', 'youtube'], 'merlot'),
  ],
)
def test_bad_options(options, says, capsys):
  with pytest.raises(SystemExit) as e:
    builder.main(['somewhere', '--out', 'x', *options])
  assert e.value.code == EXITS['request'] and says in capsys.readouterr().err


def test_help_documents_codes(capsys):
  with pytest.raises(SystemExit):
    builder.main(['--help'])
  text = capsys.readouterr().out
  assert all(code in text for code in outcomes.CODES) and all(end in text for end in EXITS)


def test_source_that_is_not_there(tmp_path, capsys):
  assert builder.main([str(tmp_path / 'none'), '--out', str(tmp_path / 'out')]) == EXITS['request']
  assert capsys.readouterr().err.startswith('error: ') and not (tmp_path / 'out').exists()


@pytest.fixture
def one_runner():
  r = workers.Runner(tasks.act, workers.Limits(seconds=1, memory_mb=512), threading.Event())
  yield r
  r.close()


@pytest.mark.parametrize(
  'job, code, detail, attempts',
  [
    ('crash', 'crashed', 'the process died of SIGSEGV', 2),
    ('exit', 'crashed', 'the process died of exit code 3', 2),
    ('hang', 'timeout', 'took more than 1 s', 2),
    ('memory', 'out_of_memory', 'needed more than 512 MB', 2),
    ('item error', 'too_few_words', 'two', 1),
    ('bug', 'unexpected_error', 'ZeroDivisionError: a bug', 1),
  ],
)
def test_runner_survives(one_runner, job, code, detail, attempts):
  answer = one_runner.run(job)
  assert (answer.code, answer.attempts, answer.value) == (code, attempts, None) and detail in answer.detail
  answer = one_runner.run('fine')
  assert (answer.code, answer.value, answer.attempts) == ('ok', 'FINE', 1)


def test_runner_tries_again_once(one_runner, tmp_path):
  answer = one_runner.run(str(tmp_path / 'flag'))
  assert (answer.code, answer.value, answer.attempts) == ('ok', 'second', 2)


def test_runner_renews_its_process(monkeypatch):
  monkeypatch.setattr(workers, 'RENEWED_AFTER', 2)
  r = workers.Runner(tasks.act, workers.Limits(60, 512), threading.Event())
  pids = [r.run('pid').value for _ in range(5)]
  r.close()
  assert [pids.index(p) for p in pids] == [0, 0, 2, 2, 4]


def test_runner_ends_the_build_when_nothing_can_go_on(one_runner):
  with pytest.raises(BuildError, match='no space left') as e:
    one_runner.run('disk full')
  assert e.value.exit == EXITS['output']


def test_pool_kills_what_still_runs():
  begin = time.monotonic()
  with pytest.raises(KeyboardInterrupt), workers.Pool(2, tasks.act, workers.Limits(600, 512)) as pool:
    futures = [pool.submit(job) for job in ('fine', 'hang', 'hang', 'hang', 'fine')]
    assert futures[0].result().value == 'FINE'
    raise KeyboardInterrupt
  assert time.monotonic() - begin < 20 and futures[4].cancelled()


def test_worker_that_can_not_start(capfd):
  here = types.ModuleType('only_here')
  exec('def task(job): pass', here.__dict__)
  sys.modules['only_here'] = here
  r = workers.Runner(here.task, workers.Limits(1, 512), threading.Event())
  with pytest.raises(BuildError, match='cannot start') as e:
    r.run('fine')
  assert e.value.exit == EXITS['worker'] and 'only_here' in capfd.readouterr().err


def item(name, split='train'):
  return Item(name, f'{name}.mp4', None, None, '', split, None)


@settings(max_examples=30, deadline=None)
@given(
  st.dictionaries(
    st.text(st.characters(exclude_categories=['Cs']), min_size=1), st.sampled_from(['train', 'val']), min_size=1
  ),
  st.integers(1, 5),
  st.randoms(),
)
def test_plan_is_a_function_of_the_items(splits, per_shard, rng):
  items = [item(*pair) for pair in splits.items()]
  shuffled = rng.sample(items, len(items))
  planned = shard_plan.make(items, WindowConfig(), per_shard)
  assert shard_plan.make(shuffled, WindowConfig(), per_shard) == planned
  assert sorted(i.id for s in planned.shards for i in s.items) == sorted(splits)
  sizes = [len(s.items) for s in planned.shards]
  assert min(sizes) >= 1 and max(sizes) <= per_shard and len({s.name for s in planned.shards}) == len(sizes)
  assert all(i.split == s.split for s in planned.shards for i in s.items)


@pytest.mark.parametrize('split', ['', 'Train', 'all', '../x', 'a-b', 'train\n'])
def test_plan_refuses_split_names(split):
  with pytest.raises(BuildError, match='a split is named by'):
    shard_plan.make([item('a', split)], WindowConfig(), 5)
