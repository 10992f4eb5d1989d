"""Numbers and names of the manifests agree with the service: limits, paths, labels, versions, generated files."""

from __future__ import annotations

import json
import re
import runpy
import tomllib

import pytest
import yaml

from service.http.api_keys import parse_api_keys
from service.http.upload import FORM_OVERHEAD_BYTES
from service.model_directory.bundled import bundled_model_dir
from service.model_directory.manifest import FORMAT_VERSION, read_manifest
from service.settings import Settings
from tests.k8s.manifests import K8S, ROOT, Build, of_kind, render
from tests.k8s.object_checks import published
from tests.k8s.pod_checks import settings_of
from tests.k8s.pods import pods, quantity, serving
from tests.support.live_service import LiveService
from tests.support.worst_memory import worst_memory

CPU = Build("overlays/cpu")
GATEWAY = Build("overlays/cpu", ("gateway-route",))
GPU = Build("overlays/gpu")
TENANT = Build("overlays/gpu-multi-tenant")
TIME_SLICING = Build("overlays/gpu-multi-tenant", ("time-slicing", "api-keys"))
MPS = Build("overlays/gpu-multi-tenant", ("mps",))
KEDA = Build("overlays/cpu", ("prometheus-operator", "keda", "scale-to-zero-ingress-nginx", "api-keys"))
README = (K8S / "README.md").read_text(encoding="utf-8")
NGINX = "nginx.ingress.kubernetes.io/"


def effective(build: Build) -> Settings:
    """The settings of the service in a build."""
    ((_, _, variables),) = serving(render(build))
    return settings_of(variables)


@pytest.fixture(name="annotations")
def annotations_of_the_ingress() -> dict[str, str]:
    (ingress,) = of_kind(render(CPU), "Ingress")
    return {name.removeprefix(NGINX): value for name, value in ingress["metadata"]["annotations"].items()}


def test_the_ingress_lets_the_largest_body_through(annotations: dict[str, str]) -> None:
    settings = effective(CPU)
    json_bytes = settings.max_image_bytes // 3 * 4 * 65 // 64 + FORM_OVERHEAD_BYTES
    size = quantity(annotations["proxy-body-size"].upper() + "i")
    assert max(json_bytes, settings.max_many_images_bytes) < size < 2 * settings.max_many_images_bytes


def test_the_service_gives_up_before_the_ingress_does(annotations: dict[str, str]) -> None:
    settings = effective(CPU)
    longest = max(settings.request_timeout_s, settings.max_request_timeout_s or 0)
    assert longest < float(annotations["proxy-read-timeout"])
    # A second try may still begin after one that met a frozen replica.
    assert float(annotations["proxy-read-timeout"]) < float(annotations["proxy-next-upstream-timeout"])


def test_the_ingress_tries_again_where_that_helps(annotations: dict[str, str]) -> None:
    cases = annotations["proxy-next-upstream"].split()
    assert {"error", "timeout", "http_502", "http_503", "non_idempotent"} == set(cases)
    assert annotations["proxy-request-buffering"] == "on"


def test_the_gateway_waits_as_long_as_the_ingress(annotations: dict[str, str]) -> None:
    (route,) = of_kind(render(GATEWAY), "HTTPRoute")
    assert route["spec"]["rules"][0]["timeouts"]["backendRequest"] == annotations["proxy-read-timeout"] + "s"


@pytest.mark.parametrize("build", [CPU, GATEWAY], ids=str)
def test_the_public_paths_are_published_and_no_others(live_service: LiveService, build: Build) -> None:
    objects = render(build)
    paths = live_service.paths
    private = {path for path in paths if path.startswith(("/v2/repository", "/metrics", "/healthz", "/readyz"))}
    assert {"/metrics", "/healthz", "/readyz"} <= private
    assert {path for path in paths if published(objects, path.partition("{")[0].rstrip("/") or "/")} == paths - private


def test_probes_ask_paths_that_the_service_has(live_service: LiveService) -> None:
    for build in (CPU, GPU, TENANT, Build("kserve")):
        ((_, container, _),) = serving(render(build))
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"]["path"] in live_service.paths
        assert container["livenessProbe"]["httpGet"]["path"] in {"/healthz", "/v2/health/live"}
        assert container["readinessProbe"]["httpGet"]["path"] in {"/readyz", "/v2/health/ready"}


def test_pods_listen_where_the_service_does() -> None:
    for build in (CPU, GPU, Build("kserve")):
        ((_, container, variables),) = serving(render(build))
        assert variables["ECENET_HOST"] == "0.0.0.0"
        assert [port["containerPort"] for port in container["ports"]] == [effective(build).port]


