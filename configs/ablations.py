"""The paper's ablations on the narrated world: which of its claims hold for a model that trains in minutes.

  taskset -c 0 python -m tvts_jax.ablate configs/ablations.py &
  taskset -c 1 python -m tvts_jax.ablate configs/ablations.py

makes the worlds, trains every variant below with three seeds, seven minutes each on one CPU core, and writes
runs/ablations/report.html. One of its runs is an ordinary one of this config:

  python -m tvts_jax.main --config=configs/ablations.py:objective=base,seed=1 --workdir=runs/base

Variations: study (the folder of all), world (a variant of data/world/scene.py), objective (of configs/variants.py),
steps, seed. Model and recipe are those of configs/demo.py, in fewer steps.

What a claim is measured by was fixed before any of the runs. The paper fine-tunes on videos that ask for order in time
(SSV2) and on others (Kinetics, UCF-101, HMDB-51); here linear probes of frozen features ask which of two motions came
first, and which motion is shown. The first is the one that sorting should help, so claims go by it unless they say
otherwise.
"""

from configs import demo
from data.world.scene import MOTIONS, SPLITS
from tvts_jax.ablate.claims import Claim
from tvts_jax.ablate.study import Study, Table, Variant
from tvts_jax.config import parse_arg
from tvts_jax.objectives.orders import CHANCE

PICTURED = ('plain', 'clutter')  # Worlds with pictures of their own; those of the others are of the plain one.


def get_config(arg=''):
  arg = parse_arg(arg, study='runs/ablations', world='plain', objective='tvts', steps=1200, seed=0)
  root = f'{arg.study}/{arg.world}'
  probes = root if arg.world in PICTURED else f'{arg.study}/plain'
  config = demo.get_config(f'root={root},objective={arg.objective},steps={arg.steps},seed={arg.seed}')
  config.input.decoder = 'cv'  # A run on one core is not to import TensorFlow.
  clips = {'folder': f'{probes}/shards', 'annotations': f'{probes}/world/labels.jsonl', 'label': 'label', 'batch': 128}
  motion, order = ({**clips, 'split': f'{kind}_test'} for kind in ('motion', 'order'))
  own = {'annotations': f'{root}/world/labels.jsonl', 'captions': 'narration', 'texts': 'mean', 'batch': 128}
  config.evals = {
    'sorting': {'batch': 128, 'every_steps': 300},
    'order_probe': {**order, 'type': 'linear_probe', 'train_split': 'order_train'},
    'motion_probe': {**motion, 'type': 'linear_probe', 'train_split': 'motion_train'},
    'video_retrieval': motion,
    'text_retrieval': own,
    'zero_shot': {**motion, 'names': MOTIONS, 'prompts': ('it is {}', 'the one is {}')},
  }
  config.log_every = 100
  config.checkpoint.every_steps = 400
  return config


def commands(study: str, world: str) -> list[tuple[str, ...]]:
  """What makes the data of a world: as launch/local.sh does, with the clips of the probes among the others."""
  root = f'{study}/{world}'
  few = () if world in PICTURED else ('--probe-train', '0', '--probe-test', '0')
  shape = ('--window-s', '12', '--seconds', '2', '--fps', '1.5', '--short-side', '32', '--min-words', '1')
  config = f'--config=configs/ablations.py:study={study},world={world}'
  return [
    ('data.world', '--out', f'{root}/world', '--world', world, *few),
    ('data.build', f'{root}/world/index.jsonl', '--out', f'{root}/shards', *shape),
    ('data.vocab', f'{root}/shards', '--out', f'{root}/vocab', '--size', '256'),
    ('tvts_jax.warm_text', config, f'--tokenizer={root}/vocab', f'--out={root}/text'),
  ]


def objective(name: str, **settings) -> Variant:
  return Variant(name, f'objective={name}', **settings)


