"""What a run was made with, and the one process that works in its directory."""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from kdcl_jax import hosts
from kdcl_jax.dataset import Dataset
from kdcl_jax.errors import UserError
from kdcl_jax.fields import CHANGEABLE
from kdcl_jax.writers import read_json, read_sealed, write_json, write_sealed

_PACKAGES = (
  "kdcl_jax jax jaxlib flax optax orbax-checkpoint grain numpy chex"
  " ml_collections tensorflow-datasets safetensors"
)


def check_writable(workdir: pathlib.Path) -> None:
  """Makes the working directory.

  Raises:
    UserError: where it cannot be made or written.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=workdir):
      pass
  except OSError as error:
    raise UserError(
      f"--workdir is {str(workdir)!r}, which cannot be written"
      f" ({error.strerror}); give a directory that you may write to."
    ) from error


@contextlib.contextmanager
def only_process(workdir: pathlib.Path, name: str = "run") -> Iterator[None]:
  """Holds the working directory for this process, or this run's processes.

  Args:
    workdir: the directory, one for all processes of a run.
    name: of the lock.

  Raises:
    UserError: where another process holds it, or the processes of this run do
      not see one directory.
  """
  check_writable(workdir)
  _check_shared(workdir)
  with contextlib.ExitStack() as held:
    hosts.by_lead(lambda: held.enter_context(_lock(workdir, name)))
    yield


@contextlib.contextmanager
def _lock(workdir: pathlib.Path, name: str) -> Iterator[None]:
  with (workdir / f".lock_{name}").open("w") as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      raise UserError(
        f"--workdir is {str(workdir)!r}, in which another process is at work;"
        " wait for it or give another directory."
      ) from error
    yield


def _check_shared(workdir: pathlib.Path) -> None:
  """Checks that all processes see the lead's working directory."""
  if not hosts.are_several():
    return
  sign = workdir / f".sign_{hosts.told_by_lead(secrets.token_hex(8))}"
  hosts.by_lead(sign.touch)
  seen = hosts.gathered(_appears(sign))
  hosts.by_lead(sign.unlink)
  if not all(seen):
    raise UserError(
      f"--workdir is {str(workdir)!r}, of which process {seen.index(False)} of"
      " the run does not see what process 0 writes; give a directory that all"
      " hosts share, such as a mounted bucket or a network disk."
    )


def _appears(path: pathlib.Path, patience: float = 10.0) -> bool:
  """Whether a file is there, soon; network disks take their time."""
  until = time.monotonic() + patience
  while not path.exists():
    if time.monotonic() > until:
      return False
    time.sleep(0.1)
  return True


def record(
  config: Mapping[str, Any], workdir: pathlib.Path, dataset: Dataset
) -> None:
  """Writes `config.json` and `environment.json`, or checks that they agree.

  Raises:
    UserError: where the directory belongs to a run with another config or
      other data; fields that may change are `kdcl_jax.fields.CHANGEABLE`. Also
      where the processes of a run have been given different ones.
  """
  text = json.dumps(plain(config), sort_keys=True).encode()
  packages = {
    f"the version of {name}": importlib.metadata.version(name)
    for name in _PACKAGES.split()
  }
  hosts.check_alike(
    {
      "the hash of the config": hashlib.sha256(text).hexdigest()[:16],
      "the fingerprint of the data": dataset.fingerprint,
      **packages,
    }
  )
  hosts.by_lead(lambda: _record(config, workdir, dataset))


def _record(
  config: Mapping[str, Any], workdir: pathlib.Path, dataset: Dataset
) -> None:
  check_unchanged(config, workdir)
  path = workdir / "config.json"
  if path.exists():
    before = _data_before(workdir)
    if before.get("fingerprint", dataset.fingerprint) != dataset.fingerprint:
      raise UserError(
        f"config.data.source is {config['data']['source']!r}, whose records are"
        f" not those that the run in {str(workdir)!r} was begun with; a"
        " curriculum would silently shift. Give another --workdir."
      )
  write_sealed(workdir / "environment.json", describe(dataset))
  write_json(path, plain(config))


def _data_before(workdir: pathlib.Path) -> dict[str, Any]:
  """What is known of the data that a run was begun with."""
  try:
    return read_sealed(workdir / "environment.json").get("data", {})
  except UserError as error:
    raise UserError(
      f"it is not known any more of what data the run in {str(workdir)!r} is,"
      " since its environment.json is missing or damaged; put a copy in its"
      " place, or, where the data are the same, delete config.json beside it."
    ) from error


def check_unchanged(config: Mapping[str, Any], workdir: pathlib.Path) -> None:
  """Checks that a run's directory, if it has been begun, is of this config.

  Raises:
    UserError: where a field has changed that may not.
  """
  path = workdir / "config.json"
  if not path.exists():
    return
  changed = list(_differences(read_json(path), plain(config), "config"))
  if changed:
    field, old, new = changed[0]
    others = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
    raise UserError(
      f"{field} is {new!r}{others}, but the run in {str(workdir)!r} was begun"
      f" with {old!r}; give another --workdir, or take the change back (what"
      f" may change in a run is {', '.join(CHANGEABLE)})."
    )


def describe(dataset: Dataset) -> dict[str, Any]:
  """Versions, devices, source revision and data of this process."""
  return {
    "python": platform.python_version(),
    "platform": platform.platform(),
    "packages": {
      name: importlib.metadata.version(name) for name in _PACKAGES.split()
    },
    "devices": [device.device_kind for device in jax.devices()],
    "backend": jax.default_backend(),
    "processes": jax.process_count(),
    "revision": _revision(),
    "data": {
      "name": dataset.name,
      "fingerprint": dataset.fingerprint,
      "train": len(dataset.train.ids),
      "validation": len(dataset.validation.ids),
      "test": len(dataset.test.ids),
    },
  }


def plain(tree: Any) -> Any:
  """A tree as JSON has it: tuples become lists."""
  if isinstance(tree, Mapping):
    return {key: plain(value) for key, value in tree.items()}
  if isinstance(tree, tuple | list):
    return [plain(value) for value in tree]
  return tree


def _differences(old: Any, new: Any, path: str) -> Iterator[tuple]:
  if isinstance(old, dict) and isinstance(new, dict):
    for key in sorted(old.keys() | new.keys()):
      field = f"{path}.{key}"
      if field.removeprefix("config.") not in CHANGEABLE:
        yield from _differences(old.get(key), new.get(key), field)
  elif old != new:
    yield path, old, new


def _revision() -> str | None:
  """The source's git revision, '+changes' where files differ from it."""
  source = pathlib.Path(__file__).parent
  git = ["git", "-C", str(source)]
  try:
    head = subprocess.run(
      [*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10
    )
    if head.returncode:
      return None
    changes = subprocess.run(
      [*git, "status", "--porcelain", "--untracked-files=no"],
      capture_output=True,
      text=True,
      timeout=10,
    )
  except (OSError, subprocess.TimeoutExpired):
    return None
  return head.stdout.strip() + ("+changes" if changes.stdout.strip() else "")
