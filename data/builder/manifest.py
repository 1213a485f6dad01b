"""The last step of a build: indices, one manifest.json over all shards, and the metadata by which TFDS opens them."""

import pathlib
import tempfile
from collections import Counter

from data.builder.shard import rows_of
from data.builder.shard_plan import Plan
from data.builder.windows import WindowConfig
from data.outcomes import BuildError
from tvts_jax.files import write_whole
from tvts_jax.shards import index, records, writer

SAMPLING = ('transcripts', 'seconds', 'gap_s', 'min_words')  # Of the config: what windows were chosen to serve.
SHARD_TEMPLATE = '{SPLIT}-{SHARD_X_OF_Y}.tfrecord'


def write(folder, plan: Plan, done: dict[str, dict]) -> dict:
  """done: name of each planned shard → content of its shard.json. Returns the content of manifest.json."""
  splits, config = {}, plan.content['config']
  for planned in plan.shards:
    listed, rows, counts = splits.setdefault(planned.split, ([], [], Counter()))
    listed.append(index.Shard(**done[planned.name]['shard']))
    rows.append(rows_of(done[planned.name]))
    counts.update(done[planned.name]['outcomes'])
  for split, (listed, _, counts) in splits.items():
    if not any(s.count for s in listed):
      what = f'split {split!r} has no record, its items were left out ({describe(counts)})'
      short = counts['too_short'] > counts.total() / 2
      advice = WindowConfig(**config).for_shorter if short else f'see {folder / "outcomes"}'
      raise BuildError(f'{what}; {advice}', 'failures')
  write_tfds(folder, {split: listed for split, (listed, *_) in splits.items()})
  return writer.write_manifest(
    folder,
    config,
    {k: config[k] for k in SAMPLING},
    {split: (listed, rows, dict(sorted(counts.items()))) for split, (listed, rows, counts) in splits.items()},
  )


def describe(counts: dict[str, int]) -> str:
  """'timeout 3, too_few_words 1': everything but ok, the most frequent first."""
  left_out = [(n, code) for code, n in counts.items() if code != 'ok']
  return ', '.join(f'{code} {n}' for n, code in sorted(left_out, key=lambda x: (-x[0], x[1])))


def write_tfds(folder, splits: dict[str, list[index.Shard]]) -> None:
  """dataset_info.json and features.json, for tfds.builder_from_directory. Does not import TensorFlow."""
  import tensorflow_datasets as tfds

  # On a disk first: it would open a bucket by a client of its own.
  with tempfile.TemporaryDirectory() as name:
    temporary = pathlib.Path(name)
    for shard in [shard for listed in splits.values() for shard in listed]:
      (temporary / shard.name).touch()  # It looks which files there are, not into them.
    template = tfds.core.ShardedFileTemplate(
      data_dir=temporary, template=SHARD_TEMPLATE, dataset_name='tvts', filetype_suffix='tfrecord'
    )
    tfds.folder_dataset.write_metadata(
      data_dir=temporary,
      features=tfds_features(tfds.features),
      split_infos=[
        tfds.core.SplitInfo(
          name=split,
          shard_lengths=[s.count for s in listed],
          num_bytes=sum(s.bytes for s in listed),
          filename_template=template.replace(split=split),
        )
        for split, listed in splits.items()
      ],
      filename_template=template,
      description='Windows of narrated videos: JPEG frames, words, and the times of both in milliseconds.',
      check_data=False,  # Reads with TensorFlow; python -m data.validate reads everything, without.
    )
    for file in sorted(temporary.glob('*.json')):
      write_whole(folder / file.name, file.read_bytes())


def tfds_features(features):
  """records.FEATURES as nested dicts: TFDS joins their keys with '/', which is how the names are spelt."""
  import numpy as np

  tree = {}
  for name, (_, kind, many) in records.FEATURES.items():
    if kind is bytes:
      leaf = features.Image(shape=(None, None, 3), encoding_format='jpeg')
    else:
      leaf = features.Scalar(np.int64) if kind is int else features.Text()
    *parents, last = name.split('/')
    node = tree
    for parent in parents:
      node = node.setdefault(parent, {})
    node[last] = features.Sequence(leaf) if many else leaf
  return features.FeaturesDict(tree)
