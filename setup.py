"""The extension pyloop._core; everything else about the package is setup.cfg.

Environment:
  PYLOOP_WERROR=1     warnings are errors (CI; never for users)
  PYLOOP_LTO=0        no link-time optimisation
  PYLOOP_PGO=P        generate: writes profiles of what it does beside the
                      objects; use: is optimised by them (scripts/pgo)
  PYLOOP_SANITIZE=S   address, undefined or thread: a checked build, with
                      assertions on and freelists compiled out
"""

import fcntl
import os
import shlex
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

LIBUV = "libuv >= 1.44"
CFLAGS = """
    -std=c11 -D_GNU_SOURCE= -O3 -Wall -Wextra -Wshadow
    -Wstrict-prototypes -Wvla -Wno-unused-parameter
    -Wno-missing-field-initializers -Wno-cast-function-type
    -fno-strict-aliasing -fvisibility=hidden
""".split()
PGO = {
    "generate": ["-fprofile-update=atomic"],
    # What the training does not do is not to be slower for it.
    "use": ["-fprofile-partial-training", "-fprofile-correction"]
    + ["-Wno-missing-profile"],
}


def pkg_config(option):
    try:
        out = subprocess.check_output(
            ["pkg-config", option, LIBUV], stderr=subprocess.DEVNULL
        )
    except (OSError, subprocess.CalledProcessError):
        sys.exit(
            f"pyloop: {LIBUV} not found by pkg-config; install "
            "apt: libuv1-dev pkg-config; "
            "dnf: libuv-devel pkgconf-pkg-config; brew: libuv pkg-config"
        )
    return shlex.split(out.decode())


class BuildExt(build_ext):
    """Compiles in parallel, and only what changed since the last time."""

    def run(self):
        os.makedirs(self.build_temp, exist_ok=True)
        with open(os.path.join(self.build_temp, "lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two makes at a time
            super().run()

    def build_extension(self, ext):
        cflags, ldflags = self.flavour()
        ext.extra_compile_args = pkg_config("--cflags") + cflags
        ext.extra_link_args = pkg_config("--libs") + ldflags
        newest_header = max(map(os.path.getmtime, ext.depends), default=0)

        # Objects of one set of flags are of no use to another.
        record = os.path.join(self.build_temp, "flags")
        flags = repr((self.compiler.compiler_so, ext.extra_compile_args))
        try:
            with open(record) as file:
                same_flags = file.read() == flags
        except OSError:
            same_flags = False
        with open(record, "w") as file:
            file.write(flags)

        def compile_one(source):
            (name,) = self.compiler.object_filenames(
                [source], output_dir=self.build_temp
            )
            if same_flags and not self.force and os.path.exists(name):
                newest = max(newest_header, os.path.getmtime(source))
                if os.path.getmtime(name) > newest:
                    return name
            self.compiler.compile(
                [source],
                output_dir=self.build_temp,
                include_dirs=ext.include_dirs,
                extra_postargs=ext.extra_compile_args,
                depends=ext.depends,
            )
            return name

        os.makedirs(os.path.join(self.build_temp, "loop"), exist_ok=True)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_one, ext.sources))

        # What is left for the base class is to link, if an object is newer.
        saved = dict(vars(ext))
        ext.sources, ext.extra_objects, ext.depends = [], objects, objects
        super().build_extension(ext)
        vars(ext).update(saved)

    def flavour(self):
        sanitize = os.environ.get("PYLOOP_SANITIZE")
        cflags, ldflags = list(CFLAGS), []
        if sanitize:
            checks = f"-fsanitize={sanitize}"
            cflags += [checks, "-O1", "-g", "-fno-omit-frame-pointer"]
            cflags += ["-UNDEBUG", "-DPL_SANITIZE=1", "-DPL_DEBUG=1"]
            # with its checks in between gcc no longer sees what is set
            cflags += ["-Wno-maybe-uninitialized"]
            if sanitize == "undefined":
                cflags += ["-fno-sanitize-recover=undefined"]
            ldflags += [checks]
        elif os.environ.get("PYLOOP_LTO", "1") != "0":
            lto = next(filter(self.links_with, ["-flto=auto", "-flto"]), None)
            if lto:
                cflags += [lto]
                ldflags += [lto, "-O3"]
        profile = os.environ.get("PYLOOP_PGO")
        if profile and not sanitize:
            cflags += [f"-fprofile-{profile}", *PGO[profile]]
            ldflags += [f"-fprofile-{profile}"]
        if os.environ.get("PYLOOP_WERROR") == "1":
            cflags += ["-Werror"]
        return cflags, ldflags

    def links_with(self, flag):
        with tempfile.TemporaryDirectory() as tmp:
            source = os.path.join(tmp, "probe.c")
            with open(source, "w") as file:
                file.write("int pyloop_probe(void) { return 0; }\n")
            command = [*self.compiler.linker_so, "-fPIC", flag, source]
            command += ["-o", os.path.join(tmp, "probe.so")]
            done = subprocess.run(command, capture_output=True)
            return done.returncode == 0


setup(
    cmdclass={"build_ext": BuildExt},
    ext_modules=[
        Extension(
            "pyloop._core",
            sources=sorted(glob("loop/*.c")),
            include_dirs=["loop", "include"],
            depends=sorted(glob("loop/*.h") + glob("include/*.h")),
        )
    ],
)
