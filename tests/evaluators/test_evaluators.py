"""Evaluators on a small benchmark, with a damaged clip, a missing one and a last batch that is not full, against
numbers computed clip by clip on one device and counted by hand."""

import json
import logging
from hashlib import sha256

import jax
import numpy as np
import pytest

from tests.support import bucket, clips
from tvts_jax import evaluators
from tvts_jax.errors import UserError
from tvts_jax.evaluators import answers, attentive_probe, features, knn, probes
from tvts_jax.models import tvts
from tvts_jax.shards import annotations

GONE = {clips.MISSING, clips.DAMAGED}


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  return tmp_path_factory.mktemp('benchmark')


@pytest.fixture(scope='module')
def bench(root):
  """(annotation rows of split test, oracle, model, parameters)"""
  rows, records = clips.make(root)
  model = tvts.build(clips.config(root, {}).model)
  params = clips.random_parameters(model)
  return rows, clips.Oracle(root, model, params, records), model, params


def build(root, model, mesh=None, **evals):
  config = clips.config(root, evals)
  return evaluators.build(config, model, mesh or clips.mesh())


def seen(bench, split='test'):
  return [row for row in bench[0] if row['split'] == split and row['id'] not in GONE]


def cosine(a, b):
  return float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.fixture(scope='module')
def alone(bench):
  """What the oracle makes of the middle view of each clip, and of texts."""
  return {row['id']: bench[1].clip(row['id'], clips.MIDDLES) for row in bench[0] if row['id'] not in GONE}


