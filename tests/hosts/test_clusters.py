"""A process finds out whether it is one of several."""

import http.server
import socket
import threading
import time
import types

import pytest

from kdcl_jax import clusters

STEP = {
  "SLURM_JOB_ID": "77",
  "SLURM_STEP_NODELIST": "node[1-2]",
  "SLURM_NTASKS": "2",
  "SLURM_PROCID": "1",
  "SLURM_LOCALID": "0",
}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}


def packages(monkeypatch, *names):
  """Of two packages that a cluster needs, those of these names are there."""
  find = clusters.importlib.util.find_spec

  def found(name):
    if name in ("kubernetes", "libtpu"):
      return object() if name in names else None
    return find(name)

  monkeypatch.setattr(clusters.importlib.util, "find_spec", found)


@pytest.mark.parametrize("missing", STEP)
def test_a_shell_in_a_slurm_job_is_no_step(environ, missing):
  environ({name: v for name, v in STEP.items() if name != missing})
  assert clusters.detected() is None


def test_a_step_of_one_task_is_a_process_alone(environ):
  environ(STEP | {"SLURM_STEP_NUM_TASKS": "1"})
  assert clusters.detected() is None


@pytest.mark.parametrize(
  ("visible", "tasks", "mine"),
  [
    ("0,1,2,3", "1(x2)", [0, 1, 2, 3]),  # a process for each node has them all
    ("0,1,2,3", "1,1", [0, 1, 2, 3]),
    ("0,1,2,3", "4(x2)", None),  # JAX: the one of the local task
    ("0,1", "2,1", None),
    ("5", "4(x2)", [0]),  # Slurm shows each task its own
    ("", "1(x2)", None),
  ],
)
def test_the_gpus_of_a_node_are_shared_out(environ, visible, tasks, mine):
  environ(STEP | {"SLURM_STEP_TASKS_PER_NODE": tasks})
  environ({"CUDA_VISIBLE_DEVICES": visible})
  assert clusters.detected().arguments["local_device_ids"] == mine
  environ({"JAX_LOCAL_DEVICE_IDS": "0"})
  assert clusters.detected().arguments["local_device_ids"] is None


def test_an_indexed_job_of_kubernetes_is_found(environ, monkeypatch):
  packages(monkeypatch, "kubernetes")
  assert clusters.detected() is None
  environ(POD)
  assert "Kubernetes" in clusters.detected().found
  packages(monkeypatch)  # without the package JAX could not ask for the Job
  assert clusters.detected() is None


def test_hosts_of_a_tpu_slice_on_gke_are_found(environ, monkeypatch):
  monkeypatch.setattr(clusters, "_has_tpu", lambda: True)
  monkeypatch.setattr(clusters, "_metadata", lambda key: pytest.fail(key))
  packages(monkeypatch, "kubernetes")
  environ(POD | {"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"})
  assert "TPU" in clusters.detected().found
  environ({"TPU_WORKER_HOSTNAMES": "localhost"})
  assert clusters.detected() is None
  environ({"MEGASCALE_NUM_SLICES": "2"})
  assert "TPU" in clusters.detected().found


@pytest.mark.parametrize(
  ("workers", "slices", "several"),
  [("10.0.0.1", None, False), ("a:0:1,b:1:2", None, True), ("a", "2", True)],
)
def test_hosts_of_a_cloud_tpu_are_found_by_the_metadata(
  environ, monkeypatch, workers, slices, several
):
  told = {
    "worker-network-endpoints": workers,
    "tpu-env": "TYPE: 'v4'\n"
    + (f"MEGASCALE_NUM_SLICES: '{slices}'\n" if slices else ""),
  }

  class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      assert self.headers["Metadata-Flavor"] == "Google"
      self.send_response(200)
      self.end_headers()
      self.wfile.write(told[self.path.rpartition("/")[2]].encode())

    def log_message(self, *_):
      pass

  with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environ({"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}"})
    environ({"http_proxy": "http://127.0.0.1:9"})  # is not asked
    monkeypatch.setattr(clusters, "_has_tpu", lambda: True)
    assert (clusters.detected() is not None) == several
    server.shutdown()


def test_a_tpu_without_metadata_is_a_host_of_its_own(environ, monkeypatch):
  monkeypatch.setattr(clusters, "_has_tpu", lambda: True)
  environ({"GCE_METADATA_IP": f"127.0.0.1:{free_port()}"})
  before = time.monotonic()
  assert clusters.detected() is None
  assert time.monotonic() - before < 5
  environ({"TPU_SKIP_MDS_QUERY": "1"})
  monkeypatch.setattr(
    clusters.urllib.request, "build_opener", lambda *_: pytest.fail("asked")
  )
  assert clusters.detected() is None


@pytest.mark.parametrize(
  ("platforms", "libtpu", "chips", "found"),
  [
    (None, ["libtpu"], ["accel0"], True),
    ("tpu,cpu", ["libtpu"], ["accel0"], True),
    ("cpu", ["libtpu"], ["accel0"], False),
    (None, [], ["accel0"], False),
    (None, ["libtpu"], [], False),
  ],
)
def test_a_tpu_that_is_not_used_is_none(
  monkeypatch, platforms, libtpu, chips, found
):
  packages(monkeypatch, *libtpu)
  config = types.SimpleNamespace(jax_platforms=platforms)
  monkeypatch.setattr(clusters, "jax", types.SimpleNamespace(config=config))
  monkeypatch.setattr(clusters.pathlib.Path, "glob", lambda *_: iter(chips))
  assert clusters._has_tpu() == found


def free_port():
  with socket.create_server(("127.0.0.1", 0)) as one:
    return one.getsockname()[1]
