#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Proves that includes point one way: a file may include its own layer and those below it only.

Usage: layers.py SOURCE_ROOT. Prints every include that goes the wrong way and exits 1 on any, and also where an include
turned round on purpose is not found.
"""
import pathlib
import re
import sys

# Each layer and the layers it may include directly or through others.
ALLOWED = {
    "base": set(),
    "packet": {"base"},
    "decide": {"base", "packet"},
    "sockets": {"base", "packet"},
    "netlink": {"base"},
    "steer": {"base"},
    "mirror": {"base", "packet", "decide", "sockets", "netlink"},
    "queue": {"base", "packet", "decide", "sockets", "netlink"},
    "ruleset": {"base", "netlink"},
    "trace": {"base", "packet", "decide", "netlink"},
    "diagnose": {"base", "packet", "decide", "netlink"},
    "engine": {"base", "packet", "decide", "sockets", "netlink", "mirror", "queue", "steer", "trace"},
    "daemon": {"base", "packet", "decide", "sockets", "netlink", "mirror", "queue", "steer", "ruleset",
               "trace", "diagnose", "engine"},
}
ALLOWED["tools"] = set(ALLOWED)

# The public headers belong to layers too; the file's name without its ending tells which.
PUBLIC = {
    "address": "base", "flow": "base", "socket": "base", "policy": "base", "decision": "base", "packet": "base",
    "parse": "packet", "decide": "decide", "recorder": "decide", "socket_table": "sockets",
    "socket_table_core": "sockets", "socket_table_layout": "sockets", "flow_hash": "sockets",
}

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def layer_of(path):
    """The layer of a path relative to the source root; None for what has no layer (tests, bench)."""
    parts = pathlib.PurePosixPath(path).parts
    if parts[0] == "src" and len(parts) > 2:
        return parts[1]
    if parts[0] == "tools":
        return "tools"
    if parts[0] == "include":
        return PUBLIC.get(pathlib.PurePosixPath(path).stem, f"unknown public header {path}")
    return None


def target_layer(include):
    parts = pathlib.PurePosixPath(include).parts
    if parts[0] == "utproxy":
        return layer_of("include/" + include)
    if parts[0] in ALLOWED:
        return parts[0]
    return None  # a generated or sibling header


def violations(files):
    """`files`: {path relative to the root: text}. Returns sentences, one per wrong include."""
    found = []
    for path, text in sorted(files.items()):
        layer = layer_of(path)
        if layer is None:
            continue
        if layer not in ALLOWED:
            found.append(f"{path}: layer '{layer}' is not in tests/layers.py")
            continue
        for include in INCLUDE.findall(text):
            target = target_layer(include)
            if target is None or target == layer or target in ALLOWED[layer]:
                continue
            found.append(f"{path}: {layer} may not include {target} ({include})")
    return found


def read_tree(root):
    files = {}
    for folder in ("include", "src", "tools"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".h", ".cc", ".c"):
                files[path.relative_to(root).as_posix()] = path.read_text()
    return files


def main():
    root = sys.argv[1]
    files = read_tree(pathlib.Path(root))
    if len(files) < 10:
        print(f"only {len(files)} source files below {root}: wrong folder?")
        return 1
    if violations({"src/base/x.h": '#include "mirror/mirror.h"\n'}) == []:
        print("an include turned round was not found")
        return 1
    found = violations(files)
    print("\n".join(found) or f"{len(files)} files, every include points down")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
