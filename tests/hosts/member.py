"""A process of several: python member.py PORT PROCESS WHAT; see test_hosts.

With a "!" at its end, WHAT is about a process that is lost, which is then found
sooner than in a run.
"""

import sys
import time

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from kdcl_jax import hosts
from kdcl_jax.errors import UserError


def work(port, process, what):
  hosts.initialize(
    f"127.0.0.1:{port}", 2, process, patience=2 if what == "alone" else 60
  )
  mesh = jax.make_mesh((jax.device_count(),), ("d",), (AxisType.Auto,))
  rows = PartitionSpec("d")
  array = jax.make_array_from_process_local_data(
    NamedSharding(mesh, rows), jnp.full(jax.local_device_count(), 1.0 + process)
  )
  total = jax.jit(
    jax.shard_map(
      lambda x: jax.lax.psum(x, "d"),
      mesh=mesh,
      in_specs=rows,
      out_specs=PartitionSpec(),
    )
  )
  asked = hosts.interruption()
  print("sum", float(total(array)[0]), "lead", hosts.is_lead(), flush=True)
  told = hosts.told_by_lead([1.5, "ü", None] if hosts.is_lead() else 0)
  said = [hosts.all_agree(yes) for yes in (True, process == 0, False)]
  print("told", told, *said, flush=True)
  if what == "mistake" or (what == "one mistake" and process == 1):
    raise UserError("the disk is full.")
  if what == "fault" and process == 1:
    raise KeyError("a fault of the program")
  if what == "report":
    time.sleep(3 if hosts.is_lead() else 0)
    print("reported" if hosts.is_lead() else "done", flush=True)
    return
  step = 0
  while not asked():
    float(total(array)[0])
    step += 1
    time.sleep(0.005 if process else 0)
  print("stopped at", step, flush=True)


def main(port, process, what):
  failure = 1
  if what.endswith("!"):
    hosts.HEARTBEAT, hosts._FAREWELL = 5, 1
  try:
    work(port, int(process), what.rstrip("!"))
    failure = 0
  except UserError as error:
    print(f"kdcl_jax: {error}", file=sys.stderr)
    failure = 2
  finally:
    hosts.leave(failure)
  return failure


if __name__ == "__main__":
  sys.exit(main(*sys.argv[1:]))
