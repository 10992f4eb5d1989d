"""Each check finds the mistake that it is there for: a build that is right, one thing changed, and it complains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.k8s import cluster_checks, object_checks, pair_checks, pod_checks
from tests.k8s.manifests import Build, Object, Objects, of_kind, render
from tests.k8s.pods import pods
from tests.k8s.scheduler import requests
from tests.k8s.test_builds import CHECKS, Check, validate

CPU = Build("overlays/cpu")
GATEWAY = Build("overlays/cpu", ("gateway-route",))
KEDA = Build("overlays/cpu", ("prometheus-operator", "keda", "scale-to-zero-ingress-nginx", "api-keys"))
GATEWAY_KEDA = Build(
    "overlays/cpu", ("prometheus-operator", "gateway-route", "keda", "scale-to-zero-gateway", "no-surge")
)
ZONES = Build("overlays/cpu", ("gateway-route", "gateway-canary", "zone-spread", "multi-arch", "private-registry"))
GPU = Build("overlays/gpu")
TIME_SLICING = Build("overlays/gpu-multi-tenant", ("time-slicing", "api-keys"))
TRAINING, JOB_SET = Build("jobs/training"), Build("jobs/training-jobset")
ENGINES, MODEL = Build("jobs/build-engine"), Build("kserve/model")
EXAMPLE, CANARY = Build("overlays/example"), Build("overlays/example-canary")
OTHER_CANARY = Build("overlays/cpu", ("canary",))
MPS = Build("overlays/gpu-multi-tenant", ("mps",))
PLATFORM = Build("platform/tenant")
TENANT = Build("overlays/gpu-multi-tenant")
KSERVE = Build("kserve")

Mutate = Callable[[Objects], None]


def one(objects: Objects, kind: str) -> Object:
    """The object of a kind, or the first of several."""
    return of_kind(objects, kind)[0]


def at(kind: str, path: str, value: Any) -> Mutate:
    """Sets what is at a dotted path below ``spec`` of the object of a kind; None removes it."""

    def mutate(objects: Objects) -> None:
        target: Any = one(objects, kind)["spec"]
        *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
        for part in parents:
            target = target[part]
        if value is None:
            del target[last]
        else:
            target[last] = value

    return mutate


def setting(name: str, value: str) -> Mutate:
    """Sets a variable in the ConfigMap."""

    def mutate(objects: Objects) -> None:
        one(objects, "ConfigMap")["data"][name] = value

    return mutate


def drop(kind: str) -> Mutate:
    """Takes the objects of a kind away."""

    def mutate(objects: Objects) -> None:
        objects[:] = [item for item in objects if item["kind"] != kind]

    return mutate


def add(item: Object) -> Mutate:
    """Adds an object to the namespace of the others."""
    namespaced = {**item, "metadata": {"namespace": "ecenet", **item["metadata"]}}
    return lambda objects: objects.append(namespaced)


def elsewhere(objects: Objects) -> None:
    one(objects, "Service")["metadata"]["namespace"] = "default"


def zone_first(objects: Objects) -> None:
    """The base's constraint once more, over zones, with nothing that keeps pods to nodes which have one."""
    constraints = one(objects, "Deployment")["spec"]["template"]["spec"]["topologySpreadConstraints"]
    constraints.insert(0, {**constraints[0], "topologyKey": "topology.kubernetes.io/zone"})


def script(old: str, new: str) -> Mutate:
    """Changes the script of the training's pods."""

    def mutate(objects: Objects) -> None:
        container = one(objects, "Job")["spec"]["template"]["spec"]["containers"][0]
        assert old in container["args"][0]
        container["args"] = [container["args"][0].replace(old, new)]

    return mutate


def changeable(objects: Objects) -> None:
    del one(objects, "ConfigMap")["immutable"]


def annotated(kind: str, key: str, value: str) -> Mutate:
    """Sets an annotation of an object."""
    return lambda objects: one(objects, kind)["metadata"]["annotations"].update({key: value})


CONTAINER = "template.spec.containers.0"
MODE = "serving.kserve.io/deploymentMode"
NODE = "replicatedJobs.0.template.spec"
NGINX_RATE = 'sum(rate(nginx_ingress_controller_requests{exported_namespace="ecenet"}[1m]))'
DNS_PORTS = [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]
KUBE_SYSTEM = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}]
HPA = {
    "kind": "HorizontalPodAutoscaler",
    "metadata": {"name": "second"},
    "spec": {
        "minReplicas": 1,
        "maxReplicas": 2,
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "ecenet"},
    },
}

