"""The launcher, on a project of one C file, with programs of ours in place of apt and the like."""

import os
import shutil
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

CMAKE = """
cmake_minimum_required(VERSION 3.21)
project(small LANGUAGES C)
add_executable(orchestrator src/main.c)
add_executable(mockapi src/main.c)
"""
MAIN = r"""
#include <stdio.h>
int main(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        printf("<%s>", argv[i]);
    for (int c; (c = getchar()) != EOF;)
        putchar(c);
    return 7;
}
"""


def write(path, text, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)


class Case(unittest.TestCase):
    """A test with a built project of its own in self.dir."""

    @classmethod
    def setUpClass(cls):
        cls.built = cls.enterClassContext(tempfile.TemporaryDirectory())
        for name in ("orchestrator", "CMakePresets.json", "src/build.sh"):
            os.makedirs(os.path.dirname(f"{cls.built}/{name}"), exist_ok=True)
            shutil.copy(f"{ROOT}/{name}", f"{cls.built}/{name}")
        write(f"{cls.built}/CMakeLists.txt", CMAKE)
        write(f"{cls.built}/src/main.c", MAIN)
        write(f"{cls.built}/lua/orchestrator/a.lua", "")
        first = cls.launch(cls, cls.built)
        assert first.returncode == 7 and first.stderr.count("building") == 1, first

    def setUp(self):
        self.top = self.enterContext(tempfile.TemporaryDirectory())
        self.dir = f"{self.top}/project"
        shutil.copytree(self.built, self.dir)

    def launch(self, directory, *args, stdin="", program="./orchestrator", **environment):
        environment.setdefault("PATH", os.environ["PATH"])
        return subprocess.run([program, *args], cwd=directory, input=stdin, text=True,
                              capture_output=True, check=False, timeout=60,
                              env=environment)

    def assert_builds(self, times, **environment):
        run = self.launch(self.dir, "a", **environment)
        self.assertEqual((run.returncode, run.stdout), (7, "<a>"), run.stderr)
        self.assertEqual(run.stderr.count("building"), times, run.stderr)


class Building(Case):
    def test_runs_what_is_built_with_everything_handed_over(self):
        run = self.launch(self.dir, "a b", "", "*", "-h", "--", stdin="in\n")
        self.assertEqual(run.stdout, "<a b><><*><-h><-->in\n")
        self.assertEqual((run.returncode, run.stderr), (7, ""))

    def test_a_build_leaves_stdin_to_the_program(self):
        os.utime(f"{self.dir}/src/main.c")
        run = self.launch(self.dir, stdin="in\n")
        self.assertEqual((run.stdout, run.stderr.count("building")), ("in\n", 1))

    def test_builds_when_a_source_is_newer_and_once(self):
        for name in ("src/main.c", "CMakeLists.txt", "CMakePresets.json", "lua/orchestrator/a.lua"):
            with self.subTest(name):
                os.utime(f"{self.dir}/{name}")
                self.assert_builds(1)
                self.assert_builds(0)

    def test_builds_when_a_source_came_or_went(self):
        write(f"{self.dir}/lua/orchestrator/b.lua", "")
        os.utime(f"{self.dir}/lua/orchestrator/b.lua", (0, 0))
        self.assert_builds(1)
        os.remove(f"{self.dir}/lua/orchestrator/b.lua")
        self.assert_builds(1)
        self.assert_builds(0)

    def test_lua_read_from_a_directory_needs_no_build(self):
        os.utime(f"{self.dir}/lua/orchestrator/a.lua")
        self.assert_builds(0, ORCHESTRATOR_LUA="lua")
        self.assert_builds(1)

    def test_what_does_not_compile_is_shown_and_nothing_is_run(self):
        write(f"{self.dir}/src/main.c", MAIN + "oops")
        for _ in range(2):
            run = self.launch(self.dir)
            self.assertEqual((run.returncode, run.stdout), (2, ""))
            self.assertRegex(run.stderr, r"main\.c:11:1: error:")
        write(f"{self.dir}/src/main.c", MAIN)
        self.assert_builds(1)

    def test_nothing_a_killed_build_left_is_trusted(self):
        os.rename(f"{self.dir}/build/.built", f"{self.dir}/build/.building")
        write(f"{self.dir}/build/orchestrator", "half", 0o755)
        self.assert_builds(1)

    def test_two_at_once_build_once(self):
        os.utime(f"{self.dir}/src/main.c")
        both = [subprocess.Popen(["./orchestrator"], cwd=self.dir, stdin=subprocess.DEVNULL,
                                 stderr=subprocess.PIPE, text=True) for _ in range(2)]
        said = [process.communicate(timeout=60)[1] for process in both]
        self.assertEqual([process.returncode for process in both], [7, 7])
        self.assertEqual("".join(said).count("building"), 1)

    def test_is_found_through_links_and_the_path(self):
        os.mkdir(f"{self.top}/bin")
        os.symlink("../project/orchestrator", f"{self.top}/bin/one")
        os.symlink("one", f"{self.top}/bin/two")
        path = f"{self.top}/bin:{os.environ['PATH']}"
        for stale in (False, True):
            for directory, command in (("/", "two"), (self.top, "project/orchestrator")):
                with self.subTest(command=command, stale=stale):
                    if stale:
                        os.utime(f"{self.dir}/src/main.c")
                    run = self.launch(directory, "-c", f"{command} a", program="sh",
                                      PATH=path, CDPATH=f"/usr:{ROOT}")
                    self.assertEqual((run.returncode, run.stdout), (7, "<a>"), run.stderr)

    def test_a_copy_of_a_built_checkout_builds_its_own_sources(self):
        write(f"{self.dir}/src/main.c", "int main(void) { return 9; }")
        self.assertEqual(self.launch(self.dir).returncode, 9)
        self.assertEqual(self.launch(self.built).returncode, 7)


