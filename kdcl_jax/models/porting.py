"""Weights of torch models under our names: torchvision's, timm's and DeiT's.

A port is a list of (torch module, our module, layout). It follows from the
names that there are, so that it also holds for other depths and widths; whether
the result fits a model is for `kdcl_jax.weights.fit` to say.
"""

import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np
from flax import traverse_util

from kdcl_jax.errors import UserError, did_you_mean

# layout -> (what follows the torch module's name, collection, what follows
# ours, the order of the axes, None for as they are).
_LAYOUTS: dict[str, tuple[tuple[str, str, str, tuple[int, ...] | None], ...]]
_LAYOUTS = {
  "conv": (
    (".weight", "params", "/kernel", (2, 3, 1, 0)),
    (".bias", "params", "/bias", None),
  ),
  "linear": (
    (".weight", "params", "/kernel", (1, 0)),
    (".bias", "params", "/bias", None),
  ),
  "joined": (  # queries, keys and values in one array
    ("_weight", "params", "/kernel", (1, 0)),
    ("_bias", "params", "/bias", None),
  ),
  "norm": (
    (".weight", "params", "/scale", None),
    (".bias", "params", "/bias", None),
    (".running_mean", "batch_stats", "/mean", None),
    (".running_var", "batch_stats", "/var", None),
  ),
  "array": (("", "params", "", None),),
}
_HEAD = "Classifier_0/Dense_0/Dense_0"

Rule = tuple[str, str, str]


def _conv_norm(conv: str, norm: str, ours: str, number: int) -> Iterator[Rule]:
  """The rules of a convolution and of the BatchNorm behind it."""
  yield conv, f"{ours}Conv_{number}/Conv_0", "conv"
  yield norm, f"{ours}BatchNorm_{number}", "norm"


def _numbers(pattern: str, names: Collection[str]) -> list[tuple[int, ...]]:
  """The numbers in names that match, each once, in order."""
  found = (re.match(pattern, name) for name in names)
  return sorted({tuple(map(int, match.groups())) for match in found if match})


def _resnet(names: Collection[str]) -> Iterator[Rule]:
  """The names of torchvision, which timm and the CIFAR benchmarks share."""
  deep = any(".conv3." in name for name in names)
  block, convs = ("Bottleneck", 3) if deep else ("BasicBlock", 2)
  yield from _conv_norm("conv1", "bn1", "", 0)
  places = _numbers(r"layer(\d+)\.(\d+)\.", names)
  for number, (stage, place) in enumerate(places):
    torch, ours = f"layer{stage}.{place}", f"{block}_{number}/"
    for i in range(convs):
      conv, norm = f"{torch}.conv{i + 1}", f"{torch}.bn{i + 1}"
      yield from _conv_norm(conv, norm, ours, i)
    for shortcut in ("downsample", "shortcut"):
      conv, norm = f"{torch}.{shortcut}.0", f"{torch}.{shortcut}.1"
      yield from _conv_norm(conv, norm, ours, convs)
  for head in ("fc", "linear"):
    yield head, _HEAD, "linear"


def _mobilenet_v1(names: Collection[str]) -> Iterator[Rule]:
  """The names of the distillation benchmarks: one list of layers."""
  yield from _conv_norm("model.0.0", "model.0.1", "", 0)
  for (number,) in _numbers(r"model\.(\d+)\.3\.", names):
    torch, ours = f"model.{number}", f"SeparableConv_{number - 1}/"
    yield from _conv_norm(f"{torch}.0", f"{torch}.1", ours, 0)
    yield from _conv_norm(f"{torch}.3", f"{torch}.4", ours, 1)
  yield "fc", _HEAD, "linear"


