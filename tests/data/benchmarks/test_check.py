"""The check as a user meets it: published annotations, real videos, some missing and some damaged, then data.build."""

import bisect
import json
import os
import signal
import subprocess
import sys
from fractions import Fraction

import cv2
import numpy as np
import pytest

from data import build as builder
from data import check as checker
from data.benchmarks import BENCHMARKS
from data.outcomes import EXITS
from tests.support import leases, media
from tests.support.paths import ROOT
from tvts_jax.shards import annotations, index, records

CLASSES = ('brush_hair', 'walk')
BUILD = ['--caption-frames', '32', '--short-side', '32', '--workers', '1']


def video(path, **kwargs):
  path.parent.mkdir(parents=True, exist_ok=True)
  times = media.make_video(path, **{'frames': 6, 'fps': 10, 'size': (48, 32)} | kwargs)
  return times


def check(capsys, *argv):
  """(Exit code, stdout, stderr) of a check in this process."""
  capsys.readouterr()
  code = checker.main([*map(str, argv), '--workers', '1'])
  said = capsys.readouterr()
  assert 'Traceback' not in said.err
  return code, said.out, said.err


@pytest.fixture(scope='module')
def hmdb(tmp_path_factory):
  """HMDB-51 of two classes: of seven clips one is missing, one empty, one a web page, one sound only, one rotten."""
  root = tmp_path_factory.mktemp('hmdb')
  lists = {
    'brush_hair': 'good; (1) #&.avi 1\nmissing.avi 1\nunused.avi 0\nempty.avi 2\n',
    'walk': 'page.avi 2\nsound.avi 2\nrotten.avi 2\ngood; (1) #&.avi 2\n',
  }
  for name, lines in lists.items():
    (root / f'{name}_test_split1.txt').write_text(lines)
  # What damage of MPEG-4 shows in is known to no header.
  avi = {'codec': 'mpeg4', 'b_frames': 2}
  video(root / 'videos/brush_hair/good; (1) #&.avi', **avi)
  video(root / 'videos/walk/good; (1) #&.avi', frames=40, first_index=100, **avi)
  video(root / 'videos/walk/rotten.avi', frames=30, size=(192, 128), noise=30, **avi)
  media.rot(root / 'videos/walk/rotten.avi', 0.1, 0.6)
  video(root / 'videos/walk/sound.avi', frames=0, audio=True, audio_ms=500)
  (root / 'videos/brush_hair/empty.avi').write_bytes(b'')
  (root / 'videos/walk/page.avi').write_text('\n<!DOCTYPE html><html><body>429 Too Many Requests</body></html>')
  return root


def test_what_is_missing_or_broken_is_counted_and_named(hmdb, capsys, tmp_path):
  code, out, err = check(capsys, 'hmdb51', hmdb, '--media', hmdb / 'videos', '--out', tmp_path / 'ready')
  assert code == 0
  lines = out.splitlines()
  assert [line.split() for line in lines if line.startswith(('split', 'train', 'test'))] == [
    ['split', 'listed', 'expected', 'there', 'missing', 'broken'],
    ['train', '2', '3570', '1', '1', '0'],
    ['test', '5', '1530', '2', '0', '3'],
  ]
  assert "  missing: 'brush_hair/missing'" in lines
  broken = {line.split(': ')[1].rpartition('/')[2]: line for line in lines if line.startswith('  broken: ')}
  assert set(broken) == {'empty.avi', 'page.avi', 'sound.avi'}
  assert 'not_a_video: the file is empty' in broken['empty.avi']
  assert broken['page.avi'].endswith('not_a_video: a web page, an error page most likely')
  assert 'no_video_stream' in broken['sound.avi']
  assert '2 classes, 51 expected' in lines
  assert lines[-1].startswith('4 of 7 clips are missing or broken, and evaluators count them as wrong; the lists have')
  assert '6/6 files' in err and 'ETA' in err

  # What is there is for data.build; all of it is for evaluators, with nothing in the place of what is missing.
  names = {name: f'{name}/good; (1) #&' for name in CLASSES} | {'rotten': 'walk/rotten'}
  listed = [json.loads(line) for line in (tmp_path / 'ready/index.jsonl').read_text().splitlines()]
  assert {row['id']: (row['caption'], row['split']) for row in listed} == {
    names['brush_hair']: ('brush hair', 'train'),
    names['walk']: ('walk', 'test'),
    names['rotten']: ('walk', 'test'),
  }
  assert all(os.path.isfile(row['video']) and row['id'] in row['video'] for row in listed)
  rows, classes = annotations.read(tmp_path / 'ready/annotations.jsonl')
  assert classes == ['brush hair', 'walk'] and len(rows) == 7
  assert len(annotations.read(tmp_path / 'ready/annotations.jsonl', 'test').rows) == 5
  assert all(row['label'] == row['id'].startswith('walk') for row in rows)

  # Written again it is the same; a folder with anything else in it is refused.
  before = {p.name: p.read_bytes() for p in (tmp_path / 'ready').iterdir()}
  code, out, _ = check(capsys, 'hmdb51', hmdb, '--media', hmdb / 'videos', '--out', tmp_path / 'ready', '--decode')
  assert code == 0 and 'rotten.avi: corrupt_video: damaged near' in out
  after = {p.name: p.read_bytes() for p in (tmp_path / 'ready').iterdir()}
  assert after[checker.ANNOTATIONS] == before[checker.ANNOTATIONS]
  assert len(after[checker.INDEX].splitlines()) == 2
  for taken in (hmdb, hmdb / 'videos'):
    code, _, err = check(capsys, 'hmdb51', hmdb, '--media', hmdb / 'videos', '--out', taken)
    assert code == 1 and 'holds other things' in err


