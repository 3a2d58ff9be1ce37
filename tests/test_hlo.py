"""Collectives read from a program's text: loops multiply, one channel counts once."""

from vxlpro_jax import hlo
from vxlpro_jax.hlo import Collective

PROGRAM = """\
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%inner_condition (p: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(5)
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

%inner (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %reduced = f32[8]{0} all-reduce(%x), channel_id=3, to_apply=%add
}

%condition (p: (s32[], f32[8])) -> pred[] {
  %limit.1 = s32[] constant(7)
  ROOT %lt.1 = pred[] compare(%i, %limit.1), direction=LT
}

%start (p: bf16[2,4]) -> (bf16[2,4], bf16[8,4]) {
  %gathered = bf16[8,4]{1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=1, dimensions={0}
  ROOT %begun = (bf16[2,4], bf16[8,4], u32[]) custom-call(%gathered)
}

%done (p: bf16[2,4]) -> bf16[8,4] {
  %gathered.1 = bf16[8,4]{1,0} all-gather(%p), channel_id=1, dimensions={0}
  ROOT %ended = bf16[8,4] custom-call(%gathered.1)
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %fusion = (bf16[2,4], bf16[8,4], u32[]) fusion(%p), kind=kCustom, calls=%start
  %fusion.1 = bf16[8,4] fusion(%p), kind=kCustom, calls=%done
  %while.1 = (s32[], f32[8]) while(%t), condition=%inner_condition, body=%inner
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %while.2 = (s32[], f32[8]) while(%t), condition=%condition, body=%body
  %sent = (f32[2]{0}, f32[8]{0}) all-gather-start(%p), channel_id=9, dimensions={0}
  %came = f32[8]{0} all-gather-done(%sent)
  ROOT %moved = f32[8]{0} collective-permute(%came), source_target_pairs={{0,1},{1,0}}
}
"""


def test_collectives_by_kind():
    assert hlo.collectives(PROGRAM) == {
        "all-gather": Collective(7 + 1, 7 * 64 + 32),
        "all-reduce": Collective(35, 35 * 32),
        "collective-permute": Collective(1, 32),
    }


def test_a_program_without_any_has_none():
    assert hlo.collectives("ENTRY %main (p: f32[8]) -> f32[8] {\n  ROOT %p = f32[8] p()\n}\n") == {}
    assert hlo.collectives("") == {}
