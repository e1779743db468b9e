"""The manifests: sound by Kubernetes' and KubeRay's own schemas, up to date with the overlays that they are made of, and with room, secrets
and probes for what runs there."""

import json
import re
from copy import deepcopy
from importlib import import_module
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ray.serve.schema import ServeDeploySchema

from pipelines.settings.config_file import serve_document
from pipelines.settings.nodes import Node, nowhere
from pipelines.settings.pinning import pinned
from pipelines.settings.serve.manifest import with_serve_config
from stages.contract.errors import ConfigurationError
from tests.deploy.manifests import KUBERNETES, OVERLAYS, configured, container, groups, plain_objects, rayservice

SCHEMA = json.loads((Path(__file__).parent / "rayservice.schema.json").read_text())
NEWEST = "1.37.0"
ACCELERATORS = {"nvidia-l4": "L4", "nvidia-tesla-a100": "A100", "nvidia-h100-80gb": "H100"}
validate = import_module("kubernetes_validate").validate  # untyped
both = pytest.mark.parametrize("folder", list(OVERLAYS))


@both
def test_a_rayservice_is_one_by_kuberays_own_schema(folder: str) -> None:
    jsonschema.validate(rayservice(folder), SCHEMA)


def test_that_schema_refuses_what_kuberay_would_drop() -> None:
    given = deepcopy(rayservice("cpus"))
    given["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]["replica"] = 2
    with pytest.raises(jsonschema.ValidationError, match="replica"):
        jsonschema.validate(given, SCHEMA)


@both
def test_pods_are_pods_by_kubernetes_own_schema(folder: str) -> None:
    for group in groups(folder):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": group["template"]["spec"]}
        validate(pod, NEWEST, strict=True)


def test_everything_beside_it_is_sound_by_kubernetes_own_schema() -> None:
    kinds = []
    for found in plain_objects():
        validate(found, NEWEST, strict=True)
        kinds.append(found["kind"])
    assert (kinds.count("StatefulSet"), kinds.count("Service"), kinds.count("NetworkPolicy")) == (3, 3, 2)


@both
def test_its_serve_config_is_what_the_overlays_give(folder: str) -> None:
    file = configured(folder)
    document = serve_document(file.model_copy(update={"app": pinned(file.app)}))
    text = (KUBERNETES / folder / "rayservice.yaml").read_text()
    assert with_serve_config(text, document) == text, "run the command at the top of the manifest"
    assert ServeDeploySchema.model_validate(document).proxy_location == "EveryNode"


@both
def test_every_deployment_has_a_group_of_nodes_and_the_budget_is_what_the_groups_may_grow_to(folder: str) -> None:
    config, found, largest = configured(folder).app, [], dict[str, float]()
    for group in groups(folder)[1:]:
        resources = container(group)["resources"]
        has: dict[str, float] = {"CPU": float(resources["requests"]["cpu"])}
        if gpus := resources["limits"].get("nvidia.com/gpu"):
            kind = ACCELERATORS[group["template"]["spec"]["nodeSelector"]["cloud.google.com/gke-accelerator"]]
            has |= {"GPU": gpus, f"accelerator_type:{kind}": 1}
            largest[kind] = gpus * group["maxReplicas"]
        found.append(Node(has, group["labels"]))
    assert list(nowhere(config, found)) == []
    assert (config.scaling.budget.devices or {}) == largest


@both
def test_every_secret_that_is_named_is_mounted_and_none_is_told(folder: str) -> None:
    named = set(re.findall(r"(/etc/triptych/[\w-]+)", (KUBERNETES / folder / "rayservice.yaml").read_text()))
    assert {path.rpartition("/")[2] for path in named} == {"key-team", "seal", "cache-url", "pages-url"}
    for group in groups(folder):
        mounts = {mount["name"]: mount["mountPath"] for mount in container(group)["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in group["template"]["spec"]["volumes"]}
        assert mounts["secrets"] == "/etc/triptych"
        assert volumes["secrets"]["secret"]["secretName"] == "triptych"


@both
def test_probes_tell_a_pod_that_starts_from_one_that_is_dead(folder: str) -> None:
    for group in groups(folder):
        probes = {name: container(group)[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
        assert probes["startup"]["periodSeconds"] * probes["startup"]["failureThreshold"] >= 600
        assert probes["liveness"]["httpGet"]["path"] == "/api/healthz", "Ray itself, not whether models are loaded"
    for worker in groups(folder)[1:]:
        assert container(worker)["readinessProbe"]["httpGet"] == {"path": "/-/healthz", "port": 8000}


@both
def test_no_pod_runs_as_root_or_may_become_more(folder: str) -> None:
    stateful = [found["spec"] for found in plain_objects() if found["kind"] == "StatefulSet"]
    for group in [*groups(folder), *stateful]:
        pod, only = group["template"]["spec"]["securityContext"], container(group)["securityContext"]
        assert (pod["runAsNonRoot"], only["allowPrivilegeEscalation"]) == (True, False)
        assert only["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("text", ["kind: RayService\nspec: {}\n", "a:\n  serveConfigV2: x\nb:\n  serveConfigV2: y\n"])
def test_a_manifest_without_one_place_for_it_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="exactly one line"):
        with_serve_config(text, {})


def test_the_rest_of_a_manifest_stays_to_the_letter() -> None:
    text = "spec:  # a\n  serveConfigV2: |\n    old: 1\n\n    older: 2\n  rest: {x: 1}  # b\n"
    written: dict[str, Any] = {"new": {"y": 1}}
    assert with_serve_config(text, written) == "spec:  # a\n  serveConfigV2: |\n    new:\n      y: 1\n  rest: {x: 1}  # b\n"
