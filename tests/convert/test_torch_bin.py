"""Files of `torch.save` from other programs are read as torch reads them, or refused."""

import io
import random
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch

from checkpoints_convert.torch_bin import read_tensors
from vxlpro_jax.utils.errors import InputError

pytestmark = pytest.mark.torch

BASE = torch.arange(24, dtype=torch.float32).reshape(4, 6) - 7
STATE = {
    "whole": BASE,
    "half": BASE.to(torch.bfloat16),
    "row": BASE[2],
    "transposed": BASE.t(),
    "strided": BASE[:, 1::2],
    "numbers": torch.arange(5),
    "nested": {"parameter": torch.nn.Parameter(BASE[1:3])},
    "empty": torch.zeros(0, 3),
}


def flat(state):
    for name, value in state.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", x) for inner, x in flat(value))
        else:
            yield name, value.detach()


def as_numpy(tensor):
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.resolve_neg().numpy()


def assert_equal(file, state):
    leaves = read_tensors(file)
    expected = {name: as_numpy(tensor) for name, tensor in flat(state)}
    assert leaves.keys() == expected.keys()
    for name, array in expected.items():
        assert (leaves[name].shape, leaves[name].dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(leaves[name].whole(), array)
        for row in reversed(range(len(array))):
            np.testing.assert_array_equal(leaves[name].read(row, row + 1), array[row : row + 1])


@pytest.fixture
def saved(tmp_path):
    file = tmp_path / "saved.bin"
    torch.save(STATE, file)
    return file


def read_all(file):
    return {name: leaf.whole() for name, leaf in read_tensors(file).items()}


def members(file):
    with zipfile.ZipFile(file) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def pack(file, content, **options):
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def change(file, suffix, edit):
    """Repacks a file with the content of one member changed, or removed if it is None."""
    content = members(file)
    (name,) = [name for name in content if name.endswith(suffix)]
    content[name] = edit(content[name])
    pack(file, {name: data for name, data in content.items() if data is not None})


def test_as_saved(saved):
    assert_equal(saved, STATE)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(tmp_path, protocol):
    torch.save(STATE, tmp_path / "saved.pt", pickle_protocol=protocol)
    assert_equal(tmp_path / "saved.pt", STATE)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("order", [sorted, lambda names: sorted(names, reverse=True)])
def test_packed_anew(saved, method, order):
    content = members(saved)
    pack(saved, {name: content[name] for name in order(content)}, compression=method)
    assert_equal(saved, STATE)


def test_data_of_one_member_after_another_name(saved):
    content = members(saved)
    pack(saved, {"a_file_of_another_program.txt": b"x" * 777} | content)
    assert_equal(saved, STATE)


def test_modules_with_shared_and_annotated_parameters(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(3, 2))
    module[1].weight = module[0].weight
    module[0].weight.note = "shared"
    module.register_buffer("marked", torch.ones(2))
    module.marked.note = "an attribute"
    torch.save(module.state_dict(), tmp_path / "module.pth")
    assert_equal(tmp_path / "module.pth", module.state_dict())


def test_negated_views(tmp_path):
    state = {"negated": torch.tensor([1 + 2j, 3 - 4j]).conj().imag}
    assert state["negated"].is_neg()
    torch.save(state, tmp_path / "negated.pth")
    assert_equal(tmp_path / "negated.pth", state)


def test_big_endian(saved):
    content = members(saved)
    leaves = read_all(saved)
    for name, data in content.items():
        key = name.rpartition("/data/")[2]
        if key.isdigit():
            size = {96: 4, 48: 2, 40: 8, 0: 1}[len(data)]
            content[name] = np.frombuffer(data, f"u{size}").byteswap().tobytes()
    content["saved/byteorder"] = b"big"
    pack(saved, content)
    for name, array in read_all(saved).items():
        np.testing.assert_array_equal(array, leaves[name])
    pack(saved, content | {"saved/byteorder": b"middle"})
    with pytest.raises(InputError, match="no byteorder"):
        read_tensors(saved)


def test_flipped_data_is_found_by_its_checksum(saved):
    content = bytearray(saved.read_bytes())
    place = content.index(as_numpy(BASE).tobytes())
    content[place + 5] ^= 4
    saved.write_bytes(content)
    with pytest.raises(InputError, match=r"is damaged.*CRC-32"):
        read_tensors(saved)["whole"].read(3, 4)


def test_saved_without_checksums(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(STATE, tmp_path / "saved.bin")
    finally:
        torch.serialization.set_crc32_options(True)
    with pytest.raises(InputError, match="written without checksums"):
        read_tensors(tmp_path / "saved.bin")


@pytest.mark.parametrize("edit", [lambda x: x[:-4], lambda x: x + b"1234", lambda _: None])
def test_storage_of_another_size(saved, edit):
    change(saved, "data/0", edit)
    with pytest.raises(InputError, match=r"whole has .* instead of 24 float32 numbers"):
        read_tensors(saved)


@pytest.mark.parametrize(
    ("size", "stride", "offset", "match"),
    [
        ((4, 6), (6, 1), 1, "beyond its 24 stored"),
        ((4, 6), (7, 1), 0, "beyond its 24 stored"),
        ((2**40, 6), (6, 1), 0, "beyond its 24 stored"),
        ((4, 6), (-6, 1), 23, "offset, size or stride"),
        ((4, -6), (6, 1), 0, "offset, size or stride"),
        ((4, 6), (6, 1), -1, "offset, size or stride"),
        ((4, 2**70), (6, 1), 0, "offset, size or stride"),
        ((4, 6.0), (6, 1), 0, "offset, size or stride"),
        ((4, 6), (6,), 0, "invalid shape or strides"),
        ((1,) * 33, (1,) * 33, 0, "invalid shape or strides"),
        ((10**6, 6), (0, 1), 0, "was expanded"),
    ],
)
def test_views_that_are_not_of_their_storage(tmp_path, size, stride, offset, match):
    class View:
        def __reduce__(self):
            arguments = (BASE.untyped_storage(), offset, size, stride, False, {})
            return torch._utils._rebuild_tensor_v2, arguments

    # These are pickled by hand, because torch would refuse most of them.
    file = tmp_path / "view.bin"
    torch.save({"view": BASE}, file)
    change(file, "data.pkl", lambda _: dumps({"view": View()}))
    with pytest.raises(InputError, match=match):
        read_tensors(file)


def dumps(value):
    """Returns a pickle in which every storage is the first one of the archive."""
    import pickle

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            if isinstance(obj, torch.UntypedStorage):
                return ("storage", torch.FloatStorage, "0", "cpu", 24)
            return None

    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(value)
    return stream.getvalue()


def repeat(value, levels):
    for _ in range(levels):
        value = {str(n): value for n in range(10)}
    return value


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ([BASE], "holds a list instead of a state dict"),
        ({"a": 3}, "a is a int instead of a tensor"),
        ({"a": 1j * BASE}, "a has dtype ComplexFloat"),
        ({"a": torch.nn.Linear}, "names torch.nn.modules.linear.Linear, which is not run"),
        ({("a", "b"): BASE}, "keys is not a short string"),
        ({"a" * 501: BASE}, "keys is not a short string"),
        ({2**70: BASE}, "keys is not a short string"),
        (repeat({"a": BASE}, 9), "nested more than 8 deep"),
        (repeat({"a": BASE}, 6), "too many"),
        ({"a": {"b": BASE}, "a.b": BASE}, "names a.b twice"),
        ({"a": BASE.to_sparse()}, "_rebuild_sparse_tensor, which is not run"),
        ({"a": BASE.to(torch.float8_e4m3fn)}, "torch.float8_e4m3fn, which"),
        ({"a": set()}, "__builtin__.set, which is not run"),
    ],
)
def test_what_is_no_state_dict(tmp_path, value, match):
    torch.save(value, tmp_path / "saved.bin")
    with pytest.raises(InputError, match=match):
        read_tensors(tmp_path / "saved.bin")


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02.",
        b"\x80\x02}q\x00",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # These bytes do not exist.
        b"\x80\x02h\x05.",
        b"\x80\x02(u.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nK\x01R.",
        b"\x80\x02K\x01K\x02R.",
        b"\x80\x02K\x01Q.",
        b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R.",
        b"",
    ],
)
def test_pickles_that_are_damaged(saved, pickled):
    change(saved, "data.pkl", lambda _: pickled)
    with pytest.raises(InputError, match=r"cannot be read as a state dict|instead of"):
        read_tensors(saved)


