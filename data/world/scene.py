"""One clip of the narrated world, as a pure function of (seed, split, index): what is said and what is shown.

Made so that a transcript can be put in its place by what is seen, and by nothing else:

* Events and utterances are exchangeable: no word, pause or word count depends on the place of an event,
  and an utterance ends before the next event may be heard. Fillers such as "first" and "finally" fall
  anywhere. So text alone carries no order.
* The world is a torus and each place, angle and size is drawn uniformly: in one frame, left looks like
  right and growing like shrinking. So motion must be seen in several frames.

Clips are of three types. In `same_actor` one actor does four motions and is mostly called "it": only motion
sorts them. In `same_motion` four colours do one motion, which gives a contrastive loss a clean signal of
motion. In `mixed` both vary. Two kinds of probe clips go with them: `motion` (one motion in all 12 s) and
`order` (A for 6 s, then B: each pair of motions in both orders, so a bag of motions is at chance).

WORLDS are variants that a question needs, such as one whose texts do carry order. What a variant does not touch is
the same as in the plain world, word for word and pixel for pixel.
"""

import dataclasses

import numpy as np

from data.transcripts.formats import Word
from tvts_jax.shards.rng import generator

SIZE, FPS, SLOTS, SLOT_S = 64, 3, 4, 3.0
DURATION_MS = int(SLOTS * SLOT_S * 1000)

COLOURS = {
  'red': (235, 45, 40),
  'green': (50, 200, 60),
  'blue': (60, 90, 250),
  'yellow': (240, 220, 50),
  'pink': (245, 80, 215),
  'white': (240, 240, 240),
}
# Signed distances (negative inside, radius 1) of arrays x, y. None is round: each shows that it spins.
SHAPES = {
  'square': lambda x, y: np.maximum(abs(x), abs(y)) - 0.8,
  'triangle': lambda x, y: np.maximum(-y, 0.866 * abs(x) + 0.5 * y) - 0.55,
  'cross': lambda x, y: np.maximum(np.maximum(abs(x), abs(y)) - 1, np.minimum(abs(x), abs(y)) - 0.33),
  'moon': lambda x, y: np.maximum(np.hypot(x, y) - 1, 0.75 - np.hypot(x - 0.6, y)),
}
MOTIONS = {  # What the narrator calls them.
  'left': ('moving left', 'drifting leftward', 'heading west'),
  'right': ('moving right', 'drifting rightward', 'heading east'),
  'up': ('moving up', 'drifting upward', 'heading north'),
  'down': ('moving down', 'drifting downward', 'heading south'),
  'grow': ('getting bigger', 'growing larger', 'gaining size'),
  'shrink': ('getting smaller', 'turning tiny', 'losing size'),
  'spin': ('spinning round', 'turning around', 'rotating steadily'),
  'blink': ('blinking brightly', 'flashing quickly', 'flickering fast'),
}
VELOCITY = {'left': (-1, 0), 'right': (1, 0), 'up': (0, -1), 'down': (0, 1)}
PAIRS = (('left', 'up'), ('right', 'grow'), ('down', 'spin'), ('shrink', 'blink'))  # Of `order` clips.
FILLERS = ('first', 'then', 'okay', 'now', 'so', 'and', 'well', 'um', 'next', 'finally')
VOCABULARY = sorted(
  {'the', 'it', 'is', 'one', *COLOURS, *SHAPES, *FILLERS}
  | {word for phrases in MOTIONS.values() for phrase in phrases for word in phrase.split()}
)
TYPES = {'same_actor': 0.40, 'same_motion': 0.36, 'mixed': 0.24}  # Shares of narrated clips.
SPLITS = {  # Name → (kind of clip, default count); the place in this table keys the randomness.
  'train': ('narrated', 3072),
  'val': ('narrated', 512),
  'motion_train': ('motion', 1024),
  'motion_test': ('motion', 512),
  'order_train': ('order', 1024),
  'order_test': ('order', 512),
}

