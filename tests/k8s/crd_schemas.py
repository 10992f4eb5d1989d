"""Schemas of the CRDs that PyPI has no models of, as far as the manifests use them; any other field is refused.

Written from the published references:

- HTTPRoute: gateway-api.sigs.k8s.io/reference/spec, and config/crd/standard of kubernetes-sigs/gateway-api;
- ServingRuntime: pkg/apis/serving/v1alpha1/servingruntime_types.go of kserve/kserve;
- InferenceService: pkg/apis/serving/v1beta1, component.go, podspec.go and predictor.go there;
- JobSet: config/components/crd/bases/jobset.x-k8s.io_jobsets.yaml of kubernetes-sigs/jobset;
- ClusterQueue, LocalQueue, ResourceFlavor: apis/kueue/v1beta2 of kubernetes-sigs/kueue.

What they take over from Kubernetes itself, containers and volumes, is checked as a Pod.
"""

from __future__ import annotations

from typing import Any

_NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
_DURATION = {"type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"}
_PORT = {"type": "integer", "minimum": 1, "maximum": 65535}


def _object(required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(required),
        "properties": properties,
        "additionalProperties": False,
    }


def _list(items: dict[str, Any], most: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": 1, "maxItems": most}


def _resource(api_version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    texts = {"type": "object", "additionalProperties": {"type": "string"}}
    metadata = _object(("name",), name=_NAME, namespace=_NAME, labels=texts, annotations=texts)
    return _object(
        ("apiVersion", "kind", "metadata", "spec"),
        apiVersion={"const": api_version},
        kind={"const": kind},
        metadata=metadata,
        spec=spec,
    )


_PATH = _object(
    ("type", "value"),
    type={"enum": ["Exact", "PathPrefix", "RegularExpression"]},
    value={"type": "string", "pattern": "^/", "maxLength": 1024},
)
_ROUTE_RULE = _object(
    ("backendRefs",),
    matches=_list(_object((), path=_PATH), 64),
    timeouts=_object((), request=_DURATION, backendRequest=_DURATION),
    backendRefs=_list(_object(("name", "port"), name=_NAME, port=_PORT, weight={"type": "integer", "minimum": 0}), 16),
)
_HTTP_ROUTE = _object(
    ("parentRefs", "rules"),
    parentRefs=_list(_object(("name",), name=_NAME, namespace=_NAME, sectionName=_NAME), 32),
    hostnames=_list({"type": "string", "maxLength": 253}, 16),
    rules=_list(_ROUTE_RULE, 16),
)

_FORMAT = _object(
    ("name",),
    name={"type": "string"},
    version={"type": "string"},
    autoSelect={"type": "boolean"},
    priority={"type": "integer", "minimum": 1},
)
_ANY_LIST = {"type": "array", "items": {"type": "object"}}
_SERVING_RUNTIME = _object(
    ("containers",),
    supportedModelFormats=_list(_FORMAT, 64),
    multiModel={"type": "boolean"},
    protocolVersions=_list({"enum": ["v1", "v2", "grpc-v1", "grpc-v2"]}, 4),
    containers=_ANY_LIST,
    volumes=_ANY_LIST,
)

_COUNT = {"type": "integer", "minimum": 0}
_MODEL = _object(
    ("modelFormat",),
    modelFormat=_object(("name",), name={"type": "string"}, version={"type": "string"}),
    protocolVersion={"enum": ["v1", "v2", "grpc-v1", "grpc-v2"]},
    runtime=_NAME,
    storageUri={"type": "string", "pattern": "^(pvc|s3|gs|hf|oci|https?|hdfs|webhdfs)://"},
)
_PREDICTOR = _object(
    ("model",),
    model=_MODEL,
    minReplicas=_COUNT,
    maxReplicas=_COUNT,
    scaleMetric={"enum": ["cpu", "memory", "concurrency", "rps"]},
    scaleTarget=_COUNT,
    timeout=_COUNT,
    deploymentStrategy={"type": "object"},
    terminationGracePeriodSeconds=_COUNT,
    automountServiceAccountToken={"type": "boolean"},
    enableServiceLinks={"type": "boolean"},
    nodeSelector={"type": "object", "additionalProperties": {"type": "string"}},
)

_FAILURE_RULE = _object(
    ("action",),
    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
    action={
        "enum": [
            "FailJobSet",
            "RestartJobSet",
            "RestartJobSetAndIgnoreMaxRestarts",
            "RestartJob",
            "RestartJobAndIgnoreMaxRestarts",
        ]
    },
    onJobFailureReasons=_list({"enum": ["BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy"]}, 20),
)
_JOB_SET = _object(
    ("replicatedJobs",),
    network=_object(
        (), enableDNSHostnames={"type": "boolean"}, publishNotReadyAddresses={"type": "boolean"}, subdomain=_NAME
    ),
    failurePolicy=_object(
        (),
        maxRestarts=_COUNT,
        restartStrategy={"enum": ["Recreate", "BlockingRecreate", "InPlaceRestart"]},
        rules=_list(_FAILURE_RULE, 20),
    ),
    # The Job inside is checked as a Job.
    replicatedJobs=_list(_object(("name", "template"), name=_NAME, replicas=_COUNT, template={"type": "object"}), 64),
)

_AMOUNT = {"type": "string", "pattern": "^[0-9]+(m|Ki|Mi|Gi|Ti)?$"}
_FLAVOR_QUOTAS = _object(
    ("name", "resources"),
    name=_NAME,
    resources=_list(_object(("name", "nominalQuota"), name={"type": "string"}, nominalQuota=_AMOUNT), 64),
)
_CLUSTER_QUEUE = _object(
    ("resourceGroups",),
    namespaceSelector=_object((), matchLabels={"type": "object"}),
    queueingStrategy={"enum": ["StrictFIFO", "BestEffortFIFO"]},
    resourceGroups=_list(
        _object(
            ("coveredResources", "flavors"),
            coveredResources=_list({"type": "string"}, 64),
            flavors=_list(_FLAVOR_QUOTAS, 64),
        ),
        16,
    ),
)
_LOCAL_QUEUE = _object(("clusterQueue",), clusterQueue=_NAME)
_FLAVOR = _object((), nodeLabels={"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 8})
_KUEUE = "kueue.x-k8s.io/v1beta2"

SCHEMAS = {
    "HTTPRoute": _resource("gateway.networking.k8s.io/v1", "HTTPRoute", _HTTP_ROUTE),
    "ServingRuntime": _resource("serving.kserve.io/v1alpha1", "ServingRuntime", _SERVING_RUNTIME),
    "InferenceService": _resource(
        "serving.kserve.io/v1beta1", "InferenceService", _object(("predictor",), predictor=_PREDICTOR)
    ),
    "JobSet": _resource("jobset.x-k8s.io/v1alpha2", "JobSet", _JOB_SET),
    "ClusterQueue": _resource(_KUEUE, "ClusterQueue", _CLUSTER_QUEUE),
    "LocalQueue": _resource(_KUEUE, "LocalQueue", _LOCAL_QUEUE),
    "ResourceFlavor": _resource(_KUEUE, "ResourceFlavor", _FLAVOR),
}