@pytest.mark.parametrize('spread', ['interleaved', 'parts'])
def test_views_are_those_of_a_plain_loop(root, bench, spread):
  """Two clips x three crops of wide frames, of which one on the left, the middle, the right."""
  ms, views = clips.MS, []
  for nth in range(2):
    if spread == 'interleaved':
      at = [ms * (4 * m + 2 * nth + 1) // 16 for m in range(4)]
    else:
      at = [nth * ms // 2 + ms * (2 * m + 1) // 16 for m in range(4)]
    views += [(at, left) for left in (0, 8, 16)]
  (evaluator,) = build(root, bench[2], video_retrieval={'clips': 2, 'crops': 3, 'spread': spread}).values()
  found = evaluator.look(bench[3])
  assert [row['id'] for row in found.rows] == [row['id'] for row in seen(bench)]
  assert {row['id'] for row in found.missing} == GONE
  for r in (0, 5, 11):
    for v, (at, left) in enumerate(views):
      expected = bench[1].clip(found.rows[r]['id'], at, left)
      for kind in ('cls', 'embed'):
        np.testing.assert_allclose(found.features[kind][r, v], expected[kind], atol=2e-5)
  assert spread in evaluator.result(bench[3]).protocol and '2 clips are missing' in evaluator.result(bench[3]).protocol


def test_video_retrieval(root, bench, alone):
  found = build(root, bench[2], video_retrieval={})['video_retrieval'].result(bench[3])
  rows, hits = seen(bench), {1: 0, 5: 0, 10: 0}
  for row in rows:
    others = [other for other in rows if other is not row]
    others.sort(key=lambda other: -cosine(alone[row['id']]['cls'], alone[other['id']]['cls']))
    for k in hits:
      hits[k] += any(other['label'] == row['label'] for other in others[:k])
  # Two of fourteen clips could not be seen: they are wrong.
  assert [found.metrics[f'r{k}'] for k in hits] == pytest.approx([hit / 14 for hit in hits.values()])
  assert (found.expected, found.evaluated, set(found.missing), len(found.items)) == (14, 12, GONE, 12)
  assert found.numbers()['missing'] == 2


@pytest.mark.parametrize('how', ['first', 'each', 'paragraph', 'mean'])
def test_text_retrieval(root, bench, alone, how):
  found = build(root, bench[2], text_retrieval={'texts': how, 'max_tokens': 8})['text_retrieval'].result(bench[3])
  rows, text = seen(bench), bench[1].text
  every = [row for row in bench[0] if row['split'] == 'test']
  queries = []  # (clip, embedding)
  for row in every:
    captions = row['captions']
    vectors = {
      'first': lambda c: [text(c[0])],
      'each': lambda c: [text(caption) for caption in c],
      'paragraph': lambda c: [text(' '.join(c))],
      'mean': lambda c: [np.mean([text(caption) for caption in c], axis=0)],
    }[how](captions)
    queries += [(row['id'], vector) for vector in vectors]
  ranks = []
  for id_, vector in queries:
    scores = {row['id']: cosine(vector, alone[row['id']]['embed']) for row in rows}
    ranks.append(13 if id_ in GONE else 1 + sum(score > scores[id_] + 1e-6 for score in scores.values()))
  assert found.metrics['t2v_r5'] == pytest.approx(np.mean([rank <= 5 for rank in ranks]))
  assert found.metrics['t2v_median_rank'] == np.median(ranks)
  back = []
  for row in rows:
    scores = [(cosine(alone[row['id']]['embed'], vector), id_ == row['id']) for id_, vector in queries]
    best = max(score for score, own in scores if own)
    wrong = [score for score, own in scores if not own]
    # Captions repeat in this benchmark, so some are level.
    level = sum(abs(score - best) < 1e-6 for score in wrong)
    same = sum(abs(score - best) < 1e-6 for score, own in scores if own)
    back.append(1 + sum(score > best + 1e-6 for score in wrong) + level / (same + 1))
  assert [item['rank'] for item in found.items if item['query'] == 'video'] == pytest.approx(back)
  assert found.metrics['v2t_mean_rank'] == pytest.approx(np.mean([*back, *[len(queries) + 1] * 2]))
  assert ('0 of them cut' in found.protocol) == (how != 'paragraph')


@pytest.mark.parametrize('count', [3, 9])
def test_max_clips_takes_some_rows_and_counts_their_missing_clips(root, bench, alone, count):
  """The same rows, by a hash of their ids, whatever lies in the shards."""
  by_hash = sorted(
    (row['id'] for row in bench[0] if row['split'] == 'test'), key=lambda id_: sha256(id_.encode()).digest()
  )
  evaluator = build(root, bench[2], zero_shot={'max_clips': count})['zero_shot']
  found, chosen = evaluator.result(bench[3]), [row for row in seen(bench) if row['id'] in by_hash[:count]]
  assert (found.expected, found.evaluated, set(found.missing)) == (count, len(chosen), GONE & set(by_hash[:count]))
  assert [item['id'] for item in found.items] == [row['id'] for row in chosen] and len(evaluator.answers.classes) == 3
  text = [bench[1].text(name) for name in clips.CLASSES]
  right = [np.argmax([cosine(alone[row['id']]['embed'], t) for t in text]) == row['label'] for row in chosen]
  assert found.metrics['top1'] == pytest.approx(sum(right) / count)
  # Nothing is looked at that lies behind the last of them.
  last = max(int(id_.split()[1]) for id_ in by_hash[:count] if id_ != clips.MISSING)
  assert len(evaluator.clips) == last + 1 and f'(of 14 clips the first {count} by a hash of' in found.protocol


def test_max_clips_of_pairs_looks_at_both_of_their_images(root, bench):
  rows = [{'id': f'test {n}', 'split': 'test', 'captions': ['a stone']} for n in range(14)]
  for n, row in enumerate(rows):
    row['pairs'] = [{'sentence': 'a stone', 'negative': f'test {(n + 3) % 4}', 'negated': ['verb']}]
  path = root / 'few.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  evaluator = build(root, bench[2], svo={'annotations': str(path), 'max_clips': 5})['svo']
  found = evaluator.result(bench[3])
  positive = {pair['positive'] for pair in evaluator.pairs}
  assert len(positive) == found.expected == 5 and set(found.missing) <= GONE


def test_zero_shot_and_multiple_choice(root, bench, alone):
  names = {'falling': ('falling stone', 'a falling thing')}
  prompts = ('{}', 'a {} thing')
  evals = build(root, bench[2], zero_shot={'names': names, 'prompts': prompts}, multiple_choice={})
  text, right = bench[1].text, 0
  directions = []
  for name in clips.CLASSES:
    said = [prompt.format(n) for n in names.get(name, (name,)) for prompt in prompts]
    directions.append(np.mean([text(t) / np.linalg.norm(text(t)) for t in said], axis=0))
  for row in seen(bench):
    right += int(np.argmax([cosine(alone[row['id']]['embed'], d) for d in directions])) == row['label']
  found = evals['zero_shot'].result(bench[3])
  assert found.metrics['top1'] == pytest.approx(right / 14) and found.metrics['top5'] == pytest.approx(12 / 14)
  for row, item in zip(seen(bench), found.items):
    scores = {name: cosine(alone[row['id']]['embed'], d) for name, d in zip(clips.CLASSES, directions)}
    best = sorted(scores.items(), key=lambda pair: -pair[1])
    assert [name for name, _ in item['best']] == [name for name, _ in best] and item['class'] == row['class']
    assert [score for _, score in item['best']] == pytest.approx([score for _, score in best], abs=1e-5)

  right = 0
  for row in seen(bench):
    right += int(np.argmax([cosine(alone[row['id']]['embed'], text(c)) for c in clips.CLASSES])) == row['label']
  found = evals['multiple_choice'].result(bench[3])
  assert found.metrics == {'top1': pytest.approx(right / 14), 'chance': pytest.approx(1 / 3)}


def test_choices_of_each_clip(root, bench, alone):
  rng, rows, right = np.random.default_rng(3), [], 0
  captions = [caption for row in bench[0] for caption in row['captions']]
  for row in bench[0]:
    if row['split'] == 'test':
      offered = rng.choice(captions, rng.integers(2, 6), replace=False).tolist()
      rows.append({'id': row['id'], 'split': 'test', 'offered': offered, 'answer': int(rng.integers(len(offered)))})
  path = root / 'choices.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  settings = {'annotations': str(path), 'label': 'answer', 'choices': 'offered'}
  found = build(root, bench[2], mc={'type': 'multiple_choice', **settings})['mc'].result(bench[3])
  for row in rows:
    if row['id'] not in GONE:
      scores = [cosine(alone[row['id']]['embed'], bench[1].text(text)) for text in row['offered']]
      level = [i for i, score in enumerate(scores) if score > max(scores) - 1e-6]
      right += (row['answer'] in level) / len(level)
  assert found.metrics['top1'] == pytest.approx(right / 14)
  assert found.metrics['chance'] == pytest.approx(np.mean([1 / len(row['offered']) for row in rows]))
  rows[0]['answer'] = 9
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  with pytest.raises(UserError, match="label 9 of 'test 0' should count its"):
    build(root, bench[2], mc={'type': 'multiple_choice', **settings})


def test_svo(root, bench, alone):
  """Pairs of clips that stand for images, one with an image that is gone, one that differs in two things."""
  rows = [{'id': row['id'], 'split': 'test', 'captions': row['captions']} for row in bench[0] if row['split'] == 'test']
  rng, pairs = np.random.default_rng(5), []
  for n in range(24):
    a, b = rng.choice(12, 2, replace=False)
    negated = ['subj', 'obj', 'verb'][n % 3]
    pairs.append((rows[a]['id'], rows[b]['id'], f'{clips.CLASSES[n % 3]} stone {n % 4}', [negated]))
  pairs += [('test 0', clips.MISSING, 'a stone', ['verb']), ('test 0', 'test 1', 'a stone', ['subj', 'verb'])]
  for row in rows:
    row['pairs'] = [{'sentence': s, 'negative': b, 'negated': n} for a, b, s, n in pairs if a == row['id']]
  path = root / 'svo.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  score = lambda sentence, image: cosine(bench[1].text(sentence), alone[image]['embed'])
  there = [p for p in pairs if p[0] not in GONE and p[1] not in GONE and len(p[3]) == 1]
  rho = round(float(np.median([score(p[2], image) for p in there for image in p[:2]])), 3)
  found = build(root, bench[2], svo={'annotations': str(path), 'thresholds': (rho, 0.999)})['svo'].result(bench[3])
  assert found.metrics['coverage'] == pytest.approx(len(there) / 25)
  assert (found.expected, found.evaluated) == (25, len(there)) and len(there) < 25
  for kind in ('subj', 'verb', 'obj'):
    own = [p for p in there if p[3] == [kind]]
    positive = [score(s, a) > rho for a, _, s, _ in own]
    negative = [score(s, b) > rho for _, b, s, _ in own]
    precision = sum(positive) / (sum(positive) + sum(negative))
    once = {(s, a): score(s, a) > rho for a, _, s, _ in own}, {(s, b): score(s, b) > rho for _, b, s, _ in own}
    macro = (np.mean(list(once[0].values())) + 1 - np.mean(list(once[1].values()))) / 2
    assert found.metrics[f'{kind}/pairs'] == len(own)
    assert found.metrics[f'{kind}/precision_{rho:g}'] == pytest.approx(precision)
    assert found.metrics[f'{kind}/recall_{rho:g}'] == pytest.approx(np.mean(positive))
    assert found.metrics[f'{kind}/accuracy_{rho:g}'] == pytest.approx(macro)
  # Nothing is that near: no precision, and an accuracy of one half.
  assert 'verb/precision_0.999' not in found.metrics and found.metrics['all/accuracy_0.999'] == 0.5


def test_knn(root, bench, alone):
  found = build(root, bench[2], knn={'k': 5, 'features': 'embed'})['knn'].result(bench[3])
  right = 0
  for row in seen(bench):
    near = [(cosine(alone[row['id']]['embed'], alone[t['id']]['embed']), t['label']) for t in seen(bench, 'train')]
    votes = np.zeros(3)
    for score, label in sorted(near, reverse=True)[:5]:
      votes[label] += np.exp(score / 0.07)
    right += votes.argmax() == row['label']
  assert found.metrics['top1'] == pytest.approx(right / 14)


def test_equal_neighbours_share_the_last_places():
  """Seven alike, of which three may vote: each counts for three sevenths."""
  label = np.array([0, 0, 1, 1, 1, 1, 2])
  votes = knn.vote(np.ones((2, 4)), np.ones((7, 4)), label, 3, 3, 0.07)
  np.testing.assert_allclose(votes, np.tile(np.array([2, 4, 1]) * 3 / 7, (2, 1)), rtol=1e-6)


def sgd_by_hand(feature_NxD, label_N, settings, classes=3):
  """Nesterov momentum on softmax regression, in float64, one step after the other."""
  batch, epochs = min(settings['train_batch'], len(label_N)), settings['epochs']
  steps, peak = len(label_N) // batch, settings['lr'] * batch / 256
  total, warmup = steps * epochs, round(steps * epochs * settings['warmup_epochs'] / epochs)
  rng = np.random.default_rng(settings['probe_seed'])
  weights, momentum = np.zeros((feature_NxD.shape[1] + 1, classes)), 0
  x_NxD = np.concatenate([feature_NxD, np.ones((len(label_N), 1))], axis=1)
  for epoch in range(epochs):
    chosen = rng.permutation(len(label_N))
    for s in range(steps):
      nth = epoch * steps + s
      part = (nth - warmup) / (total - warmup)
      rate = peak * nth / warmup if nth < warmup else peak * (1 + np.cos(np.pi * part)) / 2
      x, y = (array[chosen[s * batch : (s + 1) * batch]] for array in (x_NxD, label_N))
      power = np.exp(x @ weights - (x @ weights).max(1, keepdims=True))
      slope = x.T @ (power / power.sum(1, keepdims=True) - np.eye(classes)[y]) / batch
      slope = slope + settings['weight_decay'] * weights
      momentum = settings['momentum'] * momentum + slope
      weights = weights - rate * (slope + settings['momentum'] * momentum)
  return weights


def test_linear_probe_is_plain_sgd_and_averages_views(root, bench):
  own = {'train_batch': 7, 'epochs': 6, 'warmup_epochs': 2, 'lr': 2.0, 'weight_decay': 0.01, 'clips': 2}
  evals = build(root, bench[2], softmax={'type': 'linear_probe', **own}, logits={'type': 'linear_probe', **own})
  evals['logits'].settings['average'] = 'logits'
  probe = evals['softmax']
  train = answers.look(probe.train_clips, seen(bench, 'train'), bench[3])
  weights = sgd_by_hand(train.features['cls'][:, 0].astype(np.float64), np.arange(30) % 3, probe.settings)
  views, rows = probe.look(bench[3]).features['cls'].astype(np.float64), seen(bench)
  for name, evaluator in evals.items():
    right = 0
    for clip, row in zip(views, rows):
      logits = [view @ weights[:-1] + weights[-1] for view in clip]
      parts = [np.exp(l) / np.exp(l).sum() for l in logits] if name == 'softmax' else logits
      right += np.mean(parts, axis=0).argmax() == row['label']
    found = evaluator.result(bench[3])
    assert found.metrics['top1'] == pytest.approx(right / 14) and right > 14 / 3
    assert f'views averaged in {name}' in found.protocol and 'lr 2.0 x 7/256' in found.protocol
  head = probe.fit(train.features['cls'][:, 0], np.arange(30) % 3, 7)
  np.testing.assert_allclose(np.concatenate([head['kernel'], head['bias'][None]]), weights, atol=1e-4)


@pytest.mark.parametrize('how', probes.AVERAGES)
def test_averages_of_views(how):
  logits = np.random.default_rng(0).standard_normal((5, 6, 4)) * 30
  expected = np.zeros((5, 4))
  for r in range(5):
    for v in range(6):
      power = np.exp(logits[r, v])
      expected[r] += (power / power.sum() if how == 'softmax' else logits[r, v]) / 6
  np.testing.assert_allclose(probes.averaged(logits, how), expected, rtol=1e-9)


def test_attentive_probe(root, bench):
  settings = {'epochs': 8, 'train_batch': 8, 'lr': 0.6, 'warmup_epochs': 1, 'probe_seed': 1}
  probe = build(root, bench[2], attentive_probe=settings)['attentive_probe']
  found = probe.result(bench[3])
  assert found.metrics['top1'] >= 10 / 14 and set(found.missing) == GONE
  # Its head by plain loops over heads and tokens.
  rng = np.random.default_rng(0)
  params = jax.eval_shape(probe.head.init, jax.random.key(0), np.zeros((1, 1, 16), np.float32))['params']
  head = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), params)
  tokens = bench[1].clip('test 0', clips.MIDDLES)['tokens'].astype(np.float64)
  norm = lambda x, p: (
    (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p['scale'] + p['bias']
  )
  x, out = norm(tokens, head['norm']), head['out']['bias'].astype(np.float64)
  for h in range(2):
    project = lambda name, x, h=h: x @ head[name]['kernel'][:, h] + head[name]['bias'][h]
    logits = project('k', x) @ project('q', head['query']) / np.sqrt(8)
    weights = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    out = out + weights @ project('v', x) @ head['out']['kernel'][h]
  expected = norm(out, head['norm_out']) @ head['classes']['kernel'] + head['classes']['bias']
  got = attentive_probe.Head(3, 2).apply({'params': head}, tokens[None].astype(np.float32))[0]
  np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)


