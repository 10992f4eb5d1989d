"""ADE20K of the scene parsing challenge 2016, 150 classes.

Layout: ``ADEChallengeData2016/images/{training,validation}/NAME.jpg`` and
``ADEChallengeData2016/annotations/{training,validation}/NAME.png``; label 0 is "other objects", which is ignored, and
1..150 shift down by one (https://github.com/CSAILVision/sceneparsing). Names and colours as in mmsegmentation's
``ADE20KDataset``; its palette gives road and skyscraper the same grey.
"""

from __future__ import annotations

from pathlib import Path

from trainer.datasets.base import PublishedDataset, class_table
from trainer.datasets.files import Files, files_in, match
from trainer.datasets.label_coding import IGNORE_INDEX, IdCoding

ADE20K_CLASSES = class_table("""
787878 wall
b47878 building
06e6e6 sky
503232 floor
04c803 tree
787850 ceiling
8c8c8c road
cc05ff bed
e6e6e6 windowpane
04fa07 grass
e005ff cabinet
ebff07 sidewalk
96053d person
787846 earth
08ff33 door
ff0652 table
8fff8c mountain
ccff04 plant
ff3307 curtain
cc4603 chair
0066c8 car
3de6fa water
ff0633 painting
0b66ff sofa
ff0747 shelf
ff09e0 house
0907e6 sea
dcdcdc mirror
ff095c rug
7009ff field
08ffd6 armchair
07ffe0 seat
ffb806 fence
0aff47 desk
ff290a rock
07ffff wardrobe
e0ff08 lamp
6608ff bathtub
ff3d06 railing
ffc207 cushion
ff7a08 base
00ff14 box
ff0829 column
ff0599 signboard
0633ff chest of drawers
eb0cff counter
a09614 sand
00a3ff sink
8c8c8c skyscraper
fa0a0f fireplace
14ff00 refrigerator
1fff00 grandstand
ff1f00 path
ffe000 stairs
99ff00 runway
0000ff case
ff4700 pool table
00ebff pillow
00adff screen door
1f00ff stairway
0bc8c8 river
ff5200 bridge
00fff5 bookcase
003dff blind
00ff70 coffee table
00ff85 toilet
ff0000 flower
ffa300 book
ff6600 hill
c2ff00 bench
008fff countertop
33ff00 stove
0052ff palm
00ff29 kitchen island
00ffad computer
0a00ff swivel chair
adff00 boat
00ff99 bar
ff5c00 arcade machine
ff00ff hovel
ff00f5 bus
ff0066 towel
ffad00 light
ff0014 truck
ffb8b8 tower
001fff chandelier
00ff3d awning
0047ff streetlight
ff00cc booth
00ffc2 television receiver
00ff52 airplane
000aff dirt track
0070ff apparel
3300ff pole
00c2ff land
007aff bannister
00ffa3 escalator
ff9900 ottoman
00ff0a bottle
ff7000 buffet
8fff00 poster
5200ff stage
a3ff00 van
ffeb00 ship
08b8aa fountain
8500ff conveyer belt
00ff5c canopy
b800ff washer
ff001f plaything
00b8ff swimming pool
00d6ff stool
ff0070 barrel
5cff00 basket
00e0ff waterfall
70e0ff tent
46b8a0 bag
a300ff minibike
9900ff cradle
47ff00 oven
ff00a3 ball
ffcc00 food
ff008f step
00ffeb tank
85ff00 trade name
ff00eb microwave
f500ff pot
ff007a animal
fff500 bicycle
0abed4 lake
d6ff00 dishwasher
00ccff screen
1400ff blanket
ffff00 sculpture
0099ff hood
0029ff sconce
00ffcc vase
2900ff traffic light
29ff00 tray
ad00ff ashcan
00f5ff fan
4700ff pier
7a00ff crt screen
00ffb8 plate
005cff monitor
b8ff00 bulletin board
0085ff shower
ffd600 radiator
19c2c2 glass
66ff00 clock
5c00ff flag
""")

_FOLDERS = {"train": "training", "val": "validation"}


class ADE20K(PublishedDataset):
    """20,210 train and 2,000 val images of many sizes."""

    name = "ade20k"
    classes = ADE20K_CLASSES
    splits = ("train", "val")
    tops = ("ADEChallengeData2016", "")
    coding = IdCoding({0: IGNORE_INDEX, **{info.id + 1: info.id for info in ADE20K_CLASSES}})

    @classmethod
    def anchor(cls, top: Path, split: str) -> Path:
        return top / "images" / _FOLDERS[split]

    @classmethod
    def find(cls, top: Path, split: str) -> Files:
        labels = top / "annotations" / _FOLDERS[split]
        return match(files_in(cls.anchor(top, split), ".jpg"), files_in(labels, ".png"), labels)