MISTAKES: tuple[tuple[Check, Build, Mutate, str], ...] = (
    (cluster_checks.architecture, CPU, at("Deployment", "template.spec.nodeSelector", None), "another architecture"),
    (
        cluster_checks.architecture,
        JOB_SET,
        at("JobSet", f"{NODE}.template.spec.nodeSelector", {}),
        "another architecture",
    ),
    (cluster_checks.change_cause, CPU, annotated("Deployment", "kubernetes.io/change-cause", "0.0.9"), "is 0.0.9"),
    (cluster_checks.claims, MODEL, at("PersistentVolumeClaim", "accessModes", ["ReadWriteOnce"]), "on one node"),
    (cluster_checks.configuration, TRAINING, changeable, "changed under a run"),
    (cluster_checks.deployment_mode, KSERVE, annotated("InferenceService", MODE, "RawDeployment"), "RawDeployment"),
    (cluster_checks.eviction, CPU, at("Deployment", "template.metadata.annotations", {}), "is not true"),
    (cluster_checks.eviction, ENGINES, at("Job", "template.metadata.annotations", {}), "is not false"),
    (
        cluster_checks.fits,
        CPU,
        at("Deployment", f"{CONTAINER}.resources.requests.cpu", "2"),
        "no room on e2-standard-2",
    ),
    (cluster_checks.fits, GPU, at("Deployment", f"{CONTAINER}.resources.requests.cpu", "4"), "no room on g6.xlarge"),
    (cluster_checks.fits, TIME_SLICING, at("Deployment", f"{CONTAINER}.resources.requests.memory", "12Gi"), "1 of 4"),
    (
        cluster_checks.fits,
        TIME_SLICING,
        at(
            "Deployment", f"{CONTAINER}.resources.requests", {"cpu": "2", "memory": "8Gi", "nvidia.com/gpu.shared": "1"}
        ),
        "no node",
    ),
    (cluster_checks.jobs, TRAINING, at("Job", "podFailurePolicy", None), "counts a drain"),
    (cluster_checks.jobs, TRAINING, at("Job", "podReplacementPolicy", "TerminatingOrFailed"), "beside a pod that ends"),
    (cluster_checks.jobs, TRAINING, at("Job", "backoffLimit", 12), "gives up after 12"),
    (cluster_checks.jobs, JOB_SET, at("JobSet", "failurePolicy.maxRestarts", 3), "gives up after 3"),
    (cluster_checks.jobs, JOB_SET, at("JobSet", f"{NODE}.podFailurePolicy", None), "counts a drain"),
    (cluster_checks.jobs, ENGINES, at("Job", "ttlSecondsAfterFinished", 86400), "removes itself"),
    (cluster_checks.name_servers, TRAINING, at("NetworkPolicy", "egress.1.ports", DNS_PORTS), "OpenShift"),
    (cluster_checks.name_servers, TRAINING, at("NetworkPolicy", "egress.1.to", KUBE_SYSTEM), "NodeLocal DNSCache"),
    (cluster_checks.shutdown, TRAINING, script("--shutdown-timeout=240", ""), "after 30 s of 300 s"),
    (
        cluster_checks.shutdown,
        TRAINING,
        at("Job", "template.spec.terminationGracePeriodSeconds", 250),
        "240 s of 250 s",
    ),
    (cluster_checks.spread, CPU, zone_first, "two replicas on one node"),
    (cluster_checks.spread, CPU, at("Deployment", "template.spec.topologySpreadConstraints", []), "is not spread"),
    (cluster_checks.spread, ZONES, at("Deployment", "template.spec.affinity", {}), "two replicas on one node"),
    (cluster_checks.wakes, GATEWAY_KEDA, at("ScaledObject", "triggers.1", None), "wakes it from zero"),
    (
        cluster_checks.wakes,
        GATEWAY_KEDA,
        at("ScaledObject", "triggers.1.metadata.query", NGINX_RATE),
        "envoy_http_downstream",
    ),
    (object_checks.autoscaling, CPU, at("HorizontalPodAutoscaler", "minReplicas", 11), "bounded by 11 and 10"),
    (object_checks.autoscaling, CPU, at("HorizontalPodAutoscaler", "minReplicas", 0), "bounded by 0 and 10"),
    (object_checks.autoscaling, CPU, at("HorizontalPodAutoscaler", "scaleTargetRef.name", "ecnet"), "not there"),
    (object_checks.autoscaling, CPU, at("HorizontalPodAutoscaler", "scaleTargetRef.kind", "ReplicaSet"), "ReplicaSet"),
    (object_checks.autoscaling, CPU, at("Deployment", "replicas", 3), "fixed number"),
    (object_checks.autoscaling, KEDA, at("ScaledObject", "scaleTargetRef.name", "ecenet-canary"), "not there"),
    (object_checks.autoscaling, KEDA, at("ScaledObject", "maxReplicaCount", -1), "bounded by 0 and -1"),
    (object_checks.autoscaling, KEDA, add(HPA), "two autoscalers"),
    (object_checks.backends, CPU, at("Ingress", "rules.0.http.paths.0.path", "/metrics"), "lets"),
    (object_checks.backends, CPU, at("Ingress", "rules.0.http.paths.0.pathType", "Prefix"), "lets"),
    (object_checks.backends, CPU, at("Ingress", "rules.0.http.paths.5.path", "/v2"), "lets ('Prefix', '/v2')"),
    (object_checks.backends, CPU, at("Ingress", "rules.0.http.paths.0.backend.service.port.name", "web"), "ecenet:web"),
    (object_checks.backends, CPU, at("Ingress", "rules.0.http.paths.0.path", "/a.json"), "ingress-nginx refuses"),
    (object_checks.backends, CPU, at("Service", "ports.0.name", "web"), "ecenet:http"),
    (object_checks.backends, GATEWAY, at("HTTPRoute", "rules.0.backendRefs.0.port", 8000), "ecenet:8000"),
    (object_checks.backends, GATEWAY, at("HTTPRoute", "rules.0.matches.0.path.type", "PathPrefix"), "lets"),
    (
        object_checks.disruption,
        CPU,
        at("PodDisruptionBudget", "maxUnavailable", "50 %"),
        "neither a number nor a share",
    ),
    (object_checks.disruption, CPU, at("PodDisruptionBudget", "maxUnavailable", 0), "blocks"),
    (object_checks.disruption, CPU, at("PodDisruptionBudget", "minAvailable", 1), "has bounds"),
    (object_checks.disruption, CPU, at("PodDisruptionBudget", "maxUnavailable", 1), "does not grow"),
    (object_checks.disruption, KSERVE, drop("PodDisruptionBudget"), "has no budget"),
    (object_checks.names, CPU, add({"kind": "Service", "metadata": {"name": "ecenet"}}), "twice"),
    (object_checks.names, CPU, add({"kind": "ConfigMap", "metadata": {"name": "Ecenet"}}), "no valid name"),
    (object_checks.namespaces, CPU, elsewhere, "default"),
    (object_checks.network, CPU, drop("NetworkPolicy"), "under no policy"),
    (object_checks.network, KSERVE, drop("NetworkPolicy"), "under no policy"),
    (object_checks.network, CPU, lambda objects: at("NetworkPolicy", "egress", [{}])(objects[::-1]), "out"),
    (
        object_checks.network,
        CPU,
        lambda objects: at("NetworkPolicy", "ingress", [])(objects[::-1]),
        "cannot be reached",
    ),
    (object_checks.ports, CPU, at("Service", "ports.0.targetPort", "web"), "'web'"),
    (object_checks.ports, CPU, at("Deployment", f"{CONTAINER}.livenessProbe.httpGet.port", "web"), "livenessProbe"),
    (object_checks.ports, KEDA, at("ServiceMonitor", "endpoints.0.port", "metrics"), "port metrics"),
    (object_checks.ports, KSERVE, at("ServingRuntime", "containers.0.readinessProbe.httpGet.port", 8080), "port 8080"),
    (object_checks.rollout, CPU, at("Deployment", "strategy.rollingUpdate.maxSurge", 0), "cannot replace"),
    (object_checks.rollout, TENANT, at("Deployment", "progressDeadlineSeconds", 600), "1210 s to start"),
    (object_checks.selectors, CPU, at("Deployment", "template.metadata.labels", {"app": "ecenet"}), "its own pods"),
    (object_checks.selectors, CPU, at("Service", "selector", {"app": "ecenet"}), "Service/ecenet selects no pod"),
    (object_checks.selectors, CPU, at("PodDisruptionBudget", "selector.matchLabels", {"app": "e"}), "selects no pod"),
    (
        object_checks.selectors,
        CPU,
        at("Deployment", "template.spec.topologySpreadConstraints.0.labelSelector.matchLabels", {"app": "e"}),
        "spreads other pods",
    ),
    (pod_checks.end_of_a_pod, CPU, at("Deployment", "template.spec.terminationGracePeriodSeconds", 41), "period 41 s"),
    (pod_checks.end_of_a_pod, CPU, setting("ECENET_DRAIN_TIMEOUT_S", "45"), "drain 45.0 s"),
    (pod_checks.end_of_a_pod, CPU, setting("ECENET_REQUEST_TIMEOUT_S", "60"), "cuts requests off"),
    (pod_checks.end_of_a_pod, CPU, at("Deployment", f"{CONTAINER}.lifecycle", None), "no preStop"),
    (pod_checks.end_of_a_pod, KSERVE, at("InferenceService", "predictor.terminationGracePeriodSeconds", 30), "30 s"),
    (pod_checks.images, CPU, at("Deployment", f"{CONTAINER}.image", "registry:5000/ecenet"), "no version"),
    (pod_checks.images, CPU, at("Deployment", f"{CONTAINER}.image", "ecenet:latest"), "no version"),
    (pod_checks.needs_no_token, CPU, at("Deployment", "template.spec.enableServiceLinks", None), "enableServiceLinks"),
    (pod_checks.references, CPU, drop("ConfigMap"), "ConfigMap ecenet-settings-"),
    (pod_checks.references, CPU, drop("ServiceAccount"), "ServiceAccount ecenet"),
    (pod_checks.references, TENANT, drop("PersistentVolumeClaim"), "PersistentVolumeClaim ecenet-engine-cache"),
    (pod_checks.resources, CPU, at("Deployment", f"{CONTAINER}.resources.limits.cpu", None), "no limit of ['cpu']"),
    (pod_checks.resources, CPU, at("Deployment", f"{CONTAINER}.resources.limits.memory", "4Gi"), "not the limits"),
    (pod_checks.resources, CPU, at("Deployment", f"{CONTAINER}.resources.limits.cpu", "2500m"), "not a whole number"),
    (pod_checks.resources, CPU, at("Deployment", f"{CONTAINER}.resources.requests.cpu", "500m"), "500m cores of 2"),
    (
        pod_checks.resources,
        CPU,
        at("Deployment", "template.spec.volumes.0.emptyDir.sizeLimit", "1Gi"),
        "ephemeral-storage of 512Mi",
    ),
    (pod_checks.restricted, CPU, at("Deployment", "template.spec.securityContext.seccompProfile", None), "seccomp"),
    (pod_checks.restricted, CPU, at("Deployment", "template.spec.securityContext.runAsUser", 0), "runAsUser is 0"),
    (pod_checks.restricted, CPU, at("Deployment", f"{CONTAINER}.securityContext.capabilities", {}), "capabilities"),
    (
        pod_checks.restricted,
        CPU,
        at("Deployment", "template.spec.volumes.0", {"name": "cache", "hostPath": {"path": "/var/cache"}}),
        "hostPath",
    ),
    (pod_checks.settings, CPU, setting("ECENET_MAX_QUEUE", "32"), "ECENET_MAX_QUEUE is not a setting"),
    (pod_checks.settings, CPU, setting("ECENET_MAX_REQUESTS_IN_FLIGHT", "0"), "max_requests_in_flight"),
    (pod_checks.settings, KSERVE, at("ServingRuntime", "containers.0.env.0.name", "ECENET_MODELS"), "not a setting"),
    (pod_checks.volumes, CPU, at("Deployment", f"{CONTAINER}.volumeMounts.1.name", "temp"), "mounts of"),
    (pod_checks.volumes, CPU, at("Deployment", f"{CONTAINER}.volumeMounts.1.mountPath", "/var/cache/ecenet"), "twice"),
    (pod_checks.written_folders, CPU, setting("ECENET_STATE_DIR", "/tmp"), "'ECENET_STATE_DIR': 'tmp'"),
    (pod_checks.written_folders, CPU, setting("ECENET_ENGINE_DIR", "/engines"), "None"),
)


