"""Hold the published configurations of v3 and v4 of darknet, a row for each of their sections.

The numbers in the comments are those of the rows; a row counts from the first, or back from itself
when negative: ("convolutional", filters, size, stride, activation), ("shortcut", from),
("route", layers), ("maxpool", size), ("upsample",), ("yolo", mask). A linear convolution has no
batch_normalize.
"""


def residuals(count, half, how):
    """Return rows that repeat: 1x1 to half the channels, 3x3 back, shortcut from=-3."""
    once = [
        ("convolutional", half[0], 1, 1, how),
        ("convolutional", half[1], 3, 1, how),
        ("shortcut", -3),
    ]
    return once * count


# cfg/yolov3.cfg of https://github.com/pjreddie/darknet: 107 sections after [net].
V3 = [
    ("convolutional", 32, 3, 1, "leaky"),  # 0
    ("convolutional", 64, 3, 2, "leaky"),  # 1
    *residuals(1, (32, 64), "leaky"),  # 2 to 4
    ("convolutional", 128, 3, 2, "leaky"),  # 5
    *residuals(2, (64, 128), "leaky"),  # 6 to 11
    ("convolutional", 256, 3, 2, "leaky"),  # 12
    *residuals(8, (128, 256), "leaky"),  # 13 to 36
    ("convolutional", 512, 3, 2, "leaky"),  # 37
    *residuals(8, (256, 512), "leaky"),  # 38 to 61
    ("convolutional", 1024, 3, 2, "leaky"),  # 62
    *residuals(4, (512, 1024), "leaky"),  # 63 to 74
    ("convolutional", 512, 1, 1, "leaky"),  # 75
    ("convolutional", 1024, 3, 1, "leaky"),  # 76
    ("convolutional", 512, 1, 1, "leaky"),  # 77
    ("convolutional", 1024, 3, 1, "leaky"),  # 78
    ("convolutional", 512, 1, 1, "leaky"),  # 79
    ("convolutional", 1024, 3, 1, "leaky"),  # 80
    ("convolutional", 255, 1, 1, "linear"),  # 81
    ("yolo", 6, 7, 8),  # 82
    ("route", -4),  # 83
    ("convolutional", 256, 1, 1, "leaky"),  # 84
    ("upsample",),  # 85
    ("route", -1, 61),  # 86
    ("convolutional", 256, 1, 1, "leaky"),  # 87
    ("convolutional", 512, 3, 1, "leaky"),  # 88
    ("convolutional", 256, 1, 1, "leaky"),  # 89
    ("convolutional", 512, 3, 1, "leaky"),  # 90
    ("convolutional", 256, 1, 1, "leaky"),  # 91
    ("convolutional", 512, 3, 1, "leaky"),  # 92
    ("convolutional", 255, 1, 1, "linear"),  # 93
    ("yolo", 3, 4, 5),  # 94
    ("route", -4),  # 95
    ("convolutional", 128, 1, 1, "leaky"),  # 96
    ("upsample",),  # 97
    ("route", -1, 36),  # 98
    ("convolutional", 128, 1, 1, "leaky"),  # 99
    ("convolutional", 256, 3, 1, "leaky"),  # 100
    ("convolutional", 128, 1, 1, "leaky"),  # 101
    ("convolutional", 256, 3, 1, "leaky"),  # 102
    ("convolutional", 128, 1, 1, "leaky"),  # 103
    ("convolutional", 256, 3, 1, "leaky"),  # 104
    ("convolutional", 255, 1, 1, "linear"),  # 105
    ("yolo", 0, 1, 2),  # 106
]
V3_ANCHORS = [  # of each [yolo]; ``mask`` picks three
    *((10, 13), (16, 30), (33, 23)),
    *((30, 61), (62, 45), (59, 119)),
    *((116, 90), (156, 198), (373, 326)),
]
V2_ANCHORS = [  # cfg/yolov2.cfg, [region], in cells of 32 pixels
    (0.57273, 0.677385),
    (1.87446, 2.06253),
    (3.33843, 5.47434),
    (7.88282, 3.52778),
    (9.77052, 9.16828),
]