def test_features_are_made_once(root, bench, tmp_path, monkeypatch, caplog):
  made = []
  see = features.Clips.see
  monkeypatch.setattr(features.Clips, 'see', lambda *a: made.append(1) or see(*a))
  monkeypatch.setattr(features, 'STORE', features.Store())
  monkeypatch.setattr(answers, 'STORE', features.STORE)
  features.STORE.folder = tmp_path
  own = {'split': 'train'}  # In which nothing is damaged.
  kinds = {'a': {'type': 'video_retrieval'}, 'b': {'type': 'zero_shot', 'max_tokens': 5, 'batch': 16}}
  evals = build(root, bench[2], **{name: own | kind for name, kind in kinds.items()})
  before = [e(bench[3]) for e in evals.values()]
  assert len(made) == 1  # Both ask for the same views.
  monkeypatch.setattr(answers, 'STORE', features.Store())
  answers.STORE.folder = tmp_path
  assert [e(bench[3]) for e in evals.values()] == before and len(made) == 1  # From the disk.
  other = jax.tree.map(lambda x: x + 0.01, bench[3])
  assert evals['a'](other) != before[0] or len(made) == 2
  assert len(made) == 2 and len(list(tmp_path.iterdir())) == 2
  for path in tmp_path.iterdir():
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))
  monkeypatch.setattr(answers, 'STORE', features.Store())
  answers.STORE.folder = tmp_path
  with caplog.at_level(logging.WARNING):
    assert [e(bench[3]) for e in evals.values()] == before and len(made) == 3
  assert 'is damaged' in caplog.text
  # What is damaged may be mended, so it is not kept.
  build(root, bench[2], a=kinds['a'])['a'](bench[3])
  assert len(made) == 4 and len(list(tmp_path.iterdir())) == 2


