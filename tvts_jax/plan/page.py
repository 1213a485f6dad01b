"""A bill for people: as lines of text, as a row beside others, as a page."""

from collections.abc import Iterator

from tvts_jax.human import duration, number, percent, size
from tvts_jax.pages import charts, measurements
from tvts_jax.plan.bill import Bill

LOOKS = ('own', 'other', 'calm', 'blank', 'plain', 'bad')  # Of kinds of memory and time on the page.


def lines(bill: Bill) -> Iterator[str]:
  """The bill for people."""
  mesh = ' x '.join(f'{axis} {ways}' for axis, ways in bill.mesh.items() if ways > 1) or 'one device'
  chips = f'{bill.devices} chip{"s" if bill.devices > 1 else ""} as {mesh}'
  yield f'{bill.topology}: {chips}; batch {bill.batch}, remat {bill.remat}'
  how = "the chip's own compiler" if bill.compiled else "an estimate, as the chip's own compiler is not installed"
  if bill.why_not:
    yield f'  DOES NOT FIT: {bill.why_not}, says {how}'
    yield '  ' + '; '.join(f'{name} {size(value)}' for name, value in bill.memory.items()) + ' (estimated)'
    return
  verdict = 'fits' if bill.fits else 'DOES NOT FIT'
  yield f'  {verdict}: {size(bill.peak_bytes)} of {size(bill.has_bytes)} a chip, by {how}'
  yield '    ' + '; '.join(f'{name} {size(value)}' for name, value in bill.memory.items())
  step_flops = bill.clip_flops * bill.batch
  yield f'  arithmetic: {number(bill.clip_flops / 1e9)} GFLOP a clip, {number(step_flops / 1e12)} TFLOP a step'
  moved = '; '.join(f'{name} {size(value)}' for name, value in sorted(bill.moved.items())) or 'nothing'
  yield f'  sent by a chip in a step: {moved}'
  step = bill.floor[bill.bound]
  parts = ', '.join(f'{name} {number(1e3 * value)} ms' for name, value in bill.floor.items())
  yield f'  floor of a step: {number(1e3 * step)} ms, bound by {bill.bound} ({parts})'
  if bill.cycles:
    left_out = f', without {bill.uncounted} calls of kernels that it has no estimate of' if bill.uncounted else ''
    yield f'  the compiler estimates {bill.cycles / 1e6:.0f} million cycles a step{left_out}'
  if bill.modelled:
    yield (
      f"  attention calls cuDNN {bill.fused} times; copies and transposes write {size(bill.copied)}; by XLA's model of "
      f'the chip all but cuDNN takes {number(1e3 * bill.modelled)} ms, which ranks programs and predicts no step'
    )
  host = bill.host
  share = host['cores'] / host['cores_there']
  yield (
    f'  each host at that rate: {number(host["clips_per_s"])} clips/s, {host["cores"]:.1f} cores to decode them '
    f'({percent(share)} of its {host["cores_there"]:.0f}), {percent(host["process"])} of the time of the process that '
    f'takes them, {size(host["read_bytes_per_s"])}/s read (its network: {size(host["network_there"])}/s), '
    f'{size(host["to_device_bytes_per_s"])}/s to its chips'
  )
  run = bill.run
  whole = (
    f'; all {run["steps"]:,.0f} steps: {duration(3600 * run["hours"])}, {run["chip_hours"]:,.0f} chip-hours'
    if 'steps' in run
    else ''
  )
  yield f'  at the floor: {number(run["chip_hours_per_million_clips"])} chip-hours for a million clips{whole}'


def table(bills: list[tuple[Bill, str]]) -> list[tuple[str, ...]]:
  """Its head and its rows: each bill with the flags that it takes to fit."""
  heads = (
    *('topology', 'fits', 'GiB a chip', 'sent MiB', 'floor ms', 'bound by'),
    *('efficiency', 'clips/s', 'M cycles', 'chip-h / M clips', 'with'),
  )
  rows = [heads]
  for bill, words in bills:
    if not bill.floor:
      rows.append((bill.topology, 'no', bill.why_not, *[''] * (len(heads) - 3)))
      continue
    step, gib = bill.floor[bill.bound], 2**30
    rows.append(
      (
        bill.topology,
        'yes' if bill.fits else 'no',
        f'{"" if bill.compiled else "~"}{bill.peak_bytes / gib:.1f} of {bill.has_bytes / gib:.0f}',
        f'{sum(bill.moved.values()) / 2**20:,.0f}',
        number(1e3 * step),
        bill.bound,
        percent(bill.efficiency),
        f'{bill.batch / step:,.0f}',
        f'{bill.cycles / 1e6:.0f}' if bill.cycles else '-',
        number(bill.run['chip_hours_per_million_clips']),
        words,
      )
    )
  return rows


def parts(bills: list[tuple[Bill, str]]) -> list[str]:
  """Of the page."""
  head, *rows = table(bills)
  fill = {bill.topology: (bill.peak_bytes / bill.has_bytes, 'own' if bill.fits else 'bad') for bill, _ in bills}
  spent = {bill.topology: (bill.efficiency, 'calm') for bill, _ in bills if bill.floor}
  cards = [
    measurements.card('memory', 'The share of what a chip has, full at the right end.', charts.bars(fill, None)),
    measurements.card('efficiency', 'The share of arithmetic where nothing runs beside it.', charts.bars(spent, None)),
    measurements.table(head, rows),
  ]
  for bill, words in bills:
    colour = lambda amounts: {name: (amount, look) for (name, amount), look in zip(amounts.items(), LOOKS)}
    drawn = charts.split(colour(bill.memory), size)
    if bill.floor:
      drawn += charts.split(colour(bill.floor), lambda seconds: f'{number(1e3 * seconds)} ms')
    says = 'What memory holds, and what would take the time of a step.'
    cards.append(measurements.card(f'{bill.topology} {words}', says, drawn))
  return cards
