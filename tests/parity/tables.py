"""Hold the published tables of layers of v5, v7 and v8: (from, repeat, kind, arguments).

``from`` is a row, counted from the first, or back from this one when negative. The comment of each
row says where it stands in the published file.
"""

# YOLOv5, release 6: models/yolov5n.yaml to yolov5x.yaml, which differ in depth and width only.
V5 = [
    (-1, 1, "Conv", 64, 6, 2, 2),  # backbone 0: P1/2
    (-1, 1, "Conv", 128, 3, 2),  # backbone 1: P2/4
    (-1, 3, "C3", 128),  # backbone 2
    (-1, 1, "Conv", 256, 3, 2),  # backbone 3: P3/8
    (-1, 6, "C3", 256),  # backbone 4
    (-1, 1, "Conv", 512, 3, 2),  # backbone 5: P4/16
    (-1, 9, "C3", 512),  # backbone 6
    (-1, 1, "Conv", 1024, 3, 2),  # backbone 7: P5/32
    (-1, 3, "C3", 1024),  # backbone 8
    (-1, 1, "SPPF", 1024, 5),  # backbone 9
    (-1, 1, "Conv", 512, 1, 1),  # head 10
    (-1, 1, "Upsample"),  # head 11
    ((-1, 6), 1, "Concat"),  # head 12
    (-1, 3, "C3", 512, False),  # head 13
    (-1, 1, "Conv", 256, 1, 1),  # head 14
    (-1, 1, "Upsample"),  # head 15
    ((-1, 4), 1, "Concat"),  # head 16
    (-1, 3, "C3", 256, False),  # head 17: P3
    (-1, 1, "Conv", 256, 3, 2),  # head 18
    ((-1, 14), 1, "Concat"),  # head 19
    (-1, 3, "C3", 512, False),  # head 20: P4
    (-1, 1, "Conv", 512, 3, 2),  # head 21
    ((-1, 10), 1, "Concat"),  # head 22
    (-1, 3, "C3", 1024, False),  # head 23: P5
    ((17, 20, 23), 1, "Detect with anchors"),  # head 24
]
V5_SCALES = {  # depth_multiple and width_multiple of each file
    "n": (0.33, 0.25),
    "s": (0.33, 0.50),
    "m": (0.67, 0.75),
    "l": (1.00, 1.00),
    "x": (1.33, 1.25),
}
V5_ANCHORS = [  # of each file: P3/8, P4/16, P5/32
    [(10, 13), (16, 30), (33, 23)],
    [(30, 61), (62, 45), (59, 119)],
    [(116, 90), (156, 198), (373, 326)],
]

