#!/usr/bin/env python3
"""The Kubernetes manifests: built by kubectl's kustomize, rendered by helm, judged by the API's own schemas, and held against
what the program says of itself. Nothing here needs a cluster or a network.

    test_k8s.py SOURCE TOOLS        TOOLS: a folder with kubectl and helm

Run by a Python that has kubernetes-validate and yaml."""
import copy
import glob
import os
import re
import subprocess
import sys
import unittest

import kubernetes_validate
import yaml

source, tools = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
deploy = os.path.join(source, "deploy")
k8s = os.path.join(deploy, "k8s")
chart = os.path.join(k8s, "chart", "engramd")
VERSION = "1.33"
OVERLAYS = ["base"] + sorted("overlays/" + n for n in os.listdir(os.path.join(k8s, "overlays")))
VALUES = {
    "defaults": [],
    "hugepages": ["hugepages=64Mi"],
    "shared": ["sharedTable.enabled=true", "model=/models/mine", "modelVolume.hostPath.path=/srv/models"],
    "everything": ["autoscaling.enabled=true", "serviceMonitor.enabled=true", "apiKeySecret=keys", "nodeSelector.disk=nvme",
                   "imagePullSecrets[0].name=pull", "tolerations[0].operator=Exists", "options.max-num-seqs=32"],
    "open": ["networkPolicy.enabled=false"],
}
# Kinds that Kubernetes itself does not know: what each must have.
CUSTOM = {
    "ServiceMonitor": {"jobLabel", "selector", "endpoints"},
    "InferencePool": {"selector", "targetPorts", "endpointPickerRef"},
    "InferenceObjective": {"priority", "poolRef"},
    "HTTPRoute": {"parentRefs", "rules"},
}


def run(*args):
    r = subprocess.run(args, capture_output=True, text=True, timeout=60)
    if r.returncode != 0:
        raise AssertionError(" ".join(args) + "\n" + r.stderr)
    return r.stdout


def parse(text):
    return [d for d in yaml.safe_load_all(text) if d]


def kustomize(overlay):
    return parse(run(os.path.join(tools, "kubectl"), "kustomize", "--load-restrictor", "LoadRestrictionsNone",
                     os.path.join(k8s, overlay)))


def helm(*settings):
    args = [x for s in settings for x in ("--set", s)]
    return parse(run(os.path.join(tools, "helm"), "template", "test", chart, "--namespace", "engramd", *args))


def everything():
    """(where, documents) of all that can be applied."""
    for overlay in OVERLAYS:
        yield overlay, kustomize(overlay)
    for name, settings in VALUES.items():
        yield "chart, " + name, helm(*settings)
    for path in glob.glob(os.path.join(k8s, "examples", "*.yaml")):
        with open(path, encoding="utf-8") as f:
            yield os.path.basename(path), parse(f.read())


def one(documents, kind, name=None):
    found = [d for d in documents if d["kind"] == kind and name in (None, d["metadata"]["name"])]
    assert len(found) == 1, (kind, [d["kind"] for d in documents])
    return found[0]


def read(*path):
    with open(os.path.join(source, *path), encoding="utf-8") as f:
        return f.read()


class Schemas(unittest.TestCase):
    def test_all(self):
        for where, documents in everything():
            self.assertTrue(documents, where)
            for d in documents:
                with self.subTest(where=where, kind=d["kind"]):
                    if d["kind"] in CUSTOM:
                        self.assertLessEqual(CUSTOM[d["kind"]], set(d["spec"]))
                    else:
                        kubernetes_validate.validate(d, VERSION, strict=True)

    def test_faults_are_found(self):
        good = one(kustomize("base"), "Deployment")
        for path, value in (("spec.replicas", "three"), ("spec.template.spec.containers.0.ports.0.containerprot", 1),
                            ("spec.template.spec.containers.0.securityContext.readOnlyRootFilesystem", "yes")):
            bad = copy.deepcopy(good)
            at = bad
            *steps, last = path.split(".")
            for step in steps:
                at = at[int(step) if step.isdigit() else step]
            at[last] = value
            with self.assertRaises(kubernetes_validate.ValidationError, msg=path):
                kubernetes_validate.validate(bad, VERSION, strict=True)

    def test_chart_lints(self):
        out = run(os.path.join(tools, "helm"), "lint", "--strict", chart)
        self.assertIn("0 chart(s) failed", out)

    def test_settings_that_exclude_each_other(self):
        with self.assertRaisesRegex(AssertionError, "either it or sharedTable.enabled"):
            helm("hugepages=64Mi", "sharedTable.enabled=true")