@pytest.mark.parametrize(
    ("check", "build", "mutate", "words"), MISTAKES, ids=[f"{m[0].__name__}-{m[3]}" for m in MISTAKES]
)
def test_a_mistake_is_found(check: Check, build: Build, mutate: Mutate, words: str) -> None:
    objects = render(build)
    before = list(check(objects))
    mutate(objects)
    assert words in "\n".join(set(check(objects)) - set(before))


def test_a_canary_without_keys_is_found() -> None:
    stable, canary = render(EXAMPLE), render(CANARY)
    assert list(pair_checks.canary_differs(stable, canary)) == []
    at("Deployment", f"{CONTAINER}.env", [])(canary)
    assert list(pair_checks.canary_differs(stable, canary)) == [
        "Deployment/ecenet-canary differs in ['spec.template.spec.containers.0.env']"
    ]
    # Over another overlay than the stable one, which is where such a canary comes from.
    assert "spec.template.spec.volumes" in "".join(pair_checks.canary_differs(stable, render(OTHER_CANARY)))


@pytest.mark.parametrize(
    ("platform", "tenant"),
    [("platform/tenant", TENANT), ("platform/tenant-shared-gpu", TIME_SLICING), ("platform/tenant-shared-gpu", MPS)],
    ids=str,
)
def test_a_quota_without_room_for_a_rollout_and_a_build_is_found(platform: str, tenant: Build) -> None:
    quota, serving, job = render(Build(platform)), render(tenant), render(ENGINES)
    device = next(name for name in requests(next(pods(serving))) if name.startswith("nvidia.com/"))
    if device != "nvidia.com/mig-1g.10gb":
        at("Job", f"{CONTAINER}.resources", {"requests": {device: "1"}})(job)
    assert list(pair_checks.quota_has_room(quota, serving, job)) == []
    at("ResourceQuota", "hard", {f"requests.{device}": "5"})(quota)
    assert list(pair_checks.quota_has_room(quota, serving, job)) == [
        f"ResourceQuota/ecenet: 6 requests.{device}, the quota is 5"
    ]


