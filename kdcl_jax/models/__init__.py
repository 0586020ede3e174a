"""Models by name, and one way to call them and a user's own alike."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from kdcl_jax import lookup
from kdcl_jax.errors import UserError
from kdcl_jax.models import (
  called,
  cnn,
  mlp,
  mobilenet,
  mobilenet_v1,
  resnet,
  shufflenet,
  vgg,
  vit,
  wide_resnet,
)

_WIDE = (32, 64, 128, 256)
_RESNETS = {  # depth -> the blocks of each stage and their kind
  18: ((2, 2, 2, 2), resnet.BasicBlock),
  34: ((3, 4, 6, 3), resnet.BasicBlock),
  50: ((3, 4, 6, 3), resnet.Bottleneck),
}
_VITS = {  # size -> the width of the tokens and the heads
  "ti": {"width": 192, "heads": 3},
  "s": {"width": 384, "heads": 6},
  "b": {"width": 768, "heads": 12},
}

# name -> factory of (num_classes, dtype, axis_name, ...) for a linen module.
MODELS: dict[str, Callable[..., nn.Module]] = {
  "mlp": mlp.MLP,
  "cnn": cnn.CNN,
  "resnet": resnet.cifar_resnet,
  **{
    f"resnet{depth}": functools.partial(resnet.cifar_resnet, depth=depth)
    for depth in (8, 14, 20, 32, 44, 56, 110)
  },
  "resnet8x4": functools.partial(resnet.cifar_resnet, depth=8, widths=_WIDE),
  "resnet32x4": functools.partial(resnet.cifar_resnet, depth=32, widths=_WIDE),
  "resnet50_cifar": resnet.cifar_resnet50,
  "wrn": wide_resnet.WideResNet,
  **{
    f"wrn_{depth}_{width}": functools.partial(
      wide_resnet.WideResNet, depth=depth, width=width
    )
    for depth, width in ((16, 1), (16, 2), (40, 1), (40, 2))
  },
  "vgg8": functools.partial(vgg.VGG, blocks=(1, 1, 1, 1, 1)),
  "vgg11": functools.partial(vgg.VGG, blocks=(1, 1, 2, 2, 2)),
  "vgg13": functools.partial(vgg.VGG, blocks=(2, 2, 2, 2, 2)),
  "vgg16": functools.partial(vgg.VGG, blocks=(2, 2, 3, 3, 3)),
  "vgg19": functools.partial(vgg.VGG, blocks=(2, 2, 4, 4, 4)),
  "mobilenet_v2": mobilenet.MobileNetV2,
  "vit": vit.VisionTransformer,
  "shufflenet_v1": shufflenet.ShuffleNetV1,
  "shufflenet_v2": shufflenet.ShuffleNetV2,
  # For large images, as ImageNet's; of the function of torchvision's or timm's.
  **{
    f"resnet{depth}": functools.partial(
      resnet.ResNet,
      blocks=blocks,
      widths=(64, 64, 128, 256, 512),
      block=block,
      large=True,
    )
    for depth, (blocks, block) in _RESNETS.items()
  },
  "mobilenet_v1": mobilenet_v1.MobileNetV1,
  "mobilenet_v1_relu6": functools.partial(mobilenet_v1.MobileNetV1, relu6=True),
  "mobilenet_v2_224": functools.partial(
    mobilenet.MobileNetV2, width=1.0, large=True, dropout=0.2
  ),
  **{
    f"{family}_{size}16": functools.partial(
      vit.VisionTransformer, patch=16, depth=12, distilled=distilled, **shape
    )
    for family, distilled in (("vit", False), ("deit", True))
    for size, shape in _VITS.items()
  },
}

# Models that are only called; see kdcl_jax.models.called.
CALLED = called.CALLED


def build(
  name: str,
  *,
  num_classes: int,
  dtype: Any = jnp.float32,
  axis_name: str | None = None,
  field: str = "config.model",
  **options: Any,
) -> nn.Module:
  """The linen module that a config names.

  Args:
    name: a name in `MODELS` or `CALLED`, or the dotted path of a user's module
      class.
    num_classes: number of classes.
    dtype: compute type.
    axis_name: the mesh axis over which batches are split, under `shard_map`.
    field: the config section, for messages.
    **options: the module's own fields.

  Returns:
    The module. It gets `dtype` and `axis_name` only if it has them.

  Raises:
    UserError: where there is no such model or field.

  Example:
    >>> build("mlp", num_classes=10, widths=(32,)).widths
    (32,)
  """
  factory = lookup.find(MODELS | CALLED, name, f"{field}.name")
  given = {"num_classes": num_classes, "dtype": dtype, "axis_name": axis_name}
  accepted = inspect.signature(factory).parameters
  open_ended = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
  given = {k: v for k, v in given.items() if k in accepted or open_ended}
  if name in MODELS and open_ended:  # a factory that passes on to a module
    known = ["depth", "widths", "dtype", "axis_name"]
    lookup.check_names(options, known, name, field)
  module = lookup.call(factory, given | options, field)
  if not isinstance(module, nn.Module):
    raise UserError(
      f"{field}.name is {name!r}, which makes a {type(module).__name__},"
      " expected a flax.linen module."
    )
  return module


@functools.lru_cache(maxsize=64)
def _initial(module: nn.Module) -> Callable[..., Any]:
  """What equal modules share, such as those of several seeds."""
  return jax.jit(functools.partial(module.init, **_flags(module, False)))


def init(module: nn.Module, key: jax.Array, x: Any) -> dict[str, Any]:
  """The initial variables of a module.

  Args:
    module: the module.
    key: a typed PRNG key.
    x: an example input [1, ...].

  Returns:
    `params` and, where the module has them, `batch_stats`.
  """
  try:
    initial = _initial(module)
  except TypeError:  # a user's module that cannot be hashed
    initial = _initial.__wrapped__(module)
  variables = initial({"params": key}, x)
  named = {"params": {}} | variables  # a module may have no weights
  return {k: named[k] for k in ("params", "batch_stats") if k in named}


def forward(
  module: nn.Module,
  variables: Mapping[str, Any],
  x: jax.Array,
  *,
  train: bool = False,
  mask: jax.Array | None = None,
  rngs: Mapping[str, jax.Array] | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Applies a module, ours or a user's.

  A user's `__call__` gets `train` (or `deterministic`) and `mask` only if it
  takes them, and returns logits, (logits, taps) or a dictionary with `logits`
  and perhaps `taps`.

  Args:
    module: the module.
    variables: `params` and perhaps `batch_stats`.
    x: [B, ...] float32.
    train: whether batch statistics and dropout are used.
    mask: [B] bool, False for rows that are padding.
    rngs: keys, for dropout.

  Returns:
    {`logits` [B, K] float32, `taps`: name -> array} and the new batch_stats.

  Raises:
    UserError: where the module returns something else.
  """
  has_stats = bool(variables.get("batch_stats"))
  present = {k: v for k, v in variables.items() if v or k == "params"}
  flags = _flags(module, train, mask)
  stats = variables.get("batch_stats", {})
  if train and has_stats:
    output, changed = module.apply(
      present, x, rngs=rngs, mutable=["batch_stats"], **flags
    )
    stats = changed["batch_stats"]
  else:
    output = module.apply(present, x, rngs=rngs if train else None, **flags)
  return _outputs(module, output), stats


