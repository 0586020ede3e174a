"""The cluster that a process finds itself in, by what the environment tells.

Cloud TPU pods, steps of Slurm and indexed Jobs of Kubernetes.
"""

import importlib.util
import os
import pathlib
import re
import urllib.request
from typing import Any, NamedTuple

import jax

_SLURM = ("JOB_ID", "STEP_NODELIST", "NTASKS", "PROCID", "LOCALID")
_METADATA = "computeMetadata/v1/instance/attributes"


class Cluster(NamedTuple):
  """What is known of the processes of a run before they have met.

  Attributes:
    found: where from, for messages.
    arguments: for `jax.distributed.initialize`, which finds out the rest.
  """

  found: str
  arguments: dict[str, Any]


def detected() -> Cluster | None:
  """The cluster that the environment tells of; None for a process alone.

  - Slurm: the variables of a job step, where it has more than one task.
  - Cloud TPU: libtpu and chips of a TPU, and more than one worker or slice, by
    GKE's variables or else the metadata of the VM (asked for 3 seconds).
  - Kubernetes: a pod of an indexed Job, as JobSet makes them, with the package
    `kubernetes` installed, by which JAX asks for the Job.
  """
  environ = os.environ
  if all(f"SLURM_{name}" in environ for name in _SLURM):
    tasks = int(environ.get("SLURM_STEP_NUM_TASKS", environ["SLURM_NTASKS"]))
    if tasks == 1:
      return None
    arguments = {"num_processes": tasks, "local_device_ids": _slurm_devices()}
    return Cluster("a job step of Slurm", arguments)
  if _has_tpu():
    several = _tpu_workers() * _tpu_slices() > 1
    return Cluster("a Cloud TPU pod", {}) if several else None
  if (
    "KUBERNETES_SERVICE_HOST" in environ
    and "JOB_COMPLETION_INDEX" in environ
    and importlib.util.find_spec("kubernetes")
  ):
    return Cluster("an indexed Job of Kubernetes", {})
  return None


def _slurm_devices() -> list[int] | None:
  """The GPUs of this task; None for what JAX does, one for each task of a node.

  A task that is alone on its node has all of them, and so has one that Slurm
  shows no more than its own.
  """
  visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
  if not visible or "JAX_LOCAL_DEVICE_IDS" in os.environ:
    return None
  gpus = len(visible.split(","))
  # SLURM_STEP_TASKS_PER_NODE is such as "1(x2)" or "4,2".
  nodes = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
  alone = bool(nodes) and set(re.sub(r"\(x\d+\)", "", nodes).split(",")) == {
    "1"
  }
  return list(range(gpus)) if alone or gpus == 1 else None


def _has_tpu() -> bool:
  """Whether the machine has a TPU that this process would use."""
  wanted = jax.config.jax_platforms
  if wanted and "tpu" not in wanted.split(","):
    return False
  if importlib.util.find_spec("libtpu") is None:
    return False
  devices = pathlib.Path("/dev")
  chips = [*devices.glob("accel[0-9]*"), *devices.glob("vfio/[0-9]*")]
  return bool(chips)


def _tpu_workers() -> int:
  """How many hosts a slice has."""
  for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES"):
    if name in os.environ:
      return len(os.environ[name].split(","))
  return len(_metadata("worker-network-endpoints").split(","))


def _tpu_slices() -> int:
  """How many slices there are."""
  number = os.environ.get("MEGASCALE_NUM_SLICES")
  if number is None and "TPU_WORKER_HOSTNAMES" not in os.environ:
    found = re.search(
      r"^\s*MEGASCALE_NUM_SLICES\s*:\s*'?(\d+)", _metadata("tpu-env"), re.M
    )
    number = found and found[1]
  return int(number or 1)


def _metadata(key: str) -> str:
  """An attribute of the VM from its metadata server; "" where there is none."""
  if os.environ.get("TPU_SKIP_MDS_QUERY"):
    return ""
  server = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
  request = urllib.request.Request(
    f"http://{server}/{_METADATA}/{key}", headers={"Metadata-Flavor": "Google"}
  )
  direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
  try:
    with direct.open(request, timeout=3) as answer:
      return answer.read().decode()
  except OSError:  # on a TPU elsewhere, which is taken for a host of its own
    return ""