MASKS, TAUS = (0.625, 0.75, 0.9375), (0.02, 0.2)  # Of 16 places of a slot, 6, 4 and 1 are left.
# What most claims need comes first.
VARIANTS = (
  objective('tvts'),
  objective('base'),
  Variant('random', 'steps=1', {'optim.lr': 0.0}),
  objective('pairwise'),
  objective('factorial'),
  objective('sort_only'),
  objective('vcop'),
  objective('merlot_pairs'),
  objective('merlot_sort'),
  objective('videomae'),
  objective('no_sg'),
  Variant('hidden_cues', world='hidden_cues'),
  Variant('hidden_cues_no_sg', 'objective=no_sg', world='hidden_cues'),
  objective('frame_transcript'),
  objective('frame_base'),
  *(Variant(f'tau_{tau:g}', settings={'objectives.contrastive.temperature': tau}) for tau in TAUS),
  # What stands still in all frames is what masking is meant to spare a model.
  *(Variant(f'mask_{100 * ratio:g}', '', {'input.mask_ratio': ratio}, world='clutter') for ratio in MASKS),
)
METRICS = {
  'order_probe/top1': ('order, linear probe', 1 / 8),
  'motion_probe/top1': ('motion, linear probe', 1 / 8),
  'video_retrieval/r1': ('video to video R@1', 1 / 8),
  'zero_shot/top1': ('motion, zero shot', 1 / 8),
  'text_retrieval/t2v_r10': (f'text to video R@10 of {SPLITS["val"][1]}', 10 / SPLITS['val'][1]),
  'sorting/own/assigned': ('sorted right', CHANCE['assigned'](4)),
  'sorting/blank/assigned': ('video blanked', CHANCE['assigned'](4)),
  'sorting/other/assigned': ("another's video", CHANCE['assigned'](4)),
}
TABLES = (
  Table(
    'Sorting transcripts or videos (Table 1)',
    'linear probe, UCF-101 / HMDB-51',
    {
      'tvts': '83.4 / 58.4',
      'base': '81.2 / 56.5',
      'vcop': '79.1 / 54.2',
      'merlot_pairs': '74.9 / 49.6',
      'merlot_sort': '80.1 / 55.4',
      'random': '',
    },
  ),
  Table(
    'Objectives, and the stop-gradient (Table 2, whose first row starts from ImageMAE)',
    'fine-tuned, SSV2 / K400',
    {
      'random': '64.5 / 75.4',
      'base': '67.0 / 77.8',
      'sort_only': 'failed',
      'no_sg': '66.2 / 76.5',
      'tvts': '68.5 / 78.8',
    },
  ),
  Table(
    'The stop-gradient where the position of a word in the sentence tells its order (Table 2)',
    'fine-tuned, SSV2 / K400',
    {'hidden_cues_no_sg': '66.2 / 76.5', 'hidden_cues': '68.5 / 78.8'},
  ),
  Table(
    'Ways to sort (Table 3)',
    'fine-tuned, SSV2 / K400',
    {'base': '67.0 / 77.8', 'pairwise': '67.4 / 78.1', 'factorial': '67.2 / 78.0', 'tvts': '68.5 / 78.8'},
  ),
  Table(
    'Beside reconstruction (Table 4)',
    'SSV2, R@1 / linear probe',
    {'videomae': '7.2 / 15.9', 'tvts': '14.7 / 31.5', 'random': ''},
  ),
  Table(
    'Contrast of clips or of frames (Table 12)',
    'fine-tuned, SSV2',
    {'frame_base': '66.2', 'frame_transcript': '67.1', 'base': '67.0', 'tvts': '68.5'},
  ),
  Table(
    'Masking, where an actor stands still in each clip (Figure 3a)',
    'fine-tuned, SSV2: best at 75 %',
    {'mask_62.5': '60 %', 'mask_75': '75 %', 'mask_93.75': '90 %'},
  ),
  Table('Temperature (Figure 3b)', 'best at 0.05', {'tau_0.02': '0.02', 'tvts': '0.05', 'tau_0.2': '0.2'}),
)
ORDER, MOTION, SORTED = 'order_probe/top1', 'motion_probe/top1', 'sorting/own/assigned'
CLIPS = SPLITS['val'][1]


def sorted_by(says: str, paper: str, rule: str, variant: str, video: str) -> Claim:
  return Claim(says, paper, rule, f'sorting/{video}/assigned', (variant,), CHANCE['assigned'](4), CLIPS)


def above(says: str, paper: str, order: str, metric: str = ORDER) -> Claim:
  """order: 'a > b, c', where the variant a is above b and c."""
  return Claim(says, paper, 'above', metric, tuple(order.replace(' > ', ', ').split(', ')))


