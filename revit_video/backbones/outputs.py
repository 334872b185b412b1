"""What a backbone says of a batch of clips."""

from dataclasses import dataclass

from torch import Tensor

from revit_video.layers.reduce import TokenState

AUX_SHARE = 0.5  # of the best patch's score in LV-ViT's prediction (arXiv:2104.10858, section 3)


@dataclass(frozen=True)
class Outputs:
    """Everything a training step may read of one forward pass.

    logits: (B, K), of the class token.
    distill_logits: (B, K), of the distillation token; None at a level that has none.
    features: (B, t, h, w, D), patches after the last norm; None where only the class token was computed.
    looks: (B, A, t, h, w), where the class token looks in the last block, if asked for.
    aux_logits: (B, t*h*w, K), of every patch; None without an auxiliary head. Of the tokens that are left
        where they were reduced.
    kept: what these stand for; None where tokens were not reduced. `features` is None then.
    """

    logits: Tensor
    distill_logits: Tensor | None
    features: Tensor | None
    looks: Tensor | None = None
    aux_logits: Tensor | None = None
    kept: TokenState | None = None

    def prediction(self) -> Tensor:
        """Logits (B, K): the mean of both tokens' heads, and half of the best patch's."""
        logits = self.logits if self.distill_logits is None else (self.logits + self.distill_logits) / 2
        if self.aux_logits is None:
            return logits
        aux = self.aux_logits
        if self.kept is not None and self.kept.fused is not None:  # a sum of dropped tokens is no patch
            aux = aux.masked_fill(self.kept.fused[..., None], float("-inf"))
        return logits + AUX_SHARE * aux.amax(dim=1)