def test_the_clip_of_another_class_is_no_stand_in(hmdb, capsys):
  code, out, _ = check(capsys, 'hmdb51', hmdb, '--media', hmdb / 'videos/walk', '--strict')
  assert code == 1 and '5 of 7 clips are missing or broken' in out


def shown(record):
  return [media.read_index(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)) for jpeg in record.frames]


def spread(times, end, count=32):
  """What is on screen in the middles of equal parts of a clip, each picture once."""
  middles = [Fraction(end) * (2 * k + 1) / (2 * count) for k in range(count)]
  return sorted({bisect.bisect_right(times, middle) - 1 for middle in middles})


def test_clips_become_shards_with_their_classes_as_captions(tmp_path, capsys):
  """Long and short ones, at a steady and at a changing rate: frames are spread over a clip by its real time."""
  clips = {
    '1': {'frames': 40, 'fps': 10},
    '2': {'frames': 3, 'fps': 10},
    '3': {'frames': 1, 'fps': 25},
    '4': {'times_ms': [0, 40, 80, *range(1000, 9000, 125)], 'end_ms': 9000},
    '5': {'frames': 80, 'fps': 25, 'codec': 'libvpx-vp9'},
  }
  for id, kwargs in clips.items():
    times = video(tmp_path / 'videos' / f'{id}.{"webm" if id == "5" else "mp4"}', **kwargs)
    end = kwargs.get('end_ms') or Fraction(1000 * kwargs['frames'], kwargs['fps'])
    clips[id] = spread(times, end)
  template = {'0': 'Holding [something]', '1': 'Dropping [something]'}
  items = [{'id': id, 'label': f'number {id}', 'template': template[str(int(id) % 2)]} for id in clips]
  (tmp_path / 'labels').mkdir()
  (tmp_path / 'labels/validation.json').write_text(json.dumps(items))
  (tmp_path / 'labels/labels.json').write_text(json.dumps({'Dropping something': '1', 'Holding something': '0'}))
  ready, shards = tmp_path / 'ready', tmp_path / 'shards'
  argv = ['ssv2', tmp_path / 'labels', '--media', tmp_path, '--out', ready, '--decode', '--strict']
  code, out, _ = check(capsys, *argv)
  assert code == 0 and 'all 5 clips are there; the lists have another number of clips than expected in val' in out
  assert 'there is no list of train and test' in out
  assert builder.main([str(ready / 'index.jsonl'), '--out', str(shards), *BUILD]) == 0, capsys.readouterr().err
  manifest = index.load(shards, 'val')
  found = index.load_index(manifest)
  made = [records.decode(index.read_record(manifest, found, i)) for i in range(len(found))]
  assert {r.video_id: shown(r) for r in made} == clips
  assert [len(clips[id]) for id in clips] == [32, 3, 1, 29, 32]
  assert {r.video_id: ' '.join(r.words) for r in made} == {id: f'number {id}' for id in clips}
  assert {r.transcript_timing for r in made} == {'caption'} and all(r.start_ms == 0 for r in made)
  rows, classes = annotations.read(ready / 'annotations.jsonl', 'val')
  assert {r['id'] for r in rows} == {r.video_id for r in made}
  assert {r['id']: classes[r['label']].split()[0] for r in rows} == {
    item['id']: item['template'].split()[0] for item in items
  }


