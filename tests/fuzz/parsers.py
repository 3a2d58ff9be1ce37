"""The fuzzed parsers: valid inputs, which are damaged, and the function that reads them."""

import contextlib
import functools
import importlib.util
import io
import json
import re
import socketserver
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import published_files
import pyarrow as pa
import pyarrow.parquet as pq
from encoded import GROUPS, encoded
from helpers import MICRO, chat, write_clip, write_model
from hypothesis import strategies as st
from PIL import Image
from scoring import score_files

from checkpoints_convert import safetensors_io, torch_bin
from checkpoints_convert.release import open_release
from tests.fuzz import strategies
from tests.fuzz.check import Files, Parser
from vxlpro_jax.checkpoints.params import locate, read_json, read_model_config, read_params
from vxlpro_jax.config.schema import ModelConfig
from vxlpro_jax.data.sources.load import load_records
from vxlpro_jax.data.text.tiny_tokenizer import TINY_TOKENIZER
from vxlpro_jax.data.text.tokenizer import Tokenizer
from vxlpro_jax.data.video.images import parse_pinpoints, read_image
from vxlpro_jax.data.video.reader import read_video
from vxlpro_jax.evals import registry
from vxlpro_jax.evals.benchmark import JudgeRequest, Profile
from vxlpro_jax.evals.judge import Judge
from vxlpro_jax.evals.subtitles import read_srt, subtitles_at
from vxlpro_jax.utils import tree
from vxlpro_jax.utils.errors import InputError


