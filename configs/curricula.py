r"""Every kind of curriculum trains the same small student on noisy digits.

  python -m kdcl_jax.main --config=configs/curricula.py --workdir=runs/curricula

1,000 training and 200 validation records of which 40 % have wrong labels, 597
clean test records; every student makes 1,000 steps. A check that each kind
works in the pipeline, and a first look at what it does to label noise. Nothing
is tuned; `anti` and `random` are controls. The table is in docs/curricula.md.

Variants: `:clean` (true labels), or the names of stages, as in `:linear,anti`.
"""

from ml_collections import ConfigDict

from kdcl_jax import config as kdcl

TEACHER = dict(name="mlp", widths=(256, 256))
STUDENT = dict(name="mlp", widths=(12,))
LINEAR = dict(name="linear", start=0.3, reach=0.5)
QUARTERS = dict(name="baby_steps", buckets=4, reach=0.75)
BUCKETS = dict(name="constant")  # which a bandit chooses by itself
HALF = dict(start=0.3, end=0.7)


def course(order: str = "curriculum", pacing: dict = LINEAR, **more) -> dict:
  """The fields of a stage with a course; `more` are its actions."""
  actions = {name: dict(on=True) | options for name, options in more.items()}
  return dict(curriculum=dict(order=order, pacing=pacing, lessons=30) | actions)


# Which records: an order, a pacing, and what validation or the learner says.
RECORDS = {
  "linear": course(),
  "random": course("random"),
  "anti": course("anti"),
  "to_60_percent": course(pacing=LINEAR | dict(end=0.6)),
  "one_pass": course(pacing=dict(name="one_pass", buckets=5)),
  "freeze": course(freeze={}),
  "rerank": course(rerank={}),
  "rerank_freeze": course(rerank={}, freeze={}),
  "bandit": course(pacing=BUCKETS, bandit={}),
  "bandit_exp3s": course(pacing=BUCKETS, bandit=dict(policy="exp3s", rate=0.5)),
  "restarts": course(restart_learning_rate=dict(factor=0.9)),
}
# How much each counts, and which rows of a larger batch are trained on.
EXAMPLES = {
  "spl_hard": dict(weighting=dict(name="spl_hard", quantile=HALF)),
  "spl_linear": dict(weighting=dict(name="spl_linear", quantile=HALF)),
  "spl_logistic": dict(weighting=dict(name="spl_logistic", quantile=HALF)),
  "superloss": dict(weighting=dict(name="superloss_weights", tau=2.3, lam=1.0)),
  "focal": dict(weighting=dict(name="focal", gamma=2.0)),
  "selective_backprop": dict(
    selection=dict(name="selective_backprop", candidates=2)
  ),
  "reducible_loss": dict(selection=dict(name="reducible_loss", candidates=4)),
}
# The teacher, its temperature and its weight in time with the records.
TEACHING = {
  "kd": {},
  "rco": dict(teacher_pacing=QUARTERS),
  "clpd": course(pacing=QUARTERS) | dict(teacher_pacing=QUARTERS),
  "pocl": course(pacing=QUARTERS, restart_learning_rate={}),
}
DISTILLED = dict(
  cross_entropy=dict(coefficient=0.1),
  kd=dict(coefficient=0.9, temperature=2.0),
)
POCL = dict(
  cross_entropy=dict(coefficient=dict(values=(0.3, 0.2, 0.1, 0.0))),
  kd=dict(
    coefficient=dict(values=(0.7, 0.8, 0.9, 1.0)),
    temperature=dict(values=(1.0, 4 / 3, 5 / 3, 2.0)),
  ),
)
STUDENTS = RECORDS | EXAMPLES | TEACHING


def get_config(variant: str = "") -> ConfigDict:
  """The config of a variant."""
  words = tuple(word for word in variant.split(",") if word)
  chosen = [word for word in words if word != "clean"] or [*STUDENTS]
  for word in chosen:
    if word not in STUDENTS:
      raise ValueError(f"no variant {word!r}; valid are clean, {[*STUDENTS]}")

  def stage(model: dict, steps: int, rate: float, **fields) -> ConfigDict:
    optimizer = dict(name="adam", learning_rate=rate)
    return kdcl.stage(
      model=model, steps=steps, batch_size=32, optimizer=optimizer, **fields
    )

  def student(name: str) -> ConfigDict:
    fields = dict(STUDENTS[name])
    if name in TEACHING:
      objective = POCL if name == "pocl" else DISTILLED
      fields |= dict(teachers=("teacher",), objective=objective)
    elif name == "reducible_loss":  # the teacher chooses, and teaches nothing
      objective = DISTILLED | dict(kd=dict(coefficient=0.0))
      fields |= dict(teachers=("teacher",), objective=objective)
    return stage(STUDENT, 1000, 1e-2, **fields)

  stages = dict(
    teacher=stage(
      TEACHER, 1600, 3e-3, snapshots=(0.25, 0.5, 0.75), **course(freeze={})
    ),
    baseline=stage(STUDENT, 1000, 1e-2),
  ) | {name: student(name) for name in chosen}
  clean = "clean" in words
  return kdcl.run(
    name="curricula" + (f":{variant}" if variant else ""),
    stages=tuple(stages),
    data=dict(
      source="digits",
      validation=200,
      label_noise=dict(
        kind="none" if clean else "symmetric",
        rate=0.0 if clean else 0.4,
        validation=True,
      ),
    ),
    scorer=kdcl.scorer(
      model=TEACHER,
      steps=200,
      batch_size=32,
      optimizer=dict(name="adam", learning_rate=3e-3),
    ),
    export="",
    seeds=10,
    log_steps=200,
    tensorboard=False,
    **stages,
  )
