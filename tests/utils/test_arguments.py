"""Tests the command-line parser: repeated flags, and mistakes of any length on one line."""

import pytest

from vxlpro_jax.utils.arguments import ArgumentParser


@pytest.fixture
def parser():
    parser = ArgumentParser(prog="command")
    parser.add_argument("--video")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--prompt", action="append")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("files", nargs="*")
    parser.add_argument_group("more").add_argument("--seed", type=int)
    parser.add_mutually_exclusive_group().add_argument("--image")
    return parser


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--video=a", "--video=b"], "--video"),
        (["--video=a", "--video", "a"], "--video"),
        (["--vid=a", "--video=b"], "--video"),
        (["--frames=8", "--frames=9"], "--frames"),
        (["--seed=1", "x", "--seed=2"], "--seed"),
        (["--image=1", "--image=1"], "--image"),
    ],
)
def test_a_flag_that_is_given_twice_is_refused(parser, words, named, capsys):
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(words)
    error = capsys.readouterr().err
    assert error == (
        f"error: Command line: argument {named}: given more than once: keep one of them"
        " (see --help).\n"
    )


def test_flags_that_collect_may_be_repeated_and_each_call_starts_anew(parser):
    words = ["--prompt=a", "--prompt=b", "--json", "--json", "--frames=9", "x", "y"]
    for _ in range(2):
        found = parser.parse_args(words)
        assert (found.prompt, found.json, found.frames) == (["a", "b"], True, 9)
        assert (found.files, found.video) == (["x", "y"], None)


@pytest.mark.parametrize("text", ["x" * 9000, "a\nb\r\x1b[2J", "\ud800"])
def test_any_mistake_is_one_short_line(parser, text, capsys):
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args([f"--frames={text}"])
    error = capsys.readouterr().err
    assert error.startswith("error: Command line: argument --frames: invalid int value")
    assert error.endswith("(see --help).\n")
    assert len(error.splitlines()) == 1
    assert len(error) <= 510