def _made(write: Callable[[Path], object], suffix: str) -> bytes:
    """Returns the bytes of the file that a function writes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"made{suffix}"
        write(path)
        return path.read_bytes()


# ---- Weights ------------------------------------------------------------------------------------


def _tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "a.weight": rng.normal(size=(4, 6)).astype(np.float32),
        "a.bias": rng.normal(size=6).astype(np.float16),
        "steps": np.int64(7).reshape(()),
    }


def _safetensors_files() -> st.SearchStrategy[Files]:
    good = _made(lambda path: safetensors_io.write_file(path, _tensors()), ".safetensors")
    length = int.from_bytes(good[:8], "little")
    header, data = json.loads(good[8 : 8 + length]), good[8 + length :]

    def with_header(header: Any) -> bytes:
        text = strategies.json_bytes(header)
        return len(text).to_bytes(8, "little") + text + data

    files = st.one_of(strategies.edited(header).map(with_header), strategies.mutated(good))
    return files.map(lambda file: {"x.safetensors": file})


def _read_safetensors(folder: Path) -> None:
    leaves = safetensors_io.read_tensors(folder / "x.safetensors")
    ours = {name: leaf.whole() for name, leaf in leaves.items()}
    if importlib.util.find_spec("safetensors"):
        import safetensors

        # It refuses more inputs; inputs that both read give the same.
        with contextlib.suppress(safetensors.SafetensorError):
            theirs = safetensors.safe_open(folder / "x.safetensors", framework="np")
            assert set(theirs.keys()) == set(ours)
            _compare(ours, {name: theirs.get_tensor(name) for name in ours})


def _torch_file() -> st.SearchStrategy[Files]:
    from tests.fuzz import torch_files

    good = _made(lambda path: torch_files.save(_tensors(), path), ".bin")
    return strategies.one_of_files({"model.bin": good})


def _read_torch_file(folder: Path) -> None:
    from tests.fuzz import torch_files

    leaves = torch_bin.read_tensors(folder / "model.bin")
    ours = {name: leaf.whole() for name, leaf in leaves.items()}
    theirs = torch_files.load(folder / "model.bin")
    if theirs is not None:
        _compare(ours, theirs)


def _compare(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert array.shape == theirs[name].shape, name
        assert array.tobytes() == theirs[name].tobytes(), name


def _model_folders() -> st.SearchStrategy[Files]:
    with tempfile.TemporaryDirectory() as folder:
        root = write_model(Path(folder) / "m")
        files = {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted((root / "params").rglob("*"))
            if path.is_file()
        }
        files["config.json"] = (root / "config.json").read_bytes()
        _good_params.update(tree.flatten(read_params(root / "params")))
    return strategies.one_of_files(files)


_good_params: dict[str, np.ndarray] = {}


def _read_model_folder(folder: Path) -> None:
    read_model_config(folder)
    params = tree.flatten(read_params(locate(folder).params))
    _compare(params, _good_params)


# ---- Text ---------------------------------------------------------------------------------------


def _config() -> st.SearchStrategy[Files]:
    config = MICRO.to_release() | {
        "image_grid_pinpoints": [[336, 336], [672, 336]],
        "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
    }
    return strategies.text_files(config).map(lambda data: {"config.json": data})


def _read_config(folder: Path) -> None:
    config = read_json(folder / "config.json")
    model = ModelConfig.from_release(config)
    parse_pinpoints(config.get("image_grid_pinpoints"), size=model.vision.image_size)
    assert ModelConfig.from_release(json.loads(json.dumps(model.to_release(config)))) == model
    (folder / "model.safetensors").write_bytes(b"")
    with contextlib.suppress(InputError):
        open_release(folder)


_RECORDS = [
    {"id": "1", "video": "a.mp4", "conversations": chat("<image>\nWhich way?", "left")},
    {"id": "2", "image": ["a.png", "b.png"], "conversations": chat("<image>\nWhat?", "red")},
    {"id": "3", "messages": [{"role": "user", "content": "Hm?"}], "start": None, "scale": 2.0},
]


def _records() -> st.SearchStrategy[Files]:
    lines = st.lists(strategies.edited(_RECORDS[0]), min_size=1, max_size=3).map(_lines)
    whole = strategies.text_files(_RECORDS)
    return st.one_of(
        whole.map(lambda data: {"d.json": data}), lines.map(lambda data: {"d.jsonl": data})
    )


def _read_records(folder: Path) -> None:
    (file,) = folder.iterdir()
    for record in load_records(file):
        assert record.turns


def _mixtures() -> st.SearchStrategy[Files]:
    mixture = {
        "datasets": [
            {"json_path": "d.json", "sampling_strategy": "first:50%", "weight": 2},
            {"json_path": "{d,e}.json", "sampling_strategy": "all"},
        ]
    }
    block = b"datasets:\n  - json_path: d.json\n    sampling_strategy: &a random:10\n  - *a\n"
    good = strategies.json_bytes(_RECORDS[:1])
    files = st.one_of(strategies.text_files(mixture), strategies.mutated(block))
    return files.map(lambda data: {"m.yaml": data, "d.json": good, "e.json": good})


def _read_mixture(folder: Path) -> None:
    records = load_records(folder / "m.yaml")
    for index in range(min(len(records), 10)):
        assert records[index].turns


def _predictions(name: str) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        path = published_files.write_annotations(name, Path(folder))
        records = registry.find(name).read_unique(path)
    return [{"id": record.id, "prediction": "B"} for record in records]


def _lines(rows: Iterable[Any]) -> bytes:
    return b"\n".join(map(strategies.json_bytes, rows))


def _scores() -> st.SearchStrategy[Files]:
    def files(name: str) -> st.SearchStrategy[Files]:
        predictions = _predictions(name)
        lines = _lines(predictions)
        replies = st.lists(strategies.edited(predictions[0]), max_size=3).map(_lines)
        annotations = strategies.text_files(published_files.ANNOTATIONS[name])
        good = st.just(strategies.json_bytes(published_files.ANNOTATIONS[name]))
        damaged = st.one_of(replies, strategies.mutated(lines))
        pairs = st.one_of(st.tuples(annotations, st.just(lines)), st.tuples(good, damaged))
        return pairs.map(lambda pair: {f"{name}.json": pair[0], "predictions.jsonl": pair[1]})

    names = sorted(set(published_files.ANNOTATIONS) - {"tempcompass_captioning"})
    return st.sampled_from(names).flatmap(files)


def _parquet() -> st.SearchStrategy[Files]:
    table = pa.Table.from_pylist(published_files.ANNOTATIONS["videomme"])
    files = {"videomme.parquet": _made(lambda path: pq.write_table(table, path), ".parquet")}
    lines = _lines(_predictions("videomme"))
    return strategies.one_of_files(files).map(lambda x: {**x, "predictions.jsonl": lines})


def _score(folder: Path) -> None:
    (annotations,) = (path for path in folder.iterdir() if path.suffix != ".jsonl")
    results = score_files(
        annotations.stem, annotations=annotations, predictions=folder / "predictions.jsonl"
    )
    json.dumps(results.to_json(), allow_nan=False)
    assert results.to_text()


def _subtitles() -> st.SearchStrategy[Files]:
    pieces = st.sampled_from(
        (
            *("1\n", "\n", "\r\n", "00:00:01,000 --> 00:00:02.5", " --> ", "99:99:99", "WEBVTT\n"),
            *("NOTE x\n", "<i>hello</i>\n", "\ufeff", "-->", "\u0660\u0661:02", "align:start\n"),
        )
    )
    soup = st.lists(pieces, max_size=30).map("".join)
    encodings = st.sampled_from(("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"))
    coded = st.tuples(soup, encodings).map(lambda pair: pair[0].encode(pair[1]))
    files = st.one_of(coded, strategies.mutated(published_files.SRT.encode()))
    return files.map(lambda data: {"a.srt": data})


def _read_subtitles(folder: Path) -> None:
    cues = read_srt(folder / "a.srt")
    for profile in get_args(Profile):
        text = subtitles_at(cues, frames=range(0, 1000, 30), fps=30.0, profile=profile)
        assert not re.search(r"\d\s?:\s?\d\S*\s*-->\s*\d+\s?:", text), "times in the text"


def _tokenizers() -> st.SearchStrategy[Files]:
    files = {
        path.name: path.read_bytes() for path in Path(TINY_TOKENIZER).iterdir() if path.is_file()
    }
    content = json.loads(files["tokenizer.json"])
    vocab = strategies.json_bytes(content["model"]["vocab"])
    pairs = [x if isinstance(x, str) else " ".join(x) for x in content["model"]["merges"]]
    added = {x["content"]: x["id"] for x in content["added_tokens"]}
    parts = {
        "vocab.json": vocab,
        "merges.txt": "\n".join(["#version: 0.2", *pairs, ""]).encode(),
        "added_tokens.json": strategies.json_bytes(added),
    }
    edited = strategies.edited(content).map(
        lambda document: {"tokenizer.json": strategies.json_bytes(document)}
    )
    whole = {"tokenizer.json": files["tokenizer.json"]}
    return st.one_of(edited, strategies.one_of_files(whole), strategies.one_of_files(parts))


def _read_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer.from_folder(folder)
    ids = tokenizer.encode("Which way? 12.5s <|im_end|>")
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    tokenizer.decode(ids)


def _one_alone(files: Files) -> st.SearchStrategy[Files]:
    """Returns one of the files, damaged, without the others."""
    return st.sampled_from(sorted(files)).flatmap(
        lambda name: strategies.mutated(files[name]).map(lambda data: {name: data})
    )


# ---- Pictures and videos ------------------------------------------------------------------------


def _pictures() -> st.SearchStrategy[Files]:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (24, 32, 3), np.uint8)
    files = {}
    for suffix in (".png", ".jpg", ".gif", ".webp", ".bmp", ".tiff", ".ppm"):
        picture = Image.fromarray(pixels)
        files[f"x{suffix}"] = _made(picture.save, suffix)
    grey = Image.fromarray(rng.integers(0, 2**16, (24, 32)).astype(np.uint16))
    files["deep.png"] = _made(grey.save, ".png")
    return _one_alone(files)


def _read_picture(folder: Path) -> None:
    (file,) = folder.iterdir()
    grids = parse_pinpoints([[28, 28], [56, 28]], size=28)
    crops = read_image(file, size=28, grids=grids)
    assert crops.dtype == np.uint8
    assert crops.shape[1:] == (28, 28, 3)


def _videos() -> st.SearchStrategy[Files]:
    files = {"clip.mp4": _made(lambda path: write_clip(path, frames=8), ".mp4")}
    for group in ("pyramid", "mkv", "ts", "flv", "vp8", "mpeg4"):
        codec, key, value, suffix = GROUPS[group]
        write = functools.partial(
            encoded, codec=codec, options={key: value}, times=np.arange(0, 2000, 160)
        )
        files[f"{group}.{suffix}"] = _made(write, f".{suffix}")
    array = np.zeros((4, 8, 8, 3), np.uint8)
    files["x.npy"] = _made(lambda path: np.save(path, array), ".npy")
    return _one_alone(files)


def _read_video(folder: Path) -> None:
    (file,) = folder.iterdir()
    for fps in (None, 2.0):
        video = read_video(file, max_frames=6, size=16, fps=fps, threads=1)
        assert len(video.frames) == len(video.times) <= 6
        assert np.all(np.diff(video.times) >= 0)
        assert np.all(np.isfinite(video.times))


# ---- HTTP ---------------------------------------------------------------------------------------


def _replies() -> st.SearchStrategy[Files]:
    body = strategies.json_bytes({"choices": [{"message": {"content": " yes "}}]})
    heads = st.sampled_from(
        (
            *(
                b"HTTP/1.1 200 OK\r\n",
                b"HTTP/1.0 200\r\n",
                b"HTTP/1.1 302 Found\r\n",
                b"ICY 200\r\n",
            ),
            *(b"HTTP/1.1 500 X\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/9.9 999 \xff\r\n"),
        )
    )
    fields = st.lists(
        st.sampled_from(
            (
                *(b"Content-Length: %d\r\n" % len(body), b"Content-Length: -1\r\n"),
                *(b"Content-Length: 99999999999\r\n", b"Transfer-Encoding: chunked\r\n"),
                *(b"Location: http://127.0.0.1:9/elsewhere\r\n", b"X: " + b"y" * 70_000 + b"\r\n"),
                *(b"Content-Encoding: gzip\r\n", b"no colon\r\n", b"Set-Cookie: a=b\r\n"),
            )
        ),
        max_size=4,
    ).map(b"".join)
    bodies = st.one_of(
        strategies.text_files(json.loads(body)),
        st.sampled_from((b"-1\r\n", b"ffffffff\r\nx", b"5\r\nhello\r\n0\r\n\r\n", b"")),
    )
    whole = st.tuples(heads, fields, bodies).map(lambda x: x[0] + x[1] + b"\r\n" + x[2])
    good = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    return st.one_of(whole, strategies.mutated(good)).map(lambda data: {"reply": data})


@contextlib.contextmanager
def _server(reply: bytes) -> Iterator[str]:
    """The address of a server that sends `reply` to each request and closes the connection."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):  # The client may have closed the connection.
                self.request.recv(65_536)
                self.request.sendall(reply)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1"
        finally:
            server.shutdown()
            thread.join()