def test_memory_has_room_for_the_worst_that_the_settings_let_in() -> None:
    sizing = runpy.run_path(str(K8S / "sizing.py"))
    for build, images_per_s in ((CPU, 0), (Build("kserve"), 0), (GPU, sizing["L4"].images_per_s)):
        ((_, container, _),) = serving(render(build))
        limits = container["resources"]["limits"]
        assert worst_memory(effective(build), int(limits["cpu"]), images_per_s) <= quantity(limits["memory"])


def test_gpu_pods_get_one_device_and_build_for_it() -> None:
    devices = {GPU: "nvidia.com/gpu", TENANT: "nvidia.com/mig-1g.10gb"}
    devices[TIME_SLICING] = devices[MPS] = "nvidia.com/gpu"
    for build, device in devices.items():
        ((pod, container, variables),) = serving(render(build))
        asked = {name: count for name, count in container["resources"]["limits"].items() if name.startswith("nvidia")}
        assert asked == {device: "1"}
        assert variables["ECENET_ENGINE"] == pod.labels["wanted_engine"] == "tensorrt"
        assert variables["ECENET_BUILD_ENGINE"] == "true"
        assert pod.spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]


def test_the_prebuild_job_builds_for_the_pods_that_serve() -> None:
    ((pod, container, variables),) = serving(render(TENANT))
    (job,) = pods(render(Build("jobs/build-engine")))
    (builder,) = job.containers
    assert builder["image"] == container["image"]
    assert job.spec["nodeSelector"] == pod.spec["nodeSelector"]
    device = "nvidia.com/mig-1g.10gb"
    assert builder["resources"]["limits"][device] == container["resources"]["limits"][device]
    for name in ("ECENET_ENGINE_DIR", "ECENET_STATE_DIR"):
        assert {"name": name, "value": variables[name]} in builder["env"]
    assert {"name": "cache", "mountPath": "/var/cache/ecenet"} in builder["volumeMounts"]
    assert job.spec["volumes"][0] == pod.spec["volumes"][0]


def test_stable_and_canary_have_nothing_in_common() -> None:
    stable, canary = render(Build("overlays/example")), render(Build("overlays/example-canary"))
    identity = {(item["kind"], item["metadata"]["name"]) for item in canary}
    assert identity.isdisjoint({(item["kind"], item["metadata"]["name"]) for item in stable})
    (service,) = of_kind(stable, "Service")
    (pod,) = pods(canary)
    assert not service["spec"]["selector"].items() <= pod.labels.items()
    (ingress,) = of_kind(canary, "Ingress")
    assert ingress["metadata"]["annotations"][NGINX + "canary"] == "true"
    assert ingress["spec"]["rules"][0]["host"] == of_kind(stable, "Ingress")[0]["spec"]["rules"][0]["host"]


def test_the_weights_of_a_gateway_are_shares_of_all_requests() -> None:
    build = Build("overlays/cpu", ("gateway-route", "gateway-canary", "zone-spread", "multi-arch", "private-registry"))
    (route,) = of_kind(render(build), "HTTPRoute")
    weights = {backend["name"]: backend["weight"] for backend in route["spec"]["rules"][0]["backendRefs"]}
    assert weights == {"ecenet": 90, "ecenet-canary": 10}


def test_kserve_finds_the_model_under_its_own_name() -> None:
    objects = render(Build("kserve"))
    (runtime,) = of_kind(objects, "ServingRuntime")
    (inference,) = of_kind(objects, "InferenceService")
    model = inference["spec"]["predictor"]["model"]
    manifest = read_manifest(bundled_model_dir())
    assert inference["metadata"]["name"] == manifest.name == model["storageUri"].rpartition("/")[2]
    (known,) = runtime["spec"]["supportedModelFormats"]
    assert model["modelFormat"].items() <= known.items()
    assert known["version"] == str(FORMAT_VERSION)
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    predictor = inference["spec"]["predictor"]
    assert predictor["minReplicas"] <= predictor["maxReplicas"]
    assert predictor["timeout"] > effective(Build("kserve")).request_timeout_s


def test_images_are_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    jobs = (Build("jobs/build-engine"), Build("jobs/training"), Build("jobs/training-jobset"), Build("kserve/model"))
    for build in (CPU, GPU, TENANT, Build("overlays/example"), Build("kserve"), *jobs):
        for pod in pods(render(build)):
            for container in pod.containers:
                assert re.search(rf":{re.escape(version)}(-cpu|-gpu)?$", container["image"])
    assert set(re.findall(r"ecenet:([0-9.]+)-", README)) == {version}


def test_a_changed_setting_rolls_out() -> None:
    """Other settings are another ConfigMap, whose name the pod template has."""
    names = []
    for build in (CPU, GPU):
        ((_, container, _),) = serving(render(build))
        names.append(container["envFrom"][0]["configMapRef"]["name"])
    assert len(set(names)) == 2
    assert all(re.fullmatch(r"ecenet-settings-[a-z0-9]{10}", name) for name in names)


