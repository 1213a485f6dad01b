"""Numbers of others as they were published, to stand beside ours. None of them was run here.

They are of Zeng et al. (CVPR 2023), Tables 1 to 7 and 10 to 13, and of the README of TVTSv2, whose numbers are pictures
and were read by eye; Tables 8 and 9 are settings (configs/). Accuracies and recalls are in percent, of SVO-Probes
shares. Behind a line with source, data set, task and metrics stand those of each method: its name, its numbers and what
it was trained on, or its backbone.
"""

from typing import NamedTuple

QUOTED = """
# TVTS, Table 1 | UCF-101 | linear probe | top1
contrast alone | 81.2 | YT-Temporal
TVTS | 83.4 | YT-Temporal
VCOP | 79.1 | YT-Temporal
MERLOT | 74.9 | YT-Temporal
MERLOT-like | 80.1 | YT-Temporal
# TVTS, Table 1 | HMDB-51 | linear probe | top1
contrast alone | 56.5 | YT-Temporal
TVTS | 58.4 | YT-Temporal
VCOP | 54.2 | YT-Temporal
MERLOT | 49.6 | YT-Temporal
MERLOT-like | 55.4 | YT-Temporal
# TVTS, Table 2 | SSV2 | fine-tuning | top1
from scratch | 64.5 | none
contrast alone | 67.0 | YT-Temporal
sorting alone, no stop | failed | YT-Temporal
sorting alone | failed | YT-Temporal
TVTS, no stop | 66.2 | YT-Temporal
TVTS | 68.5 | YT-Temporal
# TVTS, Table 3 | SSV2 | fine-tuning | top1
TVTS by pairs | 67.4 | YT-Temporal
TVTS by whole orders | 67.2 | YT-Temporal
# TVTS, Table 2 | Kinetics-400 | fine-tuning | top1
from scratch | 75.4 | none
contrast alone | 77.8 | YT-Temporal
sorting alone, no stop | failed | YT-Temporal
sorting alone | failed | YT-Temporal
TVTS, no stop | 76.5 | YT-Temporal
TVTS | 78.8 | YT-Temporal
# TVTS, Table 3 | Kinetics-400 | fine-tuning | top1
TVTS by pairs | 78.1 | YT-Temporal
TVTS by whole orders | 78.0 | YT-Temporal
# TVTS, Table 4 | SSV2 | video retrieval | r1 r5 r10
SVT | 11.3 30.7 41.1 | Kinetics-400
SVT, trained by the authors | 9.9 26.2 36.3 | YT-Temporal
VideoMAE | 7.9 18.6 26.5 | Kinetics-400
VideoMAE, trained by the authors | 7.2 17.6 25.6 | YT-Temporal
Frozen, official weights | 10.4 28.5 38.7 | CC3M, WebVid-2M
MCQ, official weights | 10.4 28.6 38.5 | CC3M, WebVid-2M
MILES, official weights | 10.3 28.4 38.4 | CC3M, WebVid-2M
CLIP | 10.5 28.8 38.8 | WIT
TVTS | 14.7 38.4 50.5 | YT-Temporal
# TVTS, Table 4 | SSV2 | linear probe | top1
CVRL | 11.4 | Kinetics-400
MViT | 19.4 | Kinetics-400
SCVRL | 13.8 | Kinetics-400
SVT | 18.3 | Kinetics-400
SVT, trained by the authors | 18.0 | YT-Temporal
VideoMAE | 17.9 | Kinetics-400
VideoMAE, trained by the authors | 15.9 | YT-Temporal
Frozen, official weights | 17.5 | CC3M, WebVid-2M
MCQ, official weights | 18.0 | CC3M, WebVid-2M
MILES, official weights | 18.6 | CC3M, WebVid-2M
CLIP | 16.4 | WIT
TVTS | 31.5 | YT-Temporal
# TVTS, Table 5 | SSV2 | fine-tuning | top1
TSM | 66.0 | ImageNet-1K
CORP | 48.8 | Kinetics-400
MoCo v3 | 62.4 | Kinetics-400
TANet | 66.0 | ImageNet-1K
MViT | 64.7 | Kinetics-400
TimeSformer | 59.5 | ImageNet-21K
RSANet | 66.0 | ImageNet-1K
SVT | 59.2 | Kinetics-400
VideoMAE, trained by the authors | 67.9 | YT-Temporal
Frozen, official weights | 55.1 | CC3M, WebVid-2M
MCQ, official weights | 51.5 | CC3M, WebVid-2M
MILES, official weights | 54.1 | CC3M, WebVid-2M
OmniVL | 61.6 | eight datasets
CLIP | 36.3 | WIT
TVTS | 68.5 | YT-Temporal
TVTS | 69.1 | YT-Temporal, CC3M, WebVid-2M
# TVTS, Table 5 | Kinetics-400 | fine-tuning | top1
Vi2CLR | 71.2 | Kinetics-400
MViT | 78.4 | Kinetics-400
TimeSformer | 78.3 | ImageNet-21K
SVT | 78.1 | Kinetics-400
VideoMAE, trained by the authors | 78.2 | YT-Temporal
Frozen, official weights | 76.9 | CC3M, WebVid-2M
MCQ, official weights | 77.8 | CC3M, WebVid-2M
MILES, official weights | 77.4 | CC3M, WebVid-2M
OmniVL | 79.1 | eight datasets
CLIP | 75.2 | WIT
TVTS | 78.8 | YT-Temporal
TVTS | 79.8 | YT-Temporal, CC3M, WebVid-2M
# TVTS, Tables 6 and 10 | MSR-VTT | fine-tuned text retrieval | t2v_r1 t2v_r5 t2v_r10 t2v_medr
NoiseEst | 17.4 41.6 53.6 8.0 | -
MMT | 26.6 57.1 69.6 4.0 | -
SupportSet | 30.1 58.5 69.3 3.0 | -
Frozen | 31.0 59.5 70.5 3.0 | -
TVTS | 34.6 61.5 72.2 3.0 | -
# TVTS, Tables 6 and 10 | DiDeMo | fine-tuned text retrieval | t2v_r1 t2v_r5 t2v_r10 t2v_medr
HERO | 2.1 - 11.4 - | -
CE | 16.1 41.1 82.7 8.3 | -
ClipBert | 20.4 48.0 60.8 6.0 | -
Frozen | 31.0 59.8 72.4 3.0 | -
TVTS | 32.4 59.8 71.7 3.0 | -
# TVTS, Tables 6 and 10 | LSMDC | fine-tuned text retrieval | t2v_r1 t2v_r5 t2v_r10 t2v_medr
NoiseEst | 6.4 19.8 28.4 39.0 | -
MMT | 12.9 29.9 40.1 19.3 | -
Frozen | 15.0 30.8 39.8 20.0 | -
TVTS | 17.2 32.8 41.7 17.0 | -
# TVTS, Tables 6 and 10 | MSVD | fine-tuned text retrieval | t2v_r1 t2v_r5 t2v_r10 t2v_medr
NoiseEst | 20.3 49.0 63.3 6.0 | -
SupportSet | 28.4 60.0 72.9 4.0 | -
Frozen | 45.6 79.8 88.2 2.0 | -
TVTS | 45.9 76.7 85.4 2.0 | -
# TVTS, Table 7 | UCF-101 | fine-tuning | top1
BE | 87.1 | I3D
CMD | 85.7 | R(2+1)D-26
Vi2CLR | 89.1 | S3D
ASCNet | 90.8 | S3D-G
TEC | 88.2 | S3D-G
LSFD | 79.8 | C3D
MCN | 89.7 | R3D
TCLR | 84.3 | R(2+1)D-18
SVT | 93.7 | ViT-B
VideoMAE, trained by the authors | 94.2 | ViT-B, YT-Temporal
Frozen, official weights | 91.4 | ViT-B
MCQ, official weights | 92.9 | ViT-B
MILES, official weights | 92.1 | ViT-B
TVTS | 95.1 | ViT-B, YT-Temporal
# TVTS, Table 7 | HMDB-51 | fine-tuning | top1
BE | 56.2 | I3D
CMD | 54.0 | R(2+1)D-26
Vi2CLR | 55.7 | S3D
ASCNet | 60.5 | S3D-G
TEC | 63.5 | S3D-G
LSFD | 52.1 | C3D
MCN | 59.3 | R3D
TCLR | 54.2 | R(2+1)D-18
SVT | 67.2 | ViT-B
VideoMAE, trained by the authors | 68.4 | ViT-B, YT-Temporal
Frozen, official weights | 65.6 | ViT-B
MCQ, official weights | 65.1 | ViT-B
MILES, official weights | 66.8 | ViT-B
TVTS | 70.5 | ViT-B, YT-Temporal
# TVTS, Table 11 | SVO-Probes | precision above 0.2 | subject object verb
Frozen | 0.56 0.61 0.54 | -
TVTS | 0.59 0.65 0.59 | YT-Temporal
# TVTS, Table 11 | SVO-Probes | precision above 0.25 | subject object verb
Frozen | 0.58 0.66 0.56 | -
TVTS | 0.64 0.70 0.62 | YT-Temporal
# TVTS, Table 11 | SVO-Probes | precision above 0.3 | subject object verb
Frozen | 0.62 0.72 0.58 | -
TVTS | 0.68 0.76 0.63 | YT-Temporal
# TVTS, Table 12 | SSV2 | fine-tuning | top1
MERLOT's contrast alone | 66.2 | YT-Temporal
MERLOT's contrast and sorting | 67.1 | YT-Temporal
# TVTS, Table 13 | YT-Temporal | sorting | exact
guessing | 0.4 | -
transcripts alone | 0.5 | YT-Temporal
TVTS | 21.5 | YT-Temporal
# TVTSv2, its README | MSR-VTT | zero-shot text retrieval | t2v_r1 t2v_r5 t2v_r10 t2v_medr
Frozen | 18.7 39.5 51.6 10 | -
MCQ | 26.0 46.4 56.4 7 | -
CLIP B/32 | 30.6 54.4 64.3 4 | -
MCQ from CLIP B/32 | 33.2 58.0 68.6 4 | -
TVTSv2 B/32 | 34.5 58.5 67.7 3.5 | -
CLIP B/16 | 31.8 53.9 64.5 4 | -
TVTSv2 B/16 | 35.9 61.2 71.3 3 | -
TVTSv2 H/14 | 38.2 62.4 73.2 3 | -
# TVTSv2, its README | DiDeMo | zero-shot text retrieval | t2v_r1 t2v_r5 t2v_r10 t2v_medr
Frozen | 21.1 46.0 56.2 7 | -
MCQ | 25.6 50.6 61.1 5 | -
CLIP B/32 | 24.7 49.3 60.9 6 | -
TVTSv2 B/32 | 31.2 56.9 68.3 4 | -
CLIP B/16 | 27.7 51.0 62.5 5 | -
TVTSv2 B/16 | 33.4 60.1 70.6 3 | -
TVTSv2 H/14 | 34.6 61.9 71.5 3 | -
# TVTSv2, its README | LSMDC | zero-shot text retrieval | t2v_r1 t2v_r5 t2v_r10 t2v_medr
Frozen | 9.3 22.0 30.1 51 | -
MCQ | 12.2 25.9 32.2 42 | -
CLIP B/32 | 13.6 27.9 35.5 32 | -
MCQ from CLIP B/32 | 15.5 30.7 38.7 22 | -
TVTSv2 B/32 | 16.1 30.6 38.7 25 | -
CLIP B/16 | 15.2 29.7 37.6 25 | -
TVTSv2 B/16 | 16.9 31.5 38.2 22 | -
TVTSv2 H/14 | 17.3 32.5 41.4 20 | -
# TVTSv2, its README | HMDB-51 | linear probe | top1
SVT | 57.8 | -
VideoMAE-B | 30.9 | -
CLIP B/16 | 62.8 | -
Frozen | 57.8 | -
MCQ | 60.7 | -
MILES | 60.0 | -
TVTS | 60.1 | -
TVTSv2 B/16 | 64.7 | -
TVTSv2 H/14 | 65.7 | -
# TVTSv2, its README | HMDB-51 | zero-shot recognition | top1
CLIP B/16 | 43.2 | -
TVTSv2 B/16 | 50.4 | -
TVTSv2 H/14 | 52.1 | -
# TVTSv2, its README | UCF-101 | linear probe | top1
SVT | 90.8 | -
VideoMAE-B | 52.7 | -
CLIP B/16 | 87.6 | -
Frozen | 88.7 | -
MCQ | 89.2 | -
MILES | 89.6 | -
TVTS | 87.6 | -
TVTSv2 B/16 | 90.0 | -
TVTSv2 H/14 | 91.8 | -
# TVTSv2, its README | UCF-101 | zero-shot recognition | top1
CLIP B/16 | 68.9 | -
TVTSv2 B/16 | 69.8 | -
TVTSv2 H/14 | 78.0 | -
# TVTSv2, its README | Kinetics-400 | linear probe | top1
SVT | 68.1 | -
VideoMAE-B | 20.4 | -
CLIP B/16 | 66.9 | -
Frozen | 62.9 | -
MCQ | 65.6 | -
MILES | 64.0 | -
TVTS | 60.8 | -
TVTSv2 B/16 | 70.1 | -
TVTSv2 H/14 | 73.1 | -
# TVTSv2, its README | Kinetics-400 | zero-shot recognition | top1
CLIP B/16 | 48.0 | -
TVTSv2 B/16 | 54.3 | -
TVTSv2 H/14 | 59.6 | -
"""


