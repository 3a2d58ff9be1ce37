"""Tests README and documentation: links, commands, flags, config fields, and the examples."""

import functools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import python

from vxlpro_jax import __version__
from vxlpro_jax.config import schema_table

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
EXAMPLES = ROOT / "docs/examples"
_FOLDERS = ("", "docs", "benchmarks", "checkpoints_convert", "launch")
PAGES = sorted(page for folder in _FOLDERS for page in (ROOT / folder).glob("*.md"))

# ---- Links ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(page.read_text())):
        if "://" in target or target.startswith("#vxlpro_jax"):  # mkdocs checks links to the API.
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in _anchors(file.read_text()), f"{page.name} links to {target}"


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def _anchors(text: str) -> set[str]:
    for included in re.findall(r'^--8<-- "(.+\.md)"$', text, flags=re.MULTILINE):
        text += (ROOT / included).read_text()
    headings = re.findall(r"^#+ (.+)$", _without_code(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in headings}


def test_readme_is_short():
    assert len(README.read_text().splitlines()) <= 140


def test_readme_keeps_the_test_command_that_ci_runs():
    assert README.read_text().count("<!-- tests -->\n```bash\n") == 1


def test_citation_names_this_version():
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()


# ---- Commands ------------------------------------------------------------------------------------


@functools.cache
def _commands() -> dict[str, set[str]]:
    """Returns the flags that the pages use with each command, by module or script."""
    flags: dict[str, set[str]] = {}
    for page in PAGES:
        for line in re.sub(r"\\\n", " ", page.read_text()).splitlines():
            for command in re.split(r"&&|`|\|\s|;", line):
                found = re.search(
                    r"(?:-m |\bpython (?=benchmarks/|docs/examples/))([\w./]+)(.*)", command
                )
                if found and re.match(
                    r"(vxlpro_jax|checkpoints_convert|benchmarks|docs)\b", found[1]
                ):
                    known = flags.setdefault(found[1].rstrip("."), set())
                    known |= set(re.findall(r"(?<![\w-])--([\w.]+)", found[2]))
    return flags


@functools.cache
def _help(module: str) -> str:
    shown, errors = (started := python("-m", module, "--help")).communicate()
    assert started.returncode == 0, errors
    return shown


def _commands_of(*, scripts: bool) -> list[str]:
    return sorted(name for name in _commands() if ("/" in name) == scripts)


@pytest.mark.slow
@pytest.mark.parametrize("module", _commands_of(scripts=False))
def test_commands_of_the_pages_accept_their_flags(module):
    assert "usage" in _help(module).lower() or "flags" in _help(module).lower()
    for flag in _commands()[module] - {"help"}:
        if not flag.startswith("config."):
            assert re.search(rf"--(\[no\])?{flag}\b", _help(module)), f"--{flag} of {module}"


@pytest.mark.parametrize("script", _commands_of(scripts=True))
def test_scripts_of_the_pages_know_their_flags(script):
    """Flags are found in the script's text, because some scripts need packages that tests lack."""
    text = (ROOT / script).read_text()
    for flag in _commands()[script]:
        known = "read_run" in text if flag.startswith("config") else f'"--{flag}"' in text
        assert known, f"--{flag} of {script}"


@pytest.mark.parametrize(
    ("page", "module"),
    [
        ("inference", "vxlpro_jax.generate"),
        ("serving", "vxlpro_jax.generate"),
        ("curation", "vxlpro_jax.prune"),
    ],
)
def test_flags_that_a_page_describes_exist(page, module):
    text = (ROOT / f"docs/{page}.md").read_text()
    for flag in set(re.findall(r"`--(\w+)(?!\.)\b", text)) - {"help", "config"}:
        assert re.search(rf"--(\[no\])?{flag}\b", _help(module)), f"--{flag} of {module}"


def test_config_fields_of_the_pages_exist():
    fields = {row.path for row in schema_table.rows()}
    for page in PAGES:
        for field in re.findall(r"--config\.([\w.]*\w)(?==)", page.read_text()):
            assert field in fields | {"path.to.field"}, f"{page.name} sets {field}"


# ---- Examples ------------------------------------------------------------------------------------


def test_readme_and_page_show_the_example_that_is_run():
    code = (EXAMPLES / "ask.py").read_text()
    output = (EXAMPLES / "ask.txt").read_text()
    assert f"```python\n{code}```" in README.read_text()
    assert f"```text\n{output}```" in README.read_text()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with runs/tiny, a model of random weights, and a clip of the embedded task."""
    import jax

    from vxlpro_jax.checkpoints.params import copy_tokenizer, write_params
    from vxlpro_jax.config.schema import PRESETS
    from vxlpro_jax.data.synthetic import clips, drawing
    from vxlpro_jax.data.text.tiny_tokenizer import TINY_TOKENIZER
    from vxlpro_jax.models.video_xl_pro import abstract_params

    home = tmp_path_factory.mktemp("home")
    folder, config = home / "runs/tiny", PRESETS["tiny"]
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda x: rng.normal(0, 0.02, x.shape).astype(np.float32), abstract_params(config)
    )
    write_params(folder / "params", leaves=params)
    (folder / "config.json").write_text(json.dumps(config.to_release()))
    copy_tokenizer(TINY_TOKENIZER, folder)

    cache = home / f".cache/vxlpro_jax/synthetic-v{clips.VERSION}"
    cache.mkdir(parents=True)
    frames = clips.make_clip(2, split="eval").frames
    drawing.write_mp4(cache / "eval0002.mp4", frames, fps=clips.FPS)
    return home


@pytest.mark.slow
def test_asking_in_python(home):
    """Random weights give arbitrary answers, so only the other lines are compared."""
    lines = _run(home, EXAMPLES / "ask.py").splitlines()
    *answers, first, last = (EXAMPLES / "ask.txt").read_text().splitlines()
    for shown in answers:
        question = shown.partition("?")[0]
        assert any(line.startswith(question) for line in lines)
    for shown, line in zip((first, last), lines[-2:], strict=True):
        assert re.sub(r"[\d.]+$", "", line) == re.sub(r"[\d.]+$", "", shown)


@pytest.mark.slow
def test_fine_tuning_on_own_clips(home):
    output = _run(
        home, EXAMPLES / "fine_tune.py", "--checkpoint=runs/tiny", "--out=runs/mine", "--steps=2"
    )
    assert re.search(r"^before: [01]\.\d\d$", output, re.MULTILINE)
    assert re.search(r"^after: [01]\.\d\d$", output, re.MULTILINE)
    assert (home / "runs/mine/run/checkpoints/2").is_dir()


def _run(home: Path, *words: str | Path) -> str:
    started = python(*words, cwd=home, HOME=str(home))
    output, errors = started.communicate()
    assert started.returncode == 0, errors
    return output
