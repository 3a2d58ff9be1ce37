"""The supported container formats, by the names of FFmpeg's demuxers.

None of them opens another file. Formats that do (playlists, lists of files, patterns of pictures,
descriptions of streams) are excluded, and FFmpeg may not open files by itself either; see
`containers`.
"""

from vxlpro_jax.data.video.media_file import MediaFile

# Suffixes of videos and pictures, for decisions by name; elsewhere the content decides.
VIDEO_SUFFIXES = (
    *(".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".ts", ".mpg", ".mpeg", ".flv", ".wmv"),
    *(".3gp", ".f4v", ".m2ts", ".mts", ".ogv", ".vob", ".asf", ".rmvb"),
)
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")

_VIDEO = (
    *("mov", "matroska", "webm", "avi", "mpegts", "mpeg", "flv", "live_flv", "asf", "asf_o"),
    *("ogg", "mxf", "nut", "rm", "wtv", "dv", "gxf", "nsv", "ivf", "pva", "ty", "dhav", "kux"),
    *("3gp", "mp4", "m4v", "mpegvideo", "h261", "h263", "h264", "hevc", "vvc", "evc", "av1", "obu"),
    *("vc1", "vc1test", "dirac", "cavsvideo", "avs2", "avs3", "dnxhd", "mjpeg", "mjpeg_2000"),
    *("smjpeg", "yuv4mpegpipe", "swf", "gif", "apng", "flic", "roq", "bink", "smk", "vivo"),
)
_PICTURE = tuple(
    f"{name}_pipe"
    for name in (
        *("bmp", "gif", "jpeg", "jpegls", "jpegxl", "j2k", "png", "pam", "pbm", "pgm", "ppm"),
        *("qoi", "sgi", "sunrast", "tiff", "webp", "pcx", "dds", "dpx", "psd"),
    )
)
# Audio-only files are opened so that the error message can say what they are.
_SOUND = (
    *("wav", "w64", "aiff", "caf", "au", "mp3", "aac", "ac3", "eac3", "dts", "dtshd", "truehd"),
    *(
        "flac",
        "ape",
        "amr",
        "amrnb",
        "amrwb",
        "mpc",
        "mpc8",
        "tta",
        "tak",
        "wv",
        "voc",
        "oma",
        "xwma",
    ),
)

# FFmpeg's option `format_whitelist`.
FORMATS = ",".join((*_VIDEO, *_PICTURE, *_SOUND))

_LISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"<smil", b"[playlist]", b"v=0\r\n", b"v=0\n")


def check_form(media: MediaFile, start: bytes) -> None:
    """Refuses a file whose first bytes show that it is a list of other files.

    Raises:
        BadFile: The file is a playlist or the like.
    """
    if start.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(_LISTS):
        raise media.bad(
            "is a playlist or description, which names other files instead of holding frames: name"
            " the video itself, or save it as one file such as mp4",
            kind="no_video",
        )
