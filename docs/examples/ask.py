from pathlib import Path

import vxlpro_jax

engine = vxlpro_jax.Engine(vxlpro_jax.load_model("runs/tiny"))
video = engine.encode(Path("~/.cache/vxlpro_jax/synthetic-v6/eval0002.mp4").expanduser())
for question in "Which flash comes first?", "Which flash comes last?":
    print(question, engine.ask(video, question))
scores = engine.token_scores(video, "Which flash comes last?")
for seconds, group in zip(scores.times, scores.scores, strict=True):
    print(f"{seconds:.0f} s: {len(group)} visual tokens, mean score {group.mean():.2f}")
