#!/usr/bin/env bash
# Runs a config on a TPU slice or on GPU nodes of GKE, as a JobSet; see
# launch/README.md. Running it again goes on with a run that has failed.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=launch/common.sh
. launch/common.sh

need NAME "a name for the JobSet, such as kdcl"
need IMAGE "a container image, which BUILD=1 builds and pushes"
need CONFIG "a config, such as configs/digits.py"
if ! [[ $NAME =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]]; then
  refuse "NAME is '$NAME'; expected at most 40 letters, digits and hyphens, in lower case, a letter first."
fi
KIND=${KIND:-tpu} HOSTS=${HOSTS:-1} RESTARTS=${RESTARTS:-100}
case $KIND in
  tpu)
    need TPU "the TPU of the node pool, such as tpu-v5-lite-podslice"
    need TOPOLOGY "the topology of the slice, such as 4x4"
    CHIPS=${CHIPS:-4}
    ;;
  gpu)
    need GPU "the GPU of the node pool, such as nvidia-h100-80gb"
    CHIPS=${CHIPS:-8}
    ;;
  *) refuse "KIND is '$KIND'; expected tpu or gpu." ;;
esac
number HOSTS
number CHIPS
number RESTARTS
if [ -n "${BUCKET:-}" ] && [ -n "${CLAIM:-}" ]; then
  refuse "BUCKET and CLAIM are both set; expected one of them."
elif [ -z "${CLAIM:-}" ]; then
  need BUCKET "a Cloud Storage bucket (or CLAIM to a volume claim that all hosts may write) for the working directory"
fi

# text STRING: as YAML (and JSON) has it.
text() {
  local escaped=${1//\\/\\\\}
  printf '"%s"' "${escaped//\"/\\\"}"
}

# list STRING...: a list of texts.
list() {
  local item separator=''
  printf '['
  for item in "$@"; do
    printf '%s%s' "$separator" "$(text "$item")"
    separator=', '
  done
  printf ']'
}

flags=("--config=$CONFIG" "--workdir=/work/runs/$(name_of "$CONFIG")"
  --interrupted_code=75)
taints=()
if [ "$KIND" = gpu ]; then
  # Kubernetes puts in the $(...).
  # shellcheck disable=SC2016
  flags+=("--coordinator=$NAME-hosts-0-0.$NAME:8476" "--num_processes=$HOSTS"
    '--process_id=$(PROCESS_ID)')
  taints+=('{ key: nvidia.com/gpu, operator: Exists, effect: NoSchedule }')
else
  taints+=('{ key: google.com/tpu, operator: Exists, effect: NoSchedule }')
fi
flags+=("${arguments[@]}")

spot='# not on spot machines' annotations='{}'
if [ "${SPOT:-1}" = 1 ]; then
  spot='cloud.google.com/gke-spot: "true"'
  taints+=('{ key: cloud.google.com/gke-spot, operator: Exists, effect: NoSchedule }')
fi
if [ -n "${BUCKET:-}" ]; then
  annotations='{ gke-gcsfuse/volumes: "true" }'
  volume="csi: { driver: gcsfuse.csi.storage.gke.io, volumeAttributes: { bucketName: $(text "$BUCKET"), mountOptions: implicit-dirs } }"
else
  volume="persistentVolumeClaim: { claimName: $(text "$CLAIM") }"
fi
printf -v tolerations '%s, ' "${taints[@]}"

manifest=$(<"launch/gke/$KIND.yaml")
# fill NAME VALUE: puts a value in its place of the manifest.
fill() { manifest=${manifest//"\${$1}"/"$2"}; }
fill NAME "$(text "$NAME")"
fill IMAGE "$(text "$IMAGE")"
fill TPU "$(text "${TPU:-}")"
fill TOPOLOGY "$(text "${TOPOLOGY:-}")"
fill GPU "$(text "${GPU:-}")"
fill HOSTS "$HOSTS"
fill CHIPS "$CHIPS"
fill RESTARTS "$RESTARTS"
fill SERVICE_ACCOUNT "$(text "${SERVICE_ACCOUNT:-default}")"
fill SPOT_NODES "$spot"
fill TOLERATIONS "[${tolerations%, }]"
fill ANNOTATIONS "$annotations"
fill VOLUME "$volume"
fill ARGUMENTS "$(list "${flags[@]}")"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
printf '%s\n' "$manifest" >"$folder/jobset.yaml"
if [ "${BUILD:-0}" = 1 ]; then
  extra=tpu
  if [ "$KIND" = gpu ]; then extra=cuda; fi
  run git archive --output="$folder/source.tar" --format=tar HEAD
  run mkdir "$folder/source"
  run tar -C "$folder/source" -xf "$folder/source.tar"
  run docker build --build-arg="EXTRA=$extra" --tag="$IMAGE" \
    --file="$folder/source/launch/gke/Dockerfile" "$folder/source"
  run docker push "$IMAGE"
fi
if dry; then
  printf '%s\n' "$manifest"
else
  ended=$(kubectl get jobset "$NAME" --ignore-not-found \
    --output='jsonpath={.status.terminalState}')
  # One that has ended cannot be started again; the working directory is kept.
  if [ -n "$ended" ]; then run kubectl delete jobset "$NAME"; fi
fi
run kubectl apply --filename="$folder/jobset.yaml"
say "its log: kubectl logs --follow --selector=jobset.sigs.k8s.io/jobset-name=$NAME,batch.kubernetes.io/job-completion-index=0"
say "its end: kubectl get jobset $NAME; then delete it: kubectl delete jobset $NAME"
