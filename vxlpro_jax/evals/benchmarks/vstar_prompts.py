"""What V-STaR's authors ask, word for word."""

WHAT = (
    "Answer the question about the video: {} \n (If the answer is a person, you don't need to"
    " identify the person.)"
)
WHEN = {
    1: (
        "This video is {length} seconds long. Answer the question about the video: {question} \n"
        " Output the start and end moment timestamps."
    ),
    2: (
        "This video is {length} seconds long with a resolution of {width}x{height} (width x"
        " height). Answer the question about the video: {question} \n There are {count} bounding"
        " boxes of the key object related to the question in the video without knowing the time,"
        " which are:{boxes}. Output the start and end moment timestamps."
    ),
}
# The authors' script indents its prompts.
_INDENT = "\n" + 20 * " "
_WHERE_START = (
    "Please answer the question about the video: {question} with a series of bounding boxes in"
    " [x1, y1, x2, y2] format. \n"
)
WHERE = {
    1: _INDENT.join(
        (
            _WHERE_START,
            "For each whole second within the time range {seconds} provided (inclusive of the"
            " boundaries), output a series of bounding boxes of the object in JSON format. The keys"
            " should be the whole seconds (as strings), and the values should be the box in"
            " [x1, y1, x2, y2] format.",
            'Example output: {{"{first}": [x1, y1, x2, y2],...}}',
            "",
        )
    ),
    2: _INDENT.join(
        (
            _WHERE_START,
            "For each whole second that may related to the question, output a series of bounding"
            " boxes of the object in JSON format. You only need to output {count} bbox(es). You"
            " need to determine which frame is related to the question, and you don't need to"
            " output the bbox for the frames not related to the question.",
            "The keys should be the whole seconds (as strings), and the values should be the"
            " bounding box in [x0,y0,x1,y1] format. ",
            "\n Example output:",
            '{{"0": [x0,y0,x1,y1], "1":..., ..., "{count}":...}} (if the frames at 0~{count}'
            " second are related to the questions)",
            "",
        )
    ),
}