CUE_STREAM, STILL = 1000, 2000  # Streams of randomness that the plain world leaves alone.
FILLER_RATE, DROP_RATE, REPLACE_RATE = 0.15, 0.025, 0.025  # A word.
MIN_WORDS, MAX_WORDS = 3, 9  # An utterance, after the above.


CUES = ('first', 'then', 'next', 'finally')  # Said at the four places of a clip, where words tell the place.


@dataclasses.dataclass(frozen=True)
class World:
  """What differs from the plain world."""

  cues: float = 0.0  # Share of utterances that tell their place in the clip.
  # 'word': one of CUES at the head; 'position': where in the sentence any filler stands, from head to end.
  cue_by: str = 'word'
  still: int = 0  # Actors that stand still behind the others, the same in all frames of a clip.
  pace: float = 1.0  # Of all motions but blinking.


WORLDS = {
  'plain': World(),
  'cues': World(cues=0.75),
  'hidden_cues': World(cues=0.75, cue_by='position'),
  'clutter': World(still=1),
  'slow': World(pace=0.5),
}


@dataclasses.dataclass(frozen=True)
class Event:
  colour: str
  shape: str
  motion: str
  start_ms: int
  end_ms: int


@dataclasses.dataclass(frozen=True)
class Script:
  """All that is said and shown in a clip but its pixels. `label` is a probe's class, else ''."""

  type: str
  label: str
  events: tuple[Event, ...]
  narration: tuple[str, ...]  # What is heard in each of the SLOTS.
  words: tuple[Word, ...]


def render(
  seed: int, index: int, split: str = 'train', *, size: int = SIZE, fps: int = FPS, world: World = WORLDS['plain']
):
  """One clip → (frames uint8 [T, size, size, 3], words tuple[Word], labels dict). T = 12 s x fps."""
  script = write_script(seed, index, split, world)
  rngs = (clip_rng(seed, index, split, stream=stream) for stream in (1, STILL))
  frames = paint(script, *rngs, size=size, fps=fps, world=world)
  return frames, script.words, labels_of(script)


def labels_of(script: Script) -> dict:
  return {name: value for name, value in dataclasses.asdict(script).items() if name != 'words'}


def pairs_of(scripts: dict[str, Script]) -> dict[str, list[dict]]:
  """For clips of one event, by id: a sentence that is true of each, with a clip in which one part of it is not.

  {'sentence', 'negative': id of the other clip, 'negated': ['subj'] (another actor does it) or ['verb'] (the same actor
  does something else)}: tests of what a model has understood, as SVO-Probes has them for images.
  """
  first = {id_: script.events[0] for id_, script in scripts.items()}
  actor, motion = (lambda e: (e.colour, e.shape)), (lambda e: e.motion)
  pairs = {id_: [] for id_ in first}
  for part, same, other in (('subj', motion, actor), ('verb', actor, motion)):
    alike = {}
    for id_, event in first.items():
      alike.setdefault(same(event), []).append(id_)
    for ids in alike.values():
      for nth, id_ in enumerate(ids):
        event = first[id_]
        # The next one, so that no clip is the wrong one of many.
        negative = next((n for n in ids[nth:] + ids[:nth] if other(first[n]) != other(event)), None)
        if negative is not None:
          sentence = f'the {event.colour} {event.shape} is {MOTIONS[event.motion][0]}'
          pairs[id_].append({'sentence': sentence, 'negative': negative, 'negated': [part]})
  return pairs


