"""Documents are true: each command is one that its program takes, and a reader who follows them gets where they say."""

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess

import cv2
import numpy as np
import pytest

from data.transcripts import dialects
from data.transcripts.formats import Word
from tests.support import media, notebooks, pages
from tvts_jax import config as config_lib
from tvts_jax import evaluate, train
from tvts_jax.doctor import __main__ as doctor

OWN = 'docs/your_own_videos.md'
# What pages leave to the reader.
NAMES = {'WORKDIR': 'runs/mine', 'STEP': '3', 'N': '2', 'FOLDER': 'weights/mine'}
# So small that a run takes seconds.
SETTINGS = (
  *('--config.steps=3', '--config.log_every=1', '--config.input.batch=2', '--config.evals={}'),
  *('--config.model.video.image_size=32', '--config.model.video.frames=4', '--config.model.video.depth=1'),
  *('--config.model.video.width=16', '--config.model.video.heads=2', '--config.model.sort_depth=1'),
  *('--config.model.text.n_layers=1', '--config.model.text.dim=16', '--config.model.text.hidden_dim=32'),
  *('--config.model.text.n_heads=2', '--config.model.common=16', '--config.model.dtype=float32'),
  # Less to compile.
  *('--config.model.scan=False', '--config.model.text.dropout=0.0', '--config.model.text.attention_dropout=0.0'),
)


def talk(folder, name: str, seconds: int = 40):
  """A video with whisper's JSON beside it: two words a second."""
  media.make_video(folder / f'{name}.mp4', frames=3 * seconds, fps=3)
  words = [Word(f'{name[-1]}{"stuvwxyz"[n % 8]}', 500 * n, 500 * n + 400) for n in range(2 * seconds - 2)]
  lines = [words[n : n + 6] for n in range(0, len(words), 6)]
  (folder / f'{name}.json').write_text(dialects.whisper(lines, 1000 * seconds))


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """Where a reader is: configs, one of them of the reader's own, and videos."""
  place = tmp_path_factory.mktemp('reader')
  shutil.copytree(pages.ROOT / 'configs', place / 'configs')
  (place / 'configs/mine.py').write_text(next(text for text in pages.code(OWN) if 'get_config' in text))
  (place / 'my_videos').mkdir()
  for name in 'abcdefgh':
    talk(place / 'my_videos', f'talk {name}')
  (place / 'queries.txt').write_text('as at\nbu bv\n')
  (place / 'clip.mp4').symlink_to('my_videos/talk a.mp4')
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(place)
    patch.setenv('JAX_NUM_PROCESSES', '1')
    yield place


def follow(words: list[str]) -> int:
  """Does what a command says in this process → its exit code."""
  name, given = words[2], words[3:]
  if name == 'tvts_jax.doctor':
    return doctor.main([*given, *SETTINGS])
  if name == 'tvts_jax.main':
    values = pages.flags_of(pages.ROOT / 'tvts_jax/main.py', [*given, *SETTINGS])
    return 0 if train.train(config_lib.resolve(values.config), values.workdir) else 75
  if name == 'tvts_jax.evaluate':
    values = pages.flags_of(pages.ROOT / 'tvts_jax/evaluate.py', [*given, *SETTINGS])
    values.config.evals = {'sorting': {'batch': 2}}
    return 0 if evaluate.evaluate(config_lib.resolve(values.config), values.checkpoint, values.out) else 1
  return importlib.import_module(pages.runs(name)).main(given) or 0


def chosen(page: str, *starts: str) -> list[list[str]]:
  """Those commands of a page whose words begin so, each once, and at least one for each."""
  found = [[words for words in pages.commands(page) if ' '.join(words[2:]).startswith(start)] for start in starts]
  assert all(found), f'{page} lacks one of {starts}'
  return [words[0] for words in found]


