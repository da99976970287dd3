"""Say which pictures of the two picture packages the book ships, chosen by eye, and why not others.

Every picture of the folders below was looked at, full size and on a dark and a bright ground. Paths
are relative to ``CUTOUTS_IN`` and ``BACKGROUNDS_IN`` inside their packages.
"""

CUTOUTS_IN = "usr/share/tuxpaint/stamps"
BACKGROUNDS_IN = "usr/share/scratch/Media/Backgrounds"

CLASSES = {
    "birds": "animals/birds",
    "fish": "animals/fish",
    "flowers": "plants/flowers",
    "fruit": "food/fruit",
    "insects": "animals/insects",
    "mammals": "animals/mammals",
    "vegetables": "food/vegetables",
    "vehicles": "vehicles",
}

# Reason -> the cut-outs it leaves out; `cartoon/*.png` means every folder of that name.
LEFT_OUT = {
    "a drawing": [
        "cartoon/*.png",
        "animals/insects/bee.png",
        "animals/mammals/hedgehog.png",
        "vehicles/7spoke256.png",
        "vehicles/ship/chineseJunk.png",
    ],
    "a black silhouette": ["animals/mammals/echidna.png"],
    "an overlay: only lettering and a lamp, to be stamped on another picture": [
        "vehicles/emergency/sedan_police.png",
        "vehicles/emergency/sedan_police_mirror.png",
    ],
    "the mirror image of another": ["vehicles/construction/dumper_mirror.png"],
    "a part, not the thing: a wheel": ["vehicles/wheel_tractor.png"],
    "a toy animal": ["animals/mammals/bears/toys/edward_bear.png"],
    "a plastic flower": ["plants/flowers/plastic/chuvanna_plastic_poo.png"],
    "the floss of a seed, not a flower": ["plants/flowers/appooppanthady.png"],
    "not a fish: crustaceans": ["animals/fish/lobster.png", "animals/fish/shrimp.png"],
    "not insects: a mollusc and a crustacean": [
        "animals/insects/Brown_slug.png",
        "animals/insects/Woodlouse.png",
    ],
    "grass or a stump inside the cut-out, so the alpha is not the mask of the animal": [
        "animals/birds/albino_peahen.png",
        "animals/mammals/bovines/indian_blackbuck.png",
        "animals/mammals/cats/tiger_sumatran.png",
        "animals/mammals/dogs/fox.png",
    ],
}

# A recoloured or mirrored variant -> the picture it was made from: they share a source.
SAME_OBJECT = {"food/fruit/apple_green.png": "food/fruit/apple_red.png"}

# Their outermost pixel shows the ground that they were cut from.
FRINGED = {
    "animals/birds/heron_greatblue.png",
    "animals/fish/dolphinfish.png",
    "food/fruit/apple_sierra_beauty.png",
    "food/fruit/grapes.png",
    "food/vegetables/mushroom.png",
    *(f"plants/flowers/flower{number}.png" for number in range(1, 11)),
}

# Half transparent, body and all, so that one hardly sees it on a photograph: alpha is doubled.
FAINT = {"animals/insects/fly.png"}

# What one sees in the photograph, not the folder it lies in. Left out:
# - drawings: Indoors/{bedroom1.gif, bedroom2.gif, party-room, room1, room2, room3,
#   spotlight-stage}, Nature/{desert.gif, stars.gif, underwater.gif, woods-and-bench, woods.gif},
#   Outdoors/{brick-wall1, night-city.gif, night-city-with-street.gif, school1.gif, school2,
#   train-tracks3.gif}, Sports/basketball-court2.png, xy-grid.gif
# - photographs of paintings, full of painted people and animals: Outdoors/{all-sports-mural,
#   berkeley-mural, graffiti, mural-faro, silos}
# - things of our classes: flowers in Nature/{flower-bed, flowers.gif, garden-rock, pathway}, a bird
#   in Nature/lake
BACKGROUNDS = {
    "green": [
        "Nature/forest.jpg",
        "Nature/tree.jpg",
        "Nature/water-and-rocks.jpg",
        "Outdoors/bench-with-view.jpg",
        "Outdoors/building-at-mit.jpg",
        "Outdoors/driveway.jpg",
        "Outdoors/mansion.jpg",
        "Outdoors/train-tracks2.jpg",
        "Sports/baseball-field.jpg",
        "Sports/football-field.jpg",
        "Sports/playing-field.jpg",
    ],
    "bare": [
        "Nature/canyon.jpg",
        "Nature/grand-canyon.jpg",
        "Nature/gravel-desert.jpg",
        "Nature/hill.jpg",
        "Nature/moon.jpg",
        "Outdoors/hay_field.jpg",
        "Outdoors/houses.jpg",
        "Outdoors/train-tracks1.jpg",
        "Outdoors/village.jpg",
        "Outdoors/wooden-house.jpg",
    ],
    "water": [
        "Nature/beach-malibu.jpg",
        "Nature/wave.jpg",
        "Outdoors/boardwalk.jpg",
        "Outdoors/city-with-water.jpg",
        "Outdoors/city-with-water2.jpg",
        "Outdoors/pool.jpg",
    ],
    "street": [
        "Outdoors/atom-playground.jpg",
        "Outdoors/brick-wall-and-stairs.jpg",
        "Outdoors/brick-wall2.jpg",
        "Outdoors/building-fireproof.jpg",
        "Outdoors/castle.jpg",
        "Outdoors/hallway_outdoors.jpg",
        "Outdoors/parking-ramp.jpg",
        "Outdoors/route66.jpg",
        "Outdoors/the-movies.jpg",
        "Sports/basketball-court1-a.jpg",
        "Sports/basketball-court1-b.jpg",
        "Sports/tennis-backboard.jpg",
    ],
    "indoors": [
        "Indoors/chalkboard.jpg",
        "Indoors/clothing-store.jpg",
        "Indoors/hall.jpg",
        "Indoors/kitchen.jpg",
        "Indoors/the-movies-inside.jpg",
    ],
}

# Two photographs of one place -> one of them: they stay in one split.
SAME_BACKGROUND = {
    "Outdoors/brick-wall2.jpg": "Outdoors/brick-wall-and-stairs.jpg",
    "Outdoors/city-with-water2.jpg": "Outdoors/city-with-water.jpg",
    "Sports/basketball-court1-b.jpg": "Sports/basketball-court1-a.jpg",
}

# Aerial photographs -> their split. Each is of another site, so that what is learnt on one forest
# is tested on another. Left out: 2019_YELL_2_528000_4978000_image_crop2 (2.2 MB as WebP),
# SOAP_031 (no boxes), AWPE Pigeon Lake (birds).
TREES = {
    "2019_YELL_2_541000_4977000_image_crop": "train",
    "SOAP_061": "val",
    "OSBS_029": "test",
}
TREE_NAMES = ("Tree", "Alive", "Dead")  # what the boxes are called; all of them are trees
