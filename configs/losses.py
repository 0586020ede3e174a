r"""Every loss trains the same small student on Fashion-MNIST, for a short run.

  python -m kdcl_jax.main --config=configs/losses.py --workdir=runs/losses

8,000 training records, 600 steps for a student: a check that each loss works in
the pipeline, with its projector, and a first look at what it does. Nothing is
tuned; coefficients are those of the literature where it has any. One teacher
for each family (`cnn`, and `vit` for attention), one baseline for each. The
table is in docs/losses.md.

Variants: `:digits` (no download, 150 steps), or the names of losses, as in
`:rkd,crd`; `:digits,rkd` does both.
"""

from ml_collections import ConfigDict

from kdcl_jax import config as kdcl
from kdcl_jax.losses import LOSSES

# Those of the losses that compare nothing with a teacher, or are parts of one.
LEFT_OUT = ("cross_entropy", "mlkd_batch", "mlkd_class")
LAYERS = ("f0", "f1")
BEFORE_RELU = ("f0_pre", "f1_pre")
LAST_MAP = dict(student_tap="f1", teacher_tap="f1")
POOLED = dict(student_tap="f2", teacher_tap="f2")
ALL = dict(student_tap=LAYERS, teacher_tap=LAYERS)
PRE = dict(student_tap=BEFORE_RELU, teacher_tap=BEFORE_RELU)
LEVELS = ("f0_pre", "f1_pre", "f2")

# loss -> what its term has in addition to a coefficient of 1.
TERMS = {
  "ab": PRE | dict(projector=dict(name="fusion")),
  "at": ALL | dict(coefficient=1000.0),
  "attention_ce": dict(student_tap="a2", teacher_tap="a2"),
  "attention_mse": dict(student_tap="a2", teacher_tap="a2"),
  "bert_pkd": dict(
    student_tap="h2",
    teacher_tap="h2",
    coefficient=10.0,
    projector=dict(name="linear"),
  ),
  "cc": POOLED | dict(coefficient=0.02, projector=dict(name="embeddings")),
  "cckd": POOLED | dict(coefficient=100.0),
  "crd": POOLED
  | dict(coefficient=0.8, projector=dict(name="memory", negatives=1024)),
  "cwd": LAST_MAP | dict(projector=dict(name="conv", relu=False)),
  "dist": dict(coefficient=2.0),
  "dkd": dict(beta=2.0),
  "dml": dict(
    projector=dict(
      name="peer", model="cnn", options=(("widths", (6, 12)), ("hidden", 24))
    )
  ),
  "fitnet": LAST_MAP | dict(coefficient=100.0, projector=dict(name="conv")),
  "fsp": ALL | dict(coefficient=50.0, projector=dict(name="fusion")),
  "ft": LAST_MAP | dict(coefficient=200.0, projector=dict(name="factors")),
  "hidden_cosine": LAST_MAP | dict(projector=dict(name="tokens")),
  "hidden_fsp": LAST_MAP | dict(projector=dict(name="tokens")),
  "hidden_mmd": LAST_MAP | dict(projector=dict(name="tokens")),
  "hidden_mse": LAST_MAP | dict(projector=dict(name="tokens")),
  "kd": dict(temperature=4.0),
  "logit_mse": dict(),
  "lskd": dict(coefficient=9.0, temperature=2.0),
  "mgd": dict(
    student_tap="f1_pre",
    teacher_tap="f1_pre",
    projector=dict(name="generator"),
  ),
  "mld": dict(coefficient=0.1),
  "nst": ALL | dict(coefficient=50.0),
  "ofd": dict(
    student_tap="f1_pre",
    teacher_tap="f1_pre",
    coefficient=1e-3,
    projector=dict(name="ofd"),
  ),
  "pearson": LAST_MAP | dict(projector=dict(name="conv", relu=False)),
  "pkt": POOLED | dict(coefficient=3e4),
  "reviewkd": dict(
    student_tap=LEVELS, teacher_tap=LEVELS, projector=dict(name="fusion")
  ),
  "rkd": POOLED,
  "rkd_angle": POOLED | dict(coefficient=50.0),
  "rkd_distance": POOLED | dict(coefficient=25.0),
  "sp": LAST_MAP | dict(coefficient=3000.0),
  "sparse_hinge_rank": dict(projector=dict(name="top_k", k=3)),
  "sparse_jsd": dict(projector=dict(name="top_k", k=3)),
  "sparse_kl": dict(projector=dict(name="top_k", k=3)),
  "sparse_logistic_rank": dict(projector=dict(name="top_k", k=3)),
  "sparse_total_variation": dict(projector=dict(name="top_k", k=3)),
  "srd": POOLED
  | dict(coefficient=2.0, projector=dict(name="linear", norm_output=True)),
  "srrl": POOLED | dict(projector=dict(name="srrl")),
  "vid": ALL | dict(projector=dict(name="vid")),
}
# Other forms of losses above: a learned temperature, standardised logits, DOT.
VARIED = {
  "ctkd": dict(loss="kd", projector=dict(name="ctkd")),
  "dkd_lskd": dict(
    loss="dkd",
    coefficient=9.0,
    alpha=1.0,
    beta=1.0,
    temperature=2.0,
    projector=dict(name="standardize"),
  ),
  "kd_cwsm": dict(loss="kd", projector=dict(name="cwsm")),
  "kd_dot": dict(loss="kd"),
  "kd_flsw": dict(loss="kd", projector=dict(name="flsw")),
}
ATTENTION = ("attention_ce", "attention_mse", "bert_pkd")
SEVERAL = ("ca_mkd", "kd_teachers")
ALONE = ("dml",)  # learns from a peer, not from a teacher

