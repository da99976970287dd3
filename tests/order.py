"""Say which files of tests run first.

``--dist loadfile`` hands each file to one process, in order. When a long file comes last, the other
processes wait for it, so the long ones come first. By itself xdist starts with the files that hold
most tests, which are not those that take long: ``make test`` turns that off.
"""

LONGEST = (
    "tests/site/test_pages.py",
    "tests/site/test_paper.py",
    "tests/ddp/test_train.py",
    "tests/recipes/test_recipes.py",
    "tests/ddp/test_launch.py",
    "tests/test_api_examples.py",
    "tests/parity/test_faster_rcnn.py",
    "tests/parity/test_ssd.py",
    "tests/site/test_folds.py",
    "tests/parity/test_planted.py",
    "tests/tools/test_idle.py",
    "tests/hooks/test_edit_gradients.py",
    "tests/test_devices.py",
    "tests/ablation/test_pool.py",
    "tests/export/test_torchvision.py",
    "tests/ddp/test_parity.py",
    "tests/data/test_scan.py",
    "tests/metrics/test_coco_map.py",
    "tests/hunts/test_any_size.py",
    "tests/ddp/test_shards.py",
    "tests/test_yolo_v3.py",
    "tests/test_doctor.py",
)
"""Files that take longer than any other, the longest first, as ``--durations`` shows them."""


def place(file: str) -> int:
    """Return where a file comes: a long one by its place above, any other after all of these."""
    return LONGEST.index(file) if file in LONGEST else len(LONGEST)