def test_features_lie_in_a_bucket_and_those_that_cannot_be_stored_are_a_warning(
  root, bench, tmp_path, monkeypatch, caplog
):
  made, see, found = [], features.Clips.see, []
  monkeypatch.setattr(features.Clips, 'see', lambda *a: made.append(1) or see(*a))
  (tmp_path / 'file').touch()
  (evaluator,) = build(root, bench[2], video_retrieval={'split': 'train'}).values()
  with bucket.server(), caplog.at_level(logging.WARNING):
    for folder in ('gs://b/out/features', 'gs://b/out/features', tmp_path / 'file' / 'features'):
      assert not caplog.text
      monkeypatch.setattr(answers, 'STORE', features.Store())
      answers.STORE.folder = folder
      found.append(evaluator(bench[3]))
  assert found[0] == found[1] == found[2] and len(made) == 2
  assert 'cannot be written' in caplog.text and (tmp_path / 'file').read_bytes() == b''


def test_parameters_that_are_no_number_are_an_error(root, bench):
  broken = jax.tree.map(lambda x: np.full_like(x, np.nan), bench[3])
  for name in ('video_retrieval', 'linear_probe', 'text_retrieval'):
    with pytest.raises(UserError, match='no finite|no number'):
      build(root, bench[2], **{name: {}})[name].result(broken)


