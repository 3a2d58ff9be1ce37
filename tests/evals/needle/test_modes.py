"""Tests prompts and scores of the two tests."""

import numpy as np
import pytest

from vxlpro_jax.config.schema import IMAGE_TOKEN
from vxlpro_jax.evals.needle import modes, needles
from vxlpro_jax.inference.engine import Engine, Options
from vxlpro_jax.utils.errors import InputError

pytestmark = pytest.mark.slow

OPTIONS = Options(keep_ratio=1.0, max_new_tokens=16)


class Told:
    """A model that gives a preset reply and stores the prompt."""

    def __init__(self, reply, *, model):
        self.reply, self.tokenizer = reply, model.tokenizer
        self.plan_groups, self.plan_ids = model.plan_groups, model.plan_ids

    def answer(self, encoded, plan, *, options):
        self.ids = plan.ids
        yield from self.reply


def asked(mode, engine, encoded, needle):
    plan, ask, _ = modes.MODES[mode]
    planned = plan(engine, needle, groups=len(encoded.visual), options=OPTIONS)
    return ask(engine, needle, encoded=encoded, plan=planned, options=OPTIONS)


@pytest.fixture
def ask_mcq(seer):
    made = seer()
    encoded = made.encode_groups(_black(), times=[0.0])

    def ask(needle, reply):
        told = Told(reply, model=made)
        return asked("mcq", told, encoded, needle), told

    return ask


def _black():
    return np.zeros((1, 4, 14, 14, 3), np.uint8)


@pytest.fixture
def green(colour_needles):
    return needles.read_needles(colour_needles)[1]


def test_the_prompt_is_the_published_one(ask_mcq, green):
    _, told = ask_mcq(green, "")
    [at] = (told.ids == IMAGE_TOKEN).nonzero()[0]
    decoded = [told.tokenizer.backend.decode(ids.tolist(), skip_special_tokens=False)
               for ids in (told.ids[:at], told.ids[at + 1 :])]  # fmt: skip
    assert "<image>".join(decoded) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<image>Question: Which colour?\n(A) red\n(B) green\n(C) blue\n(D) yellow\nAnswer: "
        "<|im_end|>\n<|im_start|>assistant\nBest option:("
    )


def test_a_published_question_already_lists_its_options(ask_mcq, green):
    whole = green._replace(question="Question: Which?\nA. x\nB. y", options=(), answer="B")
    assert modes.mcq_text(whole) == "Question: Question: Which?\nA. x\nB. y\nAnswer: "
    assert ask_mcq(whole, "B)")[0].right
    with pytest.raises(InputError, match="answer by a letter"):
        modes.mcq_letter(whole._replace(answer="y"))


@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("B) green", True),
        ("B", True),
        ("A or B) green", True),
        ("A) green, that is B", False),
        ("b) green", False),
        ("green", False),
        ("", False),
        (")B", False),
    ],
)
def test_the_letter_counts_before_the_first_parenthesis(ask_mcq, green, reply, right):
    assert ask_mcq(green, reply)[0] == (reply, right)


def test_a_plain_needle_is_answered_in_words(ask_mcq, green):
    plain = green._replace(is_plain=True)
    assert ask_mcq(plain, "green")[0].right
    for wrong in ("B", "red", "greenish", ""):
        assert not ask_mcq(plain, wrong)[0].right
    _, told = ask_mcq(plain, "")
    assert told.tokenizer.decode(told.ids[told.ids >= 0]).endswith(
        "user\n\nWhich colour?\nassistant\n"
    )


def test_teacher_forcing_wants_all_ids_but_the_end(seer, green):
    engine = seer()
    encoded = engine.encode_groups(_black(), times=[0.0])
    encoded.visual[0, 2] = (40, 190, 60)
    right = asked("teacher_forced", engine, encoded, green)
    assert right == ("green", True)
    for answer in ("red", "greenly", "gre"):
        needle = green._replace(answer=answer)
        assert not asked("teacher_forced", engine, encoded, needle).right


def test_a_real_model_is_right_if_it_would_say_so_itself(micro_folder, green):
    engine = Engine.load(micro_folder)
    side = engine.config.vision.image_size
    frames = np.random.default_rng(1).integers(0, 256, (2, 4, side, side, 3), np.uint8)
    encoded = engine.encode_groups(frames, times=np.array([0.0, 4.0]))
    plan = engine.plan(encoded, modes.forced_text(green), options=OPTIONS)
    pieces = engine.answer(encoded, plan, options=OPTIONS)
    own = next(piece for piece in pieces if piece)
    assert len(engine.tokenizer.encode(own)) == 1
    assert asked("teacher_forced", engine, encoded, green._replace(answer=own)) == (own, True)
    said = asked("teacher_forced", engine, encoded, green)
    assert not said.right
    assert said.reply.startswith(own)


def test_teacher_forced_questions(green):
    whole = "Which colour?"
    assert modes.forced_text(green._replace(options=())) == whole
    assert modes.forced_text(green._replace(is_plain=True)) == whole
    assert (
        modes.forced_text(green) == f"{whole}\nAnswer the question using a single word or phrase."
    )
