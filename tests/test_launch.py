"""Launch scripts say what they would do, do it, and go on when interrupted.

What they call on other machines is played by programs in a folder of the PATH,
which write down how they were called.
"""

import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
CONFIG = "configs/digits.py:clean"
# What each script cannot do without.
NEEDED = {
  "gpu.sh": {"HOST": "me@box", "CONFIG": CONFIG},
  "tpu_vm.sh": {"NAME": "k", "ZONE": "z", "CONFIG": CONFIG},
  "gke/run.sh": {
    "NAME": "k",
    "IMAGE": "registry/k",
    "CONFIG": CONFIG,
    "TPU": "tpu-v5-lite-podslice",
    "TOPOLOGY": "4x4",
    "BUCKET": "b",
  },
  "slurm.sbatch": {"CONFIG": CONFIG},
  "local_multiprocess.sh": {"CONFIG": CONFIG},
}
SCRIPTS = [
  *(
    path
    for pattern in ("*.sh", "*/*.sh", "*.sbatch")
    for path in sorted(LAUNCH.glob(pattern))
  )
]


def call(script, *arguments, folder=LAUNCH, path="", timeout=60, **variables):
  """Executes a script, by programs of `path` first, with nothing else set."""
  return subprocess.run(
    ["bash", str(folder / script), *arguments],
    env={"PATH": path + os.environ["PATH"], "HOME": os.environ["HOME"]}
    | variables,
    capture_output=True,
    text=True,
    timeout=timeout,
  )


def dry_run(script, *arguments, **variables):
  return call(script, *arguments, DRY_RUN="1", **NEEDED[script] | variables)


def commands(done):
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  return [shlex.split(line)[1:] for line in lines if line.startswith("+ ")]


def verbs(done):
  steps = commands(done)
  return [s[4] if s[0] == "gcloud" else s[0] for s in steps]


class Stage:
  """A folder with programs that stand for those of other machines."""

  def __init__(self, folder):
    self.folder = folder
    self.bin = folder / "bin"
    self.bin.mkdir(parents=True)
    # The source is that of this checkout, committed or not.
    self.program(
      "git",
      'for word in "$@"; do case $word in --output=*) target=${word#*=};; esac;'
      f" done\nexec tar -C {shlex.quote(str(ROOT))} -cf $target launch",
    )

  def program(self, name, text):
    path = self.bin / name
    log = shlex.quote(str(self.folder / "calls"))
    path.write_text(
      f'#!/bin/bash\nprintf "%s\\n" "{name} $*" >>{log}\n'
      f"S={self.folder}\n{text}\n"
    )
    path.chmod(0o755)

  def calls(self, *names):
    lines = (self.folder / "calls").read_text().splitlines()
    return [line for line in lines if line.split()[0] in names]

  def call(self, script, *arguments, **variables):
    return call(
      script, *arguments, path=f"{self.bin}:", **NEEDED[script] | variables
    )


@pytest.fixture
def stage(tmp_path):
  return Stage(tmp_path / "stage")


def machine(stage, python):
  """A machine, reached by ssh and scp, whose python does what is said."""
  home = stage.folder / "home"
  venv = home / "kdcl_jax_run" / ".venv" / "bin"
  venv.mkdir(parents=True)
  for name, text in (("pip", "exit 0"), ("python", python)):
    (venv / name).write_text(f"#!/bin/bash\n{text}\n")
    (venv / name).chmod(0o755)
  stage.program("ssh", f'cd {home} && exec bash -c "${{@: -1}}"')
  stage.program(
    "scp",
    f"cd / && one=${{2/me@box:/{home}/}} && two=${{3/me@box:/{home}/}} &&"
    ' exec cp "$one" "$two"',
  )
  return home / "kdcl_jax_run"


# What they would do