@pytest.mark.parametrize(
  'settings, words',
  [
    ({'annotations': ''}, 'needs annotations'),
    ({'annotation': 'x'}, "no setting 'annotation'; it has every_steps, annotations"),
    ({'crop': 'left'}, "no setting 'crop'"),
    ({'crops': 2}, 'crops=2 is unknown; known: 1, 3'),
    ({'frames': 16}, 'asks for 16 frames, and the model knows 8'),
    ({'features': 'tokens'}, "features='tokens' is unknown"),
    ({'image_size': 32}, 'contradicts the model, which has 16'),
    ({'type': 'zero_shot', 'prompts': ('none',)}, "prompt 'none' should have one {}"),
    ({'type': 'text_retrieval', 'texts': 'all'}, 'known: first, each, paragraph, mean'),
    ({'type': 'knn', 'k': 0}, 'k=0 must be a number of clips'),
    ({'type': 'svo', 'thresholds': 0.2}, 'thresholds=0.2 should be cosines'),
    ({'type': 'linear_probe', 'epochs': 0}, 'epochs=0 must be a number'),
    ({'type': 'linear_probe', 'average': 'max'}, 'known: softmax, logits'),
  ],
)
def test_settings_that_make_no_sense(root, bench, settings, words):
  with pytest.raises(UserError, match=words):
    clips.config(root, {'video_retrieval': settings})


