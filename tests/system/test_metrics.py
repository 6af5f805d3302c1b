# SPDX-License-Identifier: GPL-3.0-or-later
"""--metrics: Prometheus' text format, the same figures as `stats`, at the address that was said and nowhere else."""
import http.client
import json
import pathlib
import re
import shutil
import socket
import subprocess
import time

import pytest

from configured import Configured
from engine import Target
from lab import ASKED, endpoint, wait_until

PORT, ON_PORT, METRICS = 8080, 12345, 9333
DASHBOARD = pathlib.Path(__file__).resolve().parents[2] / "tools" / "grafana" / "utproxy.json"
SAMPLE = re.compile(r'^(utproxy_\w+)(?:\{([^}]*)\})? ([0-9.e+-]+)$')


def request(lab, path="/metrics", method="GET", host="127.0.0.1", port=METRICS):
    with lab.router.entered():
        connection = http.client.HTTPConnection(host, port, timeout=10)
        connection.connect()
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer, body


def samples(text):
    """{(name, ((label, value), ...)): number}; a series occurs once."""
    found = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        name, labels, value = SAMPLE.match(line).groups()
        key = (name, tuple(re.findall(r'(\w+)="([^"]*)"', labels or "")))
        assert key not in found, line
        found[key] = float(value)
    return found


@pytest.fixture
def engine(lab, make_engine):
    lab.listen("udp", ON_PORT)
    options = ("--fast-path", "divert", "--metrics", METRICS)
    return make_engine("install", lab, Target("udp", PORT, on_port=ON_PORT, queues=2, options=tuple(map(str, options))))


def test_promtool_has_nothing_to_say(lab, engine):
    if shutil.which("promtool") is None:
        pytest.skip("promtool (package prometheus) is not installed")
    lab.ask("udp", endpoint(ASKED[4], PORT), "--count", 5)
    answer, text = request(lab)
    assert answer.status == 200 and answer.getheader("Content-Type").startswith("text/plain; version=0.0.4")
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_figures_are_those_of_stats(lab, engine):
    for port, count in ((PORT, 7), (PORT + 1, 2)):
        lab.ask("udp", endpoint(ASKED[4], port), "--count", count, "--timeout-ms", 100, "--keep-going")
    time.sleep(0.3)  # older than what is kept
    stats, found = engine.stats(), samples(request(lab)[1])
    target = (("target", "default"),)
    assert stats["packets"] > 0 and found["utproxy_packets_total", target] == stats["packets"]
    for name, kinds, label in (("verdicts", ("accept", "drop"), "verdict"), ("reasons", stats["reasons"], "reason")):
        for kind in kinds:
            assert found[f"utproxy_{name}_total", (*target, (label, kind))] == stats[name][kind]
    assert {dict(labels)["kind"]: n for (name, labels), n in found.items() if name == "utproxy_losses_total"} == stats["losses"]
    for queue in stats["queues"]:
        assert found["utproxy_queue_packets_total", (*target, ("queue", str(queue["queue"])))] == queue["packets"]


def test_labels_are_bounded(lab, engine):
    """However much traffic there is, and from whomever: the same series, with the labels that there are to be."""
    before = set(samples(request(lab)[1]))
    for n in range(3):
        lab.ask("udp", endpoint(ASKED[4], PORT + n), "--count", 20, "--timeout-ms", 50, "--keep-going")
    time.sleep(0.3)
    after = set(samples(request(lab)[1]))
    assert after == before and len(after) < 200
    assert {label for _, labels in after for label, _ in labels} == {"target", "queue", "verdict", "reason", "kind", "by", "proto"}


def test_dashboard_names_metrics_that_there_are(lab, engine):
    dashboard = json.loads(DASHBOARD.read_text())
    expressions = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    expressions += [v["query"]["query"] for v in dashboard["templating"]["list"] if v["type"] == "query"]
    named = {name for text in expressions for name in re.findall(r"utproxy_\w+", text)}
    found = samples(request(lab)[1])
    names = {name for name, _ in found}
    assert named and named <= names, named - names
    for text in expressions:
        for name, labels in re.findall(r"sum by \(([^)]*)\) \(rate\((utproxy_\w+)", text):
            have = {label for metric, pairs in found for label, _ in pairs if metric == labels}
            assert set(re.split(r",\s*", name)) <= have, text


