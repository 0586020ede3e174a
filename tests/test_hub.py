"""Files of the Hub are taken from its cache, or a sentence says why not."""

import json
import logging
import sys
import types

import pytest

from kdcl_jax import hub, pretrained
from kdcl_jax.errors import UserError

TOKEN = "hf_SECRETsecretSECRET"


class EntryNotFoundError(Exception):
  pass


class LocalEntryNotFoundError(EntryNotFoundError, FileNotFoundError):
  pass


class RepositoryNotFoundError(Exception):
  pass


class GatedRepoError(RepositoryNotFoundError):
  pass


class RevisionNotFoundError(Exception):
  pass


class HFValidationError(ValueError):
  pass


class FakeHub(types.ModuleType):
  """`huggingface_hub` with files in dictionaries, and a count of downloads."""

  def __init__(self, folder):
    super().__init__("huggingface_hub")
    self.errors = types.ModuleType("huggingface_hub.errors")
    for error in (
      EntryNotFoundError,
      LocalEntryNotFoundError,
      RepositoryNotFoundError,
      GatedRepoError,
      RevisionNotFoundError,
      HFValidationError,
    ):
      setattr(self.errors, error.__name__, error)
    self.folder, self.files, self.cached = folder, {}, {}
    self.downloads, self.error = [], None

  def add(self, repository, file, content, revision=None):
    self.files[repository, revision, file] = content

  def _write(self, key):
    path = self.folder.joinpath(*(part or "main" for part in key))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(self.files[key])
    return str(path)

  def try_to_load_from_cache(self, repo_id, filename, revision=None):
    return self.cached.get((repo_id, revision, filename))

  def hf_hub_download(self, repo_id, filename, revision=None, etag_timeout=0):
    assert 0 < etag_timeout <= 60
    self.downloads.append(filename)
    if self.error:
      raise self.error
    key = repo_id, revision, filename
    if key not in self.files:
      raise EntryNotFoundError(f"404 {filename}")
    self.cached[key] = self._write(key)
    return self.cached[key]


@pytest.fixture
def fake(monkeypatch, tmp_path):
  made = FakeHub(tmp_path / "hub")
  monkeypatch.setitem(sys.modules, "huggingface_hub", made)
  monkeypatch.setitem(sys.modules, "huggingface_hub.errors", made.errors)
  return made


@pytest.mark.parametrize(
  ("source", "place"),
  [
    ("timm:resnet50.a1_in1k", ("timm/resnet50.a1_in1k", None, "")),
    ("timm:resnet50.a1_in1k@v2", ("timm/resnet50.a1_in1k", "v2", "")),
    ("hf:me/birds", ("me/birds", None, "")),
    ("hf:me/birds@1f3a", ("me/birds", "1f3a", "")),
    ("hf:me/birds/a/b.safetensors", ("me/birds", None, "a/b.safetensors")),
    ("hf:me/birds@main/b.onnx", ("me/birds", "main", "b.onnx")),
  ],
)
def test_references_are_read(source, place):
  assert hub.parse(source, "weights") == place


@pytest.mark.parametrize(
  "source", ["teacher.safetensors", "runs/x/teacher", "/a:b", "C:\\x", ""]
)
def test_paths_are_no_references(source):
  assert hub.parse(source, "weights") is None


@pytest.mark.parametrize(
  "source", ["timm:", "timm:a/b", "hf:birds", "hf:a b/c"]
)
def test_half_a_reference_is_told_from_a_whole_one(source):
  with pytest.raises(UserError, match="weights is .* expected 'timm:NAME'"):
    hub.parse(source, "weights")


def test_a_repository_gives_its_weights_and_what_its_config_says(fake):
  config = {"pretrained_cfg": {"mean": [0.5], "std": [0.5]}}
  fake.add("timm/net", "config.json", json.dumps(config).encode())
  fake.add("timm/net", "pytorch_model.bin", b"arrays")
  found = pretrained.find("timm:net", "weights")
  assert found.path.read_bytes() == b"arrays"
  assert found.described == config
  assert fake.downloads == [
    "config.json",
    "model.safetensors",
    "pytorch_model.bin",
  ]


def test_safetensors_go_before_pickles(fake):
  fake.add("me/net", "pytorch_model.bin", b"old")
  fake.add("me/net", "model.safetensors", b"new")
  assert pretrained.find("hf:me/net", "weights").path.read_bytes() == b"new"


def test_a_revision_and_a_file_are_those_that_are_named(fake):
  fake.add("me/net", "x/best.safetensors", b"one", revision="v1")
  fake.add("me/net", "x/best.safetensors", b"two", revision="v2")
  found = pretrained.find("hf:me/net@v2/x/best.safetensors", "weights")
  assert found.path.read_bytes() == b"two" and found.described == {}


