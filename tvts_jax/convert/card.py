"""What a reader of an exported folder needs to know: its README and the settings of its image processor."""

import json
import math
from collections.abc import Mapping

from tvts_jax.convert import names
from tvts_jax.input.settings import RESIZE
from tvts_jax.models.encoders.encoder import VideoConfig
from tvts_jax.models.tvts import PROJECTIONS, TVTSConfig
from tvts_jax.run import changes

BILINEAR = 2

CARD = """---
library_name: pytorch
tags:
- video
- text
- video-text-retrieval
- tvts
---

# A video and text model trained on the speech of videos (TVTS)

A video encoder and a text encoder with a common space, and a sorter that puts shuffled transcripts of a clip back in
order: the method of "Learning Transferable Spatiotemporal Representations from Natural Script Knowledge" (CVPR 2023).

## Use

`pip install torch safetensors transformers pillow`, then in this folder:

```python
from modeling_tvts import TVTS
from transformers import AutoImageProcessor{tokenizer_import}
model, images = TVTS.from_folder('.'), AutoImageProcessor.from_pretrained('.')
clip = images(frames, return_tensors='pt')['pixel_values']  # frames: {frames} RGB images of one clip
video = model.encode_video(clip)  # [1, {common}]
{text_use}
```

`modeling_tvts.py` is plain PyTorch and needs neither JAX nor `transformers`; only the preparation of frames and texts
above does. Frames are scaled to a short side of {short_side} pixels, cropped to the middle {image_size}×{image_size}, \
and brought to
zero mean and unit variance (`preprocessor_config.json`).

## Model

| | |
|---|---|
{model}

| part | parameters |
|---|---:|
{counts}

## Results

{metrics}

## Training

{run}

## What is known

{known}
"""

VIVIT_CARD = """---
library_name: transformers
tags:
- video
- tvts
---

# The video encoder of a TVTS model as a ViViT

```python
from transformers import VivitImageProcessor, VivitModel
model = VivitModel.from_pretrained('.', add_pooling_layer=False)
images = VivitImageProcessor.from_pretrained('.')
clip = images(frames, return_tensors='pt')['pixel_values']  # frames: {frames} RGB images of one clip
tokens = model(clip).last_hidden_state  # [1, {tokens}, {width}], [CLS] first
```

{parameters:,} parameters. The position of a tubelet is the sum of its learned place and its learned time. The model
has no pooling layer, no projection to the common space and no text encoder.
"""


FAMILY_CARD = """---
tags:
- video
- tvts
---

# A model trained with tvts_jax, in the layout of {title}

{parameters:,} parameters, for what reads that layout. Frames are prepared as `preprocessor_config.json` says. What the
layout has no place for stayed behind.
"""


def of_family(title: str, state: Mapping) -> str:
  return FAMILY_CARD.format(title=title, parameters=sum(math.prod(array.shape) for array in state.values()))


def preprocessor(video: VideoConfig) -> dict:
  """Settings of transformers' VivitImageProcessor."""
  return dict(
    image_processor_type='VivitImageProcessor',
    do_resize=True,
    size={'shortest_edge': round(video.image_size * RESIZE)},
    resample=BILINEAR,
    do_center_crop=True,
    crop_size={'height': video.image_size, 'width': video.image_size},
    do_rescale=True,
    rescale_factor=1 / 255,
    offset=False,
    do_normalize=True,
    image_mean=list(video.pixel_mean),
    image_std=list(video.pixel_std),
    num_frames=video.frames,
  )


def model_card(config: TVTSConfig, flat, *, tokenizer: bool, metrics: Mapping | None, run: Mapping | None) -> str:
  video, text = config.video, config.text
  common = config.space
  rows = {
    'video encoder': f'{config.encoder}, {video.depth} blocks of width {video.width} with {video.heads} heads',
    'clip': f'{video.frames} frames of {video.image_size}×{video.image_size} pixels',
    'tubelet': f'{video.tubelet} frames of {video.patch}×{video.patch} pixels',
    'text encoder': f'{text.TITLE}, {text.n_layers} blocks of width {text.dim} with {text.n_heads} heads',
    'longest text': f'{text.max_position_embeddings} of {text.vocab_size} word pieces',
    'common space': f'{common} values; {PROJECTIONS[config.projection]}',
    'sorter': f'{config.sort_depth} blocks, {config.transcripts} transcripts a clip',
    'type of the weights': config.param_dtype,
  }
  counts = {}
  for path, leaf in flat.items():
    part = path.split('/')[0]
    counts[part] = counts.get(part, 0) + math.prod(leaf.shape)
  counts['all'] = sum(counts.values())
  known = [
    'The weights here were read back after writing and are those of the model that was exported, bit for bit.',
    'Metrics are those given at export.' if metrics else 'How good these weights are was not recorded at export.',
    'Settings are those given at export.' if run else 'Data and length of training were not recorded at export.',
    'Neither bias nor fitness for any use was examined by the export. A licence for the weights was not given to it.',
  ]
  if changed := (run or {}).get('changes'):
    lines = '; '.join(changes.told(row) for row in changed)
    known.append(f'Settings changed on the way, and those above are the last: {lines}.')
  if not tokenizer:
    known.append('The tokenizer was not given at export: texts must be cut as they were in training.')
  numbers = {name: f'{x:.6g}' if isinstance(x, float) else x for name, x in names.flatten(metrics or {}).items()}
  return CARD.format(
    tokenizer_import=', AutoTokenizer' if tokenizer else '',
    frames=video.frames,
    common=common,
    text_use=TEXT_USE if tokenizer else TEXT_USE_WITHOUT,
    short_side=round(video.image_size * RESIZE),
    image_size=video.image_size,
    model=table(rows),
    counts=table({part: f'{count:,}' for part, count in counts.items()}),
    metrics=f'| metric | value |\n|---|---:|\n{table(numbers)}' if metrics else 'None recorded.',
    run=f'```json\n{json.dumps(run, indent=2, default=str)}\n```' if run else 'Not recorded.',
    known='\n'.join(f'- {line}' for line in known),
  )


TEXT_USE = """words = AutoTokenizer.from_pretrained('.')(['a sentence'], return_tensors='pt')
text = model.encode_text(words['input_ids'], words['attention_mask'])  # compare by cosine"""
TEXT_USE_WITHOUT = 'text = model.encode_text(input_ids, attention_mask)  # [1, L] word pieces each; compare by cosine'


def vivit(config: TVTSConfig, flat) -> str:
  video = config.video
  parameters = sum(math.prod(leaf.shape) for path, leaf in flat.items() if path.startswith('video/'))
  tokens = 1 + video.slots * video.places
  return VIVIT_CARD.format(frames=video.frames, tokens=tokens, width=video.width, parameters=parameters)


def table(rows: Mapping) -> str:
  return '\n'.join(f'| {name} | {value} |' for name, value in rows.items())