def _ask_judge(folder: Path) -> None:
    with _server((folder / "reply").read_bytes()) as url, contextlib.redirect_stderr(io.StringIO()):
        judge = Judge(url, model="m", key="secret", first_wait=0.001, seconds=2.0)
        reply = judge.ask(JudgeRequest(system="s", user="u", settings={}))
    assert isinstance(reply, str)


# ---- All ----------------------------------------------------------------------------------------

# By name: the function that makes the strategy, and the function that reads.
_PARSERS: dict[str, tuple[Callable[[], st.SearchStrategy[Files]], Callable[[Path], object]]] = {
    "safetensors": (_safetensors_files, _read_safetensors),
    "torch.save": (_torch_file, _read_torch_file),
    "model folders": (_model_folders, _read_model_folder),
    "config.json": (_config, _read_config),
    "records": (_records, _read_records),
    "mixtures": (_mixtures, _read_mixture),
    "annotations and predictions": (_scores, _score),
    "annotations in Parquet": (_parquet, _score),
    "subtitles": (_subtitles, _read_subtitles),
    "tokenizers": (_tokenizers, _read_tokenizer),
    "pictures": (_pictures, _read_picture),
    "videos": (_videos, _read_video),
    "HTTP replies": (_replies, _ask_judge),
}
_HAS_TORCH = importlib.util.find_spec("torch") is not None
NAMES = tuple(name for name in _PARSERS if _HAS_TORCH or name != "torch.save")


def parser(name: str) -> Parser:
    """Returns a parser by name."""
    cases, read = _PARSERS[name]
    return Parser(name, cases(), read)