class Sense(unittest.TestCase):
    """What schemas cannot know."""

    def deployments(self):
        for where, documents in everything():
            if any(d["kind"] == "Deployment" for d in documents):
                yield where, documents, one(documents, "Deployment")["spec"]

    def container(self, spec):
        return spec["template"]["spec"]["containers"][0]

    def test_names_and_versions_are_those_of_the_program(self):
        version = re.search(r"version: '([^']+)'", read("meson.build")).group(1)
        described = yaml.safe_load(read("deploy", "k8s", "chart", "engramd", "Chart.yaml"))
        self.assertEqual({version}, {described["version"], described["appVersion"]})
        for where, _, spec in self.deployments():
            self.assertTrue(self.container(spec)["image"].endswith("/engramd:" + version), where)

    def test_options_exist(self):
        known = set(re.findall(r"`(ENGRAMD_[A-Z_]+)`", read("docs", "CONFIGURATION.md")))
        self.assertGreater(len(known), 40)
        for where, documents, _ in self.deployments():
            named = set(one(documents, "ConfigMap", "test-engramd" if "chart" in where else "engramd")["data"])
            self.assertEqual(set(), named - known, where)

    def test_user_is_that_of_the_image(self):
        user = int(re.search(r"^USER (\d+)", read("deploy", "Containerfile"), re.M).group(1))
        for where, _, spec in self.deployments():
            context = spec["template"]["spec"]["securityContext"]
            self.assertEqual((user, True), (context["runAsUser"], context["runAsNonRoot"]), where)
            c = self.container(spec)["securityContext"]
            self.assertTrue(c["readOnlyRootFilesystem"] and not c["allowPrivilegeEscalation"], where)
            self.assertEqual(["ALL"], c["capabilities"]["drop"])

    def test_probes(self):
        for where, _, spec in self.deployments():
            c = self.container(spec)
            paths = [c[p]["httpGet"]["path"] for p in ("startupProbe", "readinessProbe", "livenessProbe")]
            self.assertEqual(["/ready", "/ready", "/health"], paths, where)
            ports = {p["name"]: p["containerPort"] for p in c["ports"]}
            for probe in "startupProbe", "readinessProbe", "livenessProbe":
                self.assertIn(c[probe]["httpGet"]["port"], ports)

    def test_drain_fits_the_grace_period(self):
        for where, documents, spec in self.deployments():
            data = one(documents, "ConfigMap", "test-engramd" if "chart" in where else "engramd")["data"]
            pause = self.container(spec)["lifecycle"]["preStop"]["sleep"]["seconds"]
            self.assertGreaterEqual(spec["template"]["spec"]["terminationGracePeriodSeconds"],
                                    int(data["ENGRAMD_DRAIN_TIMEOUT"]) + pause + 5, where)

    def test_selectors_find_the_pods(self):
        for where, documents, spec in self.deployments():
            labels = spec["template"]["metadata"]["labels"].items()
            selectors = [spec["selector"]["matchLabels"], one(documents, "Service")["spec"]["selector"],
                         one(documents, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"]]
            selectors += [d["spec"]["podSelector"]["matchLabels"] for d in documents if d["kind"] == "NetworkPolicy"]
            for s in selectors:
                self.assertTrue(s and s.items() <= labels, (where, s))
            for d in documents:
                if d["kind"] == "ServiceMonitor":
                    service = one(documents, "Service")
                    self.assertTrue(d["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items())
                    self.assertIn(d["spec"]["endpoints"][0]["port"], [p["name"] for p in service["spec"]["ports"]])

    def test_mounts_have_volumes(self):
        for where, _, spec in self.deployments():
            pod = spec["template"]["spec"]
            volumes = {v["name"] for v in pod["volumes"]}
            for c in pod["containers"] + pod.get("initContainers", []):
                self.assertLessEqual({m["name"] for m in c["volumeMounts"]}, volumes, where)

    def test_autoscaler_reads_metrics_that_exist(self):
        rules = yaml.safe_load(read("deploy", "k8s", "overlays", "autoscaled", "prometheus-adapter.yaml"))["rules"]["custom"]
        served = {r["name"]["as"]: re.match(r"[\w:]+", r["seriesQuery"]).group(0) for r in rules}
        metrics = read("docs", "METRICS.md")
        for where in "overlays/autoscaled", "chart, everything":
            hpa = one(dict(everything())[where], "HorizontalPodAutoscaler")
            for m in hpa["spec"]["metrics"]:
                self.assertIn("| `%s` |" % served[m["pods"]["metric"]["name"]], metrics, where)
            self.assertNotIn("replicas", one(dict(everything())[where], "Deployment")["spec"])

    def test_tables_are_shared(self):
        for where, documents, spec in self.deployments():
            data = one(documents, "ConfigMap", "test-engramd" if "chart" in where else "engramd")["data"]
            if "shared" not in where and "hugepages" not in where:
                self.assertNotIn("ENGRAMD_ENGRAM_TIER", data)
                continue
            self.assertEqual("shared", data["ENGRAMD_ENGRAM_TIER"])
            mounts = {m["mountPath"]: m["name"] for m in self.container(spec)["volumeMounts"]}
            volume = [v for v in spec["template"]["spec"]["volumes"]
                      if v["name"] == mounts[data["ENGRAMD_ENGRAM_SHARED_DIR"]]][0]
            self.assertIn("hostPath" if "shared" in where else "emptyDir", volume, where)

    def test_chart_and_base_agree(self):
        base, chart_spec = one(kustomize("base"), "Deployment")["spec"], one(helm(), "Deployment")["spec"]
        self.assertEqual(base["strategy"], chart_spec["strategy"])
        for key in ("startupProbe", "readinessProbe", "livenessProbe", "securityContext", "lifecycle", "resources", "ports",
                    "args"):
            self.assertEqual(self.container(base)[key], self.container(chart_spec)[key], key)
        self.assertEqual(base["template"]["spec"]["securityContext"], chart_spec["template"]["spec"]["securityContext"])

    def test_alerts_and_dashboards_are_those_of_the_tree(self):
        documents = kustomize("overlays/monitored")
        self.assertEqual(read("deploy", "prometheus", "alerts.yml"),
                         one(documents, "ConfigMap", "engramd-alerts")["data"]["alerts.yml"])
        boards = one(documents, "ConfigMap", "engramd-dashboards")["data"]
        self.assertEqual({os.path.basename(p) for p in glob.glob(os.path.join(deploy, "grafana", "*.json"))}, set(boards))


class Compose(unittest.TestCase):
    def setUp(self):
        self.services = yaml.safe_load(read("deploy", "compose.yaml"))["services"]

    def test_files_exist(self):
        for name, s in self.services.items():
            for v in s.get("volumes", []):
                if v.startswith("./"):
                    self.assertTrue(os.path.exists(os.path.join(deploy, v.split(":")[0])), v)
        build = self.services["engramd"]["build"]
        self.assertTrue(os.path.exists(os.path.join(deploy, build["context"], build["dockerfile"])))

    def test_parts_find_each_other(self):
        scrape = yaml.safe_load(read("deploy", "prometheus", "prometheus.yml"))["scrape_configs"][0]
        self.assertEqual(["engramd:8080"], scrape["static_configs"][0]["targets"])
        sources = yaml.safe_load(read("deploy", "grafana", "provisioning", "datasources", "prometheus.yml"))
        self.assertEqual("http://prometheus:9090", sources["datasources"][0]["url"])
        self.assertLessEqual({"engramd", "prometheus", "grafana"}, set(self.services))
        folder = yaml.safe_load(read("deploy", "grafana", "provisioning", "dashboards", "engramd.yml"))
        path = folder["providers"][0]["options"]["path"]
        self.assertEqual(2, sum(":%s/" % path in v for v in self.services["grafana"]["volumes"]))

    def test_engramd_is_confined(self):
        s = self.services["engramd"]
        self.assertTrue(s["read_only"])
        self.assertEqual(["ALL"], s["cap_drop"])
        self.assertIn("no-new-privileges:true", s["security_opt"])


if __name__ == "__main__":
    print("seed 0 (nothing here is drawn)")
    sys.stdout.flush()
    unittest.main(argv=sys.argv[:1] + sys.argv[3:], verbosity=2)
