"""Only the named file is read, and no others through patterns, playlists, lists or links."""

import io
import socket
import time

import numpy as np
import pytest
from encoded import streamed
from PIL import Image

from vxlpro_jax.data.errors import BadFile
from vxlpro_jax.data.video.reader import read_video

READERS = pytest.mark.parametrize("read", [read_video, streamed])
PATTERNS = ["fr%d.png", "fr%01d.png", "fr*.png", "fr?.png", "fr{1,2}.png", "fr[1].png", "%d%d.png"]


def picture(path, colour):
    Image.new("RGB", (32, 32), colour).save(path)
    return path


@READERS
@pytest.mark.parametrize("name", PATTERNS)
def test_a_name_is_no_pattern(name, read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for other in ("fr0.png", "fr1.png", "fr2.png", "11.png"):
        picture(tmp_path / other, "red")
    path = picture(tmp_path / name, "blue")
    for file in (path, name, str(path)):
        assert read(file, max_frames=9, size=8).frames[:, 0, 0].tolist() == [[0, 0, 255]]
    stream = io.BytesIO(path.read_bytes())
    stream.name = name
    assert read(stream, max_frames=9, size=8).frames[:, 0, 0].tolist() == [[0, 0, 255]]


@READERS
@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_of_files_is_missing(name, read, tmp_path):
    for other in ("fr0.png", "fr1.png", "fr2.png", "11.png"):
        picture(tmp_path / other, "red")
    with pytest.raises(BadFile) as error:
        read(tmp_path / name, max_frames=9, size=8)
    assert error.value.kind == "missing"


def lists(address, video):
    """Files that name another file, by the form of the list."""
    live = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n"
    return {
        "hls": f"{live}{video}\n#EXT-X-ENDLIST\n",
        "hls live": f"{live}{video}\n",
        "hls after an empty line": f"\n{live}{video}\n#EXT-X-ENDLIST\n",
        "hls of itself": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nlist\n",
        "hls of 20,000": live + "#EXTINF:1,\n".join(f"{video}?{i}\n" for i in range(20_000)),
        "hls on a network": f"{live}{address}/a.ts\n#EXT-X-ENDLIST\n",
        "hls with a key": f'{live}#EXT-X-KEY:METHOD=AES-128,URI="{address}"\n{video}\n',
        "concat": f"ffconcat version 1.0\nfile '{video}'\n",
        "concat on a network": f"ffconcat version 1.0\nfile '{address}/a.ts'\n",
        "dash": '<?xml version="1.0"?>\n<MPD><Period><AdaptationSet contentType="video">'
        f'<Representation id="1"><BaseURL>{video}</BaseURL></Representation></AdaptationSet>'
        "</Period></MPD>",
        "imf": '<?xml version="1.0"?><CompositionPlaylist xmlns="http://www.smpte-ra.org/'
        f'schemas/2067-3/2016">{video}</CompositionPlaylist>',
        "sdp": f"v=0\r\no=- 0 0 IN IP4 {address}\r\nm=video 9 RTP/AVP 96\r\nc=IN IP4 127.0.0.1\r\n",
        "rtsp text": f"RTSPtextrtsp://{address}/\r\n",
        "pls": f"[playlist]\nFile1={video}\nLength1=1\n",
        "parts of an answer": "--x\r\nContent-Type: image/jpeg\r\nContent-Length: 3\r\n\r\nabc\r\n",
    }


@READERS
@pytest.mark.parametrize("form", lists("", ""))
@pytest.mark.parametrize("suffix", ["m3u8", "mp4", "txt", "mpd", "xml", "ffconcat", "sdp"])
def test_a_list_of_other_files_opens_none(form, suffix, read, write_video, tmp_path):
    video = write_video(range(0, 400, 40), name="private.ts")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.01)
        text = lists(f"http://127.0.0.1:{server.getsockname()[1]}", video.name)[form]
        path = tmp_path / f"list.{suffix}"
        path.write_text(text)
        (tmp_path / "list").write_text(text)
        started = time.monotonic()
        for file in (path, io.BytesIO(text.encode())):
            with pytest.raises(BadFile) as error:
                read(file, max_frames=4, size=32)
            assert error.value.kind in ("no_video", "damaged")
        assert time.monotonic() - started < 10
        with pytest.raises(TimeoutError):
            server.accept()


def test_a_playlist_says_that_it_is_one(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_text("#EXTM3U\n#EXTINF:1,\na.ts\n")
    with pytest.raises(BadFile, match=r"a\.mp4 is a playlist or description, which names other"):
        read_video(path, max_frames=4, size=32)


def test_a_movie_that_refers_to_another_opens_none(write_video, tmp_path):
    """The data reference of a QuickTime file can be an alias of another file."""
    video = write_video(range(0, 400, 40), name="private.mp4")
    data = video.read_bytes()
    alias = b"/" + str(video).encode() + bytes(200)
    entry = len(alias).to_bytes(4) + b"alis" + bytes(4) + alias
    start = data.index(b"url \x00\x00\x00\x01") - 4
    path = tmp_path / "refers.mov"
    path.write_bytes(data[:start] + entry[: len(b"    url    1")] + data[start + 12 :])
    try:
        frames = read_video(path, max_frames=10, size=32).frames
    except BadFile:
        return
    np.testing.assert_array_equal(frames, read_video(video, max_frames=10, size=32).frames)
