"""TVTSv2's pre-training: from CLIP, on clips of YT-Temporal that are sorted and captioned clips of WebVid by turns.

  python -m tvts_jax.main --config=configs/pretrain_v2.py --workdir=gs://bucket/run

Needs
  shards      data/yttemporal and data/webvid, made with: python -m data.build YOUR_VIDEOS --out data/yttemporal
              (data/webvid with --caption-frames 12)
  a CLIP      weights/ViT-B-32.pt or ViT-B-16.pt of OpenAI, or for H/14 an open_clip folder weights/ViT-H-14
  tokenizer   weights/clip-vit-base-patch16 (any folder of transformers with CLIP's)

12 frames, of which every one shows the same places: none are masked for B/32, half for B/16, 7 of 10 for H/14. What
CLIP does not know learns with the rate of the config, what it knows with a thousandth of it, and three quarters of the
text encoder stay as they are. An epoch ends with the longer source; every 21st step is logged, so both sources show.

The authors' own has four faults, which reference=True restores: an attention over time that starts where it cannot
learn to attend, positions in time that learn with a thousandth of the rate, frames scaled by the nearest pixel, and
statistics of ImageNet on pixels for weights that expect CLIP's.

Variations: size (B/32, B/16, H/14), yttemporal, webvid, weights (folders), batch (of each source), epochs, reference.
"""

from tvts_jax.config import base, choose, parse_arg

CLIP_B = dict(width=768, depth=12, heads=12, activation='quick_gelu', sorts='tokens')
SIZES = {
  'B/32': dict(video=CLIP_B | {'patch': 32}, masked=0.0),
  'B/16': dict(video=CLIP_B | {'patch': 16}, masked=0.5),
  'H/14': dict(
    video=dict(width=1280, depth=32, heads=16, patch=14, activation='gelu', sorts='bare'),
    text=dict(dim=1024, hidden_dim=4096, n_layers=24, n_heads=16, activation='gelu'),
    masked=0.7,
    common=1024,
  ),
}
SLOW = 1e-3  # Times the learning rate of what is new.


def get_config(arg=''):
  given = dict(yttemporal='data/yttemporal', webvid='data/webvid', weights='weights')
  arg = parse_arg(arg, size='B/16', **given, batch=960, epochs=10.0, reference=False)
  size = choose(arg, 'size', SIZES)
  config = base()
  video = size['video'] | dict(frames=12, tubelet=1, pre_norm=True, patch_bias=False, eps=1e-5)
  video |= dict(time_start='published') if arg.reference else dict(statistics='clip')
  text = dict(dim=512, hidden_dim=2048, n_layers=12, n_heads=8) | size.get('text', {})
  config.model.update(encoder='divided', text_encoder='clip', projection='clip', common=size.get('common', 512))
  del config.model.video, config.model.text
  config.model.video, config.model.text = video, text

  config.input.update(mask='tube', mask_ratio=size['masked'], resize=268, max_tokens=77, batch=arg.batch)
  config.input.update(tokenizer=f'{arg.weights}/clip-vit-base-patch16', mix='alternate')
  config.input.resample = 'nearest' if arg.reference else 'linear'
  config.input.sources = ({'folder': arg.yttemporal}, {'folder': arg.webvid, 'transcripts': 1})

  frozen = text['n_layers'] * 3 // 4
  layers = (0.0,) * frozen + (SLOW,) * (text['n_layers'] - frozen)
  config.optim.groups = (
    ('^video/blocks/time_', {'lr': 1.0}),
    *((('^video/time_position$', {'lr': 1.0}),) if not arg.reference else ()),
    ('^text/blocks/', {'lr': layers}),
    ('^(video|text)', {'lr': SLOW}),
  )
  config.optim.update(name='reference_adamw', lr=1e-4, eps=1e-6, weight_decay=0.05, no_decay=r'(bias|scale)$')
  config.optim.schedule = 'step'
  config.epochs = arg.epochs
  clip = f'{arg.weights}/ViT-{arg.size.replace("/", "-")}' + ('.pt' if arg.size != 'H/14' else '')
  config.init.update(video=clip, text=clip)
  config.evals = {'sorting': {'every_steps': 5000, 'batch': 256, 'max_clips': 16_384, 'folder': arg.yttemporal}}
  config.log_every = 21
  return config
