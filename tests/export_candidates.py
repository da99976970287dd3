"""What a detector is exported as: the network and its candidates, without suppression."""

from torch import nn


class Candidates(nn.Module):
    """Map images to candidate boxes [N,P,4] and scores [N,P,C]."""

    def __init__(self, network, postprocess):
        super().__init__()
        self.network = network
        self.postprocess = postprocess

    def forward(self, images):
        return self.postprocess.candidates(self.network(images))
