# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs of Debian packages in a test's namespaces: configured by files, their logs and pids in a directory of the test's."""
import dataclasses
import json
import os
import pathlib
import pwd
import shutil
import subprocess
import tempfile

import pytest

from lab import wait_until

EXAMPLES = pathlib.Path(__file__).resolve().parent.parent.parent / "tools" / "examples"


def example(name):
    return (EXAMPLES / name).read_text()


def need(program):
    """The program's path; Debian keeps those of administrators in /usr/sbin."""
    path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"{program} is not installed")
    return path


def sockets(space, port):
    """How many TCP sockets listen on the port, and UDP ones are bound to it."""
    return len(space.run("ss", "-Hlntu", f"sport = :{port}").stdout.splitlines())


class Program:
    """A program that stays in the foreground, in a directory that its user may write to."""

    user = None

    def __init__(self, space, ports, prefix=()):
        """`prefix`: words in front of the program's, such as those of a command that changes the cgroup."""
        self.space, self.ports, self.prefix = space, ports, tuple(prefix)
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix=f"{type(self).__name__.lower()}-", dir=space.directory))
        self.directory.chmod(0o755)
        pathlib.Path(space.directory).chmod(0o755)
        if self.user:
            os.chown(self.directory, pwd.getpwnam(self.user).pw_uid, -1)
        self.process = None

    def write(self, name, text):
        path = self.directory / name
        path.write_text(text)
        return path

    def argv(self):
        raise NotImplementedError

    def start(self):
        self.process = self.space.start(*self.prefix, *self.argv(), name=type(self).__name__)
        self.wait_listening()
        return self

    def wait_listening(self):
        def listens():
            assert self.process.alive(), f"{self.process.argv}: {self.process.err()}{self.process.out()}"
            return all(sockets(self.space, port) for port in self.ports)

        wait_until(listens, 30, f"{self.process.argv} to listen")

    def log(self, name):
        path = self.directory / name
        return path.read_text(errors="replace") if path.exists() else ""


class Nginx(Program):
    """A web server: files below `root`; its access log has the client's address, host, path, status, how often the connection
    was used, and whom a proxy has said it asks for."""

    def __init__(self, space, ports=(80,), rate="", **options):
        super().__init__(space, ports, **options)
        self.root = self.directory / "root"
        self.root.mkdir()
        (self.root / "hello").write_text("hello\n")
        listens = "\n".join(f"listen {port} backlog=2048; listen [::]:{port} backlog=2048;" for port in ports)
        self.conf = self.write("nginx.conf", f"""
            daemon off; user root; worker_processes 1; worker_rlimit_nofile 8192;
            pid {self.directory}/pid; error_log {self.directory}/error.log;
            events {{ worker_connections 4096; }}
            http {{
                log_format seen '$remote_addr $host $request_uri $status $connection_requests $http_x_forwarded_for';
                access_log {self.directory}/access.log seen;
                client_body_temp_path {self.directory}/body; proxy_temp_path {self.directory}/proxy;
                fastcgi_temp_path {self.directory}/fastcgi; uwsgi_temp_path {self.directory}/uwsgi;
                scgi_temp_path {self.directory}/scgi;
                sendfile on; tcp_nopush on; keepalive_timeout 60s; keepalive_requests 100000; root {self.root};
                server {{ {listens} location /slow/ {{ alias {self.root}/; limit_rate 200k; }} {rate} }}
            }}""")

    def argv(self):
        return [need("nginx"), "-e", self.directory / "error.log", "-c", self.conf]

    def seen(self):
        """What the access log says, a list of words for each request."""
        return [line.split() for line in self.log("access.log").splitlines()]

    def clients(self):
        return {words[0] for words in self.seen()}

    def generate(self, name, size):
        """A file of `size` bytes that are not the same anywhere."""
        path = self.root / name
        with open(path, "wb") as file:
            block = os.urandom(1 << 20)
            for number in range(0, size, len(block)):
                file.write(number.to_bytes(8, "big") + block[8:min(len(block), size - number)])
        assert path.stat().st_size == size
        return path


class HaProxy(Program):
    """With the example's configuration, or another text."""

    def __init__(self, space, text=None, ports=(1080,), **options):
        super().__init__(space, ports, **options)
        self.conf = self.write("haproxy.cfg", example("haproxy.cfg") if text is None else text)

    def argv(self):
        return [need("haproxy"), "-db", "-f", self.conf]