TEACHER = dict(name="cnn", widths=(32, 64), hidden=128)
SECOND = dict(name="cnn", widths=(24, 48), hidden=96)
STUDENT = dict(name="cnn", widths=(6, 12), hidden=24)
VIT = dict(name="vit", patch=4, width=64, depth=2, heads=4)
SMALL_VIT = dict(name="vit", patch=4, width=24, depth=2, heads=4)


def get_config(variant: str = "") -> ConfigDict:
  """The config of a variant."""
  words = tuple(word for word in variant.split(",") if word)
  digits = "digits" in words
  known = [name for name in LOSSES if name not in LEFT_OUT] + [*VARIED]
  chosen = [word for word in words if word != "digits"] or known
  for word in chosen:
    if word not in known:
      raise ValueError(f"no variant {word!r}; valid are digits, {known}")
  steps = 150 if digits else 600
  vit = {"patch": 2} if digits else {}

  def stage(model: dict, *, length: int = 1, dot: bool = False, **fields):
    # A student that learns faster than its regressor makes its features
    # constant, which fits better than noise, and then it is dead.
    optimizer = dict(
      name="adam", learning_rate=3e-3, projectors=dict(learning_rate=3e-2)
    )
    if dot:  # its two momenta make its steps 10 and 40 times as large
      optimizer = dict(name="dot", learning_rate=5e-3)
    optimizer |= dict(schedule=dict(warmup=0.1))
    return kdcl.stage(
      model=model,
      batch_size=64,
      steps=length * steps,
      optimizer=optimizer,
      **fields,
    )

  def student(name: str) -> ConfigDict:
    extra = TERMS.get(name, VARIED.get(name, {}))
    objective = {"cross_entropy": dict(coefficient=1.0), name: extra}
    if name in ATTENTION:
      model = SMALL_VIT | vit
      teachers = ("vit_teacher",)
    else:
      model = STUDENT
      teachers = ("teacher", "second_teacher")[: 1 + (name in SEVERAL)]
    if name in ALONE:
      teachers = ()
    return stage(
      model, teachers=teachers, objective=objective, dot=name == "kd_dot"
    )

  stages = dict(teacher=stage(TEACHER, length=3))
  if set(chosen) & set(SEVERAL):
    stages["second_teacher"] = stage(SECOND, length=3)
  stages["baseline"] = stage(STUDENT)
  if set(chosen) & set(ATTENTION):
    stages["vit_teacher"] = stage(VIT | vit, length=3)
    stages["vit_baseline"] = stage(SMALL_VIT | vit)
  stages |= {name: student(name) for name in chosen}
  data = dict(source="digits")
  if not digits:
    data = dict(source="tfds:fashion_mnist", train_size=10000, test_size=0)
  return kdcl.run(
    name="losses" + (f":{variant}" if variant else ""),
    stages=tuple(stages),
    data=data,
    export="",
    log_steps=100,
    tensorboard=False,
    seeds=1 if digits else 3,
    **stages,
  )