def write_script(seed: int, index: int, split: str = 'train', world: World = WORLDS['plain']) -> Script:
  if split not in SPLITS:
    raise ValueError(f'no split {split!r} in the world; known: {", ".join(SPLITS)}')
  rng = clip_rng(seed, index, split, stream=0)
  kind, _ = SPLITS[split]
  if kind == 'narrated':
    type_ = pick(rng, list(TYPES), p=list(TYPES.values()))
    motions = distinct(rng, MOTIONS, SLOTS) if type_ != 'same_motion' else [pick(rng, MOTIONS)] * SLOTS
    label = ''
  elif kind == 'motion':
    type_, label = 'motion', list(MOTIONS)[index % len(MOTIONS)]
    motions = [label]
  else:
    motions = list(PAIRS[index // 2 % len(PAIRS)])[:: 1 if index % 2 else -1]
    type_, label = 'order', ' then '.join(motions)
  if type_ in ('same_motion', 'mixed'):
    # Clips of one motion all have the same four colours, so that only the motion tells them apart.
    colours = list(COLOURS)[:SLOTS] if type_ == 'same_motion' else COLOURS
    actors = [(colour, pick(rng, SHAPES)) for colour in distinct(rng, colours, SLOTS)]
  else:
    actors = [(pick(rng, COLOURS), pick(rng, SHAPES))] * len(motions)

  inner = np.arange(1, len(motions)) * DURATION_MS / len(motions) + rng.uniform(-250, 250, len(motions) - 1)
  bounds = [0, *(int(ms) for ms in inner.round()), DURATION_MS]
  events = [Event(*actor, motion, *bounds[i : i + 2]) for i, (actor, motion) in enumerate(zip(actors, motions))]

  by_name = 0.3 if type_ not in ('same_motion', 'mixed') else 1.0
  narration = [utterance(rng, events[k * len(events) // SLOTS], by_name) for k in range(SLOTS)]
  cue_rng = clip_rng(seed, index, split, stream=CUE_STREAM)
  narration = [cued(cue_rng, texts, place, world) for place, texts in enumerate(narration)]
  words = [word for k, texts in enumerate(narration) for word in timed(rng, texts, k * SLOT_S * 1000)]
  return Script(type_, label, tuple(events), tuple(' '.join(texts) for texts in narration), tuple(words))


def clip_rng(seed: int, index: int, split: str, *, stream: int) -> np.random.Generator:
  return generator(seed, example=index, stream=1000 + 2 * list(SPLITS).index(split) + stream)


def pick(rng, names, p=None) -> str:
  return list(names)[rng.choice(len(names), p=p)]


def distinct(rng, names, count: int) -> list[str]:
  return [list(names)[i] for i in rng.permutation(len(names))[:count]]


def utterance(rng, event: Event, by_name: float) -> list[str]:
  """The words for an event, as a speech recogniser hears them: with fillers, losses and wrong words."""
  subject = ['it']
  if rng.random() < by_name:
    subject = ['the', event.colour, event.shape if rng.random() < 0.5 else 'one']
  heard = []
  for word in [*subject, 'is', *pick(rng, MOTIONS[event.motion]).split()]:
    if rng.random() < FILLER_RATE:
      heard.append(pick(rng, FILLERS))
    fate = rng.random()
    if fate >= DROP_RATE:
      heard.append(word if fate >= DROP_RATE + REPLACE_RATE else pick(rng, VOCABULARY))
  if not MIN_WORDS <= len(heard) <= MAX_WORDS:
    return utterance(rng, event, by_name)
  return heard


def cued(rng, texts: list[str], place: int, world: World) -> list[str]:
  """The utterance, most often with one word more, where there is room, that tells its place among SLOTS."""
  if rng.random() >= world.cues or len(texts) == MAX_WORDS:
    return texts
  at = 0 if world.cue_by == 'word' else round(place * len(texts) / (SLOTS - 1))
  return [*texts[:at], CUES[place] if world.cue_by == 'word' else pick(rng, FILLERS), *texts[at:]]


def timed(rng, texts: list[str], slot_ms: float) -> list[Word]:
  """Words around the middle of a slot, so that a window of 2 s at any start hears nearly all of them.

  At most 9 words of 0.18 s, their middle at 1.25 to 1.75 s: an utterance lies within 0.44 and 2.56 s of its
  slot, and no window of another slot reaches it. Times are whole 10 ms, which all transcript formats hold.
  """
  steps = rng.uniform(0.14, 0.18, len(texts)).round(2)
  first = round(SLOT_S / 2 + rng.uniform(-0.25, 0.25) - steps.sum() / 2, 2)
  edges = [round(slot_ms + 1000 * s) for s in np.concatenate([[first], first + steps.cumsum()])]
  return [Word(text, start, end) for text, start, end in zip(texts, edges, edges[1:])]


def paint(script: Script, rng, still_rng, *, size: int, fps: int, world: World) -> np.ndarray:
  """-> frames uint8 [T, size, size, 3], frame t at t / fps seconds."""
  if size < 16 or size % 4:
    raise ValueError(f'frames of {size} pixels cannot be painted; give a multiple of 4, at least 16')
  times = np.arange(round(DURATION_MS / 1000 * fps)) / fps
  texture_HxWx3 = texture(rng, size)
  for _ in range(world.still):
    event = Event(pick(still_rng, COLOURS), pick(still_rng, SHAPES), 'still', 0, DURATION_MS)
    texture_HxWx3 = over(still_rng, event, times[:1], texture_HxWx3, world.pace)[0]
  frames = np.empty((len(times), size, size, 3), np.float32)
  for event in script.events:
    shown = (times * 1000 >= event.start_ms) & (times * 1000 < event.end_ms)
    frames[shown] = over(rng, event, times[shown], texture_HxWx3, world.pace)
  frames += rng.integers(-4, 5, (len(times), size, size, 1), np.int8)  # Sensor noise, in brightness only.
  return np.clip(frames, 0, 255, out=frames).astype(np.uint8)


def texture(rng, size: int) -> np.ndarray:
  """[size, size, 3]: dark and of low frequency, so that it hides no actor: a 5x5 grid, interpolated."""
  grid = rng.uniform(15, 55, (5, 5, 1)) + rng.uniform(-10, 10, (5, 5, 3))
  at = np.linspace(0, 4, size)
  weights = np.maximum(0, 1 - abs(at[:, None] - np.arange(5)))
  return (weights @ grid.transpose(2, 0, 1) @ weights.T).transpose(1, 2, 0).astype(np.float32)


def over(rng, event: Event, times: np.ndarray, under_HxWx3: np.ndarray, pace: float) -> np.ndarray:
  """float32 [T, H, W, 3]: a picture with the flock of an event before it."""
  alpha = np.tile(flock_tile(rng, event, times, len(under_HxWx3) // 2, pace), (1, 2, 2))[..., None]
  colour = np.array(COLOURS[event.colour], np.float32) * np.float32(rng.uniform(0.85, 1))
  return under_HxWx3 + alpha * (colour - under_HxWx3)


def flock_tile(rng, event: Event, times: np.ndarray, side: int, pace: float) -> np.ndarray:
  """Opacity float32 [T, side, side] of one actor on a torus with sides 1.

  Place, angle and size are drawn alike for all motions and only one of them changes with time: what a single
  frame shows does not depend on the motion (but where a blinking actor is out).
  """
  (x, y), phase, turn, sign = rng.random(2), rng.random(), rng.random(), rng.choice([-1, 1])
  cycles = times / 3.5 * pace * rng.uniform(0.85, 1.15)  # About one torus, or one growth, in an event.
  moved = np.array(VELOCITY.get(event.motion, (0, 0)))[:, None] * cycles
  grown = {'grow': cycles, 'shrink': -cycles}.get(event.motion, 0 * cycles)
  turned = sign * cycles * 0.6 if event.motion == 'spin' else 0 * cycles
  radius = (0.18 + 0.24 * ((phase + grown) % 1))[:, None, None]
  angle = (2 * np.pi * (turn + turned))[:, None, None]

  grid = (np.arange(side) + 0.5) / side
  dx = ((grid[None, None, :] - x - moved[0][:, None, None] + 0.5) % 1 - 0.5) / radius
  dy = ((grid[None, :, None] - y - moved[1][:, None, None] + 0.5) % 1 - 0.5) / radius
  distance = SHAPES[event.shape](dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle))
  opacity = np.clip(0.5 - distance * radius * side, 0, 1).astype(np.float32)
  if event.motion == 'blink':
    opacity[(phase + times) % 1 > 0.6] = 0
  return opacity