@pytest.fixture(scope='module')
def mine(place):
  """The reader has followed the guide for videos of one's own to the end."""
  for words in pages.commands(OWN):
    assert follow(words) == 0, words
  (place / 'runs/demo').mkdir()
  (place / 'runs/demo/run').symlink_to('../mine')
  (place / 'runs/demo/shards').symlink_to('../../data/mine')
  (place / 'runs/demo/world').mkdir()
  (place / 'runs/demo/world/val').symlink_to('../../../my_videos')
  return place


@pytest.mark.parametrize('page', pages.PAGES)
def test_programs_take_the_commands_that_documents_show(page, place):
  for words in [*pages.commands(page), *pages.mentions(page)]:
    try:
      pages.understand([NAMES.get(word, word) for word in words if '...' not in word])
    except (SystemExit, Exception) as error:
      raise AssertionError(f'{page} shows {shlex.join(words)}, which ends in {error!r}') from error


@pytest.mark.parametrize('page', pages.PAGES)
def test_links_lead_somewhere(page):
  for target in re.findall(r'\]\(([^)#:]+)\)', (pages.ROOT / page).read_text()):
    assert (pages.ROOT / page).parent.joinpath(target).exists(), f'{page} leads to {target}, which is not there'


def test_videos_of_ones_own_become_a_run(mine):
  assert json.loads((mine / 'data/mine/report.json').read_text())['outcomes'] == {'ok': 8}
  assert 'talk' in (mine / 'mine.html').read_text()
  rows = (mine / 'runs/mine/metrics.jsonl').read_text().splitlines()
  assert [json.loads(row)['step'] for row in rows] == [1, 2, 3]


def test_its_checkpoint_is_evaluated(mine):
  (words,) = chosen(
    'docs/evaluate_a_checkpoint.md', 'tvts_jax.evaluate --config=configs/mine.py --checkpoint=runs/mine'
  )
  assert follow(words) == 0
  found = json.loads((mine / 'runs/mine/evaluate/sorting.json').read_text())
  held = json.loads((mine / 'data/mine/report.json').read_text())['splits']['val']['records']
  assert found['expected'] == found['evaluated'] == held > 0 and found['checkpoint']['step'] == 3


def test_evaluators_that_the_guide_adds_are_ones_that_there_are():
  (code,) = pages.code('docs/evaluate_a_checkpoint.md')
  config = config_lib.base()
  config.steps = 1
  del config.evals
  exec(code, {'config': config})
  assert set(config_lib.resolve(config).evals) == {'sorting', 'reversed', 'ssv2_probe', 'ssv2_knn'}


@pytest.mark.parametrize('codes, ends, tries', [((75, 76, 137, 0, 0), 0, 4), ((76, 1, 0), 1, 2), ((2, 0), 1, 1)])
def test_the_guide_s_loop_goes_on_until_the_end_or_an_error(tmp_path, codes, ends, tries):
  (loop,) = (block.text for block in pages.blocks('docs/resume_and_preemption.md') if block.kind == 'bash')
  (tmp_path / 'codes').write_text(''.join(f'{code}\n' for code in codes))
  (tmp_path / 'python').write_text(
    '#!/bin/sh\ncode=$(head -n 1 codes); sed -i 1d codes; echo "$@" >> tries; exit $code\n'
  )
  (tmp_path / 'python').chmod(0o755)
  env = {**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}'}
  assert subprocess.run(['bash', '-c', loop], cwd=tmp_path, env=env, timeout=30).returncode == ends
  assert len((tmp_path / 'tries').read_text().splitlines()) == tries


def test_features_come_out_as_the_readme_says(mine, capsys):
  for words in chosen('README.md', 'tvts_jax.embed runs/demo/run my_videos/', 'tvts_jax.embed runs/demo/run --texts'):
    assert follow(words) == 0, words
  (code,) = (text for text in pages.code('README.md') if 'tvts_jax.load' in text)
  exec(code, {})
  with np.load('features.npz') as videos, np.load('queries.npz') as texts:
    assert len(videos['ids']) == 8 and texts['ids'].tolist() == ['as at', 'bu bv']
    assert -1 <= float(capsys.readouterr().out.split()[-1]) <= 1
  (words,) = chosen('README.md', 'tvts_jax.nearest')
  assert follow(words) == 0 and 'as at' in (mine / 'nearest.html').read_text()


