"""Instructions are read from a program's text, with every iteration of its loops."""

from vxlpro_jax.aot import hlo

PROGRAM = """\
HloModule jit_step, is_scheduled=true

%condition (p: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(7)
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[], f32[8]) parameter(0)
  %x = f32[8]{0} fusion(%p), kind=kLoop, calls=%add, backend_config={"flag_configs":[],"estimated_cycles":"100"}
}

ENTRY %main (a: f32[8], b: bf16[4,2], c: f32[1024]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %b = bf16[4,2]{1,0} parameter(1)
  %c = f32[1024]{0} parameter(2)
  %sum = f32[8]{0} fusion(%a, %b), kind=kLoop, calls=%add, backend_config={"estimated_cycles":"30"}
  %loop = (s32[], f32[8]) while(%sum), condition=%condition, body=%body
  ROOT %out = f32[8]{0} get-tuple-element(%loop), index=1
}
"""  # noqa: E501


def test_instructions_of_a_loop_run_as_often_as_it_does():
    times = {one.name: one.times for one in hlo.instructions(PROGRAM)}
    assert (times["sum"], times["loop"], times["x"]) == (1, 1, 7)


def test_cycles_count_every_iteration():
    assert hlo.cycles(PROGRAM) == 30 + 7 * 100


def test_a_known_number_of_iterations_has_precedence():
    known = 'body=%body, backend_config={"known_trip_count":{"n":"5"}}'
    assert hlo.cycles(PROGRAM.replace("body=%body", known)) == 30 + 5 * 100


def test_arguments_that_are_never_read_do_not_count():
    assert hlo.read_argument_bytes(PROGRAM) == 32 + 16


def test_an_empty_text_has_neither_cycles_nor_arguments():
    assert hlo.cycles("") == hlo.read_argument_bytes("") == 0


def test_arrays_of_a_shape():
    found = hlo.arrays("(bf16[2,4]{1,0:T(8,128)(2,1)}, f32[], token[])")
    assert [(x.dtype, x.dims, x.bytes) for x in found[:2]] == [("bf16", (2, 4), 16), ("f32", (), 4)]


def test_elements_of_nested_tuples():
    assert hlo.elements("((f32[2]{0}, f32[4]{0}), f32[8]{0})") == ["(f32[2], f32[4])", " f32[8]"]