# cfg/yolov4.cfg of https://github.com/AlexeyAB/darknet: 162 sections after [net].
V4 = [
    ("convolutional", 32, 3, 1, "mish"),  # 0
    ("convolutional", 64, 3, 2, "mish"),  # 1
    ("convolutional", 64, 1, 1, "mish"),  # 2
    ("route", -2),  # 3
    ("convolutional", 64, 1, 1, "mish"),  # 4
    *residuals(1, (32, 64), "mish"),  # 5 to 7
    ("convolutional", 64, 1, 1, "mish"),  # 8
    ("route", -1, -7),  # 9
    ("convolutional", 64, 1, 1, "mish"),  # 10
    ("convolutional", 128, 3, 2, "mish"),  # 11
    ("convolutional", 64, 1, 1, "mish"),  # 12
    ("route", -2),  # 13
    ("convolutional", 64, 1, 1, "mish"),  # 14
    *residuals(2, (64, 64), "mish"),  # 15 to 20
    ("convolutional", 64, 1, 1, "mish"),  # 21
    ("route", -1, -10),  # 22
    ("convolutional", 128, 1, 1, "mish"),  # 23
    ("convolutional", 256, 3, 2, "mish"),  # 24
    ("convolutional", 128, 1, 1, "mish"),  # 25
    ("route", -2),  # 26
    ("convolutional", 128, 1, 1, "mish"),  # 27
    *residuals(8, (128, 128), "mish"),  # 28 to 51
    ("convolutional", 128, 1, 1, "mish"),  # 52
    ("route", -1, -28),  # 53
    ("convolutional", 256, 1, 1, "mish"),  # 54
    ("convolutional", 512, 3, 2, "mish"),  # 55
    ("convolutional", 256, 1, 1, "mish"),  # 56
    ("route", -2),  # 57
    ("convolutional", 256, 1, 1, "mish"),  # 58
    *residuals(8, (256, 256), "mish"),  # 59 to 82
    ("convolutional", 256, 1, 1, "mish"),  # 83
    ("route", -1, -28),  # 84
    ("convolutional", 512, 1, 1, "mish"),  # 85
    ("convolutional", 1024, 3, 2, "mish"),  # 86
    ("convolutional", 512, 1, 1, "mish"),  # 87
    ("route", -2),  # 88
    ("convolutional", 512, 1, 1, "mish"),  # 89
    *residuals(4, (512, 512), "mish"),  # 90 to 101
    ("convolutional", 512, 1, 1, "mish"),  # 102
    ("route", -1, -16),  # 103
    ("convolutional", 1024, 1, 1, "mish"),  # 104
    ("convolutional", 512, 1, 1, "leaky"),  # 105
    ("convolutional", 1024, 3, 1, "leaky"),  # 106
    ("convolutional", 512, 1, 1, "leaky"),  # 107
    ("maxpool", 5),  # 108
    ("route", -2),  # 109
    ("maxpool", 9),  # 110
    ("route", -4),  # 111
    ("maxpool", 13),  # 112
    ("route", -1, -3, -5, -6),  # 113
    ("convolutional", 512, 1, 1, "leaky"),  # 114
    ("convolutional", 1024, 3, 1, "leaky"),  # 115
    ("convolutional", 512, 1, 1, "leaky"),  # 116
    ("convolutional", 256, 1, 1, "leaky"),  # 117
    ("upsample",),  # 118
    ("route", 85),  # 119
    ("convolutional", 256, 1, 1, "leaky"),  # 120
    ("route", -1, -3),  # 121
    ("convolutional", 256, 1, 1, "leaky"),  # 122
    ("convolutional", 512, 3, 1, "leaky"),  # 123
    ("convolutional", 256, 1, 1, "leaky"),  # 124
    ("convolutional", 512, 3, 1, "leaky"),  # 125
    ("convolutional", 256, 1, 1, "leaky"),  # 126
    ("convolutional", 128, 1, 1, "leaky"),  # 127
    ("upsample",),  # 128
    ("route", 54),  # 129
    ("convolutional", 128, 1, 1, "leaky"),  # 130
    ("route", -1, -3),  # 131
    ("convolutional", 128, 1, 1, "leaky"),  # 132
    ("convolutional", 256, 3, 1, "leaky"),  # 133
    ("convolutional", 128, 1, 1, "leaky"),  # 134
    ("convolutional", 256, 3, 1, "leaky"),  # 135
    ("convolutional", 128, 1, 1, "leaky"),  # 136
    ("convolutional", 256, 3, 1, "leaky"),  # 137
    ("convolutional", 255, 1, 1, "linear"),  # 138
    ("yolo", 0, 1, 2),  # 139
    ("route", -4),  # 140
    ("convolutional", 256, 3, 2, "leaky"),  # 141
    ("route", -1, -16),  # 142
    ("convolutional", 256, 1, 1, "leaky"),  # 143
    ("convolutional", 512, 3, 1, "leaky"),  # 144
    ("convolutional", 256, 1, 1, "leaky"),  # 145
    ("convolutional", 512, 3, 1, "leaky"),  # 146
    ("convolutional", 256, 1, 1, "leaky"),  # 147
    ("convolutional", 512, 3, 1, "leaky"),  # 148
    ("convolutional", 255, 1, 1, "linear"),  # 149
    ("yolo", 3, 4, 5),  # 150
    ("route", -4),  # 151
    ("convolutional", 512, 3, 2, "leaky"),  # 152
    ("route", -1, -37),  # 153
    ("convolutional", 512, 1, 1, "leaky"),  # 154
    ("convolutional", 1024, 3, 1, "leaky"),  # 155
    ("convolutional", 512, 1, 1, "leaky"),  # 156
    ("convolutional", 1024, 3, 1, "leaky"),  # 157
    ("convolutional", 512, 1, 1, "leaky"),  # 158
    ("convolutional", 1024, 3, 1, "leaky"),  # 159
    ("convolutional", 255, 1, 1, "linear"),  # 160
    ("yolo", 6, 7, 8),  # 161
]
V4_ANCHORS = [  # of each [yolo]
    *((12, 16), (19, 36), (40, 28)),
    *((36, 75), (76, 55), (72, 146)),
    *((142, 110), (192, 243), (459, 401)),
]
