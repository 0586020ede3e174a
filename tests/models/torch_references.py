"""Torch's models as references for ours; writes what CI compares without torch.

Every weight follows from its torch name, shape and a seed by NumPy, so that the
goldens need to carry names, shapes and results alone. To write them anew, with
the extra `references` installed: `python tests/models/torch_references.py`.
"""

import functools
import json
import pathlib
import zlib

import numpy as np

GOLDEN = pathlib.Path(__file__).parent / "golden" / "imagenet_models.npz"
CLASSES = 10
RESNET = {f"f{i}": f"layer{i}" for i in range(1, 5)}
TIMM_V1 = {"f0": "bn1"} | {f"f{i}": f"blocks.{i}" for i in range(1, 5)}
TIMM_V2 = {"f0": "bn1"} | {
  f"f{i}": f"blocks.{j}" for i, j in enumerate((1, 2, 4, 6), 1)
}
V2 = {f"f{i}": f"features.{j}" for i, j in enumerate((0, 3, 6, 13, 17))}
PLAIN = {f"f{i}": f"model.{j}" for i, j in enumerate((0, 3, 5, 11, 13))}
VIT = {
  "h0": "pos_drop",
  "a1": "blocks.0.attn.qkv",
  "h1": "blocks.0",
  "normed": "norm",
}
ENCODER = {
  "h0": "encoder.dropout",
  "h1": "encoder.layers.encoder_layer_0",
  "normed": "encoder.ln",
}


def images(size, rows=2):
  """[rows, 3, *size], wide enough to reach ReLU6's 6."""
  rng = np.random.default_rng(0)
  return (3 * rng.normal(size=(rows, 3, *size))).astype(np.float32)


def seeded(shapes):
  """torch name -> an array that exercises what it stands for."""
  return {name: _seeded(name, tuple(shape)) for name, shape in shapes.items()}


def _seeded(name, shape):
  rng = np.random.default_rng(zlib.crc32(name.encode()))
  if name.endswith("num_batches_tracked"):
    return np.zeros(shape, np.int64)
  if name.endswith("running_var"):
    values = rng.uniform(0.5, 1.5, shape)
  elif len(shape) == 1 and name.endswith("weight"):
    values = rng.uniform(0.4, 1.6, shape)
  else:
    values = rng.normal(size=shape)
    fan_in = np.prod(shape[1:]) if len(shape) in (2, 4) else 1.0
    values *= np.sqrt(2.0 / fan_in) if fan_in > 1 else 0.3
  return values.astype(np.float32)


def torchvision_resnet(block, blocks, small=False):
  """torchvision's; with the stem for small images instead, if wanted."""
  import torch
  from torchvision.models import resnet

  model = resnet.ResNet(getattr(resnet, block), blocks, num_classes=CLASSES)
  if small:
    model.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    model.maxpool = torch.nn.Identity()
  return model


def cifar_resnet(blocks):
  """The CIFAR benchmarks' from torchvision's blocks, with their names."""
  from torch import nn
  from torchvision.models import resnet

  block = resnet.BasicBlock
  model = resnet.ResNet(block, [1, 1, 1, 1], num_classes=CLASSES)
  model.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
  model.bn1 = nn.BatchNorm2d(16)
  model.maxpool = model.layer4 = nn.Identity()
  model.inplanes = 16
  model.layer1 = model._make_layer(block, 16, blocks)
  model.layer2 = model._make_layer(block, 32, blocks, stride=2)
  model.layer3 = model._make_layer(block, 64, blocks, stride=2)
  model.fc = nn.Linear(64, CLASSES)
  return model


def torchvision_model(name, **options):
  import torchvision

  return getattr(torchvision.models, name)(num_classes=CLASSES, **options)


def torchvision_vit(**options):
  from torchvision.models.vision_transformer import VisionTransformer

  return VisionTransformer(num_classes=CLASSES, **options)


def timm_model(name, **options):
  import timm

  return timm.create_model(name, num_classes=CLASSES, **options)


def timm_mobilenet(version, width):
  from timm.models import efficientnet

  make = getattr(efficientnet, f"_gen_mobilenet_v{version}")
  return make(f"mobilenetv{version}_100", width, num_classes=CLASSES)


