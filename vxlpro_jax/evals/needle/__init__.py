"""Needle in a haystack: a picture or clip hidden in a long video, and asked for.

Both published tests, `mcq` (Video-XL's, which Video-XL-Pro's heat map is of) and `teacher_forced`
(LongVA's V-NIAH), at several lengths of the haystack, depths of the needle and keep ratios.

The haystack is encoded once, at the largest length, and shared by all cells. Therefore:

- A haystack of n frames is the first n at one frame a second, as in LongVA; Video-XL samples its
  film anew, uniformly, for each n.
- A needle replaces frames instead of being inserted between them, so that no group behind it
  shifts: n frames stay n, where both published tests have one more, and it has the time stamp of
  what it replaces. Only the groups of four frames that it touches are encoded again.
- A last group that is not full repeats the last frame.
"""