@pytest.mark.parametrize("build", [TENANT, TIME_SLICING, MPS, ENGINES], ids=str)
def test_what_a_tenant_may_not_apply_is_found(build: Build) -> None:
    objects = render(build)
    assert list(pair_checks.needs_the_platform_team(objects)) == []
    objects += render(PLATFORM)
    assert list(pair_checks.needs_the_platform_team(objects)) == ["Namespace/ecenet", "ResourceQuota/ecenet"]


@pytest.mark.parametrize(
    ("after", "left"),
    [(GATEWAY, {"Ingress/ecenet"}), (KEDA, {"HorizontalPodAutoscaler/ecenet"}), (CPU, set())],
    ids=str,
)
def test_what_a_switch_of_components_leaves_behind_is_found(after: Build, left: set[str]) -> None:
    assert pair_checks.left_behind(render(CPU), render(after)) == left


def test_every_check_has_a_mistake_to_find() -> None:
    assert {mistake[0] for mistake in MISTAKES} == set(CHECKS)


@pytest.mark.parametrize(
    ("build", "mutate"),
    [
        (CPU, at("Deployment", "minReadySecond", 10)),
        (CPU, at("Service", "ports.0.port", "eighty")),
        (KEDA, at("ScaledObject", "cooldown", 10)),
        (KEDA, at("ServiceMonitor", "endpoints.0.intervall", "15s")),
        (KEDA, at("PrometheusRule", "groups.0.rules.0.expression", "up")),
        (GATEWAY, at("HTTPRoute", "rules.0.retries", 3)),
        (GATEWAY, at("HTTPRoute", "rules.0.timeouts.request", "1 minute")),
        (JOB_SET, at("JobSet", "failurePolicy.maxRestart", 3)),
        (JOB_SET, at("JobSet", f"{NODE}.backofLimit", 3)),
        (Build("platform/training-queue"), at("ClusterQueue", "cohort", "all")),
        (KSERVE, at("ServingRuntime", "securityContext", {})),
        (KSERVE, at("InferenceService", "predictor.model.storageUri", "/models")),
    ],
)
def test_schemas_are_strict(build: Build, mutate: Mutate) -> None:
    objects = render(build)
    mutate(objects)
    with pytest.raises(Exception, match=r"unknown fields|validation|Additional|is not of type|does not match"):
        validate_all(objects)


def validate_all(objects: Objects) -> None:
    for item in objects:
        validate(item)