# YOLOv7: cfg/training/yolov7.yaml.
V7 = [
    (-1, 1, "Conv", 32, 3, 1),  # backbone 0
    (-1, 1, "Conv", 64, 3, 2),  # backbone 1: P1/2
    (-1, 1, "Conv", 64, 3, 1),  # backbone 2
    (-1, 1, "Conv", 128, 3, 2),  # backbone 3: P2/4
    (-1, 1, "Conv", 64, 1, 1),  # backbone 4
    (-2, 1, "Conv", 64, 1, 1),  # backbone 5
    (-1, 1, "Conv", 64, 3, 1),  # backbone 6
    (-1, 1, "Conv", 64, 3, 1),  # backbone 7
    (-1, 1, "Conv", 64, 3, 1),  # backbone 8
    (-1, 1, "Conv", 64, 3, 1),  # backbone 9
    ((-1, -3, -5, -6), 1, "Concat"),  # backbone 10
    (-1, 1, "Conv", 256, 1, 1),  # backbone 11
    (-1, 1, "MP"),  # backbone 12
    (-1, 1, "Conv", 128, 1, 1),  # backbone 13
    (-3, 1, "Conv", 128, 1, 1),  # backbone 14
    (-1, 1, "Conv", 128, 3, 2),  # backbone 15
    ((-1, -3), 1, "Concat"),  # backbone 16: P3/8
    (-1, 1, "Conv", 128, 1, 1),  # backbone 17
    (-2, 1, "Conv", 128, 1, 1),  # backbone 18
    (-1, 1, "Conv", 128, 3, 1),  # backbone 19
    (-1, 1, "Conv", 128, 3, 1),  # backbone 20
    (-1, 1, "Conv", 128, 3, 1),  # backbone 21
    (-1, 1, "Conv", 128, 3, 1),  # backbone 22
    ((-1, -3, -5, -6), 1, "Concat"),  # backbone 23
    (-1, 1, "Conv", 512, 1, 1),  # backbone 24
    (-1, 1, "MP"),  # backbone 25
    (-1, 1, "Conv", 256, 1, 1),  # backbone 26
    (-3, 1, "Conv", 256, 1, 1),  # backbone 27
    (-1, 1, "Conv", 256, 3, 2),  # backbone 28
    ((-1, -3), 1, "Concat"),  # backbone 29: P4/16
    (-1, 1, "Conv", 256, 1, 1),  # backbone 30
    (-2, 1, "Conv", 256, 1, 1),  # backbone 31
    (-1, 1, "Conv", 256, 3, 1),  # backbone 32
    (-1, 1, "Conv", 256, 3, 1),  # backbone 33
    (-1, 1, "Conv", 256, 3, 1),  # backbone 34
    (-1, 1, "Conv", 256, 3, 1),  # backbone 35
    ((-1, -3, -5, -6), 1, "Concat"),  # backbone 36
    (-1, 1, "Conv", 1024, 1, 1),  # backbone 37
    (-1, 1, "MP"),  # backbone 38
    (-1, 1, "Conv", 512, 1, 1),  # backbone 39
    (-3, 1, "Conv", 512, 1, 1),  # backbone 40
    (-1, 1, "Conv", 512, 3, 2),  # backbone 41
    ((-1, -3), 1, "Concat"),  # backbone 42: P5/32
    (-1, 1, "Conv", 256, 1, 1),  # backbone 43
    (-2, 1, "Conv", 256, 1, 1),  # backbone 44
    (-1, 1, "Conv", 256, 3, 1),  # backbone 45
    (-1, 1, "Conv", 256, 3, 1),  # backbone 46
    (-1, 1, "Conv", 256, 3, 1),  # backbone 47
    (-1, 1, "Conv", 256, 3, 1),  # backbone 48
    ((-1, -3, -5, -6), 1, "Concat"),  # backbone 49
    (-1, 1, "Conv", 1024, 1, 1),  # backbone 50
    (-1, 1, "SPPCSPC", 512),  # head 51
    (-1, 1, "Conv", 256, 1, 1),  # head 52
    (-1, 1, "Upsample"),  # head 53
    (37, 1, "Conv", 256, 1, 1),  # head 54
    ((-1, -2), 1, "Concat"),  # head 55
    (-1, 1, "Conv", 256, 1, 1),  # head 56
    (-2, 1, "Conv", 256, 1, 1),  # head 57
    (-1, 1, "Conv", 128, 3, 1),  # head 58
    (-1, 1, "Conv", 128, 3, 1),  # head 59
    (-1, 1, "Conv", 128, 3, 1),  # head 60
    (-1, 1, "Conv", 128, 3, 1),  # head 61
    ((-1, -2, -3, -4, -5, -6), 1, "Concat"),  # head 62
    (-1, 1, "Conv", 256, 1, 1),  # head 63
    (-1, 1, "Conv", 128, 1, 1),  # head 64
    (-1, 1, "Upsample"),  # head 65
    (24, 1, "Conv", 128, 1, 1),  # head 66
    ((-1, -2), 1, "Concat"),  # head 67
    (-1, 1, "Conv", 128, 1, 1),  # head 68
    (-2, 1, "Conv", 128, 1, 1),  # head 69
    (-1, 1, "Conv", 64, 3, 1),  # head 70
    (-1, 1, "Conv", 64, 3, 1),  # head 71
    (-1, 1, "Conv", 64, 3, 1),  # head 72
    (-1, 1, "Conv", 64, 3, 1),  # head 73
    ((-1, -2, -3, -4, -5, -6), 1, "Concat"),  # head 74
    (-1, 1, "Conv", 128, 1, 1),  # head 75
    (-1, 1, "MP"),  # head 76
    (-1, 1, "Conv", 128, 1, 1),  # head 77
    (-3, 1, "Conv", 128, 1, 1),  # head 78
    (-1, 1, "Conv", 128, 3, 2),  # head 79
    ((-1, -3, 63), 1, "Concat"),  # head 80
    (-1, 1, "Conv", 256, 1, 1),  # head 81
    (-2, 1, "Conv", 256, 1, 1),  # head 82
    (-1, 1, "Conv", 128, 3, 1),  # head 83
    (-1, 1, "Conv", 128, 3, 1),  # head 84
    (-1, 1, "Conv", 128, 3, 1),  # head 85
    (-1, 1, "Conv", 128, 3, 1),  # head 86
    ((-1, -2, -3, -4, -5, -6), 1, "Concat"),  # head 87
    (-1, 1, "Conv", 256, 1, 1),  # head 88
    (-1, 1, "MP"),  # head 89
    (-1, 1, "Conv", 256, 1, 1),  # head 90
    (-3, 1, "Conv", 256, 1, 1),  # head 91
    (-1, 1, "Conv", 256, 3, 2),  # head 92
    ((-1, -3, 51), 1, "Concat"),  # head 93
    (-1, 1, "Conv", 512, 1, 1),  # head 94
    (-2, 1, "Conv", 512, 1, 1),  # head 95
    (-1, 1, "Conv", 256, 3, 1),  # head 96
    (-1, 1, "Conv", 256, 3, 1),  # head 97
    (-1, 1, "Conv", 256, 3, 1),  # head 98
    (-1, 1, "Conv", 256, 3, 1),  # head 99
    ((-1, -2, -3, -4, -5, -6), 1, "Concat"),  # head 100
    (-1, 1, "Conv", 512, 1, 1),  # head 101
    (75, 1, "RepConv", 256, 3, 1),  # head 102
    (88, 1, "RepConv", 512, 3, 1),  # head 103
    (101, 1, "RepConv", 1024, 3, 1),  # head 104
    ((102, 103, 104), 1, "IDetect"),  # head 105
]
V7_ANCHORS = [  # of the same file
    [(12, 16), (19, 36), (40, 28)],
    [(36, 75), (76, 55), (72, 146)],
    [(142, 110), (192, 243), (459, 401)],
]

