"""A full disk, a disk that cannot be written, and space that is freed."""

import os
import pathlib
import resource
import subprocess
import sys

import pytest

from kdcl_jax.errors import storage_fault

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = """
from kdcl_jax import config as kdcl

def get_config():
  return kdcl.run(
    stages=("teacher", "student"), log_steps=10, checkpoint_steps=20,
    teacher=kdcl.stage(
      steps=120, batch_size=32, model=dict(name="mlp", widths=(256, 256)),
      optimizer=dict(name="adam", learning_rate=0.01)),
    student=kdcl.stage(
      steps=40, batch_size=32, model=dict(name="mlp", widths=(16,)),
      teachers=("teacher",)),
  )
"""


def run(config, workdir, **options):
  done = subprocess.run(
    [
      *(sys.executable, "-m", "kdcl_jax.main"),
      *(f"--config={config}", f"--workdir={workdir}"),
    ],
    cwd=ROOT,
    env=os.environ
    | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(_CACHE)},
    capture_output=True,
    text=True,
    timeout=180,
    **options,
  )
  assert "Traceback" not in done.stderr, done.stderr
  return done


_CACHE = pathlib.Path("/tmp") / f"kdcl_jax_storage_{os.getuid()}"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
  folder = tmp_path_factory.mktemp("storage")
  config = folder / "config.py"
  config.write_text(CONFIG)
  done = run(config, folder / "whole")
  assert done.returncode == 0, done.stderr
  return config, weights(folder / "whole")


def weights(workdir):
  return [path.read_bytes() for path in sorted(workdir.rglob("*.safetensors"))]


def mounted(folder, options):
  """Whether a file system in memory could be mounted."""
  folder.mkdir(exist_ok=True)
  command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
  try:
    return subprocess.run(command, capture_output=True).returncode == 0
  except FileNotFoundError:
    return False


@pytest.fixture
def small_disk(tmp_path):
  folder = tmp_path / "disk"
  if not mounted(folder, "size=3m"):
    pytest.skip("a file system cannot be mounted here; it takes root")
  yield folder
  subprocess.run(["umount", "--lazy", str(folder)], check=True)


def last_line(done):
  return done.stderr.strip().splitlines()[-1]


def test_a_full_disk_ends_in_a_sentence_and_goes_on_with_more_space(
  small_disk, undisturbed
):
  config, want = undisturbed
  workdir = small_disk / "run"
  done = run(config, workdir)
  assert done.returncode == 2
  said = last_line(done)
  # Of a checkpoint, or of a smaller file that came first.
  assert said.startswith(("kdcl_jax: the checkpoint", "kdcl_jax: --workdir"))
  assert "No space left on device" in said and str(workdir) in said
  # What was there before is whole: it is refused alike, and not damaged.
  again = run(config, workdir)
  assert again.returncode == 2
  assert "No space left on device" in last_line(again)
  assert "damaged" not in again.stderr
  subprocess.run(
    ["mount", "-o", "remount,size=60m", str(small_disk)], check=True
  )
  done = run(config, workdir)
  assert done.returncode == 0, done.stderr
  assert "resumed at step" in done.stderr
  assert weights(workdir) == want


def test_a_disk_that_is_full_from_the_beginning_is_told_of(
  small_disk, undisturbed
):
  config, _ = undisturbed
  workdir = small_disk / "run"
  (small_disk / "ballast").write_bytes(b"x" * (3 * 2**20 - 8192))
  done = run(config, workdir)
  assert done.returncode == 2
  assert "No space left on device" in last_line(done)
  assert done.stderr.count("kdcl_jax: ") == 1


def test_files_larger_than_allowed_end_in_a_sentence(tmp_path, undisturbed):
  """As under a quota, and without the right to mount anything."""
  config, want = undisturbed
  limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, -1))
  done = run(config, tmp_path / "run", preexec_fn=limit)
  assert done.returncode == 2
  assert "(File too large)" in last_line(done)
  done = run(config, tmp_path / "run")
  assert done.returncode == 0, done.stderr
  assert weights(tmp_path / "run") == want


def test_a_read_only_directory_is_refused_in_a_sentence(undisturbed):
  config, _ = undisturbed
  done = run(config, "/proc/kdcl_jax_run")
  assert done.returncode == 2
  said = last_line(done)
  assert said.startswith("kdcl_jax: --workdir is '/proc/kdcl_jax_run'")
  assert "cannot be written" in said


def test_a_read_only_disk_is_refused_in_a_sentence(tmp_path, undisturbed):
  config, _ = undisturbed
  folder = tmp_path / "disk"
  if not mounted(folder, "size=1m,ro"):
    pytest.skip("a file system cannot be mounted here; it takes root")
  try:
    done = run(config, folder)
  finally:
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
  assert done.returncode == 2
  assert "(Read-only file system)" in last_line(done)


@pytest.mark.parametrize(
  ("error", "fault"),
  [
    (OSError(28, "x"), "No space left on device"),
    (OSError(2, "x"), ""),
    (ValueError("RESOURCE: No space left on device [x]"), "No space left"),
    (ValueError("another"), ""),
  ],
)
def test_errors_of_the_storage_are_known_by_number_or_text(error, fault):
  assert storage_fault(error).startswith(fault)
  assert bool(storage_fault(error)) == bool(fault)
