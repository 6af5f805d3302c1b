# SPDX-License-Identifier: GPL-3.0-or-later
"""A Debian 12 root file system of the test's own, and what is done in it.

Each command has its own mount namespace, which /proc and /sys of the root file system go with.
"""
import hashlib
import os
import pathlib
import shutil
import stat
import subprocess

from installing import run

# What changes with every package that comes and goes.
PASSING = ("proc", "sys", "dev", "run", "tmp", "var/lib/dpkg", "var/lib/apt", "var/log", "var/cache", "etc/.pwd.lock")


def sources():
    """Where apt on this machine has Debian 12 from, as lines of a sources.list."""
    rows = run(["apt-get", "indextargets", "--format", "$(ORIGIN)|$(REPO_URI)|$(CODENAME)|$(COMPONENT)",
                "Created-By: Packages"]).split()
    found = {tuple(row.split("|")) for row in rows}
    return [f"deb {uri} {codename} {component}" for origin, uri, codename, component in sorted(found)
            if origin == "Debian" and codename.startswith("bookworm") and component == "main"]


def proxy_settings():
    """apt's, which a router of the machine's network may ask for."""
    found = run(["apt-config", "dump", "--format", "%f \"%v\";%n", "Acquire::http::Proxy", "Acquire::https::Proxy"])
    return [f"--aptopt={line}" for line in found.splitlines() if '""' not in line]


class Root:
    """A minimal Debian 12 in the directory `path`, with the packages that satisfy `depends`."""

    def __init__(self, path, depends):
        self.path = path
        mirror = path.parent / "sources.list"
        mirror.write_text("\n".join(sources()) + "\n")
        satisfy = ('chroot "$1" env DEBIAN_FRONTEND=noninteractive '
                   f"apt-get satisfy -y --no-install-recommends '{depends}'")
        run(["mmdebstrap", "--mode=root", "--variant=minbase", *proxy_settings(), f"--customize-hook={satisfy}",
             "bookworm", path, mirror], timeout=900)

    def command(self, *words, namespace=None):
        """The words that run `words` within, in the network namespace of that name."""
        mounts = 'mount -t proc proc "$0/proc" && mount -t sysfs sysfs "$0/sys" && exec chroot "$0" "$@"'
        inner = ["unshare", "--mount", "--propagation", "private", "sh", "-c", mounts, str(self.path), *map(str, words)]
        return inner if namespace is None else ["ip", "netns", "exec", namespace, *inner]

    def run(self, *words, namespace=None, **options):
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8",
                       "DEBIAN_FRONTEND": "noninteractive"}
        return run(self.command(*words, namespace=namespace), env=environment, **options)

    def files(self):
        """{path: what is there}, all but what changes with any package."""
        found = {}
        for folder, folders, names in os.walk(self.path):
            inside = os.path.relpath(folder, self.path)
            folders[:] = [name for name in folders if os.path.normpath(os.path.join(inside, name)) not in PASSING]
            for name in folders + names:
                relative = os.path.normpath(os.path.join(inside, name))
                # passwd- and the like: the file before the last change.
                if relative in PASSING or (inside == "etc" and name.endswith("-")):
                    continue
                found[relative] = describe(self.path / relative)
        return found

    def remove(self):
        """Without following it out of its file system: where a mount was left behind, that stays as it is."""
        if not any(f" {self.path}/" in line for line in pathlib.Path("/proc/self/mounts").read_text().splitlines()):
            shutil.rmtree(self.path, ignore_errors=True)


def describe(path):
    facts = path.lstat()
    if stat.S_ISLNK(facts.st_mode):
        content = os.readlink(path)
    elif stat.S_ISREG(facts.st_mode):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
    else:
        content = ""
    return f"{stat.filemode(facts.st_mode)} {facts.st_uid}:{facts.st_gid} {content}"


def fields(package):
    """{field: value} of a .deb's control file; of fields in several lines the first."""
    out = subprocess.run(["dpkg-deb", "--field", str(package)], stdout=subprocess.PIPE, text=True, check=True).stdout
    return dict(line.split(": ", 1) for line in out.splitlines() if ": " in line and not line.startswith(" "))