def test_pytorch_opens_the_export_as_the_guide_says(mine, monkeypatch, capsys):
  torch = pytest.importorskip('torch')
  page = 'docs/features_in_pytorch.md'
  for words in chosen(page, *(f'tvts_jax.convert {what}' for what in ('export runs/mine', 'export weights/mine'))):
    assert follow(words) == 0, words
  (mine / 'weights/mine/clip.mp4').symlink_to(mine / 'clip.mp4')
  monkeypatch.chdir(mine / 'weights/mine')
  monkeypatch.syspath_prepend('.')
  names = {}
  for code in pages.code(page):
    exec(code, names)
  assert names['features'].shape == (1, 16) and names['video'].shape == names['text'].shape == (1, 16)
  difference = torch.nn.functional.normalize(names['theirs'])[0] - torch.tensor(
    names['ours'].embed_video('clip.mp4')['embed']
  )
  assert difference.abs().max() < 1e-5


@pytest.fixture(scope='module')
def wrong(tmp_path_factory):
  """Folders of a reader who took a wrong turn."""
  place = tmp_path_factory.mktemp('wrong')
  for name in ('alone', 'two', 'lines'):
    (place / name).mkdir()
    talk(place / name, 'talk a', 25)
  shown = 'WEBVTT\n\n00:01.000 --> 00:09.000\na line of five words\n'
  for name, captions in (('alone', ()), ('two', ('en', 'de')), ('lines', ('en',))):
    (place / name / 'talk a.json').unlink()
    for lang in captions:
      (place / name / f'talk a.{lang}.vtt').write_text(shown)
  return place


WRONG = {
  'beside talk a.mp4 belongs talk a.json': 'data.build {}/alone --out {}/out',
  'choose one with --lang': 'data.build {}/two --out {}/out',
  'no_word_times': 'data.build {}/lines --out {}/out',
  'was begun with another plan': 'data.build my_videos --out data/mine --fps 2',
  'give an empty or new folder': 'data.build my_videos --out my_videos',
  'without two of one video in a batch': 'tvts_jax.doctor --config=configs/mine.py:size=tiny --config.input.batch=64',
  'set it to at least that': 'tvts_jax.doctor --config=configs/mine.py:size=tiny --config.model.text.vocab_size=9',
}


@pytest.mark.parametrize('says', WRONG)
def test_wrong_turns_end_in_the_sentence_that_the_guide_gives(says, mine, wrong, capsys):
  words = WRONG[says].replace('{}', str(wrong)).split()
  assert importlib.import_module(pages.runs(words[0])).main(words[1:]) > 0
  said = capsys.readouterr()
  assert says in said.out + said.err and f'`{says}`' in (pages.ROOT / OWN).read_text()


@pytest.mark.long
@pytest.mark.parametrize('name', ['demo', 'search_your_clips'])
def test_notebooks_run_from_their_first_cell_to_their_last(mine, name):
  path = f'docs/{name}.ipynb'
  shown = notebooks.play(path)
  for cell, (said, jpeg) in zip(notebooks.cells(path), shown, strict=True):
    assert notebooks.kept(cell) == (bool(said), bool(jpeg)), f'{path} was stored with outputs of another kind'
  pictures = [cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) for _, jpeg in shown if jpeg]
  assert all(picture.std() > 20 for picture in pictures) and len(pictures) >= 2
  said = ''.join(said for said, _ in shown)
  if name == 'demo':
    assert pictures[0].shape == pictures[1].shape and said.count('truly') == 4 and said.count('in the right order') == 3
  else:
    assert '8 clips, 16 numbers each' in said and '1.00  runs/demo/world/val/talk a.mp4' in said