# YOLOv8: cfg/models/v8/yolov8.yaml; with masks yolov8-seg.yaml, which differs in the last row only.
V8 = [
    (-1, 1, "Conv", 64, 3, 2),  # backbone 0: P1/2
    (-1, 1, "Conv", 128, 3, 2),  # backbone 1: P2/4
    (-1, 3, "C2f", 128, True),  # backbone 2
    (-1, 1, "Conv", 256, 3, 2),  # backbone 3: P3/8
    (-1, 6, "C2f", 256, True),  # backbone 4
    (-1, 1, "Conv", 512, 3, 2),  # backbone 5: P4/16
    (-1, 6, "C2f", 512, True),  # backbone 6
    (-1, 1, "Conv", 1024, 3, 2),  # backbone 7: P5/32
    (-1, 3, "C2f", 1024, True),  # backbone 8
    (-1, 1, "SPPF", 1024, 5),  # backbone 9
    (-1, 1, "Upsample"),  # head 10
    ((-1, 6), 1, "Concat"),  # head 11
    (-1, 3, "C2f", 512),  # head 12
    (-1, 1, "Upsample"),  # head 13
    ((-1, 4), 1, "Concat"),  # head 14
    (-1, 3, "C2f", 256),  # head 15: P3
    (-1, 1, "Conv", 256, 3, 2),  # head 16
    ((-1, 12), 1, "Concat"),  # head 17
    (-1, 3, "C2f", 512),  # head 18: P4
    (-1, 1, "Conv", 512, 3, 2),  # head 19
    ((-1, 9), 1, "Concat"),  # head 20
    (-1, 3, "C2f", 1024),  # head 21: P5
    ((15, 18, 21), 1, "Detect with sides"),  # head 22
]
V8_MASKS = [*V8[:-1], ((15, 18, 21), 1, "Segment", 32, 256)]  # head 22 of yolov8-seg.yaml
V8_SCALES = {  # depth, width and most channels of each scale, in the same file
    "n": (0.33, 0.25, 1024),
    "s": (0.33, 0.50, 1024),
    "m": (0.67, 0.75, 768),
    "l": (1.00, 1.00, 512),
    "x": (1.00, 1.25, 512),
}
