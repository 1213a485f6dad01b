"""Encoders on the narrated world, at an equal budget of clips: joint and divided attention, and SVT, without words.

  taskset -c 0 python -m tvts_jax.ablate configs/encoders.py --out runs/encoders &
  taskset -c 1 python -m tvts_jax.ablate configs/encoders.py --out runs/encoders

Worlds, model, recipe and measures are those of configs/ablations.py; three seeds. The divided encoder needs the same
places in all time slots, so that both encoders get tube masks. SVT has a head of the size of this world.
"""

from configs import ablations
from tvts_jax.ablate.study import Study, Table, Variant

get_config = ablations.get_config

TUBE = {'input.mask': 'tube'}
VARIANTS = (
  Variant('vit', settings=TUBE),
  Variant('divided', settings={**TUBE, 'model.encoder': 'divided'}),
  Variant('svt', 'objective=svt', {'objectives.svt': {'prototypes': 512, 'hidden': 256, 'bottleneck': 64}}),
)
TABLES = (
  Table(
    'TVTS with the encoder of the paper, and with that of TVTSv2, Frozen and MILES',
    'not in the paper',
    {'vit': '', 'divided': ''},
  ),
  Table(
    'Beside SVT, trained on the same clips (Table 4)',
    'SSV2, R@1 / linear probe',
    {'vit': '14.7 / 31.5', 'svt': '9.9 / 18.0'},
  ),
)
CLAIMS = (
  ablations.above('SVT is worse, linear probe.', 'Table 4: 31.5 > 18.0', 'vit > svt', ablations.MOTION),
  ablations.above('SVT is worse, video to video.', 'Table 4: 14.7 > 9.9', 'vit > svt', 'video_retrieval/r1'),
  ablations.above('SVT tells the order of motions less.', 'not in the paper', 'vit > svt'),
  ablations.above('Divided attention tells the order of motions better.', 'not in the paper', 'divided > vit'),
  ablations.above('Divided attention tells motions better.', 'not in the paper', 'divided > vit', ablations.MOTION),
)
STUDY = Study(
  'Encoders, and SVT, on the narrated world',
  get_config,
  ablations.commands,
  VARIANTS,
  TABLES,
  CLAIMS,
  ablations.METRICS,
  curves=('sorting/own/assigned',),
  drawn=('vit', 'divided'),
)