class Quote(NamedTuple):
  source: str
  dataset: str
  task: str
  metrics: dict[str, str]  # In words where a training has failed.
  method: str
  trained_on: str


def read() -> list[Quote]:
  quotes = []
  for row in QUOTED.strip().splitlines():
    if row.startswith('# '):
      source, dataset, task, metrics = row.removeprefix('# ').split(' | ')
      continue
    method, values, trained_on = row.split(' | ')
    numbers = dict(zip(metrics.split(), values.split(), strict=True))
    quotes.append(Quote(source, dataset, task, numbers, method, trained_on))
  return quotes


def keys() -> list[str]:
  """What an evaluator's `quoted` may name: 'SSV2, linear probe'."""
  return list(dict.fromkeys(f'{quote.dataset}, {quote.task}' for quote in read()))


def beside(key: str) -> list[Quote]:
  return [quote for quote in read() if f'{quote.dataset}, {quote.task}' == key]


def lines(key: str) -> list[str]:
  """For a terminal."""
  rows = [(quote.method, ' '.join(quote.metrics.values()), quote) for quote in beside(key)]
  names = ' '.join(rows[0][2].metrics)
  wide, number = (max(len(row[i]) for row in rows) for i in (0, 1))
  told = [f'  {method:<{wide}}  {values:>{number}}  {q.trained_on} ({q.source})' for method, values, q in rows]
  return [f'  quoted and not run here, {key}, {names}:', *told]