def test_the_example_of_keys_parses_and_is_not_applied() -> None:
    example = yaml.safe_load((K8S / "components/api-keys/secret.example.yaml").read_text(encoding="utf-8"))
    (name,) = example["stringData"]
    (key,) = parse_api_keys(example["stringData"][name], "the example")
    assert key.digest == bytes(32)
    objects = render(KEDA)
    assert of_kind(objects, "Secret") == []
    ((pod, container, variables),) = serving(objects)
    folder = next(mount for mount in container["volumeMounts"] if mount["name"] == "api-keys")["mountPath"]
    assert variables["ECENET_API_KEYS_FILE"] == f"{folder}/{name}"
    volume = next(volume for volume in pod.spec["volumes"] if volume["name"] == "api-keys")
    assert volume["secret"]["secretName"] == example["metadata"]["name"]


def test_pods_start_without_keys_unless_they_are_wanted() -> None:
    ((pod, _, variables),) = serving(render(CPU))
    assert not [volume for volume in pod.spec["volumes"] if "secret" in volume]
    assert not [name for name in variables if "KEY" in name]


def test_the_prometheus_rule_is_made_of_the_rules() -> None:
    generator = runpy.run_path(str(K8S / "prometheus_rule.py"))
    written = generator["TARGET"].read_text(encoding="utf-8")
    assert written == generator["render"](), "run: python k8s/prometheus_rule.py"
    assert yaml.safe_load(written)["spec"] == yaml.safe_load(generator["SOURCE"].read_text(encoding="utf-8"))


def test_the_figures_of_the_readme_are_those_of_the_inputs() -> None:
    sizing = runpy.run_path(str(K8S / "sizing.py"))
    text = sizing["README"].read_text(encoding="utf-8")
    assert text == sizing["with_tables"](text), "run: python k8s/sizing.py"


def test_the_autoscalers_aim_at_the_utilisation_that_sizes_are_for() -> None:
    sizing = runpy.run_path(str(K8S / "sizing.py"))
    busy = sizing["UTILISATION"]
    inside = busy + busy**2 / (2 - 2 * busy)  # M/D/1
    objects = render(KEDA)
    by_requests, by_rate = of_kind(objects, "ScaledObject")[0]["spec"]["triggers"]
    assert float(by_requests["metadata"]["threshold"]) == round(inside)
    assert float(by_rate["metadata"]["threshold"]) == round(sizing["DEVICES"][0].images_per_s)


def test_costs_are_those_that_were_measured() -> None:
    sizing = runpy.run_path(str(K8S / "sizing.py"))
    figures = json.loads((ROOT / "benchmarks/feed/figures.json").read_text(encoding="utf-8"))["2 workers"]
    assert round(figures["large"]["request_cpu_ms"] / 1000, 4) == sizing["REQUEST_CORE_SECONDS_PER_IMAGE"]
    assert round(figures["crowd"]["engine_cpu_ms"] / 1000, 4) == sizing["ENGINE_PROCESS_SECONDS_PER_IMAGE"]


def test_a_replica_is_as_fast_as_the_slowest_of_gpu_engine_process_and_cores() -> None:
    sizing = runpy.run_path(str(K8S / "sizing.py"))
    device, gpu, busy = sizing["Device"], sizing["Gpu"], sizing["UTILISATION"]
    request_s, engine_s = sizing["REQUEST_CORE_SECONDS_PER_IMAGE"], sizing["ENGINE_PROCESS_SECONDS_PER_IMAGE"]
    some = gpu("some", 300, 0.7)
    by_memory = sizing["BANDWIDTH_SHARE"] * 300e9 / (sizing["MEGABYTES_PER_IMAGE"] * 1e6)
    cpu, one_core, enough = device("two cores", 2), device("GPU", 1, some), device("GPU", None, some)
    fast = device("fast GPU", None, gpu("fast", 1e6))
    assert cpu.images_per_s == pytest.approx(busy / sizing["CPU_SECONDS_PER_IMAGE"])
    assert (one_core.bottleneck, one_core.images_per_s) == ("cores", pytest.approx(busy / request_s))
    assert (enough.bottleneck, enough.images_per_s) == ("GPU", pytest.approx(busy * by_memory))
    assert (fast.bottleneck, fast.images_per_s) == ("engine process", pytest.approx(busy / engine_s))
    assert enough.cores_used - 1 < by_memory * request_s <= enough.cores_used
    assert cpu.replicas(2 * cpu.images_per_s) == 2 + sizing["SPARE_REPLICAS"]
    hourly = 2 * sizing["DOLLARS_PER_CORE_HOUR"]
    assert cpu.dollars_per_million == pytest.approx(1e6 / cpu.images_per_s / 3600 * hourly)
