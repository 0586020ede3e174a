"""Devices: the mesh, where arrays live, and one step body in two modes.

The body is written for a global batch. Under `jit` it sees the global batch and
the compiler splits the work; under `shard_map` it sees one device's rows, gets
`axis_name`, and sums over devices itself. Both agree to rounding, because every
mean in the body is a sum over the global batch divided by another.

Every device holds the state whole, or, under `jit` with `fsdp`, its share of
each large array (FSDP; Rajbhandari et al., "ZeRO: memory optimizations toward
training trillion parameter models", 2020, arXiv:1910.02054, stage 3).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kdcl_jax.errors import UserError

DATA_AXIS = "data"


@dataclasses.dataclass(frozen=True)
class Parallel:
  """A mesh and a mode.

  Attributes:
    mesh: one axis, 'data', over the devices in use.
    mode: 'jit' or 'shard_map'.
    fsdp: arrays of a state or of variables with at least so many elements are
      split over the devices; 0 for none.
  """

  mesh: Mesh
  mode: str
  fsdp: int = 0

  @property
  def axis_name(self) -> str | None:
    """The axis over which a body sums, None where it sees everything."""
    return DATA_AXIS if self.mode == "shard_map" else None

  @property
  def devices(self) -> int:
    """Number of devices in use."""
    return self.mesh.size

  @property
  def replicated(self) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(self.mesh, PartitionSpec())

  def sharding(self, leaf: Any) -> NamedSharding:
    """Where an array of a state or of variables lives.

    Whole on every device, or, where `fsdp` asks for it, split along its longest
    axis that the devices divide.
    """
    shape = np.shape(leaf)
    axes = [axis for axis, n in enumerate(shape) if n % self.devices == 0]
    if not self.fsdp or np.prod(shape) < self.fsdp or not axes:
      return self.replicated
    axis = max(axes, key=lambda axis: shape[axis])
    return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, DATA_AXIS))

  def put(self, tree: Any) -> Any:
    """A tree as device arrays (copies, safe to donate); see `sharding`.

    On several hosts each has the whole of every array that is not on the
    devices yet, and puts there what is its own.
    """

    def put(leaf: Any) -> jax.Array:
      place = self.sharding(leaf)
      if jax.process_count() == 1:
        return jax.device_put(leaf, place, may_alias=False)
      if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return jax.jit(jnp.copy, out_shardings=place)(leaf)
      whole = np.asarray(leaf)
      return jax.make_array_from_callback(
        whole.shape, place, lambda part: whole[part]
      )

    return jax.tree.map(put, tree)

  def settle(self, tree: Any) -> None:
    """Waits for arrays where steps must not run ahead of each other.

    That is between processes on CPUs: of many steps on their way, those of one
    device may take all the threads that another's need (seen with JAX 0.10).
    """
    if jax.process_count() > 1 and jax.default_backend() == "cpu":
      jax.block_until_ready(tree)

  def get(self, tree: Any) -> Any:
    """A tree of device arrays on the host, whole, on every host."""

    def whole(leaf: Any) -> Any:
      if isinstance(leaf, jax.Array) and not (
        leaf.is_fully_addressable or leaf.is_fully_replicated
      ):
        return jax.jit(jnp.copy, out_shardings=self.replicated)(leaf)
      return leaf

    return jax.device_get(jax.tree.map(whole, tree))

  def local_rows(self, batch_size: int) -> np.ndarray:
    """The rows of a global batch that this host reads.

    Args:
      batch_size: rows of the global batch, a multiple of the devices.

    Returns:
      [rows] ascending.
    """
    split = NamedSharding(self.mesh, PartitionSpec(DATA_AXIS))
    parts = split.addressable_devices_indices_map((batch_size,)).values()
    every = np.arange(batch_size)
    return np.sort(np.concatenate([every[part] for part in parts]))

  def _rows(self, lanes: bool) -> PartitionSpec:
    """How a batch is split, over its rows."""
    return PartitionSpec(None, DATA_AXIS) if lanes else PartitionSpec(DATA_AXIS)

  def put_batch(
    self, batch: dict[str, np.ndarray], *, lanes: bool = False
  ) -> dict[str, jax.Array]:
    """This host's rows of a batch as arrays over the global batch.

    Args:
      batch: arrays [rows, ...], or [lanes, rows, ...].
      lanes: whether there are lanes.

    Returns:
      The arrays, split over their rows.
    """
    split = NamedSharding(self.mesh, self._rows(lanes))
    if jax.process_count() == 1:
      return jax.device_put(batch, split)
    axis = int(lanes)
    read = next(iter(batch.values())).shape[axis]
    size = read // len(self.mesh.local_devices) * self.devices
    rows = self.local_rows(size)

    def put(local: np.ndarray) -> jax.Array:
      shape = (*local.shape[:axis], size, *local.shape[axis + 1 :])

      def part(index: tuple[slice, ...]) -> np.ndarray:
        start, stop, _ = index[axis].indices(size)
        own = slice(*np.searchsorted(rows, (start, stop)))
        return local[:, own] if lanes else local[own]

      return jax.make_array_from_callback(shape, split, part)

    return jax.tree.map(put, batch)

  def partition(
    self,
    body: Callable[..., Any],
    *,
    constants: int,
    donate: bool = False,
    row_outputs: bool = False,
    lanes: bool = False,
  ) -> Callable[..., Any]:
    """Compiles a body for the mesh.

    Args:
      body: `body(*constants, batch)`; every array of the batch has the batch as
        its first axis.
      constants: how many leading arguments every device holds whole.
      donate: whether the buffers of the first argument are given up.
      row_outputs: whether the outputs have one row per example (they come back
        whole on every device); otherwise they are the same on every device.
      lanes: whether every array has a further first axis, over which the body
        is mapped: trainings that are independent of each other.

    Returns:
      The compiled function.
    """
    donated = (0,) if donate else ()
    body = jax.vmap(body) if lanes else body
    split = NamedSharding(self.mesh, self._rows(lanes))
    if self.fsdp and not row_outputs:
      return jax.jit(self._placed(body), donate_argnums=donated)
    if self.fsdp:
      return jax.jit(body, out_shardings=self.replicated)
    if self.mode == "jit":
      return jax.jit(
        body,
        in_shardings=(self.replicated,) * constants + (split,),
        out_shardings=self.replicated,
        donate_argnums=donated,
      )
    specs = (PartitionSpec(),) * constants + (self._rows(lanes),)
    out = self._rows(lanes) if row_outputs else PartitionSpec()
    mapped = jax.shard_map(body, mesh=self.mesh, in_specs=specs, out_specs=out)
    return jax.jit(
      mapped, out_shardings=self.replicated, donate_argnums=donated
    )

  def _placed(self, body: Callable[..., Any]) -> Callable[..., Any]:
    """A body whose outputs live where `sharding` has them."""
    place = lambda leaf: jax.lax.with_sharding_constraint(
      leaf, self.sharding(leaf)
    )
    return lambda *arguments: jax.tree.map(place, body(*arguments))


def check(config: Mapping[str, Any]) -> None:
  """Checks what a resolved config says of devices.

  Raises:
    UserError: for what does not go together.
  """
  section = config["parallel"]
  if section["fsdp"] and section["mode"] != "jit":
    raise UserError(
      f"config.parallel.fsdp is {section['fsdp']}, but config.parallel.mode is"
      f" {section['mode']!r}, whose bodies hold every array whole; expected"
      " fsdp 0 or mode 'jit'."
    )
  if section["fsdp"] and config["vmap_seeds"] > 1:
    raise UserError(
      f"config.parallel.fsdp is {section['fsdp']}, but config.vmap_seeds is"
      f" {config['vmap_seeds']}; seeds train together only where every device"
      " holds them whole: expected fsdp 0 or vmap_seeds 1."
    )


def create(mode: str = "jit", devices: int = 0, fsdp: int = 0) -> Parallel:
  """A `Parallel` over the first `devices` devices, all of them for 0."""
  chosen = jax.devices()[: devices or None]
  mesh = jax.make_mesh(
    (len(chosen),), (DATA_AXIS,), (AxisType.Auto,), devices=chosen
  )
  return Parallel(mesh, mode, fsdp)