def _mobilenet_v2(names: Collection[str]) -> Iterator[Rule]:
  """The names of torchvision (`features.1.conv...`) or of timm."""
  if "conv_stem.weight" in names:
    yield from _timm_mobilenet(names, "InvertedResidual")
    return
  yield from _conv_norm("features.0.0", "features.0.1", "", 0)
  places = _numbers(r"features\.(\d+)\.conv\.", names)
  for number, (place,) in enumerate(places):
    torch, ours = f"features.{place}.conv", f"InvertedResidual_{number}/"
    active = _numbers(rf"{re.escape(torch)}\.(\d)\.0\.", names)
    for (i,) in active:
      yield from _conv_norm(f"{torch}.{i}.0", f"{torch}.{i}.1", ours, i)
    last = len(active)
    yield from _conv_norm(f"{torch}.{last}", f"{torch}.{last + 1}", ours, last)
  last = len(places) + 1
  yield from _conv_norm(f"features.{last}.0", f"features.{last}.1", "", 1)
  yield "classifier.1", _HEAD, "linear"


def _timm_mobilenet(names: Collection[str], block: str) -> Iterator[Rule]:
  """The names of timm, for the blocks of both MobileNets."""
  yield from _conv_norm("conv_stem", "bn1", "", 0)
  places = _numbers(r"blocks\.(\d+)\.(\d+)\.", names)
  for number, (stage, place) in enumerate(places):
    torch, ours = f"blocks.{stage}.{place}", f"{block}_{number}/"
    expands = f"{torch}.conv_pwl.weight" in names
    convs = ("pw", "dw", "pwl") if expands else ("dw", "pw")
    for i, conv in enumerate(convs):
      yield from _conv_norm(
        f"{torch}.conv_{conv}", f"{torch}.bn{i + 1}", ours, i
      )
  yield from _conv_norm("conv_head", "bn2", "", 1)
  yield "classifier", _HEAD, "linear"


def _vit(names: Collection[str]) -> Iterator[Rule]:
  """The names of timm and DeiT, or of torchvision (`encoder.layers...`)."""
  if any(name.startswith("encoder.") for name in names):
    yield from _vit_torchvision(names)
    return
  yield "cls_token", "token", "array"
  yield "dist_token", "distillation_token", "array"
  yield "pos_embed", "position", "array"
  yield "patch_embed.proj", "Conv_0", "conv"
  blocks = [i for (i,) in _numbers(r"blocks\.(\d+)\.", names)]
  for i in blocks:
    torch = f"blocks.{i}"
    yield f"{torch}.norm1", f"LayerNorm_{2 * i}", "norm"
    yield f"{torch}.attn.qkv", f"Attention_{i}/Dense_0", "linear"
    yield f"{torch}.attn.proj", f"Attention_{i}/Dense_1", "linear"
    yield f"{torch}.norm2", f"LayerNorm_{2 * i + 1}", "norm"
    yield f"{torch}.mlp.fc1", f"Dense_{2 * i}", "linear"
    yield f"{torch}.mlp.fc2", f"Dense_{2 * i + 1}", "linear"
  yield "norm", f"LayerNorm_{2 * len(blocks)}", "norm"
  yield "head", _HEAD, "linear"
  yield "head_dist", _HEAD.replace("Classifier_0", "Classifier_1"), "linear"


def _vit_torchvision(names: Collection[str]) -> Iterator[Rule]:
  yield "class_token", "token", "array"
  yield "encoder.pos_embedding", "position", "array"
  yield "conv_proj", "Conv_0", "conv"
  layer = "encoder.layers.encoder_layer_"
  blocks = [i for (i,) in _numbers(rf"{re.escape(layer)}(\d+)\.", names)]
  for i in blocks:
    torch = f"{layer}{i}"
    yield f"{torch}.ln_1", f"LayerNorm_{2 * i}", "norm"
    yield f"{torch}.self_attention.in_proj", f"Attention_{i}/Dense_0", "joined"
    yield (
      f"{torch}.self_attention.out_proj",
      f"Attention_{i}/Dense_1",
      "linear",
    )
    yield f"{torch}.ln_2", f"LayerNorm_{2 * i + 1}", "norm"
    for first, second in (("linear_1", "linear_2"), ("0", "3")):  # new, old
      yield f"{torch}.mlp.{first}", f"Dense_{2 * i}", "linear"
      yield f"{torch}.mlp.{second}", f"Dense_{2 * i + 1}", "linear"
  yield "encoder.ln", f"LayerNorm_{2 * len(blocks)}", "norm"
  yield "heads.head", _HEAD, "linear"