def test_what_is_in_the_cache_asks_for_no_network(fake):
  fake.add("timm/net", "config.json", b"{}")
  fake.add("timm/net", "model.safetensors", b"arrays")
  first = pretrained.find("timm:net", "weights")
  fake.downloads.clear()
  fake.error = OSError("no network")
  assert pretrained.find("timm:net", "weights") == first
  assert not fake.downloads


def test_a_repository_without_weights_says_which_names_were_tried(fake):
  fake.add("me/net", "other.safetensors", b"")
  with pytest.raises(UserError) as error:
    pretrained.find("hf:me/net", "config.t.weights")
  for word in (
    "config.t.weights",
    "neither 'model.safetensors' nor 'pytorch_model.bin'",
    "'hf:me/net/FILE'",
  ):
    assert word in str(error.value)


def test_a_file_that_is_not_there_is_named(fake):
  with pytest.raises(UserError, match="holds no 'best.pth'"):
    pretrained.find("hf:me/net/best.pth", "weights")


def local(cause):
  error = LocalEntryNotFoundError("cannot find the requested files")
  error.__cause__ = cause
  return error


@pytest.mark.parametrize(
  ("error", "words"),
  [
    (local(ConnectionError("Name or service not known")), "is there a network"),
    (local(TimeoutError("timed out")), "TimeoutError: timed out.*network"),
    (ConnectionError("refused"), "ConnectionError: refused.*network"),
    (RepositoryNotFoundError("401"), "no such repository, or it is private"),
    (GatedRepoError("403"), "granted access.*hf auth login"),
    (RevisionNotFoundError("404"), "no such revision"),
    (HFValidationError("bad name"), "no name that the Hub knows"),
  ],
)
def test_why_a_file_cannot_be_had_is_one_sentence(fake, error, words):
  fake.error = error
  with pytest.raises(UserError, match=words) as told:
    hub.fetch(
      hub.Place("timm/net", None, ""), "config.json", "config.t.weights"
    )
  sentence = str(told.value)
  assert sentence.startswith("config.t.weights is on the Hugging Face Hub")
  assert "\n" not in sentence and sentence.endswith(".")


def test_no_token_is_ever_told(fake, caplog, capsys):
  fake.error = local(
    ConnectionError(f"https://x/?t={TOKEN} Authorization: Bearer abc.def")
  )
  with caplog.at_level(logging.DEBUG), pytest.raises(UserError) as told:
    hub.fetch(hub.Place("timm/net", None, ""), "config.json", "weights")
  seen = str(told.value) + caplog.text + "".join(capsys.readouterr())
  assert "SECRET" not in seen and "abc.def" not in seen
  assert told.value.__cause__ is None and told.value.__suppress_context__


def test_without_the_package_its_extra_is_named(monkeypatch):
  monkeypatch.setitem(sys.modules, "huggingface_hub", None)
  with pytest.raises(UserError, match=r"pip install 'kdcl_jax\[hub\]'"):
    pretrained.find("timm:resnet50.a1_in1k", "weights")


def test_the_real_package_offline_gives_the_same_sentence(
  monkeypatch, tmp_path
):
  real = pytest.importorskip(
    "huggingface_hub.constants", reason="the extra 'hub' is not installed"
  )
  monkeypatch.setattr(real, "HF_HUB_OFFLINE", True)
  monkeypatch.setattr(real, "HF_HUB_CACHE", str(tmp_path))
  with pytest.raises(UserError, match="not in the local cache"):
    pretrained.find("timm:resnet50.a1_in1k", "config.teacher.weights")


def test_the_cache_of_the_real_package_is_read_offline(monkeypatch, tmp_path):
  real = pytest.importorskip(
    "huggingface_hub.constants", reason="the extra 'hub' is not installed"
  )
  monkeypatch.setattr(real, "HF_HUB_OFFLINE", True)
  monkeypatch.setattr(real, "HF_HUB_CACHE", str(tmp_path))
  repository = tmp_path / "models--timm--net"
  snapshot = repository / "snapshots" / "abc"
  snapshot.mkdir(parents=True)
  (repository / "refs").mkdir()
  (repository / "refs" / "main").write_text("abc")
  (snapshot / "config.json").write_text('{"pretrained_cfg": {}}')
  (snapshot / "model.safetensors").write_bytes(b"arrays")
  found = pretrained.find("timm:net", "weights")
  assert found.path.read_bytes() == b"arrays"
  assert found.described == {"pretrained_cfg": {}}