CLAIMS = (
  sorted_by(
    'With the video, transcripts can be sorted.', 'Table 13: 21.5 %, chance 0.4 %', 'over chance', 'tvts', 'own'
  ),
  sorted_by('From text alone they cannot: video blanked.', 'Table 13: 0.5 %, chance 0.4 %', 'chance', 'tvts', 'blank'),
  sorted_by("From text alone they cannot: another clip's video.", 'Table 13: 0.5 %', 'chance', 'tvts', 'other'),
  above('Sorting transcripts helps to tell the order of motions.', 'Table 2, SSV2: 68.5 > 67.0', 'tvts > base'),
  above('Sorting transcripts helps to tell motions.', 'Table 1, UCF-101: 83.4 > 81.2', 'tvts > base', MOTION),
  above('Language alone helps already.', 'Table 2, SSV2: 67.0 > 64.5', 'base > random'),
  sorted_by('Sorting alone fails: it does not converge.', 'Table 2: failed', 'chance', 'sort_only', 'own'),
  above('Sorting alone gives worse features.', 'Table 2: failed', 'tvts > sort_only'),
  above('Without the stop-gradient features are worse.', 'Table 2, SSV2: 68.5 > 66.2', 'tvts > no_sg'),
  above(
    'Without the stop-gradient features are worse, where texts have a hidden order to learn.',
    'Table 2, SSV2: 68.5 > 66.2',
    'hidden_cues > hidden_cues_no_sg',
  ),
  above(
    'Without the stop-gradient it sorts by text alone, where texts have a hidden order to learn.',
    'Section 4.4, observation iii',
    'hidden_cues_no_sg > hidden_cues',
    'sorting/blank/assigned',
  ),
  above(
    'K-way is better than pairwise and factorial.', 'Table 3, SSV2: 68.5 > 67.4, 67.2', 'tvts > pairwise, factorial'
  ),
  above('K-way sorts better, too.', 'not in the paper', 'tvts > pairwise, factorial', SORTED),
  above('Pairwise is still better than no sorting.', 'Table 3, SSV2: 67.4 > 67.0', 'pairwise > base'),
  above('Factorial is still better than no sorting.', 'Table 3, SSV2: 67.2 > 67.0', 'factorial > base'),
  above(
    'Sorting videos is worse than sorting transcripts.',
    'Table 1, UCF-101: 83.4 > 79.1 (VCOP), 74.9 (MERLOT), 80.1 (MERLOT-like)',
    'tvts > vcop, merlot_pairs, merlot_sort',
  ),
  above(
    'Sorting videos is worse than not sorting.',
    'Table 1, UCF-101: 81.2 > 79.1 (VCOP), 74.9 (MERLOT), 80.1 (MERLOT-like)',
    'base > vcop, merlot_pairs, merlot_sort',
  ),
  above('Reconstruction of pixels is worse, linear probe.', 'Table 4: 31.5 > 15.9', 'tvts > videomae', MOTION),
  above(
    'Reconstruction of pixels is worse, video to video.', 'Table 4: 14.7 > 7.2', 'tvts > videomae', 'video_retrieval/r1'
  ),
  above('Contrast of clips is better than that of frames.', 'Table 12: 68.5 > 67.1', 'tvts > frame_transcript'),
  above('Sorting helps beside the contrast of frames, too.', 'Table 12: 67.1 > 66.2', 'frame_transcript > frame_base'),
  above(
    '75 % masked is better than 60 % and 90 %: here 62.5 % and 93.75 %.', 'Figure 3a', 'mask_75 > mask_62.5, mask_93.75'
  ),
  above('A temperature of 0.05 is better than lower and higher ones.', 'Figure 3b', 'tvts > tau_0.02, tau_0.2'),
  Claim(
    'Transcripts of 3 to 5 s are of a good length.',
    'Section 4.1',
    'none',
    why='each event of this world takes 3 s, so that transcripts of 2 s fit, and no other length does',
  ),
  Claim(
    'It carries over to real videos, and in fine-tuning.',
    'Tables 1 to 7',
    'none',
    why='all videos here are of one small world, and features stay frozen',
  ),
)
STUDY = Study(
  'The claims of TVTS on the narrated world',
  get_config,
  commands,
  VARIANTS,
  TABLES,
  CLAIMS,
  METRICS,
  curves=('sorting/own/assigned',),
  drawn=('tvts', 'pairwise', 'factorial', 'no_sg', 'sort_only', 'frame_transcript'),
)
