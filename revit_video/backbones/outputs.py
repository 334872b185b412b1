"""What a backbone says of a batch of clips."""

from dataclasses import dataclass

from torch import Tensor

AUX_SHARE = 0.5  # of the best patch's score in LV-ViT's prediction (arXiv:2104.10858, section 3)


@dataclass(frozen=True)
class Outputs:
    """Everything a training step may read of one forward pass.

    logits: (B, K), of the class token.
    distill_logits: (B, K), of the distillation token; None at a level that has none.
    features: (B, t, h, w, D), patches after the last norm; None where only the class token was computed.
    looks: (B, A, t, h, w), where the class token looks in the last block, if asked for.
    aux_logits: (B, t*h*w, K), of every patch; None without an auxiliary head.
    """

    logits: Tensor
    distill_logits: Tensor | None
    features: Tensor | None
    looks: Tensor | None = None
    aux_logits: Tensor | None = None

    def prediction(self) -> Tensor:
        """Logits (B, K): the mean of both tokens' heads, and half of the best patch's."""
        logits = self.logits if self.distill_logits is None else (self.logits + self.distill_logits) / 2
        return logits if self.aux_logits is None else logits + AUX_SHARE * self.aux_logits.amax(dim=1)
