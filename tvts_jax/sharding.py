"""Where arrays live: a mesh of three axes, and ordered rules from parameter paths to places on it.

Axes: 'data' copies the parameters and splits the batch; 'fsdp' splits both; 'tensor' splits heads and MLPs.
"""

import re
from collections.abc import Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import NamedSharding, PartitionSpec

from tvts_jax.errors import UserError

AXES = ('data', 'fsdp', 'tensor')
BATCH = PartitionSpec(('data', 'fsdp'))

# The first rule whose regex is found in a path decides. The leading axis of blocks counts layers and is never split.
RULES = (
  (r'attn/[qkv]/kernel$', (None, 'fsdp', 'tensor', None)),
  (r'attn/[qkv]/bias$', (None, 'tensor', None)),
  (r'attn/out/kernel$', (None, 'tensor', None, 'fsdp')),
  (r'mlp/up/kernel$', (None, 'fsdp', 'tensor')),
  (r'mlp/up/bias$', (None, 'tensor')),
  (r'mlp/down/kernel$', (None, 'tensor', 'fsdp')),
  (r'^text/(word|position)$|embed/kernel$', (None, 'fsdp')),
  (r'', ()),  # Everything else is small: a copy everywhere.
)


def find_devices() -> list[jax.Device]:
  """All of them. UserError where this machine has none of the kind that is asked for."""
  try:
    return jax.devices()
  except (RuntimeError, AssertionError) as error:  # The latter where no package knows that kind.
    asked, told = jax.config.jax_platforms or 'all it knows', str(error).partition('\n')[0]
    raise UserError(
      f'JAX finds no device of the platforms asked for, {asked}{f" ({told})" if told else ""}; install what they '
      "need, such as pip install -e '.[gpu]', or unset JAX_PLATFORMS to take what is here"
    ) from error