def test_dashboards_expressions_are_promql(tmp_path):
    if shutil.which("promtool") is None:
        pytest.skip("promtool (package prometheus) is not installed")
    panels = json.loads(DASHBOARD.read_text())["panels"]
    expressions = [t["expr"].replace("$__rate_interval", "1m") for panel in panels for t in panel["targets"]]
    rules = [{"record": f"r:{n}", "expr": text} for n, text in enumerate(expressions)]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", str(tmp_path / "rules.yml")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and f"{len(rules)} rules found" in done.stdout, done


def test_other_requests(lab, engine):
    assert request(lab, "/")[0].status == 404
    assert request(lab, "/metrics", "POST")[0].status == 405
    head, body = request(lab, "/metrics", "HEAD")
    assert (head.status, body) == (200, "")


def test_loopback_only(lab, engine):
    with lab.client.entered():
        connection = socket.socket()
    connection.settimeout(5)
    with pytest.raises(ConnectionRefusedError):
        connection.connect(("10.77.1.1", METRICS))
    connection.close()


def test_idle_and_rude_clients_hold_up_nobody(lab, engine):
    """More than are served at a time, who say nothing, or nonsense: they are cut off, and who asks is answered."""
    rude = []
    for n in range(40):
        with lab.router.entered():
            connection = socket.create_connection(("127.0.0.1", METRICS), timeout=5)
        connection.sendall((b"", b"GET", b"\0\xff" * 50, b"GET /metrics HTTP/1.1\r\nX: " + b"y" * 20000)[n % 4])
        rude.append(connection)
    lab.ask("udp", endpoint(ASKED[4], PORT), "--count", 5)
    assert wait_until(lambda: answered(lab), 30, "an answer")
    for connection in rude:
        connection.close()


def drip(clients):
    """One byte more of a header from each, which its timeout begins anew with; those that were cut off come again."""
    for n, client in enumerate(clients):
        try:
            client.send(b"x")
        except OSError:
            client.close()
            clients[n] = socket.create_connection(("127.0.0.1", METRICS), timeout=5)
            clients[n].sendall(b"GET /metrics HTTP/1.1\r\nX: ")


def test_dripping_clients_hold_up_nobody(lab, engine):
    """More than are served at a time, none of them ever silent for as long as it takes to be cut off: a scrape is answered all
    the while, and its connection is none of those that go."""
    clients = []
    try:
        with lab.router.entered():
            for n in range(80):
                clients.append(socket.create_connection(("127.0.0.1", METRICS), timeout=5))
                clients[n].sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        for n in range(12):  # longer than the timeout
            with lab.router.entered():
                drip(clients)
            assert answered(lab), f"round {n}"
            time.sleep(0.7)
    finally:
        for client in clients:
            client.close()
    assert wait_until(lambda: answered(lab), 30, "an answer")


def answered(lab):
    try:
        return request(lab)[0].status == 200
    except OSError:
        return False


@pytest.mark.parametrize("where,host", [("[::1]:9334", "::1"), ("10.77.1.1:9335", "10.77.1.1")])
def test_other_addresses(lab, make_engine, where, host):
    make_engine("install", lab, Target("udp", PORT, on_port=ON_PORT, options=("--metrics", where)))
    assert request(lab, host=host, port=int(where.rpartition(":")[2]))[0].status == 200


def test_taken_address(lab, engine, utproxy):
    words = ["run", "--queue-num", 9, "--on-port", 1, "--metrics", METRICS, "--control", engine.control + ".2"]
    done = lab.router.run(utproxy, *words, check=False)
    assert done.returncode == 1 and f"127.0.0.1:{METRICS}" in done.stderr.splitlines()[0]


def test_after_a_reload(lab, utproxy):
    """Targets that are gone are gone from the metrics."""
    text = """
    [[target]]
    name = "{}"
    queues = 7
    """
    daemon = Configured(lab, utproxy, text.format("one"), "--metrics", METRICS)
    assert ("target", "one") in {pair for _, labels in samples(request(lab)[1]) for pair in labels}
    said = daemon.reload(text.format("two"))
    assert "metrics" not in said
    time.sleep(0.3)
    assert {value for _, labels in samples(request(lab)[1]) for label, value in labels if label == "target"} == {"two"}
    assert daemon.stop() == 0