class Squid(Program):
    """With the example's configuration, and what says where its logs are."""

    user = "proxy"

    def __init__(self, space, text=None, ports=(3129,), **options):
        super().__init__(space, ports, **options)
        self.conf = self.write("squid.conf", (example("squid.conf") if text is None else text) + f"""
            pid_filename {self.directory}/pid
            cache_log {self.directory}/cache.log
            access_log stdio:{self.directory}/access.log
            coredump_dir {self.directory}
            visible_hostname proxy.test
            shutdown_lifetime 0 seconds
            max_filedescriptors 8192
            cache deny all
            pinger_enable off
            dns_nameservers 127.0.0.1
            """)

    def argv(self):
        return [need("squid"), "-N", "-f", self.conf]


class Unbound(Program):
    """With the example's configuration or another text, behind it what answers the tests' names."""

    user = "unbound"

    def __init__(self, space, text=None, ports=(53,), forward=None, data=(), **options):
        """`forward`: the server that is asked; `data`: records it knows itself."""
        super().__init__(space, ports, **options)
        more = "".join(f"    local-data: '{record}'\n" for record in data)
        zone = f'forward-zone:\n    name: "."\n    forward-addr: {forward}\n' if forward else ""
        self.conf = self.write("unbound.conf", (example("unbound.conf") if text is None else text) + f"""
server:
    chroot: ""
    directory: "{self.directory}"
    pidfile: "{self.directory}/pid"
    logfile: "{self.directory}/log"
    use-syslog: no
    log-queries: yes
    username: unbound
    do-daemonize: no
    num-threads: 1
    module-config: "iterator"
    do-not-query-localhost: no
{more}{zone}remote-control:
    control-enable: no
""")

    def argv(self):
        return [need("unbound"), "-d", "-c", self.conf]


def curl(space, *words, check=True):
    return space.run(need("curl"), "-sS", "--noproxy", "*", "-m", "60", *words, check=check)


def dig(space, *words, check=True):
    """The answer's section, a list of lines, without comments."""
    done = space.run(need("dig"), "+tries=2", "+time=3", "+noall", "+answer", *words, check=check)
    return [line for line in done.stdout.splitlines() if line and not line.startswith(";")]


def errors_found(lab, utproxy):
    """What `utproxy doctor` calls an error, of the daemon's targets and all rules there are."""
    done = lab.router.run(utproxy.binary, "doctor", "-j", "--control", utproxy.control, check=False)
    found = json.loads(done.stdout)
    errors = [f"{each['id']}: {each['cause']}" for each in found["findings"] if each["severity"] == "error"]
    assert found["ok"] == (not errors) == (done.returncode == 0)
    return errors


def intact_downloads(space, url, file, number, at_once, source=None):
    """Downloads `url` so often, so many at a time, with a curl of its own each, compares each with `file` and returns how
    many were whole. `source`: the --interface of them."""
    words = f"--interface {source}" if source else ""
    one = f"{need('curl')} -sS -g --noproxy '*' -m 300 {words} '{url}' | cmp -s - {file} && echo whole"
    done = subprocess.run(space.wrap(["sh", "-c", f"seq {number} | xargs -P {at_once} -I{{}} sh -c \"{one}\""]),
                          capture_output=True, text=True, timeout=590)
    return done.stdout.count("whole"), done.stderr


@dataclasses.dataclass(frozen=True)
class Download:
    """Of one curl: when it was started and had ended (time.time()), its exit status, and whether what it got is the file."""

    began: float
    ended: float
    status: int
    whole: bool


class Downloads:
    """Downloads of a URL that go on in the background, so many in all, so many at a time, each compared with the file."""

    def __init__(self, space, url, file, number, at_once, seconds):
        one = (f"b=$EPOCHREALTIME; {need('curl')} -sS -g --noproxy '*' -m {seconds} '{url}' 2>/dev/null | cmp -s - {file}; "
               "echo $b $EPOCHREALTIME ${PIPESTATUS[*]}")
        self.number, self.seconds = number, seconds
        self.process = space.start("sh", "-c", f'seq {number} | xargs -P {at_once} -n 1 bash -c "$0"', one, name="downloads")

    def done(self):
        """Those that have ended."""
        lines = [line.split() for line in self.process.out().splitlines(keepends=True) if line.endswith("\n")]
        return [Download(float(began), float(ended), int(status), differs == "0") for began, ended, status, differs in lines]

    def wait(self):
        assert self.process.popen.wait(self.seconds * 3) == 0, self.process.err()
        assert len(self.done()) == self.number
        return self.done()
