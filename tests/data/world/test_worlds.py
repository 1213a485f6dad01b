"""Variants of the narrated world: each differs in what it says it does, and in nothing else."""

import dataclasses
import json

import numpy as np
import pytest

from data.outcomes import BuildError
from data.world import __main__ as world
from data.world import scene, write
from data.world.scene import WORLDS

CLIPS = 200


@pytest.fixture(scope='module')
def scripts():
  return {name: [scene.write_script(0, i, 'train', WORLDS[name]) for i in range(CLIPS)] for name in WORLDS}


def frames_of(name, index, split='train'):
  return scene.render(0, index, split, world=WORLDS[name])[0]


def place_of(word, script):
  """Of the slot that a word is said in."""
  return int(word.start_ms // (1000 * scene.SLOT_S))


def test_the_plain_world_is_the_default():
  for split in scene.SPLITS:
    plain, named = scene.render(5, 1, split), scene.render(5, 1, split, world=WORLDS['plain'])
    np.testing.assert_array_equal(plain[0], named[0])
    assert plain[1:] == named[1:]


@pytest.mark.parametrize('name', ['cues', 'hidden_cues'])
def test_cues_change_no_pixel_and_add_single_words(scripts, name):
  for plain, cued in zip(scripts['plain'], scripts[name]):
    assert (plain.type, plain.label, plain.events) == (cued.type, cued.label, cued.events)
    for before, after in zip(plain.narration, cued.narration):
      words, longer = before.split(), after.split()
      removed = [longer[:at] + longer[at + 1 :] for at in range(len(longer))]
      assert longer == words or (words in removed and len(longer) <= scene.MAX_WORDS)
  np.testing.assert_array_equal(frames_of('plain', 3), frames_of(name, 3))
  np.testing.assert_array_equal(frames_of('plain', 3, 'order_test'), frames_of(name, 3, 'order_test'))


def test_cue_words_tell_the_place(scripts):
  """Three of four utterances begin with the cue of their place; in the plain world no first word tells of a place."""
  count = lambda name: np.array(
    [[sum(s.narration[place].split()[0] == cue for s in scripts[name]) for cue in scene.CUES] for place in range(4)]
  )
  cued, plain = count('cues') / CLIPS, count('plain') / CLIPS
  assert (np.diag(cued) > 0.65).all() and (np.diag(cued) < 0.85).all()
  assert (plain < 0.06).all() and (cued - np.diag(np.diag(cued)) < 0.06).all()


def test_hidden_cues_are_in_the_position_and_in_no_word(scripts):
  extra, words = {place: [] for place in range(4)}, {place: [] for place in range(4)}
  for plain, cued in zip(scripts['plain'], scripts['hidden_cues']):
    for place, (before, after) in enumerate(zip(plain.narration, cued.narration)):
      before, after = before.split(), after.split()
      if before != after:
        at = next(i for i, word in enumerate(after) if i == len(before) or word != before[i])
        extra[place].append(at / len(before))
        words[place].append(after[at])
  means = [np.mean(extra[place]) for place in range(4)]
  # Beside an equal word one cannot see which of the two was put in, so the ends are not quite 0 and 1.
  assert means[0] < 0.1 and 0.2 < means[1] < 0.5 and 0.5 < means[2] < 0.8 and means[3] > 0.95
  for place in range(4):
    share = np.array([words[place].count(filler) for filler in scene.FILLERS]) / len(words[place])
    assert 110 < len(words[place]) < 180 and (share > 0.02).all() and (share < 0.22).all()


def test_utterances_still_fall_into_windows_of_their_own(scripts):
  for name in WORLDS:
    for script in scripts[name]:
      assert [place_of(word, script) for word in script.words] == [
        place for place, text in enumerate(script.narration) for _ in text.split()
      ]
      for word in script.words:
        inside = word.start_ms % 3000, word.end_ms - 3000 * place_of(word, script)
        assert inside[0] >= 430 and inside[1] <= 2570


def test_clutter_stands_still(scripts):
  """Where a frame of the plain clip shows the ground, that of the cluttered one shows what all others show there."""
  assert scripts['clutter'] == scripts['plain']
  seen = []
  for index in range(8):
    plain, clutter = (frames_of(name, index).astype(int) for name in ('plain', 'clutter'))
    from_usual = lambda frames: abs(frames - np.median(frames, axis=0)).max(-1)
    ground = from_usual(plain) <= 8
    ground &= ground.mean(0) > 0.7  # Elsewhere the median itself may be an actor.
    assert (from_usual(clutter)[ground] <= 9).mean() > 0.97
    seen.append((np.median(clutter, axis=0).max(-1) - np.median(plain, axis=0).max(-1) > 60).mean())
  assert 0.03 < np.mean(seen) < 0.4 and min(seen) > 0


def test_slow_things_move_half_as_far():
  event = scene.Event('red', 'square', 'right', 0, 12_000)
  times = np.arange(9) / 3
  tile = lambda pace, times: scene.flock_tile(np.random.default_rng(4), event, times, 32, pace)
  np.testing.assert_allclose(tile(0.5, times), tile(1.0, times / 2), atol=1e-5)
  assert abs(tile(0.5, times) - tile(1.0, times)).max() > 0.5


def test_a_folder_remembers_its_world(tmp_path, capsys):
  few = ['--clips', '2', '--val', '0', '--probe-train', '0', '--probe-test', '0', '--workers', '1']
  assert world.main(['--out', str(tmp_path / 'a'), '--world', 'cues', *few]) == 0
  row = json.loads((tmp_path / 'a/labels.jsonl').read_text().splitlines()[0])
  assert tuple(row['narration']) == scene.write_script(0, 0, 'train', WORLDS['cues']).narration
  assert world.main(['--out', str(tmp_path / 'a'), *few]) != 0
  assert 'world was cues, is plain' in capsys.readouterr().err
  # One that was begun before there were others is plain.
  settings = json.loads((tmp_path / 'a/world.json').read_text())
  del settings['world']
  (tmp_path / 'old').mkdir()
  (tmp_path / 'old/world.json').write_text(json.dumps(settings))
  with write.claim(tmp_path / 'old', {**settings, 'world': 'plain'}):
    pass
  with pytest.raises(BuildError, match='world was plain, is slow'), write.claim(tmp_path / 'old', {'world': 'slow'}):
    pass


def test_settings_of_a_world_are_shares_and_counts():
  assert all(0 <= made.cues <= 1 and made.cue_by in ('word', 'position') for made in WORLDS.values())
  assert dataclasses.asdict(WORLDS['plain']) == {'cues': 0.0, 'cue_by': 'word', 'still': 0, 'pace': 1.0}
