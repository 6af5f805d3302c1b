# SPDX-License-Identifier: GPL-3.0-or-later
"""Debian packages unpacked in a cache and not installed: kernels with their modules, and busybox-static.

What is in the cache is used as it is, without a network. Neither the machine's packages nor its package lists change.
"""
import dataclasses
import functools
import os
import pathlib
import re
import shutil
import subprocess
import tempfile


class Unavailable(Exception):
    """A package could not be had; the text says which and why."""


@dataclasses.dataclass(frozen=True)
class Kernel:
    series: str  # "6.12"
    release: str  # what uname -r will say
    tree: pathlib.Path  # the package's files

    @property
    def image(self):
        return self.tree / "boot" / f"vmlinuz-{self.release}"

    @property
    def modules(self):
        return self.tree / "lib" / "modules" / self.release


def _numbers(text):
    return [int(digits) for digits in re.findall(r"\d+", text)]


class Cache:
    def __init__(self, directory, refresh=False):
        self.directory = pathlib.Path(directory)
        self.refresh = refresh  # ask apt even where the cache has a package
        self.directory.mkdir(parents=True, exist_ok=True)

    def kernel(self, series):
        """The newest image of a series, e.g. "6.1". Neither `cloud`, which has no 9p, nor `rt`, nor `-unsigned`."""
        pattern = re.compile(rf"linux-image-{re.escape(series)}\.\d[^-]*(-\d+)?-amd64")
        tree = self._newest(f"linux-image-{series}.", pattern)
        image = next(iter(sorted((tree / "boot").glob("vmlinuz-*"))), None)
        if image is None:
            raise Unavailable(f"{tree.name} holds no kernel image")
        return Kernel(series, image.name.removeprefix("vmlinuz-"), tree)

    def busybox(self):
        """The path of a static busybox."""
        return self._newest("busybox-static", re.compile("busybox-static")) / "bin" / "busybox"

    def _newest(self, prefix, pattern):
        cached = [path for path in self.directory.iterdir() if pattern.fullmatch(path.name)]
        if cached and not self.refresh:
            return max(cached, key=lambda path: _numbers(path.name))
        why = "apt knows no such package"
        for options_of in (list, self._update, self._debian):
            options = options_of()
            done = subprocess.run(["apt-cache", *options, "pkgnames", prefix], capture_output=True, text=True)
            for name in sorted(filter(pattern.fullmatch, done.stdout.split()), key=_numbers, reverse=True)[:3]:
                try:
                    return self._unpack(name, options)
                except subprocess.CalledProcessError as problem:
                    why = problem.stderr.strip()
        raise Unavailable(f"no package {pattern.pattern} could be downloaded: {why}")

    # What follows returns options for apt, with package lists of our own. The machine's lists may be missing, as in a
    # container's image, or so old that what they name has gone.

    @functools.cache
    def _update(self, name="lists", *options):
        state = self.directory / ".apt" / name
        for part in ("lists/partial", "cache/archives/partial"):
            (state / part).mkdir(parents=True, exist_ok=True)
        options = [*options, "-o", f"Dir::State::Lists={state}/lists", "-o", f"Dir::Cache={state}/cache",
                   "-o", "APT::Sandbox::User="]
        subprocess.run(["apt-get", *options, "-qq", "update"], capture_output=True)
        return options

    @functools.cache
    def _debian(self):
        """From Debian itself: its 6.12 is in bookworm-security, which not every machine has among its sources."""
        sources = self.directory / ".apt" / "sources.list"
        sources.parent.mkdir(exist_ok=True)
        sources.write_text("".join(
            f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/{place} main\n"
            for place in ("debian bookworm", "debian-security bookworm-security")))
        return self._update("debian", "-o", f"Dir::Etc::SourceList={sources}", "-o", "Dir::Etc::SourceParts=-")

    def _unpack(self, name, options):
        """Complete or not there: the directory gets its name last."""
        target = self.directory / name
        with tempfile.TemporaryDirectory(dir=self.directory, prefix=".new-") as place:
            os.chmod(place, 0o755)
            # APT::Sandbox::User: apt's own user may not be able to write here.
            _run(["apt-get", *options, "-qq", "-o", "APT::Sandbox::User=", "download", name], place)
            archive = next(pathlib.Path(place).glob("*.deb"))
            tree = pathlib.Path(place) / "tree"
            _run(["dpkg-deb", "--extract", str(archive), str(tree)], place)
            for modules in tree.glob("lib/modules/*"):
                _run(["depmod", "--basedir", str(tree), modules.name], place)
            shutil.rmtree(target, ignore_errors=True)
            tree.rename(target)
        return target


def _run(command, place):
    env = dict(os.environ, LC_ALL="C", PATH=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    subprocess.run(command, cwd=place, env=env, check=True, capture_output=True, text=True)
