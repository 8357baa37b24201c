"""config/kubernetes: objects that their schemas take, that fit together, and that fit camserve."""

import copy
import gzip
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from camserve.cli.command import build_parser
from camserve.operate.front import TEMPLATE
from camserve.operate.ports import METRICS_OFFSET
from camserve.operate.server import STOP_SECONDS
from camserve.operate.shipped import CONFIG_FOLDER

ROOT = Path(__file__).parents[2]
FOLDER = CONFIG_FOLDER / "kubernetes"
CRDS = Path(os.environ.get("CAMSERVE_DATA", ROOT.parent / "shared" / "data")) / "crds"
OVERLAYS = ("overlays/cpu", "overlays/gpu")
NOT_OBJECTS = ("kustomization.yaml", "prometheus-adapter.yaml")
CUSTOM = ("monitoring.coreos.com", "serving.kserve.io", "keda.sh", "ray.io")


def objects(path):
    return list(yaml.safe_load_all(path.read_text()))


FILES = [path for path in sorted(FOLDER.rglob("*.yaml")) if path.name not in NOT_OBJECTS]
ALL = {
    f"{path.relative_to(FOLDER)}: {found['kind']} {found['metadata']['name']}": found
    for path in FILES
    for found in objects(path)
}
CORE = {name: found for name, found in ALL.items() if not found["apiVersion"].startswith(CUSTOM)}
EXTENDED = {name: found for name, found in ALL.items() if name not in CORE and "keda" not in name}


def of_kind(kind, name=None, among=ALL):
    (found,) = (
        found
        for found in (among.values() if isinstance(among, dict) else among)
        if found["kind"] == kind and name in (None, found["metadata"]["name"])
    )
    return found


def changed(found, path, value):
    """Return a copy of an object with one value changed, or with ``...`` in its place removed."""
    found = copy.deepcopy(found)
    *way, last = path
    inner = found
    for step in way:
        inner = inner[step]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return found


def kustomized(folder):
    """Return the objects that kustomize makes of a folder."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl, whose kustomize is tried")
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=False)
    if "unknown field" in done.stderr:
        pytest.skip("this kubectl's kustomize is older than 5")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return list(yaml.safe_load_all(done.stdout))


def check_core(found):
    kubernetes_validate.validate(found, "1.37", strict=True)


@pytest.mark.parametrize("name", CORE)
def test_the_objects_of_kubernetes_itself_are_valid(name):
    check_core(CORE[name])


POD = ("spec", "template", "spec")
CONTAINER = (*POD, "containers", 0)
HPA = ("spec", "metrics", 0, "pods")


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("Deployment", ("spec", "selector"), ...),
        ("Deployment", (*POD, "terminationGracePeriod"), 80),
        ("Deployment", (*POD, "volumes", 0, "emptydir"), {}),
        ("Deployment", (*CONTAINER, "readinessProbe", "httpGet", "port"), ...),
        ("Deployment", (*CONTAINER, "securityContext", "readOnlyRootFileSystem"), True),
        ("Deployment", (*CONTAINER, "env", 0, "value"), 2),
        ("Service", ("spec", "ports", 0, "port"), "http"),
        ("PodDisruptionBudget", ("spec", "maxUnavailible"), 1),
        ("HorizontalPodAutoscaler", (*HPA, "metric", "name"), ...),
        ("HorizontalPodAutoscaler", ("spec", "maxReplicas"), ...),
        ("HorizontalPodAutoscaler", ("spec", "behaviour"), {}),
        ("NetworkPolicy", ("spec", "ingress", 0, "from", 0, "podselector"), {}),
        ("ConfigMap", ("data", "camserve.json"), {"uid": "camserve"}),
    ],
)
def test_a_fault_in_an_object_of_kubernetes_itself_is_found(kind, path, value):
    name = None if kind != "Service" else "camserve"
    with pytest.raises(kubernetes_validate.ValidationError):
        check_core(changed(of_kind(kind, name), path, value))


def strict(schema):
    """Return a schema of a custom resource as a server with strict field validation reads it."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    read = {key: strict(part) for key, part in schema.items()}
    if schema.get("x-kubernetes-int-or-string"):
        read.pop("type", None)
    if "(?i)" in str(schema.get("pattern", "")):  # Go takes flags anywhere, Python at the front alone
        read["pattern"] = f"(?i){schema['pattern'].replace('(?i)', '')}"
    open_to_all = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not open_to_all:
        read["additionalProperties"] = False
    return read


