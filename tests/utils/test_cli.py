"""A mistake on the command line gives one sentence on stderr, exit code 2, and no files."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, python

from vxlpro_jax import generate
from vxlpro_jax import train as train_module
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.errors import InputError

CONFIG = "configs/stage2.py"
UTF8 = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}


def run(main, argv, capsys):
    """Runs a command in this process; returns its exit code and stderr."""
    with pytest.raises(SystemExit) as exit_info:
        cli.run(lambda: main(argv))
    return exit_info.value.code, capsys.readouterr().err


# ---- cli.run ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("returned", "code"), [(None, 0), (0, 0), (1, 1)])
def test_the_exit_code_is_what_the_command_returns(returned, code):
    with pytest.raises(SystemExit) as exit_info:
        cli.run(lambda: returned)
    assert exit_info.value.code == code


def test_interrupts_exit_with_130_and_mistakes_with_2(capsys):
    def interrupted(_):
        raise KeyboardInterrupt

    def mistaken(_):
        raise InputError("The thing is wrong: mend it.")

    assert run(interrupted, [], capsys) == (130, "")
    assert run(mistaken, [], capsys) == (2, "error: The thing is wrong: mend it.\n")


def test_other_errors_keep_their_traceback():
    def broken():
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        cli.run(broken)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("a\nb\r\nc\x1b[31md\u2028e", "a b c [31md e"),
        ("no https://me:secret@host/x?y and s3://a:b@c.", "no https://host/x?y and s3://c."),
        ("user@example.org: at 10:30@noon", "user@example.org: at 10:30@noon"),
        ("x" * 500, "x" * 500),
        ("\u202egpj.mp4 \ud7fc \ud800 a\u3000b 影", "\\u202egpj.mp4 \\ud7fc \\ud800 a b 影"),
    ],
)
def test_messages_are_one_line_without_passwords(message, said):
    assert cli.one_line(message) == said


def test_of_a_long_message_the_middle_is_left_out():
    found = cli.one_line("The thing " + ", ".join(map(str, range(9999))) + " is wrong: mend it.")
    assert len(found) == 500
    assert found.startswith("The thing 0, 1, 2")
    assert found.endswith(" is wrong: mend it.")
    assert " … " in found


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_sentence(number, capsys):
    def full(_):
        raise OSError(number, os.strerror(number), "runs/metrics.jsonl")

    code, error = run(full, [], capsys)
    assert code == 2
    assert "while writing runs/metrics.jsonl: free space" in error


def test_a_device_without_memory_is_a_sentence(capsys):
    import jax.numpy as jnp

    code, error = run(lambda _: jnp.zeros(10**14).block_until_ready(), [], capsys)
    assert code == 1
    assert error.startswith("error: The device has too little memory (RESOURCE_EXHAUSTED")
    assert "vxlpro_jax.compile" in error
    assert error.count("\n") == 1


def test_other_faults_of_the_system_keep_their_traceback():
    with pytest.raises(FileNotFoundError):
        cli.run(Path("/nowhere/at/all").unlink)


def test_output_that_nobody_reads_ends_the_command_without_a_traceback():
    code = (
        "from vxlpro_jax.utils import cli\n"
        "def main():\n"
        "    for _ in range(100_000): print('one line')\n"
        "cli.run(main)\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=UTF8
    ) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline() == "one line\n"
        process.stdout.close()
        said = process.stderr.read()
    assert said == "error: The program that read the output has ended, so this command ends too.\n"
    assert process.returncode == 141


def test_a_log_file_has_whole_lines_in_their_order(tmp_path):
    """Without a terminal there is no carriage return, and `Done` comes after the progress bar."""
    code = (
        "from vxlpro_jax.utils import cli\n"
        "def main():\n"
        "    print('Start')\n"
        "    for _ in cli.progress(range(3), name='work', unit='item'): pass\n"
        "    print('Done', 'caf\\udce9')\n"
        "cli.run(main)\n"
    )
    log = tmp_path / "log"
    with log.open("wb") as file:
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, stdout=file, stderr=file, check=True, env=UTF8
        )
    lines = log.read_bytes().decode().split("\n")
    assert lines[0] == "Start"
    assert all(line.startswith("work: ") for line in lines[1:-2])
    assert lines[-3].startswith("work: 100%")
    assert lines[-2:] == ["Done caf\\udce9", ""]
    assert "\r" not in log.read_bytes().decode()


# ---- train --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--config=configs/stage2.py"),
        (["--config=configs/nowhere.py"], "nowhere.py"),
        ([f"--config={CONFIG}:7b"], "Unknown preset '7b': known are tiny, 3b"),
        ([f"--config={CONFIG}:3b,frame=8"], "Unknown option 'frame'"),
        ([f"--config={CONFIG}", "--config.total_step=3"], "total_steps"),
        ([f"--config={CONFIG}", "--config.optim.rate=3"], "rate"),
        ([f"--config={CONFIG}", "--config.total_steps=many"], "total_steps"),
        ([f"--config={CONFIG}", "--config.model.dts.layout=mixed"], "choose one of 'released'"),
        ([f"--config={CONFIG}", "--config.model.preset=7b"], "Unknown preset '7b'"),
        ([f"--config={CONFIG}", "--work_dir=x"], "workdir"),
        ([f"--config={CONFIG}", "extra"], "extra"),
        ([f"--config={CONFIG}", "--config.data.path=nowhere.json"], "nowhere.json does not exist"),
        ([f"--config={CONFIG}", "--config.data.tokenizer=nowhere"], "nowhere"),
        ([f"--config={CONFIG}", "--config.init_from=nowhere"], "nowhere does not exist"),
        ([f"--config={CONFIG}", "--config.mesh.data=7"], "make the axes multiply"),
        ([f"--config={CONFIG}:3b"], "A full-size run needs a tokenizer"),
    ],
)
def test_mistakes_of_train(arguments, said, tmp_path, capsys):
    workdir = tmp_path / "run"
    argv = ["train", *arguments, f"--workdir={workdir}"]
    code, error = run(train_module.main, argv, capsys)
    assert code == 2
    assert error.startswith("error: ")
    assert said in error
    assert "Traceback" not in error
    assert not workdir.exists()


def test_values_of_the_command_line_arrive(tmp_path):
    arguments = train_module.parse_arguments(
        [
            "train",
            f"--config={CONFIG}:tiny,frames=4",
            "--config.total_steps=3",
            "--config.seed=7",
            "--config.checkpoint_every=2",
            "--config.optim.lr=0.5",
            "--config.data.path=some.json",
            "--config.model.dts.layout=temporal",
            f"--workdir={tmp_path}",
        ]
    )
    config = arguments.config
    assert arguments.workdir == tmp_path
    assert (config.total_steps, config.seed, config.checkpoint_every) == (3, 7, 2)
    assert (config.optim.lr, config.data.path, config.data.max_frames) == (0.5, "some.json", 4)
    assert config.model.dts.layout == "temporal"


def test_default_workdir_is_named_after_config_and_preset():
    arguments = train_module.parse_arguments(["train", f"--config={CONFIG}:3b"])
    assert arguments.workdir.parts[-2:] == ("runs", "stage2-3b")
    assert arguments.workdir.is_absolute()


# ---- Real processes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-m", "vxlpro_jax.train", f"--config={CONFIG}", "--config.sed=1"], "seed"),
        (
            ["-m", "vxlpro_jax.generate", "--checkpoint=nowhere", "--video=x", "--prompt=x"],
            "nowhere does not exist",
        ),
    ],
)
def test_process_ends_with_a_sentence(arguments, said):
    process = python(*arguments)
    out, error = process.communicate()
    assert process.returncode == 2
    assert out == ""
    assert error.startswith("error: ")
    assert said in error
    assert "Traceback" not in error


def test_generate_without_a_source_is_refused(capsys):
    code, error = run(generate.main, ["--checkpoint=x", "--prompt=x"], capsys)
    assert code == 2
    assert "--video --image" in error
    assert "train" not in sys.argv[0]


def test_a_prompt_in_another_encoding_is_refused(capsys):
    """Python decodes a byte of the command line that is not UTF-8 to a lone surrogate."""
    code, error = run(generate.main, ["--checkpoint=x", "--video=x", "--prompt=caf\udce9"], capsys)
    assert code == 2
    assert error == "error: --prompt 'caf\\udce9' is not UTF-8: type it again.\n"