def test_a_gpu_host_is_sent_the_source_and_asked_for_the_report():
  done = dry_run("gpu.sh", "--config.log_steps=5", ARGS="--config.seeds=5 --x")
  assert verbs(done) == ["git", "ssh", "scp", "ssh", "scp", "mkdir", "tar"]
  remote = commands(done)[3][-1]
  assert remote.endswith(
    f"launch/remote.sh cuda runs/digits_clean {CONFIG} --config.seeds=5 --x"
    " --config.log_steps=5"
  )
  elsewhere = dry_run("gpu.sh", RUNS="/mnt/disk/my runs", EXTRA="cuda,test")
  words = shlex.split(commands(elsewhere)[3][-1])
  assert words[-3:-1] == ["cuda,test", "/mnt/disk/my runs/digits_clean"]


def test_a_tpu_vm_is_created_used_by_all_its_workers_and_deleted():
  done = dry_run("tpu_vm.sh")
  wanted = ["git", "create", "scp", "ssh", "scp", "mkdir", "tar", "delete"]
  assert verbs(done) == wanted
  create, copy, run, fetch = commands(done)[1:5]
  assert "--spot" in create and "--worker=all" in copy and "--worker=all" in run
  assert "--worker=0" in fetch
  assert f"tpu runs/digits_clean {CONFIG}" in run[-1]
  assert "begins anew" in done.stderr  # a spot machine keeps nothing
  kept = dry_run("tpu_vm.sh", KEEP="1", SPOT="0")
  assert verbs(kept) == wanted[:-1] and "--spot" not in kept.stdout
  assert "costs money" in kept.stderr and "anew" not in kept.stderr


def test_the_runs_of_a_tpu_vm_may_live_in_a_bucket_or_on_a_disk():
  bucket = dry_run("tpu_vm.sh", BUCKET="b")
  assert (
    "BUCKET=b bash launch/remote.sh tpu bucket/runs/digits_clean"
    in (commands(bucket)[3][-1])
  )
  disk = dry_run("tpu_vm.sh", DISK="d", PROJECT="p", DEVICE="/dev/sdc")
  create, _, run = commands(disk)[1:4]
  source = "source=projects/p/zones/z/disks/d,mode=read-write"
  assert create[-1] == f"--data-disk={source}"
  assert "DISK=/dev/sdc bash" in run[-1] and "disk/runs/digits_clean" in run[-1]
  assert "anew" not in bucket.stderr + disk.stderr


def test_a_machine_mounts_installs_and_runs():
  where = dict(BUCKET="b", DISK="/dev/sdb", DRY_RUN="1")
  done = call("remote.sh", "tpu", "runs/x", CONFIG, "--a=b c", **where)
  steps = commands(done)
  programs = [step[1] if step[0] == "sudo" else step[0] for step in steps]
  assert [p for p in programs if p not in ("install_gcsfuse", "mkdir")] == [
    *("gcsfuse", "mkfs.ext4", "mount", "chown"),
    *("make_venv", ".venv/bin/pip", ".venv/bin/python"),
  ]
  assert steps[-1][3:] == [
    *(f"--config={CONFIG}", "--workdir=runs/x", "--interrupted_code=75"),
    "--a=b c",
  ]


def test_a_slurm_job_runs_a_step_on_all_its_nodes():
  done = dry_run("slurm.sbatch", ARGS="--config.seeds=5")
  ((program, *words),) = commands(done)
  assert program == "srun" and words[-1] == "--config.seeds=5"
  assert "--workdir=runs/digits_clean" in words
  options = [
    line.removeprefix("#SBATCH ").split("=")[0]
    for line in (LAUNCH / "slurm.sbatch").read_text().splitlines()
    if line.startswith("#SBATCH")
  ]
  assert {"--nodes", "--signal", "--requeue"} <= set(options)


def test_processes_on_this_machine_are_told_of_each_other():
  done = dry_run(
    "local_multiprocess.sh", PROCESSES="3", DEVICES="4", WORKDIR="w"
  )
  _, *processes = commands(done)
  assert [p[-1] for p in processes] == [f"--process_id={i}" for i in range(3)]
  assert len({p[-3] for p in processes}) == 1
  for process in processes:
    assert process[:3] == ["env", "JAX_PLATFORMS=cpu", "JAX_NUM_CPU_DEVICES=4"]
    assert "--num_processes=3" in process and "--workdir=w" in process


