"""Layouts of published weights by name; a file is of the first whose landmarks it has."""

from tvts_jax.convert.families.bert import BERT, DISTILBERT
from tvts_jax.convert.families.clip import CLIP, CLIP_HF, MCQ_CLIP, OPENCLIP
from tvts_jax.convert.families.family import Family
from tvts_jax.convert.families.frozen import FROZEN, MCQ, MILES
from tvts_jax.convert.families.mae import MAE
from tvts_jax.convert.families.svt import SVT
from tvts_jax.convert.families.tvts import TVTS
from tvts_jax.convert.families.tvtsv2 import TVTSV2
from tvts_jax.convert.families.videomae import VIDEOMAE, VIDEOMAE_FINETUNED, VIDEOMAE_HF, VIDEOMAE_HF_FINETUNED

FAMILIES: dict[str, Family] = {
  'tvtsv2': TVTSV2,
  'frozen': FROZEN,
  'miles': MILES,
  'mcq': MCQ,
  'tvts': TVTS,
  'clip': CLIP,
  'openclip': OPENCLIP,
  'mcq_clip': MCQ_CLIP,
  'clip_hf': CLIP_HF,
  'svt': SVT,
  'videomae': VIDEOMAE,
  'videomae_finetuned': VIDEOMAE_FINETUNED,
  'videomae_hf': VIDEOMAE_HF,
  'videomae_hf_finetuned': VIDEOMAE_HF_FINETUNED,
  'mae': MAE,
  'distilbert': DISTILBERT,
  'bert': BERT,
}