def check_extended(found):
    """Raise ValidationError where an object of another project is not as its schema says."""
    path = CRDS / f"{found['kind'].lower()}s.yaml.gz"
    if not path.is_file():
        pytest.skip(f"the project's schema in {path}: CAMSERVE_DATA names its folder")
    read_schema(path, found["apiVersion"]).validate(found)


@cache
def read_schema(path, api_version):
    group, _, version = api_version.partition("/")
    with gzip.open(path) as file:
        definition = yaml.load(file, yaml.CSafeLoader)["spec"]
    assert definition["group"] == group
    (served,) = (block for block in definition["versions"] if block["name"] == version and block["served"])
    schema = strict(served["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}  # as Kubernetes itself checks it
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("name", EXTENDED)
def test_the_objects_of_other_projects_are_valid(name):
    check_extended(EXTENDED[name])


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("ServiceMonitor", ("spec", "selector"), ...),
        ("ServiceMonitor", ("spec", "endpoints", 0, "intervall"), "15s"),
        ("ServiceMonitor", ("spec", "endpoints", 0, "interval"), "a while"),
        ("PrometheusRule", ("spec", "groups", 0, "name"), ...),
        ("PrometheusRule", ("spec", "groups", 0, "rules", 0, "expr"), ...),
        ("PrometheusRule", ("spec", "groups", 0, "rules", 0, "label"), {}),
        ("ServingRuntime", ("spec", "containers", 0, "name"), ...),
        ("ServingRuntime", ("spec", "protocols"), ["v1"]),
        ("ServingRuntime", ("spec", "containers", 0, "ports", 0, "containerPort"), "http"),
        ("InferenceService", ("spec", "predictor", "model", "modelFormat"), "camserve"),
        ("InferenceService", ("spec", "predictor", "minReplica"), 2),
        ("RayService", ("spec", "serveConfig"), ""),
        ("RayService", ("spec", "serveConfigV2"), {}),
        ("RayService", ("spec", "rayClusterConfig", "headGroupSpec", "template"), ...),
        ("RayService", ("spec", "rayClusterConfig", "workerGroupSpecs", 0, "maxReplica"), 2),
    ],
)
def test_a_fault_in_an_object_of_another_project_is_found(kind, path, value):
    found = of_kind(kind)
    with pytest.raises(jsonschema.ValidationError):
        check_extended(changed(found, path, value))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_valid_and_names_an_image_and_what_the_pod_may_take(overlay):
    made = kustomized(FOLDER / overlay)
    assert {found["kind"] for found in made} == {
        *("Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy")
    }
    for found in made:
        check_core(found)
    (container,) = of_kind("Deployment", among=made)["spec"]["template"]["spec"]["containers"]
    assert container["image"].startswith("registry.example/camserve:")
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == overlay.endswith("gpu")
    threads = {entry["name"]: entry["value"] for entry in container["env"]}["OMP_NUM_THREADS"]
    assert threads == container["resources"]["requests"]["cpu"]


def test_keda_takes_the_autoscalers_place(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "kubernetes")
    overlay = tmp_path / "kubernetes" / "overlays" / "cpu"
    with (overlay / "kustomization.yaml").open("a") as file:
        file.write("components: [../../keda]\n")
    made = kustomized(overlay)
    assert "HorizontalPodAutoscaler" not in {found["kind"] for found in made}
    assert of_kind("ScaledObject", among=made)["spec"]["scaleTargetRef"] == {"name": "camserve"}


@pytest.mark.parametrize("folder", ["monitoring", "kserve", "kuberay"])
def test_the_other_folders_hold_every_object_of_theirs(folder):
    made = {(found["kind"], found["metadata"]["name"]) for found in kustomized(FOLDER / folder)}
    assert made == {(ALL[name]["kind"], ALL[name]["metadata"]["name"]) for name in ALL if name.startswith(folder)}