def manifest(**variables):
  words = '--config.name=a "b" & c\\d: #'
  done = dry_run("gke/run.sh", words, HOSTS="4", **variables)
  assert verbs(done)[-1] == "kubectl" and "${" not in done.stdout
  text = [line for line in done.stdout.splitlines() if line[:2] != "+ "]
  jobset = yaml.safe_load("\n".join(text))
  job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
  pod = job["template"]["spec"]
  (container,) = pod["containers"]
  assert jobset["metadata"]["name"] == "k"
  assert job["parallelism"] == job["completions"] == 4
  # Other exit codes restart all pods: a failure of one is one of the JobSet.
  assert job["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"
  assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [1, 2]
  assert container["args"][:3] == [
    *(f"--config={CONFIG}", "--workdir=/work/runs/digits_clean"),
    "--interrupted_code=75",
  ]
  assert container["args"][-1] == words
  assert container["volumeMounts"][0]["mountPath"] == "/work"
  return job["template"]["metadata"], pod, container


def test_a_jobset_for_a_tpu_slice():
  metadata, pod, container = manifest(BUCKET="my-bucket", CHIPS="8")
  assert metadata["annotations"] == {"gke-gcsfuse/volumes": "true"}
  volume = pod["volumes"][0]["csi"]
  assert volume["volumeAttributes"]["bucketName"] == "my-bucket"
  assert pod["nodeSelector"] == {
    "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
    "cloud.google.com/gke-tpu-topology": "4x4",
    "cloud.google.com/gke-spot": "true",
  }
  keys = [one["key"] for one in pod["tolerations"]]
  assert keys == ["google.com/tpu", "cloud.google.com/gke-spot"]
  assert container["resources"]["limits"] == {"google.com/tpu": 8}
  assert len(container["args"]) == 4


def test_a_jobset_for_gpus_tells_the_processes_of_each_other():
  variables = dict(KIND="gpu", GPU="nvidia-l4", BUCKET="", CLAIM="c", SPOT="0")
  metadata, pod, container = manifest(**variables)
  assert metadata["annotations"] == {}
  claim = pod["volumes"][0]["persistentVolumeClaim"]
  assert claim == {"claimName": "c"}
  assert pod["nodeSelector"] == {
    "cloud.google.com/gke-accelerator": "nvidia-l4"
  }
  assert container["args"][3:6] == [
    *("--coordinator=k-hosts-0-0.k:8476", "--num_processes=4"),
    "--process_id=$(PROCESS_ID)",
  ]
  index = container["env"][0]
  assert index["name"] == "PROCESS_ID" and "job-completion-index" in str(index)


def test_an_image_is_built_where_that_is_asked():
  done = dry_run("gke/run.sh", BUILD="1", KIND="gpu", GPU="nvidia-l4")
  assert verbs(done) == ["git", "mkdir", "tar", "docker", "docker", "kubectl"]
  assert "--build-arg=EXTRA=cuda" in commands(done)[3]
  dockerfile = (LAUNCH / "gke" / "Dockerfile").read_text()
  assert "kdcl_jax.main" in dockerfile and "EXTRA" in dockerfile


# What they refuse


@pytest.mark.parametrize(
  ("script", "variable"),
  [(script, name) for script, names in NEEDED.items() for name in names],
)
def test_a_missing_variable_is_named_in_a_sentence(script, variable):
  done = dry_run(script, **{variable: ""})
  assert done.returncode == 2
  assert f": set {variable} to " in done.stderr
  assert done.stderr.count("\n") == 1 and done.stdout == ""


@pytest.mark.parametrize(
  ("script", "variables", "complaint"),
  [
    ("tpu_vm.sh", {"TRIES": "many"}, "TRIES is 'many'; expected a whole"),
    ("tpu_vm.sh", {"BUCKET": "b", "DISK": "d"}, "BUCKET and DISK are both set"),
    ("tpu_vm.sh", {"DISK": "d"}, "set PROJECT to"),
    ("gke/run.sh", {"NAME": "My_Run"}, "NAME is 'My_Run'; expected"),
    ("gke/run.sh", {"KIND": "cpu"}, "KIND is 'cpu'; expected tpu or gpu"),
    ("gke/run.sh", {"KIND": "gpu"}, "set GPU to"),
    ("gke/run.sh", {"HOSTS": "0"}, "HOSTS is '0'"),
    ("gke/run.sh", {"CLAIM": "c"}, "BUCKET and CLAIM are both set"),
    ("local_multiprocess.sh", {"PROCESSES": "two"}, "PROCESSES is 'two'"),
    ("slurm.sbatch", {"DRY_RUN": "0"}, "set SLURM_JOB_ID to a job's number"),
    ("slurm.sbatch", {"SLURM_SUBMIT_DIR": "/"}, "from the folder of the proj"),
  ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(
  script, variables, complaint
):
  done = call(script, **{"DRY_RUN": "1"} | NEEDED[script] | variables)
  assert done.returncode == 2 and complaint in done.stderr
  assert done.stderr.count("\n") == 1


# What they do


LONG_RUN = """
trap 'echo asked to end; exit 75' TERM
for word in "$@"; do case $word in --workdir=*) mkdir -p ${word#*=};; esac; done
echo begun
while [ ! -e finish ]; do sleep 0.05; done
for word in "$@"; do case $word in --workdir=*) cd ${word#*=};; esac; done
echo {} >results.json; echo report >report.html; mkdir -p export
echo ended
"""


def until(true, seconds=20):
  deadline = time.monotonic() + seconds
  while not true():
    assert time.monotonic() < deadline
    time.sleep(0.02)


def test_a_run_outlives_the_connection_and_is_followed_again(stage, tmp_path):
  there = machine(stage, LONG_RUN)
  log = there / "run.log"
  first = subprocess.Popen(
    ["bash", str(LAUNCH / "gpu.sh")],
    env=os.environ
    | NEEDED["gpu.sh"]
    | {"PATH": f"{stage.bin}:{os.environ['PATH']}"},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    start_new_session=True,
    # Tests that run under nohup would pass their deafness on.
    preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
  )
  until(lambda: log.exists() and "begun" in log.read_text())
  os.killpg(first.pid, signal.SIGHUP)
  first.wait(timeout=20)
  threads = stage.folder / "finish_later"
  threads.write_text(f"sleep 1; touch {there}/finish")
  with subprocess.Popen(["bash", str(threads)]):
    again = stage.call("gpu.sh", WORKDIR=str(tmp_path / "here"))
  assert again.returncode == 0, again.stderr
  assert "the run is going on" in again.stderr
  assert again.stdout.count("begun") == 1 and "ended" in again.stdout
  here = {path.name for path in (tmp_path / "here").iterdir()}
  assert here == {"report.html", "results.json", "export"}


@pytest.mark.parametrize(("code", "said"), [(2, "code 2"), (75, "go on")])
def test_a_gpu_host_passes_the_exit_code_on(stage, tmp_path, code, said):
  machine(stage, f"echo what it says; exit {code}")
  done = stage.call("gpu.sh", WORKDIR=str(tmp_path / "here"))
  assert done.returncode == code and said in done.stderr
  assert "what it says" in done.stdout and not (tmp_path / "here").exists()


# A TPU VM is a file with its state. The first `ssh` finds it preempted.
GCLOUD = """
verb=$4; state=$S/state
case $verb in
  describe) [[ $* != *state* ]] || { cat $state 2>/dev/null; exit; }
    echo $HOSTS_;;
  create) [ ! -e $S/full ] || { rm $S/full; echo no capacity >&2; exit 1; }
    echo READY >$state;;
  delete) rm $state;;
  ssh) [ ! -e $S/preempt ] ||
      { rm $S/preempt; echo PREEMPTED >$state; exit 1; }
    [ ! -e $S/cut ] || { code=$(cat $S/cut); rm $S/cut; exit $code; }
    exit ${CODE:-0};;
  scp) if [[ $* = *report.tar.gz* ]]; then
      mkdir -p $S/made; echo report >$S/made/report.html
      tar -C $S/made -czf ${@: -3:1} report.html; fi;;
esac
"""


def tpu_calls(stage):
  return [line.split()[4] for line in stage.calls("gcloud")]


def test_a_preempted_tpu_vm_is_made_anew_and_goes_on(stage, tmp_path):
  stage.program("gcloud", GCLOUD)
  for event in ("full", "preempt"):
    (stage.folder / event).touch()
  done = stage.call(
    "tpu_vm.sh", WORKDIR=str(tmp_path / "here"), BUCKET="b", PAUSE="1"
  )
  assert done.returncode == 0, done.stderr
  assert [v for v in tpu_calls(stage) if v != "describe"] == [
    "create",  # for which there is no capacity
    *("create", "scp", "ssh"),  # and the machine is preempted
    *("delete", "create", "scp", "ssh", "scp", "delete"),
  ]
  assert done.stderr.count("trying again") == 2
  assert (tmp_path / "here" / "report.html").exists()


@pytest.mark.parametrize("code", [75, 134, 255])
def test_what_interrupts_a_run_but_not_its_tpu_vm_is_tried_again(
  stage, tmp_path, code
):
  stage.program("gcloud", GCLOUD)
  (stage.folder / "cut").write_text(str(code))
  done = stage.call("tpu_vm.sh", WORKDIR=str(tmp_path), PAUSE="1")
  assert done.returncode == 0, done.stderr
  used = [verb for verb in tpu_calls(stage) if verb != "describe"]
  assert used == ["create", *("scp", "ssh") * 2, "scp", "delete"]


@pytest.mark.parametrize("code", [1, 2])
@pytest.mark.parametrize("variables", [{}, {"BUCKET": "b"}])
def test_a_failure_is_not_tried_again_and_what_it_made_not_lost(
  stage, tmp_path, variables, code
):
  stage.program("gcloud", GCLOUD)
  done = stage.call(
    "tpu_vm.sh", WORKDIR=str(tmp_path), CODE=str(code), PAUSE="1", **variables
  )
  used = tpu_calls(stage)
  assert done.returncode == code and used.count("ssh") == 1
  assert ("delete" in used) == bool(variables)
  assert ("costs money" in done.stderr) != bool(variables)


def test_several_hosts_without_a_bucket_are_refused(stage, tmp_path):
  stage.program("gcloud", GCLOUD)
  done = stage.call("tpu_vm.sh", WORKDIR=str(tmp_path), HOSTS_="4")
  assert done.returncode == 2 and "set BUCKET" in done.stderr
  assert "ssh" not in tpu_calls(stage)


@pytest.mark.parametrize(
  ("code", "restarts", "ends", "requeued"),
  [(0, 0, 0, 0), (2, 0, 2, 0), (1, 0, 1, 0)]
  + [(75, 0, 0, 1), (134, 3, 0, 1), (75, 4, 75, 0)],
)
def test_an_interrupted_slurm_job_requeues_itself(
  stage, code, restarts, ends, requeued
):
  stage.program("srun", f"exit {code}")
  stage.program("scontrol", "exit 0")
  # A job runs a copy of the script, from a folder of Slurm's.
  copied = shutil.copy(LAUNCH / "slurm.sbatch", stage.folder / "slurm_script")
  done = call(
    copied,
    path=f"{stage.bin}:",
    CONFIG=CONFIG,
    SLURM_JOB_ID="7",
    SLURM_SUBMIT_DIR=str(ROOT),
    SLURM_RESTART_COUNT=str(restarts),
    RESTARTS="4",
  )
  assert done.returncode == ends
  assert stage.calls("scontrol") == ["scontrol requeue 7"] * requeued


@pytest.mark.parametrize("state", ["", "Failed"])
def test_a_jobset_that_has_ended_is_started_anew(stage, state):
  stage.program("kubectl", f'[ "$1" != get ] || printf "{state}"')
  done = stage.call("gke/run.sh")
  assert done.returncode == 0, done.stderr
  used = [line.split()[1] for line in stage.calls("kubectl")]
  assert used == ["get", *(["delete"] if state else []), "apply"]


# Several processes on this machine


def test_when_a_process_dies_the_others_are_ended(tmp_path):
  python = tmp_path / "python"
  python.write_text(
    "#!/bin/bash\nfor id in $@; do :; done\n"
    "[ $id != --process_id=1 ] || { sleep 0.5; echo its last words; exit 7; }\n"
    "trap '' TERM; while :; do sleep 0.1; done\n"
  )
  python.chmod(0o755)
  before = time.monotonic()
  done = call(
    "local_multiprocess.sh",
    **NEEDED["local_multiprocess.sh"],
    **dict(
      PYTHON=str(python), PORT="1", GRACE="1", WORKDIR=str(tmp_path / "w")
    ),
  )
  assert done.returncode == 7 and time.monotonic() - before < 20
  assert "process 1 ended with exit code 7" in done.stderr
  assert "its last words" in done.stderr


def test_sigterm_reaches_all_processes(tmp_path):
  python = tmp_path / "python"
  python.write_text(
    "#!/bin/bash\nfor id in $@; do :; done\n"
    f"trap 'touch {tmp_path}/ended$id; exit 0' TERM\n"
    f"touch {tmp_path}/begun$id\n"
    "while :; do sleep 0.05; done\n"
  )
  python.chmod(0o755)
  environ = dict(PYTHON=str(python), PORT="1", WORKDIR=str(tmp_path / "w"))
  process = subprocess.Popen(
    ["bash", str(LAUNCH / "local_multiprocess.sh")],
    env=os.environ | NEEDED["local_multiprocess.sh"] | environ,
    stdout=subprocess.DEVNULL,
  )
  until(lambda: len(list(tmp_path.glob("begun*"))) == 2)
  process.terminate()
  assert process.wait(timeout=20) == 0
  assert len(list(tmp_path.glob("ended*"))) == 2


TINY = """
from kdcl_jax import config as kdcl

def get_config():
  only = kdcl.stage(model=dict(name="mlp"), steps=10)
  return kdcl.run(stages=("baseline",), export="baseline", baseline=only)
"""


def test_two_processes_of_the_program_meet(tmp_path):
  config = tmp_path / "config.py"
  config.write_text(TINY)
  done = call(
    "local_multiprocess.sh",
    "--plan",
    CONFIG=str(config),
    WORKDIR=str(tmp_path / "plan"),
    PYTHON=sys.executable,
    DEVICES="2",
    timeout=240,
  )
  assert done.returncode == 0, done.stderr
  assert "process 0 of 2" in done.stderr and "2 of 4 devices" in done.stderr
  other = (tmp_path / "plan" / "process_1.log").read_text()
  assert "process 1 of 2" in other
  # One of them speaks.
  assert "The plan is" in done.stdout and "The plan is" not in other
  assert (tmp_path / "plan" / "plan.html").exists()


# How they are written


def test_every_script_is_in_the_readme():
  text = (LAUNCH / "README.md").read_text()
  for script in NEEDED:
    assert f"`{script}`" in text
  for script in SCRIPTS:
    relative = str(script.relative_to(LAUNCH))
    if relative not in ("common.sh", "remote.sh"):
      assert relative in NEEDED
  for variable in {name for names in NEEDED.values() for name in names}:
    assert f"`{variable}`" in text, variable


def test_shellcheck_finds_nothing():
  beside = pathlib.Path(sys.executable).with_name("shellcheck")
  program = shutil.which("shellcheck") or (beside.exists() and str(beside))
  if not program:
    pytest.skip("shellcheck is not installed")
  done = subprocess.run(
    [program, "-x", *map(str, SCRIPTS)],
    capture_output=True,
    text=True,
    cwd=ROOT,
  )
  assert done.returncode == 0, done.stdout