@pytest.mark.parametrize(
  'settings, words',
  [
    ({'split': 'train', 'annotations': '{root}/choices.jsonl'}, "no clip of split 'train'; its splits: test"),
    ({'annotations': '{root}/none.jsonl'}, 'none.jsonl is not there'),
    ({'label': 'kind'}, "no field 'kind'; it has id, split, label"),
    ({'label': 'captions'}, 'it should be a class or its number'),
    ({'type': 'zero_shot', 'names': {'flying': 'fly'}}, "'flying', which is no class; classes are falling"),
    ({'type': 'zero_shot', 'max_tokens': 40}, 'more than the 16 that the text encoder knows'),
    ({'type': 'knn', 'train_split': 'dev'}, "no clip of split 'dev'"),
  ],
)
def test_benchmarks_that_do_not_fit(root, bench, settings, words):
  (root / 'choices.jsonl').touch()
  settings = {name: v.format(root=root) if isinstance(v, str) else v for name, v in settings.items()}
  if settings.get('split') == 'train':
    (root / 'choices.jsonl').write_text('{"id": "a", "split": "test"}\n')
  with pytest.raises(UserError, match=words):
    build(root, bench[2], video_retrieval=settings)


def test_labels_may_be_names_in_any_field(root, bench):
  rows = [
    {'id': row['id'], 'split': row['split'], 'motion': row['class'], 'said': row['captions'][0]} for row in bench[0]
  ]
  rows.append({'id': 'else', 'split': 'other', 'motion': 'flying', 'said': ''})
  path = root / 'labels.jsonl'
  path.write_text(''.join(json.dumps(row) + '\n' for row in rows))
  own = {'annotations': str(path), 'label': 'motion'}
  found = build(root, bench[2], a={'type': 'knn', **own}, b={'type': 'knn'})
  assert found['a'].answers.classes == clips.CLASSES and found['a'](bench[3]) == found['b'](bench[3])
  given = annotations.answers(str(path), ('test',), captions='said')
  assert given.captions(given.rows['test'])[0] == [bench[0][30]['captions'][0]]
  with pytest.raises(UserError, match="no label for 'train 0'; name the field"):
    build(root, bench[2], a={'type': 'knn', 'annotations': str(path)})['a'](bench[3])


def test_not_one_clip_of_the_annotations_is_there(root, bench):
  path = root / 'others.jsonl'
  path.write_text('{"id": "else", "split": "test", "label": 0}\n')
  with pytest.raises(UserError, match="not one of 1 clips that are asked for, such as 'else'"):
    build(root, bench[2], video_retrieval={'annotations': str(path)})['video_retrieval'](bench[3])