def plain_mobilenet_v1(width):
  """MobileNetV1 of ReLU from the paper's table, named as the benchmarks do."""
  import torch
  from torch import nn

  def filtered(channels, features, stride, kernel=3, groups=1):
    conv = nn.Conv2d(
      channels,
      features,
      kernel,
      stride,
      kernel // 2,
      groups=groups,
      bias=False,
    )
    return [conv, nn.BatchNorm2d(features), nn.ReLU()]

  rows = "64/1 128/2 128/1 256/2 256/1 512/2 " + "512/1 " * 5 + "1024/2 1024/1"
  channels = int(32 * width)
  layers = [nn.Sequential(*filtered(3, channels, 2))]
  for row in rows.split():
    wanted, stride = map(int, row.split("/"))
    features = int(wanted * width)
    depthwise = filtered(channels, channels, stride, groups=channels)
    pointwise = filtered(channels, features, 1, kernel=1)
    layers.append(nn.Sequential(*depthwise, *pointwise))
    channels = features

  class MobileNet(nn.Module):
    def __init__(self):
      super().__init__()
      self.model = nn.Sequential(*layers)
      self.fc = nn.Linear(channels, CLASSES)

    def forward(self, x):
      return self.fc(torch.mean(self.model(x), (2, 3)))

  return MobileNet()


# name -> (how torch makes it, tap -> torch module, the images' size, our model,
# its options). "basic" and the like are reduced, for the goldens.
_SMALL_VIT = dict(depth=2, embed_dim=48, num_heads=3, img_size=(32, 48))
_SMALL = dict(depth=2, width=48, heads=3)
REDUCED = {
  "basic": (
    functools.partial(torchvision_resnet, "BasicBlock", [1, 1, 1, 1]),
    RESNET,
    (65, 97),
    "resnet18",
    {"blocks": (1, 1, 1, 1)},
  ),
  "bottleneck": (
    functools.partial(torchvision_resnet, "Bottleneck", [1, 1, 1, 1]),
    RESNET,
    (65, 97),
    "resnet50",
    {"blocks": (1, 1, 1, 1)},
  ),
  "cifar": (
    functools.partial(cifar_resnet, 2),
    {f"f{i}": f"layer{i}" for i in (1, 2, 3)},
    (17, 23),
    "resnet14",
    {},
  ),
  "mobilenet_v1": (
    functools.partial(plain_mobilenet_v1, 0.25),
    PLAIN,
    (65, 97),
    "mobilenet_v1",
    {"width": 0.25},
  ),
  "mobilenet_v1_timm": (
    functools.partial(timm_mobilenet, 1, 0.25),
    TIMM_V1,
    (65, 97),
    "mobilenet_v1_relu6",
    {"width": 0.25},
  ),
  "mobilenet_v2": (
    functools.partial(
      torchvision_model, "mobilenet_v2", width_mult=0.35, dropout=0.0
    ),
    V2,
    (65, 97),
    "mobilenet_v2_224",
    {"width": 0.35, "dropout": 0.0},
  ),
  "mobilenet_v2_timm": (
    functools.partial(timm_mobilenet, 2, 0.35),
    TIMM_V2,
    (65, 97),
    "mobilenet_v2_224",
    {"width": 0.35, "dropout": 0.0},
  ),
  "vit": (
    functools.partial(timm_model, "vit_tiny_patch16_224", **_SMALL_VIT),
    VIT,
    (32, 48),
    "vit_ti16",
    _SMALL,
  ),
  "vit_torchvision": (
    functools.partial(
      torchvision_vit,
      image_size=32,
      patch_size=16,
      num_layers=2,
      num_heads=3,
      hidden_dim=48,
      mlp_dim=192,
    ),
    ENCODER,
    (32, 32),
    "vit_ti16",
    _SMALL,
  ),
  "deit": (
    functools.partial(
      timm_model, "deit_tiny_distilled_patch16_224", **_SMALL_VIT
    ),
    VIT,
    (32, 48),
    "deit_ti16",
    _SMALL,
  ),
}
NO_DROPOUT = {"dropout": 0.0}
PUBLISHED = {
  "resnet18": (
    functools.partial(torchvision_model, "resnet18"),
    RESNET,
    (224, 224),
    "resnet18",
    {},
  ),
  "resnet34": (
    functools.partial(timm_model, "resnet34"),
    RESNET,
    (97, 65),
    "resnet34",
    {},
  ),
  "resnet50": (
    functools.partial(timm_model, "resnet50"),
    RESNET,
    (225, 193),
    "resnet50",
    {},
  ),
  "resnet50_cifar": (
    functools.partial(
      torchvision_resnet, "Bottleneck", [3, 4, 6, 3], small=True
    ),
    RESNET,
    (32, 32),
    "resnet50_cifar",
    {},
  ),
  "mobilenet_v1_100": (
    functools.partial(plain_mobilenet_v1, 1.0),
    PLAIN,
    (97, 65),
    "mobilenet_v1",
    {},
  ),
  "mobilenet_v1_100_timm": (
    functools.partial(timm_model, "mobilenetv1_100"),
    TIMM_V1,
    (225, 193),
    "mobilenet_v1_relu6",
    {},
  ),
  "mobilenet_v2_100": (
    functools.partial(torchvision_model, "mobilenet_v2", dropout=0.0),
    V2,
    (225, 193),
    "mobilenet_v2_224",
    NO_DROPOUT,
  ),
  "mobilenet_v2_140_timm": (
    functools.partial(timm_model, "mobilenetv2_140"),
    TIMM_V2,
    (97, 65),
    "mobilenet_v2_224",
    NO_DROPOUT | {"width": 1.4},
  ),
  **{
    f"{family}_{size}": (
      functools.partial(timm_model, f"{family}_{word}_patch16_224", depth=depth)
      if family == "vit"
      else functools.partial(
        timm_model, f"{family}_{word}_distilled_patch16_224", depth=depth
      ),
      VIT,
      (224, 224),
      f"{family}_{size}16",
      {"depth": depth},
    )
    for family in ("vit", "deit")
    for size, word, depth in (
      ("ti", "tiny", 12),
      ("s", "small", 2),
      ("b", "base", 2),
    )
  },
}


