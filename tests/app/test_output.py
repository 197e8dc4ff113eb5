"""Output that cannot be written: a full device, a closed pipe."""

import os
import subprocess
import sys

import pytest

from checkpoints import ENVIRONMENT

COMMANDS = {
    "help": ["--help"],
    "text": ["explain", "--model", "FOLDER", "a good film"],
    "json": ["explain", "--model", "FOLDER", "--json", "a good film"],
}


@pytest.fixture(params=COMMANDS)
def command(request, folder):
    arguments = [folder if argument == "FOLDER" else argument for argument in COMMANDS[request.param]]
    return [sys.executable, "-m", "captum_globenc", *arguments]


def test_a_full_device_is_reported_in_one_line(command):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, check=False
        )
    assert done.stderr == "error: cannot write the output: No space left on device\n"
    assert done.returncode == 2


def test_a_closed_pipe_ends_in_silence(command):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        done = subprocess.run(
            command, stdout=pipe, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, check=False
        )
    assert done.stderr == ""
    assert done.returncode == 1