PORTS: dict[str, Callable[[Collection[str]], Iterator[Rule]]] = {
  **{
    f"resnet{depth}": _resnet
    for depth in (8, 14, 18, 20, 32, 34, 44, 50, 56, 110)
  },
  "resnet8x4": _resnet,
  "resnet32x4": _resnet,
  "resnet50_cifar": _resnet,
  "mobilenet_v1": _mobilenet_v1,
  "mobilenet_v1_relu6": functools.partial(
    _timm_mobilenet, block="SeparableConv"
  ),
  "mobilenet_v2_224": _mobilenet_v2,
  **{
    f"{family}_{size}16": _vit
    for family in ("vit", "deit")
    for size in ("ti", "s", "b")
  },
}


def variables_from_torch(
  model_name: str, arrays: Mapping[str, np.ndarray], field: str
) -> tuple[dict[str, Any], list[str]]:
  """The variables of one of our models from a torch model's state dict.

  Args:
    model_name: a name in `PORTS`.
    arrays: the state dict on the host: torch name -> array.
    field: the config field that names the weights, for messages.

  Returns:
    `params` and, where the model has them, `batch_stats`; and the names of the
    arrays that it has no use for. BatchNorm's counts of batches are left out
    without a word.

  Raises:
    UserError: where the model has no port, or the arrays are another model's.

  Example:
    >>> arrays = {"fc.weight": np.ones((10, 64)), "fc.other": np.ones(1)}
    >>> variables, unused = variables_from_torch("resnet8", arrays, "weights")
    >>> head = variables["params"]["Classifier_0"]["Dense_0"]["Dense_0"]
    >>> head["kernel"].shape, unused
    ((64, 10), ['fc.other'])
  """
  if model_name not in PORTS:
    raise UserError(
      f"{field} holds the weights of a torch model, which the model"
      f" {model_name!r} cannot take{did_you_mean(model_name, PORTS)}; there are"
      f" ports for {', '.join(PORTS)}."
    )
  arrays = {
    name.removeprefix("module."): array  # put there by DataParallel
    for name, array in arrays.items()
    if not name.endswith("num_batches_tracked")
  }
  flat: dict[str, np.ndarray] = {}
  used = set()
  for torch, ours, layout in PORTS[model_name](arrays):
    for end, collection, our_end, axes in _LAYOUTS[layout]:
      name = torch + end
      if name not in arrays:
        continue
      array = np.asarray(arrays[name])
      if axes is not None and array.ndim != len(axes):
        raise UserError(
          f"{field} holds {name!r} of shape {array.shape}, expected"
          f" {len(axes)} axes for the model {model_name!r}."
        )
      flat[f"{collection}/{ours}{our_end}"] = (
        array if axes is None else array.transpose(axes)
      )
      used.add(name)
  if not used:
    raise UserError(_foreign(model_name, arrays, field))
  return traverse_util.unflatten_dict(flat, sep="/"), sorted(
    arrays.keys() - used
  )


def _foreign(
  model_name: str, arrays: Mapping[str, np.ndarray], field: str
) -> str:
  """What to say of arrays of which a port uses none."""
  known = {
    other
    for other, port in PORTS.items()
    if arrays.keys()
    <= {
      torch + end
      for torch, _, layout in port(arrays)
      for end, *_ in _LAYOUTS[layout]
    }
  }
  hint = f"; they have the names of {', '.join(sorted(known))}" if known else ""
  few = ", ".join(sorted(arrays)[:3]) or "nothing"
  return (
    f"{field} holds {few} ..., none of which the model {model_name!r}"
    f" knows{hint}."
  )
