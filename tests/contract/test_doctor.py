# SPDX-License-Identifier: GPL-3.0-or-later
"""`doctor` and `report`: forms, exit statuses, and what they leave alone."""
import json
import tarfile

WORDS = ["--iif", "lan0", "--on-port", "12345", "--tproxy-mark", "0x1"]
FILES = {"version", "doctor.txt", "doctor.json", "sockets.json", "ruleset", "routing", "queues", "stats.json",
         "decisions.json", "replay"}


def test_nothing_to_look_at(call):
    """Whoever looked at nothing has not found everything well."""
    done = call("doctor", "-j")
    answer = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (1, "") and not answer["ok"]
    assert [(f["id"], f["severity"]) for f in answer["findings"]] == [("not_delivered", "error")]
    assert "nothing to look at" in answer["findings"][0]["cause"]


def test_a_target_that_lacks_all(call):
    done = call("doctor", "-j", *WORDS)
    answer = json.loads(done.stdout)
    assert done.returncode == 1 and answer["ok"] is False
    found = {f["id"] for f in answer["findings"] if f["severity"] == "error"}
    assert found == {"no_listener", "no_fwmark_rule", "no_local_route"}, answer
    for finding in answer["findings"]:
        assert set(finding) == {"id", "severity", "where", "cause", "fix"} and finding["fix"]


def test_text(call):
    done = call("doctor", *WORDS)
    assert done.returncode == 1 and "\x1b" not in done.stdout and "no_fwmark_rule" in done.stdout
    assert all(len(line) <= 80 or "fix:" in line for line in done.stdout.splitlines())
    wide = call("doctor", *WORDS, environment={"COLUMNS": "200"})
    assert max(map(len, wide.stdout.splitlines())) > 80


def test_wrong_usage(call):
    assert call("doctor", "--on-port", "70000").returncode == 2
    assert call("doctor", "extra").returncode == 2
    assert call("report").returncode == 2
    done = call("report", "/nonexistent/x.tar")
    assert done.returncode == 1 and "/nonexistent/x.tar" in done.stderr


def test_no_daemon_where_one_is_named(call):
    done = call("doctor", "--control", "/nonexistent/control.sock", *WORDS)
    assert done.returncode == 1 and "/nonexistent/control.sock" in done.stderr


def contents(path):
    with tarfile.open(path) as tar:
        return {m.name.removeprefix("utproxy-report/"): tar.extractfile(m).read().decode() for m in tar.getmembers()}


def test_report(call, tmp_path):
    path = tmp_path / "r.tar.gz"
    done = call("report", str(path), *WORDS)
    assert done.returncode == 0, done.stderr
    assert path.stat().st_mode & 0o077 == 0
    files = contents(path)
    assert set(files) == FILES
    assert "10.77.1.1/24" in files["routing"] and "fd77:1::1/64" in files["routing"]
    assert not json.loads(files["doctor.json"])["ok"]
    assert any(json.loads(line).get("interface") == "lan0" for line in files["sockets.json"].splitlines())
    assert "utproxy replay CAPTURE --sockets sockets.json --on-port 12345 --tproxy-mark 0x1/0xffffffff" in files["replay"]
    # No daemon is not the report's end, and is said.
    assert "ask the daemon" in json.loads(files["stats.json"])["error"]
    assert "ask the daemon" in json.loads(files["decisions.json"])["error"]


def test_a_report_is_a_new_file(call, tmp_path):
    """Neither what is there nor what a link leads to is written to: root writes reports, in /tmp."""
    there, link, nowhere = tmp_path / "there.tar", tmp_path / "link.tar", tmp_path / "nowhere.tar"
    there.write_text("precious")
    there.chmod(0o644)
    link.symlink_to(there)
    nowhere.symlink_to(tmp_path / "made.tar")
    for path in (there, link, nowhere):
        done = call("report", str(path), *WORDS)
        first, remedy = done.stderr.splitlines()
        assert done.returncode == 1 and first == f"utproxy: write {path}: File exists" and "new file" in remedy
    assert there.read_text() == "precious" and there.stat().st_mode & 0o777 == 0o644
    assert not (tmp_path / "made.tar").exists()


def test_report_without_addresses(call, tmp_path):
    path = tmp_path / "r.tar"
    assert call("report", "--anonymize", str(path), *WORDS).returncode == 0
    text = "".join(contents(path).values())
    assert "10.77.1." not in text and "fd77:1:" not in text and "10.0.1.1/24" in text
