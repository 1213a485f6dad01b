"""What a run may learn from: the paper's objectives, and those it compares with, by name.

  tvts                 contrastive and K-way sorting: the paper's (M_ours)
  base                 contrastive alone (M_base, Table 2)
  sort_only            sorting alone (M_sort, Table 2)
  no_sg                as tvts, and sorting may change the text encoder, too (M_ours\\sg, Table 2)
  pairwise             sorting by which of two transcripts comes first (Table 3)
  factorial            sorting by the whole order, one of K! (Table 3)
  sigmoid              as tvts, with SigLIP's loss in the place of the contrastive one, not in the paper
  learned_temperature  as tvts, with a temperature that is learned, not in the paper
  frame_transcript     as tvts, with MERLOT's contrastive loss, of single frames and transcripts (M2, Table 12)
  frame_base           that loss alone (M1, Table 12)
  merlot_sort          contrastive, and sorting of shuffled frames beside ordered transcripts (MERLOT-like, Table 1)
  merlot_pairs         MERLOT's contrastive loss, and which of two frames comes first (MERLOT, Table 1)
  vcop                 the order of shuffled clips, without words (VCOP, Table 1)
  videomae             reconstruction of masked pixels, without words (VideoMAE, Table 4)
  svt                  views of a clip look alike to a teacher, without words (SVT, Table 4)

A setting that a variant has is changed like any other: --config.objectives.sort.weight=1 (the paper's λ),
--config.objectives.contrastive.temperature=0.1 (τ), --config.input.mask_ratio=0.9, --config.model.transcripts=2 (K),
--config.input.seconds='(3.0,)' (l), --config.model.video.frames=8 (M).
"""

from tvts_jax.errors import UserError

CONTRASTIVE = {'contrastive': {'weight': 1.0, 'temperature': 0.05}}
FRAMES = {'frame_transcript': {'weight': 1.0, 'temperature': 0.05}}
SORT = {'sort': {'weight': 2.0}}
TVTS = CONTRASTIVE | SORT

# The objectives, and what else a variant changes of a config.
VARIANTS = {
  'tvts': (TVTS, {}),
  'base': (CONTRASTIVE, {}),
  'sort_only': (SORT, {}),
  'no_sg': (TVTS, {'model': {'stop_gradient': False}}),
  'pairwise': (CONTRASTIVE | {'sort_pairwise': {'weight': 2.0}}, {}),
  'factorial': (CONTRASTIVE | {'sort_factorial': {'weight': 2.0}}, {}),
  'sigmoid': ({'sigmoid': {'weight': 1.0, 'temperature': 0.1, 'bias': -10.0}} | SORT, {}),
  'learned_temperature': ({'contrastive_learned': {'weight': 1.0, 'temperature': 0.05}} | SORT, {}),
  'frame_transcript': (FRAMES | SORT, {}),
  'frame_base': (FRAMES, {}),
  'merlot_sort': (CONTRASTIVE | {'merlot_sort': {'weight': 2.0}}, {}),
  'merlot_pairs': (FRAMES | {'merlot_pairs': {'weight': 2.0}}, {}),
  'vcop': ({'vcop': {'weight': 1.0}}, {}),
  'videomae': ({'reconstruct': {'weight': 1.0, 'depth': 4}}, {'input': {'mask': 'tube', 'mask_ratio': 0.9}}),
  'svt': (
    {'svt': {'weight': 1.0}},
    {'ema': 0.996, 'input': {'mask': 'tube', 'mask_ratio': 0.0}, 'model': {'encoder': 'timesformer'}},
  ),
}


def apply(config, name: str) -> None:
  """Gives a config the objectives of a variant, and whatever else it changes."""
  if name not in VARIANTS:
    raise UserError(f'objective={name!r} is no variant; known: {", ".join(VARIANTS)}')
  objectives, changes = VARIANTS[name]
  del config.objectives
  config.objectives = objectives
  config.update(changes)
