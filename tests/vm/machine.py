# SPDX-License-Identifier: GPL-3.0-or-later
"""A virtual machine on the host's own root, which it can only read: QEMU, with no KVM needed, and an initramfs."""
import ctypes
import gzip
import lzma
import pathlib
import re
import shutil
import signal
import subprocess
import time

HERE = pathlib.Path(__file__).resolve().parent
EARLY_MODULES = ["virtio_pci", "9pnet_virtio", "9p", "overlay"]  # the others load when the kernel asks for them
# A guest whose kernel fails ends at once: panic=-1 restarts, -no-reboot makes that the end. What follows halves the time
# without KVM: an emulated processor pays for each page table switch, each read of the HPET and each new address of code.
COMMAND_LINE = ("console=ttyS0 loglevel=4 panic=-1 oops=panic "
                "mitigations=off clocksource=tsc tsc=reliable norandmaps nokaslr apparmor=0 audit=0")
TERMINAL_CODES = re.compile(r"\x1b(\[[?0-9;]*[A-Za-z]|.)|\r")
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def module_files(kernel, names):
    """The modules and what they depend on, in the order in which they load."""
    files = []
    for name in names:
        command = ["/sbin/modprobe", "--show-depends", "-d", str(kernel.tree), "-S", kernel.release, name]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for path in re.findall(r"^insmod (\S+)", shown, re.MULTILINE):
            if path not in files:
                files.append(path)
    return [pathlib.Path(path) for path in files]


def _member(name, data, mode):
    """A member of an archive in the format of `cpio -H newc`."""
    fields = [0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0]
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def initramfs(kernel, busybox):
    """The bytes of an initramfs: busybox, `init`, and modules in /modules, unpacked, with their order."""
    folder, program, plain = 0o040755, 0o100755, 0o100644
    parts = [_member(name, b"", folder) for name in ("bin", "modules")]
    parts += [_member("bin/busybox", busybox.read_bytes(), program), _member("init", (HERE / "init").read_bytes(), program)]
    order = []
    for path in module_files(kernel, EARLY_MODULES):
        data = path.read_bytes()
        order.append(path.name.removesuffix(".xz"))
        parts.append(_member(f"modules/{order[-1]}", lzma.decompress(data) if path.suffix == ".xz" else data, plain))
    parts.append(_member("modules/order", "".join(f"{name}\n" for name in order).encode(), plain))
    return gzip.compress(b"".join(parts) + _member("TRAILER!!!", b"", 0), 1)


class Machine:
    """One guest. `share` is an empty directory, which the guest writes its results to."""

    def __init__(self, kernel, busybox, share, jobs, accel="tcg", memory="2G"):
        self.kernel, self.share = kernel, pathlib.Path(share)
        self.console = self.share / "console"
        (self.share / "initramfs").write_bytes(initramfs(kernel, busybox))
        shutil.copy(HERE / "guest", self.share / "guest")
        (self.share / "modules").write_text(f"{kernel.modules}\n")
        (self.share / "jobs").write_text("".join(f"{j.name}\t{j.limit}\t{j.command}\n" for j in jobs))
        # One processor after the other: with threads of their own, QEMU 7.2's emulated processors at times run into the
        # int3 that the other's kernel has just taken back (text_poke), and the guest's kernel dies of it.
        accel = "tcg,thread=single" if accel == "tcg" else accel
        self.argv = [
            "qemu-system-x86_64", "-accel", accel, "-cpu", "max", "-m", memory, "-smp", "2", "-nographic", "-no-reboot",
            "-nodefaults", "-serial", f"file:{self.console}", "-monitor", "none",
            "-kernel", str(kernel.image), "-initrd", str(self.share / "initramfs"),
            "-append", COMMAND_LINE,
            "-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
            "-virtfs", f"local,path={self.share},mount_tag=results,security_model=none",
            "-device", "virtio-rng-pci",
        ]
        self.began = time.monotonic()
        self.errors = open(self.share / "qemu", "wb")
        self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL, stdout=self.errors, stderr=self.errors,
                                        preexec_fn=lambda: _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))

    def seconds(self):
        return time.monotonic() - self.began

    def running(self):
        return self.process.poll() is None

    def booted(self):
        """The kernel's release as the guest itself says it, or "" before it has come up."""
        path = self.share / "booted"
        return path.read_text().strip() if path.exists() else ""

    def result(self, job):
        """(status, seconds, output) of a job, or None while there is none."""
        path = self.share / f"{job.name}.done"
        if not path.exists():
            return None
        status, seconds = path.read_text().split()
        return int(status), int(seconds), (self.share / f"{job.name}.out").read_text(errors="replace")

    def last_words(self, job, lines=20):
        """The end of what QEMU, the guest's console and a job that did not end have said."""
        text = []
        for path in (self.share / "qemu", self.console, self.share / f"{job.name}.out"):
            text += path.read_text(errors="replace").splitlines()[-lines:] if path.exists() else []
        return TERMINAL_CODES.sub("", "\n".join(text))

    def stop(self):
        if self.running():
            self.process.kill()
        self.process.wait()
        self.errors.close()