def shapes_of(model):
  """torch name -> shape, of all that a model keeps."""
  return {name: list(array.shape) for name, array in model.state_dict().items()}


def outputs_of(model, taps, x, train, double=True):
  """What a torch model makes of x: logits, taps channels last, statistics.

  DeiT's heads come as `class_logits` and `distillation_logits` in training.
  """
  import torch

  shapes = shapes_of(model)
  arrays = {
    name: torch.from_numpy(np.array(array))
    for name, array in seeded(shapes).items()
  }
  model.load_state_dict(arrays)
  model = model.double() if double else model
  model.train(train)
  if hasattr(model, "set_distilled_training"):
    model.set_distilled_training(train)
  found = {}

  def keep(tap, module, inputs, output):
    array = output.detach().clone()
    found[tap] = array.movedim(1, -1) if array.ndim == 4 else array

  handles = [
    model.get_submodule(name).register_forward_hook(
      functools.partial(keep, tap)
    )
    for tap, name in taps.items()
  ]
  with torch.no_grad():
    x = torch.from_numpy(x)
    result = model(x.double() if double else x)
  for handle in handles:
    handle.remove()
  if "a1" in found:
    heads = model.get_submodule("blocks.0.attn").num_heads
    rows, length, width = found["a1"].shape
    split = (rows, length, 3, heads, width // 3 // heads)
    queries, keys, _ = found["a1"].reshape(split).permute(2, 0, 3, 1, 4)
    found["a1"] = queries @ keys.mT * split[-1] ** -0.5
  if "normed" in found:
    found["pooled"] = found.pop("normed")[:, 0]
  if isinstance(result, tuple):
    found["class_logits"], found["distillation_logits"] = result
    result = result[0]
  found["logits"] = result
  outputs = {name: value.numpy() for name, value in found.items()}
  statistics = {
    name: array.numpy()
    for name, array in model.state_dict().items()
    if "running" in name
  }
  return outputs, statistics


def summary(array):
  """Few numbers of an array [rows, ...] that all of it has a share in."""
  flat = np.asarray(array, np.float64).reshape(len(array), -1)
  wave = np.cos(np.arange(flat.shape[1]))
  return np.stack(
    [flat.mean(1), flat.std(1), flat @ wave / len(wave) ** 0.5], 1
  )


def statistics_summary(arrays):
  """[arrays, 2]: the mean and the spread of each, by name."""
  return np.array(
    [[arrays[name].mean(), arrays[name].std()] for name in sorted(arrays)]
  ).reshape(-1, 2)


def golden(case):
  """What the goldens say of a reduced model: entry -> array."""
  make, taps, size, _, _ = REDUCED[case]
  entries = {"shapes": np.array(json.dumps(shapes_of(make())))}
  for mode, train in (("eval", False), ("train", True)):
    outputs, statistics = outputs_of(make(), taps, images(size), train)
    for name, array in outputs.items():
      whole = name.endswith("logits")
      entries[f"{mode}/{name}"] = array if whole else summary(array)
    if train:
      entries["train/statistics"] = statistics_summary(statistics)
  return {f"{case}/{entry}": array for entry, array in entries.items()}


if __name__ == "__main__":
  GOLDEN.parent.mkdir(exist_ok=True)
  everything = {}
  for one in REDUCED:
    everything |= golden(one)
  np.savez_compressed(GOLDEN, **everything)
  print(f"{GOLDEN}: {GOLDEN.stat().st_size} bytes, {len(everything)} arrays")
