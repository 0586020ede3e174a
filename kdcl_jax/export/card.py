"""The model card: what the exported student is, for those who get only it."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from kdcl_jax.page import cell, table
from kdcl_jax.writers import read_json, write_text

_PICTURE = 3  # axes: height, width, channels
_MEASURED = {
  "accuracy": ("accuracy (%)", 100, 2),
  "loss": ("loss (nats)", 1, 4),
  "calibration_error": ("calibration error (%)", 100, 2),
}


def write(
  workdir: pathlib.Path, config: Mapping[str, Any], compared: Mapping[str, Any]
) -> pathlib.Path:
  """Writes `export/README.md` from what the run has left.

  Args:
    workdir: the run's directory, with `export/student.json`.
    config: its resolved config.
    compared: what `results.json` holds.

  Returns:
    The path.
  """
  path = workdir / "export" / "README.md"
  about = read_json(path.with_name("student.json"))
  made = workdir / "environment.json"
  facts = read_json(made) if made.exists() else {}
  parts = [
    _front(about, compared),
    f"# {cell(about['provenance']['run'])}: {about['provenance']['stage']}",
    _what(about, config, compared),
    "## Data",
    _data(config, facts, about),
    "## Training",
    *_training(about, config, compared),
    "## Numbers",
    *_numbers(about, compared),
    *_files(path.parent),
    "## Use",
    *_use(about),
    "## How it was made",
    _versions(facts),
  ]
  write_text(path, "\n\n".join(part for part in parts if part) + "\n")
  return path


def _front(about: Mapping[str, Any], compared: Mapping[str, Any]) -> str:
  """The front matter that model hubs read; JSON is YAML too."""
  where = about["provenance"]
  accuracy = compared["stages"][where["stage"]]["test"]["accuracy"]
  chosen = accuracy["values"][compared["seeds"].index(where["seed"])]
  tags = ["jax", "flax", "classification", "knowledge-distillation"]
  task = {"type": "classification"}
  fields: dict[str, Any] = {"library_name": "kdcl_jax"}
  if len(about["preprocessing"]["shape"]) == _PICTURE:
    task = {"type": "image-classification"}
    fields["pipeline_tag"] = "image-classification"
  if not where["teachers"]:
    tags.remove("knowledge-distillation")
  result = {
    "task": task,
    "dataset": {"name": where["data"], "type": where["data"], "split": "test"},
    "metrics": [{"type": "accuracy", "value": chosen}],
  }
  name = f"{where['run']}/{where['stage']}"
  fields |= {"tags": tags, "metrics": ["accuracy"]}
  fields |= {"model-index": [{"name": name, "results": [result]}]}
  lines = (f"{key}: {json.dumps(value)}" for key, value in fields.items())
  return "\n".join(["---", *lines, "---"])


def _what(
  about: Mapping[str, Any],
  config: Mapping[str, Any],
  compared: Mapping[str, Any],
) -> str:
  """The model in a few sentences."""
  where = about["provenance"]
  stage = compared["stages"][where["stage"]]
  options = ", ".join(
    f"{key} {json.dumps(value)}"
    for key, value in about["model"].items()
    if key not in ("name", "num_classes")
  )
  labels = [cell(label) for label in about["labels"]]
  count = len(labels)
  shown = ", ".join(labels[:20]) + (", ..." if count > 20 else "")
  several = len(compared["seeds"]) > 1
  seed = ""
  if several:
    seed = (
      f" Of {len(compared['seeds'])} seeds it is seed {where['seed']}, the best"
      " on the validation split."
    )
  return (
    f"A `{about['model']['name']}`{f' ({options})' if options else ''} of"
    f" {about['parameters']:,} parameters and {stage['flops_per_example']:,.0f}"
    f" FLOPs for a forward pass, which tells {count} classes apart: {shown}."
    f" It was computed in {config[where['stage']]['precision']} while it was"
    f" trained.{seed}"
  )


def _data(
  config: Mapping[str, Any],
  facts: Mapping[str, Any],
  about: Mapping[str, Any],
) -> str:
  where, noise = about["provenance"], config["data"]["label_noise"]
  labels = "Labels are as the source has them."
  if noise["kind"] != "none" and noise["rate"]:
    also = " and validation" if noise["validation"] else ""
    labels = (
      f"{100 * noise['rate']:g} % of the training{also} labels were made wrong"
      f" on purpose ({noise['kind'].replace('_', ' ')}); the test labels are"
      " true."
    )
  seen = facts.get("data", {})
  sizes = ", ".join(
    f"{seen[split]:,} {split}"
    for split in ("train", "validation", "test")
    if split in seen
  )
  views = ", ".join(view["name"] for view in config["data"]["augment"])
  return (
    f"`{where['data']}`"
    + (f" ({sizes} records)" if sizes else "")
    + f", fingerprint `{where['fingerprint']}`. {labels}"
    + (f" Augmented by {views}." if views else " Not augmented.")
  )


def _training(
  about: Mapping[str, Any],
  config: Mapping[str, Any],
  compared: Mapping[str, Any],
) -> list[str]:
  """Course, objective, optimizer and teachers, as the config has them."""
  where = about["provenance"]
  section, stage = config[where["stage"]], compared["stages"][where["stage"]]
  course = section["curriculum"]
  lines = [f"- Steps: {stage['steps']['mean']:,.0f}"]
  if not stage["trained"]:
    lines = [f"- Not trained: weights of {section['weights']}"]
  lines[0] += f", batches of {section['batch_size']}"
  order = f"- Course: order {course['order']}"
  if course["order"] != "none":
    score, by = (course["difficulty"][key] for key in ("score", "source"))
    if course["order"] in ("curriculum", "anti"):
      order += f" by `{score}` of the {by}"
    order += f", pacing {json.dumps(course['pacing'])}"
    order += f", {100 * stage['final_fraction']['mean']:.0f} % of it at the end"
  lines.append(order)
  actions = [
    name.replace("_", " ")
    for name, options in course.items()
    if isinstance(options, Mapping) and options.get("on")
  ]
  if actions:
    lines.append(f"- What validation may lead to: {', '.join(actions)}")
  lines.append(f"- Kept: the {stage['kept']} parameters")
  for name, term in section["objective"].items():
    lines.append(f"- Loss `{name}`: {json.dumps(term)}")
  optimizer = section["optimizer"]
  shown = ("name", "learning_rate", "weight_decay", "clip", "ema")
  lines.append(
    "- Optimizer: "
    + json.dumps({key: optimizer[key] for key in shown if optimizer[key]})
    + f", schedule {optimizer['schedule']['name']}"
  )
  for name in where["teachers"]:
    other = compared["stages"][name]
    lines.append(
      f"- Teacher `{name}`: {other['model']['name']},"
      f" {other['parameters']:,} parameters,"
      f" {100 * other['test']['accuracy']['mean']:.2f} % on the test split"
    )
  ledger = [["examples", "mean over the seeds"]]
  ledger += [
    [name.replace("_", " "), f"{value['mean']:,.0f}"]
    for name, value in stage["ledger"].items()
    if value["mean"]
  ]
  return ["\n".join(lines), "What it took:", table(ledger)]


def _numbers(
  about: Mapping[str, Any], compared: Mapping[str, Any]
) -> list[str]:
  """The test split, of each seed, with mean and standard deviation."""
  where = about["provenance"]
  test = compared["stages"][where["stage"]]["test"]
  seeds = compared["seeds"]
  head = ["on the test split", *(f"seed {seed}" for seed in seeds)]
  if len(seeds) > 1:
    head += ["mean", "standard deviation"]
  rows = [head]
  measured = {name: test[name] for name in _MEASURED}
  names = dict(_MEASURED)
  for teacher, values in test["agreement"].items():
    measured[teacher] = values
    names[teacher] = (f"agreement with {teacher} (%)", 100, 2)
  for name, values in measured.items():
    title, factor, digits = names[name]
    numbers = list(values["values"])
    if len(seeds) > 1:
      numbers += [values["mean"], values["std"]]
    rows.append([title, *(f"{factor * n:.{digits}f}" for n in numbers)])
  return [f"{test['count']:,} test records.", table(rows)]


def _files(folder: pathlib.Path) -> list[str]:
  """The exported files, where some have been made."""
  from kdcl_jax.export import chapter  # which needs more than a card

  found = chapter.exported(folder.parent)
  return found and ["## Exported files", *found[1:]]


def _use(about: Mapping[str, Any]) -> list[str]:
  """How to load it."""
  known = about["preprocessing"]
  shape = " x ".join(map(str, known["shape"]))
  dtype = known.get("dtype", "uint8")
  example = "image.png"
  if len(known["shape"]) != _PICTURE or dtype != "uint8":
    example = "inputs.npy"
  scaled = ""
  if dtype.startswith(("uint", "int")):
    scaled = " divided by 255,"
  return [
    f"Inputs are `{dtype}` of {shape} (for pictures: height, width,"
    f" channels). The exported graphs take them as they are;{scaled} mean"
    f" {known['mean'] or 0} and standard deviation {known['std'] or 1} are part"
    " of them. The weights alone are in `student.safetensors`, and everything"
    " that another program must know in `student.json`.",
    f"```sh\npython -m kdcl_jax.predict --model=. {example}\n```",
    "```python\nfrom kdcl_jax import predict\n\nmodel = predict.load('.')\n"
    f"print(model(['{example}'])[0].label)\n```",
    "The code that made it is under the Apache-2.0 licence. Under which terms"
    " the data may be used is for its source to say.",
  ]


def _versions(facts: Mapping[str, Any]) -> str:
  if not facts:
    return ""
  packages = ", ".join(f"{k} {v}" for k, v in facts["packages"].items())
  return (
    f"Python {facts['python']}; {packages}; source revision"
    f" {facts['revision'] or 'unknown'}; {', '.join(facts['devices'][:1])}."
  )