class Packages(Case):
    """What the launcher does about packages, seen by the commands it gives."""

    def setUp(self):
        super().setUp()
        os.utime(f"{self.dir}/src/main.c")
        self.stubs = f"{self.top}/stubs"
        self.calls = f"{self.top}/calls"
        # Every package but two is there.
        self.stub("dpkg-query", 'for p; do case $p in cmake) printf "cmake=config-files ";; '
                                'luajit|-*) ;; *) printf "%s=installed " "$p";; esac; done')
        self.stub("apt-get", f'echo "apt-get $*" >>{self.calls}')
        self.stub("sudo", f'echo sudo >>{self.calls}; exec "$@"')
        self.stub("id", "echo 0")

    def stub(self, name, script):
        write(f"{self.stubs}/{name}", f"#!/bin/sh\n{script}\n", 0o755)

    def launch_with_stubs(self, path=os.environ["PATH"]):
        run = self.launch(self.dir, PATH=f"{self.stubs}:{path}")
        calls = ""
        if os.path.exists(self.calls):
            with open(self.calls, encoding="utf-8") as file:
                calls = file.read()
        return run, calls.splitlines()

    def test_installs_what_is_missing_and_says_what(self):
        run, calls = self.launch_with_stubs()
        self.assertEqual(run.returncode, 7, run.stderr)
        self.assertRegex(run.stderr, r"installing, this once: cmake luajit\n")
        self.assertEqual(calls[0], "apt-get update")
        self.assertRegex(calls[1], r"^apt-get install -y .* cmake luajit$")
        self.assertEqual(len(calls), 2)

    def test_uses_sudo_only_when_not_root(self):
        self.stub("id", "echo 1000")
        run, calls = self.launch_with_stubs()
        self.assertEqual(run.returncode, 7, run.stderr)
        self.assertEqual([call.split()[0] for call in calls], ["sudo", "apt-get"] * 2)

    def test_shows_why_packages_cannot_be_installed(self):
        self.stub("apt-get", "echo E: no network; exit 100")
        run, _ = self.launch_with_stubs()
        self.assertEqual((run.returncode, run.stdout), (2, ""))
        self.assertIn("E: no network", run.stderr)

    def test_names_the_packages_where_it_may_not_install(self):
        self.stub("id", "echo 1000")
        os.remove(f"{self.stubs}/sudo")
        run, calls = self.launch_with_stubs(self.tools("sudo"))
        self.assertEqual((run.returncode, run.stdout, calls), (2, "", []))
        self.assertIn("as root, run: apt-get install cmake luajit\n", run.stderr)

    def test_names_the_packages_on_another_system(self):
        os.remove(f"{self.stubs}/apt-get")
        run, calls = self.launch_with_stubs(self.tools("apt-get"))
        self.assertEqual((run.returncode, run.stdout, calls), (2, "", []))
        self.assertIn("libcurl4-openssl-dev", run.stderr)

    def tools(self, but):
        """A directory of what the launcher uses of the system, without one."""
        directory = f"{self.top}/tools"
        os.mkdir(directory)
        for name in {"sh", "cmake", "ninja", "cc", "flock", "tail", "rm", "mv", "mkdir"} - {but}:
            os.symlink(shutil.which(name), f"{directory}/{name}")
        return directory


if __name__ == "__main__":
    unittest.main()
