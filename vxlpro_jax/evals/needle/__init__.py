"""Needle in a haystack: a picture or clip is hidden in a long video, and the model is asked for it.

There are two published tests, `mcq` (Video-XL's, used for Video-XL-Pro's heat map) and
`teacher_forced` (LongVA's V-NIAH), each at several haystack lengths, needle depths and keep ratios.

The haystack is encoded once, at the largest length, and shared by all cells. Consequently:

- A haystack of n frames is the first n frames at one per second, as in LongVA; Video-XL resamples
  its film uniformly for each n.
- A needle replaces frames instead of being inserted between them, so that no later group shifts: n
  frames stay n (both published tests have one more), and the needle has the time stamp of the
  frames that it replaces. Only the groups of four frames that it touches are encoded again.
- An incomplete last group repeats the last frame.
"""