def test_images_in_pairs(tmp_path, capsys):
  line = 'A {0}.,"a,{0},","a,{1},",u,u,{0},{1},False,True,False\n'
  head = 'sentence,pos_triplet,neg_triplet,pos_url,neg_url,pos_image_id,neg_image_id,subj_neg,verb_neg,obj_neg\n'
  (tmp_path / 'svo_probes.csv').write_text(head + ''.join(line.format(*pair) for pair in ('12', '23', '34', '15')))
  picture = cv2.imencode('.jpg', media.draw_index(1))[1].tobytes()
  (tmp_path / '1.jpg').write_bytes(picture)
  (tmp_path / '2.png').write_bytes(cv2.imencode('.png', media.draw_index(2))[1].tobytes())
  (tmp_path / '3.jpg').write_text('<html>gone</html>')
  (tmp_path / '4.jpg').write_bytes(picture[: len(picture) // 2])
  code, out, _ = check(capsys, 'svo', tmp_path, '--out', tmp_path / 'ready')
  assert code == 0 and '4 sentences with two images, 1 of them with both images there' in out
  assert '3.jpg: not_an_image: a web page' in out and "missing: '5'" in out and '4.jpg' not in out
  code, out, _ = check(capsys, 'svo', tmp_path, '--decode')
  assert '4.jpg: corrupt_image' in out and [line.split() for line in out.splitlines() if line.startswith('test')] == [
    ['test', '5', '14102', '2', '1', '2']
  ]
  rows = annotations.read(tmp_path / 'ready/annotations.jsonl').rows
  assert {r['id']: [(p['sentence'], p['negative'], p['negated']) for p in r.get('pairs', ())] for r in rows} == {
    '1': [('A 1.', '2', ['verb']), ('A 1.', '5', ['verb'])],
    '2': [('A 2.', '3', ['verb'])],
    '3': [('A 3.', '4', ['verb'])],
    '4': [],
    '5': [],
  }


def test_names_that_are_no_text_are_shown(tmp_path, capsys):
  for name in (b'\xff', b'a\nb'):
    folder = tmp_path / os.fsdecode(name)
    folder.mkdir()
    (folder / '0.mp4').write_bytes(b'')
  (tmp_path / 'own.csv').write_text('id\n0\n')
  code, out, _ = check(capsys, 'table', tmp_path / 'own.csv')
  assert code == 0 and r'a\nb/0.mp4: not_a_video' in out and r'\udcff/0.mp4 was not' in out


def test_annotations_without_videos(tmp_path, capsys):
  """The lists alone are worth a check; what is neither captioned nor classified is left out of the index."""
  (tmp_path / 'train.txt').write_text('1.mp4 0\n2.mp4 1\n')
  code, out, err = check(capsys, 'ssv2', tmp_path)
  assert code == 0 and f'not one of the 2 clips is below {tmp_path}: --media says where they are' in out
  assert check(capsys, 'ssv2', tmp_path, '--strict')[0] == 1
  (tmp_path / 'videos').mkdir()
  video(tmp_path / 'videos/1.mp4')
  argv = ['ssv2', tmp_path / 'train.txt', '--media', tmp_path / 'videos', '--out', tmp_path / 'ready']
  code, out, _ = check(capsys, *argv)
  assert code == 0 and '0 clips for data.build; 1 have neither caption nor class' in out
  assert '2 clips for evaluators' in out


@pytest.mark.parametrize(
  'argv, code, says',
  [
    (['ssv2', 'none'], 1, 'there is nothing at'),
    (['ssv2', '.'], 1, 'holds no train.json'),
    (['ssv2', '.', '--media', 'none'], 1, 'is no folder'),
    (['table', 'bad.csv'], 1, "the id 'a' was taken before"),
  ],
)
def test_wrong_annotations_end_with_one_sentence(tmp_path, monkeypatch, capsys, argv, code, says):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'bad.csv').write_text('id\na\na\n')
  ended, out, err = check(capsys, *argv)
  assert ended == code and not out and err.startswith('error: ') and says in err and err.count('\n') == 1


@pytest.mark.parametrize(
  'argv, says',
  [
    (['imagenet', '.'], 'hmdb51'),
    (['ssv2', '.', '--split-number', '2'], 'ssv2 has 1 split'),
    (['ucf101', '.', '--split-number', '4'], 'ucf101 has 3 splits'),
    (['ssv2', '.', '--workers', '0'], '--workers must be at least 1'),
  ],
)
def test_commands_that_make_no_sense(argv, says, capsys):
  with pytest.raises(SystemExit) as e:
    checker.main(argv)
  assert e.value.code == EXITS['request'] and says in capsys.readouterr().err


def test_help_lists_every_benchmark(capsys):
  with pytest.raises(SystemExit):
    checker.main(['--help'])
  text = capsys.readouterr().out
  assert all(f'  {name:<8} {benchmark.layout[:10]}' in text for name, benchmark in BENCHMARKS.items())


def test_a_check_can_be_stopped(tmp_path):
  """As a process: the progress line comes, Ctrl-C ends it without a trace and leaves no process behind."""
  (tmp_path / 'own.csv').write_text('id\n0\n1\n')
  for name in '01':
    video(tmp_path / f'{name}.mp4')
  argv = [sys.executable, '-m', 'data.check', 'table', str(tmp_path / 'own.csv'), '--decode', '--workers', '1']
  with leases.held(tmp_path / '1.mp4'):  # The check cannot end before it is stopped.
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert '1/2 files' in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
  assert process.returncode == EXITS['interrupted'] and 'Traceback' not in err and 'interrupted' in err, err
  assert not out
