"""Is a downstream video in pre-training: what people do to videos is seen through, and strangers are not accused."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
from scipy import fft

from data.builder import windows
from data.leakage import __main__ as leakage
from data.leakage import hashes, match
from data.leakage import page as page_lib
from data.sources.items import Item
from data.world import scene, write
from tests.data.inspect.test_inspect import read as read_page
from tests.support import folders, weights
from tvts_jax import convert

WIDE, HIGH, TIMES = 192, 108, 30


def film(seed):
  """uint8 [TIMES, HIGH, WIDE, 3]: a camera that moves over a landscape of hills of all sizes, and a ball before it."""
  rng = np.random.default_rng(seed)
  land = np.zeros((2 * HIGH, 2 * WIDE, 3), np.float32)
  for octave in range(2, 7):
    hills = rng.normal(size=(2**octave, 2**octave, 3)).astype(np.float32)
    land += cv2.resize(hills, (2 * WIDE, 2 * HIGH), interpolation=cv2.INTER_CUBIC) * 2.0 ** (-0.9 * octave)
  land = (255 * (land - land.min()) / np.ptp(land)).astype(np.uint8)
  (y0, x0), (y1, x1) = rng.integers((0, 0), (HIGH, WIDE), (2, 2))
  shots = []
  for at in np.linspace(0, 1, TIMES):
    y, x = round(y0 + at * (y1 - y0)), round(x0 + at * (x1 - x0))
    shots.append(
      cv2.circle(land[y : y + HIGH, x : x + WIDE].copy(), (round(at * WIDE), HIGH // 2), 14, (250, 240, 9), -1)
    )
  return np.stack(shots)


def clip(n):
  """Films, and as every third one a clip of the world."""
  return scene.render(0, n)[0] if n % 3 == 0 else film(n)


def resized(frames, wide, high):
  return np.stack([cv2.resize(f, (wide, high), interpolation=cv2.INTER_AREA) for f in frames])


def square(frames):
  side = min(frames.shape[1:3])
  top, left = (frames.shape[1] - side) // 2, (frames.shape[2] - side) // 2
  return frames[:, top : top + side, left : left + side]


EDITS = {
  'smaller': lambda f: resized(f, f.shape[2] // 4 * 2, f.shape[1] // 4 * 2),
  'larger and squeezed': lambda f: resized(f, 256, 256),
  'coarse': lambda f: resized(resized(f, f.shape[2] // 3, f.shape[1] // 3), f.shape[2], f.shape[1]),
  'dimmed': lambda f: (f * 0.7 + 20).astype(np.uint8),
  'mirrored': lambda f: f[:, :, ::-1],
  'square': square,
  'square and mirrored': lambda f: resized(square(f), 96, 96)[:, :, ::-1],
  'trimmed': lambda f: f[8:20],
  'longer': lambda f: np.concatenate([0 * f[:10], f, resized(film(999), f.shape[2], f.shape[1])[:20]]),
}
PRETRAINED = 12


def save(path, frames):
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_bytes(write.encode_mp4(np.ascontiguousarray(frames)))


def record_of(path):
  """As data.build makes one, of all frames."""
  item = Item(path.stem, str(path), transcript=None, fmt=None, lang='', split='', caption='-')
  return windows.records(item, windows.WindowConfig(short_side=64, caption_frames=30))[0][0]


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """Shards of PRETRAINED clips; folders of videos: `edited` ones of these, and `strangers`."""
  root = tmp_path_factory.mktemp('leakage')
  for n in range(PRETRAINED):
    frames = clip(n)
    save(root / f'pretrain/first {n}.mp4', frames)
    for name, edit in EDITS.items():
      if n < 4:
        save(root / f'edited/{name} {n}.mp4', edit(frames))
  for n in range(100, 116):
    save(root / f'strangers/{n}.mp4', clip(n))
  made = [record_of(root / f'pretrain/first {n}.mp4') for n in range(PRETRAINED)]
  folders.write(root / 'shards', {'train': [made[:5], made[5:9]], 'val': [made[9:]]})
  return root


def run(root, downstream, *arguments, code):
  page, listed = root / 'pages/page.html', root / 'pages/list.json'
  given = [root / 'shards', downstream, '--out', page, '--json', listed, *arguments]
  assert leakage.main([*map(str, given)]) == code
  return json.loads(listed.read_text())['pairs'], read_page(page)


def test_edited_copies_are_found(root):
  pairs, page = run(root, root / 'edited', code=3)
  assert len(pairs) == 4 * len(EDITS)
  missed = [p['video'] for p in pairs if not p['found']]
  wrong = [p['video'] for p in pairs if p['found'] and p['pretrain_video'].split()[-1] != p['video'].split()[-1]]
  assert not missed and not wrong
  distances = [p['distance'] for p in pairs]
  assert distances == sorted(distances)
  assert f'threshold: {leakage.THRESHOLD} bits' in page.text and page.text.index('show the same') < page.text.index(
    'thres'
  )
  assert sum(tag == 'img' for tag, _ in page.tags) == 2 * page_lib.STRIP * len(pairs)


def test_strangers_are_not_accused(root, monkeypatch):
  monkeypatch.setattr(match, 'SCREEN', hashes.BITS)  # So that no one is let off unseen.
  pairs, page = run(root, root / 'strangers', code=0)
  assert len(pairs) == 16 and not any(p['found'] for p in pairs) and 'threshold' in page.text
  assert all(p['distance'] > leakage.THRESHOLD for p in pairs)
  pairs, _ = run(root, root / 'strangers', '--threshold', 100, code=3)
  assert all(p['found'] for p in pairs)


def test_names_and_files_are_told_beside_pictures(root, tmp_path):
  made = [record_of(root / f'strangers/{n}.mp4') for n in range(100, 104)]
  sha = record_of(root / 'pretrain/first 2.mp4').source_sha256
  made[0] = dataclasses.replace(made[0], source_sha256=sha)
  made[1] = dataclasses.replace(made[1], video_id='first 7')
  blank = [folders.jpeg(64, 64, value=0)] * 3
  made.append(
    dataclasses.replace(made[3], video_id='black', frames=blank, frame_times_ms=[0, 1, 2], height=64, width=64)
  )
  folder = folders.write(tmp_path / 'shards', {'test': [made]})
  pairs, page = run(root, folder, code=3)
  found = {p['video']: (p['same'], p['pretrain_video']) for p in pairs if p['found']}
  assert found == {'100': ('source', 'first 2'), 'first 7': ('id', 'first 7')}
  assert min(p['distance'] for p in pairs) > leakage.THRESHOLD
  assert 'black' not in {p['video'] for p in pairs} and '1 records show nothing' in page.text
  # Numbers name other things in other data.
  numbers = folders.write(tmp_path / 'numbers', {'train': [made[2:3]]})
  made = [dataclasses.replace(record_of(root / 'pretrain/first 1.mp4'), video_id='102')]
  folder = folders.write(tmp_path / 'same number', {'test': [made]})
  assert leakage.main([str(numbers), str(folder), '--out', str(tmp_path / 'page.html')]) == 0


def test_what_cannot_be_read_is_named_and_not_taken_for_clean(root, tmp_path, capsys):
  save(tmp_path / 'videos/fine.mp4', clip(101))
  (tmp_path / 'videos/broken.mp4').write_text('<html>404</html>')
  _, page = run(root, tmp_path / 'videos', code=1)
  assert 'broken.mp4: not_a_video' in page.text
  assert '1 records could not be read, so nobody knows' in capsys.readouterr().err
  for folder, words in ((tmp_path / 'gone', 'is no folder'), (root / 'pages', 'holds no video')):
    assert leakage.main([str(root / 'shards'), str(folder)]) == 1
    assert words in capsys.readouterr().err


def test_hashes_are_the_signs_of_the_lowest_frequencies():
  pictures = np.random.default_rng(0).integers(0, 256, (5, hashes.SIDE, hashes.SIDE))
  words_WxN = hashes.hashes(pictures)
  for picture, words in zip(pictures, words_WxN.T.tolist()):
    low = fft.dctn(picture.astype(float))[:12, :12]
    coarse = low[:8, :8].ravel()[1:]
    assert [words[0] >> i & 1 for i in range(64)] == [*(coarse > 0).tolist(), False]
    rest = np.concatenate([low[:8, 8:].ravel(), low[8:].ravel()])
    assert sum(word.bit_count() for word in words[1:]) == (rest > 0).sum() and len(coarse) + len(rest) == hashes.BITS


def hashed(rng, counts, views):
  """Hashes that are alike enough for ties, of records with so many frames."""
  start, frames = np.cumsum([0, *counts]), sum(counts)
  hash_VxWxN = rng.integers(0, 2**10, (views, hashes.WORDS, frames)).astype(np.uint64)
  names = [(f'v{i}', 0) for i in range(len(counts))]
  rows = list(range(len(counts)))
  return match.Hashed(None, rows, names, [''] * len(counts), start, np.arange(frames), hash_VxWxN, [])


@pytest.mark.parametrize('screen', [0, 10])
def test_the_nearest_is_that_of_all_pairs_one_by_one(monkeypatch, screen):
  monkeypatch.setattr(match, 'CHUNK', 7)
  monkeypatch.setattr(match, 'SCREEN', screen)
  rng = np.random.default_rng(1)
  down, pre = hashed(rng, [5, 0, 16, 1, 40], 4), hashed(rng, [3, 0, 0, 20, 1, 9, 2, 0, 30, 0], 2)

  def by_hand(d, p, words):
    """The fourth least of the 16 frames' distances, each the least over all frames and views."""
    theirs, ours = (x.hash_VxWxN[..., x.frames(r)].tolist() for x, r in ((down, d), (pre, p)))
    if not theirs[0][0] or not ours[0][0]:
      return None
    views = [(v, w) for v in range(4) for w in range(2) if not (v % 2 and w)]
    bits = lambda i, j, v, w: sum((theirs[v][k][i] ^ ours[w][k][j]).bit_count() for k in range(words))
    asked = [(2 * i + 1) * len(theirs[0][0]) // 32 for i in range(16)]
    return sorted(min(bits(i, j, *vw) for j in range(len(ours[0][0])) for vw in views) for i in asked)[3]

  got = match.nearest(down, pre)
  for d in range(5):
    expected = {p: by_hand(d, p, 3) for p in range(10)}
    assert expected == {p: match.distance(down, d, pre, p) for p in range(10)}
    near = {p: bits for p, bits in expected.items() if bits is not None and by_hand(d, p, 1) <= screen}
    assert got[d] == (min((bits, p) for p, bits in near.items()) if near else None)
  assert [found is None for found in got][1:3] == [True, False]


CLIP = {'encoder': 'frames', 'text_encoder': 'clip', 'projection': 'clip', 'sort_heads': 2, 'sort_depth': 1}


@pytest.mark.parametrize('model', [{'encoder': 'vit'}, CLIP])
def test_features_of_frames_are_listed_beside(root, tmp_path, model):
  config = weights.config_of(**model, video={'image_size': 16})
  convert.save_folder(tmp_path / 'weights', config, weights.random_params(config))
  for n in (1, 4):
    save(tmp_path / f'videos/copy {n}.mp4', clip(n)[:, :, ::-1][:, :, ::-1])
  pairs, page = run(root, tmp_path / 'videos', '--weights', tmp_path / 'weights', code=3)
  near = json.loads((root / 'pages/list.json').read_text())['features']
  assert {row['video']: row['pretrain_video'] for row in near} == {'copy 1': 'first 1', 'copy 4': 'first 4'}
  assert near[0]['cosine'] >= near[1]['cosine'] > 0.9 and 'Nearest by features' in page.text