def test_a_pickle_that_says_it_is_huge(saved):
    change(saved, "data.pkl", lambda data: data + bytes(9 * 2**20))
    with pytest.raises(InputError, match=r"its data.pkl has"):
        read_tensors(saved)


def test_two_members_of_one_name(saved):
    with zipfile.ZipFile(saved, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("saved/data/0", bytes(96))
    with pytest.raises(InputError, match="two of its members have the same name"):
        read_tensors(saved)


def test_members_that_cannot_be_read(saved):
    content = members(saved)
    pack(saved, content, compression=zipfile.ZIP_BZIP2)
    with pytest.raises(InputError, match="a method other than deflate"):
        read_tensors(saved)
    pack(saved, {"other.txt": b""})
    with pytest.raises(InputError, match=r"not a file of torch.save"):
        read_tensors(saved)


def test_random_damage_is_an_error_or_harmless(saved):
    """The damage affects the archive's own lists, the pickle and the data."""
    whole, original = read_all(saved), saved.read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(400):
        content = bytearray(original)
        for _ in range(rng.randint(1, 3)):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        saved.write_bytes(content[: rng.choice([None, None, rng.randrange(len(content))])])
        try:
            found = read_all(saved)
        except InputError:
            refused += 1
            continue
        for name, array in whole.items():
            np.testing.assert_array_equal(found[name], array)
    assert refused > 100
