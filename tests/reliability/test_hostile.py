from __future__ import annotations

import re
import subprocess
import sys


def test_nothing_runs_while_hostile_input_is_read() -> None:
    command = [sys.executable, "-m", "tests.reliability.hostile", "1", "10"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = re.search(r"10 rounds, (\d+) refused, (\d+) events, 0 forbidden", ran.stdout)
    assert found is not None, ran.stdout
    assert int(found[1]) > 20
    assert int(found[2]) > 500


def test_the_watch_sees_what_it_must() -> None:
    code = (
        "import os, pickle, subprocess, sys\n"
        "from tests.reliability.hostile import Watch\n"
        "watch = Watch(); watch.on = True\n"
        "pickle.loads(b'cbuiltins\\nlen\\n.')\n"
        "exec('1')\n"
        "open(os.devnull, 'w').close()\n"
        "import wave\n"
        "watch.on = False\n"
        "print(len(watch.seen), *watch.seen)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for event in ("pickle.find_class", "exec", "open for writing", "import wave"):
        assert event in ran.stdout
