"""Values of the right type but out of range are refused by name when the config is built."""

import pytest

from vxlpro_jax.config.parsing import from_mapping, override
from vxlpro_jax.config.schema import TrainConfig
from vxlpro_jax.utils import cli
from vxlpro_jax.utils.errors import InputError


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *(("seed", value) for value in ("-1", "4294967296", "9" * 400)),
        *(("total_steps", value) for value in ("0", "-3")),
        *(("total_steps", value) for value in ("2147483648", "9" * 400)),
        ("checkpoint_every", "0"),
        ("log_every", "0"),
        ("eval_every", "-1"),
        ("grad_accum_steps", "0"),
        ("encode_microbatch", "-1"),
        ("pose_max_frames", "-4"),
        *(("param_dtype", value) for value in ("int8", "float31", "", "object", "complex64")),
        ("compute_dtype", "fp32"),
        ("optim.momentum_dtype", "int32"),
        *(("optim.lr", value) for value in ("nan", "inf", "-1")),
        *(("optim.warmup", value) for value in ("nan", "1.5", "-0.1")),
        ("optim.b1", "1"),
        ("optim.b2", "nan"),
        ("optim.eps", "-1e-8"),
        ("optim.weight_decay", "inf"),
        ("optim.clip_norm", "0"),
        ("optim.groups", '({"pattern": "x", "lr_scale": -1.0},)'),
        ("keep_ratio", "(0.5, 1e999)"),
        ("data.fps", "nan"),
        *(("data.num_workers", value) for value in ("-1", "1000000")),
        ("data.seconds_per_file", "0"),
        ("data.bad_sample_quota", "1.1"),
        ("data.max_text_tokens", "-1"),
        ("recot.decoder_heads", "0"),
        ("recot.difference_weight", "nan"),
        ("model.vision.width", "0"),
        ("model.decoder.yarn.factor", "0.5"),
        ("data.frame_buckets", "(" * 3000),
        ("data.frame_buckets", "-" * 200_000 + "1"),
    ],
)
def test_values_out_of_range_are_refused_by_name(path, value):
    with pytest.raises(InputError, match=path.rpartition(".")[2]) as caught:
        from_mapping(TrainConfig, override(TrainConfig, {}, path=path, text=value))
    assert len(cli.one_line(str(caught.value))) <= 500


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", "4294967295"),
        ("optim.clip_norm", "inf"),
        ("optim.lr", "0"),
        ("optim.warmup", "1"),
        ("param_dtype", "bfloat16"),
        ("compute_dtype", "float64"),
        ("optim.momentum_dtype", ""),
        ("data.bad_sample_quota", "1"),
    ],
)
def test_the_ends_of_the_ranges_are_accepted(path, value):
    found = from_mapping(TrainConfig, override(TrainConfig, {}, path=path, text=value))
    for name in path.split("."):
        found = getattr(found, name)
    assert str(found) == value or found == float(value)