def call(
  module: nn.Module,
  x: jax.Array,
  *,
  train: bool = False,
  mask: jax.Array | None = None,
) -> dict[str, Any]:
  """`forward` of a module that is part of another, inside that one."""
  return _outputs(module, module(x, **_flags(module, train, mask)))


def _flags(
  module: nn.Module, train: bool, mask: jax.Array | None = None
) -> dict[str, Any]:
  """The arguments of a module's __call__ that it takes."""
  accepted = inspect.signature(type(module).__call__).parameters
  values = {"train": train, "deterministic": not train, "mask": mask}
  return {key: value for key, value in values.items() if key in accepted}


def _outputs(module: nn.Module, output: Any) -> dict[str, Any]:
  if isinstance(output, tuple) and len(output) == 2:
    output = {"logits": output[0], "taps": output[1]}
  elif hasattr(output, "ndim"):
    output = {"logits": output, "taps": {}}
  if not (
    isinstance(output, Mapping)
    and hasattr(output.get("logits"), "ndim")
    and isinstance(output.get("taps", {}), Mapping)
  ):
    raise UserError(
      f"the model {type(module).__name__!r} returns a {type(output).__name__},"
      " expected logits, (logits, taps) or a dictionary with 'logits' and"
      " perhaps 'taps'."
    )
  return {
    "logits": output["logits"].astype(jnp.float32),
    "taps": dict(output.get("taps", {})),
  }


def tap_shapes(
  module: nn.Module, shape: tuple[int, ...]
) -> dict[str, tuple[int, ...]]:
  """The shapes of a module's taps for one input, without the batch axis.

  Example:
    >>> tap_shapes(build("resnet8", num_classes=10), (32, 32, 3))["f3"]
    (8, 8, 64)
  """
  x = jax.ShapeDtypeStruct((1, *shape), np.float32)

  def outputs(x: jax.Array) -> dict[str, Any]:
    variables = init(module, jax.random.key(0), x)
    return forward(module, variables, x)[0]["taps"]

  taps = jax.eval_shape(outputs, x)
  return {name: tap.shape[1:] for name, tap in taps.items()}


def parameter_count(variables: Mapping[str, Any]) -> int:
  """Number of trained parameters."""
  return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
