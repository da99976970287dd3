r"""Load the weights that others published into the networks of this book, strictly.

Files are read as what they are: names and numbers. What a name of a published program stands for
here is written down beside each network, in ``labs.models.published.NETWORK``; no code of those
programs is needed, and none is run. With a file that you downloaded::

    from labs.models import YOLOv3, load_published, resnet50

    load_published(resnet50(), "resnet50-11ad3fa6.pth", "torchvision")
    load_published(YOLOv3(), "yolov3.weights", "darknet")

The files of the programs of v5, v7 and v8 pickle their own classes, which only those programs can
read, and which may run any code. Write their tensors out there, then load them here::

    torch.save(torch.load("yolov8n.pt", weights_only=False)["model"].float().state_dict(), "n.pt")

    load_published(YOLOv8(scale="n"), "n.pt", "ultralytics")
"""

from labs.models.published.loading import LAYOUTS, Loaded, load_published

__all__ = ["LAYOUTS", "Loaded", "load_published"]
