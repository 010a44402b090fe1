"""Compiles the extension against the installed pyloop.h, once for each
interpreter and state of the sources."""

import hashlib
import os
import shlex
import subprocess
import sys
import sysconfig

import pyloop

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.path.join(HERE, os.pardir, os.pardir, "build", "native_server")


def built():
    """The directory from which `import native_server` works."""
    sources = [os.path.join(HERE, name) for name in sorted(os.listdir(HERE))]
    command = shlex.split(sysconfig.get_config_var("CC"))
    command += ["-std=c11", "-D_GNU_SOURCE", "-O2", "-g", "-Wall", "-Wextra"]
    command += ["-Wno-unused-parameter", "-pthread", "-shared", "-fPIC"]
    command += ["-I" + pyloop.get_include()]
    command += ["-I" + sysconfig.get_path("include")]
    command += [source for source in sources if source.endswith(".c")]
    if sanitizer := os.environ.get("PYLOOP_SANITIZE"):
        command += [f"-fsanitize={sanitizer}"]

    include = pyloop.get_include()
    headers = [os.path.join(include, name) for name in os.listdir(include)]
    digest = hashlib.sha256(repr((command, sys.version)).encode())
    for source in sources + sorted(headers):
        if source.endswith((".c", ".h")):
            with open(source, "rb") as file:
                digest.update(file.read())
    directory = os.path.join(BUILD, digest.hexdigest()[:16])
    name = "native_server" + sysconfig.get_config_var("EXT_SUFFIX")
    target = os.path.join(directory, name)
    if not os.path.exists(target):
        os.makedirs(directory, exist_ok=True)
        partial = f"{target}.{os.getpid()}"
        subprocess.run([*command, "-o", partial], check=True)
        os.replace(partial, target)
    return directory