def test_what_selects_pods_and_ports_finds_them():
    deployment = of_kind("Deployment")
    pod = deployment["spec"]["template"]
    ports = {port["name"]: port["containerPort"] for port in pod["spec"]["containers"][0]["ports"]}
    labels = pod["metadata"]["labels"]
    for selector in (
        deployment["spec"]["selector"]["matchLabels"],
        of_kind("Service", "camserve")["spec"]["selector"],
        of_kind("Service", "camserve-metrics")["spec"]["selector"],
        of_kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        of_kind("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        pod["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    ):
        assert selector == labels
    targets = [port["targetPort"] for name in ("camserve", "camserve-metrics") for port in _ports("Service", name)]
    let_in = [port["port"] for rule in of_kind("NetworkPolicy")["spec"]["ingress"] for port in rule["ports"]]
    assert targets == let_in == list(ports) == ["http", "metrics"]
    scrape = of_kind("ServiceMonitor")["spec"]
    metrics = of_kind("Service", "camserve-metrics")
    assert scrape["selector"]["matchLabels"] == metrics["metadata"]["labels"]
    assert scrape["endpoints"][0]["port"] == metrics["spec"]["ports"][0]["name"]
    assert scrape["endpoints"][0]["relabelings"][0]["replacement"] == "torchserve"
    assert "job_name: torchserve" in (CONFIG_FOLDER / "monitoring" / "prometheus.yml").read_text()


def _ports(kind, name):
    return of_kind(kind, name)["spec"]["ports"]


def containers():
    """Return both ways to run a pod: its container, volumes, and arguments of ``camserve serve``."""
    pod, runtime = of_kind("Deployment")["spec"]["template"]["spec"], of_kind("ServingRuntime")["spec"]
    (plain,), (kserve,) = pod["containers"], runtime["containers"]
    return {
        "Deployment": (plain, pod["volumes"], [*plain["command"][1:], *plain["args"]]),
        "ServingRuntime": (kserve, runtime["volumes"], kserve["args"][0].split()[2:]),
    }


@pytest.mark.parametrize("kind", ["Deployment", "ServingRuntime"])
def test_a_pod_runs_the_command_line_as_it_is_and_asks_what_the_front_answers(kind):
    container, volumes, arguments = containers()[kind]
    args = build_parser("serve").parse_args(arguments)
    assert args.listen == args.metrics_listen == "0.0.0.0"
    ports = {port.get("name", "http"): port["containerPort"] for port in container["ports"]}
    assert ports["http"] == args.proxy
    metrics = args.port + METRICS_OFFSET
    scraped = of_kind("ServingRuntime")["spec"]["annotations"]["prometheus.kserve.io/port"]
    assert metrics == (ports["metrics"] if kind == "Deployment" else int(scraped))
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["port"] in ("http", args.proxy)
        assert asked["path"] == ("/v2/health/ready" if probe == "readinessProbe" else "/v2/health/live")
    assert "location = /v2/health/ready" in TEMPLATE.read_text()
    assert "(?:ping|v2/health/live)" in TEMPLATE.read_text()
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert {str(args.folder), str(args.clients), "/tmp"} <= set(mounts)
    assert set(mounts.values()) == {volume["name"] for volume in volumes}


@pytest.mark.parametrize("kind", ["Deployment", "ServingRuntime"])
def test_a_pod_may_as_little_as_it_needs(kind):
    container, volumes, _ = containers()[kind]
    pod = of_kind("Deployment")["spec"]["template"]["spec"].get("securityContext", {}) if kind == "Deployment" else {}
    held = {**pod, **container["securityContext"]}
    assert held["runAsNonRoot"]
    assert held["runAsUser"] == 1000
    assert held["readOnlyRootFilesystem"]
    assert not held["allowPrivilegeEscalation"]
    assert held["capabilities"] == {"drop": ["ALL"]}
    assert held["seccompProfile"] == {"type": "RuntimeDefault"}
    writable = {volume["name"] for volume in volumes if "emptyDir" in volume}
    assert writable == {"run", "tmp"}
    assert all(volume["emptyDir"]["sizeLimit"] for volume in volumes if "emptyDir" in volume)


def test_a_pod_has_the_time_that_its_end_takes():
    pod = of_kind("Deployment")["spec"]["template"]["spec"]
    waits = int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= waits + 2 * STOP_SECONDS


def test_an_inference_service_is_called_as_its_archive():
    service = of_kind("InferenceService")
    assert service["spec"]["predictor"]["model"]["storageUri"].endswith(f"/{service['metadata']['name']}")
    assert service["spec"]["predictor"]["model"]["runtime"] == of_kind("ServingRuntime")["metadata"]["name"]


def test_a_ray_service_reads_what_its_pods_have():
    spec = of_kind("RayService")["spec"]
    groups = [spec["rayClusterConfig"]["headGroupSpec"], *spec["rayClusterConfig"]["workerGroupSpecs"]]
    (application,) = yaml.safe_load(spec["serveConfigV2"])["applications"]
    args = application["args"]
    for group in groups:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert {args["token_folder"], *(str(Path(path).parent) for path in args["archives"])} < set(mounts)
        assert set(mounts.values()) == {volume["name"] for volume in pod["volumes"]}
        held = {**pod["securityContext"], **container["securityContext"]}
        assert held["runAsNonRoot"]
        assert held["readOnlyRootFilesystem"]
        assert held["capabilities"] == {"drop": ["ALL"]}


def queries():
    """Return what both autoscalers ask Prometheus: of each pod, and of all."""
    (rule,) = yaml.safe_load((FOLDER / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    series = rule["seriesQuery"].partition("{")[0]
    asked = rule["metricsQuery"].replace("<<.Series>>", series).replace("<<.GroupBy>>", "pod")
    asked = asked.replace("<<.LabelMatchers>>", 'namespace="here"')
    return rule, asked, of_kind("ScaledObject")["spec"]["triggers"][0]["metadata"]["query"]


def test_the_autoscalers_read_a_metric_that_exists():
    rule, asked, of_all = queries()
    hpa = of_kind("HorizontalPodAutoscaler")["spec"]
    assert hpa["metrics"][0]["pods"]["metric"]["name"] == rule["name"]["as"]
    assert set(rule["resources"]["overrides"]) == {"namespace", "pod"}
    declared = yaml.safe_load((CONFIG_FOLDER / "metrics.yaml").read_text())["model_metrics"]["counter"]
    for query in (rule["seriesQuery"], asked, of_all):
        assert set(re.findall(r"cam_\w+", query)) <= {metric["name"] for metric in declared}
    keda = of_kind("ScaledObject")["spec"]
    target = hpa["metrics"][0]["pods"]["target"]["averageValue"]
    assert target == f"{float(keda['triggers'][0]['metadata']['threshold']) * 1000:.0f}m"
    assert (hpa["minReplicas"], hpa["maxReplicas"]) == (keda["minReplicaCount"], keda["maxReplicaCount"])


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool of Debian's package prometheus")
def test_the_autoscalers_see_how_many_workers_are_at_work(tmp_path):
    """Pod a: forward 0.5 s and decode 0.2 s in a second. Pod b: 0.1 s. Another namespace is not ours."""
    _, of_each, of_all = queries()
    series = [
        {"series": f'cam_stage_microseconds_total{{namespace="{space}",pod="{pod}",stage="{stage}"}}', "values": values}
        for space, pod, stage, values in (
            ("here", "a", "forward", "0+7500000x20"),  # in 15 seconds
            ("here", "a", "decode", "0+3000000x20"),
            ("here", "b", "forward", "0+1500000x20"),
            ("there", "c", "forward", "0+3000000x20"),
        )
    ]
    test = [
        {"expr": of_each, "eval_time": "5m", "exp_samples": [_sample("a", 0.7), _sample("b", 0.1)]},
        {"expr": of_all, "eval_time": "5m", "exp_samples": [{"labels": "{}", "value": 1.0}]},
    ]
    (tmp_path / "none.yml").write_text("groups: []\n")
    tests = [{"interval": "15s", "input_series": series, "promql_expr_test": test}]
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"rule_files": ["none.yml"], "tests": tests}))
    done = subprocess.run(
        ["promtool", "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _sample(pod, value):
    return {"labels": f'{{pod="{pod}"}}', "value": value}