def make_mesh(sizes: Mapping[str, int], devices: Sequence | None = None) -> jax.sharding.Mesh:
  """A mesh over all devices; the one axis of size -1 takes those that the others leave."""
  devices = find_devices() if devices is None else devices
  if unknown := sorted(set(sizes) - set(AXES)):
    raise UserError(f'mesh has no axis {unknown[0]!r}; it has {", ".join(AXES)}')
  shape = [sizes.get(axis, 1) for axis in AXES]
  fixed = 1
  for size in shape:
    fixed *= size if size != -1 else 1
  if shape.count(-1) > 1 or len(devices) % fixed or (-1 not in shape and fixed != len(devices)):
    asked = ', '.join(f'{axis}={size}' for axis, size in zip(AXES, shape))
    raise UserError(
      f'a mesh of {asked} does not fit {len(devices)} devices; let the sizes multiply to that, or leave one at -1'
    )
  shape = [len(devices) // fixed if size == -1 else size for size in shape]
  return jax.sharding.Mesh(arrange(devices, shape), AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3)


def arrange(devices: Sequence, shape: Sequence[int]) -> np.ndarray:
  """Devices in the shape of a mesh, those near each other along its last axes. Slices of TPUs, and boxes of GPUs, which
  JAX calls so, too, are apart along the first, where that has room for them."""
  slices = len({getattr(device, 'slice_index', 0) for device in devices})
  if slices == 1:
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
  if shape[0] % slices == 0:
    within, between = [shape[0] // slices, *shape[1:]], [slices, 1, 1]
    return mesh_utils.create_hybrid_device_mesh(within, between, devices, allow_split_physical_axes=True)
  return np.array(sorted(devices, key=lambda device: (device.slice_index, device.id))).reshape(shape)


def rows(batch: int, mesh: jax.sharding.Mesh) -> np.ndarray:
  """int64: the rows of a global batch that this process's devices hold, rising. A process that makes these gives `put`
  what belongs where it is put, in whatever order the mesh has devices. Two processes hold the same rows or others."""
  places = NamedSharding(mesh, BATCH).addressable_devices_indices_map((batch,)).values()
  return np.concatenate([np.arange(*bounds) for bounds in sorted({place[0].indices(batch) for place in places})])


def check_batch(batch: int, micro_batches: int, mesh: jax.sharding.Mesh, name: str = 'input.batch') -> None:
  ways = mesh.shape['data'] * mesh.shape['fsdp']
  if batch % (ways * micro_batches):
    times = f' times micro_batches={micro_batches}' if micro_batches > 1 else ''
    raise UserError(
      f'{name}={batch} is not a multiple of {ways * micro_batches}, the {ways} places of the mesh that split it{times}'
      '; change one of them'
    )


def path_name(path) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')


def first_match(rules: Sequence[tuple], names: Sequence[str], what: str) -> list:
  """The value of the first rule whose regex is found in each name, or None. Every rule must decide something."""
  matches = [next((i for i, rule in enumerate(rules) if re.search(rule[0], name)), None) for name in names]
  if unused := sorted(set(range(len(rules))) - set(matches)):
    raise UserError(
      f'{what} rule {rules[unused[0]][0]!r} decides nothing: no parameter matches it that an earlier rule left; '
      f'parameters are named like {names[0]}'
    )
  return [None if i is None else rules[i][1] for i in matches]


def layout(params, rules: Sequence[tuple], mesh: jax.sharding.Mesh):
  """A NamedSharding for each parameter; `params` may be shapes alone."""
  leaves, tree = jax.tree.flatten_with_path(params)
  names = [path_name(path) for path, _ in leaves]
  places = []
  for name, (_, leaf), axes in zip(names, leaves, first_match(rules, names, 'sharding')):
    if axes is None:
      raise UserError(f'no sharding rule matches {name}; add one, or end with (r"", ())')
    if len(axes) > leaf.ndim:
      raise UserError(f'the sharding rule for {name} names {len(axes)} axes, but it has the shape {leaf.shape}')
    for size, axis in zip(leaf.shape, axes):
      if axis is not None and size % mesh.shape[axis]:
        raise UserError(
          f'{name} of shape {leaf.shape} cannot be split {mesh.shape[axis]} ways along the {size}; '
          f'choose a mesh whose {axis!r} divides it, or another sharding rule'
        )
    places.append(NamedSharding(mesh, PartitionSpec(*axes)))
  return jax.tree.unflatten(tree, places)


def optimizer_layout(opt_state, params_layout, mesh: jax.sharding.Mesh):
  """Moments lie where their parameters lie, whose path theirs ends with; counters are copied everywhere."""
  places = {path_name(path): place for path, place in jax.tree.leaves_with_path(params_layout)}
  everywhere = NamedSharding(mesh, PartitionSpec())

  def place_of(path, leaf):
    del leaf
    ends = (path_name(path[i:]) for i in range(len(path)))
    return next((places[end] for end in ends if end in places), everywhere)

  return jax.tree.map_with_path(place_of, opt_state)


def state_layout(shapes, rules: Sequence[tuple], mesh: jax.sharding.Mesh):
  """Places for a whole train state (step.State), whose leaves may be shapes."""
  params = layout(shapes.params, rules, mesh)
  everywhere = NamedSharding(mesh, PartitionSpec())
  return shapes._replace(
    step=everywhere,
    params=params,
    opt_state=optimizer_layout(shapes.opt_state, params, mesh),
    ema=None if shapes.ema is None else params,
    spikes=jax.tree.map(lambda _: everywhere, shapes.spikes),
    centre=jax.tree.map(lambda _: everywhere, shapes.centre),
  )


def put(batch, mesh: jax.sharding.Mesh):
  """This process's `rows` of a batch → global arrays, split along the batch."""
  place = NamedSharding(mesh, BATCH)
  return {name: jax.make_array_from_process_local_data(place, value) for name, value in batch.items()}
